"""Rounds: pairs of child processes that take turns, A B A B.

Every pair stays up from its warm-up to the end; only one works at a time, so that
each finds the machine as the others do, and a slow minute hits them all.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable
from importlib import metadata, util
from typing import Final, Self

from signedwire import __version__
from signedwire.bench.children import Child, ChildGone
from signedwire.bench.results import Measure, Results, System

__all__ = ["Pair", "measure_pairs", "open_pairs"]

_CHILD: Final = "signedwire.bench.child"
_START_TIMEOUT: Final = 15.0
_SLACK: Final = 20.0
"""Seconds that a measurement may take longer than it was asked to, before its pair is given up."""
_MAX_WARM_UP: Final = 0.5

Tell = Callable[[str], None]


class Pair:
    """Two processes of one system, alice and bob, that know each other."""

    def __init__(self, system: System, limit: float) -> None:
        self.system = system
        self._children = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            names = ("sender", "receiver")
            self._alice, self._bob = (
                stack.enter_context(
                    Child(f"{system.name} {name}", _CHILD, system.kind, limit=limit)
                )
                for name in names
            )
            alice, bob = (
                child.ask("open", timeout=_START_TIMEOUT) for child in (self._alice, self._bob)
            )
            self._alice.ask("route", **bob)
            self._bob.ask("route", **alice)
            self._children = stack.pop_all()

    def throughput(self, size: int, seconds: float) -> tuple[float, int, int]:
        """Messages per second that arrived while the sender was sending; sent; lost."""
        arriving = self._bob.begin("receive")
        sent = self._alice.ask("send", size=size, seconds=seconds, timeout=seconds + _SLACK)["sent"]
        self._bob.ask("expect", count=sent)
        report = self._bob.result(arriving, "receive", _SLACK)
        received, in_time = report["received"], report["in_time"]
        if in_time < 2:
            raise ChildGone(f"{self.system.name}: {in_time} of {sent} messages arrived in time")
        # The first arrival starts the clock, so it is not counted.
        return (in_time - 1) / report["seconds"], sent, sent - received

    def round_trips(self, size: int, seconds: float) -> list[float]:
        """Seconds there and back, one message at a time."""
        echoing = self._bob.begin("echo")
        answer = self._alice.ask("ping", size=size, seconds=seconds, timeout=seconds + _SLACK)
        self._bob.result(echoing, "echo", _SLACK)
        times: list[float] = answer["times"]
        return times

    def close(self) -> None:
        self._children.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _systems(compare: bool) -> tuple[list[System], dict[str, str]]:
    """What can run here, and what cannot, with the reason."""
    left_out: dict[str, str] = {}

    def ours(loop: str) -> System:
        return System(name="signedwire", version=__version__, loop=loop, kind=loop)

    systems = [ours("asyncio")]
    if util.find_spec("uvloop") is None:
        left_out["signedwire on uvloop"] = "uvloop is not installed; pip install 'signedwire[fast]'"
    else:
        systems.append(ours("uvloop"))
    if not compare:
        left_out["omnimesh"] = "a run without comparison was asked for"
    elif util.find_spec("omnimesh") is None:
        left_out["omnimesh"] = (
            "it is not installed; pip install 'signedwire[bench]', on Linux x86_64 only"
        )
    else:
        version = metadata.version("omnimesh")
        systems.append(System(name="omnimesh", version=version, loop="native", kind="omnimesh"))
    return systems, left_out


def open_pairs(
    stack: contextlib.ExitStack, results: Results, compare: bool, limit: float, tell: Tell
) -> list[Pair]:
    """Start every system that runs here; the others are named in `results.left_out`."""
    systems, left_out = _systems(compare)
    results.left_out.update(left_out)
    pairs = []
    for system in systems:
        tell(f"starting {system.name} ({system.loop})")
        try:
            pairs.append(stack.enter_context(Pair(system, limit)))
        except ChildGone as error:
            results.left_out[_label(system)] = f"it did not start: {error}"
    return pairs


def measure_pairs(
    pairs: list[Pair], results: Results, sizes: list[int], seconds: float, rounds: int, tell: Tell
) -> None:
    """Warm up, then measure in turns; the medians' material goes into `results`."""
    taken: dict[tuple[str, int, System], list[float]] = {}
    counts: dict[tuple[int, System], tuple[int, int]] = {}
    alive = list(pairs)
    for number in range(rounds + 1):
        is_warm_up = number == 0
        turn = min(seconds, _MAX_WARM_UP) if is_warm_up else seconds
        name = "warm-up" if is_warm_up else f"round {number} of {rounds}"
        for size in (*sizes, 0):
            for pair in tuple(alive):
                tell(f"{name}: {_label(pair.system)}, {f'{size} bytes' if size else 'round trip'}")
                try:
                    measured = (
                        _throughput(pair, size, turn, counts)
                        if size
                        else _round_trip(pair, sizes[0], turn / 2)
                    )
                except ChildGone as error:
                    alive.remove(pair)
                    pair.close()
                    results.left_out[_label(pair.system)] = f"it failed in the {name}: {error}"
                    continue
                if is_warm_up:
                    counts.clear()
                    continue
                for what, value in measured.items():
                    taken.setdefault((what, size or sizes[0], pair.system), []).append(value)
    running = {pair.system for pair in alive}
    for (what, size, system), values in taken.items():
        if system in running:
            sent, lost = counts.get((size, system), (0, 0)) if what == "messages/s" else (0, 0)
            results.measures.append(
                Measure(what=what, size=size, system=system, rounds=values, sent=sent, lost=lost)
            )


def _throughput(
    pair: Pair, size: int, seconds: float, counts: dict[tuple[int, System], tuple[int, int]]
) -> dict[str, float]:
    rate, sent, lost = pair.throughput(size, seconds)
    sent_before, lost_before = counts.get((size, pair.system), (0, 0))
    counts[size, pair.system] = (sent_before + sent, lost_before + lost)
    return {"messages/s": rate}


def _round_trip(pair: Pair, size: int, seconds: float) -> dict[str, float]:
    times = pair.round_trips(size, seconds)
    if len(times) < 2:
        return {"round trip p50": times[0], "round trip p99": times[0]}
    percentiles = statistics.quantiles(times, n=100)
    return {"round trip p50": statistics.median(times), "round trip p99": percentiles[98]}


def _label(system: System) -> str:
    return f"signedwire on {system.loop}" if system.is_ours else system.name
