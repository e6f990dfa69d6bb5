"""Many seeds, each fault alone, the same trace twice, and what the simulator has found."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from signedwire import Priority, TransportConfig
from signedwire.delivery.message import IncomingMessage, Message
from signedwire.types import DeliveryState, Reason

from .__main__ import campaign
from .scenario import CLOCK_FAULTS, FAULTS, STORE_FAULTS, Outcome, run, run_script
from .world import Life, Sent, Station, World

SEEDS: Final = int(os.environ.get("SIGNEDWIRE_SIMULATOR_SEEDS", "100"))
"""A share: `make sim` runs 500 of each kind."""
FIRST: Final = int(os.environ.get("SIGNEDWIRE_SIMULATOR_FIRST", "0"))


@pytest.mark.timeout(600)
def test_nothing_is_violated_in_many_seeded_scenarios() -> None:
    failures = list(campaign(range(FIRST, FIRST + SEEDS)))
    assert not failures, "\n".join(map(str, failures))


@pytest.mark.timeout(600)
def test_nothing_is_violated_where_nodes_have_stores() -> None:
    failures = list(campaign(range(FIRST, FIRST + SEEDS), has_stores=True))
    assert not failures, "\n".join(map(str, failures))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("has_stores", [False, True], ids=["memory", "stores"])
def test_nothing_is_violated_where_clocks_go_apart(has_stores: bool) -> None:
    # Half of `SEEDS` of each kind, so that both together are as many.
    seeds = range(FIRST, FIRST + SEEDS // 2)
    failures = list(campaign(seeds, has_stores=has_stores, has_clocks=True))
    assert not failures, "\n".join(map(str, failures))


@pytest.mark.parametrize("fault", CLOCK_FAULTS)
def test_nothing_is_violated_by_this_fault_of_clocks_alone(fault: str) -> None:
    for seed in range(1_000_000, 1_000_004):
        assert_held(run(seed, (fault,), has_clocks=True))
        assert_held(run(seed, (fault,), has_clocks=True, has_stores=True))


@pytest.mark.parametrize("fault", STORE_FAULTS)
def test_nothing_is_violated_by_this_fault_of_stores_alone(fault: str) -> None:
    for seed in range(1_000_000, 1_000_004):
        assert_held(run(seed, (fault,), has_stores=True))


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_violated_by_this_fault_alone(fault: str) -> None:
    for seed in range(1_000_000, 1_000_004):
        assert_held(run(seed, (fault,)))


def test_nothing_is_violated_without_faults() -> None:
    for seed in range(1_000_000, 1_000_004):
        assert_held(run(seed, ()))


def test_nothing_is_violated_by_all_faults_together() -> None:
    for seed in range(1_000_000, 1_000_004):
        assert_held(run(seed, FAULTS))


class TestDeterminism:
    """A failing seed can be replayed, or all this is worth little."""

    SEEDS = range(40, 52)

    def test_the_same_seed_gives_the_same_trace(self) -> None:
        for seed in self.SEEDS:
            assert run(seed).lines == run(seed).lines

    def test_also_with_stores(self) -> None:
        for seed in self.SEEDS:
            assert run(seed, has_stores=True).lines == run(seed, has_stores=True).lines

    def test_also_where_clocks_go_apart(self) -> None:
        for seed in self.SEEDS:
            first, second = (
                run(seed, has_stores=bool(seed % 2), has_clocks=True) for _ in range(2)
            )
            assert first.lines == second.lines

    def test_also_in_another_process_with_other_hashes(self) -> None:
        script = (
            "import sys, zlib; from tests.simulator.scenario import run\n"
            f"for s in range({self.SEEDS.start}, {self.SEEDS.stop}):\n"
            "    print(zlib.crc32('\\n'.join(run(s).lines).encode()))"
        )
        environment = {**os.environ, "PYTHONHASHSEED": "7"}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        root = Path(__file__).parents[2]
        there = subprocess.run(
            [sys.executable, "-c", script],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        here = [str(zlib.crc32("\n".join(run(seed).lines).encode())) for seed in self.SEEDS]
        assert here == there


class TestTheSimulatorItself:
    """It must see what it is there to see."""

    def test_sends_joint_frames_and_aborts(self) -> None:
        counts = sum((run(seed).counts for seed in range(8)), Counter())
        assert counts["joint"]
        assert counts["aborts"]
        assert counts["volatile accepted"]
        assert counts["volatile unknown"]
        assert counts["volatile replaced"]

    def test_sees_a_volatile_message_that_a_new_process_gets_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from signedwire.delivery.peer_session import PeerSession

        monkeypatch.setattr(PeerSession, "_give_up_written", lambda self: None)
        faults = ("process-crashes", "one-way-partitions")
        outcomes = [run(seed, faults) for seed in range(24, 36)]
        violations = " ".join(text for outcome in outcomes for text in outcome.violations)
        assert "is volatile, and accepted by" in violations

    def test_sees_a_message_delivered_twice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from signedwire.delivery.receive_streams import ReceiveStreams

        old = ReceiveStreams.arrived

        def forgetful(self: ReceiveStreams, *args: object) -> object:
            self.marks = [0, 0, 0, 0]
            return old(self, *args)  # type: ignore[arg-type]

        monkeypatch.setattr(ReceiveStreams, "arrived", forgetful)
        violations = " ".join(run(1_000_000, ("lost-receipts",)).violations)
        assert "accepted twice" in violations

    def test_sees_a_receipt_before_its_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from signedwire.delivery.inbox import Inbox

        monkeypatch.setattr(Inbox, "add_many", lambda self, messages, priority, *sender: None)
        outcome = run(1_000_000, ())
        assert any("its application never got it" in text for text in outcome.violations)

    def test_sees_an_early_receipt(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from signedwire.delivery.store import Store

        old = Store.accept

        def hasty(self: Store, *arguments: object, then: object = None) -> range:
            *most, then = arguments if then is None else (*arguments, then)
            ids = old(self, *most)  # type: ignore[arg-type]
            then(None)  # type: ignore[operator]
            return ids

        monkeypatch.setattr(Store, "accept", hasty)
        assert "is gone from its store" in self.violations_of("commit-crashes")

    def test_sees_a_commit_that_was_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from signedwire.delivery.store.work import Work

        monkeypatch.setattr(Work, "commit", lambda self, *, is_idle: True)
        violations = self.violations_of("process-crashes")
        assert "was persisted, and is gone from the store" in violations
        assert "was accepted by" in violations

    def test_sees_a_missing_mark(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from signedwire.delivery.peer_receiver import PeerReceiver

        old = PeerReceiver._deliver

        def forgetful(self: PeerReceiver, messages: list[IncomingMessage]) -> None:
            for message in messages:
                message.redelivered = False
            old(self, messages)

        monkeypatch.setattr(PeerReceiver, "_deliver", forgetful)
        assert "without a mark" in self.violations_of("process-crashes")

    def test_sees_a_deadline_in_seconds_that_follows_the_wall_clock(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from signedwire.clock import WallInstant, unix_time

        def due_at(seconds: object) -> float:
            return WallInstant(unix_time() + seconds) if isinstance(seconds, float) else 1e12

        monkeypatch.setattr("signedwire.sending.due_at", due_at)
        outcomes = [run(seed, ("clock-jumps",), has_clocks=True) for seed in range(12)]
        violations = " ".join(text for outcome in outcomes for text in outcome.violations)
        assert "before its deadline" in violations

    def test_sees_what_is_written_after_its_deadline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from signedwire.delivery.peer_sender import PeerSender

        monkeypatch.setattr(
            PeerSender, "is_dead", lambda self, message, largest=0: message.is_final
        )
        monkeypatch.setattr(PeerSender, "watch_deadline", lambda self, message: None)
        faults = ("suspends", "partitions")
        outcomes = [run(seed, faults, has_clocks=True) for seed in range(12)]
        violations = " ".join(text for outcome in outcomes for text in outcome.violations)
        assert "after its deadline" in violations

    def violations_of(self, *faults: str) -> str:
        outcomes = [run(1_000_000 + seed, faults, has_stores=True) for seed in range(12)]
        return " ".join(text for outcome in outcomes for text in outcome.violations)

    def test_sees_what_never_arrives(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from signedwire.delivery.answer_queue import AnswerQueue

        monkeypatch.setattr(AnswerQueue, "flush", lambda self: None)
        violations = " ".join(
            text for seed in range(8) for text in run(1_000_000 + seed, ()).violations
        )
        assert "after peace" in violations


# -- what it has found ----------------------------------------------------------------------


class TestFound:
    """Each of these failed once."""

    @pytest.mark.parametrize(
        ("seed", "what"),
        [
            (13, "an expired message, its refusal lost, was answered with a receipt"),
            (177, "links that overlap added up to more than the credit"),
            (123, "a sender whose clock went back fell back to its old epoch each time"),
            (201, "a refusal of an old epoch hit a message of the new one"),
            (227, "a socket was left after close()"),
            (773, "the same refusal, of a message that was in flight"),
            (1435, "a link that ended before its dialer had seen it open was never dialed again"),
            (1654, "the same, closed for its old epoch"),
        ],
    )
    def test_seed(self, seed: int, what: str) -> None:
        assert_held(run(seed))

    @pytest.mark.parametrize(
        ("seed", "what"),
        [
            (2266, "a row that expired in the commit that stored it, told first"),
            (2344, "a refusal for want of room that a crash forgot"),
            (4166, "credit granted for what waited until the store had said what it knows"),
            (4796, "a message in flight left behind by a link that ended while a node closed"),
            (10354, "no credit told of what had waited for the store"),
        ],
    )
    def test_seed_with_stores(self, seed: int, what: str) -> None:
        assert_held(run(seed, has_stores=True))

    def test_critical_gets_through_without_a_reserve(self) -> None:
        async def script(world: World) -> None:
            alice, bob = await pair(world, critical_reserve=0)
            sent = world.send_nowait(alice, bob.station, Priority.CRITICAL, 50)
            await receive(world, bob)
            await reached(sent, DeliveryState.ACCEPTED)

        assert_held(run_script("critical", script))

    def test_handled_is_told_after_a_reconnect(self) -> None:
        async def script(world: World) -> None:
            alice, bob = await pair(world)
            sent = world.send_nowait(alice, bob.station, Priority.NORMAL, 50)
            message = await take(world, bob)
            assert world.on_delivered(bob, message) is sent
            await reached(sent, DeliveryState.ACCEPTED)
            world.network.blocked.update({(0, 1), (1, 0)})
            for connection in world.network.live():
                connection.reset()
            await until(world, lambda: not world.network.live())
            sent.done_by.append(bob)
            bob.context.run(message.ack)
            await until(world, lambda: world.loop.now > 1003.0)
            world.network.blocked.clear()
            world.network.change()
            await reached(sent, DeliveryState.HANDLED)

        assert_held(run_script("handled", script))

    def test_a_full_inbox_on_reconnect_does_not_stop_its_sender_for_ever(self) -> None:
        async def script(world: World) -> None:
            alice, bob = await pair(world, credit_messages=2)
            many = [world.send_nowait(alice, bob.station, Priority.LOW, 50) for _ in range(6)]
            await until(world, lambda: bob.node.stats().inbox_messages == 2)
            for connection in world.network.live():
                connection.reset()
            await until(world, lambda: world.network.made == 2 and bool(alice.node.peers()))
            for _ in many:
                await receive(world, bob)
            for sent in many:
                await reached(sent, DeliveryState.ACCEPTED)

        assert_held(run_script("full inbox", script))

    def test_close_ends_though_v1_messages_wait_for_room(self) -> None:
        async def script(world: World) -> None:
            alice, bob = await pair(world, wire="v1", v1_peers="all", inbox_limit=1)
            for _ in range(20):
                world.send_nowait(alice, bob.station, Priority.LOW, 50)
            await until(world, lambda: bob.node.stats().inbox_messages == 1)
            for connection in world.network.live():
                connection.reset()
            await alice.station.close()
            await until(world, lambda: not bob.node.stats().inbound_connections)
            await bob.station.close()

        assert_held(run_script("close v1", script))

    def test_an_expired_message_is_told_though_its_refusal_is_lost(self) -> None:
        async def script(world: World) -> None:
            alice, bob = await pair(world)
            bob.station.clock_offset = 60.0
            first = world.send_nowait(alice, bob.station, Priority.LOW, 50)
            await receive(world, bob)
            await reached(first, DeliveryState.ACCEPTED)
            world.network.blocked.add((1, 0))
            late = world.send_nowait(alice, bob.station, Priority.LOW, 50, 5.0)
            await until(world, lambda: bool(bob.node.stats().dropped.get(Reason.EXPIRED)))
            for connection in world.network.live():
                connection.reset()
            world.network.blocked.clear()
            world.network.change()
            await reached(late, DeliveryState.EXPIRED)

        assert_held(run_script("late", script))


# -- help -------------------------------------------------------------------------------------


def assert_held(outcome: Outcome) -> None:
    assert not outcome.violations, "\n".join(
        [f"seed {outcome.seed}: {outcome.summary}", *outcome.violations[:10]]
    )


async def pair(world: World, **options: object) -> tuple[Life, Life]:
    """Two machines that are up."""
    stations: list[Station] = [
        world.add(TransportConfig(**options))  # type: ignore[arg-type]
        for _ in range(2)
    ]
    return await stations[0].start(), await stations[1].start()


async def receive(world: World, life: Life) -> Sent | None:
    return world.on_delivered(life, await take(world, life))


async def take(world: World, life: Life) -> Message:
    return await world.loop.create_task(life.node.receive(), context=life.context.copy())


async def reached(sent: Sent, state: DeliveryState) -> None:
    """Wait for it, a minute of virtual time."""
    assert sent.receipt is not None
    receipt = sent.receipt
    for _ in range(600):
        if receipt.state == state:
            return
        await sleep(0.1)
    raise AssertionError(f"{sent} is {receipt.state}, not {state}")


async def until(world: World, condition: object) -> None:
    assert callable(condition)
    for _ in range(6000):
        if condition():
            return
        await sleep(0.01)
    raise AssertionError(f"not within a minute, at {world.loop.now}")


async def sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)
