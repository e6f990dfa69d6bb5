"""`as_completed()`: several messages are waited for, each outcome is told once, as it comes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from idkit import id_of, number_of
from signedwire import (
    DeliveryState,
    Identity,
    MessageExpiredError,
    Node,
    Reason,
    Receipt,
    TransportConfig,
    as_completed,
    sync,
)
from signedwire.delivery import outcomes as outcomes_module
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.send_options import SendOptions
from signedwire.types import Priority
from wirekit import (
    ALICE,
    BOB,
    LIMIT,
    SLACK,
    on_asyncio,
    on_both_loops,
    quick,
    random_seed,
    receipt_to,
    refusing_address,
    within,
)

ACCEPTED, WRITTEN = DeliveryState.ACCEPTED, DeliveryState.WRITTEN
FAILED, HANDLED = DeliveryState.FAILED, DeliveryState.HANDLED


def receipts_of(count: int) -> list[OutgoingMessage]:
    return [receipt_to(BOB.did, number) for number in range(1, count + 1)]


@contextlib.asynccontextmanager
async def pair() -> AsyncIterator[tuple[Node, Node]]:
    """ALICE, who knows where BOB is, and BOB."""
    config = quick(wire="auto", max_attempts=2)
    async with Node(ALICE, config) as alice, Node(BOB, config) as bob:
        alice.routing.update(bob.did, bob.address)
        yield alice, bob


async def next_or_none(receipts: AsyncIterator[Receipt]) -> Receipt | None:
    async for receipt in receipts:
        return receipt
    return None


def expect_no_callback(receipts: list[OutgoingMessage]) -> None:
    assert not any(receipt._changed for receipt in receipts)


@on_both_loops
async def test_in_the_order_in_which_they_come() -> None:
    first, second, third = receipts = receipts_of(3)
    third.advance(ACCEPTED)
    outcomes = as_completed(receipts, "accepted")
    assert await anext(outcomes) is third
    waiting = asyncio.ensure_future(anext(outcomes))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    first.advance(WRITTEN)
    await asyncio.sleep(0.01)
    assert not waiting.done()
    second.advance(FAILED, Reason.CLOSED)
    assert await waiting is second
    first.advance(ACCEPTED)
    assert [each async for each in outcomes] == [first]
    expect_no_callback(receipts)


@on_asyncio
async def test_one_that_is_given_twice_comes_once() -> None:
    (receipt,) = receipts_of(1)
    receipt.advance(ACCEPTED)
    assert [each async for each in as_completed([receipt, receipt])] == [receipt]
    assert [each async for each in as_completed([])] == []
    assert not list(sync.as_completed([]))


@on_both_loops
async def test_the_time_is_that_of_all() -> None:
    first, second = receipts = receipts_of(2)
    first.advance(ACCEPTED)
    outcomes = as_completed(receipts, timeout=0.05)
    assert await anext(outcomes) is first
    began = time.monotonic()
    wanted = r"1 of 2 messages have no outcome after 0\.05 s; the first is <Receipt 0"
    with pytest.raises(TimeoutError, match=wanted):
        await anext(outcomes)
    assert time.monotonic() - began < 0.25 + SLACK
    expect_no_callback(receipts)
    assert second.state is DeliveryState.QUEUED
    with pytest.raises(TimeoutError):
        await anext(as_completed([second], timeout=0))


@on_asyncio
async def test_arguments_are_checked_before_the_first_step() -> None:
    for until, timeout in (("never", None), ("accepted", -1), (3, None), ("accepted", "1")):
        with pytest.raises((ValueError, TypeError)):
            as_completed(receipts_of(1), until, timeout)  # type: ignore[arg-type]
        with pytest.raises((ValueError, TypeError)):
            sync.as_completed(receipts_of(1), until, timeout)  # type: ignore[arg-type]


@on_both_loops
async def test_leaving_and_cancelling_leave_nothing_behind() -> None:
    receipts = receipts_of(3)
    receipts[0].advance(ACCEPTED)
    outcomes = as_completed(receipts)
    await anext(outcomes)
    await outcomes.aclose()
    expect_no_callback(receipts)
    waiting = asyncio.ensure_future(anext(as_completed(receipts[1:])))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    gc.collect()
    await asyncio.sleep(0.01)
    expect_no_callback(receipts)


@on_asyncio
async def test_a_deadline_passes_after_the_message_was_accepted() -> None:
    """Nobody tells of it: who waits for "handled" looks at the clock."""
    from signedwire.clock import monotonic

    terms = SendOptions(BOB.did, Priority.NORMAL, monotonic() + 0.1)
    message, other = (
        OutgoingMessage(terms, id_of(1)),
        receipt_to(BOB.did, 2),
    )
    message.advance(ACCEPTED)
    outcomes = as_completed([other, message], "handled", LIMIT)
    began = time.monotonic()
    assert await anext(outcomes) is message
    assert 0.08 <= time.monotonic() - began < 0.5 + SLACK
    with pytest.raises(MessageExpiredError):
        await message.wait("handled")
    await outcomes.aclose()


def test_without_a_loop() -> None:
    first, second = receipts = receipts_of(2)
    threading.Timer(0.02, second.advance, (ACCEPTED,)).start()
    outcomes = sync.as_completed(receipts, "accepted", LIMIT)
    assert next(outcomes) is second
    first.advance(FAILED, Reason.CLOSED)
    assert list(outcomes) == [first]
    expect_no_callback(receipts)
    with pytest.raises(TimeoutError):
        next(sync.as_completed(receipts_of(1), timeout=0.02))


@pytest.mark.parametrize("is_blocking", [False, True])
def test_no_change_of_another_thread_is_missed(is_blocking: bool) -> None:
    """Random pauses on both sides; a change that is missed would last until the timeout."""
    _, rng = random_seed()
    for _ in range(60):
        receipts = receipts_of(rng.randrange(1, 40))
        pauses = [rng.choice((0.0, 0.0, 1e-6, 1e-4)) for _ in receipts]

        def move(receipts: list[OutgoingMessage] = receipts, pauses: list[float] = pauses) -> None:
            for receipt, pause in zip(receipts, pauses, strict=True):
                time.sleep(pause)
                receipt.advance(WRITTEN)
                receipt.advance(ACCEPTED)

        async def collect(receipts: list[OutgoingMessage] = receipts) -> list[Receipt]:
            return [each async for each in as_completed(receipts, "accepted", LIMIT)]

        mover = threading.Thread(target=move)
        mover.start()
        if is_blocking:
            found = list(sync.as_completed(receipts, "accepted", LIMIT))
        else:
            found = asyncio.run(collect())
        mover.join()
        assert sorted(number_of(each.message_id) for each in found) == [
            number_of(each.message_id) for each in receipts
        ]
        expect_no_callback(receipts)


@pytest.mark.parametrize("is_blocking", [False, True])
def test_a_change_right_before_the_wait_is_seen_without_one(
    is_blocking: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    receipts = receipts_of(2)
    changes = iter(receipts)
    may_sleep = outcomes_module._Waiting.may_sleep

    def change_and_look(waiting: outcomes_module._Waiting) -> bool:
        next(changes).advance(ACCEPTED)
        return may_sleep(waiting)

    def wait(_: outcomes_module._Waiting) -> float:
        raise AssertionError("it waits, although a receipt has changed")

    monkeypatch.setattr(outcomes_module._Waiting, "may_sleep", change_and_look)
    monkeypatch.setattr(outcomes_module._Waiting, "pause", wait)

    async def collect() -> list[Receipt]:
        return [each async for each in as_completed(receipts, "accepted")]

    found = list(sync.as_completed(receipts, "accepted")) if is_blocking else asyncio.run(collect())
    assert found == receipts


@on_asyncio
async def test_ten_thousand_cost_no_square() -> None:
    """Each change is looked at once: ten times as many take about ten times as long."""

    async def seconds_for(count: int) -> float:
        receipts = receipts_of(count)
        outcomes = as_completed(receipts, "accepted", LIMIT)
        began = time.perf_counter()
        waiting = asyncio.ensure_future(next_or_none(outcomes))
        for receipt in receipts:
            await asyncio.sleep(0)
            receipt.advance(ACCEPTED)
            assert await waiting is receipt
            waiting = asyncio.ensure_future(next_or_none(outcomes))
        assert await waiting is None
        return time.perf_counter() - began

    few = min([await seconds_for(1_000) for _ in range(3)])
    assert await seconds_for(10_000) < 5 * 10 * few


# -- with nodes ---------------------------------------------------------------------------


@on_both_loops
async def test_the_first_of_two_peers_to_answer() -> None:
    with refusing_address() as nobody:
        async with pair() as (alice, bob):
            away = Identity.generate().did
            alice.routing.update(away, nobody)
            there = alice.send_nowait(bob.did, b"x")
            lost = alice.send_nowait(away, b"x")
            outcomes = [each async for each in as_completed([lost, there], timeout=LIMIT)]
            assert set(outcomes) == {there, lost}
            assert there.has_reached("accepted")
            assert lost.state is FAILED


@on_asyncio
async def test_closing_the_node_is_an_outcome() -> None:
    with refusing_address() as nobody:
        alice = Node(ALICE, TransportConfig(listen=None, max_attempts=1000, close_timeout=0.1))
        await alice.start()
        alice.routing.update(BOB.did, nobody)
        receipts = [alice.send_nowait(BOB.did, b"x") for _ in range(3)]
        waiting = asyncio.ensure_future(anext(as_completed(receipts)))
        await asyncio.sleep(0.01)
        await alice.close()
        assert (await within(LIMIT, waiting)).reason is Reason.CLOSED


def test_a_blocking_wait_in_the_loop_of_the_node_is_refused() -> None:
    async def wait() -> None:
        async with pair() as (alice, bob):
            receipt = alice.send_nowait(bob.did, b"x")
            with pytest.raises(RuntimeError, match="event loop's own thread"):
                sync.as_completed([receipt], "handled")

    asyncio.run(wait())


# -- callbacks ------------------------------------------------------------------------------


@pytest.mark.parametrize("move", ["advance", "transition", "abandon", "detach"])
def test_a_callback_that_raises_stops_nobody(move: str, caplog: pytest.LogCaptureFixture) -> None:
    (receipt,) = receipts_of(1)
    if move == "abandon":
        receipt.advance(ACCEPTED)
    called: list[str] = []

    def fail() -> None:
        called.append("bad")
        raise ZeroDivisionError

    def note() -> None:
        called.append("good")

    receipt.add_callback(fail)
    receipt.add_callback(note)
    moves: dict[str, Callable[[], Any]] = {
        "advance": lambda: receipt.advance(ACCEPTED),
        "transition": lambda: receipt.transition(ACCEPTED, 1),
        "abandon": lambda: receipt.abandon(Reason.CLOSED, "x"),
        "detach": receipt.detach,
    }
    with caplog.at_level(logging.ERROR, "signedwire"):
        moves[move]()
    assert called == ["bad", "good"]
    assert "a callback of a receipt failed" in caplog.text
    receipt.remove_callback(fail)
    receipt.remove_callback(note)
    with pytest.raises(ValueError, match="not"):
        receipt.remove_callback(note)
    with pytest.raises(ValueError, match="was not added"):
        receipt_to(BOB.did, 2).remove_callback(note)
