"""The transport itself, in one event loop: its parts, its life, its counters.

    Outgoing   queues and connections to peers
    Links      open v2 links, and what peers say through them
    Incoming   the listener, its guests, and the inbox

`Node` and the blocking transports are its two faces. Except where a method says
otherwise, everything belongs to the loop in which `start()` ran.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Callable
from functools import partial
from typing import Final, TypeAlias

from signedwire.config import TransportConfig
from signedwire.delivery.evidence_log import EvidenceLog
from signedwire.delivery.store import Store
from signedwire.errors import ClosedError
from signedwire.events import Event, EventQueue
from signedwire.home import Home, Phase
from signedwire.identity import Identity
from signedwire.logs import EventLog, fields
from signedwire.routing import RoutingTable
from signedwire.stats import Counters, PoolStats, TransportStats
from signedwire.transport.clock_watch import ClockWatch
from signedwire.transport.descriptors import fit, free_descriptors
from signedwire.transport.drops import Drops
from signedwire.transport.evidence import close_evidence, open_evidence
from signedwire.transport.incoming import Incoming
from signedwire.transport.links import Links
from signedwire.transport.network import Network
from signedwire.transport.outbox import Outbox
from signedwire.transport.outgoing import Outgoing
from signedwire.transport.outlast import in_own_thread, next_turn, open_in_thread, outlast
from signedwire.transport.shares import LoopShares
from signedwire.transport.tls import TlsIdentity
from signedwire.types import Did
from signedwire.wire.link_frames import FRAME_MARGIN
from signedwire.wire.session import SessionLimits

__all__ = ["Core", "OpenStore"]

OpenStore: TypeAlias = Callable[[Callable[[Callable[[], None]], object]], Store]
"""Opens a store whose callbacks are to be called by what it is given."""


_LEAST_FOR_A_DISK: Final = 0.2
"""Seconds for the last commit, however little is left of `close_timeout`."""


class Core:
    """Sends to peers and receives from them; see the package's text for the parts.

    Args:
        us: Our DID; envelopes for another are refused. `None`: take them all.
        identity: Its key. Without it only v1 is spoken.
        open_store: Opens the store of the node, in a thread of its own.
    """

    def __init__(
        self,
        config: TransportConfig,
        routing: RoutingTable,
        network: Network,
        us: Did | None,
        identity: Identity | None = None,
        open_store: OpenStore | None = None,
    ) -> None:
        self.speaks_v2 = identity is not None and config.wire == "auto"
        if not self.speaks_v2 and not config.v1_peers:
            # Where v1 is all there is, naming nobody cannot mean nobody.
            config = config.replace(v1_peers="all")
        self.config = config
        self.routing = routing
        self.network = network
        self.session_limits = SessionLimits(
            hello_timeout=config.handshake_timeout,
            frame_timeout=config.frame_timeout,
            ping_interval=config.ping_interval,
            dead_timeout=config.dead_timeout,
            max_payload_size=config.max_payload_size,
            max_frame_size=config.max_payload_size + FRAME_MARGIN,
        )
        self.counters = Counters()
        self.home = Home()
        self.events = EventQueue(self.home)
        self.drops = Drops(self)
        self.drop = self.drops.add
        self.rng = random.Random()
        self.log = EventLog(logging.getLogger("signedwire.transport"))
        self._identity = identity
        self._open_store = open_store
        self.outbox: Outbox | None = None
        """What waits in the store; `None` without one."""
        self._us = us
        self.evidence: EvidenceLog | None = None
        """Keeps what is accepted; `None` without one."""
        self._tls: TlsIdentity | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.loop_thread = 0
        """Its thread; 0: none yet."""
        self._is_open = False
        self._is_called_off = False
        self._clock_watch: ClockWatch | None = None
        self._has_ended: asyncio.Event | None = None
        self.shares = LoopShares()
        """Which link may process its input when."""
        self.outgoing = Outgoing(self, us)
        self.incoming = Incoming(self, us)
        self.links = Links(self, us)

    # -- life -----------------------------------------------------------------------

    async def start(self) -> None:
        """Open the listener, if the configuration has one.

        Cancelled, and where it fails, it lets go of all that it had opened before it returns.

        Raises:
            ListenError: its address cannot be had.
            StoreOpenError: the store cannot be used.
            ConfigError: the access file cannot be used.
            EvidenceLogError: the evidence log cannot be used.
            ClosedError: `close()` was called meanwhile.
        """
        self.home.settle()
        self._loop = asyncio.get_running_loop()
        self.loop_thread = self.home.thread
        self._has_ended = asyncio.Event()
        try:
            await self._open()
        except BaseException:
            self.home.phase = Phase.FAILED
            self.incoming.stop_listening()
            try:
                await self._end(self._loop.time() + self.config.close_timeout)
            finally:
                self._has_ended.set()
            raise

    async def _open(self) -> None:
        if self._identity is not None and self.speaks_v2:
            self._tls = TlsIdentity(self._identity)
        if self._open_store is not None:
            assert self._loop is not None
            open_ = partial(self._open_store, self._loop.call_soon_threadsafe)
            limit = self.config.close_timeout
            self.outbox = Outbox(self, await open_in_thread(open_, Store.close, limit))
        await self._read_access_file()
        self.links.access.open(None if self.outbox is None else self.outbox.store)
        self.evidence = await open_evidence(self, self._us)
        await self.links.restore()
        self._fit_limits()
        await self.incoming.start()
        if self._is_called_off:
            raise ClosedError("this node was closed while it started", "Make a new one")
        self._is_open = True
        self._clock_watch = ClockWatch(self)
        if self.outbox is not None:
            self.outbox.start()
        self.home.phase = Phase.OPEN

    async def _read_access_file(self) -> None:
        """In a thread: many lines take seconds, in which the loop has other things to do."""
        if self.config.access_file is not None:
            reload, limit = self.links.access.reload, self.config.close_timeout
            await open_in_thread(reload, lambda _: None, limit)

    def _fit_limits(self) -> None:
        """Have no more connections than the process may open."""
        if not getattr(self.network, "uses_descriptors", False):
            return
        limits = fit(self.config, free_descriptors())
        self.incoming.set_limits(limits)
        self.outgoing.places.pool.limit = limits.outbound
        if limits != fit(self.config, None):
            self.log.info(
                "this process may open few descriptors, so there are at most %d inbound, "
                "%d unproven and %d outbound connections; ulimit -n raises that",
                *limits,
                extra=fields("limits lowered"),
            )

    async def close(self) -> None:
        """Take no more in, give what is queued `close_timeout` to leave, then end everything.

        What could not be sent fails with `Reason.CLOSED`. Safe to call twice; a
        second call, too, returns when all has ended. Cancelled, it waits for no peer any
        more, ends everything, and only then raises.

        Raises:
            WrongContextError: the node lives on, elsewhere; or its loop was closed, and
                only its address and its files could be freed.
        """
        if self.home.is_lost:
            await self._let_go()
        self.home.check_here()
        if self._has_ended is None:
            return
        if not self._is_open:
            self._is_called_off = True
            await self._has_ended.wait()
            return
        self._is_open = False
        self.home.phase = Phase.CLOSING
        self.incoming.stop_listening()
        deadline = asyncio.get_running_loop().time() + self.config.close_timeout
        is_cancelled = False
        try:
            if self.outbox is not None:
                await self.outbox.flush(deadline)  # what is stored just now may leave too
            await self.outgoing.drain(deadline)
            if self.outbox is not None:
                await self.outbox.flush(deadline)  # the last `done()` is told after its commit
        finally:
            # Also when cancelled: from here on nothing waits for a peer.
            self.home.phase = Phase.ENDED
            try:
                is_cancelled = await self._end(deadline)
            finally:
                self._has_ended.set()
        if is_cancelled:
            raise asyncio.CancelledError

    async def _end(self, deadline: float) -> bool:
        """Let go of everything, whoever cancels that; whether somebody did."""
        self._is_open = False
        is_cancelled = await next_turn()  # what other threads said last is in the loop's queue
        if self._clock_watch is not None:
            self._clock_watch.end()
        self.links.end()
        is_cancelled |= await self.outgoing.end()
        is_cancelled |= await close_evidence(self, self._left_for_a_disk(deadline))
        is_cancelled |= await self.incoming.end()
        self.links.abort_lingering()
        is_cancelled |= await self._close_store(self._left_for_a_disk(deadline))
        self.drops.flush()
        self.events.close()
        return await next_turn() or is_cancelled  # let the closed sockets' callbacks run

    async def _let_go(self) -> None:
        """The loop was closed while the node was open: free its address and its files."""
        try:
            self.home.check_here()
        finally:
            self._is_open = False
            self.home.phase = Phase.ENDED
            self.incoming.shut_down()
            timeout = self.config.close_timeout
            if self.evidence is not None:
                await outlast(in_own_thread(self.evidence.close, timeout))
            if self.outbox is not None:
                await outlast(in_own_thread(self.outbox.store.close, timeout))

    def _left_for_a_disk(self, deadline: float) -> float:
        return max(_LEAST_FOR_A_DISK, deadline - asyncio.get_running_loop().time())

    async def _close_store(self, timeout: float) -> bool:
        if self.outbox is None:
            return False
        self.outbox.end()
        closing = in_own_thread(self.outbox.store.close, timeout)
        is_cancelled = await outlast(closing)
        if not closing.result():
            extra = fields("disk silent", path=self.config.store)
            text = "the disk does not answer; its thread ends when it does"
            self.log.warning(text, extra=extra)
            self.outbox.give_up_uncommitted()
        return is_cancelled

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The node's loop, once it was started."""
        assert self._loop is not None
        return self._loop

    @property
    def is_open(self) -> bool:
        """Whether messages are taken in."""
        return self._is_open

    @property
    def identity(self) -> Identity:
        """Our key, where v2 is spoken."""
        assert self._identity is not None
        return self._identity

    @property
    def tls(self) -> TlsIdentity:
        """Our TLS side, where v2 is spoken."""
        assert self._tls is not None
        return self._tls

    @property
    def is_in_loop(self) -> bool:
        """Whether this is the loop's own thread."""
        return threading.get_ident() == self.loop_thread

    def call_in_loop(self, callback: Callable[..., None], *args: object) -> None:
        """Have it called soon, in the loop. Any thread."""
        assert self._loop is not None
        try:
            if self.is_in_loop:
                self._loop.call_soon(callback, *args)
            else:
                self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            if self._is_open:  # else the loop may be closed
                raise

    # -- what happens -----------------------------------------------------------------

    def emit(self, event: Event) -> None:
        """Tell whoever listens to `Node.events()`."""
        self.events.put(event)

    def stats(self) -> TransportStats:
        """The counters now. Any thread."""
        return self.counters.snapshot(
            inbound_connections=self.incoming.connections,
            inbound_limit=self.incoming.limit,
            inbox_messages=len(self.incoming.inbox),
            evidence=None if self.evidence is None else self.evidence.stats(),
        )

    def pool_stats(self) -> PoolStats:
        """The pool now. Any thread."""
        return PoolStats(
            active=self.outgoing.places.pool.active, limit=self.outgoing.places.pool.limit
        )
