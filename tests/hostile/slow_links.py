"""`python -m hostile.slow_links`: emergency stops on slow paths, over real sockets.

Two nodes, `base` and `robot`, and between them a proxy that is the slow path. The base sends
Critical messages, the stops, at random instants, while Low images of 200 KB fill the path. Each
node and the proxy has a process of its own, and all read the same monotonic clock. Measuring
begins `_SETTLE` seconds after the images.

Prints a table; the exit code is 1 if a limit does not hold. Nothing is measured twice. Columns:

- stops; p50, p99 and longest time until the application of the other node has one, and until the
  receipt for it is back, in ms.
- held: in the time of the slowest stop until it arrived, the ms in which a loop of the three
  processes was held up; and after the slash, by its own work. Else the kernel gave the core to
  another process.
- low down, low up: the payloads of images that arrived, as a share of the rate.
- path down, path up: all bytes that the proxy carried, as a share of the rate.
- tele: the Normal messages that arrived a second, and the longest time of one, in ms.
- cpu: CPU of base, proxy and robot, in percent of one core.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

from .bench import percentile
from .child import LOOPS, Child, ChildError, child
from .hold_ups import Span, overlap
from .slow_peer import IMAGE

__all__ = ["ROWS", "Limits", "Measured", "Row", "header", "main", "measure"]

_SETTLE: Final = 2.0
"""Seconds in which both nodes learn the path."""
_MOST_SECONDS: Final = 200.0
"""Seconds for which stops are sent at most."""
_PATIENCE: Final = 30.0
BASE: Final = "base"
ROBOT: Final = "robot"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What must hold. Times in seconds; 0: no limit."""

    arrived: float = 0.0
    """Time of the slowest stop until the application has it."""
    arrived_p99: float = 0.0
    confirmed: float = 0.0
    """Time of the slowest stop until its receipt is back."""
    low: float = 0.0
    """Share of the rate that the images get, each way in which they are sent."""
    telemetry: float = 0.0
    """Normal messages a second that arrive."""

    def eased(self, times: float, rates: float) -> Limits:
        """Return limits for a machine that is shared."""
        return Limits(
            arrived=self.arrived * times,
            arrived_p99=self.arrived_p99 * times,
            confirmed=self.confirmed * times,
            low=self.low / rates,
            telemetry=self.telemetry / rates,
        )


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement.

    `low`, `stops` and `telemetry` name the nodes that send them.
    """

    name: str
    rate: int
    """Bytes a second that the path carries each way."""
    limits: Limits
    low: tuple[str, ...] = (BASE,)
    stops: tuple[str, ...] = (BASE,)
    telemetry: tuple[str, ...] = ()
    is_timed: bool = False
    """Whether the seconds are given, and not the number of stops."""
    has_stores: bool = False
    """Whether both nodes have a store. Then images are durable, and all else volatile."""


_BEHIND_1: Final = Limits(arrived=0.100, low=0.9)
_RECEIPT: Final = Limits(confirmed=0.250, telemetry=180)

ROWS: Final = {
    row.name: row
    for row in (
        Row(
            name="behind-low-3.0",
            rate=3_000_000,
            limits=Limits(arrived=0.100, arrived_p99=0.050, low=0.9),
        ),
        Row(name="behind-low-1.0", rate=1_000_000, limits=_BEHIND_1),
        Row(name="behind-low-0.3", rate=300_000, limits=Limits(arrived=0.150, low=0.9)),
        Row(
            name="receipt-behind-low-0.3",
            rate=300_000,
            limits=_RECEIPT,
            low=(ROBOT,),
            telemetry=(ROBOT,),
        ),
        *(
            Row(
                name=f"both-ways-{rate / 1e6:.1f}",
                rate=rate,
                limits=Limits(arrived=arrived, low=0.7),
                low=(BASE, ROBOT),
                stops=(BASE, ROBOT),
                is_timed=True,
            )
            for rate, arrived in ((1_000_000, 0.100), (300_000, 0.150))
        ),
        Row(name="stored-behind-low-1.0", rate=1_000_000, limits=_BEHIND_1, has_stores=True),
        Row(
            name="stored-receipt-behind-low-0.3",
            rate=300_000,
            limits=_RECEIPT,
            low=(ROBOT,),
            telemetry=(ROBOT,),
            has_stores=True,
        ),
    )
}
"""All rows; the number in a name is MB/s each way."""


@dataclass(kw_only=True)
class Measured:
    """What one row has shown. Times in seconds."""

    row: Row
    arrived: list[float] = field(default_factory=list)
    """For each stop that arrived: the time until the application had it."""
    confirmed: list[float] = field(default_factory=list)
    """For each stop that was sent: the time until its receipt was back."""
    held_up: float = 0.0
    own: float = 0.0
    """Seconds of `held_up` in which the process itself worked."""
    low: dict[str, float] = field(default_factory=dict)
    """For each node that sends images: the share of the rate that they got."""
    path: tuple[float, float] = (0.0, 0.0)
    """The share of the rate that the proxy carried, down and up."""
    telemetry: float = 0.0
    telemetry_longest: float = 0.0
    cpu: tuple[float, ...] = ()
    broken: list[str] = field(default_factory=list)
    """The limits that do not hold, in words."""

    def judge(self, limits: Limits | None = None) -> None:
        """Fill `broken`, by the limits of the row or by others."""
        limits = limits or self.row.limits
        if len(self.arrived) != len(self.confirmed):
            self.broken.append(f"{len(self.confirmed) - len(self.arrived)} stops were lost")
        if not self.arrived:
            self.broken.append("no stop arrived")
            return
        for what, found, most in (
            ("arrived", max(self.arrived), limits.arrived),
            ("arrived p99", percentile(sorted(self.arrived), 0.99), limits.arrived_p99),
            ("confirmed", max(self.confirmed), limits.confirmed),
        ):
            if most and found > most:
                self.broken.append(f"{what} > {1e3 * most:.0f} ms")
        self.broken += [
            f"low of {name} < {limits.low:.2f}"
            for name, share in self.low.items()
            if share < limits.low
        ]
        if self.telemetry < limits.telemetry:
            self.broken.append(f"telemetry < {limits.telemetry:.0f}/s")

    def __str__(self) -> str:
        def shown(times: list[float]) -> str:
            if not times:
                return f"{'-':>18}"
            ordered = sorted(times)
            values = statistics.median(ordered), percentile(ordered, 0.99), ordered[-1]
            return "".join(f"{1e3 * value:6.0f}" for value in values)

        def share(value: float | None) -> str:
            return f"{'-':>6}" if value is None else f"{value:6.2f}"

        cpu = "/".join(f"{100 * one:.0f}" for one in self.cpu)
        held = f"{1e3 * self.held_up:.0f}/{1e3 * self.own:.0f}"
        telemetry = "-"
        if self.row.telemetry:
            telemetry = f"{self.telemetry:.0f}/{1e3 * self.telemetry_longest:.0f}"
        return (
            f"{self.row.name:30}{len(self.confirmed):5}{shown(self.arrived)}"
            f"{shown(self.confirmed)}{held:>8}"
            f"{share(self.low.get(BASE))}{share(self.low.get(ROBOT))}"
            f"{share(self.path[0])}{share(self.path[1])}{telemetry:>9}{cpu:>11}"
            f"  {', '.join(self.broken) or 'holds'}"
        )


def header() -> str:
    """Return the line above the rows."""
    return (
        f"{'':35}{'arrived, ms':>18}{'confirmed, ms':>18}{'':8}{'low':>12}{'path':>12}\n"
        f"{'row':30}{'stops':>5}{'p50':>6}{'p99':>6}{'max':>6}{'p50':>6}{'p99':>6}{'max':>6}"
        f"{'held':>8}{'down':>6}{'up':>6}{'down':>6}{'up':>6}{'tele':>9}{'cpu':>11}  limits"
    )


# -- one row ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Ends:
    """The processes of one row."""

    base: Child
    proxy: Child
    robot: Child

    def of(self, name: str) -> Child:
        return self.base if name == BASE else self.robot

    async def ask_all(self, *words: object) -> list[dict[str, Any]]:
        asked = (one.ask(*words, timeout=_PATIENCE) for one in (self.base, self.proxy, self.robot))
        return list(await asyncio.gather(*asked))


@contextlib.asynccontextmanager
async def _ends(row: Row, loop: str) -> AsyncIterator[_Ends]:
    """Start the processes, and open a link."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))

        async def start(module: str, *words: object) -> tuple[Child, str]:
            made = await stack.enter_async_context(child(module, *words))
            return made, (await made.answer(_PATIENCE))["address"]

        def store(name: str) -> list[Path]:
            return [folder / f"{name}.db"] if row.has_stores else []

        robot, address = await start("slow_peer", loop, ROBOT, BASE, *store(ROBOT))
        proxy, address = await start("slow_proxy", row.rate, address)
        base, _ = await start("slow_peer", loop, BASE, ROBOT, *store(BASE))
        await base.ask("dial", address)
        yield _Ends(base, proxy, robot)


async def measure(
    row: Row, *, stops: int, seconds: float, seed: str, loop: str = "asyncio"
) -> Measured:
    """Measure one row.

    Args:
        row: What to measure.
        stops: The number of stops, unless the row is timed.
        seconds: How long a timed row takes.
        seed: For the instants of the stops.
        loop: The event loop of both nodes, by name.

    Raises:
        ChildError: a process could not work at all.
    """
    if row.is_timed:
        limits: tuple[int, float] = sys.maxsize, seconds
    else:
        limits = stops, _MOST_SECONDS
    gap = IMAGE / row.rate  # so all phases of an image are as probable
    async with _ends(row, loop) as ends:
        for name in row.low:
            await ends.of(name).ask("low")
        for name in row.telemetry:
            await ends.of(name).ask("telemetry")
        await asyncio.sleep(_SETTLE)
        await ends.ask_all("mark")
        began = time.monotonic()
        patience = limits[1] + _PATIENCE
        sent = await asyncio.gather(
            *(
                ends.of(name).ask("stop", *limits, gap, seed + name, timeout=patience)
                for name in row.stops
            )
        )
        taken = time.monotonic() - began
        return _measured(row, taken, [one["stops"] for one in sent], await ends.ask_all("found"))


def _measured(
    row: Row, seconds: float, sent: list[list[Span]], found: list[dict[str, Any]]
) -> Measured:
    base, proxy, robot = found
    arrived: list[Span] = [tuple(one) for one in base["stops"] + robot["stops"]]
    slowest = max(arrived, key=lambda span: span[1] - span[0], default=(0.0, 0.0))
    here = {BASE: robot, ROBOT: base}  # where the images of a node arrive
    telemetry = [one for name in row.telemetry for one in here[name]["telemetry"]]
    return Measured(
        row=row,
        arrived=[end - begin for begin, end in arrived],
        confirmed=[end - begin for one in sent for begin, end in one],
        held_up=overlap(slowest, [tuple(span) for one in found for span in one["held_up"]]),
        own=overlap(slowest, [tuple(span) for one in found for span in one["own"]]),
        low={name: _rate_of(here[name]["images"]) / row.rate for name in row.low},
        path=(proxy["down"] / row.rate, proxy["up"] / row.rate),
        telemetry=len(telemetry) / seconds,
        telemetry_longest=max(telemetry, default=0.0),
        cpu=tuple(one["cpu"] for one in found),
    )


def _rate_of(images: list[float]) -> float:
    """Return bytes a second between the first image and the last, by the instants they came."""
    if len(images) < 2:
        return 0.0
    return IMAGE * (len(images) - 1) / (images[-1] - images[0])


# -- the program --------------------------------------------------------------------------


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def _run(chosen: list[Row], options: argparse.Namespace) -> list[Measured]:
    say(header())
    rows = []
    for row in chosen:
        try:
            measured = await measure(
                row,
                stops=options.stops,
                seconds=options.seconds,
                seed=options.seed,
                loop=options.loop,
            )
            measured.judge()
        except ChildError as error:
            measured = Measured(row=row, broken=[str(error)])
        rows.append(measured)
        say(str(measured))
    return rows


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m hostile.slow_links", description=__doc__)
    parser.add_argument("--row", action="append", help="name or pattern; default: all")
    parser.add_argument("--stops", type=int, default=200, help="of each row; default 200")
    parser.add_argument("--seconds", type=float, default=60.0, help="of both-ways; default 60")
    parser.add_argument("--seed", default=secrets.token_hex(4), help="of the stops' instants")
    parser.add_argument("--loop", choices=sorted(LOOPS), default="asyncio")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the rows that the arguments name; 0 if every limit held."""
    options = arguments(argv)
    patterns = options.row or ["*"]
    chosen = [row for row in ROWS.values() if any(fnmatch(row.name, one) for one in patterns)]
    if not chosen:
        say(f"no row is called {', '.join(patterns)}; the rows are {', '.join(ROWS)}")
        return 2
    began = time.perf_counter()
    rows = asyncio.run(_run(chosen, options))
    broken = sum(bool(row.broken) for row in rows)
    seconds = time.perf_counter() - began
    say(f"{broken} of {len(rows)} rows break a limit; seed {options.seed}; {seconds:.0f} s")
    if options.json is not None:
        shown = [dataclasses.asdict(row) for row in rows]
        options.json.write_text(json.dumps(shown, indent=1), encoding="utf-8")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
