"""`Receipt`: every transition, every way to wait for one, every text."""

from __future__ import annotations

import asyncio
import itertools
import math
import re
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from idkit import id_of, number_of
from signedwire.delivery.advice import NEEDS_STORE
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.receipt import Receipt, Step, advance_all, future_waker, transition_all
from signedwire.errors import (
    Cause,
    ClosedError,
    DeliveryFailedError,
    FailureKind,
    MessageExpiredError,
    MessageRefusedError,
    SignedWireError,
)
from signedwire.identity import Identity
from signedwire.types import DeliveryState, Reason
from wirekit import receipt_to

BOB = Identity.from_seed(bytes(32)).did
QUEUED, PERSISTED, WRITTEN, ACCEPTED, HANDLED, REFUSED, FAILED, EXPIRED = DeliveryState
GIVEN_UP = (REFUSED, FAILED, EXPIRED)
FINAL = (HANDLED, *GIVEN_UP)
CONFIRMED = (ACCEPTED, HANDLED)
LADDER = (QUEUED, DeliveryState.PERSISTED, WRITTEN, ACCEPTED, HANDLED)
KINDS = {
    REFUSED: MessageRefusedError,
    FAILED: DeliveryFailedError,
    EXPIRED: MessageExpiredError,
}


def receipt_at(
    state: DeliveryState, reason: Reason | None = None, detail: str = ""
) -> OutgoingMessage:
    receipt = receipt_to(BOB, 7)
    if state is not QUEUED:
        receipt.advance(state, reason, detail)
    return receipt


def expect_no_waiter(receipt: OutgoingMessage) -> None:
    assert not receipt._changed


async def settled() -> None:
    """Let everything that can run, run."""
    for _ in range(5):
        await asyncio.sleep(0)


class TestStates:
    def test_a_new_one_is_queued(self) -> None:
        before = time.time_ns() // 1000
        receipt = receipt_to(BOB, 7)
        assert (receipt.recipient, number_of(receipt.message_id)) == (BOB, 7)
        assert (receipt.state, receipt.reason, receipt.detail) == (QUEUED, None, "")
        assert not receipt.is_final
        assert not receipt.is_confirmed
        (step,) = receipt.history
        assert isinstance(step, Step)
        assert step.state is QUEUED
        assert before <= step.at_us == receipt.queued_at_us <= time.time_ns() // 1000

    @pytest.mark.parametrize(("first", "then"), list(itertools.product(DeliveryState, repeat=2)))
    def test_every_transition(self, first: DeliveryState, then: DeliveryState) -> None:
        receipt = receipt_at(first, Reason.CLOSED, "one")
        before = receipt.history
        receipt.advance(then, Reason.EXPIRED, "two")
        if first in FINAL:
            assert (receipt.state, receipt.reason, receipt.detail) == (first, Reason.CLOSED, "one")
            assert receipt.history == before
        else:
            assert (receipt.state, receipt.reason, receipt.detail) == (then, Reason.EXPIRED, "two")
            assert receipt.history[:-1] == before
            assert receipt.history[-1].state is then
        assert receipt.is_final == (first in FINAL or then in FINAL)
        assert receipt.is_confirmed == (receipt.state in CONFIRMED)

    def test_a_rung_whose_instant_is_given(self) -> None:
        receipt = receipt_to(BOB, 7)
        receipt.transition(WRITTEN, 123)
        receipt.transition(ACCEPTED, 456)
        assert receipt.history[1:] == (Step(WRITTEN, 123), (ACCEPTED, 456))
        assert (receipt.state, receipt.is_final) == (ACCEPTED, False)

    @pytest.mark.parametrize("state", FINAL)
    def test_what_has_ended_climbs_no_more(self, state: DeliveryState) -> None:
        receipt = receipt_at(state, Reason.CLOSED, "one")
        before = receipt.history
        receipt.transition(ACCEPTED, 456)
        assert (receipt.state, receipt.reason, receipt.history) == (state, Reason.CLOSED, before)

    def test_written_again_after_a_broken_connection(self) -> None:
        receipt = receipt_to(BOB, 7)
        for state in (WRITTEN, QUEUED, WRITTEN):
            receipt.advance(state)
        assert [step.state for step in receipt.history] == [QUEUED, WRITTEN, QUEUED, WRITTEN]
        instants = [step.at_us for step in receipt.history]
        assert instants == sorted(instants)
        assert receipt.queued_at_us == instants[0]

    @pytest.mark.parametrize(("now", "asked"), list(itertools.product(DeliveryState, repeat=2)))
    def test_has_reached(self, now: DeliveryState, asked: DeliveryState) -> None:
        # Where it was given up is no state. What was queued has been, and what was refused
        # was written.
        if asked in LADDER:
            reached = {DeliveryState.REFUSED: DeliveryState.WRITTEN}.get(now, DeliveryState.QUEUED)
            at = now if now in LADDER else reached
            expected = LADDER.index(at) >= LADDER.index(asked)
        else:
            expected = now is asked
        assert receipt_at(now).has_reached(asked) is expected

    @pytest.mark.parametrize(("now", "asked"), list(itertools.product(DeliveryState, repeat=2)))
    def test_what_went_to_a_v1_peer_has_reached_all_that_it_can(
        self, now: DeliveryState, asked: DeliveryState
    ) -> None:
        receipt = receipt_at(now)
        expected = receipt.has_reached(asked) or (now is WRITTEN and asked in LADDER)
        receipt.is_unconfirmed = True
        assert receipt.has_reached(asked) is expected
        assert receipt.is_confirmed == (now in CONFIRMED)  # never by having been written

    @pytest.mark.parametrize(
        ("state", "reason", "text"),
        [
            (QUEUED, None, "queued"),
            (WRITTEN, None, "written"),
            (ACCEPTED, None, "accepted"),
            (HANDLED, None, "handled"),
            (REFUSED, Reason.NOT_ALLOWED, "refused (not allowed)"),
            (FAILED, Reason.ATTEMPTS_EXHAUSTED, "failed (attempts exhausted)"),
            (EXPIRED, Reason.EXPIRED, "expired (expired)"),
        ],
    )
    def test_repr(self, state: DeliveryState, reason: Reason | None, text: str) -> None:
        assert repr(receipt_at(state, reason)) == f"<Receipt 00000007 to {BOB.short} {text}>"


class TestErrors:
    @pytest.mark.parametrize("state", LADDER)
    def test_none_while_it_is_on_its_way(self, state: DeliveryState) -> None:
        receipt_at(state).raise_if_failed()

    @pytest.mark.parametrize(("detail", "shown"), [("", ""), ("no answer", " (no answer)")])
    def test_expired(self, detail: str, shown: str) -> None:
        receipt = receipt_at(EXPIRED, Reason.EXPIRED, detail)
        with pytest.raises(MessageExpiredError) as caught:
            receipt.raise_if_failed()
        error = caught.value
        assert isinstance(error, TimeoutError)
        assert isinstance(error, SignedWireError)
        assert (error.receipt, error.recipient, error.reason) == (receipt, BOB, Reason.EXPIRED)
        assert str(error) == (
            f"message 00000007 to {BOB} expired before it could be written{shown}; "
            "it will not be sent. "
            "Give it a later deadline, or check node.peers() for what holds the peer up"
        )

    def test_expired_on_the_way_or_there(self) -> None:
        receipt = receipt_at(WRITTEN)
        receipt.advance(EXPIRED, Reason.EXPIRED)
        with pytest.raises(MessageExpiredError) as caught:
            receipt.raise_if_failed()
        assert str(caught.value).startswith(
            f"message 00000007 to {BOB} expired before it was taken there; it was not delivered. "
        )

    @pytest.mark.parametrize(
        ("reason", "detail", "said", "hint"),
        [
            (
                Reason.ATTEMPTS_EXHAUSTED,
                "refused",
                "attempts exhausted (refused)",
                ". Is the peer running, and is its address right? "
                "`signedwire ping DID@address` tries it",
            ),
            (Reason.CLOSED, "", "closed", ". The node was closed before its peer had answered"),
            (
                Reason.UNKNOWN_PEER,
                "",
                "unknown peer",
                ". The peer has no route and no link: add a route with "
                "routing.update(did, address), or wait until the peer dials this node",
            ),
            (Reason.TOO_LARGE, "", "too large", ""),
            (None, "", "closed", ". The node was closed before its peer had answered"),
            (
                Reason.ATTEMPTS_EXHAUSTED,
                Cause("did:key:x answered, not did:key:y", FailureKind.WRONG_KEY),
                "attempts exhausted (did:key:x answered, not did:key:y)",
                ". Another key answers at that address: is the DID right?",
            ),
        ],
    )
    def test_failed(self, reason: Reason | None, detail: str, said: str, hint: str) -> None:
        receipt = receipt_at(FAILED, reason, detail)
        with pytest.raises(DeliveryFailedError) as caught:
            receipt.raise_if_failed()
        error = caught.value
        assert not isinstance(error, TimeoutError)
        assert (error.receipt, error.recipient) == (receipt, BOB)
        assert error.reason is (reason or Reason.CLOSED)
        assert str(error) == f"message 00000007 to {BOB} was not delivered: {said}{hint}"

    @pytest.mark.parametrize(
        ("reason", "said"),
        [
            (Reason.NOT_ALLOWED, "not allowed"),
            (None, "refused"),
            (Reason.TOO_LARGE, "too large"),
            (
                Reason.DUPLICATE,
                "duplicate; it was NOT delivered: another process used this number. "
                "Send it again; one process per key at a time",
            ),
        ],
    )
    def test_refused(self, reason: Reason | None, said: str) -> None:
        receipt = receipt_at(REFUSED, reason)
        with pytest.raises(MessageRefusedError) as caught:
            receipt.raise_if_failed()
        error = caught.value
        assert not isinstance(error, TimeoutError)
        assert (error.receipt, error.recipient) == (receipt, BOB)
        assert error.reason is (reason or Reason.REFUSED)
        assert str(error) == f"{BOB} refused message 00000007: {said}"


class TestProof:
    @pytest.mark.parametrize("state", DeliveryState)
    def test_there_is_none_until_the_recipient_has_signed(self, state: DeliveryState) -> None:
        with pytest.raises(LookupError) as caught:
            receipt_at(state).proof()
        assert str(caught.value) == (
            f"message 00000007 to {BOB} is {state}: its recipient has signed no receipt"
        )

    def test_it_is_the_part_that_is_about_this_message(self) -> None:
        class RecordingSource:
            def prove(self, receipt: Receipt) -> bytes:
                return bytes((number_of(receipt.message_id),))

        receipt = receipt_at(ACCEPTED)
        receipt.proof_source = RecordingSource()
        assert receipt.proof() == b"\x07"


class TestAlone:
    """A `Receipt` that is no message of a node."""

    async def test_it_has_no_store_no_deadline_and_no_proof(self) -> None:
        receipt = Receipt(BOB, id_of(7))
        with pytest.raises(LookupError, match="its recipient has signed no receipt"):
            receipt.proof()
        waiting = asyncio.ensure_future(receipt.wait())  # as without a store: until accepted
        await settled()
        advance_all([receipt], PERSISTED)
        await settled()
        assert not waiting.done()
        advance_all([receipt], ACCEPTED)
        assert await waiting is receipt
        with pytest.raises(TimeoutError):
            await receipt.wait("handled", timeout=0.01)


async def as_awaitable(value: Any) -> Any:
    return await value if isinstance(value, Awaitable) else value


class TestWait:
    @pytest.mark.parametrize("state", [QUEUED, WRITTEN])
    async def test_what_is_reached_does_not_wait(self, state: DeliveryState) -> None:
        receipt = receipt_at(WRITTEN)
        assert await receipt.wait(state, timeout=0) is receipt
        assert receipt.result(state, 0) is receipt
        expect_no_waiter(receipt)

    async def test_until_written(self) -> None:
        receipt = receipt_to(BOB, 7)
        waiting = asyncio.create_task(receipt.wait(WRITTEN))
        await settled()
        assert not waiting.done()
        receipt.advance(QUEUED)
        await settled()
        assert not waiting.done()
        receipt.advance(WRITTEN)
        assert await waiting is receipt
        expect_no_waiter(receipt)

    async def test_until_handled(self) -> None:
        receipt = receipt_to(BOB, 7)
        waiting = asyncio.create_task(receipt.wait(HANDLED))
        for state in (WRITTEN, QUEUED, WRITTEN, ACCEPTED):
            receipt.advance(state)
            await settled()
            assert not waiting.done()
        receipt.advance(HANDLED)
        assert await waiting is receipt
        assert receipt.result(HANDLED, 0) is receipt
        expect_no_waiter(receipt)

    async def test_a_rung_wakes_who_waits_for_it(self) -> None:
        receipt = receipt_to(BOB, 7)
        waiting = asyncio.create_task(receipt.wait(ACCEPTED))
        await settled()
        receipt.transition(WRITTEN, 1)
        await settled()
        assert not waiting.done()
        receipt.transition(ACCEPTED, 2)
        assert await waiting is receipt
        expect_no_waiter(receipt)

    async def test_a_v1_peer_is_not_waited_for_in_vain(self) -> None:
        receipt = receipt_to(BOB, 7)
        waiting = asyncio.create_task(receipt.wait(HANDLED))
        await settled()
        receipt.is_unconfirmed = True
        receipt.advance(WRITTEN)
        assert await waiting is receipt
        assert not receipt.is_confirmed

    async def test_what_was_accepted_may_still_be_refused(self) -> None:
        receipt = receipt_at(ACCEPTED)
        waiting = asyncio.create_task(receipt.wait(HANDLED))
        await settled()
        receipt.advance(REFUSED, Reason.INBOX_FULL)
        with pytest.raises(MessageRefusedError, match="inbox full"):
            await waiting

    async def test_several_at_once(self) -> None:
        receipt = receipt_to(BOB, 7)
        waiting = [asyncio.create_task(receipt.wait(WRITTEN)) for _ in range(3)]
        await settled()
        receipt.advance(WRITTEN)
        assert await asyncio.gather(*waiting) == [receipt] * 3
        expect_no_waiter(receipt)

    @pytest.mark.parametrize("state", GIVEN_UP)
    async def test_a_failure_is_raised_before_and_while_waiting(self, state: DeliveryState) -> None:
        kind = KINDS[state]
        receipt = receipt_to(BOB, 7)
        waiting = asyncio.create_task(receipt.wait(DeliveryState.ACCEPTED))
        await settled()
        receipt.advance(state)
        with pytest.raises(kind) as caught:
            await waiting
        assert type(caught.value) is kind
        with pytest.raises(kind):
            await receipt.wait(DeliveryState.ACCEPTED)
        with pytest.raises(kind):
            receipt.result(until=DeliveryState.ACCEPTED)
        expect_no_waiter(receipt)

    @pytest.mark.parametrize("then", [REFUSED, EXPIRED])
    async def test_what_was_accepted_stays_accepted(self, then: DeliveryState) -> None:
        """Who looks late gets what who looks early gets: no race decides what is raised."""
        receipt = receipt_at(ACCEPTED)
        early = asyncio.create_task(receipt.wait(ACCEPTED))
        both = asyncio.create_task(receipt.wait(HANDLED))
        await settled()
        assert early.done()
        receipt.advance(then, Reason.REFUSED)
        assert await receipt.wait(ACCEPTED) is receipt
        assert receipt.result(ACCEPTED, 0) is receipt
        for failing in (both, receipt.wait(HANDLED)):
            with pytest.raises(KINDS[then]):
                await failing
        expect_no_waiter(receipt)

    @pytest.mark.parametrize("then", [FAILED, EXPIRED])
    async def test_what_was_only_written_may_still_fail(self, then: DeliveryState) -> None:
        receipt = receipt_at(WRITTEN)
        receipt.advance(then, Reason.CLOSED)
        with pytest.raises(KINDS[then]):
            await receipt.wait()

    async def test_what_was_stored_stays_stored(self) -> None:
        receipt = receipt_at(DeliveryState.PERSISTED)
        receipt.is_stored = True
        receipt.advance(FAILED, Reason.DROPPED)
        assert await receipt.wait(DeliveryState.PERSISTED) is receipt

    @pytest.mark.parametrize("text", ["handeld", "", "HANDLED"])
    async def test_a_state_that_is_none_is_named(self, text: str) -> None:
        with pytest.raises(ValueError, match="known are queued, persisted, written, accepted"):
            receipt_at(QUEUED).result(text, 0)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=f"until={text!r} is unknown"):
            await receipt_at(QUEUED).wait(text)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("until", "timeout", "kind", "text"),
        [
            ("handeld", None, ValueError, "Did you mean 'handled'?"),
            (30, None, TypeError, "Seconds are given by name: timeout=30"),
            (True, None, TypeError, "of type bool"),
            (b"handled", None, TypeError, "of type bytes"),
            ("written", "5", TypeError, "seconds are wanted, such as 5.0"),
            ("written", True, TypeError, "of type bool"),
            ("written", timedelta(seconds=5), TypeError, "use .total_seconds()"),
            ("written", -1, ValueError, "not a number of seconds, 0 or more"),
            ("written", math.nan, ValueError, "None sets no limit"),
            ("written", -math.inf, ValueError, "None sets no limit"),
            ("written", -(10**400), ValueError, "a number of 1329 bits"),
        ],
    )
    async def test_what_is_no_argument(
        self, until: Any, timeout: Any, kind: type[Exception], text: str
    ) -> None:
        receipt = receipt_at(WRITTEN)  # so that nothing waits, and it is checked all the same
        for call in (receipt.wait, receipt.result):
            with pytest.raises(kind, match=re.escape(text)):
                await as_awaitable(call(until, timeout))
        if timeout is None:
            with pytest.raises(kind):
                receipt.has_reached(until)
        expect_no_waiter(receipt)

    async def test_a_text_does_as_well(self) -> None:
        receipt = receipt_at(HANDLED)
        assert await receipt.wait("handled") is receipt
        assert receipt.result("accepted", 0) is receipt

    async def test_without_a_store_nothing_is_persisted(self) -> None:
        receipt = receipt_at(QUEUED)
        for call in (receipt.wait, receipt.result):
            with pytest.raises(ValueError, match=re.escape(NEEDS_STORE)):
                await as_awaitable(call("persisted", 0))
        receipt.is_stored = True
        with pytest.raises(TimeoutError):
            await receipt.wait("persisted", 0)
        expect_no_waiter(receipt)

    async def test_what_can_never_be_is_not_waited_for(self) -> None:
        receipt = receipt_at(HANDLED)
        with pytest.raises(ValueError, match="is handled, and so is never refused"):
            await receipt.wait(REFUSED)
        with pytest.raises(ValueError, match="never failed"):
            receipt.result(FAILED, None)
        expect_no_waiter(receipt)

    @pytest.mark.parametrize("reason", [Reason.CLOSED, Reason.STALE_EPOCH])
    async def test_nothing_more_is_heard_of_it(self, reason: Reason) -> None:
        kind = ClosedError if reason is Reason.CLOSED else DeliveryFailedError
        receipt = receipt_at(ACCEPTED)
        waiting = asyncio.create_task(receipt.wait(HANDLED))
        await settled()
        receipt.abandon(reason, "the link is gone for good")
        for failing in (waiting, receipt.wait(HANDLED)):
            with pytest.raises(kind, match="was accepted, but the link is gone for good"):
                await failing
        with pytest.raises(kind):
            receipt.result(HANDLED, None)
        assert await receipt.wait(ACCEPTED) is receipt
        receipt.advance(HANDLED)  # after all
        assert await receipt.wait(HANDLED) is receipt
        assert receipt.reason is None
        expect_no_waiter(receipt)

    @pytest.mark.parametrize("state", [QUEUED, WRITTEN, HANDLED, REFUSED])
    async def test_only_what_was_accepted_is_abandoned(self, state: DeliveryState) -> None:
        receipt = receipt_at(state)
        receipt.abandon(Reason.CLOSED, "gone")
        assert receipt.reason is None

    @pytest.mark.parametrize("state", GIVEN_UP)
    async def test_until_it_has_ended(self, state: DeliveryState) -> None:
        receipt = receipt_to(BOB, 7)
        waiting = asyncio.create_task(receipt.wait(state))
        await settled()
        receipt.advance(WRITTEN)
        await settled()
        assert not waiting.done()
        receipt.advance(state)
        assert await waiting is receipt
        assert receipt.result(state, 0) is receipt
        other = EXPIRED if state is FAILED else FAILED
        with pytest.raises(DeliveryFailedError):
            await receipt.wait(other)

    async def test_timeout_leaves_the_message_on_its_way(self) -> None:
        receipt = receipt_to(BOB, 7)
        with pytest.raises(TimeoutError) as caught:
            await receipt.wait(timeout=0.01)
        assert not isinstance(caught.value, SignedWireError)
        assert receipt.state is QUEUED
        expect_no_waiter(receipt)
        receipt.advance(WRITTEN)
        assert await receipt.wait(WRITTEN) is receipt

    async def test_cancelling_leaves_the_message_on_its_way(self) -> None:
        receipt = receipt_to(BOB, 7)
        waiting = asyncio.create_task(receipt.wait())
        await settled()
        assert waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert receipt.state is QUEUED
        expect_no_waiter(receipt)
        receipt.advance(WRITTEN)

    async def test_the_transport_may_live_in_another_thread(self) -> None:
        receipt = receipt_to(BOB, 7)
        waiting = asyncio.create_task(receipt.wait(WRITTEN, 30))
        await settled()
        thread = threading.Thread(target=receipt.advance, args=(WRITTEN,))
        thread.start()
        assert await waiting is receipt
        thread.join()

    @pytest.mark.parametrize("state", [WRITTEN, FAILED])
    async def test_a_change_while_the_waiter_enters_is_not_missed(
        self, monkeypatch: pytest.MonkeyPatch, state: DeliveryState
    ) -> None:
        subscribe = Receipt.add_callback

        def change_and_subscribe(receipt: OutgoingMessage, wake: Callable[[], None]) -> None:
            # From another thread, just before the waiter would be told.
            thread = threading.Thread(target=receipt.advance, args=(state,))
            thread.start()
            thread.join()
            subscribe(receipt, wake)

        monkeypatch.setattr(Receipt, "add_callback", change_and_subscribe)
        receipt = receipt_to(BOB, 7)
        if state is WRITTEN:
            assert await receipt.wait(WRITTEN, 30) is receipt
        else:
            with pytest.raises(DeliveryFailedError):
                await receipt.wait(timeout=30)


class TestResult:
    def test_until_written(self) -> None:
        receipt = receipt_to(BOB, 7)
        results: list[Receipt] = []
        threads = [
            threading.Thread(
                target=lambda: results.append(receipt.result(WRITTEN, 30)), daemon=True
            )
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        while len(receipt._changed or ()) < 3:
            time.sleep(0)
        receipt.advance(QUEUED)
        receipt.advance(WRITTEN)
        for thread in threads:
            thread.join(30)
        assert results == [receipt] * 3
        expect_no_waiter(receipt)

    @pytest.mark.parametrize("state", GIVEN_UP)
    def test_a_failure_is_raised_while_waiting(self, state: DeliveryState) -> None:
        receipt = receipt_to(BOB, 7)

        def fail() -> None:
            while not receipt._changed:
                time.sleep(0)
            receipt.advance(state, Reason.CLOSED)

        thread = threading.Thread(target=fail)
        thread.start()
        with pytest.raises(KINDS[state]):
            receipt.result(DeliveryState.ACCEPTED, 30)
        thread.join()
        expect_no_waiter(receipt)

    @pytest.mark.parametrize("state", [QUEUED, WRITTEN])
    def test_timeout(self, state: DeliveryState) -> None:
        receipt = receipt_at(state)
        with pytest.raises(TimeoutError) as caught:
            receipt.result(FAILED, 0.01)
        assert not isinstance(caught.value, SignedWireError)
        assert str(caught.value) == f"message 00000007 to {BOB} is still {state} after 0.01 s"
        expect_no_waiter(receipt)

    def test_changes_do_not_extend_the_timeout(self) -> None:
        receipt = receipt_to(BOB, 7)
        stop = threading.Event()
        ticks = 0

        def flap() -> None:
            nonlocal ticks
            # A connection that breaks again and again; it gives up after 2.5 s.
            while not stop.wait(0.005) and ticks < 500:
                ticks += 1
                receipt.advance(QUEUED)

        thread = threading.Thread(target=flap)
        thread.start()
        try:
            with pytest.raises(TimeoutError, match=r"is still queued after 0\.1 s"):
                receipt.result(timeout=0.1)
            assert ticks < 500
        finally:
            stop.set()
            thread.join()

    def test_a_state_read_in_the_middle_of_a_change(self) -> None:
        # The message ends, in another thread, between two looks of one has_reached().
        class Ending(Receipt):
            looks = 0

            def __getattribute__(self, name: str) -> object:
                value = super().__getattribute__(name)
                if name in ("state", "is_final"):
                    self.looks += 1
                    if self.looks == 1:
                        advance_all([self], FAILED)
                return value

        receipt = Ending(BOB, id_of(7))
        assert receipt.has_reached(WRITTEN) is False
        assert receipt.is_final


class TestFutureWaker:
    async def test_may_be_called_often_and_late(self) -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        wake = future_waker(loop, future)
        wake()
        wake()
        await future
        await settled()
        wake()
        await settled()

    async def test_a_cancelled_future_is_left_alone(self) -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        wake = future_waker(loop, future)
        future.cancel()
        wake()
        await settled()
        assert future.cancelled()


def test_a_waiter_whose_loop_has_closed_does_not_stop_the_others() -> None:
    receipt = receipt_to(Identity.from_seed(bytes(32)).did, 1)
    loop = asyncio.new_event_loop()
    receipt.add_callback(future_waker(loop, loop.create_future()))
    loop.close()
    woken: list[bool] = []
    receipt.add_callback(lambda: woken.append(True))
    receipt.advance(DeliveryState.WRITTEN)
    assert woken == [True]


def test_a_history_keeps_its_beginning_and_its_end_however_often_it_was_written() -> None:
    one, other = receipts_of_one_batch = [
        receipt_to(BOB, 7),
        receipt_to(BOB, 8),
    ]
    other._steps = one._steps
    for number in range(100):
        transition_all(receipts_of_one_batch, DeliveryState.WRITTEN, 1000 + number)
        advance_all(receipts_of_one_batch, DeliveryState.QUEUED)
        assert one._steps is other._steps, "each has a history of its own"
    transition_all(receipts_of_one_batch, DeliveryState.ACCEPTED, 5000)
    history = one.history
    assert len(history) == 16
    assert [step.state for step in history[:2]] == [DeliveryState.QUEUED, DeliveryState.WRITTEN]
    assert history[1].at_us == 1000
    assert [step.state for step in history[-2:]] == [DeliveryState.QUEUED, DeliveryState.ACCEPTED]
    assert history[-1].at_us == 5000
    assert one.has_reached(DeliveryState.QUEUED)
