"""An emergency stop behind large messages, on a slow link with little room in between.

    python -m hostile.estop receiver LOOP
    python -m hostile.estop proxy RATE ADDRESS
    python -m hostile.estop sender LOOP ADDRESS

The sender keeps `_WINDOW` Low messages of 200 KB on their way. At random instants it
sends a Critical one, and the times are taken until the receiver's application has it and
until its receipt is back. Both processes read the same monotonic clock of this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Final

from signedwire import Address, Identity, Node, Priority, TransportConfig

from .bench import percentile
from .child import child, commands, main, say
from .victim import VICTIM

__all__ = ["RATES", "Stops", "measure_stops"]

RATES: Final = {"estop-1.0MB/s": 1_000_000, "estop-0.3MB/s": 300_000}
"""Bytes a second that the proxy carries each way."""
_LIMIT: Final = 0.400
"""Seconds for the slowest stop at 1 MB/s."""
_PAYLOAD: Final = 200_000
_WINDOW: Final = 20
_BUFFER: Final = 8 * 1024
"""For each socket of the proxy; Linux doubles it."""
_CHUNK: Final = 4 * 1024
_PATIENCE: Final = 250.0
_MOST_SECONDS: Final = 200.0


# -- the proxy ------------------------------------------------------------------------


def small(sock: socket.socket) -> socket.socket:
    """Give a socket small buffers; before it connects or listens, or its window is large."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setblocking(False)
    return sock


async def pump(source: socket.socket, sink: socket.socket, rate: int) -> None:
    """Carry bytes at `rate`, one chunk at a time."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    while data := await loop.sock_recv(source, _CHUNK):
        await loop.sock_sendall(sink, data)
        due = max(due, loop.time() - _CHUNK / rate) + len(data) / rate
        await asyncio.sleep(max(0.0, due - loop.time()))


async def carry(near: socket.socket, to: Address, rate: int) -> None:
    """One connection, until either side ends it."""
    with near, small(socket.socket()) as far, contextlib.suppress(OSError):
        await asyncio.get_running_loop().sock_connect(far, tuple(to))
        ways = [
            asyncio.create_task(pump(near, far, rate)),
            asyncio.create_task(pump(far, near, rate)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def accept(server: socket.socket, to: Address, rate: int) -> None:
    async with asyncio.TaskGroup() as tasks:
        while True:
            near, _ = await asyncio.get_running_loop().sock_accept(server)
            near.setblocking(False)
            tasks.create_task(carry(near, to, rate))


async def proxy(rate: str, address: str) -> None:
    with small(socket.socket()) as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        say(address=f"127.0.0.1:{server.getsockname()[1]}")
        work = asyncio.create_task(accept(server, Address.parse(address), int(rate)))
        async for _ in commands():
            pass
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


# -- the two nodes ------------------------------------------------------------------------


async def receiver() -> None:
    """Answers "times" with the seconds from send to application of each Critical message."""
    times: list[float] = []
    low = [0]

    async def take(node: Node) -> None:
        async for message in node.messages():
            if message.priority is Priority.CRITICAL:
                times.append(time.monotonic() - float(message.payload))
            else:
                low[0] += len(message.payload)
            message.ack()

    async with Node(VICTIM) as node:
        work = asyncio.create_task(take(node))
        say(address=str(node.address))
        async for _ in commands():
            say(times=times, low=low[0])
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def saturate(node: Node) -> None:
    payload = random.randbytes(_PAYLOAD)
    while True:
        await node.send(VICTIM.did, payload, priority=Priority.LOW, until="accepted")


async def sender(address: str) -> None:
    """Answers "stop COUNT" with the seconds from send to receipt of so many stops."""
    async with Node(Identity.generate(), TransportConfig(listen=None)) as node:
        node.routing.update(VICTIM.did, address)
        await node.send(VICTIM.did, b"a link is open")
        say()
        work = [asyncio.create_task(saturate(node)) for _ in range(_WINDOW)]
        async for words in commands():
            times: list[float] = []
            await asyncio.sleep(2 * _PAYLOAD / 1e6)
            ends_at = time.monotonic() + _MOST_SECONDS
            while len(times) < int(words[1]) and time.monotonic() < ends_at:
                await asyncio.sleep(random.random() * 2 * _PAYLOAD / 1e6)
                began = time.monotonic()
                stop = repr(began).encode()
                await node.send(VICTIM.did, stop, priority=Priority.CRITICAL, until="accepted")
                times.append(time.monotonic() - began)
            say(times=times)
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)


# -- the row --------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Stops:
    """How long the stops took, in seconds."""

    attack: str
    loop: str
    arrived: list[float]
    """Until the receiver's application had it."""
    accepted: list[float]
    """Until the sender had the receipt."""
    carried: float
    """Bytes a second of Low messages that that arrived meanwhile."""
    broken: list[str] = field(default_factory=list)

    def judge(self, factor: float = 1.0) -> None:
        """Fill `broken`; only the faster link has a limit."""
        slowest = max(self.accepted + self.arrived)
        if RATES[self.attack] == 1_000_000 and slowest > _LIMIT * factor:
            self.broken.append(f"slowest > {1e3 * _LIMIT * factor:.0f} ms")

    def __str__(self) -> str:
        def shown(times: list[float]) -> str:
            ordered = sorted(times)
            values = (statistics.median(ordered), percentile(ordered, 0.95), ordered[-1])
            return " / ".join(f"{1e3 * value:.0f}" for value in values)

        return (
            f"{self.attack:20}{len(self.accepted):4} stops, p50 / p95 / max in ms: application "
            f"{shown(self.arrived)}, receipt {shown(self.accepted)}; Low at "
            f"{self.carried / 1e6:.2f} MB/s  {', '.join(self.broken) or 'holds'}"
        )


async def measure_stops(attack: str, count: int, loop: str = "asyncio") -> Stops:
    """Send so many stops over a link of the rate that `attack` names."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(*words: object) -> tuple[Any, dict[str, Any]]:
            made = await stack.enter_async_context(child("estop", *words))
            return made, await made.answer()

        taker, at = await start("receiver", loop)
        _, between = await start("proxy", RATES[attack], at["address"])
        giver, _ = await start("sender", loop, between["address"])
        began = time.monotonic()
        accepted = (await giver.ask("stop", count, timeout=_PATIENCE))["times"]
        found = await taker.ask("times")
        return Stops(
            attack=attack,
            loop=loop,
            arrived=found["times"],
            accepted=accepted,
            carried=found["low"] / (time.monotonic() - began),
        )


if __name__ == "__main__":
    role, *rest = sys.argv[1:]
    if role == "proxy":
        main(proxy(*rest))
    elif role == "receiver":
        main(receiver(), *rest)
    else:
        main(sender(rest[1]), rest[0])
