"""Helpers for the tests of the command line: runs in this process, and real processes."""

from __future__ import annotations

import json as jsonlib
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any, Final, Self

import pytest
from typer.testing import CliRunner

from signedwire import Identity, TransportConfig
from signedwire.cli.app import app
from signedwire.keysources import default_key_path
from signedwire.sync import Node

__all__ = [
    "LIMIT",
    "Process",
    "Ran",
    "expect_one_sentence",
    "isolate",
    "listener",
    "run",
    "run_python",
    "start_listening",
]

LIMIT: Final = 15.0
"""Seconds after which a test gives up waiting; nothing waits that long when all is well."""


def isolate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, no variable and no log handler of ours; returns the key file."""
    # One of an earlier run with -v writes to a stderr that is closed.
    monkeypatch.setattr(logging.getLogger("signedwire"), "handlers", [])
    for name in tuple(os.environ):
        if name.startswith("SIGNEDWIRE_"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return default_key_path()


class Ran:
    """The outcome of one run of the command line."""

    def __init__(self, exit_code: int, stdout: str, stderr: str) -> None:
        self.exit_code = exit_code
        self.stdout = stdout
        self.stderr = stderr

    @property
    def objects(self) -> list[dict[str, Any]]:
        """stdout as JSON lines."""
        return [jsonlib.loads(line) for line in self.stdout.splitlines()]

    def __repr__(self) -> str:
        return f"<{self.exit_code}\n--- stdout\n{self.stdout}--- stderr\n{self.stderr}>"


def run(*args: str | os.PathLike[str], given: str | None = None) -> Ran:
    """Run the command line in this process."""
    result = CliRunner().invoke(
        app, [os.fspath(arg) for arg in args], input=given, prog_name="signedwire"
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(result.exit_code, result.stdout, result.stderr)


def expect_one_sentence(ran: Ran, exit_code: int, *parts: str) -> None:
    """Assert the exit code, an empty stdout, and one line on stderr that has all `parts`."""
    assert ran.exit_code == exit_code, ran
    assert ran.stdout == "", ran
    assert ran.stderr.count("\n") == 1, ran
    assert ran.stderr.startswith("signedwire: "), ran
    for part in parts:
        assert part in ran.stderr, ran


def listener(identity: Identity | None = None, **options: Any) -> Node:
    """A node in this process that takes what is sent to it; a context manager."""
    config = TransportConfig(listen="127.0.0.1:0", **options)
    return Node(identity or Identity.generate(), config)


class Process:
    """`signedwire` as a process of its own; a context manager, which ends it."""

    def __init__(self, *args: str, stdout: int | IO[bytes] = subprocess.PIPE) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "signedwire.cli", *args],
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        self.stdin = self._process.stdin
        self._readers: dict[str, threading.Thread] = {}
        self._lines: dict[str, queue.SimpleQueue[str | None]] = {}
        for name in ("stdout", "stderr"):
            stream = getattr(self._process, name)
            if stream is not None:
                self._lines[name] = queue.SimpleQueue()
                reader = threading.Thread(target=self._read, args=(name, stream), daemon=True)
                self._readers[name] = reader
                reader.start()

    def _read(self, name: str, stream: IO[bytes]) -> None:
        for line in stream:
            self._lines[name].put(line.decode().rstrip("\n"))
        self._lines[name].put(None)

    def line(self, stream: str = "stdout") -> str:
        """The next line, waiting for it."""
        line = self._lines[stream].get(timeout=LIMIT)
        assert line is not None, f"{stream} ended; stderr: {self.rest('stderr')}"
        return line

    def json(self) -> dict[str, Any]:
        """The next line of stdout as JSON."""
        value: dict[str, Any] = jsonlib.loads(self.line())
        return value

    def rest(self, stream: str) -> list[str]:
        """All further lines to the end of the stream."""
        lines = []
        while stream in self._lines:
            line = self._lines[stream].get(timeout=LIMIT)
            if line is None:
                self._lines[stream].put(None)
                break
            lines.append(line)
        return lines

    def write(self, data: bytes) -> None:
        """Write to its standard input, at once."""
        self.stdin.write(data)
        self.stdin.flush()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    def interrupt(self) -> None:
        """Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def send(self, number: signal.Signals) -> None:
        """Any signal."""
        self._process.send_signal(number)

    def terminate(self) -> None:
        """SIGTERM."""
        self._process.terminate()

    def signal(self, number: int) -> None:
        """Any other signal."""
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait for the end of the process, and return its exit code."""
        return self._process.wait(LIMIT)

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(LIMIT)
        for reader in self._readers.values():
            reader.join(LIMIT)
        self.stdin.close()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()


def start_listening(*args: str) -> tuple[Process, str]:
    """A `signedwire listen` that listens already, and its DID@host:port."""
    process = Process("listen", *args)
    try:
        while True:
            words = process.line("stderr").split()
            if words[:2] == ["signedwire", "send"]:
                return process, words[2]
    except BaseException:
        process.__exit__()
        raise


def run_python(code: str) -> Ran:
    """A Python process of its own that runs `code`."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    return Ran(done.returncode, done.stdout, done.stderr)
