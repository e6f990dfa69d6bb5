"""A NATS JetStream peer in a process of its own.

    python -m benches.jetstream LIMIT SYSTEM URL

It answers what a peer of ours does (see `child`). Its sender keeps a window of
publishes in flight and waits for the acknowledgement of each; its receiver pulls and
acknowledges each. Nothing is signed, nothing encrypted.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import Final

import nats
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, RetentionPolicy, StorageType

from benches.child import Arrivals, run_in, serve
from benches.nats_server import WINDOW

__all__ = ["main"]

_PULLED: Final = 500
_PULL_TIMEOUT: Final = 1.0
_MAX_UNACKNOWLEDGED: Final = 20_000
_CHUNK: Final = 1000


class JetStreamPeer:
    """Either side; each has a stream of its own, in a file, and a durable consumer of it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._name = f"bench-{os.getpid()}"
        self._subject = self._name
        self._arrivals = Arrivals()

    async def open(self) -> dict[str, str]:
        self._client = await nats.connect(self._url)
        self._stream = self._client.jetstream(publish_async_max_pending=WINDOW)
        await self._stream.add_stream(
            name=self._name,
            subjects=[self._name],
            storage=StorageType.FILE,
            retention=RetentionPolicy.LIMITS,
        )
        self._messages: JetStreamContext.PullSubscription = await self._stream.pull_subscribe(
            self._name,
            durable="receiver",
            config=ConsumerConfig(max_ack_pending=_MAX_UNACKNOWLEDGED),
        )
        return {"did": self._name, "address": self._url}

    async def route(self, did: str, address: str) -> None:
        self._subject = did

    async def send(self, size: int, seconds: float) -> dict[str, float]:
        publish, subject, payload = self._stream.publish_async, self._subject, bytes(size)
        sent = 0
        cpu = time.process_time()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            acknowledged = [await publish(subject, payload) for _ in range(_CHUNK)]
            sent += len(acknowledged)
        await self._stream.publish_async_completed()
        return {"sent": sent, "cpu": time.process_time() - cpu}

    async def receive(self) -> dict[str, float]:
        self._arrivals = arrivals = Arrivals()
        report = await arrivals.end(asyncio.create_task(self._take(arrivals)))
        await self._stream.purge_stream(self._name)
        return report

    async def _take(self, arrivals: Arrivals) -> None:
        fetch = self._messages.fetch
        while True:
            try:
                messages = await fetch(_PULLED, timeout=_PULL_TIMEOUT)
            except TimeoutError:
                continue
            for message in messages:
                len(message.data)
                arrivals.add()
                await message.ack()

    async def expect(self, count: int) -> None:
        in_time = self._arrivals.count
        await self._client.flush()  # each of their acknowledgements
        self._arrivals.expect(count, in_time)


def main(limit: float, system: str, url: str) -> None:
    """Serve until the parent is gone."""
    run_in(system.split("-")[1], serve(limit, JetStreamPeer(url)))


if __name__ == "__main__":
    main(float(sys.argv[1]), *sys.argv[2:])
