"""The frames of a v2 link: `u32 BE length ‖ u8 type ‖ body`.

The length counts type and body. A frame has at most 16,384 bytes. Integers in bodies are
little-endian; docs/protocol.md is the normative text. A receiver skips an unknown type whose high
bit is set; any other closes the link. `decode()` checks all that needs no state of the link.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, NamedTuple, TypeAlias

from signedwire.types import Credit, Reason, shared_credit
from signedwire.wire.batch import HASH_SIZE, MAX_BATCH
from signedwire.wire.clock_offset import Stamp
from signedwire.wire.header import STREAMS
from signedwire.wire.joint import encode_form
from signedwire.wire.malformed import BadReceipt, peer_sent

__all__ = [
    "Close",
    "Credit",
    "Epochs",
    "Frame",
    "Hello",
    "LinkFrameDecoder",
    "Part",
    "Ping",
    "Pong",
    "Read",
    "Receipts",
    "Refusal",
    "decode",
    "read_receipts",
    "joined_statement",
    "part_header",
]

VERSION: Final = 2
MAX_FRAME_SIZE: Final = 16 * 1024
"""Size of the largest frame with its length and type, in bytes."""
MAX_LENGTH: Final = MAX_FRAME_SIZE - 4
MAX_BODY: Final = MAX_LENGTH - 1
MAX_BATCH_BYTES: Final = 64 * 1024
"""The largest batch that this version takes, in bytes of its bodies. One body may be larger."""
LEAST_MAX_BATCH_BYTES: Final = 1024
MAX_RECEIPT_HASHES: Final = 500
MAX_REFUSAL_TEXT: Final = 256
MAX_CLOSE_REASON: Final = 256
MAX_EPOCH: Final = 2**63 - 1
"""Largest legal epoch. A node may have to take a later epoch than the one that a peer
remembers, so an epoch must never be the largest number of its field."""
HELLO: Final = 0x01
ENVELOPES: Final = 0x02
RECEIPT: Final = 0x03
READ: Final = 0x04
CREDIT: Final = 0x05
PING: Final = 0x06
PONG: Final = 0x07
CLOSE: Final = 0x08
SKIPPABLE: Final = 0x80

_PREFIX: Final = struct.Struct(">IB")
_LENGTH: Final = struct.Struct(">I")
_HELLO: Final = struct.Struct("<HHQII4Q8Q16Q")
_PART: Final = struct.Struct("<BB")
_FIRST_PART: Final = struct.Struct("<BBHI")
_FRAMED_PART: Final = struct.Struct(">IBBB")
_BATCH: Final = struct.Struct("<HI")
_READ: Final = struct.Struct("<QIQ")
_RECEIPT: Final = struct.Struct("<BQB")
_CREDIT: Final = struct.Struct("<16Q")
_PING: Final = struct.Struct("<3Q")
_PONG: Final = struct.Struct("<7Q")
_U16: Final = struct.Struct("<H")
_CLOSE: Final = struct.Struct("<HH")


class Epochs(NamedTuple):
    """The epochs of the streams from one peer to another."""

    durable: int
    """The epoch of the durable streams."""
    volatile: int
    """The epoch of the volatile streams, which is new in each process."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The first frame in each direction. The link is open when it has arrived."""

    min_version: int
    max_version: int
    features: int
    """Feature bits of the sender; none are defined yet, and unknown bits are ignored."""
    max_batch_bytes: int
    """The largest batch that the sender accepts, in bytes of its bodies, at least 1,024. One
    body alone may be larger."""
    max_payload_size: int
    """The largest payload that the sender accepts, in bytes."""
    epochs: Epochs
    """The epochs of the sender of the HELLO, within which its sequence numbers count."""
    known_epochs: Epochs
    """The latest epochs of the other side, as the sender has them; 0: none."""
    marks: tuple[int, ...]
    """By stream: the highest sequence accepted within the epoch of `known_epochs`; 0: none."""
    credit: tuple[Credit, ...]
    """By stream, the first grant: what the other side may send before a CREDIT frame."""

    def encode(self) -> bytes:
        """Encode the whole frame."""
        body = _HELLO.pack(
            self.min_version,
            self.max_version,
            self.features,
            self.max_payload_size,
            self.max_batch_bytes,
            *self.epochs,
            *self.known_epochs,
            *self.marks,
            *chain.from_iterable(self.credit),
        )
        return _PREFIX.pack(len(body) + 1, HELLO) + body


FIRST: Final = 1
LAST: Final = 2
ABORT: Final = 4
COPIES: Final = 8
"""The envelopes are of a tree that was signed for several recipients. Only with `FIRST`."""
JOINT: Final = 16
"""A receipt goes along with the batch, under the same signature. Only with `FIRST` and `LAST`."""
PART_HEADER: Final = _PART.size
FIRST_PART_HEADER: Final = _FIRST_PART.size
JOINED_HEADER: Final = _U16.size + _RECEIPT.size + _U16.size
"""Bytes that a receipt of kind 1 or 2 adds to the frame of a batch, without its hashes."""
_LEAST_PART: Final = 2048
_LEGAL_FLAGS: Final = frozenset(
    {
        *(0, FIRST, LAST, FIRST | LAST, ABORT),
        *(FIRST | COPIES, FIRST | LAST | COPIES, FIRST | LAST | JOINT),
    }
)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a signed batch, in an ENVELOPES frame; see `wire.parts`."""

    flags: int
    """`FIRST` and `LAST` in any combination, or both and `JOINT`, or `ABORT` alone; `COPIES` only
    with `FIRST`."""
    stream: int
    """The stream of the batch; see `wire.header`."""
    data: bytes | memoryview = b""
    """The bytes of the batch in this part."""
    count: int = 0
    """First part: number of envelopes in the batch, 1 to 256."""
    total: int = 0
    """First part: sum of the sizes of their bodies; of copies, of their items."""
    joined: Receipts | None = None
    """`JOINT`: the receipt under the same signature, which is in `data`."""

    def encode(self) -> bytes:
        """Encode the whole frame."""
        statement = b"" if self.joined is None else joined_statement(self.joined)
        size = len(statement) + len(self.data)
        header = part_header(self.flags, self.stream, size, self.count, self.total)
        return header + statement + self.data


def part_header(flags: int, stream: int, size: int, count: int, total: int) -> bytes:
    """Encode what precedes the `size` bytes of a part in its frame. See `Part`."""
    if flags & FIRST:
        length = 1 + FIRST_PART_HEADER + size
        return _FRAMED_PART.pack(length, ENVELOPES, flags, stream) + _BATCH.pack(count, total)
    return _FRAMED_PART.pack(1 + PART_HEADER + size, ENVELOPES, flags, stream)


def joined_statement(receipts: Receipts) -> bytes:
    """Encode a receipt for a joint frame: the size of its statement, and the statement."""
    statement = receipts.statement
    return _U16.pack(len(statement)) + statement


ACCEPTED_BATCHES: Final = 1
ACCEPTED_ENVELOPES: Final = 2
HANDLED_ENVELOPES: Final = 3
REFUSED_ENVELOPES: Final = 4
_RECEIPT_KINDS: Final = frozenset(
    {ACCEPTED_BATCHES, ACCEPTED_ENVELOPES, HANDLED_ENVELOPES, REFUSED_ENVELOPES}
)
_SIGNATURE_SIZE: Final = 64
MAX_RECEIPT_SIZE: Final = (
    _RECEIPT.size
    + (_U16.size + MAX_REFUSAL_TEXT)
    + (_U16.size + MAX_RECEIPT_HASHES * HASH_SIZE)
    + _SIGNATURE_SIZE
)
"""Size of the largest body of a RECEIPT, in bytes."""


@dataclass(frozen=True, slots=True)
class Receipts:
    """Signed answers to batches or envelopes.

    The recipient signs `Label.RECEIPT ‖ recipient ‖ sender ‖ statement`.
    """

    kind: int
    """1: batches accepted, by root. 2: envelopes accepted, by leaf. 3: envelopes handled,
    by leaf. 4: envelopes refused, by leaf."""
    at_us: int
    """When they were accepted, handled or refused, by the recipient's clock: Unix time, µs."""
    hashes: tuple[bytes, ...]
    signature: bytes = b""
    code: int = 0
    """Kinds 1 to 3: 1 if a store of the recipient had committed them before, else 0. Kind 4:
    the code of the reason, known or not."""
    text: bytes = b""
    """Kind 4: why, for people; UTF-8 from an honest recipient, and at most 256 bytes."""
    root: bytes = b""
    """The root of the batch that the signature also covers, 32 bytes; empty: it covers none."""

    @property
    def statement(self) -> bytes:
        """The part of the body that is signed, together with the two DIDs."""
        parts = [_RECEIPT.pack(self.kind, self.at_us, self.code)]
        if self.kind == REFUSED_ENVELOPES:
            parts += (_U16.pack(len(self.text)), self.text)
        parts.append(_U16.pack(len(self.hashes)))
        return b"".join((*parts, *self.hashes))

    @property
    def proof(self) -> bytes:
        """The part of a receipt proof behind the envelope; see `wire.receipt_proof`."""
        return encode_form(self.root) + self.root + self.statement + self.signature

    @property
    def is_committed(self) -> bool:
        """Whether a store of the recipient had committed them before the recipient signed."""
        return self.kind != REFUSED_ENVELOPES and self.code == 1

    @property
    def reason(self) -> Reason | None:
        """Why they were refused; an unknown code is `refused`. `None`: they were not."""
        if self.kind != REFUSED_ENVELOPES:
            return None
        return REASONS.get(self.code, Reason.REFUSED)

    @property
    def explanation(self) -> str:
        """More about the reason, to show to people: its unknown code, and the text."""
        if self.kind != REFUSED_ENVELOPES:
            return ""
        number = "" if self.code in REASONS else f"code {self.code}"
        return ": ".join(filter(None, (number, _printable(self.text))))

    def encode(self) -> bytes:
        """Encode the whole frame; a joint receipt is in the frame of its batch instead."""
        body = self.statement + self.signature
        return _PREFIX.pack(len(body) + 1, RECEIPT) + body


class Refusal(NamedTuple):
    """One envelope that the recipient does not accept, and why."""

    leaf: bytes
    reason: Reason
    text: str = ""
    """More about the reason, for people; at most 256 bytes of UTF-8."""


@dataclass(frozen=True, slots=True)
class CreditFrame:
    """The new totals that the other side may send, by stream. A total never shrinks."""

    credit: tuple[Credit, ...]

    def encode(self) -> bytes:
        """Encode the whole frame."""
        totals = chain.from_iterable(self.credit)
        return _PREFIX.pack(_CREDIT.size + 1, CREDIT) + _CREDIT.pack(*totals)


@dataclass(frozen=True, slots=True)
class Read:
    """How much of the batches of the other side was read."""

    bytes_read: int
    """Bytes of batches read so far on this link, without the headers of parts."""
    age_us: int
    """Microseconds since the last of them was read."""
    read_at_us: int
    """When that was: microseconds by a monotonic clock of the reader, since any fixed instant."""

    def encode(self) -> bytes:
        """Encode the whole frame."""
        fields = self.bytes_read, self.age_us, self.read_at_us
        return _PREFIX.pack(_READ.size + 1, READ) + _READ.pack(*fields)


@dataclass(frozen=True, slots=True)
class Ping:
    """A request for a PONG, with the clocks of its sender."""

    number: int
    sent: Stamp
    """When the PING was sent, by the clocks of its sender."""

    def encode(self) -> bytes:
        """Encode the whole frame."""
        return _PREFIX.pack(_PING.size + 1, PING) + _PING.pack(self.number, *self.sent)


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a PING, with the clocks of both sides."""

    ping: Ping
    """The PING, as it came."""
    arrived: Stamp
    """When the PING came, by the clocks of the sender of the PONG."""
    sent: Stamp
    """When the PONG was sent, by the same clocks."""

    def encode(self) -> bytes:
        """Encode the whole frame."""
        body = _PONG.pack(self.ping.number, *self.ping.sent, *self.arrived, *self.sent)
        return _PREFIX.pack(_PONG.size + 1, PONG) + body


@dataclass(frozen=True, slots=True)
class Close:
    """The last frame: the reason why the link ends."""

    code: int
    reason: str

    def encode(self) -> bytes:
        """Encode the whole frame."""
        text = self.reason.encode()[:MAX_CLOSE_REASON]
        body = _CLOSE.pack(self.code, len(text)) + text
        return _PREFIX.pack(len(body) + 1, CLOSE) + body


Frame: TypeAlias = Hello | Part | Receipts | Read | CreditFrame | Ping | Pong | Close

# Close codes; docs/protocol.md explains them.
CLOSE_DONE: Final = 0
CLOSE_PROTOCOL_ERROR: Final = 1
CLOSE_DUPLICATE_LINK: Final = 2
CLOSE_STALE_EPOCH: Final = 3
CLOSE_DENIED: Final = 4
CLOSE_TOO_MANY: Final = 5
CLOSE_VERSION: Final = 6
CLOSE_BAD_SIGNATURE: Final = 7
CLOSE_EVICTED: Final = 8
CLOSE_UNAVAILABLE: Final = 9
CLOSE_CLOCK: Final = 10

REASON_CODES: Final = {
    Reason.EXPIRED: 1,
    Reason.NOT_FOR_US: 2,
    Reason.TOO_LARGE: 3,
    Reason.INBOX_FULL: 4,
    Reason.NOT_ALLOWED: 5,
    Reason.REFUSED: 6,
    Reason.MALFORMED: 7,
    Reason.BAD_SIGNATURE: 8,
    Reason.DUPLICATE: 9,
    Reason.UNKNOWN_SUBJECT: 10,
    Reason.CLOCK_UNKNOWN: 11,
    Reason.RATE: 12,
    Reason.ROLE: 13,
    Reason.SIZE_RULE: 14,
    Reason.SUBJECT_RULE: 15,
}
REASONS: Final = {code: reason for reason, code in REASON_CODES.items()}
"""Maps each code to its reason."""


def decode(frame_type: int, body: bytes) -> Frame | None:
    """Decode the body of one frame; return `None` for an unknown type to skip.

    Raises:
        RemoteProtocolError: the type is unknown and may not be skipped, or the body is
            malformed.
    """
    reader = _READERS.get(frame_type)
    if reader is None:
        if frame_type & SKIPPABLE:
            return None
        raise peer_sent(f"a frame of unknown type {frame_type:#04x}")
    try:
        return reader(body)
    except struct.error:
        raise peer_sent(f"a frame of type {frame_type:#04x} with {len(body)} bytes") from None
    except BadReceipt as error:
        raise peer_sent(str(error)) from None


def _read_hello(body: bytes) -> Hello:
    # A later version may add fields behind these; this version ignores them.
    fields: tuple[Any, ...] = _HELLO.unpack_from(body)
    lowest, highest, features, max_payload, max_batch, *numbers = fields
    hello = Hello(
        min_version=lowest,
        max_version=highest,
        features=features,
        max_payload_size=max_payload,
        max_batch_bytes=max_batch,
        epochs=Epochs(*numbers[:2]),
        known_epochs=Epochs(*numbers[2:4]),
        marks=tuple(numbers[4:12]),
        credit=_credits(numbers[12:]),
    )
    if (
        hello.min_version > hello.max_version
        or not 0 < min(hello.epochs) <= max(hello.epochs) <= MAX_EPOCH
        or max(hello.known_epochs) > MAX_EPOCH
        or hello.max_batch_bytes < LEAST_MAX_BATCH_BYTES
    ):
        raise peer_sent("a HELLO with illegal versions, epochs or sizes")
    return hello


def _credits(numbers: Sequence[int]) -> tuple[Credit, ...]:
    return tuple(map(shared_credit, numbers[::2], numbers[1::2]))


def _read_part(body: bytes) -> Part:
    flags, stream = _PART.unpack_from(body)
    if flags not in _LEGAL_FLAGS or stream >= STREAMS:
        raise peer_sent(f"a part with the flags {flags} in stream {stream}")
    if flags == ABORT:
        if len(body) != PART_HEADER:
            raise peer_sent("the abort of a batch with bytes of it")
        return Part(flags, stream)
    if not flags & LAST and len(body) < _LEAST_PART:
        raise peer_sent(f"a part of {len(body)} bytes that is not the last")
    if not flags & FIRST:
        return Part(flags, stream, memoryview(body)[PART_HEADER:])
    _, _, count, total = _FIRST_PART.unpack_from(body)
    if not 0 < count <= MAX_BATCH:
        raise peer_sent(f"a batch of {count} envelopes, legal are 1 to {MAX_BATCH}")
    if not flags & JOINT:
        return Part(flags, stream, memoryview(body)[FIRST_PART_HEADER:], count, total)
    (size,) = _U16.unpack_from(body, FIRST_PART_HEADER)
    start = FIRST_PART_HEADER + _U16.size
    stop = start + size
    joined = _read_statement(body[start:stop])
    return Part(flags, stream, memoryview(body)[stop:], count, total, joined)


def read_receipts(body: bytes) -> Receipts:
    """Decode the body of a RECEIPT frame, or the same bytes in a receipt proof.

    Raises:
        BadReceipt, struct.error: it is malformed.
    """
    return _read_statement(body[:-_SIGNATURE_SIZE], body[-_SIGNATURE_SIZE:])


def _read_statement(body: bytes, signature: bytes = b"") -> Receipts:
    kind, at_us, code = _RECEIPT.unpack_from(body)
    if kind not in _RECEIPT_KINDS:
        raise BadReceipt(f"a receipt of unknown kind {kind}")
    at, text = _RECEIPT.size, b""
    if kind == REFUSED_ENVELOPES:
        (size,) = _U16.unpack_from(body, at)
        at += _U16.size
        text = body[at : at + size]
        at += size
        if size > MAX_REFUSAL_TEXT:
            raise BadReceipt(f"a refusal with {size} bytes of text")
    elif code > 1:
        raise BadReceipt(f"a receipt whose byte `committed` is {code}")
    (count,) = _U16.unpack_from(body, at)
    start = at + _U16.size
    stop = start + count * HASH_SIZE
    if not 0 < count <= MAX_RECEIPT_HASHES or len(body) != stop:
        raise BadReceipt(f"a receipt whose statement has {len(body)} bytes for {count} hashes")
    hashes = tuple(body[at : at + HASH_SIZE] for at in range(start, stop, HASH_SIZE))
    return Receipts(kind, at_us, hashes, signature, code, text)


def _read_ping(body: bytes) -> Ping:
    number, *sent = _PING.unpack(body)
    return Ping(number, Stamp(*sent))


def _read_pong(body: bytes) -> Pong:
    number, *at = _PONG.unpack(body)
    return Pong(Ping(number, Stamp(*at[:2])), Stamp(*at[2:4]), Stamp(*at[4:]))


def _read_close(body: bytes) -> Close:
    code, length = _CLOSE.unpack_from(body)
    text = body[_CLOSE.size :]
    if len(text) != length or length > MAX_CLOSE_REASON:
        raise peer_sent(f"a CLOSE of {len(body)} bytes")
    return Close(code, _printable(text))


def _printable(text: bytes) -> str:
    """Return the text of a peer with its control characters replaced, because it is shown."""
    return "".join(c if c.isprintable() else "?" for c in text.decode(errors="replace"))


_READERS: Final[dict[int, Callable[[bytes], Frame]]] = {
    HELLO: _read_hello,
    ENVELOPES: _read_part,
    RECEIPT: read_receipts,
    READ: lambda body: Read(*_READ.unpack(body)),
    CREDIT: lambda body: CreditFrame(_credits(_CREDIT.unpack(body))),
    PING: _read_ping,
    PONG: _read_pong,
    CLOSE: _read_close,
}


class LinkFrameDecoder:
    """Splits a stream into (type, body); holds at most one unfinished frame.

    `put()` takes the bytes of the stream. `next_frame()` returns the frames one by one,
    so that the driver can stop between two of them.

    Args:
        max_length: The largest legal length, of type and body.
    """

    __slots__ = ("_data", "_max_length", "_needed", "_position", "_rest")

    def __init__(self, max_length: int = MAX_LENGTH) -> None:
        self._max_length = max_length
        self._data = b""
        self._position = 0
        self._rest = bytearray()
        """The beginning of an incomplete frame."""
        self._needed = _LENGTH.size
        """Size of `_rest` below which the frame cannot be complete, in bytes."""

    @property
    def has_partial_frame(self) -> bool:
        """Whether the peer must still send the rest of a frame."""
        return bool(self._rest)

    @property
    def has_unread(self) -> bool:
        """Whether bytes were put in that `next_frame()` has not yet read."""
        return self._position < len(self._data)

    def put(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:  # small pieces: parse only a whole frame
                return
            data, self._rest = bytes(self._rest), bytearray()
        elif self._position < len(self._data):
            data = self._data[self._position :] + data
        self._data, self._position = data, 0

    def next_frame(self) -> tuple[int, bytes] | None:
        """Return the next complete frame, or `None` if there is none yet.

        Raises:
            RemoteProtocolError: a frame has no type, or is over the limit. All frames
                before it have been returned, however the stream was split.
        """
        data, position = self._data, self._position
        end = len(data)
        if position == end:
            return None
        needed = _LENGTH.size
        if end - position >= needed:
            (length,) = _LENGTH.unpack_from(data, position)
            if not 0 < length <= self._max_length:
                raise peer_sent(f"a frame of {length} bytes, legal are 1 to {self._max_length}")
            needed += length
            if end - position >= needed:
                stop, start = position + needed, position + _PREFIX.size
                if stop < end:
                    self._position = stop
                else:  # nothing is kept while no further byte comes
                    self._data, self._position = b"", 0
                return data[start - 1], data[start:stop]
        self._needed = needed
        self._data, self._position, self._rest = b"", 0, bytearray(data[position:])
        return None

    def receive_data(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Take bytes and yield all complete frames. Iterate to the end."""
        self.put(data)
        while (frame := self.next_frame()) is not None:
            yield frame
