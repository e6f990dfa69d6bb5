"""What the demo claims, each claim beside what was seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Check", "Checks"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One claim and what came of it."""

    name: str
    """What is claimed."""
    expected: str
    """What should be seen, in words."""
    seen: str
    """What was seen."""
    ok: bool
    """Whether that is the same."""


class Checks:
    """Collects checks; the demo's exit code is made of them."""

    def __init__(self) -> None:
        self._checks: list[Check] = []

    def add(self, name: str, seen: object, expected: object, ok: bool | None = None) -> Check:
        """Note a check; `ok` is whether the two are equal, unless given."""
        verdict = seen == expected if ok is None else ok
        check = Check(name=name, expected=str(expected), seen=str(seen), ok=verdict)
        self._checks.append(check)
        return check

    @property
    def exit_code(self) -> int:
        """0 where something was checked and everything was true, else 1."""
        return 0 if self._checks and all(check.ok for check in self._checks) else 1

    def __iter__(self) -> Iterator[Check]:
        return iter(self._checks)

    def __len__(self) -> int:
        return len(self._checks)
