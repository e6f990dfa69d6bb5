"""The program in `examples/fleet`: a short run with two robots, and its summary."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("msgspec")

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "fleet"
COMMAND = (sys.executable, "-m", "examples.fleet", "2", "2")
LIMIT = 100.0
MOST_LINES = 220
CHILDREN = f"/proc/self/task/{os.getpid()}/children"


def test_it_is_short_and_nothing_of_the_package_knows_it() -> None:
    lines = [line for path in EXAMPLE.glob("*.py") for line in path.read_text().splitlines()]
    assert 0 < len(lines) <= MOST_LINES
    sources = (ROOT / "src").rglob("*.py")
    assert not [path for path in sources if "examples.fleet" in path.read_text(encoding="utf-8")]


@pytest.mark.skipif(os.name != "posix", reason="it stops processes with signals of POSIX")
def test_the_summary_of_a_short_run(tmp_path: Path) -> None:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SIGNEDWIRE")}
    done = subprocess.run(
        COMMAND,
        cwd=ROOT,
        env={**kept, "TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    found = re.fullmatch(
        r"E-stop one way: p50 (\S+) ms, p99 (\S+) ms, of (\d+)\n"
        r"E-stop handled: p50 (\S+) ms, p99 (\S+) ms, of (\d+)\n"
        r"telemetry: (\d+) Hz from each robot\n"
        r"stopped by themselves, without the base: 2 of 2 robots\n"
        r"E-stop to a frozen robot:( \{'robot-1': '[a-z ]+'\})+\n"
        r"signed status at the auditor: 2 robots\n"
        r"battery told: 2 robots\n",
        done.stdout,
    )
    assert found is not None, done.stdout
    one_way_half, one_way_most, stops, half, most, handled, rate, _ = found.groups()
    assert 0 < float(one_way_half) <= float(one_way_most)
    assert float(one_way_half) < float(half) <= float(most) < 1000  # the deadline
    assert min(int(stops), int(handled)) >= 2
    assert 0 < int(rate) <= 205
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not os.path.exists(CHILDREN), reason="children are looked up in Linux's /proc")
def test_no_member_outlives_a_killed_starter(tmp_path: Path) -> None:
    starter = subprocess.Popen(
        COMMAND,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    children: list[int] = []
    deadline = time.monotonic() + LIMIT
    while len(children) < 5 and time.monotonic() < deadline:
        children = _children(starter.pid)
        time.sleep(0.05)
    starter.kill()
    starter.wait()
    assert len(children) == 5
    while any(map(_is_ours, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in children if _is_ours(pid)]


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split() if _is_ours(int(child))]


def _is_ours(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return b"members.py" in file.read()
    except OSError:
        return False
