"""Whole v2 bodies in one call."""

from __future__ import annotations

from typing import Any

from signedwire.wire.header import V2_START, encode_v2_common, pack_v2_start

__all__ = ["encode_v2_body"]


def encode_v2_body(
    parties: bytes,
    payload: bytes,
    message_id: bytes,
    sequence_number: int,
    *common: Any,
    **named: Any,
) -> bytes:
    """Header and payload of a v2 envelope; the further arguments are of `encode_v2_common()`."""
    end = encode_v2_common(parties, *common, **named)
    return pack_v2_start(V2_START, message_id, sequence_number) + end + payload
