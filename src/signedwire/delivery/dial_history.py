"""The past attempts to reach one address, and what they mean for the next one.

    begin_attempt ──→ opened ──→ ended as STABLE, USED or UNUSED
          └──→ ended as FAILED, EXCUSED, UNRESOLVED, NEEDLESS or CALLED_OFF

A cancelled attempt, and a connection that this side closes, have no outcome.
The instants are those of one clock, except that of the last error.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from typing import Final

from signedwire.errors import Cause, DialError, FailureKind

__all__ = ["IN_USE", "AttemptOutcome", "DialHistory", "Standing"]

STABLE_AFTER: Final = 5.0
"""Seconds that a connection must last before the pauses begin anew."""
IN_USE: Final = 1.0
"""Seconds between two uses of a connection within which the connection counts as in use."""


class Standing(enum.IntEnum):
    """How likely the next attempt is to succeed. The lowest standing is admitted first."""

    PROVEN = 0
    """The last connection opened."""
    UNTRIED = 1
    DOUBTFUL = 2
    """The last connection did not open, or not in time."""


class AttemptOutcome(enum.Enum):
    """How an attempt ended, or the connection that it opened."""

    FAILED = "failed"
    """The peer was not reached."""
    EXCUSED = "excused"
    """The peer was not reached, and no message loses an attempt for that."""
    UNRESOLVED = "unresolved"
    """No name server answered, so the peer was not even tried."""
    NEEDLESS = "needless"
    """The attempt failed, and the peer is reached in another way."""
    CALLED_OFF = "called off"
    """The slot of the attempt was needed for another one. The peer may only be slow."""
    STABLE = "stable"
    """The connection lasted."""
    USED = "used"
    """The connection ended soon. A peer that accepts and hangs up has not recovered."""
    UNUSED = "unused"
    """The connection ended before it carried a message: no better than a failed attempt."""

    @property
    def costs_attempt(self) -> bool:
        """Whether each message that waits loses one of its attempts."""
        return self in (AttemptOutcome.FAILED, AttemptOutcome.UNUSED)

    @property
    def has_opened(self) -> bool:
        """Whether there was a connection."""
        return self in (AttemptOutcome.STABLE, AttemptOutcome.USED, AttemptOutcome.UNUSED)

    @property
    def lengthens_pause(self) -> bool:
        """Whether the next attempt waits, longer than after the failure before."""
        return self not in (
            AttemptOutcome.NEEDLESS,
            AttemptOutcome.CALLED_OFF,
            AttemptOutcome.STABLE,
        )


class DialHistory:
    """The attempts to reach one address, and what follows from them. No clock and no timer.

    Args:
        new_delays: Returns the pauses in seconds after one failure, two, three and so on.
    """

    __slots__ = (
        "_delays",
        "_new_delays",
        "_opened_at",
        "is_excused",
        "is_used_again",
        "last_error",
        "last_error_at",
        "next_at",
        "opening_time",
        "standing",
        "used_at",
    )

    def __init__(self, new_delays: Callable[[], Iterator[float]]) -> None:
        self._new_delays = new_delays
        self._delays: Iterator[float] | None = None
        """The pauses after the next failures; `None`: they begin anew."""
        self._opened_at: float | None = None
        self.next_at = 0.0
        """When the next attempt may begin."""
        self.standing = Standing.UNTRIED
        self.is_excused = False
        """Whether a failure of this attempt costs the messages nothing."""
        self.opening_time = 0.0
        """Seconds that the last connection took to open."""
        self.used_at = float("-inf")
        """When a connection last carried messages."""
        self.is_used_again = False
        """Whether the last two uses were less than a second apart."""
        self.last_error: Cause | None = None
        self.last_error_at: float | None = None
        """When the last error was noted, by the monotonic clock."""

    # -- attempts and connections -------------------------------------------------------------

    def begin_attempt(self) -> None:
        """Note that an attempt begins. An excuse of the attempt before does not hold for it."""
        self.is_excused = False

    def outcome_of(self, error: Exception) -> AttemptOutcome:
        """Return how the attempt ends that raised an error."""
        if isinstance(error, DialError) and error.kind is FailureKind.NAME_SERVER_SILENT:
            return AttemptOutcome.UNRESOLVED
        return AttemptOutcome.EXCUSED if self.is_excused else AttemptOutcome.FAILED

    def opened(self, now: float, opening_time: float) -> bool:
        """Note that an attempt has opened a connection.

        Args:
            now: The present instant.
            opening_time: Seconds that it took, without the lookup and the wait for a slot.

        Returns:
            Whether there was a connection before.
        """
        is_reconnection = self._opened_at is not None
        self._opened_at = now
        self.opening_time = opening_time
        self.standing = Standing.PROVEN
        return is_reconnection

    def outcome_of_end(self, now: float, *, was_used: bool) -> AttemptOutcome:
        """Return what the end of the connection means.

        Args:
            now: The present instant.
            was_used: Whether the connection carried messages.
        """
        assert self._opened_at is not None
        if now - self._opened_at >= STABLE_AFTER:
            return AttemptOutcome.STABLE
        return AttemptOutcome.USED if was_used else AttemptOutcome.UNUSED

    def ended(self, outcome: AttemptOutcome, now: float) -> None:
        """Note the end of an attempt or of a connection: it decides the pause and the standing."""
        if not outcome.has_opened:
            self.standing = Standing.DOUBTFUL
        if outcome.lengthens_pause:
            self.next_at = now + self._next_delay()
        elif outcome is AttemptOutcome.STABLE:
            self.next_at = now
            self._delays = None

    def note_error(self, cause: Cause, at: float) -> None:
        """Note an error and its instant, by the monotonic clock."""
        self.last_error, self.last_error_at = cause, at

    # -- the pause ----------------------------------------------------------------------------

    def pause(self, now: float) -> float:
        """Return the seconds until the next attempt may begin, at least 0."""
        return max(0.0, self.next_at - now)

    def wanted(self, now: float) -> None:
        """Note that a connection is wanted again. The pauses are short at first.

        If a pause is under way, the peer has failed just now, and the pauses stay long.
        """
        if not self.pause(now):
            self._delays = None

    def add_pause(self, seconds: float | None = None) -> None:
        """Add seconds to the pause. `None`: as many as a further failure would cost."""
        self.next_at += self._next_delay() if seconds is None else seconds

    def _next_delay(self) -> float:
        if self._delays is None:
            self._delays = self._new_delays()
        return next(self._delays)

    def hurry(self) -> None:
        """Allow an attempt at once, and let the next pauses be short."""
        self.next_at = 0.0
        self._delays = None

    # -- the use of the connection ------------------------------------------------------------

    def touch(self, now: float) -> None:
        """Note that the connection carries messages."""
        self.is_used_again = now - self.used_at < IN_USE
        self.used_at = now

    def is_in_use(self, now: float) -> bool:
        """Whether more messages are likely to follow soon."""
        # Once is not enough: a node that sends one message to each of many peers must not
        # wait a second for each slot.
        return self.is_used_again and now - self.used_at < IN_USE
