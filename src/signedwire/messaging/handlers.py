"""Handlers: functions of the application that answer the requests of a subject."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from signedwire.arguments import BytesLike
from signedwire.delivery.message import IncomingMessage, Message
from signedwire.errors import ClosedError
from signedwire.home import Turns
from signedwire.logs import FATAL, fields
from signedwire.messaging.requests import Requests
from signedwire.sending import Sending
from signedwire.transport.core import NodeCore
from signedwire.types import DeliveryState, Kind, PayloadType, Priority, Reason, unix_time_us

__all__ = ["Handler", "Handlers"]

Handler: TypeAlias = Callable[[Message], BytesLike | Awaitable[BytesLike | None] | None]
"""Function or coroutine function that gets a request, and returns the payload of the reply.

`None` is an empty payload. After `reply()` or `nack()` in the function, its result is not used.
"""

_LATE: Final = "its handler did not end before the deadline"


class _Served:
    """The requests of one subject."""

    __slots__ = ("_waiting", "handler", "limit", "running")

    def __init__(self, handler: Handler, limit: int) -> None:
        self.handler = handler
        self.limit = limit
        self.running = 0
        """Number of tasks that handle requests."""
        self._waiting: tuple[deque[IncomingMessage], ...] = tuple(deque() for _ in Priority)
        # They use credit, which bounds them.

    def put(self, message: IncomingMessage) -> None:
        """Have a request wait for a task."""
        self._waiting[message.priority].append(message)

    def take(self) -> IncomingMessage | None:
        """Return the oldest request of the highest priority; `None`: none waits."""
        for lane in reversed(self._waiting):
            if lane:
                return lane.popleft()
        return None


class Handlers:
    """Calls the handlers of one node. In the loop, where nothing else is said.

    Args:
        core: The parts of the node.
        sending: Queues the replies.
        requests: Makes the replies.
    """

    def __init__(self, core: NodeCore, sending: Sending, requests: Requests) -> None:
        self._core = core
        self._sending = sending
        self._requests = requests
        self._served: dict[str, _Served] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        core.context.consumers.set(Kind.REQUEST, self._on_request)
        core.at_end("ending the handlers", self.end)

    def serve(self, subject: str, handler: Handler, limit: int) -> None:
        """Call `handler` for each request of a subject, for at most `limit` at a time.

        Any thread may call this before the start, and the loop at any time.

        Raises:
            ValueError: the subject has a handler.
        """
        if subject in self._served:
            raise ValueError(f"the subject {subject!r} has a handler already")
        self._served[subject] = _Served(handler, limit)
        inbox = self._core.endpoint.inbox
        for message in inbox.remove_if(lambda one: _is_request(one, subject)):
            self._on_request(message)  # it came before, perhaps in an earlier process

    def _on_request(self, message: IncomingMessage) -> bool:
        """Consume a request. Without any handler, it goes to the inbox."""
        if not self._served:
            return False
        served = self._served.get(message.subject)
        if served is None:
            if self._core.reader.hand_out(message):
                message.nack(Reason.UNKNOWN_SUBJECT)
            return True
        served.put(message)
        if served.running < served.limit:
            served.running += 1
            task = asyncio.get_running_loop().create_task(self._work(served))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return True

    async def _work(self, served: _Served) -> None:
        """Handle requests as long as some wait."""
        turns = Turns()
        try:
            while (message := served.take()) is not None:
                if self._core.reader.hand_out(message):
                    with contextlib.suppress(ClosedError):  # nobody can be answered any more
                        await self._handle(served.handler, message)
                if turns.is_over():
                    await turns.give()
        finally:
            served.running -= 1

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
                payload = b"" if result is None else result
                reply = self._requests.new_reply(message, payload, PayloadType.RAW)
                message.note_reply()
                await self._sending.send(reply, DeliveryState.QUEUED)
        except FATAL:
            raise
        except Exception as error:
            if deadline.expired() and isinstance(error, TimeoutError):
                message.nack(Reason.EXPIRED, _LATE)
                return
            if isinstance(error, ClosedError):
                raise
            self._report(message, error)
            message.nack(Reason.REFUSED, f"its handler failed: {type(error).__name__}")

    def _report(self, message: IncomingMessage, error: Exception) -> None:
        extra = fields("handler failed", peer=message.sender, error=type(error).__name__)
        self._core.runtime.log.error(
            "the handler of %r failed, so the request %s from %s is refused",
            message.subject,
            message.message_id[:8],
            message.sender,
            exc_info=error,
            extra=extra,
        )

    async def end(self) -> None:
        """Cancel the handlers that still run, because the node is closed."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _is_request(message: IncomingMessage, subject: str) -> bool:
    return message.kind is Kind.REQUEST and message.subject == subject
