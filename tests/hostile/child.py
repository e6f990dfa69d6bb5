"""Processes of the bench: each obeys one word a line on stdin and answers in JSON.

A child ends when its stdin ends, when its parent has died, or after `LIFETIME` seconds,
also while its event loop stands still.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, Final

try:
    import uvloop
except ImportError:
    uvloop = None  # type: ignore[assignment]

__all__ = ["LIFETIME", "Child", "ChildError", "child", "commands", "main", "say"]

ROOT: Final = Path(__file__).resolve().parents[2]
LIFETIME: Final = 300.0
"""Seconds after which a child ends, whatever it does."""
_MAX_ANSWER: Final = 4 * 1024 * 1024

LOOPS: Final[dict[str, Callable[[], asyncio.AbstractEventLoop]]] = {
    "asyncio": asyncio.new_event_loop,
}
if uvloop is not None:
    LOOPS["uvloop"] = uvloop.new_event_loop


# -- the parent's side -----------------------------------------------------------


class ChildError(Exception):
    """A child ended or did not answer in time."""


class Child:
    """A process of the bench, as its parent sees it."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self._process = process

    async def ask(self, *words: object, timeout: float = 30.0) -> dict[str, Any]:
        """Send one line; return the answer.

        Raises:
            ChildError: the child has ended, or did not answer within `timeout` seconds.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write((" ".join(map(str, words)) + "\n").encode())
        return await self.answer(timeout)

    async def answer(self, timeout: float = 30.0) -> dict[str, Any]:
        """The next line that the child writes."""
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), timeout)
        except TimeoutError:
            raise ChildError(f"the {self.name} did not answer within {timeout:g} s") from None
        if not line:
            raise ChildError(f"the {self.name} ended")
        found: dict[str, Any] = json.loads(line)
        return found

    async def end(self) -> None:
        """Close its stdin; kill it where it does not end within 2 s."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), 2)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


@contextlib.asynccontextmanager
async def child(module: str, *words: object) -> AsyncIterator[Child]:
    """Start `python -m hostile.MODULE WORDS`; end it afterwards."""
    paths = os.pathsep.join((str(ROOT / "src"), str(ROOT / "tests")))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"hostile.{module}", *map(str, words)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        limit=_MAX_ANSWER,
        env=os.environ | {"PYTHONPATH": paths},
    )
    made = Child(module, process)
    try:
        yield made
    finally:
        await made.end()


# -- the child's side --------------------------------------------------------------


def main(
    run: Coroutine[Any, Any, None],
    loop: str | Callable[[], asyncio.AbstractEventLoop] = "asyncio",
) -> None:
    """Run a child on the event loop of a name, or of a function, until its stdin ends."""
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()
    factory = LOOPS[loop] if isinstance(loop, str) else loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run)


def _watch(parent: int) -> None:
    ends_at = time.monotonic() + LIFETIME
    while os.getppid() == parent and time.monotonic() < ends_at:
        time.sleep(0.5)
    os._exit(3)


async def commands() -> AsyncIterator[list[str]]:
    """The words of each line on stdin, until it ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        yield line.decode().split()


def say(**facts: object) -> None:
    """Write one line for the parent."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()
