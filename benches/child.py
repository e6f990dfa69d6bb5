"""One benched peer in a process of its own.

    python -m benches.child LIMIT SYSTEM [STORE]

SYSTEM is a `System.kind`: "omnimesh", "v2-asyncio", "v2-uvloop-stored". Whatever the
system, it answers the same requests:

    open                      → {"did", "address"}
    route did address         from now on `did` is reached there
    send size seconds         send in a loop for so long → {"sent", "cpu"}
    receive                   count until `expect` is fulfilled
                              → {"received", "in_time", "seconds", "cpu"}
    expect count              the sender has stopped after so many; answered at once
    echo                      send messages back until one has only zeros
    ping size seconds         there and back, one at a time → {"times": [seconds, …]}
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from benches.children import Channel, Request
from benches.payload import COMMAND, v1_data_size
from signedwire import Did, Identity, Node, TransportConfig

__all__ = [
    "ANSWER_TIMEOUT",
    "MAX_PINGS",
    "CALLS_AT_A_TIME",
    "MESSAGES_AT_A_TIME",
    "Arrivals",
    "main",
    "run_in",
    "serve",
    "serve_blocking",
]

_QUIET: Final = 0.5
"""Seconds without an arrival after which what is missing counts as lost."""
ANSWER_TIMEOUT: Final = 1.0
MAX_PINGS: Final = 20_000
CALLS_AT_A_TIME: Final = 10
"""Calls of `send_many()` on v2 that run together: with one alone, the link runs dry each
time that it waits for its last receipts, which costs 5 to 15 %."""
MESSAGES_AT_A_TIME: Final = 1000
"""Payloads of one `send_many()` on v2."""


class Arrivals:
    """Counts messages, and knows when no more will come."""

    def __init__(self) -> None:
        self.count = 0
        self.expected: int | None = None
        self.first_at = self._last_at = time.perf_counter()
        self._last_count = 0
        self._cpu = time.process_time()
        # While the sender was sending: what comes later had both cores for itself.
        self.in_time = 0
        self.in_time_at = self.first_at

    def add(self) -> None:
        if not self.count:
            self.first_at = time.perf_counter()
        self.count += 1

    def expect(self, count: int, in_time: int | None = None) -> None:
        """The sender has stopped, and has sent so many.

        `in_time` of them count as having arrived meanwhile; by default all that have by now.
        """
        self.in_time = self.count if in_time is None else in_time
        self.in_time_at = time.perf_counter()
        self.expected = count

    def is_over(self) -> bool:
        """To be asked again and again: it notices the silence."""
        if self.count != self._last_count or self.expected is None:
            self._last_count, self._last_at = self.count, time.perf_counter()
        if self.expected is None:
            return False
        return self.count >= self.expected or time.perf_counter() - self._last_at > _QUIET

    def report(self) -> dict[str, float]:
        return {
            "cpu": time.process_time() - self._cpu,
            "received": self.count,
            "in_time": self.in_time,
            "seconds": self.in_time_at - self.first_at,
        }

    async def wait(self) -> None:
        """Until they are over."""
        while not self.is_over():  # noqa: ASYNC110 - the end is a silence, not an event
            await asyncio.sleep(0.01)

    async def end(self, counting: asyncio.Task[None]) -> dict[str, float]:
        """Let them be counted until they are over; the report."""
        await self.wait()
        counting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await counting
        return self.report()


# -- signedwire ---------------------------------------------------------------


class SignedwirePeer:
    """A `signedwire.Node` in one event loop; but for the wire it has its defaults.

    Args:
        is_done: Whether it says `done()` to each message.
    """

    def __init__(self, node: Node, *, is_done: bool) -> None:
        self._node = node
        self._is_done = is_done
        self._peer = node.did
        self._arrivals = Arrivals()

    async def open(self) -> dict[str, str]:
        return {"did": self._node.did.hex(), "address": str(self._node.address)}

    async def route(self, did: str, address: str) -> None:
        self._peer = Did.parse(did)
        self._node.routing.update(self._peer, address)

    async def send(self, size: int, seconds: float) -> dict[str, float]:
        node, peer, payload = self._node, self._peer, bytes(size)
        sent = 0
        cpu = time.process_time()
        end = time.perf_counter() + seconds
        if node.config.wire == "v1":
            while time.perf_counter() < end:
                await node.send(peer, payload, until="queued")
                sent += 1
        else:
            calls = (self._send_many(payload, end) for _ in range(CALLS_AT_A_TIME))
            sent = sum(await asyncio.gather(*calls))
        return {"sent": sent, "cpu": time.process_time() - cpu}

    async def _send_many(self, payload: bytes, end: float) -> int:
        """One call after the other; each message has its signed receipt then."""
        payloads, sent = [payload] * MESSAGES_AT_A_TIME, 0
        while time.perf_counter() < end:
            await self._node.send_many(self._peer, payloads, until="accepted")
            sent += len(payloads)
        return sent

    async def receive(self) -> dict[str, float]:
        self._arrivals = arrivals = Arrivals()
        return await arrivals.end(asyncio.create_task(self._count(arrivals)))

    async def _count(self, arrivals: Arrivals) -> None:
        is_done = self._is_done
        async for message in self._node.messages():
            len(message.payload)
            arrivals.add()
            if is_done:
                message.ack()

    async def expect(self, count: int) -> None:
        in_time = self._arrivals.count
        if self._node.config.store is not None:
            await self._node.outbox.flush()  # each of their done()
        self._arrivals.expect(count, in_time)

    async def echo(self) -> None:
        node, peer = self._node, self._peer
        while True:
            message = await node.receive()
            if not message.payload.strip(b"\0"):
                return
            await node.send(peer, message.payload, until="queued")

    async def ping(self, size: int, seconds: float) -> dict[str, list[float]]:
        node, peer, payload = self._node, self._peer, b"\1" + bytes(size - 1)
        times: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end and len(times) < MAX_PINGS:
            started_at = time.perf_counter()
            await node.send(peer, payload, until="queued")
            await node.receive(ANSWER_TIMEOUT)
            times.append(time.perf_counter() - started_at)
        await node.send(peer, bytes(size), until="written")
        return {"times": times}


async def _serve_signedwire(limit: float, wire: str, does: str, store: str | None) -> None:
    config = TransportConfig(wire="v1", v1_peers="all") if wire == "v1" else TransportConfig()
    async with Node(Identity.generate(), config, store=store) as node:
        await serve(limit, SignedwirePeer(node, is_done=bool(does)))


async def serve(limit: float, peer: object) -> None:
    """Let the parent ask for every coroutine of `peer`, until it is gone."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    async def handle(request: Request) -> None:
        try:
            request.answer(await getattr(peer, request.what)(**request.arguments))
        except Exception as error:  # noqa: BLE001 - the parent is told
            request.fail(error)

    def start(request: Request) -> None:
        task = loop.create_task(handle(request))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    Channel(limit, lambda request: loop.call_soon_threadsafe(start, request)).listen()
    await asyncio.Event().wait()


class BlockingPeer(Protocol):
    """A peer whose methods block."""

    def expect(self, count: int) -> None: ...


def serve_blocking(limit: float, make: Callable[[], BlockingPeer]) -> None:
    """Let the parent ask for every method of a peer that blocks, until it is gone.

    Args:
        make: Makes the peer, in the main thread, where it is called as well: all but
            `expect()`, which comes while `receive()` runs.
    """
    requests: queue.SimpleQueue[Request] = queue.SimpleQueue()
    peer: BlockingPeer | None = None

    def take(request: Request) -> None:
        if request.what == "expect" and peer is not None:
            peer.expect(**request.arguments)
            request.answer(None)
        else:
            requests.put(request)

    channel = Channel(limit, take)  # before the peer: what it imports may print
    channel.listen()
    try:
        peer = make()
    except Exception as error:  # noqa: BLE001 - the parent is told
        requests.get().fail(error)
        return
    while True:
        request = requests.get()
        handler: Callable[..., Any] = getattr(peer, request.what)
        try:
            request.answer(handler(**request.arguments))
        except Exception as error:  # noqa: BLE001 - the parent is told
            request.fail(error)


# -- omnimesh -----------------------------------------------------------------


class OmnimeshPeer:
    """`omnimesh.Client`, which blocks, and is therefore driven from the main thread."""

    def __init__(self) -> None:
        # Only here: the package exists for Linux on x86_64 alone, and prints as it starts.
        import omnimesh

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._client = omnimesh.Client(mode="production", listen_port=port)
        self._address = f"127.0.0.1:{port}"
        self._peer = ""
        self._arrivals = Arrivals()

    def open(self) -> dict[str, str]:
        return {"did": self._client.did, "address": self._address}

    def route(self, did: str, address: str) -> None:
        self._peer = did
        self._client.register_peer(did, address)

    def send(self, size: int, seconds: float) -> dict[str, float]:
        client, peer, data = self._client, self._peer, bytes(v1_data_size(size))
        sent = 0
        cpu = time.process_time()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            client.send_agent_command(peer, COMMAND, b"", data)
            sent += 1
        return {"sent": sent, "cpu": time.process_time() - cpu}

    def receive(self) -> dict[str, float]:
        client = self._client
        self._arrivals = arrivals = Arrivals()
        while not arrivals.is_over():
            message = client.receive(20)
            if message is not None:
                len(message["payload"])
                arrivals.add()
        return arrivals.report()

    def expect(self, count: int) -> None:
        """From the channel's thread, while `receive()` runs."""
        self._arrivals.expect(count)

    def echo(self) -> None:
        client, peer = self._client, self._peer
        while True:
            message = client.receive(1000)
            if message is None:
                continue
            data = bytes(message["payload"])
            if not data.strip(b"\0"):
                return
            client.send_agent_command(peer, COMMAND, b"", data)

    def ping(self, size: int, seconds: float) -> dict[str, list[float]]:
        client, peer, data = self._client, self._peer, b"\1" + bytes(v1_data_size(size) - 1)
        times: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end and len(times) < MAX_PINGS:
            started_at = time.perf_counter()
            client.send_agent_command(peer, COMMAND, b"", data)
            if client.receive(int(ANSWER_TIMEOUT * 1000)) is None:
                raise TimeoutError("a message did not come back")
            times.append(time.perf_counter() - started_at)
        client.send_agent_command(peer, COMMAND, b"", bytes(len(data)))
        return {"times": times}


def run_in(loop: str, main: Coroutine[Any, Any, None]) -> None:
    """Run it to its end in the loop of that name, "asyncio" or "uvloop"."""
    if loop == "uvloop":
        import uvloop

        uvloop.run(main)
    else:
        asyncio.run(main)


def main(limit: float, system: str, store: str | None = None) -> None:
    """Serve until the parent is gone."""
    if system == "omnimesh":
        serve_blocking(limit, OmnimeshPeer)
    else:
        wire, loop, does, *_ = [*system.split("-"), ""]
        run_in(loop, _serve_signedwire(limit, wire, does, store))


if __name__ == "__main__":
    main(float(sys.argv[1]), *sys.argv[2:])
