"""How fast is it, beside what else there is? `python -m benches`, `make bench`.

Pairs of processes take turns on the same machine: signedwire on the v2 wire and on
the v1 wire, each on asyncio and on uvloop, the v1 client `omnimesh`, ØMQ with CURVE,
NATS, and for round trips the least that a signed one costs; then signedwire with stores
and without, and NATS JetStream. What counts are the ratios; absolute numbers belong to
one machine on one day.

- `children`: processes of ours; the demo uses it too.
- `child`: one benched peer. `payload`: equal sizes for both sides.
- `rounds`: who measures what, when. `micro`: the steps of one message.
- `peers`: who takes part. `zmq_curve`, `nats_core`: a peer of ØMQ, of NATS; `floor`: the
  least that a signed round trip costs.
- `stored`: what a store costs. `away`: a node that stores for a peer that is away.
  `jetstream`: a peer of NATS; `nats_server`: its server.
- `links`, `crowd`: what v2 links cost; many nodes in one process.
- `fanout`, `fanout_child`: one node that sends to many; `descriptors`: whether they fit.
- `startup`: a fresh process, to the import and to the first receipt.
- `results`, `table`, `more_tables`: the figures as data and for people. `report`, `figure`:
  docs/performance.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json as jsonlib
import os
import platform
import sys
import time
from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from benches.child import CALLS_AT_A_TIME, MESSAGES_AT_A_TIME
from benches.fanout import MAX_PEERS, measure_fanout
from benches.links import measure_links
from benches.micro import measure_steps
from benches.payload import MAX_SIZE
from benches.peers import open_pairs
from benches.results import Results
from benches.rounds import measure_pairs
from benches.startup import MAX_RUNS, measure_start
from benches.stored import measure_away, open_stored_pairs, temporary_folder
from signedwire import TransportConfig, __version__
from signedwire.bench import MIN_SIZE, Tell, progress

__all__ = ["PARTS", "run_bench"]

PARTS: Final = ("messages", "store", "links", "fanout", "start", "steps")
"""What a run consists of."""

_START_SECONDS = 30.0
_SLACK_PER_TURN = 3.0
_LINKS_SECONDS = 100.0
_SYSTEMS = 10
"""The most that take turns."""
_AWAY_SECONDS = 400.0
_MAX_MICRO_SECONDS = 2.0
_MAX_LINKS = 10_000
_MAX_BACKLOG = 10_000_000


def run_bench(
    seconds: float = 2.0,
    sizes: Sequence[int] = (64, 1000),
    compare: bool = True,
    json: bool = False,
    rounds: int = 3,
    links: Sequence[int] = (100, 1000),
    backlog: int = 1_000_000,
    fanout: Sequence[int] = (1, 10, 100, 1000),
    starts: int = 10,
    only: Collection[str] = PARTS,
    save: Path | None = None,
) -> int:
    """Measure, and print a table, or one JSON document.

    Takes about `rounds` × 14 systems × `len(sizes)` × `seconds`, `rounds` × 4 ×
    `len(fanout)` × `seconds`, and some more for starting, warming up, round trips, the
    backlog and the links; no child process outlives it.

    Args:
        seconds: How long each throughput measurement sends; a round trip's takes a quarter.
        sizes: Encoded payload sizes in bytes, 16 to 1024, the most that v1 peers take.
        compare: Also measure what is not signedwire, where it is installed.
        links: How many v2 links to set up, one measurement each; empty: none.
        backlog: How many messages to let wait in a store; 0: none.
        fanout: To how many peers to send, one figure each; empty: none.
        starts: How often to start each fresh process.
        only: Which of the PARTS to measure.
        save: A file that gets the JSON document as well; its folder is made.

    Returns:
        0; 1 if signedwire itself could not be measured; 2 for senseless arguments.
    """
    sizes = list(dict.fromkeys(sizes))
    flaw = (
        _flaw(seconds, sizes, rounds, links, backlog, only)
        or _flaw_of_more(fanout, starts)
        or _unwritable(save)
    )
    if flaw:
        return _refuse(flaw)
    try:
        from rich.console import Console

        from benches.table import show
    except ImportError:
        return _refuse(
            "the bench needs rich: pip install 'signedwire[cli]', or '.[cli]' in a checkout"
        )
    started_at = time.monotonic()
    results = Results(machine=_machine(), settings=_settings(seconds, sizes, rounds, only))
    with progress() as tell:
        if "messages" in only:
            _measure_messages(results, sizes, seconds, rounds, compare, tell)
        if "store" in only:
            _measure_store(results, sizes, seconds, rounds, compare, backlog, tell)
        if "links" in only:
            measure_links(results, links, _LINKS_SECONDS, tell)
        if "fanout" in only:
            measure_fanout(results, list(dict.fromkeys(fanout)), seconds, rounds, tell)
        if "start" in only:
            measure_start(results, starts, tell)
        if "steps" in only:
            tell("the steps of one message")
            results.micro = measure_steps(sizes, min(_MAX_MICRO_SECONDS, seconds))
    results.seconds_taken = time.monotonic() - started_at
    document = jsonlib.dumps(results.as_json(), indent=2) + "\n"
    if save is not None:
        save.write_text(document, encoding="utf-8")
    if json:
        sys.stdout.write(document)
    else:
        show(Console(), results)
    return 0 if _has_all(results, only) else 1


def _limit(sizes: Sequence[int], seconds: float, rounds: int) -> float:
    """Seconds after which a child process ends, whatever happened."""
    turns = _SYSTEMS * (rounds + 1) * (len(sizes) + 1)
    return _START_SECONDS + turns * (seconds + _SLACK_PER_TURN)


def _measure_messages(
    results: Results, sizes: list[int], seconds: float, rounds: int, compare: bool, tell: Tell
) -> None:
    with contextlib.ExitStack() as stack:
        pairs = open_pairs(stack, results, compare, _limit(sizes, seconds, rounds), tell)
        results.measures = measure_pairs(pairs, results, sizes, seconds, rounds, tell)


def _measure_store(
    results: Results,
    sizes: list[int],
    seconds: float,
    rounds: int,
    compare: bool,
    backlog: int,
    tell: Tell,
) -> None:
    with temporary_folder() as folder, contextlib.ExitStack() as stack:
        limit = _limit(sizes, seconds, rounds)
        pairs = open_stored_pairs(stack, results, folder, compare, limit, tell)
        results.stored = measure_pairs(
            pairs, results, sizes, seconds, rounds, tell, has_round_trips=False
        )
    with temporary_folder() as folder:
        measure_away(results, folder, sizes, backlog, _AWAY_SECONDS, tell)


def _flaw(
    seconds: float,
    sizes: Sequence[int],
    rounds: int,
    links: Sequence[int],
    backlog: int,
    only: Collection[str],
) -> str:
    """Why these arguments make no sense; empty: they do."""
    if not (seconds > 0 and rounds > 0 and sizes):
        return "seconds and rounds must be positive, and there must be a size"
    if not all(MIN_SIZE <= size <= MAX_SIZE for size in sizes):
        return f"sizes are {MIN_SIZE} to {MAX_SIZE} bytes, the most that v1 peers take"
    if not all(1 <= count <= _MAX_LINKS for count in links):
        return f"links are 1 to {_MAX_LINKS}"
    if not 0 <= backlog <= _MAX_BACKLOG:
        return f"a backlog is 0 to {_MAX_BACKLOG} messages"
    if not only or not set(only) <= set(PARTS):
        return f"the parts are {', '.join(PARTS)}"
    return ""


def _flaw_of_more(fanout: Sequence[int], starts: int) -> str:
    """The same of these."""
    if not all(1 <= count <= MAX_PEERS for count in fanout):
        return f"a fan-out is to 1 to {MAX_PEERS} peers"
    if not 1 <= starts <= MAX_RUNS:
        return f"starts are 1 to {MAX_RUNS}"
    return ""


def _unwritable(save: Path | None) -> str:
    """Why nothing can be saved there, known before minutes are spent; empty: it can."""
    if save is not None:
        try:
            save.parent.mkdir(parents=True, exist_ok=True)
            save.open("a").close()
        except OSError as error:
            return f"cannot save to {save}: {error.strerror}"
    return ""


def _has_all(results: Results, only: Collection[str]) -> bool:
    """Whether there are figures of signedwire where some were asked for."""
    asked = {"messages": results.measures, "store": results.stored}
    has_all = all(
        any(measure.system.is_ours for measure in measures)
        for part, measures in asked.items()
        if part in only
    )
    return has_all and bool(results.start or "start" not in only)


def _refuse(sentence: str) -> int:
    sys.stderr.write(f"signedwire bench: {sentence}\n")
    return 2


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


def _settings(
    seconds: float, sizes: list[int], rounds: int, only: Collection[str]
) -> dict[str, object]:
    defaults = {field.name: field.default for field in dataclasses.fields(TransportConfig)}
    return {
        "seconds": seconds,
        "sizes": sizes,
        "rounds": rounds,
        "only": [part for part in PARTS if part in only],
        "calls_at_a_time": CALLS_AT_A_TIME,
        "messages_at_a_time": MESSAGES_AT_A_TIME,
        "send_queue_limit": defaults["send_queue_limit"],
        "inbox_limit": defaults["inbox_limit"],
    }
