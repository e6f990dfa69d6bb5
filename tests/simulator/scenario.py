"""Seeded scenarios: a few nodes, a workload, and faults; then peace, and a reckoning."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from signedwire import Priority, TransportConfig
from signedwire.delivery.store import StoreLimits
from signedwire.errors import ClosedError, SignedWireError, StoreFailedError
from signedwire.types import DeliveryState

from .loop import Deadlock, Livelock, VirtualLoop
from .network import End, Weather
from .world import BASE, Life, Sent, Station, World, identity_of, is_settled, simulated

__all__ = ["CLOCK_FAULTS", "FAULTS", "STORE_FAULTS", "Outcome", "run", "run_script"]

WEATHER_FAULTS: Final = ("cuts", "lost-receipts", "refused-dials", "slow-dials")
SUDDEN_FAULTS: Final = (
    "resets",
    "cut-at-byte",
    "partitions",
    "one-way-partitions",
    "stalls",
    "half-open",
    "black-holes",
    "process-crashes",
    "power-losses",
    "closes",
    "clock-jumps",
    "application-stalls",
    "denials",
    "both-dial",
)
FAULTS: Final = (*WEATHER_FAULTS, *SUDDEN_FAULTS)
SUDDEN_STORE_FAULTS: Final = ("commit-crashes", "failing-commits", "full-disks")
CLOCK_FAULTS: Final = ("clock-jumps", "suspends", "loop-clocks", "boots-in-1970")
"""Where clocks go apart: wall clocks are set, forward and back; machines are suspended, which
their loops do not see; loops' clocks are others, and jump; machines begin in 1970."""
SUDDEN_CLOCK_FAULTS: Final = CLOCK_FAULTS
STORE_FAULTS: Final = ("slow-disks", "full-stores", *SUDDEN_STORE_FAULTS)
"""Where there are stores."""
_DAY: Final = 86_400.0
SLACK: Final = 3.0
TURNS: Final = 30.0


@dataclass
class Outcome:
    """What came of one run."""

    seed: int | str
    summary: str
    violations: list[str]
    lines: list[str]
    dials: int
    virtual: float
    counts: Counter[str]
    """Frames of some kinds, and volatile messages by outcome."""


def run(
    seed: int,
    faults: Collection[str] | None = None,
    *,
    has_stores: bool = False,
    has_clocks: bool = False,
    **options: Any,
) -> Outcome:
    """One seeded scenario; `faults` instead of those that the seed picks."""
    rng = random.Random(f"{seed}/scenario")

    async def script(world: World) -> str:
        stores = Path(directory) if has_stores else None
        scenario = _Scenario(world, rng, faults, stores, has_clocks=has_clocks, **options)
        return await scenario.play()

    with _directory() if has_stores else contextlib.nullcontext("") as directory:
        return run_script(seed, script)


def _directory() -> tempfile.TemporaryDirectory[str]:
    """For files that are worth nothing afterwards: in memory, where that is offered."""
    memory = "/dev/shm"
    return tempfile.TemporaryDirectory(
        prefix="signedwire", dir=memory if os.access(memory, os.W_OK) else None
    )


def run_script(seed: int | str, script: Callable[[World], Awaitable[str | None]]) -> Outcome:
    """Run a script of your own in a world of its own, with all the checks."""
    loop = VirtualLoop()
    world = World(loop, seed)
    summary = ""
    was_enabled = gc.isenabled()
    gc.disable()  # when it runs must not depend on what ran before
    try:
        with simulated(world):
            main = loop.create_task(_whole(world, script))
            try:
                summary = loop.run_until_complete(main) or ""
            except (Deadlock, Livelock) as error:
                world.violate(f"{type(error).__name__}: {error}")
                main.cancel()
            finally:
                for station in world.stations:
                    for life in station.lives:
                        if not life.is_dead:
                            loop.kill(life)
                _finish_tasks(loop)
            gc.collect()
            world.check_loop()
    finally:
        loop.close()
        if was_enabled:
            gc.enable()
    virtual = loop.now
    dials, counts = world.network.dials, world.counts
    return Outcome(seed, summary, world.violations, world.lines, dials, virtual, counts)


async def _whole(world: World, script: Callable[[World], Awaitable[str | None]]) -> str | None:
    summary = await script(world)
    for station in world.stations:
        await station.close()
    world.check_files()
    return summary


def _finish_tasks(loop: VirtualLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        try:
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        except (Deadlock, Livelock):
            for task in tasks:
                task._log_destroy_pending = False  # type: ignore[attr-defined]


class _Scenario:
    def __init__(
        self,
        world: World,
        rng: random.Random,
        faults: Collection[str] | None,
        stores: Path | None,
        *,
        has_clocks: bool = False,
        stations: int | None = None,
    ) -> None:
        self.world = world
        self.rng = rng
        if faults is None:
            faults = [fault for fault in FAULTS if rng.random() < 0.3]
        self.faults = tuple(faults)
        self.stores = stores
        # Of its own: a scenario without stores is the same as ever.
        self.store_rng = random.Random(f"{world.seed}/stores")
        if stores is not None and not any(fault in STORE_FAULTS for fault in self.faults):
            self.faults += tuple(f for f in STORE_FAULTS if self.store_rng.random() < 0.3)
        # A reply leaves together with the receipt of its request, and of a large message that
        # expires on its way the rest is not sent.
        self.more_rng = random.Random(f"{world.seed}/more")
        self.reply_share = self.more_rng.choice((0.0, 0.2, 0.8))
        self.large_share = self.more_rng.choice((0.0, 0.0, 0.2))
        self.clock_rng = random.Random(f"{world.seed}/clocks")
        self.has_clocks = has_clocks
        if has_clocks and not any(fault in CLOCK_FAULTS for fault in self.faults):
            self.faults += tuple(f for f in CLOCK_FAULTS if self.clock_rng.random() < 0.7)
        sudden = SUDDEN_FAULTS + SUDDEN_STORE_FAULTS + SUDDEN_CLOCK_FAULTS
        self.sudden = tuple(fault for fault in self.faults if fault in sudden)
        self.mending: set[Life] = set()
        self.count = stations or rng.choice((2, 2, 2, 2, 3, 3, 4, 5))
        self.duration = rng.uniform(2.0, 12.0)
        self.messages = rng.randint(5, 40)
        self.is_over = False
        self.helpers: list[asyncio.Task[Any]] = []
        self.max_size = rng.choice((64, 1000, 30_000))

    # -- the cast ---------------------------------------------------------------------------

    def build(self) -> None:
        rng, world = self.rng, self.world
        choose = rng.choice
        has_v1 = rng.random() < 0.15
        ping = choose((1.0, 2.0, 5.0))
        common: dict[str, Any] = {
            "ping_interval": ping,
            "dead_timeout": ping * 3,
            "max_attempts": choose((3, 5, 1000, 1000, 1000)),
            "connect_timeout": choose((1.0, 5.0)),
            "handshake_timeout": choose((2.0, 10.0)),
            "frame_timeout": choose((5.0, 30.0)),
            "max_payload_size": 64 * 1024,
            "retry_max_delay": choose((1.0, 5.0)),
        }
        v1 = [identity_of(self.count - 1).did] if has_v1 else []
        everybody = [identity_of(index).did for index in range(self.count)]
        for index in range(self.count):
            is_v1 = has_v1 and index == self.count - 1
            config = TransportConfig(
                **common,
                wire="v1" if is_v1 else "auto",
                v1_peers=everybody if is_v1 else v1,
                credit_messages=choose((1, 4, 16, 4096)),
                credit_bytes=choose((66_000, 200_000, 2**23)),
                send_queue_limit=choose((1, 5, 50, 1000)),
                critical_reserve=choose((0, 1, 8, 64)),
                inbox_limit=choose((2, 100, 1000)),
                max_connections=choose((1, 2, 10, 10)),
            )
            world.add(config)
        if self.stores is not None:
            self.build_stores(self.stores)
        if self.has_clocks:
            self.build_clocks()
        self.weather(Weather(latency=choose(((0.0001, 0.001), (0.01, 0.05), (0.05, 0.4)))))

    def build_stores(self, directory: Path) -> None:
        self.world.network.avoids_silly_windows = True
        rng, stations = self.store_rng, self.world.stations
        chosen = [station for station in stations if rng.random() < 0.7] or [rng.choice(stations)]
        for station in chosen:
            station.store_path = str(directory / f"{station}.db")
            slow = (0.01, rng.choice((0.1, 0.5, 2.0)))
            if "slow-disks" in self.faults:
                station.habits.commit_time = slow
            if "full-stores" in self.faults:
                station.limits = StoreLimits(
                    max_rows=rng.choice((3, 20, 1000)),
                    max_peer_rows=rng.choice((2, 10, 1000)),
                    max_peer_bytes=rng.choice((40_000, 10**9)),
                    critical_reserve=rng.choice((0, 4)),
                    max_inbox_rows=rng.choice((5, 30, 1000)),
                    max_inbox_peer_rows=rng.choice((3, 1000)),
                    max_dead_rows=rng.choice((2, 1000)),
                )

    def build_clocks(self) -> None:
        rng = self.clock_rng
        for station in self.world.stations:
            if "loop-clocks" in self.faults:
                station.loop_offset = rng.choice((-100.0, 100.0, 0.0, 1e6))
            if "boots-in-1970" in self.faults and rng.random() < 0.7:
                station.clock_offset = rng.uniform(0.0, 60.0) - BASE

    def weather(self, weather: Weather) -> None:
        rng = self.rng
        weather.bandwidth = rng.choice((1e5, 1e6, 1e8))
        # On the slowest way a frame must still fit into its timeout.
        least = 2048 if weather.latency[1] < 0.1 else 16 * 1024
        weather.window = max(least, rng.choice((2048, 16 * 1024, 64 * 1024)))
        weather.fragmentation = rng.choice((0.0, 0.1, 0.5))
        if "cuts" in self.faults:
            weather.cut = rng.choice((0.01, 0.05))
        if "lost-receipts" in self.faults:
            weather.receipt_cut = rng.choice((0.1, 0.4))
        if "refused-dials" in self.faults:
            weather.refusal = rng.choice((0.1, 0.5))
        if "slow-dials" in self.faults:
            weather.slow_dial = rng.choice((0.1, 0.4))
        self.world.network.weather = weather

    # -- the play ---------------------------------------------------------------------------

    async def play(self) -> str:
        world = self.world
        self.build()
        world.trace(f"{self.count} nodes, {self.duration:.1f} s, faults {' '.join(self.faults)}")
        world.on_start = self.applications
        for station in world.stations:
            await station.start()
        misfortune = world.loop.create_task(self.misfortune())
        watcher = world.loop.create_task(self.watch())
        await asyncio.sleep(self.duration)
        misfortune.cancel()
        if self.stores is not None:
            self.is_over = True  # else somebody may be started twice
        await asyncio.gather(misfortune, *self.helpers, return_exceptions=True)
        await self.peace()
        await self.settle()
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
        return self.reckon()

    async def peace(self) -> None:
        """All faults end. What they have broken stays to be noticed."""
        world = self.world
        world.trace("peace")
        self.is_over = True
        weather = world.network.weather
        weather.cut = weather.receipt_cut = weather.refusal = weather.slow_dial = 0.0
        world.network.blocked.clear()
        for connection in world.network.live():
            for pipe in connection.pipes:
                pipe.is_stalled = False
                pipe.cut_next = None
            is_dead = any(end.is_gone or end.owner.is_dead for end in connection.ends)
            if is_dead or any(pipe.is_black_hole for pipe in connection.pipes):
                # Of v1, only the kernel finds out, and that takes minutes.
                connection.reset()
        world.network.change()
        for station in world.stations:
            station.stalled_until = 0.0
            station.habits.is_failing = False
            station.habits.crash_in_commit = None
            if station.life is not None and station.store_path is not None:
                await self.mend(station)
            while station.life is None:
                await station.restart()
            # Also those that only a disk remembers which failed before it forgot them.
            station.denied |= set(range(len(world.stations))) - {station.index}
            self.undeny(station)
            if abs(station.clock_offset) > _DAY:  # proofs of such a machine have expired
                station.step(-station.clock_offset)

    async def mend(self, station: Station) -> None:
        life = station.life
        assert life is not None
        for _ in range(1000):
            if life.is_up:
                break
            await asyncio.sleep(0.01)
        else:
            self.world.violate(f"{life} has not started within 10 s")
        if life.store is not None and life.store.failure is not None:
            await station.close()

    async def settle(self) -> None:
        """Everything deliverable is delivered within the longest backoff and detection."""
        world = self.world
        config = world.stations[0].config
        bound = config.dead_timeout + config.retry_max_delay + SLACK
        bound += (config.connect_timeout or 0.0) + (config.handshake_timeout or 0.0)
        if any(station.config.max_connections < len(world.stations) for station in world.stations):
            bound += TURNS  # for a place, once for each attempt, also those that find out a v1 peer
        deadline, before = world.loop.now + bound, -1
        while world.loop.now < deadline:
            left = len(world.unsettled()) + world.untaken() + world.stored()
            if not left:
                break
            if left != before:  # one message a round trip is slow, and no fault
                deadline, before = world.loop.now + bound, left
            await asyncio.sleep(0.25)
        for sent in world.unsettled():
            assert sent.receipt is not None
            # Its deadline may be far; what is not deliverable has an answer all the same.
            peer = sent.sender.node.peers().get(sent.to.identity.did)
            world.violate(f"{sent}: still {sent.receipt.state} {bound:.0f} s after peace; {peer}")
        if untaken := world.untaken():
            world.violate(f"{untaken} messages wait in inboxes {bound:.0f} s after peace")
        if stored := world.stored():
            world.violate(f"{stored} messages wait in stores {bound:.0f} s after peace")

    def reckon(self) -> str:
        world = self.world
        states: dict[str, int] = {}
        for sent in world.sent.values():
            receipt = sent.receipt
            state = "not sent" if receipt is None else str(receipt.state)
            states[state] = states.get(state, 0) + 1
            self.reckon_stored(sent)
            if receipt is None or sent.sender.is_dead:
                continue
            self.reckon_volatile(sent)
            if receipt.state in (DeliveryState.ACCEPTED, DeliveryState.HANDLED):
                for life in sent.accepted_by:
                    alive = not life.is_dead
                    is_late = sent.expires_at is not None or life in sent.denied_by
                    if alive and life not in sent.delivered_to and not is_late:
                        world.violate(f"{sent}: accepted by {life}, its application never got it")
        numbers = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        more = ""
        if self.stores is not None:
            persisted = sum(sent.was_persisted for sent in world.sent.values())
            again = sum(len(sent.delivered_to) > 1 for sent in world.sent.values())
            more = f", {persisted} persisted, {again} redelivered, {world.overmarked} overmarked"
        seen = "".join(f", {count} {name}" for name, count in sorted(world.counts.items()))
        return f"{self.count} nodes, {world.network.dials} dials, {numbers}{more}{seen}"

    def reckon_volatile(self, sent: Sent) -> None:
        """Each volatile message over v2 has one outcome."""
        is_v1 = sent.sender.station.speaks_v1 or sent.to.speaks_v1
        if sent.is_volatile and not is_v1:
            self.world.counts[f"volatile {sent.outcome}"] += 1
            if not sent.outcome:
                self.world.violate(f"{sent} is volatile, and has no outcome")

    def reckon_stored(self, sent: Sent) -> None:
        """What lives that are over have left to the stores came to its end, too."""
        world, sender = self.world, sent.sender.station
        is_late = sender.was_late(sent) or sent.to.was_late(sent)
        is_v1 = sender.speaks_v1 or sent.to.speaks_v1  # nobody waits for those
        is_over = is_settled(sent) or sent.accepted_by or sent.was_buried or is_late or is_v1
        if sent.was_persisted and not is_over:
            world.violate(f"{sent} was persisted, and never came, and nobody was told")
        has_store = sent.to.store_path is not None and not sent.is_volatile
        is_kept = has_store and sent.was_confirmed
        is_gone = sent.delivered_to or sent.denied_by or sent.to.was_late(sent)
        if is_kept and not is_gone:
            world.violate(f"{sent} was accepted, and no application ever got it")

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            self.world.check_limits()
            for station in self.world.stations:
                self.look_after(station)

    def look_after(self, station: Station) -> None:
        """Somebody sees to a broken disk, and starts the node again."""
        life = station.life
        if life is None or life.store is None or life.store.failure is None:
            return
        if life.is_up and not life.is_closing and life not in self.mending:
            self.mending.add(life)

            def begin() -> None:
                if station.life is life and not life.is_closing:
                    helper = self.world.loop.create_task(self.close_and_start(station))
                    self.helpers.append(helper)

            self.later(self.store_rng.choice((0.1, 1.0, 5.0)), begin)

    # -- applications -------------------------------------------------------------------------

    def applications(self, life: Life) -> None:
        rng = random.Random(f"{self.world.seed}/application/{life}")
        for work in (self.sender(life, rng), self.receiver(life, random.Random(rng.random()))):
            task = self.world.loop.create_task(work, context=life.context.copy())
            life.applications.append(task)

    async def sender(self, life: Life, rng: random.Random) -> None:
        world = self.world
        others = [station for station in world.stations if station is not life.station]
        for _ in range(self.messages):
            await asyncio.sleep(rng.expovariate(self.messages / self.duration))
            if self.is_over or life.is_closing:
                return
            to = rng.choice(others)
            lane = rng.choice(tuple(Priority))
            size = rng.choice((14, 100, rng.randint(14, self.max_size)))
            if to.speaks_v1 or life.station.speaks_v1:
                size = min(size, 1024)
            deadline: float | datetime | None = rng.choice((None, None, None, 0.05, 1.0, 5.0))
            if self.has_clocks and deadline is not None and self.clock_rng.random() < 0.4:
                due = life.station.now + self.clock_rng.choice((0.5, 5.0, 3600.0))
                deadline = datetime.fromtimestamp(due, UTC)
            self.send_large(life, to)
            kind = rng.random()
            if kind < 0.6:
                world.send_nowait(life, to, lane, size, deadline)
            elif kind < 0.9:
                # Without a deadline it may wait for a peer that is down, long.
                is_kept = life.store is not None and rng.random() < 0.5
                send = world.persist if is_kept else world.send
                sent = await send(life, to, lane, size, deadline)
                if sent.receipt is not None and rng.random() < 0.3:
                    waiting = self.wait(sent.receipt.wait(DeliveryState.ACCEPTED))
                    life.applications.append(world.loop.create_task(waiting))
            else:
                many = [rng.randint(14, min(self.max_size, 500)) for _ in range(rng.randint(2, 30))]
                await world.send_many(life, to, lane, many)

    def send_large(self, life: Life, to: Station) -> None:
        """Now and then, send some large messages that expire soon."""
        rng = self.more_rng
        if rng.random() >= self.large_share or to.speaks_v1 or life.station.speaks_v1:
            return
        lane, deadline = rng.choice(tuple(Priority)), rng.choice((0.05, 0.3))
        for _ in range(rng.randint(2, 5)):
            self.world.send_nowait(life, to, lane, rng.randint(20_000, 60_000), deadline)

    def reply(self, life: Life, sent: Sent) -> None:
        """Answer some messages at once; no answer is answered."""
        if self.more_rng.random() >= self.reply_share or self.is_over or life.is_closing:
            return
        if not sent.is_reply and not life.is_sending:
            self.world.send_nowait(life, sent.sender.station, sent.lane, 20).is_reply = True

    async def wait(self, waiting: Awaitable[object]) -> None:
        with contextlib.suppress(SignedWireError):
            await waiting

    async def receiver(self, life: Life, rng: random.Random) -> None:
        world, station = self.world, life.station
        style = rng.choice(("quick", "quick", "slow", "later"))
        held: list[Any] = []
        while True:
            while station.stalled_until > world.loop.now:
                await asyncio.sleep(0.05)
            try:
                message = await life.node.receive()
            except ClosedError:
                return
            sent = world.on_delivered(life, message)
            if sent is None:
                continue
            self.reply(life, sent)
            choice = rng.random()
            if style == "later" and len(held) < 5:
                held.append((message, sent))
                continue
            if choice < 0.5:
                sent.done_by.append(life)
                message.ack()
            elif choice < 0.6:
                sent.refused_by.append(life)
                message.nack()
            while held and rng.random() < 0.5:
                message, sent = held.pop(rng.randrange(len(held)))
                sent.done_by.append(life)
                message.ack()
            if style == "slow" and not self.is_over:
                await asyncio.sleep(rng.uniform(0.0, 0.2))

    # -- faults -------------------------------------------------------------------------------

    async def misfortune(self) -> None:
        if not self.sudden:
            return
        rng = self.rng
        rate = rng.uniform(0.3, 2.0)
        while True:
            await asyncio.sleep(rng.expovariate(rate))
            fault = rng.choice(self.sudden)
            self.strike(fault)

    def strike(self, fault: str) -> None:
        """One fault, now. What heals by itself does so while there is war."""
        world, rng, network = self.world, self.rng, self.world.network
        station = rng.choice(world.stations)
        other = rng.choice([each for each in world.stations if each is not station])
        connections = network.live()
        connection = rng.choice(connections) if connections else None
        span = rng.choice((0.05, 0.5, 3.0, 20.0))
        pipe = None if connection is None else rng.choice(connection.pipes)
        match fault:
            case "resets" if connection is not None:
                world.trace(f"{connection.name} reset")
                connection.reset()
            case "cut-at-byte" if pipe is not None:
                pipe.cut_next = rng.choice((0, 1, 4, 5, 30, 1000, rng.randrange(40_000)))
            case "partitions" | "one-way-partitions":
                ways = [(station.index, other.index), (other.index, station.index)]
                if fault == "one-way-partitions":
                    ways = ways[:1]
                world.trace(f"partition {ways} for {span}")
                network.blocked.update(ways)
                self.later(span, lambda: self.unblock(ways))
            case "stalls" if pipe is not None:
                world.trace(f"{pipe.connection.name} stalls to {pipe.dst.host} for {span}")
                pipe.is_stalled = True
                self.later(span, lambda: self.unstall(pipe))
            case "half-open" if connection is not None:
                end: End = rng.choice(connection.ends)
                world.trace(f"{connection.name} half open: {end.host} lost it")
                connection.black_hole()
                end.break_off(110)
            case "black-holes" if connection is not None:
                world.trace(f"{connection.name} black hole")
                connection.black_hole()
            case "process-crashes" | "power-losses":
                if station.life is not None and not station.life.is_closing:
                    station.crash(is_silent=fault == "power-losses")
                    self.later(span, lambda: self.restart(station))
            case "commit-crashes":
                station.habits.crash_in_commit = lambda: self.crash_in_commit(station, span)
            case "failing-commits" | "full-disks":
                station.habits.is_failing = True
                station.habits.is_full = fault == "full-disks"
            case "closes":
                life = station.life
                if life is not None and life.is_up and not life.is_closing:
                    self.helpers.append(world.loop.create_task(self.close_and_start(station)))
            case "clock-jumps":
                station.step(rng.choice((-3600.0, -60.0, -1.0, 1.0, 60.0, 3600.0)))
            case "boots-in-1970" if abs(station.clock_offset) > _DAY:
                station.step(-station.clock_offset)
            case "suspends":
                station.suspend(rng.choice((0.7, 5.0, 60.0, 3600.0)))
            case "loop-clocks" if station.life is not None:
                jump = rng.choice((0.3, 3.0, 20.0))
                station.loop_offset += jump
                world.trace(f"{station}: the clock of its loop jumps by {jump}")
                world.loop.jump(station.life, jump)
            case "application-stalls":
                world.trace(f"{station} application stalls {span}")
                station.stalled_until = world.loop.now + span
            case "denials":
                self.deny(station, other, span)
            case "both-dial":
                for one, two in ((station, other), (other, station)):
                    if one.life is not None and not (one.life.is_closing or one.life.is_sending):
                        one.life.context.run(world.send_nowait, one.life, two, Priority.NORMAL, 20)
            case _:
                pass

    def crash_in_commit(self, station: Station, span: float) -> None:
        life = station.life
        if life is not None and not life.is_closing and not self.is_over:
            station.crash(is_silent=self.store_rng.random() < 0.5)
            self.later(span, lambda: self.restart(station))

    def later(self, delay: float, action: Callable[[], object]) -> None:
        def act() -> None:
            if not self.is_over:
                action()

        self.world.loop.call_later(delay, act)

    def unblock(self, ways: list[tuple[int, int]]) -> None:
        self.world.trace(f"partition {ways} over")
        self.world.network.blocked.difference_update(ways)
        self.world.network.change()

    def unstall(self, pipe: Any) -> None:
        pipe.is_stalled = False
        pipe.kick()

    def restart(self, station: Station) -> None:
        if station.life is None:
            self.helpers.append(self.world.loop.create_task(self.start_again(station)))

    async def start_again(self, station: Station) -> None:
        while station.life is None:
            await station.restart()
            if station.life is None:
                await asyncio.sleep(0.5)

    async def close_and_start(self, station: Station) -> None:
        await station.close()
        await asyncio.sleep(self.rng.choice((0.0, 0.5)))
        await self.start_again(station)

    def deny(self, station: Station, other: Station, span: float) -> None:
        life = station.life
        if life is None or life.is_closing:
            return
        self.world.trace(f"{life} denies {other}")
        station.denied.add(other.index)
        life.denied.add(other.index)
        with contextlib.suppress(StoreFailedError):  # it holds all the same
            life.context.run(life.node.access.deny, other.identity.did)
        self.later(span, lambda: self.undeny(station))

    def undeny(self, station: Station) -> None:
        life = station.life
        if life is None or life.is_closing:
            return
        for index in sorted(station.denied):
            self.world.trace(f"{life} takes n{index} off its list")
            life.denied.discard(index)
            # With a disk that has failed, the next life denies it again.
            with contextlib.suppress(StoreFailedError):
                life.context.run(life.node.access.undeny, self.world.stations[index].identity.did)
                # Before the start it is in no store yet: if the disk fails at the start, the
                # next life denies it again.
                if life.is_up or station.store_path is None:
                    station.denied.discard(index)
