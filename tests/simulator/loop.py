"""An asyncio event loop in which time is a number.

`time()` stands still while callbacks run. When nothing is ready, the loop does not
sleep: it sets the time to that of the next timer. There are no sockets and no threads.

Every callback belongs to an `Owner`, told by a context variable that tasks and timers
inherit. `kill()` makes all that belongs to an owner vanish, as a crash does: nothing of
it ever runs again.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

__all__ = ["Deadlock", "Livelock", "Owner", "VirtualLoop", "current_owner"]

START: Final = 1000.0
_ROUNDING: Final = 1e-6
_MAX_TURNS_AT_ONE_INSTANT: Final = 50_000


class Deadlock(AssertionError):
    """Nothing is ready, no timer runs, and the simulation is not over."""


class Livelock(AssertionError):
    """The loop turns and turns, and no time passes."""


class Owner:
    """Whose callbacks they are: one life of one node."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_dead = False
        self.loop_offset = 0.0
        """What its loop's clock shows more than the world's."""
        self.is_apart = False
        """Whether its clocks differ from the world's."""
        self.tasks: list[asyncio.Task[Any]] = []
        self.context = contextvars.copy_context()
        self.context.run(_owner.set, self)

    def __repr__(self) -> str:
        return self.name


_owner: contextvars.ContextVar[Owner | None] = contextvars.ContextVar("owner", default=None)


def current_owner() -> Owner | None:
    """Whose code runs now; `None`: the simulator's own."""
    return _owner.get()


def _offset() -> float:
    owner = _owner.get()
    return 0.0 if owner is None else owner.loop_offset


class VirtualLoop(asyncio.BaseEventLoop):
    """See the module's text."""

    # Of BaseEventLoop, where typeshed does not show them.
    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.executor_delay: Callable[[], float] = lambda: 0.0
        self.problems: list[str] = []
        """What reached the loop's exception handler."""
        self.turns = 0
        self._turns_at_instant = 0
        self._selector = self
        self.set_exception_handler(self._on_exception)
        self.set_task_factory(self._make_task)  # type: ignore[arg-type]

    def time(self) -> float:
        return self.now + _offset()

    def at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        """`call_at()` for an instant of the world's clock, whoever asks."""
        return self.call_at(when + _offset(), callback, *args, context=context)

    def jump(self, owner: Owner, seconds: float) -> None:
        """The clock of the owner's loop jumps ahead: its timers are due so much sooner."""
        owner.loop_offset += seconds
        owner.is_apart = True
        for handle in self.handles_of(owner):
            if isinstance(handle, asyncio.TimerHandle):
                handle._when -= seconds  # type: ignore[attr-defined]
        heapq.heapify(self._scheduled)

    # -- what BaseEventLoop asks of its selector and of its subclass ------------------

    def select(self, timeout: float | None) -> list[Any]:
        """The selector's part: no file is ever ready, and waiting is a jump."""
        self.turns += 1
        self._turns_at_instant += 1
        if self._turns_at_instant > _MAX_TURNS_AT_ONE_INSTANT:
            raise Livelock(f"{self._turns_at_instant} turns at {self.now:.6f}")
        if timeout is None:
            raise Deadlock(f"nothing more can happen after {self.now:.6f}")
        if timeout > 0:
            self.now = max(self.now, self._scheduled[0].when())
            self._turns_at_instant = 0
        return []

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    # -- owners -------------------------------------------------------------------------

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.Handle:
        handle = super().call_soon(callback, *args, context=context)
        owner = _owner.get() if context is None else context.get(_owner)
        if owner is not None and owner.is_dead:
            handle.cancel()
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        # Time stands still here while callbacks run: a timer that were early by a rounding
        # error of two clocks would be set again and again at one instant.
        owner = _owner.get()
        late = _ROUNDING if owner is not None and owner.is_apart else 0.0
        handle = super().call_at(when - _offset() + late, callback, *args, context=context)
        owner = _owner.get() if context is None else context.get(_owner)
        if owner is not None and owner.is_dead:
            handle.cancel()
        return handle

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        context = options.get("context")
        owner = _owner.get() if context is None else context.get(_owner)
        task = asyncio.Task(coro, loop=loop, **options)
        if owner is not None:
            owner.tasks.append(task)
        return task

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run it here and now; the result comes after `executor_delay()`."""
        future = self.create_future()
        result, error = None, None
        try:
            result = func(*args)
        except Exception as exception:  # noqa: BLE001 - whatever it is, the waiter gets it
            error = exception

        def finish() -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        # A thread is nobody's timer.
        self.call_later(self.executor_delay(), finish, context=contextvars.Context())
        return future

    def handles_of(self, owner: Owner) -> list[asyncio.Handle]:
        """Callbacks and timers of `owner` that would still run."""
        handles: list[asyncio.Handle] = [*self._ready, *self._scheduled]
        return [
            handle
            for handle in handles
            if not handle.cancelled() and handle._context.get(_owner) is owner  # type: ignore[attr-defined]
        ]

    def kill(self, owner: Owner) -> None:
        """All that belongs to `owner` vanishes, now and without a goodbye."""
        for handle in self.handles_of(owner):
            handle.cancel()
        owner.is_dead = True
        for task in owner.tasks:
            if not task.done():
                bury(task, owner)

    # -- problems -------------------------------------------------------------------------

    def _on_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.problems.append(f"{context['message']}: {context.get('exception')!r} {context}")


def bury(task: asyncio.Task[Any], owner: Owner) -> None:
    """End a task without its being told: what its `finally` blocks do reaches nobody."""
    coro = task.get_coro()
    assert coro is not None
    # A coroutine that would wait in its last breath is left as it is.
    with contextlib.suppress(RuntimeError):
        owner.context.copy().run(coro.close)
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    asyncio._unregister_task(task)
