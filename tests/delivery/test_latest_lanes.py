"""Newer items take the place of older ones with the same key: the lanes, and a peer's sender."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from peerkit import Desk, ManualClock, closed, still_clock

from linkkit import BOB
from signedwire.delivery.lanes import Lanes
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.send_options import SendOptions, new_ids
from signedwire.delivery.send_queue import SendQueue
from signedwire.types import DeliveryState, Priority, Reason
from signedwire.wire.header import VOLATILE
from signedwire.wire.link_frames import CLOSE_DONE

LOW, NORMAL, HIGH, CRITICAL = Priority
Item = tuple[str, int]
"""A key, empty for none, and a number."""


def key_of(item: Item) -> str | None:
    return item[0] or None


def lanes_of(limit: int = 100, reserve: int = 0) -> Lanes[Item]:
    return Lanes(limit, reserve, key_of)


def take(lanes: Lanes[Item], count: int, priority: int = NORMAL) -> list[Item]:
    """Take items as `take_batch()` does."""
    return lanes.take_from(
        priority, lambda lane: [lane.popleft() for _ in range(min(count, len(lane)))]
    )


class TestLanes:
    def test_the_place_in_the_queue_is_kept(self) -> None:
        lanes = lanes_of()
        assert lanes.put_latest(("a", 1), NORMAL) == (True, None)
        assert lanes.put(("", 2), NORMAL)
        assert lanes.put_latest(("b", 3), NORMAL) == (True, None)
        assert lanes.put_latest(("a", 4), NORMAL) == (True, ("a", 1))
        assert take(lanes, 9) == [("a", 4), ("", 2), ("b", 3)]

    def test_each_lane_has_its_own_keys(self) -> None:
        lanes = lanes_of()
        assert lanes.put_latest(("a", 1), NORMAL) == (True, None)
        assert lanes.put_latest(("a", 2), HIGH) == (True, None)
        assert len(lanes) == 2

    def test_a_full_queue_takes_it_if_an_older_one_waits(self) -> None:
        lanes = lanes_of(2)
        assert lanes.put_latest(("a", 1), NORMAL).was_put
        assert lanes.put(("", 2), NORMAL)
        assert lanes.put_latest(("b", 3), NORMAL) == (False, None)
        assert lanes.put_latest(("a", 4), NORMAL) == (True, ("a", 1))
        assert take(lanes, 9) == [("a", 4), ("", 2)]

    @pytest.mark.parametrize("how", ["batch", "one", "removed", "dead"])
    def test_one_that_has_left_is_not_replaced(self, how: str) -> None:
        lanes = lanes_of()
        lanes.put_latest(("a", 1), NORMAL)
        if how == "batch":
            assert take(lanes, 1) == [("a", 1)]
        elif how == "one":
            assert lanes.take(NORMAL) == ("a", 1)
        elif how == "removed":
            assert lanes.remove_if(lambda _: True) == [("a", 1)]
        else:
            assert lanes.take_from(NORMAL, lambda lane: [lane.popleft()][1:]) == []
        assert not lanes._newest
        assert lanes.put_latest(("a", 2), NORMAL) == (True, None)
        assert take(lanes, 9) == [("a", 2)]

    def test_a_fault_while_a_batch_is_taken(self) -> None:
        lanes = lanes_of()
        lanes.put_latest(("a", 1), NORMAL)

        def fail(lane: deque[Item]) -> list[Item]:
            lane.popleft()
            raise OSError

        with pytest.raises(OSError):
            lanes.take_from(NORMAL, fail)
        assert not lanes._newest

    def test_one_that_comes_back_gives_way_to_the_newer_one(self) -> None:
        lanes = lanes_of()
        lanes.put_latest(("a", 1), NORMAL)
        lanes.put(("", 2), NORMAL)
        taken = take(lanes, 2)
        lanes.put_latest(("a", 3), NORMAL)
        assert lanes.put_back((item, NORMAL) for item in taken) == [("a", 1)]
        assert take(lanes, 9) == [("", 2), ("a", 3)]

    def test_of_those_that_come_back_the_last_one_stays(self) -> None:
        lanes = lanes_of()
        taken: list[Item] = []
        for number in range(3):
            lanes.put_latest(("a", number), NORMAL)
            taken += take(lanes, 1)
        assert lanes.put_back([(item, NORMAL) for item in taken]) == [("a", 0), ("a", 1)]
        assert take(lanes, 9) == [("a", 2)]

    def test_a_place_among_those_with_numbers_is_not_taken(self) -> None:
        """Numbers rise along a lane, and the new item has none yet."""
        lanes = lanes_of(2)
        for number, key in enumerate("ab"):
            lanes.put_latest((key, number), NORMAL)
        taken = take(lanes, 2)
        lanes.put_back([(item, NORMAL) for item in taken])
        assert lanes.put_latest(("a", 2), NORMAL) == (True, ("a", 0))
        assert lanes.put_latest(("a", 3), NORMAL) == (True, ("a", 2))
        assert take(lanes, 9) == [("b", 1), ("a", 3)]

    def test_the_lock_is_held_once_for_a_batch(self) -> None:
        class CountingLock:
            def __init__(self) -> None:
                self.count = 0

            def __enter__(self) -> None:
                self.count += 1

            def __exit__(self, *_: object) -> None:
                pass

        lanes = lanes_of(256)
        lanes.put_many([("", number) for number in range(256)], NORMAL)
        lock = CountingLock()
        lanes._lock = lock  # type: ignore[assignment]
        calls = 0

        def count(frame: object, event: str, argument: object) -> None:
            nonlocal calls
            calls += event == "call"

        sys.setprofile(count)
        try:
            taken = lanes.take_from(NORMAL, take_256)
        finally:
            sys.setprofile(None)
        assert len(taken) == 256
        assert lock.count == 1
        assert calls <= 5, "calls of Python functions for a batch without keys"


def take_256(lane: deque[Item]) -> list[Item]:
    return [lane.popleft() for _ in range(256)]


class LanesMachine(RuleBasedStateMachine):
    """The model is a list of (item, lane, was put back) in the order of leaving."""

    keys = st.sampled_from(["", "a", "b", "c"])
    priorities = st.sampled_from([LOW, CRITICAL])

    @initialize(limit=st.integers(1, 5), reserve=st.integers(0, 2))
    def start(self, limit: int, reserve: int) -> None:
        self.limit, self.reserve = limit, reserve
        self.lanes = lanes_of(limit, reserve)
        self.model: dict[int, list[tuple[Item, bool]]] = {LOW: [], CRITICAL: []}
        self.in_flight: dict[int, list[Item]] = {LOW: [], CRITICAL: []}
        self.count = 0

    def fits(self, priority: int) -> bool:
        low, critical = len(self.model[LOW]), len(self.model[CRITICAL])
        if priority == CRITICAL:
            return low + critical < self.limit + self.reserve
        return low + max(0, critical - self.reserve) < self.limit

    @rule(key=keys, priority=priorities)
    def put(self, key: str, priority: int) -> None:
        self.count += 1
        item, lane = (key, self.count), self.model[priority]
        if not key:
            fits = self.fits(priority)
            assert self.lanes.put(item, priority) == fits
            if fits:
                lane.append((item, False))
            return
        at = next((n for n, (other, _) in enumerate(lane) if other[0] == key), None)
        expected: tuple[bool, Item | None]
        if at is None:
            expected = (self.fits(priority), None)
            if expected[0]:
                lane.append((item, False))
        elif lane[at][1]:
            expected = (True, lane.pop(at)[0])
            lane.append((item, False))
        else:
            expected = (True, lane[at][0])
            lane[at] = (item, False)
        assert self.lanes.put_latest(item, priority) == expected

    @rule(priority=priorities, count=st.integers(0, 3), dead=st.booleans())
    def take(self, priority: int, count: int, dead: bool) -> None:
        lane = self.model[priority]
        gone = [lane.pop(0)[0] for _ in range(min(count, len(lane)))]
        kept = gone[1:] if dead else gone

        def take(real: deque[Item]) -> list[Item]:
            taken = [real.popleft() for _ in range(min(count, len(real)))]
            return taken[1:] if dead else taken

        assert self.lanes.take_from(priority, take) == kept
        self.in_flight[priority] += kept

    @rule(priority=priorities)
    def settle(self, priority: int) -> None:
        self.in_flight[priority] = []

    @rule(priority=priorities)
    def put_back(self, priority: int) -> None:
        back, self.in_flight[priority] = self.in_flight[priority], []
        lane = self.model[priority]
        superseded = []
        for item in reversed(back):
            if item[0] and any(other[0] == item[0] for other, _ in lane):
                superseded.append(item)
            else:
                lane.insert(0, (item, True))
        found = self.lanes.put_back([(item, priority) for item in back])
        assert found == superseded[::-1]

    @rule(key=keys)
    def remove(self, key: str) -> None:
        for lane in self.model.values():
            lane[:] = [entry for entry in lane if entry[0][0] != key]
        self.lanes.remove_if(lambda item: item[0] == key)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "lanes"):
            return
        for priority, lane in self.model.items():
            assert list(self.lanes.lane(priority)) == [item for item, _ in lane]
        waiting = {(p, item[0]) for p, lane in self.model.items() for item, _ in lane if item[0]}
        assert self.lanes._newest.keys() == waiting, "the index holds what waits, and nothing else"
        assert self.lanes._returned.keys() <= waiting


TestLanesMachine = LanesMachine.TestCase
TestLanesMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_producers_and_a_consumer() -> None:
    """Each item ends once, taken or replaced, and the items of a key leave in order."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    queue: SendQueue[Item] = SendQueue(8, 0, key_of)
    each, stream = 3_000, VOLATILE + NORMAL
    replaced: list[list[Item]] = [[] for _ in range(4)]
    refused = [0] * 4

    def produce(producer: int) -> None:
        for number in range(each):
            # Two producers share no key, so the order of each key is that of its producer.
            item = (f"{producer}{number % 3}", number)
            while True:
                was_put, old = queue.put_latest(item, stream)
                if old is not None:
                    replaced[producer].append(old)
                if was_put:
                    break
                refused[producer] += 1

    threads = [threading.Thread(target=produce, args=(n,), daemon=True) for n in range(4)]
    taken: list[Item] = []
    try:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) or queue:
            taken += queue.take_from(
                stream, lambda lane: [lane.popleft() for _ in range(min(3, len(lane)))]
            )
            if (item := queue.take()) is not None:
                taken.append(item)
    finally:
        sys.setswitchinterval(before)
        for thread in threads:
            thread.join(30)
    gone = [item for items in replaced for item in items]
    assert gone, "nothing was replaced: the test shows too little"
    assert len(taken) + len(gone) == len({*taken, *gone}) == 4 * each
    for producer in range(4):
        for key in range(3):
            numbers = [n for name, n in taken if name == f"{producer}{key}"]
            assert numbers == sorted(numbers)


# -- the sender of a peer -----------------------------------------------------------------


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    with still_clock() as still:
        yield still


@pytest.fixture
def desk(clock: ManualClock) -> Desk:
    desk = Desk(send_queue_limit=3)
    desk.route()
    return desk


def post(
    desk: Desk,
    payload: bytes,
    latest: bytes | None = b"",
    *,
    subject: bytes = b"pose",
    priority: Priority = NORMAL,
    expires_at: float | None = None,
) -> OutgoingMessage:
    options = SendOptions(
        BOB.did, priority, expires_at, subject=subject, is_durable=False, latest=latest
    )
    message = OutgoingMessage(options, new_ids(1)[0], payload)
    desk.endpoint.submitter.submit(message, len(payload))
    return message


def fate(message: OutgoingMessage) -> tuple[DeliveryState, Reason | None]:
    return message.state, message.reason


REPLACED = (DeliveryState.FAILED, Reason.REPLACED)


class TestSender:
    def test_the_older_one_ends_as_replaced(self, desk: Desk) -> None:
        old, new = post(desk, b"1"), post(desk, b"2")
        assert fate(old) == REPLACED
        assert old.body == b""
        assert fate(new) == (DeliveryState.QUEUED, None)
        sender = desk.session().sender
        assert sender.dropped == {Reason.REPLACED: 1}
        assert desk.host.counters.replaced == 1
        assert desk.host.counters.send_failures == 0
        desk.host.run()
        link = desk.link()
        assert link.messages == [new]
        assert new.sequence == 1, "numbers are given when a message is written"

    @pytest.mark.parametrize(
        "change",
        [{"latest": b"k"}, {"subject": b"x"}, {"priority": HIGH}, {"latest": None}],
        ids=str,
    )
    def test_another_scope_is_not_touched(self, desk: Desk, change: dict[str, object]) -> None:
        old = post(desk, b"1")
        other = post(desk, b"2", **change)  # type: ignore[arg-type]
        assert fate(old) == fate(other) == (DeliveryState.QUEUED, None)

    def test_a_full_queue(self, desk: Desk) -> None:
        messages = [post(desk, b"1", b"%d" % n) for n in range(3)]
        newer = post(desk, b"2", b"0")
        assert fate(messages[0]) == REPLACED
        desk.host.run()
        assert desk.link().messages == [newer, *messages[1:]]

    def test_the_deadline_of_the_old_one_is_forgotten(self, desk: Desk, clock: ManualClock) -> None:
        old = post(desk, b"1", expires_at=clock.monotonic() + 5)
        desk.host.run()
        assert len(desk.host.timers) == 1
        new = post(desk, b"2", expires_at=clock.monotonic() + 9)
        desk.host.run()
        (timer,) = desk.host.timers
        assert timer.due == 9
        desk.host.wait(10)
        assert fate(old) == REPLACED
        assert new.state is DeliveryState.EXPIRED

    def test_a_written_one_is_not_replaced(self, desk: Desk) -> None:
        link = desk.link()
        old = post(desk, b"1")
        desk.host.run()
        assert link.messages == [old]
        new = post(desk, b"2")
        desk.host.run()
        assert link.messages == [old, new]
        assert fate(old)[1] is fate(new)[1] is None

    def test_a_broken_link_gives_up_what_is_superseded(self, desk: Desk) -> None:
        link = desk.link()
        kept = post(desk, b"0", None)
        first = post(desk, b"1")
        desk.host.run()
        second = post(desk, b"2")
        desk.host.run()
        assert link.messages == [kept, first, second]
        link.end(closed(CLOSE_DONE))
        assert fate(first) == REPLACED
        third = post(desk, b"3")
        assert fate(second) == REPLACED
        with pytest.raises(Exception, match="the peer may have it; it was given up: replaced"):
            second.raise_if_failed()
        again = desk.link()
        assert again.messages == [kept, third]
        assert third.sequence == 4

    def test_over_v1(self, desk: Desk) -> None:
        old, new = post(desk, b"1"), post(desk, b"2")
        assert fate(old) == REPLACED
        sender = desk.session().sender
        assert sender.lanes.take() is new
        newest = post(desk, b"3")
        assert fate(new) == (DeliveryState.QUEUED, None), "a connection has it"
        desk.endpoint.requeue(desk.session(), [new])
        assert fate(new) == REPLACED
        assert list(sender.lanes) == [newest]
