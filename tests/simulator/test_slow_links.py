"""Urgent messages on slow links, in virtual time."""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from signedwire import Node, Priority

from .loop import Owner
from .slow_links import SlowLink, in_virtual_time

KB: Final = 1e3
MB: Final = 1e6
_IMAGE: Final = bytes(200_000)
_IMAGES: Final = 20
"""Number of images that wait at once."""


@dataclass
class Traffic:
    """What goes over a link, and how long it takes.

    Alice floods Bob with Low images. `urgent` ones go where they are sent.
    """

    link: SlowLink
    rng: random.Random = field(default_factory=lambda: random.Random(15))
    carried: dict[str, int] = field(default_factory=lambda: {"alice": 0, "bob": 0})
    """Bytes of images that a node has received, by its name."""
    samples: int = 0
    """Telemetry that Bob has received."""
    arrived: list[float] = field(default_factory=list)
    """Seconds until the application of the recipient had an urgent message."""
    confirmed: list[float] = field(default_factory=list)
    """Seconds until its sender had the receipt."""

    def __post_init__(self) -> None:
        self._arrivals: dict[bytes, float] = {}
        self._numbers = itertools.count()

    @asynccontextmanager
    async def running(
        self, *, is_two_way: bool = False, telemetry: bool = False
    ) -> AsyncIterator[None]:
        alice, bob = (self.link.alice, self.link.owners[0]), (self.link.bob, self.link.owners[1])
        works = [(self._read(*alice), alice), (self._read(*bob), bob)]
        works += [(self._flood(alice[0], bob[0]), alice) for _ in range(_IMAGES)]
        if is_two_way:
            works += [(self._flood(bob[0], alice[0]), bob) for _ in range(_IMAGES)]
        if telemetry:
            works.append((self._sample(), alice))
        tasks = [self._start(work, owner) for work, (_, owner) in works]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None], owner: Owner) -> asyncio.Task[None]:
        return self.link.loop.create_task(work, context=owner.context)

    async def _read(self, node: Node, owner: Owner) -> None:
        async for message in node.messages():
            if message.priority is Priority.LOW:
                self.carried[owner.name] += len(message.payload)
            elif message.priority is Priority.NORMAL:
                self.samples += 1
            else:
                self._arrivals[message.payload] = self.link.loop.now

    @staticmethod
    async def _flood(sender: Node, recipient: Node) -> None:
        while True:
            await sender.send(recipient.did, _IMAGE, priority=Priority.LOW, until="accepted")

    async def _sample(self) -> None:
        due = self.link.loop.now
        while True:
            self.link.alice.send_nowait(self.link.bob.did, bytes(60), deadline=0.1)
            due += 0.005
            await asyncio.sleep(max(0.0, due - self.link.loop.now))

    async def stop(self, count: int, *, is_by_bob: bool = False) -> None:
        """Send so many urgent messages at random instants, one after the other."""
        for _ in range(count):
            await asyncio.sleep(self.rng.uniform(0.05, 0.35))
            owner = self.link.owners[is_by_bob]
            await self._start(self._stop(is_by_bob=is_by_bob), owner)

    async def _stop(self, *, is_by_bob: bool) -> None:
        sender, recipient = self.link.alice, self.link.bob
        if is_by_bob:
            sender, recipient = recipient, sender
        began, payload = self.link.loop.now, b"stop %d" % next(self._numbers)
        await sender.send(recipient.did, payload, priority=Priority.CRITICAL, until="accepted")
        self.confirmed.append(self.link.loop.now - began)
        self.arrived.append(self._arrivals.pop(payload) - began)


@dataclass
class Found:
    """What a run has shown. Rates are parts of the link's rate."""

    median: float
    """Seconds in which half of the urgent messages arrived."""
    arrived: float
    """Seconds of the slowest urgent message."""
    confirmed: float
    """Seconds of the slowest receipt."""
    up: float
    down: float
    samples: float
    """Telemetry that arrived each second."""


def run(
    rate: float,
    delay: float,
    *,
    stops: int = 200,
    warm: float = 2.0,
    is_by_bob: bool = False,
    is_two_way: bool = False,
    telemetry: bool = False,
) -> Found:
    """Measure a link that carries `rate` bytes a second each way; `delay`: seconds one way.

    The measure begins `warm` seconds after the images.
    """

    async def script(link: SlowLink) -> Found:
        traffic = Traffic(link)
        link.bob.routing.update(link.alice.did, link.alice.address)
        async with traffic.running(is_two_way=is_two_way, telemetry=telemetry):
            await asyncio.sleep(warm)
            began, carried, samples = link.loop.now, dict(traffic.carried), traffic.samples
            await traffic.stop(stops, is_by_bob=is_by_bob)
            seconds = link.loop.now - began
            return Found(
                statistics.median(traffic.arrived),
                max(traffic.arrived),
                max(traffic.confirmed),
                (traffic.carried["bob"] - carried["bob"]) / seconds / rate,
                (traffic.carried["alice"] - carried["alice"]) / seconds / rate,
                (traffic.samples - samples) / seconds,
            )

    return in_virtual_time(script, rate=rate, delay=delay)


@pytest.mark.parametrize(
    ("rate", "limit"), [(3 * MB, 0.05), (MB, 0.1), (0.3 * MB, 0.15)], ids=["3MB", "1MB", "0.3MB"]
)
def test_an_urgent_message_does_not_wait_behind_images(rate: float, limit: float) -> None:
    found = run(rate, 0.002)
    assert found.arrived <= limit
    assert found.confirmed <= limit
    assert found.up >= 0.95


def test_a_long_round_trip() -> None:
    found = run(MB, 0.1, stops=100, warm=5.0)
    assert found.arrived <= 0.2
    assert found.confirmed <= 0.25
    assert found.up >= 0.9


def test_a_fast_link() -> None:
    found = run(100 * MB, 0.0005, stops=10)
    assert found.confirmed <= 0.051
    assert found.up >= 0.9


def test_receipt_and_telemetry_beside_images() -> None:
    found = run(0.3 * MB, 0.005, is_by_bob=True, telemetry=True)
    assert found.confirmed <= 0.25
    assert found.samples >= 180
    assert found.up >= 0.75


@pytest.mark.parametrize(
    ("rate", "limit"), [(3 * MB, 0.05), (MB, 0.1), (0.3 * MB, 0.15)], ids=["3MB", "1MB", "0.3MB"]
)
def test_both_directions_are_full(rate: float, limit: float) -> None:
    """For 60 s and more: 300 urgent messages."""
    found = run(rate, 0.005, stops=300 if rate <= MB else 100, is_by_bob=True, is_two_way=True)
    assert found.arrived <= limit
    assert found.confirmed <= 0.25
    assert min(found.up, found.down) >= 0.9
