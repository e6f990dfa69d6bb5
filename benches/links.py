"""What v2 links cost: the time and CPU to set them up, the memory that they keep.

A crowd of nodes in one process dials every node of a crowd in another, so a few nodes
make many links. Every node has had one link before the counting begins: what a node
costs by itself, its TLS context above all, is in no number.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from typing import Any, Final

from benches.children import Child, ChildGone
from benches.results import LinkCost, Results
from benches.rounds import loops
from signedwire.bench import Tell

__all__ = ["crowds_for", "measure_links"]

_CHILD: Final = "benches.crowd"
_TIMEOUT: Final = 30.0
_SETTLE: Final = 0.3


def measure_links(results: Results, counts: Sequence[int], limit: float, tell: Tell) -> None:
    """Set up so many links, anew for each count and loop."""
    known = loops(results.left_out)
    for count in counts:
        for loop in known:
            tell(f"setting up {count} links on {loop}")
            try:
                results.links.append(_measure(count, loop, limit))
            except ChildGone as error:
                results.left_out[f"{count} links on {loop}"] = f"it failed: {error}"


def crowds_for(count: int) -> tuple[int, int]:
    """The two numbers of nodes, as equal as can be, that make exactly `count` links."""
    dialing = next(n for n in range(math.isqrt(count), 0, -1) if count % n == 0)
    return dialing, count // dialing


def _measure(count: int, loop: str, limit: float) -> LinkCost:
    nodes = crowds_for(count)
    with contextlib.ExitStack() as stack:
        dialer, listener = (
            stack.enter_context(Child(name, _CHILD, loop, limit=limit))
            for name in ("dialing crowd", "accepting crowd")
        )
        dialer.ask("open", nodes=nodes[0], timeout=_TIMEOUT)
        others = listener.ask("open", nodes=nodes[1], timeout=_TIMEOUT)
        dialer.ask("warm_up", others=others, timeout=_TIMEOUT)
        before = _look(dialer, listener)
        seconds = dialer.ask("dial", timeout=_TIMEOUT)
        time.sleep(_SETTLE)
        after = _look(dialer, listener)
    cpu = [(b["cpu"] - a["cpu"]) / count * 1e3 for a, b in zip(before, after, strict=True)]
    kib = [_growth(a["kib"], b["kib"], count) for a, b in zip(before, after, strict=True)]
    return LinkCost(
        links=count,
        nodes=nodes,
        loop=loop,
        seconds=seconds,
        dialer_cpu_ms=cpu[0],
        listener_cpu_ms=cpu[1],
        dialer_kib=kib[0],
        listener_kib=kib[1],
    )


def _look(*crowds: Child) -> list[dict[str, Any]]:
    return [crowd.ask("look", timeout=_TIMEOUT) for crowd in crowds]


def _growth(before: float | None, after: float | None, count: int) -> float | None:
    return None if before is None or after is None else (after - before) / count
