"""Texts, figures and errors about the messages of `signedwire send`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from signedwire.cli.errors import BadInput, NotDone, code_of, explain
from signedwire.cli.exit_codes import ExitCode
from signedwire.config import TransportConfig
from signedwire.delivery.receipt import Receipt
from signedwire.errors import DeliveryError
from signedwire.types import DeliveryState, Target

__all__ = ["UNCONFIRMED", "at_line", "milliseconds", "saying_fate", "too_long_for_v1", "wire_of"]

UNCONFIRMED: Final = "v1 peers do not confirm"


def too_long_for_v1(size: int, config: TransportConfig, address: Target) -> BadInput:
    """Return the error for a payload that only v2 can carry, where a v1 peer seems to be."""
    return BadInput(
        f"a payload of {size} bytes is over the v1 limit of {config.max_v1_payload_size}, "
        f"and {address} hung up on TLS, as v1 peers do; it was not sent",
        "Split it, or raise max_v1_payload_size where the peer is known to take more",
    )


def milliseconds(receipt: Receipt, state: DeliveryState) -> float | None:
    """Return the time from writing a message to the peer's answer that it reached `state`."""
    at_us = dict(receipt.history)  # of each state, the last time that it was reached
    if not receipt.is_confirmed or state not in at_us or DeliveryState.WRITTEN not in at_us:
        return None
    took_us = at_us[state] - at_us[DeliveryState.WRITTEN]
    return took_us / 1000 if took_us >= 0 else None  # the clock was set back meanwhile


def at_line(number: int, error: DeliveryError | BadInput | NotDone) -> NotDone:
    """Return the error of a line of standard input, which names the line."""
    fact, hint = explain(error)
    return NotDone(f"line {number} of standard input: {fact}", hint, code_of(error), cause=error)


def wire_of(receipt: Receipt) -> str | None:
    """Return the wire that a message went over; `None`: it is stored, and was not sent."""
    if receipt.is_unconfirmed:
        return "v1"
    return None if receipt.state is DeliveryState.PERSISTED else "v2"


@contextlib.contextmanager
def saying_fate(fate: str) -> Iterator[None]:
    """Report what became of the message if its result cannot be printed.

    Raises:
        NotDone: standard output cannot be written.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise NotDone(
            f"standard output cannot be written ({error.strerror}); {fate}",
            "Do not send it again",
            ExitCode.SYSTEM,
        ) from None
