"""The process, the event loop and the thread to which a node belongs.

    new ──start()──→ starting ──→ open ──close()──→ closing ──→ ended
                        └─────── start failed ───────────────────↗

Every public method calls a check of the node's `Home` first. So the use of a node in a
forked child, in another event loop, before its start or after its end fails at once.
"""

from __future__ import annotations

import asyncio
import enum
import os
import threading
from typing import ClassVar, Final, NoReturn

from signedwire.clock import monotonic
from signedwire.errors import ClosedError, WrongContextError

__all__ = ["Bound", "Home", "Phase", "Turns", "running_loop"]

_BLOCKING: Final = ("signedwire.sync", "signedwire.sync_parts")
_MAKE_ANOTHER: Final = "Make a new one after the fork"
_TURN: Final = 0.002
"""Seconds for which a caller may keep the event loop."""


class Bound:
    """An object that belongs to a node of this process; can be neither pickled nor copied.

    A subclass names the data to pass on in its place: `class Message(Bound, instead="…")`.
    """

    __slots__ = ()

    _instead: ClassVar[str]

    def __init_subclass__(cls, instead: str | None = None) -> None:
        super().__init_subclass__()
        if instead is not None:
            is_blocking = cls.__module__ in _BLOCKING
            name = f"sync.{cls.__name__}" if is_blocking else cls.__name__
            article = "an" if name[0] in "AEIOU" else "a"
            cls._instead = f"{article} {name} can be neither pickled nor copied: {instead}"

    def __reduce__(self) -> NoReturn:
        # pickle, copy and deepcopy all call this.
        raise TypeError(self._instead)


class Phase(enum.Enum):
    """The phases of the life of a node."""

    NEW = enum.auto()
    STARTING = enum.auto()
    OPEN = enum.auto()
    CLOSING = enum.auto()
    """Queued messages may still be sent, and the application may still acknowledge."""
    ENDED = enum.auto()
    FAILED = enum.auto()
    """The start failed, or was cancelled."""


class _Forks:
    """Number of forks between the first process and this one: cheaper than `getpid`."""

    count = 0

    @classmethod
    def add(cls) -> None:
        cls.count += 1


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_Forks.add)


class Turns:
    """Gives the event loop a turn when one caller has kept it for 2 ms. For the event loop alone.

    An iterator that has an item for each step never suspends its caller. Then the loop reads no
    socket, so an urgent message waits behind all items, and peers take the silence for a dead node.
    """

    __slots__ = ("_began",)

    def __init__(self) -> None:
        self._began = monotonic()

    def begin(self) -> None:
        """Note that the caller has just waited, so that the event loop has run."""
        self._began = monotonic()

    def is_over(self) -> bool:
        """Whether the caller has kept the event loop for 2 ms. Then it awaits `give()`."""
        return monotonic() - self._began >= _TURN

    async def give(self) -> None:
        """Suspend the caller, so that the event loop runs once."""
        await asyncio.sleep(0)
        self._began = monotonic()


class Home:
    """Process, event loop and phase of one node. Any thread may call the checks."""

    __slots__ = ("_forks", "loop", "phase", "thread")

    def __init__(self) -> None:
        self.phase = Phase.NEW
        self.loop: asyncio.AbstractEventLoop | None = None
        """The node's event loop; `None` before the start."""
        self.thread = 0
        """The loop's thread; 0 before the start."""
        self._forks = _Forks.count

    def settle(self) -> None:
        """Bind the node to the running event loop, its thread and its process.

        Raises:
            WrongContextError: no event loop runs in this thread.
        """
        self.loop = running_loop(
            "signedwire.Node", "Use asyncio.run(), or signedwire.sync.Node in a thread"
        )
        self.thread = threading.get_ident()
        self._forks = _Forks.count
        self.phase = Phase.STARTING

    @property
    def is_forked(self) -> bool:
        """Whether this process is a forked child of the one in which the node was started."""
        return self.loop is not None and self._forks != _Forks.count

    @property
    def has_ended(self) -> bool:
        """Whether the node has ended, or its start has failed."""
        return self.phase is Phase.ENDED or self.phase is Phase.FAILED

    @property
    def has_closed_loop(self) -> bool:
        """Whether the event loop of the node is closed, in this process."""
        return self.loop is not None and self.loop.is_closed() and not self.is_forked

    # -- checks ---------------------------------------------------------------------------

    def check_alive(self) -> None:
        """Raise if the node's event loop cannot run while the caller does.

        Raises:
            WrongContextError: this process is a forked child, the loop is closed, or
                another loop runs in its thread.
        """
        loop = self.loop
        running = asyncio._get_running_loop()
        if running is loop and self._forks == _Forks.count:
            return  # the usual case
        if loop is None or self.has_ended:
            return
        if self._forks != _Forks.count:
            raise WrongContextError(
                "this node belongs to the process that was forked", _MAKE_ANOTHER
            )
        if loop.is_closed():
            raise self.lost_error()
        if running is not None and threading.get_ident() == self.thread:
            raise _elsewhere("which cannot run while this one does")

    def lost_error(self) -> WrongContextError:
        """Return the error for a node whose event loop is closed."""
        return _elsewhere("which is closed")

    def check_here(self) -> None:
        """Raise if the running event loop is not the node's.

        Raises:
            WrongContextError: for the causes of `check_alive()`, or another loop runs.
        """
        if asyncio._get_running_loop() is self.loop and self._forks == _Forks.count:
            return
        self.check_alive()
        if self.loop is not None and not self.has_ended:
            raise _elsewhere("which runs in another thread")

    def check_open(self) -> None:
        """Raise unless the node is open.

        Raises:
            ClosedError: the node was not started, or is closed.
        """
        if self.phase is not Phase.OPEN:
            raise ClosedError(f"this node is {self.in_words}", _USE[self.phase])

    def check_begun(self) -> None:
        """Raise if the node was never open, so that no message can have arrived.

        Raises:
            ClosedError: the node was not started, or its start failed.
        """
        if self.phase in (Phase.NEW, Phase.FAILED):
            self.check_open()

    # -- as text --------------------------------------------------------------------------

    @property
    def in_words(self) -> str:
        """The phase as text: "open", "closed", "not started"."""
        return _WORDS[self.phase]

    def problem(self) -> str | None:
        """Return why the node cannot work now, as text; `None` if nothing here prevents it."""
        if self.phase is not Phase.OPEN:
            subject = "the node" if self.phase in (Phase.CLOSING, Phase.ENDED) else "it"
            return f"{subject} is {self.in_words}"
        try:
            self.check_alive()
        except WrongContextError as error:
            return error.fact
        if self.loop is not None and not self.loop.is_running():
            return "the event loop that this node belongs to is not running"
        return None


def running_loop(what: str, instead: str) -> asyncio.AbstractEventLoop:
    """Return the asyncio event loop that runs in this thread.

    Args:
        what: The call that needs the loop, for the error.
        instead: The hint of the error.

    Raises:
        WrongContextError: no asyncio event loop runs in this thread.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise WrongContextError(
            f"no asyncio event loop runs here, and {what} needs one",
            f"{instead}, under trio or curio",
        ) from None


def _elsewhere(where: str) -> WrongContextError:
    return WrongContextError(
        f"this node belongs to another event loop, {where}",
        "Start and use a node in one `asyncio.run()`, or use `signedwire.sync.Node`",
    )


_WORDS: Final = {
    Phase.NEW: "not started",
    Phase.STARTING: "not started yet",
    Phase.OPEN: "open",
    Phase.CLOSING: "closed",
    Phase.ENDED: "closed",
    Phase.FAILED: "not started: its start failed",
}
_INSIDE: Final = "Use it inside `async with`, before it is closed"
_USE: Final = {
    Phase.NEW: _INSIDE,
    Phase.STARTING: "Wait until `start()` has returned",
    Phase.OPEN: "",
    Phase.CLOSING: _INSIDE,
    Phase.ENDED: _INSIDE,
    Phase.FAILED: "Make a new one; a node can be started once",
}
