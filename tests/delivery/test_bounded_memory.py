"""`BoundedSet` has a maximum size and forgets its oldest key first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signedwire.delivery.bounded_memory import BoundedSet


def test_a_key_is_new_once() -> None:
    memory = BoundedSet(2)
    assert b"a" not in memory
    assert memory.add(b"a")
    assert not memory.add(b"a")
    assert b"a" in memory
    assert len(memory) == 1


def test_the_oldest_is_forgotten_first() -> None:
    memory = BoundedSet(3)
    for key in (b"a", b"b", b"c"):
        assert memory.add(key)
    # Asking for one, or meeting it again, does not make it younger: an attacker
    # could keep his own alive.
    assert b"a" in memory
    assert not memory.add(b"a")
    assert memory.add(b"d")
    assert [key in memory for key in (b"a", b"b", b"c", b"d")] == [False, True, True, True]
    assert memory.add(b"a")
    assert b"b" not in memory


def test_of_one() -> None:
    memory = BoundedSet(1)
    assert [memory.add(key) for key in (b"a", b"a", b"b", b"a")] == [True, False, True, True]


@given(st.integers(1, 5), st.lists(st.integers(0, 9).map(lambda n: bytes([n]))))
def test_it_is_the_last_few_distinct_keys(limit: int, keys: list[bytes]) -> None:
    memory = BoundedSet(limit)
    model: list[bytes] = []
    for key in keys:
        assert memory.add(key) == (key not in model)
        if key not in model:
            model = [*model, key][-limit:]
        assert len(memory) == len(model) <= limit
        for each in range(10):
            assert (bytes([each]) in memory) == (bytes([each]) in model)


def test_clear() -> None:
    memory = BoundedSet(2)
    for key in (b"a", b"b", b"c"):
        memory.add(key)
    memory.clear()
    assert len(memory) == 0
    assert memory.add(b"c")
    assert list(memory._entries) == [b"c"]


@pytest.mark.parametrize("limit", [1, 1000])
def test_bounded_for_ever(limit: int) -> None:
    memory = BoundedSet(limit)
    for number in range(20_000):
        memory.add(number.to_bytes(4, "big"))
    assert len(memory) == limit
