"""Batches in parts: how they are cut, assembled and refused."""

from __future__ import annotations

import random
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linkkit import (
    ALICE,
    BOB,
    PLENTY,
    batches_of,
    body,
    body_of,
    credits,
    events_of,
    frames_of,
    hello,
    open_pair,
    outgoing_batches,
    read_clocks,
    session,
    with_credit,
)
from signedwire.errors import RemoteProtocolError
from signedwire.types import Credit, Reason
from signedwire.wire import link_frames as frames
from signedwire.wire.envelope import sign_batch
from signedwire.wire.header import stream_of
from signedwire.wire.link_frames import ABORT, FIRST, LAST, CreditFrame, Part, Read, Receipts
from signedwire.wire.parts import BatchWriter, IncomingBatches, OutgoingBatches, encode_batch
from signedwire.wire.session import (
    BatchFailed,
    BatchReceived,
    Closed,
    Session,
    SessionLimits,
    StallNoticed,
)

SIGNATURE = bytes(range(64))
FIRST_ROOM, LATER_ROOM = 16_371, 16_377
BIG = credits(10_000, 1 << 30, 10_000, 1 << 30)


def joined(bodies: list[bytes]) -> bytes:
    return SIGNATURE + b"".join(len(each).to_bytes(4, "little") + each for each in bodies)


def parts_of(data: bytes) -> list[Part]:
    parts = [frame for frame in frames_of(data) if isinstance(frame, Part)]
    assert all(len(part.encode()) <= frames.MAX_FRAME_SIZE for part in parts)
    return parts


def of_size(size: int, stream: int = 1) -> bytes:
    """A body with which the batch has so many bytes."""
    return body_of(stream, 1, bytes(size - 68 - 126))


class TestWriter:
    @pytest.mark.parametrize(
        ("size", "sizes"),
        [
            (194, [194]),
            (FIRST_ROOM, [FIRST_ROOM]),
            (FIRST_ROOM + 1, [FIRST_ROOM, 1]),
            (FIRST_ROOM + LATER_ROOM, [FIRST_ROOM, LATER_ROOM]),
            (FIRST_ROOM + LATER_ROOM + 1, [FIRST_ROOM, LATER_ROOM, 1]),
        ],
    )
    def test_the_parts_are_as_large_as_is_allowed(self, size: int, sizes: list[int]) -> None:
        one = of_size(size)
        parts = parts_of(encode_batch(SIGNATURE, [one]))
        assert [len(part.data) for part in parts] == sizes
        assert b"".join(part.data for part in parts) == joined([one])
        last = len(parts) - 1
        for at, part in enumerate(parts):
            assert part.flags == (FIRST if not at else 0) | (LAST if at == last else 0)
            assert part.stream == 1
            assert (part.count, part.total) == ((0, 0) if at else (1, len(one)))

    def test_a_full_part_fills_its_frame(self) -> None:
        first, later, _ = parts_of(encode_batch(SIGNATURE, [of_size(40_000)]))
        assert len(first.encode()) == len(later.encode()) == 16_384

    def test_a_batch_of_many(self) -> None:
        bodies = [body(n, bytes(n), priority=2) for n in range(1, 257)]
        data = encode_batch(SIGNATURE, bodies)
        assert b"".join(part.data for part in parts_of(data)) == joined(bodies)
        assert batches_of(data) == [(SIGNATURE, bodies, None)]


def writer(size: int, stream: int) -> BatchWriter:
    return BatchWriter(SIGNATURE, [of_size(size, stream)], stream)


def taken(outgoing: OutgoingBatches, room: int | None) -> list[tuple[int, int]]:
    """The stream and the bytes of each part that is handed out."""
    parts = parts_of(b"".join(outgoing.take(room)))
    return [(part.stream, len(part.data)) for part in parts]


class TestOutgoing:
    def test_the_highest_stream_goes_first_and_between(self) -> None:
        outgoing = outgoing_batches()
        assert outgoing.top == -1
        outgoing.add(writer(40_000, 0))
        assert taken(outgoing, 1) == [(0, FIRST_ROOM)]
        outgoing.add(writer(300, 1))
        outgoing.add(writer(400, 3))
        assert outgoing.top == 3
        assert [stream for stream in range(4) if outgoing.has(stream)] == [0, 1, 3]
        assert taken(outgoing, None) == [
            (3, 400),
            (1, 300),
            (0, LATER_ROOM),
            (0, 40_000 - FIRST_ROOM - LATER_ROOM),
        ]
        assert outgoing.top == -1
        assert outgoing.bytes_out == 40_700

    def test_an_abort(self) -> None:
        outgoing = outgoing_batches()
        assert outgoing.abort(1) == []
        outgoing.add(writer(40_000, 1))
        outgoing.add(writer(300, 1))
        outgoing.add(writer(50_000, 0))
        assert outgoing.abort(1) == []  # no part was taken
        assert taken(outgoing, 1) == [(1, FIRST_ROOM)]
        assert outgoing.abort(0) == []
        (frame,) = outgoing.abort(1)
        assert parts_of(frame) == [Part(ABORT, 1)]
        assert outgoing.abort(1) == []  # the next batch has not begun
        assert outgoing.bytes_out == FIRST_ROOM
        assert taken(outgoing, FIRST_ROOM) == [(1, 300)]
        assert outgoing.abort(1) == []  # the last part was taken
        assert outgoing.top == 0

    @pytest.mark.parametrize("above", [1, 5])
    @pytest.mark.parametrize("below", [0, 4])
    def test_a_higher_priority_goes_before_both_streams_of_a_lower_one(
        self, above: int, below: int
    ) -> None:
        outgoing = outgoing_batches()
        outgoing.add(writer(40_000, below))
        outgoing.add(writer(40_000, below ^ 4))
        begun = taken(outgoing, 1)
        assert begun == [(4, FIRST_ROOM)]  # neither is ahead
        outgoing.add(writer(40_000, above))
        assert outgoing.top == 1
        assert [stream for stream, _ in taken(outgoing, 40_000)] == [above] * 3
        outgoing.add(writer(300, above))
        outgoing.add(writer(300, above ^ 4))
        assert sorted(taken(outgoing, 600)) == [(1, 300), (5, 300)]
        assert outgoing.top == 0
        assert [stream for stream, _ in taken(outgoing, None)] == [0, 4, 0, 4, 0]

    @pytest.mark.parametrize("priority", range(4))
    @pytest.mark.parametrize("is_durable_first", [False, True])
    def test_the_volatile_stream_goes_first_when_even(
        self, priority: int, is_durable_first: bool
    ) -> None:
        outgoing = outgoing_batches()
        streams = [priority, priority + 4] if is_durable_first else [priority + 4, priority]
        for stream in streams * 3:
            outgoing.add(writer(500, stream))
        expected = [(priority + 4, 500), (priority, 500)] * 3
        assert taken(outgoing, None) == expected

    def test_other_priorities_do_not_count(self) -> None:
        outgoing = outgoing_batches()
        outgoing.add(writer(5000, 1))
        outgoing.take()
        for stream in (0, 4, 2, 6, 5, 1):
            outgoing.add(writer(500, stream))
        assert [stream for stream, _ in taken(outgoing, None)] == [6, 2, 5, 1, 4, 0]

    @given(
        st.lists(st.integers(200, 66_000), min_size=1, max_size=12),
        st.lists(st.integers(200, 66_000), min_size=1, max_size=12),
    )
    @settings(deadline=None, max_examples=60)
    def test_two_streams_of_a_priority_take_turns_by_bytes(
        self, durable: list[int], volatile: list[int]
    ) -> None:
        """As long as both have something to send, neither is ahead by more than a part."""
        outgoing = outgoing_batches()
        for size in durable:
            outgoing.add(writer(size, 2))
        for size in volatile:
            outgoing.add(writer(size, 6))
        handed = {2: 0, 6: 0}
        while outgoing.has(2) and outgoing.has(6):
            lead = handed[2] - handed[6]
            ((stream, size),) = taken(outgoing, 1)
            assert stream == (6 if lead >= 0 else 2)
            handed[stream] += size
            assert abs(handed[2] - handed[6]) <= LATER_ROOM
        for stream, size in taken(outgoing, None):
            handed[stream] += size
        assert handed == {2: sum(durable), 6: sum(volatile)}

    @pytest.mark.parametrize("alone", [1, 5])
    def test_a_stream_that_was_alone_for_long(self, alone: int) -> None:
        """It waits at most for one batch of the other stream, and then they take turns."""
        outgoing = outgoing_batches()
        for _ in range(50):
            outgoing.add(writer(60_000, alone))
            outgoing.take()
        for _ in range(20):
            outgoing.add(writer(10_000, alone ^ 4))
        for _ in range(20):
            outgoing.add(writer(10_000, alone))
        order = [stream for stream, _ in taken(outgoing, None)]
        waits = order.index(alone)
        assert order[:waits] == [alone ^ 4] * waits
        assert frames.MAX_BATCH_BYTES // 10_000 <= waits <= frames.MAX_BATCH_BYTES // 10_000 + 1
        both = order[waits : waits + 2 * (20 - waits)]
        assert both.count(alone) == len(both) // 2
        assert not any(a == b == c for a, b, c in zip(both, both[1:], both[2:], strict=False))

    @pytest.mark.parametrize("joint", [1, 5])
    def test_a_joint_batch_goes_before_the_other_stream(self, joint: int) -> None:
        """Also if it is not its turn: what is sent next may need the receipt in it."""
        outgoing = outgoing_batches()
        outgoing.add(writer(60_000, joint))
        outgoing.take()
        receipt = Receipts(1, 0, (bytes(32),))
        outgoing.add(BatchWriter(SIGNATURE, [of_size(300, joint)], joint, receipt))
        outgoing.add(writer(60_000, joint ^ 4))
        assert [stream for stream, _ in taken(outgoing, 1)] == [joint]

    @pytest.mark.parametrize("late", [1, 5])
    def test_a_stream_that_comes_late_is_not_starved(self, late: int) -> None:
        """After any past of the two, its first part goes after at most a batch of the other."""
        draw = random.Random(7)
        outgoing = outgoing_batches()
        for _ in range(200):
            for _ in range(draw.randrange(1, 4)):
                outgoing.add(writer(draw.randrange(200, 66_000), draw.choice((1, 5))))
            outgoing.take()
            for _ in range(30):
                outgoing.add(writer(15_000, late ^ 4))
            outgoing.add(writer(300, late))
            before = 0
            for stream, size in taken(outgoing, None):
                if stream == late:
                    break
                before += size
            assert before <= frames.MAX_BATCH_BYTES + 15_000

    @pytest.mark.parametrize(
        ("room", "sizes"),
        [
            (0, []),
            (-1, []),
            (1, [500]),
            (1000, [500, 500]),
            (999, [500]),
            (1000 + FIRST_ROOM - 1, [500, 500]),
            (1000 + FIRST_ROOM, [500, 500, FIRST_ROOM]),
            (None, [500, 500, FIRST_ROOM, 40_000 - FIRST_ROOM - LATER_ROOM, LATER_ROOM]),
        ],
    )
    def test_the_room(self, room: int | None, sizes: list[int]) -> None:
        outgoing = outgoing_batches()
        for stream, size in ((2, 500), (1, 40_000), (2, 500)):
            outgoing.add(writer(size, stream))
        assert sorted(size for _, size in taken(outgoing, room)) == sorted(sizes)

    def test_one_read_for_each_part_is_free(self) -> None:
        outgoing = outgoing_batches()
        assert outgoing.note_read(Read(0, 0, 0), 1.0) == 1
        outgoing.add(writer(20_000, 0))
        outgoing.take()
        assert [outgoing.note_read(Read(1, 0, 0), 1.0) for _ in range(3)] == [0, 0, 1]


DATA = bytes(5000)
WHOLE = of_size(5000)
JOINED = joined([WHOLE])


def first(data: bytes = JOINED[:3000], count: int = 1, total: int = len(WHOLE)) -> Part:
    return Part(FIRST, 1, data, count, total)


def whole(data: bytes, count: int = 1, total: int = len(WHOLE), stream: int = 1) -> Part:
    return Part(FIRST | LAST, stream, data, count, total)


MALFORMED = {
    "no first": ([Part(LAST, 1, b"")], "a part of a batch that has not begun"),
    "no first, middle": ([Part(0, 1, DATA)], "a part of a batch that has not begun"),
    "no first in this stream": (
        [first(), Part(LAST, 2, JOINED[3000:])],
        "a part of a batch that has not begun",
    ),
    "two firsts": ([first(), first()], "a second batch of a stream before the end of the first"),
    "a whole one between": (
        [first(), whole(JOINED)],
        "a second batch of a stream before the end of the first",
    ),
    "after the end": (
        [first(), Part(LAST, 1, JOINED[3000:]), Part(LAST, 1, b"")],
        "a part of a batch that has not begun",
    ),
    "too long": (
        [first(), Part(LAST, 1, JOINED[3000:] + b"x")],
        "a batch that is longer than its first part says",
    ),
    "too long at once": ([whole(JOINED + b"x")], "a batch that is longer than its first part says"),
    "too short": (
        [first(), Part(LAST, 1, JOINED[3000:-1])],
        "a batch that is shorter than its first part says",
    ),
    "complete without last": (
        [first(JOINED[:2500]), Part(0, 1, JOINED[2500:])],
        "a batch that is shorter than its first part says",
    ),
    "complete without last at once": (
        [first(JOINED)],
        "a batch that is shorter than its first part says",
    ),
    "an envelope that is too long": (
        [whole(SIGNATURE + (len(WHOLE) + 1).to_bytes(4, "little") + WHOLE, total=len(WHOLE))],
        "a batch that is shorter than its envelopes",
    ),
    "an envelope that is too short": (
        [whole(SIGNATURE + (len(WHOLE) - 1).to_bytes(4, "little") + WHOLE, total=len(WHOLE))],
        "a batch that is longer than its envelopes",
    ),
    "no room for a size": (
        [whole(joined([WHOLE]) + bytes(4), count=2)],
        "an envelope of 0 bytes",
    ),
    "a size that is cut": (
        [
            whole(
                SIGNATURE + (len(WHOLE) + 2).to_bytes(4, "little") + WHOLE + b"1234",
                count=2,
            )
        ],
        "a batch that is shorter than its envelopes",
    ),
    "less than a header": ([whole(joined([bytes(121)]), total=121)], "an envelope of 121 bytes"),
    "another priority": (
        [whole(JOINED, stream=2)],
        "an envelope of stream 1 in stream 2",
    ),
    "volatile, in its durable stream": (
        [whole(joined([of_size(5000, 5)]), stream=1)],
        "an envelope of stream 5 in stream 1",
    ),
    "durable, in its volatile stream": (
        [whole(JOINED, stream=5)],
        "an envelope of stream 1 in stream 5",
    ),
    "another priority, volatile": (
        [whole(joined([of_size(5000, 5)]), stream=6)],
        "an envelope of stream 5 in stream 6",
    ),
    "another priority and volatile": (
        [whole(joined([of_size(5000, 6)]), stream=1)],
        "an envelope of stream 6 in stream 1",
    ),
    "no first in this volatile stream": (
        [first(), Part(LAST, 5, JOINED[3000:])],
        "a part of a batch that has not begun",
    ),
    "an abort of the volatile stream": (
        [first(), Part(ABORT, 5)],
        "the abort of a batch that has not begun",
    ),
    "too large": (
        [first(count=2, total=65_537)],
        "a batch of 65537 bytes, which is too large",
    ),
    "one that is too large": (
        [first(total=(1 << 16) + 513)],
        "a batch of 66049 bytes, which is too large",
    ),
    "an abort of nothing": ([Part(ABORT, 1)], "the abort of a batch that has not begun"),
    "an abort of another stream": (
        [first(), Part(ABORT, 2)],
        "the abort of a batch that has not begun",
    ),
    "a part after the abort": (
        [first(), Part(ABORT, 1), Part(LAST, 1, JOINED[3000:])],
        "a part of a batch that has not begun",
    ),
    "more than was granted": (
        [first(count=1001, total=60_000)],
        "a batch of 1001 envelopes, legal are 1 to 256",
    ),
}


class TestMalformed:
    @pytest.mark.parametrize("name", MALFORMED)
    def test_a_malformed_batch_closes_the_link(self, name: str) -> None:
        parts, fact = MALFORMED[name]
        bob = session()
        bob.receive_data(hello().encode(), 0.0)
        events_of(bob)
        for part in parts:
            assert not bob.is_closed
            bob.receive_data(part.encode(), 0.0)
        *_, closed = events_of(bob)
        assert closed == Closed(
            frames.CLOSE_PROTOCOL_ERROR,
            f"the peer sent {fact}",
            is_by_peer=False,
            reason=Reason.PROTOCOL_ERROR,
        )

    def test_the_credit_is_charged_with_the_first_part(self) -> None:
        for credit in (credits(9, 65_535, 9, 9), with_credit(BIG, 1, 9, 65_535)):
            bob = session(credit=credit)
            bob.receive_data(hello().encode() + first(total=65_536).encode(), 0.0)
            *_, closed = events_of(bob)
            assert isinstance(closed, Closed)
            assert closed.cause == "the peer sent more than it was granted"

    @pytest.mark.parametrize("is_first", [True, False])
    @pytest.mark.parametrize("stream", range(8))
    @pytest.mark.parametrize("other", range(8))
    def test_a_batch_has_one_stream(self, stream: int, other: int, is_first: bool) -> None:
        """So a mixed batch does not evade the credit and the order of a stream."""
        bodies = [body_of(stream, 1), body_of(other, 2)]
        if is_first:
            bodies.reverse()
        bob = session(BOB, ALICE)
        bob.receive_data(hello().encode(), 0.0)
        bob.receive_data(encode_batch(sign_batch(ALICE, bodies)[1], bodies, stream), 0.0)
        _, event = events_of(bob)
        if stream == other:
            assert isinstance(event, BatchReceived)
            return
        assert isinstance(event, Closed)
        assert event.code == frames.CLOSE_PROTOCOL_ERROR
        assert event.cause == f"the peer sent an envelope of stream {other} in stream {stream}"

    def test_a_single_body_may_be_larger_than_a_batch(self) -> None:
        incoming = IncomingBatches(1024, 5000)
        assert incoming.add(first(total=5512), 0.0) is None
        with pytest.raises(RemoteProtocolError):
            IncomingBatches(1024, 5000).add(first(count=2, total=1025), 0.0)


class TestAbort:
    @pytest.mark.parametrize("stream", range(8))
    def test_its_credit_is_granted_again_at_once(self, stream: int) -> None:
        alice, bob = open_pair()
        begun = Part(FIRST, stream, JOINED[:3000], 3, 20_000)
        unused = [bob.peer_credit_left(each) for each in range(8)]
        bob.receive_data(begun.encode(), 0.0)
        # as long as the batch is not complete
        assert [bob.peer_credit_left(each) for each in range(8)] == unused
        bob.receive_data(Part(ABORT, stream).encode(), 0.0)
        assert [bob.peer_credit_left(each) for each in range(8)] == unused == list(PLENTY)
        grant = with_credit(PLENTY, stream, *PLENTY[stream].plus(3, 20_000))
        assert CreditFrame(grant) in frames_of(bob.data_to_send())
        assert events_of(bob) == []
        bob.receive_data(whole(joined([of_size(5000, stream)]), stream=stream).encode(), 0.0)
        assert not bob.is_closed
        assert [alice.credit_left(each) for each in range(8)] == list(PLENTY)


class TestTime:
    @staticmethod
    def begun(total: int, *, is_stranger: bool = False, **limits: float | None) -> Session:
        values: dict[str, Any] = {"ping_interval": 1e6, "dead_timeout": 1e6, **limits}
        them = SessionLimits(max_payload_size=1 << 20, **values)
        says = hello(credit=BIG)
        bob = Session(BOB, ALICE.did, says, them, 0.0, read_clocks, is_stranger=is_stranger)
        bob.receive_data(says.encode() + first(total=total).encode(), 100.0)
        bob.handle_timeout(101.0)  # READ is sent
        bob.data_to_send()
        events_of(bob)
        return bob

    def check_end(self, bob: Session, due: float) -> None:
        assert bob.next_timeout() == due
        bob.handle_timeout(due)
        *_, closed = events_of(bob)
        assert isinstance(closed, Closed)
        assert closed.cause == "the rest of a batch came too slowly"
        assert (closed.code, closed.reason) == (frames.CLOSE_PROTOCOL_ERROR, Reason.TOO_SLOW)

    def test_the_next_part_does_not_come(self) -> None:
        bob = self.begun(1 << 20)
        bob.receive_data(Part(0, 1, bytes(2100)).encode(), 120.0)
        bob.handle_timeout(121.0)
        self.check_end(bob, 150.0)

    def test_other_frames_do_not_extend_the_time(self) -> None:
        bob = self.begun(1 << 20)
        bob.receive_data(CreditFrame(BIG).encode(), 125.0)
        self.check_end(bob, 130.0)

    def test_a_stranger_must_keep_a_pace(self) -> None:
        bob = self.begun(80 * 1024, is_stranger=True)
        for now in (110.0, 120.0, 130.0):
            bob.receive_data(Part(0, 1, bytes(2100)).encode(), now)
            bob.handle_timeout(now + 1)
        self.check_end(bob, 140.0)

    def test_no_limit(self) -> None:
        bob = self.begun(1 << 20, frame_timeout=None)
        assert bob.next_timeout() == 100.0 + 1e6

    def test_our_own_stall_is_not_the_fault_of_the_peer(self) -> None:
        bob = self.begun(1 << 20)
        bob.handle_timeout(140.0)
        assert [type(event) for event in events_of(bob)] == [StallNoticed]
        assert bob.next_timeout() == 141.0


class TestRead:
    def test_ten_milliseconds_after_the_first_byte(self) -> None:
        alice, bob = open_pair()
        bob.receive_data(encode_batch(SIGNATURE, [WHOLE]), 1.0)
        assert bob.next_timeout() == pytest.approx(1.01)
        assert bob.data_to_send() == b""
        bob.receive_data(encode_batch(SIGNATURE, [WHOLE]), 1.005)
        bob.handle_timeout(1.02, 1.02)
        assert frames_of(bob.data_to_send()) == [Read(10_000, 15_000, 5_000)]
        assert bob.next_timeout() == pytest.approx(6.005)
        bob.handle_timeout(1.05)
        assert bob.data_to_send() == b""
        assert alice.outgoing.window.read == 0

    def test_at_once_after_32_kib(self) -> None:
        _, bob = open_pair()
        one = of_size(32 * 1024)
        bob.receive_data(encode_batch(SIGNATURE, [one]), 1.0)
        assert frames_of(bob.data_to_send()) == [Read(32 * 1024, 0, 0)]

    def test_together_with_other_frames(self) -> None:
        """After 5 ms, or at once if much was read."""
        _, bob = open_pair()
        bob.receive_data(encode_batch(SIGNATURE, [WHOLE[:932]]), 1.0)
        bob.send_receipts(1, [bytes(32)], 7)
        (receipt,) = frames_of(bob.data_to_send(0, 1.004))
        assert isinstance(receipt, Receipts)
        bob.send_receipts(1, [bytes(32)], 7)
        receipt, read = frames_of(bob.data_to_send(0, 1.006))
        assert isinstance(receipt, Receipts)
        assert read == Read(1000, 6000, 0)
        _, bob = open_pair()
        bob.receive_data(encode_batch(SIGNATURE, [WHOLE]), 1.0)
        bob.send_receipts(1, [bytes(32)], 7)
        receipt, read = frames_of(bob.data_to_send(0, 1.001))
        assert isinstance(receipt, Receipts)
        assert read == Read(5000, 1000, 0)

    def test_what_the_peer_has_read(self) -> None:
        alice, bob = open_pair(ours=BIG, theirs=BIG)
        alice.send_batch([of_size(40_000)])
        bob.receive_data(alice.data_to_send(), 1.0)
        alice.receive_data(bob.data_to_send(), 1.0)
        assert 32 * 1024 <= alice.outgoing.window.read <= 40_000 == alice.outgoing.bytes_out
        bob.handle_timeout(1.02)
        alice.receive_data(bob.data_to_send(), 1.0)
        assert alice.outgoing.window.read == 40_000

    @pytest.mark.parametrize("read", [4999, 5001])
    def test_a_read_that_falls_or_is_more_than_was_sent(self, read: int) -> None:
        alice, _ = open_pair()
        alice.send_batch([WHOLE])
        alice.data_to_send()
        alice.receive_data(Read(5000, 0, 0).encode() * 2, 1.0)
        assert not alice.is_closed
        alice.receive_data(Read(read, 0, 0).encode(), 1.0)
        (closed,) = events_of(alice)
        assert isinstance(closed, Closed)
        assert closed.cause == "the peer sent a READ that does not fit what was sent"


class TestEndToEnd:
    def test_critical_goes_between_two_parts_of_low(self) -> None:
        alice, bob = open_pair(ours=BIG, theirs=BIG)
        low = body(1, bytes(60_000), priority=0)
        urgent = body(1, b"stop", priority=3)
        alice.send_batch([low])
        bob.receive_data(alice.data_to_send(1), 0.0)
        assert events_of(bob) == []
        alice.send_batch([urgent])
        bob.receive_data(alice.data_to_send(1), 0.0)
        (received,) = events_of(bob)
        assert isinstance(received, BatchReceived)
        assert received.bodies == [urgent]
        bob.receive_data(alice.data_to_send(), 0.0)
        (received,) = events_of(bob)
        assert isinstance(received, BatchReceived)
        assert received.bodies == [low]

    @settings(deadline=None, max_examples=40)
    @given(st.integers(0, 2**32 - 1))
    def test_any_batches_any_room_any_cut(self, seed: int) -> None:
        sys.stdout.write(f"seed {seed}\n")
        draw = random.Random(seed)
        alice, bob = open_pair(ours=BIG, theirs=BIG)
        sent: dict[int, list[list[bytes]]] = {stream: [] for stream in range(8)}
        got: dict[int, list[list[bytes]]] = {stream: [] for stream in range(8)}
        for number in range(draw.randrange(1, 12)):
            stream = draw.randrange(8)
            sizes = [draw.choice((0, 5, 300))] * draw.randrange(1, 100)
            if draw.random() < 0.4:
                sizes = [draw.randrange(60_000)]
            bodies = [body_of(stream, number + 1, draw.randbytes(size)) for size in sizes]
            alice.send_batch(bodies)
            sent[stream].append(bodies)
            for _ in range(draw.randrange(3)):
                self.carry(draw, alice, bob, draw.choice((1, 20_000, 50_000)), got)
        while alice.outgoing.top >= 0:
            self.carry(draw, alice, bob, draw.choice((1, 20_000, None)), got)
        assert got == sent
        assert not bob.is_closed
        assert bob._incoming.bytes_in == alice.outgoing.bytes_out == alice.outgoing.window.read

    @staticmethod
    def carry(
        draw: random.Random,
        alice: Session,
        bob: Session,
        room: int | None,
        got: dict[int, list[list[bytes]]],
    ) -> None:
        data = alice.data_to_send(room)
        while data:
            size = draw.choice((1, 100, 20_000, len(data)))
            bob.receive_data(data[:size], 0.0)
            data = data[size:]
        bob.handle_timeout(0.01)
        alice.receive_data(bob.data_to_send(), 0.0)
        for event in events_of(bob):
            assert isinstance(event, BatchReceived)
            got[stream_of(event.bodies[0])].append(event.bodies)

    @settings(deadline=None, max_examples=60)
    @given(st.integers(0, 2**32 - 1))
    def test_any_order_of_parts_ends_or_arrives(self, seed: int) -> None:
        """Parts of good batches, some repeated or moved: no batch that was made up is believed."""
        sys.stdout.write(f"seed {seed}\n")
        draw = random.Random(seed)
        good: list[list[bytes]] = []
        parts: list[bytes] = []
        for stream in range(8):
            bodies = [body_of(stream, 1, draw.randbytes(draw.randrange(50_000)))]
            good.append(bodies)
            data = encode_batch(sign_batch(ALICE, bodies)[1], bodies)
            parts += [part.encode() for part in parts_of(data)]
        for _ in range(draw.randrange(4)):
            at = draw.randrange(len(parts))
            moved = parts[at] if draw.random() < 0.5 else parts.pop(at)
            parts.insert(draw.randrange(len(parts) + 1), moved)
        _, bob = open_pair(ours=BIG, theirs=BIG)
        for part in parts:
            bob.receive_data(part, 0.0)
        for event in events_of(bob):
            if isinstance(event, BatchReceived):
                assert event.bodies in good
            elif isinstance(event, Closed):
                assert event.code == frames.CLOSE_PROTOCOL_ERROR
            else:
                assert isinstance(event, BatchFailed)


class TestAborts:
    def test_the_peer_forgets_the_batch_and_grants_its_credit_again(self) -> None:
        alice, bob = open_pair(theirs=BIG)
        large, small = body(1, bytes(50_000)), body(2)
        window = alice.credit_left(1)
        alice.send_batch([large])
        bob.receive_data(alice.data_to_send(1), 0.0)
        assert len(bob._incoming.unfinished) == 1
        assert alice.abort_batch(1)
        assert not alice.outgoing.has(1)
        later = alice.send_batch([small])
        bob.receive_data(alice.data_to_send(), 0.0)
        assert not bob._incoming.unfinished
        (event,) = events_of(bob)
        assert isinstance(event, BatchReceived)
        assert event.root == later.root
        alice.receive_data(bob.data_to_send(), 0.0)
        assert alice.credit_left(1) == window.minus(Credit(1, len(small)))
        assert not alice.is_closed

    def test_not_after_the_last_part(self) -> None:
        alice, bob = open_pair(theirs=BIG)
        alice.send_batch([body(1, bytes(50_000))])
        assert not alice.abort_batch(1)  # nor before the first
        data = alice.data_to_send()
        assert not alice.abort_batch(1)
        bob.receive_data(data + alice.data_to_send(), 0.0)
        assert [type(event) for event in events_of(bob)] == [BatchReceived]
