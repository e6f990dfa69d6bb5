"""Every fuzz target for a moment, and that the fuzzer reports what it finds."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from fuzz.__main__ import run_with_mutator
from fuzz.mutator import CrashError, Mutator, run_randomly
from fuzz.targets import TARGETS, Target, clean_up

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def input_folder() -> Iterator[None]:
    yield
    clean_up()


@pytest.mark.parametrize("name", TARGETS)
def test_smoke(name: str) -> None:
    seed = random.randrange(2**31)
    try:
        executions = run_randomly(TARGETS[name], seed, 0.1)
    except CrashError as crash:
        pytest.fail(
            f"{name} with seed {seed}: {crash}\ninput: {crash.data.hex()}\n"
            f"again: python -m tests.fuzz --engine random --target {name} --seed {seed}"
        )
    assert executions >= len(TARGETS[name].seeds)


# What fuzzing has found, so that it is not found again.
PAST = [
    pytest.param(
        "key-file",
        b"-----BEGIN PRIVATE KEY-----\n"
        b"MC4CAQAwBQYDK2VvBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n"
        b"-----END PRIVATE KEY-----\n",
        id="an X448 key of 32 bytes",
    ),
]


@pytest.mark.parametrize(("name", "data"), PAST)
def test_past_crashes(name: str, data: bytes) -> None:
    TARGETS[name].run(data)


def test_a_seed_gives_the_same_inputs_again() -> None:
    seed = random.randrange(2**31)
    target = TARGETS["config-file"]
    inputs = [list(islice(Mutator(target, seed), 300)) for _ in range(2)]
    assert inputs[0] == inputs[1], f"seed {seed}"
    assert len(set(inputs[0])) > 200, f"seed {seed}"
    assert max(map(len, inputs[0])) <= target.max_size


def test_a_crash_is_reported_and_its_input_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(data: bytes) -> None:
        if data[:1] == b"b":
            raise KeyError(data)

    target = Target("broken", broken, (b"a", b"b!"))
    assert run_with_mutator(target, 7, 5, tmp_path) == 1
    (saved,) = tmp_path.iterdir()
    assert saved.read_bytes() == b"b!"
    output = capsys.readouterr().out
    assert str(saved) in output
    assert "seed 7: KeyError" in output


def test_from_the_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--seconds", "0.05", "--engine", "random"]
    done = subprocess.run(
        [*command, "--target", "did", "--artifacts", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 targets, 0.05 s each, with random" in done.stdout
    assert "did          ok       seed=" in done.stdout
