"""`CommitWindow`: how many messages may wait for the disk, and who waits for room."""

from __future__ import annotations

import threading

import pytest

from signedwire.delivery.commit_window import CommitWindow


@pytest.fixture
def window() -> CommitWindow:
    return CommitWindow(10, threading.Lock())


class TestRoom:
    @pytest.mark.parametrize(
        ("count", "is_full", "has_room"),
        [
            (0, False, True),
            (5, False, True),
            (6, False, False),
            (9, False, False),
            (10, True, False),
            (17, True, False),
        ],
    )
    def test_by_count(
        self, window: CommitWindow, count: int, *, is_full: bool, has_room: bool
    ) -> None:
        window.add(count)
        assert (window.waiting, window.is_full, window.has_room) == (count, is_full, has_room)


class TestWakes:
    def test_when_half_are_committed(self, window: CommitWindow) -> None:
        woken: list[int] = []
        window.add(10)
        assert window.when_room(lambda: woken.append(1))
        assert window.when_room(lambda: woken.append(2))
        window.remove(4)
        assert woken == []
        window.remove(1)
        assert woken == [1, 2]
        window.remove(5)
        assert woken == [1, 2], "each is called once"

    def test_room_now(self, window: CommitWindow) -> None:
        window.add(5)
        assert not window.when_room(lambda: pytest.fail("there is room"))
        window.remove(5)

    def test_withdrawn(self, window: CommitWindow) -> None:
        woken: list[int] = []

        def wake() -> None:
            woken.append(1)

        window.add(10)
        window.when_room(wake)
        window.forget_room(wake)
        window.forget_room(wake)
        window.remove(10)
        assert woken == []

    def test_a_caller_that_fills_it_again(self, window: CommitWindow) -> None:
        woken: list[int] = []

        def wake() -> None:
            woken.append(len(woken))
            window.add(10)
            assert window.when_room(wake)

        window.add(10)
        window.when_room(wake)
        window.remove(10)
        assert woken == [0]
        window.remove(10)
        assert woken == [0, 1]

    def test_the_end(self, window: CommitWindow) -> None:
        woken: list[int] = []
        window.add(10)
        window.when_room(lambda: woken.append(1))
        window.end()
        assert woken == [1]
        assert not window.when_room(lambda: pytest.fail("nobody waits for a node that closes"))
        window.remove(10)
