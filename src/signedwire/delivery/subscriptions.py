"""The subscriptions of this node, and the publications that arrive for them.

    open() ─→ SUBSCRIBE ─→ handled: accepted        publication ─→ take() ─→ Topic.inbox
                 ↑            refused: the end
                 └─ each opened link; and after a pause, if it failed

The subscriber alone keeps a subscription alive. So a publisher that restarts, or that has
forgotten a peer, gets SUBSCRIBE again with the next link.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, Protocol

from signedwire.delivery.backoff import backoff_delays
from signedwire.delivery.bounded_memory import BoundedSet
from signedwire.delivery.inbox import Inbox
from signedwire.delivery.message import IncomingMessage
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.ports import Timer
from signedwire.delivery.send_options import SendOptions, new_ids
from signedwire.delivery.session_context import SessionContext
from signedwire.delivery.session_map import SessionMap
from signedwire.delivery.submitter import Submitter
from signedwire.errors import (
    ClosedError,
    DeliveryError,
    DeliveryFailedError,
    NotAllowedError,
    SignedWireError,
)
from signedwire.types import ControlType, DeliveryState, Did, Kind, Priority, Reason
from signedwire.wire.header import VOLATILE

__all__ = ["HandOut", "Subscriptions", "Topic"]

_MAX_CLOSED: Final = 10_000
"""Maximum number of closed subscriptions whose publications are still refused."""
_HALF_FIRST_PAUSE: Final = 0.25
_MAX_PAUSE: Final = 30.0
_ON_ITS_WAY: Final = frozenset({DeliveryState.QUEUED, DeliveryState.WRITTEN})
_FAILED: Final = frozenset({DeliveryState.FAILED, DeliveryState.EXPIRED})


class HandOut(Protocol):
    """Frees the credit of a message; see `InboxReader.hand_out()`."""

    def __call__(self, message: IncomingMessage, *, acks_at_once: bool = False) -> bool:
        """Return whether the application may have the message."""


class Topic:
    """One subscription of this node. `Subscriptions` changes it, in the loop.

    Args:
        did: The DID of the publisher.
        subject: The subject, not empty.
        is_latest: Whether only the newest unread publication is kept.
        inbox: Keeps the unread publications.
    """

    __slots__ = (
        "did",
        "error",
        "inbox",
        "is_accepted",
        "is_closed",
        "is_latest",
        "is_open",
        "pauses",
        "pending",
        "subject",
        "timer",
        "trouble",
        "wakes",
    )

    def __init__(self, did: Did, subject: str, inbox: Inbox, *, is_latest: bool = False) -> None:
        self.did = did
        self.subject = subject
        self.is_latest = is_latest
        self.inbox = inbox
        self.is_open = False
        """Whether publications are taken."""
        self.is_closed = False
        """Whether it was open, and is not any more."""
        self.is_accepted = False
        """Whether the publisher has accepted the subscription once."""
        self.error: SignedWireError | None = None
        """Why the publisher ended the subscription."""
        self.trouble = "the publisher has not answered yet"
        """The reason why it is not accepted yet, for people."""
        self.pending: OutgoingMessage | None = None
        """The SUBSCRIBE that has no answer."""
        self.timer: Timer | None = None
        self.pauses: Iterator[float] = _pauses()
        self.wakes: list[Callable[[], None]] = []
        """Called once, when the subscription was accepted or has ended."""

    def wake(self) -> None:
        """Wake those who wait for the acceptance."""
        wakes, self.wakes = self.wakes, []
        for wake in wakes:
            wake()


class Subscriptions:
    """The consumer of publications, and a watcher of links. In the loop.

    Args:
        context: The parts that all sessions share.
        sessions: The sessions of all peers.
        submitter: Queues SUBSCRIBE and UNSUBSCRIBE.
        hand_out: Frees the credit of a message; returns whether the application may have it.
    """

    def __init__(
        self,
        context: SessionContext,
        sessions: SessionMap,
        submitter: Submitter,
        hand_out: HandOut,
    ) -> None:
        self._context = context
        self._host = context.host
        self._sessions = sessions
        self._submitter = submitter
        self._hand_out = hand_out
        self._topics: dict[Did, dict[str, Topic]] = {}
        self._closed = BoundedSet(_MAX_CLOSED)
        """DID and subject of closed subscriptions."""
        self._leaving: dict[Did, dict[str, None]] = {}
        """Subjects whose UNSUBSCRIBE waits for a link."""

    # -- the application ------------------------------------------------------------------

    def open(self, topic: Topic) -> None:
        """Take the publications of a topic from now on, and ask its publisher for them.

        Publications of it that wait in the inbox come first.

        Raises:
            ValueError: this node has a subscription to it already.
            NotAllowedError: the access list denies the publisher.
        """
        topics = self._topics.setdefault(topic.did, {})
        if topic.subject in topics:
            raise ValueError(
                f"this node is subscribed to {topic.subject!r} of {topic.did} already: "
                "close that subscription first, or share it"
            )
        topics[topic.subject] = topic
        topic.is_open = True
        self._context.more_inboxes.append(topic.inbox)
        self._leaving.get(topic.did, {}).pop(topic.subject, None)
        try:
            self._send(topic, is_first=True)
        except BaseException:
            self._end(topic)
            raise
        for message in self._context.inbox.remove_if(partial(_is_of, topic)):
            self._put(topic, message)

    def close(self, topic: Topic) -> None:
        """Refuse the publications of a topic from now on, and tell its publisher."""
        if not topic.is_open:
            return
        pending = topic.pending
        self._end(topic)
        if not self._host.is_open:
            return
        self._refuse_unread(topic)
        session = self._sessions.get(topic.did)
        if session is not None and session.link is not None:
            self._unsubscribe(topic.did, topic.subject)
            return
        if session is not None and session.has_sender and pending is not None:
            session.sender.lanes.remove_if(lambda message: message is pending)
        if topic.is_accepted:
            self._leaving.setdefault(topic.did, {})[topic.subject] = None
            self._bound_leaving()

    def _bound_leaving(self) -> None:
        while len(self._leaving) > _MAX_CLOSED:
            del self._leaving[next(iter(self._leaving))]

    def end(self) -> None:
        """End all subscriptions, because the node is closed. Unread publications stay unread."""
        unread = 0
        for topics in tuple(self._topics.values()):
            for topic in tuple(topics.values()):
                unread += self._end(topic)
        if unread:
            self._host.drop(Reason.INBOX_CLOSED, count=unread)

    def _end(self, topic: Topic) -> int:
        """Take no further publication, wake those who wait, and return the number of unread."""
        topics = self._topics[topic.did]
        del topics[topic.subject]
        self._context.more_inboxes.remove(topic.inbox)
        if not topics:
            del self._topics[topic.did]
        topic.is_open, topic.is_closed, topic.pending = False, True, None
        _stop(topic)
        self._closed.add(_key(topic.did, topic.subject))
        topic.wake()
        return topic.inbox.close()

    def _refuse_unread(self, topic: Topic) -> None:
        for message in topic.inbox.remove_if(lambda _: True):
            self._refuse(message)

    def _refuse(self, message: IncomingMessage) -> None:
        if self._hand_out(message):
            text = "the subscription to this subject was closed"
            with contextlib.suppress(ClosedError):
                message.nack(Reason.UNKNOWN_SUBJECT, text)

    # -- publications ---------------------------------------------------------------------

    def take(self, message: IncomingMessage) -> bool:
        """Keep a publication for its subscription, or refuse it if that was closed.

        Returns:
            Whether it was taken. This node never subscribed to the others, in this process.
        """
        did, subject = message.sender, message.subject
        topic = self._topics.get(did, {}).get(subject)
        if topic is not None:
            self._put(topic, message)
            return True
        if _key(did, subject) in self._closed:
            self._refuse(message)
            return True
        return False

    def _put(self, topic: Topic, message: IncomingMessage) -> None:
        if topic.is_latest:
            for older in topic.inbox.remove_if(lambda _: True):
                if self._hand_out(older, acks_at_once=True):
                    self._host.counters.publications_replaced += 1
        # Without regard to a limit: the credit of the publisher bounds them.
        topic.inbox.add_many([message], message.stream % VOLATILE, topic.did, is_known=True)

    # -- SUBSCRIBE ------------------------------------------------------------------------

    def linked(self, did: Did) -> None:
        """Subscribe again over the new link of a publisher; see `LinkWatcher`."""
        if self._host.is_open:
            for subject in self._leaving.pop(did, ()):
                self._unsubscribe(did, subject)
        for topic in tuple(self._topics.get(did, {}).values()):
            # One that waits in the queue leaves over this link anyway.
            if topic.pending is None or topic.pending.state not in _ON_ITS_WAY:
                self._send(topic)

    def unlinked(self, did: Did) -> None:
        """Have the publisher dialed whose link has ended; see `LinkWatcher`."""
        for topic in tuple(self._topics.get(did, {}).values()):
            if topic.pending is None or topic.pending.state not in _ON_ITS_WAY:
                self._send(topic)

    def _send(self, topic: Topic, *, is_first: bool = False) -> None:
        _stop(topic)
        topic.pending = None
        if not self._host.is_open:
            return
        is_denied = self._context.access.denies(topic.did)
        if is_denied and not is_first:
            self._note_failed(topic, "node.access denies the publisher")
            return
        if not is_denied and not self._has_way(topic.did):
            trouble = "no address of the publisher is known, and it has no link to this node"
            self._note_failed(topic, trouble)
            return
        message = self._control(topic.did, topic.subject, ControlType.SUBSCRIBE)
        topic.pending = message
        message.add_callback(partial(self._on_change, topic, message))
        try:
            self._submitter.submit(message, 0, is_patient=True)
        except DeliveryError as error:
            if is_first and isinstance(error, NotAllowedError):
                raise
            self._note_failed(topic, error.fact)  # mostly, the queue to the peer is full

    def _has_way(self, did: Did) -> bool:
        """Whether the publisher is linked, or can be dialed."""
        session = self._sessions.get(did)
        is_linked = session is not None and session.link is not None
        return is_linked or self._sessions.resolve(did) is not None

    def _on_change(self, topic: Topic, message: OutgoingMessage) -> None:
        """Follow the receipt of the last SUBSCRIBE."""
        if topic.pending is not message:
            return
        state = message.state
        if state is DeliveryState.HANDLED:
            topic.pending, topic.is_accepted, topic.pauses = None, True, _pauses()
            topic.wake()
        elif state is DeliveryState.REFUSED or message.is_unconfirmed:
            self._fail(topic, message)
        elif state in _FAILED or (state is DeliveryState.ACCEPTED and message.reason):
            self._note_failed(topic, message.detail or str(message.reason))

    def _fail(self, topic: Topic, message: OutgoingMessage) -> None:
        """End a subscription that the publisher has refused, or that v1 does not have."""
        try:
            message.raise_if_failed()
            topic.error = DeliveryFailedError(
                message,
                Reason.NOT_ALLOWED,
                f"not subscribed to {topic.subject!r}: {topic.did} speaks v1, which has no topics",
            )
        except SignedWireError as error:
            topic.error = error
        self._end(topic)
        self._refuse_unread(topic)

    def _note_failed(self, topic: Topic, trouble: str) -> None:
        """Try again after a pause."""
        topic.pending, topic.trouble = None, trouble
        if self._host.is_open:
            topic.timer = self._host.call_later(next(topic.pauses), self._send, topic)

    def _unsubscribe(self, did: Did, subject: str) -> None:
        message = self._control(did, subject, ControlType.UNSUBSCRIBE)
        try:
            self._submitter.submit(message, 0, is_patient=True)
        except DeliveryError:  # the queue is full: at the next link
            self._leaving.setdefault(did, {})[subject] = None
            self._bound_leaving()

    def _control(self, did: Did, subject: str, control_type: ControlType) -> OutgoingMessage:
        options = SendOptions(
            did,
            Priority.HIGH,
            subject=subject.encode(),
            kind=Kind.CONTROL,
            control_type=control_type,
            is_durable=False,
        )
        options.home = self._host.home
        return OutgoingMessage(options, new_ids(1)[0])


def _pauses() -> Iterator[float]:
    """Return the pauses in seconds between attempts to subscribe."""
    return backoff_delays(_HALF_FIRST_PAUSE, _MAX_PAUSE, 0.5)


def _stop(topic: Topic) -> None:
    if topic.timer is not None:
        topic.timer.cancel()
        topic.timer = None


def _key(did: Did, subject: str) -> bytes:
    return bytes(did) + subject.encode()


def _is_of(topic: Topic, message: IncomingMessage) -> bool:
    """Whether a message in the inbox is a publication for this subscription."""
    return (
        message.kind is Kind.PUBLICATION
        and message.subject == topic.subject
        and message.proven_sender == topic.did
    )
