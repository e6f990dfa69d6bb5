"""Who is there: TLS peers with every flaw that we could think of, against real nodes on loopback.

Each flaw is tried in both directions: a hostile client at our listener, and a hostile
server that we dial. Every time: no link, not a byte of ours inside the channel, nothing
of theirs processed, the reason counted and logged, and an honest peer is served after it.

The last tests take single checks out of the source and see this file fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

import tlskit
from signedwire import (
    Address,
    DeliveryFailedError,
    Did,
    FailureKind,
    Identity,
    Node,
    TransportConfig,
)
from signedwire.identity import Label
from signedwire.transport import certificates
from signedwire.transport import handshake as handshake_module
from signedwire.types import PeerState, Reason
from signedwire.wire.link_frames import CLOSE_CLOCK, Close, LinkFrameDecoder, decode
from tlskit import (
    MALLORY,
    NULL_CA,
    NULL_CA_KEY,
    ORDER_8_POINT,
    Credentials,
    HostileServer,
    MiddleBox,
    Outcome,
    certificate,
    did_proof_of,
    honest,
    in_hours,
    new_key,
    presenting,
    quick,
    spki_of,
)
from wirekit import (
    ALICE,
    BOB,
    CAROL,
    LIMIT,
    RawLink,
    eventually,
    framed,
    on_asyncio,
    on_both_loops,
    sealed,
    within,
)

ROOT: Final = Path(__file__).resolve().parents[2]
PATIENCE: Final = float(os.environ.get("SIGNEDWIRE_PATIENCE", LIMIT))
IS_LONG: Final = bool(os.environ.get("SIGNEDWIRE_LONG"))


def config(**changes: Any) -> TransportConfig:
    """One attempt, and v1 open to all: a failed proof must not lead there."""
    return quick(**({"max_attempts": 1, "handshake_timeout": 1.0, "v1_peers": "all"} | changes))


# -- the flaws -------------------------------------------------------------------


@dataclass(frozen=True)
class Flaw:
    """Something wrong with a peer, and what a node says about it."""

    make: Callable[[], Credentials]
    cause: str
    """A pattern in the log of a listener, and in the last error of a dialer."""
    client_cause: str = ""
    """The same for a hostile client, where it differs."""


FLAWS: dict[str, Flaw] = {}


def flaw(cause: str, client_cause: str = "") -> Callable[[Callable[[], Credentials]], None]:
    def add(make: Callable[[], Credentials]) -> None:
        FLAWS[make.__name__] = Flaw(make, cause, client_cause or cause)

    return add


UNTRUSTED = "TLS failed: certificate verify failed"


@flaw("TLS failed", "TLS failed: peer did not return a certificate")
def no_certificate() -> Credentials:
    return Credentials()


@flaw(UNTRUSTED)
def self_signed_certificate() -> Credentials:
    key = new_key()
    proof = did_proof_of(MALLORY, spki_of(key))
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "me")])
    made = certificate(key, (proof,), issuer_key=key, issuer_name=name, subject="me")
    return Credentials(key, (made,))


@flaw(UNTRUSTED)
def certificate_of_a_system_ca() -> Credentials:
    ca_key = new_key()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Root of the World")])
    ca = certificate(
        ca_key, issuer_key=ca_key, issuer_name=name, subject="Root of the World", is_ca=True
    )
    key = new_key()
    made = certificate(key, (did_proof_of(MALLORY, spki_of(key)),), issuer=ca, issuer_key=ca_key)
    return Credentials(key, (made, ca))


@flaw(UNTRUSTED)
def ca_with_the_name_of_ours_and_another_key() -> Credentials:
    key, ca_key = new_key(), new_key()
    made = certificate(key, (did_proof_of(MALLORY, spki_of(key)),), issuer_key=ca_key)
    return Credentials(key, (made,))


@flaw(UNTRUSTED + "|presented")
def sub_ca_under_ours_issued_it() -> Credentials:
    ca_key, key = new_key(), new_key()
    ca = certificate(ca_key, subject="sub", is_ca=True)
    made = certificate(key, (did_proof_of(MALLORY, spki_of(key)),), issuer=ca, issuer_key=ca_key)
    return Credentials(key, (made, ca))


@flaw(UNTRUSTED + "|presented")
def certificate_issued_by_an_honest_peer() -> Credentials:
    other, key = new_key(), new_key()
    first = certificate(other, (did_proof_of(ALICE, spki_of(other)),), subject="peer")
    made = certificate(key, (did_proof_of(MALLORY, spki_of(key)),), issuer=first, issuer_key=other)
    return Credentials(key, (made, first))


@flaw("presented 2 certificates")
def two_certificates() -> Credentials:
    key, other = new_key(), new_key()
    made = certificate(key, (did_proof_of(MALLORY, spki_of(key)),))
    return Credentials(key, (made, certificate(other, (did_proof_of(ALICE, spki_of(other)),))))


@flaw("presented 3 certificates")
def the_issuer_and_one_more() -> Credentials:
    key = new_key()
    made = certificate(key, (did_proof_of(MALLORY, spki_of(key)),))
    return Credentials(key, (made, NULL_CA, made))


@flaw("handshake is not complete after")
def certificates_of_20_kib() -> Credentials:
    """OpenSSL would take all of them in one step."""
    key = new_key()
    made = certificate(key, (did_proof_of(MALLORY, spki_of(key)),))
    size = len(made.public_bytes(serialization.Encoding.DER))
    return Credentials(key, (made, *[NULL_CA] * (20_480 // size)))


@flaw("at most 2048")
def certificate_over_2_kib() -> Credentials:
    key = new_key()
    made = certificate(key, (did_proof_of(MALLORY, spki_of(key)),), other=bytes(2048))
    return Credentials(key, (made,))


@flaw("expired 25 hours ago")
def proof_expired_beyond_the_allowance() -> Credentials:
    key = new_key()
    return presenting(did_proof_of(MALLORY, spki_of(key), expires_at_us=in_hours(-25)), key=key)


@flaw(r"expired \d{6} hours ago")
def proof_expired_in_1970() -> Credentials:
    key = new_key()
    return presenting(did_proof_of(MALLORY, spki_of(key), expires_at_us=1), key=key)


@flaw("carries no DID proof")
def name_missing() -> Credentials:
    return presenting(key=new_key())


@flaw("other names than one URI")
def name_of_another_kind_beside_the_proof() -> Credentials:
    key = new_key()
    names = (x509.DNSName("signedwire.example"),)
    return Credentials(
        key, (certificate(key, (did_proof_of(MALLORY, spki_of(key)),), names=names),)
    )


@flaw("other names than one URI")
def two_proofs_in_one_list_of_names() -> Credentials:
    key = new_key()
    proof = did_proof_of(MALLORY, spki_of(key))
    return presenting(proof, proof, key=key)


@flaw("was not signed by")
def did_in_the_proof_altered() -> Credentials:
    key = new_key()
    proof = bytes(ALICE.did) + did_proof_of(MALLORY, spki_of(key))[32:]
    return presenting(proof, key=key, claims=ALICE.did)


@flaw("was not signed by")
def expiry_in_the_proof_altered() -> Credentials:
    key = new_key()
    proof = bytearray(did_proof_of(MALLORY, spki_of(key), expires_at_us=in_hours(-100)))
    proof[38] += 1
    return presenting(bytes(proof), key=key)


@flaw("was not signed by")
def signature_in_the_proof_altered() -> Credentials:
    key = new_key()
    proof = bytearray(did_proof_of(MALLORY, spki_of(key)))
    proof[50] ^= 1
    return presenting(bytes(proof), key=key)


@flaw("was not signed by")
def signature_with_s_plus_the_group_order() -> Credentials:
    key = new_key()
    proof = did_proof_of(MALLORY, spki_of(key))
    order = 2**252 + 27742317777372353535851937790883648493
    malleable = int.from_bytes(proof[72:], "little") + order
    return presenting(proof[:72] + malleable.to_bytes(32, "little"), key=key)


@flaw("was not signed by")
def proof_copied_from_another_certificate() -> Credentials:
    # The proof of ALICE is public: whoever dials her has seen it.
    return presenting(did_proof_of(ALICE, spki_of(new_key())), key=new_key(), claims=ALICE.did)


@flaw("has 138 characters, not 139")
def proof_truncated() -> Credentials:
    key = new_key()
    return presenting(did_proof_of(MALLORY, spki_of(key))[:-1], key=key)


@flaw("has 0 characters, not 139")
def proof_empty() -> Credentials:
    return presenting(b"", key=new_key())


@flaw("has 140 characters, not 139")
def proof_too_long() -> Credentials:
    key = new_key()
    return presenting(did_proof_of(MALLORY, spki_of(key)) + b"\0", key=key)


@flaw("names no usable DID")
def did_of_small_order() -> Credentials:
    key = new_key()
    # R and A neutral, S zero: the equation holds for every text.
    neutral = b"\1" + bytes(31)
    proof = neutral + in_hours(24).to_bytes(8, "little") + neutral + bytes(32)
    return presenting(proof, key=key, claims=ALICE.did)


@flaw("names no usable DID")
def did_of_order_8() -> Credentials:
    key = new_key()
    proof = did_proof_of(MALLORY, spki_of(key), did=ORDER_8_POINT)
    return presenting(proof, key=key, claims=ALICE.did)


@flaw("names no usable DID")
def did_not_canonical() -> Credentials:
    key = new_key()
    did = (2**255 - 19 + 3).to_bytes(32, "little")
    return presenting(did_proof_of(MALLORY, spki_of(key), did=did), key=key, claims=ALICE.did)


@flaw("names no usable DID")
def did_not_on_the_curve() -> Credentials:
    key = new_key()
    did = (2).to_bytes(32, "little")
    return presenting(did_proof_of(MALLORY, spki_of(key), did=did), key=key, claims=ALICE.did)


@flaw("names no usable DID")
def did_with_a_torsion_component() -> Credentials:
    key = new_key()
    return presenting(tlskit.torsion_did_proof(spki_of(key)), key=key, claims=ALICE.did)


@flaw("was not signed by")
def signed_by_another_key() -> Credentials:
    key = new_key()
    proof = did_proof_of(MALLORY, spki_of(key), did=bytes(ALICE.did))
    return presenting(proof, key=key, claims=ALICE.did)


@flaw("was not signed by")
def signed_with_the_label_of_a_batch() -> Credentials:
    key = new_key()
    return presenting(did_proof_of(MALLORY, spki_of(key), label=Label.BATCH.value), key=key)


@flaw("was not signed by")
def signed_with_the_label_of_a_receipt() -> Credentials:
    key = new_key()
    return presenting(did_proof_of(MALLORY, spki_of(key), label=Label.RECEIPT.value), key=key)


@flaw("was not signed by")
def signed_without_a_label() -> Credentials:
    key = new_key()
    return presenting(did_proof_of(MALLORY, spki_of(key), label=b""), key=key)


@flaw("was not signed by")
def signed_as_a_v1_digest() -> Credentials:
    from blake3 import blake3

    key = new_key()
    spki = spki_of(key)
    start = bytes(MALLORY.did) + in_hours(24).to_bytes(8, "little")
    digest = blake3(Label.DID_PROOF.value + start + spki).digest()
    return presenting(start + MALLORY._sign_digest(digest), key=key)


@flaw("does not speak signedwire/2")
def no_alpn() -> Credentials:
    return replace(honest(MALLORY), alpn=())


@flaw("does not speak signedwire/2", "does not speak signedwire/2|no application protocol")
def another_alpn() -> Credentials:
    return replace(honest(MALLORY), alpn=("h2", "signedwire/1"))


@flaw("TLS failed: .*version|TLS failed: .*protocol|TLS failed: .*alert")
def tls_1_2() -> Credentials:
    return replace(honest(MALLORY), version=ssl.TLSVersion.TLSv1_2)


every_flaw = pytest.mark.parametrize("name", FLAWS)


# -- what must hold every time ---------------------------------------------------


@contextlib.contextmanager
def logged(pattern: str, caplog: pytest.LogCaptureFixture) -> Any:
    """The node says why."""
    caplog.clear()
    with caplog.at_level(logging.INFO, "signedwire.transport"):
        yield
    assert re.search(pattern, caplog.text), caplog.text


@contextlib.asynccontextmanager
async def bob_node(**changes: Any) -> AsyncIterator[Node]:
    async with Node(BOB, config(**changes)) as bob:
        yield bob


def address_of(node: Node) -> Address:
    assert isinstance(node.address, Address)
    return node.address


TIME: Final = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"


async def served(bob: Node) -> None:
    """An honest peer gets through."""
    before = bob.stats().messages_received
    async with Node(CAROL, config()) as carol:
        carol.routing.update(bob.did, address_of(bob))
        await within(PATIENCE, carol.send(bob.did, b"honest"))
        message = await bob.receive(PATIENCE)
    assert message is not None
    assert (message.sender, message.payload) == (CAROL.did, b"honest")
    assert bob.stats().messages_received == before + 1


def untouched(node: Node, reason: Reason | None = Reason.BAD_IDENTITY, count: int = 1) -> None:
    """Nobody is connected, nothing came in, and the reason was counted."""
    stats = node.stats()
    assert stats.messages_received == 0
    assert stats.inbox_messages == 0
    assert all(peer.state is not PeerState.CONNECTED for peer in node.peers().values())
    if reason is not None:
        assert stats.dropped.get(reason) == count, stats.dropped


def is_connected(node: Node, did: Did) -> bool:
    status = node.peers().get(did)
    return status is not None and status.state is PeerState.CONNECTED


def unheard(outcome: Outcome) -> None:
    """The impostor did not get a byte of ours inside the channel, except that its proof is late."""
    if not outcome.plaintext:
        return
    ((kind, body),) = LinkFrameDecoder().receive_data(outcome.plaintext)
    close = decode(kind, body)
    assert isinstance(close, Close)
    assert close.code == CLOSE_CLOCK
    late = rf"the DID proof of {MALLORY.did} expired \d+ hours ago, at {TIME}, by the clock of "
    assert re.fullmatch(rf"{late}its peer, which says {TIME}", close.reason)


async def client_is_refused(name: str, caplog: pytest.LogCaptureFixture, **changes: Any) -> Outcome:
    each = FLAWS[name]
    async with bob_node(**changes) as bob:
        words = tlskit.script(MALLORY, BOB.did)
        with logged(each.client_cause, caplog):
            outcome = await tlskit.in_thread(
                tlskit.attack, address_of(bob), each.make(), words, is_brief=True
            )
            unheard(outcome)
            await eventually(lambda: bob.stats().inbound_connections == 0)
        untouched(bob)
        await served(bob)
    return outcome


async def server_is_refused(name: str, caplog: pytest.LogCaptureFixture) -> list[Outcome]:
    each = FLAWS[name]
    credentials = each.make()
    async with Node(ALICE if credentials.claims != ALICE.did else BOB, config()) as node:
        words = tlskit.script(MALLORY, node.did)
        with HostileServer.presenting(credentials, words, is_brief=True) as server:
            node.routing.update(credentials.claims, server.address)
            with logged(each.cause, caplog):
                with pytest.raises(DeliveryFailedError) as failure:
                    await within(PATIENCE, node.send(credentials.claims, b"secret"))
                assert failure.value.reason is Reason.ATTEMPTS_EXHAUSTED
            assert re.search(each.cause, node.peers()[credentials.claims].last_error or "")
        assert len(server.outcomes) == 1
        assert server.outcomes[0].first_byte == b"\x16"  # not a frame of v1
        unheard(server.outcomes[0])
        untouched(node)
        assert node.stats().messages_sent == 0
        async with Node(CAROL, config()) as carol:
            node.routing.update(carol.did, address_of(carol))
            await within(PATIENCE, node.send(carol.did, b"honest"))
    return server.outcomes


@every_flaw
@on_asyncio
async def test_a_hostile_client_is_refused(name: str, caplog: pytest.LogCaptureFixture) -> None:
    await client_is_refused(name, caplog)


@every_flaw
@on_asyncio
async def test_a_hostile_server_is_refused(name: str, caplog: pytest.LogCaptureFixture) -> None:
    await server_is_refused(name, caplog)


@pytest.mark.parametrize("name", ["did_in_the_proof_altered", "tls_1_2"])
@on_both_loops
async def test_hostile_peers_are_refused_on_every_loop(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    await client_is_refused(name, caplog)
    await server_is_refused(name, caplog)


# -- what must get through all the same -------------------------------------------


@on_asyncio
async def test_the_kit_makes_honest_peers_too() -> None:
    """Else every refusal above might have the wrong cause."""
    async with bob_node() as bob:
        words = tlskit.script(MALLORY, BOB.did, b"hello")
        outcome = await tlskit.in_thread(
            tlskit.attack, address_of(bob), honest(MALLORY), words, is_brief=True
        )
        assert outcome.plaintext
        message = await bob.receive(PATIENCE)
        assert message is not None
        assert (message.sender, message.payload) == (MALLORY.did, b"hello")
        with HostileServer.presenting(honest(CAROL), tlskit.hello(), is_brief=True) as server:
            bob.routing.update(CAROL.did, server.address)
            bob.send_nowait(CAROL.did, b"x")
            await eventually(lambda: server.outcomes and server.outcomes[0].plaintext)


@on_asyncio
async def test_who_listens_logs_that_the_clocks_differ(caplog: pytest.LogCaptureFixture) -> None:
    """With the time of each side, because the side that dials may have nobody who looks."""
    text = "the DID proof expired 99 hours ago, at 2026-01-01, by our clock, which says 2026-01-05"
    async with bob_node() as bob:
        told = (
            rf"{MALLORY.did} \(127.0.0.1:\d+\) ended a link: the peer closed the link with code 10 "
        )
        with logged(
            rf"WARNING .*{told}\(the clocks differ\): {text}; our clock says {TIME}", caplog
        ):
            await tlskit.in_thread(
                tlskit.attack,
                address_of(bob),
                honest(MALLORY),
                Close(CLOSE_CLOCK, text).encode(),
                is_brief=True,
            )
            await eventually(lambda: bob.stats().inbound_connections == 0)
        await served(bob)


@pytest.mark.parametrize("hours", [-23, -1, 24 * 365 * 1000])
@on_asyncio
async def test_a_clock_that_is_a_day_behind_is_forgiven(hours: int) -> None:
    key = new_key()
    proof = did_proof_of(MALLORY, spki_of(key), expires_at_us=in_hours(hours))
    async with bob_node() as bob:
        outcome = await tlskit.in_thread(
            tlskit.attack,
            address_of(bob),
            presenting(proof, key=key),
            tlskit.script(MALLORY, BOB.did),
            is_brief=True,
        )
        assert outcome.plaintext
        assert await bob.receive(PATIENCE) is not None


@on_asyncio
async def test_the_null_ca_may_be_sent_along() -> None:
    """OpenSSL sends the issuer of a certificate unasked, where it knows it."""
    key = new_key()
    made = certificate(key, (did_proof_of(MALLORY, spki_of(key)),))
    async with bob_node() as bob:
        outcome = await tlskit.in_thread(
            tlskit.attack,
            address_of(bob),
            Credentials(key, (made, NULL_CA)),
            tlskit.script(MALLORY, BOB.did),
            is_brief=True,
        )
        assert outcome.plaintext


@on_asyncio
async def test_a_proof_may_be_for_a_key_of_another_kind() -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    made = certificate(key, (did_proof_of(MALLORY, spki_of(key)),), issuer_key=NULL_CA_KEY)
    async with bob_node() as bob:
        outcome = await tlskit.in_thread(
            tlskit.attack,
            address_of(bob),
            Credentials(key, (made,)),
            tlskit.script(MALLORY, BOB.did),
            is_brief=True,
        )
        assert outcome.plaintext


# -- another DID than the one that was dialed -------------------------------------


async def another_did_answers() -> None:
    """MALLORY proves herself to be MALLORY, where BOB was dialed."""
    async with Node(ALICE, config()) as alice:
        words = tlskit.script(MALLORY, ALICE.did)
        with HostileServer.presenting(honest(MALLORY), words, is_brief=True) as server:
            alice.routing.update(BOB.did, server.address)
            with pytest.raises(DeliveryFailedError, match=r"answered, not") as failed:
                await within(PATIENCE, alice.send(BOB.did, b"for BOB alone"))
            assert failed.value.receipt.detail_kind is FailureKind.WRONG_KEY
        assert [each.first_byte for each in server.outcomes] == [b"\x16"]
        unheard(server.outcomes[0])
        untouched(alice)
        async with bob_node() as bob:
            alice.routing.update(BOB.did, address_of(bob))
            await within(PATIENCE, alice.send(BOB.did, b"for BOB alone"))


@on_both_loops
async def test_wrong_did_another_did_answers() -> None:
    await another_did_answers()


@on_both_loops
async def test_wrong_did_an_honest_node_at_the_address_of_another() -> None:
    """A stale route: the node there is real, and still gets nothing."""
    async with Node(ALICE, config()) as alice, Node(CAROL, config()) as carol:
        alice.routing.update(BOB.did, address_of(carol))
        with pytest.raises(DeliveryFailedError, match=r"answered, not") as failed:
            await within(PATIENCE, alice.send(BOB.did, b"for BOB alone"))
        assert failed.value.receipt.detail_kind is FailureKind.WRONG_KEY
        untouched(alice)
        untouched(carol, None)
        assert carol.stats().bytes_received > 0
        alice.routing.update(carol.did, address_of(carol))
        await within(PATIENCE, alice.send(carol.did, b"for CAROL"))


@on_both_loops
async def test_a_node_does_not_link_to_itself() -> None:
    async with bob_node() as bob:
        bob.routing.update(BOB.did, address_of(bob))
        with pytest.raises(DeliveryFailedError, match="this very node") as failure:
            await within(PATIENCE, bob.send(BOB.did, b"me"))
        assert failure.value.reason is Reason.BAD_IDENTITY
        await eventually(lambda: not is_connected(bob, BOB.did))
        assert bob.stats().messages_received == 0
        assert bob.stats().dropped[Reason.BAD_IDENTITY] >= 2
        await served(bob)


@on_asyncio
async def test_our_key_in_another_process_is_a_peer_like_any_other() -> None:
    """It has proven the key: by a second machine of the same owner, or by a thief."""
    async with bob_node() as bob:
        words = tlskit.script(BOB, BOB.did, b"from my other self")
        outcome = await tlskit.in_thread(
            tlskit.attack, address_of(bob), honest(BOB), words, is_brief=True
        )
        assert outcome.plaintext
        message = await bob.receive(PATIENCE)
        assert message is not None
        assert message.sender == BOB.did
        await served(bob)


# -- before and after the handshake -----------------------------------------------


@on_asyncio
async def test_no_session_is_ever_resumed() -> None:
    async with bob_node() as bob:
        credentials = honest(MALLORY)
        context = credentials.context(is_server=False)
        words = tlskit.script(MALLORY, BOB.did)

        def connect(session: ssl.SSLSession | None) -> Outcome:
            return tlskit.attack(
                address_of(bob), credentials, words, context=context, session=session, is_brief=True
            )

        first = await tlskit.in_thread(connect, None)
        assert first.plaintext
        assert not first.has_ticket
        second = await tlskit.in_thread(connect, first.session)
        assert second.plaintext
        assert not second.is_resumed


@on_asyncio
async def test_tickets_of_a_server_are_not_used() -> None:
    async with Node(ALICE, config()) as alice:
        credentials = replace(honest(BOB), has_tickets=True)
        with HostileServer.presenting(credentials, tlskit.hello(), is_brief=True) as server:
            alice.routing.update(BOB.did, server.address)
            for _ in range(2):
                receipt = alice.send_nowait(BOB.did, b"x")
                # Else the next one may be given up together with it, and nothing is dialed.
                await eventually(lambda receipt=receipt: receipt.is_final)  # type: ignore[misc]
        assert len([outcome for outcome in server.outcomes if outcome.plaintext]) >= 2
        assert not any(outcome.is_resumed for outcome in server.outcomes)


@on_asyncio
async def test_a_link_opens_although_the_server_sends_two_tickets() -> None:
    """Some TLS libraries send tickets and cannot be stopped."""
    async with Node(ALICE, config()) as alice:
        credentials = replace(honest(BOB), has_tickets=True)
        with HostileServer.presenting(credentials, tlskit.hello()) as server:
            alice.routing.update(BOB.did, server.address)
            alice.send_nowait(BOB.did, b"x")
            await eventually(lambda: is_connected(alice, BOB.did))
            await alice.close()
            other = await tlskit.in_thread(
                tlskit.attack, server.address, honest(MALLORY), is_brief=True
            )
            assert other.has_ticket  # any other client gets them


@on_both_loops
async def test_silence_after_the_handshake_ends_at_the_deadline(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Proven, but no HELLO: not a peer. We have said ours, since the DID was right."""
    async with bob_node(handshake_timeout=0.2) as bob:
        began = time.monotonic()
        await tlskit.in_thread(tlskit.attack, address_of(bob), honest(MALLORY))
        assert 0.15 < time.monotonic() - began < 1.0
        untouched(bob, Reason.TOO_SLOW)
        await served(bob)


@on_both_loops
async def test_a_server_that_never_says_hello_fails_the_dial() -> None:
    async with Node(ALICE, config(handshake_timeout=0.2)) as alice:
        with HostileServer.presenting(honest(BOB)) as server:
            alice.routing.update(BOB.did, server.address)
            began = time.monotonic()
            with pytest.raises(DeliveryFailedError):
                await within(PATIENCE, alice.send(BOB.did, b"secret"))
            assert 0.15 < time.monotonic() - began < 1.0
            await eventually(lambda: server.outcomes[0].plaintext)
            assert b"secret" not in server.outcomes[0].plaintext  # our HELLO alone
        untouched(alice, None)
        assert alice.stats().messages_sent == 0


@pytest.mark.parametrize("at", ["nothing", "one byte", "half a ClientHello"])
@on_asyncio
async def test_a_client_that_stops_before_tls_is_complete_ends_at_the_deadline(at: str) -> None:
    async with bob_node(handshake_timeout=0.2) as bob:
        whole = client_hello()
        part = {"nothing": b"", "one byte": whole[:1], "half a ClientHello": whole[:100]}[at]
        began = time.monotonic()
        with await RawLink.dial(address_of(bob)) as link:
            if part:
                await link.write(part)
            await link.wait_closed()
        assert 0.15 < time.monotonic() - began < 1.0
        untouched(bob, Reason.TOO_SLOW)
        await served(bob)


@on_asyncio
async def test_trickled_bytes_do_not_extend_the_handshake() -> None:
    async with bob_node(handshake_timeout=0.2) as bob:
        began = time.monotonic()
        with await RawLink.dial(address_of(bob)) as link:
            with contextlib.suppress(ConnectionError):
                for byte in client_hello():
                    await link.write(bytes((byte,)))
                    await asyncio.sleep(0.02)
            await link.wait_closed()
        assert time.monotonic() - began < 1.0
        untouched(bob, Reason.TOO_SLOW)


@on_asyncio
async def test_garbage_in_place_of_a_client_hello_is_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with bob_node() as bob:
        with logged("TLS failed", caplog), await RawLink.dial(address_of(bob)) as link:
            await link.write(b"\x16" + os.urandom(600))
            await link.wait_closed()
        untouched(bob)
        await served(bob)


@on_asyncio
async def test_plaintext_after_the_handshake_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    def attack(address: Address) -> bytes:
        context = honest(MALLORY).context(is_server=False)
        with socket.create_connection((address.host, address.port), timeout=5) as sock:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = context.wrap_bio(incoming, outgoing)
            while True:
                try:
                    tls.do_handshake()
                except ssl.SSLWantReadError:
                    sock.sendall(outgoing.read())
                    incoming.write(sock.recv(65536))
                else:
                    break
            # The last of the handshake, and then HELLO and a message bare.
            sock.sendall(outgoing.read() + tlskit.script(MALLORY, BOB.did))
            heard = b""
            with contextlib.suppress(OSError):
                while data := sock.recv(65536):
                    heard += data
            return heard

    async with bob_node() as bob:
        with logged("TLS failed", caplog):
            heard = await tlskit.in_thread(attack, address_of(bob))
        assert tlskit.hello()[:8] not in heard  # what we said was encrypted
        untouched(bob, Reason.PROTOCOL_ERROR)
        await served(bob)


def garbage(sock: socket.socket) -> None:
    sock.recv(65536)
    sock.sendall(os.urandom(600))
    sock.recv(65536)


def alert(sock: socket.socket) -> None:
    sock.recv(65536)
    sock.sendall(bytes.fromhex("15030300020228"))  # fatal, handshake_failure


def v1_words(sock: socket.socket) -> None:
    sock.recv(65536)
    sock.sendall(framed(sealed(1, b"forged", sender=MALLORY, recipient=ALICE.did)))


def half_a_handshake(sock: socket.socket) -> None:
    """A ServerHello that breaks off: with v1 allowed, still nothing in the clear."""
    context = honest(BOB).context(is_server=True)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    incoming.write(sock.recv(65536))
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    sock.sendall(outgoing.read()[:200])


@pytest.mark.parametrize("words", [garbage, alert, v1_words, half_a_handshake])
@on_asyncio
async def test_a_server_that_does_not_finish_tls_gets_nothing(
    words: Callable[[socket.socket], None],
) -> None:
    async with Node(ALICE, config(max_attempts=2)) as alice:
        with HostileServer(lambda sock, _: words(sock)) as server:
            alice.routing.update(BOB.did, server.address)
            with pytest.raises(DeliveryFailedError):
                await within(PATIENCE, alice.send(BOB.did, b"secret"))
        assert {each.first_byte for each in server.outcomes} == {b"\x16"}
        untouched(alice, None)
        assert alice.stats().messages_sent == 0


def client_hello() -> bytes:
    """The first flight of a TLS client."""
    outgoing = ssl.MemoryBIO()
    tls = honest(MALLORY).context(is_server=False).wrap_bio(ssl.MemoryBIO(), outgoing)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


# -- in the middle ----------------------------------------------------------------


@on_both_loops
async def test_a_relay_of_bytes_is_no_harm() -> None:
    async with Node(ALICE, config()) as alice, bob_node() as bob:
        with MiddleBox(address_of(bob)) as box:
            alice.routing.update(BOB.did, box.address)
            await within(PATIENCE, alice.send(BOB.did, b"a secret in the clear"))
            message = await bob.receive(PATIENCE)
            assert message is not None
            assert message.sender == ALICE.did
            assert box.relayed > 0
            await alice.close()


@on_asyncio
async def test_a_relay_that_terminates_tls_with_its_own_did_is_refused() -> None:
    """It proves itself on both sides: the dialer did not ask for it."""
    async with Node(ALICE, config()) as alice, bob_node() as bob:
        own = honest(MALLORY)

        def relay(sock: socket.socket, outcome: Outcome) -> None:
            context = own.context(is_server=True)
            tls = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            with tls:
                tlskit.talk(tls, b"", outcome, is_brief=True)
            if outcome.plaintext:
                tlskit.attack(address_of(bob), own, outcome.plaintext, is_brief=True)

        with HostileServer(relay) as server:
            alice.routing.update(BOB.did, server.address)
            with pytest.raises(DeliveryFailedError, match=r"answered, not") as failed:
                await within(PATIENCE, alice.send(BOB.did, b"secret"))
            assert failed.value.receipt.detail_kind is FailureKind.WRONG_KEY
        unheard(server.outcomes[0])
        untouched(alice)
        untouched(bob, None)
        alice.routing.update(BOB.did, address_of(bob))
        await within(PATIENCE, alice.send(BOB.did, b"secret"))


# -- no way back to v1 ------------------------------------------------------------


def cuts_tls(first: bytes) -> bool:
    return first[0] == 0x16


@on_both_loops
async def test_a_peer_known_as_v2_is_never_dialed_on_v1() -> None:
    """An attacker in the middle cuts every ClientHello, as v1 peers seem to do."""
    async with Node(ALICE, config(max_attempts=3)) as alice, bob_node() as bob:
        with MiddleBox(address_of(bob)) as box:
            alice.routing.update(BOB.did, box.address)
            await within(PATIENCE, alice.send(BOB.did, b"first"))
            box.is_cut = cuts_tls
            box.cut_all()
            with pytest.raises(DeliveryFailedError) as failure:
                await within(PATIENCE, alice.send(BOB.did, b"second"))
            assert failure.value.reason is Reason.ATTEMPTS_EXHAUSTED
            assert len(box.first_bytes) >= 3
            assert set(box.first_bytes) == {0x16}
            assert alice.peers()[BOB.did].wire == "v2"
            box.is_cut = lambda _: False
            await within(PATIENCE, alice.send(BOB.did, b"third"))
            messages = [await bob.receive(PATIENCE) for _ in range(2)]
            assert [each.payload for each in messages if each] == [b"first", b"third"]
            await alice.close()


@on_asyncio
async def test_a_peer_known_as_v2_by_its_proof_alone_is_never_dialed_on_v1() -> None:
    """Cut between its proof and its HELLO: it has shown what it speaks."""
    async with Node(ALICE, config(max_attempts=3, handshake_timeout=0.2)) as alice:
        with HostileServer.presenting(honest(BOB)) as server:
            alice.routing.update(BOB.did, server.address)
            with pytest.raises(DeliveryFailedError):
                await within(PATIENCE, alice.send(BOB.did, b"secret"))
            await eventually(lambda: server.outcomes[0].plaintext)
            server.handle = lambda sock, _: sock.close()
            with pytest.raises(DeliveryFailedError):
                await within(PATIENCE, alice.send(BOB.did, b"secret"))
        assert {each.first_byte for each in server.outcomes} == {b"\x16"}


@on_asyncio
async def test_a_peer_that_once_dialed_us_over_v2_is_never_dialed_on_v1() -> None:
    async with Node(ALICE, config(max_attempts=3)) as alice, bob_node() as bob:
        bob.routing.update(ALICE.did, address_of(alice))
        await within(PATIENCE, bob.send(ALICE.did, b"hello"))
        await bob.close()
        await eventually(lambda: not is_connected(alice, BOB.did))
        with HostileServer(lambda sock, _: sock.close()) as server:
            alice.routing.update(BOB.did, server.address)
            with pytest.raises(DeliveryFailedError):
                await within(PATIENCE, alice.send(BOB.did, b"secret"))
        assert {each.first_byte for each in server.outcomes} == {b"\x16"}


async def v1_from_a_v2_peer() -> None:
    """Frames of v1, well signed by a DID that has spoken v2."""
    async with bob_node() as bob, Node(ALICE, config()) as alice:
        with await RawLink.dial(address_of(bob)) as link:
            await link.write(framed(sealed(1, b"v1 is fine before")))
            before = await bob.receive(PATIENCE)
            assert before is not None
            alice.routing.update(BOB.did, address_of(bob))
            await within(PATIENCE, alice.send(BOB.did, b"v2"))
            after = await bob.receive(PATIENCE)
            assert after is not None
            assert after.payload == b"v2"
            # Over the connection that was let in before, and over a new one.
            await link.write(framed(sealed(2, b"downgraded")))
            await eventually(lambda: bob.stats().dropped.get(Reason.NOT_ALLOWED) == 1, PATIENCE)
        await alice.close()
        with await RawLink.dial(address_of(bob)) as link:
            await link.write(framed(sealed(3, b"downgraded")))
            await eventually(lambda: bob.stats().dropped.get(Reason.NOT_ALLOWED) == 2)
            # Another DID may.
            await link.write(framed(sealed(4, b"never spoke v2", sender=CAROL)))
            other = await bob.receive(PATIENCE)
            assert other is not None
            assert (other.sender, other.payload) == (CAROL.did, b"never spoke v2")
        assert bob.receive_nowait() is None


@on_both_loops
async def test_v1_frames_of_a_did_that_has_spoken_v2_are_refused() -> None:
    await v1_from_a_v2_peer()


@on_asyncio
async def test_v1_frames_of_a_denied_did_are_refused() -> None:
    """The deny list does not end where v2 does."""
    async with bob_node() as bob:
        with await RawLink.dial(address_of(bob)) as link:
            bob.access.deny(ALICE.did)
            await link.write(framed(sealed(1, b"denied")))
            await eventually(lambda: bob.stats().dropped.get(Reason.DENIED) == 1)
            bob.access.undeny(ALICE.did)
            await link.write(framed(sealed(2, b"allowed")))
            message = await bob.receive(PATIENCE)
            assert message is not None
            assert message.payload == b"allowed"
            bob.access.allow_only([CAROL.did])
            await link.write(framed(sealed(3, b"not on the list")))
            await eventually(lambda: bob.stats().dropped.get(Reason.DENIED) == 2)


@on_asyncio
async def test_a_node_that_turns_v2_leaves_its_v1_connection_unused() -> None:
    """Dialed on v1, it was upgraded and links to us: nothing more is written on v1."""
    async with Node(ALICE, config()) as alice:
        with HostileServer(lambda sock, outcome: listen(sock, outcome)) as old:
            alice.routing.update(BOB.did, old.address)
            await within(PATIENCE, alice.send(BOB.did, b"over v1"))
            assert alice.peers()[BOB.did].wire == "v1"
            async with bob_node() as bob:
                bob.routing.update(ALICE.did, address_of(alice))
                await within(PATIENCE, bob.send(ALICE.did, b"over v2"))
                receipt = await within(PATIENCE, alice.send(BOB.did, b"over v2 too"))
                assert receipt.is_confirmed
                message = await bob.receive(PATIENCE)
                assert message is not None
                assert message.payload == b"over v2 too"
            await alice.close()
        assert not any(b"over v2" in each.plaintext for each in old.outcomes)


def listen(sock: socket.socket, outcome: Outcome) -> None:
    """A v1 peer: hangs up on TLS, reads frames."""
    if outcome.first_byte != b"\x16":
        with contextlib.suppress(OSError):
            while data := sock.recv(65536):
                outcome.plaintext += data


# -- a test of the tests ------------------------------------------------------------


@on_asyncio
async def test_without_the_comparison_of_dids_an_impostor_would_connect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(handshake_module, "proven_did", lambda tls, now_us: BOB.did)
    async with Node(ALICE, config(handshake_timeout=0.5)) as alice:
        with HostileServer.presenting(honest(MALLORY), tlskit.hello()) as server:
            alice.routing.update(BOB.did, server.address)
            alice.send_nowait(BOB.did, b"for BOB alone")
            await eventually(lambda: is_connected(alice, BOB.did))
            await eventually(lambda: b"for BOB alone" in server.outcomes[0].plaintext)
            await alice.close()
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        await another_did_answers()


@on_asyncio
async def test_without_the_check_of_the_proof_a_forger_would_connect(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(certificates, "check_did_proof", lambda proof, *_: Did(proof[:32]))
    async with bob_node() as bob:
        attack = tlskit.in_thread(tlskit.attack, address_of(bob), signed_as_alice(), tlskit.hello())
        attacking = asyncio.create_task(attack)
        await eventually(lambda: is_connected(bob, ALICE.did))
        await bob.close()
        assert (await attacking).plaintext
    with pytest.raises(AssertionError):
        await client_is_refused("signed_by_another_key", caplog)


def signed_as_alice() -> Credentials:
    return FLAWS["signed_by_another_key"].make()


# Each takes one check out of the source; the tests of that name must then fail.
MUTATIONS: Final = {
    "the dialed DID": (
        "transport/handshake.py",
        "if self._expected is not None and did != self._expected:",
        "if False:",
        "wrong_did",
    ),
    "the signature of the proof": (
        "wire/did_proof.py",
        "if not verify_labelled(",
        "if False and not verify_labelled(",
        "signed_by_another_key or copied_from_another or label_of_a_batch",
    ),
}
SLOWER_MUTATIONS: Final = {
    "the expiry of the proof": (
        "wire/did_proof.py",
        "if expires_at_us + CLOCK_ALLOWANCE_US < now_us:",
        "if False:",
        "proof_expired",
    ),
    "no way back to v1": (
        "delivery/endpoint.py",
        "self.v2_speakers.add(bytes(did))",
        "pass",
        "has_spoken_v2",
    ),
    "the chain": (
        "transport/certificates.py",
        "if not chain or chain[1:] not in ([], [_NULL_CA_DER]):",
        "if False:",
        "two_certificates or the_issuer_and_one_more",
    ),
    "the one name": (
        "transport/certificates.py",
        "if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):",
        "if False:",
        "two_proofs_in_one or name_of_another_kind",
    ),
    "the size of the certificate": (
        "transport/certificates.py",
        "if len(chain[0]) > MAX_CERTIFICATE_SIZE:",
        "if False:",
        "certificate_over_2_kib",
    ),
    "the ALPN": (
        "transport/certificates.py",
        "if tls.selected_alpn_protocol() != ALPN:",
        "if False:",
        "no_alpn or another_alpn",
    ),
    "the version": (
        "transport/tls.py",
        "context.minimum_version = ssl.TLSVersion.TLSv1_3",
        "context.minimum_version = ssl.TLSVersion.TLSv1_2",
        "tls_1_2",
    ),
    "the certificate of a client": (
        "transport/tls.py",
        "context.verify_mode = ssl.CERT_REQUIRED",
        "context.verify_mode = ssl.CERT_NONE",
        "certificate",
    ),
    "our own DID": (
        "delivery/peer_session.py",
        "if self.did == self._context.us and hello.epochs.volatile == ours.volatile:",
        "if False:",
        "does_not_link_to_itself",
    ),
    "what a dialer remembers": (
        "delivery/endpoint.py",
        "if bytes(did) in self.v2_speakers or self.context.store.has_spoken_v2(did):",
        "if False:",
        "never_dialed_on_v1",
    ),
}


@pytest.mark.parametrize("name", [*MUTATIONS, *SLOWER_MUTATIONS])
def test_each_check_is_where_it_is_taken_out(name: str) -> None:
    file, check, *_ = (MUTATIONS | SLOWER_MUTATIONS)[name]
    text = (ROOT / "src" / "signedwire" / file).read_text(encoding="utf-8")
    assert text.count(check) == 1, f"{check!r} is not in {file} any more: change this test"


@pytest.mark.parametrize("name", [*MUTATIONS, *(SLOWER_MUTATIONS if IS_LONG else ())])
def test_without_this_check_the_suite_fails(name: str, tmp_path: Path) -> None:
    file, check, without, tests = (MUTATIONS | SLOWER_MUTATIONS)[name]
    source = tmp_path / "signedwire"
    shutil.copytree(ROOT / "src" / "signedwire", source, ignore=shutil.ignore_patterns("*.pyc"))
    text = (source / file).read_text(encoding="utf-8")
    (source / file).write_text(text.replace(check, without), encoding="utf-8")
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", str(Path(__file__))),
            *("-k", f"({tests}) and not without"),
            *("-p", "no:cacheprovider", "--rootdir", str(ROOT)),
            *("-c", str(ROOT / "pyproject.toml")),
        ],
        env=os.environ | {"PYTHONPATH": str(tmp_path), "SIGNEDWIRE_PATIENCE": "0.4"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert result.returncode == 1, result.stdout[-2000:]  # ran, and failed
    assert "failed" in result.stdout


def test_identities_are_what_the_table_says() -> None:
    """Twenty-five flaws at least, and each makes something of its own."""
    assert len(FLAWS) >= 25
    assert all(isinstance(each.make(), Credentials) for each in FLAWS.values())
    assert Identity.from_seed((66).to_bytes(32, "big")) == MALLORY
