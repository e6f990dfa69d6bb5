"""The signed envelope: header, payload and signature.

A v1 envelope is signed alone:

    0    header            106 bytes, see `wire.header`
    106  payload
    -64  signature         Ed25519 over BLAKE3(header ‖ payload); zeros: unsigned

A v2 envelope is signed together with others (`wire.batch`):

    0    header            126 bytes or more
         payload
         Merkle path       only in an envelope that stands alone: hashes of the others
         receipt hash      only if the signature is joint (`wire.joint`)
    -69  index, count      2 × u16 LE: its position in the batch
    -65  form              u8: 0, or 1 if the signature is joint
    -64  signature         over the batch

A `SignedEnvelope` keeps the bytes as they arrived and reads a field from them on
access. So decoding costs one length check and a few byte comparisons, and the
bytes that are verified, stored and forwarded are exactly those that arrived.
"""

from __future__ import annotations

import struct
from typing import Final, Self

from blake3 import blake3

from signedwire.errors import EnvelopeError, SignatureError
from signedwire.identity import Identity, Label, verify_digest
from signedwire.types import Did, Kind, PayloadType, Priority, did_text, known_did, unix_time_us
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
    MIN_V2_HEADER_SIZE,
    PAYLOAD_TYPE,
    PRIORITY,
    V1_HEADER_SIZE,
    check_header,
    check_v2_header,
    encode_v1_header,
    epoch_of,
    expiry_of,
    is_durable,
    is_v2,
    kind_of,
    message_id_of,
    payload_start,
    recipient_of,
    sender_of,
    sequence_of,
    subject_of,
    timestamp_of,
    version_of,
)
from signedwire.wire.joint import decode_form, encode_form, is_root_signed

__all__ = ["ENVELOPE_OVERHEAD", "MerklePath", "SIGNATURE_SIZE", "SignedEnvelope"]

SIGNATURE_SIZE: Final = 64
ENVELOPE_OVERHEAD: Final = V1_HEADER_SIZE + SIGNATURE_SIZE
"""Bytes of a v1 envelope without its payload: the size of the smallest envelope."""
UNSIGNED: Final = bytes(SIGNATURE_SIZE)

_PLACE: Final = struct.Struct("<HH")
_MAX_U64: Final = 2**64 - 1


class MerklePath:
    """The way from one envelope of a batch to the signed root, and the signature of the root.

    Args:
        index: Position of the envelope in the batch, from 0.
        count: Number of envelopes in the batch, 1 to 256.
        signature: Signature of the sender over the root, 64 bytes; if it is joint, 96 with
            the receipt hash before it (`wire.joint`).
        leaves: The leaves of the whole batch, if they are known. `hashes` is then computed
            on access, because most envelopes never need it.
        hashes: Used without `leaves`: the hashes of the path, joined.
    """

    MIN_SIZE: Final = 5 + SIGNATURE_SIZE
    """Size of an encoded path without hashes, in bytes: index, count, form and signature."""

    __slots__ = ("_hashes", "_leaves", "count", "index", "signature")

    def __init__(
        self,
        index: int,
        count: int,
        signature: bytes,
        *,
        leaves: list[bytes] | None = None,
        hashes: bytes = b"",
    ) -> None:
        self.index = index
        self.count = count
        self.signature = signature
        self._leaves = leaves
        self._hashes = hashes

    @property
    def hashes(self) -> bytes:
        """Hashes of the other leaves of the group, then of the other groups, 32 bytes each."""
        if self._leaves is not None:
            return path_of(self._leaves, self.index)
        return self._hashes

    @property
    def leaves(self) -> list[bytes] | None:
        """The leaves of the whole batch; `None` if only `hashes` is known."""
        return self._leaves

    def encode(self) -> bytes:
        """Encode hashes, index, count, form and signature, as they follow a payload."""
        receipt, signature = self.signature[:-SIGNATURE_SIZE], self.signature[-SIGNATURE_SIZE:]
        place = _PLACE.pack(self.index, self.count)
        return b"".join((self.hashes, receipt, place, encode_form(receipt), signature))

    def root(self, sender: bytes, leaf: bytes) -> bytes:
        """Compute the root of the batch of `sender` if `leaf` has this position in it.

        Raises:
            SignatureError: the number of hashes does not fit the position.
        """
        return root_from_path(sender, leaf, self.index, self.count, self.hashes)

    def __repr__(self) -> str:
        return f"<MerklePath of index {self.index} in a batch of {self.count}>"


class SignedEnvelope:
    """One signed message as it is on the wire. Immutable; equal when byte-identical.

    `sign()`, `unsigned()` and `decode()` make one. An envelope proves nothing until
    `verify()` has returned. Every method may be called from any thread.
    """

    __slots__ = ("_body", "_signature")
    _body: bytes  # header and payload
    _signature: bytes | MerklePath  # bytes in v1

    def __init__(self, body: bytes, signature: bytes | MerklePath) -> None:
        """Wrap parts that are known to be well-formed; `decode()` checks its input.

        Args:
            body: Header and payload.
            signature: The signature of a v1 envelope, 64 bytes, or the Merkle path of a v2
                envelope, which has the signature of the batch.
        """
        self._body = body
        self._signature = signature

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

        Args:
            identity: The sender's key.
            recipient: The DID of the recipient.
            payload: The bytes to send.
            sequence_number: The sender's number of this envelope, 0 to 2^64-1.
            priority: The lane, by default `Priority.NORMAL`.
            payload_type: The type of the payload, by default `PayloadType.RAW`.
            message_id: 16 bytes, by default the sequence number and the timestamp, as
                live v1 peers write it.
            timestamp_us: Unix time in microseconds, 0 to 2^64-1, by default the present.

        Returns:
            A v1 envelope with a signature of its own.

        Raises:
            EnvelopeError: a field is out of its range, or of the wrong type.
            TypeError: `recipient` is not a `Did`.
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

        All other arguments, their ranges and the errors are as in `sign()`.
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
        """Decode one envelope, v1 or v2, that fills `data` exactly, without verifying it.

        Raises:
            EnvelopeError: `data` is too short, begins with another magic, has an unknown
                priority or payload type, or its v2 header or Merkle path is malformed.
        """
        raw = bytes(data)
        if is_v2(raw):
            return cls._decode_v2(raw)
        return cls.decode_v1(raw)

    @classmethod
    def decode_v1(cls, raw: bytes) -> Self:
        """Decode one envelope as v1 frames carry it, whatever version its header names.

        Raises:
            EnvelopeError: for the same causes as in `decode()`.
        """
        check_header(raw, ENVELOPE_OVERHEAD)
        return cls(raw[:-SIGNATURE_SIZE], raw[-SIGNATURE_SIZE:])

    @classmethod
    def _decode_v2(cls, raw: bytes) -> Self:
        check_header(raw, MIN_V2_HEADER_SIZE + MerklePath.MIN_SIZE)
        index, count = _PLACE.unpack_from(raw, len(raw) - MerklePath.MIN_SIZE)
        end = MerklePath.MIN_SIZE + decode_form(raw[-SIGNATURE_SIZE - 1])
        try:
            size = path_size(index, count) * HASH_SIZE + end
        except SignatureError as error:
            raise EnvelopeError(f"not an envelope: {error}") from None
        if len(raw) < MIN_V2_HEADER_SIZE + size:
            raise EnvelopeError(
                f"not an envelope: {len(raw)} bytes, its Merkle path alone has {size}"
            )
        hashes = raw[len(raw) - size : len(raw) - end]
        receipt = raw[len(raw) - end : len(raw) - MerklePath.MIN_SIZE]
        body = raw[:-size]
        check_v2_header(body)
        signature = receipt + raw[-SIGNATURE_SIZE:]
        return cls(body, MerklePath(index, count, signature, hashes=hashes))

    def encode(self) -> bytes:
        """Encode the whole envelope so that it can be verified alone.

        `decode(e.encode()) == e` holds for every envelope `e`.
        """
        signature = self._signature
        return self._body + (signature if isinstance(signature, bytes) else signature.encode())

    def verify(self) -> None:
        """Prove that `sender` signed exactly this header and payload.

        The check serves v1 envelopes, with their own signature, and v2 envelopes from a
        batch. The check is strict, see `signedwire.identity.verify_digest`. Any thread may
        call this; the GIL is released for most of the 45 µs.

        Raises:
            SignatureError: the envelope is unsigned, or the signature does not fit.
        """
        sender, signature = sender_of(self._body), self._signature
        if signature == UNSIGNED:
            raise SignatureError(
                f"unsigned envelope: it names {did_text(sender)} as its sender, without a signature"
            )
        if isinstance(signature, bytes):
            is_good = verify_digest(sender, self.digest, signature)
        else:
            root = signature.root(sender, self.digest)
            is_good = is_root_signed(sender, root, signature.signature)
        if not is_good:
            raise SignatureError(
                f"bad signature: the envelope is not what {did_text(sender)} signed, "
                "or somebody else signed it"
            )

    @property
    def digest(self) -> bytes:
        """The hash of header and payload, 32 bytes: BLAKE3 in v1, SHA-256 in v2.

        The v1 signature covers it. In v2 it is the Merkle leaf.
        """
        if isinstance(self._signature, bytes):
            return blake3(self._body).digest()
        return leaf_of(self._body)

    @property
    def is_signed(self) -> bool:
        """Whether a signature is present. Only `verify()` tells whether it is right."""
        return self.signature != UNSIGNED

    @property
    def merkle_path(self) -> MerklePath | None:
        """The way from a v2 envelope to the signed root of its batch; `None` in v1."""
        return None if isinstance(self._signature, bytes) else self._signature

    @property
    def body(self) -> bytes:
        """Header and payload, as the sender signed them."""
        return self._body

    @property
    def version(self) -> int:
        """The sender's wire version; live v1 peers write 7."""
        return version_of(self._body)

    @property
    def message_id(self) -> bytes:
        """The message id: 16 bytes chosen by the sender, at random in v2.

        Messages and receipts show it in hex digits.
        """
        return message_id_of(self._body)

    @property
    def sequence_number(self) -> int:
        """Sequence number, which counts the sender's envelopes from 1; in v2, those of a stream."""
        return sequence_of(self._body)

    @property
    def sender(self) -> Did:
        """The DID that the envelope claims as its sender; `verify()` proves it.

        Raises:
            DidError: the 32 bytes are no usable DID; such an envelope never verifies.
        """
        return known_did(sender_of(self._body))

    @property
    def recipient(self) -> Did:
        """The DID that the envelope is for.

        Raises:
            DidError: the 32 bytes are no usable DID.
        """
        return known_did(recipient_of(self._body))

    @property
    def timestamp_us(self) -> int:
        """When the envelope was made, by the sender's clock: Unix time, microseconds."""
        return timestamp_of(self._body)

    @property
    def priority(self) -> Priority:
        """The lane, as chosen by the sender."""
        return Priority(self._body[PRIORITY])

    @property
    def payload_type(self) -> PayloadType:
        """The type of the payload, as declared by the sender."""
        return PayloadType(self._body[PAYLOAD_TYPE])

    @property
    def kind(self) -> Kind:
        """The kind of the message; every v1 message is `Kind.MESSAGE`."""
        return Kind.MESSAGE if isinstance(self._signature, bytes) else kind_of(self._body)

    @property
    def subject(self) -> str:
        """The subject of the message, as chosen by the sender; empty in v1."""
        return "" if isinstance(self._signature, bytes) else subject_of(self._body)

    @property
    def durable(self) -> bool:
        """Whether nodes that have a store keep the message in it; false in v1."""
        return not isinstance(self._signature, bytes) and is_durable(self._body)

    @property
    def _header_size(self) -> int:
        if isinstance(self._signature, bytes):
            return V1_HEADER_SIZE
        return payload_start(self._body)

    @property
    def payload(self) -> bytes:
        """The payload: the bytes behind the header."""
        return self._body[self._header_size :]

    @property
    def payload_size(self) -> int:
        """Size of the payload in bytes."""
        return len(self._body) - self._header_size

    @property
    def signature(self) -> bytes:
        """The signature of the envelope or of its batch, 64 bytes; zeros if unsigned."""
        signature = self._signature
        if isinstance(signature, bytes):
            return signature
        return signature.signature[-SIGNATURE_SIZE:]

    @property
    def epoch(self) -> int | None:
        """The sender's epoch, within which sequence numbers count; `None` in v1."""
        if isinstance(self._signature, bytes):
            return None
        return epoch_of(self._body)

    @property
    def expires_at_us(self) -> int | None:
        """The deadline of delivery: Unix time, microseconds; `None`: no deadline."""
        if isinstance(self._signature, bytes):
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
        sender, recipient = sender_of(self._body)[:4], recipient_of(self._body)[:4]
        return (
            f"<SignedEnvelope{signed} {self.message_id.hex()[:8]} {sender.hex()}…"
            f" -> {recipient.hex()}… {self.priority.name}"
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
            f"sequence_number={sequence_number!r} or timestamp_us={timestamp_us!r} is not an int",
            "Pass an int; bool, float and numpy integers are not accepted",
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
    """Sign 1 to 256 bodies at once, and return (root, signature, leaves)."""
    leaves = leaves_of(bodies)
    root = batch_root(bytes(identity.did), leaves)
    return root, identity._sign_labelled(Label.BATCH, root), leaves


def verify_batch(sender: bytes, bodies: list[bytes], signature: bytes) -> tuple[bytes, list[bytes]]:
    """Check the signature of `sender` over a whole batch, and return (root, leaves).

    A joint signature has the receipt hash before it (`wire.joint`).

    Raises:
        SignatureError: the signature does not fit; no envelope of the batch is proven.
    """
    leaves = leaves_of(bodies)
    root = batch_root(sender, leaves)
    if not is_root_signed(sender, root, signature):
        raise SignatureError(
            f"bad signature: the batch of {len(bodies)} is not what {did_text(sender)} signed"
        )
    return root, leaves
