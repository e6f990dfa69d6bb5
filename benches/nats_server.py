"""A `nats-server` of our own: on a free port of loopback, its files in a folder of ours."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from importlib import metadata, util
from pathlib import Path
from typing import Final, Self

__all__ = ["CORE_WINDOW", "WINDOW", "NatsServer", "ServerGone", "what_is_missing"]

WINDOW: Final = 1000
"""Publishes that a sender has in flight; its rate rises no further with more."""
CORE_WINDOW: Final = 10_000
"""Messages that a sender without JetStream has in flight: far from what the server or the
subscriber would drop, and as many as one `send_many()` of ours."""

_START_TIMEOUT: Final = 10.0
_STOP_TIMEOUT: Final = 5.0
# A shell that ends it when we end, however that is: our end of the pipe closes then.
_GUARD: Final = '"$@" >/dev/null 2>"$0" & echo $!; read _; kill $!; wait $!'
_PATHS: Final = f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin{os.pathsep}/usr/local/sbin"


class ServerGone(Exception):
    """It did not start."""


def what_is_missing() -> str:
    """What there is to be installed before one can be started; empty: nothing."""
    if _program() is None:
        return "nats-server is not installed; your system's packages may have it"
    if shutil.which("sh") is None:
        return "there is no POSIX shell, which sees to it that the server ends"
    if util.find_spec("nats") is None:
        return "nats-py is not installed; pip install 'signedwire[bench]'"
    return ""


def _program() -> str | None:
    # It is a daemon, so a package may have it where only root looks.
    return shutil.which("nats-server", path=_PATHS)


class NatsServer:
    """With JetStream, which keeps its files in `folder`. Stopped when the context ends."""

    def __init__(self, folder: Path) -> None:
        program = _program()
        assert program is not None
        self._log = folder / "log"
        ports = folder / "ports"
        ports.mkdir()
        told = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
        client = metadata.version("nats-py")
        self.version = f"{told.stdout.rpartition('v')[2].strip()}, nats-py {client}"
        arguments = ["--addr", "127.0.0.1", "--port", "-1", "--ports_file_dir", str(ports)]
        arguments += ["--jetstream", "--store_dir", str(folder / "streams")]
        self._guard = subprocess.Popen(
            ["sh", "-c", _GUARD, str(self._log), program, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._guard.stdout is not None
        self.pid = int(self._guard.stdout.readline())
        """Its process."""
        try:
            self.url = self._wait_for_url(ports / f"nats-server_{self.pid}.ports")
        except BaseException:
            self.close()
            raise

    def _wait_for_url(self, ports: Path) -> str:
        end = time.monotonic() + _START_TIMEOUT
        while time.monotonic() < end:
            with contextlib.suppress(OSError, ValueError):
                url: str = json.loads(ports.read_text())["nats"][0]
                return url
            time.sleep(0.02)
        words = self._log.read_text("utf-8", "replace").strip()[-300:]
        raise ServerGone(f"nats-server did not start within {_START_TIMEOUT:g} s: {words}")

    def close(self) -> None:
        """Stop it. Idempotent."""
        assert self._guard.stdin is not None
        assert self._guard.stdout is not None
        self._guard.stdin.close()
        try:
            self._guard.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            # The guard has not waited for it yet, so the pid cannot name another process.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._guard.wait(_STOP_TIMEOUT)
        self._guard.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
