"""Connecting over a network within limits of time: what a dialer and a probe do alike."""

from __future__ import annotations

import asyncio
from typing import Any

from signedwire.errors import ConnectTimeout, ResolveTimeout
from signedwire.transport.network import Network, Receiver, Resolving, Stream
from signedwire.types import Target

__all__ = ["reach", "resolve"]


async def resolve(network: Network, target: Target, timeout: float | None) -> Any:
    """Look a target up, for `reach()`; `None` where the network looks nothing up.

    Args:
        timeout: Seconds; `None`: no limit.

    Raises:
        DialError: the target is unknown to the network.
        ResolveTimeout: no answer came in time.
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


async def reach(
    network: Network, target: Target, receiver: Receiver, resolved: Any, timeout: float | None
) -> Stream:
    """Connect to a target. Cancelling leaves nothing open.

    Args:
        resolved: What `resolve()` returned for the target.
        timeout: Seconds; `None`: no limit.

    Raises:
        DialError: nobody is reached there.
        ConnectTimeout: no answer came in time.
    """
    try:
        async with asyncio.timeout(timeout):
            if isinstance(network, Resolving):
                return await network.dial(target, receiver, resolved)
            return await network.dial(target, receiver)
    except TimeoutError:
        raise ConnectTimeout(target, f"no answer within {timeout:g} s") from None
