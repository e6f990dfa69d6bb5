"""Nodes whose clocks are set, whose machine was suspended, and whose loop has another clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from test_link import Net, Watch, meet, next_of
from test_links import RawPeer

from clockkit import SetClock, ShiftedLoop
from signedwire import ClockStepped, MessageExpiredError, Node
from signedwire import clock as clock_module
from signedwire.delivery.store.clock_steps import ClockSteps
from signedwire.types import PeerState, Reason
from signedwire.wire.link_frames import Refusal
from signedwire.wire.session import BatchReceived
from tlskit import quick
from wirekit import ALICE, BOB, LIMIT, RawServer, eventually, on_asyncio, on_both_loops, within

YEAR = 365 * 86_400.0
PROMPT = 5.0
"""Seconds: a clock is looked at once in one, and five times as much is the limit."""


class TestAnotherClockOfTheLoop:
    """A loop ahead of `time.monotonic()` once fired without end, one behind it never."""

    @pytest.mark.parametrize("shift", [-100.0, 0.0, 100.0])
    def test_an_idle_link_pings_and_needs_few_timers(self, shift: float) -> None:
        async def main() -> None:
            async with Net().pair(ping_interval=0.1, dead_timeout=0.5) as (alice, bob):
                await within(LIMIT, alice.send(bob.did, b"x"))
                timers, received = loop.timers, bob.stats().bytes_received
                await asyncio.sleep(1.0)
                # Both ends ping ten times, and are asked when next; the rest is for a second's
                # housekeeping. It was 261,370 once.
                assert loop.timers - timers < 150
                assert bob.stats().bytes_received > received
                assert alice.peers()[bob.did].state is PeerState.CONNECTED

        loop = ShiftedLoop(shift)
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(main())

    @pytest.mark.parametrize("shift", [-100.0, 0.0, 100.0])
    def test_a_peer_that_says_nothing_is_declared_dead(self, shift: float) -> None:
        async def main() -> None:
            async with Node(ALICE, quick(ping_interval=0.1, dead_timeout=0.3)) as node:
                raw = await RawPeer.dial(node, BOB)
                await eventually(lambda: BOB.did in node.peers())
                began = loop.time()
                await eventually(lambda: node.stats().inbound_connections == 0)
                assert loop.time() - began < 5 * 0.3
                assert node.stats().dropped[Reason.TOO_SLOW] == 1
                raw.close()

        loop = ShiftedLoop(shift)
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(main())

    def test_a_loop_whose_clock_jumps_ahead_expires_nothing_early(self) -> None:
        async def main() -> None:
            async with Net().pair() as (alice, bob):
                address = alice.routing.resolve(bob.did)
                assert address is not None
                alice.routing.update(bob.did, "127.0.0.1:1")
                receipt = alice.send_nowait(bob.did, b"x", deadline=60.0)
                await asyncio.sleep(0.05)
                loop.shift += 100.0
                await asyncio.sleep(0.1)
                assert receipt.reason is not Reason.EXPIRED
                alice.routing.update(bob.did, address)
                await within(LIMIT, alice.send(bob.did, b"y"))

        loop = ShiftedLoop(0.0)
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(main())


@asynccontextmanager
async def away(store: Path | None = None, **changes: Any) -> AsyncIterator[tuple[Node, SetClock]]:
    """ALICE, whose peer BOB is not there yet, and the clocks."""
    set_clock = SetClock(ahead=changes.pop("ahead", 0.0))
    with clock_module.use(set_clock):
        config = quick(max_attempts=10_000, retry_max_delay=0.05, **changes)
        async with Node(ALICE, config, store=store) as alice:
            alice.routing.update(BOB.did, "127.0.0.1:1")
            yield alice, set_clock


both_kinds = pytest.mark.parametrize("has_store", [False, True], ids=["memory", "store"])


class TestWallClock:
    @both_kinds
    @on_both_loops
    async def test_from_1970_to_today_is_an_event_and_expires_no_seconds(
        self, has_store: bool, tmp_path: Path
    ) -> None:
        store = tmp_path / "a.db" if has_store else None
        async with away(store, ahead=-56 * YEAR) as (alice, set_clock), Watch(alice) as watch:
            receipt = alice.send_nowait(BOB.did, b"at boot", deadline=60.0)
            await asyncio.sleep(0.05)
            set_clock.ahead = 0.0
            await eventually(lambda: watch.of(ClockStepped), PROMPT)
            (event,) = watch.of(ClockStepped)
            assert event.seconds == pytest.approx(56 * YEAR, abs=1.0)
            async with Node(BOB, quick()) as bob:
                meet(alice, bob)
                message = await next_of(bob)
                assert message.payload == b"at boot"
                assert message.expires_at_us is not None
                left = message.expires_at_us / 1e6 - clock_module.unix_time()
                assert 60.0 - LIMIT < left <= 60.0
                message.ack()
                await receipt.wait(until="handled", timeout=LIMIT)

    @both_kinds
    @pytest.mark.parametrize("step", [7200.0, -7200.0])
    @on_asyncio
    async def test_a_date_follows_it_also_while_the_message_waits(
        self, step: float, has_store: bool, tmp_path: Path
    ) -> None:
        async with away(tmp_path / "a.db" if has_store else None) as (alice, set_clock):
            date = datetime.now(UTC) + timedelta(seconds=3600)
            receipt = alice.send_nowait(BOB.did, b"by noon", deadline=date)
            await asyncio.sleep(0.05)
            set_clock.ahead = step
            if step > 0:
                await eventually(lambda: receipt.reason is Reason.EXPIRED, PROMPT)
                return
            await asyncio.sleep(1.2)
            assert receipt.reason is None
            async with Node(BOB, quick()) as bob:
                meet(alice, bob)
                assert (await next_of(bob)).expires_at_us == pytest.approx(
                    date.timestamp() * 1e6, abs=2
                )

    @on_asyncio
    async def test_who_waits_for_an_accepted_message_is_told_of_the_step_too(self) -> None:
        set_clock = SetClock()
        with clock_module.use(set_clock):
            async with Net().pair() as (alice, bob):
                date = datetime.now(UTC) + timedelta(seconds=3600)
                receipt = await within(LIMIT, alice.send(bob.did, b"x", deadline=date))
                waits = [
                    asyncio.create_task(receipt.wait("handled")),
                    asyncio.create_task(asyncio.to_thread(receipt.result, until="handled")),
                ]
                await asyncio.sleep(0.05)
                set_clock.ahead = 7200.0
                for wait in waits:
                    with pytest.raises(MessageExpiredError):
                        await within(PROMPT, wait)

    @on_asyncio
    async def test_rows_on_the_disk_alone_are_moved_with_it(self, tmp_path: Path) -> None:
        """Nobody holds their receipts, and there are more than the queue takes."""
        count = 30
        async with away(tmp_path / "a.db", ahead=-56 * YEAR, send_queue_limit=3) as (alice, clocks):
            date = datetime.fromtimestamp(clock_module.unix_time() + 60, UTC)
            for number in range(count):
                await alice.send(BOB.did, b"%d" % number, deadline=60.0)
            dated = await alice.send(BOB.did, b"by 1970", deadline=date)
            clocks.ahead = 0.0
            await eventually(lambda: dated.reason is Reason.EXPIRED, PROMPT)
            async with Node(BOB, quick()) as bob:
                meet(alice, bob)
                got = [(await next_of(bob)).payload for _ in range(count)]
                assert got == [b"%d" % number for number in range(count)]
                assert not bob.stats().dropped

    @on_asyncio
    async def test_nothing_is_sent_while_the_disk_has_other_bytes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else a crash would send the same message again as another."""
        held: list[Any] = []
        real = ClockSteps._on_moved
        monkeypatch.setattr(
            ClockSteps, "_on_moved", lambda *args: held.append(partial(real, *args))
        )
        async with away(tmp_path / "a.db", ahead=-3600.0) as (alice, clocks):
            await alice.send(BOB.did, b"x", deadline=60.0)
            clocks.ahead = 0.0
            async with Node(BOB, quick()) as bob:
                meet(alice, bob)
                await eventually(lambda: held)
                with pytest.raises(TimeoutError, match="no message"):
                    await bob.receive(0.3)
                held.pop()()
                assert (await next_of(bob)).payload == b"x"

    @on_asyncio
    async def test_a_restart_leaves_nothing_but_the_date(self, tmp_path: Path) -> None:
        async with away(tmp_path / "a.db") as (alice, _):
            await alice.send(BOB.did, b"in an hour", deadline=3600.0)
        async with away(tmp_path / "a.db", ahead=7200.0) as (alice, _):
            await eventually(lambda: alice.stats().store.expired == 1, PROMPT)  # type: ignore[union-attr]

    @on_asyncio
    async def test_since_is_told_by_the_clock_of_today(self) -> None:
        set_clock = SetClock(ahead=-56 * YEAR)
        with clock_module.use(set_clock):
            async with Net().pair() as (alice, bob):
                await within(LIMIT, alice.send(bob.did, b"x"))
                set_clock.ahead = 0.0
                status = alice.peers()[bob.did]
                assert abs(status.since - clock_module.unix_time()) < LIMIT


class TestSuspend:
    @both_kinds
    @on_asyncio
    async def test_seconds_pass_while_the_machine_is_suspended(
        self, has_store: bool, tmp_path: Path
    ) -> None:
        store = tmp_path / "a.db" if has_store else None
        async with away(store) as (alice, set_clock), Watch(alice) as watch:
            late = alice.send_nowait(BOB.did, b"stale", deadline=3600.0)
            early = alice.send_nowait(BOB.did, b"good", deadline=86_400.0)
            await asyncio.sleep(0.05)
            set_clock.slept = 7200.0
            async with Node(BOB, quick()) as bob:
                meet(alice, bob)  # at once: what is late is not written
                assert (await next_of(bob)).payload == b"good"
            await eventually(lambda: late.reason is Reason.EXPIRED, PROMPT)
            assert early.reason is None
            assert not watch.of(ClockStepped)


class TestErrorsNameTheClock:
    @on_asyncio
    async def test_a_refusal_that_is_late_by_the_peers_clock_alone(self) -> None:
        with RawServer() as server:
            async with Node(ALICE, quick()) as alice:
                alice.routing.update(BOB.did, server.address)
                sending = asyncio.create_task(alice.send(BOB.did, b"x", deadline=60.0))
                raw = await RawPeer.accept(server, BOB, ALICE)
                batch = await raw.next(BatchReceived)
                raw.session.send_refusals([Refusal(batch.leaves[0], Reason.EXPIRED)], 1)
                await raw.say()
                with pytest.raises(
                    MessageExpiredError, match="clock may be ahead of ours"
                ) as caught:
                    await within(LIMIT, sending)
                assert "clocks" in str(caught.value.hint)
                raw.close()
