"""`PeerReceiver`: credit, what follows a commit and in which order, and answers after a cut."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from peerkit import Desk, FakeLink, FakeStore, ManualClock, epochs, marks, payloads, still_clock

from linkkit import ALICE, BOB, EVE, body, credits, received, with_credit
from signedwire.delivery.inbox_budget import InboxBudget
from signedwire.delivery.peer_receiver import PeerReceiver
from signedwire.delivery.store import IncomingRow, Marks, RememberedLeaves
from signedwire.errors import ClosedError, StoreFailedError
from signedwire.home import Phase
from signedwire.identity import Identity
from signedwire.types import Credit, Priority, Reason
from signedwire.wire import link_frames as frames
from signedwire.wire.header import MAX_V2_HEADER_SIZE, MIN_V2_HEADER_SIZE, STREAMS, VOLATILE
from signedwire.wire.link_frames import Epochs, Refusal
from signedwire.wire.session import BatchFailed, BatchReceived

FAILURE = StoreFailedError("node.db", "no space", "nothing more is kept")
SMALL: dict[str, Any] = {
    "credit_messages": 10,
    "credit_bytes": 4000,
    "critical_reserve": 2,
    "max_payload_size": 1000,
}
SIZE = MIN_V2_HEADER_SIZE + 5
"""Bytes of one `hello`."""
CRITICAL_BYTES = 2 * 1024 + MAX_V2_HEADER_SIZE + 1000
WINDOW = credits(10, 4000, 2, CRITICAL_BYTES)
NOTHING = credits(0, 0, 0, 0)
NORMAL, CRITICAL = int(Priority.NORMAL), int(Priority.CRITICAL)


@pytest.fixture(autouse=True)
def clock() -> Iterator[ManualClock]:
    with still_clock() as still:
        yield still


def less(messages: int, size: int, stream: int = NORMAL) -> tuple[Credit, ...]:
    """The window, and what is in use of one stream."""
    left = WINDOW[stream].minus(Credit(messages, size))
    return with_credit(WINDOW, stream, *left)


def window_of(desk: Desk) -> tuple[Credit, ...]:
    """What a HELLO to Bob would grant now."""
    return desk.session().receiver.first_grant()


def batch_of(*numbers: int, epoch: int = 9, **options: Any) -> BatchReceived:
    """A batch of Bob's."""
    bodies = [body(n, sender=BOB, recipient=ALICE, epoch=epoch, **options) for n in numbers]
    return received(bodies, BOB)


def said(link: FakeLink) -> list[Any]:
    """What the peer was told, credit aside."""
    return [one for one in link.said if one[0] != "credit"]


class TestCredit:
    def test_of_one_that_has_sent_nothing(self) -> None:
        desk = Desk(**SMALL)
        assert window_of(desk) == WINDOW

    def test_without_a_reserve_critical_has_a_way_still(self) -> None:
        desk = Desk(**(SMALL | {"critical_reserve": 0}))
        credit = window_of(desk)
        for stream in (CRITICAL, CRITICAL + VOLATILE):
            assert credit[stream].messages == 1
            assert credit[stream].bytes >= MAX_V2_HEADER_SIZE + 1000

    def test_a_node_that_only_sends_grants_none(self) -> None:
        desk = Desk(**(SMALL | {"credit_messages": 0}))
        credit = window_of(desk)
        assert [one.messages for one in credit] == [0] * STREAMS

    @pytest.mark.parametrize(
        ("use", "left"),
        [
            pytest.param(lambda desk: None, NOTHING, id="a link has all"),
            pytest.param(lambda desk: desk.l.end(), WINDOW, id="it ends unused"),
            pytest.param(
                lambda desk: desk.l.bring(1, 2, 3),
                NOTHING,
                id="three wait, and the link has the rest",
            ),
            pytest.param(
                lambda desk: (desk.l.bring(1, 2, 3), desk.l.end()),
                less(3, 3 * SIZE),
                id="three wait after its end",
            ),
            pytest.param(
                lambda desk: (desk.l.bring(1, 2), desk.take(), desk.l.end()),
                WINDOW,
                id="they were taken",
            ),
            pytest.param(
                lambda desk: (desk.l.bring(1, priority=Priority.CRITICAL), desk.l.end()),
                less(1, SIZE, CRITICAL),
                id="one is critical",
            ),
        ],
    )
    def test_what_is_left(self, use: Callable[[Any], object], left: tuple[Credit, ...]) -> None:
        desk: Any = Desk(**SMALL)
        desk.l = desk.link()
        use(desk)
        assert window_of(desk) == left

    def test_links_that_overlap_add_up_to_one_window(self) -> None:
        desk = Desk(**SMALL)
        one = desk.begin()
        other = desk.begin()
        assert one.our_hello.credit == WINDOW
        assert other.our_hello.credit == NOTHING
        one.end()
        desk.host.run()
        other.say_hello()
        desk.host.run()
        assert other.all_unused == WINDOW

    def test_what_is_taken_is_granted_again_in_one_answer(self) -> None:
        desk = Desk(**SMALL)
        link = desk.link()
        desk.host.run()
        link.said.clear()
        link.bring(1, 2, 3)
        desk.take()
        assert link.heard("credit") == [], "not before the next turn of the loop"
        desk.host.run()
        assert link.heard("credit") == [{NORMAL: Credit(3, 3 * SIZE)}]
        assert link.all_unused == WINDOW

    def test_repeats_use_credit_until_they_are_committed(self) -> None:
        """A sender that reconnects while the disk is slow could exceed its window otherwise."""
        desk = Desk(store=FakeStore, **SMALL)
        link = desk.link()
        batch = link.bring(1, 2)
        desk.store.commit()
        desk.take()
        link.end()
        again = desk.link()
        again.bring_batch(batch)
        again.end()
        desk.host.run()
        receiver = desk.session().receiver
        assert receiver.first_grant() == less(2, 2 * SIZE)
        desk.store.commit()
        assert receiver.first_grant() == WINDOW

    def test_of_a_batch_only_what_is_no_news_is_held_apart(self) -> None:
        desk = Desk(store=FakeStore, **SMALL)
        link = desk.link()
        link.bring(1)
        desk.store.commit()
        desk.take()
        link.bring(1, 2)
        link.end()
        receiver = desk.session().receiver
        assert receiver.first_grant() == less(2, 2 * SIZE)
        desk.store.commit()
        assert receiver.first_grant() == less(1, SIZE), "the new one waits for the application"

    def test_a_node_that_closes_grants_nothing(self) -> None:
        desk = Desk(**SMALL)
        link = desk.link()
        link.bring(1)
        desk.host.is_open = False
        desk.take()
        desk.host.run()
        assert link.heard("credit") == [{}]

    def test_without_a_link_nothing_is_kept_to_be_told(self) -> None:
        desk = Desk(**SMALL)
        link = desk.link()
        link.bring(1)
        link.end()
        (message,) = desk.take()
        message.ack()
        answers = desk.session().receiver.answers
        desk.host.run()
        for half in (answers._durable_half, answers._volatile_half):
            assert (half._handled, half._refused, half._receipt_first) == ([], [], [])


class TestBudget:
    def test_what_is_granted_is_not_reserved(self) -> None:
        """Each stream of each peer is granted what is free, so more than the budget may come."""
        desk = Desk(inbox_bytes=4000, max_payload_size=1000, credit_bytes=2000)
        links = [desk.link(BOB), desk.link(EVE)]
        granted = [credit.bytes for link in links for credit in link.granted]
        assert sum(granted) > 4000
        assert max(granted) <= 4000
        for link in links:
            for stream in (0, 1, 2):  # three priorities of durable messages
                link.bring(1, 2, priority=stream, payload=bytes(800))
        used = desk.context.budget._used
        assert 4000 < used <= sum(granted)
        # At the limit, nobody is granted more.
        late = desk.link(Identity.generate())
        assert {credit.bytes for credit in late.granted} == {0}

    def budget(self, limit: int = 10_000) -> InboxBudget:
        return Desk(inbox_bytes=limit, max_payload_size=1000).context.budget

    def test_it_is_cut_and_freed(self) -> None:
        budget, flushed = self.budget(), []

        class User:
            def flush_soon(self) -> None:
                flushed.append(self)

        one, other = User(), User()
        assert budget.free_for(one, 6000) == 6000
        budget.add(8000)
        assert budget.free_for(one, 1500) == 1500, "it fits, so it was not cut"
        assert budget.free_for(one, 3000) == 2000
        assert budget.free_for(other, 2001) == 2000
        budget.add(4000)
        assert budget.free_for(other, 1) == 0, "never less than nothing"
        budget.add(-5000)
        assert flushed == [], "more than half is in use"
        budget.add(-1999)
        assert flushed == [], "one byte more than half"
        budget.add(-1)
        assert set(map(id, flushed)) == {id(one), id(other)}
        budget.add(-100)
        assert len(flushed) == 2, "each is told once"

    def test_who_is_forgotten_is_not_told(self) -> None:
        budget, flushed = self.budget(), []

        class User:
            def flush_soon(self) -> None:
                flushed.append(self)

        user = User()
        budget.add(9000)
        budget.free_for(user, 9000)
        budget.forget(user)
        budget.add(-9000)
        assert flushed == []

    def test_one_message_fits_into_the_least(self) -> None:
        desk = Desk(inbox_bytes=MAX_V2_HEADER_SIZE + 2000, max_payload_size=2000)
        assert {one.bytes for one in window_of(desk)} == {MAX_V2_HEADER_SIZE + 2000}

    def test_who_fills_it_leaves_others_nothing_until_half_is_taken(self) -> None:
        desk = Desk(**(SMALL | {"inbox_bytes": 4000}))
        link = desk.link()
        link.bring(*range(1, 4), payload=bytes(1000))
        other = desk.begin(EVE)
        free = 4000 - 3 * (1000 + MIN_V2_HEADER_SIZE)
        assert {one.bytes for one in other.our_hello.credit} == {free}
        other.say_hello()
        desk.host.run()
        granted = list(other.granted)
        message = desk.inbox.take()
        assert message is not None
        assert message.origin is not None
        message.origin.taken(message)
        desk.host.run()
        assert other.granted == granted, "more than half is in use still"
        desk.take()
        desk.host.run()
        assert other.peer_credit_left(NORMAL).bytes == 4000
        assert desk.context.budget._used == 0


class TestAfterTheCommit:
    def test_nothing_before_it(self) -> None:
        desk = Desk(store=FakeStore, **SMALL)
        link = desk.link()
        batch = link.bring(1, 2)
        desk.host.run()
        assert (desk.take(), said(link), link.settled) == ([], [], 0)
        desk.store.commit()
        assert payloads(desk.take()) == [b"hello"] * 2
        assert said(link) == [("receipts", [batch.root], [])]
        assert link.settled == 1
        assert link.notes == [(2, 0)]
        (call,) = desk.store.called("accept")
        assert call == (BOB.did, Marks(9, (0, 2, 0, 0)), [b"hello"] * 2, [])

    def test_critical_ones_are_signed_for_at_once(self) -> None:
        desk = Desk(**SMALL)
        link = desk.link()
        batch = link.bring(1, priority=Priority.CRITICAL)
        assert said(link) == [("urgent", [batch.root], [])]

    def test_in_the_order_of_the_commits(self) -> None:
        desk = Desk(store=FakeStore, **SMALL)
        link = desk.link()
        batches = [link.bring(n, payload=b"%d" % n) for n in (1, 2, 3)]
        desk.store.commit()
        assert payloads(desk.take()) == [b"1", b"2", b"3"]
        assert said(link) == [("receipts", [batch.root], []) for batch in batches]

    @pytest.mark.parametrize("when", ["later", "at once", "closed"])
    def test_it_fails(self, when: str) -> None:
        desk = Desk(store=FakeStore, **SMALL)
        link = desk.link()

        def fail() -> None:
            raise FAILURE if when == "at once" else ClosedError("the store is closed")

        if when != "later":
            desk.store.on_accept = fail
        link.bring(1, 2)
        desk.store.failure = FAILURE
        desk.store.commit(FAILURE)
        assert desk.take() == []
        assert said(link) == [], "no receipt, so the batch comes again"
        assert link.code == frames.CLOSE_UNAVAILABLE
        desk.host.run()
        assert window_of(desk) == WINDOW
        assert desk.context.budget._used == 0

    def test_it_fails_after_the_end_of_its_link(self) -> None:
        desk = Desk(store=FakeStore, **SMALL)
        link = desk.link()
        link.bring(1, 2)
        link.end()
        desk.host.run()
        desk.store.commit(FAILURE)
        desk.host.run()
        assert window_of(desk) == WINDOW
        assert desk.context.budget._used == 0

    def test_its_link_ends_first(self) -> None:
        desk = Desk(store=FakeStore, **SMALL)
        link = desk.link()
        batch = link.bring(1)
        link.end()
        desk.store.commit()
        assert payloads(desk.take()) == [b"hello"], "accepted is accepted"
        again = desk.link()
        again.bring_batch(batch)
        desk.store.commit()
        assert said(again) == [("receipts", [batch.root], [])]
        assert desk.take() == []

    def test_no_room_for_some(self) -> None:
        desk = Desk(store=FakeStore, **SMALL)
        link = desk.link()
        desk.store.room = 1
        batch = link.bring(1, 2, 3)
        desk.store.commit()
        desk.host.run()
        assert payloads(desk.take()) == [b"hello"]
        # The root would cover what was refused.
        refusals = [Refusal(leaf, Reason.INBOX_FULL) for leaf in batch.leaves[1:]]
        assert ("receipts", [], [batch.leaves[0]]) in said(link)
        assert link.heard("refused") == [refusals]
        assert desk.host.drops[Reason.INBOX_FULL, BOB.did] == 2
        assert desk.store.called("accept")[0][-1] == [1, 2]
        desk.host.run()
        assert link.all_unused == WINDOW

    def test_for_what_was_refused_there_is_never_a_receipt(self) -> None:
        desk = Desk(store=FakeStore, **SMALL)
        link = desk.link()
        desk.store.room = 1
        batch = link.bring(1, 2)
        desk.store.commit()
        desk.store.room = 100
        desk.host.run()
        link.said.clear()
        link.bring_batch(batch)
        desk.store.commit()
        desk.host.run()
        assert said(link) == [
            ("receipts", [], [batch.leaves[0]]),
            ("refused", [Refusal(batch.leaves[1], Reason.INBOX_FULL)]),
        ]
        assert len(desk.take()) == 1

    def test_a_message_twice_in_a_batch_that_has_no_room(self) -> None:
        desk = Desk(store=FakeStore, **SMALL)
        link = desk.link()
        desk.store.room = 0
        one = body(1, sender=BOB, recipient=ALICE, epoch=9)
        link.bring_batch(received([one, one], BOB))
        desk.store.commit()
        desk.host.run()
        assert [kind for kind, *_ in said(link)] == ["refused"]
        assert desk.store.called("accept")[0][-1] == [0, 1]

    def test_what_came_too_late_is_told_apart_for_the_store(self, clock: ManualClock) -> None:
        desk = Desk(store=FakeStore, **SMALL)
        link = desk.link()
        late = body(1, sender=BOB, recipient=ALICE, epoch=9, expires_at_us=clock.wall_us)
        stray = body(2, sender=BOB, recipient=ALICE, epoch=8)
        good = body(3, sender=BOB, recipient=ALICE, epoch=9)
        desk.store.room = 0
        batch = link.bring_batch(received([late, stray, good], BOB))
        desk.store.commit()
        desk.host.run()
        assert said(link) == [
            (
                "refused",
                [
                    Refusal(batch.leaves[0], Reason.EXPIRED),
                    Refusal(batch.leaves[1], Reason.MALFORMED),
                    Refusal(batch.leaves[2], Reason.INBOX_FULL),
                ],
            )
        ]
        assert desk.take() == []

    def test_of_several_lanes(self) -> None:
        desk = Desk(**SMALL)
        link = desk.link()
        for lane in (Priority.HIGH, Priority.LOW, Priority.NORMAL):
            link.bring(1, payload=b"%d" % lane, priority=lane)
        assert payloads(desk.take()) == [b"2", b"1", b"0"]
        assert desk.host.counters.messages_received == 3

    @pytest.mark.parametrize(
        "why", ["denied", "store failed", "log failed"], ids=lambda why: why.replace(" ", "-")
    )
    def test_who_is_not_heard(self, why: str) -> None:
        desk = Desk(store=FakeStore, **SMALL)
        link = desk.link()
        code = frames.CLOSE_UNAVAILABLE
        if why == "denied":
            desk.access.on_change = None  # the loop has not come to it
            desk.access.deny(BOB.did)
            code = frames.CLOSE_DENIED
        elif why == "store failed":
            desk.store.failure = FAILURE
        else:
            desk.context.evidence = FakeLog(failure=FAILURE)  # type: ignore[assignment]
        link.bring(1)
        assert link.code == code
        assert desk.store.called("accept") == []
        assert said(link) == []

    def test_who_is_denied_while_its_batch_is_committed(self) -> None:
        desk = Desk(store=FakeStore, **SMALL)
        link = desk.link()
        link.bring(1)
        desk.access.deny(BOB.did)
        desk.store.commit()
        desk.host.run()
        assert desk.take() == []
        assert desk.host.drops[Reason.DENIED, BOB.did] == 1
        assert desk.store.called("acked") == [([b"hello"],)]

    def test_a_batch_that_nobody_signed(self) -> None:
        desk = Desk(**SMALL)
        batch = batch_of(1, 2)
        refusals = desk.session().receiver.failed(BatchFailed(batch.bodies))
        assert refusals == [Refusal(leaf, Reason.BAD_SIGNATURE) for leaf in batch.leaves]
        assert desk.host.drops[Reason.BAD_SIGNATURE, BOB.did] == 2


class FakeLog:
    """An evidence log that is written when a test says so."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.waiting: list[Callable[[], None]] = []

    def after(self, messages: list[Any], on_commit: Any) -> Any:
        return lambda error: self.waiting.append(lambda: on_commit(error))

    def restored(self, message: Any, on_commit: Any) -> None:
        self.waiting.append(lambda: on_commit(self.failure))

    def write(self) -> None:
        waiting, self.waiting = self.waiting, []
        for write in waiting:
            write()


class TestEvidence:
    def test_nothing_before_the_log_has_it(self) -> None:
        desk = Desk(store=FakeStore, **SMALL)
        log = FakeLog()
        desk.context.evidence = log  # type: ignore[assignment]
        link = desk.link()
        batch = link.bring(1)
        desk.store.commit()
        assert (desk.take(), said(link)) == ([], [])
        log.write()
        assert len(desk.take()) == 1
        assert said(link) == [("receipts", [batch.root], [])]

    @pytest.mark.parametrize(
        "log", [None, FakeLog(), FakeLog(FAILURE)], ids=["no log", "log", "log failed"]
    )
    def test_a_message_of_an_earlier_process(self, log: FakeLog | None) -> None:
        desk = Desk(store=FakeStore, **SMALL)
        desk.context.evidence = log  # type: ignore[assignment]
        batch = batch_of(1)
        row = IncomingRow(7, BOB.did, batch.bodies[0], 0, batch.leaves, batch.signature)
        assert desk.endpoint.restore([row]) == []
        if log is not None:
            assert desk.take() == []
            log.write()
        messages = desk.take()
        if log is not None and log.failure is not None:
            assert messages == []
            return
        (message,) = messages
        assert (message.row, message.redelivered) == (7, True)
        message.ack()
        desk.host.run()
        assert desk.store.called("acked") == [([b"hello"],)]

    def test_one_of_a_sender_that_is_denied_now(self) -> None:
        desk = Desk(store=FakeStore, **SMALL)
        desk.access.deny(BOB.did)
        batch = batch_of(1, 2)
        rows = [
            IncomingRow(n, BOB.did, batch.bodies[n], n, batch.leaves, batch.signature)
            for n in (0, 1)
        ]
        assert desk.endpoint.restore(rows) == [0, 1]
        assert desk.host.drops[Reason.DENIED, BOB.did] == 2
        assert desk.take() == []


class TestAnswers:
    def arrived(self, desk: Desk, count: int = 3) -> tuple[FakeLink, BatchReceived, list[Any]]:
        link = desk.link()
        batch = link.bring(*range(1, count + 1))
        messages = desk.take()
        desk.host.run()
        link.said.clear()
        return link, batch, messages

    def test_behind_their_receipt(self) -> None:
        desk = Desk(**SMALL)
        link, batch, (one, other, third) = self.arrived(desk)
        one.ack()
        other.nack(detail="not today")
        third.ack()
        other.ack()  # the first answer counts
        assert said(link) == []
        desk.host.run()
        assert said(link) == [
            # The receipt once more: nobody hears a refusal without it.
            ("receipts", [], [batch.leaves[1]]),
            ("handled", [batch.leaves[0], batch.leaves[2]]),
            ("refused", [Refusal(batch.leaves[1], Reason.REFUSED, "not today")]),
        ]

    def test_again_after_a_cut(self) -> None:
        desk = Desk(**SMALL)
        link, _, (one, other, _) = self.arrived(desk)
        one.ack()
        other.nack(Reason.NOT_ALLOWED, "not here")
        desk.host.run()
        first = said(link)
        link.end()
        again = desk.link()
        desk.host.run()
        assert said(again) == first
        desk.host.run()
        assert len(said(again)) == 3, "once for each link"

    def test_answered_while_there_is_no_link(self) -> None:
        desk = Desk(**SMALL)
        link, batch, (one, *_) = self.arrived(desk)
        link.end()
        one.ack()
        desk.host.run()
        assert link.said == [], "it is over"
        again = desk.link()
        desk.host.run()
        assert said(again) == [("handled", [batch.leaves[0]])]

    def test_they_go_over_the_newer_of_two_links(self) -> None:
        desk = Desk(**SMALL)
        link, batch, (one, *_) = self.arrived(desk)
        again = desk.link()
        assert link.is_over
        one.ack()
        desk.host.run()
        assert said(again) == [("handled", [batch.leaves[0]])]
        assert said(link) == []

    def test_with_a_repeat_the_answers_follow_its_receipt(self) -> None:
        desk = Desk(store=FakeStore, **SMALL)
        link = desk.link()
        batch = link.bring(1, 2)
        desk.store.commit()
        one, other = desk.take()
        one.ack()
        other.nack()
        desk.host.run()
        desk.store.commit()
        desk.host.run()
        link.said.clear()
        link.bring_batch(batch)
        desk.host.run()
        assert said(link) == []
        desk.store.commit()
        desk.host.run()
        assert said(link) == [
            ("receipts", [batch.root], []),
            ("handled", [batch.leaves[0]]),
            ("refused", [Refusal(batch.leaves[1], Reason.REFUSED)]),
        ]
        assert desk.host.drops[Reason.DUPLICATE, BOB.did] == 2
        assert link.notes[-1] == (0, 2)

    def test_after_the_commit_in_one_store_operation(self) -> None:
        desk = Desk(store=FakeStore, **SMALL)
        link = desk.link()
        batch = link.bring(1, 2, 3)
        desk.store.commit()
        for message in desk.take():
            message.ack()
        assert desk.store.called("acked") == []
        desk.host.run()
        assert desk.store.called("acked") == [([b"hello"] * 3,)]
        assert link.heard("handled") == []
        desk.store.commit()
        desk.host.run()
        assert link.heard("handled") == [batch.leaves]

    def test_a_commit_that_fails_tells_nothing(self) -> None:
        desk = Desk(store=FakeStore, **SMALL)
        link = desk.link()
        link.bring(1)
        desk.store.commit()
        (message,) = desk.take()
        message.ack()
        desk.host.run()
        desk.store.commit(FAILURE)
        desk.host.run()
        assert link.heard("handled") == []

    def test_of_an_epoch_that_has_ended(self) -> None:
        desk = Desk(**SMALL)
        link, _, (one, other, third) = self.arrived(desk)
        one.ack()
        other.nack()
        link.end()
        again = desk.link(epochs=epochs(10))
        third.ack()
        desk.host.run()
        assert said(again) == []

    def test_by_another_thread(self) -> None:
        desk = Desk(**SMALL)
        link, batch, (one, *_) = self.arrived(desk)
        desk.host.is_in_loop = False
        one.ack()
        desk.host.is_in_loop = True
        assert desk.session().receiver.answers._durable_half._handled == []
        desk.host.run()
        assert said(link) == [("handled", [batch.leaves[0]])]

    def test_after_the_node_has_ended(self) -> None:
        desk = Desk(**SMALL)
        _, _, (one, *_) = self.arrived(desk)
        desk.host.home.phase = Phase.ENDED
        for _ in range(2):
            with pytest.raises(ClosedError, match="answered too late"):
                one.ack()

    def test_by_another_thread_after_the_goodbye(self, caplog: pytest.LogCaptureFixture) -> None:
        desk = Desk(**SMALL)
        link, _, (one, *_) = self.arrived(desk)
        desk.host.is_in_loop = False
        one.ack()
        desk.endpoint.close_links()
        with caplog.at_level(logging.WARNING):
            desk.host.run()
        assert "answered too late" in caplog.text
        assert said(link) == []

    def test_the_goodbye_tells_what_was_answered_last(self) -> None:
        desk = Desk(**SMALL)
        link, batch, (one, *_) = self.arrived(desk)
        one.ack()
        desk.endpoint.close_links()
        assert said(link) == [("handled", [batch.leaves[0]])]
        assert link.code == frames.CLOSE_DONE

    def test_they_are_forgotten_beyond_a_limit(self) -> None:
        desk = Desk(**(SMALL | {"credit_messages": 1, "critical_reserve": 0}))
        receiver = desk.session().receiver
        limit = 3 * 1 + 1 + 1024
        remembered = receiver.answers._durable_half._remembered
        for number in range(limit + 5):
            remembered.put(b"%032d" % number, None)
        assert len(remembered) == limit
        assert receiver.weight == 4096 + 130 * limit


class TestAnEarlierProcess:
    def desk(self) -> tuple[Desk, BatchReceived]:
        desk = Desk(store=FakeStore, **SMALL)
        desk.store.known_marks[BOB.did] = Marks(9, (0, 2, 0, 0))
        desk.store.has_leaves = True
        return desk, batch_of(1, 2, 3)

    def test_what_comes_first_waits_for_what_it_remembered(self) -> None:
        desk, batch = self.desk()
        link = desk.link()
        assert link.our_hello.known_epochs == Epochs(9, 0)
        assert link.our_hello.marks == marks(0, 2, 0, 0)
        link.bring_batch(batch)
        assert desk.store.called("accept") == []
        assert window_of(desk) == NOTHING
        known = RememberedLeaves(([], batch.leaves[:1], [], []), [], [batch.leaves[1]])
        desk.store.loads[0](known)
        desk.store.commit()
        desk.host.run()
        assert payloads(desk.take()) == [b"hello"]
        assert ("receipts", [], [batch.leaves[0], batch.leaves[2]]) in said(link)
        assert link.heard("refused") == [[Refusal(batch.leaves[1], Reason.INBOX_FULL)]]
        desk.host.run()
        assert link.all_unused == WINDOW

    def test_its_link_has_ended_meanwhile(self) -> None:
        desk, batch = self.desk()
        link = desk.link()
        link.bring_batch(batch)
        link.end()
        desk.store.loads[0](None)
        desk.host.run()
        assert desk.store.called("accept") == []
        assert window_of(desk) == WINDOW

    @pytest.mark.parametrize("why", ["the store has failed", "its sender has begun anew"])
    def test_what_is_loaded_is_of_no_use(self, why: str) -> None:
        desk, batch = self.desk()
        has_failed = why == "the store has failed"
        link = desk.link(epochs=epochs(9 if has_failed else 10))
        epoch = link.their_epochs.durable
        again = link.bring_batch(batch_of(1, epoch=epoch))
        known = RememberedLeaves(([], batch.leaves, [], []), [], [])
        desk.store.loads[0](None if has_failed else known)
        desk.store.commit()
        desk.host.run()
        if has_failed:
            # At or below the mark, and its leaf is not known: never a receipt.
            assert link.heard("refused") == [[Refusal(again.leaves[0], Reason.DUPLICATE)]]
        else:
            assert len(desk.take()) == 1
            assert desk.store.called("began")[-1] == (BOB.did, Marks(10, (0, 0, 0, 0)))

    def test_a_store_that_remembers_no_leaves(self) -> None:
        desk, _ = self.desk()
        desk.store.has_leaves = False
        link = desk.link()
        link.bring(3)
        desk.store.commit()
        assert len(desk.take()) == 1

    def test_it_is_worth_keeping(self) -> None:
        desk, _ = self.desk()
        receiver: PeerReceiver = desk.session().receiver
        assert receiver.is_forgettable
        assert not receiver.is_empty
