"""The v2 link: its frames, a session with a hostile peer, two honest ones, and the TLS proof."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from signedwire.errors import DidProofError, RemoteProtocolError
from signedwire.identity import Identity, Label, verify_labelled
from signedwire.transport.certificates import issue_certificate, proven_did
from signedwire.types import Credit, Priority
from signedwire.wire import link_frames as frames
from signedwire.wire.clock_offset import Stamp
from signedwire.wire.copies import verify_received
from signedwire.wire.did_proof import (
    CLOCK_ALLOWANCE_US,
    check_did_proof,
    make_did_proof,
    proof_from_uri,
    uri_of_proof,
)
from signedwire.wire.envelope import verify_batch
from signedwire.wire.header import STREAMS, VOLATILE, stream_of
from signedwire.wire.joint import receipt_hash
from signedwire.wire.link_frames import (
    Close,
    CreditFrame,
    Epochs,
    Hello,
    LinkFrameDecoder,
    Part,
    Ping,
    Pong,
    Receipts,
    Refusal,
)
from signedwire.wire.parts import BatchWriter, IncomingBatches, encode_batch, most_joined
from signedwire.wire.receipt_signer import Acceptance
from signedwire.wire.sent_batch import sign_copies
from signedwire.wire.session import (
    BatchFailed,
    BatchReceived,
    Closed,
    HelloReceived,
    ReceiptsReceived,
    SentBatch,
    Session,
    SessionLimits,
)

from .target import Choices, Target, expect_short
from .targets_kit import ALICE, BATCHES, BOB, JOINT, TlsOf, body, sign, signed_receipts

__all__ = ["TARGETS"]

_LIMIT: Final = 3000
_AT: Final = Stamp(1_700_000_000_000_000, 5_000_000)
"""When all PINGs and PONGs are sent and received, by both sides."""
_CREDIT: Final = tuple(
    Credit(4, 1 << 11) if stream % VOLATILE == Priority.CRITICAL else Credit(60, 1 << 14)
    for stream in range(STREAMS)
)
_LIMITS: Final = SessionLimits(max_payload_size=1 << 10)


# --- frames -----------------------------------------------------------------------------


def link_frames(data: bytes) -> None:
    """The first byte says how the rest is cut; a plain reading says what must come out."""
    size, stream = (data[0] or len(data)) if data else 1, data[1:]
    decoder = LinkFrameDecoder(_LIMIT)
    got: list[tuple[int, bytes]] = []
    is_wrong = False
    try:
        for start in range(0, len(stream), size):
            got += decoder.receive_data(stream[start : start + size])
            assert len(decoder._rest) < 4 + _LIMIT
    except RemoteProtocolError:
        is_wrong = True
    position, expected, is_bad = 0, [], False
    while len(stream) - position >= 4 and not is_bad:
        length = int.from_bytes(stream[position : position + 4], "big")
        is_bad = not 0 < length <= _LIMIT
        if is_bad or len(stream) - position - 4 < length:
            break
        expected.append((stream[position + 4], stream[position + 5 : position + 4 + length]))
        position += 4 + length
    assert got == expected, "the frames before a wrong one are seen, too"
    assert is_wrong == is_bad
    assert is_bad or decoder.has_partial_frame == (position < len(stream))
    for frame_type, frame_body in expected:
        _read_frame(frame_type, frame_body)


def _read_frame(frame_type: int, frame_body: bytes) -> None:
    try:
        frame = frames.decode(frame_type, frame_body)
    except RemoteProtocolError:
        return
    if frame is None:
        assert frame_type & frames.SKIPPABLE
        return
    encoded = frame.encode()
    ((again_type, again_body),) = LinkFrameDecoder(1 << 20).receive_data(encoded)
    assert again_type == frame_type
    if isinstance(frame, Close):
        # What moves a cursor is replaced when it is read, and each reading cuts it.
        assert frame.reason.isprintable()
        assert len(frame.reason) <= frames.MAX_CLOSE_REASON
        again = frames.decode(again_type, again_body)
        assert isinstance(again, Close)
        assert again.code == frame.code
        return
    assert frames.decode(again_type, again_body) == frame
    if isinstance(frame, Hello):
        assert frame_body.startswith(again_body)  # behind it is what a later version adds
    else:
        assert again_body == frame_body


# --- a session with a hostile peer ------------------------------------------------------


def _hello(**changes: Any) -> Hello:
    values: dict[str, Any] = {
        "min_version": frames.VERSION,
        "max_version": frames.VERSION,
        "features": 0,
        "max_batch_bytes": 1 << 16,
        "max_payload_size": 1 << 10,
        "epochs": Epochs(9, 8),
        "known_epochs": Epochs(0, 0),
        "marks": (0,) * STREAMS,
        "credit": _CREDIT,
    }
    return Hello(**(values | changes))


_SENT: Final = [sign(bodies) for bodies in BATCHES]
_LONG: Final = [body(n, bytes(1000), priority=Priority.LOW) for n in range(1, 6)]
_LONG_SENT: Final = sign(_LONG)
_LONG_DATA: Final = _LONG_SENT.signature + b"".join(
    len(each).to_bytes(4, "little") + each for each in _LONG
)
_LONG_PARTS: Final = (
    Part(frames.FIRST, 0, _LONG_DATA[:2500], len(_LONG), sum(map(len, _LONG))),
    Part(0, 0, _LONG_DATA[2500:5000]),
    Part(frames.LAST, 0, _LONG_DATA[5000:]),
)
_VOLATILE: Final = [
    [body(n, bytes(n), is_durable=False) for n in range(1, 4)],
    [body(1, b"stop", priority=Priority.CRITICAL, is_durable=False)],
    [body(n, bytes(1000), priority=Priority.LOW, is_durable=False) for n in range(1, 6)],
]
_VOLATILE_SENT: Final = [sign(bodies) for bodies in _VOLATILE]
_GOOD_BATCHES: Final = {
    sent.signature: bodies
    for bodies, sent in zip(
        (*BATCHES, _LONG, *_VOLATILE), (*_SENT, _LONG_SENT, *_VOLATILE_SENT), strict=True
    )
} | {sent.signature: bodies for (sent, _), bodies in zip(JOINT, BATCHES[:4], strict=True)}
_MIXED: Final = [*BATCHES[1], *_VOLATILE[0]]
_SHARES: Final = [
    [body(n, bytes(n)) for n in range(30, 34)],
    [body(n, recipient=ALICE) for n in range(34, 52)],
    [body(52, b"stop", priority=Priority.CRITICAL)],
]
"""The shares of one tree. A share may also come to another peer than its own."""
_COPIES: Final = sign_copies(ALICE, _SHARES)
_IN_TREE: Final = [one for share in _SHARES for one in share]
_ITEMS: Final = [copies.items(bodies) for copies, bodies in zip(_COPIES, _SHARES, strict=True)]


def _of_copies(items: list[bytes], stream: int = Priority.NORMAL) -> bytes:
    writer = BatchWriter(_COPIES[0].signature, items, stream, is_copies=True)
    pieces: list[bytes | memoryview] = []
    while not writer.is_done:
        pieces += writer.next_part()
    return b"".join(pieces)


_RECEIPTS: Final = [
    signed_receipts(kind, hashes, ALICE, BOB)
    for kind, hashes in (
        (1, (bytes(32),)),
        (2, (bytes(32), b"\1" * 32)),
        (3, (b"\2" * 32,)),
        (4, (b"\3" * 32,)),
    )
]
_GOOD_RECEIPTS: Final = frozenset(
    each.proof for each in (*_RECEIPTS, *(joined for _, joined in JOINT))
)
_REASONS: Final = tuple(frames.REASON_CODES)
_SMALL: Final = [b"too small"]

_MORE_CREDIT: Final = [
    CreditFrame(tuple(Credit(n * messages, n * size) for messages, size in _CREDIT)).encode()
    for n in (2, 3)
]

# What Alice, who is the peer, may send to Bob, whose session is driven.
_FROM_PEER: Final = (
    _hello().encode(),
    *(encode_batch(sent.signature, bodies) for sent, bodies in zip(_SENT, BATCHES, strict=True)),
    *(each.encode() for each in _RECEIPTS),
    *(
        encode_batch(sent.signature, bodies, None, joined)
        for (sent, joined), bodies in zip(JOINT, BATCHES[:4], strict=True)
    ),
    encode_batch(JOINT[0][0].signature, BATCHES[0], None, JOINT[1][1]),
    encode_batch(JOINT[0][0].signature, BATCHES[1], None, JOINT[0][1]),
    encode_batch(JOINT[0][0].signature, BATCHES[0]),
    encode_batch(_SENT[0].signature, BATCHES[0], None, JOINT[0][1]),
    encode_batch(_SENT[0].signature, BATCHES[1]),
    encode_batch(sign(BATCHES[1], BOB).signature, BATCHES[1]),
    encode_batch(sign(_SMALL).signature, _SMALL, 0),
    *(part.encode() for part in _LONG_PARTS),
    b"".join(part.encode() for part in _LONG_PARTS),
    Part(frames.ABORT, 0).encode(),
    _of_copies(_ITEMS[0]),
    _of_copies(_ITEMS[0][2:]),
    _of_copies(_ITEMS[1]),
    _of_copies(_ITEMS[2], Priority.CRITICAL),
    _of_copies([_ITEMS[0][1], _ITEMS[0][0]]),
    _of_copies([_ITEMS[0][0][:1] + _ITEMS[0][1][1:]]),
    _of_copies([_ITEMS[0][0], _ITEMS[1][0][:2] + _ITEMS[1][1][2:]]),
    frames.Read(0, 0, 0).encode(),
    frames.Read(190, 7, 9).encode(),
    signed_receipts(1, (bytes(32),), BOB, ALICE).encode(),
    signed_receipts(4, (bytes(32),), BOB, ALICE).encode(),
    _MORE_CREDIT[0],
    _MORE_CREDIT[1],
    Ping(5, _AT).encode(),
    Pong(Ping(1, _AT), _AT, _AT).encode(),
    Pong(Ping(2, _AT), Stamp(2**64 - 1, 0), Stamp(0, 2**64 - 1)).encode(),
    Close(frames.CLOSE_EVICTED, "bye").encode(),
    _hello(min_version=3, max_version=4).encode(),
    _hello(credit=(Credit(0, 0),) * 8, max_batch_bytes=2**32 - 1, max_payload_size=2**31).encode(),
    b"\0\0\0\3\x7fxx",
    b"\0\0\0\3\x80xx",
    *(
        encode_batch(sent.signature, bodies)
        for sent, bodies in zip(_VOLATILE_SENT, _VOLATILE, strict=True)
    ),
    # Batches in the other stream of their priority, and of both streams.
    encode_batch(_SENT[1].signature, BATCHES[1], 5),
    encode_batch(_VOLATILE_SENT[0].signature, _VOLATILE[0], 1),
    encode_batch(sign(_MIXED).signature, _MIXED),
    encode_batch(sign(_MIXED[::-1]).signature, _MIXED[::-1]),
    replace(_LONG_PARTS[0], stream=4).encode(),
    Part(frames.ABORT, 4).encode(),
)


def _of_stream(
    stream: int, sequence: int, payload: bytes, sender: Identity, recipient: Identity
) -> bytes:
    return body(
        sequence,
        payload,
        sender=sender,
        recipient=recipient,
        priority=stream % VOLATILE,
        is_durable=stream < VOLATILE,
    )


class _End:
    """Bob's end of a link, driven only by documented calls; after each, what must hold does."""

    def __init__(self) -> None:
        self.session = Session(BOB, ALICE.did, _hello(), _LIMITS, 0.0, lambda: _AT)
        self.now = 0.0
        self.is_open = self.is_closed = self.has_failed = False
        self.granted, self.received = list(_CREDIT), [Credit(0, 0)] * STREAMS
        self.output = LinkFrameDecoder()
        self.batches = IncomingBatches(1 << 16, 1 << 16)
        self.written: list[type] = []
        self.told_credit = _CREDIT
        self.settle()

    def settle(self) -> None:
        """Take events and bytes, as the driver of a session does after each call."""
        session = self.session
        for event in iter(session.next_event, None):
            assert not self.is_closed, "an event after the last"
            assert self.is_open or isinstance(event, (HelloReceived, Closed))
            self.take(event)
        assert not any(map(Credit.exceeds, self.received, self.granted))
        assert session.is_closed == self.is_closed
        self.read_output(session.data_to_send())
        assert session.data_to_send() == b""
        for stream in range(STREAMS):
            assert min(session.credit_left(stream)) >= 0
            unused = session.peer_credit_left(stream)
            assert min(unused) >= 0 or self.is_closed
            if not (self.is_closed or self.has_failed):
                assert unused == self.granted[stream].minus(self.received[stream])
            if not (self.is_open and not self.is_closed):
                assert max(session.credit_left(stream)) == 0
        assert (session.next_timeout() is None) == self.is_closed

    def take(self, event: object) -> None:
        """Check one event."""
        match event:
            case HelloReceived():
                assert not self.is_open, "a second HELLO"
                self.is_open = True
            case BatchReceived():
                if event.copies is None:
                    assert _GOOD_BATCHES[event.signature] == event.bodies, "nobody signed that"
                else:
                    assert event.root == _COPIES[0].root
                    places = [index for index, _ in event.copies.places]
                    assert [_IN_TREE[at] for at in places] == event.bodies, "nobody signed that"
                self.count(event.bodies, event.size)
            case BatchFailed():
                self.count(event.bodies)
                self.has_failed = True  # paths of copies also used credit
            case ReceiptsReceived():
                receipts = event.receipts
                assert receipts.proof in _GOOD_RECEIPTS
            case Closed():
                self.is_closed = True

    def count(self, bodies: list[bytes], size: int | None = None) -> None:
        """Count a batch, all of whose bodies are of one stream."""
        (stream,) = {stream_of(each) for each in bodies}
        size = sum(map(len, bodies)) if size is None else size
        self.received[stream] = self.received[stream].plus(len(bodies), size)

    def read_output(self, data: bytes) -> None:
        """Check what the session wants to be written."""
        has_envelopes = False
        for frame_type, frame_body in self.output.receive_data(data):
            assert Close not in self.written, "a frame behind CLOSE"
            frame = frames.decode(frame_type, frame_body)
            assert isinstance(frame, Hello) == (not self.written)
            self.written.append(type(frame))
            is_batch = isinstance(frame, Part)
            assert is_batch or not has_envelopes, "a frame behind envelopes"
            has_envelopes = has_envelopes or is_batch
            if isinstance(frame, CreditFrame):
                assert not any(map(Credit.exceeds, self.told_credit, frame.credit))
                assert not any(map(Credit.exceeds, frame.credit, self.session._granted.granted))
                self.told_credit = frame.credit
            elif isinstance(frame, Part):
                if (batch := self.batches.add(frame, self.now)) is not None:
                    half = b""
                    if frame.joined is not None:
                        half = receipt_hash(
                            bytes(BOB.did) + bytes(ALICE.did), frame.joined.statement
                        )
                    verify_received(
                        bytes(BOB.did), batch.bodies, half + batch.signature, batch.copies
                    )
            elif isinstance(frame, Receipts):
                text = bytes(BOB.did) + bytes(ALICE.did) + frame.statement
                assert verify_labelled(bytes(BOB.did), Label.RECEIPT, text, frame.signature)
        assert not self.output.has_partial_frame

    # -- what may be done ----------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        self.session.receive_data(data, self.now)

    def send(self, count: int, size: int, stream: int, answers: int = 0) -> SentBatch | None:
        message = _of_stream(stream, 1, bytes(size), sender=BOB, recipient=ALICE)
        room = self.session.credit_left(stream)
        if room.messages < count or room.bytes < count * len(message):
            return None
        bodies = [message] * count
        if answers and answers <= most_joined(bodies):
            return self.session.send_batch(
                bodies, Acceptance(1, [bytes(32)] * answers, size, False)
            )
        return self.session.send_batch(bodies)

    def send_copy(self, others: int, size: int) -> None:
        """Send one copy of a tree with so many other leaves."""
        message = [body(1, bytes(size), sender=BOB, recipient=ALICE, priority=Priority.LOW)]
        other = [body(n, sender=BOB, recipient=BOB) for n in range(others)]
        copies = sign_copies(BOB, [other, message])[1]
        room = self.session.credit_left(stream_of(message[0]))
        if room.messages and room.bytes >= sum(map(len, copies.items(message))):
            self.session.send_copies(copies, message)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    def call_timer(self) -> None:
        self.session.handle_timeout(self.now)
        due = self.session.next_timeout()
        assert due is None or due > self.now, "the timer would fire for ever"


def session(data: bytes) -> None:
    """Each byte or few are one call: frames good and bad, timers, sends and grants in any order."""
    choices, end = Choices(data), _End()
    while not choices.is_at_end:
        call = choices.below(16)
        match call:
            case 0 | 1 | 2 | 3:
                end.receive(_FROM_PEER[choices.below(len(_FROM_PEER))])
            case 4:
                frame = bytearray(_FROM_PEER[choices.below(len(_FROM_PEER))])
                frame[(choices.byte() << 8 | choices.byte()) % len(frame)] ^= choices.byte()
                end.receive(bytes(frame))
            case 5:
                end.receive(_FROM_PEER[choices.below(len(_FROM_PEER))][: choices.byte()])
            case 6:
                end.receive(choices.take(choices.byte()))
            case 7:
                end.pass_time(choices.byte() / 16)
                end.call_timer()
            case 8:
                end.pass_time(max(0.0, (end.session.next_timeout() or 0.0) - end.now))
                end.call_timer()
            case 9:
                count, size, more = choices.below(7) + 1, choices.byte(), choices.byte()
                if count > 5:
                    end.send_copy(more, size)
                else:
                    end.send(count, size, more % STREAMS, answers=more >> 1)
            case 10:
                hashes = [bytes((n,)) * 32 for n in range(choices.below(4))]
                kind, at_us = choices.below(3) + 1, choices.byte()
                end.session.send_receipts(kind, hashes, at_us, is_committed=at_us % 2 == 1)
            case 11:
                refusals = [
                    Refusal(bytes((n,)) * 32, _REASONS[choices.below(len(_REASONS))], "x" * n)
                    for n in range(choices.below(3))
                ]
                end.session.send_refusals(refusals, choices.byte())
            case 12 | 13:
                messages, size = choices.below(8), choices.byte() * 16
                stream = choices.below(STREAMS)
                end.granted[stream] = end.granted[stream].plus(messages, size)
                end.session.grant(stream, messages, size)
            case 14 if choices.below(4) == 0:
                end.session.receive_eof(end.now)
            case 15 if choices.below(4) == 0:
                end.session.close(choices.below(10), _reason(choices))
            case _:
                end.pass_time(choices.byte() / 64)
        end.settle()


def _reason(choices: Choices) -> str:
    return choices.take(choices.byte()).decode("utf-8", "replace")


# --- two honest sessions ----------------------------------------------------------------


class _Side:
    """One of two ends, and the bytes on their way to the other."""

    def __init__(self, us: Any, them: Any) -> None:
        self.us, self.them = us, them
        self.session = Session(us, them.did, _hello(), _LIMITS, 0.0, lambda: _AT)
        self.sent: list[list[bytes]] = []
        self.taken: list[list[bytes]] = []
        self.wire = bytearray()
        self.closed: Closed | None = None

    def settle(self) -> None:
        for event in iter(self.session.next_event, None):
            assert not isinstance(event, BatchFailed)
            if isinstance(event, BatchReceived):
                self.taken.append(event.bodies)
                stream = stream_of(event.bodies[0])
                self.session.grant(stream, len(event.bodies), event.size)
                if event.copies is None:
                    self.session.send_receipts(frames.ACCEPTED_BATCHES, [event.root], 1)
                else:
                    self.session.send_receipts(frames.ACCEPTED_ENVELOPES, event.leaves, 1)
            elif isinstance(event, Closed):
                self.closed = event
        self.wire += self.session.data_to_send()

    def send(self, choices: Choices) -> None:
        stream = choices.below(STREAMS)
        count, size = choices.below(4) + 1, choices.byte()
        number = len(self.sent) + 1
        bodies = [
            _of_stream(stream, number, bytes(size), sender=self.us, recipient=self.them)
        ] * count
        room = self.session.credit_left(stream)
        if Credit(count, sum(map(len, bodies))).exceeds(room):
            return
        if count == 2:
            others = [body(n, sender=self.us) for n in range(20)]
            copies = sign_copies(self.us, [bodies, others])[0]
            size = sum(map(len, copies.items(bodies)))
            if size <= room.bytes:
                self.session.send_copies(copies, bodies)
                self.sent.append(bodies)
            return
        answers = Acceptance(1, [bytes(32)] * count, 1, False) if choices.below(2) else None
        sent = self.session.send_batch(bodies, answers)
        assert verify_batch(bytes(self.us.did), bodies, sent.signature) == (sent.root, sent.leaves)
        self.sent.append(bodies)


def session_pair(data: bytes) -> None:
    """What one honest end sends is what the other gets, in order, however it is cut and delayed."""
    choices, now = Choices(data), 0.0
    alice, bob = _Side(ALICE, BOB), _Side(BOB, ALICE)
    sides = ((alice, bob), (bob, alice))
    while not choices.is_at_end:
        call = choices.byte()
        side, other = sides[call & 1]
        match call >> 1 & 3:
            case 0:
                side.send(choices)
            case 1:
                count = choices.byte() * (1 + 31 * (call >> 3 & 1))
                part = bytes(side.wire[:count])
                del side.wire[:count]
                other.session.receive_data(part, now)
            case 2:
                other.session.receive_data(bytes(side.wire), now)
                side.wire.clear()
            case 3:
                now += choices.byte() / 64
                side.session.handle_timeout(now)
        alice.settle()
        bob.settle()
    for _ in range(4):
        for side, other in sides:
            other.session.receive_data(bytes(side.wire), now)
            side.wire.clear()
            other.settle()
    for side, other in sides:
        # Only silence ends the link of two honest ends.
        assert side.closed is None or now >= 5.0, side.closed
        assert other.taken == side.sent[: len(other.taken)]
        assert alice.closed or bob.closed or other.taken == side.sent


# --- the proof inside a TLS certificate -------------------------------------------------

_NOW: Final = 1_795_344_395_825_430


def _tls_key() -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.derive_private_key(0x5157, ec.SECP256R1())


def _spki() -> bytes:
    from cryptography.hazmat.primitives import serialization

    return bytes(
        _tls_key()
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


_SPKI: Final = _spki()
_DID_PROOFS: Final = {
    make_did_proof(ALICE, _SPKI, expires_at): expires_at
    for expires_at in (_NOW, _NOW + 10**12, _NOW - CLOCK_ALLOWANCE_US - 1, 0, 2**64 - 1)
}

_URIS: Final = tuple(uri_of_proof(proof).encode() for proof in _DID_PROOFS)


def did_proof(data: bytes) -> None:
    try:
        did = check_did_proof(data, _SPKI, _NOW)
    except DidProofError:
        return
    assert did == ALICE.did
    assert data in _DID_PROOFS, "a DID proof that nobody made"
    assert _DID_PROOFS[data] + CLOCK_ALLOWANCE_US >= _NOW


def did_proof_uri(data: bytes) -> None:
    uri = data.decode("utf-8", "surrogateescape")
    try:
        proof = proof_from_uri(uri)
    except DidProofError as error:
        expect_short(error)
        return
    assert uri_of_proof(proof) == uri
    assert len(proof) == 104


def certificate(data: bytes) -> None:
    tls: Any = TlsOf(data)
    try:
        did = proven_did(tls, _NOW)
    except DidProofError as error:
        expect_short(error)
        return
    assert did == ALICE.did
    assert _SPKI in data
    assert any(uri in data for uri in _URIS)


def _certificates() -> tuple[bytes, ...]:
    from cryptography.hazmat.primitives import serialization

    return tuple(
        issue_certificate(_tls_key(), proof).public_bytes(serialization.Encoding.DER)
        for proof in (*_DID_PROOFS, b"", bytes(104))
    )


_EVERY_FRAME: Final = b"".join(_FROM_PEER)
_OPEN_IT: Final = b"\0\0"
_SEND_ALL: Final = bytes(n for index in range(len(_FROM_PEER)) for n in (0, index))

TARGETS: Final = (
    Target(
        "link-frames",
        link_frames,
        (
            b"\0" + _EVERY_FRAME,
            b"\7" + _EVERY_FRAME[:700],
            *(b"\0" + each for each in _FROM_PEER),
            b"\1" + (_LIMIT + 1).to_bytes(4, "big"),
        ),
        (b"\0\0\0\0", b"\0\0\0\1", b"\0\0\0\x09", b"\xff\xff\xff\xff", bytes(64), b"\0\1"),
        max_size=6000,
    ),
    Target(
        "session",
        session,
        (
            _OPEN_IT + b"\0\1\0\2\x0c\3\x80\0\0\3\x09\2\x20\0\x0a\2\1\1\x07\x50\x07\x50",
            _OPEN_IT + b"\x08\x08\x08\x08",
            _OPEN_IT + b"\0\4\0\4\0\4\0\4\0\4",
            b"\x07\xa1\x08\x08",
            *(_OPEN_IT + bytes((0, index, 9, 1, 8, 0)) for index in range(1, len(_FROM_PEER))),
            _SEND_ALL,
            _OPEN_IT + b"\x05\1\x20\x07\xff\x07\xff\x07\xff",
            b"\x06\x10\0\0\0\x09\x06\0\0\0\0\0\0\0\0",
            _OPEN_IT + b"\x0f\0\3\5hello\0\1\x09\1\1\0",
            _OPEN_IT + b"\x0e\0\0\1",
            _OPEN_IT + b"\4\1\0\x20\1\4\5\0\x30\xff",
        ),
        (_OPEN_IT, b"\x08", b"\x07\xff", b"\0\1", b"\x0c\7\xff\0", b"\0\x0e", b"\0\x0f"),
        max_size=600,
    ),
    Target(
        "session-pair",
        session_pair,
        (
            b"\4\5\0\1\2\x20\1\1\2\x20\4\5\4\5",
            b"\4\5" + b"\0\1\3\xff\1\2\1\x10\4\5" * 6,
            b"\2\7\3\7" * 12 + b"\0\1\1\1" * 4 + b"\2\x10\x0a\xff" * 6,
            b"\4\5" + b"\6\xff\7\xff\4\5" * 4 + b"\0\1\1\1" * 3,
        ),
        (b"\4\5", b"\0\1\1\x40", b"\1\1\1\x40", b"\6\xff", b"\2\x10"),
        max_size=600,
    ),
    Target(
        "did-proof",
        did_proof,
        (*_DID_PROOFS, bytes(104)),
        (bytes(ALICE.did), bytes(8), b"\xff" * 8, bytes(32)),
        200,
    ),
    Target(
        "did-proof-uri",
        did_proof_uri,
        (*_URIS, b"signedwire:" + bytes(139)),
        (b"signedwire:", b"=", b"+", b"/", b"A" * 139, "é".encode()),
        200,
    ),
    Target(
        "certificate",
        certificate,
        _certificates(),
        (_SPKI, *_URIS, b"\x30\x82", b"\x06", b"\x86\x81\x96", b"signedwire:"),
        2200,
    ),
)
