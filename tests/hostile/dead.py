"""Forty dead peers of each sort beside a living one, where `hostile.dead_peers` is there.

That module has `measure(sort, count, seconds)`, plain or async. What it returns is shown
by `str()`; `broken`, where it has that, lists the limits that do not hold.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from typing import Any, Final

__all__ = ["COUNT", "PREFIX", "measure_dead", "names"]

PREFIX: Final = "dead-"
COUNT: Final = 40
_MODULE: Final = "hostile.dead_peers"
_SORTS: Final = ("silent", "blackholed", "refusing", "unresolvable")


def names() -> list[str]:
    """Of the rows; none where the module is not there."""
    if importlib.util.find_spec(_MODULE) is None:
        return []
    module = importlib.import_module(_MODULE)
    return [PREFIX + str(sort) for sort in getattr(module, "SORTS", _SORTS)]


async def measure_dead(name: str, seconds: float) -> Any:
    """One row."""
    module = importlib.import_module(_MODULE)
    found = module.measure(name.removeprefix(PREFIX), COUNT, seconds)
    return await found if inspect.isawaitable(found) else found
