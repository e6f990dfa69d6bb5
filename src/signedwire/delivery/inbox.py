"""Received messages that the application has not yet taken: bounded, thread-safe.

The transport puts messages in. When there is no room, it stops reading from its
sockets until the application has taken half of the waiting messages. Nothing is
dropped here: a slow application slows its senders down instead of growing memory.
Senders share its time by turns: see `fair_lanes`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from signedwire.delivery.fair_lanes import FairLanes
from signedwire.delivery.message import IncomingMessage
from signedwire.types import Did, Priority

__all__ = ["Inbox"]

Wake = Callable[[], None]


class Inbox:
    """The queue between the transport and the application.

    One thread puts, any thread takes. A wake-up function is called once and then
    forgotten; it runs in the thread that caused it.

    Args:
        limit: Maximum number of waiting messages.
        reserve: Number of further slots that only Critical may use.
    """

    __slots__ = ("_lanes", "_lock", "_waiters", "is_closed")

    def __init__(self, limit: int, reserve: int) -> None:
        self._lanes: FairLanes[IncomingMessage] = FairLanes(limit, reserve)
        self._lock = threading.Lock()
        self._waiters: list[Wake] = []
        self.is_closed = False

    def __len__(self) -> int:
        return len(self._lanes)

    def has_room(self, priority: int = Priority.NORMAL) -> bool:
        """Whether a message of this priority would fit now."""
        return self._lanes.has_room(priority)

    def put(
        self,
        message: IncomingMessage,
        priority: int,
        sender: Did | None = None,
        is_known: bool = False,
    ) -> bool:
        """Append a message; return `False` and do nothing if there is no room.

        Args:
            sender: The proven sender; `None`: nothing proves it.
            is_known: Whether the sender is no stranger. Known senders come first.
        """
        if not self._lanes.put(message, priority, sender, is_known):
            return False
        self._wake_one()
        return True

    def add_many(
        self,
        messages: list[IncomingMessage],
        priority: int,
        sender: Did | None = None,
        is_known: bool = False,
    ) -> None:
        """Append messages of one sender without regard to the limit. See `put()`.

        The sender's credit bounds them.
        """
        self._lanes.add_many(messages, priority, sender, is_known)
        for _ in range(min(len(messages), len(self._waiters))):
            self._wake_one()

    def _wake_one(self) -> None:
        if self._waiters:
            with self._lock:
                wake = self._waiters.pop(0) if self._waiters else None
            if wake is not None:
                wake()

    def take(self) -> IncomingMessage | None:
        """Remove and return the message whose turn it is, if there is one."""
        return self._lanes.take()

    def remove_if(self, is_unwanted: Callable[[IncomingMessage], bool]) -> list[IncomingMessage]:
        """Remove and return messages; the others keep their order."""
        return self._lanes.sweep(is_unwanted)

    def when_filled(self, wake: Wake) -> bool:
        """Call `wake` at the next message.

        Returns:
            `False`, without registering `wake`, if a message waits or the inbox is closed.
        """
        with self._lock:
            # Register, then check. put() first adds and then checks for waiters, without
            # the lock. So one of the two threads always sees the other.
            self._waiters.append(wake)
            if self._lanes or self.is_closed:
                self._waiters.pop()
                return False
            return True

    def forget(self, wake: Wake) -> None:
        """Withdraw a wake-up. If it was called already, wake the next waiter instead."""
        with self._lock:
            if wake in self._waiters:
                self._waiters.remove(wake)
                return
            other = self._waiters.pop(0) if self._waiters and self._lanes else None
        if other is not None:
            other()

    def when_room(self, wake: Wake) -> bool:
        """Call `wake` when half is empty; return `False` if half is empty already."""
        return not self.is_closed and self._lanes.when_room(wake)

    def close(self) -> int:
        """Wake all waiters; return the number of messages that were not taken."""
        with self._lock:
            self.is_closed = True
            wakes, self._waiters = self._waiters, []
        for wake in wakes:
            wake()
        self._lanes.wake_all()
        return len(self._lanes)
