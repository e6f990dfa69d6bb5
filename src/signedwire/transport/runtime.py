"""The surroundings of every part of a node: configuration, identity, loop, counters, events, log.

This module imports none of the parts.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import random
import threading
from collections.abc import Callable
from typing import Final

from signedwire.clock import monotonic
from signedwire.config import TransportConfig
from signedwire.delivery.stranger_room import StrangerRoom
from signedwire.events import Event, EventQueue, LoopStalled
from signedwire.home import Home
from signedwire.identity import Identity
from signedwire.logs import EventLog, fields
from signedwire.routing import RoutingTable
from signedwire.stats import Counters
from signedwire.transport.drops import Drops
from signedwire.transport.lingering import Lingering
from signedwire.transport.network import Network
from signedwire.transport.shares import LoopShares
from signedwire.transport.tls import TlsIdentity
from signedwire.types import Did
from signedwire.wire.session import SessionLimits

__all__ = ["Runtime"]

_LOGGER: Final = "signedwire.transport"
_ONE_STALL: Final = 1.0
"""Seconds within which all links have noticed one stall of the event loop."""


class Runtime:
    """The surroundings of the parts of one node. It is the `Host` of their decisions.

    Args:
        config: The configuration.
        routing: The addresses of DIDs.
        network: Makes byte streams.
        us: The node's DID; `None`: the node accepts envelopes for any DID, over v1.
        identity: The node's key; `None`: the node speaks v1 alone.
    """

    def __init__(
        self,
        config: TransportConfig,
        routing: RoutingTable,
        network: Network,
        us: Did | None,
        identity: Identity | None,
    ) -> None:
        self.speaks_v2 = identity is not None and config.wire == "auto"
        if not self.speaks_v2 and not config.v1_peers:
            # An empty list means "no v1", which such a node could not do.
            config = config.replace(v1_peers="all")
        self.config = config
        self.routing = routing
        self.network = network
        self.us = us
        self._identity = identity
        self._tls: TlsIdentity | None = None
        self.session_limits = SessionLimits(
            hello_timeout=config.handshake_timeout,
            frame_timeout=config.frame_timeout,
            ping_interval=config.ping_interval,
            dead_timeout=config.dead_timeout,
            max_payload_size=config.max_payload_size,
        )
        self.counters = Counters()
        self.home = Home()
        self.events = EventQueue(self.home)
        self.log = EventLog(logging.getLogger(_LOGGER), config.names.in_words)
        self.drops = Drops(self.counters, self.events, self.log, self.call_soon)
        self.drop = self.drops.add
        self.drop_refused = self.drops.add_refused
        self.drop_failed = self.drops.add_failed
        self.drop_replaced = self.drops.add_replaced
        self.rng = random.Random()
        self.shares = LoopShares()
        """Divides the loop's time among the links."""
        self.stranger_room = StrangerRoom()
        """Room for the unfinished batches of strangers."""
        self.v1_sequence = itertools.count(1)
        """Sequence numbers of v1 envelopes whose messages have none: no store keeps those."""
        self.lingering = Lingering()
        """Links that have ended and still send their last bytes."""
        self._stalled_at = -math.inf
        """When the last stall of the event loop was reported."""
        self.is_open = False
        """Whether messages may be sent and received."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self.loop_thread = 0
        """The thread of the loop, as `threading.get_ident()` names it; 0: no loop yet."""

    # -- the loop -------------------------------------------------------------------------

    def settle(self) -> None:
        """Make the running event loop that of the node.

        Raises:
            WrongContextError: no event loop runs in this thread.
        """
        self.home.settle()
        self._loop = asyncio.get_running_loop()
        self.loop_thread = self.home.thread

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The node's loop. After `settle()`."""
        assert self._loop is not None
        return self._loop

    @property
    def is_in_loop(self) -> bool:
        """Whether this is the loop's own thread."""
        return threading.get_ident() == self.loop_thread

    def call_soon(self, callback: Callable[..., None], *args: object) -> None:
        """Call `callback` in the loop. Any thread."""
        loop = self._loop
        assert loop is not None
        try:
            if threading.get_ident() == self.loop_thread:
                loop.call_soon(callback, *args)
            else:
                loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            if self.is_open:  # else the loop may be closed
                raise

    def call_later(
        self, seconds: float, callback: Callable[..., None], *args: object
    ) -> asyncio.TimerHandle:
        """Call `callback` in the loop after `seconds`, by the loop's clock."""
        return self.loop.call_later(seconds, callback, *args)

    def on_routes(self) -> None:
        """Read on from links whose peers are no strangers any more. Any thread."""
        if self.stranger_room.waiting:
            self.call_soon(self.stranger_room.look_again)

    # -- v2 ---------------------------------------------------------------------------------

    def open_tls(self) -> None:
        """Make the TLS identity, if the node speaks v2."""
        if self._identity is not None and self.speaks_v2:
            self._tls = TlsIdentity(self._identity)

    @property
    def identity(self) -> Identity:
        """The node's key. For nodes that speak v2."""
        assert self._identity is not None
        return self._identity

    @property
    def tls(self) -> TlsIdentity:
        """The TLS identity. For nodes that speak v2, after `open_tls()`."""
        assert self._tls is not None
        return self._tls

    # -- events -----------------------------------------------------------------------------

    def note_stall(self, seconds: float) -> None:
        """Report that the event loop stood still for at least `seconds`, which a link has noticed.

        Other links notice the same stall, each when its timer runs.
        """
        now = monotonic()
        if now - self._stalled_at < max(seconds, _ONE_STALL):
            return
        self._stalled_at = now
        text = "the event loop stood still for %.1f s or more; no link is closed for that"
        self.log.warning(text, seconds, extra=fields("stall", seconds=seconds))
        self.emit(LoopStalled(seconds))

    def emit(self, event: Event) -> None:
        """Put an event into `Node.events()`."""
        self.events.put(event)
