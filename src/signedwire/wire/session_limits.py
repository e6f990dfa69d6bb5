"""The states of one end of a v2 link, and the limits that it applies to the other."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["SessionLimits", "State"]


class State(enum.Enum):
    """The states of a session; see the diagram at the top of `session`."""

    OPENING = enum.auto()
    OPEN = enum.auto()
    CLOSED = enum.auto()


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionLimits:
    """Timeouts in seconds and sizes in bytes that one end of a link applies to its peer."""

    hello_timeout: float | None = 10.0
    """Limit from the start of the session to the peer's HELLO; `None`: no limit."""
    frame_timeout: float | None = 30.0
    """Limit from the first byte of a frame to its last, and from one part of a batch to the next;
    `None`: no limit."""
    ping_interval: float = 5.0
    """Time without a received byte after which a PING is sent."""
    dead_timeout: float = 15.0
    """Time without a received byte after which the link is closed."""
    max_payload_size: int = 1024 * 1024
    """The largest payload that is accepted."""
