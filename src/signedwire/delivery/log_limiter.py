"""Limits the log lines that a peer can cause by linking again and again."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from signedwire.clock import monotonic
from signedwire.types import Did

__all__ = ["LogLimiter"]

_MAX_LOGGED: Final = 100
_LOG_AGAIN: Final = 60.0
"""Seconds during which the attempts of one DID are logged once."""


class LogLimiter:
    """Limits the log to one attempt per DID and minute, and to 100 DIDs per minute."""

    def __init__(self) -> None:
        self._logged: OrderedDict[Did, float] = OrderedDict()

    def note_attempt(self, did: Did) -> bool:
        """Note an attempt of this DID; return whether its log line must be left out."""
        now = monotonic()
        last = self._logged.get(did)
        if last is not None and now - last < _LOG_AGAIN:
            return True
        self._logged[did] = now
        self._logged.move_to_end(did)
        if len(self._logged) > _MAX_LOGGED:
            # A limit for all DIDs together, because one stranger can make many keys.
            _, oldest = self._logged.popitem(last=False)
            return now - oldest < _LOG_AGAIN
        return False
