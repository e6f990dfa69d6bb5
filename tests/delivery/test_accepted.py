"""What was accepted in a lane, by sequence."""

from __future__ import annotations

from signedwire.delivery.accepted import AcceptedLeaves


def leaf(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_it_knows_the_last_ones() -> None:
    accepted = AcceptedLeaves(3)
    for number in range(1, 6):
        accepted.add(number * 10, leaf(number))
    accepted.trim()
    assert len(accepted) == 3
    assert [accepted.has(n * 10, leaf(n)) for n in range(1, 6)] == [False, False, True, True, True]


def test_another_message_under_the_number_is_not_the_same() -> None:
    accepted = AcceptedLeaves(3)
    accepted.add(7, leaf(1))
    assert not accepted.has(7, leaf(2))
    assert not accepted.has(6, leaf(1))
    assert not accepted.has(8, leaf(1))


def test_what_was_added_last_can_be_removed() -> None:
    accepted = AcceptedLeaves(9)
    for number in range(1, 4):
        accepted.add(number, leaf(number))
    accepted.remove(leaf(2))
    accepted.remove(leaf(9))
    assert [accepted.has(n, leaf(n)) for n in range(1, 4)] == [True, False, True]


def test_of_an_earlier_process_the_leaf_is_enough_until_there_are_new_ones() -> None:
    accepted = AcceptedLeaves(2)
    accepted.restore([leaf(1), leaf(2)])
    accepted.add(9, leaf(9))
    accepted.trim()
    assert accepted.has(1, leaf(1))
    accepted.add(10, leaf(10))
    accepted.trim()
    assert not accepted.has(1, leaf(1))
    assert accepted.has(9, leaf(9))


def test_a_new_epoch_begins_with_nothing() -> None:
    accepted = AcceptedLeaves(2)
    accepted.restore([leaf(1)])
    accepted.add(2, leaf(2))
    accepted.clear()
    assert not accepted.has(1, leaf(1))
    assert not accepted.has(2, leaf(2))
