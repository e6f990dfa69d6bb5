"""The header of an envelope. Only this module contains the layout of its fields.

    0    magic             u32 LE, the bytes 49 4E 4D 4F
    4    version           u32 LE; live v1 peers write 7, any value is read
    8    message_id        16 bytes; here u64 LE sequence, u64 LE timestamp
    24   sequence_number   u64 LE, per sender, from 1
    32   sender            the sender's Ed25519 public key
    64   recipient         the recipient's
    96   timestamp_us      u64 LE, Unix time
    104  priority          0 low, 1 normal, 2 high, 3 critical
    105  payload_type      0 raw … 4 sensor fusion
    106                    here the payload of a v1 envelope begins

A v2 envelope has version 8, and two fields more:

    106  epoch             u64 LE; grows when the sender loses its state
    114  expires_at_us     u64 LE, Unix time; 0: never
    122                    here its payload begins

A *body* is header and payload. Callers read a byte or a slice of it by its position
(`body[PRIORITY]`, `body[SENDER]`), and a number with a function of this module.
"""

from __future__ import annotations

import struct
from typing import Final

from signedwire.errors import EnvelopeError
from signedwire.types import PayloadType, Priority

__all__ = [
    "MAGIC",
    "MAX_PAYLOAD_TYPE",
    "MAX_PRIORITY",
    "PARTIES",
    "PAYLOAD_TYPE",
    "PRIORITY",
    "RECIPIENT",
    "SENDER",
    "V1_HEADER_SIZE",
    "V1_VERSION",
    "V2_HEADER_SIZE",
    "V2_START",
    "V2_VERSION",
    "check_header",
    "complete_v2_body",
    "encode_v1_header",
    "encode_v2_body",
    "encode_v2_common",
    "epoch_of",
    "expiry_of",
    "is_v2",
    "message_id_of",
    "message_number_of",
    "sequence_of",
    "timestamp_of",
    "unpack_v2",
    "version_of",
    "with_epoch",
    "with_expiry",
]

MAGIC: Final = 0x4F4D4E49
V1_VERSION: Final = 7
V2_VERSION: Final = 8
V1_HEADER_SIZE: Final = 106
V2_HEADER_SIZE: Final = 122

SENDER: Final = slice(32, 64)
RECIPIENT: Final = slice(64, 96)
PARTIES: Final = slice(32, 96)
"""Sender and recipient together."""
PRIORITY: Final = 104
PAYLOAD_TYPE: Final = 105

MAX_PRIORITY: Final = max(Priority)
MAX_PAYLOAD_TYPE: Final = max(PayloadType)

_VERSION: Final = slice(4, 8)
_MESSAGE_ID: Final = slice(8, 24)
_MESSAGE_NUMBER: Final = 8
_SEQUENCE: Final = 24
_TIMESTAMP: Final = 96
_EPOCH: Final = 106
_EXPIRY: Final = 114

_MAGIC_BYTES: Final = MAGIC.to_bytes(4, "little")
_V2_VERSION_BYTES: Final = V2_VERSION.to_bytes(4, "little")
V2_START: Final = _MAGIC_BYTES + _V2_VERSION_BYTES
"""The first 8 bytes of every v2 envelope."""

_U64: Final = struct.Struct("<Q")
_V1: Final = struct.Struct("<II16sQ32s32sQBB")
_V1_ID: Final = struct.Struct("<QQ")
_V2: Final = struct.Struct("<8sQQQ90s")
_V2_COMMON: Final = struct.Struct("<64sQBBQQ")
unpack_v2: Final = struct.Struct("<8s16xQ64s8xBBQQ").unpack_from
"""Reads (`V2_START`, sequence, parties, priority, payload type, epoch, expiry or 0) of a v2
body in one call, for the loop over received envelopes."""


# -- reading ---------------------------------------------------------------------------


def is_v2(body: bytes) -> bool:
    """Whether the header names version 8."""
    return body[_VERSION] == _V2_VERSION_BYTES


def version_of(body: bytes) -> int:
    """Return the wire version that the header names."""
    return int.from_bytes(body[_VERSION], "little")


def message_id_of(body: bytes) -> bytes:
    """Return the message id: 16 bytes chosen by the sender."""
    return body[_MESSAGE_ID]


def message_number_of(body: bytes) -> int:
    """Return the sender's number of the message.

    In v2 it is the first half of the message id, where nodes of this package write it. In v1
    it is the sequence number.
    """
    place = _MESSAGE_NUMBER if is_v2(body) else _SEQUENCE
    return int(_U64.unpack_from(body, place)[0])


def sequence_of(body: bytes) -> int:
    """Return the sequence number, which counts the sender's messages; in v2, those of a lane."""
    return int(_U64.unpack_from(body, _SEQUENCE)[0])


def timestamp_of(body: bytes) -> int:
    """Return when the sender made the message, by its clock: Unix time, microseconds."""
    return int(_U64.unpack_from(body, _TIMESTAMP)[0])


def epoch_of(body: bytes) -> int:
    """Return the sender's epoch from a v2 body."""
    return int(_U64.unpack_from(body, _EPOCH)[0])


def expiry_of(body: bytes) -> int | None:
    """Return the deadline from a v2 body: Unix time, microseconds; `None`: no deadline."""
    return int(_U64.unpack_from(body, _EXPIRY)[0]) or None


def check_header(raw: bytes, min_size: int) -> None:
    """Check the fields that v1 and v2 headers have in common.

    Raises:
        EnvelopeError: `raw` has fewer than `min_size` bytes, begins with another magic,
            or has an unknown priority or payload type.
    """
    if len(raw) < min_size:
        raise EnvelopeError(f"not an envelope: {len(raw)} bytes, the smallest has {min_size}")
    if raw[:4] != _MAGIC_BYTES:
        raise EnvelopeError(
            f"not an envelope: begins with {raw[:4].hex(' ')}, not {_MAGIC_BYTES.hex(' ')}"
        )
    if raw[PRIORITY] > MAX_PRIORITY:
        raise EnvelopeError(f"not an envelope: priority {raw[PRIORITY]}, known are 0 to 3")
    if raw[PAYLOAD_TYPE] > MAX_PAYLOAD_TYPE:
        raise EnvelopeError(f"not an envelope: payload type {raw[PAYLOAD_TYPE]}, known are 0 to 4")


# -- writing ---------------------------------------------------------------------------


def encode_v1_header(
    parties: bytes,
    sequence: int,
    timestamp_us: int,
    priority: int,
    payload_type: int,
    message_id: bytes | None,
) -> bytes:
    """Encode a v1 header. The caller has checked the ranges.

    `parties` are sender and recipient, 64 bytes. Without a `message_id`, sequence and
    timestamp take its place, as live v1 peers write it.
    """
    return _V1.pack(
        MAGIC,
        V1_VERSION,
        _V1_ID.pack(sequence, timestamp_us) if message_id is None else message_id,
        sequence,
        parties[:32],
        parties[32:],
        timestamp_us,
        priority,
        payload_type,
    )


def encode_v2_body(
    parties: bytes,
    payload: bytes,
    message_number: int,
    sequence_number: int,
    timestamp_us: int,
    priority: int,
    payload_type: int,
    epoch: int,
    expires_at_us: int,
) -> bytes:
    """Encode header and payload of a v2 envelope. The caller has checked the ranges.

    `parties` are sender and recipient, 64 bytes.
    """
    common = encode_v2_common(parties, timestamp_us, priority, payload_type, epoch, expires_at_us)
    return complete_v2_body(common, payload, message_number, sequence_number, timestamp_us)


def encode_v2_common(
    parties: bytes,
    timestamp_us: int,
    priority: int,
    payload_type: int,
    epoch: int,
    expires_at_us: int,
) -> bytes:
    """Encode the end of a v2 header, which all messages of one `send_many()` call share."""
    return _V2_COMMON.pack(parties, timestamp_us, priority, payload_type, epoch, expires_at_us)


def complete_v2_body(
    common: bytes, payload: bytes, message_number: int, sequence_number: int, timestamp_us: int
) -> bytes:
    """Complete `common` to a body. Called per message, so it packs only what differs."""
    return _V2.pack(V2_START, message_number, timestamp_us, sequence_number, common) + payload


def with_epoch(body: bytes, epoch: int) -> bytes:
    """Return a copy of a v2 body with another epoch."""
    return body[:_EPOCH] + _U64.pack(epoch) + body[_EPOCH + _U64.size :]


def with_expiry(body: bytes, expires_at_us: int) -> bytes:
    """Return a copy of a v2 body with another deadline (Unix time, microseconds; 0: none)."""
    return body[:_EXPIRY] + _U64.pack(expires_at_us) + body[_EXPIRY + _U64.size :]
