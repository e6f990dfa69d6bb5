"""The TLS handshake of a link, until the other side has proven its DID. No I/O."""

from __future__ import annotations

from typing import Final

from signedwire.errors import FailureKind, ProofError
from signedwire.transport.tls import proven_did
from signedwire.transport.tls_channel import TlsChannel
from signedwire.types import Did, unix_time_us

__all__ = ["Handshake"]

_MAX_BYTES: Final = 8 * 1024
"""Bytes that the other side may send before it has proven its DID. 2 KiB are needed.
OpenSSL reads all certificates in one step: 60 to 120 ms for 64 KiB of them."""


class Handshake:
    """Reads ciphertext until the DID of the other side is proven.

    Args:
        channel: The TLS channel of the link.
        expected: The DID that was dialed; `None`: the connection was accepted.
    """

    __slots__ = ("_channel", "_expected", "_received")

    def __init__(self, channel: TlsChannel, expected: Did | None) -> None:
        self._channel = channel
        self._expected = expected
        self._received = 0

    def receive_data(self, data: bytes | memoryview) -> Did | None:
        """Process ciphertext, and return the DID once the other side has proven it.

        Nothing may be sent through the channel before that. Plaintext that came with the last
        bytes of the handshake stays in the channel: read it with `receive_data(b"")`.

        Raises:
            ProofError: The other side has proven no DID, or another than the one that was
                dialed, or has sent more bytes than any handshake has.
            ssl.SSLError: The other side broke TLS, or ended it.
        """
        self._channel.receive_data(data)
        self._received += len(data)
        if self._channel.is_ready:
            did = proven_did(self._channel.tls, unix_time_us())
            if self._expected is not None and did != self._expected:
                raise ProofError(
                    f"{did} answered, not {self._expected}", kind=FailureKind.WRONG_KEY
                )
            return did
        if self._received > _MAX_BYTES:
            raise ProofError(
                f"the TLS handshake is not complete after {self._received} bytes",
                kind=FailureKind.TLS_FAILED,
            )
        return None
