"""The programs in `examples/`: each runs alone, says what happens, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from signedwire import Identity

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
PROGRAMS = sorted(path.name for path in EXAMPLES.glob("*.py") if path.name != "__init__.py")
# These are two programs that talk to each other.
PAIR = ("hello_listener.py", "hello_sender.py")
# It serves until it is interrupted; test_metrics.py runs it.
SERVER = "text_exporter.py"
# Seconds: each takes a few. As in all tests, the limit is five times the target.
LIMIT = 25.0
# What the reader of the output must see.
SHOWN = {
    "robot_and_base.py": [
        "STOP came first",
        "the 200 parts of the map, in order",
        "no command is waiting for me",
        "the reason is 'expired'",
    ],
    "offline_outbox.py": [
        "'22.9 degrees' is persisted",
        "my process crashes",
        "3 messages wait in the store",
        "received '22.9 degrees'",
        "The store is empty",
    ],
    "own_policy.py": [
        "The robot took the command 'go home'.",
        "The robot refused another type: not allowed.",
        "Messages that the robot refused: 1.",
    ],
    "blocking.py": ["The square of 111 is 12321", "Both nodes are closed"],
    "evidence_audit.py": [
        "accepted 'order 3'",
        "refused: bad signature",
        "valid   the chain and every signature hold",
        "invalid record 2",
    ],
    "v1_peer.py": [
        "the command is written. Confirmed: False",
        "commands 'pick'",
        "answers 'picked'",
        "attempts exhausted",
    ],
}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A fresh home and a fresh folder for temporary files."""
    for name in ("home", "tmp", "here"):
        (tmp_path / name).mkdir()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SIGNEDWIRE", "XDG"))}
    temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(tmp_path / "tmp"))
    home = dict.fromkeys(("HOME", "USERPROFILE", "APPDATA"), str(tmp_path / "home"))
    return {**kept, **temporary, **home, "PYTHONIOENCODING": "utf-8"}


def command(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", "-B", str(EXAMPLES / name), *arguments]


def run(
    environment: dict[str, str], name: str, *arguments: str, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run an example to its end."""
    return subprocess.run(
        command(name, *arguments),
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=LIMIT,
        check=False,
    )


def left_behind(folder: Path) -> list[Path]:
    """The files that a program made and did not remove."""
    return [path for path in folder.rglob("*") if path.parent != folder]


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name not in (*PAIR, SERVER)])
def test_it_runs_alone(name: str, tmp_path: Path, environment: dict[str, str]) -> None:
    done = run(environment, name, cwd=tmp_path / "here")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    assert len(done.stdout.splitlines()) >= 3
    for words in SHOWN.get(name, []):
        assert words in done.stdout
    assert left_behind(tmp_path) == []


def test_two_programs_say_hello(tmp_path: Path, environment: dict[str, str]) -> None:
    """The listener prints the line that its reader runs in another terminal."""
    listener = subprocess.Popen(
        command(PAIR[0]),
        cwd=tmp_path / "here",
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    watchdog = threading.Timer(LIMIT, listener.kill)
    watchdog.start()
    try:
        assert listener.stdout is not None
        first, line = listener.stdout.readline(), listener.stdout.readline()
        match = re.fullmatch(r"python hello_sender\.py (did:key:\S+@127\.0\.0\.1:\d+)\n", line)
        assert match is not None, first + line
        sender = run(environment, PAIR[1], match[1], cwd=tmp_path / "here")
        assert (sender.returncode, sender.stderr) == (0, ""), sender.stdout + sender.stderr
        assert "verified the message and signed for it" in sender.stdout
        assert "The message is handled" in sender.stdout
        assert "says: hello" in listener.stdout.read()
        assert listener.wait() == 0
    finally:
        watchdog.cancel()
        listener.kill()
        listener.communicate()
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("arguments", [[], ["did:key:z6Mk"], ["a@b:1", "c"]], ids=str)
def test_the_sender_without_a_peer_says_how_it_is_used(
    arguments: list[str], environment: dict[str, str]
) -> None:
    done = run(environment, PAIR[1], *arguments)
    assert done.returncode == 1
    assert done.stderr == "usage: python hello_sender.py DID@HOST:PORT\n"


def test_the_sender_says_in_a_line_that_nobody_listens(environment: dict[str, str]) -> None:
    did = str(Identity.generate().did)
    done = run(environment, PAIR[1], f"{did}@127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert did in done.stderr
    assert "connection refused" in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="needs SIGINT")
def test_the_server_ends_silently_at_ctrl_c(environment: dict[str, str]) -> None:
    with subprocess.Popen(
        command(SERVER, "0"),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as server:
        watchdog = threading.Timer(LIMIT, server.kill)
        watchdog.start()
        try:
            assert server.stdout is not None
            assert server.stdout.readline().startswith("http://127.0.0.1:")
            server.send_signal(signal.SIGINT)
            _, told = server.communicate()
        finally:
            watchdog.cancel()
            server.kill()
    assert (server.returncode, told) == (0, "")


def test_every_program_is_listed_in_the_readme() -> None:
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+\.py)`", text, re.MULTILINE)
    assert sorted(listed) == PROGRAMS
    assert listed[:2] == list(PAIR)
    assert SHOWN.keys() <= set(PROGRAMS)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_newcomer_can_read_it_in_two_minutes(name: str) -> None:
    # A network backend has a dozen small methods.
    limit = 220 if name == "own_network.py" else 100
    assert len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) <= limit
