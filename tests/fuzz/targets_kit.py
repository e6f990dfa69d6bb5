"""Keys, signed things and a TLS object that the targets of the v2 wire share."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from signedwire.identity import Identity, Label
from signedwire.transport.certificates import ALPN
from signedwire.types import Priority
from signedwire.wire.batch import batch_root, leaves_of
from signedwire.wire.envelope import MerklePath, SignedEnvelope, sign_batch
from signedwire.wire.header import V2_START, encode_v2_common, pack_v2_start
from signedwire.wire.joint import receipt_hash, sign_joint
from signedwire.wire.link_frames import REFUSED_ENVELOPES, Receipts
from signedwire.wire.receipt_proof import encode_receipt_proof
from signedwire.wire.sent_batch import SentBatch

__all__ = [
    "ALICE",
    "ALONE",
    "BATCHES",
    "BOB",
    "JOINT",
    "RECEIPT_PROOFS",
    "TlsOf",
    "body",
    "sign",
    "sign_jointly",
    "signed_receipts",
]

ALICE: Final = Identity.from_seed(bytes(range(32)))
BOB: Final = Identity.from_seed(bytes(range(1, 33)))


class TlsOf:
    """The part of an `ssl.SSLObject` that `proven_did()` reads, after a handshake.

    Args:
        chain: The certificates of the peer, its own one first.
    """

    session_reused = False

    def __init__(self, *chain: bytes) -> None:
        self._chain = list(chain)

    def version(self) -> str:
        return "TLSv1.3"

    def selected_alpn_protocol(self) -> str:
        return ALPN

    def get_unverified_chain(self) -> list[bytes]:
        return self._chain


def body(
    sequence: int = 1,
    payload: bytes = b"hello",
    *,
    sender: Identity = ALICE,
    recipient: Identity = BOB,
    priority: int = Priority.NORMAL,
    expires_at_us: int = 0,
    is_durable: bool = True,
) -> bytes:
    """Header and payload of a v2 envelope."""
    common = encode_v2_common(
        bytes(sender.did) + bytes(recipient.did),
        timestamp_us=1_795_344_395_825_430,
        priority=priority,
        payload_type=sequence % 5,
        epoch=9,
        expires_at_us=expires_at_us,
        is_durable=is_durable,
    )
    return pack_v2_start(V2_START, sequence.to_bytes(16, "little"), sequence) + common + payload


def sign(bodies: list[bytes], signer: Identity = ALICE) -> SentBatch:
    """A signed batch, as a session makes it."""
    root, signature, leaves = sign_batch(signer, bodies)
    return SentBatch(root, leaves, signature)


def signed_receipts(
    kind: int, hashes: tuple[bytes, ...], recipient: Identity = BOB, sender: Identity = ALICE
) -> Receipts:
    """What `recipient` signs about envelopes of `sender`."""
    is_refusal = kind == REFUSED_ENVELOPES
    plain = Receipts(
        kind, 1_795_344_395_900_000, hashes, code=1, text=b"late\n" if is_refusal else b""
    )
    text = bytes(recipient.did) + bytes(sender.did) + plain.statement
    return replace(plain, signature=recipient._sign_labelled(Label.RECEIPT, text))


BATCHES: Final = [
    [body(1)],
    [body(n, bytes(n)) for n in range(2, 5)],
    [body(n, b"x" * (n % 3)) for n in range(5, 23)],
    [body(n, bytes(1400)) for n in (1, 2)],
    [body(1, b"stop", priority=Priority.CRITICAL, expires_at_us=2**63)],
]
"""Header and payload of envelopes from Alice to Bob, as they are signed together."""

_SENT: Final = [sign(bodies) for bodies in BATCHES]


def sign_jointly(
    bodies: list[bytes], receipts: Receipts, signer: Identity = ALICE, peer: Identity = BOB
) -> tuple[SentBatch, Receipts]:
    """A batch of `signer`, and a receipt about envelopes of `peer`, under one signature."""
    leaves = leaves_of(bodies)
    root = batch_root(bytes(signer.did), leaves)
    parties = bytes(signer.did) + bytes(peer.did)
    signature = sign_joint(signer, root, receipt_hash(parties, receipts.statement))
    joined = replace(receipts, signature=signature[32:], root=root)
    return SentBatch(root, leaves, signature), joined


JOINT: Final = [
    sign_jointly(bodies, signed_receipts(kind, (bytes((kind,)) * 32,), ALICE, BOB))
    for kind, bodies in enumerate(BATCHES[:4], 1)
]
"""The first batches, each with a receipt of another kind."""


def _alone() -> list[bytes]:
    joint = zip(BATCHES[:4], (sent for sent, _ in JOINT), strict=True)
    return [
        SignedEnvelope(
            bodies[index],
            MerklePath(index, len(bodies), sent.signature, leaves=sent.leaves),
        ).encode()
        for bodies, sent in (*zip(BATCHES, _SENT, strict=True), *joint)
        for index in sorted({0, len(bodies) // 2, len(bodies) - 1})
    ]


ALONE: Final = frozenset(_alone())
"""Envelopes of those batches as they stand alone."""


def _proofs() -> list[bytes]:
    found = []
    for bodies, sent in zip(BATCHES, _SENT, strict=True):
        index = len(bodies) - 1
        for kind, hashes in (
            (1, (sent.root,)),
            (2, tuple(sent.leaves)),
            (3, (sent.leaves[index], bytes(32))),
            (4, tuple(sent.leaves)),
        ):
            receipt = signed_receipts(kind, hashes)
            found.append(encode_receipt_proof(bodies[index], sent, index, receipt.proof))
    for bodies, (sent, _) in zip(BATCHES[:4], JOINT, strict=True):
        # Bob's receipt, which left together with a batch of his.
        _, receipt = sign_jointly([body(1)], signed_receipts(1, (sent.root,)), BOB, ALICE)
        found.append(encode_receipt_proof(bodies[0], sent, 0, receipt.proof))
    return found


RECEIPT_PROOFS: Final = frozenset(_proofs())
"""Proofs of delivery for envelopes of those batches."""
