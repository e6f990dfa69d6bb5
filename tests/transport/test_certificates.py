"""`proven_did()` alone: the DID proof is over the key as the certificate encodes it."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from fuzz.targets_kit import TlsOf
from signedwire.errors import DidProofError
from signedwire.transport.certificates import proven_did
from signedwire.wire.did_proof import make_did_proof
from tlskit import certificate, in_hours, new_key, spki_of
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
    der = certificate(key, (proof, spki_of(key))).public_bytes(serialization.Encoding.DER)
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
