"""The package's log: records with machine-readable fields, at a limited rate.

Every record has the field `event`, the kind of event, and the other fields of `fields()`
that apply. docs/operations.md lists them. A record never has a payload or a secret.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from signedwire.clock import monotonic

__all__ = ["FATAL", "LINES_PER_SECOND", "NAMES", "EventLog", "fields"]

NAMES: Final = ("event", "peer", "address", "reason", "count", "seconds", "path", "error")
"""The names of the fields."""
LINES_PER_SECOND: Final = 32
"""Maximum number of lines of one event per second. Further lines, such as those that a
stranger or a dead peer causes, are counted. The next line of the event has the count."""

FATAL: Final = (KeyboardInterrupt, SystemExit)
"""Exceptions that end the program. No guard against faults of called code holds them back."""


def fields(event: str, **values: object) -> dict[str, object]:
    """Return the `extra=` of a record: `event` and the values; all but numbers become text.

    Raises:
        ValueError: a name is not in `NAMES`.
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
    """A logger that limits the lines per second of each event, by its field `event`.

    Args:
        logger: Writes the records.
        in_words: Returns what is shown for an argument of a record, such as a DID with its name;
            `None`: all arguments are shown as they are.
    """

    def __init__(
        self, logger: logging.Logger, in_words: Callable[[object], object] | None = None
    ) -> None:
        super().__init__(logger)
        self._in_words = in_words
        # By event: start of the second, lines written, lines left out. The events are few.
        self._written: dict[str, tuple[float, int, int]] = {}

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Write a record, or count it if its event is over the limit."""
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
        if self._in_words is not None:
            args = tuple(map(self._in_words, args))
        self.logger.log(level, msg, *args, stacklevel=2, **kwargs)

    def attempt(self, what: str, step: Callable[..., object], *args: object) -> bool:
        """Run a step that must not keep the next ones from running, and log its fault.

        Args:
            what: The step as text, for example "closing the listener".
            step: The step, with `args`.

        Returns:
            Whether the step ran to its end.

        Raises:
            KeyboardInterrupt: The program is to end.
            SystemExit: The program is to end.
        """
        try:
            step(*args)
        except FATAL:
            raise
        except BaseException as error:  # noqa: BLE001 - also the CancelledError of asyncio
            self.note_fault(what, error)
            return False
        return True

    def note_fault(self, what: str, error: BaseException) -> None:
        """Log that a step failed, and that the next ones run nevertheless."""
        extra = fields("step failed", error=type(error).__name__)
        self.error("%s failed; all else goes on", what, exc_info=error, extra=extra)
