"""The evidence log: accepted envelopes in a file in which every record holds the one before.

    header    "SWCHAIN1" ‖ owner ‖ u64 started_at_us ‖ previous log's head ‖ hash
    record    u32 size ‖ u8 wire ‖ u64 accepted_at_us ‖ envelope ‖ hash
    record    …

Numbers are little-endian. `size` is that of the envelope, `wire` says by which wire it
came: 2, and it has its path and stands alone, or 1, and it has a signature of its
own. The bytes of an envelope do not say it: v1 peers may name any version. The hashes:

    header    BLAKE3("signedwire/evidence-header/1\\0" ‖ header without its hash)
    record    BLAKE3("signedwire/evidence-record/1\\0" ‖ hash before ‖ record without its hash)

The last hash is the **head**: it stands for everything before it. A changed byte,
a record that was removed, inserted or moved breaks the chain at that place. Who
cuts off the end, or writes all hashes anew, leaves a sound chain, and is found by
whoever wrote down a head before: no record of the file has that hash then.

`Chain` writes, `LogReader` reads the chain alone, `LogChecker` reads it and proves
every envelope. They take bytes and give bytes; who has the file is `delivery`. They
hold no more than `large.WHOLE` bytes of one record and what they are given at once.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass
from typing import Final, NamedTuple

from blake3 import blake3

from signedwire.errors import EnvelopeError, SignatureError
from signedwire.identity import Label, verify_labelled
from signedwire.types import did_text
from signedwire.wire.batch import GROUP_SIZE, group_hashes, path_of
from signedwire.wire.envelope import ENVELOPE_OVERHEAD, BatchProof, SignedEnvelope
from signedwire.wire.header import RECIPIENT, SENDER, V2_HEADER_SIZE, V2_START
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

MAGIC: Final = b"SWCHAIN1"
HASH_SIZE: Final = 32
NO_HEAD: Final = bytes(HASH_SIZE)
"""In place of the previous log's head: there was none."""

_HEADER: Final = struct.Struct("<8s32sQ32s")
HEADER_SIZE: Final = _HEADER.size + HASH_SIZE
"""Bytes of a log without records."""

_PREFIX: Final = struct.Struct("<IBQ")
_V1: Final = 1
_V2: Final = 2
RECORD_OVERHEAD: Final = _PREFIX.size + HASH_SIZE
"""Bytes of a record beside its envelope."""

_HEADER_LABEL: Final = b"signedwire/evidence-header/1\0"
_RECORD_LABEL: Final = b"signedwire/evidence-record/1\0"


class LogHeader(NamedTuple):
    """How a log begins."""

    owner: bytes
    """The DID of the node that accepted what is in it."""
    started_at_us: int
    """When, by its clock: Unix time, microseconds."""
    previous: bytes = NO_HEAD
    """The head of the log that this one continues; zeros: it continues none."""

    def encode(self) -> bytes:
        """As it is in the file, hash included."""
        raw = _HEADER.pack(MAGIC, *self)
        return raw + blake3(_HEADER_LABEL + raw).digest()

    @classmethod
    def decode(cls, data: bytes) -> LogHeader:
        """Read what a log begins with.

        Raises:
            EnvelopeError: `data` does not begin with a header, or its hash does not fit.
        """
        if data[: len(MAGIC)] != MAGIC[: len(data)]:
            raise EnvelopeError("not an evidence log: it begins otherwise")
        if len(data) < HEADER_SIZE:
            raise EnvelopeError(f"not a whole evidence log: {len(data)} bytes")
        header = cls(*_HEADER.unpack_from(data)[1:])
        if header.encode() != data[:HEADER_SIZE]:
            raise EnvelopeError("the header of the evidence log was changed")
        return header


class LogRecord(NamedTuple):
    """One accepted envelope in its place."""

    number: int
    """From 1."""
    offset: int
    """Where its bytes begin in the file."""
    wire: int
    """By which it came: 1 or 2."""
    accepted_at_us: int
    """When, by the clock of the owner: Unix time, microseconds."""
    envelope: bytes
    """As it stands alone; of a large one, its header. Of a record that is bad: what stands
    where it should be."""
    hash: bytes
    """What the chain goes on with: the head, as long as this is the last."""
    large: EnvelopeStream | None = None
    """An envelope of more than `large.WHOLE` bytes, which is not held."""

    @property
    def size(self) -> int:
        """Bytes of the envelope."""
        return len(self.envelope) if self.large is None else self.large.size


@dataclass(frozen=True, slots=True)
class BadRecord:
    """Where a log stops being one, and why."""

    number: int
    """Of the record, from 1; 0: the header."""
    offset: int
    """Where its bytes begin in the file."""
    problem: str
    """What is wrong, in words."""
    is_incomplete: bool = False
    """Whether the file ends inside of it, as after a crash in the middle of a write."""


class _LargeRecord:
    """A record that is read piece by piece, behind its first 13 bytes."""

    def __init__(self, head: bytes, prefix: bytes) -> None:
        self.size, self.wire, self.accepted_at_us = _PREFIX.unpack(prefix)
        self.envelope = EnvelopeStream(
            SignedEnvelope.decode_v1 if self.wire == _V1 else SignedEnvelope.decode, whole=WHOLE
        )
        self.hash = b""
        self._hasher = blake3(_RECORD_LABEL + head + prefix)

    @property
    def has_come(self) -> int:
        """How many of its bytes there are."""
        return _PREFIX.size + self.envelope.size + len(self.hash)

    @property
    def is_whole(self) -> bool:
        """Whether all of it has been read."""
        return len(self.hash) == HASH_SIZE

    @property
    def is_sound(self) -> bool:
        """Whether its hash fits."""
        return self._hasher.digest() == self.hash

    def receive_data(self, data: bytes) -> bytes:
        """Take its next bytes; returns what is behind it."""
        part = data[: self.size - self.envelope.size]
        self._hasher.update(part)
        self.envelope.receive_data(part)
        if self.envelope.size == self.size:
            end = len(part) + HASH_SIZE - len(self.hash)
            self.hash += data[len(part) : end]
            return data[end:]
        return b""

    def record(self, number: int, offset: int) -> LogRecord:
        """What was read, in its place."""
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
    """What tells a v2 envelope from every other: its header, which has its parties and number."""
    return envelope_or_body[:V2_HEADER_SIZE]


def first_record(data: bytes) -> LogRecord | None:
    """The record at the start of `data`, where a log was cut at its front; `None`: there is none.

    Its envelope is proven; which record was before it only its hash tells: see `follows()`.
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
    """Whether the record was written behind the one whose hash is `before`."""
    prefix = _PREFIX.pack(record.size, record.wire, record.accepted_at_us)
    return _link(before, prefix + record.envelope) == record.hash


class Chain:
    """The end of a log that is being written: makes the next record.

    Args:
        head: The hash that it goes on from: of the header, or of the last record.
        count: How many records there are.
    """

    __slots__ = ("_groups", "_leaves", "count", "head")

    def __init__(self, head: bytes, count: int = 0) -> None:
        self.head = head
        self.count = count
        self._leaves: list[bytes] | None = None
        self._groups: list[bytes] = []

    def record(self, accepted_at_us: int, envelope: SignedEnvelope) -> bytes:
        """The bytes of the next record; the chain goes on behind it."""
        alone = self._alone(envelope)
        wire = _V1 if isinstance(envelope.proof, bytes) else _V2
        content = _PREFIX.pack(len(alone), wire, accepted_at_us) + alone
        self.head = _link(self.head, content)
        self.count += 1
        return content + self.head

    def _alone(self, envelope: SignedEnvelope) -> bytes:
        proof = envelope.proof
        if isinstance(proof, bytes) or proof.leaves is None or proof.count <= GROUP_SIZE:
            return envelope.encode()
        # Those of a batch come one behind the other, and each path has the hashes of
        # the other groups: computed once for all of them.
        leaves = proof.leaves
        if leaves is not self._leaves:
            self._leaves, self._groups = leaves, group_hashes(leaves)
        path = path_of(leaves, proof.index, self._groups)
        alone = BatchProof(proof.index, proof.count, proof.signature, path=path)
        return SignedEnvelope(envelope.body, alone).encode()


class LogReader:
    """Reads the chain of a log: whole records whose hashes fit, up to the first bad one."""

    def __init__(self) -> None:
        self.header: LogHeader | None = None
        self.head = NO_HEAD
        """The hash of the last sound record, or of the header."""
        self.count = 0
        """Sound records."""
        self.offset = 0
        """Where the last of them ends."""
        self.error: BadRecord | None = None
        """The first bad record; nothing behind it is looked at."""
        self.bad: LogRecord | None = None
        """It, where it is whole but for its hash."""
        self._rest = bytearray()
        self._needed = HEADER_SIZE
        self._large: _LargeRecord | None = None

    def receive_data(self, data: bytes) -> list[LogRecord]:
        """Take the next bytes of the file; returns the records that they complete."""
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
                self._pass(record)
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
                self._fail(f"it says that its envelope has {size} bytes, which none has")
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
            self._pass(record)
        return records, at

    def _pass(self, record: LogRecord) -> None:
        self.head = record.hash
        self.count += 1
        self.offset += RECORD_OVERHEAD + record.size

    def _fail_hash(self, record: LogRecord) -> None:
        self.bad = record
        self._fail("its hash does not fit: it, or what should be before it, was changed")

    def _fail(self, problem: str, *, is_incomplete: bool = False) -> None:
        self.error = BadRecord(self.count + 1, self.offset, problem, is_incomplete)

    def receive_eof(self) -> None:
        """The file ends here."""
        if self.error is not None:
            return
        if self.header is None:
            try:
                LogHeader.decode(bytes(self._rest))
            except EnvelopeError as error:
                is_begun = MAGIC.startswith(self._rest[: len(MAGIC)])
                self.error = BadRecord(0, 0, error.fact, is_begun)
        elif self._rest or self._large is not None:
            come = len(self._rest) if self._large is None else self._large.has_come
            self._fail(
                f"the file ends inside of it, {come} bytes after its start",
                is_incomplete=True,
            )


class CheckedRecord(NamedTuple):
    """A record whose place and whose envelope are proven."""

    record: LogRecord
    envelope: SignedEnvelope


class LogChecker:
    """Reads a log as `LogReader`, and proves that each envelope was sent to its owner.

    Args:
        head: A hash that was written down before; `has_head` tells whether it is found.
    """

    def __init__(self, head: bytes | None = None) -> None:
        self.reader = LogReader()
        self.error: BadRecord | None = None
        """The first bad record; nothing behind it is looked at."""
        self.count = 0
        """Records that are proven."""
        self.head = NO_HEAD
        """The hash of the last of them, or of the header."""
        self.head_at: int | None = None
        """The number of the record that has the hash `head`; 0: the header has it."""
        self._wanted = head
        # (sender, root) and signature of batches that were verified: those of a batch
        # follow each other, of several senders in turns.
        self._good: deque[tuple[bytes, bytes, bytes]] = deque(maxlen=64)

    @property
    def has_head(self) -> bool:
        """Whether the wanted head was found, or none is wanted."""
        return self._wanted is None or self.head_at is not None

    def receive_data(self, data: bytes) -> list[CheckedRecord]:
        """Take the next bytes of the file; returns the records that they complete."""
        if self.error is not None:
            return []
        reader, is_first = self.reader, self.reader.header is None
        records = reader.receive_data(data)
        if is_first and reader.header is not None:
            header_hash = reader.header.encode()[-HASH_SIZE:]
            self._pass(0, header_hash)
        checked: list[CheckedRecord] = []
        for record in records:
            try:
                envelope = self._prove(record)
            except (EnvelopeError, SignatureError) as error:
                self.error = BadRecord(record.number, record.offset, error.fact)
                return checked
            checked.append(CheckedRecord(record, envelope))
            self.count = record.number
            self._pass(record.number, record.hash)
        self._look_at_the_reader()
        return checked

    def receive_eof(self) -> None:
        """The file ends here."""
        if self.error is None:
            self.reader.receive_eof()
            self._look_at_the_reader()

    def _pass(self, number: int, hash_: bytes) -> None:
        self.head = hash_
        if hash_ == self._wanted:
            self.head_at = number

    def _look_at_the_reader(self) -> None:
        reader = self.reader
        self.error = reader.error
        if reader.bad is not None:
            # The envelope has a signature of its own, which tells two cases apart.
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
        if body[RECIPIENT] != owner:
            raise SignatureError(
                f"its envelope is for {did_text(body[RECIPIENT])}, not for {did_text(owner)}, "
                "whose log it is"
            )
        proof = envelope.proof
        if isinstance(proof, bytes):
            envelope.verify()
            return envelope
        sender = body[SENDER]
        name = (sender, proof.root(sender, envelope.digest), proof.signature)
        if name not in self._good:
            if not verify_labelled(sender, Label.BATCH, name[1], proof.signature):
                raise SignatureError(
                    f"bad signature: its envelope is not what {did_text(sender)} sent"
                )
            self._good.append(name)
        return envelope


def _decode(record: LogRecord) -> SignedEnvelope:
    raw, large = record.envelope, record.large
    if record.wire == _V1:
        return SignedEnvelope.decode_v1(raw) if large is None else large.envelope()
    if record.wire == _V2 and raw.startswith(V2_START):
        return SignedEnvelope.decode(raw) if large is None else large.envelope()
    raise EnvelopeError(f"its envelope is none of wire {record.wire}")
