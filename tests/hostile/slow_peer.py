"""A node at one end of a slow path, with the traffic that it is told to make.

    python -m hostile.slow_peer LOOP NAME OTHER [STORE]

NAME and OTHER are seeds of the two identities. With a STORE, Low messages are durable, and all
others volatile. Words:

- "dial ADDRESS" opens the link to the other node.
- "low" keeps `_IMAGES` Low messages of 200 KB on their way, from now on.
- "telemetry" sends `TELEMETRY` Normal messages of 60 bytes a second, with a deadline.
- "mark" forgets what was measured so far.
- "stop COUNT SECONDS GAP SEED" sends so many Critical messages, for so long at most. Before each
  is a random time of up to GAP seconds. It answers with the instants: sent, and receipt came.
- "found" answers with what was received since "mark".

Both nodes read the same monotonic clock of this machine.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from typing import Final

from signedwire import Identity, Message, Node, PayloadType, Priority, TransportConfig
from signedwire.arguments import due_at
from signedwire.types import DeliveryState

from .child import commands, main, say
from .hold_ups import HoldUps

__all__ = ["IMAGE", "TELEMETRY", "identity"]

IMAGE: Final = 200_000
"""Bytes of a Low message."""
_IMAGES: Final = 20
TELEMETRY: Final = 200
"""Normal messages a second."""
_TELEMETRY_SIZE: Final = 60
_TELEMETRY_DEADLINE: Final = 0.1
_LEAST_GAP: Final = 0.02


def identity(name: str) -> Identity:
    """Return the identity of a node."""
    return Identity.from_seed(name.encode().ljust(32, b"."))


class Taker:
    """Takes all messages of a node, and keeps what is measured of them."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self.stops: list[tuple[float, float]] = []
        """Instants of Critical messages: sent, and here."""
        self.telemetry: list[float] = []
        """Seconds on their way."""
        self.images: list[float] = []
        """Instants at which Low messages came."""

    async def run(self, node: Node) -> None:
        """Take messages until the node is closed."""
        async for message in node.messages():
            self._note(message, time.monotonic())
            message.ack()

    def _note(self, message: Message, now: float) -> None:
        if message.priority is Priority.CRITICAL:
            self.stops.append((float(message.payload), now))
        elif message.priority is Priority.NORMAL:
            self.telemetry.append(now - float(message.payload))
        elif message.priority is Priority.LOW:
            self.images.append(now)


class Traffic:
    """What one node sends to the other."""

    def __init__(self, node: Node, other: Identity, *, has_store: bool) -> None:
        self._node = node
        self._to = other.did
        self._has_store = has_store

    async def dial(self, address: str) -> None:
        """Open the link."""
        self._node.routing.update(self._to, address)
        await self._node.send(self._to, b"", priority=Priority.HIGH, until="accepted")

    async def keep_low(self) -> None:
        """Send one Low message after another."""
        image = random.randbytes(IMAGE)
        while True:
            await self._node.send(self._to, image, priority=Priority.LOW, until="accepted")

    async def keep_telemetry(self) -> None:
        """Send Normal messages at their rate; what the node refuses or drops is lost."""
        due = time.monotonic()
        while True:
            due += 1 / TELEMETRY
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            payload = repr(time.monotonic()).encode().ljust(_TELEMETRY_SIZE)
            await self._send(
                payload, Priority.NORMAL, DeliveryState.QUEUED, deadline=_TELEMETRY_DEADLINE
            )

    async def stops(
        self, count: int, seconds: float, gap: float, seed: str
    ) -> list[tuple[float, float]]:
        """Send Critical messages; return the instants: sent, and receipt came."""
        chance = random.Random(seed)
        times: list[tuple[float, float]] = []
        ends_at = time.monotonic() + seconds
        while len(times) < count and time.monotonic() < ends_at:
            await asyncio.sleep(_LEAST_GAP + chance.random() * gap)
            began = time.monotonic()
            await self._send(repr(began).encode(), Priority.CRITICAL, DeliveryState.ACCEPTED)
            times.append((began, time.monotonic()))
        return times

    async def _send(
        self,
        payload: bytes,
        priority: Priority,
        state: DeliveryState,
        deadline: float | None = None,
    ) -> None:
        sending = self._node._sending  # no public call sends volatile messages yet
        (message,) = sending.messages(
            self._to,
            priority,
            PayloadType.RAW,
            due_at(deadline),
            [payload],
            is_durable=not self._has_store,
        )
        await sending.send(message, state)


async def obey(words: list[str], traffic: Traffic, taker: Taker, hold_ups: HoldUps) -> None:
    """Do what one line says."""
    match words:
        case ["dial", address]:
            await traffic.dial(address)
            say()
        case ["mark"]:
            taker.clear()
            hold_ups.clear()
            say()
        case ["stop", count, seconds, gap, seed]:
            say(stops=await traffic.stops(int(count), float(seconds), float(gap), seed))
        case ["found"]:
            say(
                stops=taker.stops,
                telemetry=taker.telemetry,
                images=taker.images,
                held_up=hold_ups.spans,
                own=hold_ups.own,
                cpu=hold_ups.cpu(),
            )
        case _:
            raise ValueError(f"no such words: {words}")


async def run(name: str, other: str, store: str | None = None) -> None:
    """Run the node, and obey until stdin ends."""
    config = TransportConfig(store=store, close_timeout=0.1)
    async with Node(identity(name), config) as node:
        traffic = Traffic(node, identity(other), has_store=store is not None)
        taker, hold_ups = Taker(), HoldUps()
        work = [asyncio.create_task(taker.run(node))]
        say(address=str(node.address))
        async for words in commands():
            match words:
                case ["low"]:
                    work += [asyncio.create_task(traffic.keep_low()) for _ in range(_IMAGES)]
                    say()
                case ["telemetry"]:
                    work.append(asyncio.create_task(traffic.keep_telemetry()))
                    say()
                case _:
                    await obey(words, traffic, taker, hold_ups)
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)


if __name__ == "__main__":
    loop, *rest = sys.argv[1:]
    main(run(*rest), loop)
