"""The objects that a `Fleet` makes: peers by name, groups, publishers, subscriptions of groups."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import TracebackType
from typing import Final, Generic, Self, TypeVar, overload

from signedwire.arguments import Deadline, PriorityName, Until
from signedwire.delivery.message import Message
from signedwire.delivery.receipt import Receipt
from signedwire.errors import ClosedError, MessageRefusedError, SchemaError
from signedwire.fleet_handlers import Dispatcher, has_room, label_of
from signedwire.home import Bound
from signedwire.logs import fields
from signedwire.messaging.codecs import NACKED, Codec, decode_or_nack
from signedwire.messaging.outcomes import Outcomes
from signedwire.messaging.subjects import subject_of
from signedwire.messaging.values import codec_of, payload_of
from signedwire.node import Node
from signedwire.types import Did, Priority, Reason

__all__ = ["Group", "GroupSubscription", "Peer", "Publisher", "subject_for"]

T = TypeVar("T")
_MAX_WAITING: Final = 256
"""Values of a subscription of a group that wait to be read."""


def subject_for(value: object, subject: str | None) -> str:
    """Return the subject of a value: the one that is given, else that of its type."""
    return subject_of(type(value)) if subject is None else subject


class Peer(Bound, instead="pass its name"):
    """One peer of a fleet. `Fleet.peer()` makes it; it does not connect."""

    __slots__ = ("_did", "_node")

    def __init__(self, node: Node, did: Did) -> None:
        self._node = node
        self._did = did

    @property
    def did(self) -> Did:
        """The DID."""
        return self._did

    @property
    def name(self) -> str:
        """The name; the DID as text if it has none."""
        return self._node.name_of(self._did) or str(self._did)

    async def send(
        self,
        value: object,
        *,
        subject: str | None = None,
        priority: Priority | PriorityName | None = None,
        durable: bool | None = None,
        latest: str | bool | None = None,
        deadline: Deadline = None,
        until: Until | None = None,
    ) -> Receipt:
        """Send a value to the peer, as `Node.send()` does; return the receipt.

        Args:
            value: The value. None is an empty payload, bytes are sent as they are, and all
                others go through `codec_for()` of their type.
            subject: The subject; by default `subject_of()` of the type of the value.
            priority, durable, latest, deadline, until: see `Node.send()`.

        Raises:
            TypeError, ValueError: the value has no form as a payload, or its type no subject.
            ImportError: its type needs the extra `msgspec`, which is not installed.
            SignedWireError: the errors of `Node.send()`.
        """
        return await self._node.send(
            self._did,
            payload_of(value),
            subject=subject_for(value, subject),
            priority=priority,
            durable=durable,
            latest=latest,
            deadline=deadline,
            until=until,
        )

    @overload
    async def call(
        self,
        subject: str,
        value: object = None,
        *,
        timeout: float | None = None,
        priority: Priority | PriorityName | None = None,
        durable: bool = False,
    ) -> object: ...

    @overload
    async def call(
        self,
        subject: str,
        value: object = None,
        *,
        returns: type[T],
        timeout: float | None = None,
        priority: Priority | PriorityName | None = None,
        durable: bool = False,
    ) -> T: ...

    async def call(
        self,
        subject: str,
        value: object = None,
        *,
        returns: type[object] = object,
        timeout: float | None = None,
        priority: Priority | PriorityName | None = None,
        durable: bool = False,
    ) -> object:
        """Ask the peer, as `Node.request()` does; return the value of the reply.

        Args:
            subject: What is asked, which selects the handler of the peer.
            value: The argument for the handler, as in `send()`; by default none.
            returns: The type of the result. By default any JSON is taken, and an empty reply is
                None. With `bytes`, the payload is returned as it is.
            timeout, priority, durable: see `Node.request()`.

        Raises:
            SchemaError: the reply is not of the type `returns`.
            TypeError, ValueError, ImportError: see `send()`.
            SignedWireError: the errors of `Node.request()`.
        """
        codec = codec_of(returns)
        reply = await self._node.request(
            self._did,
            payload_of(value),
            subject=subject,
            timeout=timeout,
            priority=priority,
            durable=durable,
        )
        try:
            return codec.decode(reply.payload, returns)
        except SchemaError as error:
            error.add_note(f"in the reply of {self.name} to {subject!r}")
            raise

    def __repr__(self) -> str:
        return f"<Peer {self._node.config.names.label_of(self._did)}>"


class Publisher(Bound, Generic[T], instead="make another with fleet.publisher()"):
    """Publishes the values of one subject. `Fleet.publisher()` makes it."""

    __slots__ = ("_codec", "_publish", "_subject")

    def __init__(
        self, subject: str, codec: Codec, publish: Callable[[bytes], Awaitable[Outcomes]]
    ) -> None:
        self._subject = subject
        self._codec = codec
        self._publish = publish

    @property
    def subject(self) -> str:
        """The subject."""
        return self._subject

    async def put(self, value: T) -> Outcomes:
        """Publish a value, as `Node.publish()` does; return when its copies are queued.

        Raises:
            TypeError, ValueError: the value has no form as a payload, or an option contradicts
                the defaults of the subject.
            ClosedError, WrongContextError: see `Node.publish()`.
        """
        return await self._publish(self._codec.encode(value))

    def __repr__(self) -> str:
        return f"<Publisher of {self._subject!r}>"


class Group(Bound, instead="pass its names"):
    """Some peers of a fleet, never this node itself. `Fleet.group()` makes it.

    Iterate over it for the names; a peer without a name counts with its DID as text.
    """

    __slots__ = ("_dids", "_dispatcher", "_node")

    def __init__(self, node: Node, dispatcher: Dispatcher, dids: tuple[Did, ...]) -> None:
        self._node = node
        self._dispatcher = dispatcher
        self._dids = tuple(did for did in dids if did != node.did)

    @property
    def dids(self) -> tuple[Did, ...]:
        """The DIDs of the members."""
        return self._dids

    def __iter__(self) -> Iterator[str]:
        return (self._node.name_of(did) or str(did) for did in self._dids)

    def __len__(self) -> int:
        return len(self._dids)

    async def send(
        self,
        value: object,
        *,
        subject: str | None = None,
        priority: Priority | PriorityName | None = None,
        durable: bool | None = None,
        latest: str | bool | None = None,
        deadline: Deadline = None,
        until: Until | None = None,
    ) -> Outcomes:
        """Send a value to all members, as `Node.send_all()` does; return the table of outcomes.

        Args:
            value, subject: see `Peer.send()`.
            priority, durable, latest, deadline, until: see `Node.send_all()`.

        Raises:
            TypeError, ValueError, ImportError: see `Peer.send()`.
            ClosedError, WrongContextError: see `Node.send_all()`.
        """
        return await self._node.send_all(
            self._dids,
            payload_of(value),
            subject=subject_for(value, subject),
            priority=priority,
            durable=durable,
            latest=latest,
            deadline=deadline,
            until=until,
        )

    def subscribe(
        self, subject: str, type_: type[T], *, latest: bool = False
    ) -> GroupSubscription[T]:
        """Return a subscription to a subject of all members, for `async for` or `async with`.

        Args:
            subject: The subject.
            type_: The type of the values. Publications of another type are refused.
            latest: Whether only the newest unread value of each member is kept, by default no.

        Raises:
            ImportError: the type needs the extra `msgspec`, which is not installed.
        """
        return GroupSubscription(
            self._node, self._dispatcher, self._dids, subject, type_, is_latest=latest
        )

    def __repr__(self) -> str:
        return f"<Group of {len(self)} peers>"


class GroupSubscription(Bound, Generic[T], instead="subscribe again there"):
    """The values that the members of a group publish. `Group.subscribe()` makes it.

    Iterate over it: it yields the name of the publisher, the value and the message. A message is
    acknowledged when the next one is asked for, or when the block of `async with` has ended
    without an error. Members may come and go. The refusal of one is logged, and the others go on.
    It ends with `close()`, with the block, or with the fleet; leaving the iteration does not end
    it. It belongs to the event loop of its fleet.
    """

    __slots__ = (
        *("_codec", "_did_list", "_dispatcher", "_error", "_filled", "_has_begun", "_is_closed"),
        *(
            "_is_latest",
            "_items",
            "_last",
            "_node",
            "_room",
            "_size",
            "_subject",
            "_tasks",
            "_type",
        ),
    )

    def __init__(
        self,
        node: Node,
        dispatcher: Dispatcher,
        dids: tuple[Did, ...],
        subject: str,
        type_: type[T],
        *,
        is_latest: bool,
    ) -> None:
        self._node = node
        self._dispatcher = dispatcher
        self._did_list = dids
        self._subject = subject
        self._type = type_
        self._codec = codec_of(type_)
        self._is_latest = is_latest
        self._items: deque[tuple[str, T, Message]] = deque()
        self._size = 0
        """Bytes of the messages in `_items`."""
        self._last: Message | None = None
        self._tasks: dict[asyncio.Task[None], Did] = {}
        self._error: BaseException | None = None
        self._has_begun = self._is_closed = False
        self._filled = asyncio.Event()
        self._room = asyncio.Event()

    def __aiter__(self) -> AsyncIterator[tuple[str, T, Message]]:
        return self

    async def __anext__(self) -> tuple[str, T, Message]:
        """Acknowledge the last message, and wait for the next. Cancelling loses none.

        Raises:
            MessageRefusedError: every member has refused the subscription.
            ValueError: this node is subscribed to the subject of a member already.
            ClosedError: the node is not started.
            StopAsyncIteration: the group is empty, or the node or the subscription is closed.
        """
        self._ack()
        self._begin()
        while not self._items and self._error is None and self._tasks:
            self._filled.clear()
            await self._filled.wait()
        if self._items:
            item = self._items.popleft()
            self._last = item[2]
            self._size -= self._last.size
            self._room.set()
            return item
        error, self._error = self._error, None
        if error is not None:
            raise error
        raise StopAsyncIteration

    async def close(self) -> None:
        """End the subscription. Values that were not read are refused. Safe to repeat."""
        self._has_begun = self._is_closed = True
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while self._items:
            self._refuse(self._items.popleft()[2])

    async def __aenter__(self) -> Self:
        self._begin()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None:
            self._ack()
        await self.close()

    def _ack(self) -> None:
        message, self._last = self._last, None
        if message is not None:
            with contextlib.suppress(ClosedError):
                message.ack()

    def _refuse(self, message: Message) -> None:
        with contextlib.suppress(ClosedError):
            message.nack(Reason.UNKNOWN_SUBJECT, "the subscription to this subject was closed")

    # -- members ----------------------------------------------------------------------------

    def _begin(self) -> None:
        """Subscribe to all members, once."""
        if self._has_begun:
            return
        self._has_begun = True
        for did in self._did_list:
            task = self._dispatcher.start(self._follow(did))
            self._tasks[task] = did
            task.add_done_callback(self._on_end)

    async def _follow(self, did: Did) -> None:
        """Put the publications of one member into the queue, until it refuses."""
        with contextlib.suppress(ClosedError):
            while (kept := self._dispatcher.take_kept(did, self._subject)) is not None:
                await self._put(kept)
            # No other task runs between the last look and the opening, so no publication is missed.
            subscription = self._node.subscribe(did, self._subject, latest=self._is_latest)
            async with subscription:
                async for message in subscription:
                    await self._put(message)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        """Note that no more comes from a member, and why."""
        did = self._tasks.pop(task)
        self._filled.set()
        error = None if task.cancelled() else task.exception()
        if isinstance(error, MessageRefusedError):
            self._dispatcher.log.warning(
                "%s refused the subscription to %r: %s; the other members go on",
                did,
                self._subject,
                error,
                extra=fields("subscription refused", peer=did),
            )
            if self._tasks:
                return
        self._error = error or self._error

    async def _put(self, message: Message) -> None:
        value = decode_or_nack(message, self._type, self._codec)
        if value is NACKED:
            return
        item = label_of(self._node, message), value, message
        if self._is_latest:
            self._replace(item)
            return
        while not has_room(len(self._items), self._size, message, _MAX_WAITING):
            self._room.clear()
            try:
                await self._room.wait()
            except asyncio.CancelledError:
                if self._is_closed:  # else the node ends, and a store keeps the message
                    self._refuse(message)
                raise
        self._items.append(item)
        self._size += message.size
        self._filled.set()

    def _replace(self, item: tuple[str, T, Message]) -> None:
        """Add a value in place of the older one of its member, which is acknowledged."""
        self._filled.set()
        for place, older in enumerate(self._items):
            if older[0] == item[0]:
                self._items[place] = item
                self._size += item[2].size - older[2].size
                with contextlib.suppress(ClosedError):
                    older[2].ack()
                return
        self._items.append(item)
        self._size += item[2].size

    def __repr__(self) -> str:
        return f"<GroupSubscription to {self._subject!r} of {len(self._did_list)} peers>"
