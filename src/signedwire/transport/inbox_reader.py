"""Receive calls of the application, in the node's loop or in any thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable

from signedwire.clock import monotonic
from signedwire.delivery.endpoint import Endpoint
from signedwire.delivery.inbox import Inbox
from signedwire.delivery.message import IncomingMessage, Message
from signedwire.delivery.receipt import future_waker
from signedwire.errors import ClosedError, WrongContextError
from signedwire.home import Turns
from signedwire.transport.runtime import Runtime
from signedwire.types import Reason, unix_time_us

__all__ = ["InboxReader"]


class InboxReader:
    """Takes messages out of the inbox of a node, and frees their credit.

    Args:
        runtime: The surroundings of the parts of the node.
        endpoint: The sessions of all peers.
        inbox: The inbox; by default that of the endpoint.
        check: Raises if no further message can come, also while the node is open.
    """

    def __init__(
        self,
        runtime: Runtime,
        endpoint: Endpoint,
        inbox: Inbox | None = None,
        check: Callable[[], None] | None = None,
    ) -> None:
        self._runtime = runtime
        self._access = endpoint.access
        self._denied = endpoint.denials
        self._inbox = endpoint.inbox if inbox is None else inbox
        self._check = check or _nothing
        self._acks_at_once = runtime.config.ack == "auto"
        self._turns = Turns()

    async def arrive(self, timeout: float | None) -> Message:
        """Wait for the next message, in the node's event loop. Cancelling loses none.

        Raises:
            ClosedError: the node was not started, or it is closed and its inbox is empty.
            TimeoutError: `timeout` seconds passed first.
        """
        if self._turns.is_over():  # first, so that cancelling loses no message
            await self._turns.give()
        message = self.take()
        if message is not None:
            return message
        home = self._runtime.home
        home.check_open()
        self._check()
        if timeout == 0:
            raise no_message(timeout)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                while True:
                    home.check_open()
                    self._check()
                    arrived = loop.create_future()
                    wake = future_waker(loop, arrived)
                    if self._inbox.when_filled(wake):
                        try:
                            await arrived
                        finally:
                            self._inbox.forget(wake)
                            self._turns.begin()
                    message = self.take()
                    if message is not None:
                        return message
        except TimeoutError:
            raise no_message(timeout) from None

    async def messages(self) -> AsyncIterator[Message]:
        """Yield each message as it comes, until the node is closed. See `Node.messages()`."""
        self._runtime.home.check_here()
        self._runtime.home.check_begun()
        turns = self._turns
        while True:
            while (message := self.take()) is not None:
                yield message
                if turns.is_over():
                    await turns.give()
            try:
                message = await self.arrive(None)
            except WrongContextError:
                raise
            except ClosedError:
                return
            yield message

    def wait(self, timeout: float | None) -> Message:
        """Wait for the next message as `receive()` does, but raise when `timeout` passes.

        Raises:
            ClosedError: the node is closed and its inbox is empty.
            TimeoutError: `timeout` seconds passed first.
        """
        message = self.receive(timeout)
        if message is None:
            raise no_message(timeout)
        return message

    def receive(self, timeout: float | None) -> Message | None:
        """Return the next message, or `None` after `timeout` seconds. Blocks the thread.

        Any thread but the loop's may call. The calling thread takes the message itself, so
        Ctrl-C loses none.

        Raises:
            ClosedError: the node was not started, or it is closed and its inbox is empty.
            RuntimeError: the caller is the event loop's own thread.
        """
        deadline = None if timeout is None else monotonic() + timeout
        self._runtime.home.check_alive()
        self._runtime.home.check_begun()
        while True:
            message = self.take()
            if message is not None:
                return message
            if not self._runtime.is_open:
                raise ClosedError("closed, and no message is left")
            self._check()
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                return None
            if self._runtime.is_in_loop:
                raise RuntimeError("waiting here in the event loop's own thread has no end")
            arrived = threading.Event()
            if self._inbox.when_filled(arrived.set):
                try:
                    arrived.wait(None if left is None else min(left, threading.TIMEOUT_MAX))
                finally:
                    self._inbox.forget(arrived.set)

    def take(self) -> Message | None:
        """Take the next message for the application, if there is one. Refuse expired ones."""
        while (message := self._inbox.take()) is not None:
            if self.hand_out(message, acks_at_once=self._acks_at_once):
                return message
        return None

    def hand_out(self, message: IncomingMessage, *, acks_at_once: bool = False) -> bool:
        """Free the credit of a message that leaves its queue for the application. Any thread.

        Args:
            message: The message.
            acks_at_once: Whether to call `ack()` for the application.

        Returns:
            Whether the application may have it. If not, its sender is denied or it has expired,
            and it was refused.
        """
        # `has_rules` first: it saves the call for each message while nobody is denied.
        if self._access.has_rules and self._denied.is_from_denied(message):
            self._denied.discard([message])
            return False
        origin = message.origin
        if origin is None:
            return True
        if threading.get_ident() == self._runtime.loop_thread:
            origin.taken(message)
        else:
            self._runtime.call_soon(origin.taken, message)
        expires_at_us = message.expires_at_us
        if expires_at_us is None or unix_time_us() < expires_at_us:
            if acks_at_once:
                # The node may have ended, or end meanwhile if this is another thread.
                with contextlib.suppress(ClosedError):
                    message.ack()
            return True
        with contextlib.suppress(ClosedError):
            origin.nacked(message, Reason.EXPIRED, "")
        self._runtime.drop(Reason.EXPIRED, message.proven_sender)
        return False

    def close(self) -> None:
        """Close the inbox, and count the messages that the application has not taken."""
        untaken = self._inbox.close()
        if untaken:
            self._runtime.drop(Reason.INBOX_CLOSED, count=untaken)


def no_message(timeout: float | None) -> TimeoutError:
    """Return the error for a caller whose time has passed."""
    return TimeoutError(f"no message came within {timeout} s")


def _nothing() -> None:
    """Do nothing."""
