"""`python -m hostile`: every attack by 1, 8 and 40 links, beside an honest peer.

Prints a table; the exit code is 1 where a limit does not hold.
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

from .attacker import ATTACKS, BURNER, NOBODY
from .bench import Limits, Row, header, measure
from .child import LOOPS

__all__ = ["main"]


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def run(
    attacks: list[str], counts: list[int], seconds: float, loop: str, limits: Limits
) -> list[Row]:
    """All rows, each printed as it comes."""
    say(header())
    rows = []
    for name in (NOBODY, BURNER):
        rows.append(await measure(name, 0, seconds, loop))
        say(str(rows[-1]))
    burner_p99 = rows[-1].p99
    for attack in attacks:
        for links in counts:
            row = await measure(attack, links, seconds, loop)
            row.judge(limits, burner_p99)
            rows.append(row)
            say(str(row))
    return rows


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m hostile", description=__doc__)
    parser.add_argument("--attack", action="append", help="name or pattern; default: all")
    parser.add_argument("--links", type=int, action="append", help="default: 1, 8 and 40")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each row; default 2")
    parser.add_argument("--loop", choices=sorted(LOOPS), default="asyncio")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--list", action="store_true", help="print the names of the attacks")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run what the arguments name; 0 where every limit held."""
    options = arguments(argv)
    patterns = options.attack or ["*"]
    names = [name for name in ATTACKS if any(fnmatch(name, one) for one in patterns)]
    if options.list:
        say("\n".join(names))
        return 0
    if not names:
        say(f"no attack is called {', '.join(patterns)}; --list prints the names")
        return 2
    began = time.perf_counter()
    rows = asyncio.run(
        run(names, options.links or [1, 8, 40], options.seconds, options.loop, Limits())
    )
    broken = [row for row in rows if row.broken]
    say(f"{len(broken)} of {len(rows)} rows break a limit; {time.perf_counter() - began:.0f} s")
    if options.json is not None:
        options.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
