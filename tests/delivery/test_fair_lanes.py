"""`FairLanes`: the turns of senders, against a model of what each is promised, and in threads."""

from __future__ import annotations

import random
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from clockkit import SetClock
from signedwire import clock
from signedwire.delivery.fair_lanes import FairLanes
from signedwire.types import Priority

LOW, NORMAL, HIGH, CRITICAL = Priority
KIB = 1024


class Item(NamedTuple):
    """What waits: of whom, in which lane, and its number there."""

    sender: str
    lane: int
    number: int
    size: int = 200


Lanes = FairLanes[Item]


class Frozen(SetClock):
    """Time passes only when a test says so."""

    def monotonic(self) -> float:
        return 1000.0 + self.slept


@pytest.fixture(autouse=True)
def time() -> Iterator[Frozen]:
    frozen = Frozen()
    with clock.use(frozen):
        yield frozen


@pytest.fixture
def lanes() -> Lanes:
    return FairLanes(1_000_000)


def fill(
    lanes: Lanes,
    sender: str,
    count: int = 1,
    priority: Priority = NORMAL,
    *,
    first: int = 0,
    size: int = 200,
    is_known: bool = False,
) -> None:
    items = [Item(sender, priority, first + n, size) for n in range(count)]
    lanes.add_many(items, priority, sender, is_known)


def take(lanes: Lanes, most: int = 1_000_000) -> list[Item]:
    found: list[Item] = []
    while len(found) < most and (item := lanes.take()) is not None:
        found.append(item)
    return found


def senders(items: list[Item]) -> str:
    return "".join(item.sender for item in items)


def is_clean(lanes: Lanes) -> bool:
    """Whether nothing is left of anybody, which is so where nothing waits."""
    return not (
        lanes._senders
        or lanes._others
        or lanes._others_critical
        or any(ring.senders for ring in lanes._rings)
        or any(lanes._only.lanes)
    )


class TestTurns:
    def test_senders_take_turns(self, lanes: Lanes) -> None:
        for sender, count in (("a", 5), ("b", 2), ("c", 3)):
            fill(lanes, sender, count)
        found = take(lanes)
        assert senders(found) == "abcabcacaa"
        assert [one.number for one in found if one.sender == "a"] == [0, 1, 2, 3, 4]
        assert is_clean(lanes)

    def test_a_newcomer_waits_for_one_of_each(self, lanes: Lanes) -> None:
        fill(lanes, "a", 100)
        assert senders(take(lanes, 10)) == "a" * 10
        fill(lanes, "b", 2)
        assert senders(take(lanes, 5)) == "ababa"

    def test_one_that_comes_again_gains_nothing(self, lanes: Lanes) -> None:
        """With one message at a time, a sender gets no more than with many."""
        fill(lanes, "a", 50)
        got: Counter[str] = Counter()
        fill(lanes, "b")
        for _ in range(40):
            (item,) = take(lanes, 1)
            got[item.sender] += 1
            if item.sender == "b":
                fill(lanes, "b")
        assert got == {"a": 20, "b": 20}

    @pytest.mark.parametrize(
        ("size", "turns"), [(1, 1), (64 * KIB, 1), (64 * KIB + 1, 2), (1024 * KIB, 16)]
    )
    def test_a_large_one_takes_many_turns(self, lanes: Lanes, size: int, turns: int) -> None:
        fill(lanes, "a", 4, size=size)
        fill(lanes, "b", 1000)
        found = senders(take(lanes))
        # Of the last one alone it is not known how long the other would have waited.
        gaps = [len(gap) for gap in found.split("a")[:4]]
        assert sum(gaps) in range(4 * turns - 4, 4 * turns + 1)
        if size <= 64 * KIB:
            assert gaps == [0, 1, 1, 1]

    def test_one_alone_is_taken_at_once(self, lanes: Lanes) -> None:
        fill(lanes, "a", 3, size=2**28)
        assert senders(take(lanes)) == "aaa"
        fill(lanes, "a", size=2**28)
        fill(lanes, "b", size=2**28)
        assert sorted(senders(take(lanes))) == ["a", "b"]

    def test_lanes_of_one_sender_are_strict(self, lanes: Lanes) -> None:
        for priority in (LOW, HIGH, CRITICAL, NORMAL):
            fill(lanes, "a", 100, priority)
        assert [item.lane for item in take(lanes)] == [
            lane for lane in (3, 2, 1, 0) for _ in range(100)
        ]

    def test_a_higher_lane_goes_first(self, lanes: Lanes) -> None:
        fill(lanes, "a", 5, LOW)
        fill(lanes, "b", 5, NORMAL)
        fill(lanes, "c", 5, HIGH)
        assert senders(take(lanes)) == "cccccbbbbbaaaaa"


class TestCritical:
    def test_the_first_64_go_before_all(self, lanes: Lanes) -> None:
        fill(lanes, "h", 100, HIGH, is_known=True)
        fill(lanes, "c", 100, CRITICAL, is_known=True)
        found = senders(take(lanes))
        assert found[:64] == "c" * 64
        assert found[64:136] == "hc" * 36

    def test_of_each_sender(self, lanes: Lanes) -> None:
        fill(lanes, "h", 10, HIGH, is_known=True)
        for sender in "abc":
            fill(lanes, sender, 64, CRITICAL, is_known=True)
        assert senders(take(lanes)) == "abc" * 64 + "h" * 10

    def test_of_each_second(self, lanes: Lanes, time: Frozen) -> None:
        fill(lanes, "h", 1000, HIGH)
        fill(lanes, "c", 64, CRITICAL)
        assert senders(take(lanes, 64)) == "c" * 64
        fill(lanes, "c", 10, CRITICAL)
        assert senders(take(lanes, 20)) == "hc" * 10
        time.slept += 1.0
        fill(lanes, "c", 64, CRITICAL)
        assert senders(take(lanes, 64)) == "c" * 64

    def test_they_overtake_none_of_their_own(self, lanes: Lanes, time: Frozen) -> None:
        """The first of a later second wait behind the rest of an earlier one."""
        fill(lanes, "h", 1000, HIGH)
        fill(lanes, "c", 70, CRITICAL)
        time.slept += 1.0
        fill(lanes, "c", 70, CRITICAL, first=70)
        found = take(lanes, 64 + 2 * 76)
        assert [one.number for one in found if one.sender == "c"] == list(range(140))
        assert senders(found) == "c" * 64 + "hc" * 76

    def test_of_strangers_together_they_are_64_ahead(self, lanes: Lanes) -> None:
        fill(lanes, "n", 1000, is_known=True)
        for number in range(40):
            fill(lanes, f"{number % 10}", 6, CRITICAL)
            fill(lanes, f"{number}.", 64, CRITICAL)
        found = [one.sender for one in take(lanes, 264)]
        assert "n" not in found[:64]
        assert found[64:].count("n") == 100

    def test_known_ones_pass_those_of_strangers(self, lanes: Lanes) -> None:
        for sender in "abcd":
            fill(lanes, sender, 64, CRITICAL)
        fill(lanes, "k", 64, CRITICAL, is_known=True)
        assert senders(take(lanes, 64)) == "k" * 64

    def test_what_is_counted_is_bounded(self, lanes: Lanes) -> None:
        for number in range(5000):
            fill(lanes, f"s{number}", 1, CRITICAL)
        assert len(lanes._first_critical._counts) == 4096
        fill(lanes, "k", 1, CRITICAL, is_known=True)
        fill(lanes, "l", 1, HIGH, is_known=True)
        assert senders(take(lanes, 1)) == "k"


class TestKnownSenders:
    def test_come_before_strangers(self, lanes: Lanes) -> None:
        fill(lanes, "s", 100, HIGH)
        fill(lanes, "k", 10, LOW, is_known=True)
        assert senders(take(lanes, 12)) == "k" * 10 + "ss"

    def test_leave_strangers_one_in_16(self, lanes: Lanes) -> None:
        for sender in "stu":
            fill(lanes, sender, 100)
        for sender in "kl":
            fill(lanes, sender, 1000, is_known=True)
        found = senders(take(lanes, 16 * 30))
        assert found[:32] == "kl" * 7 + "ks" + "lk" * 7 + "lt"
        assert Counter(found) == {"k": 225, "l": 225, "s": 10, "t": 10, "u": 10}

    def test_a_lane_of_strangers_leaves_the_lower_ones_one_in_16(self, lanes: Lanes) -> None:
        fill(lanes, "h", 10_000, HIGH)
        fill(lanes, "n", 1000, NORMAL)
        fill(lanes, "l", 1000, LOW)
        assert Counter(senders(take(lanes, 4096))) == {"h": 3840, "n": 240, "l": 16}

    def test_who_becomes_known_meanwhile(self, lanes: Lanes) -> None:
        """What waits of it, in whatever lane, comes with it and in order."""
        fill(lanes, "s", 100)
        fill(lanes, "t", 3)
        fill(lanes, "t", 3, LOW)
        assert senders(take(lanes, 2)) == "st"
        fill(lanes, "t", 3, first=3, is_known=True)
        found = take(lanes, 8)
        assert senders(found) == "t" * 8
        assert [(one.lane, one.number) for one in found] == [
            *((1, number) for number in range(1, 6)),
            *((0, number) for number in range(3)),
        ]
        assert senders(take(lanes)) == "s" * 99
        assert is_clean(lanes)

    def test_who_changes_often_has_one_place(self, lanes: Lanes) -> None:
        fill(lanes, "s", 1000)
        for number in range(100):
            fill(lanes, "t", 1, first=number, is_known=number % 2 == 0)
        assert sum(len(ring.senders) for ring in lanes._rings) <= 4
        found = [one.number for one in take(lanes) if one.sender == "t"]
        assert found == list(range(100))
        assert is_clean(lanes)


class TestRoom:
    def test_counts_what_waits_of_all(self) -> None:
        lanes: Lanes = FairLanes(4, 2)
        for number, sender in enumerate("abab"):
            assert lanes.put(Item(sender, NORMAL, number), NORMAL, sender, False)
        assert not lanes.put(Item("c", NORMAL, 0), NORMAL, "c", False)
        assert lanes.put(Item("a", CRITICAL, 0), CRITICAL, "a", False)
        assert lanes.put(Item("c", CRITICAL, 0), CRITICAL, "c", False)
        assert not lanes.put(Item("c", CRITICAL, 1), CRITICAL, "c", False)
        assert (len(lanes), lanes.has_room(), lanes.has_room(CRITICAL)) == (6, False, False)
        assert lanes.take() == Item("a", CRITICAL, 0)
        assert (lanes.has_room(), lanes.has_room(CRITICAL)) == (False, True)
        woken: list[int] = []
        assert lanes.when_room(lambda: woken.append(len(lanes)))
        assert senders(take(lanes)) == "cabab"
        assert woken == [2]

    def test_nothing_is_left_of_who_has_nothing(self, lanes: Lanes) -> None:
        for number in range(300):
            fill(lanes, f"{number}", 1 + number % 3, Priority(number % 4))
        assert len(lanes._senders) == 300
        assert len(take(lanes)) == 600
        assert is_clean(lanes)


class TakenByAnother(deque[Item]):
    """A lane whose last item another thread takes right after this one has seen it."""

    def __len__(self) -> int:
        length = super().__len__()
        if length == 1:
            self.popleft()
        return length


class TestTakenByAnotherThread:
    def test_the_last_item_of_a_lane_of_one_sender(self, lanes: Lanes) -> None:
        lanes._plain = (TakenByAnother([Item("a", CRITICAL, 0)]), *lanes._all[1:])
        assert lanes.take() is None
        lanes._plain = (TakenByAnother([Item("a", CRITICAL, 1)]), *lanes._all[1:])
        lanes._all[1].append(Item("a", HIGH, 0))
        assert lanes.take() == Item("a", HIGH, 0)

    def test_the_last_item_of_the_first_of_two_senders(self, lanes: Lanes) -> None:
        """That thread began when there was one sender, and so takes without the lock."""
        fill(lanes, "a", 1, CRITICAL)
        fill(lanes, "b", 2)
        assert lanes._all[0].popleft().sender == "a"
        assert [lanes.take(), lanes.take()] == [Item("b", NORMAL, 0), Item("b", NORMAL, 1)]
        assert is_clean(lanes)


class TestSweep:
    def test_of_one_of_several(self, lanes: Lanes) -> None:
        for priority in Priority:
            for sender in "abc":
                fill(lanes, sender, 5, priority)
        removed = lanes.sweep(lambda item: item.sender == "b")
        assert (len(removed), len(lanes)) == (20, 40)
        assert Counter(senders(take(lanes))) == {"a": 20, "c": 20}
        assert is_clean(lanes)

    def test_of_all_but_one_and_of_all(self, lanes: Lanes) -> None:
        for sender in "abc":
            fill(lanes, sender, 5)
        assert len(lanes.sweep(lambda item: item.sender != "c")) == 10
        fill(lanes, "c", 5, HIGH)
        assert [item.lane for item in take(lanes)] == [HIGH] * 5 + [NORMAL] * 5
        fill(lanes, "a", 5)
        fill(lanes, "b", 5)
        assert len(lanes.sweep(lambda item: True)) == 10
        assert not lanes
        assert is_clean(lanes)

    def test_of_one_alone(self, lanes: Lanes) -> None:
        fill(lanes, "a", 5)
        assert len(lanes.sweep(lambda item: item.number % 2 == 0)) == 3
        assert [item.number for item in take(lanes)] == [1, 3]


@pytest.mark.parametrize("strangers", [1, 8, 40])
@pytest.mark.parametrize("flood", list(Priority), ids=lambda one: one.name)
@pytest.mark.parametrize("is_known", [False, True], ids=["stranger", "known"])
def test_a_flood_leaves_an_honest_sender_its_share(
    lanes: Lanes, time: Frozen, strangers: int, flood: Priority, is_known: bool
) -> None:
    """Counts, by an application that takes 200 in a second, of 20 Normal a second."""
    credit = {f"s{number}": 100 for number in range(strangers)}
    sent, got = 0, 0
    for _ in range(12):
        for _ in range(10):
            for name, count in credit.items():
                fill(lanes, name, count, flood)
                credit[name] = 0
            fill(lanes, "h", 2, first=sent, is_known=is_known)
            sent += 2
            for item in take(lanes, 20):
                if item.sender == "h":
                    assert item.number == got
                    got += 1
                else:
                    credit[item.sender] += 1
            time.slept += 0.1
        late = sent - got
    taken = 12 * 200
    if is_known or flood is LOW:
        # Half of the application's time at least, of which it needs a fifth.
        assert late <= 64, f"{got} of {sent}"
    elif flood is NORMAL:
        assert got >= min(sent, taken // (strangers + 1)) - 1
    else:
        # Their own lane goes first: one in 16 of what the first Critical leave.
        assert got >= (taken // 2 - 64) // 16


class Model:
    """The rules of `FairLanes`, with lists that are searched: it says whose turn it is."""

    def __init__(self, time: Frozen) -> None:
        self.time = time
        self.waiting: dict[str, dict[int, list[Item]]] = {}
        """By sender, who began to wait first, and lane."""
        self.first: set[Item] = set()
        """Critical ones that go before all."""
        self.counted: tuple[float, Counter[str]] = 0.0, Counter()
        self.known: set[str] = set()
        self.rings: dict[tuple[bool, int], list[str]] = {
            (is_known, lane): [] for is_known in (True, False) for lane in Priority
        }
        self.deficit: Counter[tuple[str, int]] = Counter()
        self.ahead = 0
        self.runs: Counter[str] = Counter()

    def total(self, *lanes: int) -> int:
        return sum(len(held[lane]) for held in self.waiting.values() for lane in lanes)

    def put(self, items: list[Item]) -> None:
        name, lane = items[0].sender, items[0].lane
        held = self.waiting.setdefault(name, {priority: [] for priority in Priority})
        if lane == CRITICAL and all(item in self.first for item in held[CRITICAL]):
            if self.time.monotonic() - self.counted[0] >= 1.0:
                self.counted = self.time.monotonic(), Counter()
            first = items[: 64 - self.counted[1][name]]
            self.counted[1][name] += len(first)
            self.first |= set(first)
        held[lane] += items
        self.look()

    def turn_of(self, name: str, lane: int) -> list[Item]:
        """What a sender has for its turn in a lane."""
        held = self.waiting.get(name)
        if held is None:
            return []
        critical = held[CRITICAL]
        if lane == CRITICAL:
            return critical if critical and critical[0] in self.first else []
        has_rest = any(item not in self.first for item in critical)
        return critical if lane == HIGH and has_rest else held[lane]

    def look(self) -> None:
        """Who is done goes; who has begun to wait enters; one alone takes no turns."""
        self.waiting = {name: held for name, held in self.waiting.items() if any(held.values())}
        if len(self.waiting) < 2:
            self.ahead, self.runs, self.deficit = 0, Counter(), Counter()
            for ring in self.rings.values():
                ring.clear()
            return
        for (is_known, lane), ring in self.rings.items():
            for name in self.waiting:
                if (
                    (name in self.known) == is_known
                    and name not in ring
                    and self.turn_of(name, lane)
                ):
                    ring.append(name)

    def leave(self, is_known: bool, lane: int, at: int) -> None:
        name = self.rings[is_known, lane].pop(at)
        self.deficit[name, lane] = 0

    def choose(self) -> tuple[bool, int]:
        for is_known in (True, False):
            first = self.rings[is_known, CRITICAL]
            while first and not self.turn_of(first[0], CRITICAL):
                self.leave(is_known, CRITICAL, 0)
        if self.rings[True, CRITICAL]:
            return True, CRITICAL
        stages = {
            "known": [(True, HIGH), (True, NORMAL), (True, LOW)],
            "high": [(False, HIGH)],
            "normal": [(False, NORMAL)],
            "low": [(False, LOW)],
        }
        waiting = [
            (stage, next(one for one in rings if self.rings[one]))
            for stage, rings in stages.items()
            if any(self.rings[one] for one in rings)
        ]
        if self.rings[False, CRITICAL] and (not waiting or self.ahead < 64):
            self.ahead += len(waiting) > 0
            return False, CRITICAL
        self.ahead = max(0, self.ahead - 1)
        for stage, ring in waiting[:-1]:
            if self.runs[stage] < 15:
                self.runs[stage] += 1
                return ring
            self.runs[stage] = 0
        return waiting[-1][1]

    def take(self) -> Item | None:
        if not self.waiting:
            return None
        if len(self.waiting) == 1:
            (held,) = self.waiting.values()
            item = next(held[lane] for lane in (3, 2, 1, 0) if held[lane]).pop(0)
            self.look()
            return item
        is_known, lane = self.choose()
        ring = self.rings[is_known, lane]
        while True:
            name = ring.pop(0)
            ring.append(name)
            turn = self.turn_of(name, lane)
            if len(ring) > 1:
                cost = max(64 * KIB, turn[0].size)
                self.deficit[name, lane] += 64 * KIB
                if self.deficit[name, lane] < cost:
                    continue
                self.deficit[name, lane] -= cost
            else:
                self.deficit[name, lane] = 0
            item = turn.pop(0)
            if not self.turn_of(name, lane):
                self.leave(is_known, lane, -1)
            self.look()
            return item

    def sweep(self, name: str) -> list[Item]:
        held = self.waiting.pop(name, {})
        for (is_known, lane), ring in self.rings.items():
            for at in reversed(range(len(ring))):
                if not self.turn_of(ring[at], lane):
                    self.leave(is_known, lane, at)
        self.look()
        return [item for lane in held.values() for item in lane]


@pytest.mark.parametrize("run", range(30))
def test_each_is_taken_once_in_order_and_in_turn(run: int, time: Frozen) -> None:
    seed = random.randrange(2**32)
    draw = random.Random(seed)
    lanes: Lanes = FairLanes(200, 20)
    model = Model(time)
    names = [f"s{n}" for n in range(draw.choice([1, 2, 3, 8]))]
    model.known = {name for name in names if draw.random() < 0.4}
    numbers: Counter[tuple[str, int]] = Counter()
    priorities = draw.choice([[NORMAL], [NORMAL, HIGH], [CRITICAL, HIGH], list(Priority)])
    sizes = draw.choice([[100], [100, 64 * KIB, 65 * KIB, 700 * KIB]])

    def check(what: str, found: object, expected: object) -> None:
        assert found == expected, f"{what}: {found}, not {expected}; seed {seed}"

    for _ in range(1500):
        step = draw.random()
        name, priority = draw.choice(names), draw.choice(priorities)
        if step < 0.35:
            count = draw.choice([1, 1, 2, 10])
            number = numbers[name, priority]
            items = [Item(name, priority, number + n, draw.choice(sizes)) for n in range(count)]
            if count == 1:
                critical, rest = model.total(CRITICAL), model.total(LOW, NORMAL, HIGH)
                room = 200 - rest - max(0, critical - 20)
                if priority is CRITICAL:
                    room = 220 - rest - critical
                check("room", lanes.has_room(priority), room > 0)
                is_taken = lanes.put(items[0], priority, name, name in model.known)
                check("put", is_taken, room > 0)
                if not is_taken:
                    continue
            else:
                lanes.add_many(items, priority, name, name in model.known)
            numbers[name, priority] += count
            model.put(items)
        elif step < 0.36:
            removed = lanes.sweep(lambda item, gone=name: item.sender == gone)  # type: ignore[misc]
            check("swept", sorted(removed), sorted(model.sweep(name)))
        elif step < 0.4:
            time.slept += draw.random()
        else:
            for _ in range(draw.choice([1, 5])):
                check("taken", lanes.take(), model.take())
        check("how many", len(lanes), model.total(*Priority))
        check("whether any", bool(lanes), len(lanes) > 0)
        if not lanes:
            assert is_clean(lanes), f"seed {seed}"


@pytest.fixture
def quick_switching() -> Iterator[None]:
    """Threads change places every 10 µs, so that a race shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("quick_switching")
@pytest.mark.parametrize("takers", [1, 3])
def test_in_threads_each_is_taken_once_and_in_order(takers: int) -> None:
    seed = random.randrange(2**32)
    draw = random.Random(seed)
    lanes: Lanes = FairLanes(1_000_000)
    ended = threading.Event()
    got: list[list[Item]] = [[] for _ in range(takers)]

    def consume(own: list[Item]) -> None:
        while True:
            is_last_look = ended.is_set()
            item = lanes.take()
            if item is not None:
                own.append(item)
            elif is_last_look:
                return

    threads = [threading.Thread(target=consume, args=(own,), daemon=True) for own in got]
    for thread in threads:
        thread.start()
    numbers: Counter[tuple[str, int]] = Counter()
    swept: list[Item] = []
    for _ in range(6000):
        # Mostly one sender, so that it is alone and is not, by turns.
        name = draw.choice(["a", "a", "a", "b", "c"])
        priority = draw.choice(list(Priority))
        items = []
        for _ in range(draw.choice([1, 1, 4])):
            items.append(Item(name, priority, numbers[name, priority]))
            numbers[name, priority] += 1
        lanes.add_many(items, priority, name, name == "c")
        if draw.random() < 0.05:
            gone = draw.choice("abc")
            swept += lanes.sweep(lambda item, gone=gone: item.sender == gone)  # type: ignore[misc]
    ended.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), f"seed {seed}"
    everything = Counter([*swept, *(item for own in got for item in own)])
    sent = {Item(*key, n) for key, count in numbers.items() for n in range(count)}
    assert set(everything) == sent, f"lost or made up, seed {seed}"
    assert set(everything.values()) == {1}, f"doubled, seed {seed}"
    for own in got:
        last: dict[tuple[str, int], int] = {}
        for item in own:
            key = item.sender, item.lane
            assert item.number > last.get(key, -1), f"{item} out of order, seed {seed}"
            last[key] = item.number
    assert len(lanes) == 0
    assert lanes.take() is None
    assert is_clean(lanes), f"seed {seed}"
