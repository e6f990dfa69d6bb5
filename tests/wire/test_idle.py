"""How many frames without anything new a peer may send."""

from __future__ import annotations

import pytest

from linkkit import PLENTY, body, events_of, open_pair, ping, with_credit
from signedwire.types import Reason
from signedwire.wire import idle as idle_module
from signedwire.wire import joint as joint_module
from signedwire.wire.idle import ANSWERS_PER_MESSAGE, IdleMeter
from signedwire.wire.link_frames import CreditFrame, Receipts
from signedwire.wire.session import Closed, ReceiptsReceived, Session


class TestMeter:
    def test_it_leaks(self) -> None:
        meter = IdleMeter(0, 0.0)
        assert meter.add(10_000, 0.0)
        assert not meter.add(1, 0.0)
        assert meter.add(900, 1.0)
        assert meter.is_costly
        assert meter.add(1, 100.0)
        assert not meter.is_costly

    def test_answers_are_paid_for_by_messages(self) -> None:
        meter = IdleMeter(0, 0.0)
        assert meter.cost_of_answers(1) == 1
        meter.expect_answers(10)
        assert meter.cost_of_answers(10 * ANSWERS_PER_MESSAGE) == 0
        assert meter.cost_of_answers(17) == 2

    def test_what_a_broken_link_left_may_be_repeated_once(self) -> None:
        meter = IdleMeter(5, 0.0)
        assert [meter.cost_of_repeats(3) for _ in range(3)] == [0, 1, 3]


def unknown(kind: int, count: int = 1) -> bytes:
    """An unsigned receipt for a message that was not sent."""
    return Receipts(kind, 1, tuple(bytes([n % 256]) * 32 for n in range(count)), bytes(64)).encode()


def deaf(session: Session) -> None:
    session._is_expected = lambda _: False


class TestReceiptsThatNobodyWaitsFor:
    @pytest.mark.parametrize("kind", [1, 2, 3, 4])
    def test_are_never_verified(self, kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
        verified: list[object] = []
        monkeypatch.setattr(joint_module, "verify_labelled", lambda *a: verified.append(a))
        alice, _ = open_pair()
        deaf(alice)
        alice.receive_data(unknown(kind) * 1000, 0.0)
        assert (verified, alice.is_closed) == ([], False)
        assert not any(isinstance(event, ReceiptsReceived) for event in events_of(alice))

    @pytest.mark.parametrize("kind", [2, 4])
    @pytest.mark.parametrize("count", [1, 500])
    def test_end_the_link_when_they_are_too_many(self, count: int, kind: int) -> None:
        alice, _ = open_pair()
        deaf(alice)
        frames_sent = 0
        while not alice.is_closed:
            alice.receive_data(unknown(kind, count), 0.0)
            frames_sent += 1
        assert frames_sent <= idle_module._MAX_LEVEL + 1
        (closed,) = [event for event in events_of(alice) if isinstance(event, Closed)]
        assert closed.reason is Reason.PROTOCOL_ERROR

    def test_cost_nothing_as_far_as_messages_were_sent(self) -> None:
        alice, _ = open_pair()
        deaf(alice)
        alice.send_batch([body(n) for n in range(1, 101)])
        for _ in range(100 * ANSWERS_PER_MESSAGE):
            alice.receive_data(unknown(3), 0.0)
        assert not alice.is_costly


class TestOtherFrames:
    @pytest.mark.parametrize("stream", range(8))
    def test_credit_that_grows_by_one_for_ever(self, stream: int) -> None:
        alice, _ = open_pair()
        messages, size = PLENTY[stream]
        for n in range(1, idle_module._MAX_LEVEL + 2):
            grown = with_credit(PLENTY, stream, messages + n, size)
            alice.receive_data(CreditFrame(grown).encode(), 0.0)
        assert alice.is_closed

    def test_repeats_beyond_the_credit_count(self) -> None:
        alice, _ = open_pair()
        granted = sum(credit.messages for credit in PLENTY)
        alice.count_repeats(granted, is_all=True, now=0.0)
        assert not alice.is_costly
        for _ in range(1000):
            alice.count_repeats(1, is_all=True, now=0.0)
        assert alice.is_closed


def test_a_driver_may_stop_between_two_frames() -> None:
    alice, _ = open_pair()
    alice.put_data(ping(1).encode() * 3 + ping(2).encode()[:5], 0.0)
    assert [alice.handle_frame(0.0) for _ in range(4)] == [True, True, True, False]
    before = alice.has_frames
    alice.put_data(ping(2).encode()[5:], 0.0)
    assert (before, alice.has_frames) == (False, True)
    assert [alice.handle_frame(0.0) for _ in range(2)] == [True, False]
