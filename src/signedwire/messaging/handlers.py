"""Handlers: functions of the application that answer the requests of a subject."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from signedwire.arguments import BytesLike
from signedwire.delivery.inbox import Inbox
from signedwire.delivery.message import IncomingMessage, Message
from signedwire.errors import BackpressureError, ClosedError
from signedwire.home import Turns
from signedwire.logs import FATAL, fields
from signedwire.transport.core import NodeCore
from signedwire.types import Kind, Reason, unix_time_us

__all__ = ["Handler", "Handlers"]

Handler: TypeAlias = Callable[[Message], BytesLike | Awaitable[BytesLike | None] | None]
"""Function or coroutine function that gets a request, and returns the payload of the reply.

`None` is an empty payload. After `reply()` or `nack()` in the function, its result is not used.
"""

_LAST_SECONDS: Final = 0.5
"""Seconds that the end of a node waits for handlers that it has cancelled."""
_LATE: Final = "its handler did not end before the deadline"
_NO_ROOM: Final = "its reply found no room in the queue to its sender"


class _Served:
    """The requests of one subject."""

    __slots__ = ("handler", "inbox", "limit", "running")

    def __init__(self, handler: Handler, limit: int, inbox: Inbox) -> None:
        self.handler = handler
        self.limit = limit
        self.inbox = inbox
        """Requests that wait for a task; senders take turns. They use credit, which bounds them."""
        self.running = 0
        """Number of tasks that handle requests."""


class Handlers:
    """Calls the handlers of one node. In the loop, where nothing else is said.

    Args:
        core: The parts of the node.
    """

    def __init__(self, core: NodeCore) -> None:
        self._core = core
        self._served: dict[str, _Served] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_ending = False
        core.context.consumers.set(Kind.REQUEST, self._on_request)
        core.at_open(self._begin)
        core.at_end("ending the handlers", self._end)

    def serve(self, subject: str, handler: Handler, limit: int) -> None:
        """Call `handler` for each request of a subject, for at most `limit` at a time.

        Any thread may call this before the start, and the loop at any time.

        Raises:
            ValueError: the subject has a handler.
        """
        if subject in self._served:
            raise ValueError(f"the subject {subject!r} has a handler already")
        context, config = self._core.context, self._core.runtime.config
        inbox = Inbox(config.inbox_limit, config.critical_reserve)
        served = self._served[subject] = _Served(handler, limit, inbox)
        context.more_inboxes.append(inbox)
        for message in context.inbox.remove_if(lambda one: _is_request(one, subject)):
            self._put(served, message)  # it came before, perhaps in an earlier process
        if self._core.runtime.is_open:
            self._start(served)

    def _begin(self) -> None:
        """Handle the requests that a store has kept, because replies can be sent now."""
        for served in self._served.values():
            self._start(served)

    def _on_request(self, message: IncomingMessage) -> bool:
        """Consume a request. Without any handler, it goes to the inbox."""
        if not self._served:
            return False
        served = self._served.get(message.subject)
        if served is None:
            if self._core.reader.hand_out(message):
                message.nack(Reason.UNKNOWN_SUBJECT)
            return True
        self._put(served, message)
        self._start(served)
        return True

    def _put(self, served: _Served, message: IncomingMessage) -> None:
        sender = message.sender
        is_known = sender in self._core.context.known
        served.inbox.add_many([message], message.priority, sender, is_known)

    def _start(self, served: _Served) -> None:
        """Start a task for the requests that wait, if there may be one more."""
        may_start = self._core.runtime.is_open and not self._is_ending
        if may_start and len(served.inbox) and served.running < served.limit:
            served.running += 1
            task = asyncio.get_running_loop().create_task(self._work(served))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _work(self, served: _Served) -> None:
        """Handle requests as long as some wait."""
        turns = Turns()
        try:
            while (message := served.inbox.take()) is not None:
                self._start(served)  # those behind it need not wait for its handler
                if self._core.reader.hand_out(message):
                    with self._core.endpoint.sessions.in_use(message.sender):
                        await self._handle(served.handler, message)
                if turns.is_over():
                    await turns.give()
        finally:
            served.running -= 1
            self._start(served)

    async def _handle(self, handler: Handler, message: IncomingMessage) -> None:
        due_us = message.expires_at_us
        left = None if due_us is None else (due_us - unix_time_us()) / 1e6
        deadline = asyncio.timeout(left)
        try:
            async with deadline:
                result = handler(message)
                if inspect.isawaitable(result):
                    result = await result
            if message.is_open_request:
                message.reply(b"" if result is None else result)
        except FATAL:
            raise
        except BaseException as error:
            if self._is_ending and isinstance(error, asyncio.CancelledError):
                raise
            self._refuse(message, error, is_late=deadline.expired())

    def _refuse(self, message: IncomingMessage, error: BaseException, *, is_late: bool) -> None:
        """Refuse a request that its handler has not answered."""
        if isinstance(error, ClosedError) and not self._core.runtime.is_open:
            return  # nobody can be answered any more; a durable request comes again
        try:
            if is_late and isinstance(error, TimeoutError):
                message.nack(Reason.EXPIRED, _LATE)
            elif isinstance(error, BackpressureError) and message.is_open_request:
                message.nack(Reason.REFUSED, _NO_ROOM)
            else:
                self._report(message, error)
                message.nack(Reason.REFUSED, f"its handler failed: {type(error).__name__}")
        except ClosedError:
            return

    def _report(self, message: IncomingMessage, error: BaseException) -> None:
        extra = fields("handler failed", peer=message.sender, error=type(error).__name__)
        self._core.runtime.log.error(
            "the handler of %r failed, so the request %s from %s is refused",
            message.subject,
            message.message_id[:8],
            message.sender,
            exc_info=error,
            extra=extra,
        )

    async def _end(self) -> None:
        """Cancel the handlers that still run, because the node is closed."""
        self._is_ending = True
        # A handler may be the one that closes the node, and one may not let itself be cancelled.
        tasks = self._tasks - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_LAST_SECONDS)


def _is_request(message: IncomingMessage, subject: str) -> bool:
    return message.kind is Kind.REQUEST and message.subject == subject
