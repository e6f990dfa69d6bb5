"""`python -m tests.simulator --seeds N`: a campaign over many seeds, on all cores.

Prints every seed that fails with what failed and how to replay it; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

from .loop import Livelock
from .scenario import CLOCK_FAULTS, FAULTS, STORE_FAULTS, Outcome, run

__all__ = ["Failure", "campaign", "main"]

_CHUNK = 10
_MAX_SECONDS = 20


@dataclass(frozen=True)
class Failure:
    """A seed in which something did not hold."""

    seed: int
    summary: str
    violations: tuple[str, ...]
    has_stores: bool = False
    has_clocks: bool = False

    def __str__(self) -> str:
        shown = "\n".join(f"    {text[:400]}" for text in self.violations[:5])
        more = len(self.violations) - 5
        return (
            f"seed {self.seed}: {self.summary}\n{shown}"
            + f"\n    … {more} more" * (more > 0)
            + f"\n  replay: python -m tests.simulator --seed {self.seed} --verbose"
            + " --stores" * self.has_stores
            + " --clocks" * self.has_clocks
        )


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def campaign(
    seeds: Iterable[int],
    faults: tuple[str, ...] | None = None,
    jobs: int | None = None,
    *,
    has_stores: bool = False,
    has_clocks: bool = False,
) -> Iterator[Failure]:
    """Run the seeds in `jobs` processes, one for each core; yields those that fail."""
    pending = list(seeds)
    chunks = [pending[at : at + _CHUNK] for at in range(0, len(pending), _CHUNK)]
    jobs = min(jobs or os.cpu_count() or 1, max(1, len(chunks)))
    with ProcessPoolExecutor(jobs, initializer=gc.freeze) as pool:
        run_chunk = partial(_run_chunk, faults=faults, has_stores=has_stores, has_clocks=has_clocks)
        for failures in pool.map(run_chunk, chunks):
            yield from failures


def _run_chunk(
    seeds: list[int], faults: tuple[str, ...] | None, *, has_stores: bool, has_clocks: bool
) -> list[Failure]:
    failures = []
    for seed in seeds:
        with _limit(_MAX_SECONDS):
            outcome = run(seed, faults, has_stores=has_stores, has_clocks=has_clocks)
        if outcome.violations:
            violations = tuple(outcome.violations)
            failures.append(Failure(seed, outcome.summary, violations, has_stores, has_clocks))
    return failures


@contextlib.contextmanager
def _limit(seconds: int) -> Iterator[None]:
    """A callback that never returns is a failure of its seed, not of the campaign."""

    def on_alarm(number: int, frame: object) -> None:
        raise Livelock(f"a callback has not returned for {seconds} s")

    if not hasattr(signal, "SIGVTALRM"):
        yield
        return
    old = signal.signal(signal.SIGVTALRM, on_alarm)
    # Of processor time: others may keep the machine busy. Again and again: what a
    # callback raises, its loop survives.
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, old)


def main(argv: list[str] | None = None) -> int:
    """Run what the arguments name; 0 where everything held."""
    parser = argparse.ArgumentParser("python -m tests.simulator", description=__doc__)
    choices = (*FAULTS, *STORE_FAULTS, *CLOCK_FAULTS)
    parser.add_argument("--seeds", type=int, default=500, help="how many; default 500")
    parser.add_argument("--first", type=int, default=0, help="the first of them; default 0")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--fault", action="append", choices=choices, help="only this kind")
    parser.add_argument("--stores", action="store_true", help="nodes with stores, too")
    parser.add_argument("--clocks", action="store_true", help="clocks that go apart, too")
    parser.add_argument("--jobs", type=int, help="processes; default: one for each core")
    parser.add_argument("--verbose", action="store_true", help="with --seed: its whole trace")
    options = parser.parse_args(argv)
    faults = None if options.fault is None else tuple(options.fault)
    if options.seed is not None:
        outcome = run(options.seed, faults, has_stores=options.stores, has_clocks=options.clocks)
        return _replay(outcome, is_verbose=options.verbose)
    began = time.perf_counter()
    count = 0
    seeds = range(options.first, options.first + options.seeds)
    kinds = {"has_stores": options.stores, "has_clocks": options.clocks}
    for failure in campaign(seeds, faults, options.jobs, **kinds):
        count += 1
        say(str(failure))
    took = time.perf_counter() - began
    rate = options.seeds / took
    say(f"{options.seeds} seeds in {took:.1f} s, {rate:.1f} a second; {count} failed")
    return 1 if count else 0


def _replay(outcome: Outcome, *, is_verbose: bool) -> int:
    for line in outcome.lines if is_verbose else outcome.violations:
        say(line)
    say(f"seed {outcome.seed}: {outcome.summary}; {len(outcome.violations)} violations")
    return 1 if outcome.violations else 0


if __name__ == "__main__":
    sys.exit(main())
