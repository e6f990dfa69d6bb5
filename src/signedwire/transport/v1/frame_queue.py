"""The received v1 frames that wait for their check."""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["FrameQueue"]

_MIN_SLICE: Final = 8
_MAX_SLICE: Final = 32
_MAX_BYTES: Final = 256 * 1024


class FrameQueue:
    """The frames of one connection that wait for their check, in order, and their size."""

    __slots__ = ("_bytes", "_frames")

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def is_full(self) -> bool:
        """Whether so many bytes wait that the connection must not be read."""
        return self._bytes > _MAX_BYTES

    @property
    def is_low(self) -> bool:
        """Whether so few bytes wait that the connection may be read again."""
        return self._bytes < _MAX_BYTES // 2

    def extend(self, frames: list[bytes]) -> None:
        """Add received frames."""
        self._frames.extend(frames)
        self._bytes += sum(map(len, frames))

    def take(self) -> bytes:
        """Remove and return the oldest frame."""
        frame = self._frames.popleft()
        self._bytes -= len(frame)
        return frame

    def take_slice(self, threads: int) -> list[bytes]:
        """Remove and return the frames for one thread, if so many threads share the work."""
        waiting = len(self._frames)
        size = min(waiting, _MAX_SLICE, max(_MIN_SLICE, -(-waiting // threads)))
        return [self.take() for _ in range(size)]

    def clear(self) -> None:
        """Drop all frames."""
        self._frames.clear()
        self._bytes = 0
