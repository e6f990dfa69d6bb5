"""From the sender's fields to the receiver's application, through a hostile network.

sign → frame → damage → split → decode → screen → inbox: exactly the untouched envelopes
reach the application, once and in order, and everything else is counted with a reason.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from idkit import id_of
from signedwire.config import TransportConfig
from signedwire.delivery.inbox import Inbox
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.send_options import SendOptions
from signedwire.identity import Identity
from signedwire.transport.v1.validator import V1Validator, Verified
from signedwire.types import PayloadType, Priority, Reason, SignaturePolicy
from signedwire.wire.envelope import SignedEnvelope
from signedwire.wire.frames import LENGTH_SIZE, FrameDecoder, encode_frame

ALICE = Identity.from_seed(bytes(range(32)))
BOB = Identity.from_seed(bytes(range(1, 33)))
LIMIT = 2048

payloads = st.binary(max_size=60)
priorities = st.sampled_from(Priority)
mails = st.lists(st.tuples(payloads, priorities, st.sampled_from(PayloadType)), max_size=8)


def sealed(number: int, payload: bytes, priority: Priority, kind: PayloadType) -> bytes:
    """A frame as the transport makes it of what the application sends."""
    message = OutgoingMessage(
        SendOptions(BOB.did, priority, payload_type=kind), id_of(number), payload
    )
    return encode_frame(message.seal(ALICE, number).encode())


def split(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[a:b] for a, b in pairwise(edges)]


class Receiver:
    """What a listening node does with the bytes of one connection."""

    def __init__(self, **changes: Any) -> None:
        self.decoder = FrameDecoder(LIMIT)
        self.screen = V1Validator(TransportConfig(v1_peers="all", **changes), BOB.did)
        self.inbox = Inbox(1000, 0)
        self.dropped: Counter[Reason] = Counter()

    def receive(self, pieces: list[bytes]) -> list[bytes]:
        """Feed it; returns the delivered envelopes in order of arrival."""
        delivered: list[bytes] = []
        for piece in pieces:
            for verdict in self.screen.check_all(self.decoder.receive_data(piece)):
                if isinstance(verdict, Verified) and not self.screen.is_replay(verdict):
                    assert self.inbox.put(verdict.message, verdict.priority)
                    self.screen.remember(verdict)
                    delivered.append(verdict.message.envelope.encode())
                else:
                    self.dropped[
                        Reason.DUPLICATE if isinstance(verdict, Verified) else verdict
                    ] += 1
        self.decoder.receive_eof()
        if self.decoder.error is not None:
            self.dropped[self.decoder.error.reason] += 1
        return delivered


@settings(deadline=None)
@given(mails, st.lists(st.integers(0, 5000), max_size=12))
def test_everything_untouched_arrives_as_it_was_sent(
    sent: list[tuple[bytes, Priority, PayloadType]], places: list[int]
) -> None:
    receiver = Receiver()
    stream = b"".join(sealed(number, *mail) for number, mail in enumerate(sent, 1))
    assert len(receiver.receive(split(stream, places))) == len(sent)
    assert not receiver.dropped
    got = list(iter(receiver.inbox.take, None))
    # Higher lanes first; within a lane as sent.
    expected = sorted(enumerate(sent, 1), key=lambda entry: -entry[1][1])
    assert [(m.sequence_number, (m.payload, m.priority, m.payload_type)) for m in got] == expected
    assert all(m.sender == ALICE.did and m.is_proven for m in got)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_exactly_the_untouched_envelopes_pass_whatever_is_flipped(data: st.DataObject) -> None:
    sent = data.draw(mails.filter(bool))
    policy = data.draw(st.sampled_from(SignaturePolicy))
    frames = [bytearray(sealed(number, *mail)) for number, mail in enumerate(sent, 1)]
    originals = [bytes(frame) for frame in frames]
    # Anything but the length in front: that is for the next test.
    for _ in range(data.draw(st.integers(1, 5))):
        frame = data.draw(st.sampled_from(frames))
        place = data.draw(st.integers(LENGTH_SIZE, len(frame) - 1))
        frame[place] ^= data.draw(st.integers(1, 255))
    untouched = [a for a, b in zip(originals, frames, strict=True) if a == b]
    receiver = Receiver(signatures=policy)
    places = data.draw(st.lists(st.integers(0, 5000), max_size=8))
    delivered = receiver.receive(split(b"".join(frames), places))
    assert delivered == [frame[LENGTH_SIZE:] for frame in untouched]
    assert sum(receiver.dropped.values()) == len(frames) - len(untouched)
    assert set(receiver.dropped) <= {Reason.MALFORMED, Reason.NOT_FOR_US, Reason.BAD_SIGNATURE}


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_a_damaged_stream_delivers_only_what_was_signed(data: st.DataObject) -> None:
    """Bytes changed, lost or added anywhere, lengths too: no forgery, and all before is there."""
    sent = data.draw(mails.filter(bool))
    frames = [sealed(number, *mail) for number, mail in enumerate(sent, 1)]
    stream = b"".join(frames)
    start = data.draw(st.integers(0, len(stream) - 1))
    stop = min(len(stream), start + data.draw(st.integers(0, 40)))
    damaged = stream[:start] + data.draw(st.binary(max_size=40)) + stream[stop:]
    receiver = Receiver()
    delivered = receiver.receive(split(damaged, data.draw(st.lists(st.integers(0, 5000)))))
    bodies = [frame[LENGTH_SIZE:] for frame in frames]
    ends = [sum(map(len, frames[: n + 1])) for n in range(len(frames))]
    before = [body for body, end in zip(bodies, ends, strict=True) if end <= start]
    assert delivered[: len(before)] == before
    rest = iter(bodies)
    assert all(body in rest for body in delivered), "not a part of what was sent, in its order"


@settings(deadline=None)
@given(mails.filter(bool), st.data())
def test_copies_are_delivered_once(
    sent: list[tuple[bytes, Priority, PayloadType]], data: st.DataObject
) -> None:
    frames = [sealed(number, *mail) for number, mail in enumerate(sent, 1)]
    copies = data.draw(st.lists(st.sampled_from(frames), max_size=10))
    stripped = [frame[:-64] + bytes(64) for frame in copies]
    noise = data.draw(st.permutations(copies + stripped))
    receiver = Receiver()
    delivered = receiver.receive([*noise, *frames])
    assert sorted(delivered) == sorted(frame[LENGTH_SIZE:] for frame in frames)
    assert sum(receiver.dropped.values()) == len(noise)
    assert set(receiver.dropped) <= {Reason.DUPLICATE, Reason.UNSIGNED}


@settings(deadline=None)
@given(mails.filter(bool), st.integers(0, 7))
def test_a_frame_that_is_no_envelope_costs_only_itself(
    sent: list[tuple[bytes, Priority, PayloadType]], place: int
) -> None:
    frames = [sealed(number, *mail) for number, mail in enumerate(sent, 1)]
    place = min(place, len(frames))
    receiver = Receiver()
    delivered = receiver.receive([*frames[:place], encode_frame(b"rubbish"), *frames[place:]])
    assert delivered == [frame[LENGTH_SIZE:] for frame in frames]
    assert receiver.dropped == {Reason.MALFORMED: 1}


@settings(deadline=None)
@given(mails, st.integers(LIMIT + 1, 2**32 - 1) | st.just(0), mails)
def test_an_illegal_length_ends_the_stream_after_what_came_before(
    sent: list[tuple[bytes, Priority, PayloadType]],
    length: int,
    late: list[tuple[bytes, Priority, PayloadType]],
) -> None:
    frames = [sealed(number, *mail) for number, mail in enumerate(sent, 1)]
    after = [sealed(number, *mail) for number, mail in enumerate(late, 100)]
    receiver = Receiver()
    stream = b"".join([*frames, length.to_bytes(4, "big"), *after])
    assert receiver.receive([stream]) == [frame[LENGTH_SIZE:] for frame in frames]
    is_first_byte = not frames and length >= 2**24
    reason = Reason.WRONG_PROTOCOL if is_first_byte else Reason.ILLEGAL_LENGTH
    assert receiver.dropped == {reason: 1}


@settings(deadline=None)
@given(payloads, payloads)
def test_an_unsigned_sender_is_never_shown_as_the_did_that_it_claims(
    honest: bytes, forged: bytes
) -> None:
    receiver = Receiver(signatures=SignaturePolicy.IF_PRESENT)
    lie = SignedEnvelope.unsigned(ALICE.did, BOB.did, forged, sequence_number=1, timestamp_us=1)
    truth = sealed(1, honest, Priority.NORMAL, PayloadType.RAW)
    receiver.receive([encode_frame(lie.encode()), truth])
    first, second = iter(receiver.inbox.take, None)
    assert (first.is_proven, first.payload) == (False, forged)
    assert (second.sender, second.payload) == (ALICE.did, honest)
