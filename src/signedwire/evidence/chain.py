"""The evidence log: accepted envelopes in a file, chained by hashes.

    header    "SWCHAIN2" ‖ owner ‖ u64 started_at_us ‖ previous log's head ‖ hash
    record    u32 size ‖ u8 wire ‖ u64 accepted_at_us ‖ envelope ‖ hash
    record    …

Numbers are little-endian. `size` is the size of the envelope in bytes. `wire` is 2 for
an envelope that arrived by v2: it has its Merkle path and stands alone. `wire` is 1 for an
envelope that arrived by v1: it has its own signature. The version in the header does
not tell them apart, because v1 peers may name any version. The hashes:

    header    BLAKE3("signedwire/evidence-header/1\\0" ‖ header without its hash)
    record    BLAKE3("signedwire/evidence-record/1\\0" ‖ hash before ‖ record without its hash)

The last hash is the **head**: it covers everything before it. A changed byte, or a
record that was removed, inserted or moved, breaks the chain at that place. A file
whose end was cut off, or whose hashes were all recomputed, still has a sound chain.
An auditor who wrote down an earlier head detects that: no record has that hash then.

`Chain` writes a log. `LogReader` checks the chain alone; `LogChecker` also proves
every envelope. They take and return bytes; `log` and `opening` do the I/O. They hold at
most `large.WHOLE` bytes of one record and the bytes of the present call.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass
from typing import Final, NamedTuple

from blake3 import blake3

from signedwire.errors import EnvelopeError, SignatureError
from signedwire.types import did_text
from signedwire.wire.batch import GROUP_SIZE, group_hashes, path_of
from signedwire.wire.envelope import ENVELOPE_OVERHEAD, MerklePath, SignedEnvelope
from signedwire.wire.header import MIN_V2_HEADER_SIZE, V2_START, recipient_of, sender_of
from signedwire.wire.joint import is_root_signed
from signedwire.wire.large import MAX_ENVELOPE, WHOLE, EnvelopeStream

__all__ = [
    "HEADER_SIZE",
    "MAGIC",
    "BadRecord",
    "Chain",
    "CheckedRecord",
    "LogChecker",
    "LogHeader",
    "LogReader",
    "LogRecord",
    "first_record",
    "follows",
    "name_of",
]

MAGIC: Final = b"SWCHAIN2"
HASH_SIZE: Final = 32
NO_HEAD: Final = bytes(HASH_SIZE)
"""The previous log's head in a log that continues no other."""

_HEADER: Final = struct.Struct("<8s32sQ32s")
HEADER_SIZE: Final = _HEADER.size + HASH_SIZE
"""Bytes of a log without records."""

_OLD_MAGIC: Final = b"SWCHAIN1"
_PREFIX: Final = struct.Struct("<IBQ")
_V1: Final = 1
_V2: Final = 2
RECORD_OVERHEAD: Final = _PREFIX.size + HASH_SIZE
"""Bytes of a record without its envelope."""

_HEADER_LABEL: Final = b"signedwire/evidence-header/1\0"
_RECORD_LABEL: Final = b"signedwire/evidence-record/1\0"


class LogHeader(NamedTuple):
    """The header of a log."""

    owner: bytes
    """The DID of the node that accepted the envelopes of the log."""
    started_at_us: int
    """When the log was started, by the owner's clock: Unix time, microseconds."""
    previous: bytes = NO_HEAD
    """The head of the log that this one continues; zeros if there is none."""

    def encode(self) -> bytes:
        """Encode the header for the file, with its hash."""
        raw = _HEADER.pack(MAGIC, *self)
        return raw + blake3(_HEADER_LABEL + raw).digest()

    @classmethod
    def decode(cls, data: bytes) -> LogHeader:
        """Decode the header at the start of `data`.

        Raises:
            EnvelopeError: `data` does not begin with a header, or its hash does not fit.
        """
        if data.startswith(_OLD_MAGIC):
            raise EnvelopeError(
                "an evidence log of an earlier signedwire: verify it with that one, and begin a "
                "new file here"
            )
        if data[: len(MAGIC)] != MAGIC[: len(data)]:
            raise EnvelopeError(f"not an evidence log: it does not begin with {MAGIC.decode()}")
        if len(data) < HEADER_SIZE:
            raise EnvelopeError(f"not a whole evidence log: {len(data)} bytes")
        header = cls(*_HEADER.unpack_from(data)[1:])
        if header.encode() != data[:HEADER_SIZE]:
            raise EnvelopeError("the header of the evidence log was changed")
        return header


class LogRecord(NamedTuple):
    """One accepted envelope with its position in the log."""

    number: int
    """Number of the record in the log, from 1."""
    offset: int
    """Offset of the record's first byte in the file."""
    wire: int
    """The wire protocol by which the envelope arrived: 1 or 2."""
    accepted_at_us: int
    """When the owner accepted the envelope, by its clock: Unix time, microseconds."""
    envelope: bytes
    """The encoded envelope; only the header of one over `large.WHOLE` bytes. In a bad
    record: the bytes at the place of the envelope."""
    hash: bytes
    """The hash of the record; the head of the log while no record follows."""
    large: EnvelopeStream | None = None
    """The checked stream of an envelope over `large.WHOLE` bytes, else `None`."""

    @property
    def size(self) -> int:
        """Size of the envelope in bytes."""
        return len(self.envelope) if self.large is None else self.large.size


@dataclass(frozen=True, slots=True)
class BadRecord:
    """The first record of a log that is not valid, and why."""

    number: int
    """Number of the record, from 1; 0 is the header."""
    offset: int
    """Offset of the record's first byte in the file."""
    problem: str
    """The cause, as text for people."""
    is_incomplete: bool = False
    """Whether the file ends inside the record, as after a crash during a write."""


class _LargeRecord:
    """A large record, read piece by piece behind its prefix of 13 bytes."""

    def __init__(self, head: bytes, prefix: bytes) -> None:
        self.size, self.wire, self.accepted_at_us = _PREFIX.unpack(prefix)
        self.envelope = EnvelopeStream(is_v1=self.wire == _V1, whole=WHOLE)
        self.hash = b""
        self._hasher = blake3(_RECORD_LABEL + head + prefix)

    @property
    def received_size(self) -> int:
        """Number of bytes of the record that have been read."""
        return _PREFIX.size + self.envelope.size + len(self.hash)

    @property
    def is_whole(self) -> bool:
        """Whether the record has been read to its end."""
        return len(self.hash) == HASH_SIZE

    @property
    def is_sound(self) -> bool:
        """Whether the hash of the record fits."""
        return self._hasher.digest() == self.hash

    def receive_data(self, data: bytes) -> bytes:
        """Take the next bytes of the record; return those behind its end."""
        part = data[: self.size - self.envelope.size]
        self._hasher.update(part)
        self.envelope.receive_data(part)
        if self.envelope.size == self.size:
            end = len(part) + HASH_SIZE - len(self.hash)
            self.hash += data[len(part) : end]
            return data[end:]
        return b""

    def record(self, number: int, offset: int) -> LogRecord:
        """Return the record that was read, with its position in the log."""
        return LogRecord(
            number,
            offset,
            self.wire,
            self.accepted_at_us,
            self.envelope.start,
            self.hash,
            self.envelope,
        )


def _link(before: bytes, content: bytes) -> bytes:
    return blake3(_RECORD_LABEL + before + content).digest()


def name_of(envelope_or_body: bytes) -> bytes:
    """Return the unique name of a v2 envelope: the part of its header that every header has."""
    return envelope_or_body[:MIN_V2_HEADER_SIZE]


def first_record(data: bytes) -> LogRecord | None:
    """Decode the record at the start of `data`, for a log that was cut off at its front.

    Returns:
        The record, with its envelope verified; `None` if `data` begins with none. Only
        `follows()` tells which record was before it.
    """
    if len(data) < _PREFIX.size:
        return None
    size, wire, accepted_at_us = _PREFIX.unpack_from(data)
    behind = _PREFIX.size + size
    if not ENVELOPE_OVERHEAD <= size <= len(data) - RECORD_OVERHEAD:
        return None
    envelope, hash_ = data[_PREFIX.size : behind], data[behind : behind + HASH_SIZE]
    record = LogRecord(1, 0, wire, accepted_at_us, envelope, hash_)
    try:
        _decode(record).verify()
    except (EnvelopeError, SignatureError):
        return None
    return record


def follows(record: LogRecord, before: bytes) -> bool:
    """Whether `record` directly follows the record whose hash is `before`."""
    prefix = _PREFIX.pack(record.size, record.wire, record.accepted_at_us)
    return _link(before, prefix + record.envelope) == record.hash


class Chain:
    """The end of a log that is being written; encodes the next record.

    Args:
        head: The hash of the last record, or of the header if there is no record.
        count: Number of records in the log, from 0.
    """

    __slots__ = ("_groups", "_leaves", "count", "head")

    def __init__(self, head: bytes, count: int = 0) -> None:
        self.head = head
        self.count = count
        self._leaves: list[bytes] | None = None
        self._groups: list[bytes] = []

    def record(self, accepted_at_us: int, envelope: SignedEnvelope) -> bytes:
        """Encode the next record and make its hash the head."""
        alone = self._alone(envelope)
        wire = _V1 if envelope.merkle_path is None else _V2
        content = _PREFIX.pack(len(alone), wire, accepted_at_us) + alone
        self.head = _link(self.head, content)
        self.count += 1
        return content + self.head

    def _alone(self, envelope: SignedEnvelope) -> bytes:
        path = envelope.merkle_path
        if path is None or path.leaves is None or path.count <= GROUP_SIZE:
            return envelope.encode()
        # The envelopes of a batch follow each other, and each path holds the hashes of
        # the other groups: so these are computed once per batch.
        leaves = path.leaves
        if leaves is not self._leaves:
            self._leaves, self._groups = leaves, group_hashes(leaves)
        hashes = path_of(leaves, path.index, self._groups)
        alone = MerklePath(path.index, path.count, path.signature, hashes=hashes)
        return SignedEnvelope(envelope.body, alone).encode()


class LogReader:
    """Reads the chain of a log up to the first bad record. Envelopes are not verified."""

    def __init__(self) -> None:
        self.header: LogHeader | None = None
        self.head = NO_HEAD
        """The hash of the last sound record, or of the header."""
        self.count = 0
        """Number of sound records so far."""
        self.offset = 0
        """Offset of the end of the last sound record."""
        self.error: BadRecord | None = None
        """The first bad record; nothing behind it is read."""
        self.bad: LogRecord | None = None
        """The first bad record, if it is complete and only its hash does not fit."""
        self._rest = bytearray()
        self._needed = HEADER_SIZE
        self._large: _LargeRecord | None = None

    def receive_data(self, data: bytes) -> list[LogRecord]:
        """Take the next bytes of the file, and return the records that they complete."""
        records: list[LogRecord] = []
        while self.error is None and data:
            if self._large is None:
                data = self._receive_small(data, records)
            else:
                data = self._receive_large(self._large, data, records)
        return records

    def _receive_large(self, large: _LargeRecord, data: bytes, records: list[LogRecord]) -> bytes:
        data = large.receive_data(data)
        if large.is_whole:
            self._large = None
            record = large.record(self.count + 1, self.offset)
            if large.is_sound:
                records.append(record)
                self._advance(record)
            else:
                self._fail_hash(record)
        return data

    def _receive_small(self, data: bytes, records: list[LogRecord]) -> bytes:
        self._rest += data
        if len(self._rest) < self._needed:
            return b""
        data = bytes(self._rest)
        at = 0
        if self.header is None:
            try:
                self.header = LogHeader.decode(data)
            except EnvelopeError as error:
                self.error = BadRecord(0, 0, error.fact)
                return b""
            self.head = data[HEADER_SIZE - HASH_SIZE : HEADER_SIZE]
            at = self.offset = HEADER_SIZE
        found, at = self._records(data, at)
        records += found
        self._rest.clear()
        if self._large is not None:
            return data[at:]
        self._rest += data[at:]
        return b""

    def _records(self, data: bytes, at: int) -> tuple[list[LogRecord], int]:
        records: list[LogRecord] = []
        end, head = len(data), self.head
        while True:
            self._needed = _PREFIX.size
            if end - at < self._needed:
                break
            size, wire, accepted_at_us = _PREFIX.unpack_from(data, at)
            if not ENVELOPE_OVERHEAD <= size <= MAX_ENVELOPE:
                self._fail(f"it names an envelope of {size} bytes, and no envelope has that size")
                break
            if size > WHOLE:
                self._large = _LargeRecord(head, data[at : at + _PREFIX.size])
                at += _PREFIX.size
                break
            self._needed = RECORD_OVERHEAD + size
            if end - at < self._needed:
                break
            behind = at + _PREFIX.size + size
            hash_ = data[behind : behind + HASH_SIZE]
            record = LogRecord(
                self.count + 1,
                self.offset,
                wire,
                accepted_at_us,
                data[at + _PREFIX.size : behind],
                hash_,
            )
            if _link(head, data[at:behind]) != hash_:
                self._fail_hash(record)
                break
            records.append(record)
            at = behind + HASH_SIZE
            head = hash_
            self._advance(record)
        return records, at

    def _advance(self, record: LogRecord) -> None:
        self.head = record.hash
        self.count += 1
        self.offset += RECORD_OVERHEAD + record.size

    def _fail_hash(self, record: LogRecord) -> None:
        self.bad = record
        self._fail("its hash does not fit: it or its predecessor was changed")

    def _fail(self, problem: str, *, is_incomplete: bool = False) -> None:
        self.error = BadRecord(self.count + 1, self.offset, problem, is_incomplete)

    def receive_eof(self) -> None:
        """Note the end of the file; sets `error` if it is inside a record."""
        if self.error is not None:
            return
        if self.header is None:
            try:
                LogHeader.decode(bytes(self._rest))
            except EnvelopeError as error:
                is_begun = MAGIC.startswith(self._rest[: len(MAGIC)])
                self.error = BadRecord(0, 0, error.fact, is_begun)
        elif self._rest or self._large is not None:
            size = len(self._rest) if self._large is None else self._large.received_size
            self._fail(
                f"the file ends inside it, {size} bytes after its start",
                is_incomplete=True,
            )


class CheckedRecord(NamedTuple):
    """A record whose position in the chain and whose envelope have been verified."""

    record: LogRecord
    envelope: SignedEnvelope


class LogChecker:
    """Reads a log like `LogReader`, and verifies that each envelope was sent to its owner.

    Args:
        head: A head that was written down earlier, to look for. See `has_head`.
    """

    def __init__(self, head: bytes | None = None) -> None:
        self.reader = LogReader()
        self.error: BadRecord | None = None
        """The first bad record; nothing behind it is read."""
        self.count = 0
        """Number of verified records so far."""
        self.head = NO_HEAD
        """The hash of the last verified record, or of the header."""
        self.head_at: int | None = None
        """The number of the record that has the hash `head`; 0: the header has it."""
        self._wanted = head
        # (sender, root, signature) of verified batches. The envelopes of a batch follow
        # each other; batches of several senders may alternate.
        self._verified: deque[tuple[bytes, bytes, bytes]] = deque(maxlen=64)

    @property
    def has_head(self) -> bool:
        """Whether the given head was found, or none was given."""
        return self._wanted is None or self.head_at is not None

    def receive_data(self, data: bytes) -> list[CheckedRecord]:
        """Take the next bytes of the file, and return the records that they complete."""
        if self.error is not None:
            return []
        reader, is_first = self.reader, self.reader.header is None
        records = reader.receive_data(data)
        if is_first and reader.header is not None:
            header_hash = reader.header.encode()[-HASH_SIZE:]
            self._advance(0, header_hash)
        checked: list[CheckedRecord] = []
        for record in records:
            try:
                envelope = self._prove(record)
            except (EnvelopeError, SignatureError) as error:
                self.error = BadRecord(record.number, record.offset, error.fact)
                return checked
            checked.append(CheckedRecord(record, envelope))
            self.count = record.number
            self._advance(record.number, record.hash)
        self._take_error()
        return checked

    def receive_eof(self) -> None:
        """Note the end of the file; sets `error` if it is inside a record."""
        if self.error is None:
            self.reader.receive_eof()
            self._take_error()

    def _advance(self, number: int, hash_: bytes) -> None:
        self.head = hash_
        if hash_ == self._wanted:
            self.head_at = number

    def _take_error(self) -> None:
        reader = self.reader
        self.error = reader.error
        if reader.bad is not None:
            # The signature of the envelope tells a changed envelope from a broken chain.
            try:
                self._prove(reader.bad)
            except (EnvelopeError, SignatureError) as error:
                problem = f"it was changed: {error.fact}"
            else:
                problem = (
                    "its hash does not fit and its envelope is intact: a record before it was "
                    "removed, or it was inserted or moved, or its time or hash was changed"
                )
            self.error = BadRecord(reader.bad.number, reader.bad.offset, problem)

    def _prove(self, record: LogRecord) -> SignedEnvelope:
        envelope = _decode(record)
        assert self.reader.header is not None
        owner, body = self.reader.header.owner, envelope.body
        if recipient_of(body) != owner:
            raise SignatureError(
                f"its envelope is for {did_text(recipient_of(body))}, not for {did_text(owner)}, "
                "whose log it is"
            )
        path = envelope.merkle_path
        if path is None:
            envelope.verify()
            return envelope
        sender = sender_of(body)
        name = (sender, path.root(sender, envelope.digest), path.signature)
        if name not in self._verified:
            if not is_root_signed(sender, name[1], path.signature):
                raise SignatureError(
                    f"bad signature: its envelope is not what {did_text(sender)} sent"
                )
            self._verified.append(name)
        return envelope


def _decode(record: LogRecord) -> SignedEnvelope:
    raw, large = record.envelope, record.large
    if record.wire == _V1:
        return SignedEnvelope.decode_v1(raw) if large is None else large.envelope()
    if record.wire == _V2 and raw.startswith(V2_START):
        return SignedEnvelope.decode(raw) if large is None else large.envelope()
    raise EnvelopeError(f"its envelope is not one of wire {record.wire}")
