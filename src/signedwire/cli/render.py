"""Messages and envelopes, as people and as programs read them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, Final

from signedwire.cli.output import escape
from signedwire.errors import DidError, SignedWireError
from signedwire.types import PayloadType, Priority
from signedwire.wire.envelope import SignedEnvelope
from signedwire.wire.header import RECIPIENT
from signedwire.wire.large import LargeEnvelope

__all__ = [
    "MAX_DECODED",
    "UNPROVEN",
    "at_utc",
    "can_decode",
    "count_of",
    "decoded_fields",
    "decoded_payload",
    "envelope_fields",
    "payload_text",
    "recipient_text",
    "word",
]

UNPROVEN: Final = "unproven"
_MAX_TEXT: Final = 400
MAX_DECODED: Final = 64 * 1024
"""Bytes: a larger payload is not taken apart as one of v1, whose live peers take 1024. One of
1 MiB can hold half a million parts: 1.2 s and 50 MB for a message that anyone may send."""


def count_of(number: int, noun: str) -> str:
    """`1 line`, `2 lines`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def word(member: Priority | PayloadType) -> str:
    """`PayloadType.SENSOR_FUSION` as `sensor-fusion`, as the options have it."""
    return member.name.lower().replace("_", "-")


def at_utc(time_us: int) -> str:
    """Unix time in µs as ISO 8601 in UTC; a time beyond all calendars as a number."""
    seconds, microseconds = divmod(time_us, 1_000_000)
    try:
        whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return f"{time_us} us"
    return f"{whole}.{microseconds:06d}Z"


def recipient_text(envelope: SignedEnvelope) -> str:
    """Whom it is for; hex digits where these bytes are no DID."""
    try:
        return str(envelope.recipient)
    except DidError:
        return envelope.body[RECIPIENT].hex()


def envelope_fields(envelope: SignedEnvelope, *, is_proven: bool) -> dict[str, object]:
    """Everything in an envelope, for JSON; the sender only where he is proven.

    Of one that was too large to be held, `encoding` and `payload` are null.
    """
    payload = envelope.payload
    text: str | None
    encoding: str | None
    try:
        text, encoding = payload.decode(), "text"
    except UnicodeDecodeError:
        text, encoding = payload.hex(), "hex"
    if isinstance(envelope, LargeEnvelope):
        text = encoding = None
    return {
        "sender": str(envelope.sender) if is_proven else None,
        "is_proven": is_proven,
        "recipient": recipient_text(envelope),
        "sequence_number": envelope.sequence_number,
        "message_id": envelope.message_id.hex(),
        "timestamp_us": envelope.timestamp_us,
        "version": envelope.version,
        "wire": "v1" if envelope.epoch is None else "v2",
        "epoch": envelope.epoch,
        "expires_at_us": envelope.expires_at_us,
        "priority": word(envelope.priority),
        "payload_type": word(envelope.payload_type),
        "size": envelope.payload_size,
        "encoding": encoding,
        "payload": text,
    }


def payload_text(payload: bytes) -> str:
    """A payload on one line, harmless to a terminal: text, a v1 payload, or hex.

    In this order: printable text; a v1 payload, if the extra is there and it is one
    through and through; text with line ends or tabs, escaped; hex digits.
    """
    if not payload:
        return "(empty)"
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        text = None
    if text is not None and text.isprintable():
        return _cut(text, len(payload))
    decoded = decoded_payload(payload)
    if decoded is not None:
        kind, fields = decoded
        return _cut(f"{kind}{_fields_text(fields)}", len(payload))
    # No more of it than is shown, which leaves what is behind to the length alone.
    start = None if text is None else text[: _MAX_TEXT + 1]
    if start is not None and all(c.isprintable() or c in "\n\r\t" for c in start):
        return _cut(escape(start), len(payload))
    return _cut(
        f"hex {payload[: _MAX_TEXT // 2].hex()}", len(payload), len(payload) * 2 > _MAX_TEXT
    )


def decoded_fields(payload: bytes) -> dict[str, object] | None:
    """`decoded_payload` as one object for JSON."""
    decoded = decoded_payload(payload)
    return None if decoded is None else {"kind": decoded[0], **decoded[1]}


def can_decode() -> bool:
    """Whether the payloads extra is there."""
    try:
        from signedwire import payloads  # noqa: F401
    except ImportError:
        return False
    return True


def decoded_payload(payload: bytes) -> tuple[str, dict[str, object]] | None:
    """The kind and the fields of a v1 payload, or None where it is none.

    protobuf reads much that was never meant as such. So only what comes out byte for
    byte the same again, with no unknown field, passes. One of more than 64 KiB is not
    looked at.
    """
    if len(payload) > MAX_DECODED or not can_decode():
        return None
    from signedwire import payloads

    try:
        message = payloads.decode(payload)
        message.DiscardUnknownFields()
        if payloads.encode(message) != payload:
            return None
    except (SignedWireError, ValueError):
        return None
    return payloads.kind(message), _message_fields(message)


def _message_fields(message: Any) -> dict[str, object]:
    return {descriptor.name: _plain(value) for descriptor, value in message.ListFields()}


def _plain(value: Any) -> object:
    """A protobuf value as JSON has it: bytes as text or "0x…", floats as short as they are."""
    if isinstance(value, bytes):
        try:
            text = value.decode()
        except UnicodeDecodeError:
            return f"0x{value.hex()}"
        return text if text.isprintable() else f"0x{value.hex()}"
    if isinstance(value, float):
        # float32 on the wire: seven digits are all it has. JSON has no NaN.
        return float(f"{value:.7g}") if math.isfinite(value) else str(value)
    if isinstance(value, (str, int)):
        return value
    if hasattr(value, "ListFields"):
        return _message_fields(value)
    return [_plain(item) for item in value]


def _fields_text(fields: Mapping[str, object]) -> str:
    return "".join(f" {name}={_value_text(value)}" for name, value in fields.items())


def _value_text(value: object) -> str:
    if isinstance(value, str):
        return f'"{escape(value)}"'
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return f"({_fields_text(value).strip()})"
    if isinstance(value, list):
        return f"[{', '.join(map(_value_text, value))}]"
    return str(value)


def _cut(text: str, size: int, is_cut: bool = False) -> str:
    if len(text) > _MAX_TEXT:
        text, is_cut = text[:_MAX_TEXT], True
    return f"{text}… ({size} bytes)" if is_cut else text
