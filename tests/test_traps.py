"""What is easily passed by mistake: each is refused at once, with what to pass instead.

Every call is tried on both nodes before anything is queued, and nothing is queued by it.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from signedwire import (
    Address,
    ConfigError,
    Did,
    EnvelopeError,
    Identity,
    MemoryNetwork,
    Message,
    Node,
    Priority,
    Reason,
    RoutingTable,
    SignedEnvelope,
    SignedWireError,
    TcpTransport,
    TransportConfig,
    load_config,
    sync,
    verify_receipt,
)
from wirekit import ALICE, BOB

TO = BOB.did
SENDS: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    ((TO, "text"), {}, TypeError, "encode text with .encode()"),
    ((TO, None), {}, TypeError, "a payload is bytes, not NoneType"),
    ((TO, 5), {}, TypeError, "a payload is bytes, not int"),
    ((TO, [b"x"]), {}, TypeError, "a payload is bytes, not list"),
    ((bytes(TO), b"x"), {}, TypeError, "Did(raw) takes the 32 bytes of a key"),
    ((BOB, b"x"), {}, TypeError, "pass its .did"),
    ((None, b"x"), {}, TypeError, "not NoneType"),
    (("bob", b"x"), {}, ValueError, "'bob' is not a DID"),
    ((TO, b"x"), {"priority": True}, TypeError, "such as 'low'"),
    ((TO, b"x"), {"priority": 1.0}, TypeError, "of type float"),
    ((TO, b"x"), {"priority": 4}, ValueError, "known are low, normal, high, critical"),
    ((TO, b"x"), {"priority": "critcal"}, ValueError, "Did you mean 'critical'?"),
    ((TO, b"x"), {"priority": "HIGH"}, ValueError, "Did you mean 'high'?"),
    ((TO, b"x"), {"payload_type": "sensor"}, ValueError, "Did you mean 'sensor_fusion'?"),
    ((TO, b"x"), {"payload_type": False}, TypeError, "such as 'raw'"),
    ((TO, b"x"), {"payload_type": Priority.HIGH}, TypeError, "of type Priority"),
    ((TO, b"x"), {"deadline": True}, TypeError, "of type bool"),
    ((TO, b"x"), {"deadline": "5"}, TypeError, "seconds, a timedelta or a datetime"),
    ((TO, b"x"), {"deadline": 0}, ValueError, "not a positive number of seconds"),
    ((TO, b"x"), {"deadline": -1.5}, ValueError, "None sets no deadline"),
    ((TO, b"x"), {"deadline": math.nan}, ValueError, "not a positive number"),
    ((TO, b"x"), {"deadline": math.inf}, ValueError, "None sets no deadline"),
    ((TO, b"x"), {"deadline": 10**400}, ValueError, "None sets no deadline"),
    ((TO, b"x"), {"deadline": timedelta(0)}, ValueError, "not a positive number"),
    ((TO, b"x"), {"deadline": datetime(2030, 1, 1)}, ValueError, "no time zone"),
]
UNTILS: list[tuple[Any, type[Exception], str]] = [
    ("acepted", ValueError, "Did you mean 'accepted'?"),
    ("ACCEPTED", ValueError, "Did you mean 'accepted'?"),
    ("failed", ValueError, "known are queued, persisted, written, accepted, handled"),
    ("persisted", ValueError, "needs a store"),
    (5, TypeError, "Seconds are given by name: timeout=5"),
    (True, TypeError, "of type bool"),
    (Priority.HIGH, TypeError, "of type Priority"),
]
TIMEOUTS: list[tuple[Any, type[Exception], str]] = [
    (-1, ValueError, "not a number of seconds, 0 or more"),
    (-0.001, ValueError, "None sets no limit"),
    (-math.inf, ValueError, "None sets no limit"),
    (math.nan, ValueError, "None sets no limit"),
    (True, TypeError, "of type bool"),
    ("5", TypeError, "such as 5.0"),
    (timedelta(seconds=5), TypeError, "use .total_seconds()"),
]
MANY: list[tuple[Any, str]] = [
    (b"one", "payloads is one bytes, not a list of payloads: pass [payload], or use send()"),
    ("one", "payloads is one str"),
    (bytearray(b"one"), "payloads is one bytearray"),
    (5, "an iterable of bytes is wanted"),
    (None, "payloads is None"),
    ([b"x"] * 300 + ["text"], "payloads[300] is of type str"),
    ((b"x", None), "payloads[1] is None"),
    ({1: b"x"}, "a payload is bytes, not int"),
    (iter(["text"]), "encode text with .encode()"),
]


def on_both(
    test: Callable[[Callable[..., Any], Callable[..., Any], Callable[..., Any]], None],
) -> None:
    """Call `test(send, send_nowait, send_many)` for an asyncio node and for a blocking one.

    Afterwards nothing must have been queued: the peer has no queue at all.
    """
    config = TransportConfig(listen=None, close_timeout=0.1)
    routes = RoutingTable({TO: "127.0.0.1:9"})

    async def asynchronous() -> None:
        async with Node(ALICE, config, routes) as node:
            here = asyncio.get_running_loop()

            def run(call: Callable[..., Any]) -> Callable[..., Any]:
                def step(*args: Any, **options: Any) -> Any:
                    # Refused before the first await, and so without the loop.
                    coroutine = call(*args, **options)
                    coroutine.send(None)
                    return here

                return step

            test(run(node.send), node.send_nowait, run(node.send_many))
            assert not any(sum(each.queued.values()) for each in node.peers().values())

    asyncio.run(asynchronous())
    with sync.Node(ALICE, config, routes) as node:
        test(node.send, node.send_nowait, node.send_many)
        assert not any(sum(each.queued.values()) for each in node.peers().values())


def test_what_is_sent_by_mistake() -> None:
    def each(send: Any, send_nowait: Any, send_many: Any) -> None:
        for (to, payload), options, kind, text in SENDS:
            for call in (send, send_nowait):
                with pytest.raises(kind, match=re.escape(text)):
                    call(to, payload, **options)
            with pytest.raises(kind):
                send_many(to, [payload], **options)

    on_both(each)


def test_how_far_to_wait_by_mistake() -> None:
    def each(send: Any, send_nowait: Any, send_many: Any) -> None:
        for until, kind, text in UNTILS:
            for call, payload in ((send, b"x"), (send_many, [b"x"])):
                with pytest.raises(kind, match=re.escape(text)):
                    call(TO, payload, until=until)

    on_both(each)


def test_what_is_not_many_payloads() -> None:
    def each(send: Any, send_nowait: Any, send_many: Any) -> None:
        for payloads, text in MANY:
            if hasattr(payloads, "__next__"):
                payloads = iter(list(payloads) or ["text"])  # the other node has had it
            with pytest.raises(TypeError, match=re.escape(text)):
                send_many(TO, payloads)

    on_both(each)


async def test_what_stands_behind_good_payloads_of_an_iterator_is_told_with_their_count() -> None:
    network = MemoryNetwork()
    async with Node(ALICE, network=network) as alice, Node(BOB, network=network) as bob:
        alice.routing.update(BOB.did, bob.address)
        source: Any = iter([b"x"] * 256 + ["text"])
        with pytest.raises(TypeError, match="encode text") as caught:
            await alice.send_many(BOB.did, source)
        assert caught.value.__notes__ == ["256 messages before it were queued and are sent"]
        for _ in range(256):
            await bob.receive(10)


@pytest.mark.parametrize(("timeout", "kind", "text"), TIMEOUTS, ids=str)
async def test_how_long_to_wait_by_mistake(timeout: Any, kind: type[Exception], text: str) -> None:
    config, match = TransportConfig(close_timeout=0.1), re.escape(text)
    async with Node(ALICE, config) as node:
        with pytest.raises(kind, match=match):
            await node.receive(timeout)
    with sync.Node(ALICE, config) as blocking, pytest.raises(kind, match=match):
        blocking.receive(timeout)
    with TcpTransport(config, RoutingTable()) as transport, pytest.raises(kind, match=match):
        transport.receive(timeout)


@pytest.mark.parametrize(
    "timeout", [1e10, 1e300, math.inf, 10**400], ids=["1e10", "1e300", "inf", "1e400"]
)
async def test_a_wait_may_be_as_long_as_one_likes(timeout: float) -> None:
    """What no loop and no lock can count to is no limit, in every call that waits."""
    config = TransportConfig(network="memory")
    async with Node(ALICE, config) as alice, Node(BOB, config) as bob:
        alice.routing.update(bob.did, bob.address)
        waiting = asyncio.create_task(bob.receive(timeout))
        await asyncio.sleep(0)
        receipt = await alice.send(bob.did, b"x")
        message = await waiting
        handled = asyncio.create_task(receipt.wait("handled", timeout))
        in_thread = asyncio.create_task(asyncio.to_thread(receipt.result, "handled", timeout))
        await asyncio.sleep(0.05)
        message.ack()
        assert await handled is receipt
        assert await in_thread is receipt


THINGS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    # what nodes are made of
    (lambda: Node("key.pem"), TypeError, "Identity.load(path)"),  # type: ignore[arg-type]
    (lambda: Node(ALICE, "node.toml"), TypeError, "config is a TransportConfig, not str"),  # type: ignore[arg-type]
    (lambda: Node(ALICE, {}), TypeError, "config is a TransportConfig, not dict"),  # type: ignore[arg-type]
    (lambda: Node(ALICE, None, {}), TypeError, "routing is a RoutingTable, not dict"),  # type: ignore[arg-type]
    (lambda: Node(ALICE, network=7), TypeError, "network is a Network"),  # type: ignore[arg-type]
    (lambda: Node(ALICE, store=""), ConfigError, "the path of a file"),
    (lambda: Node(ALICE, store=True), ConfigError, "store=True"),  # type: ignore[arg-type]
    (lambda: sync.Node(ALICE, {}), TypeError, "config is a TransportConfig"),  # type: ignore[arg-type]
    (lambda: TcpTransport(TransportConfig(), {}), TypeError, "routing"),  # type: ignore[arg-type]
    (
        lambda: TcpTransport(TransportConfig(), RoutingTable(), did=str(TO)),  # type: ignore[arg-type]
        TypeError,
        "of type str",
    ),
    # DIDs, addresses and keys
    (lambda: Did(str(TO)), TypeError, "Did.parse(text)"),  # type: ignore[arg-type]
    (lambda: Did(5), TypeError, "not int"),  # type: ignore[arg-type]
    (lambda: Did.parse(bytes(TO)), TypeError, "Did(raw)"),  # type: ignore[arg-type]
    (lambda: Did.parse(TO), TypeError, "is one already"),  # type: ignore[arg-type]
    (lambda: Address.parse(Address("h", 1)), TypeError, "is one already"),  # type: ignore[arg-type]
    (lambda: Address.parse(9001), TypeError, "text, not int"),  # type: ignore[arg-type]
    (lambda: RoutingTable().update(TO, Address("h", 1.0)), ValueError, "'1.0' is no port"),  # type: ignore[arg-type]
    (lambda: RoutingTable().update(TO, Address("h", True)), ValueError, "'True' is no port"),
    (lambda: RoutingTable().update(TO, None), ValueError, "None is not an address"),  # type: ignore[arg-type]
    (lambda: RoutingTable().update(bytes(TO), "h:1"), ValueError, "is not a DID"),  # type: ignore[arg-type]
    (lambda: Identity.from_seed("x" * 32), TypeError, "32 bytes, not str"),  # type: ignore[arg-type]
    (lambda: Identity.from_seed(bytes(31)), ValueError, "got 31"),
    # envelopes and proofs
    (
        lambda: SignedEnvelope.sign(ALICE, TO, "x", sequence_number=1),  # type: ignore[arg-type]
        EnvelopeError,
        "Encode text with .encode()",
    ),
    (
        lambda: SignedEnvelope.sign(ALICE, str(TO), b"x", sequence_number=1),  # type: ignore[arg-type]
        TypeError,
        "recipient is a Did, not str",
    ),
    (
        lambda: SignedEnvelope.sign(ALICE, TO, b"x", sequence_number=True),
        ValueError,
        "sequence_number",
    ),
    (
        lambda: SignedEnvelope.sign(ALICE, TO, b"x", sequence_number=1.0),  # type: ignore[arg-type]
        ValueError,
        "sequence_number",
    ),
    (lambda: verify_receipt("x"), TypeError, "bytes, not str"),  # type: ignore[arg-type]
    # a network for tests
    (lambda: MemoryNetwork(delay=0.5), TypeError, "(shortest, longest)"),  # type: ignore[arg-type]
    (lambda: MemoryNetwork(delay=(0, math.inf)), ValueError, "(shortest, longest)"),
    (lambda: MemoryNetwork(loss=math.nan), ValueError, "probabilities"),
]


@pytest.mark.parametrize(("make", "kind", "text"), THINGS, ids=[each[2] for each in THINGS])
def test_what_is_made_by_mistake(make: Callable[[], Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=re.escape(text)) as caught:
        make()
    if issubclass(kind, SignedWireError):
        assert caught.value


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "text"),
    [
        ((bytes(TO),), {}, TypeError, "Did(raw)"),
        ((), {"limit": True}, TypeError, "limit=True"),
        ((), {"limit": 1.0}, TypeError, "a whole number is wanted"),
        ((), {"limit": -1}, ValueError, "limit=-1 is less than 0"),
        ((), {"after": "7"}, TypeError, "after='7'"),
        ((), {"after": -7}, ValueError, "after=-7 is less than 0"),
    ],
)
async def test_what_is_looked_for_in_a_store_by_mistake(
    tmp_path: Path,
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    kind: type[Exception],
    text: str,
) -> None:
    config = TransportConfig(close_timeout=0.1)
    async with Node(ALICE, config, store=tmp_path / "a.db") as node:
        for letters in (node.outbox, node.dead):
            with pytest.raises(kind, match=re.escape(text)):
                await letters.list(*arguments, **options)
            for wrong in (True, "1", 1.0):
                with pytest.raises(TypeError, match="a whole number is wanted"):
                    await letters.show(wrong)  # type: ignore[arg-type]
                with pytest.raises(TypeError, match="a whole number is wanted"):
                    await letters.drop(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reason", "kind", "text"),
    [
        ("inbox ful", ValueError, "Did you mean 'inbox full'?"),
        ("INBOX_FULL", ValueError, "known are expired, not for us"),
        (Reason.CLOSED, ValueError, "'closed' has no code on the wire"),
        (4, TypeError, "reason=4 is of type int"),
        (None, TypeError, "reason=None"),
        (True, TypeError, "of type bool"),
    ],
)
async def test_what_is_no_reason(reason: Any, kind: type[Exception], text: str) -> None:
    network = MemoryNetwork()
    async with Node(ALICE, network=network) as alice, Node(BOB, network=network) as bob:
        alice.routing.update(BOB.did, bob.address)
        receipt = await alice.send(BOB.did, b"x")
        message: Message = await bob.receive(10)
        with pytest.raises(kind, match=re.escape(text)):
            message.nack(reason)
        message.nack("too large")
        with pytest.raises(SignedWireError, match="too large"):
            await receipt.wait("handled", 10)


# -- options that contradict each other -------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"max_v1_payload_size": 1000, "max_frame_size": 1000},
        {"ping_interval": 5.0, "dead_timeout": 5.0},
        {"credit_bytes": 2000, "max_payload_size": 2000},
        {"inbox_bytes": 2000, "max_payload_size": 2000},
        {"outbox_bytes": 2000, "max_payload_size": 2000},
        {"outbox_peer_bytes": 2000, "max_payload_size": 2000},
        {"max_unacked_bytes": 2000, "max_payload_size": 2000},
        {"retry_base_delay": 2.0, "retry_max_delay": 1.0},
        {"max_unproven_per_host": 9, "max_unproven_connections": 5},
        {"outbox_peer_limit": 9, "outbox_limit": 5},
        {"outbox_peer_bytes": 2**22, "outbox_bytes": 2**21},
        {"max_unacked_peer_messages": 9, "max_unacked_messages": 5},
        {"unmet_bytes": 2000, "max_payload_size": 2000},
        {"unmet_peer_bytes": 2000, "max_payload_size": 2000},
        {"unmet_peer_bytes": 2**22, "unmet_bytes": 2**21},
        {"unmet_peer_limit": 9, "outbox_peer_limit": 5},
        {"unmet_peer_bytes": 2**22, "outbox_peer_bytes": 2**21},
        {"unmet_bytes": 2**22, "outbox_bytes": 2**21},
        {"store": "node.db", "evidence": "./node.db"},
        {"store": "node.db", "access_file": "node.db"},
        {"evidence": "node.log", "access_file": "x/../node.log"},
        {"store": "node.db", "evidence": "node.db-wal"},
        {"store": "node.db", "evidence": "./node.db-shm"},
        {"store": "node.db", "evidence": "node.db-journal"},
        {"store": "node.db", "access_file": "node.db-unfinished"},
        {"store": "node.log.new", "evidence": "node.log"},
        {"store": "node.log.000000012000", "evidence": "node.log"},
        {"evidence": "node.log", "access_file": "node.log.torn-1-2"},
        {"ack": "auto", "wire": "v1"},
        {"fallback": "10.0.0.1:9001", "listen": "10.0.0.1:9001"},
    ],
    ids=lambda options: "-".join(options),
)
def test_options_that_contradict_each_other_are_both_named(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        TransportConfig(**options)
    for name in options:
        assert re.search(rf"\b{name}\b", caught.value.fact), str(caught.value)
    assert caught.value.hint
    with pytest.raises(ConfigError):
        TransportConfig().replace(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"outbox_limit": 5},
        {"outbox_bytes": 2**21},
        {"max_unacked_messages": 5},
        {"retry_max_delay": 0.05},
        {"max_unproven_connections": 5},
        {"outbox_peer_limit": 5},
        {"outbox_peer_bytes": 2**21},
        {"unmet_bytes": 2**21},
        {"max_payload_size": 2**27, "credit_bytes": 2**28, "inbox_bytes": 2**28},
        {"retry_base_delay": 1.0, "retry_max_delay": 1.0},
        {"ack": "auto"},
        {"store": "node.db", "evidence": "node.db-log", "access_file": "node.db.access"},
        {"store": "node", "evidence": "node.log", "access_file": "node.access"},
        {"store": "x/node.db", "evidence": "y/node.db-wal"},
        # The log may be given to `Node()`, and rotated by hand.
        {"evidence_keep": 3},
        {"evidence_keep": 3, "evidence": "node.log"},
    ],
    ids=lambda options: "-".join(options),
)
def test_one_limit_alone_contradicts_no_default(options: dict[str, Any]) -> None:
    TransportConfig(**options)


@pytest.mark.parametrize("name", ["store", "evidence"])
def test_a_file_is_given_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    options: Any = {name: str(tmp_path / "one")}
    config = TransportConfig(**options)
    other: Any = {name: tmp_path / f"two-{uuid.uuid4()}"}
    with pytest.raises(ConfigError, match=rf"Node\(\) has {name}='.*two.*{name}='.*one"):
        Node(ALICE, config, **other)
    Node(ALICE, config, **options)  # the same twice is no contradiction
    in_home: Any = {name: "~/one"}
    Node(ALICE, TransportConfig(**in_home), **in_home)
    monkeypatch.setenv("HOME", str(tmp_path))
    Node(ALICE, config, **in_home)
    Node(ALICE, TransportConfig(**in_home), **options)
    both: Any = {"store": tmp_path / "x", "evidence": tmp_path / "x"}
    with pytest.raises(ConfigError, match="is the same file as"):
        Node(ALICE, **both)


@pytest.mark.parametrize("link", [os.link, os.symlink], ids=["hard", "symbolic"])
def test_links_to_one_file(tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.touch()
    link(one, other)
    with pytest.raises(ConfigError, match=r"store='.*one' is the same file as evidence='.*other'"):
        TransportConfig(store=one, evidence=other)
    (tmp_path / "folder").mkdir()
    (tmp_path / "again").symlink_to("folder")
    with pytest.raises(ConfigError, match=r"evidence='.*x-wal' has a name .* store='.*x'"):
        TransportConfig(store=tmp_path / "folder" / "x", evidence=tmp_path / "again" / "x-wal")


def test_a_transport_keeps_no_store(tmp_path: Path) -> None:
    config = TransportConfig(store=tmp_path / "a.db")
    with pytest.raises(ConfigError, match=r"store='.*a\.db' is given to a TcpTransport"):
        TcpTransport(config, RoutingTable())


class OtherDid(Did):
    """A DID of a program that has added to it."""


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (
            lambda _: RoutingTable().update(TO, Address(5, "x")),  # type: ignore[arg-type]
            ValueError,
            "its host is text",
        ),
        (lambda _: Identity.load(b"a.pem"), TypeError, "a path is text"),  # type: ignore[arg-type]
        (lambda path: ALICE.save(path, [1]), TypeError, "a password is text or bytes"),  # type: ignore[arg-type]
        (lambda path: ALICE.save(path, []), TypeError, "a password is text or bytes"),  # type: ignore[arg-type]
        (lambda path: ALICE.save(path, bytearray(b"x")), TypeError, "a password is text or bytes"),  # type: ignore[arg-type]
        (lambda _: RoutingTable().save(b"x"), TypeError, "a path is text"),  # type: ignore[arg-type]
        (
            lambda _: load_config(None, {"SIGNEDWIRE_LISTEN": 5}),  # type: ignore[dict-item]
            TypeError,
            "'SIGNEDWIRE_LISTEN' has str and int",
        ),
        (
            lambda _: load_config(None, {b"SIGNEDWIRE_LISTEN": "x"}),  # type: ignore[dict-item]
            TypeError,
            "has bytes and str",
        ),
    ],
)
def test_what_is_of_a_wrong_type(
    make: Callable[[Any], Any], kind: type[Exception], text: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=text):
        make(tmp_path / "key.pem")
    assert not list(tmp_path.iterdir())


async def test_paths_that_are_none_to_export_to(tmp_path: Path) -> None:
    async with Node(ALICE, TransportConfig(listen=None), store=tmp_path / "a.db") as node:
        with pytest.raises(TypeError, match="a path is text"):
            await node.outbox.export(b"q")  # type: ignore[arg-type]
        with pytest.raises(OSError, match="null character"):
            await node.outbox.export("a\0b")


async def test_a_subclass_of_did_is_a_did() -> None:
    async with Node(ALICE, TransportConfig(listen=None)) as node:
        other = OtherDid(bytes(TO))
        node.access.deny(other)
        assert node.access.is_denied(TO)
        assert node.access.undeny(other) == ()
        with pytest.raises(SignedWireError, match="no address is known"):
            await node.send(other, b"x")
