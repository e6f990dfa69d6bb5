"""DID proofs: who signed one, for which TLS key, until when, and the URI that carries it."""

from __future__ import annotations

import base64
import string
import time

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from linkkit import ALICE, BOB, EVE
from signedwire.errors import DidProofError
from signedwire.identity import Identity, Label
from signedwire.wire.did_proof import (
    CLOCK_ALLOWANCE_US,
    check_did_proof,
    make_did_proof,
    proof_from_uri,
    uri_of_proof,
)

SPKI = b"a SubjectPublicKeyInfo in DER"
EXPIRY = 10**15
HOUR = 3600 * 1_000_000


def refusal(value: bytes, spki: bytes = SPKI, now_us: int = 0) -> str:
    with pytest.raises(DidProofError) as caught:
        check_did_proof(value, spki, now_us)
    return str(caught.value)


def test_the_bytes() -> None:
    value = make_did_proof(ALICE, SPKI, EXPIRY)
    did, expiry = bytes(ALICE.did), EXPIRY.to_bytes(8, "little")
    assert value[:40] == did + expiry
    assert value[40:] == ALICE._sign_labelled(Label.DID_PROOF, did + expiry + SPKI)
    assert Label.DID_PROOF.value == b"signedwire/tls-leaf/1\0"
    assert len(value) == 104


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 2**64 - 1))
def test_proves_its_did(spki: bytes, expires_at_us: int) -> None:
    value = make_did_proof(BOB, spki, expires_at_us)
    assert check_did_proof(value, spki, 0) == BOB.did


@settings(deadline=None)
@given(st.integers(0, 103), st.integers(1, 255))
def test_any_changed_byte(at: int, change: int) -> None:
    value = bytearray(make_did_proof(ALICE, SPKI, EXPIRY))
    value[at] ^= change
    text = refusal(bytes(value))
    assert "names no usable DID" in text or "was not signed by did:key:" in text


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_another_tls_key(spki: bytes) -> None:
    assume(spki != SPKI)
    assert refusal(make_did_proof(ALICE, SPKI, EXPIRY), spki) == (
        f"the certificate's DID proof was not signed by {ALICE.did}"
    )


def test_the_border_between_expiry_and_key_is_fixed() -> None:
    """Bytes cannot move from the key into the expiry or back."""
    value = make_did_proof(ALICE, SPKI, EXPIRY)
    refusal(value[:33] + value[34:41] + value[40:], value[33:34] + SPKI)


@pytest.mark.parametrize("size", [0, 32, 103, 105, 208])
def test_another_length(size: int) -> None:
    value = (make_did_proof(ALICE, SPKI, EXPIRY) * 2)[:size]
    assert refusal(value) == f"the certificate's DID proof has {size} bytes, not 104"


@pytest.mark.parametrize("raw", [bytes(32), b"\x01" + bytes(31), b"\xff" * 32])
def test_a_did_that_names_nobody(raw: bytes) -> None:
    value = raw + make_did_proof(ALICE, SPKI, EXPIRY)[32:]
    assert refusal(value).startswith("the certificate names no usable DID: ")


@pytest.mark.parametrize("signer", [BOB, EVE])
def test_somebody_else_signed_it(signer: Identity) -> None:
    text = make_did_proof(ALICE, SPKI, EXPIRY)[:40]
    forged = text + signer._sign_labelled(Label.DID_PROOF, text + SPKI)
    assert "was not signed by" in refusal(forged)


@pytest.mark.parametrize("label", [label for label in Label if label is not Label.DID_PROOF])
def test_a_signature_under_another_label(label: Label) -> None:
    text = make_did_proof(ALICE, SPKI, EXPIRY)[:40]
    assert "was not signed by" in refusal(text + ALICE._sign_labelled(label, text + SPKI))


def shown(time_us: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(time_us // 1_000_000))


class TestExpiry:
    """Only the signed expiry counts, with an allowance for wrong clocks."""

    @pytest.mark.parametrize("now_us", [0, EXPIRY, EXPIRY + CLOCK_ALLOWANCE_US])
    def test_in_time(self, now_us: int) -> None:
        assert check_did_proof(make_did_proof(ALICE, SPKI, EXPIRY), SPKI, now_us) == ALICE.did

    def test_too_late(self) -> None:
        value = make_did_proof(ALICE, SPKI, EXPIRY)
        refusal(value, now_us=EXPIRY + CLOCK_ALLOWANCE_US + 1)
        assert refusal(value, now_us=EXPIRY + 30 * HOUR) == (
            f"the DID proof of {ALICE.did} expired 30 hours ago, at {shown(EXPIRY)}, by the clock "
            f"of its peer, which says {shown(EXPIRY + 30 * HOUR)}. "
            "Is a clock wrong on one of the two machines?"
        )

    def test_two_boards_in_1970(self) -> None:
        """A proof of 1970 holds in 1970, and no longer where the clock is right."""
        value = make_did_proof(ALICE, SPKI, 90 * 24 * HOUR)
        assert check_did_proof(value, SPKI, now_us=1) == ALICE.did
        assert "at 1970-04-01 00:00:00 UTC" in refusal(value, now_us=EXPIRY)
        assert "says 9999-12-31 23:59:59 UTC" in refusal(value, now_us=2**63)

    def test_a_forged_expiry_is_no_later_one(self) -> None:
        value = make_did_proof(ALICE, SPKI, EXPIRY)
        later = value[:32] + (2 * EXPIRY).to_bytes(8, "little") + value[40:]
        assert "was not signed by" in refusal(later, now_us=EXPIRY)

    def test_the_signature_comes_before_the_expiry(self) -> None:
        """The signature is checked first: a forged proof is not reported as expired."""
        value = make_did_proof(ALICE, SPKI, EXPIRY)[:-1] + b"\0"
        assert "was not signed by" in refusal(value, now_us=10 * EXPIRY)


class TestUri:
    """Each proof has exactly one URI, and every other text is refused."""

    PROOF = make_did_proof(ALICE, SPKI, EXPIRY)
    URI = uri_of_proof(PROOF)

    def refused(self, uri: str) -> str:
        with pytest.raises(DidProofError) as caught:
            proof_from_uri(uri)
        return str(caught.value)

    def test_the_text(self) -> None:
        scheme, _, text = self.URI.partition(":")
        assert scheme == "signedwire"
        assert len(text) == 139
        assert base64.urlsafe_b64decode(text + "=") == self.PROOF

    @given(st.binary(min_size=104, max_size=104))
    def test_there_and_back(self, proof: bytes) -> None:
        assert proof_from_uri(uri_of_proof(proof)) == proof

    @pytest.mark.parametrize(
        "scheme", ["", "Signedwire:", "SIGNEDWIRE:", " signedwire:", "signedwire", "did:key:"]
    )
    def test_another_scheme(self, scheme: str) -> None:
        uri = scheme + self.URI.removeprefix("signedwire:")
        assert self.refused(uri) == "the name in the certificate does not begin with signedwire:"

    @pytest.mark.parametrize("size", [0, 103, 105, 208])
    def test_another_length(self, size: int) -> None:
        count = -(-size * 8 // 6)
        assert self.refused(uri_of_proof(bytes(size))) == (
            f"the certificate's DID proof has {count} characters, not 139"
        )

    @pytest.mark.parametrize("more", ["=", "\n", " ", "#", "A"])
    def test_a_character_behind(self, more: str) -> None:
        assert "140 characters" in self.refused(self.URI + more)

    def test_unused_bits_that_are_not_zero(self) -> None:
        """Of 64 last characters, 16 are the end of some proof."""
        alphabet = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
        start = self.URI[:-1]
        for value, last in enumerate(alphabet):
            if value % 4 == 0:
                assert proof_from_uri(start + last)[:-1] == self.PROOF[:-1]
            else:
                assert "not in base64url" in self.refused(start + last)

    @pytest.mark.parametrize("at", [11, 80, 149])
    @pytest.mark.parametrize("other", ["+", "/", "=", "%", " ", "\n", "\0", "é", "٣", "\ud800"])
    def test_a_character_outside_the_alphabet(self, at: int, other: str) -> None:
        uri = self.URI[:at] + other + self.URI[at + 1 :]
        assert "not in base64url" in self.refused(uri)

    def test_the_usual_base64(self) -> None:
        """A proof whose URI has characters that the usual alphabet writes otherwise."""
        uri = uri_of_proof(b"\xfb\xff" * 52)
        assert proof_from_uri(uri) == b"\xfb\xff" * 52
        assert "not in base64url" in self.refused(uri.replace("-", "+").replace("_", "/"))

    @settings(deadline=None)
    @given(st.text(min_size=139, max_size=139))
    def test_whatever_is_read_is_what_is_written(self, text: str) -> None:
        try:
            proof = proof_from_uri("signedwire:" + text)
        except DidProofError:
            return
        assert uri_of_proof(proof) == "signedwire:" + text
