"""`python -m hostile`: every attack by 1, 8 and 40 links, beside an honest peer.

Prints a table; the exit code is 1 where a limit does not hold. A row that breaks one is
measured again, `--tries` times in all, and the best counts: another process on the
machine can only make a row worse, and a fault of the node shows every time.

Columns: attack and links; p50, p99 and longest time of the honest peer from send() to
accepted, and how many of its messages were; the time of a newcomer from its first dial to
its first accepted message; the longest hold-up of the victim's loop, by the CPU time of
its thread (judged) and by the wall clock (shown); its memory over idle; its CPU; what the
attacker wrote, how many links it opened, and how many of them the victim ended. Times are
in ms, memory in MiB, CPU in percent of one core, traffic in MB.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

from .attacker import ATTACKS, BURNER, NOBODY
from .bench import Limits, Row, header, measure
from .child import LOOPS, ChildError
from .dead import PREFIX, measure_dead, names
from .recipient_attacks import RECIPIENT_ATTACKS, UNREAD_ATTACKS

__all__ = ["main", "measured"]

LINKS: Final = (1, 8, 40)
_SLOW: Final = 15.0
"""Seconds at least for what fills memory little by little."""


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def measured(
    attack: str,
    links: int,
    seconds: float,
    loop: str,
    *,
    limits: Limits,
    burner_p99: float,
    tries: int,
) -> Row:
    """One row that is judged: the first that holds, or else the last."""
    for _ in range(tries):
        row = await measure(attack, links, seconds, loop)
        row.judge(limits, burner_p99)
        if not row.broken:
            break
    return row


async def run(chosen: list[str], options: argparse.Namespace) -> list[Any]:
    """All rows, each printed as it comes."""
    rows: list[Any] = []

    def add(row: Any) -> None:
        rows.append(row)
        say(str(row))

    attacks = [name for name in chosen if name in ATTACKS]
    if attacks:
        say(header())
        for name in (NOBODY, BURNER):
            add(await measure(name, 0, options.seconds, options.loop))
        burner_p99 = rows[-1].p99
    for attack in attacks:
        seconds = max(options.seconds, _SLOW if attack in UNREAD_ATTACKS else 0.0)
        for links in (1,) if attack in RECIPIENT_ATTACKS else options.links or LINKS:
            try:
                row = await measured(
                    attack,
                    links,
                    seconds,
                    options.loop,
                    limits=Limits(),
                    burner_p99=burner_p99,
                    tries=options.tries,
                )
            except ChildError as error:
                row = Row(attack=attack, links=links, broken=[str(error)])
            add(row)
    for name in chosen:
        if name.startswith(PREFIX):
            add(await measure_dead(name, options.seconds))
    return rows


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m hostile", description=__doc__)
    parser.add_argument("--attack", action="append", help="name or pattern; default: all")
    parser.add_argument("--links", type=int, action="append", help="default: 1, 8 and 40")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each row; default 2")
    parser.add_argument("--tries", type=int, default=3, help="of a row at most; default 3")
    parser.add_argument("--loop", choices=sorted(LOOPS), default="asyncio")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--list", action="store_true", help="print the names of the attacks")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run what the arguments name; 0 where every limit held."""
    options = arguments(argv)
    patterns = options.attack or ["*"]
    known = [*ATTACKS, *names()]
    chosen = [name for name in known if any(fnmatch(name, one) for one in patterns)]
    if options.list:
        say("\n".join(chosen))
        return 0
    if not chosen:
        say(f"no attack is called {', '.join(patterns)}; --list prints the names")
        return 2
    began = time.perf_counter()
    rows = asyncio.run(run(chosen, options))
    broken = [row for row in rows if getattr(row, "broken", [])]
    say(f"{len(broken)} of {len(rows)} rows break a limit; {time.perf_counter() - began:.0f} s")
    if options.json is not None:
        shown = [
            dataclasses.asdict(row)
            if dataclasses.is_dataclass(row) and not isinstance(row, type)
            else str(row)
            for row in rows
        ]
        options.json.write_text(json.dumps(shown, indent=1), encoding="utf-8")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
