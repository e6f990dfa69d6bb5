"""The callers that wait for room in the queue to a peer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from signedwire.delivery.send_queue import SendQueue

__all__ = ["RoomWaiters"]


class RoomWaiters:
    """Callers that wait for room; the queue has one wake-up for all of them.

    Args:
        queue: The queue.
        is_durable: Whether they wait for slots of durable messages; else of volatile ones.
    """

    __slots__ = ("_is_durable", "_is_watching", "_queue", "_wakes")

    def __init__(self, queue: SendQueue[Any], *, is_durable: bool) -> None:
        self._queue = queue
        self._is_durable = is_durable
        self._wakes: list[Callable[[], None]] = []
        self._is_watching = False

    def add(self, wake: Callable[[], None]) -> bool:
        """Call `wake` once, when half of the slots are empty; `False` if they are already."""
        if not self._is_watching:
            if not self._queue.when_room(self._on_room, is_durable=self._is_durable):
                return False
            self._is_watching = True
        self._wakes.append(wake)
        return True

    def remove(self, wake: Callable[[], None]) -> None:
        """Withdraw a wake-up, if it is here."""
        if wake in self._wakes:
            self._wakes.remove(wake)

    def _on_room(self) -> None:
        self._is_watching = False
        wakes, self._wakes = self._wakes, []
        for wake in wakes:
            wake()
