"""Child processes that the demo and the bench start, ask, and are sure to end.

A child is `python -m MODULE …`. Parent and child speak JSON lines over the child's
stdin and stdout: `{"id", "ask", …arguments}` down, `{"id", "answer"}` or
`{"id", "error"}` up, and `{"news", …}` up whenever the child likes.

No child outlives its parent: it ends when its stdin does, and, should even that go
unnoticed because a library holds the interpreter, when its time limit passes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import IO, Any, Final, Self

__all__ = ["Channel", "Child", "ChildGone", "Request", "environment"]

_KILL_TIMEOUT: Final = 5.0
_LAST_WORDS: Final = 400


class ChildGone(Exception):
    """The child ended, did not answer in time, or answered with an error."""


class Child:
    """A Python process of ours. As a context manager it is killed on exit.

    Args:
        name: What messages call it.
        module: Run as `python -m module`.
        limit: Seconds after which the child ends by itself, whatever happened.
        on_news: Called with each piece of news, in a thread of its own.
    """

    def __init__(
        self,
        name: str,
        module: str,
        *arguments: str,
        limit: float,
        on_news: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.name = name
        self._on_news = on_news
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[Any]] = {}
        self._next_id = 0
        self._is_gone = False
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, str(limit), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            # Where this package was imported from is where the child finds it, installed or not.
            env=environment(),
        )
        self._reader = threading.Thread(target=self._read, name=f"read {name}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def begin(self, what: str, /, **arguments: object) -> Future[Any]:
        """Ask and do not wait; the answer comes into the future."""
        answer: Future[Any] = Future()
        with self._lock:
            if self._is_gone:
                raise ChildGone(f"{self.name} is not running: {self._last_words()}")
            self._next_id += 1
            number = self._next_id
            self._waiting[number] = answer
            line = json.dumps({"id": number, "ask": what, **arguments})
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(line.encode() + b"\n")
                self._process.stdin.flush()
            except (OSError, ValueError) as error:
                raise ChildGone(f"{self.name} does not listen: {error}") from None
        return answer

    def ask(self, what: str, /, *, timeout: float = 5.0, **arguments: object) -> Any:
        """Ask and wait for the answer.

        Raises:
            ChildGone: it ended, did not answer in `timeout` seconds, or answered with an error.
        """
        return self.result(self.begin(what, **arguments), what, timeout)

    def result(self, answer: Future[Any], what: str, timeout: float) -> Any:
        """The answer to an earlier `begin()`; raises what `ask()` does."""
        try:
            return answer.result(timeout)
        except FutureTimeout:
            raise ChildGone(f"{self.name} did not answer {what!r} within {timeout:.1f} s") from None

    def begin_kill(self) -> None:
        """End it with SIGKILL, as a crash would, and do not wait. Idempotent."""
        # Ours and not waited for yet, so the pid cannot name another process.
        self._process.kill()

    def kill(self) -> None:
        """End it with SIGKILL; what it has said is heard when this returns. Idempotent."""
        self.begin_kill()
        self._process.wait(_KILL_TIMEOUT)
        self._reader.join(_KILL_TIMEOUT)

    def close(self) -> None:
        """Kill it and free what it used. Idempotent."""
        self.kill()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            try:
                stream.close()
            except OSError:
                continue  # what was still to be flushed has no reader
        self._stderr.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            if "news" in said:
                if self._on_news is not None:
                    self._on_news(said)
                continue
            answer = self._waiting.pop(said["id"], None)
            if answer is None:
                continue
            if "error" in said:
                answer.set_exception(ChildGone(f"{self.name}: {said['error']}"))
            else:
                answer.set_result(said["answer"])
        with self._lock:
            self._is_gone = True
            waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            answer.set_exception(ChildGone(f"{self.name} ended: {self._last_words()}"))

    def _last_words(self) -> str:
        if self._stderr.closed:
            return "it was closed"
        self._stderr.seek(0)
        words = self._stderr.read().decode(errors="replace").strip()
        return words[-_LAST_WORDS:] or "it said nothing"


def environment() -> Mapping[str, str]:
    """Ours, in which another Python imports from where this one does."""
    paths = [path for path in sys.path if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


class Request:
    """A question of the parent, in the child."""

    def __init__(self, channel: Channel, said: dict[str, Any]) -> None:
        self._channel = channel
        self._id = said.pop("id")
        self.what: str = said.pop("ask")
        self.arguments = said

    def answer(self, value: object) -> None:
        """Answer it. JSON values only."""
        self._channel.say({"id": self._id, "answer": value})

    def fail(self, error: BaseException) -> None:
        """Answer with an error."""
        self._channel.say({"id": self._id, "error": f"{type(error).__name__}: {error}"})


class Channel:
    """The child's end. Make it first, before anything can print: it takes stdout away.

    Args:
        limit: Seconds after which this process ends, whatever it is doing.
        on_request: Called with each request in a thread of the channel's own.
    """

    def __init__(self, limit: float, on_request: Callable[[Request], object]) -> None:
        _end_after(limit)
        # Libraries may print; only the channel writes to the parent.
        self._out = os.fdopen(os.dup(1), "wb", buffering=0)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
        self._lock = threading.Lock()
        self._on_request = on_request

    def listen(self) -> None:
        """Read requests from now on; the process ends when the parent closes the channel."""
        threading.Thread(target=self._read, name="channel", daemon=True).start()

    def say(self, said: Mapping[str, object]) -> None:
        """Write one line. Any thread."""
        line = json.dumps(said).encode() + b"\n"
        with self._lock:
            try:
                self._out.write(line)
            except OSError:
                os._exit(0)  # nobody is left to answer to

    def news(self, kind: str, /, **facts: object) -> None:
        """Tell something that was not asked for."""
        self.say({"news": kind, **facts})

    def _read(self) -> None:
        try:
            for line in sys.stdin.buffer:
                self._on_request(Request(self, json.loads(line)))
        finally:
            # Not sys.exit(): the threads of a library may never end.
            os._exit(0)


def _end_after(seconds: float) -> None:
    if hasattr(signal, "setitimer"):
        # The default action: the kernel ends the process, whoever holds the interpreter.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)
    else:
        timer = threading.Timer(seconds, os._exit, (3,))
        timer.daemon = True
        timer.start()
