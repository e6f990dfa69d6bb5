"""A receipt: what has become of one sent message.

    queued ─→ written                       towards v1 peers, which never answer
       │  ↖──────┘ (the connection broke before the peer's host had the bytes)
       ├─→ failed(reason)
       └─→ expired

`written` means handed to the operating system on a connection that the peer
had not closed. v1 says no more, so `is_confirmed` stays false there. Where the
kernel tells that the peer's host never acknowledged the bytes of a broken
connection, the message goes back to `queued` and is written again, so a
receipt may leave `written` once more; `failed` and `expired` are final.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

from signedwire.errors import DeliveryFailedError, MessageExpiredError
from signedwire.types import DeliveryState, Did, Reason, unix_time_us

__all__ = ["Receipt", "Step", "future_waker"]

# One for all: waiting is rare, and a lock in each receipt is not.
_SUBSCRIBING = threading.Lock()
_RANK = {DeliveryState.QUEUED: 0, DeliveryState.WRITTEN: 1}
_FINAL = frozenset({DeliveryState.FAILED, DeliveryState.EXPIRED})


class Step(NamedTuple):
    """One rung of the ladder: the state, and when it was reached (Unix time, µs)."""

    state: DeliveryState
    at_us: int


class Receipt:
    """What has become of one message; it changes as the message goes its way.

    Attributes may be read from any thread. The transport alone moves it on.
    """

    __slots__ = (
        "_changed",
        "_recipient",
        "_steps",
        "detail",
        "is_final",
        "reason",
        "sequence_number",
        "state",
    )

    def __init__(self, recipient: Did, sequence_number: int) -> None:
        self._recipient = recipient
        self._steps: list[tuple[DeliveryState, int]] = [(DeliveryState.QUEUED, unix_time_us())]
        self._changed: list[Callable[[], None]] | None = None
        self.sequence_number = sequence_number
        """The number that the envelope carries."""
        self.state = DeliveryState.QUEUED
        """Where the message is now."""
        self.is_final = False
        """Whether nothing more can happen to the message."""
        self.reason: Reason | None = None
        """Why it failed or expired; `None` otherwise."""
        self.detail = ""
        """The last error on the way, in words; may be empty."""

    @property
    def recipient(self) -> Did:
        """Whom the message is for."""
        return self._recipient

    @property
    def history(self) -> tuple[Step, ...]:
        """Every state with the time it was reached, oldest first."""
        return tuple(Step(*step) for step in self._steps)

    @property
    def queued_at_us(self) -> int:
        """When it was queued: Unix time, microseconds. The envelope carries it."""
        return self._steps[0][1]

    @property
    def is_confirmed(self) -> bool:
        """Whether the peer itself has said that it has the message. Never for v1 peers."""
        return False

    def has_reached(self, state: DeliveryState) -> bool:
        """Whether the message stands at `state` or above; a final state has nothing above it."""
        now = self.state  # once: another thread may move it on
        if now in _FINAL or state in _FINAL:
            return now == state
        return _RANK[now] >= _RANK[state]

    def raise_if_failed(self) -> None:
        """Raise what the message failed with, if it did.

        Raises:
            MessageExpiredError: its deadline passed before it was written.
            DeliveryFailedError: it was given up; `reason` says why.
        """
        if self.state is DeliveryState.EXPIRED:
            raise MessageExpiredError(
                self,
                Reason.EXPIRED,
                f"message #{self.sequence_number} to {self._recipient} expired before it could "
                f"be written{self._detail_text()}; it will not be sent",
                "Give it a later deadline, or check node.peers() for what holds the peer up",
            )
        if self.state is DeliveryState.FAILED:
            reason = self.reason or Reason.CLOSED
            raise DeliveryFailedError(
                self,
                reason,
                f"message #{self.sequence_number} to {self._recipient} was not delivered: "
                f"{reason}{self._detail_text()}",
                _HINTS.get(reason, ""),
            )

    async def wait(
        self, until: DeliveryState = DeliveryState.WRITTEN, timeout: float | None = None
    ) -> Receipt:
        """Wait until the message has reached `until`, and return this receipt.

        Cancelling the wait does not take the message back.

        Raises:
            DeliveryFailedError, MessageExpiredError: it was given up.
            TimeoutError: `timeout` seconds passed first; the message is still on its way.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                while not self.has_reached(until):
                    self.raise_if_failed()
                    changed = loop.create_future()
                    wake = future_waker(loop, changed)
                    self._subscribe(wake)
                    try:
                        if not self.has_reached(until) and not self.is_final:
                            await changed
                    finally:
                        self._unsubscribe(wake)
        except TimeoutError as error:
            if isinstance(error, MessageExpiredError):
                raise
            raise self._still_on_its_way(timeout) from None
        return self

    def result(
        self, timeout: float | None = None, until: DeliveryState = DeliveryState.WRITTEN
    ) -> Receipt:
        """What `wait()` does, blocking the calling thread. Not for the event loop's thread."""
        deadline = None if timeout is None else monotonic() + timeout
        changed = threading.Event()
        self._subscribe(changed.set)
        try:
            while not self.has_reached(until):
                self.raise_if_failed()
                left = None if deadline is None else max(0.0, deadline - monotonic())
                if not changed.wait(left):
                    raise self._still_on_its_way(timeout)
                changed.clear()
        finally:
            self._unsubscribe(changed.set)
        return self

    def advance(
        self,
        state: DeliveryState,
        reason: Reason | None = None,
        detail: str = "",
        *,
        at_us: int | None = None,
    ) -> None:
        """Move on. For the transport alone; a final receipt does not move."""
        if self.is_final:
            return
        self.reason = reason
        self.detail = detail
        self._steps.append((state, at_us or unix_time_us()))
        self.is_final = state in _FINAL
        # Last: who sees the state sees the rest.
        self.state = state
        if self._changed is not None:
            for wake in tuple(self._changed):
                wake()

    def _subscribe(self, wake: Callable[[], None]) -> None:
        with _SUBSCRIBING:
            if self._changed is None:
                self._changed = []
            self._changed.append(wake)

    def _unsubscribe(self, wake: Callable[[], None]) -> None:
        assert self._changed is not None
        self._changed.remove(wake)

    def _still_on_its_way(self, timeout: float | None) -> TimeoutError:
        return TimeoutError(
            f"message #{self.sequence_number} to {self._recipient} is still "
            f"{self.state} after {timeout} s"
        )

    def _detail_text(self) -> str:
        return f" ({self.detail})" if self.detail else ""

    def __repr__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        return f"<Receipt #{self.sequence_number} to {self._recipient.short} {self.state}{reason}>"


_HINTS = {
    Reason.ATTEMPTS_EXHAUSTED: "Is the peer running, and is its address right? "
    "`signedwire ping DID@host:port` tries it",
    Reason.CLOSED: "It was still queued when the node was closed",
    Reason.UNKNOWN_PEER: "Its route was removed: add it again with routing.update(did, address)",
}


def future_waker(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]
) -> Callable[[], None]:
    """A function that resolves `future` in its loop, callable from any thread, often."""

    def resolve() -> None:
        if not future.done():
            future.set_result(None)

    def wake() -> None:
        # The transport may live in another thread's loop; and one that has closed has
        # nobody waiting, while whoever wakes us has others to wake.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(resolve)

    return wake
