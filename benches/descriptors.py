"""How many descriptors a process may have open: sockets, above all."""

from __future__ import annotations

import contextlib
import sys

if sys.platform != "win32":  # which has no such limit
    import resource

__all__ = ["hard_limit", "raise_limit"]


def hard_limit() -> float:
    """The most that this process and its children can ask for."""
    if sys.platform == "win32":
        return float("inf")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return float("inf") if hard == resource.RLIM_INFINITY else hard


def raise_limit(needed: int) -> None:
    """Let this process have so many, where it may: many systems begin with 1024 or 256."""
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed <= hard_limit():
        # What macOS refuses although it is below the hard limit is found out by opening them.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
