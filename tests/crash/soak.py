"""`python -m crash.soak --minutes N`: two pairs under steady load, with cuts and kills.

Of the first pair only the sender is killed, of the second only the receiver. So one
process of each lives from the beginning to the end, and its memory must stay flat.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .pair import Pair
from .proxy import Proxy

__all__ = ["Soaked", "main", "soak"]

_TICK: Final = 0.1
_CUT_SHARE: Final = 0.01
"""Of the connections, each tick."""
_GROWTH: Final = 1.01
"""Limit for what is in use: what the allocators have given out."""
_RESIDENT_GROWTH: Final = 1.05
"""Limit for all that is resident. It keeps the largest load so far: a peer that stood still
for 4 s added 0.5 to 1.3 MiB, one arena of Python's allocator, while what is in use was as
before."""
_WARM_UP: Final = (0.2, 600.0)
"""What does not count for the memory: this share of the time, and this many seconds or half
of it. What has a bound fills up meanwhile: SQLite's pages, to 2 MB; the leaves of
8192 messages of a sender; and what waits while nothing is carried."""
_HOLD: Final = (10.0, 0.02)
"""Before the time begins, nothing is carried for so many seconds, or this share of the time."""
_MAX_WAL: Final = 8 * 1024 * 1024
_RATE: Final = 80
"""Messages a second and lane. A soak tests time: so it takes less than half of a core."""


@dataclass(frozen=True)
class Soaked:
    """What one pair went through."""

    survivor: str
    messages: int
    kills: int
    cuts: int
    redeliveries: int
    memory_kib: tuple[int, int]
    """What is in use at the survivor: after the warm-up, and at the end."""
    resident_kib: tuple[int, int]
    """All that is resident there, at the same times."""
    course_kib: tuple[int, ...]
    """What is in use, from the beginning to the end, at ten times."""
    wal_kib: int
    """Of both, the largest that was seen."""
    violations: tuple[str, ...]

    def __str__(self) -> str:
        before, after = self.memory_kib
        shown = "".join(f"\n    {text}" for text in self.violations)
        return (
            f"the {self.survivor} lived: {self.messages} messages, {self.kills} kills, "
            f"{self.cuts} cuts, {self.redeliveries} redelivered, memory {before} → {after} KiB "
            f"({100 * (after / before - 1):+.2f} %; {' '.join(map(str, self.course_kib))}), "
            f"resident {self.resident_kib[0]} → {self.resident_kib[1]} KiB, "
            f"WAL up to {self.wal_kib} KiB, "
            f"{len(self.violations)} violations{shown}"
        )


class Soak:
    """One pair, of which one side is killed."""

    def __init__(self, folder: Path, seed: int, *, kills_sender: bool) -> None:
        self.pair = Pair(folder, seed)
        self.proxy = Proxy(self.pair.receiver.port)
        both = (self.pair.sender, self.pair.receiver)
        for actor in both:
            actor.module = "crash.prepared"
        self._victim, self._survivor = both if kills_sender else both[::-1]
        self._samples: list[tuple[int, int]] = []
        """In use, and resident."""
        self._largest_wal = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self.pair.pace = _RATE
        async with self.proxy.running() as self.pair.via, self.pair.running():
            yield

    def tick(self) -> None:
        if self.pair.rng.random() < _CUT_SHARE:
            self.proxy.cut()

    async def kill(self) -> None:
        pair = self.pair
        await self._victim.kill()
        pair.kills += 1
        if self._victim is pair.receiver:
            pair.ledger.receiver_restarts()
        await pair.start(self._victim)

    async def sample(self) -> None:
        if self._survivor.is_ready.is_set():
            resident = await self._survivor.resident_kib()
            self._samples.append((self._survivor.in_use_kib, resident))
        for actor in (self._victim, self._survivor):
            with contextlib.suppress(FileNotFoundError):
                size = actor.path.with_name(f"{actor.path.name}-wal").stat().st_size
                self._largest_wal = max(self._largest_wal, size)

    async def end(self, warm_up: float, *, is_memory_due: bool) -> Soaked:
        """`warm_up` is the share of the samples that do not count."""
        pair, ledger = self.pair, self.pair.ledger
        if not ledger.violations:
            await pair.settle()
        counted = self._samples[round(len(self._samples) * warm_up) :]
        used, resident = (_ends([sample[kind] for sample in counted]) for kind in range(2))
        for (before, after), growth in ((used, _GROWTH), (resident, _RESIDENT_GROWTH)):
            if is_memory_due and after > before * growth:
                ledger.violate(f"the memory of the {self._survivor.role} has grown")
        if self._largest_wal > _MAX_WAL:
            ledger.violate(f"a WAL has grown to {self._largest_wal} bytes")
        return Soaked(
            self._survivor.role,
            ledger.first_deliveries,
            pair.kills,
            self.proxy.cuts,
            ledger.redeliveries,
            used,
            resident,
            tuple(in_use for in_use, _ in self._samples[:: max(1, len(self._samples) // 10)]),
            self._largest_wal // 1024,
            tuple(ledger.violations),
        )


async def _fill_windows(soaks: list[Soak], seconds: float) -> None:
    """Fill what waits for a receiver, and then what a receiver takes at once."""
    most, share = _HOLD
    hold = min(most, seconds * share)
    await asyncio.sleep(hold)
    await asyncio.gather(*[each.proxy.hold(hold) for each in soaks])


def _ends(samples: list[int]) -> tuple[int, int]:
    """The medians of the first and the last quarter."""
    quarter = max(1, len(samples) // 4)
    return round(statistics.median(samples[:quarter])), round(statistics.median(samples[-quarter:]))


async def soak(
    seconds: float,
    folder: Path,
    seed: int,
    *,
    kill_interval: float = 60.0,
    is_memory_due: bool = True,
) -> list[Soaked]:
    """Both pairs at once; a kill each `kill_interval`, of one and of the other by turns."""
    soaks = [Soak(folder / str(n), seed + n, kills_sender=not n) for n in range(2)]
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        for each in soaks:
            await stack.enter_async_context(each.running())
        await _fill_windows(soaks, seconds)
        end, turn = loop.time() + seconds, 0
        next_kill, next_sample = loop.time() + kill_interval, loop.time()
        sample_interval = min(5.0, seconds / 40)
        while loop.time() < end and not any(each.pair.ledger.violations for each in soaks):
            await asyncio.sleep(_TICK)
            for each in soaks:
                each.tick()
            if loop.time() >= next_sample:
                next_sample += sample_interval
                for each in soaks:
                    await each.sample()
            if loop.time() >= next_kill:
                next_kill += kill_interval
                await soaks[turn % 2].kill()
                turn += 1
        share, least = _WARM_UP
        warm_up = max(share, min(least / seconds, 0.5))
        return [await each.end(warm_up, is_memory_due=is_memory_due) for each in soaks]


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(argv: list[str] | None = None) -> int:
    """Run what the arguments name; 0 where everything held."""
    parser = argparse.ArgumentParser("python -m crash.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="default 60")
    parser.add_argument("--kill-interval", type=float, default=60, help="seconds; default 60")
    parser.add_argument("--seed", type=int, help="default: a random one")
    options = parser.parse_args(argv)
    seed = random.randrange(2**32) if options.seed is None else options.seed
    say(f"seed {seed}")
    folder = Path(tempfile.mkdtemp(prefix="signedwire-soak-"))
    began = time.perf_counter()
    ends = asyncio.run(
        soak(options.minutes * 60, folder, seed, kill_interval=options.kill_interval)
    )
    for each in ends:
        say(str(each))
    say(f"{sum(each.messages for each in ends)} messages in {time.perf_counter() - began:.0f} s")
    if any(each.violations for each in ends):
        say(f"the files are in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
