"""`Lanes` against a naive model, its reserve for Critical, and its threads."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from signedwire.delivery.lanes import Lanes
from signedwire.types import Priority

LOW, NORMAL, HIGH, CRITICAL = Priority
priorities = st.sampled_from(Priority)


@pytest.fixture
def quick_switching() -> Iterator[None]:
    """Threads change places every 10 µs, so that a race shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class LanesMachine(RuleBasedStateMachine):
    """The model is one list of (number, priority) in the order of entering."""

    @initialize(limit=st.integers(1, 6), reserve=st.integers(0, 3))
    def start(self, limit: int, reserve: int) -> None:
        self.limit, self.reserve = limit, reserve
        self.lanes: Lanes[int] = Lanes(limit, reserve)
        self.model: list[tuple[int, Priority]] = []
        self.in_flight: list[tuple[int, Priority]] = []
        self.count = 0
        self.waiting: list[int] = []
        self.woken: list[int] = []
        self.expected: list[int] = []

    def fits(self, priority: Priority) -> bool:
        critical = sum(p is CRITICAL for _, p in self.model)
        others = len(self.model) - critical
        if priority is CRITICAL:
            return critical + others < self.limit + self.reserve
        # The reserve holds Critical first; only what overflows it takes room from others.
        return others + max(0, critical - self.reserve) < self.limit

    def in_order(self) -> list[int]:
        return [number for p in reversed(Priority) for number, q in self.model if q is p]

    def room_was_made(self) -> None:
        if len(self.model) <= self.limit // 2:
            self.expected += self.waiting
            self.waiting = []

    @rule(priority=priorities)
    def put(self, priority: Priority) -> None:
        fits = self.fits(priority)
        assert self.lanes.has_room(priority) == fits
        assert self.lanes.put(self.count, priority) == fits
        if fits:
            self.model.append((self.count, priority))
        self.count += 1

    @rule()
    def take(self) -> None:
        item = self.lanes.take()
        order = self.in_order()
        assert item == (order[0] if order else None)
        if item is not None:
            entry = next(entry for entry in self.model if entry[0] == item)
            self.model.remove(entry)
            self.in_flight.append(entry)
            self.room_was_made()

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        """The last ones taken, as after a broken connection; those before them have left."""
        count = data.draw(st.integers(0, len(self.in_flight)))
        items = self.in_flight[len(self.in_flight) - count :]
        self.in_flight = []
        self.lanes.put_back(iter(items))
        self.model = items + self.model

    @rule(divisor=st.integers(1, 4))
    def remove_if(self, divisor: int) -> None:
        removed = self.lanes.remove_if(lambda number: number % divisor == 0)
        assert sorted(removed) == sorted(n for n, _ in self.model if n % divisor == 0)
        self.model = [entry for entry in self.model if entry[0] % divisor]
        self.room_was_made()

    @rule()
    def when_room(self) -> None:
        number = self.count
        self.count += 1
        is_waiting = self.lanes.when_room(lambda: self.woken.append(number))
        assert is_waiting == (len(self.model) > self.limit // 2)
        if is_waiting:
            self.waiting.append(number)

    @rule()
    def wake_all(self) -> None:
        self.lanes.wake_all()
        self.expected += self.waiting
        self.waiting = []

    @invariant()
    def agrees_with_the_model(self) -> None:
        assert list(self.lanes) == self.in_order()
        assert len(self.lanes) == len(self.model)
        assert bool(self.lanes) == bool(self.model)
        assert self.lanes.sizes() == {p: sum(q is p for _, q in self.model) for p in Priority}
        # Once each, in the order of asking, and never before there is room.
        assert self.woken == self.expected
        for priority in Priority:
            assert self.lanes.has_room(priority) == self.fits(priority)


TestLanesMachine = LanesMachine.TestCase
TestLanesMachine.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)


class TestReserve:
    @staticmethod
    def fill(lanes: Lanes[int], priority: Priority) -> int:
        count = 0
        while lanes.put(count, priority):
            count += 1
        return count

    @pytest.mark.parametrize("priority", [LOW, NORMAL, HIGH])
    def test_a_full_queue_takes_critical_up_to_the_reserve(self, priority: Priority) -> None:
        lanes: Lanes[int] = Lanes(5, 2)
        assert self.fill(lanes, priority) == 5
        assert self.fill(lanes, CRITICAL) == 2
        assert not lanes.has_room(priority)

    def test_critical_alone_may_use_everything(self) -> None:
        lanes: Lanes[int] = Lanes(5, 2)
        assert self.fill(lanes, CRITICAL) == 7
        assert not any(lanes.has_room(priority) for priority in Priority)

    def test_critical_in_the_reserve_takes_no_room_from_others(self) -> None:
        lanes: Lanes[int] = Lanes(5, 2)
        assert lanes.put(0, CRITICAL)
        assert lanes.put(0, CRITICAL)
        assert self.fill(lanes, LOW) == 5

    def test_critical_over_the_reserve_takes_room_from_others(self) -> None:
        lanes: Lanes[int] = Lanes(5, 2)
        for _ in range(4):
            assert lanes.put(0, CRITICAL)
        assert self.fill(lanes, HIGH) == 3

    def test_without_a_reserve_critical_is_like_the_others(self) -> None:
        lanes: Lanes[int] = Lanes(5)
        assert self.fill(lanes, NORMAL) == 5
        assert self.fill(lanes, CRITICAL) == 0

    def test_the_lanes_share_one_limit(self) -> None:
        lanes: Lanes[int] = Lanes(3, 1)
        assert [lanes.put(0, p) for p in (LOW, NORMAL, HIGH, LOW, NORMAL, HIGH, CRITICAL)] == [
            *[True] * 3,
            *[False] * 3,
            True,
        ]

    def test_add_is_never_refused(self) -> None:
        lanes: Lanes[int] = Lanes(1, 0)
        for number, priority in enumerate((LOW, LOW, CRITICAL, HIGH)):
            lanes.add_many([number], priority)
        assert not lanes.has_room(CRITICAL)
        assert list(lanes) == [2, 3, 0, 1]
        # It counts all the same: there is room when half is empty.
        told: list[bool] = []
        assert lanes.when_room(lambda: told.append(True))
        while len(lanes) > 1:
            lanes.take()
        assert told == []
        lanes.take()
        assert told == [True]

    def test_put_back_is_never_refused(self) -> None:
        lanes: Lanes[int] = Lanes(2)
        assert lanes.put(1, NORMAL)
        assert lanes.put(2, HIGH)
        first, second = lanes.take(), lanes.take()
        assert (first, second) == (2, 1)
        assert self.fill(lanes, NORMAL) == 2
        lanes.put_back([(2, HIGH), (1, NORMAL)])
        assert list(lanes) == [2, 1, 0, 1]
        assert not lanes.has_room()


class TestRoom:
    def test_is_told_once_when_half_is_empty(self) -> None:
        lanes: Lanes[int] = Lanes(4)
        for number in range(4):
            lanes.put(number, NORMAL)
        told: list[str] = []
        assert lanes.when_room(lambda: told.append("a"))
        assert lanes.when_room(lambda: told.append("b"))
        lanes.take()
        assert told == []
        lanes.take()
        assert told == ["a", "b"]
        lanes.take()
        assert told == ["a", "b"]
        assert not lanes.when_room(lambda: told.append("c"))

    def test_a_wake_up_may_use_the_lanes(self) -> None:
        lanes: Lanes[int] = Lanes(1)
        lanes.put(1, NORMAL)
        results: list[bool] = []

        def refill() -> None:
            results.append(lanes.put(2, HIGH))
            results.append(lanes.when_room(refill))

        assert lanes.when_room(refill)
        assert lanes.take() == 1
        assert results == [True, True]
        assert list(lanes) == [2]

    def test_remove_if_makes_room(self) -> None:
        lanes: Lanes[int] = Lanes(2)
        lanes.put(1, NORMAL)
        lanes.put(2, NORMAL)
        told: list[bool] = []
        assert lanes.when_room(lambda: told.append(True))
        assert lanes.remove_if(lambda number: number > 2) == []
        assert told == []
        assert lanes.remove_if(lambda number: number == 1) == [1]
        assert told == [True]

    def test_a_take_while_the_waiter_enters_is_not_missed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The consumer takes the last item after when_room() has looked, and
        # before it returns: nobody will take again, so the wake-up must come now.
        lanes: Lanes[int] = Lanes(1)
        lanes.put(1, NORMAL)
        woken = threading.Event()
        consumer = threading.Thread(target=lanes.take)
        length = Lanes.__len__

        def look_then_switch(lanes: Lanes[int]) -> int:
            seen = length(lanes)
            if consumer.ident is None:
                consumer.start()
                # It may have to wait for us; then it goes on after when_room().
                consumer.join(0.2)
            return seen

        monkeypatch.setattr(Lanes, "__len__", look_then_switch)
        is_waiting = lanes.when_room(woken.set)
        consumer.join()
        assert len(lanes) == 0
        assert not is_waiting or woken.wait(5)


class TakenByAnother(deque[int]):
    """A lane whose last item another thread takes right after this one has seen it."""

    def __len__(self) -> int:
        length = super().__len__()
        if length == 1:
            self.popleft()
        return length


def test_the_last_item_of_a_lane_is_taken_by_another_thread() -> None:
    lanes: Lanes[int] = Lanes(4)
    _, *others = lanes._top_down
    lanes._top_down = (TakenByAnother([1]), *others)
    assert lanes.take() is None
    lanes._top_down = (TakenByAnother([2]), *others)
    assert lanes.put(3, HIGH)
    assert lanes.take() == 3


@pytest.mark.usefixtures("quick_switching")
class TestThreads:
    def test_four_producers_and_one_consumer(self) -> None:
        """Nothing is lost or doubled, and each producer's order holds within a lane."""
        lanes: Lanes[tuple[int, Priority, int]] = Lanes(50, 10)
        each = 2_000
        refused = [0] * 4

        def produce(producer: int) -> None:
            for number in range(each):
                priority = Priority((number + producer) % 4)
                while not lanes.put((producer, priority, number), priority):
                    refused[producer] += 1
                    room = threading.Event()
                    if not lanes.has_room(priority) and lanes.when_room(room.set):
                        assert room.wait(30), "a wake-up was lost"

        threads = [threading.Thread(target=produce, args=(n,), daemon=True) for n in range(4)]
        for thread in threads:
            thread.start()
        taken: list[tuple[int, Priority, int]] = []
        turns = 0
        while len(taken) < 4 * each:
            item = lanes.take()
            if item is None:
                assert any(thread.is_alive() for thread in threads) or lanes
                continue
            turns += 1
            if turns % 97 == 0:  # a connection broke with three messages in flight
                batch = [item, *filter(None, (lanes.take(), lanes.take()))]
                lanes.put_back([(entry, entry[1]) for entry in batch])
            elif turns % 101 == 0:
                removed = lanes.remove_if(lambda entry: entry[1] is LOW)
                taken.append(item)
                taken += removed
            else:
                taken.append(item)
        for thread in threads:
            thread.join(30)
        assert sum(refused), "the queue was never full: the test shows too little"
        assert len(set(taken)) == len(taken) == 4 * each
        for producer in range(4):
            for priority in Priority:
                numbers = [n for p, q, n in taken if (p, q) == (producer, priority)]
                assert numbers == sorted(numbers)

    def test_the_limit_holds_for_many_producers(self) -> None:
        lanes: Lanes[int] = Lanes(100, 20)
        start = threading.Barrier(4)
        accepted = [0] * 4

        def produce(producer: int) -> None:
            start.wait()
            for number in range(200):
                accepted[producer] += lanes.put(number, NORMAL)

        threads = [threading.Thread(target=produce, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(accepted) == len(lanes) == 100
