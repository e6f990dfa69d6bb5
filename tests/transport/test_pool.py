"""`Pool` against a naive model: the limit, who is evicted, and who comes next."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from signedwire.transport.pool import Pool


def admit_all(pool: Pool[str]) -> list[tuple[str | None, str | None]]:
    steps = []
    while (step := pool.admit())[1] is not None:
        steps.append(step)
    return steps


class PoolMachine(RuleBasedStateMachine):
    """Members are a list, least recently used first; the queue is a list, first come first."""

    @initialize(limit=st.integers(1, 4))
    def start(self, limit: int) -> None:
        self.idle: set[int] = set()
        self.pool: Pool[int] = Pool(limit, self.idle.__contains__)
        self.limit = limit
        self.members: list[int] = []
        self.queue: list[int] = []
        self.count = 0

    @rule()
    def apply(self) -> None:
        self.pool.apply(self.count)
        self.queue.append(self.count)
        self.count += 1

    @rule()
    def admit(self) -> None:
        evicted, admitted = self.pool.admit()
        if admitted is None:
            assert evicted is None
            assert not self.queue or (
                len(self.members) == self.limit and not self.idle.intersection(self.members)
            )
            return
        if evicted is not None:
            # Only when there is no place, only an idle one, the longest unused of them.
            assert len(self.members) == self.limit
            assert evicted == next(member for member in self.members if member in self.idle)
            self.members.remove(evicted)
        assert admitted == self.queue.pop(0)
        self.members.append(admitted)

    @precondition(lambda self: self.members)
    @rule(data=st.data(), is_idle=st.booleans())
    def change(self, data: st.DataObject, is_idle: bool) -> None:
        member = data.draw(st.sampled_from(self.members))
        (self.idle.add if is_idle else self.idle.discard)(member)

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
        self.queue = [applicant for applicant in self.queue if applicant != key]

    @invariant()
    def agrees_with_the_model(self) -> None:
        assert self.pool.active == len(self.members) <= self.limit == self.pool.limit
        assert self.pool.has_queue == bool(self.queue)


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
