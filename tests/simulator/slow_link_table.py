"""`python -m tests.simulator.slow_link_table`: urgent messages on slow links, in virtual time.

Prints the table of docs/performance.md. Two runs differ by a few ms, because keys are random.
"""

from __future__ import annotations

import random
import sys
from typing import Any, Final

from signedwire import Address

from .slow_links import SlowLink, in_virtual_time
from .test_slow_links import KB, MB, Traffic, run

__all__ = ["main"]

_HEAD: Final = (
    "| rate, each way | round trip | images go | stops | arrived, median "
    "| arrived, slowest | receipt, slowest | at the start | with a cap | images get |\n"
    "|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|\n"
)
_ROWS: Final[list[tuple[float, float, dict[str, Any]]]] = [
    (3 * MB, 0.004, {}),
    (MB, 0.004, {}),
    (0.3 * MB, 0.004, {}),
    (100 * KB, 0.004, {}),
    (30 * KB, 0.004, {"stops": 1000, "warm": 20.0}),
    (MB, 0.2, {"stops": 100, "warm": 5.0}),
    (3 * MB, 0.01, {"stops": 100, "is_by_bob": True, "is_two_way": True}),
    (MB, 0.01, {"stops": 300, "is_by_bob": True, "is_two_way": True}),
    (0.3 * MB, 0.01, {"stops": 300, "is_by_bob": True, "is_two_way": True}),
    (0.3 * MB, 0.01, {"is_by_bob": True, "telemetry": True}),
]
"""Rates, round trips, and other arguments of `run()`."""
_START: Final = 5.0
"""Seconds that count as the start."""
_STARTS: Final = 20
"""Number of runs that measure the start."""
_CAP: Final = 0.9
"""The cap as a share of the rate."""
_CAPPED: Final = 40.0
"""Seconds of a run with a cap, with its start."""


def _slowest(rate: float, delay: float, seconds: float, seed: int, cap: float | None) -> float:
    """Return the seconds of the slowest stop, from the moment when images fill a new link."""

    async def script(link: SlowLink) -> float:
        traffic = Traffic(link, rng=random.Random(seed))
        link.alice.routing.update(link.bob.did, Address("10.0.0.2", 4000), max_rate=cap)
        async with traffic.running():
            end = link.loop.now + seconds
            while link.loop.now < end:
                await traffic.stop(1)
        return max(traffic.arrived)

    return in_virtual_time(script, rate=rate, delay=delay)


def _images(options: dict[str, Any]) -> str:
    if options.get("is_two_way"):
        return "both ways"
    if options.get("telemetry"):
        return "the other way, beside telemetry"
    return "the same way"


def main() -> None:
    """Print the table."""
    sys.stdout.write(_HEAD)
    for rate, round_trip, options in _ROWS:
        found = run(rate, round_trip / 2, **options)
        shares = f"{100 * found.up:.0f} %"
        if options.get("is_two_way"):
            shares += f", {100 * found.down:.0f} %"
        times = " | ".join(
            f"{1e3 * seconds:.0f} ms" for seconds in (found.median, found.arrived, found.confirmed)
        )
        start = capped = ""
        if not options.get("is_by_bob"):
            path = rate, round_trip / 2
            starts = (_slowest(*path, _START, seed, None) for seed in range(_STARTS))
            start = f"{1e3 * max(starts):.0f} ms"
            capped = f"{1e3 * _slowest(*path, _CAPPED, _STARTS, _CAP * rate):.0f} ms"
        sys.stdout.write(
            f"| {rate / MB:g} MB/s | {1e3 * round_trip:g} ms | {_images(options)} "
            f"| {options.get('stops', 200)} | {times} | {start} | {capped} | {shares} |\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
