"""Each turn of the loop is shared: counted with a clock that goes when work is done."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from signedwire.transport import shares as shares_module
from signedwire.transport.shares import LoopShares
from wirekit import on_asyncio

STEP = 0.0005
RNG = random.Random(1)


class Work:
    """A link with so many steps of half a millisecond to do."""

    def __init__(self, steps: int, *, is_costly: bool, now: list[float]) -> None:
        self.steps = steps
        self.is_costly = is_costly
        self.is_waiting = False
        self.is_aborted = False
        self.is_reset = False
        self.turn_tag = 0.0
        self.turns: list[int] = []
        self._now = now
        # No two links cost quite the same.
        self._step = STEP * (1 + RNG.random() / 10)

    def work(self, now: float, until: float) -> bool:
        done = 0
        while self.steps:
            self.steps -= 1
            done += 1
            self._now[0] += self._step
            if self._now[0] >= until:
                break
        self.turns.append(done)
        return self.steps > 0

    def drop_if_reset(self) -> bool:
        return self.is_reset

    def set_waiting(self, is_waiting: bool) -> None:
        self.is_waiting = is_waiting

    def abort(self) -> None:
        self.is_aborted = True


class Broken(Work):
    def work(self, now: float, until: float) -> bool:
        raise RuntimeError("a fault of ours")


class Unpausable(Work):
    """A link whose stream cannot be paused, read on, or aborted."""

    def __init__(self, steps: int, *, fails: str, now: list[float]) -> None:
        super().__init__(steps, is_costly=True, now=now)
        self._fails = fails

    def work(self, now: float, until: float) -> bool:
        if self._fails == "abort":
            raise RuntimeError("a fault of ours")
        return super().work(now, until)

    def drop_if_reset(self) -> bool:
        if self._fails == "drop":
            self._fails = ""
            raise RuntimeError("the fault of a network")
        return False

    def set_waiting(self, is_waiting: bool) -> None:
        super().set_waiting(is_waiting)
        if self._fails == ("pause" if is_waiting else "resume"):
            raise RuntimeError("the fault of a network")

    def abort(self) -> None:
        raise RuntimeError("the fault of a network")


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    instant = [0.0]
    monkeypatch.setattr(shares_module, "monotonic", lambda: instant[0])
    return instant


async def turns_until(done: Work, limit: int = 10_000) -> int:
    for turn in range(limit):
        if not done.steps:
            return turn
        await asyncio.sleep(0)
    raise AssertionError("never done")


@on_asyncio
async def test_little_work_is_done_at_once(now: list[float]) -> None:
    one = Work(1, is_costly=True, now=now)
    LoopShares().serve(one)
    assert (one.steps, one.is_waiting) == (0, False)


@on_asyncio
async def test_a_flood_waits_for_later_turns_and_is_not_read_meanwhile(now: list[float]) -> None:
    shares = LoopShares()
    flood = Work(100, is_costly=True, now=now)
    shares.serve(flood)
    assert flood.turns == [2]  # 1 ms
    waited = flood.is_waiting
    await turns_until(flood)
    assert (waited, flood.is_waiting) == (True, False)
    assert max(flood.turns) <= 8


@on_asyncio
@pytest.mark.parametrize("links", [1, 8, 40])
async def test_a_flood_of_strangers_delays_an_honest_peer_by_one_share(
    now: list[float], links: int
) -> None:
    shares = LoopShares()
    floods = [Work(10_000, is_costly=True, now=now) for _ in range(links)]
    for flood in floods:
        shares.serve(flood)
    for _ in range(20):
        await asyncio.sleep(0)
        began = now[0]
        honest = Work(1, is_costly=False, now=now)
        shares.serve(honest)
        assert honest.steps == 0, "the strangers' share is not the honest peer's"
        assert now[0] - began == pytest.approx(STEP, rel=0.1)


@on_asyncio
async def test_strangers_take_turns(now: list[float]) -> None:
    shares = LoopShares()
    works = [Work(40, is_costly=True, now=now) for _ in range(10)]
    for work in works:
        shares.serve(work)
    while any(work.steps for work in works[1:]):
        await asyncio.sleep(0)
        left = [work.steps for work in works[1:]]
        assert max(left) - min(left) <= 4, "who came first has more than the others"


@on_asyncio
async def test_one_that_had_nothing_waiting_goes_first(now: list[float]) -> None:
    shares = LoopShares()
    busy = [Work(10_000, is_costly=False, now=now) for _ in range(40)]
    for work in busy:
        shares.serve(work)
    for _ in range(100):  # until each had its first turn
        await asyncio.sleep(0)
    quiet = Work(1, is_costly=False, now=now)
    shares.serve(quiet)
    assert quiet.is_waiting
    assert await turns_until(quiet) <= 2


@on_asyncio
async def test_the_busy_are_not_starved_by_the_quiet(now: list[float]) -> None:
    shares = LoopShares()
    busy = Work(20, is_costly=False, now=now)
    shares.serve(busy)
    newcomers: list[Work] = []
    for _ in range(2000):
        # More than there is time for, as many at once as there may be.
        newcomers = [work for work in newcomers if work.steps]
        while len(newcomers) < 100:
            newcomers.append(Work(1, is_costly=False, now=now))
            shares.serve(newcomers[-1])
        await asyncio.sleep(0)
        if not busy.steps:
            return
    raise AssertionError("starved")


@on_asyncio
async def test_a_fault_in_one_link_stops_no_other(now: list[float]) -> None:
    shares = LoopShares()
    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    alone = Broken(1, is_costly=False, now=now)
    shares.serve(alone)  # at once, in the socket's own call
    assert alone.is_aborted
    first = Work(10, is_costly=True, now=now)
    broken, last = Broken(10, is_costly=True, now=now), Work(10, is_costly=True, now=now)
    for work in (first, broken, last):
        shares.serve(work)
    assert await turns_until(first) + await turns_until(last) < 20
    assert (broken.is_aborted, first.is_aborted, last.is_aborted) == (True, False, False)
    assert [str(context["exception"]) for context in told] == ["a fault of ours"] * 2


@pytest.mark.parametrize("fails", ["abort", "drop", "pause", "resume"])
@on_asyncio
async def test_a_fault_of_a_network_stops_no_other_link(now: list[float], fails: str) -> None:
    """The fault goes to the loop's handler, and the links that wait have their turns."""
    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    shares = LoopShares()
    faulty = Unpausable(12, fails=fails, now=now)
    others = [Work(12, is_costly=True, now=now) for _ in range(6)]
    for work in (others[0], faulty, *others[1:]):
        with contextlib.suppress(RuntimeError):  # as `received()` of its stream raises
            shares.serve(work)
    for work in others:
        await turns_until(work)
    assert not any(work.is_waiting for work in others)
    assert faulty.steps == (12 if fails == "abort" else 0)
    assert fails == "pause" or told


@on_asyncio
async def test_a_link_that_cannot_pause_has_its_turn_nevertheless(now: list[float]) -> None:
    shares = LoopShares()
    faulty = Unpausable(12, fails="pause", now=now)
    with pytest.raises(RuntimeError, match="network"):
        shares.serve(faulty)
    await turns_until(faulty)


async def longest_turn(now: list[float], costs: float, turns: int) -> float:
    """What the application does with it costs so many times what the input did."""
    longest, before, spent = 0.0, now[0], 0.0
    for _ in range(turns):
        await asyncio.sleep(0)
        input_time = now[0] - before - spent
        longest = max(longest, now[0] - before)
        before = now[0]
        spent = costs * input_time
        now[0] += spent
    return longest


@on_asyncio
@pytest.mark.parametrize("costs", [0.0, 1.0, 3.0])
async def test_shares_fit_what_a_whole_turn_takes(now: list[float], costs: float) -> None:
    shares = LoopShares()
    works = [Work(10**6, is_costly=number % 2 == 0, now=now) for number in range(40)]
    for work in works:
        shares.serve(work)
    longest = await longest_turn(now, costs, 200)
    assert longest <= 0.020
    if not costs:
        assert longest >= 0.005, "no turn took both shares although there was time"


@on_asyncio
async def test_an_honest_link_waits_for_one_turn_among_forty_that_never_pause(
    now: list[float],
) -> None:
    """Also where they are taken to bring something: all are in one share."""
    shares = LoopShares()
    works = [Work(10**6, is_costly=False, now=now) for _ in range(40)]
    for work in works:
        shares.serve(work)
    for _ in range(100):
        await asyncio.sleep(0)
    waits = []
    honest = Work(0, is_costly=False, now=now)
    for _ in range(20):
        honest.steps = 1
        shares.serve(honest)
        waits.append(await turns_until(honest))
        for _ in range(50):  # each message every 50 turns
            await asyncio.sleep(0)
    assert max(waits) <= 2


@on_asyncio
async def test_links_that_were_reset_while_they_waited_cost_no_turn(now: list[float]) -> None:
    """Strangers that open, send and reset, time after time: a newcomer comes through."""
    shares = LoopShares()
    gone = [Work(100, is_costly=True, now=now) for _ in range(500)]
    for one in gone:
        shares.serve(one)
    begun = sum(len(one.turns) for one in gone)
    for one in gone:
        one.is_reset = True
    newcomer = Work(3, is_costly=True, now=now)
    shares.serve(newcomer)
    await turns_until(newcomer, 30)
    for _ in range(500 // shares_module._LOOKS + 2):
        await asyncio.sleep(0)
    assert len(shares._waiting) <= shares_module._FEW
    assert sum(len(one.turns) for one in gone) < begun + 200
