"""TLS 1.3 contexts of a node, from the standard library's ssl."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import ssl
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from signedwire.errors import SignedWireError
from signedwire.identity import Identity
from signedwire.transport.certificates import ALPN, NULL_CA_PEM, make_certificate
from signedwire.transport.tls_channel import TlsChannel
from signedwire.types import unix_time_us

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate

__all__ = ["TlsIdentity", "make_context"]

_CERTIFICATE_LIFETIME_US: Final = 90 * 24 * 3600 * 1_000_000
"""So a node whose clock is weeks behind or ahead still links."""
_NO_CHECK_TIME: Final = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME, in OpenSSL from 1.1.0 on; Python's ssl has no name for it.
The dates of a certificate have no meaning: only the signed expiry of the DID proof counts."""


class TlsIdentity:
    """The TLS key of a node, new for each process, with a proof of its DID.

    The key is in two SSL contexts, one for each side. Both are replaced after half of the life of
    the proof.
    """

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._renew_at_us = 0
        self._contexts: dict[bool, ssl.SSLContext] = {}
        self._renew(unix_time_us())

    def channel(self, *, is_server: bool) -> TlsChannel:
        """Return a new channel for one connection."""
        return TlsChannel(self.context(is_server=is_server), is_server=is_server)

    def context(self, *, is_server: bool) -> ssl.SSLContext:
        """Return the context of one side; its proof is valid for days."""
        now = unix_time_us()
        if now >= self._renew_at_us or now < self._renew_at_us - _CERTIFICATE_LIFETIME_US:
            # If the disk is full now, the next connection tries again: the old proof is
            # valid for as long again.
            with contextlib.suppress(SignedWireError):
                self._renew(now)
        return self._contexts[is_server]

    def _renew(self, now_us: int) -> None:
        key, certificate = make_certificate(self._identity, now_us + _CERTIFICATE_LIFETIME_US)
        self._contexts = {
            side: make_context(key, certificate, is_server=side) for side in (True, False)
        }
        self._renew_at_us = now_us + _CERTIFICATE_LIFETIME_US // 2


def make_context(
    key: EllipticCurvePrivateKey, certificate: Certificate, *, is_server: bool
) -> ssl.SSLContext:
    """Return a context for TLS 1.3 with our ALPN and a client certificate of the null CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    context.load_verify_locations(cadata=NULL_CA_PEM)
    context.set_alpn_protocols([ALPN])
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    if is_server:
        context.num_tickets = 0
    _load_certificate(context, key, certificate)
    return context


def _load_certificate(
    context: ssl.SSLContext, key: EllipticCurvePrivateKey, certificate: Certificate
) -> None:
    """Load the key through a short-lived encrypted file, because ssl loads keys from files alone.

    Raises:
        SignedWireError: there is no place for a file.
    """
    from cryptography.hazmat.primitives import serialization

    password = secrets.token_bytes(32).hex().encode()
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password),
    ) + certificate.public_bytes(serialization.Encoding.PEM)
    places = _file_in_memory(pem), _file_in("/dev/shm", pem), _file_in(None, pem)
    for place in places:
        try:
            with place as path:
                context.load_cert_chain(path, password=password)
            return
        except OSError as error:  # ssl.SSLError is one, too
            cause = error
    raise SignedWireError(
        "TLS cannot start: OpenSSL takes a key from a file alone, and there is neither a file "
        f"in memory nor a folder to write one to for a moment ({cause.strerror or cause})",
        "Set TMPDIR to a folder that this user may write to; it can be in memory (tmpfs)",
    ) from None


@contextlib.contextmanager
def _file_in_memory(content: bytes) -> Iterator[str]:
    """Yield the path of a file in no folder. The file is gone after the block."""
    if not hasattr(os, "memfd_create"):  # other systems than Linux
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    with open(os.memfd_create("signedwire-certificate"), "wb", buffering=0) as file:
        file.write(content)
        yield f"/proc/self/fd/{file.fileno()}"


@contextlib.contextmanager
def _file_in(parent: str | None, content: bytes) -> Iterator[str]:
    """Yield the path of a file that this user alone may read. The file is gone after the block.

    Args:
        parent: The folder of the file; `None`: the folder for temporary files.
    """
    with tempfile.TemporaryDirectory(prefix="signedwire-", dir=parent) as folder:
        path = os.path.join(folder, "certificate.pem")
        with open(path, "wb") as file:
            file.write(content)
        yield path
