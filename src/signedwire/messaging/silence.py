"""Calls a function of the application when a peer is silent: a dead man's switch.

    frames of the peer ─→ Session.heard_at ─→ SilenceDetector.look() ─→ the callback
    Session.ping_every() ─→ PING ─→ PONG of a quiet peer that lives

A timer of each watch asks its detector. Nothing is done for each frame. After the timer, the loop
gets two turns before a look, so that it reads what waits in its sockets.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from signedwire.arguments import shown
from signedwire.clock import unix_time
from signedwire.delivery.endpoint import Endpoint
from signedwire.delivery.silence import (
    LEAST_SECONDS,
    MOST_SECONDS,
    SilenceDetector,
    SilenceFound,
)
from signedwire.home import Bound
from signedwire.logs import fields
from signedwire.transport.runtime import Runtime
from signedwire.types import Did

__all__ = ["Silence", "SilenceCallback", "SilenceWatch", "Silences"]


@dataclass(frozen=True, slots=True)
class Silence:
    """A peer was silent for as long as a watch allows."""

    did: Did
    """The peer."""
    silent_for: float
    """Seconds since the last frame of the peer, or since the watch began."""
    since: float
    """When that was: Unix time, seconds."""
    is_own_stall: bool
    """Whether our own event loop stood still for more than 100 ms during the silence. If so, the
    peer may live, and this process was too busy to hear it."""

    def __str__(self) -> str:
        text = f"nothing was heard from {self.did} for {self.silent_for:.3f} s"
        if self.is_own_stall:
            return f"{text}; our own event loop stood still meanwhile, so the peer may be well"
        return text


SilenceCallback: TypeAlias = Callable[[Silence], Awaitable[object] | object]
"""A function or coroutine function that is called with each silence."""


class SilenceWatch(Bound, instead="call `on_silence()` there"):
    """A watch of the silence of one peer, made by `Node.on_silence()`.

    It may be called as its callback. So the name that `@node.on_silence(…)` decorates stays
    useful.
    """

    __slots__ = ("_callback", "_silences", "after", "detector", "did", "timer")

    def __init__(
        self, silences: Silences, did: Did, after: float, callback: SilenceCallback
    ) -> None:
        self._silences = silences
        self.did = did
        """The peer."""
        self.after = after
        """The silence in seconds after which the callback is called."""
        self._callback = callback
        self.detector: SilenceDetector | None = None
        self.timer: asyncio.TimerHandle | None = None

    def cancel(self) -> None:
        """End the watch: the callback is not called any more. Any thread may call, often."""
        self._silences.remove(self)

    @property
    def is_silent(self) -> bool:
        """Whether the peer is silent now: it was reported, and was not heard since."""
        return self.detector is not None and self._silences.is_silent(self, self.detector)

    def __call__(self, silence: Silence) -> Awaitable[object] | object:
        """Call the callback, and return its result."""
        return self._callback(silence)

    def __repr__(self) -> str:
        return f"<SilenceWatch {self.did.short} {self.after:g} s>"


class Silences:
    """The watches of one node. In the loop, where nothing else is said.

    Args:
        runtime: The surroundings of the parts of the node.
        endpoint: The sessions of all peers.
    """

    def __init__(self, runtime: Runtime, endpoint: Endpoint) -> None:
        self._runtime = runtime
        self._endpoint = endpoint
        self._watched = endpoint.context.watched
        self._watches: set[SilenceWatch] = set()
        self._tasks: set[asyncio.Task[object]] = set()
        self._has_begun = False

    def add(self, did: Did, after: float, callback: SilenceCallback) -> SilenceWatch:
        """Begin a watch; before `begin()` it only waits.

        Raises:
            TypeError, ValueError: an argument cannot be used.
        """
        if not callable(callback):
            raise TypeError(
                f"callback={shown(callback)} cannot be called; a function is wanted that takes a "
                "Silence"
            )
        watch = SilenceWatch(self, did, limit_of(after), callback)
        self._watches.add(watch)
        if self._has_begun:
            self._start(watch)
        return watch

    def remove(self, watch: SilenceWatch) -> None:
        """End a watch. Any thread."""
        self._watches.discard(watch)
        if self._runtime.is_open:
            self._runtime.call_soon(self._stop, watch)

    # -- life -------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the watches: the node is open now."""
        self._has_begun = True
        for watch in tuple(self._watches):
            self._start(watch)

    def end(self) -> None:
        """Stop all watches, and cancel the callbacks that run."""
        self._has_begun = False
        watches, self._watches = self._watches, set()
        for watch in watches:
            self._stop(watch)
        for task in tuple(self._tasks):
            task.cancel()

    def is_silent(self, watch: SilenceWatch, detector: SilenceDetector) -> bool:
        """Whether the peer of a watch was reported as silent, and was not heard since."""
        return detector.is_reported(self._heard_at(watch.did))

    def _start(self, watch: SilenceWatch) -> None:
        watch.detector = SilenceDetector(watch.after, self._runtime.loop.time())
        self._watched.add(watch.did, watch.after)
        self._set_pings(watch.did)
        self._set_timer(watch, watch.detector)

    def _stop(self, watch: SilenceWatch) -> None:
        if watch.detector is None:
            return
        watch.detector = None
        if watch.timer is not None:
            watch.timer.cancel()
        self._watched.remove(watch.did, watch.after)
        self._set_pings(watch.did)

    def _set_pings(self, did: Did) -> None:
        session = self._endpoint.sessions.get(did)
        if session is not None and session.link is not None:
            session.link.ping_every(self._watched.interval(did))

    # -- looks ------------------------------------------------------------------------------

    def _set_timer(self, watch: SilenceWatch, detector: SilenceDetector) -> None:
        watch.timer = self._runtime.loop.call_at(detector.due, self._on_timer, watch)

    def _on_timer(self, watch: SilenceWatch) -> None:
        # libuv runs timers before it reads sockets, and a look must come after that.
        loop = self._runtime.loop
        loop.call_soon(loop.call_soon, self._look, watch)

    def _look(self, watch: SilenceWatch) -> None:
        detector = watch.detector
        if detector is None or watch not in self._watches:
            return
        found = detector.look(self._runtime.loop.time(), self._heard_at(watch.did))
        self._set_timer(watch, detector)
        if found is not None:
            self._report(watch, found)

    def _heard_at(self, did: Did) -> float | None:
        before = self._watched.heard_at(did)
        session = self._endpoint.sessions.get(did)
        if session is None or session.link is None:
            return before
        now = session.link.state.heard_at
        return now if before is None else max(before, now)

    def _report(self, watch: SilenceWatch, found: SilenceFound) -> None:
        since = unix_time() - found.seconds
        silence = Silence(watch.did, found.seconds, since, found.is_own_stall)
        extra = fields("silence", peer=watch.did, seconds=found.seconds)
        self._runtime.log.warning("%s", silence, extra=extra)
        try:
            result = watch(silence)
        except Exception as error:  # noqa: BLE001 - a bug of the application stops no watch
            self._log_failed(watch, error)
            return
        if inspect.isawaitable(result):
            task: asyncio.Task[object] = asyncio.ensure_future(self._follow(watch, result))
            self._tasks.add(task)  # the loop holds a task weakly
            task.add_done_callback(self._tasks.discard)

    async def _follow(self, watch: SilenceWatch, result: Awaitable[object]) -> None:
        try:
            await result
        except Exception as error:  # noqa: BLE001 - as in `_report()`
            self._log_failed(watch, error)

    def _log_failed(self, watch: SilenceWatch, error: Exception) -> None:
        self._runtime.log.logger.error(
            "the callback for the silence of %s failed; its watch goes on",
            watch.did,
            exc_info=error,
            extra=fields("silence callback failed", peer=watch.did),
        )


def limit_of(after: object) -> float:
    """Return the limit of a watch in seconds.

    Raises:
        TypeError, ValueError: it is no number, or is out of range.
    """
    if isinstance(after, bool) or not isinstance(after, (int, float)):
        raise TypeError(f"after={shown(after)} is no number of seconds, such as 0.5")
    if not LEAST_SECONDS <= after <= MOST_SECONDS:
        raise ValueError(
            f"after={shown(after)} is not from {LEAST_SECONDS:g} to {MOST_SECONDS:_.0f}"
        )
    return float(after)
