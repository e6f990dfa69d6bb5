"""One attempt to connect: the lookup of a name, the wait for a slot, the opening."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple

from signedwire.delivery.backoff import dial_delays
from signedwire.delivery.dial_history import DialHistory
from signedwire.delivery.endpoint import Endpoint
from signedwire.errors import DialError
from signedwire.transport.connecting import connect, expire, fault_of, is_current, resolve
from signedwire.transport.network import Receiver
from signedwire.transport.runtime import Runtime
from signedwire.transport.slots import ConnectionSlots, SlotUser
from signedwire.types import Target

__all__ = ["CalledOffError", "DialAttempt", "DialerParts"]


class DialerParts(NamedTuple):
    """The surroundings of all dialers of a node."""

    runtime: Runtime
    endpoint: Endpoint
    slots: ConnectionSlots

    def new_history(self) -> DialHistory:
        """Return the history of an address that was never dialed."""
        config, rng = self.runtime.config, self.runtime.rng
        is_durable = self.endpoint.context.store.is_durable
        return DialHistory(partial(dial_delays, config, rng, is_durable=is_durable))


class CalledOffError(Exception):
    """The slot of an attempt is needed for another one."""


class DialAttempt:
    """One attempt of a dialer to connect.

    The slot stays with the dialer when the attempt ends, also if it fails.

    Args:
        parts: The surroundings of all dialers.
        address: Where to connect.
    """

    def __init__(self, parts: DialerParts, address: Target) -> None:
        self._runtime = parts.runtime
        self._slots = parts.slots
        self._address = address
        self._resolved: Any = None
        self._slot: asyncio.Future[None] | None = None
        self._opening: asyncio.Timeout | None = None
        self._task: asyncio.Task[Any] | None = None
        self.is_called_off = False
        """Whether the slot is needed for another attempt."""

    @property
    def is_abandoned(self) -> bool:
        """Whether its task is being collected, because the loop was closed: nothing can be done."""
        return not is_current(self._task)

    async def run(self, dialer: SlotUser, open_: Callable[[DialAttempt], Awaitable[None]]) -> float:
        """Make the attempt; return the seconds from getting a slot to the open connection.

        Args:
            dialer: Gets the slot.
            open_: Opens the connection, by `reach()` of this attempt.

        Raises:
            DialError: The address is not reached. A fault of the network, or of this package,
                is logged and counts as an attempt: messages must not wait for ever.
            CalledOffError: `call_off()` was called before the connection was open.
        """
        self._task = asyncio.current_task()
        try:
            return await self._run(dialer, open_)
        except (DialError, CalledOffError):
            raise
        except Exception as error:  # noqa: BLE001 - it is logged
            if self.is_abandoned:
                raise GeneratorExit from None  # what was open could not be closed
            raise fault_of(error, self._address, self._runtime.log) from None

    async def _run(
        self, dialer: SlotUser, open_: Callable[[DialAttempt], Awaitable[None]]
    ) -> float:
        await self.look_up()
        loop = asyncio.get_running_loop()
        self._slot = loop.create_future()
        self._slots.acquire(dialer)
        await self._slot
        began = loop.time()
        await self._open(open_)
        return loop.time() - began

    async def look_up(self) -> None:
        """Look the host name up, without a slot: a lookup that hangs must not hold one.

        Raises:
            DialError: The name is unknown.
            ResolveTimeout: No answer came in time.
        """
        network, timeout = self._runtime.network, self._runtime.config.connect_timeout
        self._resolved = await resolve(network, self._address, timeout, self._runtime.log)

    async def _open(self, open_: Callable[[DialAttempt], Awaitable[None]]) -> None:
        """Open the connection, unless its slot is needed for another meanwhile."""
        try:
            async with asyncio.timeout(0 if self.is_called_off else None) as self._opening:
                await open_(self)
        except TimeoutError as error:
            assert self._opening is not None
            if self._opening.expired() and not isinstance(error, DialError):
                raise CalledOffError from None
            raise
        finally:
            self._opening = None

    async def reach(self, receiver: Receiver) -> None:
        """Connect to the address that was looked up.

        Args:
            receiver: The receiver of the stream.

        Raises:
            DialError: The address is not reached.
        """
        network, timeout = self._runtime.network, self._runtime.config.connect_timeout
        log = self._runtime.log
        await connect(network, self._address, receiver, self._resolved, timeout, log)

    def grant_slot(self) -> None:
        """Open the connection now: the dialer has a slot."""
        if self._slot is not None and not self._slot.done():
            self._slot.set_result(None)

    def call_off(self) -> None:
        """End the attempt: its slot is needed for another."""
        self.is_called_off = True
        if self._opening is not None:
            expire(self._opening)
