"""`Topics`: what a node publishes and subscribes to, and one payload for several peers.

publish(subject) ─→ Subscribers.of() ─→ _spread() ─→ the queue of each peer
                                           └ send_copies(): one signature for what leaves now
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, TypeAlias

from signedwire import clock
from signedwire.arguments import (
    BytesLike,
    PayloadTypeName,
    Until,
    as_bytes,
    as_seconds,
    as_subject,
    payload_type_of,
)
from signedwire.delivery.inbox import Inbox
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.receipt import Receipt
from signedwire.delivery.subscribers import Subscribers
from signedwire.delivery.subscriptions import Subscriptions, Topic
from signedwire.errors import SignedWireError
from signedwire.home import Turns
from signedwire.identity import Identity
from signedwire.messaging.outcomes import Outcomes
from signedwire.messaging.subscription import Subscription
from signedwire.sending import Choice, Sending
from signedwire.transport.copies import send_copies
from signedwire.transport.core import NodeCore
from signedwire.transport.link import Link
from signedwire.types import DeliveryState, Did, Kind, PayloadType, unix_time_us

__all__ = ["Content", "Topics"]

_AT_ONCE: Final = 256
"""Number of copies that are queued in one turn of the loop, and can share a signature."""
_Entries: TypeAlias = dict[Did, Receipt | SignedWireError]


class Content(NamedTuple):
    """A payload, and the options that its copies have in common."""

    payload: bytes
    payload_type: PayloadType
    subject: str
    choice: Choice
    kind: Kind
    at_us: int
    """When the application gave the payload: Unix time, microseconds."""


class Topics:
    """The topics of one node. In the loop.

    Args:
        core: The parts of the node.
        sending: Makes the messages.
        identity: The key of the node.
    """

    def __init__(self, core: NodeCore, sending: Sending, identity: Identity) -> None:
        self._core = core
        self._sending = sending
        self._identity = identity
        endpoint, context = core.endpoint, core.context
        self._kept: dict[str, Content] = {}
        """The last value of each subject that keeps it."""
        self._turns = Turns()
        self.subscribers = Subscribers(
            context, endpoint.sessions.get, core.reader.hand_out, self._send_kept
        )
        self.subscriptions = Subscriptions(
            context, endpoint.sessions, endpoint.submitter, core.reader.hand_out
        )
        context.consumers.set(Kind.CONTROL, self.subscribers.take)
        context.consumers.set(Kind.PUBLICATION, self.subscriptions.take)
        context.link_watchers += [self.subscribers, self.subscriptions]
        core.at_end("ending the subscriptions", self.subscriptions.end)
        self._did_of = core.runtime.config.names.did_of
        self._name_of = core.runtime.config.names.name_of

    # -- publishing -----------------------------------------------------------------------

    def content(
        self,
        payload: BytesLike,
        payload_type: PayloadType | PayloadTypeName,
        subject: str,
        choice: Choice,
        kind: Kind = Kind.PUBLICATION,
    ) -> Content:
        """Check arguments, and return what all copies have in common.

        Raises:
            TypeError, ValueError: an argument cannot be used.
        """
        as_subject(subject)
        if kind is Kind.PUBLICATION and not subject:
            raise ValueError('a publication needs a subject, such as "status"')
        type_ = payload_type_of(payload_type)
        return Content(as_bytes(payload), type_, subject, choice, kind, unix_time_us())

    async def publish(
        self, content: Content, until: Until | None, timeout: float | None, *, is_kept: bool
    ) -> Outcomes:
        """Send a copy to each subscriber of the subject; see `Node.publish()`."""
        seconds = as_seconds(timeout)
        level = DeliveryState.ACCEPTED
        if until is not None:
            level = self._sending.level(until, is_durable=content.choice.is_durable)
        if is_kept:
            self._kept[content.subject] = content
        else:
            self._kept.pop(content.subject, None)
        entries = await self._spread(self.subscribers.of(content.subject), content)
        outcomes = Outcomes(entries, level, self._seen_at, self._name_of)
        return outcomes if until is None else await outcomes.wait(timeout=seconds)

    async def send_all(
        self, to: Iterable[Did | str], content: Content, until: Until | None
    ) -> Outcomes:
        """Send a copy to each of these peers, and wait for all; see `Node.send_all()`."""
        level = self._sending.level(until, is_durable=content.choice.is_durable)
        dids = list(dict.fromkeys(self._did_of(did) for did in to))
        entries = await self._spread(dids, content)
        return await Outcomes(entries, level, self._seen_at, self._name_of).wait()

    async def _spread(self, dids: Sequence[Did], content: Content) -> _Entries:
        """Queue a copy for each peer, and write those that can leave now under one signature."""
        entries: _Entries = {}
        for start in range(0, len(dids), _AT_ONCE):
            if self._turns.is_over() and start:
                await self._turns.give()
            part = dids[start : start + _AT_ONCE]
            for did in part:
                entries[did] = self._queue(did, content)
            send_copies(self._identity, self._links_of(part, entries))
        if self._turns.is_over():  # so that a loop of calls does not keep the event loop
            await self._turns.give()
        return entries

    def _queue(self, did: Did, content: Content) -> OutgoingMessage | SignedWireError:
        """Queue the copy for one peer; return its receipt, or why it was not queued."""
        (message,) = self._sending.messages(
            did,
            content.choice.priority,
            content.payload_type,
            content.choice.expires_at,
            (content.payload,),
            subject=content.subject,
            kind=content.kind,
            is_durable=content.choice.is_durable,
            latest=content.choice.latest,
            queued_at_us=content.at_us,
        )
        submitter = self._core.endpoint.submitter
        try:
            if content.kind is Kind.PUBLICATION:
                submitter.check_stranger(did, len(content.payload))
            submitter.submit(message, len(content.payload))
        except SignedWireError as error:
            return error
        return message

    def _links_of(self, dids: Sequence[Did], entries: _Entries) -> list[Link]:
        """Return the links of the peers whose copy waits in the queue, and not for the disk."""
        found = []
        for did in dids:
            entry = entries[did]
            if isinstance(entry, OutgoingMessage) and not entry.is_stored:
                session = self._core.endpoint.sessions.get(did)
                if session is not None and isinstance(session.link, Link):
                    found.append(session.link)
        return found

    def _send_kept(self, did: Did, subject: str) -> None:
        """Send the kept value of a subject to a new subscriber."""
        content = self._kept.get(subject)
        if content is None:
            return
        due = content.choice.expires_at
        if due is None or clock.left(due) > 0:
            self._queue(did, content)  # an error is counted where it arises

    def _seen_at(self, did: Did) -> float | None:
        """Return when a peer was linked last: Unix time in seconds; `None`: never."""
        session, now = self._core.endpoint.sessions.get(did), clock.now()
        if session is None:
            return None
        seen_at = session.seen_at if session.link is None else clock.monotonic()
        return None if seen_at is None else clock.to_unix(seen_at, now)

    # -- subscribing ----------------------------------------------------------------------

    def subscribe(
        self, did: Did | str, subject: str, timeout: float | None, *, is_latest: bool
    ) -> Subscription:
        """Make a subscription, which is not open yet; see `Node.subscribe()`."""
        seconds = as_seconds(timeout)
        as_subject(subject)
        if not subject:
            raise ValueError('a subscription needs a subject, such as "status"')
        config = self._core.runtime.config
        inbox = Inbox(config.inbox_limit, config.critical_reserve)
        topic = Topic(self._did_of(did, "did"), subject, inbox, is_latest=is_latest)
        return Subscription(self._core, self.subscriptions, topic, seconds)
