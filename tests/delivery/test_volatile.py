"""Volatile messages: streams of their own, no store, and an end where their outcome is unknown."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from peerkit import Desk, FakeStore, ManualClock, epochs, payloads, still_clock

from linkkit import BOB, EVE, PLENTY, with_credit
from signedwire.delivery import session_map
from signedwire.delivery.room_waiters import RoomWaiters
from signedwire.delivery.send_queue import SendQueue
from signedwire.types import DeliveryState, Priority, Reason
from signedwire.wire import link_frames as frames
from signedwire.wire.header import STREAMS, VOLATILE, stream_of
from signedwire.wire.link_frames import Epochs, Refusal

LOST = Reason.UNKNOWN_OUTCOME


@pytest.fixture(autouse=True)
def clock() -> Iterator[ManualClock]:
    with still_clock() as still:
        yield still


class TestSendQueue:
    @pytest.mark.parametrize("first", [0, VOLATILE], ids=["durable", "volatile"])
    def test_one_kind_takes_no_slot_of_the_other(self, first: int) -> None:
        queue: SendQueue[int] = SendQueue(2, 1)
        other = VOLATILE - first
        assert queue.put_many([1, 2, 3], first + Priority.LOW) == 2
        assert not queue.put(4, first + Priority.HIGH)
        assert queue.put(5, first + Priority.CRITICAL)
        assert not queue.put(6, first + Priority.CRITICAL)
        assert queue.has_room(other + Priority.LOW)
        assert queue.put_many([7, 8, 9], other + Priority.LOW) == 2
        assert queue.put(10, other + Priority.CRITICAL)
        assert len(queue) == 6

    def test_the_higher_priority_first_and_there_the_volatile_ones(self) -> None:
        queue: SendQueue[int] = SendQueue(100)
        for stream in range(STREAMS):
            assert queue.put(stream, stream)
        expected = [7, 3, 6, 2, 5, 1, 4, 0]
        assert list(queue) == expected
        assert list(iter(queue.take, None)) == expected
        assert not queue

    def test_what_is_put_back_goes_to_the_heads_of_its_lanes(self) -> None:
        queue: SendQueue[str] = SendQueue(2)
        assert queue.put("later", 1)
        assert queue.put("later volatile", 5)
        queue.put_back([("a", 1), ("b", 5), ("c", 1), ("d", 5)])
        assert list(queue.lane(1)) == ["a", "c", "later"]
        assert list(queue.lane(5)) == ["b", "d", "later volatile"]

    @pytest.mark.parametrize("is_durable", [True, False])
    def test_waiters_are_woken_by_slots_of_their_kind_alone(self, is_durable: bool) -> None:
        queue: SendQueue[int] = SendQueue(2)
        mine, other = (1, 5) if is_durable else (5, 1)
        for stream in (mine, other):
            assert queue.put_many([1, 2], stream) == 2
        woken: list[str] = []
        waiters = RoomWaiters(queue, is_durable=is_durable)
        assert waiters.add(lambda: woken.append("one"))

        def gone() -> None:
            woken.append("gone")

        assert waiters.add(gone)
        waiters.remove(gone)
        queue.lane(other).clear()
        queue.notify_room(other)
        assert woken == []
        queue.lane(mine).clear()
        queue.notify_room(mine)
        assert woken == ["one"]
        assert not waiters.add(gone), "there is room"


class TestStreams:
    def test_each_has_its_own_credit(self) -> None:
        desk = Desk()
        link = desk.link(credit=with_credit(PLENTY, Priority.HIGH, 0, 0))
        stuck = desk.post(priority=Priority.HIGH)
        free = desk.post(priority=Priority.HIGH, is_durable=False)
        lower = desk.post(priority=Priority.LOW)
        assert link.messages == [free, lower]
        assert stuck.state is DeliveryState.QUEUED

    def test_an_answer_reaches_the_right_half_with_its_own_epoch_and_numbers(self) -> None:
        desk = Desk()
        link = desk.link(known_epochs=epochs(0))
        sent = [desk.post(is_durable=is_durable) for is_durable in (True, False, True, False)]
        assert [message.sequence for message in sent] == [1, 1, 2, 2]
        assert [stream_of(message.body) for message in sent] == [1, 5, 1, 5]
        link.accept(1)
        assert [one.state is DeliveryState.ACCEPTED for one in sent] == [False, True, False, False]
        link.accept(2)
        link.refuse(sent[3])
        assert sent[3].state is DeliveryState.REFUSED
        streams = desk.session().sender.streams
        assert (streams.durable.in_flight, streams.volatile.in_flight) == (1, 0)


class TestReceiver:
    def test_no_volatile_message_waits_for_a_commit(self) -> None:
        desk = Desk(store=FakeStore)
        link = desk.link()
        durable = link.bring(1, 2, payload=b"durable")
        volatile = link.bring(1, 2, payload=b"volatile", is_durable=False)
        assert payloads(desk.take()) == [b"volatile"] * 2
        assert link.committed == {volatile.root: [False]}
        assert len(desk.store.called("accept")) == 1
        desk.store.commit()
        assert payloads(desk.take()) == [b"durable"] * 2
        assert link.committed[durable.root] == [True]
        assert desk.begin().our_hello.marks == (0, 2, 0, 0, 0, 2, 0, 0)

    def test_one_that_comes_again_and_one_that_is_late(self, clock: ManualClock) -> None:
        desk = Desk(store=FakeStore)
        link = desk.link()
        first = link.bring(1, is_durable=False)
        late = link.bring(2, is_durable=False, expires_at_us=clock.wall_us)
        link.bring_batch(first)
        other = link.bring(1, payload=b"other", is_durable=False)
        desk.host.run()
        assert payloads(desk.take()) == [b"hello"]
        assert link.committed[first.root] == [False, False]
        told = [refusal for said in link.heard("refused") for refusal in said]
        assert told == [
            Refusal(late.leaves[0], Reason.EXPIRED),
            Refusal(other.leaves[0], Reason.DUPLICATE),
        ]
        assert desk.store.called("accept") == []

    @pytest.mark.parametrize("is_durable", [True, False])
    def test_a_new_epoch_of_one_kind_keeps_the_answers_of_the_other(self, is_durable: bool) -> None:
        desk = Desk()
        link = desk.link()
        batches = {kind: link.bring(1, is_durable=kind) for kind in (True, False)}
        for message in desk.take():
            message.ack()
        desk.host.run()
        link.end()
        again = desk.link(epochs=Epochs(10, 9) if is_durable else Epochs(9, 10))
        desk.host.run()
        assert again.heard("handled") == [batches[not is_durable].leaves]
        marks = [0, 0, 0, 0, 0, 1, 0, 0] if is_durable else [0, 1, 0, 0, 0, 0, 0, 0]
        assert list(desk.begin().our_hello.marks) == marks

    @pytest.mark.parametrize("stale", [Epochs(8, 9), Epochs(9, 8), Epochs(8, 10), Epochs(10, 8)])
    def test_one_stale_epoch_is_enough_and_changes_nothing(self, stale: Epochs) -> None:
        desk = Desk()
        desk.route()
        desk.link().end()
        link = desk.link(epochs=stale)
        assert link.code == frames.CLOSE_STALE_EPOCH
        assert desk.session().receiver.epochs == Epochs(9, 9)


class TestUnknownOutcome:
    @pytest.mark.parametrize("is_replaced", [False, True], ids=["ended", "replaced"])
    @pytest.mark.parametrize("knows_us", [False, True])
    @pytest.mark.parametrize("has_restarted", [False, True])
    def test_what_was_written(self, has_restarted: bool, knows_us: bool, is_replaced: bool) -> None:
        """A peer that has not restarted may have sent HELLO before it had read ours.

        One that has restarted may have read ours on a link that did not open.
        """
        desk = Desk()
        desk.route()
        link = desk.link(credit=with_credit(PLENTY, Priority.NORMAL + VOLATILE, 1, 1 << 16))
        written, unwritten = (desk.post(is_durable=False) for _ in range(2))
        durable = desk.post()
        assert link.messages == [written, durable]
        if not is_replaced:
            link.end()
        ours = link.our_epochs
        again = desk.begin()
        again.say_hello(
            epochs=Epochs(9, 10 if has_restarted else 9),
            known_epochs=ours if knows_us else Epochs(ours.durable, 0),
        )
        desk.host.run()
        assert desk.session().link is again
        if has_restarted:
            assert again.messages == [unwritten, durable]
            assert (written.state, written.reason) == (DeliveryState.FAILED, LOST)
            assert unwritten.sequence == 2
        else:
            assert again.messages == [written, unwritten, durable]
            assert written.state is DeliveryState.WRITTEN
        assert desk.host.dropped(LOST) == has_restarted

    def test_a_peer_that_has_restarted_and_knows_our_epoch_of_a_link_that_did_not_open(
        self,
    ) -> None:
        desk = Desk()
        desk.route()
        link = desk.link()
        written, accepted = (desk.post(is_durable=False) for _ in range(2))
        link.accept(1)
        link.end()
        desk.begin().end()
        again = desk.begin().say_hello(epochs=Epochs(9, 10), known_epochs=link.our_epochs)
        desk.host.run()
        assert again.messages == []
        assert (written.state, written.reason) == (DeliveryState.FAILED, LOST)
        # Nobody will tell whether it was handled.
        assert (accepted.state, accepted.reason) == (DeliveryState.ACCEPTED, Reason.STALE_EPOCH)

    def test_a_hello_that_was_made_before_ours_came_on_the_link_that_it_replaces(self) -> None:
        desk = Desk()
        desk.route()
        written = desk.post(is_durable=False)
        first = desk.link(known_epochs=epochs(0))
        assert first.messages == [written]
        again = desk.link(known_epochs=epochs(0))
        desk.host.run()
        assert again.messages == [written]
        assert written.state is DeliveryState.WRITTEN

    def test_a_peer_that_was_sent_no_volatile_message(self) -> None:
        desk = Desk()
        desk.route()
        message = desk.post(is_durable=False)
        link = desk.link(known_epochs=epochs(0))
        assert link.messages == [message]

    def test_a_stranger_whose_marks_were_forgotten_is_told_a_newer_epoch(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(session_map, "_MAX_STRANGERS", 1)
        desk = Desk()
        link = desk.link()
        link.bring(1, is_durable=False)
        assert payloads(desk.take()) == [b"hello"]
        link.end()
        desk.session(EVE)
        desk.host.run()
        assert desk.peers.get(BOB.did) is None
        assert desk.begin().our_epochs.volatile > link.our_epochs.volatile


class TestPeerIsAhead:
    @pytest.mark.parametrize("kinds", [(True,), (False,), (True, False)])
    def test_of_one_kind_or_of_both(self, kinds: tuple[bool, ...]) -> None:
        desk = Desk()
        desk.route()
        link = desk.begin()
        ours = link.our_epochs
        known = Epochs(ours.durable + 5 * (True in kinds), ours.volatile + 5 * (False in kinds))
        link.say_hello(known_epochs=known)
        assert link.code == frames.CLOSE_STALE_EPOCH
        assert desk.session().sender.streams.epochs == Epochs(
            ours.durable + 6 * (True in kinds), ours.volatile + 6 * (False in kinds)
        )
        assert desk.begin().say_hello(known_epochs=known).code is None

    def test_what_was_written_ends_in_its_own_kind_alone(self) -> None:
        desk = Desk()
        desk.route()
        link = desk.link()
        durable, volatile = desk.post(), desk.post(is_durable=False)
        ours = link.our_epochs
        link.end()
        desk.link(known_epochs=Epochs(ours.durable, ours.volatile + 1))
        assert volatile.reason is Reason.STALE_EPOCH
        assert not durable.is_final
        again = desk.link(known_epochs=Epochs(ours.durable, ours.volatile + 1))
        assert again.messages == [durable]

    def test_a_forgotten_stranger_that_had_only_volatile_messages(self) -> None:
        desk = Desk()
        link = desk.link()
        message = desk.post(is_durable=False)
        link.accept()
        link.let_go()
        del message
        link.end()
        assert not desk.session().has_sender
        again = desk.link(known_epochs=link.our_epochs)
        assert min(again.our_epochs) > max(link.our_epochs)


def test_a_volatile_message_is_in_no_store() -> None:
    desk = Desk(store=FakeStore)
    desk.route()
    link = desk.link()
    message = desk.post(is_durable=False)
    assert link.messages == [message]
    link.accept()
    assert desk.store.called("put") == []
    assert desk.store.called("ended") == []


def test_they_do_not_wait_while_the_store_moves_its_deadlines() -> None:
    """After a step of the wall clock, the store sends its own messages again, and no others."""
    desk = Desk(store=FakeStore)
    desk.route()
    link = desk.link()
    desk.store.is_held_now = True
    volatile = desk.post(is_durable=False)
    desk.host.run()
    assert link.messages == [volatile]
