"""How fast is it, beside what else there is? `signedwire bench`, `make bench`.

Pairs of processes take turns on the same machine: signedwire on the v2 wire and on
the v1 wire, each on asyncio and on uvloop, and the v1 client `omnimesh`. What counts
are the ratios; absolute numbers belong to one machine on one day.

- `children`: processes of ours; the demo uses it too.
- `child`: one benched peer. `payload`: equal sizes for both sides.
- `rounds`: who measures what, when. `micro`: the steps of one message.
- `links`, `crowd`: what v2 links cost; many nodes in one process.
- `results`, `table`: the figures as data and for people.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json as jsonlib
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

from signedwire import TransportConfig, __version__
from signedwire.bench.child import MESSAGES_AT_A_TIME
from signedwire.bench.links import measure_links
from signedwire.bench.micro import measure_steps
from signedwire.bench.payload import MAX_SIZE, MIN_SIZE
from signedwire.bench.results import Results
from signedwire.bench.rounds import measure_pairs, open_pairs

__all__ = ["run_bench"]

_START_SECONDS = 30.0
_SLACK_PER_TURN = 3.0
_LINKS_SECONDS = 100.0
_SYSTEMS = 5
_MAX_MICRO_SECONDS = 2.0
_MAX_LINKS = 10_000


def run_bench(
    seconds: float = 2.0,
    sizes: Sequence[int] = (64, 1000),
    compare: bool = True,
    json: bool = False,
    rounds: int = 3,
    links: Sequence[int] = (100, 1000),
) -> int:
    """Measure, and print a table, or one JSON document.

    Takes about `rounds` × 5 systems × (`len(sizes)` + ¼) × `seconds`, some more for
    starting, warming up and the links; no child process outlives it.

    Args:
        seconds: How long each throughput measurement sends; a round trip's takes a quarter.
        sizes: Encoded payload sizes in bytes, 16 to 1024, the most that v1 peers take.
        compare: Also measure omnimesh, where it is installed.
        links: How many v2 links to set up, one measurement each; empty: none.

    Returns:
        0; 1 if signedwire itself could not be measured; 2 for senseless arguments.
    """
    sizes = list(dict.fromkeys(sizes))
    if not (seconds > 0 and rounds > 0 and sizes):
        return _refuse("seconds and rounds must be positive, and there must be a size")
    if not all(MIN_SIZE <= size <= MAX_SIZE for size in sizes):
        return _refuse(f"sizes are {MIN_SIZE} to {MAX_SIZE} bytes, the most that v1 peers take")
    if not all(1 <= count <= _MAX_LINKS for count in links):
        return _refuse(f"links are 1 to {_MAX_LINKS}")
    try:
        from rich.console import Console

        from signedwire.bench.table import show
    except ImportError:
        return _refuse(
            "the bench needs rich: pip install 'signedwire[cli]', or '.[cli]' in a checkout"
        )
    started_at = time.monotonic()
    results = Results(machine=_machine(), settings=_settings(seconds, sizes, rounds))
    turns = _SYSTEMS * (rounds + 1) * (len(sizes) + 1)
    limit = _START_SECONDS + turns * (seconds + _SLACK_PER_TURN)
    with _progress() as tell, contextlib.ExitStack() as stack:
        pairs = open_pairs(stack, results, compare, limit, tell)
        measure_pairs(pairs, results, sizes, seconds, rounds, tell)
        stack.close()
        measure_links(results, links, _LINKS_SECONDS, tell)
        tell("the steps of one message")
        results.micro = measure_steps(sizes, min(_MAX_MICRO_SECONDS, seconds))
    results.seconds_taken = time.monotonic() - started_at
    if json:
        sys.stdout.write(jsonlib.dumps(results.as_json(), indent=2) + "\n")
    else:
        show(Console(), results)
    return 0 if any(measure.system.is_ours for measure in results.measures) else 1


def _refuse(sentence: str) -> int:
    sys.stderr.write(f"signedwire bench: {sentence}\n")
    return 2


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A line on a terminal that says what is being measured; elsewhere nothing."""
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("") as status:
        yield status.update


def _machine() -> dict[str, object]:
    return {
        "date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "cpu": _cpu_name(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "signedwire": __version__,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _settings(seconds: float, sizes: list[int], rounds: int) -> dict[str, object]:
    defaults = {field.name: field.default for field in dataclasses.fields(TransportConfig)}
    return {
        "seconds": seconds,
        "sizes": sizes,
        "rounds": rounds,
        "messages_at_a_time": MESSAGES_AT_A_TIME,
        "send_queue_limit": defaults["send_queue_limit"],
        "inbox_limit": defaults["inbox_limit"],
    }
