"""That no receipt is sent before the sync of its commit, as the kernel sees it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import IO

import pytest

from signedwire import Address, Node

from .actor import RECEIVER, SENDER
from .faults import why_no_strace
from .pair import ROOT
from .tracing import TRACED, Order

pytestmark = [
    pytest.mark.skipif(bool(why_no_strace()), reason=why_no_strace() or "-"),
    pytest.mark.timeout(180),
]
RECEIPTS = 10_000


async def start(
    folder: Path, log: Path, stderr: IO[bytes], count: int, *options: str
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *("strace", "-f", "-D", "--seccomp-bpf", "-qq", "-y", "-s", "32", "-o", str(log)),
        *("-e", f"trace={TRACED}", "-e", "signal=none"),
        *(sys.executable, "-m", "crash.traced", str(folder / "receiver.db"), str(count), *options),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT / "tests")))},
    )


async def trace(folder: Path, count: int, *options: str) -> Order:
    """Send messages, a few at a time, to a receiver under strace."""
    log, errors = folder / "trace", folder / "errors"
    with errors.open("wb") as stderr:
        process = await start(folder, log, stderr, count, *options)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 30)
        async with asyncio.timeout(150), Node(SENDER) as sender:
            sender.routing.update(RECEIVER.did, Address.parse(line.decode().strip()))
            numbers = iter(range(count))

            async def work() -> None:
                for number in numbers:
                    await sender.send(RECEIVER.did, b"%d" % number)

            # So many at once that commits hold few and are many.
            await asyncio.gather(*(work() for _ in range(8)))
        process.stdin.write(b"\n")
        assert await asyncio.wait_for(process.wait(), 20) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert errors.read_text() == ""
    with log.open(encoding="utf-8", errors="replace") as lines:
        return Order().read(lines)


async def test_every_receipt_follows_the_sync_of_its_commit(tmp_path: Path) -> None:
    order = await trace(tmp_path, RECEIPTS)
    assert order.violations == []
    assert order.receipts >= RECEIPTS
    assert order.syncs > RECEIPTS / 100
    assert order.sends > RECEIPTS / 100
    sys.stdout.write(f"{order.receipts} receipts, {order.syncs} syncs, {order.sends} sends\n")


async def test_a_receiver_that_does_not_wait_is_found_out(tmp_path: Path) -> None:
    order = await trace(tmp_path, 200, "early")
    assert order.violations
    assert order.receipts >= 200


def test_an_order_that_is_made_up() -> None:
    wal = "/x/node.db-wal"
    commit = [
        '2 write(9</dev/null>, "stored 0a\\n", 10) = 10',
        f'2 pwrite64(5<{wal}>, "\\0"..., 4096, 0) = 4096',
        f"2 fdatasync(5<{wal}> <unfinished ...>",
        "2 <... fdatasync resumed>) = 0",
    ]
    signed = ['1 write(9</dev/null>, "signed 0a\\n", 10) = 10', '1 sendto(7<TCP:[1]>, "", 9) = 9']
    good = Order().read(commit + signed)
    assert (good.violations, good.receipts, good.syncs, good.sends) == ([], 1, 1, 1)
    for early in range(len(commit)):
        assert Order().read(commit[:early] + signed + commit[early:]).violations
    failed = [*commit[:3], "2 <... fdatasync resumed>) = -1 EIO (Input/output error)"]
    assert Order().read(failed + signed).violations
    assert Order().read([commit[1], *commit[2:], commit[0], *signed]).violations
