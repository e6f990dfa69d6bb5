"""Formats of messages and envelopes: as JSON for programs, as text for people."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, Final

from signedwire.cli.option_values import word
from signedwire.cli.output import escape
from signedwire.errors import DidError, SignedWireError
from signedwire.wire.envelope import SignedEnvelope
from signedwire.wire.header import recipient_of
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
    "quoted",
    "recipient_text",
]

UNPROVEN: Final = "unproven"
_MAX_TEXT: Final = 400
MAX_DECODED: Final = 64 * 1024
"""Maximum bytes of a payload that is decoded as one of v1; live v1 peers take 1024 bytes.

A payload of 1 MiB can hold half a million fields. To decode it takes 1.2 s and 50 MB, and
anybody may send it.
"""


def count_of(number: int, noun: str) -> str:
    """Return a number with its noun: `1 line`, `2 lines`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def at_utc(time_us: int) -> str:
    """Return a Unix time in µs as ISO 8601 in UTC; a time beyond all calendars as a number."""
    seconds, microseconds = divmod(time_us, 1_000_000)
    try:
        whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return f"{time_us} us"
    return f"{whole}.{microseconds:06d}Z"


def quoted(text: str) -> str:
    """Return `text` in double quotes on one line, harmless to a terminal, and not to be mistaken.

    A quote or a backslash in it has a backslash before it.
    """
    return '"' + escape(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def recipient_text(envelope: SignedEnvelope) -> str:
    """Return the DID of the recipient; hex digits if these bytes are no DID."""
    try:
        return str(envelope.recipient)
    except DidError:
        return recipient_of(envelope.body).hex()


def envelope_fields(envelope: SignedEnvelope, *, is_proven: bool) -> dict[str, object]:
    """Return all fields of an envelope, for JSON.

    `sender` is null unless the sender is proven. `encoding` and `payload` are null if the
    envelope was too large to be held in memory.
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
        "kind": word(envelope.kind),
        "subject": envelope.subject,
        "is_durable": envelope.durable,
        "priority": word(envelope.priority),
        "payload_type": word(envelope.payload_type),
        "size": envelope.payload_size,
        "encoding": encoding,
        "payload": text,
    }


def payload_text(payload: bytes) -> str:
    """Return a payload on one line, harmless to a terminal.

    The first of these that fits: printable text; the fields of a v1 payload, if the extra
    is installed; text with line ends or tabs, escaped; hex digits.
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
    # Only the part that is shown is examined, so that the time does not grow with the size.
    start = None if text is None else text[: _MAX_TEXT + 1]
    if start is not None and all(c.isprintable() or c in "\n\r\t" for c in start):
        return _cut(escape(start), len(payload))
    return _cut(
        f"hex {payload[: _MAX_TEXT // 2].hex()}", len(payload), len(payload) * 2 > _MAX_TEXT
    )


def decoded_fields(payload: bytes) -> dict[str, object] | None:
    """Return the result of `decoded_payload` as one object for JSON."""
    decoded = decoded_payload(payload)
    return None if decoded is None else {"kind": decoded[0], **decoded[1]}


def can_decode() -> bool:
    """Return whether the extra for payloads is installed."""
    try:
        from signedwire import payloads  # noqa: F401
    except ImportError:
        return False
    return True


def decoded_payload(payload: bytes) -> tuple[str, dict[str, object]] | None:
    """Return the kind and the fields of a v1 payload, or `None` if it is none.

    protobuf decodes many bytes that nobody encoded with it. So a payload counts only if
    encoding its known fields gives the same bytes. A payload of more than 64 KiB does not
    count.
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
    """Return a protobuf value for JSON: bytes as text or "0x…", floats with seven digits."""
    if isinstance(value, bytes):
        try:
            text = value.decode()
        except UnicodeDecodeError:
            return f"0x{value.hex()}"
        return text if text.isprintable() else f"0x{value.hex()}"
    if isinstance(value, float):
        # A float32 has seven digits. JSON has no NaN.
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
