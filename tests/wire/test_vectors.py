"""The vectors of the protocol, three ways: the file, the code, and the text.

`Plain…` and the functions beside it are a second implementation, written from
docs/protocol.md with nothing but BLAKE3 and Ed25519. Where code and text drift
apart, it shows here, whoever of the two has changed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import ssl
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from cryptography import x509
from nacl.bindings import crypto_core_ed25519_is_valid_point
from nacl.signing import SigningKey, VerifyKey

import make_v2_vectors
from fuzz.targets_kit import TlsOf
from signedwire.errors import DidProofError, EnvelopeError, SignatureError
from signedwire.identity import Identity
from signedwire.transport.certificates import (
    NULL_CA_PEM,
    PUBLIC_NULL_CA_KEY_NOT_SECRET,
    proven_did,
)
from signedwire.types import Did, Reason
from signedwire.wire import link_frames as frames
from signedwire.wire.batch import batch_root, path_of, root_from_path
from signedwire.wire.did_proof import check_did_proof, proof_from_uri
from signedwire.wire.envelope import SignedEnvelope, verify_batch
from signedwire.wire.receipt_proof import verify_receipt
from signedwire.wire.session import (
    BatchFailed,
    BatchReceived,
    Closed,
    ReceiptsReceived,
    Session,
    SessionLimits,
)
from signedwire.wire.session_events import CLOSE_MISSING

DOCS = Path(__file__).resolve().parents[2] / "docs"
TEXT = (DOCS / "protocol.md").read_text(encoding="utf-8")
FILE = (DOCS / "vectors" / "v2.json").read_text(encoding="utf-8")
VECTORS: dict[str, Any] = json.loads(FILE)
BATCHES = {batch["count"]: batch for batch in VECTORS["batches"]}


def test_the_file_is_what_the_script_makes() -> None:
    assert make_v2_vectors.text() == FILE


# -- the second implementation, from the text ---------------------------------------------


ALICE, BOB = SigningKey(bytes(range(32))), SigningKey(bytes(range(1, 33)))
CAROL = SigningKey(bytes(range(2, 34)))
ALICE_DID, BOB_DID = bytes(ALICE.verify_key), bytes(BOB.verify_key)
TIMESTAMP, EPOCH = 1_700_000_000_000_000, 1_600_000_000_000_000


def le(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little")


ORDER = 2**252 + 27742317777372353535851937790883648493
"""The order of the group of edwards25519."""


def signed(key: SigningKey, *parts: bytes) -> bytes:
    return bytes(key.sign(b"".join(parts)).signature)


def is_signed(did: bytes, signature: bytes, *parts: bytes) -> bool:
    VerifyKey(did).verify(b"".join(parts), signature)
    return True


def hashed(*parts: bytes) -> bytes:
    """Section 8."""
    return sha256(b"".join(parts)).digest()


def plain_body(n: int, recipient: bytes = BOB_DID, *, is_durable: bool = True) -> bytes:
    """Sections 7 and 19."""
    timestamp = TIMESTAMP + n
    body = b"\x49\x4e\x4d\x4f" + le(9, 4)
    body += le(n, 16)
    body += le(n, 8)
    body += ALICE_DID + recipient
    body += le(timestamp, 8)
    body += le(n % 3, 1) + le(n % 5, 1)
    body += le(EPOCH, 8)
    body += le(0 if n % 2 else timestamp + 60_000_000, 8)
    body += bytes((0, 0, int(is_durable), 0))
    assert len(body) == 126
    return body + bytes((7 * n + i) % 256 for i in range(n % 40))


def plain_groups(leaves: list[bytes]) -> list[bytes]:
    """Section 8."""
    groups = []
    for start in range(0, len(leaves), 16):
        part = leaves[start : start + 16]
        groups.append(hashed(b"signedwire/group/1\0", le(len(part), 1), *part))
    return groups


def plain_root(sender: bytes, count: int, groups: list[bytes]) -> bytes:
    return hashed(b"signedwire/tree/1\0", sender, le(count, 2), *groups)


def plain_path(leaves: list[bytes], index: int) -> bytes:
    """Section 8.1."""
    g = index // 16
    group = leaves[16 * g : 16 * g + 16]
    others = plain_groups(leaves)
    return b"".join(group[: index % 16] + group[index % 16 + 1 :] + others[:g] + others[g + 1 :])


def plain_root_from_path(sender: bytes, leaf: bytes, i: int, count: int, path: bytes) -> bytes:
    """Section 8.1, line by line."""
    assert 0 <= i < count <= 256
    g, k, groups = i // 16, min(16, count - 16 * (i // 16)), -(-count // 16)
    assert len(path) == 32 * ((k - 1) + (groups - 1))
    hashes = [path[at : at + 32] for at in range(0, len(path), 32)]
    leaves, hashes = hashes[: k - 1], hashes[k - 1 :]
    leaves.insert(i % 16, leaf)
    hashes.insert(g, hashed(b"signedwire/group/1\0", le(k, 1), *leaves))
    return plain_root(sender, count, hashes)


def plain_fields() -> dict[str, bytes]:
    """Section 19."""

    def special(n: int, kind: int, subject: str, flags: int = 0, reply_to: bytes = b"") -> bytes:
        body = b"\x49\x4e\x4d\x4f" + le(9, 4) + le(n, 16) + le(n, 8) + ALICE_DID + BOB_DID
        body += le(TIMESTAMP + n, 8) + le(1, 1) + le(0, 1) + le(EPOCH, 8) + le(0, 8)
        raw = subject.encode()
        return body + bytes((kind, 0, flags, len(raw))) + raw + reply_to + b"hello"

    request = special(301, 1, "arm/größe")
    leaf = hashed(request)
    return {
        "subject": special(300, 0, "arm/größe"),
        "request": request,
        "reply": special(302, 2, "", reply_to=leaf),
        "reply_with_subject": special(303, 2, "a" * 255, reply_to=leaf),
        "publication": special(304, 3, "log"),
        "durable": special(305, 0, "", flags=1),
    }


class PlainBatch:
    """The bodies 1 to `count`, signed by Alice."""

    def __init__(self, count: int) -> None:
        self.bodies = [plain_body(n) for n in range(1, count + 1)]
        self.leaves = [hashed(body) for body in self.bodies]
        self.root = plain_root(ALICE_DID, count, plain_groups(self.leaves))
        self.signature = signed(ALICE, b"signedwire/batch/1\0", self.root)

    def alone(self, index: int) -> bytes:
        """Section 8.2."""
        place = le(index, 2) + le(len(self.bodies), 2) + b"\0"
        return self.bodies[index] + plain_path(self.leaves, index) + place + self.signature


def plain_receipt(
    kind: int, *hashes: bytes, detail: int = 0, text: bytes = b"", signer: SigningKey = BOB
) -> bytes:
    """Section 5.3."""
    statement = le(kind, 1) + le(TIMESTAMP + 1_000_000, 8) + le(detail, 1)
    if kind == 4:
        statement += le(len(text), 2) + text
    statement += le(len(hashes), 2) + b"".join(hashes)
    return statement + signed(signer, b"signedwire/receipt/1\0", BOB_DID, ALICE_DID, statement)


WORDS = "at most 4 bytes — höchstens".encode()
REASONS = (
    *("expired", "not_for_us", "too_large", "inbox_full", "not_allowed", "refused", "malformed"),
    *("bad_signature", "duplicate", "unknown_subject", "clock_unknown", "rate", "role"),
    *("size_rule", "subject_rule"),
)


def plain_frame(kind: int, body: bytes) -> str:
    """Section 4."""
    return ((len(body) + 1).to_bytes(4, "big") + bytes([kind]) + body).hex()


def plain_batch(count: int, *, is_durable: bool = True) -> tuple[list[bytes], bytes]:
    """Section 5.2: the bodies 1, 4, 7, …, and the bytes of their batch."""
    bodies = [plain_body(n, is_durable=is_durable) for n in range(1, 3 * count + 1, 3)]
    return bodies, plain_joined(bodies)


def plain_joined(bodies: list[bytes]) -> bytes:
    """Section 5.2."""
    root = plain_root(ALICE_DID, len(bodies), plain_groups([hashed(body) for body in bodies]))
    signature = signed(ALICE, b"signedwire/batch/1\0", root)
    return signature + b"".join(le(len(b), 4) + b for b in bodies)


def plain_whole(stream: int, bodies: list[bytes]) -> str:
    """Section 5.2: a batch in one frame."""
    header = bytes((3, stream)) + le(len(bodies), 2) + le(sum(map(len, bodies)), 4)
    return plain_frame(0x02, header + plain_joined(bodies))


def plain_bad_batches() -> dict[str, str]:
    """Sections 5.2 and 9: envelopes of another stream."""
    durable, volatile = plain_body(1), plain_body(1, is_durable=False)
    return {
        "volatile_in_durable": plain_whole(1, [volatile]),
        "durable_in_volatile": plain_whole(5, [durable]),
        "one_volatile_of_two": plain_whole(1, [durable, volatile]),
        "one_durable_of_two": plain_whole(5, [volatile, durable]),
        "priority_in_durable": plain_whole(2, [durable]),
        "priority_in_volatile": plain_whole(6, [volatile]),
    }


def plain_parts() -> list[str]:
    """Sections 5.2 and 19."""
    bodies, batch = plain_batch(40)
    first = b"\1\1" + le(40, 2) + le(sum(map(len, bodies)), 4) + batch[:2050]
    middle, last = b"\0\1" + batch[2050:4100], b"\2\1" + batch[4100:]
    return [plain_frame(0x02, part) for part in (first, middle, last)]


def plain_stop() -> bytes:
    """Section 19: the body of `envelopes_critical`."""
    start = bytes.fromhex("494e4d4f") + le(9, 4) + le(400, 16) + le(400, 8) + ALICE_DID + BOB_DID
    return start + le(TIMESTAMP + 400, 8) + b"\3\0" + le(EPOCH, 8) + bytes(8) + b"\0\0\1\0stop"


def plain_word() -> bytes:
    """Section 19: Alice's statement in joint frames."""
    start = le(2, 1) + le(TIMESTAMP + 2_000_000, 8) + le(1, 1) + le(2, 2)
    return start + bytes(range(64))


def plain_half(recipient: bytes, sender: bytes, statement: bytes) -> bytes:
    """Section 8.3."""
    return hashed(b"signedwire/receipt/1\0", recipient, sender, statement)


def plain_joint() -> bytes:
    """Section 5.2: the body of the joint frame."""
    bodies, batch = plain_batch(2)
    root = plain_root(ALICE_DID, 2, plain_groups([hashed(body) for body in bodies]))
    half = plain_half(ALICE_DID, BOB_DID, plain_word())
    signature = signed(ALICE, b"signedwire/joint/1\0", root, half)
    start = le(19, 1) + le(1, 1) + le(2, 2) + le(sum(map(len, bodies)), 4)
    return start + le(len(plain_word()), 2) + plain_word() + signature + batch[64:]


class PlainCopies:
    """Sections 8.3 and 19."""

    def __init__(self) -> None:
        recipients = [bytes(CAROL.verify_key)] * 15 + [BOB_DID] * 2
        self.bodies = [plain_body(1 + 3 * at, to) for at, to in enumerate(recipients)]
        self.leaves = [hashed(body) for body in self.bodies]
        self.root = plain_root(ALICE_DID, 17, plain_groups(self.leaves))
        self.signature = signed(ALICE, b"signedwire/batch/1\0", self.root)

    def item(self, index: int, *, leaves: list[bytes] | None = None) -> bytes:
        leaves = self.leaves if leaves is None else leaves
        place = le(index, 1) + le(len(leaves) - 1, 1)
        return place + plain_path(leaves, index) + self.bodies[index]

    def frame(self, *items: bytes) -> str:
        start = b"\x0b\1" + le(len(items), 2) + le(sum(map(len, items)), 4)
        sized = b"".join(le(len(item), 4) + item for item in items)
        return plain_frame(0x02, start + self.signature + sized)


def plain_frames() -> dict[str, str]:
    """Section 5."""
    two = PlainBatch(2)
    numbers = (EPOCH, EPOCH + 1, EPOCH - 2, EPOCH - 1, *range(1, 9))
    hello = le(0, 8) + le(1_048_576, 4) + le(65_536, 4)
    hello += b"".join(le(number, 8) for number in numbers)
    hello += b"".join(le(4096 + n, 8) + le(8_388_608 + n, 8) for n in range(8))
    assert len(hello) == 240
    credit = b"".join(le(5120 + n, 8) + le(8_400_000 + n, 8) for n in range(8))
    reason = "an older epoch than the one known — näher".encode()
    return {
        "hello": plain_frame(0x01, le(2, 2) + le(2, 2) + hello),
        "hello_longer": plain_frame(0x01, le(2, 2) + le(3, 2) + hello + bytes(range(12))),
        "envelopes": plain_whole(1, plain_batch(2)[0]),
        "envelopes_critical": plain_whole(3, [plain_stop()]),
        "envelopes_joint": plain_frame(0x02, plain_joint()),
        "envelopes_volatile": plain_whole(5, plain_batch(2, is_durable=False)[0]),
        "receipt_accepted_batches": plain_frame(0x03, plain_receipt(1, two.root)),
        "receipt_accepted_envelopes": plain_frame(0x03, plain_receipt(2, *two.leaves, detail=1)),
        "receipt_handled_envelopes": plain_frame(0x03, plain_receipt(3, two.leaves[0], detail=1)),
        "receipt_refused_with_text": plain_frame(
            0x03, plain_receipt(4, two.leaves[1], detail=14, text=WORDS)
        ),
        "receipt_refused_unknown": plain_frame(0x03, plain_receipt(4, *two.leaves, detail=200)),
        **{
            f"receipt_refused_{reason}": plain_frame(
                0x03, plain_receipt(4, *two.leaves, detail=code)
            )
            for code, reason in enumerate(REASONS, 1)
        },
        "read": plain_frame(0x04, le(32_768, 8) + le(12_345, 4) + le(2**40 + 7, 8)),
        "credit": plain_frame(0x05, credit),
        "ping": plain_frame(0x06, le(1, 8) + le(TIMESTAMP, 8) + le(5_000_000, 8)),
        "pong": plain_frame(
            0x07,
            (le(2**64 - 1, 8) + le(TIMESTAMP, 8) + le(2**64 - 1, 8))
            + (le(TIMESTAMP + 250_000, 8) + le(0, 8))
            + (le(TIMESTAMP + 250_300, 8) + le(300, 8)),
        ),
        "close": plain_frame(0x08, le(3, 2) + le(len(reason), 2) + reason),
    }


def plain_bad_receipts() -> dict[str, str]:
    """Sections 5.3 and 12."""
    two = PlainBatch(2)
    by_alice = plain_receipt(4, *two.leaves, detail=1, signer=ALICE)
    bodies = {
        "kind_0": plain_receipt(0, two.root),
        "kind_5": plain_receipt(5, two.root),
        "committed_2": plain_receipt(1, two.root, detail=2),
        "text_of_257_bytes": plain_receipt(4, two.root, detail=1, text=b"x" * 257),
        "no_hashes": plain_receipt(2),
        "hashes_501": plain_receipt(2, *(le(number, 32) for number in range(501))),
        "signed_by_alice": by_alice,
        "cut": by_alice[:-1],
    }
    return {name: plain_frame(0x03, body) for name, body in bodies.items()}


def plain_check_alone(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Section 8.2: (body, leaf, root) of an envelope that verifies."""
    index, count = (int.from_bytes(data[at : at + 2], "little") for at in (-69, -67))
    assert index < count <= 256
    form = data[-65]
    assert form <= 1
    half, data, signature = data[-69 - 32 * form : -69], data[: -69 - 32 * form], data[-64:]
    k, groups = min(16, count - 16 * (index // 16)), -(-count // 16)
    size = 32 * (k - 1 + groups - 1)
    body, path = data[: len(data) - size], data[len(data) - size :]
    assert len(body) >= 126
    assert body[:8] == b"\x49\x4e\x4d\x4f" + le(9, 4)
    assert body[104] <= 3
    assert body[105] <= 4
    assert body[122] <= 3
    assert body[123] == 0
    assert len(body) >= 126 + body[125] + 32 * (body[122] == 2)
    subject = body[126 : 126 + body[125]].decode()
    assert subject.isprintable()
    assert normalize("NFC", subject) == subject
    leaf = hashed(body)
    root = plain_root_from_path(body[32:64], leaf, index, count, path)
    label = b"signedwire/joint/1\0" if form else b"signedwire/batch/1\0"
    assert is_signed(body[32:64], signature, label, root, half)
    return body, leaf, root


def plain_check_receipt_proof(data: bytes) -> int:
    """Section 17: the kind that is proven."""
    assert data[:8] == b"SWPROOF2"
    size = int.from_bytes(data[8:12], "little")
    body, leaf, root = plain_check_alone(data[12 : 12 + size])
    form = data[12 + size]
    assert form <= 1
    other_root, receipt = data[13 + size :][: 32 * form], data[13 + size + 32 * form :]
    statement, signature = receipt[:-64], receipt[-64:]
    start = 10
    if statement[0] == 4:
        start += 2 + int.from_bytes(statement[10:12], "little")
        assert start <= 12 + 256
    else:
        assert statement[9] <= 1
    count = int.from_bytes(statement[start : start + 2], "little")
    assert len(statement) == start + 2 + 32 * count
    hashes = [statement[at : at + 32] for at in range(start + 2, len(statement), 32)]
    assert (root if statement[0] == 1 else leaf) in hashes
    sender, recipient = body[32:64], body[64:96]
    if form:
        half = plain_half(recipient, sender, statement)
        assert is_signed(recipient, signature, b"signedwire/joint/1\0", other_root, half)
    else:
        text = b"signedwire/receipt/1\0", recipient, sender, statement
        assert is_signed(recipient, signature, *text)
    return statement[0]


# -- the file against it, and the code against the file -------------------------------------


@pytest.mark.parametrize(("name", "key"), [("alice", ALICE), ("bob", BOB), ("carol", CAROL)])
def test_keys(name: str, key: SigningKey) -> None:
    vector = VECTORS[name]
    assert vector["seed"] == bytes(key).hex()
    assert vector["did"] == bytes(key.verify_key).hex()
    assert Did.parse(vector["text"]) == Did.parse(vector["did"])


def test_did_proof() -> None:
    vector = VECTORS["did_proof"]
    spki = bytes.fromhex(vector["spki"])
    start = ALICE_DID + le(TIMESTAMP, 8)
    proof = start + signed(ALICE, b"signedwire/tls-leaf/1\0", start, spki)
    assert vector["proof"] == proof.hex()
    assert (vector["expires_at_us"], len(proof)) == (TIMESTAMP, 104)
    text = base64.b64encode(proof, b"-_").decode()
    assert vector["uri"] == "signedwire:" + text.rstrip("=")
    assert check_did_proof(proof_from_uri(vector["uri"]), spki, 0) == Did(ALICE_DID)


@pytest.mark.parametrize("name", VECTORS["bad_did_proofs"])
def test_bad_did_proofs(name: str) -> None:
    spki = bytes.fromhex(VECTORS["did_proof"]["spki"])
    proof = bytes.fromhex(VECTORS["bad_did_proofs"][name])
    assert len(proof) == 104
    with pytest.raises(DidProofError):
        check_did_proof(proof, spki, 0)


def test_how_the_did_proofs_are_bad() -> None:
    bad, spki = VECTORS["bad_did_proofs"], bytes.fromhex(VECTORS["did_proof"]["spki"])
    good = bytes.fromhex(VECTORS["did_proof"]["proof"])
    start, label = good[:40], b"signedwire/tls-leaf/1\0"
    larger = int.from_bytes(good[72:], "little") + ORDER
    assert bad["larger_s"] == (good[:72] + le(larger, 32)).hex()
    assert (
        bad["label_of_a_batch"]
        == (start + signed(ALICE, b"signedwire/batch/1\0", start, spki)).hex()
    )
    other = spki[:-1] + bytes((spki[-1] ^ 1,))
    assert bad["other_key"] == (start + signed(ALICE, label, start, other)).hex()
    assert bad["signed_by_bob"] == (start + signed(BOB, label, start, spki)).hex()
    assert bad["other_expiry"] == (good[:32] + bytes(8) + good[40:]).hex()
    # The key of the torsion vector is no key of the prime-order group, and its equation holds.
    torsion = bytes.fromhex(bad["torsion"])
    assert not crypto_core_ed25519_is_valid_point(torsion[:32])


@pytest.mark.parametrize("name", VECTORS["bad_uris"])
def test_bad_uris(name: str) -> None:
    uri = VECTORS["bad_uris"][name]
    assert uri != VECTORS["did_proof"]["uri"]
    with pytest.raises(DidProofError):
        proof_from_uri(uri)


@pytest.mark.parametrize("name", VECTORS["bad_signatures"])
def test_bad_signatures(name: str) -> None:
    good, bad = (
        bytes.fromhex(VECTORS[one][key])
        for one, key in (("frames", "envelopes"), ("bad_signatures", name))
    )
    # Only the signature differs.
    assert (good[:13], good[77:]) == (bad[:13], bad[77:])
    assert isinstance(after(BOB, bad.hex()), BatchFailed)


def test_a_critical_batch() -> None:
    event = after(BOB, VECTORS["frames"]["envelopes_critical"])
    assert isinstance(event, BatchReceived)
    (body,) = event.bodies
    assert (body[104], body[124], body[126:]) == (3, 1, b"stop")
    start = ALICE_DID + BOB_DID + le(TIMESTAMP + 400, 8)
    assert body[32:104] == start
    assert event.leaves == [hashed(body)]


def test_the_certificate() -> None:
    """Section 2.2, field by field."""
    der = bytes.fromhex(VECTORS["did_proof"]["certificate"])
    tls: Any = TlsOf(der)
    assert proven_did(tls, 0) == Did(ALICE_DID)
    made, issuer = (
        x509.load_der_x509_certificate(der),
        x509.load_pem_x509_certificate(NULL_CA_PEM.encode()),
    )
    made.verify_directly_issued_by(issuer)
    assert made.version is x509.Version.v3
    assert made.serial_number > 0
    assert made.serial_number.bit_length() <= 159
    assert made.signature_algorithm_oid == x509.SignatureAlgorithmOID.ECDSA_WITH_SHA256
    assert made.subject.rfc4514_string() == "CN=signedwire"
    assert made.subject.rfc4514_string() != made.issuer.rfc4514_string()
    for dated in (made, issuer):
        assert dated.not_valid_before_utc.isoformat() == "1970-01-01T00:00:00+00:00"
        assert dated.not_valid_after_utc.isoformat() == "9999-12-31T23:59:59+00:00"
    (name,) = made.extensions
    assert isinstance(name.value, x509.SubjectAlternativeName)
    assert not name.critical


@pytest.mark.parametrize("number", VECTORS["bodies"])
def test_bodies(number: str) -> None:
    assert VECTORS["bodies"][number] == plain_body(int(number)).hex()
    volatile = plain_body(int(number), is_durable=False).hex()
    assert VECTORS["volatile_bodies"][number] == volatile


def test_fields() -> None:
    vector, bodies = VECTORS["fields"], plain_fields()
    assert vector["bodies"] == {name: body.hex() for name, body in bodies.items()}
    leaves = [hashed(body) for body in bodies.values()]
    root = plain_root(ALICE_DID, len(leaves), plain_groups(leaves))
    assert vector["leaves"] == [leaf.hex() for leaf in leaves]
    assert vector["root"] == root.hex()
    signature = bytes.fromhex(vector["signature"])
    assert verify_batch(ALICE_DID, [*bodies.values()], signature) == (root, leaves)
    for index, name in enumerate(bodies):
        place = le(index, 2) + le(len(leaves), 2) + b"\0"
        alone = bodies[name] + plain_path(leaves, index) + place + signature
        assert plain_check_alone(alone)[0] == bodies[name]
        envelope = SignedEnvelope.decode(alone)
        envelope.verify()
        assert envelope.payload == b"hello"


@pytest.mark.parametrize("count", [1, 2, 16, 17, 255, 256])
def test_batches(count: int) -> None:
    vector, plain = BATCHES[count], PlainBatch(count)
    assert vector["leaves"] == [leaf.hex() for leaf in plain.leaves]
    assert vector["root"] == plain.root.hex()
    assert vector["signature"] == plain.signature.hex()
    assert vector["paths"]
    for key, path in vector["paths"].items():
        index, leaf = int(key), plain.leaves[int(key)]
        raw = bytes.fromhex(path)
        assert raw == plain_path(plain.leaves, index) == path_of(plain.leaves, index)
        assert plain_root_from_path(ALICE_DID, leaf, index, count, raw) == plain.root
        assert root_from_path(ALICE_DID, leaf, index, count, raw) == plain.root
    assert batch_root(ALICE_DID, plain.leaves) == plain.root
    assert verify_batch(ALICE_DID, plain.bodies, plain.signature) == (plain.root, plain.leaves)


def test_frames() -> None:
    assert VECTORS["frames"] == plain_frames()


def read(name: str) -> frames.Frame:
    ((kind, body),) = frames.LinkFrameDecoder().receive_data(bytes.fromhex(VECTORS["frames"][name]))
    frame = frames.decode(kind, body)
    assert frame is not None
    return frame


@pytest.mark.parametrize("name", sorted(set(VECTORS["frames"]) - {"hello_longer"}))
def test_frames_are_read(name: str) -> None:
    assert read(name).encode().hex() == VECTORS["frames"][name]


def test_a_longer_hello_is_read_as_if_it_were_not() -> None:
    hello = read("hello")
    assert isinstance(hello, frames.Hello)
    assert read("hello_longer") == replace(hello, max_version=3)


def test_every_reason_is_in_the_vectors() -> None:
    for reason, code in frames.REASON_CODES.items():
        refusals = read(f"receipt_refused_{reason.replace(' ', '_')}")
        assert isinstance(refusals, frames.Receipts)
        assert (refusals.reason, refusals.code, refusals.explanation) == (reason, code, "")
    unknown = read("receipt_refused_unknown")
    assert isinstance(unknown, frames.Receipts)
    assert (unknown.reason, unknown.explanation) == (Reason.REFUSED, "code 200")


def test_a_batch_in_parts() -> None:
    vector, bodies = VECTORS["batch_in_parts"], plain_batch(40)[0]
    assert vector == {"count": 40, "frames": plain_parts()}
    session = opened(is_alice=False)
    for frame in vector["frames"]:
        session.receive_data(bytes.fromhex(frame), 0.0)
    *_, received = iter(session.next_event, None)
    assert isinstance(received, BatchReceived)
    assert received.bodies == bodies


def test_copies() -> None:
    vector, plain = VECTORS["copies"], PlainCopies()
    assert vector["root"] == plain.root.hex()
    assert vector["signature"] == plain.signature.hex()
    items = [plain.item(index) for index in range(17)]
    assert vector["frames"] == {
        "carol": plain.frame(*items[:15]),
        "bob": plain.frame(*items[15:]),
    }
    for index, body in enumerate(plain.bodies):
        alone = body + items[index][2 : -len(body)] + le(index, 2) + le(17, 2) + b"\0"
        alone += plain.signature
        assert plain_check_alone(alone) == (body, plain.leaves[index], plain.root)


@pytest.mark.parametrize(("name", "key", "bodies"), [("carol", CAROL, 15), ("bob", BOB, 2)])
def test_copies_are_read(name: str, key: SigningKey, bodies: int) -> None:
    received = after(key, VECTORS["copies"]["frames"][name])
    assert isinstance(received, BatchReceived)
    assert received.root.hex() == VECTORS["copies"]["root"]
    plain = PlainCopies().bodies
    assert received.bodies == (plain[:15] if name == "carol" else plain[15:])
    assert len(received.bodies) == bodies


@pytest.mark.parametrize("name", VECTORS["bad_copies"])
def test_bad_copies(name: str) -> None:
    event = after(BOB, VECTORS["bad_copies"][name])
    if name in ("changed_path", "two_trees"):
        assert isinstance(event, BatchFailed)  # the node then closes with code 7
    else:
        assert isinstance(event, Closed)
        assert event.code == 1


def test_how_the_copies_are_bad() -> None:
    plain, bad = PlainCopies(), VECTORS["bad_copies"]
    first, second = plain.item(15), plain.item(16)
    assert bad["index_repeats"] == plain.frame(first, first)
    assert bad["indices_fall"] == plain.frame(second, first)
    assert bad["index_outside"] == plain.frame(b"\x11" + first[1:])
    assert bad["changed_path"] == plain.frame(first[:2] + le(first[2] ^ 1, 1) + first[3:], second)


def after(key: SigningKey, frame: str) -> Any:
    """The last event at the owner of `key` when it has got Alice's HELLO and this frame."""
    hello = bytes.fromhex(VECTORS["frames"]["hello"])
    alice, us = Identity.from_seed(bytes(ALICE)), Identity.from_seed(bytes(key))
    ours = frames.decode(frames.HELLO, hello[5:])
    assert isinstance(ours, frames.Hello)
    session = Session(us, alice.did, ours, SessionLimits(), 0.0, lambda: (0, 0))
    session.receive_data(hello + bytes.fromhex(frame), 0.0)
    *_, last = iter(session.next_event, None)
    return last


def opened(*, is_alice: bool) -> Session:
    """A session of Alice or Bob with the other that has read the HELLO of the vectors."""
    hello = bytes.fromhex(VECTORS["frames"]["hello"])
    alice, bob = Identity.from_seed(bytes(ALICE)), Identity.from_seed(bytes(BOB))
    us, them = (alice, bob) if is_alice else (bob, alice)
    ours = frames.decode(frames.HELLO, hello[5:])
    assert isinstance(ours, frames.Hello)
    session = Session(us, them.did, ours, SessionLimits(), 0.0, lambda: (1, 0))
    session.receive_data(hello, 0.0)
    return session


@pytest.mark.parametrize("is_durable", [True, False])
def test_a_batch_of_each_kind(is_durable: bool) -> None:
    session = opened(is_alice=False)
    name = "envelopes" if is_durable else "envelopes_volatile"
    session.receive_data(bytes.fromhex(VECTORS["frames"][name]), 0.0)
    *_, received = iter(session.next_event, None)
    assert isinstance(received, BatchReceived)
    assert received.bodies == plain_batch(2, is_durable=is_durable)[0]


def test_bad_batches() -> None:
    assert VECTORS["bad_batches"] == plain_bad_batches()


@pytest.mark.parametrize("name", VECTORS["bad_batches"])
def test_bad_batches_close_the_link(name: str) -> None:
    session = opened(is_alice=False)
    session.receive_data(bytes.fromhex(VECTORS["bad_batches"][name]), 0.0)
    *_, closed = iter(session.next_event, None)
    assert isinstance(closed, Closed)
    assert closed.code == 1
    assert "in stream" in closed.cause


def test_bad_receipts() -> None:
    assert VECTORS["bad_receipts"] == plain_bad_receipts()


@pytest.mark.parametrize("name", VECTORS["bad_receipts"])
def test_bad_receipts_close_the_link(name: str) -> None:
    session = opened(is_alice=True)
    session.receive_data(bytes.fromhex(VECTORS["bad_receipts"][name]), 0.0)
    *_, closed = iter(session.next_event, None)
    assert isinstance(closed, Closed)
    assert closed.code == (7 if name == "signed_by_alice" else 1)


@pytest.mark.parametrize("code", ["1", "7"])
def test_bad_joint_frames(code: str) -> None:
    hello = bytes.fromhex(VECTORS["frames"]["hello"])
    alice, bob = Identity.from_seed(bytes(ALICE)), Identity.from_seed(bytes(BOB))
    ours = frames.decode(frames.HELLO, hello[5:])
    assert isinstance(ours, frames.Hello)
    assert len(VECTORS["bad_joint"][code]) == 9
    for name, frame in (*VECTORS["bad_joint"][code].items(), ("good", "")):
        session = Session(bob, alice.did, ours, SessionLimits(), 0.0, lambda: (1, 0))
        data = bytes.fromhex(frame or VECTORS["frames"]["envelopes_joint"])
        session.receive_data(hello + data, 0.0)
        _, *found = iter(session.next_event, None)
        if not frame:
            assert [type(event) for event in found] == [ReceiptsReceived, BatchReceived]
            continue
        (last,) = found
        # A driver refuses the envelopes of a batch that has failed, and closes with code 7.
        kind = Closed if code == "1" else BatchFailed
        assert isinstance(last, kind), name
        if isinstance(last, Closed):
            assert last.code == 1


def test_joint_proofs() -> None:
    bodies, batch = plain_batch(2)
    leaves = [hashed(body) for body in bodies]
    root = plain_root(ALICE_DID, 2, plain_groups(leaves))
    place = le(1, 2) + le(2, 2)
    half = plain_half(ALICE_DID, BOB_DID, plain_word())
    signature = signed(ALICE, b"signedwire/joint/1\0", root, half)
    plain = bodies[1] + leaves[0] + place + b"\0" + batch[:64]
    joint = bodies[1] + leaves[0] + half + place + b"\1" + signature
    receipt, other = plain_receipt(1, root), bytes(range(64, 96))
    bobs = plain_half(BOB_DID, ALICE_DID, receipt[:-64])
    joint_receipt = receipt[:-64] + signed(BOB, b"signedwire/joint/1\0", other, bobs)
    expected = {
        "envelope_joint": (joint, b"\0" + receipt),
        "receipt_joint": (plain, b"\1" + other + joint_receipt),
        "both_joint": (joint, b"\1" + other + joint_receipt),
    }
    assert VECTORS["joint_proofs"] == {
        name: (b"SWPROOF2" + le(len(envelope), 4) + envelope + rest).hex()
        for name, (envelope, rest) in expected.items()
    }
    for data in map(bytes.fromhex, VECTORS["joint_proofs"].values()):
        assert plain_check_receipt_proof(data) == 1
        assert verify_receipt(data).envelope.body == bodies[1]


@pytest.mark.parametrize("name", VECTORS["bad_joint_proofs"])
def test_bad_joint_proofs(name: str) -> None:
    with pytest.raises((SignatureError, EnvelopeError)):
        verify_receipt(bytes.fromhex(VECTORS["bad_joint_proofs"][name]))


def test_an_envelope_that_stands_alone() -> None:
    vector, plain = VECTORS["envelope"], PlainBatch(17)
    data = bytes.fromhex(vector["alone"])
    assert (vector["count"], vector["index"]) == (17, 3)
    assert data == plain.alone(3)
    assert plain_check_alone(data) == (plain.bodies[3], plain.leaves[3], plain.root)
    envelope = SignedEnvelope.decode(data)
    envelope.verify()
    assert envelope.encode() == data


@pytest.mark.parametrize(("name", "kind"), [("accepted", 1), ("handled", 3), ("refused", 4)])
def test_receipt_proofs(name: str, kind: int) -> None:
    data, plain = bytes.fromhex(VECTORS["receipt_proofs"][name]), PlainBatch(17)
    receipt = {
        1: plain_receipt(1, plain.root),
        3: plain_receipt(3, *plain.leaves[:4], detail=1),
        4: plain_receipt(4, *plain.leaves[2:4], detail=6, text=WORDS),
    }[kind]
    envelope = plain.alone(3)
    assert data == b"SWPROOF2" + le(len(envelope), 4) + envelope + b"\0" + receipt
    assert plain_check_receipt_proof(data) == kind
    proven = verify_receipt(data)
    assert proven.is_handled == (kind == 3)
    assert proven.is_refused == (kind == 4)
    assert proven.is_committed == (kind == 3)
    assert proven.at_us == TIMESTAMP + 1_000_000
    expected = (Reason.REFUSED, WORDS.decode()) if kind == 4 else (None, "")
    assert (proven.reason, proven.detail) == expected


@pytest.mark.parametrize("name", ["signed_by_alice", "of_another"])
def test_bad_receipt_proofs(name: str) -> None:
    data, plain = bytes.fromhex(VECTORS["bad_receipt_proofs"][name]), PlainBatch(17)
    at = 3 if name == "signed_by_alice" else 4
    receipt = (
        plain_receipt(4, *plain.leaves[2:4], detail=6, signer=ALICE)
        if at == 3
        else plain_receipt(4, *plain.leaves[2:4], detail=6, text=WORDS)
    )
    envelope = plain.alone(at)
    assert data == b"SWPROOF2" + le(len(envelope), 4) + envelope + b"\0" + receipt
    with pytest.raises(SignatureError):
        verify_receipt(data)


# -- the tables of the text against the code --------------------------------------------------


def table(heading: str, pattern: str) -> list[tuple[str, ...]]:
    """Return the matches of `pattern` in the rows under a heading."""
    _, _, rest = TEXT.partition(f"\n{heading}\n")
    assert rest, f"protocol.md has no {heading!r}"
    section = rest.partition("\n## ")[0].partition("\n### ")[0]
    return [match.groups() for match in re.finditer(pattern, section, re.MULTILINE)]


class TestText:
    def test_frame_types(self) -> None:
        rows = table("## 4. Frames", r"^\| `0x(\w\w)` \| (\w+) \|")
        named = {name: int(number, 16) for number, name in rows}
        assert named == {
            name: getattr(frames, name)
            for name in (
                *("HELLO", "ENVELOPES", "RECEIPT", "READ"),
                *("CREDIT", "PING", "PONG", "CLOSE"),
            )
        }

    def test_reasons(self) -> None:
        rows = table("### 5.4 Reasons of a refusal", r"^\| (\d+) ([a-z ]+) \|")
        assert {name: int(code) for code, name in rows} == {
            str(reason): code for reason, code in frames.REASON_CODES.items()
        }

    def test_close_codes(self) -> None:
        codes = [int(code) for (code,) in table("## 14. The end", r"^\| (\d+) \|")]
        known = [value for name, value in vars(frames).items() if name.startswith("CLOSE_")]
        assert codes == sorted(known)

    def test_orderly_ends(self) -> None:
        (named,) = table("## 14. The end", r"^([\d, ]+) and (\d) are \*\*orderly\*\*")
        orderly = {int(code) for code in re.findall(r"\d", "".join(named))}
        for code in (CLOSE_MISSING, *range(10)):
            assert Closed(code, "", is_by_peer=True).is_orderly == (code in orderly), code

    def test_hello(self) -> None:
        sizes = {"u16": 2, "u32": 4, "u64": 8, "8 × u64": 64, "8 × (u64, u64)": 128}
        kinds = "|".join(map(re.escape, sizes))
        rows = table("### 5.1 HELLO, at least 244 bytes", rf"^\| (\d+) \| ({kinds}) ")
        position = 0
        for offset, kind in rows:
            assert int(offset) == position
            position += sizes[kind]
        assert position == 244
        assert frames.MAX_EPOCH == 2**63 - 1
        assert TEXT.count("to 2⁶³−1 |") == 4
        assert frames.LEAST_MAX_BATCH_BYTES == 1024
        assert "| 16 | u32 max_batch_bytes | at least 1024 |" in TEXT

    @pytest.mark.parametrize(
        ("heading", "end"),
        [("## 7. Envelopes", 126), ("## 3. The DID proof", 104)],
    )
    def test_offsets_have_no_gaps(self, heading: str, end: int) -> None:
        position = 0
        for offset, size in table(heading, r"^\| (\d+) \| (\d+) \|"):
            assert int(offset) == position
            position += int(size)
        assert position == end

    def test_the_labels_are_all_that_is_signed(self) -> None:
        labels = set(re.findall(r'"(signedwire/[\w-]+/1)\\0"', TEXT))
        used = ("tls-leaf", "batch", "receipt", "joint", "group", "tree")
        reserved = ("charter", "succession", "relay-key", "seal-key")
        assert labels == {f"signedwire/{name}/1" for name in (*used, *reserved)}

    def test_the_null_ca(self) -> None:
        (pem,) = re.findall(r"-----BEGIN CERT.*?-----END CERTIFICATE-----\n", TEXT, re.DOTALL)
        assert pem == NULL_CA_PEM
        digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
        assert f"`{digest}`" in TEXT
        secret = b"signedwire null CA: proves none."
        assert f"`{secret.decode()}`" in TEXT
        assert secret == PUBLIC_NULL_CA_KEY_NOT_SECRET
        order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
        assert f"`{int.from_bytes(secret, 'big') % (order - 1) + 1:064x}`" in TEXT

    def test_the_uri_of_a_proof(self) -> None:
        (characters,) = re.findall(r"URI of (\d+) ASCII characters", TEXT)
        (start,) = re.findall(r"Its DER is `([0-9A-F ]+)` ‖ the URI", TEXT)
        uri = VECTORS["did_proof"]["uri"]
        assert len(uri) == int(characters)
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
        assert names.public_bytes() == bytes.fromhex(start) + uri.encode()

    def test_limits(self) -> None:
        assert frames.MAX_FRAME_SIZE == 16_384
        assert (frames.MAX_RECEIPT_HASHES, frames.MAX_REFUSAL_TEXT) == (500, 256)
        assert frames.MAX_CLOSE_REASON == 256
        for row in (
            "| frame, with its length and type | 16 384 bytes |",
            "| envelopes in a batch | 256 |",
            "| hashes in a RECEIPT | 500 |",
            "| text of a refusal | 256 bytes |",
            "| text of a CLOSE | 256 bytes |",
        ):
            assert row in TEXT
