"""Batches in parts: how a signed batch is cut into ENVELOPES frames, and assembled again.

    batch = 64 bytes signature ‖ count × (u32 size ‖ body)

A batch of copies has an item in place of each body (`wire.copies`), and the flag for it in its
first part.

Every part has at most `MAX_FRAME_SIZE` bytes as a frame. Each priority has a stream of its
own, and parts of several streams may come in any order. So an urgent batch goes between two
parts of a large one.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple, TypeAlias

from signedwire.errors import RemoteProtocolError
from signedwire.types import Reason
from signedwire.wire import link_frames as frames
from signedwire.wire.batch import MAX_BATCH
from signedwire.wire.copies import Copies, largest_overhead, split_items
from signedwire.wire.header import MIN_V2_HEADER_SIZE, PRIORITY
from signedwire.wire.link_frames import ABORT, COPIES, FIRST, LAST, Part, part_header

__all__ = ["BatchReader", "BatchWriter", "IncomingBatches", "OutgoingBatches", "encode_batch"]

Bytes: TypeAlias = bytes | memoryview

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
    """Cuts one signed batch into parts, the largest that are allowed.

    Args:
        signature: The signature of the batch.
        bodies: 1 to 256 bodies of one priority; of copies, their items.
        stream: The stream of the batch, which is that priority.
        is_copies: Whether it is a batch of copies.
    """

    __slots__ = (
        "_bodies",
        "_form",
        "_position",
        "_signature",
        "_view",
        "count",
        "size",
        "stream",
        "total",
    )

    def __init__(
        self, signature: bytes, bodies: list[bytes], stream: int, *, is_copies: bool = False
    ) -> None:
        self._signature = signature
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
    def is_done(self) -> bool:
        """Whether all parts were taken."""
        return self._position == self.size

    @property
    def next_size(self) -> int:
        """Bytes of the batch in the next part."""
        return min(self.size - self._position, _LATER_ROOM if self._position else _FIRST_ROOM)

    def next_part(self) -> list[Bytes]:
        """Take the next part: a frame, in pieces that the caller joins."""
        size, start = self.next_size, self._position
        self._position = stop = start + size
        flags = (0 if start else FIRST | self._form) | (LAST if stop == self.size else 0)
        header = part_header(flags, self.stream, size, self.count, self.total)
        if not start and stop == self.size:
            return [header, *self._pieces()]
        if not start:
            self._view = memoryview(b"".join(self._pieces()))
        return [header, self._view[start:stop]]

    def _pieces(self) -> list[bytes]:
        pieces = [self._signature]
        pack = _SIZE.pack
        for body in self._bodies:
            pieces.append(pack(len(body)))
            pieces.append(body)
        return pieces


def encode_batch(signature: bytes, bodies: list[bytes], stream: int | None = None) -> bytes:
    """Encode a signed batch as the frames of all of its parts. See `BatchWriter`."""
    writer = BatchWriter(signature, bodies, bodies[0][PRIORITY] if stream is None else stream)
    pieces: list[Bytes] = []
    while not writer.is_done:
        pieces += writer.next_part()
    return b"".join(pieces)


class OutgoingBatches:
    """The batches of a link whose parts are not all handed out, the highest stream first.

    A batch that is added while another one of its stream is under way waits behind it.
    """

    __slots__ = ("_free_reads", "_queue", "bytes_out")

    def __init__(self) -> None:
        self._queue: list[BatchWriter] = []
        self.bytes_out = 0
        """Bytes of batches that were handed out, without the headers of parts."""
        self._free_reads = 0

    @property
    def top(self) -> int:
        """The highest stream with a batch under way; -1: there is none."""
        return self._queue[0].stream if self._queue else -1

    def has(self, stream: int) -> bool:
        """Whether a batch of this stream is under way."""
        return any(writer.stream == stream for writer in self._queue)

    def add(self, writer: BatchWriter) -> None:
        """Add a batch."""
        at = len(self._queue)
        while at and self._queue[at - 1].stream < writer.stream:
            at -= 1
        self._queue.insert(at, writer)

    def take(self, room: int | None = None) -> list[Bytes]:
        """Take the next parts, as frames in pieces that the caller joins.

        `room` is the number of bytes that may be taken. The first part is taken whole if there
        is any room. `None`: take all.
        """
        pieces: list[Bytes] = []
        while self._queue and (room is None or room > 0):
            writer = self._queue[0]
            size = writer.next_size
            if room is not None:
                if pieces and size > room:
                    break
                room -= size
            pieces += writer.next_part()
            self.bytes_out += size
            self._free_reads += 1
            if writer.is_done:
                del self._queue[0]
        return pieces

    def cost_of_read(self) -> int:
        """Return the cost of a READ, in PINGs. The peer may send one for each part, for 0."""
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
            raise _error("a batch that is longer than its first part says")
        if bool(part.flags & LAST) != (self._left == 0):
            raise _error("a batch that is shorter than its first part says")
        self._data.append(part.data)
        return None if self._left else self._split()

    def _split(self) -> Batch:
        data = b"".join(self._data)
        bodies: list[bytes] = []
        position, end, stream = _SIGNATURE_SIZE, len(data), self.stream
        is_plain = not self._is_copies
        unpack = _SIZE.unpack_from
        for _ in range(self.count):
            if position + _SIZE.size > end:
                raise _error("a batch that is shorter than its envelopes")
            (size,) = unpack(data, position)
            position += _SIZE.size
            stop = position + size
            if stop > end:
                raise _error("a batch that is shorter than its envelopes")
            if size < MIN_V2_HEADER_SIZE:
                raise _error(f"an envelope of {size} bytes")
            body = data[position:stop]
            if is_plain and body[PRIORITY] != stream:
                raise _misplaced(body, stream)
            bodies.append(body)
            position = stop
        if position != end:
            raise _error("a batch that is longer than its envelopes")
        if is_plain:
            return Batch(data[:_SIGNATURE_SIZE], bodies)
        bodies, copies = split_items(bodies)
        for body in bodies:
            if body[PRIORITY] != stream:
                raise _misplaced(body, stream)
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
    def unfinished(self) -> list[BatchReader]:
        """The batches whose last part has not come."""
        return list(self._readers.values())

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
        """Give all batches so much more time, because our own event loop stalled."""
        for reader in self._readers.values():
            reader.began_at += seconds
            reader.part_at += seconds

    def add(self, part: Part, now: float) -> Batch | None:
        """Take a part that is no abort; return its batch if that was the last part.

        Raises:
            RemoteProtocolError: The part must not come now, or `BatchReader` refuses it.
        """
        stream = part.stream
        if part.flags & FIRST:
            if stream in self._readers:
                raise _error("a second batch of a stream before the end of the first")
            if part.total > self._limit_of(part):
                raise _error(f"a batch of {part.total} bytes, which is too large")
            reader = self._readers[stream] = BatchReader(part, now)
        elif (found := self._readers.get(stream)) is None:
            raise _error("a part of a batch that has not begun")
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
            raise _error("the abort of a batch that has not begun")
        return reader

    def clear(self) -> None:
        """Forget all batches: the link ends."""
        self._readers.clear()


def _misplaced(body: bytes, stream: int) -> RemoteProtocolError:
    return _error(f"an envelope of priority {body[PRIORITY]} in stream {stream}")


def _error(fact: str) -> RemoteProtocolError:
    return RemoteProtocolError(Reason.PROTOCOL_ERROR, f"the peer sent {fact}")
