"""The signed envelope: 106-byte header, payload, 64-byte signature.

    0    magic             u32 LE, the bytes 49 4E 4D 4F
    4    version           u32 LE; live v1 peers write 7, any value is read
    8    message_id        16 bytes; here u64 LE sequence, u64 LE timestamp
    24   sequence_number   u64 LE, per sender, from 1
    32   sender            the sender's Ed25519 public key
    64   recipient         the recipient's
    96   timestamp_us      u64 LE, Unix time
    104  priority          0 low, 1 normal, 2 high, 3 critical
    105  payload_type      0 raw … 4 sensor fusion
    106  payload
    -64  signature         Ed25519 over BLAKE3(header ‖ payload); zeros: unsigned

A `SignedEnvelope` keeps the encoded bytes and nothing else: a field is read
from them when it is asked for. So decoding costs one length check and a few
byte comparisons, and what is verified, stored and forwarded is exactly what
arrived.
"""

from __future__ import annotations

import struct
from typing import Final, Self

from blake3 import blake3

from signedwire.errors import EnvelopeError, SignatureError
from signedwire.identity import Identity, verify_digest
from signedwire.types import Did, PayloadType, Priority, known_did, unix_time_us

__all__ = ["ENVELOPE_OVERHEAD", "HEADER_SIZE", "SIGNATURE_SIZE", "SignedEnvelope"]

HEADER_SIZE: Final = 106
SIGNATURE_SIZE: Final = 64
ENVELOPE_OVERHEAD: Final = HEADER_SIZE + SIGNATURE_SIZE
"""Bytes of an envelope beside its payload, and so the size of the smallest one."""

MAGIC: Final = 0x4F4D4E49
V1_VERSION: Final = 7
UNSIGNED: Final = bytes(SIGNATURE_SIZE)

_MAGIC_BYTES: Final = MAGIC.to_bytes(4, "little")
_HEADER: Final = struct.Struct("<IIQQQ32s32sQBB")
_HEADER_WITH_ID: Final = struct.Struct("<II16sQ32s32sQBB")
_U64: Final = struct.Struct("<Q")
_MAX_PRIORITY: Final = max(Priority)
_MAX_PAYLOAD_TYPE: Final = max(PayloadType)
_MAX_U64: Final = 2**64 - 1


class SignedEnvelope:
    """One signed message as it is on the wire. Immutable; equal when byte-identical.

    Make one with `sign()`, `unsigned()` or `decode()`. Having one proves
    nothing: `verify()` does.
    """

    __slots__ = ("_data",)
    _data: bytes

    def __init__(self, data: bytes) -> None:
        """Wrap bytes that are known to be a whole envelope; see `decode()`."""
        self._data = data

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
            bytes(recipient),
            payload,
            sequence_number,
            priority,
            payload_type,
            message_id,
            timestamp_us,
        )
        return cls(body + identity._sign_digest(blake3(body).digest()))

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
            bytes(sender),
            bytes(recipient),
            payload,
            sequence_number,
            priority,
            payload_type,
            message_id,
            timestamp_us,
        )
        return cls(body + UNSIGNED)

    @classmethod
    def decode(cls, data: bytes | bytearray | memoryview) -> Self:
        """Read one envelope that fills `data` exactly; the signature is not checked.

        Raises:
            EnvelopeError: too short, another magic, or an unknown priority or
                payload type.
        """
        raw = bytes(data)
        if len(raw) < ENVELOPE_OVERHEAD:
            raise EnvelopeError(
                f"not an envelope: {len(raw)} bytes, the smallest has {ENVELOPE_OVERHEAD}"
            )
        if raw[:4] != _MAGIC_BYTES:
            raise EnvelopeError(
                f"not an envelope: begins with {raw[:4].hex(' ')}, not {_MAGIC_BYTES.hex(' ')}"
            )
        if raw[104] > _MAX_PRIORITY:
            raise EnvelopeError(f"not an envelope: priority {raw[104]}, known are 0 to 3")
        if raw[105] > _MAX_PAYLOAD_TYPE:
            raise EnvelopeError(f"not an envelope: payload type {raw[105]}, known are 0 to 4")
        return cls(raw)

    def encode(self) -> bytes:
        """The whole envelope as bytes. `decode(e.encode()) == e`; costs nothing."""
        return self._data

    def verify(self) -> None:
        """Prove that `sender` signed exactly this header and payload.

        The check is strict, see `signedwire.identity.verify_digest`. Thread-safe;
        releases the GIL for most of its 45 µs.

        Raises:
            SignatureError: it is unsigned, or the signature does not fit.
        """
        data = self._data
        signature = data[-SIGNATURE_SIZE:]
        if signature == UNSIGNED:
            raise SignatureError(
                f"unsigned envelope: it claims to be from {data[32:64].hex()}, without proof"
            )
        if not verify_digest(data[32:64], self.digest, signature):
            raise SignatureError(
                f"bad signature: the envelope is not what {data[32:64].hex()} signed, "
                "or somebody else signed it"
            )

    @property
    def digest(self) -> bytes:
        """BLAKE3 of header and payload, 32 bytes: what the signature covers."""
        return blake3(memoryview(self._data)[:-SIGNATURE_SIZE]).digest()

    @property
    def is_signed(self) -> bool:
        """Whether a signature is present. It may still be wrong: see `verify()`."""
        return self._data[-SIGNATURE_SIZE:] != UNSIGNED

    @property
    def version(self) -> int:
        """The sender's wire version; live v1 peers write 7."""
        return int.from_bytes(self._data[4:8], "little")

    @property
    def message_id(self) -> bytes:
        """16 bytes that the sender chose. Not globally unique."""
        return self._data[8:24]

    @property
    def sequence_number(self) -> int:
        """Counts the sender's envelopes, from 1."""
        return int(_U64.unpack_from(self._data, 24)[0])

    @property
    def sender(self) -> Did:
        """The DID that the envelope claims as its sender; `verify()` proves it.

        Raises:
            DidError: the 32 bytes are no usable DID; such an envelope never verifies.
        """
        return known_did(self._data[32:64])

    @property
    def recipient(self) -> Did:
        """The DID that the envelope is for.

        Raises:
            DidError: the 32 bytes are no usable DID.
        """
        return known_did(self._data[64:96])

    @property
    def timestamp_us(self) -> int:
        """When the sender says it made the envelope, in microseconds since 1970."""
        return int(_U64.unpack_from(self._data, 96)[0])

    @property
    def priority(self) -> Priority:
        """The lane the sender chose."""
        return Priority(self._data[104])

    @property
    def payload_type(self) -> PayloadType:
        """What the sender says the payload is."""
        return PayloadType(self._data[105])

    @property
    def payload(self) -> bytes:
        """The bytes inside."""
        return self._data[HEADER_SIZE:-SIGNATURE_SIZE]

    @property
    def signature(self) -> bytes:
        """64 bytes; zeros when unsigned."""
        return self._data[-SIGNATURE_SIZE:]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, SignedEnvelope):
            return self._data == other._data
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self._data)

    def __repr__(self) -> str:
        signed = "" if self.is_signed else " unsigned"
        return (
            f"<SignedEnvelope{signed} #{self.sequence_number} {self._data[32:36].hex()}…"
            f" -> {self._data[64:68].hex()}… {self.priority.name}"
            f" {len(self._data) - ENVELOPE_OVERHEAD} bytes>"
        )


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
    if not (0 <= sequence_number <= _MAX_U64 and 0 <= timestamp_us <= _MAX_U64):
        raise EnvelopeError(
            f"sequence number {sequence_number} or timestamp {timestamp_us} "
            "is not between 0 and 2^64-1"
        )
    if not (0 <= priority <= _MAX_PRIORITY and 0 <= payload_type <= _MAX_PAYLOAD_TYPE):
        raise EnvelopeError(
            f"priority {priority} or payload type {payload_type} is unknown",
            "Use the members of Priority and PayloadType",
        )
    if not isinstance(payload, (bytes, bytearray, memoryview)):
        raise EnvelopeError(
            f"a payload is bytes, not {type(payload).__name__}", "Encode text with .encode()"
        )
    if message_id is None:
        header = _HEADER.pack(
            MAGIC,
            V1_VERSION,
            sequence_number,
            timestamp_us,
            sequence_number,
            sender,
            recipient,
            timestamp_us,
            priority,
            payload_type,
        )
    elif len(message_id) == 16:
        header = _HEADER_WITH_ID.pack(
            MAGIC,
            V1_VERSION,
            message_id,
            sequence_number,
            sender,
            recipient,
            timestamp_us,
            priority,
            payload_type,
        )
    else:
        raise EnvelopeError(f"a message id is 16 bytes, got {len(message_id)}")
    return header + payload
