"""`proven_did()` alone: where the proof is, and that it is over the key as it is encoded."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from fuzz.targets_kit import TlsOf
from signedwire.errors import DidProofError
from signedwire.transport.certificates import issue_certificate, make_certificate, proven_did
from signedwire.wire.did_proof import make_did_proof, uri_of_proof
from tlskit import certificate, doubled, in_hours, new_key, spki_of
from wirekit import ALICE


def did_in(der: bytes) -> object:
    tls: Any = TlsOf(der)
    return proven_did(tls, in_hours(0))


def in_bytes(key: EllipticCurvePrivateKey, *, is_hybrid: bool) -> tuple[bytes, bytes]:
    """The point of the key, and the SPKI with it; a hybrid point (SEC 1, 2.3.3) on demand."""
    point = key.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    spki = spki_of(key)
    if not is_hybrid:
        return point, spki
    hybrid = bytes([6 + point[-1] % 2]) + point[1:]
    return hybrid, spki.replace(point, hybrid)


def certificate_in(key: EllipticCurvePrivateKey, proof: bytes, *, is_hybrid: bool) -> bytes:
    """A certificate of the key; another extension holds its usual SPKI, as a decoy."""
    der = certificate(key, (proof,), other=spki_of(key)).public_bytes(serialization.Encoding.DER)
    usual, _ = in_bytes(key, is_hybrid=False)
    point, _ = in_bytes(key, is_hybrid=is_hybrid)
    assert der.count(usual) == 2
    return der.replace(usual, point, 1)


@pytest.mark.parametrize("is_hybrid", [True, False])
@pytest.mark.parametrize("is_proof_hybrid", [True, False])
def test_the_proof_is_over_the_key_in_the_bytes_of_the_certificate(
    is_hybrid: bool, is_proof_hybrid: bool
) -> None:
    """A hybrid point is the same key in other bytes, so another SPKI."""
    key = new_key()
    _, spki = in_bytes(key, is_hybrid=is_proof_hybrid)
    der = certificate_in(key, make_did_proof(ALICE, spki, in_hours(24)), is_hybrid=is_hybrid)
    if is_hybrid == is_proof_hybrid:
        assert did_in(der) == ALICE.did
    else:
        with pytest.raises(DidProofError):
            did_in(der)


# -- the one name of a certificate ---------------------------------------------------------

KEY = new_key()
PROOF = make_did_proof(ALICE, spki_of(KEY), in_hours(24))
URI = uri_of_proof(PROOF)
TEXT = URI.removeprefix("signedwire:")


def der_of(made: x509.Certificate) -> bytes:
    return made.public_bytes(serialization.Encoding.DER)


def named(*names: x509.GeneralName) -> bytes:
    return der_of(certificate(KEY, names=names))


def uri(text: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(text)


def test_a_certificate_has_the_proof_as_its_one_name() -> None:
    made = issue_certificate(KEY, PROOF)
    assert did_in(der_of(made)) == ALICE.did
    (extension,) = made.extensions
    assert not extension.critical
    assert extension.value == x509.SubjectAlternativeName([uri(URI)])
    # The DER of section 3.
    assert extension.value.public_bytes() == bytes.fromhex("308199868196") + URI.encode()


def test_a_certificate_is_one_that_other_tls_libraries_read() -> None:
    """Java refuses an empty subject; a subject equal to the issuer's looks self-issued."""
    _, made = make_certificate(ALICE, in_hours(24))
    assert made.subject.rfc4514_string() == "CN=signedwire"
    assert made.issuer.rfc4514_string() == "CN=signedwire null CA"
    assert len(der_of(made)) < 500


def with_end(last: bytes) -> bytes:
    """A certificate whose URI ends with two other bytes; its signature fits no more."""
    return named(uri(URI)).replace(URI.encode(), URI[:-2].encode() + last)


REFUSED: dict[str, tuple[bytes, str]] = {
    "no name": (named(), "carries no DID proof"),
    "two proofs": (named(uri(URI), uri(URI)), "other names than one URI"),
    "another URI first": (named(uri("https://a.example"), uri(URI)), "other names than one URI"),
    "another name behind": (named(uri(URI), x509.DNSName("a")), "other names than one URI"),
    "another kind alone": (named(x509.DNSName(URI)), "other names than one URI"),
    "two lists": (der_of(doubled(KEY, PROOF, PROOF)), "cannot be read"),
    "two lists, one forged": (der_of(doubled(KEY, PROOF, bytes(104))), "cannot be read"),
    "another scheme": (named(uri("https:" + TEXT)), "does not begin with signedwire:"),
    "a scheme in capitals": (named(uri("Signedwire:" + TEXT)), "does not begin with signedwire:"),
    "slashes": (named(uri("signedwire://" + TEXT)), "has 141 characters"),
    "padding": (named(uri(URI + "=")), "has 140 characters"),
    "103 bytes": (named(uri(uri_of_proof(PROOF[:-1]))), "has 138 characters"),
    "105 bytes": (named(uri(uri_of_proof(PROOF + b"\0"))), "has 140 characters"),
    "not ASCII": (with_end("é".encode()), "has 138 characters"),
    "not UTF-8": (with_end(b"\xff\xff"), "cannot be read"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_any_other_names_are_refused(what: str) -> None:
    der, cause = REFUSED[what]
    with pytest.raises(DidProofError, match=cause):
        did_in(der)
