"""TLS without a socket, over memory: ciphertext in, plaintext out, and back.

So a listener can look at the first byte before it decides, and the same code runs on every
event loop and every network. An idle link holds no buffers but those of OpenSSL.
"""

from __future__ import annotations

import contextlib
import ssl
from typing import Final

__all__ = ["FULL_ALERT", "TLS_FIRST_BYTE", "TlsChannel", "is_full_alert"]

TLS_FIRST_BYTE: Final = 0x16

FULL_ALERT: Final = bytes.fromhex("15 0303 0002 02 50")
"""Answer of a listener without room to a ClientHello: the fatal TLS alert internal_error (80).
It is in the clear, as before a ServerHello. A v1 peer never writes a byte."""
_FULL_REASONS: Final = frozenset({"TLSV1_ALERT_INTERNAL_ERROR", "TLSV1_ALERT_RECORD_OVERFLOW"})
# The header of a record that is longer than any may be.
_OVERFLOW: Final = bytes.fromhex("17 0303 ffff")
_MAX_RECORD: Final = 16 * 1024
"""Plaintext of one TLS record in bytes. OpenSSL never returns more at once."""


class TlsChannel:
    """One side of a TLS connection.

    Methods that read raise `ssl.SSLError` if the other side breaks TLS. From then on `send()`
    does nothing, and `data_to_send()` returns the alert for the other side.

    OpenSSL takes 27 to 45 KiB for a connection. They are allocated with the first byte that is
    processed and freed by `release()`: a peer that has sent nothing, or is gone, takes none.

    Args:
        context: The settings and the certificate. See `TlsIdentity`.
        is_server: Whether this side has accepted the connection.
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
        """Whether the other side has ended its direction (close_notify)."""

    @property
    def tls(self) -> ssl.SSLObject:
        """The TLS state for `proven_did()`, after the handshake."""
        assert self._tls is not None
        return self._tls

    def start(self) -> None:
        """Begin the handshake, as a client: it sends first."""
        self._handshake()

    def receive_data(self, data: bytes | memoryview) -> bytes:
        """Process ciphertext; return the plaintext of all complete records, often none.

        Returns nothing until the handshake is complete. When `is_ready` has become true and
        the other side has proven its DID, call it with `b""` for plaintext that came along.

        Raises:
            ssl.SSLError: The other side broke TLS.
        """
        if self.is_at_end:
            return b""  # OpenSSL reads no more and would only collect the bytes
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
        tls = self.tls
        read, pending = tls.read, tls.pending
        try:
            while part := read(_MAX_RECORD):
                parts.append(part)
                # Half a record may be left, but a read that finds out costs an exception.
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
        """Encrypt `data`, of any size. See `data_to_send()`."""
        if self._is_broken:
            return
        view = memoryview(data)
        write = self.tls.write
        while view:
            view = view[write(view) :]

    def release(self) -> None:
        """Free the memory of OpenSSL now. Nothing can be sent or received after that."""
        self._tls = None
        self._is_broken = True

    def data_to_send(self) -> bytes:
        """Return the ciphertext to be written now, and forget it."""
        data = self._outgoing.read()
        self._has_written |= bool(data)
        return data

    def turn_away(self) -> bytes:
        """Return the alert with which a server without room ends the handshake.

        After the ServerHello the alert must be encrypted. Python's ssl has no call for that,
        but OpenSSL answers a record that is too long with the alert record_overflow (22).
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


def is_full_alert(error: ssl.SSLError) -> bool:
    """Whether the error is the alert of a listener without room: see `TlsChannel.turn_away()`.

    A dialer never writes a record that is too long, so record_overflow has no other cause.
    """
    return error.reason in _FULL_REASONS
