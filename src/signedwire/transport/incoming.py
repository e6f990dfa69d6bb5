"""What comes in: who may connect, what their frames must pass, and the inbox.

Accepted connections are guests until they have proven themselves (`doorway`).
Frames of v1 are checked in threads, on all cores; v2 batches where they arrive.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from signedwire.clock import monotonic
from signedwire.delivery.inbox import Inbox
from signedwire.delivery.message import Message
from signedwire.delivery.receipt import future_waker
from signedwire.delivery.screen import Screen
from signedwire.errors import ClosedError, StoreError, TransportError
from signedwire.transport.admission import Admission
from signedwire.transport.descriptors import ConnectionLimits, Shortage
from signedwire.transport.doorway import MADE_ROOM, Doorway, Guest
from signedwire.transport.network import Listener, NeedsDescriptors
from signedwire.types import Did, Priority, Reason, Target, unix_time_us

if TYPE_CHECKING:
    from signedwire.transport.core import Core
    from signedwire.transport.inbound import InboundLink

__all__ = ["Incoming"]

T = TypeVar("T")
A = TypeVar("A")

_MAX_VERIFY_THREADS: Final = 4
MAX_LINGERING: Final = 16
"""Refused connections that may wait for their answer at once; more are closed unanswered."""


class Incoming:
    """The listener, its guests, and the messages that the application has not yet taken."""

    def __init__(self, core: Core, us: Did | None) -> None:
        config = core.config
        self._core = core
        self.screen = Screen(config, us)
        self.inbox = Inbox(config.inbox_limit, config.critical_reserve)
        self.threads = config.verify_threads or min(_MAX_VERIFY_THREADS, os.cpu_count() or 1)
        self.accepts_v1 = config.v1_peers == "all" or bool(config.v1_peers)
        self._admission: Admission[Guest] = Admission(config)
        self._guests: set[Guest] = set()
        self._lingering: OrderedDict[Guest, None] = OrderedDict()
        """Refused before their first byte came, which tells whether to answer them."""
        self.busy: set[InboundLink] = set()
        """Whose v1 frames are being checked, also where the connection has ended."""
        self._executor: ThreadPoolExecutor | None = None
        self._listener: Listener | None = None
        self._handles_at_once = config.ack == "auto"
        self._unlogged = 0
        """v1 messages that the evidence log does not have yet."""

    # -- life ---------------------------------------------------------------------

    async def start(self) -> None:
        """Open the listener, if the configuration has one.

        Raises:
            ListenError: its address cannot be had.
        """
        core = self._core
        if core.config.listen is not None:
            self._listener = await core.network.listen(core.config.listen, lambda: Doorway(core))
            if isinstance(self._listener, NeedsDescriptors):
                self._listener.when_short(Shortage(core.log, self._evict_unproven).make_room)
        self._executor = ThreadPoolExecutor(self.threads, thread_name_prefix="signedwire-verify")

    def stop_listening(self) -> None:
        """Accept no more."""
        if self._listener is not None:
            self._listener.close()

    def shut_down(self) -> None:
        """Accept no more, where there is no loop any more."""
        if self._listener is not None:
            self._listener.shut_down()

    async def end(self) -> bool:
        """End every connection, and count what nobody will take. Returns what `outlast()` does."""
        is_cancelled = False
        for guest in (*self._guests, *self._lingering):
            guest.close()
        for link in tuple(self.busy):
            is_cancelled |= await link.stop()
        untaken = self.inbox.close()
        if untaken:
            self._core.drop(Reason.INBOX_CLOSED, count=untaken)
        if self._executor is not None:
            # Its threads are at most a slice, some milliseconds, from their end.
            self._executor.shutdown(wait=True, cancel_futures=True)
        return is_cancelled

    @property
    def address(self) -> Target | None:
        """Where we listen, with the real port; `None` without a listener."""
        return None if self._listener is None else self._listener.address

    def listening_at(self) -> Target:
        """Where we listen, for who asked for it as if there were no doubt.

        Raises:
            ClosedError: not started.
            TransportError: the configuration has no listener.
        """
        address = self.address
        if address is not None:
            return address
        if self._core.config.listen is not None:
            self._core.home.check_open()
        raise TransportError(
            "there is no address: the configuration has listen=None, so nothing listens",
            "Ask `is_listening` first, or set listen, for example to 127.0.0.1:0",
        )

    @property
    def connections(self) -> int:
        """How many there are now."""
        return len(self._guests)

    # -- guests -------------------------------------------------------------------

    def admit(self, guest: Guest) -> bool:
        """Whether an accepted connection may stay."""
        if not self._core.is_open:
            return False
        hurried, closed = self._admission.admit(guest, guest.group)
        if hurried is not None:
            hurried.hurry()
        if closed is not None:
            closed.refuse(Reason.CONNECTION_LIMIT, MADE_ROOM)
        self._guests.add(guest)
        self._core.counters.connections_accepted += 1
        return True

    @property
    def limit(self) -> int:
        """How many accepted connections that have proven themselves there may be."""
        return self._admission.max_proven

    def set_limits(self, limits: ConnectionLimits) -> None:
        """Admit no more than these. For use before the start."""
        self._admission.limit(limits.inbound, limits.unproven)

    def _evict_unproven(self) -> bool:
        """No descriptor is left: close what is to go first, if there is anything."""
        guest = next(iter(self._lingering), None) or self._admission.evict_unproven()
        if guest is None:
            return False
        guest.refuse(Reason.CONNECTION_LIMIT, "no descriptor is left")
        guest.close()
        return True

    def may_linger(self, guest: Guest) -> bool:
        """Whether a refused connection may stay a moment, to be told why if it speaks v2."""
        core = self._core
        if not (core.is_open and core.speaks_v2 and isinstance(guest.protocol, Doorway)):
            return False
        if len(self._lingering) >= MAX_LINGERING:
            # It leaves when its connection is closed, in the next turn: what one turn accepts
            # may stay beyond the limit, and is told that there is no room.
            next(iter(self._lingering)).close()
        self._guests.discard(guest)
        self._lingering[guest] = None
        return True

    def prove(self, guest: Guest) -> None:
        """The connection brought its first acceptable envelope, or its HELLO."""
        evicted = self._admission.prove(guest)
        if evicted is not None:
            evicted.refuse(Reason.CONNECTION_LIMIT, MADE_ROOM)

    def touch(self, guest: Guest) -> None:
        """The connection brought something."""
        self._admission.touch(guest)

    def note_ended(self, guest: Guest) -> None:
        """The connection is gone; it keeps its place, for what it brought is still held."""
        self._guests.discard(guest)

    def forget(self, guest: Guest) -> None:
        """The connection is gone."""
        self._admission.leave(guest)
        self._guests.discard(guest)
        self._lingering.pop(guest, None)

    # -- messages -------------------------------------------------------------------

    def run_in_thread(self, function: Callable[[A], T], argument: A) -> asyncio.Future[T]:
        """Run a check outside the loop."""
        return asyncio.get_running_loop().run_in_executor(self._executor, function, argument)

    async def inbox_room(self) -> None:
        """Wait until the application has taken half of what waits."""
        loop = asyncio.get_running_loop()
        log = self._core.evidence
        if log is not None and self._unlogged:
            logged = loop.create_future()
            log.after([], partial(_set, logged))(None)
            await logged
        room = loop.create_future()
        if self.inbox.when_room(future_waker(loop, room)):
            await room

    def has_room(self, priority: int = Priority.NORMAL) -> bool:
        """Whether a v1 message of this priority would be taken now."""
        log = self._core.evidence
        if log is None or not self._unlogged:
            return self.inbox.has_room(priority)
        waiting = len(self.inbox) + self._unlogged
        return log.has_room and waiting < self._core.config.inbox_limit

    def put(self, message: Message, priority: int) -> bool:
        """Take a v1 message, once the evidence log has it; `False`: there is no room."""
        log, denials = self._core.evidence, self._core.links.denials
        if denials.is_from_denied(message):  # since it was checked
            denials.discard([message])
            return True
        if log is None:
            is_taken = self.inbox.put(message, priority)
            self._core.counters.messages_received += is_taken
            return is_taken
        if not self.has_room(priority):
            return False
        self._unlogged += 1
        log.after([message], partial(self._on_logged, message, priority))(None)
        return True

    def _on_logged(self, message: Message, priority: int, error: StoreError | None) -> None:
        self._unlogged -= 1
        if error is None:
            self._core.counters.messages_received += 1
            self.inbox.add_many([message], priority)
        else:
            self._core.drop(Reason.STORE_FAILED, message.proven_sender)

    async def arrive(self, timeout: float | None) -> Message:
        """Wait for the next message, in the node's event loop. Cancelling loses none.

        Raises:
            ClosedError: not started, or closed, and nothing is left.
            TimeoutError: `timeout` seconds passed first.
        """
        message = self.take()
        if message is not None:
            return message
        home = self._core.home
        home.check_open()
        if timeout == 0:
            raise no_message(timeout)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                while True:
                    home.check_open()
                    arrived = loop.create_future()
                    wake = future_waker(loop, arrived)
                    if self.inbox.when_filled(wake):
                        try:
                            await arrived
                        finally:
                            self.inbox.forget(wake)
                    message = self.take()
                    if message is not None:
                        return message
        except TimeoutError:
            raise no_message(timeout) from None

    def wait(self, timeout: float | None) -> Message:
        """Wait for the next message as `receive()` does, but raise when `timeout` passes.

        Raises:
            ClosedError: closed, and nothing is left.
            TimeoutError: `timeout` seconds passed first.
        """
        message = self.receive(timeout)
        if message is None:
            raise no_message(timeout)
        return message

    def receive(self, timeout: float | None) -> Message | None:
        """The next message, or `None` after `timeout` seconds; blocks. Any thread but the loop's.

        The message is taken in the thread that asks, so an interrupt of it loses none.

        Raises:
            ClosedError: not started, or closed, and nothing is left.
        """
        deadline = None if timeout is None else monotonic() + timeout
        self._core.home.check_alive()
        self._core.home.check_begun()
        while True:
            message = self.take()
            if message is not None:
                return message
            if not self._core.is_open:
                raise ClosedError("closed, and no message is left")
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                return None
            if self._core.is_in_loop:
                raise RuntimeError("waiting here in the event loop's own thread has no end")
            arrived = threading.Event()
            if self.inbox.when_filled(arrived.set):
                try:
                    arrived.wait(None if left is None else min(left, threading.TIMEOUT_MAX))
                finally:
                    self.inbox.forget(arrived.set)

    def take(self) -> Message | None:
        """The next message for the application, if there is one. Late ones go back."""
        links = self._core.links
        while (message := self.inbox.take()) is not None:
            # `is_from_denied()`, without the call where nobody can be: this is done for all.
            if links.access.has_rules and links.denials.is_from_denied(message):
                links.denials.discard([message])
                continue
            origin = message.origin
            if origin is None:
                return message
            origin.taken(message)
            expires_at_us = message.expires_at_us
            if expires_at_us is None or unix_time_us() < expires_at_us:
                if self._handles_at_once and not self._core.home.has_ended:
                    message.done()
                return message
            with contextlib.suppress(ClosedError):
                origin.refused(message, Reason.EXPIRED)
            self._core.drop(Reason.EXPIRED, message.proven_sender)
        return None


def no_message(timeout: float | None) -> TimeoutError:
    """What a caller gets who waited in vain."""
    return TimeoutError(f"no message came within {timeout} s")


def _set(future: asyncio.Future[None], _: StoreError | None) -> None:
    if not future.done():
        future.set_result(None)
