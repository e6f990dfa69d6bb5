"""Run the bench: all of it, or `--only store`; `--json` prints one document."""

import argparse
from pathlib import Path

from benches.running import PARTS, run_bench

if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m benches", description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--save", type=Path, metavar="FILE", help="that document, for the report")
    parser.add_argument("--only", choices=PARTS, action="append", help="may be given often")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each figure; default 2")
    parser.add_argument("--rounds", type=int, default=3, help="default 3")
    parser.add_argument(
        "--size", type=int, action="append", metavar="BYTES", help="default 64 and 1000"
    )
    options = parser.parse_args()
    raise SystemExit(
        run_bench(
            seconds=options.seconds,
            sizes=options.size or (64, 1000),
            rounds=options.rounds,
            json=options.json,
            only=options.only or PARTS,
            save=options.save,
        )
    )
