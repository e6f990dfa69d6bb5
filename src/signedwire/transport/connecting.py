"""Connects over a network within limits of time, for dialers and probes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from signedwire.errors import ConnectTimeout, DialError, ResolveTimeout
from signedwire.logs import FATAL, EventLog, fields
from signedwire.transport.guarded_stream import guarded
from signedwire.transport.network import Network, Receiver, Resolving, Stream
from signedwire.types import Target

__all__ = ["connect", "expire", "fault_of", "is_current", "resolve"]

T = TypeVar("T")


async def resolve(network: Network, target: Target, timeout: float | None, log: EventLog) -> Any:
    """Look a target up for `connect()`; return `None` if the network looks nothing up.

    Args:
        network: The network.
        target: The target.
        timeout: Limit in seconds; `None`: no limit.
        log: Receives an error that a network may not raise.

    Raises:
        DialError: The network does not know the target, or raises what it may not.
        ResolveTimeout: No answer came in time.
    """
    if not isinstance(network, Resolving):
        return None
    try:
        async with asyncio.timeout(timeout):
            return await _call(lambda: network.resolve(target), target, log)
    except DialError:
        raise
    except TimeoutError:
        name = getattr(target, "host", target)
        raise ResolveTimeout(
            target,
            f"the name {name} was not resolved {_within(timeout)}",
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
        log: Receives the faults of the stream, and an error that a network may not raise.

    Raises:
        DialError: The target is not reached, or the network raises what it may not.
        ConnectTimeout: No answer came in time.
    """
    receiver = guarded(network, receiver, log)

    def dial() -> Awaitable[Stream]:
        if isinstance(network, Resolving):
            return network.dial(target, receiver, resolved)
        return network.dial(target, receiver)

    try:
        async with asyncio.timeout(timeout):
            return await _call(dial, target, log)
    except DialError:
        raise
    except TimeoutError:
        raise ConnectTimeout(target, f"no answer {_within(timeout)}") from None


def _within(timeout: float | None) -> str:
    # Without a limit of ours, the network had one of its own.
    return "in time" if timeout is None else f"within {timeout:g} s"


async def _call(call: Callable[[], Awaitable[T]], target: Target, log: EventLog) -> T:
    """Await a call of a network. An error that a network may not raise becomes a DialError.

    CancelledError is one if nobody has cancelled this task: the network has awaited a task of
    its own that was cancelled.
    """
    task = asyncio.current_task()
    try:
        return await call()
    except (DialError, TimeoutError, *FATAL):
        raise
    except BaseException as error:
        is_cancelled = isinstance(error, asyncio.CancelledError) and task and task.cancelling()
        if is_cancelled or not is_current(task):
            raise
        raise fault_of(error, target, log) from None


def fault_of(error: BaseException, target: Target, log: EventLog) -> DialError:
    """Log an error of a kind that an attempt to connect may not raise; return one that it may."""
    extra = fields("dial fault", address=target, error=type(error).__name__)
    text = "connecting to %s failed with an unexpected error"
    log.error(text, target, exc_info=error, extra=extra)
    return DialError(target, repr(error))


def is_current(task: asyncio.Task[Any] | None) -> bool:
    """Return whether a task runs now.

    The code of a task also runs when the task is collected, because its loop was closed before
    its end. Then it can close nothing and start nothing.
    """
    try:
        return asyncio.current_task() is task
    except RuntimeError:  # no loop runs
        return False


def expire(step: asyncio.Timeout) -> None:
    """End the block of `asyncio.timeout()` now, with TimeoutError. In the loop of the block.

    A block whose time is over already ends without this call. A second deadline for it would be
    a RuntimeError.
    """
    if not step.expired():
        step.reschedule(asyncio.get_running_loop().time())
