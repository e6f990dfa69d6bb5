"""What became of a message of `signedwire send`, in words and figures."""

from __future__ import annotations

from typing import Final

from signedwire.cli.errors import BadInput, NotDone, code_of, explain
from signedwire.config import TransportConfig
from signedwire.delivery.receipt import Receipt
from signedwire.errors import DeliveryError
from signedwire.types import DeliveryState, Target

__all__ = [
    "HOW_IT_GOES",
    "MOST_UNCONFIRMED",
    "NO_ADDRESS",
    "UNCONFIRMED",
    "at_line",
    "milliseconds",
    "too_long_for_v1",
    "wire_of",
]

UNCONFIRMED: Final = "v1 peers do not confirm"
MOST_UNCONFIRMED: Final = 32 * 1024
"""Lines. A socket holds up to 4 MiB by default on Linux, and a v1 message has over 170 bytes."""
NO_ADDRESS: Final = "no address is known for the peer yet"
HOW_IT_GOES: Final = (
    "It is sent when `signedwire send DID@host:port` to this peer runs next, or with --peers FILE "
    "that has its address; after `unmet_max_age` it is given up"
)


def too_long_for_v1(size: int, config: TransportConfig, address: Target) -> BadInput:
    """The error for what goes over v2 or not at all, where a v1 peer seems to be."""
    return BadInput(
        f"a payload of {size} bytes is over the v1 limit of {config.max_v1_payload_size}, "
        f"and {address} hung up on TLS, as v1 peers do; it was not sent",
        "Split it, or raise max_v1_payload_size where the peer is known to take more",
    )


def milliseconds(receipt: Receipt, state: DeliveryState) -> float | None:
    """From writing to the peer's word that it has accepted or handled the message."""
    at_us = dict(receipt.history)  # the last time that each was reached
    if not receipt.is_confirmed or state not in at_us or DeliveryState.WRITTEN not in at_us:
        return None
    took_us = at_us[state] - at_us[DeliveryState.WRITTEN]
    return took_us / 1000 if took_us >= 0 else None  # the clock was set back meanwhile


def at_line(number: int, error: DeliveryError | BadInput | NotDone) -> NotDone:
    """The error of a line, which names it."""
    fact, hint = explain(error)
    return NotDone(f"line {number} of standard input: {fact}", hint, code_of(error), cause=error)


def wire_of(receipt: Receipt) -> str | None:
    """The wire that a message went over; `None`: it is stored, and has not left."""
    if receipt.is_unconfirmed:
        return "v1"
    return None if receipt.state is DeliveryState.PERSISTED else "v2"
