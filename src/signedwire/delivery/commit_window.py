"""Limits how many messages may wait for a commit of the store."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

__all__ = ["CommitWindow"]


class CommitWindow:
    """Counts the messages that wait for a commit, and wakes callers when half are committed.

    `add()` and `remove()` may be called in any thread, the other methods in one.

    Args:
        limit: Number of waiting messages from which no further one is taken.
        lock: A mutex of its own.
    """

    __slots__ = ("_has_ended", "_limit", "_lock", "_wakes", "waiting")

    def __init__(self, limit: int, lock: AbstractContextManager[object]) -> None:
        self.waiting = 0
        """Number of messages that wait for a commit."""
        self._limit = limit
        self._lock = lock
        self._wakes: list[Callable[[], None]] = []
        self._has_ended = False

    @property
    def is_full(self) -> bool:
        """Whether no further message is taken."""
        return self.waiting >= self._limit

    @property
    def has_room(self) -> bool:
        """Whether at most half of the limit is used. Half: so a waiting caller adds many."""
        return self.waiting <= self._limit // 2

    def add(self, count: int) -> None:
        """Count messages that were handed to the store."""
        with self._lock:
            self.waiting += count

    def remove(self, count: int) -> None:
        """Count messages whose commit has ended; wakes callers if there is room now."""
        with self._lock:
            self.waiting -= count
        if self._wakes and self.has_room:
            self._wake_all()

    def when_room(self, wake: Callable[[], None]) -> bool:
        """Call `wake`, once, when there is room or the window ends; `False`: now already."""
        if self.has_room or self._has_ended:
            return False
        self._wakes.append(wake)
        return True

    def forget_room(self, wake: Callable[[], None]) -> None:
        """Withdraw a call that `when_room()` has registered."""
        if wake in self._wakes:
            self._wakes.remove(wake)

    def end(self) -> None:
        """Wake every caller, because the node closes."""
        self._has_ended = True
        self._wake_all()

    def _wake_all(self) -> None:
        wakes, self._wakes = self._wakes, []
        for wake in wakes:
            wake()
