"""The receiving side of a v2 link: ciphertext, then the frames of its session, in steps of bounded cost.

socket ─→ put ─→ queue ─→ step ─┬→ Handshake          until the DID is proven
                                └→ TlsChannel → Session, one frame in each step
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from signedwire.transport.handshake import Handshake
from signedwire.transport.tls import TlsChannel
from signedwire.types import Did
from signedwire.wire.session import Session

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
    """The receiving side of a link.

    Args:
        channel: Decrypts.
        expected: The DID that was dialed; `None`: the connection was accepted.
        on_proven: Called with the DID that the other side has proven. Returns the session that
            reads from then on; `None`: the link has ended.
    """

    __slots__ = ("_channel", "_handshake", "_on_proven", "_overhead", "_queue", "_session")

    def __init__(
        self,
        channel: TlsChannel,
        expected: Did | None,
        on_proven: Callable[[Did], Session | None],
    ) -> None:
        self._channel = channel
        self._handshake = Handshake(channel, expected)
        self._on_proven = on_proven
        self._session: Session | None = None
        self._queue: deque[bytes | memoryview] = deque()  # empty bytes: the end of the stream
        self._overhead = 0

    @property
    def has_more(self) -> bool:
        """Whether `step()` may find something to process."""
        return bool(self._queue) or (self._session is not None and self._session.has_frames)

    def put(self, data: bytes, *, is_costly: bool) -> None:
        """Queue ciphertext; in smaller pieces if the other side costs more than it brings."""
        size = _COSTLY_STEP if is_costly else _STEP
        if len(data) <= size:
            self._queue.append(data)
        else:
            view = memoryview(data)
            self._queue.extend([view[at : at + size] for at in range(0, len(data), size)])

    def put_end(self) -> None:
        """Queue the end of the stream."""
        self._queue.append(b"")

    def step(self, now: float, fine: float) -> bool:
        """Process one frame or, if no complete one is left, decrypt one piece of ciphertext.

        Args:
            now: The present instant in seconds, by the clock of the event loop.
            fine: The same by a clock with a finer resolution.

        Returns:
            Whether there was something to process.

        Raises:
            ProofError: The other side has not proven the DID that it must prove.
            ssl.SSLError: The other side broke TLS, or ended it.
        """
        session = self._session
        if session is not None:
            if session.handle_frame(now, fine):
                return True
            if session.is_closed:
                self._queue.clear()  # nothing that comes after the end of a session counts
        if not self._queue:
            return False
        if data := self._queue.popleft():
            self._decrypt(data, now)
        else:
            self.end(now)
        return True

    def _decrypt(self, data: bytes | memoryview, now: float) -> None:
        session, channel = self._session, self._channel
        if session is not None:
            plain = channel.receive_data(data)
        else:
            did = self._handshake.receive_data(data)
            if did is None or (session := self._on_proven(did)) is None:
                return
            self._session = session
            plain = channel.receive_data(b"")
        if surplus := self._surplus_records(len(data), len(plain)):
            session.count_idle(surplus, now)
        if plain:
            session.put_data(plain, now)
        if channel.is_at_end:
            self.end(now)

    def end(self, now: float) -> None:
        """Handle the frames that are left, then the end of the stream."""
        if (session := self._session) is not None:
            while session.handle_frame(now):
                pass
            session.receive_eof(now)

    def clear(self) -> None:
        """Process nothing more: the link has ended."""
        self._queue.clear()
        self._session = None

    def _surplus_records(self, ciphertext: int, plaintext: int) -> int:
        """Return the records that cost more than they carry, after a decryption; often 0."""
        self._overhead = max(0, self._overhead + ciphertext - 2 * plaintext)
        if self._overhead <= _MAX_OVERHEAD:
            return 0
        surplus, self._overhead = self._overhead, 0
        return surplus // _RECORD_OVERHEAD
