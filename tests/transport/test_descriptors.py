"""Descriptors: limits that fit the process, and a listener that goes on when none is left."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Final

import pytest

from signedwire import Address, Identity, Node, TransportConfig
from signedwire.transport.descriptors import ConnectionLimits, fit, free_descriptors
from wirekit import LIMIT, identity, on_asyncio, within

DEFAULT: Final = TransportConfig()
SEED: Final = bytes(range(1, 33))
CHILD_DID: Final = Identity.from_seed(SEED).did

# A node in a process that may open `argv[1]` descriptors; with `argv[2]`, all but that many
# are taken by other code. It prints its port, then each message.
CHILD: Final = """
import asyncio, logging, os, resource, sys
from signedwire import Identity, Node
limit, left, loop_name = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
logging.basicConfig(level=logging.WARNING, format="%(name)s %(message)s")

async def main():
    async with Node(Identity.from_seed(bytes.fromhex(sys.argv[4]))) as node:
        if left:
            taken = []
            try:
                while True:
                    taken.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                for descriptor in taken[:left]:
                    os.close(descriptor)
        print(node.address.port, node.stats().inbound_limit, node.pool_stats().limit, flush=True)
        async for message in node.messages():
            print(message.payload.decode(), node.stats().inbound_connections, flush=True)
            message.ack()
            if message.payload == b"end":
                return

if loop_name == "uvloop":
    import uvloop
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
else:
    runner = asyncio.Runner()
with runner:
    runner.run(main())
"""


class TestFit:
    def test_what_fits_stays_as_it_is(self) -> None:
        assert fit(DEFAULT, 1234) == fit(DEFAULT, None) == ConnectionLimits(1000, 128, 10)

    def test_the_usual_ulimit(self) -> None:
        limits = fit(DEFAULT, 1024 - 20)
        assert limits == ConnectionLimits(770, 128, 10)
        assert sum(limits) == 1024 - 20 - 96

    @pytest.mark.parametrize("free", range(0, 2000, 7))
    @pytest.mark.parametrize("outbound", [1, 10, 65_535])
    def test_never_more_than_is_free(self, free: int, outbound: int) -> None:
        config = DEFAULT.replace(max_connections=outbound)
        limits = fit(config, free)
        assert min(limits) >= 1
        assert sum(limits) <= max(3, free)
        assert all(limit <= most for limit, most in zip(limits, fit(config, None), strict=True))

    def test_what_is_open_counts(self) -> None:
        before = free_descriptors()
        assert before is not None
        with socket.socket(), socket.socket():
            assert free_descriptors() == before - 2


@contextlib.asynccontextmanager
async def child(
    limit: int, left: int, loop: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, Address, int, int]]:
    """A node in a process of its own; its address and its two limits."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CHILD, str(limit), str(left), loop, SEED.hex()),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        words = (await within(6 * LIMIT, process.stdout.readline())).split()
        assert len(words) == 3, (await process.communicate())[1].decode()
        port, inbound, outbound = map(int, words)
        yield process, Address("127.0.0.1", port), inbound, outbound
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@contextlib.contextmanager
def silent_strangers(address: Address, count: int) -> Iterator[None]:
    """Connections that bring three bytes and no more."""
    socks: list[socket.socket] = []
    try:
        for _ in range(count):
            sock = socket.create_connection(address, timeout=LIMIT)
            socks.append(sock)
            with contextlib.suppress(OSError):
                sock.sendall(b"\x16\x03\x01")
        yield
    finally:
        for sock in socks:
            sock.close()


async def send_and_end(
    process: asyncio.subprocess.Process, address: Address
) -> tuple[int, list[str]]:
    """An honest peer sends. Returns the child's connections then, and what it wrote to stderr."""
    assert process.stdout is not None
    us = identity(999)
    async with Node(us, TransportConfig(listen=None)) as node:
        node.routing.update(CHILD_DID, address)
        receipt = await within(LIMIT, node.send(CHILD_DID, b"honest"))
        assert receipt.is_confirmed
        assert node.peers()[CHILD_DID].failed_attempts == 0
        word, connections = (await within(LIMIT, process.stdout.readline())).split()
        assert word == b"honest"
        await within(LIMIT, node.send(CHILD_DID, b"end"))
    _, errors = await within(6 * LIMIT, process.communicate())
    assert process.returncode == 0
    return int(connections), errors.decode().splitlines()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@on_asyncio
async def test_strangers_who_take_every_place_leave_descriptors(loop: str) -> None:
    async with child(128, 0, loop) as (process, address, inbound, outbound):
        assert 30 < inbound < 100
        assert outbound == 10
        async with contextlib.AsyncExitStack() as stack:
            for number in range(inbound + 5):
                config = TransportConfig(listen=None)
                node = await stack.enter_async_context(Node(identity(1000 + number), config))
                node.routing.update(CHILD_DID, address)
                await within(LIMIT, node.send(CHILD_DID, b"stranger"))
                assert process.stdout is not None
                await within(LIMIT, process.stdout.readline())
            with silent_strangers(address, 100):
                connections, errors = await send_and_end(process, address)
        assert connections < 100
        assert errors == []


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@on_asyncio
async def test_without_a_descriptor_the_oldest_unproven_connection_goes(loop: str) -> None:
    async with child(128, 5, loop) as (process, address, _, _):
        with silent_strangers(address, 100):
            connections, errors = await send_and_end(process, address)
        assert connections <= 5
        (line,) = errors
        assert line.startswith("signedwire.transport cannot accept connections: too many open")
