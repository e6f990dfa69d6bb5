"""A program learns why a peer is not reached from kinds, wherever it asks."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle

import pytest
from failurekit import RESET_AT_ONCE, SCENES
from test_link import Net, Watch, meet

from netkit import End
from signedwire import (
    Address,
    ConnectionFailed,
    ConnectTimeout,
    DeliveryFailedError,
    DialError,
    DidProofError,
    FailureKind,
    MemoryNetwork,
    Node,
    PeerDisconnected,
    PeerState,
    Reason,
    ResolveTimeout,
    TransportConfig,
)
from signedwire.errors import Cause, kind_of
from signedwire.transport.link_errors import cause_of_close, dial_error
from signedwire.transport.memory_stream import MemoryStream
from signedwire.wire import link_frames as frames
from signedwire.wire.session import Closed
from wirekit import ALICE, BOB, LIMIT, eventually, on_asyncio, on_both_loops, quick, within

HERE = Address("127.0.0.1", 9)


def settings(**changes: object) -> TransportConfig:
    return quick(wire="auto", v1_peers=(), handshake_timeout=0.3, **changes)


@pytest.mark.parametrize("kind", sorted(SCENES))
@on_both_loops
async def test_a_message_to_a_peer_that_is_not_reached(kind: FailureKind) -> None:
    async with SCENES[kind]() as address, Node(ALICE, settings(max_attempts=1)) as alice:
        alice.routing.update(BOB.did, address)
        async with Watch(alice) as watch:
            receipt = alice.send_nowait(BOB.did, b"x")
            await eventually(lambda: watch.of(ConnectionFailed))
            event = watch.of(ConnectionFailed)[0]
            assert (event.did, event.address, event.kind) == (BOB.did, address, kind)
            status = alice.peers()[BOB.did]
            assert status.last_error_kind is kind
            assert event.cause == status.last_error
            assert type(event.cause) is str
            assert status.denies_us == (kind is FailureKind.DENIED)
            if kind is FailureKind.FULL:
                assert not receipt.is_final  # that costs no attempt
                return
            with pytest.raises(DeliveryFailedError) as failed:
                await within(LIMIT, receipt.wait())
            assert failed.value.reason is Reason.ATTEMPTS_EXHAUSTED
            assert failed.value.receipt.detail_kind is kind
            await asyncio.sleep(0)
            assert len(watch.of(ConnectionFailed)) == alice.stats().dial_failures == 1


@pytest.mark.parametrize("was_used", [False, True])
@on_asyncio
async def test_a_lost_connection_is_reported_once(
    was_used: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also one that was lost before anything was written: that counts as a failed attempt."""
    caplog.set_level(logging.INFO, "signedwire")
    network, accepted = MemoryNetwork(), End()
    here = (await network.listen(HERE, lambda: accepted)).address
    if not was_used:  # nothing is written to a peer that has closed
        monkeypatch.setattr(MemoryStream, "peer_has_closed", lambda _: True)
    v1 = settings(max_attempts=1).replace(wire="v1", v1_peers="all")
    async with Node(ALICE, v1, network=network) as alice, Watch(alice) as watch:
        alice.routing.update(BOB.did, here)
        receipt = alice.send_nowait(BOB.did, b"x")
        if was_used:
            await within(LIMIT, receipt.wait("written"))
        else:
            await eventually(lambda: alice.peers()[BOB.did].state is PeerState.CONNECTED)
        assert network.cut_all() == 1
        await eventually(lambda: watch.of(ConnectionFailed))
        await eventually(lambda: receipt.state == ("written" if was_used else "failed"))
        assert len(watch.of(ConnectionFailed)) == 1
        assert [one.event for one in caplog.records].count("attempt failed") == 1  # type: ignore[attr-defined]


@on_both_loops
async def test_a_reset_before_the_first_byte_is_a_hang_up() -> None:
    async with RESET_AT_ONCE() as address, Node(ALICE, settings(max_attempts=1)) as alice:
        alice.routing.update(BOB.did, address)
        with pytest.raises(DeliveryFailedError) as failed:
            await within(LIMIT, alice.send(BOB.did, b"x"))
        assert failed.value.receipt.detail_kind is FailureKind.HUNG_UP_ON_TLS


@on_asyncio
async def test_a_peer_that_is_denied_here_is_not_said_to_deny_us() -> None:
    """It is we who close: its access list is not to be blamed."""
    network = MemoryNetwork()
    async with (
        Node(ALICE, settings(), network=network) as alice,
        Node(BOB, settings(), network=network) as bob,
    ):
        meet(alice, bob)
        dialing = alice.send_nowait(BOB.did, b"x")
        alice.access.deny(BOB.did)
        with pytest.raises(DeliveryFailedError):
            await within(LIMIT, dialing.wait())
        assert not any(status.denies_us for status in alice.peers().values())


@on_both_loops
async def test_a_link_that_its_peer_ends_by_its_access_list() -> None:
    async with Net("memory").pair(wire="auto") as (alice, bob), Watch(alice) as watch:
        await within(LIMIT, alice.send(bob.did, b"x"))
        bob.access.deny(alice.did)
        await eventually(lambda: watch.of(PeerDisconnected))
        assert watch.of(PeerDisconnected)[0].kind is FailureKind.DENIED
        assert alice.peers()[bob.did].last_error_kind is FailureKind.DENIED


# -- without sockets ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("closed", "kind"),
    [
        (Closed(frames.CLOSE_DENIED, "", is_by_peer=True), FailureKind.DENIED),
        (Closed(frames.CLOSE_DENIED, "", is_by_peer=False), FailureKind.CLOSED_HERE),
        (Closed(frames.CLOSE_TOO_MANY, "", is_by_peer=True), FailureKind.FULL),
        (Closed(frames.CLOSE_TOO_MANY, "", is_by_peer=False), FailureKind.CLOSED_HERE),
        (Closed(frames.CLOSE_VERSION, "", is_by_peer=True), FailureKind.VERSION),
        (Closed(frames.CLOSE_VERSION, "", is_by_peer=False), FailureKind.VERSION),
        (Closed(frames.CLOSE_BAD_SIGNATURE, "", is_by_peer=True), FailureKind.BAD_SIGNATURE),
        (Closed(frames.CLOSE_PROTOCOL_ERROR, "", is_by_peer=True), FailureKind.PROTOCOL),
        (Closed(frames.CLOSE_PROTOCOL_ERROR, "", is_by_peer=False), FailureKind.PROTOCOL),
        (
            Closed(frames.CLOSE_PROTOCOL_ERROR, "", is_by_peer=False, reason=Reason.TOO_SLOW),
            FailureKind.TIMED_OUT,
        ),
        (Closed(frames.CLOSE_DONE, "", is_by_peer=True), FailureKind.CLOSED),
        (Closed(frames.CLOSE_EVICTED, "", is_by_peer=True), FailureKind.CLOSED),
        (Closed(frames.CLOSE_DONE, "", is_by_peer=False), FailureKind.CLOSED_HERE),
        (Closed(-1, "the connection ended", is_by_peer=True), FailureKind.CLOSED),
    ],
)
def test_how_a_session_closed(closed: Closed, kind: FailureKind) -> None:
    assert cause_of_close(closed).kind is kind


@pytest.mark.parametrize("code", [*range(11), 99])
def test_code_and_text_are_in_the_words_of_every_close(code: int) -> None:
    """Also of a CLOSE before HELLO: a peer that says why is not one that only hangs up."""
    cause = cause_of_close(Closed(code, "not today", is_by_peer=True))
    assert f"code {code} (" in cause
    assert cause.endswith("): not today")
    assert ("unknown code" in cause) == (code == 99)
    error = dial_error(HERE, cause, is_silent=False, is_proven=True, is_told=True)
    assert cause in str(error)
    assert error.kind is cause.kind


@pytest.mark.parametrize("kind", list(FailureKind))
@pytest.mark.parametrize("is_silent", [False, True])
@pytest.mark.parametrize("is_proven", [False, True])
@pytest.mark.parametrize("is_told", [False, True])
def test_how_an_attempt_failed(
    kind: FailureKind, is_silent: bool, is_proven: bool, is_told: bool
) -> None:
    error = dial_error(
        HERE, Cause("x", kind), is_silent=is_silent, is_proven=is_proven, is_told=is_told
    )
    is_by_peer = kind in (FailureKind.CLOSED, FailureKind.RESET, FailureKind.TLS_FAILED)
    expected = kind
    if is_by_peer and is_silent:
        expected = FailureKind.HUNG_UP_ON_TLS
    elif is_by_peer and is_proven and not is_told:
        expected = FailureKind.TURNED_AWAY
    assert error.kind is expected


def test_the_kinds_of_errors() -> None:
    assert DialError(HERE, "x").kind is FailureKind.OTHER
    assert DialError(HERE, Cause("x", FailureKind.REFUSED)).kind is FailureKind.REFUSED
    assert DialError(HERE, "x", kind=FailureKind.FULL).kind is FailureKind.FULL
    assert type(DialError(HERE, Cause("x")).cause) is str
    assert ConnectTimeout(HERE, "x").kind is FailureKind.TIMED_OUT
    assert ResolveTimeout(HERE, "x").kind is FailureKind.NAME_SERVER_SILENT
    assert DidProofError("x").kind is FailureKind.UNPROVEN
    copied = pickle.loads(pickle.dumps(DialError(HERE, "x", kind=FailureKind.FULL)))
    assert copied.kind is FailureKind.FULL


def test_a_cause_is_its_words_and_keeps_its_kind() -> None:
    cause = Cause("refused", FailureKind.REFUSED)
    assert cause == "refused"
    longer = cause.prefixed("cannot connect: ")
    assert (longer, longer.kind) == ("cannot connect: refused", FailureKind.REFUSED)
    for same in (pickle.loads(pickle.dumps(cause)), copy.copy(cause), copy.deepcopy(cause)):
        assert (same, same.kind) == (cause, cause.kind)
    assert kind_of(cause) is FailureKind.REFUSED
    assert kind_of("refused") is kind_of(None) is None
