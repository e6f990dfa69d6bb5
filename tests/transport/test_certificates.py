"""`proven_did()` alone: certificates that no TLS library would send."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from signedwire.errors import ProofError
from signedwire.transport.tls import ALPN, make_leaf, proven_did
from tlskit import in_hours
from wirekit import ALICE


class _Tls:
    """The side of an `SSLObject` that `proven_did()` reads."""

    session_reused = False

    def __init__(self, chain: list[bytes]) -> None:
        self._chain = chain

    def version(self) -> str:
        return "TLSv1.3"

    def selected_alpn_protocol(self) -> str:
        return ALPN

    def get_unverified_chain(self) -> list[bytes]:
        return self._chain


def did_in(der: bytes) -> object:
    tls: Any = _Tls([der])
    return proven_did(tls, in_hours(0))


def test_the_proof_is_over_the_key_in_the_bytes_of_the_certificate() -> None:
    """A hybrid point (SEC 1, 2.3.3) is the same key in other bytes, so another SPKI."""
    key, certificate = make_leaf(ALICE, in_hours(24))
    der = certificate.public_bytes(serialization.Encoding.DER)
    assert did_in(der) == ALICE.did
    point = key.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    assert der.count(point) == 1
    hybrid = bytes([6 + point[-1] % 2]) + point[1:]
    with pytest.raises(ProofError, match="form"):
        did_in(der.replace(point, hybrid))
