"""Every fuzz target for a moment, and that the fuzzer reports what it finds."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import pytest

from fuzz.__main__ import main, read_arguments, replay, run_child, run_with_mutator
from fuzz.mutator import CrashError, Mutator, run_randomly
from fuzz.target import Target, clean_up
from fuzz.targets import TARGETS

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
    pytest.param("store-rows", bytes.fromhex("030200011000"), id="a message without a lane"),
    pytest.param("store-rows", bytes.fromhex("050204030000"), id="a batch without lanes"),
    pytest.param("store-rows", bytes.fromhex("f5ffff4e9a00"), id="a number as the owner"),
    pytest.param(
        "store-bytes", bytes.fromhex("00ffffff3bff1f16fffffe16"), id="a lane that there is not"
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


def test_a_saved_input_is_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = tmp_path / "did-crash-7"
    saved.write_bytes(b"did:key:z6Mk")
    assert main(["--target", "did", "--replay", str(saved)]) == 0
    assert f"did: nothing was found with {saved}" in capsys.readouterr().out

    def broken(data: bytes) -> None:
        raise KeyError(data)

    options = read_arguments(["--target", "did", "--replay", str(saved)])
    assert replay({"did": Target("did", broken, ())}, options) == 1
    assert "KeyError: b'did:key:z6Mk'" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--replay", str(saved)])


def test_a_crash_tells_how_to_run_its_input_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = b"the input is saved in %b\nexecutions: 5\n" % bytes(tmp_path / "did-crash-7")
    done = subprocess.CompletedProcess([], 1, output)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    options = read_arguments(["--target", "did", "--engine", "random"])
    assert run_child("did", options) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("did            CRASHED  seed=")
    assert f"-m tests.fuzz --target did --replay {tmp_path / 'did-crash-7'}\n" in printed


def test_a_target_whose_code_is_not_instrumented_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = b"WARNING: no interesting inputs were found so far.\nexecutions: 5\n"
    done = subprocess.CompletedProcess([], 0, output)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    assert run_child("did", read_arguments(["--target", "did", "--engine", "random"])) == 1
    assert "the engine saw no coverage" in capsys.readouterr().out


@pytest.fixture(scope="module")
def guided(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """Every target for a second, one at a time: the code is instrumented once for all."""
    command = [sys.executable, "-m", "tests.fuzz", "--seconds", "1", "--engine", "atheris"]
    artifacts = tmp_path_factory.mktemp("artifacts")
    return subprocess.run(
        [*command, "--artifacts", str(artifacts), "--jobs", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not installed")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", TARGETS)
def test_every_target_guided_by_coverage(
    guided: subprocess.CompletedProcess[str], name: str
) -> None:
    """So a target that expects what is no longer so fails here, and not only in a long run."""
    good = re.findall(r"^(\S+) +ok +seed=\d+ executions=[1-9]", guided.stdout, re.MULTILINE)
    assert good.count(name) == 1, guided.stdout + guided.stderr
    assert guided.returncode == 0 or len(good) < len(TARGETS), guided.stdout + guided.stderr


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
    assert "did            ok       seed=" in done.stdout
