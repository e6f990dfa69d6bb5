"""A NATS peer, publish and subscribe without JetStream, in a process of its own.

    python -m benches.nats_core LIMIT SYSTEM URL

It answers what a peer of ours does (see `child`). Nothing is signed or encrypted, and
nobody answers a message. NATS drops what a subscriber is too slow for, so the receiver
says after every so many that they have come, and the sender has no more in flight than
`WINDOW`; what is dropped nevertheless counts as lost.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import Final

import nats
from nats.aio.msg import Msg

from benches.child import ANSWER_TIMEOUT, MAX_PINGS, Arrivals, run_in, serve
from benches.nats_server import CORE_WINDOW

__all__ = ["main"]

_CREDIT: Final = CORE_WINDOW // 10
"""Messages after which the receiver says that they have come."""
_CHUNK: Final = 100
"""Publishes after which the loop may write: `publish()` itself only collects."""
_PATIENCE: Final = 1.0
"""Seconds after which what is in flight counts as dropped."""


class NatsPeer:
    """Either side; each has a subject of its own for every purpose."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._name = self._peer = f"bench-{os.getpid()}"
        self._arrivals = Arrivals()
        self._uncredited = 0
        self._in_flight = 0
        self._room = asyncio.Event()
        self._answered = asyncio.Event()
        self._is_echoed = asyncio.Event()

    async def open(self) -> dict[str, str]:
        self._client = await nats.connect(self._url)
        for purpose, take in {
            "stream": self._count,
            "credit": self._learn,
            "ping": self._answer,
            "pong": self._end_wait,
        }.items():
            await self._client.subscribe(f"{self._name}.{purpose}", cb=take)
        await self._client.flush()
        return {"did": self._name, "address": self._url}

    async def close(self) -> None:
        await self._client.close()

    async def route(self, did: str, address: str) -> None:
        self._peer = did

    async def send(self, size: int, seconds: float) -> dict[str, float]:
        publish, subject, payload = self._client.publish, f"{self._peer}.stream", bytes(size)
        sent = 0
        cpu = time.process_time()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for _ in range(_CHUNK):
                await publish(subject, payload)
            sent += _CHUNK
            await self._wait_for_room()
        await self._client.flush()
        return {"sent": sent, "cpu": time.process_time() - cpu}

    async def _wait_for_room(self) -> None:
        self._in_flight += _CHUNK
        await asyncio.sleep(0)
        while self._in_flight > CORE_WINDOW:
            self._room.clear()
            try:
                await asyncio.wait_for(self._room.wait(), _PATIENCE)
            except TimeoutError:
                self._in_flight = 0

    async def _learn(self, message: Msg) -> None:
        self._in_flight = max(0, self._in_flight - _CREDIT)
        self._room.set()

    async def receive(self) -> dict[str, float]:
        self._arrivals = arrivals = Arrivals()
        await arrivals.wait()
        return arrivals.report()

    async def _count(self, message: Msg) -> None:
        len(message.data)
        self._arrivals.add()
        self._uncredited += 1
        if self._uncredited == _CREDIT:
            self._uncredited = 0
            await self._client.publish(f"{self._peer}.credit")

    async def expect(self, count: int) -> None:
        self._arrivals.expect(count)

    async def echo(self) -> None:
        await self._is_echoed.wait()
        self._is_echoed.clear()

    async def _answer(self, message: Msg) -> None:
        if message.data.strip(b"\0"):
            await self._client.publish(f"{self._peer}.pong", message.data)
        else:
            self._is_echoed.set()

    async def _end_wait(self, message: Msg) -> None:
        len(message.data)
        self._answered.set()

    async def ping(self, size: int, seconds: float) -> dict[str, list[float]]:
        publish, subject = self._client.publish, f"{self._peer}.ping"
        answered, payload = self._answered, b"\1" + bytes(size - 1)
        times: list[float] = []
        end = time.perf_counter() + seconds
        async with asyncio.timeout(seconds + ANSWER_TIMEOUT):
            while time.perf_counter() < end and len(times) < MAX_PINGS:
                answered.clear()
                started_at = time.perf_counter()
                await publish(subject, payload)
                await answered.wait()
                times.append(time.perf_counter() - started_at)
        await publish(subject, bytes(size))
        return {"times": times}


def main(limit: float, system: str, url: str) -> None:
    """Serve until the parent is gone."""
    run_in(system.split("-")[1], serve(limit, NatsPeer(url)))


if __name__ == "__main__":
    main(float(sys.argv[1]), *sys.argv[2:])
