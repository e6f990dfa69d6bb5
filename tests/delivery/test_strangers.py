"""Peers that come, go, and are forgotten: which halves are kept, for how long, and how many."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from peerkit import (
    REFUSED,
    RESET,
    THERE,
    Desk,
    FakeLink,
    FakeStore,
    ManualClock,
    epochs,
    marks,
    payloads,
    still_clock,
)

from idkit import number_of
from linkkit import BOB, EVE
from signedwire.delivery import session_map
from signedwire.delivery.send_queue import SendQueue
from signedwire.delivery.store import Marks
from signedwire.errors import UnknownPeerError
from signedwire.identity import Identity
from signedwire.types import DeliveryState, Did, Priority, Reason
from signedwire.wire import link_frames as frames
from signedwire.wire.link_frames import Epochs

QUEUED, WRITTEN = DeliveryState.QUEUED, DeliveryState.WRITTEN
GRACE = 5.0


@pytest.fixture(autouse=True)
def clock() -> Iterator[ManualClock]:
    with still_clock() as still:
        yield still


def crowd(count: int) -> list[Identity]:
    """Keys of strangers."""
    return [Identity.from_seed((1000 + number).to_bytes(32, "big")) for number in range(count)]


def halves(desk: Desk, who: Identity = BOB) -> tuple[bool, bool] | None:
    """Whether there is a sending and a receiving half; `None`: the peer is forgotten."""
    session = desk.endpoint.sessions.get(who.did)
    return None if session is None else (session.has_sender, session.has_receiver)


def nothing(desk: Desk, link: FakeLink) -> None:
    """The peer links and goes."""


def answered(desk: Desk, link: FakeLink) -> None:
    desk.post()
    link.accept()
    link.let_go()


def followed(desk: Desk, link: FakeLink) -> None:
    kept.append(desk.post())
    link.accept()
    link.let_go()


def unanswered(desk: Desk, link: FakeLink) -> None:
    desk.post()


def queued(desk: Desk, link: FakeLink) -> None:
    link.max_batch = 0
    desk.store.is_held_now = True
    desk.post()


def waiting(desk: Desk, link: FakeLink) -> None:
    link.bring(1)


def taken(desk: Desk, link: FakeLink) -> None:
    link.bring(1)
    desk.take()


kept: list[Any] = []
"""Receipts that an application holds."""


class TestWhatIsKept:
    @pytest.mark.parametrize("has_route", [False, True], ids=["stranger", "routed"])
    @pytest.mark.parametrize(
        ("use", "left"),
        [
            pytest.param(nothing, (False, False), id="nothing was sent"),
            pytest.param(answered, (False, False), id="answered"),
            pytest.param(followed, (True, True), id="accepted, and its receipt is held"),
            pytest.param(unanswered, (True, True), id="unanswered"),
            pytest.param(queued, (True, True), id="queued"),
            pytest.param(waiting, (False, True), id="its message waits"),
            pytest.param(taken, (False, True), id="its message was taken"),
        ],
    )
    def test_when_its_link_ends(
        self, use: Callable[[Desk, FakeLink], None], left: tuple[bool, bool], has_route: bool
    ) -> None:
        desk = Desk()
        if has_route:
            desk.route()
        link = desk.link()
        use(desk, link)
        link.end()
        desk.host.run()
        assert halves(desk) == ((True, True) if has_route else left)
        kept.clear()

    def test_one_that_never_said_hello(self) -> None:
        desk = Desk()
        desk.begin().end()
        assert halves(desk) is None

    def test_with_a_fallback_nobody_is_a_stranger(self) -> None:
        desk = Desk(fallback="127.0.0.1:9002")
        desk.link().end()
        assert halves(desk) == (True, True)

    def test_marks_of_an_earlier_process(self) -> None:
        desk = Desk(store=FakeStore)
        desk.store.known_marks[BOB.did] = Marks(9, (0, 3, 0, 0))
        desk.begin().end()
        assert halves(desk) == (False, True)

    @pytest.mark.parametrize("rows", [0, 1], ids=["nothing more", "more on the disk"])
    def test_what_waits_on_the_disk(self, rows: int) -> None:
        desk = Desk(store=FakeStore)
        link = desk.link()
        desk.store.rows[BOB.did] = rows
        link.end()
        assert halves(desk) == ((True, True) if rows else (False, False))

    def test_while_another_link_is_opening(self) -> None:
        """It has said HELLO already, in the epoch of the sending half that there is."""
        desk = Desk()
        first = desk.link()
        answered(desk, first)
        opening = desk.begin()
        first.end()
        assert halves(desk) == (True, True)
        opening.say_hello()
        message = desk.post()
        assert opening.messages == [message]
        assert opening.code is None

    def test_a_message_that_was_refused_for_want_of_a_way_leaves_nothing(self) -> None:
        desk = Desk()
        with pytest.raises(UnknownPeerError):
            desk.post()
        assert halves(desk) is None


class TestStranded:
    """A peer that only it can reach us: its messages wait a moment for its return."""

    def test_it_returns_in_time(self) -> None:
        desk = Desk()
        desk.link().end()
        message = desk.post()
        desk.host.wait(GRACE - 0.1)
        assert message.state is QUEUED
        link = desk.link()
        assert not desk.host.timers
        desk.host.wait(10)
        assert link.messages == [message]

    def test_it_does_not_return(self) -> None:
        desk = Desk()
        link = desk.link()
        written = desk.post()
        link.end()
        queued = desk.post()
        desk.host.wait(GRACE)
        for message in (written, queued):
            assert (message.state, message.reason) == (DeliveryState.FAILED, Reason.UNKNOWN_PEER)
        assert desk.host.drops[Reason.UNKNOWN_PEER, BOB.did] == 2
        assert halves(desk) == (False, False), "nothing is owed to it any more"

    def test_the_wait_counts_from_the_end_of_the_link(self) -> None:
        desk = Desk()
        desk.link().end()
        desk.host.wait(GRACE - 1)
        message = desk.post()
        desk.host.wait(0.9)
        assert message.state is QUEUED
        desk.host.wait(0.1)
        assert message.reason is Reason.UNKNOWN_PEER

    def test_one_wait_for_many(self) -> None:
        desk = Desk()
        desk.link().end()
        for _ in range(5):
            desk.post()
        assert len(desk.host.timers) == 1

    def test_without_grace(self) -> None:
        """It left longer ago, or was never here."""
        desk = Desk()
        link = desk.link()
        link.max_batch = 0
        desk.store.is_held_now = True
        message = desk.post()
        desk.session().left_at = None
        session = desk.session()
        session.link = None
        desk.endpoint.send_waiting(session)
        assert (message.state, message.reason) == (DeliveryState.FAILED, Reason.UNKNOWN_PEER)

    def test_a_node_that_speaks_v1_waits_for_nobody(self) -> None:
        desk = Desk(wire="v1", v1_peers="all")
        desk.route()
        message = desk.message()
        desk.endpoint.submitter.submit(message, 5)
        desk.route(address=None)
        desk.host.run()
        assert (message.state, message.reason) == (DeliveryState.FAILED, Reason.UNKNOWN_PEER)

    @pytest.mark.parametrize(
        ("ago", "hint"),
        [
            pytest.param(GRACE + 1, "had dialed us", id="left long ago"),
            pytest.param(None, "Add one with routing.update", id="never seen"),
        ],
    )
    def test_to_send_to_it_after_that(self, ago: float | None, hint: str) -> None:
        desk = Desk()
        if ago is not None:
            desk.link().end()
            desk.host.wait(ago)
        with pytest.raises(UnknownPeerError, match=hint):
            desk.post()
        assert desk.host.dropped(Reason.UNKNOWN_PEER) == 1

    def test_a_route_that_comes_meanwhile(self) -> None:
        desk = Desk()
        desk.link().end()
        message = desk.post()
        desk.route()
        desk.endpoint.send_stranded()
        assert desk.connector.calls == [("connect", BOB.did, THERE)]
        desk.host.wait(GRACE)
        assert message.state is QUEUED

    def test_what_is_stored_waits_for_ever(self) -> None:
        desk = Desk(store=FakeStore)
        desk.link().end()
        message = desk.post()
        desk.host.wait(10 * GRACE)
        assert message.state is DeliveryState.PERSISTED
        assert halves(desk) == (True, False)


class TestWhoReturns:
    @pytest.mark.parametrize(
        ("use", "is_newer"),
        [
            pytest.param(nothing, False, id="nothing was sent: the same"),
            pytest.param(answered, True, id="something was sent: a newer one"),
        ],
    )
    def test_its_epoch(self, use: Callable[[Desk, FakeLink], None], is_newer: bool) -> None:
        """Numbers begin anew with the sending half, so they need a newer epoch."""
        desk = Desk()
        first = desk.link()
        use(desk, first)
        first.end()
        again = desk.link()
        assert all(
            (new > old) == is_newer
            for new, old in zip(again.our_epochs, first.our_epochs, strict=True)
        )
        message = desk.post()
        assert message.sequence == 1

    def test_a_newer_one_each_time_also_where_it_was_ahead_of_our_clock(self) -> None:
        desk = Desk()
        ahead = desk.clock.wall_us + 10**12
        desk.link(known_epochs=epochs(ahead))
        known = [ahead]
        for _ in range(3):
            link = desk.link(known_epochs=epochs(known[-1]))
            assert link.code is None
            answered(desk, link)
            assert link.our_epochs == epochs(link.our_epochs.durable)
            known.append(link.our_epochs.durable)
            link.end()
            assert halves(desk) == (False, False)
        assert known == sorted(set(known))

    def test_others_keep_theirs(self) -> None:
        desk = Desk()
        desk.route(EVE)
        eve = desk.session(EVE).sender.streams.epochs
        link = desk.link()
        answered(desk, link)
        link.end()
        assert desk.session(EVE).sender.streams.epochs == eve

    def test_a_store_says_its_epoch(self) -> None:
        desk = Desk(store=FakeStore)
        desk.store.epochs[BOB.did] = 77
        link = desk.link(known_epochs=Epochs(77, 0))
        assert link.our_epochs.durable == 77
        assert link.code is None

    def test_its_marks_are_known_still(self) -> None:
        desk = Desk()
        link = desk.link()
        link.bring(1, 2)
        assert payloads(desk.take()) == [b"hello", b"hello"]
        link.end()
        again = desk.link()
        assert again.our_hello.known_epochs == epochs(9)
        assert again.our_hello.marks == marks(0, 2, 0, 0)
        again.bring(1, 2)
        assert desk.take() == []
        assert desk.host.drops[Reason.DUPLICATE, BOB.did] == 2


class TestHowManyAreKept:
    @pytest.fixture(autouse=True)
    def few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(session_map, "_MAX_STRANGERS", 4)

    def known(self, desk: Desk) -> set[Did]:
        return set(desk.peers._sessions)

    def come_and_go(self, desk: Desk, who: Identity) -> None:
        link = desk.link(who)
        link.bring(1)
        desk.take()
        link.end()
        desk.host.run()

    def test_the_one_that_was_linked_longest_ago_goes_first(self) -> None:
        desk = Desk()
        strangers = crowd(7)
        for who in strangers[:4]:
            self.come_and_go(desk, who)
        self.come_and_go(desk, strangers[0])  # is back, so others come before it
        for who in strangers[4:6]:
            self.come_and_go(desk, who)
        assert self.known(desk) == {strangers[n].did for n in (3, 0, 4, 5)}

    def test_one_whose_marks_are_lost_sees_a_newer_epoch(self) -> None:
        """It must not send its volatile messages again: they would arrive twice."""
        desk = Desk()
        first, *others = crowd(5)
        before = desk.peers.session(first.did).sender.streams.epochs.volatile
        for who in (first, *others):
            self.come_and_go(desk, who)
        assert first.did not in self.known(desk)
        assert desk.begin(first).our_epochs.volatile > before

    @pytest.mark.parametrize(
        "why", ["routed", "linked", "opening", "its message waits", "a message waits for it"]
    )
    def test_who_is_more_than_a_stranger_stays(self, why: str) -> None:
        desk = Desk()
        link = desk.begin() if why == "opening" else desk.link()
        if why == "routed":
            desk.route()
            link.end()
        elif why == "its message waits":
            link.bring(1)
            link.end()
        elif why == "a message waits for it":
            link.end()
            kept.append(desk.post())
        for who in crowd(8):
            desk.link(who).end()
            desk.host.run()
        assert BOB.did in self.known(desk)
        assert len(self.known(desk)) == 4
        kept.clear()

    @pytest.mark.parametrize("fallback", [None, "127.0.0.1:9002"], ids=["no fallback", "fallback"])
    @pytest.mark.parametrize(
        "use", [nothing, answered, followed, unanswered, taken], ids=lambda use: use.__name__
    )
    def test_bounded_whatever_strangers_do(
        self, use: Callable[[Desk, FakeLink], None], fallback: str | None
    ) -> None:
        """Each has its key for nothing: whoever answers them keeps none for ever."""
        desk = Desk(fallback=fallback)
        for who in crowd(12):
            link = desk.link(who)
            if use is unanswered:
                desk.post(who)
            elif use in (answered, followed):
                receipt = desk.post(who)
                link.accept()
                link.let_go()
                kept.append(receipt)
                del receipt
            elif use is taken:
                link.bring(1)
                desk.take()
            link.end()
            if use is answered:
                kept.clear()
            desk.endpoint.reroute([desk.session(who)])
            if use is unanswered and fallback is not None:
                desk.session(who).sender.note_attempt_failed(REFUSED)
                desk.session(who).sender.give_up_all(Reason.ATTEMPTS_EXHAUSTED)
            desk.connector.disconnect(desk.session(who))
            desk.host.wait(GRACE + 1)
            kept.clear()  # the application lets go of its receipt, after the link's end
        gc.collect()
        desk.session(BOB)
        desk.host.run()
        assert len(self.known(desk)) <= 4

    def test_by_weight(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(session_map, "_MAX_STRANGERS", 1000)
        desk = Desk()
        strangers = crowd(6)
        self.come_and_go(desk, strangers[0])
        each = desk.peers._stranger_bytes
        assert each == desk.session(strangers[0]).receiver.weight > 2048
        monkeypatch.setattr(session_map, "_MAX_STRANGER_BYTES", 3 * each)
        for who in strangers[1:]:
            self.come_and_go(desk, who)
        assert self.known(desk) == {who.did for who in strangers[3:]}
        assert desk.peers._stranger_bytes == 3 * each

    def test_the_weight_of_one_that_grows_and_returns_is_counted_once(self) -> None:
        desk = Desk()
        self.come_and_go(desk, BOB)
        first = desk.peers._stranger_bytes
        link = desk.link()
        link.bring(2, 3, 4)
        desk.take()
        link.end()
        desk.host.run()
        assert desk.peers._stranger_bytes == desk.session().receiver.weight > first
        assert desk.session().weight == desk.peers._stranger_bytes

    def test_the_weight_of_those_that_are_forgotten_is_free_again(self) -> None:
        desk = Desk()
        for who in crowd(9):
            self.come_and_go(desk, who)
        weights = [session.weight for session in desk.endpoint.sessions.all()]
        assert desk.peers._stranger_bytes == sum(weights)
        assert len(weights) == 4

    def test_the_inbox_bytes_of_one_that_is_forgotten_are_free_again(self) -> None:
        desk = Desk()
        link = desk.link()
        link.bring(1)
        desk.take()
        link.end()
        assert desk.context.budget._used > 0, "its flush waits for the next turn of the loop"
        desk.peers._drop(desk.session())
        assert desk.context.budget._used == 0
        desk.host.run()
        assert desk.context.budget._used == 0

    def test_too_many_at_once_are_too_many_for_a_moment_only(self) -> None:
        desk = Desk()
        links = [desk.link(who) for who in crowd(9)]
        assert len(self.known(desk)) == 9
        for link in links:
            link.end()
        desk.link()
        desk.host.run()
        assert len(self.known(desk)) == 4

    @pytest.mark.parametrize(
        ("way", "is_known"),
        [
            pytest.param(lambda desk: None, False, id="never seen"),
            pytest.param(lambda desk: desk.session(), False, id="heard of"),
            pytest.param(lambda desk: desk.link(), True, id="linked"),
            pytest.param(lambda desk: desk.link().end(), False, id="gone"),
            pytest.param(lambda desk: desk.route(), True, id="routed"),
        ],
    )
    def test_who_is_known(self, way: Callable[[Desk], object], is_known: bool) -> None:
        desk = Desk()
        way(desk)
        assert desk.endpoint.sessions.is_known(BOB.did) == is_known

    def test_all_are_known_and_one_more_comes(self) -> None:
        desk = Desk()
        for who in crowd(6):
            desk.route(who)
            desk.link(who)
        assert len(self.known(desk)) == 6


class Interrupted(SendQueue[Any]):
    """A queue in which another thread does something at a certain place."""

    __slots__ = ()
    before_put: Callable[[], None] | None = None
    before_look: Callable[[], None] | None = None

    def put(self, item: Any, priority: int) -> bool:
        step, Interrupted.before_put = Interrupted.before_put, None
        if step is not None:
            step()
        return super().put(item, priority)

    def put_many(self, items: Any, priority: int) -> int:
        step, Interrupted.before_put = Interrupted.before_put, None
        if step is not None:
            step()
        return super().put_many(items, priority)

    def __bool__(self) -> bool:
        found = super().__bool__()
        step, Interrupted.before_look = Interrupted.before_look, None
        if step is not None:
            step()
            return found or super().__bool__()
        return found


class TestMessagesOfAnotherThread:
    """They come while their peer is forgotten. Each is sent, or its sender is told."""

    @pytest.fixture(autouse=True)
    def uninterrupted(self) -> Iterator[None]:
        yield
        Interrupted.before_put = Interrupted.before_look = None

    def gone(self, desk: Desk) -> Interrupted:
        """Bob has just left, and a sending half is there."""
        desk.link().end()
        lanes = desk.session().sender.lanes
        lanes.__class__ = Interrupted
        assert isinstance(lanes, Interrupted)
        return lanes

    def arrives(self, desk: Desk, *messages: Any) -> None:
        link = desk.link()
        desk.host.run()
        assert link.messages == list(messages)
        for message in messages:
            assert link.payloads.count(b"%d" % number_of(message.message_id)) == 1

    def numbered(self, desk: Desk, count: int = 1) -> list[Any]:
        messages = [desk.message() for _ in range(count)]
        for message in messages:
            message.body = b"%d" % number_of(message.message_id)
        return messages

    @pytest.mark.parametrize("count", [1, 3], ids=["one", "many"])
    def test_forgotten_before_it_is_queued(self, count: int) -> None:
        desk = Desk()
        self.gone(desk)
        old = desk.session().sender
        Interrupted.before_put = lambda: desk.endpoint.sessions.forget_if_stranger(desk.session())
        messages = self.numbered(desk, count)
        if count == 1:
            desk.endpoint.submitter.submit(messages[0], 1)
        else:
            assert desk.endpoint.submitter.submit_many(messages) == count
        assert desk.session().sender is not old
        assert not old.lanes
        self.arrives(desk, *messages)

    def test_forgotten_between_the_first_and_the_others(self) -> None:
        desk = Desk()
        self.gone(desk)
        old = desk.session().sender
        messages = self.numbered(desk, 3)

        def second() -> None:
            # The first was sent, answered and let go of, all in one moment.
            old.give_up_all(Reason.EXPIRED)
            desk.endpoint.sessions.forget_if_stranger(desk.session())

        def first() -> None:
            Interrupted.before_put = second

        Interrupted.before_put = first
        assert desk.endpoint.submitter.submit_many(messages) == 3
        assert not old.lanes
        assert messages[0].reason is Reason.EXPIRED
        self.arrives(desk, *messages[1:])

    def test_forgotten_between_the_others_and_the_look(self) -> None:
        desk = Desk(send_queue_limit=2, critical_reserve=0)
        self.gone(desk)
        messages = self.numbered(desk, 4)
        Interrupted.before_put = lambda: desk.endpoint.sessions.forget_if_stranger(desk.session())
        assert desk.endpoint.submitter.submit_many(messages) == 2
        self.arrives(desk, *messages[:2])

    def test_queued_while_it_is_forgotten(self) -> None:
        desk = Desk()
        lanes = self.gone(desk)
        (message,) = self.numbered(desk)
        sender = desk.session().sender

        def queue() -> None:
            assert SendQueue.put(lanes, message, message.options.stream)

        def look() -> None:
            Interrupted.before_look = queue  # at the second look, which is under the lock

        Interrupted.before_look = look
        desk.endpoint.sessions.forget_if_stranger(desk.session())
        assert desk.session().sender is sender
        desk.endpoint.submitter._queued(desk.session(), sender, (message,))
        self.arrives(desk, message)

    @pytest.mark.parametrize("is_back", [True, False], ids=["it is back", "it is away"])
    def test_the_whole_session_was_dropped(
        self, is_back: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        desk = Desk()
        self.gone(desk)
        desk.session().sender.lanes.__class__ = SendQueue
        old = desk.session()
        desk.endpoint.sessions.forget_if_stranger(old)
        assert not old.has_sender
        (message,) = self.numbered(desk)
        check = desk.endpoint.submitter._check
        links: list[Any] = []

        def slow_check(did: Did, payload_size: int, *, is_durable: bool) -> Any:
            found = check(did, payload_size, is_durable=is_durable)
            if not links:
                links.append(None)
                desk.peers._drop(old)
                if is_back:
                    links[0] = desk.link()
            return found

        monkeypatch.setattr(desk.endpoint.submitter, "_check", slow_check)
        if is_back:
            desk.endpoint.submitter.submit(message, 1)
            desk.host.run()
            assert links[0].messages == [message]
        else:
            with pytest.raises(UnknownPeerError):
                desk.endpoint.submitter.submit(message, 1)
            assert message.state is QUEUED
        assert not any(session.sender.lanes for session in [old] if session.has_sender)

    def test_queued_while_there_are_too_many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(session_map, "_MAX_STRANGERS", 1)
        desk = Desk()
        lanes = self.gone(desk)
        (message,) = self.numbered(desk)

        def queue() -> None:
            assert SendQueue.put(lanes, message, message.options.stream)

        def look() -> None:
            Interrupted.before_look = queue

        Interrupted.before_look = look
        session = desk.session()
        desk.session(EVE)
        desk.host.run()
        assert desk.endpoint.sessions.get(BOB.did) is session
        desk.endpoint.submitter._queued(session, session.sender, (message,))
        self.arrives(desk, message)

    def test_ended_by_the_loop_while_it_was_forgotten(self) -> None:
        desk = Desk()
        self.gone(desk)
        (message,) = self.numbered(desk)
        old = desk.session().sender
        put = desk.store.put

        def put_and_end(*args: Any, **options: Any) -> int:
            count = put(*args, **options)
            old.give_up_all(Reason.EXPIRED)
            desk.endpoint.sessions.forget_if_stranger(desk.session())
            return count

        desk.store.put = put_and_end  # type: ignore[method-assign]
        desk.endpoint.submitter.submit(message, 1)
        assert message.reason is Reason.EXPIRED
        assert not desk.session().sender.lanes, "what has ended is not queued once more"

    def test_two_threads_make_one_sending_half(self) -> None:
        desk = Desk()
        session = desk.session()
        desk.route()
        made = session.sender
        assert desk.peers._new_sender(session) is made

    def test_two_threads_make_one_session(self) -> None:
        desk = Desk()
        session = desk.session()

        class Late(dict[Any, Any]):
            """Whoever looks first finds nothing, and another thread was quicker."""

            looks = 0

            def get(self, key: Any, default: Any = None) -> Any:
                self.looks += 1
                return None if self.looks == 1 else super().get(key, default)

        desk.peers._sessions = Late(desk.peers._sessions)
        assert desk.session() is session
        assert desk.peers._sessions.looks == 2


def test_a_receipt_that_is_let_go_of_later_keeps_nobody() -> None:
    desk = Desk()
    link = desk.link()
    receipt = desk.post()
    link.accept()
    link.end(RESET)
    assert halves(desk) == (True, True), "its application may still answer"
    again = desk.link()
    again.sign(frames.HANDLED_ENVELOPES, link.batches[0][0].leaves[0])
    assert receipt.state is DeliveryState.HANDLED
    again.end()
    assert halves(desk) == (False, False)
    assert WRITTEN in [step.state for step in receipt.history]


class TestThreads:
    """Other threads add sessions, and look at them. Only the loop forgets them."""

    def test_a_session_that_is_in_use_is_not_dropped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Between the proof of a DID and its HELLO, another thread adds a session."""
        monkeypatch.setattr(session_map, "_MAX_STRANGERS", 1)
        desk = Desk(fallback=THERE)
        session = desk.endpoint.proven(BOB.did)
        thread = threading.Thread(target=desk.peers.session, args=(EVE.did,))
        thread.start()
        thread.join()
        link = FakeLink(desk, session, BOB, is_dialed=False)
        session.receiver.link_granted(link)
        desk.host.run()
        assert desk.peers.get(BOB.did) is session
        link.say_hello()
        assert desk.session().link is link

    def test_many_new_ones_are_looked_through_in_one_pass(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(session_map, "_MAX_STRANGERS", 2)
        desk = Desk()
        for n in range(1, 20):
            desk.peers.session(Identity.from_seed(n.to_bytes(32, "big")).did)
        assert len(desk.peers.all()) == 19
        assert len(desk.host.soon) == 1
        desk.host.run()
        assert len(desk.peers.all()) == 2

    def test_status_makes_no_sending_half(self) -> None:
        desk = Desk()
        session = desk.session()
        status = session.status()
        assert not session.has_sender
        assert status.queued == dict.fromkeys(Priority, 0)
        assert (status.in_flight, status.failed_attempts, status.dropped) == (0, 0, {})
        assert desk.endpoint.status() == {}
