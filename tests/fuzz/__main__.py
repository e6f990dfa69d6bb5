"""`python -m tests.fuzz`: every target, each in a process of its own.

Prints a line per target with its seed and how many inputs it had. After a crash the exit
code is 1; the input is in the file that is named, and a line says how to run it again.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import re
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .guided import GuidedRun
from .mutator import CrashError, run_randomly
from .target import Target, clean_up
from .targets import TARGETS

_EXECUTIONS = re.compile(r"stat::number_of_executed_units: (\d+)|^executions: (\d+)", re.MULTILINE)
_BLIND = "no interesting inputs were found"
"""What libFuzzer says where no code behind the target is instrumented."""
_ARTIFACTS = re.compile(r"(?:Test unit written to|the input is saved in) (\S+)")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(argv: list[str] | None = None) -> int:
    """Run what the arguments name; 0 where nothing crashed."""
    options = read_arguments(argv)
    if options.replay is not None:
        return replay(TARGETS, options)
    options.artifacts.mkdir(parents=True, exist_ok=True)
    if options.child:
        target = TARGETS[options.target[0]]
        try:
            return run_with_mutator(target, options.seed, options.seconds, options.artifacts)
        finally:
            clean_up()
    names = options.target or list(TARGETS)
    say(f"{len(names)} targets, {options.seconds:g} s each, with {options.engine}")
    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(lambda name: run_child(name, options), names))
    return max(results, default=0)


def read_arguments(argv: list[str] | None) -> argparse.Namespace:
    has_atheris = importlib.util.find_spec("atheris") is not None
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for each target")
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="only this one")
    parser.add_argument("--seed", type=int, help="for all targets; default: a new one for each")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="targets at once")
    parser.add_argument(
        "--engine",
        choices=["atheris", "random"],
        default="atheris" if has_atheris else "random",
    )
    parser.add_argument(
        "--artifacts", type=Path, default=Path("build/fuzz"), help="where crashing inputs go"
    )
    parser.add_argument(
        "--replay", type=Path, metavar="FILE", help="run this one input through the one --target"
    )
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.replay is not None and len(options.target or ()) != 1:
        parser.error("--replay needs one --target: the name before `-crash` in the file's name")
    return options


def run_child(name: str, options: argparse.Namespace) -> int:
    """Fuzz one target in a process of its own and say how it went."""
    seed = options.seed if options.seed is not None else random.randrange(1, 2**31)
    # In memory where there is such a place. What a process that ended has left is there, too.
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="signedwire-fuzz-", dir=place) as folder:
        if options.engine == "atheris":
            code, output = _run_guided(name, seed, Path(folder), options)
        else:
            code, output = _run_randomly(name, seed, folder, options)
    counts = [int(a or b) for a, b in _EXECUTIONS.findall(output)]
    executions = counts[-1] if counts else 0
    if code == 0 and executions == 0:
        code, output = 1, output + "\nno input was tried"
    if code == 0 and _BLIND in output:
        code, output = 1, output + "\nthe engine saw no coverage: is the target imported anew?"
    verdict = "ok" if code == 0 else "CRASHED"
    say(f"{name:14} {verdict:8} seed={seed} executions={executions}")
    if code != 0:
        say("\n".join(f"    {line}" for line in output.splitlines()[-40:]))
        for path in dict.fromkeys(_ARTIFACTS.findall(output)):
            say(f"again: {sys.executable} -m tests.fuzz --target {name} --replay {path}")
    return 1 if code else 0


def _run_guided(name: str, seed: int, folder: Path, options: argparse.Namespace) -> tuple[int, str]:
    """The exit code of the process, and what it printed."""
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, data in enumerate(TARGETS[name].seeds):
        (corpus / f"seed-{number}").write_bytes(data)
    return GuidedRun(name, seed, options.seconds, options.artifacts.resolve(), folder).run()


def _run_randomly(
    name: str, seed: int, folder: str, options: argparse.Namespace
) -> tuple[int, str]:
    """The exit code of the process, and what it printed."""
    command = [sys.executable, "-m", __package__ or "tests.fuzz", "--child"]
    command += ["--target", name, "--seconds", f"{options.seconds}", "--seed", f"{seed}"]
    command += ["--engine", "random", "--artifacts", f"{options.artifacts}"]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "TMPDIR": folder},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=options.seconds + 90,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return 124, (error.stdout or b"").decode(errors="replace") + "\nit hung"
    return done.returncode, done.stdout.decode(errors="replace")


def replay(targets: Mapping[str, Target], options: argparse.Namespace) -> int:
    """Run one saved input; its traceback, or that nothing was found."""
    (name,) = options.target
    try:
        targets[name].run(options.replay.read_bytes())
    # Also what is no Exception, such as a panic in Rust.
    except BaseException:  # noqa: BLE001
        traceback.print_exc(file=sys.stdout)
        return 1
    finally:
        clean_up()
    say(f"{name}: nothing was found with {options.replay}")
    return 0


def run_with_mutator(target: Target, seed: int, seconds: float, artifacts: Path) -> int:
    """Feed `target` random changes of its seeds; a crashing input is saved."""
    try:
        executions = run_randomly(target, seed, seconds)
    except CrashError as crash:
        traceback.print_exception(crash.__cause__, file=sys.stdout)
        path = artifacts / f"{target.name}-crash-{seed}"
        path.write_bytes(crash.data)
        say(f"seed {seed}: {crash}\nthe input is saved in {path}")
        return 1
    say(f"executions: {executions}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
