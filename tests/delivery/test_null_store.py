"""`NullStore`: messages wait in the queues, and nothing outlives the process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from peerkit import REFUSED, Desk, epochs, still_clock

from linkkit import BOB
from signedwire.delivery.advice import UNANSWERED
from signedwire.delivery.null_store import NullStore
from signedwire.delivery.store import Marks
from signedwire.errors import BackpressureError
from signedwire.types import DeliveryState, Priority, Reason


@pytest.fixture
def desk() -> Iterator[Desk]:
    with still_clock():
        desk = Desk(send_queue_limit=2, critical_reserve=1)
        desk.context.store = NullStore(desk.host)
        desk.route()
        yield desk


def test_a_message_waits_in_the_queue(desk: Desk) -> None:
    store, sender = desk.context.store, desk.session().sender
    message = desk.post()
    assert list(sender.lanes) == [message]
    assert not message.is_stored
    assert not store.is_durable
    assert store.failure is None
    assert store.backlog(BOB.did) is None
    assert store.has_room(sender, Priority.NORMAL)
    desk.post()
    with pytest.raises(BackpressureError, match="is full"):
        desk.post()
    assert desk.host.drops[Reason.QUEUE_FULL, BOB.did] == 1
    assert not store.has_room(sender, Priority.NORMAL)
    assert store.has_room(sender, Priority.CRITICAL)


def test_room(desk: Desk) -> None:
    store, sender = desk.context.store, desk.session().sender
    woken: list[int] = []

    def wake() -> None:
        woken.append(1)

    def gone() -> None:
        woken.append(2)

    assert not store.when_room(sender, wake, is_durable=True)
    desk.post()
    desk.post()
    assert store.when_room(sender, wake, is_durable=True)
    assert store.when_room(sender, gone, is_durable=True)
    store.forget_room(sender, gone)
    desk.link()
    assert woken == [1]


def test_it_knows_nothing_of_an_earlier_process(desk: Desk) -> None:
    store, inbox_store = desk.context.store, desk.context.inbox_store
    desk.link()
    assert store.epoch(BOB.did) is None
    assert not store.has_spoken_v2(BOB.did)
    assert not store.is_ahead(BOB.did, (0, 9, 0, 0))
    assert not store.learn(BOB.did, (0, 9, 0, 0))
    assert inbox_store.marks(BOB.did).epoch == 0
    assert not inbox_store.load_leaves(BOB.did, print)
    # What stands now is what a HELLO may name, for nothing waits for a disk.
    assert inbox_store.hello_marks(BOB.did, Marks(9, (0, 4, 0, 0))) == (0, 4, 0, 0)


def test_the_end_of_a_message_changes_nothing_in_it(desk: Desk) -> None:
    """Who ends a message tells every store so, and takes it out of the queue itself."""
    store, sender = desk.context.store, desk.session().sender
    message = desk.post()
    store.ended(message, Reason.DENIED, "why")
    assert list(sender.lanes) == [message]
    assert not message.is_final


@pytest.mark.parametrize("was_written", [False, True])
def test_what_is_told_of_one_that_expires(desk: Desk, was_written: bool) -> None:
    if was_written:
        desk.link()
    message = desk.post(expires_at=desk.clock.seconds + 1)
    desk.host.wait(2)
    assert (message.state, message.detail) == (
        DeliveryState.EXPIRED,
        UNANSWERED if was_written else "",
    )


def test_an_answer_is_told_at_once(desk: Desk) -> None:
    link = desk.link()
    batch = link.bring(1)
    (message,) = desk.take()
    message.row = 1  # as if it had one
    message.ack()
    desk.host.run()
    assert link.heard("handled") == [batch.leaves]


def test_a_refusal_ends_a_message(desk: Desk) -> None:
    link = desk.link()
    message = desk.post()
    assert link.refuse(message)
    assert (message.state, message.reason) == (DeliveryState.REFUSED, Reason.INBOX_FULL)


def test_a_peer_that_is_ahead_or_denied_needs_nothing_of_it(desk: Desk) -> None:
    link = desk.link(known_epochs=epochs(2**60))
    assert link.is_over
    message = desk.post()
    desk.session().sender.note_attempt_failed(REFUSED)
    desk.context.store.attempt_failed(BOB.did, REFUSED)
    desk.access.deny(BOB.did)
    desk.host.run()
    assert message.reason is Reason.DENIED
