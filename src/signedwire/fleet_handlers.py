"""The handlers of a `Fleet`: who may call them, with which value, and in which order.

node.messages() ─→ Dispatcher._put() ─→ _Subject.waiting ─→ _work(): one task for each subject
                      ├ allowed?  "role"                     ├ in time?   "expired"
                      ├ subject?  "unknown subject"          ├ the type?  "malformed"
                      └ room?     "inbox full"               └ handler ─→ ack()
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

from signedwire.delivery.message import Message
from signedwire.errors import ClosedError
from signedwire.home import Turns
from signedwire.logs import EventLog, fields
from signedwire.messaging.codecs import NACKED, Codec, decode_or_nack
from signedwire.messaging.handlers import Handler
from signedwire.messaging.values import codec_of, payload_of
from signedwire.node import Node
from signedwire.types import Did, Kind, Reason, unix_time_us

__all__ = ["Call", "Dispatcher", "Gate", "HandlerContext", "Who", "has_room", "label_of"]

H = TypeVar("H", bound=Callable[..., Any])
Who: TypeAlias = str | Did | Iterable[str | Did]
"""A role, a name or a DID, or several of them."""
_MAX_WAITING: Final = 256
"""Messages of one subject that wait for its handler."""
_MAX_KEPT: Final = 256
"""Publications of one named peer that wait for a subscription."""
_MAX_BYTES: Final = 8 * 2**20
"""Bytes of either of them; one larger message may wait alone."""


@dataclass(frozen=True, slots=True)
class HandlerContext:
    """The circumstances of a message, for a handler of a `Fleet`."""

    sender: str
    """The name of the sender; its DID as text if it has none; empty if nothing proves it."""
    message: Message
    """The message. The handler may refuse it with `message.nack()`."""
    age: float | None
    """Seconds since the sender called `send()`; `None`: not known. See `Node.age()`."""


class Gate:
    """Checks who may send to one handler, and how old a message may be.

    Args:
        node: The node that has received the messages.
        allowed: The senders; `None`: everybody.
        within: Seconds; `None`: only the deadline of the message counts.
    """

    __slots__ = ("_allowed", "_node", "_within")

    def __init__(self, node: Node, allowed: Iterable[Did] | None, within: float | None) -> None:
        self._node = node
        self._allowed = None if allowed is None else frozenset(allowed)
        self._within = within

    def is_allowed(self, message: Message) -> bool:
        """Whether the sender may call the handler. If not, the message is refused as "role"."""
        if self._allowed is None or message.proven_sender in self._allowed:
            return True
        message.nack(Reason.ROLE)
        return False

    def is_in_time(self, message: Message) -> bool:
        """Whether a message is young enough. If not, it is refused."""
        late: Reason | None = None
        if self._within is not None:
            late = self._node.check_within(message, self._within)
        elif message.expires_at_us is not None and unix_time_us() >= message.expires_at_us:
            late = Reason.EXPIRED
        if late is None:
            return True
        message.nack(late)
        return False


class Call:
    """A handler with what it takes and returns.

    Args:
        node: The node that has received the messages.
        handler: A function or coroutine function of the application.
        type_: The type of the value; `None`: the annotation of the first parameter.
        returns: Whether the annotation of the result counts.

    Raises:
        TypeError: the handler cannot be called, or its annotations cannot be read.
        ImportError: a type needs the extra `msgspec`, which is not installed.
    """

    __slots__ = ("_codec", "_count", "_handler", "_node", "_returns", "_type")

    def __init__(self, node: Node, handler: Any, type_: Any, *, returns: bool = False) -> None:
        if not callable(handler):
            raise TypeError(f"a handler is a function, not {type(handler).__name__}")
        self._node = node
        self._handler = handler
        needs_annotations = returns or type_ is None
        signature = _signature_of(handler, is_read=needs_annotations)
        places = [each for each in signature.parameters.values() if _is_place(each)]
        self._count = min(len(places), 2)
        if type_ is None and places:
            annotation = places[0].annotation
            type_ = Message if annotation is inspect.Parameter.empty else annotation
        self._type = type_
        self._codec: Codec | None = None if type_ is Message else codec_of(type_)
        empty = inspect.Signature.empty
        result = signature.return_annotation if returns else empty
        self._returns: Codec | None = None if result is empty else codec_of(result)

    def value_of(self, message: Message) -> object:
        """Return the value for the handler, or `NACKED` if the message was refused."""
        return message if self._codec is None else decode_or_nack(message, self._type, self._codec)

    async def run(self, value: object, message: Message) -> object:
        """Call the handler, and return its result."""
        arguments: tuple[object, ...] = ()
        if self._count == 1:
            arguments = (value,)
        elif self._count:
            age = self._node.age(message)
            arguments = (value, HandlerContext(label_of(self._node, message), message, age))
        result = self._handler(*arguments)
        return await result if inspect.isawaitable(result) else result

    def as_server(self, gate: Gate) -> Handler:
        """Return a handler for `Node.serve()`, whose reply is the result of this call."""

        async def serve(request: Message) -> bytes | None:
            if not gate.is_allowed(request) or not gate.is_in_time(request):
                return None
            value = self.value_of(request)
            if value is NACKED:
                return None
            return payload_of(await self.run(value, request), self._returns)

        return serve


class _Subject:
    """The messages of one subject that wait for its handler."""

    __slots__ = ("call", "gate", "is_running", "size", "waiting")

    def __init__(self, call: Call, gate: Gate) -> None:
        self.call = call
        self.gate = gate
        self.waiting: deque[Message] = deque()
        self.size = 0
        """Bytes of the messages that wait."""
        self.is_running = False

    def put(self, message: Message) -> bool:
        """Have a message wait, and return true; or return false if there is no room."""
        if not has_room(len(self.waiting), self.size, message, _MAX_WAITING):
            return False
        self.waiting.append(message)
        self.size += message.size
        return True

    def take(self) -> Message:
        """Return the oldest message that waits."""
        message = self.waiting.popleft()
        self.size -= message.size
        return message


class Dispatcher:
    """Takes the received messages of a node, and calls their handlers. In the loop.

    Args:
        node: The node.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._subjects: dict[str, _Subject] = {}
        self._kept: dict[Did, deque[Message]] = {}
        """Publications that came before their subscription, of peers with a name."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._home: tuple[int, asyncio.AbstractEventLoop] | None = None
        self._members = frozenset(
            (*node.config.names.values(), *(d for ds in node.config.roles.values() for d in ds))
        )
        self.log = EventLog(logging.getLogger("signedwire.fleet"), node.config.names.in_words)

    def add(self, subject: str, call: Call, gate: Gate) -> None:
        """Have a handler called for the messages of a subject.

        Raises:
            ValueError: the subject has a handler.
        """
        if subject in self._subjects:
            raise ValueError(f"the subject {subject!r} has a handler already")
        self._subjects[subject] = _Subject(call, gate)

    def begin(self) -> None:
        """Take messages from now on: the node is open."""
        self._home = os.getpid(), asyncio.get_running_loop()
        self.start(self._take_all())

    async def end(self) -> None:
        """Stop all tasks. Messages that wait for a handler stay without an answer.

        In a forked child or another event loop, this does nothing: the tasks are not there.
        """
        if self._home != (os.getpid(), asyncio.get_running_loop()):
            return
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def take_kept(self, did: Did, subject: str) -> Message | None:
        """Take the oldest publication that came before its subscription; `None`: there is none."""
        kept = self._kept.get(did, ())
        found = next((message for message in kept if message.subject == subject), None)
        if found is not None:
            self._kept[did].remove(found)
        return found

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine in a task that ends with the fleet at the latest."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # the loop holds a task weakly
        task.add_done_callback(self._tasks.discard)
        return task

    async def _take_all(self) -> None:
        async for message in self._node.messages():
            try:
                self._put(message)
            except ClosedError:  # nobody can be answered any more
                pass
            except Exception as error:  # noqa: BLE001 - the next one may be an emergency stop
                self.log.note_fault(f"taking message {message.message_id[:8]}", error)

    def _put(self, message: Message) -> None:
        if message.kind is Kind.PUBLICATION:
            self._keep(message)
            return
        subject = self._subjects.get(message.subject) if message.kind is Kind.MESSAGE else None
        if subject is None:
            message.nack(Reason.UNKNOWN_SUBJECT)
        elif not subject.gate.is_allowed(message):
            return
        elif not subject.put(message):
            count = len(subject.waiting)
            message.nack(Reason.INBOX_FULL, f"{count} messages wait for its handler")
        elif not subject.is_running:
            subject.is_running = True
            self.start(self._work(subject))

    def _keep(self, message: Message) -> None:
        """Keep a publication of a member for its subscription; refuse all others."""
        sender = message.proven_sender
        if sender is None or sender not in self._members:
            message.nack(Reason.UNKNOWN_SUBJECT)
            return
        kept = self._kept.setdefault(sender, deque())
        if has_room(len(kept), sum(each.size for each in kept), message, _MAX_KEPT):
            kept.append(message)
        else:
            message.nack(Reason.INBOX_FULL, f"{len(kept)} publications wait for a subscription")

    async def _work(self, subject: _Subject) -> None:
        """Handle the messages of a subject as long as some wait."""
        turns = Turns()
        try:
            while subject.waiting:
                with contextlib.suppress(ClosedError):
                    await self._handle(subject, subject.take())
                if turns.is_over():
                    await turns.give()
        finally:
            subject.is_running = False

    async def _handle(self, subject: _Subject, message: Message) -> None:
        if not subject.gate.is_in_time(message):
            return
        try:
            value = subject.call.value_of(message)
            if value is NACKED:
                return
            await subject.call.run(value, message)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            self._refuse(message, error)  # the handler has awaited something that was cancelled
            return
        except Exception as error:  # noqa: BLE001 - a bug of the application stops no other message
            self._refuse(message, error)
            return
        message.ack()

    def _refuse(self, message: Message, error: BaseException) -> None:
        self.log.error(
            "the handler of %r failed, so the message %s from %s is refused",
            message.subject,
            message.message_id[:8],
            message.proven_sender,
            exc_info=error,
            extra=fields("handler failed", peer=message.proven_sender, error=type(error).__name__),
        )
        message.nack(Reason.REFUSED, f"its handler failed: {type(error).__name__}")


def has_room(count: int, size: int, message: Message, most: int) -> bool:
    """Whether a message may wait with `count` others of `size` bytes, of which `most` may be."""
    return not count or (count < most and size + message.size <= _MAX_BYTES)


def label_of(node: Node, message: Message) -> str:
    """Return the name of a sender; its DID as text if it has none; empty if it is not proven."""
    sender = message.proven_sender
    return "" if sender is None else node.name_of(sender) or str(sender)


def _signature_of(handler: Callable[..., object], *, is_read: bool) -> inspect.Signature:
    """Return the signature of a handler, with its annotations as types if they are to be read.

    Raises:
        TypeError: an annotation names what is not known where the handler is defined.
    """
    try:
        return inspect.signature(handler, eval_str=is_read)
    except NameError as error:
        raise TypeError(
            f"the annotations of {getattr(handler, '__qualname__', handler)} cannot be read: "
            f"{error}. Define the type at the top level of its module"
        ) from None


def _is_place(parameter: inspect.Parameter) -> bool:
    """Whether a parameter takes an argument that a call without keywords must have."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return parameter.kind in kinds and parameter.default is inspect.Parameter.empty
