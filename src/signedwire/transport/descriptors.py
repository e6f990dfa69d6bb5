"""Descriptors: limits that fit the process, and a reaction when no descriptor is left.

`fitted_limits()` lowers the limits of connections at the start. So strangers who take all places
leave descriptors for files, names and dials. Other code of the process may still use up the
rest. `Shortage` then closes an unproven connection.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Final, NamedTuple

from signedwire.logs import EventLog, fields
from signedwire.transport.os_errors import describe_os_error

if TYPE_CHECKING:
    from signedwire.config import TransportConfig

resource: ModuleType | None
try:
    import resource
except ImportError:  # Windows
    resource = None

__all__ = ["ConnectionLimits", "Shortage", "fit", "fitted_limits", "free_descriptors"]

_RESERVE: Final = 96
"""Descriptors for the store, the evidence log, names, addresses that are tried at once, and
connections that only wait for their last answer."""
_LOG_PERIOD: Final = 60.0


class ConnectionLimits(NamedTuple):
    """Maximum numbers of connections."""

    inbound: int
    """Accepted and proven."""
    unproven: int
    """Accepted and not proven yet."""
    outbound: int
    """Dialed."""


def free_descriptors() -> int | None:
    """Return how many more this process may open by its soft limit; `None`: no limit."""
    if resource is None:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return None
    try:
        used = len(os.listdir("/dev/fd"))
    except OSError:  # not mounted here
        used = 16
    return max(0, int(soft) - used)


def fit(config: TransportConfig, free: int | None) -> ConnectionLimits:
    """Return the configured limits, lowered to what `free` descriptors allow.

    A part of the descriptors stays free: 96, but no more than a third. Of the others,
    dialed and unproven connections get up to a quarter each, proven ones the rest.
    """
    wanted = ConnectionLimits(
        config.max_inbound_connections, config.max_unproven_connections, config.max_connections
    )
    if free is None:
        return wanted
    usable = free - min(_RESERVE, free // 3)
    if sum(wanted) <= usable:
        return wanted
    outbound = max(1, min(wanted.outbound, usable // 4))
    unproven = max(1, min(wanted.unproven, usable // 4))
    inbound = max(1, min(wanted.inbound, usable - outbound - unproven))
    return ConnectionLimits(inbound, unproven, outbound)


def fitted_limits(config: TransportConfig, log: EventLog) -> ConnectionLimits:
    """Return the configured limits, lowered to the free descriptors of this process.

    Lower limits are logged.
    """
    limits = fit(config, free_descriptors())
    if limits != fit(config, None):
        log.info(
            "this process may open few descriptors, so there are at most %d inbound, "
            "%d unproven and %d outbound connections; ulimit -n raises that",
            *limits,
            extra=fields("limits lowered"),
        )
    return limits


class Shortage:
    """Handles a shortage of descriptors: closes a connection, and logs that.

    Args:
        log: The log of the node.
        evict: Closes an unproven connection; `False`: there is none.
    """

    def __init__(self, log: EventLog, evict: Callable[[], bool]) -> None:
        self._log = log
        self._evict = evict
        self._evicted = 0
        self._log_again_at = float("-inf")

    def make_room(self, error: OSError) -> bool:
        """Close a connection after `error`; return whether accepting may be tried again at once."""
        has_room = self._evict()
        self._evicted += has_room
        now = asyncio.get_running_loop().time()
        if now >= self._log_again_at:
            self._log_again_at = now + _LOG_PERIOD
            self._log.warning(
                "cannot accept connections: %s. So far, %d connections without a proof were closed "
                "for new ones. Raise the limit of descriptors (ulimit -n), or find the code that "
                "holds so many open (logged once in %d s)",
                describe_os_error(error),
                self._evicted,
                _LOG_PERIOD,
                extra=fields("no descriptors", count=self._evicted, error=describe_os_error(error)),
            )
        return has_room
