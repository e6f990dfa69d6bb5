"""The command line on machines whose clocks are wrong, by `faketime`."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from clikit import LIMIT, Ran, isolate, run

from signedwire import Identity

IN_1970 = "@1970-01-01 00:01:00"
IN_1970_LATER = "@1970-01-01 00:02:00"

pytestmark = pytest.mark.skipif(
    shutil.which("faketime") is None, reason="faketime is not installed: `make ci-tools`"
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(tmp_path, monkeypatch)
    # Only the wall clock is wrong; the time that passes is as it is.
    monkeypatch.setenv("DONT_FAKE_MONOTONIC", "1")
    monkeypatch.setenv("TZ", "UTC")


def command(when: str | None, *args: str) -> list[str]:
    wrong = [] if when is None else ["faketime", "-f", when]
    return [*wrong, sys.executable, "-m", "signedwire.cli", *args]


class Listener:
    """A `signedwire listen` at some time of its own."""

    def __init__(self, when: str | None, *args: str) -> None:
        self._process = subprocess.Popen(
            command(when, "listen", "--listen", "127.0.0.1:0", "--no-store", *args),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # `faketime` is a parent of its command
        )
        self._heard: str | None = None
        self.peer = ""
        self.said = ""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.said += line
            words = line.split()
            if words[:2] == ["signedwire", "send"]:
                self.peer = words[2]
                return
        raise AssertionError(f"it does not listen: {self.said}")

    def end(self) -> str:
        """The output on both streams."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        if self._heard is None:
            self._heard, stderr = self._process.communicate(timeout=LIMIT)
            self.said += stderr
        return f"{self._heard}\n{self.said}"


@pytest.fixture
def listeners() -> Iterator[list[Listener]]:
    started: list[Listener] = []
    yield started
    for listener in started:
        listener.end()


def send(when: str | None, peer: str, *args: str) -> Ran:
    key = Path(os.environ["HOME"], "other.pem")
    if not key.exists():
        Identity.generate().save(key)
    done = subprocess.run(
        command(when, "send", peer, "hi", "--identity", "other.pem", "--no-store", *args),
        capture_output=True,
        text=True,
        timeout=3 * LIMIT,
        cwd=os.environ["HOME"],
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def test_two_machines_in_1970(listeners: list[Listener]) -> None:
    listeners.append(Listener(IN_1970))
    ran = send(IN_1970_LATER, listeners[0].peer, "--deadline", "600")
    assert ran.exit_code == 0, ran
    assert "hi" in listeners[0].end()


def test_a_sender_whose_clock_is_nine_days_late_links(listeners: list[Listener]) -> None:
    listeners.append(Listener(None))
    ran = send("-9d", listeners[0].peer, "--timeout", "5")
    assert ran.exit_code == 0, ran
    assert "hi" in listeners[0].end()


@pytest.mark.parametrize(
    ("when", "words"),
    [("+2h", r"its clock is 7(199|200)\.\d\d s ahead"), ("-9d", "its clock is 9.00 days behind")],
)
def test_a_ping_tells_what_is_wrong_with_the_clock(
    listeners: list[Listener], when: str, words: str
) -> None:
    listeners.append(Listener(when))
    ran = run("ping", listeners[0].peer, "--count", "2")
    assert ran.exit_code == 0, ran
    assert len(re.findall(rf"^\S+: {words} \(± \d+\.\d ms\)$", ran.stdout, re.MULTILINE)) == 1, ran


def test_a_ping_of_a_good_clock_says_nothing_of_it(listeners: list[Listener]) -> None:
    listeners.append(Listener(None))
    assert "clock" not in run("ping", listeners[0].peer).stdout


def late_by_the_peers_clock(listeners: list[Listener]) -> Ran:
    listeners.append(Listener("+2h"))
    ran = send(None, listeners[0].peer, "--deadline", "60", "--timeout", "5")
    assert ran.exit_code != 0, ran
    return ran


def test_a_refusal_by_the_peers_clock_alone_names_the_clock(listeners: list[Listener]) -> None:
    ran = late_by_the_peers_clock(listeners)
    assert re.search(r"the peer's clock is .* ahead .*of ours", " ".join(ran.stderr.split())), ran


def test_a_refusal_by_the_peers_clock_tells_how_far_that_is_ahead(
    listeners: list[Listener],
) -> None:
    ran = late_by_the_peers_clock(listeners)
    assert re.search(r"\b(7[12]\d\d(\.\d+)? s|2 h)\b.* ahead", " ".join(ran.stderr.split())), ran


def test_a_refusal_as_late_tells_how_late(listeners: list[Listener]) -> None:
    ran = late_by_the_peers_clock(listeners)
    assert re.search(r"\b(7[01]\d\d(\.\d+)? s|1 h 59 min)\b.* late", " ".join(ran.stderr.split()))
