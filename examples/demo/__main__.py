"""Show it: on the screen, or as one JSON document with `--json`."""

import argparse

from examples.demo.show import run_demo

if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m examples.demo", description=__doc__)
    parser.add_argument("--json", action="store_true")
    raise SystemExit(run_demo(parser.parse_args().json))
