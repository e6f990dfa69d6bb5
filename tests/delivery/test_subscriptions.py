"""Subscriptions of a node: when SUBSCRIBE is sent, and what becomes of publications."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from peerkit import Desk, FakeLink, ManualClock, still_clock

from linkkit import BOB
from signedwire import (
    DeliveryFailedError,
    DeliveryState,
    Did,
    Kind,
    MessageRefusedError,
    NotAllowedError,
    Priority,
    Reason,
)
from signedwire.delivery import subscriptions as module
from signedwire.delivery.inbox import Inbox
from signedwire.delivery.message import IncomingMessage
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.subscriptions import Subscriptions, Topic
from signedwire.types import unix_time_us
from signedwire.wire.header import control_type_of, subject_of
from wirekit import CAROL

PAUSE = 0.75
"""Longest first pause in seconds."""


@pytest.fixture
def still() -> Iterator[ManualClock]:
    with still_clock() as clock:
        yield clock


class Reader:
    """A desk with subscriptions. BOB publishes."""

    def __init__(self, **config: Any) -> None:
        self.desk = Desk(**config)
        endpoint, context = self.desk.endpoint, self.desk.context
        self.acked: list[bytes] = []
        self.may_have = True
        self.subscriptions = Subscriptions(
            context, endpoint.sessions, endpoint.submitter, self._hand_out
        )
        context.consumers.set(Kind.PUBLICATION, self.subscriptions.take)
        context.link_watchers.append(self.subscriptions)

    def _hand_out(self, message: IncomingMessage, *, acks_at_once: bool = False) -> bool:
        assert message.origin is not None
        message.origin.taken(message)
        if not self.may_have:
            return False
        if acks_at_once:
            self.acked.append(message.payload)
            message.ack()
        return True

    def topic(self, subject: str = "status", did: Did = BOB.did, **options: Any) -> Topic:
        return Topic(did, subject, Inbox(10, 1), **options)

    def open(self, subject: str = "status", **options: Any) -> Topic:
        topic = self.topic(subject, **options)
        self.subscriptions.open(topic)
        self.desk.host.run()
        return topic

    def opened(self, link: FakeLink, subject: str = "status", **options: Any) -> Topic:
        """A subscription that the publisher has accepted."""
        topic = self.open(subject, **options)
        link.handle()
        assert topic.is_accepted
        return topic

    def bring(self, link: FakeLink, *numbers: int, subject: bytes = b"status") -> None:
        """Publications come: the payload is the number."""
        for number in numbers:
            link.bring(
                number,
                payload=b"%d" % number,
                kind=Kind.PUBLICATION,
                subject=subject,
                is_durable=False,
            )
        self.desk.host.run()

    def connects(self) -> int:
        return sum(call[0] == "connect" for call in self.desk.connector.calls)


def controls(link: FakeLink) -> list[tuple[int, str]]:
    """Types and subjects of the control messages that a link has written."""
    assert all(message.priority is Priority.HIGH for message in link.messages)
    return [
        (int(control_type_of(message.body)), subject_of(message.body)) for message in link.messages
    ]


def unread(topic: Topic) -> list[bytes]:
    return [message.payload for message in iter(topic.inbox.take, None)]


@pytest.fixture
def reader(still: ManualClock) -> Reader:
    return Reader()


def test_it_is_accepted_when_the_publisher_has_handled_it(reader: Reader) -> None:
    link = reader.desk.link()
    topic, woken = reader.topic(), list[int]()
    topic.wakes.append(lambda: woken.append(1))
    reader.subscriptions.open(topic)
    reader.desk.host.run()
    assert controls(link) == [(1, "status")]
    link.accept()
    assert (topic.is_accepted, woken) == (False, [])
    link.handle()
    assert (topic.is_accepted, woken, topic.pending) == (True, [1], None)


def test_each_link_gets_it_once(reader: Reader) -> None:
    reader.desk.route()
    topic = reader.open()
    assert reader.connects() == 1
    link = reader.desk.link(is_dialed=True)
    assert controls(link) == [(1, "status")]  # the one that waited, and no other
    link.handle()
    link.end()
    assert topic.pending is not None  # so that the publisher is dialed
    again = reader.desk.link(is_dialed=True)
    assert controls(again) == [(1, "status")]
    newer = reader.desk.link(is_dialed=True)  # takes the place of the other
    assert controls(newer) == [(1, "status")]
    newer.handle()
    newest = reader.desk.link(is_dialed=True)
    assert controls(newest) == [(1, "status")]


def test_one_without_an_answer_is_sent_again_over_the_next_link(reader: Reader) -> None:
    link = reader.desk.link()
    topic = reader.open()
    link.accept()
    older = topic.pending
    assert older is not None
    link.end()
    again = reader.desk.link()
    assert controls(again) == [(1, "status")]
    older.advance(DeliveryState.HANDLED)  # the answer to the earlier one decides nothing
    assert not topic.is_accepted
    again.handle()
    assert topic.is_accepted


def test_without_an_address_it_waits_for_a_route_or_a_link(reader: Reader) -> None:
    topic = reader.open()
    assert "no address" in topic.trouble
    (timer,) = reader.desk.host.timers
    assert 0 < timer.due <= PAUSE
    reader.desk.host.wait(60)
    assert reader.connects() == 0
    assert not reader.desk.host.drops
    reader.desk.route()
    reader.desk.host.wait(30)
    assert reader.connects() == 1


def test_a_failed_one_is_tried_again_with_growing_pauses(reader: Reader) -> None:
    reader.desk.route()
    topic = reader.open()
    dues = []
    for _ in range(12):
        assert isinstance(topic.pending, OutgoingMessage)
        began = reader.desk.host.time
        reader.desk.session().sender.give_up_all(Reason.ATTEMPTS_EXHAUSTED, "nobody there")
        assert topic.trouble == "nobody there"
        (timer,) = reader.desk.host.timers
        dues.append(timer.due - began)
        reader.desk.host.wait(timer.due - began)
    assert dues[0] <= PAUSE
    assert 15 < max(dues) < 30.001
    assert min(dues[-3:]) > 10
    link = reader.desk.link()
    link.handle()
    link.end()
    reader.desk.session().sender.give_up_all(Reason.ATTEMPTS_EXHAUSTED, "nobody there")
    assert reader.desk.host.timers[0].due - reader.desk.host.time <= PAUSE


def test_a_full_queue_is_waited_for(still: ManualClock) -> None:
    reader = Reader(send_queue_limit=1)
    reader.desk.route()
    reader.desk.post(is_durable=False)
    topic = reader.open()
    assert "full" in topic.trouble
    assert reader.desk.host.counters.backpressure_events == 0
    reader.desk.session().sender.give_up_all(Reason.DROPPED)
    reader.desk.host.wait(PAUSE)
    assert isinstance(topic.pending, OutgoingMessage)


def test_a_publisher_that_restarts_before_it_answers(reader: Reader) -> None:
    link = reader.desk.link()
    topic = reader.open()
    link.accept()
    reader.desk.session().sender.abandon(Reason.STALE_EPOCH, "it has restarted")
    assert (topic.pending, topic.trouble) == (None, "it has restarted")
    reader.desk.host.wait(PAUSE)
    assert controls(link) == [(1, "status")] * 2


def test_a_denied_publisher(reader: Reader) -> None:
    reader.desk.access.deny(BOB.did)
    with pytest.raises(NotAllowedError):
        reader.open()
    reader.desk.access.undeny(BOB.did)
    reader.desk.host.run()
    link = reader.desk.link()
    topic = reader.opened(link)
    dropped = reader.desk.host.dropped(Reason.DENIED)
    reader.desk.route()
    reader.desk.access.deny(BOB.did)
    reader.desk.host.run()
    assert topic.trouble == "node.access denies the publisher"
    assert topic.is_open
    reader.desk.host.wait(60)
    assert reader.desk.host.dropped(Reason.DENIED) == dropped
    reader.desk.access.undeny(BOB.did)
    reader.desk.host.wait(60)
    assert isinstance(topic.pending, OutgoingMessage)


def test_a_refusal_ends_it(reader: Reader) -> None:
    link = reader.desk.link()
    topic = reader.opened(link)
    reader.bring(link, 1)
    reader.subscriptions.linked(BOB.did)
    reader.desk.host.run()
    link.refuse_many(link.messages[-1:], Reason.SUBJECT_RULE, "not any more")
    reader.desk.host.run()
    assert (topic.is_open, topic.is_closed) == (False, True)
    assert isinstance(topic.error, MessageRefusedError)
    assert "not any more" in str(topic.error)
    assert [refusal.reason for refusal in link.heard("refused")[-1]] == [Reason.UNKNOWN_SUBJECT]
    reader.open()  # it may be tried again


def test_v1_has_no_topics(reader: Reader) -> None:
    reader.desk.route()
    topic = reader.open()
    assert topic.pending is not None
    topic.pending.is_unconfirmed = True
    topic.pending.transition(DeliveryState.WRITTEN, unix_time_us())
    assert isinstance(topic.error, DeliveryFailedError)
    assert topic.error.reason is Reason.NOT_ALLOWED
    assert "speaks v1, which has no topics" in str(topic.error)


def test_publications_go_to_their_subscription(reader: Reader) -> None:
    link = reader.desk.link()
    reader.bring(link, 1, 2)
    reader.bring(link, 3, subject=b"other")
    topic = reader.opened(link)
    reader.bring(link, 4, 5)
    assert unread(topic) == [b"1", b"2", b"4", b"5"]
    assert [message.payload for message in reader.desk.take()] == [b"3"]
    with pytest.raises(ValueError, match="already"):
        reader.open()
    reader.open("other")


def test_latest_acknowledges_what_is_replaced(reader: Reader) -> None:
    link = reader.desk.link()
    reader.bring(link, 1, 2)
    topic = reader.opened(link, is_latest=True)
    reader.bring(link, 3, 4)
    assert reader.acked == [b"1", b"2", b"3"]
    assert unread(topic) == [b"4"]
    assert reader.desk.host.counters.publications_replaced == 3


def test_closing_refuses_and_unsubscribes(reader: Reader) -> None:
    link = reader.desk.link()
    topic = reader.opened(link)
    reader.bring(link, 1)
    reader.subscriptions.close(topic)
    reader.subscriptions.close(topic)
    reader.desk.host.run()
    assert controls(link) == [(1, "status"), (2, "status")]
    reader.bring(link, 2)
    refusals = [one for said in link.heard("refused") for one in said]
    assert [refusal.reason for refusal in refusals] == [Reason.UNKNOWN_SUBJECT] * 2
    assert {refusal.text for refusal in refusals} == {"the subscription to this subject was closed"}
    assert reader.desk.take() == []
    link.handle()
    link.end()
    assert controls(reader.desk.link()) == []


def test_closing_without_a_link_unsubscribes_at_the_next_one(reader: Reader) -> None:
    link = reader.desk.link()
    first, second = reader.opened(link, "one"), reader.opened(link, "two")
    link.end()
    for topic in first, second:
        reader.subscriptions.close(topic)
    reader.open("two")  # so that one goes on
    again = reader.desk.link()
    reader.desk.host.run()
    assert controls(again) == [(2, "one"), (1, "two")]


def test_closing_withdraws_what_waits_for_a_link(reader: Reader) -> None:
    reader.desk.route()
    topic = reader.open()
    reader.subscriptions.close(topic)
    assert not reader.desk.session().sender.lanes
    assert controls(reader.desk.link()) == []
    never = reader.topic(did=CAROL.did)
    reader.subscriptions.open(never)
    reader.subscriptions.close(never)
    assert reader.desk.host.timers == []


def test_what_is_remembered_of_closed_ones_is_bounded(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_CLOSED", 1)
    for who in BOB, CAROL:
        link = reader.desk.link(who)
        topic = reader.topic(did=who.did)
        reader.subscriptions.open(topic)
        reader.desk.host.run()
        link.handle()
        link.end()
        reader.subscriptions.close(topic)
    assert controls(reader.desk.link(BOB)) == []
    assert controls(reader.desk.link(CAROL)) == [(2, "status")]


def test_the_end_of_the_node(reader: Reader) -> None:
    link = reader.desk.link()
    read, waiting = reader.opened(link), reader.topic(did=CAROL.did)
    reader.subscriptions.open(waiting)
    woken: list[int] = []
    waiting.wakes.append(lambda: woken.append(1))
    reader.bring(link, 1)
    reader.desk.host.is_open = False
    reader.subscriptions.linked(BOB.did)
    reader.desk.host.run()
    assert controls(link) == [(1, "status")]
    reader.subscriptions.end()
    assert (woken, read.is_closed, waiting.is_closed) == ([1], True, True)
    assert reader.desk.host.dropped(Reason.INBOX_CLOSED) == 1
    assert unread(read) == [b"1"]
    reader.subscriptions.end()
    assert reader.desk.host.dropped(Reason.INBOX_CLOSED) == 1


def test_closing_it_in_a_node_that_closes(reader: Reader) -> None:
    link = reader.desk.link()
    topic = reader.opened(link)
    reader.desk.host.is_open = False
    reader.subscriptions.close(topic)
    reader.desk.host.run()
    assert controls(link) == [(1, "status")]


def test_unread_ones_of_a_sender_that_is_denied_are_not_refused_twice(reader: Reader) -> None:
    link = reader.desk.link()
    topic = reader.opened(link)
    reader.bring(link, 1)
    reader.may_have = False
    reader.subscriptions.close(topic)
    reader.desk.host.run()
    assert link.heard("refused") == []
    latest = reader.open(is_latest=True)
    reader.bring(link, 2, 3)
    assert reader.desk.host.counters.publications_replaced == 0
    assert unread(latest) == [b"3"]


def test_a_link_that_ends_keeps_what_waits(reader: Reader) -> None:
    reader.desk.route()
    link = reader.desk.link(is_dialed=True)
    link.is_slow = True
    topic = reader.open()
    pending = topic.pending
    link.end()
    assert topic.pending is pending
    reader.subscriptions.unlinked(CAROL.did)


def test_the_queue_fails_when_the_node_ends(reader: Reader) -> None:
    reader.desk.route()
    reader.open()
    reader.desk.host.is_open = False
    reader.desk.session().sender.give_up_all(Reason.CLOSED)
    assert reader.desk.host.timers == []
