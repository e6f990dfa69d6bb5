"""A policy decides about each received message, in one place for both wires."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any, Final

import pytest
from test_link import Net, meet, next_of, take
from test_links import RawPeer

from signedwire import (
    AdmissionContext,
    MessageHeader,
    MessageRefusedError,
    Node,
    PayloadType,
    Priority,
    Reason,
    verify_receipt,
)
from signedwire.delivery.policy import Policies, Policy
from signedwire.delivery.store import SqliteStore
from signedwire.logs import EventLog
from tlskit import quick
from wirekit import ALICE, BOB, LIMIT, eventually, on_asyncio, on_both_loops, within


class Rule:
    """Refuses payloads of one byte; notes what it was asked."""

    def __init__(self, reason: Reason = Reason.NOT_ALLOWED) -> None:
        self.reason = reason
        self.asked: list[tuple[MessageHeader, AdmissionContext]] = []

    def admit(self, header: MessageHeader, context: AdmissionContext) -> Reason | None:
        self.asked.append((header, context))
        return self.reason if header.payload_size == 1 else None


@on_both_loops
async def test_what_it_refuses_is_neither_delivered_nor_receipted() -> None:
    rule = Rule()
    net = Net()
    async with net.node(ALICE) as alice, Node(BOB, quick(), network=net.memory, policy=rule) as bob:
        meet(alice, bob)
        good = alice.send_nowait(bob.did, b"good")
        bad = alice.send_nowait(bob.did, b"x", priority=Priority.HIGH)
        with pytest.raises(MessageRefusedError) as error:
            await within(LIMIT, bad.wait("accepted"))
        assert error.value.reason is Reason.NOT_ALLOWED
        assert verify_receipt(bad.proof()).reason is Reason.NOT_ALLOWED
        await within(LIMIT, good.wait("accepted"))
        assert await take(bob, 1) == [b"good"]
        assert bob.stats().dropped == {Reason.NOT_ALLOWED: 1}
        assert bob.stats().messages_received == 1
        header, context = next(one for one in rule.asked if one[0].payload_size == 1)
        assert header == MessageHeader(ALICE.did, bob.did, Priority.HIGH, PayloadType.RAW, 1, None)
        assert context == AdmissionContext("v2", is_proven=True)
        assert len(rule.asked) == 2


@on_asyncio
async def test_a_refused_message_that_comes_again_is_refused_again() -> None:
    rule = Rule()
    async with Node(BOB, quick(), policy=rule) as bob:
        with await RawPeer.dial(bob, ALICE) as peer:
            first = peer.body(1, b"x"), peer.body(2, b"good")
            await peer.send(*first)
            assert [one.reason for one in await peer.next_refusals()] == [Reason.NOT_ALLOWED]
            assert len((await peer.next_receipts()).hashes) == 1
            await peer.send(*first)
            assert [one.reason for one in await peer.next_refusals()] == [Reason.NOT_ALLOWED]
        await next_of(bob)
        # Nobody asks again about a message that was accepted.
        assert [header.payload_size for header, _ in rule.asked] == [1, 4, 1]
        assert bob.receive_nowait() is None


@on_asyncio
async def test_what_it_refuses_is_in_no_store_and_no_evidence(tmp_path: Path) -> None:
    path = tmp_path / "bob.db"
    log = tmp_path / "evidence.log"
    net = Net()
    async with (
        net.node(ALICE) as alice,
        Node(BOB, quick(store=path, evidence=log), network=net.memory, policy=Rule()) as bob,
    ):
        meet(alice, bob)
        with pytest.raises(MessageRefusedError):
            await within(LIMIT, alice.send(bob.did, b"x", until="accepted"))
        await within(LIMIT, alice.send(bob.did, b"good", until="accepted"))
        assert bob.evidence_head().records == 1
    store = SqliteStore(path, BOB.did)
    try:
        assert [row.body[-4:] for row in store.unacked().result(LIMIT)] == [b"good"]
    finally:
        store.close()


@on_asyncio
async def test_it_is_asked_over_v1_too() -> None:
    rule = Rule()
    net = Net()
    async with (
        net.node(ALICE, wire="v1") as alice,
        Node(BOB, quick(v1_peers="all"), network=net.memory, policy=rule) as bob,
    ):
        meet(alice, bob)
        await within(LIMIT, alice.send(bob.did, b"x"))
        await within(LIMIT, alice.send(bob.did, b"good"))
        assert await take(bob, 1) == [b"good"]
        await eventually(lambda: bob.stats().dropped == {Reason.NOT_ALLOWED: 1})
        assert {context for _, context in rule.asked} == {AdmissionContext("v1", is_proven=True)}
        assert [header.payload_size for header, _ in rule.asked] == [1, 4]


class Faulty:
    """Returns what is no reason, or raises."""

    def __init__(self, result: Any) -> None:
        self.result = result

    def admit(self, header: MessageHeader, context: AdmissionContext) -> Reason | None:
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result  # type: ignore[no-any-return]


class Unequal:
    """Can be neither compared nor hashed."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    def __hash__(self) -> int:
        raise RuntimeError("no hash")


FAULTS: Final[list[tuple[Any, str]]] = [
    (RuntimeError("no rule today"), "no rule today"),
    (asyncio.CancelledError(), "CancelledError"),
    (GeneratorExit(), "GeneratorExit"),
    ([1], "returned a list"),
    ({}, "returned a dict"),
    (Unequal(), "returned a Unequal"),
    (True, "returned True"),
    ("denied", "returned a str"),
]


@pytest.mark.parametrize(("result", "words"), FAULTS, ids=lambda one: type(one).__name__)
@on_asyncio
async def test_a_policy_that_fails_admits_nothing(
    result: Any, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    rule = Faulty(result)
    net = Net()
    async with net.node(ALICE) as alice, Node(BOB, quick(), network=net.memory, policy=rule) as bob:
        meet(alice, bob)
        with pytest.raises(MessageRefusedError) as error:
            await within(LIMIT, alice.send(bob.did, b"hello"))
        assert error.value.reason is Reason.NOT_ALLOWED
        assert "refused" in caplog.text
        assert words in caplog.text
        rule.result = None
        await within(LIMIT, alice.send(bob.did, b"over the same link"))
        assert bob.stats().connections_accepted == 1


@pytest.mark.parametrize("end", [KeyboardInterrupt(), SystemExit()], ids=["interrupt", "exit"])
def test_a_policy_does_not_keep_the_program_from_its_end(end: BaseException) -> None:
    policies = Policies([Faulty(end)], EventLog(logging.getLogger("test")))
    header = MessageHeader(ALICE.did, BOB.did, Priority.LOW, PayloadType.RAW, 0, None)
    with pytest.raises(type(end)):
        policies.admit(header, AdmissionContext("v2", is_proven=True))


def test_a_reason_without_a_code_is_sent_as_not_allowed() -> None:
    class Denies:
        def admit(self, header: MessageHeader, context: AdmissionContext) -> Reason | None:
            return Reason.DENIED

    policies = Policies([Denies()], EventLog(logging.getLogger("test")))
    header = MessageHeader(ALICE.did, BOB.did, Priority.LOW, PayloadType.RAW, 0, None)
    assert policies.admit(header, AdmissionContext("v2", is_proven=True)) is Reason.NOT_ALLOWED


@pytest.mark.parametrize("result", [False, True, "not allowed", "no reason", 0])
def test_a_wrong_result_is_refused_and_logged_once(
    result: object, caplog: pytest.LogCaptureFixture
) -> None:
    class Wrong:
        def admit(self, header: MessageHeader, context: AdmissionContext) -> Any:
            return result

    policies = Policies([Wrong()], EventLog(logging.getLogger("test")))
    header = MessageHeader(ALICE.did, BOB.did, Priority.LOW, PayloadType.RAW, 0, None)
    for _ in range(3):
        assert policies.admit(header, AdmissionContext("v2", is_proven=True)) is Reason.NOT_ALLOWED
    (record,) = caplog.records
    assert "return None to admit, or a Reason to refuse" in record.getMessage()


class AsyncRule:
    async def admit(self, header: MessageHeader, context: AdmissionContext) -> Reason | None:
        return None


@pytest.mark.parametrize(
    ("policy", "lacks"),
    [
        (lambda header, context: None, "function, which has no method admit"),
        (object(), "object, which has no method admit"),
        (Rule, r"the class Rule: make an object of it, Rule\("),
        (AsyncRule(), r"admit\(\) is async"),
    ],
)
def test_what_is_no_policy_is_refused_at_once(policy: Any, lacks: str) -> None:
    with pytest.raises(TypeError, match=lacks):
        Node(BOB, policy=policy)
    wanted: Policy = Rule()
    Node(BOB, policy=wanted)


@on_asyncio
async def test_the_access_list_is_a_policy() -> None:
    async with Node(BOB, quick(listen=None)) as bob:
        header = MessageHeader(ALICE.did, BOB.did, Priority.LOW, PayloadType.RAW, 0, None)
        context = AdmissionContext("v2", is_proven=True)
        assert bob.access.admit(header, context) is None
        bob.access.deny(ALICE.did)
        assert bob.access.admit(header, context) is Reason.DENIED
        await asyncio.sleep(0)


def test_no_policy_costs_nothing() -> None:
    policies: Any = Policies([], EventLog(logging.getLogger("test")))
    assert not policies
