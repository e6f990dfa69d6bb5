"""Callbacks of the application change the node in the middle of its work on queues and streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import pytest
from peerkit import THERE, Desk, FakeLink, ManualClock, still_clock

from linkkit import BOB, EVE, credits
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.types import Priority, Reason
from signedwire.wire import link_frames as frames

Act = Callable[[Desk], object]
Moment = Callable[[Desk, Callable[[OutgoingMessage], None]], list[OutgoingMessage]]


@pytest.fixture(autouse=True)
def clock() -> Iterator[ManualClock]:
    with still_clock() as clock:
        yield clock


# -- what a callback does --------------------------------------------------------------------


def deny(desk: Desk) -> None:
    desk.access.deny(BOB.did)


def deny_and_undeny(desk: Desk) -> None:
    desk.access.deny(BOB.did)
    desk.access.undeny(BOB.did)


def allow_only_others(desk: Desk) -> None:
    desk.access.allow_only([EVE.did])


def change_the_route(desk: Desk) -> None:
    desk.route(BOB, THERE)


def remove_the_route(desk: Desk) -> None:
    desk.route(BOB, None)


def send_more(desk: Desk) -> None:
    if desk.access.denies(BOB.did):
        return
    for priority in (Priority.CRITICAL, Priority.NORMAL):
        message = desk.message(priority=priority)
        desk.endpoint.submitter.submit(message, 5)


def look(desk: Desk) -> None:
    desk.endpoint.status()


ACTS: Final = (
    deny,
    deny_and_undeny,
    allow_only_others,
    change_the_route,
    remove_the_route,
    send_more,
    look,
)


# -- when the callback is called ---------------------------------------------------------------


def queued(
    desk: Desk, watch: Callable[[OutgoingMessage], None], *payloads: bytes
) -> list[OutgoingMessage]:
    """Queue messages, and watch their receipts."""
    messages = [desk.message(payload=payload) for payload in payloads]
    for message in messages:
        watch(message)
        desk.endpoint.submitter.submit(message, message.payload_size)
    return messages


def too_large_in_a_batch(
    desk: Desk, watch: Callable[[OutgoingMessage], None]
) -> list[OutgoingMessage]:
    desk.link(max_payload_size=100)
    messages = queued(desk, watch, b"a", bytes(200), b"b", bytes(200), b"c")
    desk.host.run()
    return messages


def late_in_a_batch(desk: Desk, watch: Callable[[OutgoingMessage], None]) -> list[OutgoingMessage]:
    desk.link()
    messages = queued(desk, watch, b"a")
    late = desk.message(expires_at=desk.clock.monotonic() - 1)
    watch(late)
    desk.endpoint.submitter.submit(late, late.payload_size)
    messages += [late, *queued(desk, watch, b"b")]
    desk.host.run()
    return messages


def deadline_in_the_queue(
    desk: Desk, watch: Callable[[OutgoingMessage], None]
) -> list[OutgoingMessage]:
    desk.link(credit=credits(0, 0, 0, 0))
    at = desk.clock.monotonic() + 1
    messages = [desk.message(expires_at=at) for _ in range(3)]
    for message in messages:
        watch(message)
        desk.endpoint.submitter.submit(message, message.payload_size)
    messages += queued(desk, watch, b"a")
    desk.host.wait(2)
    return messages


def two_batches(
    desk: Desk, link: FakeLink, watch: Callable[[OutgoingMessage], None]
) -> list[OutgoingMessage]:
    messages: list[OutgoingMessage] = []
    for _ in range(2):
        messages += queued(desk, watch, b"a", b"b")
        desk.host.run()
    assert len(link.batches) == 2
    return messages


def batches_accepted(desk: Desk, watch: Callable[[OutgoingMessage], None]) -> list[OutgoingMessage]:
    link = desk.link()
    messages = two_batches(desk, link, lambda _: None)
    for message in messages:
        watch(message)
    link.sign(frames.ACCEPTED_BATCHES, *(batch.root for batch, _, _ in link.batches))
    return messages


def envelopes_accepted(
    desk: Desk, watch: Callable[[OutgoingMessage], None], kind: int = frames.ACCEPTED_ENVELOPES
) -> list[OutgoingMessage]:
    link = desk.link()
    messages = two_batches(desk, link, lambda _: None)
    for message in messages:
        watch(message)
    link.sign(kind, *(batch.leaves[0] for batch, _, _ in link.batches))
    return messages


def refused(desk: Desk, watch: Callable[[OutgoingMessage], None]) -> list[OutgoingMessage]:
    link = desk.link()
    messages = two_batches(desk, link, lambda _: None)
    for message in messages:
        watch(message)
    link.refuse_many(messages[1:], Reason.INBOX_FULL)
    return messages


def link_broken(desk: Desk, watch: Callable[[OutgoingMessage], None]) -> list[OutgoingMessage]:
    link = desk.link()
    messages = two_batches(desk, link, lambda _: None)
    for message in messages:
        watch(message)
    for message in messages[::2]:
        message.failures_before = -1_000
    link.end()
    return messages


MOMENTS: Final = (
    too_large_in_a_batch,
    late_in_a_batch,
    deadline_in_the_queue,
    batches_accepted,
    envelopes_accepted,
    partial(envelopes_accepted, kind=frames.HANDLED_ENVELOPES),
    refused,
    link_broken,
)


@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)
@pytest.mark.parametrize("moment", MOMENTS, ids=lambda one: getattr(one, "__name__", "handled"))
def test_a_callback_may_change_the_node(moment: Moment, act: Act) -> None:
    """Whatever a callback does, no message is lost and the numbers of the stream fit."""
    desk = Desk()
    desk.route()
    calls = 0

    def called() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            check_numbers(desk)
            act(desk)

    messages = moment(desk, lambda message: message.add_callback(called))
    desk.host.run()
    assert calls
    check_numbers(desk)
    sender = desk.session().sender
    waiting = {
        *sender.lanes,
        *(one for f in sender.streams.durable._in_flight.values() for one in f.all()),
    }
    for message in messages:
        assert message.is_final or message.is_confirmed or message in waiting
    if desk.access.denies(BOB.did):
        assert desk.session().link is None
        assert not waiting, "all that waited for a denied peer has failed"


def check_numbers(desk: Desk) -> None:
    """The counts of a stream are those of its batches."""
    stream = desk.session().sender.streams.durable
    flights = stream._in_flight.values()
    assert stream.in_flight == sum(len(flight.all()) for flight in flights)
    assert stream.in_flight_bytes == sum(
        flight.weight + sum(len(one.body) for one in flight.all()) for flight in flights
    )


def test_no_message_is_written_to_a_denied_peer() -> None:
    """Between the call that denies it and the turn of the loop that closes its link."""
    desk = Desk()
    link = desk.link()
    message = desk.message()
    desk.endpoint.submitter.submit(message, message.payload_size)
    desk.access.deny(BOB.did)
    link.pump()
    assert not link.batches
    assert not link.is_over
    desk.host.run()
    assert link.code == frames.CLOSE_DENIED
    assert message.reason is Reason.DENIED


def test_many_changes_of_the_access_list_are_enforced_in_one_pass() -> None:
    desk = Desk()
    desk.link()
    before = len(desk.host.soon)
    for _ in range(10):
        desk.access.deny(BOB.did)
    assert len(desk.host.soon) == before + 1
