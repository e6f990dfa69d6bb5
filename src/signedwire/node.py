"""`Node`: send signed messages to a key and receive them, in asyncio.

async with Node(identity, config, routing) as node:
    receipt = await node.send(did, b"hello")
    async for message in node.messages():
        ...
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from functools import partial
from types import TracebackType
from typing import Self

from signedwire.arguments import (
    BytesLike,
    Deadline,
    PayloadTypeName,
    PriorityName,
    Until,
    as_did,
    as_seconds,
    check_payloads,
    due_at,
)
from signedwire.config import TransportConfig
from signedwire.contradictions import check_given_once
from signedwire.delivery.access import AccessList
from signedwire.delivery.message import Message
from signedwire.delivery.policy import Policy
from signedwire.delivery.receipt import Receipt
from signedwire.delivery.store import DeadLetter
from signedwire.environment import expand_home
from signedwire.errors import (
    ClosedError,
    EvidenceLogError,
    SignedWireError,
    StoreError,
    StoreFailedError,
    WrongContextError,
)
from signedwire.events import Event
from signedwire.evidence.log import EvidenceLog
from signedwire.home import Bound
from signedwire.identity import Identity
from signedwire.metrics import Sample, samples_of
from signedwire.outbox import DeadLetters, Outbox, open_store
from signedwire.routing import RoutingTable
from signedwire.sending import Sending
from signedwire.stats import EvidenceHead, Health, PeerStatus, PoolStats, Probe, TransportStats
from signedwire.transport.core import NodeCore
from signedwire.transport.health import health_of
from signedwire.transport.network import Network
from signedwire.transport.networks import check_network, network_of
from signedwire.types import DeliveryState, Did, PayloadType, Priority, Target, parse_target

__all__ = ["Deadline", "Node"]


class Node(Bound, instead="pass the path of its key file, and make another there"):
    """A key that sends and receives. Use it as an async context manager.

    It belongs to the event loop in which it was entered; `signedwire.sync.Node`
    is its blocking twin for everything else.

    Args:
        identity: The key. What is sent is signed with it, and only what is
            addressed to its DID is received.
        config: By default `TransportConfig()`: a free port on loopback,
            signatures required.
        routing: Which DID is reached where; a table of its own by default. It may be
            shared between nodes and changed at any time.
        store: The file in which messages wait, so that no crash loses them; made where
            there is none. By default that of the configuration, which is none.
        evidence: The file in which every accepted envelope is kept with its signature; the same.
        network: What carries the bytes, in place of the one that the configuration names: a
            `TcpNetwork`, a `UnixNetwork`, a `MemoryNetwork` where nodes meet in tests, or any
            other object that is a `Network`.
        policy: Decides about each received message, after the access list: see `Policy`.
    """

    def __init__(
        self,
        identity: Identity,
        config: TransportConfig | None = None,
        routing: RoutingTable | None = None,
        *,
        store: str | os.PathLike[str] | None = None,
        evidence: str | os.PathLike[str] | None = None,
        network: Network | None = None,
        policy: Policy | None = None,
    ) -> None:
        if not isinstance(identity, Identity):
            raise TypeError(
                f"identity is an Identity, not {type(identity).__name__}: "
                "Identity.load(path), or Identity.generate()"
            )
        self._identity = identity
        for name, value, kind, example in (
            ("config", config, TransportConfig, 'TransportConfig(listen="127.0.0.1:9001")'),
            ("routing", routing, RoutingTable, 'RoutingTable({did: "host:port"})'),
        ):
            if value is not None and not isinstance(value, kind):
                raise TypeError(
                    f"{name} is a {kind.__name__}, not {type(value).__name__}: {example}"
                )
        check_network(network)
        self._config = config or TransportConfig()
        check_given_once("store", store, self._config.store)
        check_given_once("evidence", evidence, self._config.evidence)
        if evidence is not None:
            self._config = self._config.replace(evidence=evidence)
        # Not `or`: a table that is still empty is a table.
        self._routing = RoutingTable() if routing is None else routing
        chosen = network or network_of(self._config)
        if store is not None:
            self._config = self._config.replace(store=store)
        self._has_store = self._config.store is not None
        open_ = partial(open_store, self._config, identity.did) if self._has_store else None
        self._core = NodeCore(
            self._config, self._routing, chosen, identity.did, identity, open_, policy
        )
        self._outbox = Outbox(self._core)
        self._sending = Sending(self._core, has_store=self._has_store)
        self._dead = DeadLetters(self._core, self._replace)
        self._has_started = False

    # -- life -------------------------------------------------------------------

    async def start(self) -> None:
        """Listen and be ready. `async with` does it.

        Raises:
            ListenError: the address to listen on cannot be had.
            StoreOpenError: the store cannot be used; nothing in it was changed.
            EvidenceLogError: the evidence log cannot be used; what is in it stays.
            ConfigError: the access file cannot be read, or has a wrong line.
            ClosedError: it was started before; a node lives once.
        """
        if self._has_started:
            self._core.runtime.home.check_here()
            raise ClosedError("this node was started before", "Make a new Node; it lives once")
        self._has_started = True
        await self._core.start()

    async def close(self) -> None:
        """Give queued messages `close_timeout` to leave, then end everything.

        What could not leave fails with reason "closed"; with a store it waits there for
        the next node that opens it. Returns within
        `close_timeout`, plus some milliseconds, whatever a peer does; no task,
        thread or socket is left. Safe to call twice. Before the start it does nothing.
        Cancelling ends the waiting for peers: everything is ended at once, and only then
        `asyncio.CancelledError` is raised.

        Raises:
            WrongContextError: the node belongs to another event loop, or to the process
                that was forked, and goes on there. If that loop is closed, this frees the
                address and the files, and no more can be done.
        """
        await self._core.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if (
            not self._core.runtime.home.is_forked
        ):  # a child leaves the block, too: nothing is its own
            await self.close()

    # -- who and where ------------------------------------------------------------

    @property
    def did(self) -> Did:
        """Our DID: what peers send to."""
        return self._identity.did

    @property
    def address(self) -> Target:
        """Where the node listens, with the real port. Any thread; also after the end.

        Raises:
            ClosedError: the node is not started.
            TransportError: it does not listen, by `listen=None`; `is_listening` tells.
        """
        return self._core.acceptor.listening_at()

    @property
    def is_listening(self) -> bool:
        """Whether the node accepts connections now, at `address`. Any thread."""
        return self._core.runtime.is_open and self._core.acceptor.address is not None

    @property
    def routing(self) -> RoutingTable:
        """Which DID is reached where. Change it at any time."""
        return self._routing

    @property
    def config(self) -> TransportConfig:
        """The configuration."""
        return self._config

    # -- sending ------------------------------------------------------------------

    async def send(
        self,
        to: Did | str,
        payload: BytesLike,
        *,
        priority: Priority | PriorityName = Priority.NORMAL,
        payload_type: PayloadType | PayloadTypeName = PayloadType.RAW,
        deadline: Deadline = None,
        until: Until | None = None,
    ) -> Receipt:
        """Sign a message, send it, and return when it has come as far as `until`.

        "accepted", the default without a store: the peer has verified it, will give it
        to its application once, and has signed for it. "persisted", the default with
        one: a crash does not lose it any more. "handled": the peer's application has
        said `message.ack()`. "written": the operating system has it. "queued": at
        once, where the queue has room; else this waits for room.

        v1 peers never answer. Towards them this returns when the message is
        written, and `receipt.is_confirmed` is false.

        Cancelling stops the waiting; a message that was queued is still sent.

        Args:
            to: A `Did`, or the text of one.
            payload: At most `max_payload_size` bytes, `max_v1_payload_size` to a v1 peer.
            deadline: After it, the message is neither written nor given to the peer's
                application, and this raises. Seconds, or a `timedelta`, up to 30 years: they
                pass whatever the wall clock is set to, also while the machine is suspended.
                Or a `datetime` with a time zone, which follows the wall clock.

        Raises:
            UnknownPeerError, NotAllowedError, PayloadTooLargeError: it was not queued. The
                first is raised without a store alone: that keeps it until a way is known.
            MessageExpiredError: the deadline passed first.
            MessageRefusedError: the peer will not take it; `.reason` says why.
            DeliveryFailedError: it was given up; `.reason` says why, `.receipt` has the story.
            StoreFullError: a limit of the store is reached; it was not stored.
            StoreFailedError: the disk failed; whether it was stored is not known.
            ClosedError: the node is closed.
            WrongContextError: it belongs to another event loop, or the process was forked.
        """
        self._check_here()
        level = self._sending.level(until)
        (message,) = self._sending.messages(
            as_did(to), priority, payload_type, due_at(deadline), (payload,)
        )
        return await self._sending.send(message, level)

    async def _replace(self, letter: DeadLetter) -> Receipt:
        """Send what is in a dead letter, which goes when that is stored."""
        (message,) = self._sending.messages(
            letter.recipient, letter.priority, letter.payload_type, None, (letter.payload,)
        )
        return await self._sending.send(message, DeliveryState.PERSISTED, replaces=(letter.id,))

    def send_nowait(
        self,
        to: Did | str,
        payload: BytesLike,
        *,
        priority: Priority | PriorityName = Priority.NORMAL,
        payload_type: PayloadType | PayloadTypeName = PayloadType.RAW,
        deadline: Deadline = None,
    ) -> Receipt:
        """Queue a message and return at once; `await receipt.wait()` to learn its fate.

        May be called from any thread.

        Raises:
            BackpressureError: the queue to the peer is full; and what `send()` raises
                for a message that was not queued.
        """
        (message,) = self._sending.messages(
            as_did(to), priority, payload_type, due_at(deadline), (payload,)
        )
        self._core.endpoint.submitter.submit(message, message.payload_size)
        return message

    async def send_many(
        self,
        to: Did | str,
        payloads: Iterable[BytesLike],
        *,
        priority: Priority | PriorityName = Priority.NORMAL,
        payload_type: PayloadType | PayloadTypeName = PayloadType.RAW,
        deadline: Deadline = None,
        until: Until | None = None,
    ) -> list[Receipt]:
        """Send many messages to one peer; return when all have come as far as `until`.

        Cheaper than as many `send()`: the receipts are followed as far as `until`
        and no further.

        Waits for room in the queue as it goes. Cancelling stops it between two
        messages; what was queued is still sent.

        Raises:
            What `send()` does, of the first message that failed, once each has come as far
                as `until` or failed. Where one could not be queued, at once; those before
                it go on. `error.receipts` has the receipts of all that were queued, in
                their order.
        """
        self._check_here()
        level, did = self._sending.level(until), as_did(to)
        check_payloads(payloads)
        is_bulk = level is not DeliveryState.HANDLED
        expires_at = due_at(deadline)  # of them all, however long it takes to queue them
        receipts: list[Receipt] = []
        try:
            terms = (priority, payload_type, expires_at)
            make = partial(self._sending.messages, did, *terms, is_bulk=is_bulk)
            await self._sending.queue_many(did, iter(payloads), make, receipts)
            await self._sending.wait_for_all(receipts, level)
        except SignedWireError as error:
            own = error
            if isinstance(error, StoreFailedError):  # that of a store is one for all
                fate = f"{len(receipts)} messages were queued before"
                own = StoreFailedError(error.path, error.cause, fate, error.hint)
            own.receipts = tuple(receipts)
            raise own from error.__cause__
        return receipts

    # -- receiving ----------------------------------------------------------------

    async def receive(self, timeout: float | None = None) -> Message:
        """Wait for the next message: of the highest priority, the oldest first.

        Cancelling loses no message. `receive_nowait()` does not wait.

        Args:
            timeout: Seconds, 0 or more; 0 takes what is there. `None`, the default, sets
                no limit.

        Raises:
            TimeoutError: `timeout` seconds passed, and no message came.
            ValueError, TypeError: `timeout` is no number of seconds.
            ClosedError: the node is not started, is closed, or was while waiting.
            WrongContextError: it belongs to another event loop, or the process was forked.
        """
        self._check_here(is_open=False)
        return await self._core.reader.arrive(as_seconds(timeout))

    def receive_nowait(self) -> Message | None:
        """The next message, as `receive()` has it, if one is there; else `None`. Any thread.

        Raises:
            ClosedError, WrongContextError: see `receive()`.
        """
        return self._core.reader.receive(0)

    async def messages(self) -> AsyncIterator[Message]:
        """Every message as it comes, until the node is closed.

        Raises:
            ClosedError: the node is not started.
            WrongContextError: see `receive()`.
        """
        self._check_here(is_open=False)
        take = self._core.reader.take
        while True:
            while (message := take()) is not None:
                yield message
            try:
                message = await self.receive()
            except WrongContextError:
                raise
            except ClosedError:
                return
            yield message

    def _check_here(self, *, is_open: bool = True) -> None:
        """Whether a coroutine of this node can do its work in the running event loop."""
        self._core.runtime.home.check_here()
        (self._core.runtime.home.check_open if is_open else self._core.runtime.home.check_begun)()

    # -- the store ----------------------------------------------------------------

    @property
    def outbox(self) -> Outbox:
        """The messages that wait in the store: list, show, drop, retry, export.

        Raises:
            StoreError: this node has no store.
        """
        self._check_store()
        return self._outbox

    @property
    def dead(self) -> DeadLetters:
        """The messages that were refused or given up: list, show, drop, retry.

        Raises:
            StoreError: this node has no store.
        """
        self._check_store()
        return self._dead

    def _check_store(self) -> None:
        if not self._has_store:
            raise StoreError(
                "this node has no store: its messages wait in memory",
                'Give it one: Node(identity, store="node.db")',
            )

    # -- the evidence log -----------------------------------------------------------

    def evidence_head(self) -> EvidenceHead:
        """What stands for everything in the evidence log that is on the disk.

        Keep it where whoever could change the log cannot: `signedwire evidence verify
        --head` then finds whether anything up to it is missing or was rewritten.

        Raises:
            EvidenceLogError, ClosedError: this node keeps no evidence, or is not started.
        """
        return self._evidence().head

    async def rotate_evidence(self, archive: str | os.PathLike[str] | None = None) -> EvidenceHead:
        """Give the evidence log's file the name `archive`, and go on in a new one.

        The new one names the head of the old one, which this returns. `None`: the old one
        gets a number and stays beside, unless it has no records. No message is lost.

        Raises:
            EvidenceLogError: something has that name, or it is on another disk, and all
                goes on as before; or the log has failed; or this node keeps none.
        """
        self._core.runtime.home.check_here()
        name = None if archive is None else expand_home(archive)
        return await asyncio.wrap_future(self._evidence().rotate(name))

    def _evidence(self) -> EvidenceLog:
        log = self._core.evidence
        if log is None and self._config.evidence is not None:
            self._core.runtime.home.check_open()
        if log is None:
            hint = 'Give it one: Node(identity, evidence="evidence.log")'
            raise EvidenceLogError("of this node", "is not kept", hint)
        return log

    # -- what is going on -------------------------------------------------------------

    def stats(self) -> TransportStats:
        """The counters now, and the store's figures."""
        stats, driver = self._core.stats(), self._core.store
        return stats if driver is None else dataclasses.replace(stats, store=driver.store.stats())

    def metrics(self) -> list[Sample]:
        """The value of each metric now, with its descriptor, for an exporter.

        May be called from any thread, also after the end. Figures of a store or an evidence
        log are absent where the node has none.

        Returns:
            Triples of the metric, its labels and its value: a number, or a `Distribution`.
            Values of one metric stand together.
        """
        return list(samples_of(self.stats()))

    def health(self) -> Health:
        """Whether the node can do its work now: open, with a store that takes messages, and
        peers that answer.

        May be called from any thread, also in a forked child: there the node cannot.
        """
        return health_of(self._core, self.peers().values())

    def pool_stats(self) -> PoolStats:
        """Outbound connections now."""
        return self._core.pool_stats()

    def peers(self) -> dict[Did, PeerStatus]:
        """The health of every peer that was sent to."""
        return self._core.endpoint.status()

    async def probe(
        self,
        to: Did | str,
        address: Target | str | None = None,
        *,
        timeout: float | None = None,
        as_stranger: bool = False,
    ) -> Probe:
        """Try to reach a peer without a message: connect, let it prove its DID, measure.

        The peer gets the handshake, and as a stranger HELLO and PING. Links of this node, its
        counters and its messages are not touched. A peer that hangs up on TLS is tried as a v1
        peer where `v1_peers` allows that. Cancelling closes the connection.

        Args:
            to: A `Did`, or the text of one.
            address: Where to look; by default its route, or `fallback`.
            timeout: Seconds, 0 or more, for all of it. By default `connect_timeout` and
                `handshake_timeout` limit it.
            as_stranger: Use a key made for probes alone, not the node's. Then the round trip is
                that of PING, and an access list that lets in only known DIDs keeps it out.

        Returns:
            What was found. A peer that is not reached raises nothing: `failure` says why.

        Raises:
            UnknownPeerError: no address was given, and none is known for it.
            NotAllowedError: `node.access` denies the DID.
            ValueError, TypeError: an argument cannot be used.
            ClosedError: the node is not started, is closed, or was while it probed.
            WrongContextError: it belongs to another event loop, or the process was forked.
        """
        self._check_here()
        did, seconds = as_did(to), as_seconds(timeout)
        where = self._core.prober.place(did, _target(address))
        return await self._core.prober.probe(did, where, seconds, as_stranger=as_stranger)

    async def probes(
        self,
        to: Did | str,
        address: Target | str | None = None,
        *,
        interval: float = 1.0,
        as_stranger: bool = False,
    ) -> AsyncGenerator[Probe]:
        """Probe a peer again and again.

        As a stranger all results are of one link, with a PING each; else, and over v1, each
        makes a connection of its own. Over v2 a result with a failure is the last one. Use
        `contextlib.aclosing()` where you leave the iteration before: it closes the link.

        Args:
            interval: Seconds between two results, more than 0.

        Raises:
            What `probe()` does.
        """
        self._check_here()
        seconds = as_seconds(interval)
        if not seconds:
            raise ValueError("interval is a number of seconds above 0")
        did = as_did(to)
        where = self._core.prober.place(did, _target(address))
        findings = self._core.prober.probes(did, where, seconds, as_stranger=as_stranger)
        async with contextlib.aclosing(findings):
            async for found in findings:
                yield found

    def events(self) -> AsyncIterator[Event]:
        """What happens from now on: peers that come and go, refusals, drops, stalls, clocks.

        For watching. A watcher that is too slow loses the oldest and is told how many.
        Following it raises ClosedError where the node is not started by then, and
        WrongContextError as `receive()` does.
        """
        return self._core.runtime.events.watch()

    @property
    def access(self) -> AccessList:
        """Which DIDs are denied. Change it at any time; a store keeps that."""
        return self._core.endpoint.access

    def __repr__(self) -> str:
        if self._core.runtime.is_open:
            where = f"listening on {self.address}" if self.is_listening else "not listening"
        else:
            where = self._core.runtime.home.in_words
        return f"<Node {self.did.short} {where}>"


def _target(address: Target | str | None) -> Target | None:
    return parse_target(address) if isinstance(address, str) else address
