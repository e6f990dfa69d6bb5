"""TLS 1.3 with both sides proven by DID, from the standard library's ssl.

Python's ssl cannot ask for a client certificate that it does not know, so both
sides present one issued by a certification authority whose key anyone can
compute, `PUBLIC_NULL_CA_KEY_NOT_SECRET`: it proves nothing, and only carries
the certificate past OpenSSL's chain check. What proves is the extension of
`wire.leaf` inside, signed by the DID, which `proven_did()` checks after the
handshake and before a byte of the application is read or written.

`TlsChannel` is TLS without a socket, over memory: ciphertext in, plaintext out,
and back. So one listener can look at the first byte before it decides, the same
code runs on every event loop and over the memory carrier, and an idle link
holds no buffers but OpenSSL's own.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import secrets
import ssl
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from signedwire.errors import ProofError, SignedWireError
from signedwire.identity import Identity
from signedwire.types import Did, unix_time_us
from signedwire.wire.leaf import LEAF_EXTENSION_OID, check_leaf_proof, make_leaf_proof

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate

__all__ = [
    "ALPN",
    "FULL_ALERT",
    "TLS_FIRST_BYTE",
    "TlsChannel",
    "TlsIdentity",
    "proven_did",
    "tells_full",
]

ALPN: Final = "signedwire/2"
TLS_FIRST_BYTE: Final = 0x16

FULL_ALERT: Final = bytes.fromhex("15 0303 0002 02 50")
"""The fatal TLS alert internal_error (80), in the clear as before a ServerHello: what a
listener without room answers to a ClientHello. No v1 peer ever writes a byte."""
_FULL_REASONS: Final = frozenset({"TLSV1_ALERT_INTERNAL_ERROR", "TLSV1_ALERT_RECORD_OVERFLOW"})
# The header of a record that is longer than any may be.
_OVERFLOW: Final = bytes.fromhex("17 0303 ffff")

MAX_LEAF_SIZE: Final = 2048

PUBLIC_NULL_CA_KEY_NOT_SECRET: Final = b"signedwire null CA: proves none."
"""The private scalar of the null CA on P-256. Published on purpose."""

NULL_CA_PEM: Final = """\
-----BEGIN CERTIFICATE-----
MIIBUDCB96ADAgECAgEBMAoGCCqGSM49BAMCMB0xGzAZBgNVBAMMEnNpZ25lZHdp
cmUgbnVsbCBDQTAgFw0wMDAxMDEwMDAwMDBaGA85OTk5MTIzMTIzNTk1OVowHTEb
MBkGA1UEAwwSc2lnbmVkd2lyZSBudWxsIENBMFkwEwYHKoZIzj0CAQYIKoZIzj0D
AQcDQgAELI+Iv3hgeeTRWTS4dvQ35KhyUHxzBKtyFXFvz2T02oD8OaqDeITev4VM
Kqf8+XF7g8bw2VGkmOi4C0G5gkCIFqMmMCQwEgYDVR0TAQH/BAgwBgEB/wIBADAO
BgNVHQ8BAf8EBAMCAgQwCgYIKoZIzj0EAwIDSAAwRQIgfySU33tIvCRoDPC1zFDo
dqCbIn1WnFRdJ23G6rbyBH8CIQDkcG+ku0lxFatvOX/kxGfIP1JivrAYTa2l8dXx
ZQPwvw==
-----END CERTIFICATE-----
"""

_NULL_CA_DER: Final = ssl.PEM_cert_to_DER_cert(NULL_CA_PEM)
_LEAF_LIFETIME_US: Final = 7 * 24 * 3600 * 1_000_000
_MAX_RECORD: Final = 16 * 1024
"""Plaintext of one TLS record: OpenSSL gives no more at once, whatever is asked for."""
# Certificate dates mean nothing here (see wire.leaf), so they allow every clock, and nobody
# looks at them. The null CA's begin in 2000 and cannot be changed, since peers compare it
# byte by byte: a machine that starts in 1970 would find every certificate "not yet valid".
_FROM: Final = datetime.datetime(1970, 1, 1)
_NO_CHECK_TIME: Final = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME, in OpenSSL from 1.1.0 on; Python's ssl has no name for it."""
_UNTIL: Final = datetime.datetime(9999, 12, 31, 23, 59, 59)


class TlsIdentity:
    """A node's TLS keys: made anew for each process, and proven by its DID.

    Two SSL contexts, one for each side, renewed at half of the proof's life.
    """

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._renew_at_us = 0
        self._contexts: dict[bool, ssl.SSLContext] = {}
        self._renew(unix_time_us())

    def channel(self, *, is_server: bool) -> TlsChannel:
        """A new channel for one connection."""
        return TlsChannel(self.context(is_server=is_server), is_server=is_server)

    def context(self, *, is_server: bool) -> ssl.SSLContext:
        """The context of one side, with a proof that is good for days."""
        now = unix_time_us()
        if now >= self._renew_at_us or now < self._renew_at_us - _LEAF_LIFETIME_US:
            # A disk that is full now may not be at the next connection: the old proof is
            # good for as long again.
            with contextlib.suppress(SignedWireError):
                self._renew(now)
        return self._contexts[is_server]

    def _renew(self, now_us: int) -> None:
        key, leaf = make_leaf(self._identity, now_us + _LEAF_LIFETIME_US)
        self._contexts = {side: make_context(key, leaf, is_server=side) for side in (True, False)}
        self._renew_at_us = now_us + _LEAF_LIFETIME_US // 2


def make_leaf(
    identity: Identity, expires_at_us: int
) -> tuple[EllipticCurvePrivateKey, Certificate]:
    """A fresh TLS key and its certificate with the proof of `identity`."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return key, issue_leaf(key, make_leaf_proof(identity, spki, expires_at_us))


def issue_leaf(key: EllipticCurvePrivateKey, proof: bytes) -> Certificate:
    """A certificate for `key`, issued by the null CA, that carries `proof`."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    ca = x509.load_pem_x509_certificate(NULL_CA_PEM.encode())
    ca_key = ec.derive_private_key(
        int.from_bytes(PUBLIC_NULL_CA_KEY_NOT_SECRET, "big") % _P256_ORDER_MINUS_ONE + 1,
        ec.SECP256R1(),
    )
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
        .add_extension(
            x509.UnrecognizedExtension(x509.ObjectIdentifier(LEAF_EXTENSION_OID), proof),
            critical=False,
        )
        .sign(ca_key, hashes.SHA256())
    )


_P256_ORDER_MINUS_ONE: Final = (
    0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551 - 1
)


def make_context(
    key: EllipticCurvePrivateKey, leaf: Certificate, *, is_server: bool
) -> ssl.SSLContext:
    """TLS 1.3 only, our ALPN only, a certificate of the null CA from the other side."""
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
    _load_certificate(context, key, leaf)
    return context


def _load_certificate(
    context: ssl.SSLContext, key: EllipticCurvePrivateKey, leaf: Certificate
) -> None:
    """ssl reads keys from files alone: give it one that is encrypted and gone at once.

    Raises:
        SignedWireError: there is no place for one.
    """
    from cryptography.hazmat.primitives import serialization

    password = secrets.token_bytes(32).hex().encode()
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password),
    ) + leaf.public_bytes(serialization.Encoding.PEM)
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
    """The path of a file in no folder, which goes with the block."""
    if not hasattr(os, "memfd_create"):  # other systems than Linux
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    with open(os.memfd_create("signedwire-leaf"), "wb", buffering=0) as file:
        file.write(content)
        yield f"/proc/self/fd/{file.fileno()}"


@contextlib.contextmanager
def _file_in(parent: str | None, content: bytes) -> Iterator[str]:
    """The path of a file for this user alone, which goes with the block.

    `parent` None: in the folder for temporary files.
    """
    with tempfile.TemporaryDirectory(prefix="signedwire-", dir=parent) as folder:
        path = os.path.join(folder, "leaf.pem")
        with open(path, "wb") as file:
            file.write(content)
        yield path


class TlsChannel:
    """TLS over memory: feed it what the socket gave, write what it wants written.

    Raises `ssl.SSLError` from every method when the other side breaks TLS; what
    `data_to_send()` then gives is the alert that tells it so, and `send()` does nothing.

    OpenSSL's part, 27 to 45 KiB, is made with the first byte that is processed, and freed
    by `release()`: a peer that has sent nothing, or is gone, takes none of it.
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
        """Whether the other side has said that nothing more will come."""

    @property
    def tls(self) -> ssl.SSLObject:
        """What `proven_did()` looks at, once the handshake is complete."""
        assert self._tls is not None
        return self._tls

    def start(self) -> None:
        """Begin the handshake: a client has something to say first."""
        self._handshake()

    def receive_data(self, data: bytes | memoryview) -> bytes:
        """Take ciphertext; return the plaintext that is whole, often nothing.

        While the handshake is not complete there is none: ask again with `b""`
        after `is_ready` has become true and the other side has been checked.
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
        """All plaintext that is whole."""
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
        """Encrypt; memory takes everything."""
        if self._is_broken:
            return
        view = memoryview(data)
        write = self.tls.write
        while view:
            view = view[write(view) :]

    def release(self) -> None:
        """Free OpenSSL's part, without waiting for the garbage collector."""
        self._tls = None
        self._is_broken = True

    def data_to_send(self) -> bytes:
        """Ciphertext to be written now."""
        data = self._outgoing.read()
        self._has_written |= bool(data)
        return data

    def turn_away(self) -> bytes:
        """As a server, amid the handshake: the alert to write that says "no room here".

        After a ServerHello it must be encrypted. ssl has no call for that, but answers a
        record that is too long with the alert record_overflow (22).
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
    """Whether the error is the alert of a listener that has no room: see `FULL_ALERT`.

    record_overflow (22) is the other one, once the handshake is under way: an honest
    dialer writes no record that is too long.
    """
    return error.reason in _FULL_REASONS


def proven_did(tls: ssl.SSLObject, now_us: int) -> Did:
    """The DID that the other side of a completed handshake has proven.

    Raises:
        ProofError: it has proven none; nothing that it sent may be looked at.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    if tls.version() != "TLSv1.3" or tls.session_reused:
        raise ProofError(f"the connection is {tls.version()}, or resumed; a fresh TLS 1.3 is due")
    if tls.selected_alpn_protocol() != ALPN:
        raise ProofError(f"the other side does not speak {ALPN}")
    chain = _presented_chain(tls)
    # OpenSSL sends the issuer along unasked. Nothing but that one may follow the leaf.
    if not chain or chain[1:] not in ([], [_NULL_CA_DER]):
        raise ProofError(f"the other side presented {len(chain)} certificates, one is due")
    if len(chain[0]) > MAX_LEAF_SIZE:
        raise ProofError(f"the certificate has {len(chain[0])} bytes, at most {MAX_LEAF_SIZE}")
    try:
        leaf = x509.load_der_x509_certificate(chain[0])
        spki = leaf.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        # A second extension of the same kind raises here.
        extension = leaf.extensions.get_extension_for_oid(x509.ObjectIdentifier(LEAF_EXTENSION_OID))
        proof: bytes = extension.value.public_bytes()
    except x509.ExtensionNotFound:
        raise ProofError("the certificate carries no proof of a DID") from None
    except Exception as error:  # noqa: BLE001 - what a stranger may write there has no end
        raise ProofError(f"the certificate cannot be read: {error}") from None
    if spki not in chain[0]:
        # A point has several encodings. The proof covers the bytes in the certificate.
        raise ProofError("the key in the certificate is not in its usual form")
    return check_leaf_proof(proof, spki, now_us)


def _presented_chain(tls: ssl.SSLObject) -> list[bytes]:
    """Every certificate that the other side sent, in DER."""
    public: Any = getattr(tls, "get_unverified_chain", None)
    if public is not None:  # Python 3.13
        return list(public())
    certificates: Any = tls._sslobj.get_unverified_chain()  # type: ignore[attr-defined]
    return [ssl.PEM_cert_to_DER_cert(cert.public_bytes()) for cert in certificates or ()]
