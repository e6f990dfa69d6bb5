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
from signedwire.delivery.policy import Policy, check_policy
from signedwire.delivery.receipt import Receipt
from signedwire.environment import expand_home
from signedwire.errors import (
    ClosedError,
    EvidenceLogError,
    StoreError,
)
from signedwire.events import Event
from signedwire.evidence.log import EvidenceLog
from signedwire.home import Bound
from signedwire.identity import Identity
from signedwire.metrics import Sample, samples_of
from signedwire.outbox import DeadLetters, Outbox, open_store
from signedwire.routing import RoutingTable
from signedwire.sending import Sending
from signedwire.stats import EvidenceHead, Health, PeerMap, PoolStats, Probe, TransportStats
from signedwire.transport.core import NodeCore
from signedwire.transport.health import health_of
from signedwire.transport.network import Network
from signedwire.transport.networks import check_network, network_of
from signedwire.types import DeliveryState, Did, PayloadType, Priority, Target, parse_target

__all__ = ["Deadline", "Node"]


class Node(Bound, instead="pass the path of its key file, and make another there"):
    """A key that sends and receives messages. Use it as an async context manager.

    A node belongs to the event loop in which it was started: await its coroutines there. Any
    thread may call the other methods and properties. `signedwire.sync.Node` is the same for
    programs without asyncio.

    Args:
        identity: The key. It signs what the node sends, and the node accepts only messages
            that are addressed to its DID.
        config: The options; by default `TransportConfig()`, which listens on a free port of
            loopback and requires signatures.
        routing: The addresses of peers; by default an empty table. Several nodes may share a
            table, and it may change at any time.
        store: The file in which messages wait, so that a crash loses none. It is created if
            absent. By default the option `store` of `config`; without either, messages wait in
            memory.
        evidence: The file that keeps every accepted envelope with its signature. It is created if
            absent. By default the option `evidence` of `config`; without either, nothing is kept.
        network: The backend that carries the bytes: `TcpNetwork`, `UnixNetwork`,
            `MemoryNetwork`, or any object with the methods of `Network`. By default the option
            `network` of `config` selects one.
        policy: A rule about each received message, asked after the access list: see `Policy`.
            By default every message of an allowed sender is admitted.

    Raises:
        TypeError: an argument has the wrong type.
        ConfigError: `store` or `evidence` differs from the one in `config`.
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
        # Not `or`: an empty table is false.
        routing = RoutingTable() if routing is None else routing
        config = TransportConfig() if config is None else config
        for name, value, kind, example in (
            ("identity", identity, Identity, "Identity.load(path), or Identity.generate()"),
            ("config", config, TransportConfig, 'TransportConfig(listen="127.0.0.1:9001")'),
            ("routing", routing, RoutingTable, 'RoutingTable({did: "host:port"})'),
        ):
            if not isinstance(value, kind):
                wanted = f"{'an' if kind is Identity else 'a'} {kind.__name__}"
                raise TypeError(f"{name} is {wanted}, not {type(value).__name__}: {example}")
        check_network(network)
        check_policy(policy)
        for name, argument in (("store", store), ("evidence", evidence)):
            check_given_once(name, argument, getattr(config, name))
        if store is not None:
            config = config.replace(store=store)
        if evidence is not None:
            config = config.replace(evidence=evidence)
        chosen = network or network_of(config)
        self._identity, self._config, self._routing = identity, config, routing
        self._has_store = config.store is not None
        open_ = partial(open_store, config, identity.did) if self._has_store else None
        self._core = NodeCore(config, routing, chosen, identity.did, identity, open_, policy)
        self._outbox = Outbox(self._core)
        self._sending = Sending(self._core, has_store=self._has_store)
        self._dead = DeadLetters(self._core, self._sending.replace)
        self._has_started = False

    # -- life -------------------------------------------------------------------

    async def start(self) -> None:
        """Open the files and start to listen. `async with` calls this. Cancelling undoes it.

        Raises:
            ListenError: the node cannot listen on its address.
            StoreOpenError: the store cannot be used; nothing in it was changed.
            EvidenceLogError: the evidence log cannot be used; its content is unchanged.
            ConfigError: the access file cannot be read, or has a wrong line.
            ClosedError: the node was started before; a node can be started only once. Or
                `close()` was called during the start.
            WrongContextError: no asyncio event loop runs in this thread.
        """
        if self._has_started:
            self._core.runtime.home.check_here()
            hint = "Make a new Node: each can be started once"
            raise ClosedError("this node was started before", hint)
        self._has_started = True
        await self._core.start()

    async def close(self) -> None:
        """Stop listening, send what is queued for up to `close_timeout`, then end the node.

        A message that is still not sent fails with reason "closed"; with a store, it waits
        there for the next node that opens the file. A start that is under way is called off;
        `start()` then raises ClosedError. The call returns within `close_timeout` plus some
        milliseconds, whatever a peer does, and leaves no task, thread or socket. It may take
        longer for a slow disk: the last commit of the store, and of the evidence log, has at
        least one second. If a disk or a network backend does not answer in that time, its thread
        or task ends when it does. The call is safe to repeat, and does nothing before the start.
        Cancelling ends the node at once; `asyncio.CancelledError` is raised after that.

        Raises:
            WrongContextError: the node belongs to another event loop or to the parent of this
                process, and continues there. If its loop is closed, this call frees the
                address and the files.
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
        if not self._core.runtime.home.is_forked:  # a forked child leaves the block, too
            await self.close()

    # -- who and where ------------------------------------------------------------

    @property
    def did(self) -> Did:
        """The DID of this node, to which peers send."""
        return self._identity.did

    @property
    def address(self) -> Target:
        """The address on which the node listens, with the real port. Kept after `close()`.

        Raises:
            ClosedError: the node is not started.
            TransportError: the node does not listen, because of `listen=None`.
        """
        return self._core.acceptor.listening_at()

    @property
    def is_listening(self) -> bool:
        """Whether the node accepts connections now, at `address`."""
        return self._core.runtime.is_open and self._core.acceptor.address is not None

    @property
    def routing(self) -> RoutingTable:
        """The addresses of peers. Change the table at any time, from any thread."""
        return self._routing

    @property
    def config(self) -> TransportConfig:
        """The options of this node."""
        return self._config

    # -- sending ------------------------------------------------------------------

    async def send(
        self,
        to: Did | str,
        payload: BytesLike,
        *,
        priority: Priority | PriorityName = Priority.NORMAL,
        payload_type: PayloadType | PayloadTypeName = PayloadType.RAW,
        subject: str = "",
        deadline: Deadline = None,
        until: Until | None = None,
    ) -> Receipt:
        """Sign a message, send it, wait until it reaches the state `until`; return its receipt.

        If the queue to the peer is full, the call waits for room. Cancelling stops the waiting;
        a message that was queued is still sent. v1 peers never answer: with one of them, this
        returns when the message is written, and `receipt.is_confirmed` is false.

        Args:
            to: The DID of the peer, as a `Did` or its text.
            payload: At most `max_payload_size` bytes; to a v1 peer, `max_v1_payload_size`.
            priority: The lane, as a `Priority` or its name in lower case; messages of a higher
                lane are sent first. By default NORMAL.
            payload_type: The type that the peer's application sees, as a `PayloadType` or its
                name in lower case, such as "robot_command"; by default RAW.
            subject: What the message is about, for the peer's application: printable text in
                NFC, at most 255 bytes in UTF-8; by default empty. A v1 peer does not see it.
            deadline: When the message expires; by default never. An expired message is
                neither sent nor given to the peer's application, and this raises. A number of
                seconds or a `timedelta`, more than 0 and up to 30 years, does not depend on
                the wall clock and includes time in suspension. A `datetime` with a time zone
                follows the wall clock.
            until: The state to wait for; by default "persisted" with a store, else "accepted".
                In "queued", the message waits in memory; in "persisted", it is on the disk. In
                "written", the operating system has it. In "accepted", the peer has verified it
                and signed a receipt. In "handled", the peer's application has called
                `message.ack()`.

        Raises:
            UnknownPeerError: no address is known; the message was not queued. With a store
                this is not raised: the message waits until an address is known.
            NotAllowedError, PayloadTooLargeError: the message was not queued.
            MessageExpiredError: the deadline passed first.
            MessageRefusedError: the peer refused the message; `reason` has the cause.
            DeliveryFailedError: the message was given up; `reason` has the cause.
            StoreFullError: a limit of the store is reached; the message was not stored.
            StoreFailedError: the disk failed; whether the message was stored is unknown.
            ClosedError: the node is not started, or is closed.
            WrongContextError: the node belongs to another event loop or to a parent process.
        """
        self._check_here()
        level = self._sending.level(until)
        (message,) = self._sending.messages(
            as_did(to), priority, payload_type, due_at(deadline), (payload,), subject=subject
        )
        return await self._sending.send(message, level)

    def send_nowait(
        self,
        to: Did | str,
        payload: BytesLike,
        *,
        priority: Priority | PriorityName = Priority.NORMAL,
        payload_type: PayloadType | PayloadTypeName = PayloadType.RAW,
        subject: str = "",
        deadline: Deadline = None,
    ) -> Receipt:
        """Queue a message and return at once; `receipt.wait()` waits for its states.

        Any thread may call this. The arguments are those of `send()`.

        Raises:
            BackpressureError: the queue to the peer is full; the message was not queued.
            UnknownPeerError, NotAllowedError, PayloadTooLargeError, StoreFullError,
                ClosedError, WrongContextError: see `send()`.
        """
        (message,) = self._sending.messages(
            as_did(to), priority, payload_type, due_at(deadline), (payload,), subject=subject
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
        subject: str = "",
        deadline: Deadline = None,
        until: Until | None = None,
    ) -> list[Receipt]:
        """Send many messages to one peer, and wait until all reach the state `until`.

        This is cheaper than as many calls of `send()`, because no receipt is followed beyond
        `until`. The call waits for room in the queue. Cancelling stops between two messages;
        messages that were queued are still sent. Returns the receipts, in the order of
        `payloads`.

        The peer accepts only `credit_messages` and `credit_bytes` (2 MiB) until its application
        takes some. Without a deadline, the call waits for that without limit.

        Args:
            to: The DID of the peer, as a `Did` or its text.
            payloads: Any iterable; the node reads on as the queue gets room.
            priority, payload_type, subject, deadline, until: as for `send()`, for all messages.
                The deadline counts from the call.

        Raises:
            The error of the first message that failed, as `send()` raises it, once every
                message has reached `until` or failed. If a message could not be queued, its
                error is raised at once; those before it are still sent. `receipts` of the error
                has the receipts of all queued messages, in order.
        """
        self._check_here()
        level, did = self._sending.level(until), as_did(to)
        check_payloads(payloads)
        # The deadline is read once, so queueing does not extend that of the later messages.
        options = (priority, payload_type, due_at(deadline))
        is_bulk = level is not DeliveryState.HANDLED
        make = partial(self._sending.messages, did, *options, subject=subject, is_bulk=is_bulk)
        return await self._sending.send_many(did, payloads, make, level)

    # -- receiving ----------------------------------------------------------------

    async def receive(self, timeout: float | None = None) -> Message:
        """Wait for the next message. Higher priorities come first; senders take turns.

        Cancelling loses no message.

        Args:
            timeout: Seconds to wait, 0 or more; by default `None`, without limit.

        Raises:
            TimeoutError: no message came within `timeout` seconds.
            ValueError, TypeError: `timeout` is not a number of seconds, 0 or more.
            ClosedError: the node is not started, is closed, or was closed meanwhile.
            WrongContextError: the node belongs to another event loop or to a parent process.
        """
        self._check_here(is_open=False)
        return await self._core.reader.arrive(as_seconds(timeout))

    def receive_nowait(self) -> Message | None:
        """Return the next message if there is one, else `None`. Any thread may call this.

        Raises:
            ClosedError, WrongContextError: see `receive()`.
        """
        return self._core.reader.receive(0)

    def messages(self) -> AsyncIterator[Message]:
        """Yield each message as it comes, in the order of `receive()`, until `close()`.

        Cancelling loses no message. While messages wait, the event loop gets a turn after each
        2 ms that the caller has taken, so that the node goes on reading and answering.

        Raises:
            ClosedError: the node is not started.
            WrongContextError: see `receive()`.
        """
        return self._core.reader.messages()

    def _check_here(self, *, is_open: bool = True) -> None:
        """Raise unless a coroutine of this node can do its work in the running event loop."""
        self._core.runtime.home.check_here()
        (self._core.runtime.home.check_open if is_open else self._core.runtime.home.check_begun)()

    # -- the store and the evidence log --------------------------------------------

    @property
    def outbox(self) -> Outbox:
        """The messages that wait in the store to be sent: list, show, drop, retry, export.

        Raises:
            StoreError: this node has no store.
        """
        self._check_store()
        return self._outbox

    @property
    def dead(self) -> DeadLetters:
        """The sent messages that were refused or given up: list, show, drop, retry.

        Raises:
            StoreError: this node has no store.
        """
        self._check_store()
        return self._dead

    def _check_store(self) -> None:
        if not self._has_store:
            raise StoreError(
                "this node has no store: its messages wait in memory",
                'Pass a file for it: Node(identity, store="node.db")',
            )

    def evidence_head(self) -> EvidenceHead:
        """Return the number and hash of the newest record of the evidence log on the disk.

        Keep it in a place that nobody who can change the log can change. Then `signedwire
        evidence verify --head` finds whether a record up to it is missing or was rewritten.

        Raises:
            EvidenceLogError: this node keeps no evidence log.
            ClosedError: the node is not started.
        """
        return self._evidence().head

    async def rotate_evidence(self, archive: str | os.PathLike[str] | None = None) -> EvidenceHead:
        """Rename the file of the evidence log, and continue in a new one. No record is lost.

        The new file begins with the head of the old one, which this returns. Cancelling does
        not stop a rotation that has begun.

        Args:
            archive: The new path of the old file, on the same disk. By default a number is
                added to its name; a log without records is then left as it is.

        Raises:
            EvidenceLogError: `archive` exists or is on another disk, and the log continues as
                before; or the log has failed; or this node keeps none.
            ClosedError, WrongContextError: see `send()`.
        """
        self._core.runtime.home.check_here()
        name = None if archive is None else expand_home(archive)
        return await asyncio.wrap_future(self._evidence().rotate(name))

    def _evidence(self) -> EvidenceLog:
        log = self._core.evidence
        if log is None:
            if self._config.evidence is not None:
                self._core.runtime.home.check_open()
            hint = 'Pass a file for it: Node(identity, evidence="evidence.log")'
            raise EvidenceLogError("of this node", "is not kept", hint)
        return log

    # -- what is going on -------------------------------------------------------------

    def stats(self) -> TransportStats:
        """Return the counters and gauges of this node, as of now."""
        stats, driver = self._core.stats(), self._core.store
        return stats if driver is None else dataclasses.replace(stats, store=driver.store.stats())

    def metrics(self) -> list[Sample]:
        """Return the value of each metric now, with its descriptor, for an exporter.

        Metrics of the store or the evidence log are absent if the node has none. The call
        does not block, and is allowed after `close()`.

        Returns:
            Triples of a `Metric`, its labels, and its value: a number, or a `Distribution`.
            Values of one metric stand together.
        """
        return list(samples_of(self.stats()))

    def health(self) -> Health:
        """Return whether the node can do its work now, and if not, why.

        A node is well if it is open, its files accept records, and its peers answer. This may
        also be called in a forked child, where no node can work.
        """
        return health_of(self._core, self.peers().values())

    def pool_stats(self) -> PoolStats:
        """Return the number of outbound connections now, and its limit."""
        return self._core.pool_stats()

    def peers(self) -> PeerMap:
        """Return the status of the peers that this node keeps, by DID or its text.

        These are the peers that were sent to or had a link. A peer without a link and without a
        route is forgotten after a while, and is then absent.
        """
        return PeerMap(self._core.endpoint.status())

    async def probe(
        self,
        to: Did | str,
        address: Target | str | None = None,
        *,
        timeout: float | None = None,
        as_stranger: bool = False,
    ) -> Probe:
        """Connect to a peer and let it prove its DID, without sending a message.

        The probe uses a connection of its own, and changes neither links nor counters of this
        node. If a peer closes the connection at TLS and `v1_peers` allows it, the probe tries
        v1. Cancelling closes the connection.

        Args:
            to: The DID of the peer, as a `Did` or its text.
            address: The address to connect to; by default its route, or `fallback`.
            timeout: Limit in seconds for the whole probe, 0 or more. By default only
                `connect_timeout` and `handshake_timeout` apply.
            as_stranger: Whether to use a key made for probes instead of the node's key, by
                default no. Then the probe also measures the round trip of a PING, and a peer
                that only allows known DIDs turns it away.

        Returns:
            The result. If the peer was not reached, its `failure` has the kind of the cause.

        Raises:
            UnknownPeerError: `address` is not given, and no route is known.
            NotAllowedError: `node.access` denies the DID.
            ValueError, TypeError: an argument cannot be used.
            ClosedError, WrongContextError: see `receive()`.
        """
        self._check_here()
        did, seconds = as_did(to), as_seconds(timeout)
        where = self._core.prober.target_of(did, _target(address))
        return await self._core.prober.probe(did, where, seconds, as_stranger=as_stranger)

    async def probes(
        self,
        to: Did | str,
        address: Target | str | None = None,
        *,
        interval: float = 1.0,
        as_stranger: bool = False,
    ) -> AsyncGenerator[Probe]:
        """Probe a peer repeatedly, and yield each result.

        With `as_stranger`, all results over v2 come from one link, by a PING each; otherwise
        each probe makes a new connection. Over v2, a result with a failure is the last one. To
        leave the iteration earlier, use `contextlib.aclosing()`, which closes the connection.

        Args:
            to, address, as_stranger: as for `probe()`.
            interval: Seconds between two results, more than 0; by default 1.

        Raises:
            The errors of `probe()`.
        """
        self._check_here()
        seconds = as_seconds(interval)
        if not seconds:
            raise ValueError(f"interval={interval!r} is not a number of seconds above 0")
        did = as_did(to)
        where = self._core.prober.target_of(did, _target(address))
        findings = self._core.prober.probes(did, where, seconds, as_stranger=as_stranger)
        async with contextlib.aclosing(findings):
            async for found in findings:
                yield found

    def events(self) -> AsyncIterator[Event]:
        """Return an iterator over the events of this node from now on, until `close()`.

        `signedwire.events` lists them. Events are for people and dashboards: a watcher that is
        more than 1000 events behind loses the oldest, and gets their number as `EventsMissed`.

        Raises:
            ClosedError: the node is not started when the iteration begins.
            WrongContextError: the iteration runs in another event loop; see `receive()`.
        """
        return self._core.runtime.events.watch()

    @property
    def access(self) -> AccessList:
        """The rules about which DIDs may link. Change them at any time; a store keeps them."""
        return self._core.endpoint.access

    def __repr__(self) -> str:
        if self._core.runtime.is_open:
            where = f"listening on {self.address}" if self.is_listening else "not listening"
        else:
            where = self._core.runtime.home.in_words
        return f"<Node {self.did.short} {where}>"


def _target(address: Target | str | None) -> Target | None:
    return parse_target(address) if isinstance(address, str) else address
