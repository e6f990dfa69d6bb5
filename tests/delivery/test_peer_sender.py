"""`PeerSender`: deadlines by two clocks, answers, room, and how its messages end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from peerkit import Desk, FakeRoute, FakeStore, ManualClock, closed, numbers, still_clock

from idkit import number_of
from linkkit import BOB, PLENTY, with_credit
from signedwire.clock import WallInstant
from signedwire.delivery import peer_sender
from signedwire.delivery.advice import HALF_SENT, UNANSWERED, late_by_the_peer
from signedwire.errors import (
    BackpressureError,
    Cause,
    FailureKind,
    MessageExpiredError,
    MessageRefusedError,
)
from signedwire.events import MessageRefused
from signedwire.types import DeliveryState, Priority, Reason
from signedwire.wire import link_frames as frames
from signedwire.wire.clock_offset import ClockOffset

QUEUED, PERSISTED, WRITTEN, ACCEPTED, HANDLED, REFUSED, FAILED, EXPIRED = DeliveryState


@pytest.fixture(autouse=True)
def clock() -> Iterator[ManualClock]:
    with still_clock() as still:
        yield still


@pytest.fixture
def desk(clock: ManualClock) -> Desk:
    desk = Desk()
    desk.route()
    return desk


def due(kind: str, clock: ManualClock, seconds: float = 10.0) -> float:
    """A deadline: so many seconds, or the date that they end at."""
    if kind == "date":
        return WallInstant(clock.wall_us / 1e6 + seconds)
    return clock.seconds + seconds


class TestDeadlines:
    @pytest.mark.parametrize("kind", ["seconds", "date"])
    @pytest.mark.parametrize(
        ("place", "detail", "is_released"),
        [
            pytest.param("queue", "", True, id="in the queue"),
            pytest.param("flight", UNANSWERED, False, id="in flight"),
            pytest.param("socket", UNANSWERED, False, id="a link has it, the system not yet"),
            pytest.param("again", UNANSWERED, True, id="in the queue again"),
        ],
    )
    def test_it_passes(
        self,
        desk: Desk,
        clock: ManualClock,
        kind: str,
        place: str,
        detail: str,
        is_released: bool,
    ) -> None:
        link = None if place == "queue" else desk.link()
        if link is not None:
            link.is_slow = place == "socket"
        message = desk.post(expires_at=due(kind, clock))
        if place == "again":
            assert link is not None
            link.end(closed(frames.CLOSE_DONE))
        desk.host.wait(9.9)
        assert not message.is_final
        desk.host.wait(0.2)
        assert (message.state, message.reason, message.detail) == (
            EXPIRED,
            Reason.EXPIRED,
            detail,
        )
        assert (message.body == b"") == is_released
        assert desk.host.drops[Reason.EXPIRED, BOB.did] == 1
        assert not desk.host.timers

    @pytest.mark.parametrize("step", [-3600.0, 3600.0], ids=["set back", "set forward"])
    @pytest.mark.parametrize("kind", ["seconds", "date"])
    def test_the_clock_is_set(self, desk: Desk, clock: ManualClock, kind: str, step: float) -> None:
        """Seconds pass whatever it shows; a date follows it."""
        message = desk.post(expires_at=due(kind, clock))
        clock.step(step)
        desk.endpoint.on_clock_step()
        assert len(desk.host.timers) == 1, "in the place of the one before"
        desk.host.wait(0.0)
        assert message.is_final == (kind == "date" and step > 0)
        desk.host.wait(10.1)
        assert message.is_final == (kind == "seconds" or step > 0)
        desk.host.wait(3600)
        assert message.is_final

    def test_the_machine_was_suspended(self, desk: Desk, clock: ManualClock) -> None:
        """The loop's clock stood still, and the others did not."""
        message = desk.post(expires_at=due("seconds", clock))
        clock.move(60)
        desk.host.run()
        assert not message.is_final
        desk.endpoint.on_clock_step()
        desk.host.wait(0.0)
        assert message.state is EXPIRED

    @pytest.mark.parametrize("kind", ["seconds", "date"])
    def test_the_loop_is_ahead(self, desk: Desk, clock: ManualClock, kind: str) -> None:
        message = desk.post(expires_at=due(kind, clock))
        desk.host.wait(10.5, by_clock=9.0)
        assert message.state is QUEUED
        assert len(desk.host.timers) == 1
        desk.host.wait(1.0)
        assert message.state is EXPIRED

    def test_one_look_ends_all_that_are_due(self, desk: Desk, clock: ManualClock) -> None:
        at = due("seconds", clock)
        late = [desk.post(expires_at=at) for _ in range(3)]
        later = desk.post(expires_at=at + 5)
        never = desk.post()
        first = desk.host.timers[0]
        clock.move(10)
        first.call()
        assert [message.state for message in late] == [EXPIRED] * 3
        assert [later.state, never.state] == [QUEUED, QUEUED]
        assert len(desk.host.timers) == 2, "the first itself, and that of the later one"

    @pytest.mark.parametrize("answer", ["accepted", "handled", "refused", "refused as late"])
    def test_an_answer_comes_first(self, desk: Desk, clock: ManualClock, answer: str) -> None:
        link = desk.link()
        message = desk.post(expires_at=due("seconds", clock))
        if answer == "accepted":
            link.accept()
        elif answer == "handled":
            link.handle()
        else:
            link.refuse(message, Reason.EXPIRED if "late" in answer else Reason.INBOX_FULL)
        assert not desk.host.timers
        state = message.state
        desk.host.wait(20)
        assert message.state is state

    @pytest.mark.parametrize("answer", ["accepted", "refused", "the link ends"])
    def test_an_answer_comes_after(self, desk: Desk, clock: ManualClock, answer: str) -> None:
        """It is told once, and its bytes go when nothing more can come."""
        link = desk.link()
        message = desk.post(expires_at=due("seconds", clock))
        desk.host.wait(11)
        assert message.state is EXPIRED
        assert message.body
        if answer == "accepted":
            assert link.accept()
            assert message.proof()
        elif answer == "refused":
            assert link.refuse(message)
        else:
            link.end()
            assert message.body == b""
        assert (message.state, message.reason) == (EXPIRED, Reason.EXPIRED)
        assert desk.host.counters.send_failures == 1
        assert not desk.host.events[2:], "no second word of it"

    @pytest.mark.parametrize(
        ("ahead", "detail"),
        [
            pytest.param(0.0, late_by_the_peer(0.0, None), id="not yet by ours"),
            pytest.param(11.0, "", id="yes"),
        ],
    )
    def test_a_peer_says_it_is_late(
        self, desk: Desk, clock: ManualClock, ahead: float, detail: str
    ) -> None:
        link = desk.link()
        message = desk.post(expires_at=due("seconds", clock))
        clock.move(ahead)
        assert link.refuse(message, Reason.EXPIRED)
        assert (message.state, message.detail) == (EXPIRED, detail)

    @pytest.mark.parametrize(
        ("offset", "words"),
        [
            (None, "the peer's clock may be ahead of ours"),
            (ClockOffset(7200.0, 0.0004), "the peer's clock is 7200.00 s ahead (± 0.4 ms) of ours"),
            (ClockOffset(0.001, 0.004), "the peer's clock may be ahead of ours"),
            (ClockOffset(-5.0, 0.004), "the peer's clock may be ahead of ours"),
        ],
    )
    def test_a_peer_whose_clock_is_known_says_it_is_late(
        self, desk: Desk, clock: ManualClock, offset: ClockOffset | None, words: str
    ) -> None:
        link = desk.link()
        link.clock_offset = offset
        message = desk.post(expires_at=due("seconds", clock))
        clock.move(3.0)
        assert link.refuse(message, Reason.EXPIRED, at_us=clock.wall_us + 7_200_000_000)
        assert message.detail == (
            "the peer refused it as 7193.00 s late, but by our clock its deadline had not passed: "
            f"{words}"
        )

    def test_it_is_looked_at_before_writing(self, desk: Desk, clock: ManualClock) -> None:
        late = desk.post(expires_at=due("seconds", clock))
        good = desk.post()
        clock.move(11)  # and no timer has fired
        link = desk.link()
        desk.host.run()
        assert late.state is EXPIRED
        assert link.messages == [good]

    def test_of_a_stored_message_the_store_sees_to_it(self, clock: ManualClock) -> None:
        desk = Desk(store=FakeStore)
        desk.route()
        desk.post(expires_at=due("seconds", clock))
        assert not desk.host.timers

    def test_a_stored_one_that_is_too_late_to_be_written(self, clock: ManualClock) -> None:
        desk = Desk(store=FakeStore)
        desk.route()
        message = desk.post(expires_at=due("seconds", clock))
        clock.move(11)
        desk.link()
        desk.host.run()
        assert message.state is EXPIRED
        assert desk.store.called("ended") == [(number_of(message.message_id), Reason.EXPIRED, "")]

    def test_over_v1_and_queued_again(self, desk: Desk, clock: ManualClock) -> None:
        """The deadline holds again, and `written` over v2 is no confirmation."""
        message = desk.post(expires_at=due("seconds", clock))
        (taken,) = desk.session().sender.lanes.remove_if(lambda _: True)
        desk.session().sender.forget_deadlines((taken,))
        taken.is_unconfirmed = True
        taken.advance(WRITTEN)
        assert taken.has_reached("accepted")
        desk.endpoint.requeue(desk.session(), [taken])
        assert not taken.has_reached("accepted")
        taken.advance(WRITTEN)
        assert not taken.has_reached("accepted")
        desk.host.wait(11)
        assert message.state is EXPIRED

    def test_over_v1_nothing_more_is_heard(self, desk: Desk, clock: ManualClock) -> None:
        message = desk.post(expires_at=due("seconds", clock))
        (taken,) = desk.session().sender.lanes.remove_if(lambda _: True)
        taken.is_unconfirmed = True
        taken.advance(WRITTEN)
        desk.host.wait(11)
        assert message.state is WRITTEN

    def test_a_deadline_is_watched_once(self, desk: Desk, clock: ManualClock) -> None:
        message = desk.post(expires_at=due("seconds", clock))
        desk.session().sender.watch_deadline(message)
        assert len(desk.host.timers) == 1


class TestAborts:
    @pytest.mark.parametrize("has_fired", [False, True])
    def test_its_messages_end_as_expired(
        self, desk: Desk, clock: ManualClock, has_fired: bool
    ) -> None:
        link = desk.link()
        link.is_slow = True
        message = desk.post(expires_at=due("seconds", clock))
        later = desk.post()
        sender = desk.session().sender
        if has_fired:
            desk.host.wait(11)
        else:
            clock.move(11)
        assert sender.is_dead(message)
        sender.aborted(link.batches[0][0].root)
        assert sender.streams.in_flight == 1
        desk.host.run()
        assert (message.state, message.reason) == (EXPIRED, Reason.EXPIRED)
        assert message.detail == HALF_SENT
        assert message.body == b""
        assert sender.dropped == {Reason.EXPIRED: 1}
        assert not desk.host.timers
        link.accept()
        assert later.state is ACCEPTED

    def test_its_deadline_aborts_it(self, desk: Desk, clock: ManualClock) -> None:
        """So the error says at once that the peer does not have it."""
        link = desk.link()
        link.is_slow = link.is_half_way = True
        at = due("seconds", clock)
        messages = [desk.post(expires_at=at) for _ in range(3)]
        desk.host.wait(11)
        assert [message.detail for message in messages] == [HALF_SENT] * 3
        assert desk.session().sender.dropped == {Reason.EXPIRED: 3}
        assert desk.session().sender.streams.is_empty
        with pytest.raises(MessageExpiredError) as caught:
            messages[0].raise_if_failed()
        name = f"message {messages[0].message_id[:8]} to {BOB.did}"
        assert caught.value.fact == (
            f"{name} expired before it could be written (its sending was stopped half-way, so "
            "the peer does not have it); it will not be sent"
        )

    def test_an_earlier_link_may_have_written_it_whole(
        self, desk: Desk, clock: ManualClock
    ) -> None:
        link = desk.link()
        link.is_slow = True
        message = desk.post(expires_at=due("seconds", clock))
        link.end(closed(frames.CLOSE_DONE))
        second = desk.begin(BOB)
        second.is_slow = second.is_half_way = True
        second.say_hello()
        assert [message] in [messages for _, messages, _ in second.batches]
        desk.host.wait(11)
        desk.host.run()
        assert (message.state, message.detail, message.body) == (EXPIRED, UNANSWERED, b"")
        assert desk.session().sender.streams.is_empty

    def test_it_ends_in_another_way_before_its_turn(self, desk: Desk, clock: ManualClock) -> None:
        link = desk.link()
        message = desk.post(expires_at=due("seconds", clock))
        clock.move(11)
        sender = desk.session().sender
        sender.aborted(link.batches[0][0].root)
        sender.give_up_many([message], Reason.CLOSED, are_in_flight=True)
        assert message.body
        desk.host.run()
        assert (message.reason, message.body) == (Reason.CLOSED, b"")


class TestAnswers:
    def test_the_ladder(self, desk: Desk) -> None:
        link = desk.link()
        message = desk.post()
        assert message.state is WRITTEN
        assert not link.sign(frames.ACCEPTED_BATCHES, bytes(32)), "nothing waits for that"
        assert desk.connector.looks == 1
        assert link.accept()
        assert message.state is ACCEPTED
        assert link.handle()
        assert message.state is HANDLED
        assert desk.session().status().in_flight == 0

    def test_of_a_batch_one_by_one(self, desk: Desk) -> None:
        first = [desk.post(payload=b"%d" % n) for n in range(3)]
        link = desk.link()
        assert len(link.batches) == 1
        link.accept(names=[1])
        link.refuse(first[2])
        assert [message.state for message in first] == [WRITTEN, ACCEPTED, REFUSED]
        assert desk.session().status().in_flight == 1
        link.end()
        again = desk.link()
        assert again.messages == [first[0]]
        assert again.accept()

    def test_what_is_expected(self, desk: Desk) -> None:
        session = desk.session()
        link = desk.link()
        desk.post()
        root = link.batches[0][0].root
        expected = frames.Receipts(frames.ACCEPTED_BATCHES, 1, (root,))
        assert session.is_expected(expected)
        link.accept()
        assert not session.is_expected(expected)

    @pytest.mark.parametrize("is_accepted", [False, True], ids=["in flight", "accepted before"])
    def test_a_refusal(self, desk: Desk, is_accepted: bool) -> None:
        link = desk.link()
        message = desk.post()
        if is_accepted:
            link.accept()
        assert link.refuse(message, Reason.REFUSED)
        assert (message.state, message.reason) == (REFUSED, Reason.REFUSED)
        assert message.body, "its proof needs them"
        assert desk.host.events[-1] == MessageRefused(BOB.did, message.message_id, Reason.REFUSED)
        assert desk.session().status().dropped == {Reason.REFUSED: 1}
        assert not link.refuse(message), "it has ended"

    @pytest.mark.parametrize("is_accepted", [False, True], ids=["in flight", "accepted before"])
    def test_the_words_of_a_refusal(self, desk: Desk, is_accepted: bool) -> None:
        link = desk.link()
        message = desk.post()
        if is_accepted:
            link.accept()
        assert link.refuse_many([message], Reason.RATE, "ask again at 9")
        assert (message.reason, message.detail) == (Reason.RATE, "ask again at 9")
        with pytest.raises(MessageRefusedError, match=r": rate \(ask again at 9\)$"):
            message.raise_if_failed()

    def test_the_store_hears_of_everything(self) -> None:
        desk = Desk(store=FakeStore)
        desk.route()
        link = desk.link()
        one, other = desk.post(), desk.post()
        link.accept(0)
        link.refuse(other)
        assert desk.store.called("written") == [
            (BOB.did, numbers([one])),
            (BOB.did, numbers([other])),
        ]
        assert desk.store.called("settled") == [(BOB.did, numbers([one]))]
        assert desk.store.called("refused") == [
            (BOB.did, [(other.message_id, False)], Reason.INBOX_FULL, "")
        ]


class TestWriting:
    def test_no_more_than_the_peer_takes(self, desk: Desk) -> None:
        messages = [desk.post() for _ in range(5)]
        link = desk.link(credit=with_credit(PLENTY, Priority.NORMAL, 3, 1 << 20))
        desk.host.run()
        assert link.messages == messages[:3]

    def test_higher_lanes_first(self, desk: Desk) -> None:
        order = [Priority.LOW, Priority.CRITICAL, Priority.NORMAL, Priority.HIGH]
        messages = {priority: desk.post(priority=priority) for priority in order}
        link = desk.link()
        desk.host.run()
        assert link.messages == [messages[priority] for priority in sorted(order, reverse=True)]

    def test_too_large_for_the_peer(self, desk: Desk) -> None:
        large, small = desk.post(payload=bytes(200)), desk.post(payload=bytes(100))
        link = desk.link(max_payload_size=150)
        desk.host.run()
        assert (large.state, large.reason) == (FAILED, Reason.TOO_LARGE)
        assert "over the peer's limit of 150" in large.detail
        assert link.messages == [small]

    def test_while_deadlines_are_moved_on_the_disk(self) -> None:
        desk = Desk(store=FakeStore)
        desk.route()
        link = desk.link()
        desk.store.is_held_now = True
        message = desk.post()
        assert link.messages == []
        desk.store.is_held_now = False
        link.pump()
        assert link.messages == [message]

    @pytest.mark.parametrize("limit", ["_MAX_IN_FLIGHT", "_MAX_IN_FLIGHT_BYTES"])
    def test_so_much_may_be_in_flight(
        self, desk: Desk, limit: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(peer_sender, limit, 2 if limit == "_MAX_IN_FLIGHT" else 254)
        link = desk.link()
        messages = [desk.post() for _ in range(3)]
        assert link.messages == messages[:2]
        link.accept(0)
        link.pump()
        assert link.messages == messages

    def test_the_same_numbers_again(self, desk: Desk) -> None:
        link = desk.link()
        bodies = [desk.post(payload=b"%d" % n).body for n in range(3)]
        link.end(closed(frames.CLOSE_DONE))
        newer = desk.post()
        again = desk.link()
        desk.host.run()
        assert [message.body for message in again.messages] == [*bodies, newer.body]
        assert [message.sequence for message in again.messages] == [1, 2, 3, 4]


class TestEnds:
    def test_once(self, desk: Desk) -> None:
        message = desk.post()
        sender = desk.session().sender
        sender.give_up(message, Reason.CLOSED)
        sender.give_up(message, Reason.EXPIRED)
        assert (message.state, message.reason) == (FAILED, Reason.CLOSED)
        assert desk.host.counters.send_failures == 1
        link = desk.link()
        assert link.messages == [], "what has ended is not written"
        desk.host.run()
        assert (message.state, message.reason) == (FAILED, Reason.CLOSED)
        assert desk.host.counters.send_failures == 1

    def test_the_last_error_of_its_route_is_told(self, desk: Desk) -> None:
        message = desk.post()
        route = desk.session().sender.dialer
        assert isinstance(route, FakeRoute)
        route.history.last_error = Cause("connection refused", FailureKind.REFUSED)
        desk.session().sender.give_up(message, Reason.ATTEMPTS_EXHAUSTED)
        assert message.detail == "connection refused"
        assert message.detail_kind is FailureKind.REFUSED

    def test_a_stored_one_is_kept_when_the_node_closes(self) -> None:
        desk = Desk(store=FakeStore)
        desk.route()
        message = desk.post()
        desk.session().sender.give_up(message, Reason.CLOSED)
        assert message.is_detached
        assert message.state is PERSISTED
        desk.session().sender.give_up(message, Reason.DENIED, "why")
        assert desk.store.called("ended") == [(number_of(message.message_id), Reason.DENIED, "why")]

    def test_back_from_an_ended_link(self, desk: Desk) -> None:
        """One has ended meanwhile, and one is accepted by a v1 host that says no more."""
        sender = desk.session().sender
        ended, plain = desk.post(), desk.post()
        taken = sender.lanes.remove_if(lambda _: True)
        ended.advance(EXPIRED)
        sender.requeue(taken, cause=Cause("cut"))
        assert list(sender.lanes) == [plain]
        assert ended.body == b""
        assert plain.failures_before == -1

    def test_what_was_accepted_already_keeps_its_state(self, desk: Desk) -> None:
        sender = desk.session().sender
        message = desk.post()
        message.advance(ACCEPTED)
        sender.requeue(sender.lanes.remove_if(lambda _: True), is_fault=False)
        assert message.state is ACCEPTED

    def test_a_stored_one_is_persisted_again(self) -> None:
        desk = Desk(store=FakeStore)
        desk.route()
        link = desk.link()
        message = desk.post()
        assert message.state is WRITTEN
        link.end()
        assert message.state is PERSISTED


class TestRoom:
    def full(self) -> tuple[Desk, list[Any]]:
        desk = Desk(send_queue_limit=4, critical_reserve=1)
        desk.route()
        return desk, [desk.post() for _ in range(4)]

    @pytest.mark.parametrize("is_patient", [False, True], ids=["impatient", "patient"])
    def test_a_full_queue(self, is_patient: bool) -> None:
        desk, _ = self.full()
        message = desk.message()
        with pytest.raises(BackpressureError, match="full \\(4 messages\\)"):
            desk.endpoint.submitter.submit(message, 5, is_patient=is_patient)
        assert desk.host.counters.backpressure_events == (not is_patient)
        assert desk.host.dropped(Reason.QUEUE_FULL) == (not is_patient)
        sender = desk.session().sender
        assert not desk.store.has_room(sender, Priority.NORMAL)
        assert desk.store.has_room(sender, Priority.CRITICAL)
        desk.post(priority=Priority.CRITICAL)

    def test_one_wake_up_of_the_queue_for_all_who_wait(self) -> None:
        desk, _ = self.full()
        sender = desk.session().sender
        woken: list[str] = []

        def one() -> None:
            woken.append("one")

        def other() -> None:
            woken.append("other")

        def gone() -> None:
            woken.append("gone")

        for wake in (one, other, gone):
            assert desk.store.when_room(sender, wake)
        assert len(sender.lanes._durable_half._room_waiters) == 1
        desk.store.forget_room(sender, gone)
        desk.store.forget_room(sender, gone)
        desk.link()
        assert woken == ["one", "other"]
        assert not desk.store.when_room(sender, one), "there is room"

    def test_who_waits_is_woken_at_the_end(self) -> None:
        desk, _ = self.full()
        woken: list[str] = []
        assert desk.session().sender.when_room(lambda: woken.append("room"), is_durable=True)
        desk.endpoint.end()
        assert woken == ["room"]
