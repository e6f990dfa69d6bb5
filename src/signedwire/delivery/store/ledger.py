"""The counts that a store keeps in memory. Rows are never kept, however many wait.

For each peer: epochs, marks and backlog. For each lane: the next number, and the rows and
bytes in the tables. Every count is of one of two kinds:

- A *reserved* count includes a row from the call that stored it, so that limits and
  numbers hold before the commit. Any thread changes it, under the store's lock.
- An *applied* count is that of the tables. It changes only while operations run and is
  written together with them, so that opening a store needs no counting.
"""

from __future__ import annotations

import heapq
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Final, NamedTuple

from signedwire.delivery.store.records import ROW_BITS, Marks, StoreLimits
from signedwire.delivery.store.tables import AccessRule
from signedwire.errors import StoreFullError
from signedwire.types import Did, Priority, Reason
from signedwire.wire.header import timestamp_of

__all__ = [
    "MAX_PEER",
    "BatchRecord",
    "ReachedLimit",
    "LaneRecord",
    "Ledger",
    "PeerRecord",
    "base_at",
]

MAX_PEER: Final = 2**21 - 1
_LANES: Final = len(Priority)
_CRITICAL: Final = int(Priority.CRITICAL)
_RESERVED_BYTES: Final = 64 * 1024
_BASE_UNIT: Final = 2**20
_MAX_BASE: Final = 2**62


def base_at(epoch: int, now_us: int) -> int:
    """Return the first sequence, less one, of a process that opens a store at `now_us`.

    Any earlier process, also one with a copy of the file, has used only lower sequences:
    no lane carries a million messages in a millisecond.
    """
    return min(max(0, now_us - epoch) // 1000 * _BASE_UNIT, _MAX_BASE)


class ReachedLimit(NamedTuple):
    """A limit of the store that has no room for more rows."""

    what: str
    """The limit as text, such as "1,000 messages in all"."""
    option: str
    """The option of the configuration that sets the limit."""


class LaneRecord:
    """The counts of one lane to one peer.

    Rows count from 1. The sequence of a message on the wire is the number of its row plus
    the base of the process that stored it. So two states of one file, such as the file
    and a restored copy, never give one sequence to two messages.
    """

    __slots__ = (
        "base",
        "bytes",
        "first_at",
        "first_id",
        "id",
        "known",
        "next",
        "opened_at",
        "rows",
        "written",
    )

    def __init__(
        self,
        id_: int,
        next_: int = 1,
        written: int = 0,
        rows: int = 0,
        bytes_: int = 0,
        base: int = 0,
    ) -> None:
        self.id = id_
        self.base = base
        """Number that this process adds to a row's number; never decreases."""
        self.known = base + next_ - 1
        """The highest sequence of earlier processes, from the file or from the peer's marks."""
        self.next = next_
        """Reserved: the number of the next row."""
        self.opened_at = next_
        """Value of `next` when the store was opened."""
        self.written = written
        """The highest row that was handed to a link."""
        self.rows = rows
        """Applied: number of rows in the tables."""
        self.bytes = bytes_
        """Applied: bytes of the rows in the tables."""
        self.first_id: int | None = None
        """Applied: the oldest row; `None` if it must be looked up."""
        self.first_at: int | None = None
        """When the oldest row was queued; without `first_id`, that of an earlier row."""

    @property
    def first_sequence(self) -> int:
        """The first sequence of this process; lower ones belong to earlier processes."""
        return self.base + self.opened_at

    @property
    def written_sequence(self) -> int:
        """The highest sequence that this process has handed to a link, or its first less one.

        A peer whose mark is higher has accepted sequences that this process has yet to use.
        """
        return self.base + max(self.opened_at - 1, self.written)

    def may_be_written(self, row: int) -> bool:
        """Whether a row may have been handed to a link, by this process or an earlier one."""
        return row <= max(self.opened_at - 1, self.written)

    def can_have(self, row: int, sequence: int) -> bool:
        """Whether `sequence` is the number of `row` plus the base of some process."""
        base = sequence - row
        return 0 <= base <= self.base and not base % _BASE_UNIT

    def row_id(self, row: int) -> int:
        """Return the id of a row: peer, lane and number in one integer."""
        return self.id << ROW_BITS | row

    def gained(self, first_id: int, body: bytes, rows: int, bytes_: int) -> None:
        """Count rows that were added; `first_id` is the lowest of them."""
        if not self.rows:
            self.first_id, self.first_at = first_id, timestamp_of(body)
        self.rows += rows
        self.bytes += bytes_

    def lost(self, first_id: int, rows: int, bytes_: int) -> None:
        """Count rows that were removed; `first_id` is the lowest of them."""
        self.rows -= rows
        self.bytes -= bytes_
        if not self.rows:
            self.first_id = self.first_at = None
        elif self.first_id is not None and first_id <= self.first_id:
            self.first_id = None


class BatchRecord:
    """A received batch, kept while it has unacknowledged messages or remembered leaves."""

    __slots__ = ("id", "is_remembered", "leaves", "peer", "unacked")

    def __init__(self, id_: int, peer: PeerRecord, leaves: int) -> None:
        self.id = id_
        self.peer = peer
        self.leaves = leaves
        self.unacked = 0
        self.is_remembered = True


class PeerRecord:
    """The state of one peer, without its rows."""

    __slots__ = (
        "attempts",
        "batches",
        "bytes",
        "did",
        "epoch",
        "has_spoken_v2",
        "heard_at",
        "id",
        "inbox",
        "is_unmet",
        "lanes",
        "last_error",
        "last_error_at_us",
        "marks",
        "remembered",
        "rows",
        "seen_marks",
    )

    def __init__(self, id_: int, did: Did) -> None:
        self.id = id_
        self.did = did
        self.has_spoken_v2 = False
        self.is_unmet = False
        """Whether the peer has no route and never had a link, so that lower limits hold."""
        self.heard_at = 0
        """Id of the last batch from this peer, or of the next one when the record was made.
        The key of least-recently-used order."""
        self.epoch = 0
        """Our epoch towards the peer; 0: none yet."""
        self.lanes = [LaneRecord(id_ * _LANES + lane) for lane in range(_LANES)]
        self.rows = 0
        """Reserved: number of outgoing rows."""
        self.bytes = 0
        """Reserved: bytes of outgoing rows."""
        self.attempts = 0
        self.last_error: str | None = None
        self.last_error_at_us: int | None = None
        self.seen_marks = Marks(0, (0, 0, 0, 0))
        """Applied: the marks of the tables."""
        self.marks = self.seen_marks
        """The marks of the last commit, for HELLO."""
        self.inbox = 0
        """Reserved: number of unacknowledged messages from the peer."""
        self.batches: deque[BatchRecord] = deque()
        """Batches of the peer with remembered leaves, oldest first."""
        self.remembered = 0
        """Number of remembered leaves of the peer."""

    @property
    def first_row(self) -> int:
        """The lowest id that a row to the peer can have."""
        return self.lanes[0].id << ROW_BITS

    @property
    def last_row(self) -> int:
        """The highest id that a row to the peer can have."""
        return (self.lanes[-1].id + 1 << ROW_BITS) - 1


class Ledger:
    """The records of all peers, and the totals."""

    def __init__(self, limits: StoreLimits) -> None:
        self.limits = limits
        self.lock = threading.RLock()
        """Protects all reserved counts, and gives the order of operations."""
        self.peers: dict[Did, PeerRecord] = {}
        self.by_id: dict[int, PeerRecord] = {}
        self._next_peer = 1
        self._free_ids: list[int] = []
        self.rows = 0
        self.bytes = 0
        self.unmet_rows = 0
        """Reserved, like the two above: outgoing rows for unmet peers."""
        self.unmet_bytes = 0
        self.next_expiry_us: int | None = None
        """Earliest possible expiry of a row: Unix time, microseconds; `None`: no row expires."""
        self.dead_rows = 0
        self.dead_bytes = 0
        self.dead_dropped = 0
        self.expired = 0
        self.aged_out = 0
        self.rules: dict[AccessRule, set[bytes]] = {rule: set() for rule in AccessRule}
        """The access list when the store was opened."""
        self.unacked: dict[int, tuple[BatchRecord, int]] = {}
        """Unacknowledged messages: maps a row to its batch and its size."""
        self.unacked_bytes = 0
        self.remembered = 0
        # Oldest first. Finding the first key of a dict walks over all deleted entries.
        self._remembered: OrderedDict[int, BatchRecord] = OrderedDict()
        self.next_incoming = 1
        self.next_batch = 1
        self.changed_peers: set[PeerRecord] = set()
        """Applied: peers that the next commit writes."""
        self.changed_lanes: set[LaneRecord] = set()
        """Applied: lanes that the next commit writes."""

    # -- peers ------------------------------------------------------------------------

    def peer(self, did: Did) -> PeerRecord:
        """Return the record of a DID; makes one if there is none."""
        peer = self.peers.get(did)
        if peer is None:
            with self.lock:
                peer = self.peers.get(did) or self.add_peer(self._new_id(did), did)
        return peer

    def _new_id(self, did: Did) -> int:
        if self._free_ids:
            return self._free_ids.pop()
        if self._next_peer > MAX_PEER:
            raise StoreFullError(
                did,
                Reason.QUEUE_FULL,
                f"the store has {MAX_PEER:,} peers, its limit, and {did} is none of them",
                "Start with a new store",
            )
        return self._next_peer

    def strangers(self, count: int, is_in_use: Callable[[Did], bool]) -> list[PeerRecord]:
        """Return up to `count` peers that may be forgotten, least recently heard first.

        Such a peer was never sent a message, and has no unacknowledged message.
        """
        found = (
            peer
            for peer in self.peers.values()
            if not (peer.inbox or peer.rows or any(lane.next > 1 for lane in peer.lanes))
            and not is_in_use(peer.did)
        )
        return heapq.nsmallest(count, found, key=attrgetter("heard_at"))

    def remove_peer(self, peer: PeerRecord) -> None:
        """Free the id of a peer that has no row left in the tables."""
        with self.lock:
            del self.by_id[peer.id]
            self._free_ids.append(peer.id)

    def add_peer(self, id_: int, did: Did) -> PeerRecord:
        """Make the record of a new peer."""
        while self._next_peer < id_:  # gaps between the ids of an opened file are free
            self._free_ids.append(self._next_peer)
            self._next_peer += 1
        self._next_peer = max(self._next_peer, id_ + 1)
        peer = self.peers[did] = self.by_id[id_] = PeerRecord(id_, did)
        peer.heard_at = self.next_batch
        return peer

    def lane_of(self, row_id: int) -> LaneRecord:
        """Return the lane of a row."""
        lane = row_id >> ROW_BITS
        return self.by_id[lane // _LANES].lanes[lane % _LANES]

    # -- outgoing ---------------------------------------------------------------------

    def set_bases(self, now_us: int) -> None:
        """Set where the sequences of this process begin. Called when the store is opened."""
        for peer in self.peers.values():
            if peer.epoch:
                base = base_at(peer.epoch, now_us)
                for lane in peer.lanes:
                    lane.base = max(lane.base, base)

    def reached_limit(
        self, peer: PeerRecord, rows: int, bytes_: int, *, is_critical: bool
    ) -> ReachedLimit | None:
        """Return the limit that so many more rows would exceed; `None` if they fit."""
        limits = self.limits
        more = limits.critical_reserve if is_critical else 0
        counts = [
            (peer.rows, limits.max_peer_rows, "messages to this peer", "outbox_peer_limit"),
            (self.rows, limits.max_rows, "messages in all", "outbox_limit"),
        ]
        sizes = [
            (peer.bytes, limits.max_peer_bytes, "bytes to this peer", "outbox_peer_bytes"),
            (self.bytes, limits.max_bytes, "bytes in all", "outbox_bytes"),
        ]
        if peer.is_unmet:
            counts[:0] = [
                (
                    peer.rows,
                    limits.max_unmet_peer_rows,
                    "messages to a peer never met",
                    "unmet_peer_limit",
                )
            ]
            sizes[:0] = [
                (
                    peer.bytes,
                    limits.max_unmet_peer_bytes,
                    "bytes to a peer never met",
                    "unmet_peer_bytes",
                ),
                (
                    self.unmet_bytes,
                    limits.max_unmet_bytes,
                    "bytes to all peers never met",
                    "unmet_bytes",
                ),
            ]
        for have, limit, what, option in counts:
            if have + rows > limit + more:
                return ReachedLimit(f"{limit:,} {what}", option)
        for have, limit, what, option in sizes:
            if have + bytes_ > limit + more * _RESERVED_BYTES:
                return ReachedLimit(f"{limit:,} {what}", option)
        return None

    def is_full_for(self, peer: PeerRecord, size: int) -> bool:
        """Whether a limit per peer refuses a message of `size` bytes to this peer."""
        limits = self.limits
        rows, bytes_ = limits.max_peer_rows, limits.max_peer_bytes
        if peer.is_unmet:
            rows = min(rows, limits.max_unmet_peer_rows)
            bytes_ = min(bytes_, limits.max_unmet_peer_bytes)
        return peer.rows >= rows or peer.bytes + size > bytes_

    def full(self, peer: PeerRecord, limit: ReachedLimit) -> StoreFullError:
        """Return the error for a limit that is reached."""
        cure = "Wait until the peer takes some, give messages deadlines"
        if limit.option.startswith("unmet"):
            cure = "Add its route with routing.update(did, address), wait until it dials"
        return StoreFullError(
            peer.did,
            Reason.QUEUE_FULL,
            f"the outbox holds its limit of {limit.what}; the message to {peer.did} was not stored",
            f"{cure}, or raise {limit.option}",
        )

    def set_met(self, peer: PeerRecord, is_met: bool) -> bool:
        """Set whether the peer has a route or had a link; return whether that has changed."""
        with self.lock:
            if peer.is_unmet is not is_met:
                return False
            self._count_unmet(peer, -1)
            peer.is_unmet = not is_met
            self._count_unmet(peer, 1)
            return True

    def _count_unmet(self, peer: PeerRecord, sign: int) -> None:
        if peer.is_unmet:
            self.unmet_rows += sign * peer.rows
            self.unmet_bytes += sign * peer.bytes

    def reserve(self, peer: PeerRecord, rows: int, bytes_: int) -> None:
        """Add rows and bytes to the reserved counts; negative numbers subtract."""
        with self.lock:
            peer.rows += rows
            peer.bytes += bytes_
            self.rows += rows
            self.bytes += bytes_
            if peer.is_unmet:
                self.unmet_rows += rows
                self.unmet_bytes += bytes_

    def is_any_expired(self, now_us: int) -> bool:
        """Whether removing expired rows may make room."""
        return self.next_expiry_us is not None and self.next_expiry_us <= now_us

    def full_peers(self, size: int) -> list[Did]:
        """Return the peers whose own limit refuses a message of `size` bytes.

        Runs without the lock, because every sender waits for that, and there may be
        100,000 peers.
        """
        peers = tuple(self.peers.values())
        return [peer.did for peer in peers if peer.rows and self.is_full_for(peer, size)]

    @property
    def oldest_queued_at_us(self) -> int | None:
        """When the oldest outgoing row was queued: Unix time, microseconds."""
        found = [
            lane.first_at
            for peer in tuple(self.by_id.values())
            if peer.rows
            for lane in peer.lanes
            if lane.first_at is not None
        ]
        return min(found, default=None)

    # -- incoming ---------------------------------------------------------------------

    def inbox_room(self, peer: PeerRecord, sizes: Sequence[int]) -> int:
        """Return how many of the next messages of one sender fit; `sizes` are in bytes."""
        limits = self.limits
        rows = min(
            limits.max_inbox_peer_rows - peer.inbox, limits.max_inbox_rows - len(self.unacked)
        )
        free = limits.max_inbox_bytes - self.unacked_bytes
        count = 0
        for size in sizes[: max(0, rows)]:
            free -= size
            if free < 0:
                break
            count += 1
        return count

    def add_batch(self, peer: PeerRecord, id_: int, leaves: int) -> BatchRecord:
        """Add a received batch, whose leaves are remembered from now on."""
        batch = BatchRecord(id_, peer, leaves)
        peer.batches.append(batch)
        peer.remembered += leaves
        self.remembered += leaves
        self._remembered[id_] = batch
        return batch

    def add_unacked(self, id_: int, batch: BatchRecord, size: int) -> None:
        """Add an accepted message of `size` bytes, which the application must acknowledge."""
        self.unacked[id_] = (batch, size)
        self.unacked_bytes += size
        batch.unacked += 1
        batch.peer.inbox += 1

    def remove_unacked(self, id_: int) -> BatchRecord | None:
        """Remove an acknowledged message; return its batch if nothing needs that any more.

        Raises:
            KeyError: there is no such message.
        """
        batch, size = self.unacked.pop(id_)
        self.unacked_bytes -= size
        batch.unacked -= 1
        batch.peer.inbox -= 1
        return None if batch.unacked or batch.is_remembered else batch

    def forget_leaves(self, peer: PeerRecord, *, is_all: bool = False) -> list[BatchRecord]:
        """Forget the oldest leaves over the limits; return the batches to remove."""
        limits, gone = self.limits, []
        while peer.batches and (
            is_all or peer.remembered - peer.batches[0].leaves >= limits.max_sender_leaves
        ):
            gone += self._forget(peer.batches[0])
        while self.remembered > limits.max_leaves:
            gone += self._forget(next(iter(self._remembered.values())))
        return gone

    def _forget(self, batch: BatchRecord) -> list[BatchRecord]:
        peer = batch.peer
        first = peer.batches.popleft()
        assert first is batch  # both queues are in the order of the ids
        del self._remembered[batch.id]
        peer.remembered -= batch.leaves
        self.remembered -= batch.leaves
        batch.is_remembered = False
        return [] if batch.unacked else [batch]
