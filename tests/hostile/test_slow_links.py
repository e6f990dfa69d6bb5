"""A small share of the slow links, with limits of five times the target; and their proxy.

What is measured is printed with -s. `make slow-links` runs all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator
from typing import Final

import pytest

from hostile.child import Child, child
from hostile.hold_ups import overlap
from hostile.slow_links import ROWS, Limits, Measured, main, measure
from hostile.slow_proxy import HELD

FACTOR: Final = 5.0
RATE_FACTOR: Final = 2.0
SEED: Final = "tests"
SIOCOUTQ: Final = 0x5411
PIECE: Final = bytes(64 * 1024)


@pytest.mark.parametrize(
    ("name", "stops"),
    [("behind-low-1.0", 15), ("stored-receipt-behind-low-0.3", 8), ("both-ways-1.0", 0)],
)
async def test_an_emergency_stop_does_not_wait_behind_large_messages(name: str, stops: int) -> None:
    found = await measure(ROWS[name], stops=stops, seconds=3.0, seed=SEED)
    found.judge(found.row.limits.eased(FACTOR, RATE_FACTOR))
    sys.stderr.write(f"\n[measured] {found}\n")
    assert len(found.confirmed) >= stops
    assert not found.broken, found


class TestTheRows:
    def test_each_limit_can_break(self) -> None:
        row = Measured(
            row=ROWS["behind-low-1.0"],
            arrived=[0.2, 0.1],
            confirmed=[0.1, 0.3],
            low={"base": 0.89},
            telemetry=179,
        )
        limits = Limits(arrived=0.19, arrived_p99=0.18, confirmed=0.29, low=0.9, telemetry=180)
        row.judge(limits)
        assert row.broken == [
            "arrived > 190 ms",
            "arrived p99 > 180 ms",
            "confirmed > 290 ms",
            "low of base < 0.90",
            "telemetry < 180/s",
        ]
        row.broken = []
        row.judge(limits.eased(2, 2))
        assert not row.broken

    def test_a_stop_that_is_lost_breaks_a_row(self) -> None:
        row = Measured(row=ROWS["behind-low-1.0"], arrived=[0.01], confirmed=[0.01, 0.01])
        row.judge()
        assert row.broken == ["1 stops were lost"]

    def test_a_row_without_stops_does_not_hold(self) -> None:
        row = Measured(row=ROWS["behind-low-1.0"])
        row.judge()
        assert row.broken == ["no stop arrived"]

    def test_an_unknown_row_is_an_error(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--row", "nothing-like-it"]) == 2
        assert "behind-low-1.0" in capsys.readouterr().out

    def test_time_that_two_processes_were_held_up_counts_once(self) -> None:
        spans = [(4.0, 5.5), (0.5, 2.0), (1.0, 3.0), (1.5, 1.75)]
        assert overlap((1.0, 5.0), spans) == 3.0
        assert overlap((3.0, 4.0), spans) == 0.0


class TestTheProxy:
    @contextlib.asynccontextmanager
    async def pairs(
        self, rate: int, count: int
    ) -> AsyncIterator[tuple[Child, list[tuple[socket.socket, socket.socket]]]]:
        """Yield the proxy, and the two ends of each of its connections."""
        loop = asyncio.get_running_loop()
        async with contextlib.AsyncExitStack() as stack:
            server = stack.enter_context(socket.socket())
            server.bind(("127.0.0.1", 0))
            server.listen()
            server.setblocking(False)
            proxy = await stack.enter_async_context(
                child("slow_proxy", rate, f"127.0.0.1:{server.getsockname()[1]}")
            )
            host, _, port = (await proxy.answer())["address"].rpartition(":")
            made = []
            for _ in range(count):
                near = stack.enter_context(socket.socket())
                near.setblocking(False)
                await loop.sock_connect(near, (host, int(port)))
                far, _ = await loop.sock_accept(server)
                far.setblocking(False)
                made.append((near, stack.enter_context(far)))
            yield proxy, made

    @pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel what is not acknowledged")
    @pytest.mark.parametrize("is_down", [True, False])
    async def test_holds_no_more_than_it_says(self, is_down: bool) -> None:
        import fcntl

        async with self.pairs(rate=2_000, count=1) as (_, [(near, far)]):
            source, sink = (near, far) if is_down else (far, near)
            sent = taken = 0
            most = 0
            ends_at = time.monotonic() + 1.0
            while time.monotonic() < ends_at:
                with contextlib.suppress(BlockingIOError):
                    sent += source.send(PIECE)
                waiting = struct.unpack("i", fcntl.ioctl(source.fileno(), SIOCOUTQ, bytes(4)))[0]
                with contextlib.suppress(BlockingIOError):
                    taken += len(sink.recv(len(PIECE)))
                most = max(most, sent - waiting - taken)
                await asyncio.sleep(0.01)
        assert taken, "nothing passed"
        assert HELD / 4 < most <= HELD

    async def test_all_connections_share_its_rate(self) -> None:
        rate, seconds = 400_000, 1.5
        loop = asyncio.get_running_loop()
        taken = [0, 0, 0]

        async def give(source: socket.socket) -> None:
            while True:
                await loop.sock_sendall(source, PIECE)

        async def take(at: int, sink: socket.socket) -> None:
            while True:
                taken[at] += len(await loop.sock_recv(sink, len(PIECE)))

        # Two connections down, and one up, which has a bottleneck of its own.
        async with self.pairs(rate, count=2) as (proxy, [first, second]):
            ways = first, second, (first[1], first[0])
            work = [asyncio.create_task(give(source)) for source, _ in ways]
            work += [asyncio.create_task(take(at, sink)) for at, (_, sink) in enumerate(ways)]
            await proxy.ask("mark")
            await asyncio.sleep(seconds)
            found = await proxy.ask("found")
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
        assert found["down"] <= 1.01 * rate
        assert found["up"] <= 1.01 * rate
        assert found["down"] + found["up"] > rate, "the machine is too busy, or the proxy slow"
        assert min(taken[:2]) > 0.6 * max(taken[:2]), "one connection waits for the other"
