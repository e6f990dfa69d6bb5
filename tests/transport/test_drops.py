"""Drops are counted one by one and told together: few events, few lines, and nothing uncounted."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from signedwire import Dropped, Event, Identity, Node, NotAllowedError, Reason, UnknownPeerError
from signedwire.delivery.peer_sender import PeerSender
from signedwire.events import EventQueue
from signedwire.home import Home
from signedwire.logs import EventLog
from signedwire.stats import Counters
from signedwire.transport.drops import INTERVAL, MAX_REPORTED, Drops
from tlskit import quick
from wirekit import ALICE, BOB, eventually, identity, on_asyncio, on_both_loops


class Watch:
    """All events of a node, to its end."""

    def __init__(self, node: Node) -> None:
        self.events: list[Event] = []
        self._node = node
        self.task = asyncio.create_task(self._run(node))

    async def _run(self, node: Node) -> None:
        async for event in node.events():
            self.events.append(event)

    def drops(self) -> list[Dropped]:
        return [event for event in self.events if isinstance(event, Dropped)]

    def sums(self) -> Counter[Reason]:
        sums: Counter[Reason] = Counter()
        for event in self.drops():
            sums[event.reason] += event.count
        return sums


@on_both_loops
async def test_many_drops_of_one_peer_are_one_event_a_second() -> None:
    node = Node(ALICE, quick())
    async with node:
        watch = Watch(node)
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(200):
            for _ in range(50):
                node._core.runtime.drop(Reason.EXPIRED, BOB.did)
            await asyncio.sleep(0.005)
        took = loop.time() - began
    await watch.task
    told = watch.drops()
    # One at once, one a second, and one at the end.
    assert 2 <= len(told) <= took / INTERVAL + 2
    assert watch.sums() == node.stats().dropped == {Reason.EXPIRED: 10_000}
    for event in told:
        assert (event.did, event.source) == (BOB.did, str(BOB.did))
        assert 0 < event.first_at <= event.last_at


@on_both_loops
async def test_the_first_of_a_kind_is_told_at_once() -> None:
    async with Node(ALICE, quick()) as node:
        watch = Watch(node)
        await asyncio.sleep(0)
        node._core.runtime.drop(Reason.MALFORMED, None, "192.0.2.1")
        await eventually(lambda: watch.drops(), timeout=0.5 * INTERVAL)
        node._core.runtime.drop(Reason.MALFORMED, BOB.did)
        await eventually(lambda: len(watch.drops()) == 2, timeout=0.5 * INTERVAL)
    await watch.task


@on_both_loops
async def test_strangers_that_choose_their_keys_take_bounded_memory_and_events(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "signedwire.transport")
    dids = [Identity.generate().did for _ in range(10 * MAX_REPORTED)]
    async with Node(ALICE, quick()) as node:
        watch = Watch(node)
        await asyncio.sleep(0)
        for did in dids:
            node._core.runtime.drop(Reason.DENIED, did)
            drops = node._core.runtime.drops
            assert len(drops._waiting.keys() | drops._reported_at.keys()) <= MAX_REPORTED + len(
                Reason
            )
    await watch.task
    assert watch.sums() == {Reason.DENIED: len(dids)}
    assert len(watch.drops()) <= MAX_REPORTED + 2
    lines = [record for record in caplog.records if getattr(record, "event", "") == "dropped"]
    assert len(lines) == len(watch.drops())
    assert sum(record.__dict__["count"] for record in lines) == len(dids)
    assert {record.__dict__["peer"] for record in lines} <= {None, *map(str, dids)}


@on_both_loops
async def test_drops_of_other_threads_are_counted_and_told() -> None:
    async with Node(ALICE, quick()) as node:
        watch = Watch(node)
        await asyncio.sleep(0)

        def drop() -> None:
            for _ in range(2000):
                node._core.runtime.drop(Reason.QUEUE_FULL, BOB.did)

        await asyncio.gather(*(asyncio.to_thread(drop) for _ in range(4)))
    await watch.task
    assert watch.sums() == node.stats().dropped == {Reason.QUEUE_FULL: 8000}


@on_both_loops
@pytest.mark.parametrize("has_store", [False, True])
async def test_the_events_of_a_whole_life_add_up_to_the_counters(
    has_store: bool, tmp_path: Path
) -> None:
    """Messages of ours, envelopes and connections of others, of every way that is easily gone."""
    store = tmp_path / "a.db" if has_store else None
    bob = Node(BOB, quick())
    alice = Node(ALICE, quick(close_timeout=0.1), store=store)
    async with bob, alice:
        watch = Watch(alice)
        await asyncio.sleep(0)
        assert bob.address is not None
        assert alice.address is not None
        if not has_store:
            with pytest.raises(UnknownPeerError):
                await alice.send(BOB.did, b"no way")
        alice.access.deny(BOB.did)
        with pytest.raises(NotAllowedError):
            await alice.send(BOB.did, b"denied")
        bob.routing.update(ALICE.did, alice.address)
        bob.send_nowait(ALICE.did, b"turned away")
        await eventually(lambda: watch.sums()[Reason.DENIED] >= 2)
        assert {event.did for event in watch.drops() if event.reason is Reason.DENIED} == {BOB.did}
        alice.access.undeny(BOB.did)
        _, writer = await asyncio.open_connection(*map(str, alice.address))
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        alice.routing.update(BOB.did, "127.0.0.1:1")
        for _ in range(100):
            alice.send_nowait(BOB.did, b"late", deadline=0.01)
        await eventually(lambda: alice.stats().dropped.get(Reason.EXPIRED) == 100)
        await eventually(lambda: Reason.WRONG_PROTOCOL in alice.stats().dropped)
        writer.close()
        await eventually(lambda: watch.sums() == alice.stats().dropped)
    await watch.task
    assert watch.sums() == alice.stats().dropped


def test_no_counter_of_drops_is_raised_past_the_events() -> None:
    """`Drops` is the one place that counts: else an event would be missing."""
    package = Path(__file__).parents[2] / "src" / "signedwire"
    found = [
        path.name
        for path in package.rglob("*.py")
        if "counters.dropped[" in path.read_text(encoding="utf-8")
    ]
    assert found == ["drops.py"]


class SlowSum(Counter[Reason]):
    """A counter whose sums take long: another thread can read between its read and its write."""

    def __getitem__(self, reason: Reason) -> int:
        count = super().__getitem__(reason)
        time.sleep(0.002)
        return count


class SlowCounters(Counters):
    _refused = 0
    _failed = 0

    @property
    def backpressure_events(self) -> int:
        count = self._refused
        time.sleep(0.002)
        return count

    @backpressure_events.setter
    def backpressure_events(self, count: int) -> None:
        self._refused = count

    @property
    def send_failures(self) -> int:
        count = self._failed
        time.sleep(0.002)
        return count

    @send_failures.setter
    def send_failures(self, count: int) -> None:
        self._failed = count


def test_threads_that_are_refused_at_once_are_all_counted() -> None:
    counters, by_reason = SlowCounters(), SlowSum()
    counters.dropped = SlowSum()
    log = EventLog(logging.getLogger("signedwire.transport"))
    drops = Drops(counters, EventQueue(Home()), log, lambda *_: None)

    def refuse(number: int) -> None:
        for _ in range(5):
            drops.add_refused(BOB.did, by_reason, number)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(refuse, [1, 2, 3, 4]))
    assert counters.backpressure_events == 50
    assert dict(by_reason) == dict(counters.dropped) == {Reason.QUEUE_FULL: 50}


@on_asyncio
async def test_messages_that_threads_end_at_once_are_all_counted() -> None:
    """A thread that sends while the node closes ends its own message."""
    async with Node(ALICE, quick()) as alice:
        runtime, endpoint = alice._core.runtime, alice._core.endpoint
        runtime.counters = runtime.drops._counters = SlowCounters()
        senders = [endpoint.sessions.session(identity(number).did).sender for number in range(4)]

        def end(sender: PeerSender) -> None:
            for _ in range(5):
                sender.note_failed(Reason.CLOSED, 2)

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(end, senders))
        stats = alice.stats()
        assert (stats.send_failures, stats.dropped) == (40, {Reason.CLOSED: 40})
        assert [sender.dropped for sender in senders] == [{Reason.CLOSED: 10}] * 4
