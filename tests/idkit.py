"""Message ids for tests, made from numbers. Their first 8 hex digits are the number."""

from __future__ import annotations

__all__ = ["id_of", "number_of"]


def id_of(number: int) -> bytes:
    """Return the 16 bytes of the message id with this number."""
    return number.to_bytes(4, "big") + bytes(12)


def number_of(message_id: str) -> int:
    """Return the number of a message id that `id_of()` made."""
    return int(message_id[:8], 16)
