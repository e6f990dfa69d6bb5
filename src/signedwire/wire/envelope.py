"""The signed envelope: header, payload, and what proves them.

A v1 envelope is signed alone:

    0    header            106 bytes, see `wire.header`
    106  payload
    -64  signature         Ed25519 over BLAKE3(header ‖ payload); zeros: unsigned

A v2 envelope is signed together with others (`wire.batch`):

    0    header            122 bytes
    122  payload
         path              only where it stands alone: hashes of the others
    -68  index, count      2 × u16 LE: its place in the batch
    -64  signature         over the batch

A `SignedEnvelope` keeps the bytes as they came: a field is read from them when
it is asked for. So decoding costs one length check and a few byte comparisons,
and what is verified, stored and forwarded is exactly what arrived.
"""

from __future__ import annotations

import struct
from typing import Final, Self

from blake3 import blake3

from signedwire.errors import EnvelopeError, SignatureError
from signedwire.identity import Identity, Label, verify_digest, verify_labelled
from signedwire.types import Did, PayloadType, Priority, did_text, known_did, unix_time_us
from signedwire.wire.batch import (
    HASH_SIZE,
    batch_root,
    leaf_of,
    leaves_of,
    path_of,
    path_size,
    root_from_path,
)
from signedwire.wire.header import (
    MAX_PAYLOAD_TYPE,
    MAX_PRIORITY,
    PAYLOAD_TYPE,
    PRIORITY,
    RECIPIENT,
    SENDER,
    V1_HEADER_SIZE,
    V2_HEADER_SIZE,
    check_header,
    encode_v1_header,
    epoch_of,
    expiry_of,
    is_v2,
    message_id_of,
    sequence_of,
    timestamp_of,
    version_of,
)

__all__ = ["ENVELOPE_OVERHEAD", "SIGNATURE_SIZE", "SignedEnvelope"]

SIGNATURE_SIZE: Final = 64
ENVELOPE_OVERHEAD: Final = V1_HEADER_SIZE + SIGNATURE_SIZE
"""Bytes of a v1 envelope beside its payload, and so the size of the smallest one."""
UNSIGNED: Final = bytes(SIGNATURE_SIZE)

_PLACE: Final = struct.Struct("<HH")
_MAX_U64: Final = 2**64 - 1


class BatchProof:
    """The place of one envelope in a signed batch, and the way from it to the root.

    While the batch is at hand, its leaves stand for the path, which is made only
    when somebody asks for it: nearly nobody does.
    """

    MIN_SIZE: Final = 4 + SIGNATURE_SIZE
    """Bytes of index, count and signature."""

    __slots__ = ("_leaves", "_path", "count", "index", "signature")

    def __init__(
        self,
        index: int,
        count: int,
        signature: bytes,
        *,
        leaves: list[bytes] | None = None,
        path: bytes = b"",
    ) -> None:
        self.index = index
        self.count = count
        self.signature = signature
        self._leaves = leaves
        self._path = path

    @property
    def path(self) -> bytes:
        """The other leaves of its group, then the other groups: 32 bytes each."""
        if self._leaves is not None:
            return path_of(self._leaves, self.index)
        return self._path

    @property
    def leaves(self) -> list[bytes] | None:
        """The leaves of its batch, where that is at hand."""
        return self._leaves

    def encode(self) -> bytes:
        """What follows the payload of an envelope that stands alone."""
        return self.path + _PLACE.pack(self.index, self.count) + self.signature

    def root(self, sender: bytes, leaf: bytes) -> bytes:
        """The root of the batch if `leaf` has this place in it.

        Raises:
            SignatureError: the path has another length than the place demands.
        """
        return root_from_path(sender, leaf, self.index, self.count, self.path)


class SignedEnvelope:
    """One signed message as it is on the wire. Immutable; equal when byte-identical.

    Make one with `sign()`, `unsigned()` or `decode()`. Having one proves
    nothing: `verify()` does.
    """

    __slots__ = ("_body", "_proof")
    _body: bytes  # header and payload
    _proof: bytes | BatchProof  # a v1 signature, or a place in a signed batch

    def __init__(self, body: bytes, proof: bytes | BatchProof) -> None:
        """Wrap parts that are known to be well-formed; see `decode()`."""
        self._body = body
        self._proof = proof

    @classmethod
    def sign(
        cls,
        identity: Identity,
        recipient: Did,
        payload: bytes,
        *,
        sequence_number: int,
        priority: Priority = Priority.NORMAL,
        payload_type: PayloadType = PayloadType.RAW,
        message_id: bytes | None = None,
        timestamp_us: int | None = None,
    ) -> Self:
        """Make an envelope from `identity` to `recipient` and sign it.

        `sequence_number` and `timestamp_us` are 0 to 2^64-1; the timestamp is
        now unless given. `message_id` is 16 bytes, by default the sequence
        number and the timestamp, as live v1 peers write it.

        Raises:
            EnvelopeError: a field is out of its range.
        """
        body = _encode_body(
            bytes(identity.did),
            _key_of(recipient, "recipient"),
            payload,
            sequence_number,
            priority,
            payload_type,
            message_id,
            timestamp_us,
        )
        return cls(body, identity._sign_digest(blake3(body).digest()))

    @classmethod
    def unsigned(
        cls,
        sender: Did,
        recipient: Did,
        payload: bytes,
        *,
        sequence_number: int,
        priority: Priority = Priority.NORMAL,
        payload_type: PayloadType = PayloadType.RAW,
        message_id: bytes | None = None,
        timestamp_us: int | None = None,
    ) -> Self:
        """Make an envelope that claims to be from `sender` and proves nothing.

        Takes and raises what `sign()` does.
        """
        body = _encode_body(
            _key_of(sender, "sender"),
            _key_of(recipient, "recipient"),
            payload,
            sequence_number,
            priority,
            payload_type,
            message_id,
            timestamp_us,
        )
        return cls(body, UNSIGNED)

    @classmethod
    def decode(cls, data: bytes | bytearray | memoryview) -> Self:
        """Read one envelope, v1 or v2, that fills `data` exactly; nothing is verified.

        Raises:
            EnvelopeError: too short, another magic, an unknown priority or payload
                type, or a proof that cannot be one.
        """
        raw = bytes(data)
        if is_v2(raw):
            return cls._decode_v2(raw)
        return cls.decode_v1(raw)

    @classmethod
    def decode_v1(cls, raw: bytes) -> Self:
        """Read one envelope as v1 frames carry it, whatever version it names.

        Raises:
            EnvelopeError: as `decode()`.
        """
        check_header(raw, ENVELOPE_OVERHEAD)
        return cls(raw[:-SIGNATURE_SIZE], raw[-SIGNATURE_SIZE:])

    @classmethod
    def _decode_v2(cls, raw: bytes) -> Self:
        check_header(raw, V2_HEADER_SIZE + BatchProof.MIN_SIZE)
        index, count = _PLACE.unpack_from(raw, len(raw) - BatchProof.MIN_SIZE)
        try:
            size = path_size(index, count) * HASH_SIZE + BatchProof.MIN_SIZE
        except SignatureError as error:
            raise EnvelopeError(f"not an envelope: {error}") from None
        if len(raw) < V2_HEADER_SIZE + size:
            raise EnvelopeError(f"not an envelope: {len(raw)} bytes, its proof alone has {size}")
        path = raw[len(raw) - size : len(raw) - BatchProof.MIN_SIZE]
        return cls(raw[:-size], BatchProof(index, count, raw[-SIGNATURE_SIZE:], path=path))

    def encode(self) -> bytes:
        """The whole envelope as bytes, verifiable alone: `decode(e.encode()) == e`."""
        proof = self._proof
        return self._body + (proof if isinstance(proof, bytes) else proof.encode())

    def verify(self) -> None:
        """Prove that `sender` signed exactly this header and payload.

        The same for an envelope with a signature of its own and for one out of a
        batch. The check is strict, see `signedwire.identity.verify_digest`.
        Thread-safe; releases the GIL for most of its 45 µs.

        Raises:
            SignatureError: it is unsigned, or the signature does not fit.
        """
        sender, proof = self._body[SENDER], self._proof
        if proof == UNSIGNED:
            raise SignatureError(
                f"unsigned envelope: it claims to be from {did_text(sender)}, without proof"
            )
        if isinstance(proof, bytes):
            is_good = verify_digest(sender, self.digest, proof)
        else:
            is_good = verify_labelled(
                sender, Label.BATCH, proof.root(sender, self.digest), proof.signature
            )
        if not is_good:
            raise SignatureError(
                f"bad signature: the envelope is not what {did_text(sender)} signed, "
                "or somebody else signed it"
            )

    @property
    def digest(self) -> bytes:
        """BLAKE3 of header and payload, 32 bytes: what the signature covers."""
        return leaf_of(self._body)

    @property
    def is_signed(self) -> bool:
        """Whether a signature is present. It may still be wrong: see `verify()`."""
        return self.signature != UNSIGNED

    @property
    def proof(self) -> bytes | BatchProof:
        """A v1 signature of 64 bytes, or the place in a signed batch."""
        return self._proof

    @property
    def body(self) -> bytes:
        """Header and payload: the bytes that the signature covers."""
        return self._body

    @property
    def version(self) -> int:
        """The sender's wire version; live v1 peers write 7."""
        return version_of(self._body)

    @property
    def message_id(self) -> bytes:
        """16 bytes that the sender chose. Not globally unique."""
        return message_id_of(self._body)

    @property
    def sequence_number(self) -> int:
        """Counts the sender's envelopes, from 1."""
        return sequence_of(self._body)

    @property
    def sender(self) -> Did:
        """The DID that the envelope claims as its sender; `verify()` proves it.

        Raises:
            DidError: the 32 bytes are no usable DID; such an envelope never verifies.
        """
        return known_did(self._body[SENDER])

    @property
    def recipient(self) -> Did:
        """The DID that the envelope is for.

        Raises:
            DidError: the 32 bytes are no usable DID.
        """
        return known_did(self._body[RECIPIENT])

    @property
    def timestamp_us(self) -> int:
        """When the sender says it made the envelope, in microseconds since 1970."""
        return timestamp_of(self._body)

    @property
    def priority(self) -> Priority:
        """The lane the sender chose."""
        return Priority(self._body[PRIORITY])

    @property
    def payload_type(self) -> PayloadType:
        """What the sender says the payload is."""
        return PayloadType(self._body[PAYLOAD_TYPE])

    @property
    def _header_size(self) -> int:
        return V1_HEADER_SIZE if isinstance(self._proof, bytes) else V2_HEADER_SIZE

    @property
    def payload(self) -> bytes:
        """The bytes inside."""
        return self._body[self._header_size :]

    @property
    def payload_size(self) -> int:
        """How many bytes are inside."""
        return len(self._body) - (self._header_size)

    @property
    def signature(self) -> bytes:
        """64 bytes: of this envelope, or of its batch; zeros when unsigned."""
        proof = self._proof
        return proof if isinstance(proof, bytes) else proof.signature

    @property
    def epoch(self) -> int | None:
        """Which state of its sender numbered it; `None` in v1, which has no epochs."""
        if isinstance(self._proof, bytes):
            return None
        return epoch_of(self._body)

    @property
    def expires_at_us(self) -> int | None:
        """The instant after which it must not be delivered: Unix time, µs; `None`: never."""
        if isinstance(self._proof, bytes):
            return None
        return expiry_of(self._body)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, SignedEnvelope):
            return self._body == other._body and self.encode() == other.encode()
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self._body)

    def __repr__(self) -> str:
        signed = "" if self.is_signed else " unsigned"
        return (
            f"<SignedEnvelope{signed} #{self.sequence_number} {self._body[SENDER][:4].hex()}…"
            f" -> {self._body[RECIPIENT][:4].hex()}… {self.priority.name}"
            f" {self.payload_size} bytes>"
        )


def _key_of(did: Did, name: str) -> bytes:
    if not isinstance(did, Did):
        raise TypeError(f"a {name} is a Did, not {type(did).__name__}; Did.parse(text) makes one")
    return bytes(did)


def _encode_body(
    sender: bytes,
    recipient: bytes,
    payload: bytes,
    sequence_number: int,
    priority: int,
    payload_type: int,
    message_id: bytes | None,
    timestamp_us: int | None,
) -> bytes:
    if timestamp_us is None:
        timestamp_us = unix_time_us()
    if type(sequence_number) is not int or type(timestamp_us) is not int:
        raise EnvelopeError(
            f"sequence_number={sequence_number!r} or timestamp_us={timestamp_us!r} "
            "is no whole number",
            "Pass an int; True, 1.0 and numpy's are none",
        )
    if not (0 <= sequence_number <= _MAX_U64 and 0 <= timestamp_us <= _MAX_U64):
        raise EnvelopeError(
            f"sequence number {sequence_number} or timestamp {timestamp_us} "
            "is not between 0 and 2^64-1"
        )
    if not (0 <= priority <= MAX_PRIORITY and 0 <= payload_type <= MAX_PAYLOAD_TYPE):
        raise EnvelopeError(
            f"priority {priority} or payload type {payload_type} is unknown",
            "Use the members of Priority and PayloadType",
        )
    if not isinstance(payload, (bytes, bytearray, memoryview)):
        raise EnvelopeError(
            f"a payload is bytes, not {type(payload).__name__}", "Encode text with .encode()"
        )
    if message_id is not None and len(message_id) != 16:
        raise EnvelopeError(f"a message id is 16 bytes, got {len(message_id)}")
    header = encode_v1_header(
        sender + recipient, sequence_number, timestamp_us, priority, payload_type, message_id
    )
    return header + payload


def sign_batch(identity: Identity, bodies: list[bytes]) -> tuple[bytes, bytes, list[bytes]]:
    """Sign 1 to 256 bodies at once: (root, signature, leaves)."""
    leaves = leaves_of(bodies)
    root = batch_root(bytes(identity.did), leaves)
    return root, identity._sign_labelled(Label.BATCH, root), leaves


def verify_batch(sender: bytes, bodies: list[bytes], signature: bytes) -> tuple[bytes, list[bytes]]:
    """Check the signature of `sender` over a whole batch: (root, leaves).

    Raises:
        SignatureError: it does not fit; none of the batch may be believed.
    """
    leaves = leaves_of(bodies)
    root = batch_root(sender, leaves)
    if not verify_labelled(sender, Label.BATCH, root, signature):
        raise SignatureError(
            f"bad signature: the batch of {len(bodies)} is not what {did_text(sender)} signed"
        )
    return root, leaves
