"""`NodeState`: the store and the evidence log of a node, its peers, counters and events."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from collections.abc import AsyncGenerator, AsyncIterator

from signedwire.arguments import as_seconds
from signedwire.delivery.access import AccessList
from signedwire.environment import expand_home
from signedwire.errors import EvidenceLogError, StoreError
from signedwire.events import Event
from signedwire.evidence.log import EvidenceLog
from signedwire.metrics import Sample, samples_of
from signedwire.node_life import NodeLife
from signedwire.outbox import DeadLetters, Outbox
from signedwire.stats import EvidenceHead, Health, PeerMap, PoolStats, Probe, TransportStats
from signedwire.transport.health import health_of
from signedwire.types import Did, Target, parse_target

__all__ = ["NodeState"]


class NodeState(NodeLife):
    """The methods of `Node` about its state, its files and its peers."""

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
        """Return the status of the peers that this node keeps, by DID, its text, or name.

        These are the peers that were sent to or had a link. A peer without a link and without a
        route is forgotten after a while, and is then absent.
        """
        return PeerMap(self._core.endpoint.status(), self._config.names)

    def name_of(self, did: Did | str) -> str | None:
        """Return the name of a DID, as the option `names` has it. Any thread may call this.

        Args:
            did: A `Did` or its text.

        Returns:
            The name, or the first one if the DID has several; `None` if it has none.

        Raises:
            DidError, TypeError: `did` is no DID.
        """
        return self._config.names.name_of(self._did_of(did, "DID"))

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
            to: The peer: a `Did`, its text, or a name of the option `names`.
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
        did, seconds = self._did_of(to), as_seconds(timeout)
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
        did = self._did_of(to)
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
