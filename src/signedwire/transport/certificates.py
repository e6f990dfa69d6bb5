"""The certificates of links: how they are made, and how the DID in one is proven.

Python's ssl cannot ask for a client certificate from an unknown issuer. So both sides present
one issued by a certification authority whose key anyone can compute,
`PUBLIC_NULL_CA_KEY_NOT_SECRET`. The issuer proves nothing: it carries the certificate past
OpenSSL's chain check. The certificate has one name, a URI (see `wire.did_proof`). It is signed by
the DID, and is the proof. `proven_did()` checks it after the handshake, before a byte of the
application is read or written.
"""

from __future__ import annotations

import datetime
import ssl
from typing import TYPE_CHECKING, Any, Final

from signedwire.errors import DidProofError
from signedwire.identity import Identity
from signedwire.types import Did
from signedwire.wire.did_proof import (
    check_did_proof,
    make_did_proof,
    proof_from_uri,
    uri_of_proof,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate

__all__ = [
    "ALPN",
    "MAX_CERTIFICATE_SIZE",
    "NULL_CA_PEM",
    "PUBLIC_NULL_CA_KEY_NOT_SECRET",
    "issue_certificate",
    "make_certificate",
    "proven_did",
]

ALPN: Final = "signedwire/2"
MAX_CERTIFICATE_SIZE: Final = 2048

PUBLIC_NULL_CA_KEY_NOT_SECRET: Final = b"signedwire null CA: proves none."
"""The private scalar of the null CA on P-256. Published on purpose."""

NULL_CA_PEM: Final = """\
-----BEGIN CERTIFICATE-----
MIIBUDCB96ADAgECAgEBMAoGCCqGSM49BAMCMB0xGzAZBgNVBAMMEnNpZ25lZHdp
cmUgbnVsbCBDQTAgFw03MDAxMDEwMDAwMDBaGA85OTk5MTIzMTIzNTk1OVowHTEb
MBkGA1UEAwwSc2lnbmVkd2lyZSBudWxsIENBMFkwEwYHKoZIzj0CAQYIKoZIzj0D
AQcDQgAELI+Iv3hgeeTRWTS4dvQ35KhyUHxzBKtyFXFvz2T02oD8OaqDeITev4VM
Kqf8+XF7g8bw2VGkmOi4C0G5gkCIFqMmMCQwEgYDVR0TAQH/BAgwBgEB/wIBADAO
BgNVHQ8BAf8EBAMCAgQwCgYIKoZIzj0EAwIDSAAwRQIhAOfxVjXyLUH2cZq5Ga5U
nJFVl78utgm7saZZhqOI2YTyAiAMsE5SlbpWSQzH5GpyCReW6WkHLWQDd4kHg+Rc
3zHP+A==
-----END CERTIFICATE-----
"""

_NULL_CA_DER: Final = ssl.PEM_cert_to_DER_cert(NULL_CA_PEM)
_SUBJECT: Final = "signedwire"
"""Java refuses an empty subject. A subject equal to the issuer is self-issued for OpenSSL."""
# Certificate dates have no meaning (see `wire.did_proof`). They allow every clock.
_FROM: Final = datetime.datetime(1970, 1, 1)
_UNTIL: Final = datetime.datetime(9999, 12, 31, 23, 59, 59)
_FIELDS_BEFORE_KEY: Final = 6
"""The version, serial number, signature, issuer, validity and subject of a TBSCertificate."""
_P256_ORDER_MINUS_ONE: Final = (
    0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551 - 1
)


def make_certificate(
    identity: Identity, expires_at_us: int
) -> tuple[EllipticCurvePrivateKey, Certificate]:
    """Return a new TLS key, and its certificate with the DID proof of `identity`."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return key, issue_certificate(key, make_did_proof(identity, spki, expires_at_us))


def issue_certificate(key: EllipticCurvePrivateKey, proof: bytes) -> Certificate:
    """Return a certificate for `key`, issued by the null CA, that contains a DID proof."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    ca = x509.load_pem_x509_certificate(NULL_CA_PEM.encode())
    ca_key = ec.derive_private_key(
        int.from_bytes(PUBLIC_NULL_CA_KEY_NOT_SECRET, "big") % _P256_ORDER_MINUS_ONE + 1,
        ec.SECP256R1(),
    )
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _SUBJECT)]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri_of_proof(proof))]),
            critical=False,
        )
        .sign(ca_key, hashes.SHA256())
    )


def proven_did(tls: ssl.SSLObject, now_us: int) -> Did:
    """Return the DID that the other side of a completed handshake has proven.

    Raises:
        DidProofError: The other side has proven none. Nothing that it has sent may be used.
    """
    from cryptography import x509

    if tls.version() != "TLSv1.3" or tls.session_reused:
        raise DidProofError(
            f"the connection is {tls.version()}, or resumed; a fresh TLS 1.3 is due"
        )
    if tls.selected_alpn_protocol() != ALPN:
        raise DidProofError(f"the other side does not speak {ALPN}")
    chain = _presented_chain(tls)
    # OpenSSL sends the issuer along unasked. Nothing but that one may follow the certificate.
    if not chain or chain[1:] not in ([], [_NULL_CA_DER]):
        raise DidProofError(f"the other side presented {len(chain)} certificates, one is due")
    if len(chain[0]) > MAX_CERTIFICATE_SIZE:
        raise DidProofError(
            f"the certificate has {len(chain[0])} bytes, at most {MAX_CERTIFICATE_SIZE}"
        )
    try:
        certificate = x509.load_der_x509_certificate(chain[0])
        certificate.public_key()  # raises if it is of no kind that can be used
        # A second extension of the same kind raises here.
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = list(extension.value)
        spki = _public_key_info(certificate.tbs_certificate_bytes)
    except x509.ExtensionNotFound:
        raise DidProofError("the certificate carries no DID proof") from None
    except Exception as error:  # noqa: BLE001 - what a stranger may write there has no end
        raise DidProofError(f"the certificate cannot be read: {error}") from None
    if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
        raise DidProofError("the certificate has other names than one URI")
    return check_did_proof(proof_from_uri(names[0].value), spki, now_us)


def _public_key_info(tbs: bytes) -> bytes:
    """Return the SubjectPublicKeyInfo of a TBSCertificate, both in DER (RFC 5280, 4.1).

    These bytes, not the key encoded anew: a key has several encodings, and the DID proof covers
    the one in the certificate. The certificate has been parsed before and has extensions, so it
    is DER of version 3.
    """
    at, _ = _der_value(tbs, 0)
    for _ in range(_FIELDS_BEFORE_KEY):
        _, at = _der_value(tbs, at)
    _, end = _der_value(tbs, at)
    return tbs[at:end]


def _der_value(data: bytes, at: int) -> tuple[int, int]:
    """Return where the value of the DER element at `at` begins and ends (X.690, 8.1)."""
    length, at = data[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length, at = int.from_bytes(data[at : at + size], "big"), at + size
    return at, at + length


def _presented_chain(tls: ssl.SSLObject) -> list[bytes]:
    """Return every certificate that the other side has sent, in DER."""
    public: Any = getattr(tls, "get_unverified_chain", None)
    if public is not None:  # Python 3.13
        return list(public())
    certificates: Any = tls._sslobj.get_unverified_chain()  # type: ignore[attr-defined]
    return [ssl.PEM_cert_to_DER_cert(cert.public_bytes()) for cert in certificates or ()]
