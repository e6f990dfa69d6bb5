"""The parts of one node, and their start and end in one event loop.

    Endpoint      decisions about all peers and messages
    Dialers       outbound connections
    Acceptor      inbound connections
    NodeFiles     store, access file and evidence log
    InboxReader   receive calls of the application
    Prober        tries to reach peers, without a message

`Node` and the blocking transports use it. Everything belongs to the loop in which `start()`
ran, where nothing else is said.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from signedwire.config import TransportConfig
from signedwire.delivery.access import AccessList
from signedwire.delivery.endpoint import Endpoint
from signedwire.delivery.inbox import Inbox
from signedwire.delivery.known_senders import KnownSenders
from signedwire.delivery.null_store import NullStore
from signedwire.delivery.policy import Policies, Policy
from signedwire.delivery.session_context import SessionContext
from signedwire.evidence.log import EvidenceLog
from signedwire.home import Phase
from signedwire.identity import Identity
from signedwire.routing import RoutingTable
from signedwire.stats import PoolStats, TransportStats
from signedwire.transport.acceptor import Acceptor
from signedwire.transport.clock_watch import ClockWatch
from signedwire.transport.descriptors import fitted_limits
from signedwire.transport.dialers import Dialers
from signedwire.transport.ending import NodeEnd
from signedwire.transport.inbox_reader import InboxReader
from signedwire.transport.network import Network
from signedwire.transport.node_files import NodeFiles, OpenStore
from signedwire.transport.optional_v1 import new_v1_wire
from signedwire.transport.probing import Prober
from signedwire.transport.runtime import Runtime
from signedwire.transport.starting import NodeStart
from signedwire.transport.store_driver import StoreDriver
from signedwire.transport.uncancelled import next_turn, run_steps
from signedwire.types import Did

__all__ = ["NodeCore"]


class NodeCore:
    """The parts of one node. See the module's text.

    Args:
        config: The configuration.
        routing: The addresses of DIDs.
        network: Makes byte streams.
        us: The node's DID; envelopes for another are refused. `None`: accept all.
        identity: The node's key; `None`: the node speaks v1 alone.
        open_store: Opens the store of the node, in a thread of its own; `None`: no store.
        policy: Decides about each received message, after the access list; `None`: all are
            admitted.
    """

    def __init__(
        self,
        config: TransportConfig,
        routing: RoutingTable,
        network: Network,
        us: Did | None,
        identity: Identity | None = None,
        open_store: OpenStore | None = None,
        policy: Policy | None = None,
    ) -> None:
        self.runtime = runtime = Runtime(config, routing, network, us, identity)
        config = runtime.config
        access = AccessList(config)
        inbox = Inbox(config.inbox_limit, config.critical_reserve)
        null_store = NullStore(runtime)
        known = KnownSenders(config, routing, access)
        policies = Policies([] if policy is None else [policy], runtime.log)
        self.context = SessionContext(
            runtime, us, access, known, inbox, null_store, null_store, policies
        )
        self.endpoint = Endpoint(self.context, routing, threading.Lock())
        access.on_change = self.endpoint.on_access_change
        self.files = NodeFiles(runtime, self.endpoint, open_store)
        self._v1 = new_v1_wire(runtime, self.endpoint) if config.v1_peers else None
        new_sender = None if self._v1 is None else self._v1.new_sender
        new_receiver = None if self._v1 is None else self._v1.new_receiver
        self.dialers = Dialers(runtime, self.endpoint, new_sender)
        self.endpoint.connector = self.dialers
        self.acceptor = Acceptor(runtime, self.endpoint, new_receiver)
        self.reader = InboxReader(runtime, self.endpoint)
        self.prober = Prober(runtime, self.endpoint)
        self._open_steps: list[Callable[[], None]] = []
        self._start: NodeStart | None = None
        self._clock_watch: ClockWatch | None = None
        self._has_ended = NodeEnd(runtime.home)
        self._further_steps: list[tuple[str, Callable[[], Any]]] = []

    def at_open(self, step: Callable[[], None]) -> None:
        """Call `step` in the loop when the node is open. For parts that are built on messages."""
        self._open_steps.append(step)

    def at_end(self, what: str, step: Callable[[], Any]) -> None:
        """Call `step`, a function or coroutine function, at the end, before the inbox closes.

        For parts that are built on messages. `what` describes the step for the log.
        """
        self._further_steps.append((what, step))

    # -- life -----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open store, evidence log and listener, as far as the configuration has them.

        If the start fails, is cancelled or is called off by `close()`, everything is closed again
        before this returns. From the cancellation or `close()` on, that takes `close_timeout`.

        Raises:
            ListenError: the listener cannot be opened.
            StoreOpenError: the store cannot be used.
            ConfigError: the access file cannot be used.
            EvidenceLogError: the evidence log cannot be used.
            ClosedError: `close()` was called meanwhile.
            WrongContextError: no event loop runs in this thread.
        """
        runtime = self.runtime
        runtime.settle()
        self._start = start = NodeStart(runtime.config.close_timeout)
        try:
            await start.run(self._open())
        except GeneratorExit:
            raise  # the loop was closed: `close()` in another one frees what was opened
        except BaseException:
            runtime.home.phase = Phase.FAILED
            self.acceptor.stop_listening()
            try:
                await self._end(start.deadline)
            finally:
                self._has_ended.note()
            raise

    async def _open(self) -> None:
        runtime, endpoint = self.runtime, self.endpoint
        runtime.open_tls()
        await self.files.open()
        self._fit_limits()
        await self.acceptor.start()
        runtime.is_open = True
        self._clock_watch = ClockWatch(runtime, endpoint.on_clock_step, self.files.on_wall_step)
        runtime.routing.watch(endpoint.on_routes)
        runtime.routing.watch(runtime.on_routes)
        self.files.start_sending()
        runtime.home.phase = Phase.OPEN
        for step in self._open_steps:
            step()

    def _fit_limits(self) -> None:
        """Lower the limits of connections to the descriptors that the process may open."""
        runtime = self.runtime
        if getattr(runtime.network, "uses_descriptors", False):
            limits = fitted_limits(runtime.config, runtime.log)
            self.acceptor.set_limits(limits)
            self.dialers.slots.pool.limit = limits.outbound

    async def close(self) -> None:
        """Accept nothing more, send queued messages for up to `close_timeout`, then end all parts.

        Messages that could not be sent fail with `Reason.CLOSED`. A start that is under way is
        called off. A second call also returns when everything has ended. If the call is
        cancelled, it stops waiting for peers, ends all parts, and then raises.

        Raises:
            WrongContextError: the node runs in another process or loop. Or its loop was
                closed, so that only its address and its files could be freed.
        """
        runtime = self.runtime
        if self._has_ended.is_lost:
            await self._free()
        runtime.home.check_here()
        start = self._start
        if start is None:
            return
        if not (start.has_succeeded and runtime.is_open):
            if not runtime.home.has_ended:
                start.call_off()
            await self._has_ended.wait()
            return
        runtime.is_open = False
        runtime.home.phase = Phase.CLOSING
        runtime.log.attempt("ending the probes", self.prober.close)
        self.acceptor.stop_listening()
        deadline = runtime.loop.time() + runtime.config.close_timeout
        failure: BaseException | None = None
        try:
            await self._drain(deadline)
        except GeneratorExit:
            raise  # as in `start()`
        except BaseException as error:  # noqa: BLE001 - it is raised when all parts have ended
            failure = error
        # From here on nothing waits for a peer.
        runtime.home.phase = Phase.ENDED
        try:
            is_cancelled = await self._end(deadline)
        finally:
            self._has_ended.note()
        if failure is not None:
            raise failure
        if is_cancelled:
            raise asyncio.CancelledError

    async def _drain(self, deadline: float) -> None:
        await self.files.flush(deadline)  # so that messages stored just now are sent too
        await self.dialers.drain(deadline)
        await self.files.flush(deadline)  # the last `ack()` is sent after its commit

    async def _end(self, deadline: float) -> bool:
        """End all parts, even if cancelled or if one fails; return whether it was cancelled."""
        runtime, watch, v1 = self.runtime, self._clock_watch, self._v1
        runtime.is_open = False
        is_cancelled = await next_turn()  # for calls of other threads in the loop's queue
        steps: list[tuple[str, Callable[[], Any] | None]] = [
            ("ending the watch of the clock", None if watch is None else watch.end),
            ("closing the links", self.endpoint.close_links),
            ("ending the dialers", lambda: self.dialers.end(deadline)),
            ("closing the evidence log", lambda: self.files.close_evidence(deadline)),
            ("closing the inbound connections", self.acceptor.end),
            ("ending the checks of v1 frames", None if v1 is None else v1.end),
            *self._further_steps,
            ("closing the inbox", self.reader.close),
            ("ending the threads of v1", None if v1 is None else v1.shut_down),
            ("aborting the closing connections", runtime.lingering.abort_all),
            ("closing the store", lambda: self.files.close_store(deadline)),
            ("reporting the dropped messages", runtime.drops.flush),
            ("closing the events", runtime.events.close),
        ]
        is_cancelled |= await run_steps(steps, runtime.log)
        return await next_turn() or is_cancelled  # let the closed sockets' callbacks run

    async def _free(self) -> NoReturn:
        """Free address and files, because the loop was closed before all parts had ended.

        Raises:
            WrongContextError: always, because nothing else could be ended.
        """
        runtime = self.runtime
        self._has_ended.begin_freeing()
        runtime.is_open = False
        runtime.home.phase = Phase.ENDED
        self.acceptor.shut_down()
        try:
            await self.files.free()
        finally:
            self._has_ended.note_freed()
        raise runtime.home.lost_error()

    # -- state ------------------------------------------------------------------------------------

    @property
    def store(self) -> StoreDriver | None:
        """Drives the store of a node that has a file; `None` without one."""
        return self.files.store

    @property
    def evidence(self) -> EvidenceLog | None:
        """Keeps what is accepted; `None` without one."""
        return self.files.evidence

    def stats(self) -> TransportStats:
        """Return the counters now. Any thread."""
        return self.runtime.counters.snapshot(
            inbound_connections=self.acceptor.connections,
            inbound_limit=self.acceptor.limit,
            inbox_messages=sum(map(len, self.context.inboxes())),
            outbound_connections=self.dialers.slots.pool.active,
            outbound_limit=self.dialers.slots.pool.limit,
            evidence=None if self.evidence is None else self.evidence.stats(),
        )

    def pool_stats(self) -> PoolStats:
        """Return the state of the pool now. Any thread."""
        pool = self.dialers.slots.pool
        return PoolStats(active=pool.active, limit=pool.limit)
