"""`SubjectOptions`: the defaults of the messages of one subject, and the table of all subjects.

    [subjects.pose]                 subjects={"pose": SubjectOptions(latest=True, deadline=0.1)}
    latest = true
    deadline = 0.1

An argument of `Node.send()` has precedence over the default of its subject.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeAlias

from signedwire.arguments import (
    PriorityName,
    as_latest,
    as_subject,
    did_you_mean,
    due_at,
    priority_of,
    shown,
    text_of,
)
from signedwire.errors import ConfigError
from signedwire.options import Given
from signedwire.types import Priority

__all__ = ["SubjectOptions", "SubjectTable", "Subjects"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SubjectOptions:
    """The defaults of the messages of one subject. Immutable; any thread may read it.

    Args:
        durable: Whether stores keep the messages. By default they do, unless `latest` is set.
        latest: Whether a newer message takes the place of one that waits in the queue: a key of
            1 to 255 bytes, or True for the empty key. By default none does.
        priority: The lane, as a `Priority` or its name in lower case; by default NORMAL.
        deadline: Seconds from the call of `send()` until a message expires, more than 0 and at
            most 30 years; by default it never does.

    Raises:
        ConfigError: a value is not allowed, or `latest` is set with `durable=True`.
    """

    durable: bool | None = None
    latest: bool | str = False
    priority: Given[Priority | PriorityName | None, Priority | None] = Given(None)
    deadline: float | None = None

    def __post_init__(self) -> None:
        try:
            if self.durable is not None and not isinstance(self.durable, bool):
                raise ValueError(f"durable={shown(self.durable)} is neither true nor false")
            key = as_latest(self.latest)
            if self.priority is not None:
                object.__setattr__(self, "priority", priority_of(self.priority))
            if self.deadline is not None:
                if not isinstance(self.deadline, (int, float)):
                    raise ValueError(f"deadline={shown(self.deadline)} is no number of seconds")
                due_at(self.deadline)
        except (TypeError, ValueError) as error:
            raise ConfigError(str(error)) from None
        if key is not None and self.durable:
            raise ConfigError(
                f"latest={shown(self.latest)} contradicts durable=True: a stored message is never "
                "replaced",
                "Leave one of the two out, or set durable to false",
            )
        if key is not None and self.durable is None:
            object.__setattr__(self, "durable", False)

    @classmethod
    def from_table(cls, table: Mapping[str, object]) -> SubjectOptions:
        """Make the options from a table of a configuration file.

        Raises:
            ConfigError: a key is unknown, a value is not allowed, or two contradict each other.
        """
        for key in table:
            if key not in _KEYS:
                raise ConfigError(f"unknown key {key!r}", did_you_mean(key, _KEYS))
        values: dict[str, Any] = dict(table)
        return cls(**values)

    def as_table(self) -> dict[str, bool | str | float]:
        """Return the options that are set, as `from_table()` reads them."""
        table: dict[str, bool | str | float] = {}
        if self.durable is not None:
            table["durable"] = self.durable
        if self.latest is not False:
            table["latest"] = self.latest
        if self.priority is not None:
            table["priority"] = text_of(self.priority)
        if self.deadline is not None:
            table["deadline"] = self.deadline
        return table


_KEYS: Final = tuple(field.name for field in dataclasses.fields(SubjectOptions))


class SubjectTable(Mapping[str, SubjectOptions]):
    """The options of each subject, by its text. Immutable, and can be hashed.

    Args:
        table: `SubjectOptions`, or tables of a file, by subject.

    Raises:
        ConfigError: a subject or one of its options is not allowed. The text names both.
    """

    __slots__ = ("_by_subject",)

    IN_WORDS: ClassVar = "table for each subject"
    """The form of a value, for people."""

    def __init__(self, table: object = ()) -> None:
        self._by_subject: dict[str, SubjectOptions] = {}
        if table == ():
            return
        if not isinstance(table, Mapping):
            raise ConfigError(f"subjects={shown(table, 100)} is not allowed", _EXPECTED)
        for subject, options in table.items():
            try:
                as_subject(subject)
            except (TypeError, ValueError) as error:
                raise ConfigError(f"a key of subjects is not allowed: {error}") from None
            try:
                if isinstance(options, Mapping):
                    options = SubjectOptions.from_table(options)
                elif not isinstance(options, SubjectOptions):
                    raise ConfigError(f"{shown(options, 100)} is no table", _EXPECTED)
            except ConfigError as error:
                raise ConfigError(f"subjects.{subject}: {error.fact}", error.hint) from None
            self._by_subject[subject] = options

    def __getitem__(self, subject: str) -> SubjectOptions:
        return self._by_subject[subject]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_subject)

    def __len__(self) -> int:
        return len(self._by_subject)

    def __hash__(self) -> int:
        return hash(frozenset(self._by_subject.items()))

    def __repr__(self) -> str:
        return repr(self._by_subject)


Subjects: TypeAlias = Mapping[str, SubjectOptions | Mapping[str, object]]
"""The argument `subjects` of `TransportConfig`: the options of each subject, by its text."""
_EXPECTED: Final = (
    "Expected a table for each subject, such as [subjects.pose] with latest = true and "
    "deadline = 0.1"
)
