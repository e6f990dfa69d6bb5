"""One of the demo's nodes in a process of its own: `python -m examples.demo.node LIMIT`.

It is an ordinary application: one `signedwire.Node`, one task that takes every
message, and some things to do that the conductor asks for. It tells its counters
ten times a second, and remembers who has proven to be whom.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import struct
import sys
import time
from collections import deque
from typing import Any, Final

from benches.children import Channel, Request

from signedwire import (
    BackpressureError,
    DeliveryState,
    Did,
    Identity,
    Message,
    Node,
    Priority,
    Receipt,
    TransportConfig,
)
from signedwire.events import PeerConnected

__all__ = ["counters"]

_NEWS_INTERVAL: Final = 0.1
_SETTLE_TIMEOUT: Final = 3.0
_AT_A_TIME: Final = 2_000
_MAX_DELAYS: Final = 5_000
_PAUSE: Final = 0.05
"""Between two emergencies, so that each meets an idle link and a full queue."""
# stream, number, when it was sent, number of the last Low message then
_NUMBERED: Final = struct.Struct("<BQQQ")
_SIZE: Final = 64


class Stream:
    """What has arrived of one numbered sequence of messages."""

    def __init__(self) -> None:
        self.count = self.first = self.last = self.breaks = 0
        self.first_at = self.last_at = 0.0
        self.delays: deque[float] = deque(maxlen=_MAX_DELAYS)
        self.overtaken: list[int] = []

    def add(self, number: int, delay: float) -> None:
        if not self.count:
            self.first, self.first_at = number, time.perf_counter()
        elif number != self.last + 1:
            self.breaks += 1
        self.last, self.last_at = number, time.perf_counter()
        self.count += 1
        self.delays.append(delay)

    def report(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "first": self.first,
            "last": self.last,
            "breaks": self.breaks,
            "first_at": self.first_at,
            "last_at": self.last_at,
            "median_delay": statistics.median(self.delays) if self.delays else None,
            "least_overtaken": min(self.overtaken, default=None),
        }


class Actor:
    """Answers the conductor; every public coroutine is something that it may ask."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._peer = node.did
        self._streams: dict[int, Stream] = {}
        self._heard: list[str] = []
        self._linked: list[str] = []
        self._steady: asyncio.Task[None] | None = None
        self._receipts: list[tuple[float, Receipt]] = []

    # -- receiving

    async def take_all(self) -> None:
        """What an application does: take every message."""
        async for message in self._node.messages():
            self._take(message)

    async def watch(self) -> None:
        """Note who has linked to us."""
        async for event in self._node.events():
            if isinstance(event, PeerConnected):
                self._linked.append(str(event.did))

    def _take(self, message: Message) -> None:
        payload = message.payload
        if len(payload) != _SIZE:
            self._heard.append(payload.decode())
            return
        key, number, sent_ns, last_low = _NUMBERED.unpack_from(payload)
        stream = self._streams.setdefault(key, Stream())
        stream.add(number, (time.perf_counter_ns() - sent_ns) / 1e9)
        if message.priority is Priority.CRITICAL:
            low = self._streams.get(key - 1)
            stream.overtaken.append(last_low - (low.last if low else 0))

    async def seen(self, stream: int) -> dict[str, Any]:
        return self._streams.get(stream, Stream()).report()

    async def heard(self) -> list[str]:
        return self._heard

    async def linked(self) -> list[str]:
        """The DIDs that have been proven to us over v2, as often as they were."""
        return self._linked

    # -- sending

    async def route(self, did: str, address: str) -> None:
        self._peer = Did.parse(did)
        self._node.routing.update(self._peer, address)

    async def say(self, text: str) -> str:
        """Send it, and return the proof that it was accepted."""
        receipt = await self._node.send(self._peer, text.encode())
        return receipt.proof().hex()

    async def flood(self, stream: int, seconds: float) -> dict[str, int]:
        """As fast as it goes; returns how many, and how many of them have a signed receipt."""
        end = time.perf_counter() + seconds
        sent = confirmed = 0
        while time.perf_counter() < end:
            numbers = range(sent + 1, sent + _AT_A_TIME + 1)
            receipts = await self._node.send_many(
                self._peer, (_numbered(stream, number) for number in numbers)
            )
            sent += len(receipts)
            confirmed += sum(receipt.is_confirmed for receipt in receipts)
        return {"sent": sent, "confirmed": confirmed}

    async def begin_steady(self, stream: int, rate: float) -> None:
        """Send `rate` messages per second from now on."""
        self._receipts = []
        self._steady = asyncio.create_task(self._send_steadily(stream, rate))

    async def _send_steadily(self, stream: int, rate: float) -> None:
        for number in itertools.count(1):
            receipt = self._node.send_nowait(self._peer, _numbered(stream, number))
            self._receipts.append((time.perf_counter(), receipt))
            await asyncio.sleep(1 / rate)

    async def end_steady(self, instants: list[float]) -> dict[str, Any]:
        """Stop, and tell how many were sent, and the first number after each instant."""
        assert self._steady is not None
        self._steady.cancel()
        sent = len(self._receipts)
        confirmed = 0
        async with asyncio.timeout(_SETTLE_TIMEOUT):
            for _, receipt in self._receipts:
                await receipt.wait(DeliveryState.ACCEPTED)
                confirmed += receipt.is_confirmed
        return {
            "sent": sent,
            "confirmed": confirmed,
            "first_after": [
                next((n for n, (at, _) in enumerate(self._receipts, 1) if at > instant), sent + 1)
                for instant in instants
            ],
        }

    async def emergency(self, stream: int, seconds: float) -> dict[str, int]:
        """Again and again: fill the queue with Low, to the last slot, then send one Critical.

        Low is `stream`, Critical `stream + 1`.
        """
        low = critical = refused = 0
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            receipt = None
            try:
                while True:
                    receipt = self._node.send_nowait(
                        self._peer, _numbered(stream, low + 1), priority=Priority.LOW
                    )
                    low += 1
            except BackpressureError:
                refused += 1
            critical += 1
            self._node.send_nowait(
                self._peer, _numbered(stream + 1, critical, low), priority=Priority.CRITICAL
            )
            if receipt is not None:
                await receipt.wait("written")
            await asyncio.sleep(_PAUSE)
        return {"low": low, "critical": critical, "refused": refused}

    async def stats(self) -> dict[str, Any]:
        return counters(self._node)


def counters(node: Node) -> dict[str, Any]:
    """A node's own counters and the state of its link, for JSON."""
    stats = node.stats()
    links = list(node.peers().values())
    return {
        "at": time.perf_counter(),
        "sent": stats.messages_sent,
        "received": stats.messages_received,
        "reconnections": stats.reconnections,
        "dial_failures": stats.dial_failures,
        "send_failures": stats.send_failures,
        "backpressure": stats.backpressure_events,
        "dropped": {reason.value: count for reason, count in stats.dropped.items()},
        "queued": sum(sum(link.queued.values()) for link in links),
        "link": links[0].state.value if links else "",
    }


def _numbered(stream: int, number: int, last_low: int = 0) -> bytes:
    return _NUMBERED.pack(stream, number, time.perf_counter_ns(), last_low).ljust(_SIZE, b"\0")


async def _handle(actor: Actor, request: Request) -> None:
    try:
        request.answer(await getattr(actor, request.what)(**request.arguments))
    except Exception as error:  # noqa: BLE001 - the conductor is told
        request.fail(error)


async def _run(limit: float) -> None:
    loop = asyncio.get_running_loop()
    requests: asyncio.Queue[Request] = asyncio.Queue()
    channel = Channel(
        limit, lambda request: loop.call_soon_threadsafe(requests.put_nowait, request)
    )
    channel.listen()
    opening = await requests.get()
    # More patient than the default, so that what is sent while the peer is away waits for it.
    config = TransportConfig(
        listen=f"127.0.0.1:{opening.arguments['port']}",
        v1_peers=opening.arguments["v1_peers"],
        max_attempts=100,
        retry_max_delay=0.25,
    )
    try:
        identity = Identity.from_seed(bytes.fromhex(opening.arguments["seed"]))
        node = Node(identity, config)
        await node.start()
    except Exception as error:  # noqa: BLE001 - the conductor is told
        opening.fail(error)
        return
    opening.answer({"did": str(node.did), "address": str(node.address), "at": time.perf_counter()})
    actor = Actor(node)
    background = (actor.take_all(), actor.watch(), _tell(channel, node))
    tasks: set[asyncio.Task[None]] = {asyncio.create_task(work) for work in background}
    # Until the conductor closes the channel, which ends the process.
    while True:
        task = asyncio.create_task(_handle(actor, await requests.get()))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


async def _tell(channel: Channel, node: Node) -> None:
    while True:
        channel.news("counters", **counters(node))
        await asyncio.sleep(_NEWS_INTERVAL)


if __name__ == "__main__":
    asyncio.run(_run(float(sys.argv[1])))
