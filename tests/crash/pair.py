"""A sender and a receiver in processes of their own, which are killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import socket
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from .actor import WINDOW
from .ledger import Ledger
from .records import RECORD, Kind

__all__ = ["Actor", "Pair", "check_file", "free_port", "what_is_left"]

ROOT: Final = Path(__file__).resolve().parents[2]
_STALL: Final = 60.0
"""Seconds without a first delivery, with both running, that are a violation."""


def free_port() -> int:
    """One that no connection is given by chance while its owner is dead."""
    while True:
        port = random.randrange(12_000, 32_000)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


def check_file(path: Path) -> list[str]:
    """What is wrong with a store's file: SQLite's own check, and whether tables fit together.

    Looks at a copy, so that the node itself finds the file as the kill has left it.
    """
    if not path.exists():
        return []
    folder = path.parent / f"{path.name}.check"
    folder.mkdir(exist_ok=True)
    copy = folder / path.name
    for suffix in ("", "-wal"):
        source = path.with_name(path.name + suffix)
        if source.exists():
            shutil.copyfile(source, copy.with_name(copy.name + suffix))
    wrong: list[str] = []
    try:
        with contextlib.closing(sqlite3.connect(copy)) as connection:
            found = [row[0] for row in connection.execute("PRAGMA integrity_check")]
            if found != ["ok"]:
                return [f"integrity_check of {path.name}: {found}"]
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
                return []  # killed before there was anything
            counted = connection.execute(
                "SELECT id >> 40, count(*), sum(length(body)) FROM outgoing GROUP BY 1 ORDER BY 1"
            ).fetchall()
            kept = connection.execute(
                "SELECT id, rows, bytes FROM lane WHERE rows ORDER BY id"
            ).fetchall()
            if kept != counted:
                wrong.append(f"{path.name}: lanes say {kept}, there are {counted}")
            orphans = (
                "SELECT count(*) FROM incoming WHERE batch NOT IN (SELECT id FROM batch)",
                "SELECT count(*) FROM batch WHERE peer NOT IN (SELECT id FROM peer)",
            )
            wrong += [
                f"{path.name}: {each} is not 0"
                for each in orphans
                if connection.execute(each).fetchone() != (0,)
            ]
    except sqlite3.Error as error:
        wrong.append(f"{path.name}: {error}")
    finally:
        shutil.rmtree(folder)
    return wrong


def why_dead(path: Path) -> str:
    """Return the reasons of the dead letters in the file of a node, with their numbers."""
    rows = "SELECT reason, detail, count(*) FROM dead GROUP BY reason, detail"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return "; ".join(f"{n} × {why} ({more})" for why, more, n in connection.execute(rows))


def what_is_left(path: Path) -> list[str]:
    """Rows in the file of a node at rest, where there ought to be none."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        counts = {
            table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("outgoing", "incoming", "dead")
        }
    return [f"{path.name}: {n} rows are left in {name}" for name, n in counts.items() if n]


class Actor:
    """One of the two: its file, and the process of today."""

    def __init__(
        self, role: str, folder: Path, ledger: Ledger, module: str = "crash.actor"
    ) -> None:
        self.role = role
        self.module = module
        self.prefix: tuple[str, ...] = ()
        """What the process is started by: a tracer that gives it its own id, say."""
        self.path = folder / f"{role}.db"
        self.errors = folder / f"{role}.log"
        self.port = free_port() if role == "receiver" else 0
        self.words: list[str] = []
        self.is_ready = asyncio.Event()
        self.quiet: asyncio.Future[int] | None = None
        self.memory: asyncio.Future[int] | None = None
        self.in_use_kib = 0
        """What the allocators had given out when `resident_kib()` was last called."""
        self._ledger = ledger
        self._process: asyncio.subprocess.Process | None = None
        self._listening: asyncio.Task[None] | None = None

    async def start(self, seed: int, *rest: int) -> None:
        paths = (str(ROOT / "src"), str(ROOT / "tests"))
        self.is_ready.clear()
        self.quiet = asyncio.get_running_loop().create_future()
        with self.errors.open("ab") as errors:
            self._process = await asyncio.create_subprocess_exec(
                *(*self.prefix, sys.executable, "-m", self.module),
                *(self.role, str(self.path), str(seed)),
                *map(str, (self.port, *rest)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            )
        assert self._process.stdout is not None
        self._listening = asyncio.create_task(self._listen(self._process.stdout))

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def _listen(self, stream: asyncio.StreamReader) -> None:
        left = b""
        hear = self._ledger.hear
        while data := await stream.read(1 << 16):
            data = left + data
            whole = len(data) - len(data) % RECORD.size
            left = data[whole:]
            for code, lane, detail, number in RECORD.iter_unpack(data[:whole]):
                kind = Kind(code)
                hear(kind, lane, detail, number)
                if kind is Kind.READY:
                    self.is_ready.set()
                elif kind is Kind.QUIET and self.quiet is not None:
                    self.quiet.set_result(number)
                elif kind is Kind.IN_USE:
                    self.in_use_kib = number
                elif kind is Kind.MEMORY and self.memory is not None:
                    self.memory.set_result(number)

    def tell(self, word: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n".encode())

    async def resident_kib(self) -> int:
        self.memory = asyncio.get_running_loop().create_future()
        self.tell("memory")
        return await asyncio.wait_for(self.memory, 20)

    async def kill(self) -> None:
        """SIGKILL; returns when all that it has said was heard."""
        assert self._process is not None
        assert self._listening is not None
        if self._process.returncode is not None:
            self._ledger.violate(f"the {self.role} has ended by itself: {self.last_words()}")
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await self._listening
        for wrong in await asyncio.to_thread(check_file, self.path):
            self._ledger.violate(wrong)

    async def end(self) -> None:
        assert self._process is not None
        assert self._listening is not None
        self.tell("end")
        try:
            code = await asyncio.wait_for(self._process.wait(), 20)
        except TimeoutError:
            self._ledger.violate(f"the {self.role} does not end")
            await self.kill()
            return
        await self._listening
        if code:
            self._ledger.violate(f"the {self.role} ended with {code}: {self.last_words()}")

    async def code(self) -> int:
        """Of its exit, when all that it has said was heard."""
        assert self._process is not None
        assert self._listening is not None
        code = await self._process.wait()
        await self._listening
        return code

    async def abort(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        if self._listening is not None:
            await self._listening

    def last_words(self) -> str:
        """The end of what it wrote to stderr."""
        return self.errors.read_text("utf-8", "replace")[-3000:]


class Pair:
    """Both, and the ledger that they speak to."""

    def __init__(self, folder: Path, seed: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.rng = random.Random(seed)
        self.ledger = Ledger()
        self.sender = Actor("sender", folder, self.ledger)
        self.receiver = Actor("receiver", folder, self.ledger)
        self.kills = 0
        self._first = 0
        self.via: int | None = None
        """The port that the sender dials; `None`: the receiver's own."""
        self.pace = 0
        """Messages a second and lane; 0: as many as the window lets."""

    async def start(self, *actors: Actor) -> None:
        for actor in actors:
            seed = self.rng.randrange(2**32)
            if actor is self.sender:
                # Beyond whatever the last one may have sent and not been able to say.
                self._first = max(self._first, self.ledger.highest) + 8 * WINDOW
                await actor.start(seed, self._first, self.via or self.receiver.port, self.pace)
            else:
                await actor.start(seed, 0)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Both run; at the end none does."""
        try:
            await self.start(self.receiver, self.sender)
            yield
        finally:
            await self.sender.abort()
            await self.receiver.abort()

    async def progress(self, messages: int) -> bool:
        """Wait for so many more first deliveries; `False`: they stand still."""
        ledger = self.ledger
        goal, seen, at = ledger.first_deliveries + messages, -1, time.monotonic()
        while ledger.first_deliveries < goal:
            if ledger.first_deliveries != seen:
                seen, at = ledger.first_deliveries, time.monotonic()
            for actor in (self.sender, self.receiver):
                if not actor.is_running:
                    ledger.violate(f"the {actor.role} has ended by itself: {actor.last_words()}")
                    return False
            if time.monotonic() - at > _STALL:
                ledger.violate(f"no first delivery within {_STALL:.0f} s")
                return False
            await asyncio.sleep(0.002)
        return True

    async def kill(self) -> None:
        """One kill, of the sender, the receiver or both, and what was killed starts again."""
        rng = self.rng
        both = (self.sender, self.receiver)
        victims = rng.choice([both[:1], both[:1], both[1:], both[1:], both])
        await asyncio.gather(*(victim.kill() for victim in victims))
        self.kills += 1
        if self.receiver in victims:
            self.ledger.receiver_restarts()
        if len(victims) == 1 and rng.random() < 0.1:
            await asyncio.sleep(rng.random())  # the other side is alone for a while
        await self.start(*rng.sample(victims, len(victims)))

    @property
    def is_running(self) -> bool:
        """Whether both do."""
        return self.sender.is_running and self.receiver.is_running

    async def _said_quiet(self, actor: Actor) -> None:
        assert actor.quiet is not None
        while self.is_running and not actor.quiet.done():
            await asyncio.sleep(0.01)
        if actor.quiet.done() and (dead := actor.quiet.result()):
            reasons = why_dead(actor.path)
            self.ledger.violate(f"the {actor.role} has {dead} dead letters: {reasons}")

    async def settle(self, seconds: float = 60.0) -> None:
        """Let both come to rest, end them, and hold them to their word."""
        ledger = self.ledger
        try:
            async with asyncio.timeout(seconds):
                for actor in (self.sender, self.receiver):
                    await actor.is_ready.wait()
                self.sender.tell("stop")
                await self._said_quiet(self.sender)
                self.receiver.tell("stop")
                await self._said_quiet(self.receiver)
                while self.is_running and ledger.missing():
                    await asyncio.sleep(0.05)
                await self.sender.end()
                await self.receiver.end()
        except TimeoutError:
            ledger.violate(f"no rest within {seconds:.0f} s; {len(ledger.missing())} missing")
        missing = ledger.missing()
        for number in missing[:10]:
            ledger.violate(f"lost: {ledger.describe(number)}")
        for actor in (self.sender, self.receiver):
            for wrong in [*check_file(actor.path), *what_is_left(actor.path)]:
                ledger.violate(wrong)
            if words := actor.last_words():
                ledger.violate(f"the {actor.role} wrote: {words}")
