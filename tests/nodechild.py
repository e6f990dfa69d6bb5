"""A node in a process of its own, for tests that measure memory or cut its network.

    python -m nodechild MODE SEED HOST [OPTION=VALUE …]

It prints its address, then obeys one word a line on stdin: "rss" prints its resident
memory in KiB, "start" lets a stalled one begin to read, the end of stdin ends it.
Modes: "reads" takes every message at once, "stalled" none until "start".
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from signedwire import Address, Identity, Node, TransportConfig
from signedwire.config import OPTIONS

ROOT = Path(__file__).resolve().parents[1]


def rss_kib(pid: int | None = None) -> int:
    with open(f"/proc/{pid or 'self'}/status", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
    raise AssertionError("no VmRSS")


class _Mallinfo2(ctypes.Structure):
    """What glibc says of its heaps, in bytes; see mallinfo(3)."""

    _fields_ = [  # ctypes wants a list
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def in_use_kib() -> int:
    """The memory in use: what the allocators have given out; resident, where they do not tell.

    The first is exact. Resident memory is not: an arena of Python's allocator, 1 MiB, stays
    when one object of it lives.
    """
    allocated = allocated_kib()
    return rss_kib() if allocated is None else allocated


def allocated_kib() -> int | None:
    """The memory that the allocators of Python and of C have given out; `None`: no report."""
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except (AttributeError, TypeError):  # not glibc 2.33 or newer; not POSIX
        return None
    mallinfo2.restype = _Mallinfo2
    of_c = mallinfo2()
    of_python = re.search(r"# bytes in allocated blocks += +([\d,]+)", _allocator_report())
    if of_python is None:
        return None
    python_bytes = int(of_python[1].replace(",", ""))
    return int(of_c.uordblks + of_c.hblkhd + python_bytes) // 1024


def _allocator_report() -> str:
    """What CPython reports of its allocator; it writes that to stderr alone."""
    with tempfile.TemporaryFile() as file:
        stderr = os.dup(2)
        try:
            os.dup2(file.fileno(), 2)
            sys._debugmallocstats()
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        file.seek(0)
        return file.read().decode()


class Child:
    """The other end of such a process."""

    def __init__(self, process: asyncio.subprocess.Process, address: Address) -> None:
        self.process = process
        self.address = address

    async def ask(self, word: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{word}\n".encode())
        return (await asyncio.wait_for(self.process.stdout.readline(), 10)).decode().strip()

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n".encode())


@contextlib.asynccontextmanager
async def child(
    mode: str, seed: int, host: str = "127.0.0.1", prefix: tuple[str, ...] = (), **options: Any
) -> AsyncIterator[Child]:
    """Start one, and end it."""
    words = [f"{name}={value}" for name, value in options.items()]
    process = await asyncio.create_subprocess_exec(
        *(*prefix, sys.executable, "-m", "nodechild", mode, str(seed), host, *words),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT / "tests")))},
    )
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 20)
        yield Child(process, Address.parse(line.decode().strip()))
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 5)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _main(mode: str, seed: str, host: str, *options: str) -> None:
    loop = asyncio.get_running_loop()
    changes = {}
    for name, _, text in (each.partition("=") for each in options):
        changes[name] = OPTIONS[name].read_text(text)
    config = TransportConfig(listen=Address(host, 0), **changes)  # type: ignore[arg-type]
    may_read = asyncio.Event()
    if mode == "reads":
        may_read.set()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with Node(Identity.from_seed(int(seed).to_bytes(32, "big")), config) as node:
        sys.stdout.write(f"{node.address}\n")
        sys.stdout.flush()

        async def read() -> None:
            await may_read.wait()
            async for _ in node.messages():
                pass

        task = asyncio.create_task(read())
        while line := await reader.readline():
            word = line.decode().strip()
            if word == "rss":
                sys.stdout.write(f"{rss_kib()}\n")
            elif word == "count":
                sys.stdout.write(f"{node.stats().messages_received}\n")
            elif word == "start":
                may_read.set()
            sys.stdout.flush()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
