"""Rounds: pairs of child processes that take turns, A B A B.

Every pair stays up from its warm-up to the end; only one works at a time, so that
each finds the machine as the others do, and a slow minute hits them all.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import util
from typing import Final, Self

from benches.children import Child, ChildGone
from benches.results import Measure, Results, System
from signedwire.bench import Tell
from signedwire.bench.figures import percentiles

__all__ = ["Pair", "Throughput", "loops", "measure_pairs", "start_pairs"]

_CHILD: Final = "benches.child"
_START_TIMEOUT: Final = 15.0
_SLACK: Final = 20.0
"""Seconds that a measurement may take longer than it was asked to, before its pair is given up."""
_MAX_WARM_UP: Final = 0.3


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """One turn of sending in a loop."""

    rate: float
    """Messages per second that arrived while the sender was sending."""
    sent: int
    lost: int
    sender_cpu: float
    """Seconds per message."""
    receiver_cpu: float


class Pair:
    """Two processes of one system, alice and bob, that know each other.

    Args:
        module: What they run, with the time limit, the system's kind, and what
            `arguments` has for each of them.
        has_throughput: Whether it does more than round trips.
    """

    def __init__(
        self,
        system: System,
        limit: float,
        module: str = _CHILD,
        arguments: tuple[tuple[str, ...], tuple[str, ...]] = ((), ()),
        *,
        has_throughput: bool = True,
    ) -> None:
        self.system = system
        self.has_throughput = has_throughput
        self._children = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            self._alice, self._bob = (
                stack.enter_context(
                    Child(f"{system.name} {name}", module, system.kind, *own, limit=limit)
                )
                for name, own in zip(("sender", "receiver"), arguments, strict=True)
            )
            alice, bob = (
                child.ask("open", timeout=_START_TIMEOUT) for child in (self._alice, self._bob)
            )
            self._alice.ask("route", **bob)
            self._bob.ask("route", **alice)
            self._children = stack.pop_all()

    def throughput(self, size: int, seconds: float) -> Throughput:
        """Send in a loop for so long."""
        arriving = self._bob.begin("receive")
        sending = self._alice.ask("send", size=size, seconds=seconds, timeout=seconds + _SLACK)
        sent = sending["sent"]
        self._bob.ask("expect", count=sent)
        report = self._bob.result(arriving, "receive", _SLACK)
        received, in_time = report["received"], report["in_time"]
        if in_time < 2:
            raise ChildGone(f"{self.system.name}: {in_time} of {sent} messages arrived in time")
        return Throughput(
            # The first arrival starts the clock, so it is not counted.
            rate=(in_time - 1) / report["seconds"],
            sent=sent,
            lost=sent - received,
            sender_cpu=sending["cpu"] / sent,
            receiver_cpu=report["cpu"] / received,
        )

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


def loops(left_out: dict[str, str]) -> list[str]:
    """The event loops that there are here; one that is not is named in `left_out`."""
    if util.find_spec("uvloop") is not None:
        return ["asyncio", "uvloop"]
    left_out["signedwire on uvloop"] = "uvloop is not installed; pip install 'signedwire[fast]'"
    return ["asyncio"]


def start_pairs(
    stack: contextlib.ExitStack,
    results: Results,
    starts: Mapping[System, Callable[[], Pair]],
    tell: Tell,
) -> list[Pair]:
    """Those that start; the others are named in `results.left_out`."""
    pairs = []
    for system, start in starts.items():
        tell(f"starting {system.label}")
        try:
            pairs.append(stack.enter_context(start()))
        except ChildGone as error:
            results.left_out[system.label] = f"it did not start: {error}"
    return pairs


def measure_pairs(
    pairs: list[Pair],
    results: Results,
    sizes: list[int],
    seconds: float,
    rounds: int,
    tell: Tell,
    *,
    has_round_trips: bool = True,
) -> list[Measure]:
    """Warm up, then measure in turns; who fails is named in `results.left_out`."""
    rates: dict[tuple[System, int], list[Throughput]] = {}
    times: dict[System, list[tuple[float, float]]] = {}
    alive = list(pairs)
    for number in range(rounds + 1):
        is_warm_up = number == 0
        turn = min(seconds, _MAX_WARM_UP) if is_warm_up else seconds
        name = "warm-up" if is_warm_up else f"round {number} of {rounds}"
        for size in (*sizes, 0) if has_round_trips else sizes:
            for pair in tuple(alive):
                if size and not pair.has_throughput:
                    continue
                system = pair.system
                tell(f"{name}: {system.label}, {f'{size} bytes' if size else 'round trip'}")
                try:
                    if size:
                        rates.setdefault((system, size), []).append(pair.throughput(size, turn))
                    else:
                        times.setdefault(system, []).append(
                            percentiles(pair.round_trips(sizes[0], turn / 4))
                        )
                except ChildGone as error:
                    alive.remove(pair)
                    pair.close()
                    results.left_out[system.label] = f"it failed in the {name}: {error}"
        if is_warm_up:
            rates.clear()
            times.clear()
    measures: list[Measure] = []
    for pair in alive:
        system = pair.system
        if pair.has_throughput:
            measures += [_throughput(system, size, rates[system, size]) for size in sizes]
        if has_round_trips:
            measures += _round_trips(system, sizes[0], times[system])
    return measures


def _throughput(system: System, size: int, turns: list[Throughput]) -> Measure:
    return Measure(
        what="messages/s",
        size=size,
        system=system,
        rounds=[turn.rate for turn in turns],
        sent=sum(turn.sent for turn in turns),
        lost=sum(turn.lost for turn in turns),
        sender_cpu=statistics.median(turn.sender_cpu for turn in turns) * 1e6,
        receiver_cpu=statistics.median(turn.receiver_cpu for turn in turns) * 1e6,
    )


def _round_trips(system: System, size: int, turns: list[tuple[float, float]]) -> list[Measure]:
    names = ("round trip p50", "round trip p99")
    return [
        Measure(what=what, size=size, system=system, rounds=list(rounds))
        for what, rounds in zip(names, zip(*turns, strict=True), strict=True)
    ]
