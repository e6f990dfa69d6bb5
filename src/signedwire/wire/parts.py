"""Batches in parts: how a signed batch is cut into ENVELOPES frames, and assembled again.

    batch = 64 bytes signature ‖ count × (u32 size ‖ body)

A batch of copies has an item in place of each body (`wire.copies`), and the flag for it in its
first part.

Every part has at most `MAX_FRAME_SIZE` bytes as a frame. All envelopes of a batch are of one
stream, and parts of several streams may come in any order. So an urgent batch goes between two
parts of a large one.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final, NamedTuple, TypeAlias

from signedwire.types import Priority
from signedwire.wire import link_frames as frames
from signedwire.wire.batch import HASH_SIZE, MAX_BATCH
from signedwire.wire.copies import Copies, largest_overhead, split_items
from signedwire.wire.header import (
    DURABLE,
    FLAGS,
    MIN_V2_HEADER_SIZE,
    PRIORITY,
    VOLATILE,
    stream_of,
)
from signedwire.wire.link_frames import (
    ABORT,
    COPIES,
    FIRST,
    JOINT,
    LAST,
    Part,
    Read,
    Receipts,
    joined_statement,
    part_header,
)
from signedwire.wire.malformed import peer_sent
from signedwire.wire.send_window import SendWindow

__all__ = [
    "BatchReader",
    "BatchWriter",
    "IncomingBatches",
    "OutgoingBatches",
    "encode_batch",
    "most_joined",
]

Bytes: TypeAlias = bytes | memoryview

_CRITICAL: Final = int(Priority.CRITICAL)
_SIGNATURE_SIZE: Final = 64
_SIZE: Final = struct.Struct("<I")
_FIRST_ROOM: Final = frames.MAX_BODY - frames.FIRST_PART_HEADER
_LATER_ROOM: Final = frames.MAX_BODY - frames.PART_HEADER
_PACE: Final = 8 * 1024
"""Bytes a second at which a stranger must send a batch, at least."""
_LARGEST_HEADER: Final = 512
"""Bytes that a body may have beyond the largest payload."""
_LARGEST_OVERHEAD: Final = largest_overhead(MAX_BATCH)
"""Bytes that an item of copies may have beyond its body."""


class BatchWriter:
    """Cuts one signed batch into parts.

    Args:
        signature: The signature of the batch; if it is joint, with the receipt hash before it.
        bodies: 1 to 256 bodies of one stream; of copies, their items.
        stream: That stream.
        joined: A receipt that the signature also covers. The batch then fits one part.
        is_copies: Whether it is a batch of copies.
    """

    __slots__ = (
        "_bodies",
        "_form",
        "_joined",
        "_position",
        "_signature",
        "_view",
        "count",
        "size",
        "stream",
        "total",
    )

    def __init__(
        self,
        signature: bytes,
        bodies: list[bytes],
        stream: int,
        joined: Receipts | None = None,
        *,
        is_copies: bool = False,
    ) -> None:
        self._joined = b"" if joined is None else joined_statement(joined)
        self._signature = signature[-_SIGNATURE_SIZE:]
        self._bodies = bodies
        self._form = COPIES if is_copies else 0
        self.count = len(bodies)
        """Number of envelopes."""
        self.total = sum(map(len, bodies))
        """Sum of the sizes of the bodies, as credit counts them."""
        self._position = 0
        self._view = memoryview(b"")
        """The joined batch, if it has several parts, from the first part on."""
        self.stream = stream
        self.size = _SIGNATURE_SIZE + _SIZE.size * self.count + self.total
        """Size of the batch in bytes, with its signature and the sizes of its bodies."""

    @property
    def is_joint(self) -> bool:
        """Whether a receipt goes along with the batch."""
        return bool(self._joined)

    @property
    def has_begun(self) -> bool:
        """Whether the first part was taken."""
        return self._position > 0

    @property
    def left(self) -> int:
        """Bytes of the batch that were not taken."""
        return self.size - self._position

    @property
    def is_done(self) -> bool:
        """Whether all parts were taken."""
        return self._position == self.size

    def next_size(self, part: int = _LATER_ROOM) -> int:
        """Return how many bytes of the batch the next part has, if it may have `part` bytes."""
        if self._joined:
            return self.size
        room = _LATER_ROOM if self._position else _FIRST_ROOM
        return min(self.size - self._position, room, part)

    def next_part(self, part: int = _LATER_ROOM) -> list[Bytes]:
        """Take the next part of at most `part` bytes: a frame, in pieces that the caller joins."""
        size, start = self.next_size(part), self._position
        self._position = stop = start + size
        if self._joined:
            return self._joint_part()
        flags = (0 if start else FIRST | self._form) | (LAST if stop == self.size else 0)
        header = part_header(flags, self.stream, size, self.count, self.total)
        if not start and stop == self.size:
            return [header, *self._pieces()]
        if not start:
            self._view = memoryview(b"".join(self._pieces()))
        return [header, self._view[start:stop]]

    def _joint_part(self) -> list[Bytes]:
        size = len(self._joined) + self.size
        assert size <= _FIRST_ROOM
        flags = FIRST | LAST | JOINT
        header = part_header(flags, self.stream, size, len(self._bodies), self.total)
        return [header, self._joined, *self._pieces()]

    def _pieces(self) -> list[bytes]:
        pieces = [self._signature]
        pack = _SIZE.pack
        for body in self._bodies:
            pieces.append(pack(len(body)))
            pieces.append(body)
        return pieces


def most_joined(bodies: list[bytes], part: int = _FIRST_ROOM) -> int:
    """Return how many hashes a receipt of kind 1 or 2 may name in the frame of this batch.

    `part` is the most bytes that a part may have. 0 or less: there is no room for a receipt.
    """
    batch = _SIGNATURE_SIZE + _SIZE.size * len(bodies) + sum(map(len, bodies))
    room = min(part, _FIRST_ROOM) - frames.JOINED_HEADER - batch
    return min(room // HASH_SIZE, frames.MAX_RECEIPT_HASHES)


def encode_batch(
    signature: bytes,
    bodies: list[bytes],
    stream: int | None = None,
    joined: Receipts | None = None,
) -> bytes:
    """Encode a signed batch as the frames of all of its parts. See `BatchWriter`."""
    if stream is None:
        stream = stream_of(bodies[0])
    writer = BatchWriter(signature, bodies, stream, joined)
    pieces: list[Bytes] = []
    while not writer.is_done:
        pieces += writer.next_part()
    return b"".join(pieces)


class OutgoingBatches:
    """The batches of a link whose parts are not all handed out, the highest priority first.

    The two streams of a priority take turns by bytes. A batch that is added while another one of
    its stream is under way waits behind it.
    """

    __slots__ = ("_free_reads", "_lead", "_queue", "bytes_out", "window")

    def __init__(self) -> None:
        self._queue: list[BatchWriter] = []
        self.window = SendWindow()
        """The bytes that may be under way to the peer, and the measurements that give it."""
        self.bytes_out = 0
        """Bytes of batches that were handed out, without the headers of parts."""
        self._free_reads = 0
        self._lead = [0] * VOLATILE
        """By priority: bytes that its durable stream is ahead of its volatile one, or less if
        that is a whole batch."""

    @property
    def top(self) -> int:
        """The highest priority of a batch under way; -1: there is none."""
        return self._queue[0].stream % VOLATILE if self._queue else -1

    def room(self, now: float) -> int:
        """Return how many bytes may be taken now; 0 or less: none.

        A Critical batch of one part may pass a full window, for 64 KiB a second.
        """
        room = self.window.room(now)
        if self.top == _CRITICAL:
            room = max(room, min(self._queue[0].left, self.window.urgent_room(now)))
        return room

    def next_room(self, now: float) -> float | None:
        """Return when more may be taken although no READ comes; `None`: READ alone gives room."""
        at = self.window.next_room(now)
        if self.top == _CRITICAL:
            urgent_at = self.window.next_urgent_room(now)
            return urgent_at if at is None else min(at, urgent_at)
        return at

    def has(self, stream: int) -> bool:
        """Whether a batch of this stream is under way."""
        return bool(self._queue) and any(writer.stream == stream for writer in self._queue)

    def add(self, writer: BatchWriter) -> None:
        """Add a batch."""
        at, priority = len(self._queue), writer.stream % VOLATILE
        while at and self._queue[at - 1].stream % VOLATILE < priority:
            at -= 1
        self._queue.insert(at, writer)

    def take(self, room: int | None = None, now: float | None = None) -> list[Bytes]:
        """Take the next parts, as frames in pieces that the caller joins.

        Args:
            room: Number of bytes that may be taken. The first part is taken whole if there is any
                room. `None`: take all.
            now: The present instant, by a clock with a fine resolution. `None`: the window does
                not count what is taken.
        """
        pieces: list[Bytes] = []
        if not self._queue:
            return pieces
        before, part, urgent = self.bytes_out, self.window.part, 0
        while self._queue and (room is None or room > 0):
            at = self._next() if len(self._queue) > 1 else 0
            writer = self._queue[at]
            size = writer.next_size(part)
            if room is not None:
                if pieces and size > room:
                    break
                room -= size
            pieces += writer.next_part(part)
            self.bytes_out += size
            self._free_reads += 1
            priority = writer.stream % VOLATILE
            urgent += size if priority == _CRITICAL else 0
            lead = self._lead[priority] + (size if writer.stream < VOLATILE else -size)
            # A stream that was alone for long does not wait as long for the other.
            self._lead[priority] = min(max(lead, -frames.MAX_BATCH_BYTES), frames.MAX_BATCH_BYTES)
            if writer.is_done:
                del self._queue[at]
        if self.bytes_out > before and now is not None:
            self.window.note_written(self.bytes_out, now, urgent)
        return pieces

    def _next(self) -> int:
        """Return the place of the batch whose part goes next."""
        queue, first = self._queue, self._queue[0].stream
        if queue[0].is_joint:
            return 0  # no credit or later answer may be sent before the receipt in it
        for at in range(1, len(queue)):
            stream = queue[at].stream
            if stream == first:
                continue
            if stream % VOLATILE != first % VOLATILE:
                return 0
            # Two streams of one priority. If neither is ahead, the volatile one goes.
            is_volatile_next = self._lead[first % VOLATILE] >= 0
            return at if (stream >= VOLATILE) == is_volatile_next else 0
        return 0

    def abort(self, stream: int) -> list[bytes]:
        """Forget the batch of this stream that is under way, and return the frame that tells it.

        Nothing is changed or returned if no batch of the stream has both parts that were taken and
        parts that were not.
        """
        for at, writer in enumerate(self._queue):
            if writer.stream == stream and writer.has_begun:
                del self._queue[at]
                return [Part(ABORT, stream).encode()]
        return []

    def note_read(self, report: Read, now: float) -> int:
        """Note a READ; return its cost in PINGs. The peer may send one for each part, for 0.

        `now` is as in `take()`.

        Raises:
            RemoteProtocolError: the peer cannot have read so much, or so little.
        """
        read = report.bytes_read
        if not self.window.read <= read <= self.bytes_out:
            raise peer_sent("a READ that does not fit what was sent")
        self.window.note_read(read, report.age_us / 1e6, report.read_at_us / 1e6, now)
        if not self._free_reads:
            return 1
        self._free_reads -= 1
        return 0

    def clear(self) -> None:
        """Forget all batches: the link ends."""
        self._queue.clear()


class Batch(NamedTuple):
    """A complete batch, whose signature is not verified yet."""

    signature: bytes
    bodies: list[bytes]
    copies: Copies | None = None
    """Places of the bodies in the signed tree; `None`: they are the whole tree."""


class BatchReader:
    """Assembles the parts of one batch.

    Args:
        first: Its first part.
        now: The present instant in seconds.
    """

    __slots__ = ("_data", "_is_copies", "_left", "began_at", "count", "part_at", "stream", "total")

    def __init__(self, first: Part, now: float) -> None:
        self.stream = first.stream
        self.count = first.count
        """Number of bodies of the batch."""
        self.total = first.total
        """Sum of the sizes of the bodies; of copies, of their items."""
        self._is_copies = bool(first.flags & COPIES)
        self.began_at = self.part_at = now
        """When the first and the latest part came."""
        self._data: list[Bytes] = []
        self._left = _SIGNATURE_SIZE + _SIZE.size * self.count + self.total

    def add(self, part: Part, now: float) -> Batch | None:
        """Take the next part; return the batch if that was the last.

        Raises:
            RemoteProtocolError: The batch is longer or shorter than its first part says, or one
                of its bodies is too short, or has a priority of another stream. Or it is a batch
                of copies, and its items are not those of one tree.
        """
        self.part_at = now
        self._left -= len(part.data)
        if self._left < 0:
            raise peer_sent("a batch that is longer than its first part says")
        if bool(part.flags & LAST) != (self._left == 0):
            raise peer_sent("a batch that is shorter than its first part says")
        self._data.append(part.data)
        return None if self._left else self._split()

    def _split(self) -> Batch:
        data = b"".join(self._data)
        bodies: list[bytes] = []
        position, end = _SIGNATURE_SIZE, len(data)
        unpack = _SIZE.unpack_from
        for _ in range(self.count):
            start = position + 4
            stop = start + unpack(data, position)[0] if start <= end else start
            if stop > end:
                raise peer_sent("a batch that is shorter than its envelopes")
            if stop - start < MIN_V2_HEADER_SIZE:
                raise peer_sent(f"an envelope of {stop - start} bytes")
            bodies.append(data[start:stop])
            position = stop
        if position != end:
            raise peer_sent("a batch that is longer than its envelopes")
        copies = None
        if self._is_copies:
            bodies, copies = split_items(bodies)
        priority, durable = self.stream % VOLATILE, DURABLE if self.stream < VOLATILE else 0
        for body in bodies:  # not by `stream_of()`: that took longer for each message
            if body[PRIORITY] != priority or body[FLAGS] & DURABLE != durable:
                raise peer_sent(f"an envelope of stream {stream_of(body)} in stream {self.stream}")
        return Batch(data[:_SIGNATURE_SIZE], bodies, copies)


class IncomingBatches:
    """The batches of a link that are not complete yet, at most one in each stream.

    Args:
        max_batch_bytes: The largest sum of the sizes of the bodies of a batch.
        max_payload_size: The largest payload. A batch of one may be larger than
            `max_batch_bytes` for it.
        timeout: Limit in seconds from one part of a batch to the next; `None`: no limit.
        is_stranger: Whether a whole batch is limited to that time and the time that its bytes
            take at 8 KiB a second.
    """

    __slots__ = (
        "_is_stranger",
        "_largest",
        "_max_batch_bytes",
        "_readers",
        "_timeout",
        "bytes_in",
    )

    def __init__(
        self,
        max_batch_bytes: int,
        max_payload_size: int,
        timeout: float | None = None,
        is_stranger: bool = False,
    ) -> None:
        self._timeout = timeout
        self._is_stranger = is_stranger
        self._max_batch_bytes = max_batch_bytes
        self._largest = max(max_batch_bytes, max_payload_size + _LARGEST_HEADER)
        self._readers: dict[int, BatchReader] = {}
        self.bytes_in = 0
        """Bytes of batches that were read, without the headers of parts."""

    @property
    def unfinished(self) -> Mapping[int, BatchReader]:
        """By stream, the batches whose last part has not come."""
        return self._readers

    @property
    def due(self) -> float | None:
        """The instant at which a batch is too slow; `None`: never."""
        if self._timeout is None or not self._readers:
            return None
        due = min(reader.part_at for reader in self._readers.values())
        if self._is_stranger:
            slowest = (reader.began_at + reader.total / _PACE for reader in self._readers.values())
            due = min(due, *slowest)
        return due + self._timeout

    def postpone(self, seconds: float) -> None:
        """Give all batches so much more time until their next parts."""
        for reader in self._readers.values():
            reader.part_at += seconds

    def postpone_ends(self, seconds: float) -> None:
        """Give all batches so much more time in all, because our own event loop stalled."""
        for reader in self._readers.values():
            reader.began_at += seconds

    def add(self, part: Part, now: float) -> Batch | None:
        """Take a part that is no abort; return its batch if that was the last part.

        Raises:
            RemoteProtocolError: The part must not come now, or `BatchReader` refuses it.
        """
        stream = part.stream
        if part.flags & FIRST:
            if stream in self._readers:
                raise peer_sent("a second batch of a stream before the end of the first")
            if part.total > self._limit_of(part):
                raise peer_sent(f"a batch of {part.total} bytes, which is too large")
            reader = self._readers[stream] = BatchReader(part, now)
        elif (found := self._readers.get(stream)) is None:
            raise peer_sent("a part of a batch that has not begun")
        else:
            reader = found
        self.bytes_in += len(part.data)
        if (batch := reader.add(part, now)) is not None:
            del self._readers[stream]
        return batch

    def _limit_of(self, first: Part) -> int:
        """Return the largest total of the batch that begins with this part."""
        if first.count > 1:
            return self._max_batch_bytes
        return self._largest + (_LARGEST_OVERHEAD if first.flags & COPIES else 0)

    def abort(self, part: Part) -> BatchReader:
        """Forget the unfinished batch that its sender has aborted, and return it.

        Raises:
            RemoteProtocolError: No batch of the stream is under way.
        """
        assert part.flags == ABORT
        reader = self._readers.pop(part.stream, None)
        if reader is None:
            raise peer_sent("the abort of a batch that has not begun")
        return reader
