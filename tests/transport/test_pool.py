"""`Pool` against a naive model: the limit, who is evicted, and who comes next."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from signedwire.delivery.dial_history import DialHistory, Standing
from signedwire.stats import Counters
from signedwire.transport.pool import Pool
from signedwire.transport.slots import ConnectionSlots
from wirekit import on_asyncio


def admit_all(pool: Pool[str]) -> list[tuple[str | None, str | None]]:
    steps = []
    while (step := pool.admit())[1] is not None:
        steps.append(step)
        pool.opened(step[1])
    return steps


class PoolMachine(RuleBasedStateMachine):
    """Members are a list, least recently used first; each queue is a list, first come first."""

    @initialize(limit=st.integers(1, 9))
    def start(self, limit: int) -> None:
        self.idle: set[int] = set()
        self.in_use: set[int] = set()
        self.pool: Pool[int] = Pool(limit, self.idle.__contains__, self.in_use.__contains__)
        self.limit = limit
        self.members: list[int] = []
        self.opening: dict[int, Standing] = {}
        self.queues: dict[Standing, list[int]] = {standing: [] for standing in Standing}
        self.count = 0

    @rule(standing=st.sampled_from(Standing))
    def apply(self, standing: Standing) -> None:
        self.pool.apply(self.count, standing)
        self.queues[standing].append(self.count)
        self.count += 1

    @rule(data=st.data())
    def hasten(self, data: st.DataObject) -> None:
        key = data.draw(st.integers(0, self.count))
        self.pool.hasten(key)
        for queue in self.queues.values():
            if key in queue:
                queue.remove(key)
                self.queues[Standing.PROVEN].insert(0, key)
                break

    def victims(self, standing: Standing) -> list[int]:
        """Return the members that may be preempted; the first of them is."""
        idle = [member for member in self.members if member in self.idle]
        unused = [member for member in idle if member not in self.in_use]
        if standing is Standing.DOUBTFUL and self.opening:
            unused = [member for member in unused if member in self.opening]
        return unused or (idle if standing is Standing.PROVEN and not self.opening else [])

    @rule()
    def admit(self) -> None:
        evicted, admitted = self.pool.admit()
        standing = next((one for one, queue in self.queues.items() if queue), None)
        if standing is None:
            assert (evicted, admitted) == (None, None)
            return
        doubtful = sum(one is Standing.DOUBTFUL for one in self.opening.values())
        share = max(1, self.limit // 2)
        has_room = len(self.opening) < share and (
            standing is not Standing.DOUBTFUL or doubtful < max(1, share - 1)
        )
        if not has_room:
            expected = [member for member in self.opening if member in self.idle][:1]
        elif len(self.members) < self.limit:
            expected = []
        else:
            expected = self.victims(standing)[:1]
        if not expected and not (has_room and len(self.members) < self.limit):
            assert (evicted, admitted) == (None, None)
            return
        assert evicted == next(iter(expected), None)
        if evicted is not None:
            self.members.remove(evicted)
            self.opening.pop(evicted, None)
        assert admitted == self.queues[standing].pop(0)
        self.members.append(admitted)
        self.opening[admitted] = standing

    @precondition(lambda self: self.opening)
    @rule(data=st.data())
    def opened(self, data: st.DataObject) -> None:
        member = data.draw(st.sampled_from(sorted(self.opening)))
        self.pool.opened(member)
        del self.opening[member]

    @precondition(lambda self: self.members)
    @rule(data=st.data(), is_idle=st.booleans(), is_in_use=st.booleans())
    def change(self, data: st.DataObject, is_idle: bool, is_in_use: bool) -> None:
        member = data.draw(st.sampled_from(self.members))
        (self.idle.add if is_idle else self.idle.discard)(member)
        (self.in_use.add if is_in_use else self.in_use.discard)(member)

    @rule(data=st.data())
    def touch(self, data: st.DataObject) -> None:
        key = data.draw(st.integers(0, self.count))
        self.pool.touch(key)
        if key in self.members:
            self.members.remove(key)
            self.members.append(key)

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        key = data.draw(st.integers(0, self.count))
        self.pool.leave(key)
        self.members = [member for member in self.members if member != key]
        self.opening.pop(key, None)
        for queue in self.queues.values():
            if key in queue:
                queue.remove(key)

    @invariant()
    def agrees_with_the_model(self) -> None:
        assert self.pool.active == len(self.members) <= self.limit == self.pool.limit
        assert self.pool.has_queue == any(self.queues.values())
        assert self.pool.opening() == self.opening
        assert self.pool.connected() == [one for one in self.members if one not in self.opening]
        assert self.pool.waiting() == [one for queue in self.queues.values() for one in queue]
        assert len(self.opening) <= self.pool.max_opening == max(1, self.limit // 2)


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_places_then_a_queue_then_the_least_recently_used_makes_room() -> None:
    idle = {"a", "b", "c"}
    pool: Pool[str] = Pool(2, idle.__contains__)
    for key in "abcd":
        pool.apply(key)
    idle.clear()
    assert admit_all(pool) == [(None, "a"), (None, "b")]
    pool.touch("a")
    idle.update("ab")
    assert pool.admit() == ("b", "c")
    pool.opened("c")
    idle.discard("a")
    assert pool.admit() == (None, None)
    assert pool.has_queue
    pool.leave("a")
    assert pool.admit() == (None, "d")
    assert pool.admit() == (None, None)
    assert not pool.has_queue


def test_a_busy_member_is_never_evicted() -> None:
    pool: Pool[str] = Pool(1, lambda key: False)
    pool.apply("a")
    assert admit_all(pool) == [(None, "a")]
    pool.apply("b")
    for _ in range(3):
        assert pool.admit() == (None, None)
    assert pool.active == 1


def test_an_applicant_may_give_up_its_turn() -> None:
    pool: Pool[str] = Pool(1, lambda key: False)
    for key in "abc":
        pool.apply(key)
    assert admit_all(pool) == [(None, "a")]
    pool.leave("b")
    pool.leave("b")
    pool.leave("stranger")
    pool.touch("b")
    pool.leave("a")
    assert admit_all(pool) == [(None, "c")]


def test_one_who_left_may_apply_again() -> None:
    pool: Pool[str] = Pool(1, lambda key: True)
    for _ in range(3):
        pool.apply("a")
        assert admit_all(pool) == [(None, "a")]
        pool.leave("a")
        assert pool.active == 0


def test_those_that_never_open_have_half_of_the_places() -> None:
    pool: Pool[int] = Pool(10, lambda key: False)
    for key in range(40):
        pool.apply(key)
    while pool.admit() != (None, None):
        pass
    assert pool.active == len(pool.opening()) == 5
    for key in tuple(pool.opening()):
        pool.leave(key)
        pool.apply(key, Standing.DOUBTFUL)
    for key in range(40):
        pool.leave(key)
    for key in range(100, 140):
        pool.apply(key, Standing.DOUBTFUL)
    while pool.admit() != (None, None):
        pass
    assert pool.active == 4
    pool.apply(1000, Standing.PROVEN)
    assert pool.admit() == (None, 1000)


def test_who_may_not_answer_takes_no_place_that_is_in_use() -> None:
    in_use = {"a"}
    pool: Pool[str] = Pool(1, lambda key: True, in_use.__contains__)
    pool.apply("a")
    assert admit_all(pool) == [(None, "a")]
    for standing in (Standing.DOUBTFUL, Standing.UNTRIED):
        pool.apply(str(standing), standing)
        assert pool.admit() == (None, None)
    pool.apply("proven", Standing.PROVEN)
    assert pool.admit() == ("a", "proven")


class FakeDialer:
    """A dialer that notes its calls."""

    is_preemptible = True

    def __init__(self, *, is_idle: bool) -> None:
        self.history = DialHistory(lambda: iter(()))
        self.is_idle = is_idle
        self.calls: list[str] = []

    def grant_slot(self) -> None:
        self.calls.append("grant")

    def call_off(self) -> None:
        self.calls.append("call off")

    def evict(self) -> None:
        self.calls.append("evict")


@pytest.mark.parametrize(
    ("limit", "has_other", "is_idle", "is_held"),
    [
        (1, False, False, True),
        (1, False, True, True),
        (1, True, False, True),
        (1, True, True, False),
        (2, True, True, True),
    ],
)
@on_asyncio
async def test_a_connection_that_opens_may_lose_its_slot_at_once(
    limit: int, has_other: bool, is_idle: bool, is_held: bool
) -> None:
    """Only if it is idle, and another dialer waits for the only slot."""
    slots = ConnectionSlots(limit, Counters())
    first, other = FakeDialer(is_idle=False), FakeDialer(is_idle=False)
    slots.acquire(first)
    if has_other:
        slots.acquire(other)
    assert (first.calls, other.calls) == (["grant"], [])
    first.is_idle = is_idle
    assert slots.opened(first) is is_held
    assert first.calls == (["grant"] if is_held else ["grant", "evict"])
    is_granted = has_other and (limit > 1 or not is_held)
    assert other.calls == (["grant"] if is_granted else [])
    slots.end()
