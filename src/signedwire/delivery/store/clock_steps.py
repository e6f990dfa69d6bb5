"""Moves the deadlines that were given in seconds, when the wall clock is set."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from signedwire.clock import StepWatch
from signedwire.delivery.store.commits import Executor, Operation
from signedwire.delivery.store.work import Work
from signedwire.errors import SignedWireError, StoreError

__all__ = ["ClockSteps"]

_LEAST: Final = 0.01
"""Minimum step of the wall clock, in seconds, for which rows are moved."""


class ClockSteps:
    """Detects steps of the wall clock and submits the move of the rows.

    The caller holds the store's lock.
    """

    def __init__(self, work: Work, executor: Executor) -> None:
        self._work = work
        self._executor = executor
        self._watch = StepWatch(_LEAST)
        self._moving = 0
        self.on_moved: Callable[[int], None] = lambda _: None
        self.origin_us = round(self._watch.origin * 1e6)
        """Clock origin that the rows had at the last call of `on_moved`; see `deadlines`."""
        work.begin_clock(self.origin_us)

    def look(self) -> bool:
        """Move deadlines if the clock was set; return whether a move is still uncommitted."""
        moved = self._watch.look()
        if moved and self._executor.failure is None:
            by_us = round(moved * 5e5) * 2  # even: see `deadlines`
            operation = Operation(
                partial(self._work.move_deadlines, by_us), partial(self._on_moved, by_us)
            )
            self._moving += 1
            try:
                self._executor.submit(operation)
            except SignedWireError:  # the store takes nothing more
                self._moving -= 1
            else:
                self._executor.flush()
        return self._moving > 0 and self._executor.failure is None

    def _on_moved(self, by_us: int, error: StoreError | None) -> None:
        with self._work.ledger.lock:
            self._moving -= 1
        if error is None:
            self.origin_us += by_us
            self.on_moved(by_us)
