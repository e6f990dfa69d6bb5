"""Write docs/vectors/v2.json: `python tests/make_v2_vectors.py`, with src on the path.

The keys and all fields are fixed (docs/protocol.md, section 19), so that the same
code gives the same file. A change of the file is a change of the protocol.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from bodykit import encode_v2_body
from signedwire.identity import Identity, Label
from signedwire.types import Credit, Kind
from signedwire.wire.batch import leaf_of, path_of
from signedwire.wire.clock_offset import Stamp
from signedwire.wire.did_proof import make_did_proof, uri_of_proof
from signedwire.wire.envelope import MerklePath, SignedEnvelope, sign_batch
from signedwire.wire.header import STREAMS
from signedwire.wire.joint import receipt_hash, sign_joint
from signedwire.wire.link_frames import (
    ACCEPTED_BATCHES,
    ACCEPTED_ENVELOPES,
    COPIES,
    ENVELOPES,
    FIRST,
    HANDLED_ENVELOPES,
    JOINT,
    LAST,
    REASON_CODES,
    RECEIPT,
    REFUSED_ENVELOPES,
    Close,
    CreditFrame,
    Epochs,
    Hello,
    Part,
    Ping,
    Pong,
    Read,
    Receipts,
)
from signedwire.wire.receipt_proof import encode_receipt_proof
from signedwire.wire.sent_batch import SentBatch, SentCopies, sign_copies
from tlskit import torsion_did_proof

REFUSAL_TEXT: Final = "at most 4 bytes — höchstens".encode()
LATER_FIELDS: Final = bytes(range(12))
"""Behind the HELLO of a later version."""
IN_PARTS: Final = 40
"""Envelopes of the batch that has several parts."""
IN_COPIES: Final = 17
"""Leaves of the tree of copies."""
PART: Final = 2050
"""Bytes of that batch in each part but the last."""
FILE: Final = Path(__file__).resolve().parents[1] / "docs" / "vectors" / "v2.json"

ALICE: Final = Identity.from_seed(bytes(range(32)))
BOB: Final = Identity.from_seed(bytes(range(1, 33)))
CAROL: Final = Identity.from_seed(bytes(range(2, 34)))
TIME_US: Final = 1_700_000_000_000_000
EPOCH: Final = 1_600_000_000_000_000
SIZES: Final = (1, 2, 16, 17, 255, 256)
PATHS: Final = {1: (0,), 2: (0, 1), 16: (5,), 17: (3, 16), 255: (0, 254), 256: (17, 255)}

# Of the null CA's key: any SubjectPublicKeyInfo would do.
SPKI: Final = bytes.fromhex(
    "3059301306072a8648ce3d020106082a8648ce3d03010703420004"
    "2c8f88bf786079e4d15934b876f437e4a872507c7304ab7215716fcf64f4da80"
    "fc39aa837884debf854c2aa7fcf9717b83c6f0d951a498e8b80b41b982408816"
)
DID_PROOF: Final = make_did_proof(ALICE, SPKI, TIME_US)
ORDER: Final = 2**252 + 27742317777372353535851937790883648493
"""The order of the group of edwards25519."""

# Made once by `issue_certificate()`: its serial number and signature are random.
CERTIFICATE: Final = bytes.fromhex(
    "308201e130820187a00302010202141df4c365b430614ebfd2ff0edc0201fbbeb232fe300a06082a8648ce3d04"
    "0302301d311b301906035504030c127369676e656477697265206e756c6c2043413020170d3730303130313030"
    "303030305a180f39393939313233313233353935395a30153113301106035504030c0a7369676e656477697265"
    "3059301306072a8648ce3d020106082a8648ce3d030107034200042c8f88bf786079e4d15934b876f437e4a872"
    "507c7304ab7215716fcf64f4da80fc39aa837884debf854c2aa7fcf9717b83c6f0d951a498e8b80b41b9824088"
    "16a381aa3081a73081a40603551d1104819c3081998681967369676e6564776972653a41364548765f504f454c"
    "3464634e3059353076416d57666b316a436270513166486479475a424a564d626741514234594a416f47414568"
    "497433477a712d6e47343836447a556f784e4a7933535f376a41586d6150652d7141785579487262416a493251"
    "666e4d476b5559556d776e616a526a70506b734b64324869496866776f78594d7661573775416b300a06082a86"
    "48ce3d0403020348003045022068d6b8176ebbc29597beeae0fb853aff8eb4abef46812ae8e2748a81da4f53b8"
    "0221008c9b7ab3c497ed10be886d6a8fb33c690726b15c3f1e17b3d4f2748d83fdf551"
)


def body(number: int, recipient: Identity = BOB, *, is_durable: bool = True) -> bytes:
    """The `number`th body of every batch."""
    timestamp_us = TIME_US + number
    return encode_v2_body(
        bytes(ALICE.did) + bytes(recipient.did),
        bytes((7 * number + i) % 256 for i in range(number % 40)),
        number.to_bytes(16, "little"),
        number,
        timestamp_us,
        number % 3,
        number % 5,
        EPOCH,
        0 if number % 2 else timestamp_us + 60_000_000,
        is_durable=is_durable,
    )


def fields() -> dict[str, bytes]:
    """Bodies with the fields that no body of a batch above has."""
    request = special(301, Kind.REQUEST, "arm/größe")
    return {
        "subject": special(300, Kind.MESSAGE, "arm/größe"),
        "request": request,
        "reply": special(302, Kind.REPLY, "", leaf_of(request)),
        "reply_with_subject": special(303, Kind.REPLY, "a" * 255, leaf_of(request)),
        "publication": special(304, Kind.PUBLICATION, "log"),
        "durable": special(305, Kind.MESSAGE, "", is_durable=True),
    }


def special(
    number: int, kind: Kind, subject: str, reply_to: bytes = b"", *, is_durable: bool = False
) -> bytes:
    """A body with a kind, a subject, and the payload `hello`."""
    return encode_v2_body(
        bytes(ALICE.did) + bytes(BOB.did),
        b"hello",
        number.to_bytes(16, "little"),
        number,
        TIME_US + number,
        1,
        0,
        EPOCH,
        0,
        kind,
        subject.encode(),
        reply_to,
        is_durable=is_durable,
    )


def fields_vector() -> dict[str, Any]:
    """The bodies of `fields()` as one batch."""
    bodies = list(fields().values())
    root, signature, leaves = sign_batch(ALICE, bodies)
    return {
        "bodies": {name: one.hex() for name, one in fields().items()},
        "leaves": [leaf.hex() for leaf in leaves],
        "root": root.hex(),
        "signature": signature.hex(),
    }


def sent(count: int) -> tuple[list[bytes], SentBatch]:
    """The batch of the bodies 1 to `count`."""
    bodies = [body(number) for number in range(1, count + 1)]
    root, signature, leaves = sign_batch(ALICE, bodies)
    return bodies, SentBatch(root, leaves, signature)


def receipt(
    kind: int, *hashes: bytes, detail: int = 0, text: bytes = b"", signer: Identity = BOB
) -> Receipts:
    """Bob's word about what Alice sent."""
    plain = Receipts(kind, TIME_US + 1_000_000, hashes, code=detail, text=text)
    signed = bytes(BOB.did) + bytes(ALICE.did) + plain.statement
    return replace(plain, signature=signer._sign_labelled(Label.RECEIPT, signed))


def batch_vector(count: int) -> dict[str, Any]:
    """A batch, and some of its paths."""
    _, batch = sent(count)
    return {
        "count": count,
        "leaves": [leaf.hex() for leaf in batch.leaves],
        "root": batch.root.hex(),
        "signature": batch.signature.hex(),
        "paths": {str(index): path_of(batch.leaves, index).hex() for index in PATHS[count]},
    }


def longer(hello: Hello, more: bytes) -> bytes:
    """The frame of a HELLO with `more` behind it."""
    frame = hello.encode()
    return (len(frame) - 4 + len(more)).to_bytes(4, "big") + frame[4:] + more


def frame_vectors() -> dict[str, str]:
    """One of each frame, whole."""
    bodies, joined = of_one_stream(2)
    volatile, joined_volatile = of_one_stream(2, is_durable=False)
    _, batch = sent(2)
    hello = Hello(
        min_version=2,
        max_version=2,
        features=0,
        max_batch_bytes=65_536,
        max_payload_size=1_048_576,
        epochs=Epochs(EPOCH, EPOCH + 1),
        known_epochs=Epochs(EPOCH - 2, EPOCH - 1),
        marks=(1, 2, 3, 4, 5, 6, 7, 8),
        credit=tuple(Credit(4096 + stream, 8_388_608 + stream) for stream in range(STREAMS)),
    )
    stop = encode_v2_body(
        bytes(ALICE.did) + bytes(BOB.did),
        b"stop",
        (400).to_bytes(16, "little"),
        400,
        TIME_US + 400,
        3,
        0,
        EPOCH,
        0,
        is_durable=True,
    )
    critical = stop, joined_of([stop])
    every: dict[str, Any] = {
        "hello": hello,
        "envelopes": Part(FIRST | LAST, 1, joined, 2, sum(map(len, bodies))),
        "envelopes_joint": joint_part(),
        "envelopes_critical": Part(FIRST | LAST, 3, critical[1], 1, len(critical[0])),
        "envelopes_volatile": Part(FIRST | LAST, 5, joined_volatile, 2, sum(map(len, volatile))),
        "receipt_accepted_batches": receipt(ACCEPTED_BATCHES, batch.root),
        "receipt_accepted_envelopes": receipt(ACCEPTED_ENVELOPES, *batch.leaves, detail=1),
        "receipt_handled_envelopes": receipt(HANDLED_ENVELOPES, batch.leaves[0], detail=1),
        "receipt_refused_with_text": receipt(
            REFUSED_ENVELOPES, batch.leaves[1], detail=14, text=REFUSAL_TEXT
        ),
        "receipt_refused_unknown": receipt(REFUSED_ENVELOPES, *batch.leaves, detail=200),
        "read": Read(32_768, 12_345, 2**40 + 7),
        "credit": CreditFrame(
            tuple(Credit(5120 + stream, 8_400_000 + stream) for stream in range(STREAMS))
        ),
        "ping": Ping(1, Stamp(TIME_US, 5_000_000)),
        "pong": Pong(
            Ping(2**64 - 1, Stamp(TIME_US, 2**64 - 1)),
            Stamp(TIME_US + 250_000, 0),
            Stamp(TIME_US + 250_300, 300),
        ),
        "close": Close(3, "an older epoch than the one known — näher"),
    }
    vectors = {name: frame.encode().hex() for name, frame in every.items()}
    for reason, code in REASON_CODES.items():
        frame = receipt(REFUSED_ENVELOPES, *batch.leaves, detail=code)
        vectors[f"receipt_refused_{reason.replace(' ', '_')}"] = frame.encode().hex()
    vectors["hello_longer"] = longer(replace(hello, max_version=3), LATER_FIELDS).hex()
    return vectors


def of_one_stream(count: int, *, is_durable: bool = True) -> tuple[list[bytes], bytes]:
    """The bodies 1, 4, 7, …, which have priority 1, and the bytes of their batch."""
    bodies = [body(number, is_durable=is_durable) for number in range(1, 3 * count + 1, 3)]
    return bodies, joined_of(bodies)


def joined_of(bodies: list[bytes]) -> bytes:
    """The bytes of a batch of these."""
    _, signature, _ = sign_batch(ALICE, bodies)
    sized = (len(each).to_bytes(4, "little") + each for each in bodies)
    return signature + b"".join(sized)


def batch_in_parts() -> dict[str, Any]:
    """A batch in three parts, the shortest of which is the last."""
    bodies, joined = of_one_stream(IN_PARTS)
    parts = (
        Part(FIRST, 1, joined[:PART], len(bodies), sum(map(len, bodies))),
        Part(0, 1, joined[PART : 2 * PART]),
        Part(LAST, 1, joined[2 * PART :]),
    )
    return {"count": IN_PARTS, "frames": [part.encode().hex() for part in parts]}


WORD: Final = Receipts(
    ACCEPTED_ENVELOPES,
    TIME_US + 2_000_000,
    (bytes(range(32)), bytes(range(32, 64))),
    code=1,
)
"""Alice's word about what Bob sent, for joint frames."""
ALICE_TO_BOB: Final = bytes(ALICE.did) + bytes(BOB.did)
OTHER_ROOT: Final = bytes(range(64, 96))
"""The root under the joint signatures of the receipts in receipt proofs."""


def joint_signature(
    *,
    label: Label = Label.JOINT,
    signer: Identity = ALICE,
    parties: bytes = ALICE_TO_BOB,
    is_swapped: bool = False,
) -> bytes:
    """The signature of the joint frame, without the receipt hash."""
    root = sign_batch(ALICE, of_one_stream(2)[0])[0]
    halves = root, receipt_hash(parties, WORD.statement)
    return signer._sign_labelled(label, b"".join(halves[::-1] if is_swapped else halves))


def joint_part(
    word: Receipts = WORD,
    signature: bytes = b"",
    change: Callable[[bytes], bytes] = lambda batch: batch,
) -> Part:
    """Alice's batch of `envelopes` and her word, under one signature."""
    bodies, batch = of_one_stream(2)
    batch = change((signature or joint_signature()) + batch[64:])
    return Part(FIRST | LAST | JOINT, 1, batch, 2, sum(map(len, bodies)), word)


def bad_joint() -> dict[str, dict[str, str]]:
    """Joint frames that are refused, by the code of the CLOSE."""
    good = joint_part().encode()
    size = len(WORD.statement)
    text = ALICE_TO_BOB + WORD.statement

    def framed(body: bytes) -> str:
        return ((len(body) + 1).to_bytes(4, "big") + bytes((ENVELOPES,)) + body).hex()

    def flags(value: int) -> str:
        return framed(bytes((value,)) + good[6:])

    def sized(change: int) -> str:
        return framed(good[5:13] + (size + change).to_bytes(2, "little") + good[15:])

    failing = {
        "halves_swapped": joint_part(signature=joint_signature(is_swapped=True)),
        "label_of_a_batch": joint_part(signature=joint_signature(label=Label.BATCH)),
        "label_of_a_receipt": joint_part(signature=joint_signature(label=Label.RECEIPT)),
        "signed_by_bob": joint_part(signature=joint_signature(signer=BOB)),
        "statement_of_bob": joint_part(
            signature=joint_signature(parties=bytes(BOB.did) + bytes(ALICE.did))
        ),
        "statement_altered": joint_part(replace(WORD, at_us=WORD.at_us + 1)),
        "batch_altered": joint_part(change=lambda batch: batch[:-1] + b"!"),
        "signature_of_the_batch": joint_part(signature=of_one_stream(2)[1][:64]),
        "signature_of_the_receipt": joint_part(signature=ALICE._sign_labelled(Label.RECEIPT, text)),
    }
    return {
        "1": {
            **{f"flags_{value}": flags(value) for value in (16, 17, 18, 23, 27)},
            "statement_shorter": sized(-1),
            "statement_longer": sized(1),
            "kind_5": joint_part(replace(WORD, kind=5)).encode().hex(),
            "no_hashes": joint_part(replace(WORD, hashes=())).encode().hex(),
        },
        "7": {name: part.encode().hex() for name, part in failing.items()},
    }


def joint_proofs() -> dict[str, str]:
    """Receipt proofs of the body 4 in the batch of `envelopes`; one or both are joint."""
    bodies, batch = of_one_stream(2)
    root, _, leaves = sign_batch(ALICE, bodies)
    plain = SentBatch(root, leaves, batch[:64])
    half = receipt_hash(ALICE_TO_BOB, WORD.statement)
    joined = SentBatch(root, leaves, half + joint_signature())
    word = receipt(ACCEPTED_BATCHES, root)
    bobs = receipt_hash(bytes(BOB.did) + bytes(ALICE.did), word.statement)
    signature = sign_joint(BOB, OTHER_ROOT, bobs)[32:]
    joint_word = replace(word, signature=signature, root=OTHER_ROOT)
    return {
        name: encode_receipt_proof(bodies[1], sent_batch, 1, one.proof).hex()
        for name, sent_batch, one in (
            ("envelope_joint", joined, word),
            ("receipt_joint", plain, joint_word),
            ("both_joint", joined, joint_word),
        )
    }


def bad_joint_proofs() -> dict[str, str]:
    """Proofs whose other half is not the one that was signed, or whose form is another."""
    good = bytes.fromhex(joint_proofs()["both_joint"])
    at = 12 + int.from_bytes(good[8:12], "little")
    changes = {
        "other_receipt_hash": (at - 101, good[at - 101] ^ 1),
        "other_root": (at + 1, good[at + 1] ^ 1),
        "envelope_form_0": (at - 65, 0),
        "envelope_form_2": (at - 65, 2),
        "receipt_form_0": (at, 0),
        "receipt_form_2": (at, 2),
    }
    return {
        name: (good[:place] + bytes((value,)) + good[place + 1 :]).hex()
        for name, (place, value) in changes.items()
    }


def copies() -> tuple[list[bytes], list[SentCopies]]:
    """Bob's two bodies of the tree of copies, and the shares of Carol and Bob."""
    numbers = range(1, 3 * IN_COPIES + 1, 3)
    carol = [body(number, CAROL) for number in numbers[:-2]]
    bob = [body(number) for number in numbers[-2:]]
    return bob, sign_copies(ALICE, [carol, bob])


def copies_frame(signature: bytes, items: list[bytes]) -> str:
    """The frame of these items, whole."""
    joined = signature + b"".join(len(item).to_bytes(4, "little") + item for item in items)
    part = Part(FIRST | LAST | COPIES, 1, joined, len(items), sum(map(len, items)))
    return part.encode().hex()


def copies_vector() -> dict[str, Any]:
    """One tree for two recipients, and the frame for each."""
    bob, (for_carol, for_bob) = copies()
    carol = [body(number, CAROL) for number in range(1, 3 * (IN_COPIES - 2) + 1, 3)]
    return {
        "root": for_bob.root.hex(),
        "signature": for_bob.signature.hex(),
        "frames": {
            "carol": copies_frame(for_carol.signature, for_carol.items(carol)),
            "bob": copies_frame(for_bob.signature, for_bob.items(bob)),
        },
    }


def bad_copies() -> dict[str, str]:
    """Frames to Bob for which he closes the link."""
    bob, (_, share) = copies()
    first, second = share.items(bob)
    (other,) = sign_copies(ALICE, [bob[:1]])[0].items(bob[:1])
    every = {
        "index_repeats": [first, first],
        "indices_fall": [second, first],
        "index_outside": [bytes((IN_COPIES,)) + first[1:]],
        "other_leaves": [first, second[:1] + bytes((IN_COPIES,)) + second[2:]],
        "two_trees_of_other_sizes": [other, second],
        "cut": [first[: -len(bob[0])] + bob[0][:125]],
        "changed_path": [first[:2] + bytes((first[2] ^ 1,)) + first[3:], second],
        "two_trees": [first, _of_another_tree(bob)],
    }
    return {name: copies_frame(share.signature, items) for name, items in every.items()}


def _of_another_tree(bob: list[bytes]) -> bytes:
    """The last item of a tree of the same size, in which all bodies are Bob's."""
    others = [body(number) for number in range(1, 3 * (IN_COPIES - 1) + 1, 3)]
    (item,) = sign_copies(ALICE, [others, bob[1:]])[1].items(bob[1:])
    return item


def with_larger_s(signature: bytes) -> bytes:
    """The same signature with S + L, which the equation holds for as well."""
    s = int.from_bytes(signature[32:], "little") + ORDER
    return signature[:32] + s.to_bytes(32, "little")


def bad_did_proofs() -> dict[str, str]:
    """Proofs for `spki` that every receiver refuses, whatever its clock says."""
    start, signature = DID_PROOF[:40], DID_PROOF[40:]
    text = start + SPKI
    return {
        "torsion": torsion_did_proof(SPKI, TIME_US).hex(),
        "larger_s": (start + with_larger_s(signature)).hex(),
        "label_of_a_batch": (start + ALICE._sign_labelled(Label.BATCH, text)).hex(),
        "other_key": make_did_proof(ALICE, SPKI[:-1] + bytes((SPKI[-1] ^ 1,)), TIME_US).hex(),
        "signed_by_bob": (start + BOB._sign_labelled(Label.DID_PROOF, text)).hex(),
        "other_expiry": (start[:32] + bytes(8) + signature).hex(),
    }


def bad_uris() -> dict[str, str]:
    """Texts that are not the one URI of the proof."""
    good = uri_of_proof(DID_PROOF)
    last = "AEIMQUYcgkosw048"  # the two unused bits of these are zero
    assert good[-1] in last
    return {
        "scheme_in_capitals": good.replace("signedwire", "Signedwire"),
        "padded": good + "=",
        "unused_bits": good[:-1] + chr(ord(good[-1]) + 1),
        "another_alphabet": good.replace("_", "/").replace("-", "+"),
        "longer": good + "AAAA",
        "shorter": good[:-4],
    }


def bad_signatures() -> dict[str, str]:
    """The batch of `envelopes` under signatures that do not fit, for which a link is closed."""
    bodies, joined = of_one_stream(2)
    root = sign_batch(ALICE, bodies)[0]
    every = {
        "larger_s": with_larger_s(joined[:64]),
        "label_of_a_receipt": ALICE._sign_labelled(Label.RECEIPT, root),
        "label_of_a_proof": ALICE._sign_labelled(Label.DID_PROOF, root),
        "signed_by_bob": BOB._sign_labelled(Label.BATCH, root),
        "neutral_r": bytes((1,)) + bytes(63),
    }
    total = sum(map(len, bodies))
    return {
        name: Part(FIRST | LAST, 1, signature + joined[64:], 2, total).encode().hex()
        for name, signature in every.items()
    }


def bad_batches() -> dict[str, str]:
    """Signed batches of one frame with an envelope of another stream."""
    durable, volatile = body(1), body(1, is_durable=False)
    every = {
        "volatile_in_durable": (1, [volatile]),
        "durable_in_volatile": (5, [durable]),
        "one_volatile_of_two": (1, [durable, volatile]),
        "one_durable_of_two": (5, [volatile, durable]),
        "priority_in_durable": (2, [durable]),
        "priority_in_volatile": (6, [volatile]),
    }
    return {
        name: Part(FIRST | LAST, stream, joined_of(bodies), len(bodies), sum(map(len, bodies)))
        .encode()
        .hex()
        for name, (stream, bodies) in every.items()
    }


def bad_receipts() -> dict[str, str]:
    """Frames for which a receiver closes the link; all but the last are signed."""
    _, batch = sent(2)
    too_many = [(number).to_bytes(32, "little") for number in range(501)]
    every = {
        "kind_0": receipt(0, batch.root),
        "kind_5": receipt(5, batch.root),
        "committed_2": receipt(ACCEPTED_BATCHES, batch.root, detail=2),
        "text_of_257_bytes": receipt(REFUSED_ENVELOPES, batch.root, detail=1, text=b"x" * 257),
        "no_hashes": receipt(ACCEPTED_ENVELOPES),
        "hashes_501": receipt(ACCEPTED_ENVELOPES, *too_many),
        "signed_by_alice": receipt(REFUSED_ENVELOPES, *batch.leaves, detail=1, signer=ALICE),
    }
    found = {name: frame.encode().hex() for name, frame in every.items()}
    cut = every["signed_by_alice"].encode()[5:-1]
    found["cut"] = ((len(cut) + 1).to_bytes(4, "big") + bytes([RECEIPT]) + cut).hex()
    return found


def vectors() -> dict[str, Any]:
    """The whole file."""
    bodies, batch = sent(17)
    path = MerklePath(3, 17, batch.signature, leaves=batch.leaves)
    word = receipt(ACCEPTED_BATCHES, batch.root)
    handled = receipt(HANDLED_ENVELOPES, *batch.leaves[:4], detail=1)
    refused = receipt(REFUSED_ENVELOPES, *batch.leaves[2:4], detail=6, text=REFUSAL_TEXT)
    forged = receipt(REFUSED_ENVELOPES, *batch.leaves[2:4], detail=6, signer=ALICE)
    return {
        "about": "Test vectors of docs/protocol.md; section 19 says how they are made.",
        "alice": {"seed": bytes(range(32)).hex(), "did": ALICE.did.hex(), "text": str(ALICE.did)},
        "bob": {"seed": bytes(range(1, 33)).hex(), "did": BOB.did.hex(), "text": str(BOB.did)},
        "carol": {
            "seed": bytes(range(2, 34)).hex(),
            "did": CAROL.did.hex(),
            "text": str(CAROL.did),
        },
        "did_proof": {
            "spki": SPKI.hex(),
            "expires_at_us": TIME_US,
            "proof": DID_PROOF.hex(),
            "uri": uri_of_proof(DID_PROOF),
            "certificate": CERTIFICATE.hex(),
        },
        "bad_did_proofs": bad_did_proofs(),
        "bad_uris": bad_uris(),
        "bodies": {str(number): body(number).hex() for number in (1, 2, 39, 40)},
        "volatile_bodies": {
            str(number): body(number, is_durable=False).hex() for number in (1, 2, 39, 40)
        },
        "fields": fields_vector(),
        "batches": [batch_vector(count) for count in SIZES],
        "frames": frame_vectors(),
        "batch_in_parts": batch_in_parts(),
        "copies": copies_vector(),
        "bad_copies": bad_copies(),
        "bad_batches": bad_batches(),
        "bad_signatures": bad_signatures(),
        "bad_receipts": bad_receipts(),
        "bad_joint": bad_joint(),
        "envelope": {
            "count": 17,
            "index": 3,
            "alone": SignedEnvelope(bodies[3], path).encode().hex(),
        },
        "receipt_proofs": {
            name: encode_receipt_proof(bodies[3], batch, 3, one.proof).hex()
            for name, one in (("accepted", word), ("handled", handled), ("refused", refused))
        },
        "joint_proofs": joint_proofs(),
        "bad_joint_proofs": bad_joint_proofs(),
        "bad_receipt_proofs": {
            "signed_by_alice": encode_receipt_proof(bodies[3], batch, 3, forged.proof).hex(),
            "of_another": encode_receipt_proof(bodies[4], batch, 4, refused.proof).hex(),
        },
    }


def text() -> str:
    """The file as it is written."""
    return json.dumps(vectors(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(text(), encoding="utf-8")
    sys.stdout.write(f"{FILE}\n")
