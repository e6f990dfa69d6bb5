"""A store that was restored from an old copy: what it holds is delivered once, or was."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from signedwire import DeliveryState, Identity, MemoryNetwork, Node, Priority, Reason
from signedwire.delivery.store import Store, ledger

ALICE: Final = Identity.from_seed(b"old copies: alice".ljust(32, b"."))
BOB: Final = Identity.from_seed(b"old copies: bob".ljust(32, b"."))
LIMIT: Final = 30.0
LANES: Final = (Priority.NORMAL, Priority.HIGH)
SEEDS: Final = int(os.environ.get("SIGNEDWIRE_OLD_COPY_SEEDS", "8"))


@dataclass
class State:
    """What a file of the sender's store holds or has held: its messages, in order."""

    folder: Path
    sent: list[int] = field(default_factory=list)


class World:
    """A sender whose store is copied and restored, and a receiver with a store."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.network = MemoryNetwork(seed=seed)
        self.folder = folder
        self.sent: list[int] = []
        """Of the sender's present file."""
        self.delivered: dict[Priority, list[int]] = {lane: [] for lane in LANES}
        self.next = 0
        self.alice: Node | None = None
        self.bob: Node | None = None
        self._taking: asyncio.Task[None] | None = None
        self._address = ""

    @property
    def path(self) -> Path:
        return self.folder / "alice.db"

    @property
    def store(self) -> Store:
        assert self.alice is not None
        assert self.alice._core.store is not None
        return self.alice._core.store.store

    async def bob_comes(self) -> None:
        if self.bob is None:
            self.bob = Node(BOB, network=self.network, store=self.folder / "bob.db")
            await self.bob.start()
            self._address = str(self.bob.address)
            self._taking = asyncio.create_task(self._take(self.bob))
            self._route()

    async def bob_goes(self) -> None:
        if self.bob is not None:
            bob, self.bob = self.bob, None
            await bob.close()
            assert self._taking is not None
            await self._taking

    async def _take(self, bob: Node) -> None:
        async for message in bob.messages():
            self.delivered[message.priority].append(int(message.payload))
            message.ack()

    def _route(self) -> None:
        if self.alice is not None and self._address:
            self.alice.routing.update(BOB.did, self._address)

    async def alice_starts(self) -> None:
        if self.alice is None:
            self.alice = Node(ALICE, network=self.network, store=self.path)
            await self.alice.start()
            self._route()

    async def alice_ends(self) -> None:
        if self.alice is not None:
            await self.alice.close()
            self.alice = None

    async def crash(self) -> None:
        """The next process finds the file as it is now, without what a close writes."""
        state = await self.copy("crash")
        await self.restore(state)

    async def send(self, count: int, lane: Priority = Priority.NORMAL) -> None:
        assert self.alice is not None
        for _ in range(count):
            number = self.next = self.next + 1
            await self.alice.send(BOB.did, b"%d" % number, priority=lane, until="persisted")
            self.sent.append(number)

    async def copy(self, name: str) -> State:
        state = State(self.folder / name, list(self.sent))
        if self.alice is not None:
            await asyncio.wrap_future(self.store.flush())
        shutil.rmtree(state.folder, ignore_errors=True)
        state.folder.mkdir()
        for path in self.folder.glob("alice.db*"):
            shutil.copy(path, state.folder)
        return state

    async def restore(self, state: State) -> None:
        await self.alice_ends()
        for path in self.folder.glob("alice.db*"):
            path.unlink()
        for path in state.folder.glob("alice.db*"):
            shutil.copy(path, self.folder)
        self.sent = list(state.sent)

    async def settle(self) -> Counter[Reason]:
        """Let all that waits come to its end; returns why dead letters died."""
        await self.alice_starts()
        await self.bob_comes()
        async with asyncio.timeout(LIMIT):
            while self.store.backlog().rows:
                await asyncio.sleep(0.01)
        assert self.alice is not None
        dead = Counter([letter.reason for letter in await self.alice.dead.list()])
        await self.bob_goes()
        await self.alice_ends()
        return dead

    def check(self) -> None:
        """Nothing twice, and in order."""
        for numbers in self.delivered.values():
            assert numbers == sorted(set(numbers))

    @property
    def arrived(self) -> set[int]:
        return {number for numbers in self.delivered.values() for number in numbers}


@contextlib.asynccontextmanager
async def ended(world: World) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await world.bob_goes()
        await world.alice_ends()


async def with_old_copy(world: World, *, waiting: int, later: int) -> None:
    """Messages that wait are copied and then delivered, and more; the peer is away then."""
    await world.bob_comes()
    await world.alice_starts()
    await world.send(10)
    await world.settle()
    await world.alice_starts()
    await world.send(waiting)
    state = await world.copy("copy")
    await world.bob_comes()
    await world.send(later)
    await world.settle()
    await world.restore(state)


@pytest.mark.parametrize("processes", [1, 2, 5])
@pytest.mark.parametrize(("waiting", "later"), [(0, 200), (0, 30), (25, 0), (25, 200)])
async def test_what_is_new_is_delivered_and_what_waited_is_asked(
    tmp_path: Path, processes: int, waiting: int, later: int
) -> None:
    """Also by processes that end before the peer is back: 116 of these were given up as stale,
    or 30 of 150 refused as duplicates.
    """
    world = World(tmp_path, 1)
    async with ended(world):
        await with_old_copy(world, waiting=waiting, later=later)
        for _ in range(processes):
            await world.alice_starts()
            await world.send(150 // processes)
            await world.alice_ends()
        assert await world.settle() == {}
        world.check()
        assert set(world.sent) <= world.arrived


async def test_a_copy_of_a_copy(tmp_path: Path) -> None:
    """The one that came between has delivered what this one holds, and more than a peer
    remembers: it is not delivered again.
    """
    world = World(tmp_path, 2)
    async with ended(world):
        await with_old_copy(world, waiting=5, later=20)
        await world.alice_starts()
        await world.send(30)
        await world.crash()
        await world.alice_starts()
        await world.send(30)
        state = await world.copy("second")
        await world.bob_comes()
        assert world.alice is not None
        for first in range(0, 9000, 1000):
            payloads = [b"%d" % (world.next + 1 + n) for n in range(first, first + 1000)]
            await world.alice.send_many(BOB.did, payloads)
        world.next += 9000
        assert await world.settle() == {}
        await world.restore(state)
        await world.alice_starts()
        await world.send(40)
        await world.alice_ends()
        dead = await world.settle()
        world.check()
        assert set(world.sent) <= world.arrived
        assert set(dead) <= {Reason.DUPLICATE}  # delivered; so long ago that none remembers


@pytest.mark.parametrize("processes", [1, 3])
async def test_a_clock_that_went_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    """Then sequences are used again. What this process stores is numbered anew; what an
    earlier one did cannot be told from what was delivered, and is given up as such.
    """
    world = World(tmp_path, 3)
    monkeypatch.setattr(ledger, "base_at", lambda epoch, now_us: 0)
    async with ended(world):
        await with_old_copy(world, waiting=0, later=500)
        for _ in range(processes - 1):
            await world.alice_starts()
            await world.send(10)
            await world.alice_ends()
        await world.alice_starts()
        new = world.next
        await world.send(20)
        await world.bob_comes()
        dead = await world.settle()
        world.check()
        assert set(world.sent[-20:]) <= world.arrived
        assert world.sent[-20] == new + 1
        assert dead == ({Reason.STALE_EPOCH: 10 * (processes - 1)} if processes > 1 else {})


async def test_an_old_copy_is_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path, 4)
    async with ended(world):
        await with_old_copy(world, waiting=0, later=5)
        await world.alice_starts()
        await world.bob_comes()
        assert world.alice is not None
        for _ in range(3):
            receipt = await world.alice.send(BOB.did, b"%d" % world.next, until="persisted")
            world.next += 1
            await receipt.wait(DeliveryState.ACCEPTED, timeout=LIMIT)
            world.network.cut_all()
    told = [record for record in caplog.records if "old copy" in record.getMessage()]
    assert len(told) == 1


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_any_history(tmp_path: Path, seed: int) -> None:
    """Sends, copies, restores, crashes, cuts and a peer that comes and goes, in any order:
    all that the last file holds is delivered, once and in order.
    """
    rng = random.Random(seed)
    world = World(tmp_path, seed)
    states: list[State] = []
    async with ended(world):
        await world.bob_comes()
        for _ in range(40):
            await world.alice_starts()
            action = rng.choices(
                ["send", "copy", "restore", "crash", "end", "comes", "goes", "cut", "pause"],
                [10, 3, 2, 2, 2, 3, 3, 2, 3],
            )[0]
            if action == "send":
                await world.send(rng.randrange(1, 12), rng.choice(LANES))
            elif action == "copy":
                states.append(await world.copy(f"copy {len(states)}"))
            elif action == "restore" and states:
                if rng.random() < 0.7:
                    await world.bob_goes()
                await world.restore(rng.choice(states))
                await world.alice_starts()
                await world.send(rng.randrange(5), rng.choice(LANES))
                await world.alice_ends()
            elif action == "crash":
                await world.crash()
            elif action == "end":
                await world.alice_ends()
            elif action == "comes":
                await world.bob_comes()
            elif action == "goes":
                await world.bob_goes()
            elif action == "cut":
                world.network.cut_all()
            else:
                await asyncio.sleep(rng.random() * 0.05)
        assert await world.settle() == {}
        world.check()
        assert set(world.sent) <= world.arrived
