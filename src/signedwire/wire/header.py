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

A v2 envelope has version 9, a random message id, and more fields:

    106  epoch             u64 LE; grows when the sender loses its state
    114  expires_at_us     u64 LE, Unix time; 0: never
    122  kind              0 message, 1 request, 2 reply, 3 publication, 4 control
    123  control_type      of a control message: 1 subscribe, 2 unsubscribe; 0 in all others
    124  flags             bit 0: durable; other bits are signed and ignored
    125  subject_size      0 to 255
    126  subject           UTF-8 without control characters
         reply_to          only in a reply: the leaf of its request, 32 bytes
                           here its payload begins, at `payload_start()`

The four priorities have two *streams* each: those of durable messages are 0 to 3, the
priority, and those of volatile messages are 4 to 7, the priority and 4. Sequence numbers,
marks, batches and credit are of a stream, and an epoch is of the four streams of a kind.

A *body* is header and payload. Callers read a byte of it by its position (`body[PRIORITY]`), and
every other field with a function of this module. Version 8 was an earlier form of v2, which
nobody reads any more.
"""

from __future__ import annotations

import re
import struct
from functools import lru_cache
from typing import Final

from signedwire.errors import EnvelopeError
from signedwire.types import ControlType, Kind, PayloadType, Priority

__all__ = [
    "DURABLE",
    "FLAGS",
    "HANDLED_CONTROLS",
    "KIND",
    "MAGIC",
    "MAX_KIND_OF_MESSAGE",
    "MAX_PAYLOAD_TYPE",
    "MAX_PRIORITY",
    "MAX_V2_HEADER_SIZE",
    "MESSAGE_ID_SIZE",
    "MIN_V2_HEADER_SIZE",
    "PAYLOAD_TYPE",
    "PRIORITY",
    "V1_HEADER_SIZE",
    "V1_VERSION",
    "STREAMS",
    "SUBJECT_SIZE",
    "V2_START",
    "V2_VERSION",
    "VOLATILE",
    "check_header",
    "check_v2_header",
    "control_type_of",
    "encode_v1_header",
    "encode_v2_common",
    "epoch_of",
    "expiry_of",
    "has_sound_end",
    "is_durable",
    "is_subject",
    "is_v2",
    "kind_of",
    "message_id_of",
    "pack_v2_start",
    "parties_of",
    "payload_start",
    "recipient_of",
    "reply_to_of",
    "sender_of",
    "sequence_of",
    "stream_of",
    "subject_of",
    "timestamp_of",
    "unpack_v2",
    "version_of",
    "with_epoch",
    "with_expiry",
]

MAGIC: Final = 0x4F4D4E49
V1_VERSION: Final = 7
V2_VERSION: Final = 9
V1_HEADER_SIZE: Final = 106
MIN_V2_HEADER_SIZE: Final = 126
"""Size of a v2 header without subject and reply_to, in bytes."""
MAX_V2_HEADER_SIZE: Final = MIN_V2_HEADER_SIZE + 255 + 32

PRIORITY: Final = 104
PAYLOAD_TYPE: Final = 105

MAX_PRIORITY: Final = max(Priority)
MAX_PAYLOAD_TYPE: Final = max(PayloadType)
KIND: Final = 122
MAX_KIND_OF_MESSAGE: Final = int(Kind.PUBLICATION)
"""The highest kind that is no control message."""
_CONTROL: Final = int(Kind.CONTROL)
HANDLED_CONTROLS: Final = frozenset(
    _CONTROL + (type_ << 8) for type_ in (ControlType.SUBSCRIBE, ControlType.UNSUBSCRIBE)
)
"""The control messages that are handled, by the number that `unpack_v2` has for their kind."""

MESSAGE_ID_SIZE: Final = 16
_SEQUENCE: Final = 24
_TIMESTAMP: Final = 96
_EPOCH: Final = 106
_EXPIRY: Final = 114
_CONTROL_TYPE: Final = 123
FLAGS: Final = 124
SUBJECT_SIZE: Final = 125

DURABLE: Final = 1
VOLATILE: Final = 4
"""The first stream of volatile messages."""
STREAMS: Final = 8
"""Number of streams in each direction."""
_REPLY_TO_SIZE: Final = 32
_REPLY: Final = int(Kind.REPLY)
_OLD_V2_VERSION_BYTES: Final = (8).to_bytes(4, "little")
_MAGIC_BYTES: Final = MAGIC.to_bytes(4, "little")
_V2_VERSION_BYTES: Final = V2_VERSION.to_bytes(4, "little")
V2_START: Final = _MAGIC_BYTES + _V2_VERSION_BYTES
"""The first 8 bytes of every v2 envelope."""

_CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_U64: Final = struct.Struct("<Q")
_V1: Final = struct.Struct("<II16sQ32s32sQBB")
_V1_ID: Final = struct.Struct("<QQ")
_V2_COMMON: Final = struct.Struct("<64sQBBQQBBBB")
pack_v2_start: Final = struct.Struct("<8s16sQ").pack
"""Writes (`V2_START`, message id, sequence), which differ between the messages of one call. The
common end of the header follows, then the payload."""
unpack_v2: Final = struct.Struct("<8s16xQ64s8xBBQQHxB").unpack_from
"""Reads (`V2_START`, sequence, parties, priority, payload type, epoch, expiry or 0, kind, subject
size) of a v2 body in one call, for the loop over received envelopes. The number of the kind has
the control type in its second byte: kind + 256 × control type."""


# -- reading ---------------------------------------------------------------------------


def is_v2(body: bytes) -> bool:
    """Whether the header names version 9.

    Raises:
        EnvelopeError: it names version 8, the earlier form of v2.
    """
    version = body[4:8]
    if version == _OLD_V2_VERSION_BYTES:
        raise EnvelopeError(
            "an envelope of version 8, which this signedwire does not read",
            "An earlier signedwire made it: use that one to read it",
        )
    return version == _V2_VERSION_BYTES


def version_of(body: bytes) -> int:
    """Return the wire version that the header names."""
    return int.from_bytes(body[4:8], "little")


def message_id_of(body: bytes) -> bytes:
    """Return the message id: 16 bytes chosen by the sender."""
    return body[8:24]


def sender_of(body: bytes) -> bytes:
    """Return the sender's public key, 32 bytes."""
    return body[32:64]


def recipient_of(body: bytes) -> bytes:
    """Return the recipient's public key, 32 bytes."""
    return body[64:96]


def parties_of(body: bytes) -> bytes:
    """Return sender and recipient together, 64 bytes."""
    return body[32:96]


def sequence_of(body: bytes) -> int:
    """Return the sequence number, which counts the sender's messages; in v2, those of a stream."""
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


def kind_of(body: bytes) -> Kind:
    """Return the kind from a v2 body."""
    return Kind(body[KIND])


def control_type_of(body: bytes) -> ControlType:
    """Return the control type from the v2 body of a control message."""
    return ControlType(body[_CONTROL_TYPE])


def reply_to_of(body: bytes) -> bytes:
    """Return the leaf of the request from the v2 body of a reply, 32 bytes."""
    end = payload_start(body)
    return body[end - _REPLY_TO_SIZE : end]


def is_durable(body: bytes) -> bool:
    """Whether a v2 body is of a durable message, which stores keep."""
    return bool(body[FLAGS] & DURABLE)


def stream_of(body: bytes) -> int:
    """Return the stream of a v2 body."""
    return body[PRIORITY] if body[FLAGS] & DURABLE else body[PRIORITY] + VOLATILE


def subject_of(body: bytes) -> str:
    """Return the subject from a v2 body."""
    return body[MIN_V2_HEADER_SIZE : MIN_V2_HEADER_SIZE + body[SUBJECT_SIZE]].decode()


def payload_start(body: bytes) -> int:
    """Return the position of the payload in a v2 body, which is the size of its header."""
    size = MIN_V2_HEADER_SIZE + body[SUBJECT_SIZE]
    return size + _REPLY_TO_SIZE if body[KIND] == _REPLY else size


@lru_cache(maxsize=1024)
def is_subject(raw: bytes) -> bool:
    """Whether these bytes, at most 255, may be a subject: UTF-8 without control characters.

    Not whether it is in NFC, or printable: then verifiers with other tables of Unicode would
    judge one proof differently.
    """
    try:
        return not _CONTROLS.search(raw.decode())
    except UnicodeDecodeError:
        return False


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


def check_v2_header(body: bytes) -> None:
    """Check the fields that only a v2 header has. `check_header()` has checked the others.

    Raises:
        EnvelopeError: the kind, the control type or the subject is not one of v2, or the header
            is longer than `body`.
    """
    kind, control_type = body[KIND], body[_CONTROL_TYPE]
    if kind > _CONTROL:
        raise EnvelopeError(f"not an envelope: kind {kind}, known are 0 to {_CONTROL}")
    if kind == _CONTROL and kind + (control_type << 8) not in HANDLED_CONTROLS:
        raise EnvelopeError(f"not an envelope: control type {control_type}, handled are 1 and 2")
    if kind != _CONTROL and control_type:
        raise EnvelopeError(f"not an envelope: control type {control_type} in kind {kind}")
    if not has_sound_end(body):
        raise EnvelopeError(
            "not an envelope: its header is not whole, or its subject is not UTF-8, or has a "
            "control character"
        )


def has_sound_end(body: bytes) -> bool:
    """Whether subject and reply_to fit into a v2 body, and the subject may be one."""
    end = MIN_V2_HEADER_SIZE + body[SUBJECT_SIZE]
    return payload_start(body) <= len(body) and is_subject(body[MIN_V2_HEADER_SIZE:end])


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


def encode_v2_common(
    parties: bytes,
    timestamp_us: int,
    priority: int,
    payload_type: int,
    epoch: int,
    expires_at_us: int,
    kind: int = 0,
    subject: bytes = b"",
    reply_to: bytes = b"",
    *,
    control_type: int = 0,
    is_durable: bool = False,
) -> bytes:
    """Encode the end of a v2 header, which all messages of one `send_many()` call share.

    The caller has checked the ranges. `parties` are sender and recipient, 64 bytes.
    """
    fixed = _V2_COMMON.pack(
        parties,
        timestamp_us,
        priority,
        payload_type,
        epoch,
        expires_at_us,
        kind,
        control_type,
        DURABLE if is_durable else 0,
        len(subject),
    )
    return fixed + subject + reply_to


def with_epoch(body: bytes, epoch: int) -> bytes:
    """Return a copy of a v2 body with another epoch."""
    return body[:_EPOCH] + _U64.pack(epoch) + body[_EPOCH + _U64.size :]


def with_expiry(body: bytes, expires_at_us: int) -> bytes:
    """Return a copy of a v2 body with another deadline (Unix time, microseconds; 0: none)."""
    return body[:_EXPIRY] + _U64.pack(expires_at_us) + body[_EXPIRY + _U64.size :]
