"""The room of all strangers for unfinished batches: who has it, who waits, who is next."""

from __future__ import annotations

import random

from signedwire.delivery.stranger_room import StrangerRoom


class User:
    """A link of a stranger."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.looks = 0
        self._log = log

    def on_room(self) -> None:
        self._log.append(self.name)

    def look_again(self) -> None:
        self.looks += 1


def users(log: list[str], names: str = "abc") -> list[User]:
    return [User(name, log) for name in names]


class TestStrangerRoom:
    def test_the_defaults(self) -> None:
        room = StrangerRoom()
        assert (room.limit, room.patience, room.used) == (16 * 2**20, 30.0, 0)

    def test_who_finds_no_room_waits(self) -> None:
        log: list[str] = []
        a, b, c = users(log)
        room = StrangerRoom(100)
        assert room.resize(a, 60)
        assert room.resize(b, 40)
        assert not room.resize(c, 1)
        assert room.waiting == (c,)
        assert room.used == 100
        assert room.resize(a, 0)
        assert log == ["c"]
        assert room.used == 41
        assert not room.waiting

    def test_the_first_that_waits_is_the_next(self) -> None:
        """A small batch does not overtake a large one, or the large one would wait for ever."""
        log: list[str] = []
        a, b, c, d = users(log, "abcd")
        room = StrangerRoom(100)
        assert room.resize(a, 50)
        assert room.resize(b, 50)
        assert not room.resize(c, 80)
        assert not room.resize(d, 10)
        room.resize(a, 0)
        assert log == []
        room.resize(b, 0)
        assert log == ["c", "d"]

    def test_the_end_of_a_link_frees_its_room_or_its_wait(self) -> None:
        log: list[str] = []
        a, b, c, d = users(log, "abcd")
        room = StrangerRoom(100)
        room.resize(a, 90)
        room.resize(b, 60)
        room.resize(c, 10)
        room.resize(d, 1)
        room.forget(b)
        assert log == ["c"]
        room.forget(a)
        assert log == ["c", "d"]
        room.forget(c)
        room.forget(d)
        room.forget(d)
        assert room.used == 0

    def test_a_link_that_waits_keeps_what_it_has(self) -> None:
        log: list[str] = []
        a, b, _ = users(log)
        room = StrangerRoom(100)
        room.resize(a, 50)
        room.resize(b, 50)
        assert not room.resize(a, 60)
        assert room.used == 100
        assert room.resize(a, 40)  # as when it is no stranger any more
        assert room.waiting == ()
        assert room.used == 90

    def test_a_link_that_is_alone_has_room(self) -> None:
        log: list[str] = []
        a, b, _ = users(log)
        room = StrangerRoom(100)
        assert room.resize(a, 70)
        assert room.resize(a, 300)
        assert not room.resize(b, 1)
        room.resize(a, 99)
        assert log == ["b"]

    def test_a_route_makes_all_look_again(self) -> None:
        log: list[str] = []
        a, b, c = users(log)
        room = StrangerRoom(100)
        room.resize(a, 100)
        room.resize(b, 1)
        room.resize(c, 1)
        room.look_again()
        assert [each.looks for each in (a, b, c)] == [0, 1, 1]

    def test_the_sum_is_that_of_all_who_have_room(self) -> None:
        for seed in range(50):
            draw = random.Random(seed)
            log: list[str] = []
            room = StrangerRoom(100)
            crowd = users(log, "abcdefgh")
            has = dict.fromkeys(crowd, 0)
            wants = dict.fromkeys(crowd, 0)
            for _ in range(200):
                user = draw.choice(crowd)
                wants[user] = draw.choice((0, 0, 10, 40, 70))
                log.clear()
                if draw.random() < 0.1:
                    wants[user] = has[user] = 0
                    room.forget(user)
                elif room.resize(user, wants[user]):
                    has[user] = wants[user]
                for each in crowd:
                    if each.name in log:
                        has[each] = wants[each]
                assert room.used == sum(has.values()) <= 100
                assert not room.waiting or room.used > 30
                for each in crowd:
                    assert (each in room.waiting) == (wants[each] != has[each])
