"""`python -m crash --kills N`: kill two nodes with stores under load, again and again.

Prints the seed of each pair and what did not hold; the exit code is then 1, and the
files are left where they were.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .pair import Pair
from .records import Kind

__all__ = ["Outcome", "campaign", "main"]

_EARLY: Final = 0.15
"""The share of kills that do not wait until anything moves again."""


@dataclass(frozen=True)
class Outcome:
    """What one pair went through."""

    seed: int
    kills: int
    messages: int
    accepted: int
    redeliveries: int
    violations: tuple[str, ...]

    def __str__(self) -> str:
        shown = "".join(f"\n    {text}" for text in self.violations)
        return (
            f"seed {self.seed}: {self.kills} kills, {self.messages} messages, "
            f"{self.accepted} told accepted, {self.redeliveries} redelivered, "
            f"{len(self.violations)} violations{shown}"
        )


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def run(seed: int, kills: int, per_kill: int, folder: Path) -> Outcome:
    """Kill one pair so many times."""
    pair = Pair(folder, seed)
    rng, ledger = pair.rng, pair.ledger
    # Those that come too early for any message are made up for by the others.
    most = round(2 * per_kill / (1 - _EARLY))
    async with pair.running():
        while pair.kills < kills and not ledger.violations:
            if rng.random() < _EARLY:
                await asyncio.sleep(rng.random() * 0.7)
            elif not await pair.progress(rng.randrange(1, most)):
                break
            else:
                await asyncio.sleep(rng.random() * 0.03)
            await pair.kill()
            if pair.kills % 100 == 0:
                say(f"seed {seed}: {pair.kills} kills, {ledger.first_deliveries} messages")
        if not ledger.violations:
            await pair.settle()
    accepted = ledger.counts[Kind.ACCEPTED]
    return Outcome(
        seed,
        pair.kills,
        ledger.first_deliveries,
        accepted,
        ledger.redeliveries,
        tuple(ledger.violations),
    )


async def campaign(
    seeds: list[int], kills: int, folder: Path, per_kill: int = 1000
) -> list[Outcome]:
    """Share the kills among as many pairs as there are seeds, all at once."""
    shares = [kills // len(seeds) + (n < kills % len(seeds)) for n in range(len(seeds))]
    return await asyncio.gather(
        *(
            run(seed, share, per_kill, folder / str(seed))
            for seed, share in zip(seeds, shares, strict=True)
        )
    )


def main(argv: list[str] | None = None) -> int:
    """Run what the arguments name; 0 where everything held."""
    parser = argparse.ArgumentParser("python -m crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=1000, help="in all; default 1000")
    parser.add_argument("--messages", type=int, default=1000, help="for each; default 1000")
    parser.add_argument("--pairs", type=int, default=2, help="at once; default 2")
    parser.add_argument("--seed", type=int, help="of the first pair; default: a random one")
    options = parser.parse_args(argv)
    first = random.randrange(2**32) if options.seed is None else options.seed
    seeds = [first + n for n in range(options.pairs)]
    say(f"seeds {', '.join(map(str, seeds))}")
    folder = Path(tempfile.mkdtemp(prefix="signedwire-crash-"))
    began = time.perf_counter()
    outcomes = asyncio.run(campaign(seeds, options.kills, folder, options.messages))
    for outcome in outcomes:
        say(str(outcome))
    kills, messages = sum(o.kills for o in outcomes), sum(o.messages for o in outcomes)
    say(f"{kills} kills, {messages} messages in {time.perf_counter() - began:.0f} s")
    if any(outcome.violations for outcome in outcomes):
        say(f"the files are in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
