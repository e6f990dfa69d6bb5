"""`V1Validator`: each reason, the order of the checks, and what the replay memory may believe."""

from __future__ import annotations

import random
from typing import Any

import pytest

from signedwire.config import TransportConfig
from signedwire.delivery.bounded_memory import BoundedSet
from signedwire.identity import Identity
from signedwire.transport.v1.validator import V1Validator, Verified
from signedwire.types import Did, Priority, Reason, SignaturePolicy
from signedwire.wire.envelope import SignedEnvelope

ALICE = Identity.from_seed(bytes(range(32)))
BOB = Identity.from_seed(bytes(range(1, 33)))
EVE = Identity.from_seed(bytes(range(2, 34)))
ANYBODY = object()


def screen(us: Any = BOB.did, **changes: Any) -> V1Validator:
    return V1Validator(
        TransportConfig(**{"v1_peers": "all", **changes}), None if us is ANYBODY else us
    )


def signed(
    sender: Identity = ALICE, recipient: Did = BOB.did, number: int = 1, **fields: Any
) -> bytes:
    return SignedEnvelope.sign(
        sender, recipient, b"hello", sequence_number=number, timestamp_us=1, **fields
    ).encode()


def stripped(frame: bytes) -> bytes:
    """The same envelope without its signature."""
    return frame[:-64] + bytes(64)


def broken(frame: bytes) -> bytes:
    """The same envelope with one bit of its signature flipped."""
    return frame[:-1] + bytes([frame[-1] ^ 1])


def passed(verdict: Verified | Reason) -> Verified:
    assert isinstance(verdict, Verified), verdict
    return verdict


def deliver(a_screen: V1Validator, frame: bytes) -> Verified:
    """Do what the transport does with a frame that passes."""
    verdict = passed(a_screen.check(frame))
    assert not a_screen.is_replay(verdict)
    a_screen.remember(verdict)
    return verdict


class TestReasons:
    @pytest.mark.parametrize("priority", Priority)
    def test_a_good_frame_passes(self, priority: Priority) -> None:
        frame = signed(priority=priority)
        verdict = passed(screen().check(frame))
        assert verdict.message.envelope.encode() == frame
        assert verdict.message.sender == ALICE.did
        assert verdict.message.is_proven
        assert verdict.priority == priority

    @pytest.mark.parametrize("frame", [b"x", bytes(170), signed()[1:], b"\0" + signed()])
    def test_malformed(self, frame: bytes) -> None:
        assert screen().check(frame) is Reason.MALFORMED

    def test_not_for_us(self) -> None:
        frame = signed(recipient=EVE.did)
        assert screen().check(frame) is Reason.NOT_FOR_US
        assert isinstance(screen(ANYBODY).check(frame), Verified)

    @pytest.mark.parametrize("make", [signed, lambda sender: stripped(signed(sender))])
    def test_not_allowed(self, make: Any) -> None:
        strict = screen(v1_peers=[ALICE.did], signatures=SignaturePolicy.IF_PRESENT)
        assert isinstance(strict.check(make(ALICE)), Verified)
        assert strict.check(make(EVE)) is Reason.NOT_ALLOWED

    def test_nobody_is_allowed_in_production_by_default(self) -> None:
        assert (
            V1Validator(TransportConfig.production(), BOB.did).check(signed()) is Reason.NOT_ALLOWED
        )

    @pytest.mark.parametrize("make", [signed, lambda sender: stripped(signed(sender))])
    def test_denied(self, make: Any) -> None:
        config = TransportConfig(v1_peers="all", signatures=SignaturePolicy.IF_PRESENT)
        a_screen = V1Validator(config, BOB.did, lambda did: did == bytes(EVE.did))
        assert isinstance(a_screen.check(make(ALICE)), Verified)
        assert a_screen.check(make(EVE)) is Reason.DENIED

    @pytest.mark.parametrize("make", [signed, lambda sender: stripped(signed(sender))])
    def test_who_speaks_v2_is_not_believed_in_v1(self, make: Any) -> None:
        """No downgrade, whatever is allowed."""
        config = TransportConfig(
            v1_peers=[ALICE.did, EVE.did], signatures=SignaturePolicy.IF_PRESENT
        )
        v2_speakers = BoundedSet(10)
        a_screen = V1Validator(config, BOB.did, v2_speakers=v2_speakers)
        v2_speakers.add(bytes(EVE.did))
        assert isinstance(a_screen.check(make(ALICE)), Verified)
        assert a_screen.check(make(EVE)) is Reason.NOT_ALLOWED

    def test_unsigned(self) -> None:
        assert screen().check(stripped(signed())) is Reason.UNSIGNED
        verdict = passed(screen(signatures=SignaturePolicy.IF_PRESENT).check(stripped(signed())))
        assert not verdict.message.is_proven
        assert not verdict.message.is_proven

    @pytest.mark.parametrize("policy", SignaturePolicy)
    def test_bad_signature_under_every_policy(self, policy: SignaturePolicy) -> None:
        a_screen = screen(signatures=policy)
        assert a_screen.check(broken(signed())) is Reason.BAD_SIGNATURE
        forged = signed(EVE)
        forged = forged[:32] + bytes(ALICE.did) + forged[64:]
        assert a_screen.check(forged) is Reason.BAD_SIGNATURE

    def test_a_sender_that_is_no_did(self) -> None:
        frame = signed()
        frame = frame[:32] + bytes(32) + frame[64:]
        assert screen().check(frame) is Reason.BAD_SIGNATURE
        # Unproven, it is shown as nobody, so nobody asks what it is.
        unsigned = screen(signatures=SignaturePolicy.IF_PRESENT).check(stripped(frame))
        assert not passed(unsigned).message.is_proven

    def test_duplicate(self) -> None:
        a_screen = screen()
        deliver(a_screen, signed())
        assert a_screen.check(signed()) is Reason.DUPLICATE
        deliver(a_screen, signed(number=2))

    def test_a_checked_but_undelivered_frame_is_no_duplicate(self) -> None:
        a_screen = screen()
        first = passed(a_screen.check(signed()))
        second = passed(a_screen.check(signed()))
        assert not a_screen.is_replay(first)
        a_screen.remember(first)
        # Both were in check at once: the second falls at delivery.
        assert a_screen.is_replay(second)

    def test_check_all_keeps_the_order(self) -> None:
        frames = [signed(), b"x", stripped(signed()), signed(EVE), broken(signed())]
        verdicts = screen(v1_peers=[ALICE.did]).check_all(iter(frames))
        assert isinstance(verdicts[0], Verified)
        assert verdicts[1:] == [
            Reason.MALFORMED,
            Reason.UNSIGNED,
            Reason.NOT_ALLOWED,
            Reason.BAD_SIGNATURE,
        ]


class TestOrder:
    """A frame that fails several tests is dropped with the first reason."""

    def test_of_a_signed_frame(self) -> None:
        a_screen = screen(v1_peers=[ALICE.did])
        deliver(a_screen, signed())
        elsewhere = EVE.did
        # What is wrong is put right one by one.
        assert a_screen.check(b"X" + broken(signed(EVE, elsewhere))[1:]) is Reason.MALFORMED
        assert a_screen.check(broken(signed(EVE, elsewhere))) is Reason.NOT_FOR_US
        assert a_screen.check(broken(signed(EVE))) is Reason.NOT_ALLOWED
        assert a_screen.check(broken(signed())) is Reason.DUPLICATE
        assert a_screen.check(broken(signed(number=2))) is Reason.BAD_SIGNATURE
        assert isinstance(a_screen.check(signed(number=2)), Verified)

    def test_of_an_unsigned_frame(self) -> None:
        a_screen = screen(v1_peers=[ALICE.did])
        assert a_screen.check(stripped(signed(EVE, EVE.did))) is Reason.NOT_FOR_US
        assert a_screen.check(stripped(signed(EVE))) is Reason.NOT_ALLOWED
        assert a_screen.check(stripped(signed())) is Reason.UNSIGNED


class TestReplays:
    """Whoever saw an envelope knows its digest; that must not let him drop it."""

    @pytest.mark.parametrize("policy", SignaturePolicy)
    def test_an_unsigned_copy_does_not_stop_the_signed_envelope(
        self, policy: SignaturePolicy
    ) -> None:
        a_screen = screen(signatures=policy)
        copy = a_screen.check(stripped(signed()))
        if policy is SignaturePolicy.IF_PRESENT:
            a_screen.remember(passed(copy))
        assert deliver(a_screen, signed()).message.is_proven

    def test_a_copy_with_a_wrong_signature_does_not_stop_it(self) -> None:
        a_screen = screen()
        assert a_screen.check(broken(signed())) is Reason.BAD_SIGNATURE
        deliver(a_screen, signed())

    def test_an_unsigned_frame_is_delivered_once_too(self) -> None:
        a_screen = screen(signatures=SignaturePolicy.IF_PRESENT)
        deliver(a_screen, stripped(signed()))
        assert a_screen.is_replay(passed(a_screen.check(stripped(signed()))))
        deliver(a_screen, stripped(signed(number=2)))

    def test_a_signed_envelope_does_not_stop_its_unsigned_copy_from_being_unproven(self) -> None:
        a_screen = screen(signatures=SignaturePolicy.IF_PRESENT)
        deliver(a_screen, signed())
        assert not deliver(a_screen, stripped(signed())).message.is_proven

    def test_the_memory_is_as_large_as_configured(self) -> None:
        a_screen = screen(replay_memory=3)
        for number in range(1, 5):
            deliver(a_screen, signed(number=number))
        assert a_screen.check(signed(number=2)) is Reason.DUPLICATE
        # Older than the memory: delivered again, as docs/security.md says.
        deliver(a_screen, signed(number=1))


def test_random_flips_never_pass() -> None:
    seed = random.randrange(2**32)
    draw = random.Random(seed)
    a_screen = screen()
    frame = signed()
    for _ in range(400):
        flipped = bytearray(frame)
        for _ in range(draw.randrange(1, 4)):
            flipped[draw.randrange(len(frame))] ^= draw.randrange(1, 256)
        if bytes(flipped) != frame:
            assert isinstance(a_screen.check(bytes(flipped)), Reason), f"seed {seed}"
