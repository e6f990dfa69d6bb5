"""Received bytes that a link has not processed yet, in steps of bounded cost."""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["LinkInput"]

# Ciphertext that is decrypted in one step, so that a step takes about a millisecond at most:
# records may be of one byte, and each costs a microsecond or more.
_STEP: Final = 32 * 1024
_COSTLY_STEP: Final = 4 * 1024
_MAX_OVERHEAD: Final = 64 * 1024
"""Ciphertext beyond twice the plaintext, before it counts as a flood of small records."""
_RECORD_OVERHEAD: Final = 22
"""Header, content type and tag of a TLS 1.3 record."""


class LinkInput:
    """Ciphertext that waits, and how much of it was no plaintext."""

    __slots__ = ("_overhead", "_steps", "received")

    def __init__(self) -> None:
        self._steps: deque[bytes | memoryview] = deque()
        self._overhead = 0
        self.received = 0
        """Bytes that were taken, in all."""

    def __bool__(self) -> bool:
        return bool(self._steps)

    def put(self, data: bytes, *, is_costly: bool) -> None:
        """Add what the socket gave; in smaller steps from a peer that brings nothing."""
        step = _COSTLY_STEP if is_costly else _STEP
        if len(data) <= step:
            self._steps.append(data)
        else:
            view = memoryview(data)
            self._steps.extend([view[at : at + step] for at in range(0, len(data), step)])

    def put_end(self) -> None:
        """The stream has ended."""
        self._steps.append(b"")

    def take(self) -> bytes | memoryview:
        """The next step; an empty one is the end of the stream."""
        step = self._steps.popleft()
        self.received += len(step)
        return step

    def clear(self) -> None:
        """Nobody will process it."""
        self._steps.clear()

    def surplus_records(self, ciphertext: int, plaintext: int) -> int:
        """Records that cost more than they carry, now that a step was decrypted; often 0."""
        self._overhead = max(0, self._overhead + ciphertext - 2 * plaintext)
        if self._overhead <= _MAX_OVERHEAD:
            return 0
        surplus, self._overhead = self._overhead, 0
        return surplus // _RECORD_OVERHEAD
