"""Each turn of the loop is shared: counted with a clock that goes when work is done."""

from __future__ import annotations

import asyncio

import pytest

from signedwire.transport import shares as shares_module
from signedwire.transport.shares import LoopShares
from wirekit import on_asyncio

STEP = 0.0005


class Work:
    """A link with so many steps of half a millisecond to do."""

    def __init__(self, steps: int, *, is_costly: bool, now: list[float]) -> None:
        self.steps = steps
        self.is_costly = is_costly
        self.is_waiting = False
        self.turns: list[int] = []
        self._now = now

    def work(self, until: float) -> bool:
        done = 0
        while self.steps:
            self.steps -= 1
            done += 1
            self._now[0] += STEP
            if self._now[0] >= until:
                break
        self.turns.append(done)
        return self.steps > 0

    def set_waiting(self, is_waiting: bool) -> None:
        self.is_waiting = is_waiting


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
    assert flood.turns == [8]  # 4 ms
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
        assert now[0] - began == pytest.approx(STEP)


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
    for _ in range(30):  # until each had its first turn
        await asyncio.sleep(0)
    quiet = Work(1, is_costly=False, now=now)
    shares.serve(quiet)
    assert quiet.is_waiting
    assert await turns_until(quiet) <= 2


@on_asyncio
async def test_the_busy_are_not_starved_by_the_quiet(now: list[float]) -> None:
    shares = LoopShares()
    busy = Work(100, is_costly=False, now=now)
    shares.serve(busy)
    for _ in range(200):
        for _ in range(20):
            shares.serve(Work(1, is_costly=False, now=now))
        await asyncio.sleep(0)
        if not busy.steps:
            return
    raise AssertionError("starved")
