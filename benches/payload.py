"""Payloads of the same encoded size for both sides.

signedwire sends any bytes. An omnimesh client sends only protobuf messages, so there
the bytes are the data of an `AgentCommand`, as much of it as makes the whole encoded
payload equally long (wire-v1: `EnvelopePayload` 1, `AgentCommand` 1 and 4).
"""

from __future__ import annotations

from typing import Final

__all__ = ["COMMAND", "MAX_SIZE", "v1_data_size"]

COMMAND: Final = "b"
"""The command type of every AgentCommand that is sent."""

MAX_SIZE: Final = 1024
"""What a v1 peer accepts as encoded payload."""


def v1_data_size(size: int) -> int:
    """Bytes of data in an AgentCommand whose encoded payload has `size` bytes.

    Where no length fits exactly, since a varint grows by a byte at 128, one byte less.
    """
    for data_size in range(size, 0, -1):
        if _encoded_size(data_size) <= size:
            return data_size
    raise ValueError(f"no AgentCommand has an encoded payload of {size} bytes")


def _encoded_size(data_size: int) -> int:
    command = 2 + len(COMMAND) + 1 + _varint_size(data_size) + data_size
    return 1 + _varint_size(command) + command


def _varint_size(value: int) -> int:
    return 1 if value < 128 else 2
