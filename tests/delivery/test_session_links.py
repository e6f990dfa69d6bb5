"""Which of two links stays, what a HELLO may say, and what the end of a link costs."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from peerkit import (
    HERE,
    REFUSED,
    RESET,
    THERE,
    Desk,
    FakeLink,
    FakeRoute,
    FakeStore,
    ManualClock,
    closed,
    epochs,
    marks,
    still_clock,
)

from linkkit import ALICE, BOB, PLENTY
from signedwire.errors import Cause, FailureKind, StoreFailedError
from signedwire.events import PeerConnected, PeerDisconnected
from signedwire.types import DeliveryState, PeerState, Priority, Reason
from signedwire.wire import link_frames as frames
from signedwire.wire.clock_offset import ClockOffset
from signedwire.wire.link_frames import Epochs
from signedwire.wire.session import Closed

SMALLER, LARGER = sorted((ALICE, BOB), key=lambda identity: bytes(identity.did))
QUEUED, WRITTEN, FAILED = DeliveryState.QUEUED, DeliveryState.WRITTEN, DeliveryState.FAILED
DUPLICATE, STALE = frames.CLOSE_DUPLICATE_LINK, frames.CLOSE_STALE_EPOCH


@pytest.fixture(autouse=True)
def clock() -> Iterator[ManualClock]:
    with still_clock() as still:
        yield still


class TestWhichLinkStays:
    @pytest.mark.parametrize("theirs", [9, 10], ids=["same epoch", "newer epoch"])
    @pytest.mark.parametrize("is_new_dialed", [True, False], ids=["new dialed", "new accepted"])
    @pytest.mark.parametrize("is_old_dialed", [True, False], ids=["old dialed", "old accepted"])
    @pytest.mark.parametrize("are_we_smaller", [True, False], ids=["smaller DID", "larger DID"])
    def test_of_two(
        self, are_we_smaller: bool, is_old_dialed: bool, is_new_dialed: bool, theirs: int
    ) -> None:
        us, them = (SMALLER, LARGER) if are_we_smaller else (LARGER, SMALLER)
        desk = Desk(us=us)
        old = desk.link(them, is_dialed=is_old_dialed, epochs=epochs(9))
        new = desk.link(them, is_dialed=is_new_dialed, epochs=epochs(theirs))
        # Only if each side dialed one, and neither has begun anew, the old one can stay: if
        # the smaller DID dialed it.
        smaller_dialed_old = is_old_dialed == are_we_smaller
        old_stays = theirs == 9 and is_old_dialed != is_new_dialed and smaller_dialed_old
        stays, goes = (old, new) if old_stays else (new, old)
        assert desk.session(them).link is stays
        assert goes.code == DUPLICATE
        assert stays.code is None

    def test_both_ends_keep_the_same_one(self) -> None:
        """Each has dialed, and the two see the links in either order."""
        for dialed_first in (True, False):
            kept = []
            for us, them in ((ALICE, BOB), (BOB, ALICE)):
                desk = Desk(us=us)
                for is_dialed in (dialed_first, not dialed_first):
                    desk.link(them, is_dialed=is_dialed)
                link = desk.session(them).link
                assert link is not None
                kept.append(us if link.state.is_dialed else them)
            assert kept == [SMALLER, SMALLER]

    def test_what_was_in_flight_moves_to_the_new_one_in_order_and_for_nothing(self) -> None:
        desk = Desk(max_attempts=1)
        desk.route()
        old = desk.link()
        messages = [desk.post(payload=b"%d" % n) for n in range(3)]
        assert old.payloads == [b"0", b"1", b"2"]
        new = desk.link()
        desk.host.run()
        assert new.payloads == [b"0", b"1", b"2"]
        assert [message.state for message in messages] == [WRITTEN] * 3
        assert [message.sequence for message in messages] == [1, 2, 3]
        assert desk.host.counters.rewritten == 3

    def test_what_is_told(self) -> None:
        desk = Desk()
        desk.link()
        desk.link(is_dialed=False)
        first, gone, second = desk.host.events
        assert first == second == PeerConnected(BOB.did, HERE, False)
        assert gone == PeerDisconnected(
            BOB.did, "there is another link now", FailureKind.CLOSED_HERE
        )

    def test_a_duplicate_that_is_closed_leaves_the_other_alone(self) -> None:
        desk = Desk(us=SMALLER)
        old = desk.link(LARGER, is_dialed=True)
        message = desk.post(LARGER)
        new = desk.link(LARGER)
        assert new.code == DUPLICATE
        assert desk.session(LARGER).link is old
        assert not old.is_over
        assert message.state is WRITTEN
        assert old.accept()


class TestHello:
    @pytest.mark.parametrize("is_same_epoch", [True, False], ids=["this node", "another process"])
    def test_ourselves(self, is_same_epoch: bool) -> None:
        """With another epoch, it is another process with our key."""
        desk = Desk(us=ALICE)
        desk.route(ALICE)
        message = desk.post(ALICE)
        link = desk.begin(ALICE, is_dialed=True)
        ours = link.our_hello.epochs.durable
        link.say_hello(epochs=epochs(ours if is_same_epoch else ours - 1), known_epochs=epochs(0))
        assert (link.code == DUPLICATE) == is_same_epoch
        assert message.is_final == is_same_epoch
        assert desk.host.dropped(Reason.BAD_IDENTITY) == 2 * is_same_epoch
        if is_same_epoch:
            assert message.reason is Reason.BAD_IDENTITY
            assert desk.session(ALICE).link is None

    @pytest.mark.parametrize(
        ("known", "marks", "code"),
        [
            pytest.param(0, 0, None, id="it knows nothing of us"),
            pytest.param(-1, 0, None, id="it knows an earlier epoch"),
            pytest.param("ours", 0, None, id="it knows ours"),
            pytest.param("ours+1", 0, STALE, id="it knows a later one"),
            pytest.param(2**63 - 2, 0, STALE, id="it leaves one epoch"),
            pytest.param(2**63 - 1, 0, frames.CLOSE_PROTOCOL_ERROR, id="it leaves none"),
        ],
    )
    def test_what_it_knows_of_us(self, known: int | str, marks: int, code: int | None) -> None:
        desk = Desk()
        link = desk.begin()
        ours = link.our_hello.epochs.durable
        numbers: dict[int | str, int] = {-1: ours - 1, "ours": ours, "ours+1": ours + 1}
        known_epoch = numbers[known] if known in numbers else int(known)
        link.say_hello(known_epochs=epochs(known_epoch))
        assert link.code == code
        session = desk.session()
        assert (session.link is link) == (code is None)
        if code == STALE:
            assert session.hello().epochs == epochs(known_epoch + 1)
            assert desk.begin().say_hello(known_epochs=epochs(known_epoch)).code is None
        else:
            assert session.hello().epochs == epochs(ours)

    def test_a_peer_that_claims_later_states_fills_no_log(
        self, caplog: pytest.LogCaptureFixture, clock: ManualClock
    ) -> None:
        """Anybody can claim them, for both kinds of messages and again and again."""
        desk = Desk()
        with caplog.at_level(logging.WARNING):
            for _ in range(50):
                link = desk.begin()
                ours = link.our_hello.epochs
                link.say_hello(known_epochs=Epochs(ours.durable + 1, ours.volatile + 1))
                assert link.code == STALE
            assert len(caplog.records) == 1
            assert "says that it knows a later state of our key" in caplog.text
            clock.move(61)
            ours = (link := desk.begin()).our_hello.epochs
            link.say_hello(known_epochs=Epochs(ours.durable + 1, 0))
            assert len(caplog.records) == 2
            link = desk.link(epochs=Epochs(2**40, 2**40))
            for epoch in range(50):
                desk.begin().say_hello(epochs=Epochs(9, epoch))
            assert len(caplog.records) == 2

    def test_an_older_epoch_of_the_peer(self, caplog: pytest.LogCaptureFixture) -> None:
        desk = Desk()
        link = desk.link(epochs=epochs(10))
        with caplog.at_level(logging.WARNING):
            old = desk.link(epochs=epochs(9))
        assert old.code == STALE
        assert desk.session().link is link
        assert "older state" in caplog.records[0].event  # type: ignore[attr-defined]

    def test_a_store_that_says_that_the_peer_is_ahead_in_this_epoch(self) -> None:
        desk = Desk(store=FakeStore)
        link = desk.begin()
        ours = link.our_hello.epochs.durable
        desk.store.ahead.add(BOB.did)
        link.say_hello(marks=marks(0, 7, 0, 0))
        assert link.code == STALE
        assert desk.store.called("restart") == [(BOB.did, ours + 1, (0, 7, 0, 0))]
        # It is not asked where the peer knows another epoch: marks count within one.
        again = desk.begin().say_hello(known_epochs=epochs(ours))
        assert again.code is None

    def test_marks_of_another_epoch_tell_nothing(self) -> None:
        desk = Desk(store=FakeStore)
        link = desk.begin()
        ours = link.our_hello.epochs.durable
        link.say_hello(known_epochs=epochs(ours + 5), marks=marks(0, 7, 0, 0))
        assert desk.store.called("restart") == [(BOB.did, ours + 6, None)]

    def test_an_old_copy_of_the_store(self, caplog: pytest.LogCaptureFixture) -> None:
        desk = Desk(store=FakeStore)
        desk.store.old_copies.add(BOB.did)
        with caplog.at_level(logging.WARNING):
            link = desk.link(marks=marks(0, 3, 0, 0))
        assert link.code is None
        assert desk.store.called("learn") == [(BOB.did, (0, 3, 0, 0))]
        assert "old copy" in caplog.text
        # Marks of another epoch are not taken up.
        desk.link(known_epochs=epochs(0), epochs=epochs(10))
        assert len(desk.store.called("learn")) == 1

    @pytest.mark.parametrize("knows_us", [True, False], ids=["it knows us", "it forgot us"])
    def test_a_peer_that_has_begun_anew(self, knows_us: bool) -> None:
        """If it still knows our epoch it may yet say what its application did."""
        desk = Desk()
        desk.route()
        link = desk.link(epochs=epochs(9))
        message = desk.post()
        assert link.accept()
        link.end()
        ours = link.our_hello.epochs.durable
        again = desk.link(epochs=epochs(10), known_epochs=epochs(ours if knows_us else 0))
        assert message.state is DeliveryState.ACCEPTED
        assert message.reason is (None if knows_us else Reason.STALE_EPOCH)
        assert again.code is None

    def test_who_is_ahead_is_sent_all_but_what_was_written(self) -> None:
        desk = Desk()
        desk.route()
        first = desk.link()
        accepted = desk.post()
        first.accept()
        written = desk.post()
        first.end()
        fresh = desk.message()
        desk.endpoint.submitter.submit(fresh, 5)
        ahead = desk.link(known_epochs=epochs(first.our_epochs.durable + 3))
        desk.host.run()
        assert ahead.code == STALE
        assert (written.state, written.reason) == (FAILED, Reason.STALE_EPOCH)
        assert "cannot be asked" in written.detail
        assert (accepted.state, accepted.reason) == (
            DeliveryState.ACCEPTED,
            Reason.STALE_EPOCH,
        )
        assert fresh.state is QUEUED
        last = desk.link(known_epochs=epochs(first.our_epochs.durable + 3))
        desk.host.run()
        assert last.our_epochs == epochs(first.our_epochs.durable + 4)
        assert last.messages == [fresh]
        assert fresh.sequence == 1

    def test_who_is_ahead_while_it_has_a_link(self) -> None:
        desk = Desk()
        desk.route()
        old = desk.link(epochs=epochs(9))
        message = desk.post()
        new = desk.link(epochs=epochs(10), known_epochs=epochs(old.our_epochs.durable + 1))
        assert (old.code, new.code) == (STALE, STALE)
        assert (message.state, message.reason) == (FAILED, Reason.STALE_EPOCH)
        assert desk.session().link is None

    def test_a_link_whose_hello_of_ours_is_out_of_date(self) -> None:
        """Both sides dialed at once, and by the other link we had to begin a newer epoch."""
        desk = Desk(store=FakeStore)
        desk.route()
        one, other = desk.begin(is_dialed=True), desk.begin()
        desk.store.ahead.add(BOB.did)
        one.say_hello(marks=marks(0, 7, 0, 0))
        assert one.code == STALE
        other.say_hello(marks=marks(0, 7, 0, 0))
        # Its peer reads by the epoch of our HELLO: all that we number now is malformed to it.
        assert other.code == STALE
        message = desk.post()
        third = desk.link(known_epochs=one.our_epochs)
        desk.host.run()
        assert third.code is None
        assert third.messages == [message]

    @pytest.mark.parametrize("is_denied", [True, False], ids=["denied", "store failed"])
    def test_who_may_not_link(self, is_denied: bool) -> None:
        desk = Desk(store=FakeStore)
        link = desk.begin()
        if is_denied:
            desk.access.deny(BOB.did)
        else:
            desk.store.failure = StoreFailedError("node.db", "no disk", "nothing is kept")
        link.say_hello()
        code, reason = (
            (frames.CLOSE_DENIED, Reason.DENIED)
            if is_denied
            else (frames.CLOSE_UNAVAILABLE, Reason.STORE_FAILED)
        )
        assert link.code == code
        assert desk.host.drops == {(reason, BOB.did): 1}
        assert desk.session().link is None


def orderly(code: int = frames.CLOSE_DONE, *, is_by_peer: bool = True) -> Closed:
    return closed(code, is_by_peer=is_by_peer)


class TestExcusedEnds:
    @pytest.mark.parametrize(
        ("how", "is_excused"),
        [
            pytest.param(orderly(frames.CLOSE_DONE), True, id="done"),
            pytest.param(orderly(frames.CLOSE_DUPLICATE_LINK), True, id="duplicate"),
            pytest.param(orderly(frames.CLOSE_EVICTED), True, id="evicted"),
            pytest.param(orderly(frames.CLOSE_STALE_EPOCH), True, id="stale epoch"),
            pytest.param(orderly(frames.CLOSE_TOO_MANY), True, id="too many"),
            pytest.param(orderly(frames.CLOSE_UNAVAILABLE), True, id="unavailable"),
            pytest.param(orderly(frames.CLOSE_PROTOCOL_ERROR), False, id="protocol error"),
            pytest.param(orderly(frames.CLOSE_DENIED), False, id="denied"),
            pytest.param(orderly(frames.CLOSE_BAD_SIGNATURE), False, id="bad signature"),
            pytest.param(RESET, False, id="reset"),
            pytest.param(None, False, id="cut"),
            pytest.param(orderly(is_by_peer=False), True, id="done by us"),
        ],
    )
    def test_one_end(self, how: Closed | None, is_excused: bool) -> None:
        desk = Desk(max_attempts=1)
        desk.route()
        link = desk.link()
        message = desk.post()
        link.has_progress = True
        link.end(how)
        assert link.ended == (True, is_excused)
        assert message.state is (QUEUED if is_excused else FAILED)

    @pytest.mark.parametrize(
        ("code", "is_by_peer", "ends", "is_excused"),
        [
            pytest.param(frames.CLOSE_DONE, True, 3, True, id="done, three times"),
            pytest.param(frames.CLOSE_DONE, True, 4, False, id="done, four times"),
            pytest.param(frames.CLOSE_EVICTED, True, 4, False, id="evicted, four times"),
            pytest.param(frames.CLOSE_TOO_MANY, True, 50, True, id="too many, fifty times"),
            pytest.param(frames.CLOSE_DONE, False, 50, True, id="by us, fifty times"),
        ],
    )
    def test_time_after_time(
        self, code: int, is_by_peer: bool, ends: int, is_excused: bool
    ) -> None:
        session = Desk().session()
        verdicts = [
            session.count_end(closed(code, is_by_peer=is_by_peer), has_progress=False)
            for _ in range(ends)
        ]
        assert verdicts[:-1] == [True] * (ends - 1)
        assert verdicts[-1] == is_excused

    @pytest.mark.parametrize("how", ["receipt", "refusal", "another link"])
    def test_an_answer_excuses_the_next_ends(self, how: str) -> None:
        desk = Desk()
        desk.route()
        session = desk.session()
        for _ in range(3):
            session.count_end(orderly(), has_progress=False)
        link = desk.link()
        message = desk.post()
        if how == "receipt":
            assert link.accept()
        elif how == "refusal":
            assert link.refuse(message)
        else:
            assert session.count_end(orderly(), has_progress=True)
        for _ in range(3):
            assert session.count_end(orderly(), has_progress=False)
        assert not session.count_end(orderly(), has_progress=False)

    @pytest.mark.parametrize(
        ("how", "denies_us"),
        [
            pytest.param(closed(frames.CLOSE_DENIED), True, id="denied by the peer"),
            pytest.param(closed(frames.CLOSE_DENIED, is_by_peer=False), False, id="denied by us"),
            pytest.param(closed(frames.CLOSE_DONE), False, id="done"),
            pytest.param(None, False, id="cut"),
        ],
    )
    def test_who_denies_us(self, how: Closed | None, denies_us: bool) -> None:
        desk = Desk()
        desk.route()
        session = desk.session()
        session.denies_us = not denies_us
        desk.link().end(how)
        assert session.denies_us == denies_us
        assert session.status().denies_us == denies_us
        desk.link()
        assert not session.status().denies_us, "while it is linked it does not"

    @pytest.mark.parametrize(
        ("has_progress", "is_dialed_by_us", "is_charged"),
        [
            pytest.param(True, True, True, id="ours, with answers"),
            pytest.param(False, True, False, id="ours, without: its dialer counts it"),
            pytest.param(True, False, True, id="theirs, with answers"),
            pytest.param(False, False, True, id="theirs, without"),
        ],
    )
    def test_who_pays_for_a_reset(
        self, has_progress: bool, is_dialed_by_us: bool, is_charged: bool
    ) -> None:
        desk = Desk(max_attempts=1)
        desk.route()
        link = desk.link(is_dialed=is_dialed_by_us)
        link.has_progress = has_progress
        message = desk.post()
        link.end(RESET)
        assert message.state is (FAILED if is_charged else QUEUED)
        if is_charged:
            assert message.reason is Reason.ATTEMPTS_EXHAUSTED
            assert "the link ended before an answer came" in message.detail

    def test_a_link_that_was_not_used(self) -> None:
        desk = Desk(us=SMALLER)
        desk.link(LARGER, is_dialed=True)
        message = desk.post(LARGER)
        session = desk.session(LARGER)
        events = list(desk.host.events)
        second = desk.begin(LARGER)
        second.say_hello()  # a duplicate, which we close
        assert second.ended == (False, True)
        assert session.last_error is None
        assert message.state is WRITTEN
        assert desk.host.events == events


class TestAttempts:
    @pytest.mark.parametrize("limit", [1, 2, 3])
    def test_exhausted_by_broken_links(self, limit: int) -> None:
        desk = Desk(max_attempts=limit)
        desk.route()
        message = desk.post()
        for attempt in range(limit):
            assert message.state is QUEUED, attempt
            link = desk.link()
            desk.host.run()
            assert link.messages == [message]
            link.end(RESET)
        assert (message.state, message.reason) == (FAILED, Reason.ATTEMPTS_EXHAUSTED)
        assert desk.host.drops[Reason.ATTEMPTS_EXHAUSTED, BOB.did] == 1

    def test_exhausted_by_attempts_to_connect(self) -> None:
        desk = Desk(max_attempts=2)
        desk.route()
        sender = desk.session().sender
        old = desk.post()
        sender.note_attempt_failed(REFUSED)
        young = desk.post()
        sender.note_attempt_failed(REFUSED)
        assert (old.state, old.detail) == (FAILED, "refused")
        assert old.detail_kind is FailureKind.REFUSED
        assert young.state is QUEUED, "it was not there at the first attempt"
        sender.note_attempt_failed(Cause("refused again", FailureKind.REFUSED))
        assert (young.state, young.detail) == (FAILED, "refused again")
        assert desk.session().status().failed_attempts == 3

    def test_what_is_stored_is_tried_for_ever(self) -> None:
        desk = Desk(store=FakeStore, max_attempts=1)
        desk.route()
        message = desk.post()
        for _ in range(5):
            desk.session().sender.note_attempt_failed(REFUSED)
        assert message.state is DeliveryState.PERSISTED

    def test_a_full_peer_costs_nothing(self) -> None:
        desk = Desk(max_attempts=1)
        desk.route()
        message = desk.post()
        for _ in range(50):
            desk.link().end(closed(frames.CLOSE_TOO_MANY))
        assert message.state is QUEUED


class TestWhileTheNodeCloses:
    @pytest.mark.parametrize(
        "code", [frames.CLOSE_EVICTED, frames.CLOSE_DONE], ids=["evict", "done"]
    )
    @pytest.mark.parametrize("is_durable", [True, False], ids=["store", "no store"])
    def test_a_link_that_ends(self, is_durable: bool, code: int) -> None:
        desk = Desk(store=lambda host: FakeStore(host, is_durable=is_durable))
        desk.route()
        link = desk.link()
        message = desk.post()
        desk.host.is_open = False
        link.close(code, "made room")
        if is_durable:
            # Another link may come yet, and what a later process sends is to come behind it.
            assert message.state is DeliveryState.PERSISTED
            assert not message.is_detached
            again = desk.link()
            desk.host.run()
            assert again.messages == [message]
        else:
            assert (message.state, message.reason) == (FAILED, Reason.CLOSED)
            assert message.detail == "written, but no receipt came"

    @pytest.mark.parametrize("is_durable", [True, False], ids=["store", "no store"])
    def test_after_the_goodbye(self, is_durable: bool) -> None:
        desk = Desk(store=lambda host: FakeStore(host, is_durable=is_durable))
        desk.route()
        link = desk.link()
        message = desk.post()
        desk.endpoint.close_links()
        assert link.code == frames.CLOSE_DONE
        assert not desk.endpoint.links
        assert message.is_detached == is_durable
        assert message.is_final != is_durable
        assert message.body == b""

    @pytest.mark.parametrize("is_durable", [True, False], ids=["store", "no store"])
    def test_the_end(self, is_durable: bool) -> None:
        desk = Desk(store=lambda host: FakeStore(host, is_durable=is_durable))
        desk.route()
        link = desk.link()
        accepted = desk.post()
        link.accept()
        link.end()
        woken: list[str] = []
        waiting = [desk.post(expires_at=desk.clock.seconds + 50) for _ in range(3)]
        desk.session().sender.lanes._durable_half._room_waiters.append(lambda: woken.append("room"))
        desk.endpoint.begin_end()
        calls = list(desk.connector.calls)
        desk.endpoint.send_waiting(desk.session())
        assert desk.connector.calls == calls, "nothing is brought any more"
        desk.endpoint.end()
        assert woken == ["room"]
        assert accepted.reason is Reason.CLOSED
        assert [message.is_detached for message in waiting] == [is_durable] * 3
        assert [message.is_final for message in waiting] == [not is_durable] * 3
        assert not desk.host.timers

    def test_who_was_waited_for_at_the_end(self) -> None:
        desk = Desk()
        desk.link().end()
        message = desk.post()
        assert desk.session().return_timer is not None
        desk.endpoint.end()
        assert desk.session().return_timer is None
        assert (message.state, message.reason) == (FAILED, Reason.CLOSED)


class TestStatus:
    def test_of_a_peer_through_its_life(self, clock: ManualClock) -> None:
        desk = Desk()
        desk.route()
        session = desk.session()
        status = session.status()
        assert (status.state, status.address, status.wire) == (PeerState.IDLE, None, None)
        desk.post(priority=Priority.HIGH)
        route = session.sender.dialer
        assert isinstance(route, FakeRoute)
        route.history.note_error(REFUSED, clock.seconds)
        route.retry_at = 1010.0
        route.round_trip = 0.5
        status = session.status()
        assert (status.state, status.address) == (PeerState.DIALING, THERE)
        assert (status.last_error, status.round_trip) == ("refused", 0.5)
        assert type(status.last_error) is str
        assert status.last_error_kind is FailureKind.REFUSED
        assert status.retry_at == pytest.approx(clock.wall_us / 1e6 + 10)
        assert status.queued[Priority.HIGH] == 1
        link = desk.link()
        link.overdue = 3.0
        assert status.clock_offset is status.clock_offset_bound is None
        link.clock_offset = ClockOffset(1.5, 0.25)
        status = session.status()
        assert (status.clock_offset, status.clock_offset_bound) == (1.5, 0.25)
        assert (status.state, status.wire, status.round_trip) == (PeerState.CONNECTED, "v2", 0.25)
        assert (status.in_flight, status.overdue) == (1, 3.0)
        assert (status.rate, status.least_round_trip) == (None, None)
        assert (status.window, status.bytes_in_flight) == (16 * 1024, 0)
        assert link.window is not None
        link.window.note_written(16_000, 1.0)
        link.window.note_full(1.0)
        link.window.note_read(1000, 0.0, 7.0, 1.1)
        link.window.note_written(17_000, 1.1)
        link.window.note_full(1.1)
        link.window.note_read(17_000, 0.1, 7.1, 1.3)
        busy = session.status()
        assert busy.rate == pytest.approx(160_000)
        assert busy.least_round_trip == pytest.approx(0.1)
        assert busy.bytes_in_flight == 0
        link.window = None
        assert session.status().window is None
        assert status.credit is not None
        assert [one.messages for one in status.credit] == [
            one.messages - (stream == Priority.HIGH) for stream, one in enumerate(PLENTY)
        ]
        assert set(desk.endpoint.status()) == {BOB.did}

    def test_of_a_peer_that_has_no_route(self) -> None:
        desk = Desk()
        link = desk.link()
        assert desk.session().status().address == HERE
        link.end()
        status = desk.session().status()
        assert (status.state, status.last_error, status.address) == (
            PeerState.IDLE,
            "the connection was reset",
            None,
        )
        assert status.last_error_at == pytest.approx(desk.clock.wall_us / 1e6)

    @pytest.mark.parametrize(
        ("kept", "of_route", "shown"),
        [
            (None, None, None),
            (7.0, None, 7.0),
            (None, 7.0, 7.0),
            (7.0, 8.0, 8.0),
            (8.0, 7.0, 8.0),
        ],
    )
    def test_the_last_error_of_all_dialers_is_shown(
        self, clock: ManualClock, kept: float | None, of_route: float | None, shown: float | None
    ) -> None:
        desk = Desk()
        desk.route()
        session = desk.session()
        desk.post()
        route = session.sender.dialer
        assert isinstance(route, FakeRoute)
        before = FakeRoute(THERE).history
        for history, at in ((before, kept), (route.history, of_route)):
            if at is not None:
                history.note_error(Cause(f"error at {at:g}", FailureKind.REFUSED), at)
        session.keep_error(before)
        status = session.status()
        if shown is None:
            assert (status.last_error, status.last_error_at) == (None, None)
        else:
            assert status.last_error == f"error at {shown:g}"
            expected = clock.wall_us / 1e6 - clock.seconds + shown
            assert status.last_error_at == pytest.approx(expected)


def test_the_kit_reports_an_end_once() -> None:
    desk = Desk()
    link: FakeLink = desk.link()
    link.end(RESET)
    link.end(closed(frames.CLOSE_DONE))
    link.close(frames.CLOSE_DONE, "late")
    assert link.ended == (True, False)
    assert link.code is None
