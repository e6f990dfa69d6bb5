"""The DID proof inside a TLS certificate: the URI of its subjectAltName.

    URI       = "signedwire:" ‖ base64url, without padding, of the proof
    proof     = DID (32) ‖ expires_at_us (u64 LE) ‖ signature (64)
    signature = Ed25519 by the DID over "signedwire/tls-leaf/1\\0" ‖ DID ‖ expires_at_us ‖ SPKI

Every TLS library reads a subjectAltName; several refuse a certificate whose extension has an
OID of our own. SPKI is the certificate's SubjectPublicKeyInfo in DER. The holder of the TLS key can
act for the DID until the proof expires. A proof copied into another certificate
proves nothing. The dates of the certificate itself are ignored. Only the signed expiry
counts, with an allowance of 24 hours, because clocks of peers may be wrong.
"""

from __future__ import annotations

import base64
import struct
from typing import Final

from signedwire.errors import DidError, DidProofError, FailureKind
from signedwire.identity import Identity, Label, verify_labelled
from signedwire.types import Did, known_did, utc_text

__all__ = [
    "CLOCK_ALLOWANCE_US",
    "check_did_proof",
    "make_did_proof",
    "proof_from_uri",
    "uri_of_proof",
]

CLOCK_ALLOWANCE_US: Final = 24 * 3600 * 1_000_000
"""Time after its expiry during which a proof is still accepted, in microseconds."""

_PROOF: Final = struct.Struct("<32sQ64s")
_EXPIRY: Final = struct.Struct("<Q")
_SCHEME: Final = "signedwire:"
_TEXT_SIZE: Final = 139
"""Characters of a proof in base64url: 104 bytes, and 2 bits that must be zero."""


def make_did_proof(identity: Identity, spki: bytes, expires_at_us: int) -> bytes:
    """Return a proof: `identity` authorizes the TLS key `spki`.

    Args:
        identity: The key of the DID.
        spki: The SubjectPublicKeyInfo of the TLS key, in DER.
        expires_at_us: Unix time, microseconds.
    """
    did = bytes(identity.did)
    expiry = _EXPIRY.pack(expires_at_us)
    return did + expiry + identity._sign_labelled(Label.DID_PROOF, did + expiry + spki)


def uri_of_proof(proof: bytes) -> str:
    """Return the URI that carries `proof` in a certificate."""
    return _SCHEME + base64.urlsafe_b64encode(proof).rstrip(b"=").decode()


def proof_from_uri(uri: str) -> bytes:
    """Return the proof that a URI of a certificate carries.

    Each proof has exactly one URI. So the scheme is read in lower case alone, and the unused
    bits of the last character must be zero.

    Raises:
        DidProofError: no proof has this URI.
    """
    text = uri.removeprefix(_SCHEME)
    if text == uri:
        raise DidProofError(f"the name in the certificate does not begin with {_SCHEME}")
    if len(text) != _TEXT_SIZE:
        raise DidProofError(
            f"the certificate's DID proof has {len(text)} characters, not {_TEXT_SIZE}"
        )
    try:
        proof = base64.urlsafe_b64decode(text + "=")
    except ValueError:  # a character outside ASCII, or padding in the middle
        proof = b""
    # The decoder skips characters that it does not know, and ignores the unused bits.
    if uri_of_proof(proof) != uri:
        raise DidProofError("the certificate's DID proof is not in base64url")
    return proof


def check_did_proof(value: bytes, spki: bytes, now_us: int) -> Did:
    """Return the DID that `value` proves for the TLS key `spki`.

    Raises:
        DidProofError: the value is malformed, names no usable DID, is not signed by that
            DID for this key, or has expired.
    """
    if len(value) != _PROOF.size:
        raise DidProofError(
            f"the certificate's DID proof has {len(value)} bytes, not {_PROOF.size}"
        )
    raw, expires_at_us, signature = _PROOF.unpack(value)
    try:
        did = known_did(raw)
    except DidError as error:
        raise DidProofError(f"the certificate names no usable DID: {error.fact}") from None
    if not verify_labelled(raw, Label.DID_PROOF, value[:40] + spki, signature):
        raise DidProofError(f"the certificate's DID proof was not signed by {did}")
    if expires_at_us + CLOCK_ALLOWANCE_US < now_us:
        hours = (now_us - expires_at_us) / 3.6e9
        raise DidProofError(
            f"the DID proof of {did} expired {hours:.0f} hours ago, at {utc_text(expires_at_us)}, "
            f"by the clock of its peer, which says {utc_text(now_us)}",
            "Is a clock wrong on one of the two machines?",
            FailureKind.CLOCKS_DIFFER,
        )
    return did
