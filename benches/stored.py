"""What a store costs.

Pairs that have one on both sides take turns with the same without, and with NATS
JetStream, which keeps messages in files as well. What a commit costs beside a sync of
the disk, and what many messages that wait cost, is measured in one process whose peer
is away.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from benches.away import AT_A_TIME
from benches.children import Child, ChildGone
from benches.nats_server import WINDOW, NatsServer, ServerGone, what_is_missing
from benches.results import BacklogCost, CommitCost, Results, System
from benches.rounds import Pair, loops, start_pairs
from signedwire import __version__
from signedwire.bench import Tell

__all__ = ["NATS", "measure_away", "open_stored_pairs", "temporary_folder"]

NATS: Final = "NATS JetStream"
_CHILD: Final = "benches.child"
_NATS_CHILD: Final = "benches.jetstream"
_AWAY_CHILD: Final = "benches.away"
_LONE: Final = 200
_GROUPED: Final = 10_000
_COMMIT_ROUNDS: Final = 3
_FEW: Final = 1000
_TIMEOUT: Final = 60.0
_FILL_TIMEOUT: Final = 180.0


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder on a disk, as far as we know: /tmp is in memory on many a system.

    TMPDIR says where else.
    """
    on_disk = "/var/tmp"
    where = None if "TMPDIR" in os.environ or not os.path.isdir(on_disk) else on_disk
    with tempfile.TemporaryDirectory(prefix="signedwire-bench-", dir=where) as folder:
        yield Path(folder)


def open_stored_pairs(
    stack: contextlib.ExitStack,
    results: Results,
    folder: Path,
    compare: bool,
    limit: float,
    tell: Tell,
) -> list[Pair]:
    """Start every system that runs here; the others are named in `results.left_out`."""
    starts: dict[System, Callable[[], Pair]] = {}
    known = loops(results.left_out)
    for loop in known:
        for does in ("done", "stored"):
            system = System(name="signedwire", version=__version__, wire="v2", loop=loop, does=does)
            sender, receiver = (folder / f"{loop}-{side}.db" for side in ("sender", "receiver"))
            files = ((str(sender),), (str(receiver),)) if does == "stored" else ((), ())
            starts[system] = partial(Pair, system, limit, _CHILD, files)
    if not compare:
        results.left_out[NATS] = "a run without comparison was asked for"
    elif missing := what_is_missing():
        results.left_out[NATS] = missing
    else:
        tell(f"starting {NATS}")
        try:
            server = stack.enter_context(NatsServer(folder))
        except (ServerGone, OSError, ValueError) as error:
            results.left_out[NATS] = f"it did not start: {error}"
        else:
            results.notes[NATS] = (
                f"nats-server {server.version}, with file storage and its defaults; publishes "
                f"are acknowledged, {WINDOW:,} of them in flight; a durable consumer pulls and "
                f"acknowledges each message. It does not sync each to the disk (sync_interval is "
                f"2 min), neither signs nor encrypts, and the one copy is the server's, whose CPU "
                f"is in no figure."
            )
            urls = ((server.url,), (server.url,))
            for loop in known:
                system = System(
                    name=NATS, version=server.version, wire="nats", loop=loop, does="stored"
                )
                starts[system] = partial(Pair, system, limit, _NATS_CHILD, urls)
    return start_pairs(stack, results, starts, tell)


def measure_away(
    results: Results, folder: Path, sizes: list[int], backlog: int, limit: float, tell: Tell
) -> None:
    """What commits cost, and `send()` while `backlog` messages wait; 0: no such backlog."""
    try:
        with Child("a node whose peer is away", _AWAY_CHILD, str(folder), limit=limit) as child:
            for size in sizes:
                tell(f"commits of {size} bytes")
                results.commits += _commits(child, size)
            if backlog:
                _measure_backlogs(results, child, sizes[0], backlog, tell)
    except ChildGone as error:
        results.left_out["a store whose peer is away"] = f"it failed: {error}"


def _commits(child: Child, size: int) -> list[CommitCost]:
    lone, groups = [], []
    for _ in range(_COMMIT_ROUNDS):
        lone.append(child.ask("lone", size=size, count=_LONE, timeout=_TIMEOUT))
        groups.append(child.ask("groups", size=size, count=_GROUPED, timeout=_TIMEOUT))
    sync = statistics.median(turn["sync"] for turn in lone)
    return [
        CommitCost(
            size=size,
            rows=1,
            commit=lone[-1]["commit"],
            row=statistics.median(turn["told"] for turn in lone),
            sync=sync,
        ),
        CommitCost(
            size=size,
            rows=statistics.median(turn["rows"] for turn in groups),
            commit=groups[-1]["commit"],
            row=statistics.median(turn["row"] for turn in groups),
            sync=sync,
        ),
    ]


def _measure_backlogs(results: Results, child: Child, size: int, backlog: int, tell: Tell) -> None:
    counts = {"few": min(_FEW, backlog), "many": backlog}
    filled = {}
    for name, count in counts.items():
        tell(f"storing {count:,} messages")
        filled[name] = child.ask("fill", name=name, size=size, count=count, timeout=_FILL_TIMEOUT)
    tell(f"send() while {backlog:,} messages wait")
    turns = child.ask("send", names=list(counts), size=size, timeout=_TIMEOUT)
    for name, count in counts.items():
        results.backlogs.append(
            BacklogCost(
                waiting=count,
                size=size,
                fill_rate=filled[name],
                send=statistics.median(turns[name]["sends"]),
                rate=statistics.median(turns[name]["rates"]),
                at_a_time=AT_A_TIME,
            )
        )
    for what, key in (("send", "sends"), ("rate", "rates")):
        pairs = zip(turns["many"][key], turns["few"][key], strict=True)
        results.backlog_ratios[what] = statistics.median(many / few for many, few in pairs)
