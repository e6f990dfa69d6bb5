"""Subscribers: how long a subscription lasts, how many there are, and what is forgotten."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
from peerkit import Desk, ManualClock, still_clock

from bodykit import encode_v2_body
from linkkit import ALICE, BOB
from signedwire import ControlType, Did, Kind, Priority, Reason
from signedwire.delivery.message import IncomingMessage
from signedwire.delivery.receipt import Receipt
from signedwire.delivery.subscribers import GRACE, Subscribers
from signedwire.types import PayloadType
from signedwire.wire.envelope import MerklePath
from wirekit import CAROL, identity, random_seed


@pytest.fixture
def still() -> Iterator[ManualClock]:
    with still_clock() as clock:
        yield clock


class Answers:
    """Notes how each message was answered."""

    def __init__(self) -> None:
        self.given: list[tuple[Reason | None, str]] = []

    def taken(self, message: IncomingMessage) -> None:
        raise AssertionError("the test hands out")

    def reply(self, message: IncomingMessage, payload: bytes, payload_type: PayloadType) -> Receipt:
        raise AssertionError("nobody replies to a control message")

    def acked(self, message: IncomingMessage) -> None:
        self.given.append((None, ""))

    def nacked(self, message: IncomingMessage, reason: Reason, text: str) -> None:
        self.given.append((reason, text))


class FakeSession:
    """The session of a peer, as far as subscribers ask it."""

    def __init__(self, since: float) -> None:
        self.link: object | None = object()
        self.since = since
        self.volatile = 1
        self.receiver = self

    @property
    def epochs(self) -> FakeSession:
        return self


class Table:
    """Subscribers, and the sessions of their peers."""

    def __init__(self, still: ManualClock) -> None:
        self.clock = still
        self.desk = Desk()
        self.sessions: dict[Did, Any] = {}
        self.new: list[tuple[Did, str]] = []
        self.may_handle = True
        self.answers = Answers()
        self.subscribers = Subscribers(
            self.desk.context,
            self.sessions.get,
            lambda _: self.may_handle,
            lambda did, subject: self.new.append((did, subject)),
        )

    def link(self, did: Did) -> FakeSession:
        session = self.sessions.get(did)
        if session is None:
            session = self.sessions[did] = FakeSession(self.clock.monotonic())
        if session.link is None:
            session.link = object()
            self.subscribers.linked(did)
        return session

    def leave(self, did: Did) -> None:
        self.sessions[did].link = None
        self.sessions[did].since = self.clock.monotonic()
        self.subscribers.unlinked(did)

    def control(
        self, did: Did, subject: str, type_: ControlType, payload: bytes = b""
    ) -> tuple[Reason | None, str]:
        """A control message arrives; return its answer."""
        self.link(did)
        body = encode_v2_body(
            bytes(did) + bytes(ALICE.did),
            payload,
            bytes(16),
            1,
            1,
            Priority.HIGH,
            PayloadType.RAW,
            1,
            0,
            Kind.CONTROL,
            subject.encode(),
            control_type=type_,
        )
        path = MerklePath(0, 1, bytes(64))
        message = IncomingMessage(body, path, 0, None, self.answers)
        assert self.subscribers.take(message)
        return self.answers.given.pop()

    def subscribe(self, did: Did, subject: str = "status") -> tuple[Reason | None, str]:
        return self.control(did, subject, ControlType.SUBSCRIBE)

    def unsubscribe(self, did: Did, subject: str = "status") -> tuple[Reason | None, str]:
        return self.control(did, subject, ControlType.UNSUBSCRIBE)

    def of(self, subject: str = "status") -> list[Did]:
        return self.subscribers.of(subject)


OK = (None, "")


@functools.cache
def did(number: int) -> Did:
    return identity(number + 1000).did


@pytest.fixture
def table(still: ManualClock) -> Table:
    return Table(still)


def test_subscribing_is_acknowledged_and_new_once(table: Table) -> None:
    assert table.subscribe(BOB.did) == OK
    assert table.subscribe(BOB.did) == OK
    assert table.subscribe(CAROL.did) == OK
    assert table.of() == [BOB.did, CAROL.did]
    assert table.of("other") == []
    assert table.new == [(BOB.did, "status"), (CAROL.did, "status")]
    assert table.unsubscribe(BOB.did) == OK
    assert table.unsubscribe(BOB.did) == OK
    assert table.of() == [CAROL.did]
    assert table.subscribe(BOB.did) == OK
    assert table.new[2:] == [(BOB.did, "status")]


def test_a_message_that_may_not_be_handled_changes_nothing(table: Table) -> None:
    table.may_handle = False
    with pytest.raises(IndexError):  # there is no answer of ours
        table.subscribe(BOB.did)
    assert table.of() == []


def test_it_lasts_for_the_link_and_60_seconds(table: Table) -> None:
    table.subscribe(BOB.did)
    table.clock.move(100_000)
    assert table.of() == [BOB.did]
    table.leave(BOB.did)
    table.clock.move(GRACE)
    assert table.of() == [BOB.did]
    table.link(BOB.did)
    table.clock.move(2 * GRACE)
    assert table.of() == [BOB.did]
    table.leave(BOB.did)
    table.clock.move(GRACE + 0.001)
    assert table.of() == []
    assert len(table.subscribers) == 0


def test_after_that_the_same_peer_is_new(table: Table) -> None:
    table.subscribe(BOB.did)
    table.leave(BOB.did)
    table.clock.move(GRACE + 1)
    table.link(BOB.did)
    assert table.of() == []  # although nobody asked meanwhile
    assert table.subscribe(BOB.did) == OK
    assert len(table.new) == 2
    # A link that another one replaces does not end.
    table.clock.move(GRACE + 1)
    table.subscribers.linked(BOB.did)
    assert table.of() == [BOB.did]


def test_a_session_that_was_forgotten_has_no_subscription(table: Table) -> None:
    table.subscribe(BOB.did)
    del table.sessions[BOB.did]
    assert table.of() == []
    table.subscribe(BOB.did)
    table.sessions[BOB.did] = FakeSession(table.clock.monotonic())
    assert table.of() == []


def test_a_restarted_peer_begins_anew(table: Table) -> None:
    table.subscribe(BOB.did, "one")
    table.subscribe(BOB.did, "two")
    table.sessions[BOB.did].volatile = 2
    assert table.subscribe(BOB.did, "one") == OK
    assert table.new == [(BOB.did, "one"), (BOB.did, "two"), (BOB.did, "one")]
    assert table.of("one") == [BOB.did]
    assert table.of("two") == []


def test_a_denied_peer_loses_its_subscriptions(table: Table) -> None:
    table.subscribe(BOB.did, "one")
    table.subscribe(BOB.did, "two")
    table.desk.access.deny(BOB.did)
    assert table.of("one") == []
    table.desk.access.undeny(BOB.did)
    assert table.of("two") == []


def test_the_limits_are_per_peer(table: Table) -> None:
    for number in range(16):
        assert table.subscribe(BOB.did, f"s{number}") == OK
    reason, text = table.subscribe(BOB.did, "s16")
    assert reason is Reason.REFUSED
    assert text == "the limit is 16 subscriptions of a peer that this node has no route to"
    assert table.subscribe(BOB.did, "s3") == OK
    assert table.subscribe(CAROL.did, "s16") == OK
    table.desk.route(BOB)
    for number in range(16, 256):
        assert table.subscribe(BOB.did, f"s{number}") == OK
    reason, text = table.subscribe(BOB.did, "s256")
    assert (reason, text) == (Reason.REFUSED, "the limit is 256 subscriptions of one peer")
    assert table.desk.host.counters.subscriptions_refused == 2


def test_malformed_requests(table: Table) -> None:
    for type_ in ControlType.SUBSCRIBE, ControlType.UNSUBSCRIBE:
        assert table.control(BOB.did, "s", type_, b"x")[0] is Reason.MALFORMED
        assert table.control(BOB.did, "", type_)[0] is Reason.REFUSED
    assert len(table.subscribers) == 0
    assert table.desk.host.counters.subscriptions_refused == 4


def test_100_000_subscriptions_of_strangers_are_bounded(table: Table) -> None:
    """Strangers that come, subscribe to 16 subjects and leave; one known peer stays."""
    table.desk.route(BOB)
    table.subscribe(BOB.did, "s0")
    largest, answers = 0, 0
    for number in range(1, 6_251):
        for subject in range(16):
            answers += table.subscribe(did(number), f"s{subject}") == OK
        table.leave(did(number))
        table.clock.move(0.001)
        largest = max(largest, len(table.subscribers))
    assert largest <= 16_384 + 1
    assert table.of("s0")[0] == BOB.did
    assert answers > 40_000  # those without a link make room for new ones
    table.clock.move(GRACE + 1)
    for subject in range(16):
        table.of(f"s{subject}")
    assert len(table.subscribers) == 1


def test_strangers_with_links_keep_their_place(table: Table) -> None:
    for number in range(1, 1_025):
        for subject in range(16):
            assert table.subscribe(did(number), f"s{subject}") == OK
    reason, text = table.subscribe(did(2_000), "s0")
    assert (reason, text) == (
        Reason.REFUSED,
        "the limit is 16384 subscriptions of peers without a route",
    )
    table.desk.route(BOB)
    assert table.subscribe(BOB.did) == OK
    table.leave(did(7))
    assert table.subscribe(did(2_000), "s0")[0] is Reason.REFUSED  # it looks once a second
    table.clock.move(1)
    assert table.subscribe(did(2_000), "s0") == OK


def test_churn_leaves_no_more_than_twice_what_lives(table: Table) -> None:
    for number in range(1, 20_001):
        table.subscribe(did(number))
        table.leave(did(number))
        table.clock.move(1)
        assert len(table.subscribers) <= 1_024 + 1
    assert len(table.of()) == 60


def test_it_agrees_with_a_model(table: Table) -> None:
    seed, chance = random_seed()
    model: dict[Did, set[str]] = {}
    peers, subjects = [did(number) for number in range(1, 7)], ["a", "b", "c"]
    left: dict[Did, float] = {}
    for _ in range(3_000):
        who, subject = chance.choice(peers), chance.choice(subjects)
        what = chance.choice(["subscribe", "subscribe", "unsubscribe", "leave", "move", "restart"])
        now = table.clock.monotonic()
        if what == "move":
            table.clock.move(chance.uniform(0, 40))
        elif what == "leave" and who in table.sessions and who not in left:
            table.leave(who)
            left[who] = now
        elif what == "restart" and who in table.sessions:
            table.sessions[who].volatile += 1
            model.pop(who, None)
            left.pop(who, None)
            assert table.subscribe(who, subject) == OK
            model[who] = {subject}
        elif what in ("subscribe", "unsubscribe"):
            if now - left.pop(who, now) > GRACE:
                model.pop(who, None)
            getattr(table, what)(who, subject)
            if what == "subscribe":
                model.setdefault(who, set()).add(subject)
            else:
                model.get(who, set()).discard(subject)
        now = table.clock.monotonic()
        for each in subjects:  # asked always, so that what is over is forgotten
            wanted = {
                one
                for one, kept in model.items()
                if each in kept and now - left.get(one, now) <= GRACE
            }
            assert set(table.of(each)) == wanted, f"seed {seed}"


def test_a_late_request_of_a_forgotten_session_is_left_alone(table: Table) -> None:
    table.link = lambda did: FakeSession(0.0)  # type: ignore[method-assign]
    with pytest.raises(IndexError):  # nobody is there to get an answer
        table.subscribe(BOB.did)
    assert len(table.subscribers) == 0


def test_links_of_others_change_nothing(table: Table) -> None:
    table.subscribers.linked(BOB.did)
    table.subscribers.unlinked(BOB.did)
    assert len(table.subscribers) == 0
