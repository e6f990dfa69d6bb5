"""`SendQueue` against a naive model, its reserve for Critical, and its threads."""

from __future__ import annotations

import sys
import threading
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
from signedwire.delivery.send_queue import SendQueue
from signedwire.types import Priority
from signedwire.wire.header import STREAMS, VOLATILE

LOW, NORMAL, HIGH, CRITICAL = Priority  # as streams, those of durable items
TOP_DOWN = [7, 3, 6, 2, 5, 1, 4, 0]
streams = st.integers(0, STREAMS - 1)


@pytest.fixture
def quick_switching() -> Iterator[None]:
    """Threads change places every 10 µs, so that a race shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class SendQueueMachine(RuleBasedStateMachine):
    """The model is one list of (number, stream) in the order of entering."""

    @initialize(limit=st.integers(1, 6), reserve=st.integers(0, 3))
    def start(self, limit: int, reserve: int) -> None:
        self.limit, self.reserve = limit, reserve
        self.queue: SendQueue[int] = SendQueue(limit, reserve)
        self.model: list[tuple[int, int]] = []
        self.in_flight: list[tuple[int, int]] = []
        self.count = 0
        self.waiting: dict[bool, list[int]] = {True: [], False: []}
        """Numbers of the waiters, for room for durable items or for volatile ones."""
        self.woken: list[int] = []
        self.expected: list[int] = []

    def held(self, *, is_durable: bool) -> list[int]:
        """Return the priorities of the items of one kind."""
        return [at % VOLATILE for _, at in self.model if (at < VOLATILE) == is_durable]

    def fits(self, stream: int) -> bool:
        held = self.held(is_durable=stream < VOLATILE)
        critical = held.count(CRITICAL)
        others = len(held) - critical
        if stream % VOLATILE == CRITICAL:
            return critical + others < self.limit + self.reserve
        # The reserve holds Critical first; only what overflows it takes room from others.
        return others + max(0, critical - self.reserve) < self.limit

    def in_lane(self, stream: int) -> list[int]:
        return [number for number, at in self.model if at == stream]

    def in_order(self) -> list[int]:
        return [number for stream in TOP_DOWN for number in self.in_lane(stream)]

    def room_was_made(self) -> None:
        for is_durable in (True, False):
            if len(self.held(is_durable=is_durable)) <= self.limit // 2:
                self.all_wake(is_durable=is_durable)

    def all_wake(self, *, is_durable: bool) -> None:
        self.expected += self.waiting[is_durable]
        self.waiting[is_durable] = []

    @rule(stream=streams)
    def put(self, stream: int) -> None:
        fits = self.fits(stream)
        assert self.queue.has_room(stream) == fits
        assert self.queue.put(self.count, stream) == fits
        if fits:
            self.model.append((self.count, stream))
        self.count += 1

    @rule()
    def take(self) -> None:
        item = self.queue.take()
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
        self.queue.put_back(iter(items))
        self.model = items + self.model

    @rule(divisor=st.integers(1, 4))
    def remove_if(self, divisor: int) -> None:
        removed = self.queue.remove_if(lambda number: number % divisor == 0)
        assert sorted(removed) == sorted(n for n, _ in self.model if n % divisor == 0)
        self.model = [entry for entry in self.model if entry[0] % divisor]
        self.room_was_made()

    @rule(is_durable=st.booleans())
    def when_room(self, is_durable: bool) -> None:
        number = self.count
        self.count += 1
        is_waiting = self.queue.when_room(lambda: self.woken.append(number), is_durable=is_durable)
        assert is_waiting == (len(self.held(is_durable=is_durable)) > self.limit // 2)
        if is_waiting:
            self.waiting[is_durable].append(number)

    @rule()
    def wake_all(self) -> None:
        self.queue.wake_all()
        self.all_wake(is_durable=True)
        self.all_wake(is_durable=False)

    @invariant()
    def agrees_with_the_model(self) -> None:
        assert list(self.queue) == self.in_order()
        assert len(self.queue) == len(self.model)
        assert bool(self.queue) == bool(self.model)
        sizes = {p: sum(at % VOLATILE == p for _, at in self.model) for p in Priority}
        assert self.queue.sizes() == sizes
        # Once each, in the order of asking, and never before there is room.
        assert self.woken == self.expected
        for stream in range(STREAMS):
            assert list(self.queue.lane(stream)) == self.in_lane(stream)
            assert self.queue.size(stream) == len(self.in_lane(stream))
            assert self.queue.has_room(stream) == self.fits(stream)
        assert self.queue.waiting() == [at for at in reversed(TOP_DOWN) if self.in_lane(at)]


TestSendQueueMachine = SendQueueMachine.TestCase
TestSendQueueMachine.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)


class TestReserve:
    @staticmethod
    def fill(queue: SendQueue[int], priority: Priority) -> int:
        count = 0
        while queue.put(count, priority):
            count += 1
        return count

    @pytest.mark.parametrize("priority", [LOW, NORMAL, HIGH])
    def test_a_full_queue_takes_critical_up_to_the_reserve(self, priority: Priority) -> None:
        queue: SendQueue[int] = SendQueue(5, 2)
        assert self.fill(queue, priority) == 5
        assert self.fill(queue, CRITICAL) == 2
        assert not queue.has_room(priority)

    def test_critical_alone_may_use_everything(self) -> None:
        queue: SendQueue[int] = SendQueue(5, 2)
        assert self.fill(queue, CRITICAL) == 7
        assert not any(queue.has_room(priority) for priority in Priority)

    def test_critical_in_the_reserve_takes_no_room_from_others(self) -> None:
        queue: SendQueue[int] = SendQueue(5, 2)
        assert queue.put(0, CRITICAL)
        assert queue.put(0, CRITICAL)
        assert self.fill(queue, LOW) == 5

    def test_critical_over_the_reserve_takes_room_from_others(self) -> None:
        queue: SendQueue[int] = SendQueue(5, 2)
        for _ in range(4):
            assert queue.put(0, CRITICAL)
        assert self.fill(queue, HIGH) == 3

    def test_without_a_reserve_critical_is_like_the_others(self) -> None:
        queue: SendQueue[int] = SendQueue(5)
        assert self.fill(queue, NORMAL) == 5
        assert self.fill(queue, CRITICAL) == 0

    def test_the_lanes_share_one_limit(self) -> None:
        queue: SendQueue[int] = SendQueue(3, 1)
        assert [queue.put(0, p) for p in (LOW, NORMAL, HIGH, LOW, NORMAL, HIGH, CRITICAL)] == [
            *[True] * 3,
            *[False] * 3,
            True,
        ]

    def test_add_is_never_refused(self) -> None:
        queue: SendQueue[int] = SendQueue(1, 0)
        for number, priority in enumerate((LOW, LOW, CRITICAL, HIGH)):
            queue.add_many([number], priority)
        assert not queue.has_room(CRITICAL)
        assert list(queue) == [2, 3, 0, 1]
        # It counts all the same: there is room when half is empty.
        told: list[bool] = []
        assert queue.when_room(lambda: told.append(True), is_durable=True)
        while len(queue) > 1:
            queue.take()
        assert told == []
        queue.take()
        assert told == [True]

    def test_put_back_is_never_refused(self) -> None:
        queue: SendQueue[int] = SendQueue(2)
        assert queue.put(1, NORMAL)
        assert queue.put(2, HIGH)
        first, second = queue.take(), queue.take()
        assert (first, second) == (2, 1)
        assert self.fill(queue, NORMAL) == 2
        queue.put_back([(2, HIGH), (1, NORMAL)])
        assert list(queue) == [2, 1, 0, 1]
        assert not queue.has_room(NORMAL)


class TestRoom:
    def test_is_told_once_when_half_is_empty(self) -> None:
        queue: SendQueue[int] = SendQueue(4)
        for number in range(4):
            queue.put(number, NORMAL)
        told: list[str] = []
        assert queue.when_room(lambda: told.append("a"), is_durable=True)
        assert queue.when_room(lambda: told.append("b"), is_durable=True)
        queue.take()
        assert told == []
        queue.take()
        assert told == ["a", "b"]
        queue.take()
        assert told == ["a", "b"]
        assert not queue.when_room(lambda: told.append("c"), is_durable=True)

    def test_a_wake_up_may_use_the_lanes(self) -> None:
        queue: SendQueue[int] = SendQueue(1)
        queue.put(1, NORMAL)
        results: list[bool] = []

        def refill() -> None:
            results.append(queue.put(2, HIGH))
            results.append(queue.when_room(refill, is_durable=True))

        assert queue.when_room(refill, is_durable=True)
        assert queue.take() == 1
        assert results == [True, True]
        assert list(queue) == [2]

    def test_remove_if_makes_room(self) -> None:
        queue: SendQueue[int] = SendQueue(2)
        queue.put(1, NORMAL)
        queue.put(2, NORMAL)
        told: list[bool] = []
        assert queue.when_room(lambda: told.append(True), is_durable=True)
        assert queue.remove_if(lambda number: number > 2) == []
        assert told == []
        assert queue.remove_if(lambda number: number == 1) == [1]
        assert told == [True]

    def test_a_take_while_the_waiter_enters_is_not_missed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The consumer takes the last item after when_room() has looked, and
        # before it returns: nobody will take again, so the wake-up must come now.
        queue: SendQueue[int] = SendQueue(1)
        queue.put(1, NORMAL)
        woken = threading.Event()
        consumer = threading.Thread(target=queue.take)
        length = Lanes.__len__

        def look_then_switch(lanes: Lanes[int]) -> int:
            seen = length(lanes)
            if consumer.ident is None:
                consumer.start()
                # It may have to wait for us; then it goes on after when_room().
                consumer.join(0.2)
            return seen

        monkeypatch.setattr(Lanes, "__len__", look_then_switch)
        is_waiting = queue.when_room(woken.set, is_durable=True)
        consumer.join()
        assert len(queue) == 0
        assert not is_waiting or woken.wait(5)


@pytest.mark.usefixtures("quick_switching")
class TestThreads:
    def test_four_producers_and_one_consumer(self) -> None:
        """Nothing is lost or doubled, and each producer's order holds within a lane."""
        queue: SendQueue[tuple[int, Priority, int]] = SendQueue(50, 10)
        each = 2_000
        refused = [0] * 4

        def produce(producer: int) -> None:
            for number in range(each):
                priority = Priority((number + producer) % 4)
                while not queue.put((producer, priority, number), priority):
                    refused[producer] += 1
                    room = threading.Event()
                    if not queue.has_room(priority) and queue.when_room(room.set, is_durable=True):
                        assert room.wait(30), "a wake-up was lost"

        threads = [threading.Thread(target=produce, args=(n,), daemon=True) for n in range(4)]
        for thread in threads:
            thread.start()
        taken: list[tuple[int, Priority, int]] = []
        turns = 0
        while len(taken) < 4 * each:
            item = queue.take()
            if item is None:
                assert any(thread.is_alive() for thread in threads) or queue
                continue
            turns += 1
            if turns % 97 == 0:  # a connection broke with three messages in flight
                batch = [item, *filter(None, (queue.take(), queue.take()))]
                queue.put_back([(entry, entry[1]) for entry in batch])
            elif turns % 101 == 0:
                removed = queue.remove_if(lambda entry: entry[1] is LOW)
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
        queue: SendQueue[int] = SendQueue(100, 20)
        start = threading.Barrier(4)
        accepted = [0] * 4

        def produce(producer: int) -> None:
            start.wait()
            for number in range(200):
                accepted[producer] += queue.put(number, NORMAL)

        threads = [threading.Thread(target=produce, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(accepted) == len(queue) == 100
