"""Silence of peers: at the limit and not before, once, and not for a stall of our own loop."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from signedwire import (
    ClosedError,
    MemoryNetwork,
    Node,
    Reason,
    Silence,
    SilenceWatch,
    TransportConfig,
    sync,
)
from signedwire import clock as clocks
from signedwire.clock import Clock
from signedwire.delivery.silence import ping_interval
from signedwire.transport.link import Link
from simulator.loop import VirtualLoop
from wirekit import ALICE, BOB, LIMIT, eventually, identity, on_both_loops, random_seed

EVE = identity(77)
CONFIG = TransportConfig(network="memory")


class LoopClock(Clock):
    """Both clocks follow a virtual loop."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def monotonic(self) -> float:
        return self._loop.now

    def unix_time_us(self) -> int:
        return 1_700_000_000_000_000 + round(self._loop.now * 1e6)


def in_virtual_time(test: Callable[[VirtualLoop], Coroutine[Any, Any, None]]) -> None:
    loop = VirtualLoop()
    with clocks.use(LoopClock(loop)), asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(test(loop))
    assert not loop.problems


class Heard:
    """The silences that were reported, with the instants of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.found: list[tuple[float, Silence]] = []

    def __call__(self, silence: Silence) -> None:
        self.found.append((self._loop.time(), silence))


def link_of(node: Node) -> Link:
    (link,) = node._core.endpoint.links
    assert isinstance(link, Link)
    return link


@contextmanager
def deaf(node: Node) -> Iterator[float]:
    """What comes over the link of this node is read later; yields when the peer was last heard."""
    link = link_of(node)
    late: list[bytes] = []
    link.received = late.append  # type: ignore[assignment, method-assign]
    yield link.state.heard_at
    del link.received
    if not link.state.is_over:
        link.received(b"".join(late))


def pair() -> tuple[Node, Node]:
    network = MemoryNetwork()
    return Node(ALICE, CONFIG, network=network), Node(BOB, CONFIG, network=network)


async def meet(alice: Node, bob: Node) -> None:
    alice.routing.update(bob.did, bob.address)
    await alice.send(bob.did, b"hello")


class TestVirtualTime:
    @pytest.mark.parametrize("limit", [0.1, 0.5, 4.0, 60.0])
    def test_a_quiet_peer_that_lives_is_never_reported(self, limit: float) -> None:
        async def test(loop: VirtualLoop) -> None:
            alice, bob = pair()
            async with alice, bob:
                await meet(alice, bob)
                heard = Heard(loop)
                alice.on_silence(bob.did, limit, heard)
                await asyncio.sleep(100 * limit)
                assert heard.found == []
                session = link_of(alice).state.session
                assert session is not None
                before = session.pings._number
                await asyncio.sleep(limit * 30)
                # Both ends send PINGs, and each hears those of the other.
                most = limit * 30 / min(ping_interval(limit), CONFIG.ping_interval)
                assert session.pings._number - before <= most + 1

        in_virtual_time(test)

    def test_it_is_reported_at_the_limit_once_and_again(self) -> None:
        async def test(loop: VirtualLoop) -> None:
            _, rng = random_seed()
            alice, bob = pair()
            async with alice, bob:
                await meet(alice, bob)
                heard = Heard(loop)
                alice.on_silence(bob.did, 0.5, heard)
                for _ in range(20):
                    await asyncio.sleep(rng.uniform(0, 2))
                    with deaf(alice) as last:
                        await asyncio.sleep(rng.uniform(0.7, 5))
                    ((at, silence),) = heard.found
                    assert 0.5 - 1e-9 <= at - last <= 0.6 + 1e-9
                    assert silence.did == bob.did
                    assert silence.silent_for == pytest.approx(at - last)
                    assert silence.since == pytest.approx(1_700_000_000 + last)
                    assert not silence.is_own_stall
                    heard.found.clear()
                    # Heard again, by a message or by the PONG of the next PING.
                    await asyncio.sleep(0.5)

        in_virtual_time(test)

    def test_a_peer_that_was_never_heard(self) -> None:
        async def test(loop: VirtualLoop) -> None:
            alice, _ = pair()
            heard, late = Heard(loop), Heard(loop)
            alice.on_silence(EVE.did, 0.5, heard)
            await asyncio.sleep(9)
            begin = loop.time()
            async with alice:
                await asyncio.sleep(2)
                ((at, silence),) = heard.found
                assert 0.5 - 1e-9 <= at - begin <= 0.6 + 1e-9
                assert "nothing was heard from did:key:" in str(silence)
                call = loop.time()
                alice.on_silence(EVE.did, 1.0, late)
                await asyncio.sleep(3)
                assert 1.0 - 1e-9 <= late.found[0][0] - call <= 1.1 + 1e-9
                assert len(heard.found) == len(late.found) == 1

        in_virtual_time(test)

    def test_the_end_of_a_link_loses_no_time(self) -> None:
        """The frames of the ended link count, and those of the next one end the silence."""

        async def test(loop: VirtualLoop) -> None:
            alice, bob = pair()
            async with alice:
                heard = Heard(loop)
                async with bob:
                    await meet(alice, bob)
                    alice.on_silence(bob.did, 2.0, heard)
                    await asyncio.sleep(5)
                    link = link_of(alice)
                last = link.state.heard_at
                await asyncio.sleep(10)
                ((at, _),) = heard.found
                assert 2.0 - 1e-9 <= at - last <= 2.1 + 1e-9
                again = Node(BOB, CONFIG, network=alice._core.runtime.network)
                async with again:
                    await meet(alice, again)
                    begin = loop.time()
                    with deaf(alice):
                        await asyncio.sleep(5)
                    assert len(heard.found) == 2
                    assert heard.found[1][0] - begin <= 2.1

        in_virtual_time(test)

    def test_a_stall_of_our_own_loop(self) -> None:
        async def test(loop: VirtualLoop) -> None:
            alice, bob = pair()
            async with alice, bob:
                await meet(alice, bob)
                heard = Heard(loop)
                alice.on_silence(bob.did, 0.5, heard)
                await asyncio.sleep(3)
                loop.now += 30  # and the peer's PONGs wait in the socket
                await asyncio.sleep(3)
                assert heard.found == []
                with deaf(alice):
                    loop.now += 30
                    await asyncio.sleep(1)
                ((_, silence),) = heard.found
                assert silence.is_own_stall
                assert "our own event loop stood still" in str(silence)

        in_virtual_time(test)

    def test_a_watch_that_is_cancelled(self) -> None:
        async def test(loop: VirtualLoop) -> None:
            alice, bob = pair()
            async with alice, bob:
                await meet(alice, bob)
                heard = Heard(loop)
                watch = alice.on_silence(bob.did, 0.5, heard)
                other = alice.on_silence(bob.did, 1.5, heard)
                assert link_of(alice).state.session is not None
                watch.cancel()
                watch.cancel()
                await asyncio.sleep(0)
                with deaf(alice):
                    await asyncio.sleep(1)
                    assert heard.found == []
                    await asyncio.sleep(1)
                    assert len(heard.found) == 1
                other.cancel()
                await asyncio.sleep(0)
                assert alice._core.context.watched.interval(bob.did) is None

        in_virtual_time(test)


@on_both_loops
async def test_the_callback_may_be_a_coroutine_function_and_may_fail(
    caplog: pytest.LogCaptureFixture,
) -> None:
    alice, _ = pair()
    called: list[Silence] = []
    async with alice:

        @alice.on_silence(EVE.did, 0.1)
        async def lost(silence: Silence) -> None:
            await asyncio.sleep(0)
            called.append(silence)
            raise RuntimeError("a bug of the application")

        def fail(silence: Silence) -> None:
            called.append(silence)
            raise RuntimeError("another bug")

        with caplog.at_level(logging.ERROR):
            assert isinstance(lost, SilenceWatch)
            alice.on_silence(EVE.did, 0.1, fail)
            await eventually(lambda: len(caplog.records) == 2)
        assert len(called) == 2
        assert {record.exc_info[1].args[0] for record in caplog.records if record.exc_info} == {  # type: ignore[union-attr]
            "a bug of the application",
            "another bug",
        }
        found: list[Silence] = []
        alice.on_silence(EVE.did, 0.1, found.append)
        await eventually(lambda: found)


@on_both_loops
async def test_under_load_none_is_early() -> None:
    """In real time the upper bound is five times the limit."""
    alice, bob = pair()
    async with alice, bob:
        await meet(alice, bob)
        early = Heard(asyncio.get_running_loop())
        alice.on_silence(bob.did, 0.2, early)
        until = time.monotonic() + 1.0

        async def load() -> None:
            while time.monotonic() < until:
                await alice.send_many(bob.did, [bytes(500)] * 100)

        async def drain() -> None:
            async for _ in bob.messages():
                pass

        draining = asyncio.create_task(drain())
        await load()
        assert [silence for _, silence in early.found if not silence.is_own_stall] == []
        early.found.clear()
        with deaf(alice) as last:
            await eventually(lambda: early.found, timeout=LIMIT)
        at, _ = early.found[0]
        assert at - last >= 0.2 - 1e-6  # a difference of two numbers that are not exact
        draining.cancel()


@on_both_loops
async def test_a_wrong_call() -> None:
    alice, bob = pair()
    for seconds in (0.099, 86_401, float("nan"), -1):
        with pytest.raises(ValueError, match=r"from 0\.1 to 86_400"):
            alice.on_silence(bob.did, seconds, print)
    with pytest.raises(TypeError, match="no number of seconds"):
        alice.on_silence(bob.did, "0.5", print)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="cannot be called"):
        alice.on_silence(bob.did, 0.5, 3)  # type: ignore[call-overload]
    async with alice:
        pass
    with pytest.raises(ClosedError):
        alice.on_silence(bob.did, 0.5, print)


def test_in_a_thread() -> None:
    called: list[tuple[Silence, threading.Thread]] = []
    done = threading.Event()
    with sync.Node(ALICE, CONFIG, network=MemoryNetwork()) as alice:

        @alice.on_silence(EVE.did, 0.1)
        def lost(silence: Silence) -> None:
            called.append((silence, threading.current_thread()))
            alice.stats()
            done.set()

        assert done.wait(LIMIT)
        lost.cancel()
        (silence, thread) = called[0]
        assert silence.did == EVE.did
        assert thread is not alice._portal._thread
        with pytest.raises(TypeError, match="plain function"):
            alice.on_silence(EVE.did, 0.5, asyncio.sleep)  # type: ignore[arg-type]


# -- within -------------------------------------------------------------------------------


@on_both_loops
async def test_the_age_of_a_message() -> None:
    alice, bob = pair()
    async with alice, bob:
        await meet(alice, bob)
        message = await bob.receive(LIMIT)
        await eventually(lambda: bob.age(message) is not None)
        age = bob.age(message)
        assert age is not None
        assert 0 <= age < LIMIT
        assert bob.check_within(message, 60) is None
        assert bob.check_within(message, float("inf")) is None
        assert bob.check_within(message, 0) is Reason.EXPIRED
        await alice.send(bob.did, b"short", deadline=0.05)
        short = bob.receive_nowait()
        if short is not None:  # a slow machine may have let it expire
            await eventually(lambda: bob.check_within(short, 60) is Reason.EXPIRED)
        with pytest.raises(ValueError, match="limit=-1"):
            bob.check_within(message, -1)
    assert bob.age(message) is None
    assert bob.check_within(message, 60) is Reason.CLOCK_UNKNOWN


def test_the_age_in_a_thread() -> None:
    network = MemoryNetwork()
    with (
        sync.Node(ALICE, CONFIG, network=network) as alice,
        sync.Node(BOB, CONFIG, network=network) as bob,
    ):
        alice.routing.update(bob.did, bob.address)
        alice.send(bob.did, b"hello")
        message = bob.receive(LIMIT)
        until = time.monotonic() + LIMIT
        while (verdict := bob.check_within(message, 60)) is not None:
            assert verdict is Reason.CLOCK_UNKNOWN
            assert time.monotonic() < until
        assert bob.age(message) is not None
