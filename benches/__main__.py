"""Run the bench with its defaults, or with `--json`."""

import sys

from signedwire.bench import run_bench

if __name__ == "__main__":
    raise SystemExit(run_bench(json="--json" in sys.argv[1:]))
