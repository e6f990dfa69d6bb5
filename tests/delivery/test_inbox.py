"""`Inbox`: who is woken by what, in which turn, and that no wake-up is lost between threads."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from signedwire.delivery.fair_lanes import FairLanes
from signedwire.delivery.inbox import Inbox
from signedwire.delivery.message import IncomingMessage
from signedwire.identity import Identity
from signedwire.types import Priority
from signedwire.wire.envelope import SignedEnvelope

ALICE = Identity.from_seed(bytes(32)).did
LOW, NORMAL, HIGH, CRITICAL = Priority


def message(number: int = 1, priority: Priority = NORMAL) -> IncomingMessage:
    envelope = SignedEnvelope.unsigned(
        ALICE, ALICE, b"", sequence_number=number, priority=priority, timestamp_us=1
    )
    return IncomingMessage(envelope.body, envelope.signature, is_proven=False)


def put(inbox: Inbox, number: int = 1, priority: Priority = NORMAL) -> bool:
    return inbox.put(message(number, priority), priority)


def taken(inbox: Inbox) -> list[int]:
    return [m.sequence_number for m in iter(inbox.take, None)]


@pytest.fixture
def quick_switching() -> Iterator[None]:
    """Threads change places every 10 µs, so that a race shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def woken() -> list[str]:
    return []


@pytest.fixture
def waker(woken: list[str]) -> Callable[[str], Callable[[], None]]:
    def make(name: str) -> Callable[[], None]:
        return lambda: woken.append(name)

    return make


Waker = Callable[[str], Callable[[], None]]


class TestQueue:
    def test_highest_priority_first_then_oldest(self) -> None:
        inbox = Inbox(10, 0)
        for number, priority in enumerate((LOW, CRITICAL, NORMAL, HIGH, NORMAL, CRITICAL, LOW)):
            assert put(inbox, number, priority)
        assert len(inbox) == 7
        assert taken(inbox) == [1, 5, 3, 2, 4, 0, 6]
        assert inbox.take() is None

    def test_limit_and_reserve(self) -> None:
        inbox = Inbox(2, 1)
        assert put(inbox, 1)
        assert inbox.has_room()
        assert put(inbox, 2)
        assert not inbox.has_room()
        assert inbox.has_room(CRITICAL)
        assert not put(inbox, 3)
        # What its sender's credit bounds finds room always, and wakes who waits.
        inbox.add_many([message(5)], NORMAL)
        assert taken(inbox) == [1, 2, 5]
        woken: list[bool] = []
        assert inbox.when_filled(lambda: woken.append(True))
        inbox.add_many([message(6)], NORMAL)
        assert woken == [True]
        assert taken(inbox) == [6]
        assert put(inbox, 1)
        assert put(inbox, 2)
        assert put(inbox, 4, CRITICAL)
        assert not put(inbox, 5, CRITICAL)
        assert taken(inbox) == [4, 1, 2]


class TestWaiting:
    def test_a_message_wakes_the_first_who_waits_and_no_other(
        self, woken: list[str], waker: Waker
    ) -> None:
        inbox = Inbox(10, 0)
        assert inbox.when_filled(waker("a"))
        assert inbox.when_filled(waker("b"))
        put(inbox)
        assert woken == ["a"]
        put(inbox)
        assert woken == ["a", "b"]
        put(inbox)
        assert woken == ["a", "b"]

    def test_nobody_waits_where_a_message_waits(self, woken: list[str], waker: Waker) -> None:
        inbox = Inbox(10, 0)
        put(inbox)
        assert not inbox.when_filled(waker("a"))
        put(inbox)
        assert woken == []
        assert len(taken(inbox)) == 2
        assert inbox.when_filled(waker("a"))

    def test_a_refused_message_wakes_nobody(self, woken: list[str], waker: Waker) -> None:
        inbox = Inbox(1, 0)
        assert inbox.when_filled(waker("a"))
        assert put(inbox)
        inbox.take()
        assert inbox.when_filled(waker("b"))
        assert put(inbox)
        assert woken == ["a", "b"]
        assert not put(inbox)
        assert woken == ["a", "b"]

    def test_forget_withdraws(self, woken: list[str], waker: Waker) -> None:
        inbox = Inbox(10, 0)
        a, b = waker("a"), waker("b")
        assert inbox.when_filled(a)
        assert inbox.when_filled(b)
        inbox.forget(a)
        put(inbox)
        assert woken == ["b"]

    def test_forget_of_a_used_wake_up_passes_the_turn_on(
        self, woken: list[str], waker: Waker
    ) -> None:
        inbox = Inbox(10, 0)
        a, b = waker("a"), waker("b")
        assert inbox.when_filled(a)
        assert inbox.when_filled(b)
        put(inbox)
        inbox.forget(a)  # cancelled after it was woken and before it took
        assert woken == ["a", "b"]
        inbox.forget(b)
        assert woken == ["a", "b"]
        assert taken(inbox) == [1]

    def test_forget_passes_nothing_on_where_the_message_was_taken(
        self, woken: list[str], waker: Waker
    ) -> None:
        inbox = Inbox(10, 0)
        a, b = waker("a"), waker("b")
        assert inbox.when_filled(a)
        assert inbox.when_filled(b)
        put(inbox)
        inbox.take()
        inbox.forget(a)
        assert woken == ["a"]

    def test_a_wake_up_may_use_the_inbox(self) -> None:
        inbox = Inbox(10, 0)
        got: list[IncomingMessage | None] = []
        assert inbox.when_filled(lambda: got.append(inbox.take()))
        put(inbox, 7)
        assert [m and m.sequence_number for m in got] == [7]

    def test_a_waiter_withdrawn_while_a_message_comes(
        self, monkeypatch: pytest.MonkeyPatch, waker: Waker, woken: list[str]
    ) -> None:
        # put() has seen a waiter, who is gone when put() gets the lock.
        inbox = Inbox(10, 0)
        a = waker("a")
        assert inbox.when_filled(a)

        class LeavingWaiters(list[Callable[[], None]]):
            def __bool__(self) -> bool:
                was_there = len(self) > 0
                self.clear()
                return was_there

        inbox._waiters = LeavingWaiters([a])
        assert put(inbox)
        assert woken == []


class TestRoom:
    def test_is_told_when_half_is_taken(self, woken: list[str], waker: Waker) -> None:
        inbox = Inbox(4, 0)
        assert not inbox.when_room(waker("a"))
        for number in range(4):
            put(inbox, number)
        assert inbox.when_room(waker("b"))
        inbox.take()
        assert woken == []
        inbox.take()
        assert woken == ["b"]


class TestClose:
    def test_wakes_everybody_and_counts_what_is_left(self, woken: list[str], waker: Waker) -> None:
        inbox = Inbox(2, 0)
        assert inbox.when_filled(waker("a"))
        assert inbox.when_filled(waker("b"))
        assert inbox.close() == 0
        assert inbox.is_closed
        assert woken == ["a", "b"]
        assert not inbox.when_filled(waker("c"))

    def test_wakes_who_waits_for_room(self, woken: list[str], waker: Waker) -> None:
        inbox = Inbox(2, 0)
        put(inbox, 1)
        put(inbox, 2)
        assert inbox.when_room(waker("a"))
        assert inbox.close() == 2
        assert woken == ["a"]
        assert not inbox.when_room(waker("b"))
        # What has arrived can still be taken.
        assert taken(inbox) == [1, 2]

    def test_twice(self) -> None:
        inbox = Inbox(2, 0)
        assert (inbox.close(), inbox.close()) == (0, 0)


class TestThreads:
    def test_a_message_while_the_waiter_enters_is_not_missed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The message comes after when_filled() has looked and before it returns.
        inbox = Inbox(10, 0)
        woken = threading.Event()
        transport = threading.Thread(target=put, args=(inbox,))
        is_filled = FairLanes.__bool__

        def look_then_switch(lanes: FairLanes[IncomingMessage]) -> bool:
            seen = is_filled(lanes)
            if transport.ident is None:
                transport.start()
                # It may have to wait for us; then it goes on after when_filled().
                transport.join(0.2)
            return seen

        monkeypatch.setattr(FairLanes, "__bool__", look_then_switch)
        is_waiting = inbox.when_filled(woken.set)
        transport.join()
        assert len(inbox) == 1
        assert not is_waiting or woken.wait(5)

    @pytest.mark.usefixtures("quick_switching")
    def test_four_consumers_get_everything_once(self) -> None:
        seed = random.randrange(2**32)
        inbox = Inbox(20, 0)
        total = 3_000
        got: list[list[int]] = [[] for _ in range(4)]

        def consume(own: list[int], draw: random.Random) -> None:
            while True:
                arrived = threading.Event()
                if inbox.when_filled(arrived.set):
                    # Some give up early, as with a timeout, and pass their turn on.
                    arrived.wait(0.0 if draw.random() < 0.2 else 30)
                    inbox.forget(arrived.set)
                found = inbox.take()
                if found is not None:
                    own.append(found.sequence_number)
                elif inbox.is_closed:
                    return

        threads = [
            threading.Thread(target=consume, args=(own, random.Random(seed + n)), daemon=True)
            for n, own in enumerate(got)
        ]
        for thread in threads:
            thread.start()
        for number in range(total):
            while not put(inbox, number):
                room = threading.Event()
                if inbox.when_room(room.set):
                    assert room.wait(30), f"a wake-up was lost, seed {seed}"
        inbox.close()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive(), f"seed {seed}"
        assert sorted(number for own in got for number in own) == list(range(total)), f"seed {seed}"
        for own in got:
            assert own == sorted(own), f"seed {seed}"
