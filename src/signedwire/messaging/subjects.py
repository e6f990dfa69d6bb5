"""Subjects of types: the name under which messages of a type travel, and the way back."""

from __future__ import annotations

import builtins
import re
import threading
from typing import Final, TypeGuard, cast

from signedwire.arguments import as_subject, shown

__all__ = ["SubjectRegistry", "subject_of"]

_WORD_STARTS: Final = re.compile(
    r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[0-9])(?=[A-Z][a-z])"
)


def subject_of(type_: object) -> str:
    """Return the subject of a class: its name in snake_case, such as "get_battery".

    A class may have another subject: `__subject__ = "drive"` in its own body. A class that
    derives from it does not inherit that.

    Args:
        type_: A class of yours.

    Raises:
        TypeError: `type_` is a builtin type, or not a class: its subject must be given.
        ValueError: the text cannot be a subject; see `Node.send()`.
    """
    if not _has_name(type_):
        raise TypeError(
            f"{_name_of(type_)} has no subject of its own, because many subjects may use it: "
            "give the subject"
        )
    given = vars(type_).get("__subject__")
    return _checked(_WORD_STARTS.sub("_", type_.__name__).lower() if given is None else given)


class SubjectRegistry:
    """Subjects of types in both directions, for a program with handlers. Any thread.

    Each subject has one type, and each class has one subject. A builtin type, such as `dict`
    or `list[int]`, may have several subjects.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._types: dict[str, object] = {}
        self._subjects: dict[object, str] = {}

    def __repr__(self) -> str:
        return f"<SubjectRegistry subjects={len(self._types)}>"

    def register(self, type_: object, subject: str | None = None) -> str:
        """Add a type with its subject; the same pair may be added again.

        Args:
            type_: The type of the payloads.
            subject: The subject; by default `subject_of(type_)`. A builtin type needs one.

        Returns:
            The subject.

        Raises:
            ValueError: the subject has another type, or the class has another subject. The
                error names both, and nothing was changed. Or the text cannot be a subject.
            TypeError: no subject is given, and the type has none of its own.
        """
        chosen = subject_of(type_) if subject is None else _checked(subject)
        with self._lock:
            other = self._types.get(chosen, type_)
            if other is not type_ and other != type_:
                raise ValueError(
                    f"the subject {chosen!r} is that of {_name_of(other)}, so {_name_of(type_)} "
                    "cannot have it: give one of them another subject"
                )
            before = self._subjects.get(type_, chosen) if _has_name(type_) else chosen
            if before != chosen:
                raise ValueError(
                    f"{_name_of(type_)} has the subject {before!r} already, so it cannot have "
                    f"{chosen!r} too"
                )
            self._types[chosen] = type_
            if _has_name(type_):
                self._subjects[type_] = chosen
        return chosen

    def type_of(self, subject: str) -> type[object] | None:
        """Return the type of a subject; `None` if the subject is unknown."""
        # A builtin type such as list[int] is no class, but calls take it as one.
        return cast("type[object] | None", self._types.get(subject))

    def subject_of(self, type_: object) -> str:
        """Return the subject with which a class was added, else `subject_of(type_)`.

        Raises:
            TypeError, ValueError: see `subject_of()`.
        """
        known = self._subjects.get(type_) if _has_name(type_) else None
        return subject_of(type_) if known is None else known


def _has_name(type_: object) -> TypeGuard[type]:
    """Whether a type is a class with a name of its own, which no other program part uses."""
    return isinstance(type_, type) and type_.__module__ != builtins.__name__


def _checked(subject: object) -> str:
    raw = as_subject(subject)
    if not raw:
        raise ValueError("subject='' is empty: a type needs a subject with at least one character")
    return raw.decode()


def _name_of(type_: object) -> str:
    """Return a type with its module, because two classes may have one name."""
    if isinstance(type_, type) and type_.__module__ != builtins.__name__:
        return f"{type_.__module__}.{type_.__qualname__}"
    return type_.__name__ if isinstance(type_, type) else shown(type_)
