"""TLS without a socket, over memory: ciphertext in, plaintext out, and back.

So a listener can read the first byte before it chooses the wire. The same code runs on every event
loop and over every network backend. An idle link holds no buffers but OpenSSL's own.
"""

from __future__ import annotations

import contextlib
import ssl
from typing import Final

__all__ = ["FULL_ALERT", "TLS_FIRST_BYTE", "TlsChannel", "tells_full"]

TLS_FIRST_BYTE: Final = 0x16

FULL_ALERT: Final = bytes.fromhex("15 0303 0002 02 50")
"""The fatal TLS alert internal_error (80), in the clear as before a ServerHello: what a
listener without room answers to a ClientHello. No v1 peer ever writes a byte."""
_FULL_REASONS: Final = frozenset({"TLSV1_ALERT_INTERNAL_ERROR", "TLSV1_ALERT_RECORD_OVERFLOW"})
# The header of a record that is longer than any may be.
_OVERFLOW: Final = bytes.fromhex("17 0303 ffff")
_MAX_RECORD: Final = 16 * 1024
"""Bytes of plaintext in one TLS record. OpenSSL returns no more at once."""


class TlsChannel:
    """The TLS state of one connection, without its socket.

    When the other side breaks TLS, every method raises `ssl.SSLError`. Then `data_to_send()`
    returns the alert for the other side, and `send()` does nothing.

    OpenSSL's state, 27 to 45 KiB, is created with the first byte that is processed, and freed by
    `release()`. So a peer that has sent nothing, or has left, takes none of it.
    """

    __slots__ = (
        "_context",
        "_has_written",
        "_incoming",
        "_is_broken",
        "_is_server",
        "_outgoing",
        "_tls",
        "is_at_end",
        "is_ready",
    )

    def __init__(self, context: ssl.SSLContext, *, is_server: bool) -> None:
        self._context = context
        self._is_server = is_server
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        self._has_written = False
        self._is_broken = False
        self.is_ready = False
        """Whether the handshake is complete on this side."""
        self.is_at_end = False
        """Whether the other side has ended its stream with close_notify."""

    @property
    def tls(self) -> ssl.SSLObject:
        """The TLS object, for `proven_did()`, once the handshake is complete."""
        assert self._tls is not None
        return self._tls

    def start(self) -> None:
        """Begin the handshake of a client, which sends the first message."""
        self._handshake()

    def receive_data(self, data: bytes | memoryview) -> bytes:
        """Process ciphertext, and return the plaintext of complete records, often nothing.

        There is no plaintext before the handshake is complete. Call this again with `b""` when
        `is_ready` has become true and the DID of the other side is proven.
        """
        if self.is_at_end:
            return b""  # OpenSSL reads no more, and would only collect it
        if data:
            self._incoming.write(data)
        try:
            if self.is_ready:
                return self._read()
            self._handshake()
        except ssl.SSLError:
            self._is_broken = True
            raise
        return b""

    def _read(self) -> bytes:
        """Return the plaintext of all complete records."""
        parts: list[bytes] = []
        read = self.tls.read
        pending = self.tls.pending
        try:
            while part := read(_MAX_RECORD):
                parts.append(part)
                # What is left may be half a record; but to be told so costs an exception.
                if not self._incoming.pending and not pending():
                    break
            else:
                self.is_at_end = True  # close_notify, for which some versions give b""
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # and others raise
            self.is_at_end = True
        return b"".join(parts)

    def send(self, data: bytes) -> None:
        """Encrypt. The memory behind the channel takes any number of bytes."""
        if self._is_broken:
            return
        view = memoryview(data)
        write = self.tls.write
        while view:
            view = view[write(view) :]

    def release(self) -> None:
        """Free OpenSSL's state without waiting for the garbage collector."""
        self._tls = None
        self._is_broken = True

    def data_to_send(self) -> bytes:
        """Return the ciphertext to be written now."""
        data = self._outgoing.read()
        self._has_written |= bool(data)
        return data

    def turn_away(self) -> bytes:
        """Return the alert with which a server that is full ends a handshake.

        After a ServerHello the alert must be encrypted. ssl has no call for that, but it answers
        a record that is too long with the alert record_overflow (22).
        """
        if not self._has_written:
            return FULL_ALERT
        self._incoming.write(_OVERFLOW)
        with contextlib.suppress(ssl.SSLError):
            self._handshake()
        return self.data_to_send()

    def _handshake(self) -> None:
        if self._tls is None:
            self._tls = self._context.wrap_bio(
                self._incoming, self._outgoing, server_side=self._is_server
            )
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        self.is_ready = True


def tells_full(error: ssl.SSLError) -> bool:
    """Return whether the error is an alert of a listener that is full.

    The alert is `FULL_ALERT`, or record_overflow (22) after a ServerHello. An honest dialer
    writes no record that is too long, so no other listener sends record_overflow to it.
    """
    return error.reason in _FULL_REASONS
