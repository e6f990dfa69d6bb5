"""v1 frames: `u32 big-endian length ‖ envelope`.

A length of zero or over the limit comes from a broken or hostile peer, so the
connection is closed. A frame of legal length with malformed content is skipped,
and the connection stays open. Limits of v1 are far below 2^24, so the first byte of
a v1 connection is always zero. Any other first byte belongs to another protocol
(0x16 is TLS), and the decoder refuses the stream at that byte.
"""

from __future__ import annotations

import struct
from typing import Final

from signedwire.errors import RemoteProtocolError
from signedwire.types import Reason

__all__ = ["LENGTH_SIZE", "FrameDecoder", "encode_frame"]

LENGTH_SIZE: Final = 4
_LENGTH: Final = struct.Struct(">I")


def encode_frame(body: bytes) -> bytes:
    """Return `body` behind its length prefix."""
    return _LENGTH.pack(len(body)) + body


class FrameDecoder:
    """Splits a byte stream into frames; holds at most one unfinished frame.

    `receive_data()` takes the bytes. After a protocol error, `error` is set, the
    frames before it have been returned, and all further bytes are ignored.

    Args:
        max_frame_size: Largest legal body, in bytes, without the length.
    """

    __slots__ = ("_buffer", "_is_fresh", "_max_frame_size", "_needed", "error")

    def __init__(self, max_frame_size: int) -> None:
        self._max_frame_size = max_frame_size
        self._buffer = bytearray()
        self._needed = LENGTH_SIZE  # with fewer bytes, no frame can be complete
        self._is_fresh = True
        self.error: RemoteProtocolError | None = None

    @property
    def has_partial_frame(self) -> bool:
        """Whether the peer must still send the rest of a frame."""
        return bool(self._buffer)

    def receive_data(self, data: bytes) -> list[bytes]:
        """Take the next bytes and return the bodies of the frames they complete, in order."""
        if self.error is not None or not data:
            return []
        if self._is_fresh:
            self._is_fresh = False
            if data[0] != 0:
                self._fail(
                    Reason.WRONG_PROTOCOL,
                    f"the first byte is {data[0]:#04x}; a v1 frame begins with 0x00",
                )
                return []
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._needed:  # small pieces: parse only a whole frame
                return []
            data = bytes(self._buffer)
            self._buffer.clear()  # before the frames are copied out of `data`
        frames: list[bytes] = []
        position, end = 0, len(data)
        self._needed = LENGTH_SIZE
        limit = self._max_frame_size
        while end - position >= LENGTH_SIZE:
            (length,) = _LENGTH.unpack_from(data, position)
            if not 0 < length <= limit:
                self._fail(
                    Reason.ILLEGAL_LENGTH, f"a frame of {length} bytes, legal are 1 to {limit}"
                )
                return frames
            stop = position + LENGTH_SIZE + length
            if stop > end:
                self._needed = stop - position
                break
            frames.append(data[position + LENGTH_SIZE : stop])
            position = stop
        # A copy of the rest alone, so that no larger chunk stays in memory.
        self._buffer = bytearray(data[position:])
        return frames

    def receive_eof(self) -> None:
        """Note the end of the stream; sets `error` if it is inside a frame."""
        if self.error is None and self._buffer:
            self._fail(Reason.TRUNCATED, f"the stream ended {len(self._buffer)} bytes into a frame")

    def _fail(self, reason: Reason, fact: str) -> None:
        self._buffer = bytearray()
        self.error = RemoteProtocolError(reason, fact)
