"""Answers that are remembered: each comes out as it went in, and the collector sees none."""

from __future__ import annotations

import gc

import pytest

from signedwire.delivery.stream_answers import RememberedAnswers
from signedwire.types import Reason
from signedwire.wire.link_frames import REASON_CODES, Refusal


@pytest.mark.parametrize("text", ["", "später", "x" * 256])
@pytest.mark.parametrize("reason", REASON_CODES)
def test_a_refusal_comes_out_as_it_went_in(reason: Reason, text: str) -> None:
    answers = RememberedAnswers(10)
    refusal = Refusal(b"refused", reason, text)
    answers.put(b"refused", refusal)
    answers.put(b"handled", None)
    assert answers.pick([b"refused", b"unknown", b"handled"]) == ([b"handled"], [refusal])
    assert answers.all() == ([b"handled"], [refusal])


def test_the_oldest_goes_first_and_nothing_in_it_is_tracked() -> None:
    answers = RememberedAnswers(3)
    for number, reason in enumerate(REASON_CODES, 1):
        answers.put(bytes([number]), Refusal(bytes([number]), reason, "late"))
    assert len(answers) == 3
    last = len(REASON_CODES)
    assert [refusal.leaf[0] for refusal in answers.all()[1]] == [last - 2, last - 1, last]
    kept = gc.get_referents(answers._entries)
    assert len(kept) == 6
    assert not gc.is_tracked(answers._entries)
    assert not any(map(gc.is_tracked, kept))


def test_texts_are_weighed_until_they_are_forgotten() -> None:
    answers = RememberedAnswers(2)
    answers.put(b"1", Refusal(b"1", Reason.REFUSED, "x" * 100))
    answers.put(b"2", None)
    assert answers.weight == 2 * 130 + 101
    answers.put(b"1", Refusal(b"1", Reason.REFUSED, "x" * 50))  # known: it is replaced
    assert answers.weight == 2 * 130 + 51
    answers.put(b"3", None)
    assert answers.weight == 2 * 130
    answers.put(b"4", Refusal(b"4", Reason.REFUSED, "x"))
    answers.clear()
    assert answers.weight == 0


def test_many_more_than_the_limit_are_forgotten_in_order() -> None:
    answers = RememberedAnswers(300)
    for number in range(5000):
        answers.put(number.to_bytes(4, "big"), None)
        answers.put(max(0, number - 7).to_bytes(4, "big"), None)  # known: its place stays
    assert [int.from_bytes(leaf, "big") for leaf in answers.all()[0]] == list(range(4700, 5000))
