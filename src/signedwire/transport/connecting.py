"""Connects over a network within limits of time, for dialers and probes."""

from __future__ import annotations

import asyncio
from typing import Any

from signedwire.errors import ConnectTimeout, ResolveTimeout
from signedwire.logs import EventLog
from signedwire.transport.guarded_stream import guarded
from signedwire.transport.network import Network, Receiver, Resolving, Stream
from signedwire.types import Target

__all__ = ["connect", "expire", "resolve"]


async def resolve(network: Network, target: Target, timeout: float | None) -> Any:
    """Look a target up for `connect()`; return `None` if the network looks nothing up.

    Args:
        network: The network.
        target: The target.
        timeout: Limit in seconds; `None`: no limit.

    Raises:
        DialError: The network does not know the target.
        ResolveTimeout: No answer came in time.
    """
    if not isinstance(network, Resolving):
        return None
    try:
        async with asyncio.timeout(timeout):
            return await network.resolve(target)
    except TimeoutError:
        name = getattr(target, "host", target)
        raise ResolveTimeout(
            target,
            f"the name {name} was not resolved within {timeout:g} s",
            "Does the name server answer? An IP address needs none",
        ) from None


async def connect(
    network: Network,
    target: Target,
    receiver: Receiver,
    resolved: Any,
    timeout: float | None,
    log: EventLog,
) -> Stream:
    """Connect to a target. Cancelling leaves nothing open.

    Args:
        network: The network.
        target: The target.
        receiver: The receiver of the stream.
        resolved: The result of `resolve()` for the target.
        timeout: Limit in seconds; `None`: no limit.
        log: Receives the faults of the stream.

    Raises:
        DialError: The target is not reached.
        ConnectTimeout: No answer came in time.
    """
    receiver = guarded(network, receiver, log)
    try:
        async with asyncio.timeout(timeout):
            if isinstance(network, Resolving):
                return await network.dial(target, receiver, resolved)
            return await network.dial(target, receiver)
    except TimeoutError:
        raise ConnectTimeout(target, f"no answer within {timeout:g} s") from None


def expire(step: asyncio.Timeout) -> None:
    """End the block of `asyncio.timeout()` now, with TimeoutError. In the loop of the block.

    A block whose time is over already ends without this call. A second deadline for it would be
    a RuntimeError.
    """
    if not step.expired():
        step.reschedule(asyncio.get_running_loop().time())
