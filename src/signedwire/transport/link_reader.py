"""The receiving side of a v2 link: decrypts one bounded step of ciphertext at a time.

socket ─→ LinkInput ─→ Handshake until the DID is proven, then TlsChannel ─→ Session
"""

from __future__ import annotations

import asyncio

from signedwire.transport.handshake import Handshake
from signedwire.transport.link_input import LinkInput
from signedwire.transport.tls_channel import TlsChannel
from signedwire.types import Did
from signedwire.wire.session import Session

__all__ = ["LinkReader"]


class LinkReader:
    """The receiving side of a link.

    Args:
        channel: Decrypts.
        expected: The DID that was dialed; `None`: the connection was accepted.
        loop: The event loop, for its time.
    """

    __slots__ = ("_channel", "_handshake", "_input", "_loop", "_session")

    def __init__(
        self, channel: TlsChannel, expected: Did | None, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._channel = channel
        self._handshake = Handshake(channel, expected)
        self._loop = loop
        self._input = LinkInput()
        self._session: Session | None = None

    @property
    def has_ciphertext(self) -> bool:
        """Whether bytes wait that were not decrypted."""
        return bool(self._input)

    @property
    def has_input(self) -> bool:
        """Whether ciphertext waits, or a whole frame."""
        return bool(self._input) or (self._session is not None and self._session.has_frames)

    def put(self, data: bytes, *, is_costly: bool) -> None:
        """Add received bytes, in smaller steps from a peer that costs more than it brings."""
        self._input.put(data, is_costly=is_costly)

    def put_end(self) -> None:
        """Add the end of the stream behind the bytes that wait."""
        self._input.put_end()

    def clear(self) -> None:
        """Process nothing more: the link has ended."""
        self._input.clear()
        self._session = None

    def handle_frame(self, now: float) -> bool:
        """Let the session process one frame; `False`: it has no whole frame.

        Args:
            now: The present instant of the monotonic clock.
        """
        session = self._session
        return session is not None and session.handle_frame(self._loop.time(), now)

    def decrypt(self) -> Did | None:
        """Process one step of ciphertext; return the DID if the other side proves it with this.

        Call `begin()` then, before the next step.

        Raises:
            DidProofError: The other side has not proven the DID that it should.
            ssl.SSLError: The other side broke TLS, or ended it.
        """
        data = self._input.take()
        if not data:
            self.end()
        elif self._session is None:
            return self._handshake.receive_data(data)
        else:
            self._give(self._session, len(data), self._channel.receive_data(data))
        return None

    def begin(self, session: Session) -> None:
        """Give what is decrypted to this session from now on.

        Raises:
            ssl.SSLError: The other side broke TLS in what came with the handshake.
        """
        self._session = session
        self._give(session, 0, self._channel.receive_data(b""))

    def end(self) -> None:
        """Let the session process the frames that are left, then the end of the stream."""
        if (session := self._session) is not None:
            now = self._loop.time()
            while session.handle_frame(now):
                pass
            session.receive_eof(now)

    def _give(self, session: Session, ciphertext: int, plain: bytes) -> None:
        now = self._loop.time()
        session.count_idle(self._input.surplus_records(ciphertext, len(plain)), now)
        if plain:
            session.put_data(plain, now)
        if self._channel.is_at_end:
            self.end()
