"""The v1 wire of one node: all that the rest of the node uses of this package."""

from __future__ import annotations

from collections.abc import Callable

from signedwire.delivery.endpoint import Endpoint
from signedwire.transport.dial_attempt import DialerParts
from signedwire.transport.dialer import Dialer
from signedwire.transport.inbound import InboundConnection
from signedwire.transport.runtime import Runtime
from signedwire.transport.v1.intake import V1Intake
from signedwire.transport.v1.receiver import V1Receiver
from signedwire.transport.v1.sender import V1Sender
from signedwire.types import Target

__all__ = ["V1Wire"]


class V1Wire:
    """Makes the senders and receivers of a node, and ends them.

    Args:
        runtime: The surroundings of all parts of the node.
        endpoint: The sessions of all peers.
    """

    def __init__(self, runtime: Runtime, endpoint: Endpoint) -> None:
        self._runtime = runtime
        self.intake = V1Intake(runtime, endpoint)

    def new_sender(
        self, parts: DialerParts, address: Target, on_unneeded: Callable[[Dialer], None]
    ) -> V1Sender:
        """Return a dialer for the peers at an address; see `V1Sender`."""
        return V1Sender(parts, address, on_unneeded)

    def new_receiver(self, connection: InboundConnection) -> V1Receiver:
        """Return the handler of an accepted connection."""
        return V1Receiver(self._runtime, self.intake, connection)

    async def end(self) -> bool:
        """End all checks of received frames. Returns what `wait_uncancelled()` does."""
        return await self.intake.end()

    def shut_down(self) -> None:
        """End the threads."""
        self.intake.shut_down()
