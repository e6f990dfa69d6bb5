"""The package's log: fields that a program can read, and no more lines than people can.

Every record has `event`, the kind of what happened, and the other fields of `fields()` that
it is about. docs/operations.md lists them. A record never has a payload or a secret.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from signedwire.clock import monotonic

__all__ = ["LINES_PER_SECOND", "NAMES", "EventLog", "fields"]

NAMES: Final = ("event", "peer", "address", "reason", "count", "seconds", "path", "error")
"""The names of the fields."""
LINES_PER_SECOND: Final = 32
"""Lines of one event that are written in one second. What a stranger or a dead peer repeats
beyond that is counted, and the next line of that event says how many were left out."""


def fields(event: str, **values: object) -> dict[str, object]:
    """The `extra=` of a record: `event`, and the values, as text where they are no number.

    Raises:
        ValueError: a name is none of `NAMES`.
    """
    unknown = values.keys() - set(NAMES)
    if unknown:
        raise ValueError(f"no field of a record is called {', '.join(sorted(unknown))}")
    plain = {
        name: value if isinstance(value, (int, float)) or value is None else str(value)
        for name, value in values.items()
    }
    return {"event": event, **plain}


class EventLog(logging.LoggerAdapter[logging.Logger]):
    """A logger that writes each event, by its field `event`, a limited number of times a second."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__(logger)
        # By event: since when, how many lines since, how many left out. The events are few.
        self._written: dict[str, tuple[float, int, int]] = {}

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Write a record, or count it."""
        if not self.isEnabledFor(level):
            return
        event = str(kwargs.get("extra", {}).get("event", ""))
        now = monotonic()
        since, count, left_out = self._written.get(event, (now, 0, 0))
        if now - since >= 1:
            since, count = now, 0
        if count >= LINES_PER_SECOND:
            self._written[event] = since, count, left_out + 1
            return
        self._written[event] = since, count + 1, 0
        if left_out:
            msg = f"{msg} (%d lines like this were left out before)"
            args = (*args, left_out)
        self.logger.log(level, msg, *args, stacklevel=2, **kwargs)
