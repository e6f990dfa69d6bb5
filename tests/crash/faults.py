"""Exchanges in which one system call of one side fails, or kills it: `python -m crash.faults`.

strace does it. Afterwards that side starts again without faults, and nothing that was
acknowledged may be missing; that something failed must have been told.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from .exchange import CANNOT_OPEN
from .ledger import Ledger
from .pair import Actor, check_file, what_is_left
from .records import Kind

__all__ = ["Fault", "Outcome", "exchange", "why_no_strace"]

MODULE: Final = "crash.exchange"
CALLS: Final = ("fdatasync", "pwrite64", "ftruncate", "sendto")
_COUNT: Final = 100
_LIMIT: Final = 20.0


@cache
def why_no_strace() -> str:
    """Why nothing can be traced here; empty: it can."""
    if shutil.which("strace") is None:
        return "needs strace"
    command = ("strace", "-f", "-D", "-o", "/dev/null", "-e", "inject=fdatasync:error=EIO", "true")
    ran = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return "" if ran.returncode == 0 else f"needs ptrace: {ran.stderr.strip()[-200:]}"


@dataclass(frozen=True)
class Fault:
    """What happens to which call of whom."""

    role: str
    call: str
    what: str
    """"EIO", "ENOSPC", or "KILL"."""
    when: int

    @property
    def expression(self) -> str:
        """For strace."""
        what = "signal=SIGKILL" if self.what == "KILL" else f"error={self.what}"
        return f"inject={self.call}:{what}:when={self.when}"

    def __str__(self) -> str:
        return f"{self.what} at {self.call} {self.when} of the {self.role}"


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    fault: Fault
    has_happened: bool
    violations: tuple[str, ...]


class FaultyLedger(Ledger):
    """A message that failed may arrive all the same, or not: nothing was promised."""

    def __init__(self) -> None:
        super().__init__()
        self.told = 0
        """Failures that a caller was told of, for the store's sake."""

    def hear(self, kind: Kind, lane: int, detail: int, number: int) -> None:
        if kind is not Kind.FAILED:
            super().hear(kind, lane, detail, number)
        elif detail:
            self.told += 1
        else:
            self.violate(f"message {number} failed for another reason than the store")


class Exchange:
    """Both sides, one of them with a fault."""

    def __init__(self, fault: Fault, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.fault = fault
        self.ledger = FaultyLedger()
        self.trace = folder / "trace"
        self.was_killed = False
        self._first = 0
        self.sender = Actor("sender", folder, self.ledger, MODULE)
        self.receiver = Actor("receiver", folder, self.ledger, MODULE)
        self.faulty = self.sender if fault.role == "sender" else self.receiver
        self.faulty.prefix = (
            *("strace", "-f", "-D", "-qq", "-o", str(self.trace)),
            *("-e", f"trace={fault.call}", "-e", fault.expression),
        )

    async def run(self) -> Outcome:
        try:
            await self._start(self.receiver)
            await self._start(self.sender)
            async with asyncio.timeout(_LIMIT):
                has_failed = await self._first_act()
            has_happened = self.was_killed or "(INJECTED)" in self.trace.read_text()
            if has_failed:
                async with asyncio.timeout(_LIMIT):
                    await self._second_act()
            self._check()
        except TimeoutError:
            self.ledger.violate(f"stuck; missing {self.ledger.missing()[:10]}")
            has_happened = True
        finally:
            await self.sender.abort()
            await self.receiver.abort()
        return Outcome(self.fault, has_happened, tuple(self.ledger.violations))

    async def _start(self, actor: Actor) -> None:
        if actor is self.receiver:
            await actor.start(1, 0)
        else:
            self._first += 10 * _COUNT
            await actor.start(1, self._first, self.receiver.port, _COUNT)

    async def _first_act(self) -> bool:
        """Until the fault has shown, or all has arrived; whether it has."""
        actors = (self.sender, self.receiver)
        while True:
            await asyncio.sleep(0.01)
            for actor in actors:
                if not actor.is_running:
                    await self._look_at_the_end(actor)
                    return True
            for actor in actors:
                if actor.quiet is not None and actor.quiet.done() and actor.quiet.result():
                    if actor is not self.faulty:
                        self.ledger.violate(f"the store of the {actor.role} has failed")
                    elif actor is self.sender and not self.ledger.told:
                        self.ledger.violate("the store has failed, and no caller was told")
                    # One ends as it should, another does not get to it.
                    await (actor.end() if self.fault.when % 2 else actor.kill())
                    return True
            is_sent = self.sender.quiet is not None and self.sender.quiet.done()
            if is_sent and not self.ledger.missing():
                return False

    async def _look_at_the_end(self, actor: Actor) -> None:
        if actor is not self.faulty:
            self.ledger.violate(f"the {actor.role} has ended: {actor.last_words()}")
            return
        code = await actor.code()
        if self.fault.what == "KILL" and code == -9:
            self.was_killed = True
            return
        if code != CANNOT_OPEN:
            self.ledger.violate(f"the {actor.role} ended with {code}: {actor.last_words()}")
        elif len(actor.last_words().strip().splitlines()) != 1:
            self.ledger.violate(f"unclear words: {actor.last_words()}")
        actor.errors.write_text("")

    async def _second_act(self) -> None:
        """It starts again; everything comes to its end."""
        for wrong in check_file(self.faulty.path):
            self.ledger.violate(wrong)
        if self.faulty is self.receiver:
            self.ledger.receiver_restarts()
        self.faulty.prefix = ()
        await self._start(self.faulty)
        while not (self.sender.quiet is not None and self.sender.quiet.done()):
            await self._nap()
        await self.receiver.is_ready.wait()
        await asyncio.sleep(0.1)  # what it had has come again
        while self.ledger.missing() or self.ledger.unfinished():
            await self._nap()
        await self.sender.end()
        await self.receiver.end()
        for actor in (self.sender, self.receiver):
            for wrong in [*check_file(actor.path), *what_is_left(actor.path)]:
                self.ledger.violate(wrong)

    async def _nap(self) -> None:
        await asyncio.sleep(0.01)
        for actor in (self.sender, self.receiver):
            if not actor.is_running:
                self.ledger.violate(f"the {actor.role} has ended: {actor.last_words()}")
                raise TimeoutError

    def _check(self) -> None:
        for actor in (self.sender, self.receiver):
            if words := actor.last_words():
                self.ledger.violate(f"the {actor.role} wrote: {words}")


async def exchange(fault: Fault, folder: Path) -> Outcome:
    """One exchange."""
    return await Exchange(fault, folder).run()


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def shortened(text: str) -> str:
    """Its first line and its last."""
    lines = text.strip().splitlines()
    return lines[0] if len(lines) == 1 else f"{lines[0]} … {lines[-1][:300]}"


async def campaign(
    kinds: Iterable[tuple[str, str, str]], whens: Iterable[int], folder: Path, jobs: int
) -> list[Outcome]:
    """Each kind at each of `whens`, until it no longer happens; `jobs` at once."""
    outcomes: list[Outcome] = []
    for role, call, what in kinds:
        began, happened, left = time.perf_counter(), 0, iter(whens)
        while some := list(itertools.islice(left, jobs)):
            faults = [Fault(role, call, what, when) for when in some]
            places = [folder / f"{role}-{call}-{what}-{when}" for when in some]
            came = await asyncio.gather(*map(exchange, faults, places))
            outcomes += came
            happened += sum(outcome.has_happened for outcome in came)
            for outcome, place in zip(came, places, strict=True):
                for violation in outcome.violations:
                    say(f"{outcome.fault}: {shortened(violation)}")
                if not outcome.violations:
                    shutil.rmtree(place)
            if not any(outcome.has_happened for outcome in came):
                break
        took = time.perf_counter() - began
        say(f"{role} {call} {what}: {happened} faults in {took:.0f} s")
    return outcomes


def main(argv: list[str] | None = None) -> int:
    """Run what the arguments name; 0 where everything held."""
    parser = argparse.ArgumentParser("python -m crash.faults", description=__doc__)
    parser.add_argument("--limit", type=int, default=200, help="the last call; default 200")
    parser.add_argument("--step", type=int, default=1, help="default 1: every call")
    parser.add_argument("--first", type=int, default=1, help="the first call; default 1")
    parser.add_argument("--jobs", type=int, default=4, help="exchanges at once; default 4")
    parser.add_argument("--role", action="append", choices=("sender", "receiver"))
    parser.add_argument("--call", action="append", choices=CALLS)
    parser.add_argument("--what", action="append", choices=("EIO", "ENOSPC", "KILL"))
    options = parser.parse_args(argv)
    if why := why_no_strace():
        say(why)
        return 2
    folder = Path(tempfile.mkdtemp(prefix="signedwire-faults-"))
    kinds = [
        (role, call, what)
        for role in options.role or ("sender", "receiver")
        for call in options.call or CALLS
        for what in options.what or ("EIO", "ENOSPC", "KILL")
        if what == "KILL" or call != "sendto"  # a socket's errors are a link's end
    ]
    whens = range(options.first, options.limit + 1, options.step)
    outcomes = asyncio.run(campaign(kinds, whens, folder, options.jobs))
    wrong = [outcome for outcome in outcomes if outcome.violations]
    say(f"{sum(o.has_happened for o in outcomes)} faults, {len(wrong)} with violations")
    if wrong:
        say(f"the files are in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
