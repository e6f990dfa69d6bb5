"""`Endpoint`: what may be queued, denials with messages in every place, and the memory of v1."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from peerkit import (
    HERE,
    REFUSED,
    THERE,
    Desk,
    FakeStore,
    ManualClock,
    closed,
    payloads,
    still_clock,
)

from linkkit import ALICE, BOB, EVE
from signedwire.delivery import log_limiter
from signedwire.delivery import peer_session as peer_session_module
from signedwire.delivery.log_limiter import LogLimiter
from signedwire.delivery.message import IncomingMessage
from signedwire.delivery.peer_session import PeerSession
from signedwire.errors import (
    ClosedError,
    DeliveryFailedError,
    NotAllowedError,
    PayloadTooLargeError,
    UnknownPeerError,
)
from signedwire.home import Phase
from signedwire.identity import Identity
from signedwire.types import DeliveryState, Did, PayloadType, Priority, Reason, Target
from signedwire.wire import link_frames as frames
from signedwire.wire.envelope import SignedEnvelope

FAILED, QUEUED = DeliveryState.FAILED, DeliveryState.QUEUED


@pytest.fixture(autouse=True)
def clock() -> Iterator[ManualClock]:
    with still_clock() as still:
        yield still


class TestWhatMayBeQueued:
    @pytest.mark.parametrize(
        ("phase", "words"),
        [(Phase.NEW, "not started"), (Phase.CLOSING, "closed"), (Phase.ENDED, "closed")],
        ids=["new", "closing", "ended"],
    )
    def test_a_node_that_is_not_open(self, phase: Phase, words: str) -> None:
        desk = Desk()
        desk.route()
        desk.host.is_open, desk.host.home.phase = False, phase
        with pytest.raises(ClosedError, match=words):
            desk.post()

    @pytest.mark.parametrize(
        ("way", "is_known"),
        [
            pytest.param(lambda desk: None, False, id="nothing is known"),
            pytest.param(lambda desk: desk.session(), False, id="it was heard of"),
            pytest.param(lambda desk: desk.route(), True, id="a route"),
            pytest.param(lambda desk: desk.link(), True, id="a link"),
            pytest.param(lambda desk: desk.link().end(), True, id="a link that has just ended"),
            pytest.param(
                lambda desk: (desk.link().end(), desk.host.wait(6)),
                False,
                id="a link that ended longer ago",
            ),
            pytest.param(
                lambda desk: (desk.route(), desk.route(address=None)), False, id="a route once"
            ),
        ],
    )
    def test_there_is_a_way(self, way: Callable[[Desk], Any], is_known: bool) -> None:
        desk = Desk()
        way(desk)
        assert desk.peers.has_way(BOB.did) == is_known
        if is_known:
            desk.post()
        else:
            with pytest.raises(UnknownPeerError):
                desk.post()

    def test_a_fallback_is_a_way(self) -> None:
        desk = Desk(fallback="127.0.0.1:9001")
        desk.post()
        assert desk.connector.calls == [("connect", BOB.did, HERE)]

    def test_a_store_keeps_it_for_whoever(self) -> None:
        desk = Desk(store=FakeStore)
        message = desk.post()
        assert message.state is DeliveryState.PERSISTED
        assert not desk.peers.has_way(BOB.did)
        desk.store.note_v2(BOB.did)
        assert desk.peers.has_way(BOB.did), "it has linked to us once, and may again"

    @pytest.mark.parametrize(
        ("wire", "size", "is_too_large"),
        [
            pytest.param("v2", 2000, False, id="v2 at the limit"),
            pytest.param("v2", 2001, True, id="v2 over it"),
            pytest.param("v1", 1000, False, id="v1 at the limit"),
            pytest.param("v1", 1001, True, id="v1 over it"),
        ],
    )
    def test_its_size(self, wire: str, size: int, is_too_large: bool) -> None:
        desk = Desk(max_payload_size=2000, max_v1_payload_size=1000, v1_peers="all")
        desk.route()
        desk.session().wire = "v1" if wire == "v1" else "v2"
        if not is_too_large:
            desk.post(payload=bytes(size))
            return
        with pytest.raises(
            PayloadTooLargeError, match=f"limit of {2000 if wire == 'v2' else 1000}"
        ):
            desk.post(payload=bytes(size))
        assert desk.host.drops[Reason.TOO_LARGE, BOB.did] == 1

    @pytest.mark.parametrize("is_many", [False, True], ids=["one", "many"])
    def test_attempts_that_failed_before_are_none_of_its_own(self, is_many: bool) -> None:
        desk = Desk(max_attempts=2)
        desk.route()
        sender = desk.session().sender
        sender.note_attempt_failed(REFUSED)
        messages = [desk.message() for _ in range(3)]
        if is_many:
            assert desk.endpoint.submitter.submit_many(messages) == 3
        else:
            for message in messages:
                desk.endpoint.submitter.submit(message, 5)
        sender.note_attempt_failed(REFUSED)
        assert [message.state for message in messages] == [QUEUED] * 3
        sender.note_attempt_failed(REFUSED)
        assert [message.state for message in messages] == [FAILED] * 3

    @pytest.mark.parametrize("is_durable", [False, True], ids=["no store", "store"])
    @pytest.mark.parametrize("count", [1, 3])
    def test_many(self, count: int, is_durable: bool) -> None:
        desk = Desk(store=lambda host: FakeStore(host, is_durable=is_durable))
        desk.route()
        link = desk.link()
        messages = [desk.message() for _ in range(count)]
        assert desk.endpoint.submitter.submit_many(messages) == count
        desk.store.commit()
        desk.endpoint.send_waiting(desk.session())
        desk.host.run()
        assert link.messages == messages

    def test_as_many_as_there_is_room_for(self) -> None:
        desk = Desk(send_queue_limit=3, critical_reserve=0)
        desk.route()
        desk.post()
        assert desk.endpoint.submitter.submit_many([desk.message() for _ in range(5)]) == 2
        assert desk.endpoint.submitter._put_many([desk.message()]) == 0

    def test_one_wake_up_for_many(self) -> None:
        desk = Desk()
        desk.route()
        desk.route(EVE)
        for who in (BOB, EVE, BOB, BOB, EVE):
            desk.endpoint.submitter.submit(desk.message(who), 5)
        assert len(desk.host.soon) == 1
        desk.host.run()
        assert [call[1] for call in desk.connector.calls] == [BOB.did, EVE.did]

    def test_dead_letters_that_it_replaces(self) -> None:
        desk = Desk(store=FakeStore)
        message = desk.message()
        desk.endpoint.submitter.submit(message, 5, replaces=(7, 8))
        assert desk.store.called("put") == [(BOB.did, 1, (7, 8))]
        assert not desk.host.soon, "the commit brings it"

    def test_a_node_that_was_closed_by_another_thread_meanwhile(self) -> None:
        desk = Desk()
        desk.route()
        desk.endpoint.end()
        message = desk.post()
        assert (message.state, message.reason) == (FAILED, Reason.CLOSED)


class TestRoutes:
    def test_they_are_looked_up_once_for_each_change(self, monkeypatch: pytest.MonkeyPatch) -> None:
        desk = Desk()
        asked: list[Did] = []
        resolve = desk.routes.resolve

        def look(did: Did) -> Target | None:
            asked.append(did)
            return resolve(did)

        monkeypatch.setattr(desk.routes, "resolve", look)
        session = desk.session()
        assert [desk.endpoint.sessions.route(session) for _ in range(3)] == [None] * 3
        assert len(asked) == 1
        desk.route()
        assert desk.endpoint.sessions.route(session) == THERE
        assert len(asked) == 2

    def test_a_peer_moves(self) -> None:
        desk = Desk()
        desk.route()
        desk.route(EVE)
        desk.post()
        desk.post(EVE)
        desk.connector.calls.clear()
        desk.route(address=HERE)
        desk.endpoint.reroute([desk.session(), desk.session(EVE)])
        assert desk.connector.calls == [
            ("disconnect", BOB.did, None),
            ("connect", BOB.did, HERE),
        ]

    def test_a_new_route_brings_only_what_waits(self) -> None:
        desk = Desk()
        for who in (BOB, EVE):
            desk.link(who).end()
            desk.route(who)
        desk.post(EVE)
        desk.connector.calls.clear()
        desk.session(EVE).sender.dialer = None
        desk.endpoint.send_stranded()
        assert desk.connector.calls == [("connect", EVE.did, THERE)]


def on_its_link(desk: Desk) -> Any:
    desk.link()
    return desk.post()


def in_the_queue(desk: Desk) -> Any:
    desk.route()
    return desk.post()


def waiting_for_its_return(desk: Desk) -> Any:
    desk.link().end()
    return desk.post()


def in_the_queue_of_a_link(desk: Desk) -> Any:
    desk.store.is_held_now = True
    desk.link()
    return desk.post()


class TestRequeued:
    """What a v1 connection had taken."""

    @pytest.mark.parametrize("is_fault", [None, True, False])
    def test_it_is_brought_again(self, is_fault: bool | None) -> None:
        desk = Desk(max_attempts=1)
        message = in_the_queue(desk)
        session = desk.session()
        desk.connector.calls.clear()
        taken = session.sender.lanes.remove_if(lambda _: True)
        if is_fault is None:
            desk.endpoint.requeue(session, taken)
        else:
            desk.endpoint.requeue(session, taken, is_fault=is_fault)
        assert desk.host.counters.rewritten == 1
        # Its attempt is counted where nobody says otherwise. It was the last one.
        dialed = [("connect", BOB.did, THERE)] if is_fault is False else []
        assert desk.connector.calls == dialed
        assert message.state is (QUEUED if is_fault is False else FAILED)
        if is_fault is None:
            assert message.detail == "the connection broke while it was being written"

    def test_nothing_is_brought_for_nothing(self) -> None:
        desk = Desk()
        desk.route()
        desk.endpoint.requeue(desk.session(), [])
        assert desk.connector.calls == []
        assert desk.host.counters.rewritten == 0


class TestRouteAdded:
    """A peer without a route has left, and a message waits for its return."""

    def test_it_is_dialed_in_the_next_turn(self) -> None:
        desk = Desk()
        message = waiting_for_its_return(desk)
        desk.route()
        for _ in range(3):
            desk.endpoint.on_routes()
        assert len(desk.host.soon) == 1
        desk.host.run()
        assert desk.connector.calls == [("connect", BOB.did, THERE)]
        assert not desk.host.timers
        desk.host.wait(6)
        assert message.state is QUEUED

    def test_it_is_dialed_after_the_wait_if_nobody_has_seen_the_route(self) -> None:
        desk = Desk()
        message = waiting_for_its_return(desk)
        desk.route()
        desk.host.wait(6)
        assert message.state is QUEUED
        assert desk.connector.calls == [("connect", BOB.did, THERE)]

    def test_a_peer_that_has_returned_is_waited_for_no_more(self) -> None:
        desk = Desk()
        message = waiting_for_its_return(desk)
        assert desk.host.timers
        link = desk.link()
        assert not desk.host.timers
        desk.host.wait(6)
        assert link.messages == [message]
        assert not message.is_final

    def test_a_node_that_is_not_open_dials_nobody(self) -> None:
        desk = Desk()
        waiting_for_its_return(desk)
        desk.host.is_open = False
        desk.endpoint.on_routes()
        assert not desk.host.soon


class TestCap:
    @pytest.mark.parametrize("is_dialed", [True, False])
    def test_a_link_has_it_from_its_opening_on(self, *, is_dialed: bool) -> None:
        desk = Desk()
        desk.route()
        desk.routes.max_rates[BOB.did] = 5000.0
        window = desk.link(is_dialed=is_dialed).window
        assert window is not None
        assert window.max_rate == 5000.0
        other = desk.link(EVE).window
        assert other is not None
        assert other.max_rate is None

    def test_an_open_link_follows_the_table(self) -> None:
        desk = Desk()
        window = desk.link().window
        assert window is not None
        for rate in (5000.0, 6000.0):
            desk.routes.max_rates[BOB.did] = rate
            desk.endpoint.on_routes()
            desk.endpoint.on_routes()
            desk.host.run()
            assert window.max_rate == rate
        desk.routes.max_rates.clear()
        desk.endpoint.on_routes()
        desk.host.run()
        assert window.max_rate is None


class TestDenied:
    @pytest.mark.parametrize(
        "place",
        [on_its_link, in_the_queue, waiting_for_its_return, in_the_queue_of_a_link],
        ids=lambda place: place.__name__,
    )
    def test_a_message_to_it(self, place: Callable[[Desk], Any]) -> None:
        desk = Desk()
        message = place(desk)
        desk.access.deny(BOB.did)
        assert not message.is_final, "the caller may be a callback in the middle of anything"
        desk.host.run()
        assert (message.state, message.reason) == (FAILED, Reason.DENIED)
        assert desk.host.drops[Reason.DENIED, BOB.did] == 1
        assert desk.session().link is None
        assert desk.session().sender.dialer is None
        with pytest.raises(NotAllowedError, match="is denied by") as caught:
            desk.post()
        assert "change `deny`, the allow lists or the access file" in caught.value.hint
        with pytest.raises(DeliveryFailedError) as failed:
            message.raise_if_failed()
        assert caught.value.hint in failed.value.hint
        assert "node.dead.retry(id)" in failed.value.hint

    def test_everywhere_at_once(self) -> None:
        desk = Desk(store=FakeStore)
        desk.route()
        link = desk.link()
        desk.route(EVE)
        eve = desk.link(EVE)
        accepted = desk.post()
        link.accept()
        flying = desk.post()
        desk.store.is_held_now = True
        queued = desk.post()
        link.bring(1, payload=b"in the inbox")
        eve.bring(1, payload=b"of another")
        desk.store.commit()
        link.bring(2, payload=b"at the disk")
        to_eve = desk.post(EVE)
        desk.access.deny(BOB.did)
        desk.store.commit()
        desk.host.run()
        assert link.code == frames.CLOSE_DENIED
        assert accepted.state is DeliveryState.ACCEPTED
        assert [flying.reason, queued.reason] == [Reason.DENIED] * 2
        assert to_eve.reason is None
        assert payloads(desk.take()) == [b"of another"]
        # Those two; what was in the inbox, and what was at the disk.
        assert desk.host.drops[Reason.DENIED, BOB.did] == 4
        assert desk.store.called("give_up_denied") == [(BOB.did,)]
        desk.store.commit()
        told = [word for (words,) in desk.store.called("acked") for word in words]
        assert sorted(told) == [b"at the disk", b"in the inbox"]
        assert not [one for one in link.said if one[0] in ("handled", "refused")]
        assert not eve.is_over

    def test_who_is_let_in_again_hears_what_became_of_its_messages(self) -> None:
        desk = Desk()
        link = desk.link()
        link.bring(1)
        desk.access.deny(BOB.did)
        desk.host.run()
        desk.access.undeny(BOB.did)
        again = desk.link()
        desk.host.run()
        assert [one.reason for one in again.heard("refused")[0]] == [Reason.NOT_ALLOWED]
        assert desk.context.budget._used == 0

    def test_it_was_let_in_again_before_the_loop_came_to_it(self) -> None:
        desk = Desk()
        message = in_the_queue(desk)
        desk.access.deny(BOB.did)
        desk.access.undeny(BOB.did)
        desk.host.run()
        assert message.state is QUEUED
        assert not desk.endpoint.give_up_denied(desk.session())

    def test_let_in_between_two_looks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What came after that is sent."""
        desk = Desk()
        message = in_the_queue(desk)
        answers = iter([True, False])
        monkeypatch.setattr(desk.access, "is_denied", lambda did: next(answers, False))
        desk.endpoint.send_waiting(desk.session())
        assert message.state is QUEUED

    @pytest.mark.parametrize("is_open", [True, False], ids=["open", "not open"])
    def test_a_node_that_is_not_open_enforces_nothing(self, is_open: bool) -> None:
        desk = Desk()
        link = desk.link()
        desk.host.is_open = is_open
        desk.access.deny(BOB.did)
        desk.host.run()
        assert link.is_over == is_open

    def test_by_another_thread_many_are_counted_in_one_go(self) -> None:
        desk = Desk()
        link = desk.link()
        link.bring(1, 2)
        link.bring(3)
        desk.access.on_change = None
        desk.access.deny(BOB.did)
        messages = list(iter(desk.inbox.take, None))
        assert all(map(desk.context.denials.is_from_denied, messages))
        before = len(desk.host.soon)
        desk.context.denials.discard(messages[:2])
        desk.context.denials.discard(messages[2:])
        assert desk.host.dropped(Reason.DENIED) == 0
        assert len(desk.host.soon) == before + 1
        desk.host.run()
        assert desk.host.drops[Reason.DENIED, BOB.did] == 3

    def test_a_v1_message_has_nobody_to_be_told(self) -> None:
        desk = Desk()
        envelope = SignedEnvelope.sign(
            BOB,
            ALICE.did,
            b"x",
            sequence_number=1,
            priority=Priority.NORMAL,
            payload_type=PayloadType.RAW,
        )
        assert isinstance(envelope.signature, bytes)
        message = IncomingMessage(envelope.body, envelope.signature)
        assert not desk.context.denials.is_from_denied(message)
        desk.access.deny(BOB.did)
        assert desk.context.denials.is_from_denied(message)
        desk.context.denials.discard([message])
        desk.host.run()
        assert desk.host.drops[Reason.DENIED, BOB.did] == 1

    def test_by_another_thread_its_credit_is_freed_in_the_loop(self) -> None:
        desk = Desk()
        link = desk.link()
        before = link.all_unused
        link.bring(1)
        messages = list(iter(desk.inbox.take, None))
        used = link.all_unused
        desk.host.is_in_loop = False
        desk.context.denials.discard(messages)
        assert link.all_unused == used
        desk.host.is_in_loop = True
        desk.host.run()
        assert link.all_unused == before

    def test_after_the_end_of_the_node_it_is_dropped_all_the_same(self) -> None:
        desk = Desk()
        desk.link().bring(1)
        messages = list(iter(desk.inbox.take, None))
        desk.host.home.phase = Phase.ENDED
        desk.context.denials.discard(messages)
        desk.host.run()
        assert desk.host.drops[Reason.DENIED, BOB.did] == 1


class TestLogLimiter:
    def test_once_a_minute_for_each(self, clock: ManualClock) -> None:
        log = LogLimiter()
        steps = [(0, False), (59, True), (1, False), (1, True)]
        for seconds, is_logged in steps:
            clock.move(seconds)
            assert log.note_attempt(BOB.did) == is_logged
        assert not log.note_attempt(EVE.did)

    def test_ever_new_keys(self, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(log_limiter, "_MAX_LOGGED", 3)
        log = LogLimiter()
        keys = [Identity.from_seed(n.to_bytes(32, "big")).did for n in range(1, 9)]
        assert [log.note_attempt(key) for key in keys[:5]] == [False, False, False, True, True]
        assert len(log._logged) == 3
        clock.move(61)
        assert not log.note_attempt(keys[6])


def wire_of(session: PeerSession) -> str | None:
    """Which wire the peer speaks now."""
    return session.wire


class TestV1:
    def desk(self, **config: Any) -> Desk:
        desk = Desk(**({"v1_peers": "all"} | config))
        desk.route()
        return desk

    def test_two_hang_ups_in_a_row_make_a_v1_peer(self) -> None:
        desk = self.desk()
        session = desk.session()
        desk.post()
        desk.connector.calls.clear()
        assert desk.endpoint.note_hang_up(session)
        assert wire_of(session) is None
        assert desk.endpoint.note_hang_up(session)
        assert wire_of(session) == "v1"
        desk.host.run()
        assert desk.connector.calls == [("connect", BOB.did, THERE)]

    def test_a_link_between_them(self) -> None:
        desk = self.desk()
        session = desk.session()
        assert desk.endpoint.note_hang_up(session)
        desk.link()
        assert session.hang_ups == 0

    @pytest.mark.parametrize("v1_peers", ["nobody", "others", "it", "all"])
    def test_who_may(self, v1_peers: str) -> None:
        names: dict[str, Any] = {
            "nobody": (),
            "others": (EVE.did,),
            "it": (BOB.did,),
            "all": "all",
        }
        desk = self.desk(v1_peers=names[v1_peers])
        session = desk.session()
        may = v1_peers in ("it", "all")
        assert desk.context.is_v1_allowed(BOB.did) == may
        assert [desk.endpoint.note_hang_up(session) for _ in range(3)] == [may] * 3
        assert wire_of(session) == ("v1" if may else None)

    @pytest.mark.parametrize("how", ["remembered", "forgotten as a stranger", "by the store"])
    def test_never_again_once_it_has_spoken_v2(self, how: str) -> None:
        """However often somebody on the path hangs up on TLS."""
        desk = self.desk() if how != "by the store" else Desk(store=FakeStore, v1_peers="all")
        if how == "by the store":
            desk.store.note_v2(BOB.did)
        else:
            desk.link().end()
        if how == "forgotten as a stranger":
            desk.peers._drop(desk.session())
            assert wire_of(desk.session()) is None
        session = desk.session()
        assert not desk.endpoint.may_speak_v1(session)
        assert [desk.endpoint.note_hang_up(session) for _ in range(5)] == [False] * 5
        assert wire_of(session) != "v1"
        assert session.hang_ups == 0

    def test_it_comes_over_v2_after_all(self) -> None:
        desk = self.desk()
        session = desk.session()
        session.wire = "v1"
        desk.post()
        desk.connector.calls.clear()
        link = desk.link()
        assert wire_of(session) == "v2"
        assert desk.connector.calls == [("disconnect", BOB.did, None)]
        desk.host.run()
        assert len(link.messages) == 1
        assert not desk.endpoint.may_speak_v1(session)

    def test_the_store_is_told_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        desk = Desk(store=FakeStore)
        told: list[Did] = []
        note = desk.store.note_v2

        def tell(did: Did) -> None:
            told.append(did)
            note(did)

        monkeypatch.setattr(desk.store, "note_v2", tell)
        desk.link().end()
        desk.link().end()
        assert told == [BOB.did]

    def test_only_whom_v1_is_allowed_to_is_remembered_for_that(self) -> None:
        desk = Desk(v1_peers=(BOB.did,))
        for who in (BOB, EVE):
            desk.link(who)
        assert bytes(BOB.did) in desk.endpoint.v2_speakers
        assert bytes(EVE.did) not in desk.endpoint.v2_speakers

    def test_after_a_v1_connection_one_hang_up_is_enough(self) -> None:
        """It may speak v2 when it is back."""
        desk = self.desk()
        session = desk.session()
        session.wire = "v1"
        desk.endpoint.note_v1_over(session)
        assert wire_of(session) is None
        assert desk.endpoint.note_hang_up(session)
        assert wire_of(session) == "v1"

    @pytest.mark.parametrize("wire", ["v2", None])
    def test_the_end_of_a_v1_connection_changes_no_other(self, wire: Any) -> None:
        desk = self.desk()
        session = desk.session()
        session.wire = wire
        desk.endpoint.note_v1_over(session)
        assert (wire_of(session), session.hang_ups) == (wire, 0)

    def test_a_node_without_v2_stays_with_v1(self) -> None:
        desk = Desk(wire="v1", v1_peers="all")
        session = desk.session()
        session.wire = "v1"
        desk.endpoint.note_v1_over(session)
        assert wire_of(session) == "v1"

    def test_who_speaks_v1_and_may_not(self) -> None:
        desk = self.desk(v1_peers=(EVE.did,))
        desk.session().wire = "v1"
        with pytest.raises(NotAllowedError, match="speaks only v1"):
            desk.post()
        assert desk.host.drops[Reason.NOT_ALLOWED, BOB.did] == 1


class TestGoodbye:
    def test_every_link_hears_it(self) -> None:
        desk = Desk()
        one, other, opening = desk.link(), desk.link(EVE), desk.begin(ALICE)
        desk.endpoint.sessions.session(Identity.from_seed(bytes(32)).did)  # and one without a link
        desk.endpoint.close_links()
        assert (one.code, other.code) == (frames.CLOSE_DONE, frames.CLOSE_DONE)
        assert not opening.is_over, "it has said nothing yet: whoever opens it ends it"

    def test_without_a_connector(self) -> None:
        """A node that is closed before it has one."""
        desk = Desk()
        desk.endpoint.connector = None
        link = desk.link()
        desk.post()
        link.accept()
        desk.access.deny(BOB.did)
        desk.host.run()
        assert link.code == frames.CLOSE_DENIED


def test_the_grace_is_what_the_tests_wait_for() -> None:
    assert peer_session_module._RETURN_GRACE == 5.0
    assert closed(frames.CLOSE_DONE).is_orderly
