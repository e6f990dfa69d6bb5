"""The v2 session: every frame in every state, every timer, credit, and two of them together."""

from __future__ import annotations

import itertools
import math
import random
import struct
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from linkkit import (
    ALICE,
    AT,
    BOB,
    EVE,
    PLENTY,
    body,
    body_of,
    credits,
    events_of,
    exchange,
    frames_of,
    hello,
    open_pair,
    ping,
    pong,
    read_clocks,
    session,
    with_credit,
)
from signedwire.identity import Identity, Label
from signedwire.types import Credit, Priority, Reason
from signedwire.wire import link_frames as frames
from signedwire.wire.batch import leaf_of
from signedwire.wire.clock_offset import Stamp
from signedwire.wire.envelope import sign_batch
from signedwire.wire.granted_credit import GrantedCredit
from signedwire.wire.header import STREAMS, VOLATILE, stream_of
from signedwire.wire.link_frames import (
    Close,
    CreditFrame,
    Epochs,
    Part,
    Ping,
    Pong,
    Receipts,
    Refusal,
)
from signedwire.wire.parts import encode_batch
from signedwire.wire.session import (
    BatchFailed,
    BatchReceived,
    Closed,
    Event,
    HelloReceived,
    ReceiptsReceived,
    RoomReceived,
    Session,
    SessionLimits,
    StallNoticed,
    State,
)
from signedwire.wire.session_events import CLOSE_MISSING

NOTHING = Credit(0, 0)
ROOT = bytes(range(32))


def envelopes(bodies: list[bytes] | None = None, signer: Identity = BOB) -> bytes:
    """An ENVELOPES frame from Bob to Alice."""
    bodies = bodies or [body(sender=BOB, recipient=ALICE)]
    return encode_batch(sign_batch(signer, bodies)[1], bodies)


def window(a_session: Session) -> tuple[Credit, ...]:
    """What is left of the credit of each stream."""
    return tuple(map(a_session.credit_left, range(STREAMS)))


def unused(a_session: Session) -> tuple[Credit, ...]:
    """What is left of the credit of each stream of the peer."""
    return tuple(map(a_session.peer_credit_left, range(STREAMS)))


def receipt(
    kind: int = frames.ACCEPTED_BATCHES,
    *hashes: bytes,
    signer: Identity = BOB,
    parties: bytes = bytes(BOB.did) + bytes(ALICE.did),
    label: Label = Label.RECEIPT,
) -> Receipts:
    """A RECEIPT from Bob about what Alice sent."""
    plain = Receipts(kind, 7, hashes or (ROOT,), code=int(kind == 4))
    return replace(plain, signature=signer._sign_labelled(label, parties + plain.statement))


def open_alice(**options: Any) -> Session:
    """Alice's end, open, with no bytes to send."""
    alice = session(**options)
    alice.receive_data(hello().encode(), 0.0)
    alice.data_to_send()
    events_of(alice)
    return alice


def ended(a_session: Session) -> Closed:
    """The last event; nothing can come after it."""
    assert a_session.state is State.CLOSED
    assert a_session.is_closed
    *_, last = events_of(a_session)
    assert isinstance(last, Closed)
    return last


REFUSAL = Refusal(ROOT, Reason.EXPIRED)
"""What `receipt(4)` says."""
FRAMES: dict[str, bytes] = {
    "HELLO": hello().encode(),
    "ENVELOPES": envelopes(),
    "RECEIPT": receipt().encode(),
    "REFUSAL": receipt(4).encode(),
    "CREDIT": CreditFrame(tuple(each.plus(1, 1) for each in PLENTY)).encode(),
    "PING": ping(5).encode(),
    "PONG": pong(5).encode(),
    "CLOSE": Close(frames.CLOSE_EVICTED, "bye").encode(),
    "unknown": b"\0\0\0\3\x7fxx",
    "skipped": b"\0\0\0\3\x80xx",
}


class TestDispatch:
    """Each frame type in each state."""

    def test_both_say_hello_at_once(self) -> None:
        alice = session()
        assert frames_of(alice.data_to_send()) == [hello()]
        assert alice.state is State.OPENING
        assert alice.their_hello is None
        assert alice.data_to_send() == b""

    def test_the_hello_opens(self) -> None:
        alice = session()
        alice.data_to_send()
        theirs = hello(
            epochs=Epochs(77, 78),
            known_epochs=Epochs(9, 10),
            marks=tuple(range(8)),
            features=2**63,
        )
        alice.receive_data(theirs.encode(), 0.0)
        assert events_of(alice) == [HelloReceived(theirs)]
        assert alice.state is State.OPEN
        assert alice.their_hello == theirs
        assert frames_of(alice.data_to_send()) == [ping(1)]

    @pytest.mark.parametrize(
        "name", ["ENVELOPES", "RECEIPT", "REFUSAL", "CREDIT", "PING", "PONG", "unknown"]
    )
    def test_before_the_hello(self, name: str) -> None:
        alice = session()
        alice.receive_data(FRAMES[name] + FRAMES["HELLO"], 0.0)
        event = ended(alice)
        assert event.code == frames.CLOSE_PROTOCOL_ERROR
        assert event.reason is Reason.PROTOCOL_ERROR
        assert not event.is_by_peer
        what = "a frame of unknown type 0x7f" if name == "unknown" else "a frame before its HELLO"
        assert event.cause == f"the peer sent {what}"
        assert frames_of(alice.data_to_send()) == [hello(), Close(event.code, event.cause)]

    def test_a_close_before_the_hello(self) -> None:
        alice = session()
        alice.receive_data(FRAMES["CLOSE"] + FRAMES["HELLO"], 0.0)
        assert events_of(alice) == [Closed(frames.CLOSE_EVICTED, "bye", is_by_peer=True)]
        assert frames_of(alice.data_to_send()) == [hello()]  # it was queued before

    def test_what_is_skipped_before_the_hello_and_after(self) -> None:
        alice = session()
        alice.receive_data(FRAMES["skipped"] + FRAMES["HELLO"] + FRAMES["skipped"], 0.0)
        assert events_of(alice) == [HelloReceived(hello())]

    @pytest.mark.parametrize("name", ["HELLO", "unknown"])
    def test_what_closes_an_open_one(self, name: str) -> None:
        alice = open_alice()
        alice.receive_data(FRAMES[name] + FRAMES["ENVELOPES"], 0.0)
        event = ended(alice)
        assert event.reason is Reason.PROTOCOL_ERROR
        what = "a frame of unknown type 0x7f" if name == "unknown" else "a second HELLO"
        assert event.cause == f"the peer sent {what}"

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("RECEIPT", [ReceiptsReceived(receipt())]),
            ("REFUSAL", [ReceiptsReceived(receipt(4))]),
            ("CREDIT", [RoomReceived()]),
            ("PING", []),
            ("PONG", []),
            ("CLOSE", [Closed(frames.CLOSE_EVICTED, "bye", is_by_peer=True)]),
        ],
    )
    def test_in_an_open_one(self, name: str, expected: list[Event]) -> None:
        alice = open_alice()
        alice.receive_data(FRAMES[name], 0.0)
        assert events_of(alice) == expected
        answers: list[frames.Frame] = [pong(5)] if name == "PING" else []
        assert frames_of(alice.data_to_send()) == answers

    def test_a_batch(self) -> None:
        alice = open_alice()
        bodies = [body(n, sender=BOB, recipient=ALICE) for n in range(1, 20)]
        alice.receive_data(envelopes(bodies), 0.0)
        root, signature, leaves = sign_batch(BOB, bodies)
        assert events_of(alice) == [BatchReceived(bodies, root, leaves, signature)]

    @pytest.mark.parametrize("name", FRAMES)
    def test_in_a_closed_one(self, name: str) -> None:
        alice = open_alice()
        alice.close(frames.CLOSE_DONE, "")
        alice.data_to_send()
        events_of(alice)
        alice.receive_data(FRAMES[name], 0.0)
        assert events_of(alice) == []
        assert alice.data_to_send() == b""

    @pytest.mark.parametrize("versions", [(0, 1), (1, 1), (3, 3), (3, 65535)])
    def test_a_version_that_we_do_not_speak(self, versions: tuple[int, int]) -> None:
        alice = session()
        low, high = versions
        alice.receive_data(hello(min_version=low, max_version=high).encode(), 0.0)
        event = ended(alice)
        assert (event.code, event.reason) == (frames.CLOSE_VERSION, Reason.WRONG_PROTOCOL)
        assert event.cause == f"the peer speaks versions {low} to {high}, we speak 2"
        assert frames_of(alice.data_to_send())[-1] == Close(event.code, event.cause)

    def test_a_hello_of_a_later_version(self) -> None:
        alice = session()
        theirs = hello(max_version=3)
        frame = theirs.encode()
        more = bytes(range(200))
        size = (len(frame) - 4 + len(more)).to_bytes(4, "big")
        alice.receive_data(size + frame[4:] + more + FRAMES["PING"], 0.0)
        assert events_of(alice) == [HelloReceived(theirs)]
        assert frames_of(alice.data_to_send()) == [hello(), ping(1), pong(5)]

    @pytest.mark.parametrize(
        "changes",
        [
            {"epochs": Epochs(0, 9)},
            {"epochs": Epochs(9, 0)},
            {"epochs": Epochs(2**63, 9)},
            {"epochs": Epochs(9, 2**63)},
            {"known_epochs": Epochs(2**63, 0)},
            {"known_epochs": Epochs(0, 2**63)},
            {"max_batch_bytes": 1023},
        ],
    )
    def test_a_hello_out_of_its_limits(self, changes: dict[str, Any]) -> None:
        alice = session()
        alice.receive_data(hello(**changes).encode() + FRAMES["ENVELOPES"], 0.0)
        event = ended(alice)
        assert event.cause == "the peer sent a HELLO with illegal versions, epochs or sizes"
        assert (event.code, event.reason) == (
            frames.CLOSE_PROTOCOL_ERROR,
            Reason.PROTOCOL_ERROR,
        )

    @pytest.mark.parametrize("versions", [(2, 2), (1, 2), (2, 3), (0, 65535)])
    def test_a_version_that_we_speak(self, versions: tuple[int, int]) -> None:
        alice = session()
        low, high = versions
        alice.receive_data(hello(min_version=low, max_version=high).encode(), 0.0)
        assert alice.state is State.OPEN


class TestStream:
    """Cuts, limits and the end of the channel."""

    STREAM = b"".join(
        [
            FRAMES["HELLO"],
            envelopes([body(n, bytes(300), sender=BOB, recipient=ALICE) for n in range(1, 61)]),
            *(FRAMES[name] for name in ("RECEIPT", "skipped", "REFUSAL", "CREDIT", "PING")),
            envelopes(signer=EVE),
            FRAMES["PONG"],
        ]
    )
    ENDS = (FRAMES["CLOSE"], FRAMES["HELLO"], bytes(4), b"\xff\xff\xff\xff", b"\0\0\0\x63\2x", b"")

    @staticmethod
    def outcome(pieces: list[bytes]) -> tuple[list[Event], bytes]:
        alice = session()
        data = b""
        for piece in pieces:
            alice.receive_data(piece, 0.0)
            data += alice.data_to_send()
        alice.receive_eof(0.0)
        return events_of(alice), data + alice.data_to_send()

    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.integers(0, 30_000), max_size=30), st.sampled_from(ENDS))
    @example([104], b"")
    @example([105], b"")
    def test_any_cut_gives_the_same_events(self, places: list[int], end: bytes) -> None:
        stream = self.STREAM + end
        # The batch has several parts, the first of which may come together with the HELLO.
        assert len(stream) > frames.MAX_FRAME_SIZE + 5_000
        edges = [0, *sorted(min(place, len(stream)) for place in places), len(stream)]
        pieces = [stream[a:b] for a, b in itertools.pairwise(edges)]
        (events, data), (whole_events, whole_data) = self.outcome(pieces), self.outcome([stream])
        assert events == whole_events
        assert len(events) == 7
        assert isinstance(events[-1], Closed)
        assert data == whole_data

    @given(st.integers(1, 400))
    def test_in_pieces_of_one_size(self, size: int) -> None:
        stream = self.STREAM[:1000]
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        assert self.outcome(pieces) == self.outcome([stream])

    def test_a_large_frame_before_the_hello(self) -> None:
        alice = session()
        alice.receive_data((16_381).to_bytes(4, "big"), 0.0)
        assert ended(alice).cause == "the peer sent a frame of 16381 bytes, legal are 1 to 16380"

    def test_a_large_frame_after_it(self) -> None:
        alice = open_alice()
        alice.receive_data((16_380).to_bytes(4, "big"), 0.0)
        assert alice.state is State.OPEN
        alice = open_alice()
        alice.receive_data((16_381).to_bytes(4, "big"), 0.0)
        assert ended(alice).cause == "the peer sent a frame of 16381 bytes, legal are 1 to 16380"

    @pytest.mark.parametrize("is_open", [False, True])
    @pytest.mark.parametrize(("rest", "reason"), [(b"", None), (b"\0", Reason.TRUNCATED)])
    def test_the_end_of_the_channel(
        self, is_open: bool, rest: bytes, reason: Reason | None
    ) -> None:
        alice = open_alice() if is_open else session()
        alice.data_to_send()
        alice.receive_data(rest, 0.0)
        alice.receive_eof(0.0)
        assert events_of(alice) == [
            Closed(CLOSE_MISSING, "the connection ended", is_by_peer=True, reason=reason)
        ]
        alice.receive_eof(0.0)
        assert events_of(alice) == []
        assert alice.data_to_send() == b""


class TestSignatures:
    FORGERIES: tuple[Receipts, ...] = (
        receipt(signer=ALICE),
        receipt(signer=EVE),
        receipt(parties=bytes(ALICE.did) + bytes(BOB.did)),  # the other direction
        receipt(parties=bytes(BOB.did) + bytes(EVE.did)),  # about another sender
        receipt(parties=bytes(EVE.did) + bytes(ALICE.did)),
        receipt(label=Label.BATCH),
        receipt(label=Label.DID_PROOF),
        replace(receipt(), kind=frames.HANDLED_ENVELOPES),
        replace(receipt(), kind=frames.ACCEPTED_ENVELOPES),
        replace(receipt(), at_us=8),
        replace(receipt(), code=1),  # committed
        replace(receipt(), hashes=(bytes(32),)),
        replace(receipt(), hashes=(ROOT, ROOT)),
        replace(receipt(frames.ACCEPTED_BATCHES, ROOT, bytes(32)), hashes=(bytes(32), ROOT)),
        replace(receipt(), signature=bytes(64)),
    )

    @pytest.mark.parametrize("number", range(len(FORGERIES)))
    def test_a_receipt_that_the_peer_did_not_sign(self, number: int) -> None:
        alice = open_alice()
        alice.receive_data(self.FORGERIES[number].encode() + FRAMES["ENVELOPES"], 0.0)
        assert events_of(alice) == [
            Closed(
                frames.CLOSE_BAD_SIGNATURE,
                "the peer sent a receipt that it did not sign",
                is_by_peer=False,
                reason=Reason.BAD_SIGNATURE,
            )
        ]
        assert frames_of(alice.data_to_send()) == [
            Close(frames.CLOSE_BAD_SIGNATURE, "the peer sent a receipt that it did not sign")
        ]

    @pytest.mark.parametrize("signer", [ALICE, EVE])
    def test_a_batch_that_the_peer_did_not_sign(self, signer: Identity) -> None:
        bodies = [body(n, sender=signer, recipient=ALICE) for n in (1, 2)]
        alice = open_alice()
        alice.receive_data(envelopes(bodies, signer), 0.0)
        # The batch uses credit and is not believed. The driver ends the link after it has
        # refused the envelopes.
        assert events_of(alice) == [BatchFailed(bodies)]
        assert alice.state is State.OPEN
        messages, size = PLENTY[1]
        used = with_credit(PLENTY, 1, messages - 2, size - sum(map(len, bodies)))
        assert unused(alice) == used

    def test_a_failed_batch_is_refused_by_name_before_the_end(self) -> None:
        alice, bob = open_pair()
        bodies = [body(n, sender=EVE, recipient=ALICE) for n in (1, 2)]
        alice.receive_data(envelopes() + envelopes(bodies, EVE), 0.0)
        received, failed = events_of(alice)
        assert isinstance(received, BatchReceived)
        assert isinstance(failed, BatchFailed)
        refusals = [Refusal(leaf_of(one), Reason.BAD_SIGNATURE) for one in bodies]
        alice.send_receipts(frames.ACCEPTED_BATCHES, [received.root], 7)
        alice.send_refusals(refusals, 7)
        alice.close(frames.CLOSE_BAD_SIGNATURE, "a batch that you did not sign")
        bob.receive_data(alice.data_to_send(), 0.0)
        receipts, refused, closed = events_of(bob)
        assert isinstance(receipts, ReceiptsReceived)
        assert isinstance(refused, ReceiptsReceived)
        assert refused.receipts.reason is Reason.BAD_SIGNATURE
        assert refused.receipts.hashes == tuple(leaf_of(one) for one in bodies)
        assert closed == Closed(7, "a batch that you did not sign", is_by_peer=True)
        assert bob.data_to_send() == b""

    @settings(deadline=None, max_examples=60)
    @given(st.integers(0, 64 + 3 * 126 + 20), st.integers(1, 255))
    def test_a_batch_with_any_changed_byte(self, at: int, change: int) -> None:
        bodies = [body(n, sender=BOB, recipient=ALICE) for n in (1, 2, 3)]
        data = bytearray(envelopes(bodies))
        data[5 + at % (len(data) - 5)] ^= change
        alice = open_alice()
        alice.receive_data(bytes(data), 0.0)
        for event in events_of(alice):
            assert isinstance(event, BatchFailed | Closed)

    @pytest.mark.parametrize("kind", [1, 2, 3])
    @pytest.mark.parametrize("is_committed", [False, True])
    def test_receipts_that_we_sign(self, kind: int, is_committed: bool) -> None:
        alice, bob = open_pair()
        hashes = [n.to_bytes(32, "big") for n in range(501)]
        bob.send_receipts(kind, hashes, 55, is_committed=is_committed)
        exchange(alice, bob)
        first, second = events_of(alice)
        assert isinstance(first, ReceiptsReceived)
        assert isinstance(second, ReceiptsReceived)
        assert (len(first.receipts.hashes), len(second.receipts.hashes)) == (500, 1)
        assert [*first.receipts.hashes, *second.receipts.hashes] == hashes
        for part in (first.receipts, second.receipts):
            assert (part.kind, part.at_us) == (kind, 55)
            assert part.is_committed == is_committed
            assert part.statement[9] == int(is_committed)  # so it is signed

    def test_committed_is_said_for_each_receipt_by_itself(self) -> None:
        alice, bob = open_pair()
        bob.send_receipts(frames.ACCEPTED_BATCHES, [ROOT], 7)
        bob.send_receipts(frames.ACCEPTED_BATCHES, [ROOT], 7, is_committed=True)
        bob.send_receipts(frames.ACCEPTED_BATCHES, [ROOT], 7, is_committed=False)
        exchange(alice, bob)
        said = [
            event.receipts.is_committed
            for event in events_of(alice)
            if isinstance(event, ReceiptsReceived)
        ]
        assert said == [False, True, False]

    def test_refusals_that_we_sign(self) -> None:
        """One statement for each reason and text, whatever the order, and one signature."""
        alice, bob = open_pair()
        refusals = [
            Refusal(n.to_bytes(32, "big"), Reason.RATE if n % 2 else Reason.REFUSED, "ü" * (n % 4))
            for n in range(8)
        ]
        bob.send_refusals(refusals, 55)
        exchange(alice, bob)
        parts = [
            event.receipts for event in events_of(alice) if isinstance(event, ReceiptsReceived)
        ]
        assert [(part.reason, part.explanation, len(part.hashes)) for part in parts] == [
            (Reason.REFUSED, "", 2),
            (Reason.RATE, "ü", 2),
            (Reason.REFUSED, "üü", 2),
            (Reason.RATE, "üüü", 2),
        ]
        for part in parts:
            assert (part.kind, part.at_us, part.is_committed) == (4, 55, False)

    def test_many_refusals(self) -> None:
        alice, bob = open_pair()
        refusals = [Refusal(n.to_bytes(32, "big"), Reason.MALFORMED) for n in range(501)]
        bob.send_refusals(refusals, 55)
        exchange(alice, bob)
        first, second = events_of(alice)
        assert isinstance(first, ReceiptsReceived)
        assert isinstance(second, ReceiptsReceived)
        leaves = [*first.receipts.hashes, *second.receipts.hashes]
        assert leaves == [refusal.leaf for refusal in refusals]
        assert len(second.receipts.hashes) == 1


SMALL = body(sender=BOB, recipient=ALICE)
URGENT = body(sender=BOB, recipient=ALICE, priority=Priority.CRITICAL)
SIZE = len(SMALL)


def from_bob(stream: int) -> bytes:
    """A body of Bob for Alice, of the size of `SMALL`."""
    return body_of(stream, sender=BOB, recipient=ALICE)


class TestCreditIn:
    """The peer never exceeds the credit that we granted."""

    @pytest.mark.parametrize("stream", range(STREAMS))
    @pytest.mark.parametrize(
        ("messages", "size", "count"),
        [(1, 1000, 2), (9, SIZE * 2 - 1, 2), (0, 9000, 1), (9, 0, 1), (9, SIZE - 1, 1)],
    )
    def test_a_peer_that_sends_more_is_closed(
        self, stream: int, messages: int, size: int, count: int
    ) -> None:
        bodies = [from_bob(stream)] * count
        # However much credit the other streams have.
        credit = with_credit(credits(9, 9000, 9, 9000), stream, messages, size)
        for parts in ([bodies], [[each] for each in bodies]):
            alice = open_alice(credit=credit)
            for part in parts:
                alice.receive_data(envelopes(part), 0.0)
            event = ended(alice)
            assert event.cause == "the peer sent more than it was granted"
            assert event.code == frames.CLOSE_PROTOCOL_ERROR

    @pytest.mark.parametrize(
        ("credit", "stream", "count"),
        [
            (credits(1, 1000, 9, 9000), 1, 2),
            (credits(9, SIZE * 2 - 1, 9, 9000), 1, 2),
            (credits(9, 9000, 1, 1000), 3, 2),
            (credits(9, 9000, 9, SIZE * 2 - 1), 3, 2),
            (credits(9, 9000, 0, 9000), 3, 1),
            (credits(0, 9000, 9, 9000), 1, 1),
        ],
    )
    def test_critical_and_the_others(
        self, credit: tuple[Credit, ...], stream: int, count: int
    ) -> None:
        for at in (stream, stream + VOLATILE):
            bodies = [from_bob(at)] * count
            for parts in ([bodies], [[each] for each in bodies]):
                alice = open_alice(credit=credit)
                for part in parts:
                    alice.receive_data(envelopes(part), 0.0)
                assert ended(alice).cause == "the peer sent more than it was granted"

    @pytest.mark.parametrize("stream", range(STREAMS))
    def test_a_stream_that_is_full_does_not_affect_another(self, stream: int) -> None:
        alice = open_alice(credit=credits(2, 2 * SIZE, 2, 2 * SIZE))
        alice.receive_data(envelopes([from_bob(stream)] * 2), 0.0)
        left = with_credit(credits(2, 2 * SIZE, 2, 2 * SIZE), stream, 0, 0)
        assert unused(alice) == left
        for other in range(STREAMS):
            if other != stream:
                alice.receive_data(envelopes([from_bob(other)] * 2), 0.0)
        assert [type(event) for event in events_of(alice)] == [BatchReceived] * STREAMS
        assert unused(alice) == (NOTHING,) * STREAMS
        alice.receive_data(envelopes([from_bob(stream)]), 0.0)
        assert ended(alice).cause == "the peer sent more than it was granted"

    @pytest.mark.parametrize("stream", range(STREAMS))
    def test_a_batch_that_failed_is_counted_too(self, stream: int) -> None:
        alice = open_alice(credit=with_credit(credits(0, 0, 0, 0), stream, 1, 1000))
        alice.receive_data(envelopes([from_bob(stream)], EVE), 0.0)
        alice.receive_data(envelopes([from_bob(stream)]), 0.0)
        assert [type(event) for event in events_of(alice)] == [BatchFailed, Closed]

    def test_to_the_last_byte(self) -> None:
        alice = open_alice(credit=credits(2, 2 * SIZE, 2, 2 * SIZE))
        for stream in range(STREAMS):
            alice.receive_data(envelopes([from_bob(stream)] * 2), 0.0)
        assert [type(event) for event in events_of(alice)] == [BatchReceived] * STREAMS

    @pytest.mark.parametrize("stream", range(STREAMS))
    def test_what_is_not_yet_told_is_not_yet_granted(self, stream: int) -> None:
        small = from_bob(stream)
        alice = open_alice(credit=with_credit(credits(0, 0, 0, 0), stream, 8, 1 << 20))
        alice.receive_data(envelopes([small] * 6), 0.0)
        alice.grant(stream, 1, SIZE)
        assert alice.data_to_send() == b""
        alice.receive_data(envelopes([small] * 2), 0.0)
        assert alice.state is State.OPEN
        alice.receive_data(envelopes([small]), 0.0)
        assert ended(alice).cause == "the peer sent more than it was granted"

    @pytest.mark.parametrize("stream", range(STREAMS))
    def test_what_is_told_is_granted(self, stream: int) -> None:
        small = from_bob(stream)
        first = with_credit(credits(0, 0, 0, 0), stream, 8, 1 << 20)
        alice = open_alice(credit=first)
        alice.receive_data(envelopes([small] * 8), 0.0)
        alice.grant(stream, 1, SIZE)
        told = with_credit(first, stream, 9, (1 << 20) + SIZE)
        assert frames_of(alice.data_to_send()) == [CreditFrame(told)]
        alice.receive_data(envelopes([small]), 0.0)
        assert alice.state is State.OPEN
        alice.receive_data(envelopes([small]), 0.0)
        assert alice.is_closed

    @pytest.mark.parametrize("size", [0, 121])
    def test_an_envelope_shorter_than_a_header(self, size: int) -> None:
        alice = open_alice()
        alice.receive_data(envelopes([SMALL, SMALL[:size]]), 0.0)
        assert ended(alice).cause == f"the peer sent an envelope of {size} bytes"

    @pytest.mark.parametrize("bodies", [[URGENT, SMALL], [SMALL, URGENT]])
    def test_a_batch_has_one_priority(self, bodies: list[bytes]) -> None:
        """So a mixed batch does not evade the credit of a stream."""
        alice = open_alice()
        alice.receive_data(envelopes(bodies), 0.0)
        stream, other = map(stream_of, bodies)
        cause = f"the peer sent an envelope of stream {other} in stream {stream}"
        assert ended(alice).cause == cause

    @pytest.mark.parametrize("priority", range(4))
    @pytest.mark.parametrize("is_durable", [False, True])
    def test_a_batch_is_durable_or_volatile(self, priority: int, is_durable: bool) -> None:
        streams = [priority, priority + VOLATILE]
        one, other = streams if is_durable else streams[::-1]
        alice = open_alice()
        alice.receive_data(envelopes([from_bob(one), from_bob(other)]), 0.0)
        event = ended(alice)
        assert event.cause == f"the peer sent an envelope of stream {other} in stream {one}"
        assert event.code == frames.CLOSE_PROTOCOL_ERROR


class TestGranting:
    @pytest.mark.parametrize("stream", range(STREAMS))
    @pytest.mark.parametrize("other", range(STREAMS))
    def test_is_told_when_a_quarter_has_come_together(self, stream: int, other: int) -> None:
        if stream == other:
            return
        first = credits(8, 1 << 20, 8, 1 << 20)
        alice = open_alice(credit=first)
        alice.grant(stream, 1, 1000)
        alice.grant(other, 1, 1000)
        assert alice.data_to_send() == b""
        alice.grant(stream, 1, 1000)
        # The frame tells what was granted in the other streams too.
        told = with_credit(first, stream, 10, (1 << 20) + 2000)
        told = with_credit(told, other, 9, (1 << 20) + 1000)
        assert frames_of(alice.data_to_send()) == [CreditFrame(told)]
        alice.grant(other, 1, 1 << 18)
        told = with_credit(told, other, 10, (1 << 20) + 1000 + (1 << 18))
        assert frames_of(alice.data_to_send()) == [CreditFrame(told)]

    def test_is_told_at_once_where_the_first_grant_was_nothing(self) -> None:
        """After a reconnect into a full inbox, no other event would wake the sender."""
        told = credits(0, 1 << 20, 0, 0)
        alice = open_alice(credit=told)
        for stream in range(STREAMS):
            alice.grant(stream, 1, 100)
            told = with_credit(told, stream, *told[stream].plus(1, 100))
            assert frames_of(alice.data_to_send()) == [CreditFrame(told)]

    @pytest.mark.parametrize("stream", range(STREAMS))
    def test_a_message_of_the_largest_size_is_never_waited_for(self, stream: int) -> None:
        """Less than a quarter was granted anew, but the sender lacks credit for one message."""
        largest = (1 << 16) + 413
        credit = credits(1000, largest + 1000, 1000, largest + 1000)
        alice, bob = open_pair(ours=credit)
        small = body_of(stream, 1, bytes(1000), sender=BOB)
        for _ in range(2):
            bob.send_batch([small])
            exchange(alice, bob)
            alice.grant(stream, 1, len(small))
            exchange(alice, bob)
        assert bob.credit_left(stream).bytes >= largest

    def test_what_is_outstanding(self) -> None:
        credit = credits(8, 4000, 2, 1000)
        alice = open_alice(credit=credit)
        assert unused(alice) == credit
        volatile = from_bob(6)
        alice.receive_data(envelopes([SMALL, SMALL]) + envelopes([URGENT]), 0.0)
        alice.receive_data(envelopes([volatile, volatile, volatile]), 0.0)
        left = with_credit(credit, 1, 6, 4000 - 2 * SIZE)
        left = with_credit(left, 3, 1, 1000 - SIZE)
        left = with_credit(left, 6, 5, 4000 - 3 * SIZE)
        assert unused(alice) == left
        alice.grant(1, 1, SIZE)  # whether the grant was advertised or not
        assert unused(alice) == with_credit(left, 1, 7, 4000 - SIZE)

    def test_after_the_end(self) -> None:
        alice = open_alice()
        alice.close(0, "")
        alice.data_to_send()
        for stream in range(STREAMS):
            alice.grant(stream, 1000, 1 << 20)
        assert alice.data_to_send() == b""

    @pytest.mark.parametrize("stream", range(STREAMS))
    def test_before_the_hello_of_the_peer(self, stream: int) -> None:
        first = with_credit(credits(0, 0, 0, 0), stream, 4, 4000)
        alice = session(credit=first)
        alice.grant(stream, 1, 100)
        assert frames_of(alice.data_to_send()) == [
            hello(credit=first),
            CreditFrame(with_credit(first, stream, 5, 4100)),
        ]

    @settings(deadline=None)
    @given(
        st.lists(
            st.builds(Credit, st.integers(0, 40), st.integers(0, 30_000)), min_size=8, max_size=8
        ),
        st.lists(
            st.tuples(st.integers(0, 7), st.booleans(), st.integers(1, 12), st.integers(126, 9000)),
            max_size=60,
        ),
    )
    def test_what_is_told_covers_what_is_granted(
        self, first: list[Credit], steps: list[tuple[int, bool, int, int]]
    ) -> None:
        """In each stream less than a quarter of the first grant is untold, or enough is left."""
        credit = GrantedCredit(tuple(first), 1000)
        largest = 1000 + 413
        granted, received = list(first), [NOTHING] * STREAMS
        for stream, is_grant, messages, size in steps:
            if is_grant:
                before, granted[stream] = credit.told, granted[stream].plus(messages, size)
                if credit.add(stream, messages, size):
                    frame = credit.tell()
                    assert frame.credit == tuple(granted) == credit.told
                    # Only the stream of the grant is a reason to tell.
                    assert frame.credit[stream] != before[stream]
                    left = before[stream].minus(received[stream])
                    more = granted[stream].minus(before[stream])
                    assert (
                        more.messages * 4 >= first[stream].messages
                        or more.bytes * 4 >= first[stream].bytes
                        or left.messages < 1
                        or left.bytes < largest
                    )
            else:
                after = received[stream].plus(messages, size)
                if after.exceeds(credit.told[stream]):
                    continue
                received[stream] = after
                assert credit.charge(stream, messages, size)
            assert (credit.granted, credit.received) == (granted, received)
            for each in range(STREAMS):
                assert credit.left(each) == granted[each].minus(received[each])
                untold = granted[each].minus(credit.told[each])
                assert not credit.told[each].exceeds(granted[each])
                assert 4 * untold.messages < first[each].messages or not untold.messages
                assert 4 * untold.bytes < first[each].bytes or not untold.bytes


class TestCreditOut:
    """We never exceed the credit that the peer granted."""

    def test_there_is_no_room_before_the_hello(self) -> None:
        assert window(session()) == (NOTHING,) * STREAMS

    def test_room(self) -> None:
        alice = open_alice()
        assert window(alice) == PLENTY
        used = [(2, 2 * SIZE), (1, 126), (1, SIZE + 1)]
        alice.send_batch([body(1), body(2)])
        alice.send_batch([body(1, b"", priority=3)])
        alice.send_batch([body(1, b"hello!", is_durable=False)])
        left = list(PLENTY)
        for stream, amount in zip((1, 3, 5), used, strict=True):
            left[stream] = left[stream].minus(Credit(*amount))
        assert window(alice) == tuple(left)
        more = [each.plus(stream, 2 * stream) for stream, each in enumerate(PLENTY)]
        alice.receive_data(CreditFrame(tuple(more)).encode(), 0.0)
        assert window(alice) == tuple(
            each.plus(stream, 2 * stream) for stream, each in enumerate(left)
        )
        alice.close(0, "")
        assert window(alice) == (NOTHING,) * STREAMS

    @pytest.mark.parametrize("stream", range(STREAMS))
    def test_what_is_sent_in_one_stream_leaves_the_others_alone(self, stream: int) -> None:
        alice = open_alice()
        alice.send_batch([body_of(stream, 1), body_of(stream, 2)])
        messages, size = PLENTY[stream]
        assert window(alice) == with_credit(PLENTY, stream, messages - 2, size - 2 * SIZE)
        assert [alice.outgoing.has(each) for each in range(STREAMS)] == [
            each == stream for each in range(STREAMS)
        ]
        assert alice.outgoing.top == stream % VOLATILE

    @pytest.mark.parametrize("field", range(16))
    def test_credit_that_is_taken_back(self, field: int) -> None:
        less = [[n + 5 for n in each] for each in PLENTY]
        less[field // 2][field % 2] = PLENTY[field // 2][field % 2] - 1
        alice = open_alice()
        alice.receive_data(CreditFrame(tuple(Credit(*each) for each in less)).encode(), 0.0)
        assert ended(alice).cause == "the peer reduced its credit"

    def test_the_same_credit_again(self) -> None:
        alice = open_alice()
        alice.receive_data(CreditFrame(PLENTY).encode(), 0.0)
        assert events_of(alice) == [RoomReceived()]

    @pytest.mark.parametrize("stream", range(STREAMS))
    @pytest.mark.parametrize("granted", [(1, 1000), (2, 2 * SIZE - 1)])
    def test_more_than_was_granted_is_our_own_impossibility(
        self, stream: int, granted: tuple[int, int]
    ) -> None:
        alice = session()
        alice.receive_data(hello(credit=with_credit(PLENTY, stream, *granted)).encode(), 0.0)
        with pytest.raises(AssertionError):
            alice.send_batch([body_of(stream, 1), body_of(stream, 2)])

    @pytest.mark.parametrize("state", ["opening", "closed"])
    def test_a_batch_needs_an_open_session(self, state: str) -> None:
        alice = session() if state == "opening" else open_alice()
        if state == "closed":
            alice.close(0, "")
        with pytest.raises(AssertionError):
            alice.send_batch([body()])

    def test_control_frames_go_first(self) -> None:
        alice = open_alice()
        first = alice.send_batch([body(1)])
        alice.send_refusals([REFUSAL], 7)
        second = alice.send_batch([body(2)])
        alice.receive_data(FRAMES["PING"], 0.0)
        alice.grant(1, 1000, 1 << 20)
        alice.send_receipts(frames.ACCEPTED_BATCHES, [ROOT], 7)
        kinds = [type(frame) for frame in frames_of(alice.data_to_send())]
        assert kinds == [Receipts, Pong, CreditFrame, Receipts, Part, Part]
        assert (first.leaves, second.leaves) != (second.leaves, first.leaves)

    def test_receipts_and_refusals_before_the_hello_are_not_sent(self) -> None:
        alice = session()
        alice.send_receipts(frames.ACCEPTED_BATCHES, [ROOT], 7)
        alice.send_refusals([REFUSAL], 7)
        assert frames_of(alice.data_to_send()) == [hello()]


class TestTime:
    def test_no_hello(self) -> None:
        alice = session(now=100.0)
        assert alice.next_timeout() == 110.0
        alice.receive_data(b"\0", 109.0)  # trickling does not help
        alice.receive_data(b"\0", 109.5)
        alice.handle_timeout(109.99)
        assert not alice.is_closed
        assert alice.next_timeout() == 110.0
        alice.handle_timeout(110.0)
        event = ended(alice)
        assert (event.cause, event.reason) == ("no HELLO within 10 s", Reason.TOO_SLOW)
        assert alice.next_timeout() is None

    def test_a_hello_that_may_take_for_ever(self) -> None:
        alice = session(hello_timeout=None)
        assert alice.next_timeout() is None
        alice.handle_timeout(1e9)
        assert not alice.is_closed

    def test_the_bytes_of_a_hello_may_not(self) -> None:
        alice = session(hello_timeout=None)
        alice.receive_data(b"\0", 5.0)
        assert alice.next_timeout() == 35.0
        alice.handle_timeout(35.0)
        assert ended(alice).cause == "a frame was not complete within 30 s"

    def test_a_late_loop_is_no_excuse_before_the_hello(self) -> None:
        alice = session()
        alice.handle_timeout(1000.0)
        assert ended(alice).cause == "no HELLO within 10 s"

    def test_the_first_round_trip(self) -> None:
        alice = session()
        assert alice.pings.round_trip is None
        alice.receive_data(hello().encode(), 1.0)
        assert frames_of(alice.data_to_send())[-1] == ping(1)
        alice.receive_data(pong(1).encode(), 1.5)
        assert alice.pings.round_trip == 0.5

    def test_round_trips_are_smoothed(self) -> None:
        alice = open_alice()
        alice.receive_data(pong(1).encode(), 0.8)
        now = 0.8
        for number, sample, expected in ((2, 0.0, 0.7), (3, 1.5, 0.8)):
            now += 5.0
            assert alice.next_timeout() == pytest.approx(now)
            alice.handle_timeout(now)
            assert frames_of(alice.data_to_send()) == [ping(number)]
            now += sample
            alice.receive_data(pong(number).encode(), now)
            assert alice.pings.round_trip == pytest.approx(expected)

    def test_each_round_trip_is_told_as_it_was(self) -> None:
        told: list[float] = []
        alice = Session(
            ALICE, BOB.did, hello(), SessionLimits(), 0.0, read_clocks, on_round_trip=told.append
        )
        alice.receive_data(hello().encode(), 1.0)
        for number, asked_at, sample in ((1, 1.0, 0.5), (2, 6.5, 2.0)):
            alice.handle_timeout(asked_at)
            alice.data_to_send()
            for answer in (number - 1, number, number):  # one for each PING, and no more
                alice.receive_data(pong(answer).encode(), asked_at + sample)
        assert told == [0.5, 2.0]
        assert alice.pings.round_trip == 0.6875

    def test_stamps_are_of_the_moment_of_sending(self) -> None:
        instant = 100

        def read_clocks() -> tuple[int, int]:
            return 1_000_000 + instant, instant

        alice = Session(ALICE, BOB.did, hello(), SessionLimits(), 0.0, read_clocks)
        alice.receive_data(hello().encode() + ping(5).encode(), 0.0)
        instant = 150  # the socket took nothing before
        sent = frames_of(alice.data_to_send())
        mine, answer = Ping(1, Stamp(1_000_150, 150)), Stamp(1_000_100, 100)
        assert sent == [hello(), mine, Pong(ping(5), answer, mine.sent)]
        instant = 250
        alice.receive_data(Pong(mine, Stamp(9_000_190, 5), Stamp(9_000_200, 15)).encode(), 0.0)
        offset = alice.pings.clock_offset.estimate(Stamp(*read_clocks()))
        assert offset is not None
        assert offset.seconds == pytest.approx(
            ((9_000_190 - 1_000_150) + (9_000_200 - 1_000_250)) / 2e6
        )
        assert offset.bound == pytest.approx(45e-6, abs=5e-6)

    @pytest.mark.parametrize("changed", [Stamp(AT.wall_us + 1, AT.monotonic_us), Stamp(0, 0)])
    def test_a_pong_that_does_not_echo_the_stamps(self, changed: Stamp) -> None:
        alice = open_alice()
        alice.receive_data(Pong(Ping(1, changed), AT, AT).encode(), 1.0)
        assert (alice.pings.round_trip, alice.pings.clock_offset.estimate(AT)) == (None, None)
        alice.receive_data(pong(1).encode(), 2.0)
        assert alice.pings.round_trip == 2.0
        assert alice.pings.clock_offset.estimate(AT) is not None

    @pytest.mark.parametrize("frame", ["CREDIT", "PING"])
    def test_a_peer_that_is_never_silent_is_asked_once_a_minute(self, frame: str) -> None:
        alice = open_alice()
        alice.receive_data(pong(1).encode(), 0.0)
        asked, now = [], 0.0
        while now < 200.0:
            now += 0.5
            alice.receive_data(FRAMES[frame], now)
            while (due := alice.next_timeout()) is not None and due <= now:
                alice.handle_timeout(now)
            for each in frames_of(alice.data_to_send()):
                if isinstance(each, Ping):
                    asked.append(now)
                    alice.receive_data(pong(each.number).encode(), now)
        assert asked == [60.0, 120.0, 180.0]

    def test_a_peer_that_answers_no_ping_is_not_asked_again(self) -> None:
        alice = open_alice()
        for now in range(1, 200):
            alice.receive_data(FRAMES["skipped"], float(now))
            alice.handle_timeout(float(now))
        assert alice.data_to_send() == b""
        assert alice.state is State.OPEN

    def test_a_long_ping_interval_is_kept(self) -> None:
        alice = open_alice(ping_interval=600.0, dead_timeout=1800.0)
        alice.receive_data(pong(1).encode(), 0.0)
        alice.receive_data(FRAMES["CREDIT"], 100.0)
        assert alice.next_timeout() == 600.0

    @pytest.mark.parametrize("numbers", [(0,), (2,), (1, 1)])
    def test_a_pong_that_was_not_asked_for(self, numbers: tuple[int, ...]) -> None:
        alice = open_alice()
        for n, number in enumerate(numbers):
            alice.receive_data(pong(number).encode(), 1.0 + n)
        assert alice.pings.round_trip == (1.0 if 1 in numbers else None)
        assert alice.state is State.OPEN

    def test_a_silent_peer_is_asked_and_then_dead(self) -> None:
        alice = open_alice()
        alice.receive_data(pong(1).encode(), 0.0)
        assert alice.next_timeout() == 5.0
        alice.handle_timeout(4.9)
        assert alice.data_to_send() == b""
        alice.handle_timeout(5.0)
        assert frames_of(alice.data_to_send()) == [ping(2)]
        assert alice.next_timeout() == 15.0
        alice.handle_timeout(10.0)
        assert alice.data_to_send() == b""
        alice.handle_timeout(15.0)
        event = ended(alice)
        assert (event.cause, event.reason) == (
            "no byte came for 15 s (dead_timeout)",
            Reason.TOO_SLOW,
        )
        assert frames_of(alice.data_to_send()) == [Close(1, event.cause)]

    def test_any_byte_is_a_sign_of_life(self) -> None:
        alice = open_alice(frame_timeout=None)
        now = 0.0
        for byte in envelopes([body(1, bytes(200), sender=BOB, recipient=ALICE)]):
            now += 14.9
            alice.handle_timeout(now)
            assert not alice.is_closed
            alice.receive_data(bytes([byte]), now)
        assert [type(event) for event in events_of(alice)][-1] is BatchReceived

    def test_a_frame_takes_too_long(self) -> None:
        """The limit is absolute: trickling bytes do not extend it."""
        alice = open_alice()
        data = envelopes()
        for second in range(30):
            alice.receive_data(data[second : second + 1], float(second))
            alice.handle_timeout(float(second))
        assert not alice.is_closed
        assert alice.next_timeout() == 30.0
        alice.handle_timeout(30.0)
        event = ended(alice)
        assert event.cause == "a frame was not complete within 30 s"
        assert event.reason is Reason.TOO_SLOW

    def test_each_frame_has_its_own_time(self) -> None:
        alice = open_alice()
        frame = ping(1).encode()
        alice.receive_data(frame[:5], 10.0)
        assert alice.next_timeout() == min(40.0, 10.0 + 15.0)
        # One frame ends and the next begins in the same piece.
        alice.receive_data(frame[5:] + frame[:1], 24.0)
        alice.handle_timeout(39.0)
        assert alice.is_closed  # dead: 15 s without a byte
        alice = open_alice(dead_timeout=1000.0)
        alice.receive_data(frame[:5], 10.0)
        alice.receive_data(frame[5:] + frame[:1], 24.0)
        assert alice.next_timeout() == 54.0
        alice.receive_data(frame[1:], 25.0)
        assert alice.next_timeout() == 1025.0

    def test_no_timer_of_frames(self) -> None:
        alice = open_alice(frame_timeout=None)
        alice.receive_data(b"\0", 10.0)
        assert alice.next_timeout() == 25.0

    def test_called_for_nothing(self) -> None:
        alice = open_alice()
        for now in (0.0, 1.0, 14.999):
            alice.handle_timeout(now)
        assert events_of(alice) == []
        assert alice.data_to_send() == b""


class TestStalls:
    """After a stall of our own loop, waiting bytes of the peer are read before it times out."""

    def test_a_peer_is_not_dead_because_we_slept(self) -> None:
        alice = open_alice()
        alice.handle_timeout(25.0)  # due at 15.0, a ping is out
        assert events_of(alice) == [StallNoticed(10.0)]
        due = alice.next_timeout()
        assert due is not None
        assert due > 25.0
        # The bytes that waited in the socket:
        alice.receive_data(pong(1).encode(), 25.1)
        assert alice.next_timeout() == 30.1

    def test_a_peer_that_stays_silent_is_dead_all_the_same(self) -> None:
        alice = open_alice()
        alice.handle_timeout(25.0)
        due = alice.next_timeout()
        assert due is not None
        alice.handle_timeout(due)
        assert ended(alice).cause == "no byte came for 15 s (dead_timeout)"

    def test_a_frame_is_not_late_because_we_slept(self) -> None:
        alice = open_alice(dead_timeout=1000.0)
        data = envelopes()
        alice.receive_data(data[:9], 1.0)
        alice.handle_timeout(100.0)  # due at 31.0
        assert events_of(alice) == [StallNoticed(69.0)]
        alice.receive_data(data[9:], 100.1)
        assert [type(event) for event in events_of(alice)] == [BatchReceived]

    def test_a_ping_that_was_due(self) -> None:
        alice = open_alice()
        alice.receive_data(pong(1).encode(), 0.0)
        alice.handle_timeout(8.0)
        assert events_of(alice) == [StallNoticed(3.0)]
        assert alice.next_timeout() == pytest.approx(9.0)
        alice.handle_timeout(9.0)
        assert frames_of(alice.data_to_send()) == [ping(2)]

    def test_a_sample_that_was_due(self) -> None:
        alice = open_alice()
        alice.receive_data(pong(1).encode(), 0.0)
        for now in range(59):
            alice.receive_data(FRAMES["skipped"], float(now))
        alice.receive_data(FRAMES["skipped"], 59.9)
        alice.handle_timeout(62.0)  # due at 60
        assert events_of(alice) == [StallNoticed(2.0)]
        due = alice.next_timeout()
        assert due == 63.0
        alice.handle_timeout(due)
        assert frames_of(alice.data_to_send()) == [ping(2)]

    def test_a_little_late_is_no_stall(self) -> None:
        alice = open_alice()
        alice.handle_timeout(15.9)
        assert [type(event) for event in events_of(alice)] == [Closed]


class TestClosing:
    @pytest.mark.parametrize("code", [CLOSE_MISSING, *range(11), 65_535])
    @pytest.mark.parametrize("is_by_peer", [False, True])
    def test_which_ends_are_orderly(self, code: int, is_by_peer: bool) -> None:
        assert Closed(code, "", is_by_peer=is_by_peer).is_orderly == (
            code
            in {
                frames.CLOSE_DONE,
                frames.CLOSE_DUPLICATE_LINK,
                frames.CLOSE_TOO_MANY,
                frames.CLOSE_STALE_EPOCH,
                frames.CLOSE_EVICTED,
                frames.CLOSE_UNAVAILABLE,
            }
        )

    def test_that_nobody_said_why_is_never_on_the_wire(self) -> None:
        assert CLOSE_MISSING == -1
        with pytest.raises(struct.error):
            Close(CLOSE_MISSING, "").encode()
        alice = open_alice()
        alice.receive_eof(0.0)
        assert not ended(alice).is_orderly
        assert alice.data_to_send() == b""

    def test_by_us(self) -> None:
        alice, bob = open_pair()
        alice.send_batch([body()])
        alice.send_refusals([REFUSAL], 7)
        alice.close(frames.CLOSE_DENIED, "no more")
        assert events_of(alice) == [Closed(frames.CLOSE_DENIED, "no more", is_by_peer=False)]
        data = alice.data_to_send()
        # CLOSE is the last frame; envelopes after it would be ignored, so they are not sent.
        assert [type(frame) for frame in frames_of(data)] == [Receipts, Close]
        bob.receive_data(data, 0.0)
        refusals, closed = events_of(bob)
        assert isinstance(refusals, ReceiptsReceived)
        assert closed == Closed(frames.CLOSE_DENIED, "no more", is_by_peer=True)
        assert bob.data_to_send() == b""

    def test_both_at_once(self) -> None:
        alice, bob = open_pair()
        alice.close(0, "a")
        bob.close(0, "b")
        exchange(alice, bob)
        assert events_of(alice) == [Closed(0, "a", is_by_peer=False)]
        assert events_of(bob) == [Closed(0, "b", is_by_peer=False)]

    def test_before_it_was_open(self) -> None:
        alice = session()
        alice.close(0, "changed my mind")
        assert frames_of(alice.data_to_send()) == [hello(), Close(0, "changed my mind")]
        assert window(alice) == (NOTHING,) * STREAMS

    @pytest.mark.parametrize("how", ["we", "peer", "eof", "error"])
    def test_every_call_is_harmless_afterwards(self, how: str) -> None:
        alice = open_alice()
        if how == "we":
            alice.close(0, "")
        elif how == "peer":
            alice.receive_data(FRAMES["CLOSE"], 0.0)
        elif how == "eof":
            alice.receive_eof(0.0)
        else:
            alice.receive_data(bytes(4), 0.0)
        assert len(events_of(alice)) == 1
        said = frames_of(alice.data_to_send())
        assert [type(frame) for frame in said] == ([Close] if how in ("we", "error") else [])
        for name in FRAMES:
            alice.receive_data(FRAMES[name], 1.0)
        alice.receive_eof(1.0)
        alice.send_receipts(1, [ROOT], 1)
        alice.send_refusals([REFUSAL], 7)
        for stream in range(STREAMS):
            alice.grant(stream, 1 << 20, 1 << 30)
        alice.handle_timeout(1e9)
        alice.close(5, "again")
        assert alice.next_event() is None
        assert alice.data_to_send() == b""
        assert alice.next_timeout() is None
        assert window(alice) == (NOTHING,) * STREAMS


class Wire:
    """Two sessions with bytes on the way between them, cut anywhere, and a model of both."""

    def __init__(self, draw: random.Random, credit: tuple[Credit, ...]) -> None:
        self.draw = draw
        self.now = 0.0
        limits = SessionLimits(max_payload_size=2000)
        says = hello(credit=credit)
        self.ends = (
            Session(ALICE, BOB.did, says, limits, 0.0, read_clocks),
            Session(BOB, ALICE.did, says, limits, 0.0, read_clocks),
        )
        self.credit = credit
        self.pipes = (bytearray(), bytearray())  # towards 0, towards 1
        self.bytes_out = [0, 0]
        self.bytes_in = [0, 0]
        self.bodies: tuple[list[bytes], list[bytes]] = ([], [])  # sent by each
        self.arrived: tuple[list[bytes], list[bytes]] = ([], [])  # at each
        self.said: tuple[list[object], list[object]] = ([], [])
        self.heard: tuple[list[object], list[object]] = ([], [])
        self.untaken: tuple[list[bytes], list[bytes]] = ([], [])
        self.spent = [self.count([]), self.count([])]
        self.number = 0

    def step(self) -> None:
        who = self.draw.randrange(2)
        self.now += self.draw.random() * 0.01
        action = self.draw.choice(
            (self.send, self.send, self.deliver, self.deliver, self.take, self.tell, self.tick)
        )
        action(who)
        self.settle(who)

    def send(self, who: int) -> None:
        me = self.ends[who]
        priority = 3 if self.draw.random() < 0.3 else self.draw.randrange(3)
        stream = priority + self.draw.choice((0, VOLATILE))
        messages, size = me.credit_left(stream)
        bodies: list[bytes] = []
        for _ in range(min(messages, self.draw.randrange(1, 40))):
            self.number += 1
            payload = self.draw.randbytes(self.draw.choice((0, 5, 100, 2000)))
            one = body_of(stream, self.number, payload)
            size -= len(one)
            if size < 0:
                break
            bodies.append(one)
        if bodies:
            me.send_batch(bodies)
            self.bodies[who].extend(bodies)

    def deliver(self, who: int) -> None:
        pipe = self.pipes[who]
        size = self.draw.choice((1, 7, 1000, 1 << 20))
        piece = bytes(pipe[:size])
        del pipe[:size]
        self.bytes_in[who] += len(piece)
        self.ends[who].receive_data(piece, self.now)

    def take(self, who: int) -> None:
        for _ in range(self.draw.randrange(1, 50)):
            if self.untaken[who]:
                one = self.untaken[who].pop(0)
                self.ends[who].grant(stream_of(one), 1, len(one))

    def tell(self, who: int) -> None:
        me = self.ends[who]
        if me.state is not State.OPEN:
            return
        hashes = [self.draw.randbytes(32) for _ in range(self.draw.randrange(1, 9))]
        if self.draw.random() < 0.5:
            kind = self.draw.randrange(1, 4)
            is_committed = self.draw.random() < 0.5
            me.send_receipts(kind, hashes, 7, is_committed=is_committed)
            self.said[who].append((kind, tuple(hashes), is_committed))
        else:
            me.send_refusals([Refusal(leaf, Reason.INBOX_FULL) for leaf in hashes], 7)
            self.said[who].append((frames.REFUSED_ENVELOPES, tuple(hashes), False))

    def tick(self, who: int) -> None:
        if self.draw.random() < 0.05:
            # Bytes on the way arrive before time leaps, so no end is silent for 15 s.
            for end in (0, 1):
                while self.pipes[end]:
                    self.deliver(end)
            self.settle(who)
            self.now += 5.0
        for each in self.ends:
            each.handle_timeout(self.now)

    def settle(self, who: int) -> None:
        for end in (0, 1):
            me, other = self.ends[end], 1 - end
            for event in events_of(me):
                self.happened(end, event)
            data = me.data_to_send()
            self.bytes_out[end] += len(data)
            self.pipes[other].extend(data)
            # What was sent is what the model counts, and never more than was granted.
            if me.state is State.OPEN:
                assert all(min(room) >= 0 for room in window(me))
                spent = self.count(self.bodies[end])
                assert not any(map(Credit.exceeds, self.spent[end], spent))
                assert tuple(me._allowed._sent) == spent
                self.spent[end] = spent
            # What waits for an application is bounded by the first grant of its stream.
            assert not any(map(Credit.exceeds, self.count(self.untaken[end]), self.credit))

    def happened(self, end: int, event: Event) -> None:
        match event:
            case BatchReceived(bodies):
                self.arrived[end].extend(bodies)
                self.untaken[end].extend(bodies)
            case ReceiptsReceived(receipts):
                self.heard[end].append((receipts.kind, receipts.hashes, receipts.is_committed))
            case HelloReceived() | RoomReceived():
                pass
            case _:
                raise AssertionError(event)

    @staticmethod
    def count(bodies: list[bytes]) -> tuple[Credit, ...]:
        counts = [NOTHING] * STREAMS
        for each in bodies:
            stream = stream_of(each)
            counts[stream] = counts[stream].plus(1, len(each))
        return tuple(counts)


LARGEST = 2000 + 413
"""The largest body of `Wire`, with a header of the largest size."""


@pytest.mark.parametrize(
    "credit",
    [
        credits(60, 40_000, 12, 9_000),
        credits(3, 2126, 1, 2126),
        credits(500, 1 << 20, 100, 1 << 18),
        tuple(Credit(1 + 9 * stream, 2126 + 5000 * stream) for stream in range(STREAMS)),
        tuple(Credit(64 - 9 * stream, 40_000 - 5000 * stream) for stream in range(STREAMS)),
    ],
)
def test_two_sessions_back_to_back(credit: tuple[Credit, ...]) -> None:
    seed = random.randrange(2**32)
    sys.stdout.write(f"seed {seed}\n")  # shown when it fails
    wire = Wire(random.Random(seed), credit)
    wire.settle(0)
    for _ in range(2500):
        wire.step()
    # Then let everything through: neither end waits for ever.
    while any(wire.pipes) or any(wire.untaken):
        for end in (0, 1):
            while wire.pipes[end]:
                wire.deliver(end)
            while wire.untaken[end]:
                wire.take(end)
            wire.settle(end)
    for end in (0, 1):
        other = 1 - end
        assert wire.arrived[other] == wire.bodies[end]
        assert wire.heard[other] == wire.said[end]
        assert wire.bytes_in[other] == wire.bytes_out[end]
        sent, got = wire.ends[end], wire.ends[other]
        total = wire.count(wire.bodies[end])
        assert tuple(sent._allowed._sent) == tuple(got._granted.received) == total
        assert sent._allowed._allowed == got._granted.told
        assert unused(got) == credit
        # Whatever was taken before, a message of the largest size can be sent in each stream.
        for stream in range(STREAMS):
            room = sent.credit_left(stream)
            assert room.messages
            assert room.bytes >= min(LARGEST, credit[stream].bytes)
            assert total[stream].messages
        assert math.isfinite(sent.pings.round_trip or 0.0)
        assert sum(map(len, wire.bodies[end])) > 10_000
