"""The simulated world: stations with their nodes, their applications, and what must hold.

A `Station` is a machine: an address, an identity, a wall clock of its own. It has one
`Life` after another: a life is one `signedwire.Node` with its application, from its start
to its crash or close. What must hold is checked while it happens, in the hooks below, and
again at the end; whatever does not is a text in `World.violations`.

The real things run: nodes, TLS, sessions, signatures, queues. Not real are the loop, the
network, the clocks, and the TLS keys, which are Ed25519 and kept for all runs so that every
record has the same length each time.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, cast
from weakref import WeakKeyDictionary, WeakSet

from signedwire import Address, Did, Identity, Node, Priority, RoutingTable, TransportConfig
from signedwire import clock as clock_module
from signedwire import sending as sending_module
from signedwire.arguments import Deadline
from signedwire.clock import Clock
from signedwire.delivery import receipt as receipt_module
from signedwire.delivery.all_send_streams import AllSendStreams
from signedwire.delivery.denials import DenialFilter
from signedwire.delivery.endpoint import Endpoint
from signedwire.delivery.inbox import Inbox
from signedwire.delivery.message import Message
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.receipt import Receipt
from signedwire.delivery.removed_rows import RemovedRows
from signedwire.delivery.send_streams import Refused
from signedwire.delivery.store import IncomingRow, RowName, Store, StoreLimits, sqlite_tables
from signedwire.delivery.store.work import Work
from signedwire.errors import FailureKind, SignedWireError, StoreError
from signedwire.sending import Sending
from signedwire.transport import tls
from signedwire.transport.certificates import issue_certificate
from signedwire.transport.tls import TlsIdentity
from signedwire.types import DeliveryState, Reason
from signedwire.wire.did_proof import make_did_proof
from signedwire.wire.header import MIN_V2_HEADER_SIZE, STREAMS, VOLATILE, stream_of
from signedwire.wire.receipt_proof import verify_receipt
from signedwire.wire.receipt_signer import Acceptance
from signedwire.wire.session import Session

from .disk import Disk, DiskStore, Habits
from .loop import Owner, VirtualLoop, current_owner
from .network import HostNetwork, Network

__all__ = ["Life", "Sent", "Station", "World", "identity_of", "simulated"]

BASE: Final = 1_800_000_000.0
"""The wall clock of a station without offset, at virtual time 0."""
_DAY_US: Final = 24 * 3600 * 1_000_000
_HEAD: Final = struct.Struct("<QBBI")  # id, sender, lane, counter
_U64: Final = struct.Struct("<Q")
_EXPIRY_AT: Final = 114
_ACCEPTED: Final = frozenset({DeliveryState.ACCEPTED, DeliveryState.HANDLED})
_FAILED: Final = frozenset({DeliveryState.FAILED, DeliveryState.EXPIRED, DeliveryState.REFUSED})
_UNSETTLED: Final = frozenset(
    {DeliveryState.QUEUED, DeliveryState.PERSISTED, DeliveryState.WRITTEN}
)
PORT: Final = 9000
_CHECKPOINT_BYTES: Final = 300_000
"""Of WAL before it is begun anew: enough for some in a run."""
_PAGE: Final = 512
"""Rows that come into a queue together, whatever its limit."""


@dataclass(eq=False)
class Sent:
    """A message that an application has sent, or tried to."""

    id: int
    sender: Life
    to: Station
    lane: Priority
    counter: int
    payload: bytes
    expires_at: float | None
    is_volatile: bool = False
    """Whether no store keeps it."""
    is_reply: bool = False
    """Whether it answers a message."""
    receipt: Receipt | None = None
    accepted_by: list[Life] = field(default_factory=list)
    """Whose inbox it came into."""
    delivered_to: list[Life] = field(default_factory=list)
    """Whose application has it."""
    done_by: list[Life] = field(default_factory=list)
    refused_by: list[Life] = field(default_factory=list)
    was_buried: bool = False
    """Whether its sender's store made a dead letter of it because its recipient is denied."""
    denied_by: list[Life] = field(default_factory=list)
    """Who had it, and dropped it because its sender was denied."""
    was_confirmed: bool = False
    """Whether the sender was told `accepted` once."""
    was_persisted: bool = False
    """Whether the sender was told that it is in its store."""
    is_told: bool = False
    """Whether the sender was told what became of it, in any of its lives."""
    was_told_expired: bool = False
    outcome: str = ""
    """What came of it, if it is volatile."""
    was_unconfirmed: bool = False
    """Whether it went to a v1 peer, which is all that one hears."""
    is_done: bool = False
    """Whether that it is done is in its receiver's store."""
    due_us: int | None = None
    """Its deadline, as its header has it."""
    dues_us: list[int] = field(default_factory=list)
    """All that its deadline was on the disk: seconds go with a clock that is set."""
    ends_at: float | None = None
    """Its deadline in seconds, by the monotonic clock of its sender."""

    @property
    def is_date(self) -> bool:
        """Whether its deadline is one."""
        return self.expires_at is not None and self.ends_at is None

    def __str__(self) -> str:
        return f"#{self.id} {self.sender}>{self.to} {self.lane.name} {self.counter}"


class Life(Owner):
    """One node from its start to its end."""

    def __init__(self, station: Station, number: int) -> None:
        super().__init__(f"{station}.{number}")
        self.loop_offset = station.loop_offset
        self.is_apart = bool(station.loop_offset or station.slept or station.clock_offset)
        self.newest_epoch = 0
        self.station = station
        self.number = number
        self.node: Node
        self.store: DiskStore | None = None
        self.is_up = False
        """Whether the node has started."""
        self.restored: set[int] = set()
        """Messages that an earlier life has accepted and not got done."""
        self.carries_receipts = False
        self.last: dict[tuple[Life, int], int] = {}
        """By sender and stream, the last counter delivered to the application."""
        self.waiting: Counter[tuple[Did, int]] = Counter()
        """In the inbox, by sender and stream."""
        self.denied: set[int] = set()
        """Whom this life was told to deny."""
        self.arrived = 0
        self.is_closing = False
        self.over: asyncio.Future[None] = station.world.loop.create_future()
        """Resolved by its crash."""
        self.is_sending = False
        """Whether its application waits for room: what is sent meanwhile overtakes it."""
        self.applications: list[asyncio.Task[None]] = []
        self.ended_unseen: Counter[Reason] = Counter()
        self.refusals: Counter[str] = Counter()
        """Exceptions of `send()`, by type and reason."""

    def __str__(self) -> str:
        return self.name


class Station:
    """A machine."""

    def __init__(self, world: World, index: int, config: TransportConfig) -> None:
        self.world = world
        self.index = index
        self.identity = identity_of(index)
        self.ip = f"10.0.0.{index + 1}"
        self.address = Address(self.ip, PORT)
        self.config = config.replace(listen=self.address)
        self.clock_offset = 0.0
        self.slept = 0.0
        """Seconds that it was suspended: its loop's clock has not seen them."""
        self.loop_offset = 0.0
        self.stalled_until = 0.0
        """Until when the application takes nothing."""
        self.routing = RoutingTable()
        self.lives: list[Life] = []
        self.life: Life | None = None
        """The present one."""
        self.denied: set[int] = set()
        self.speaks_v1 = config.wire == "v1"
        self.store_path: str | None = None
        self.limits = StoreLimits()
        self.habits = Habits()
        self.latest = 0.0
        """How late its wall clock was before it was set."""
        self.last: dict[tuple[Station, Priority], tuple[int, int]] = {}
        """The life and the counter that were delivered last for the first time."""

    def __str__(self) -> str:
        return f"n{self.index}"

    @property
    def now(self) -> float:
        """Its wall clock."""
        return BASE + self.monotonic + self.clock_offset

    @property
    def monotonic(self) -> float:
        """Its monotonic clock."""
        return self.world.loop.now + self.slept

    def was_late(self, sent: Sent) -> bool:
        """Whether its clock has ever shown that a deadline had passed, wherever that stood."""
        return bool(sent.dues_us) and max(self.latest, self.now) >= min(sent.dues_us) / 1e6

    def step(self, seconds: float) -> None:
        """Its wall clock is set."""
        self.latest = max(self.latest, self.now)
        seconds = max(seconds, 1.0 - self.now)  # before 1970 a node says that it is 1970
        self.clock_offset += seconds
        if self.life is not None:
            self.life.is_apart = True
        self.world.trace(f"{self} clock {self.clock_offset:+.0f}")
        for sent in self.world.sent.values():
            if sent.sender.station is self and sent.ends_at is not None and sent.dues_us:
                sent.dues_us.append(sent.dues_us[-1] + round(seconds * 1e6))

    def suspend(self, seconds: float) -> None:
        """It was suspended, in no time at all for the others."""
        self.slept += seconds
        if self.life is not None:
            self.life.is_apart = True
        self.world.trace(f"{self} was suspended for {seconds:.0f} s")

    async def start(self) -> Life:
        """A new life."""
        world = self.world
        life = Life(self, len(self.lives))
        self.lives.append(life)
        self.life = life

        async def begin() -> None:
            network: Any = HostNetwork(world.network, self.index, self.ip)
            life.node = Node(self.identity, self.config, self.routing, network=network)
            life.node._core.runtime.rng.seed(f"{world.seed}/{life}")
            if self.store_path is not None:
                life.node._has_store = True
                life.node._core.files._open_store = lambda call: self._open(life)
            await life.node.start()

        world.trace(f"{life} starts")
        task = world.loop.create_task(begin(), context=life.context)
        if self.store_path is not None:
            # That takes time, and may be cut short.
            await asyncio.wait({task, life.over}, return_when=asyncio.FIRST_COMPLETED)
            if life.is_dead:
                return life
        try:
            await task
        except StoreError as error:
            self._on_not_started(life, error)
            return life
        life.is_up = True
        world.on_start(life)
        return life

    def _on_not_started(self, life: Life, error: StoreError) -> None:
        world = self.world
        world.trace(f"{life} does not start: {type(error).__name__}")
        if life.store is None or life.store.failure is None:
            world.violate(f"{life} does not start: {error!r}")
        elif not life.store.disk.is_gone:
            world.violate(f"{life} did not start, and has its store open")
        self.life = None
        world.network.crash(life, is_silent=False)
        world.loop.kill(life)

    def _open(self, life: Life) -> Store:
        world, path = self.world, self.store_path
        assert path is not None
        rng = random.Random(f"{world.seed}/disk/{life}")

        def make_disk(work: Work) -> Disk:
            return Disk(world.loop, life, work, path, self.habits, rng, world.trace)

        store = life.store = DiskStore(path, self.identity.did, self.limits, make_disk)
        world.on_opened(self, store)
        life.restored = {_number_in(body) for body in store.incoming_bodies.values()}
        store.on_done = lambda body: world.on_done(life, body)
        return store

    def crash(self, *, is_silent: bool) -> None:
        """It loses power, or its process is killed."""
        life = self.life
        if life is None:
            return
        self.life = None
        self.forget_denials()
        self.world.trace(f"{life} crashes{' silently' * is_silent}")
        self.world.network.crash(life, is_silent=is_silent)
        if life.store is not None:
            assert self.store_path is not None
            self.store_path = f"{self.store_path.partition('-')[0]}-{life.number}"
            life.store.disk.crash(self.store_path)
        self.world.loop.kill(life)
        life.over.set_result(None)
        if is_silent:
            self.world.network.down.add(self.index)

    def forget_denials(self) -> None:
        """A store keeps them; without one they are gone with the life."""
        if self.store_path is None:
            self.denied.clear()

    async def restart(self) -> Life:
        """It is back, as another life with the same key."""
        assert self.life is None
        self.world.network.down.discard(self.index)
        life = await self.start()
        self.world.network.change()
        return life

    async def close(self) -> None:
        """The node is closed as it should be; and looked at afterwards."""
        life = self.life
        if life is None or life.is_closing:
            return
        life.is_closing = True
        await self.world.close(life)
        self.life = None
        self.forget_denials()


class World:
    """Everything, and what must hold."""

    def __init__(self, loop: VirtualLoop, seed: int | str) -> None:
        self.loop = loop
        self.seed = seed
        self.lines: list[str] = []
        self.violations: list[str] = []
        self.network = Network(loop, f"{seed}/network", self.trace)
        self.stations: list[Station] = []
        self.sent: dict[int, Sent] = {}
        self.by_receipt: dict[Receipt, Sent] = {}
        self.unseen: WeakKeyDictionary[Receipt, Life] = WeakKeyDictionary()
        """Receipts that ended while the call that sends their messages had not returned."""
        self.restored: WeakKeyDictionary[Receipt, Sent] = WeakKeyDictionary()
        """Receipts of messages that another life had sent."""
        self.refused: WeakSet[Receipt] = WeakSet()
        """Receipts of messages that their recipients have refused, which they have signed."""
        self.counts: Counter[str] = Counter()
        """What was seen on links, by its name."""
        self.overmarked = 0
        """Messages marked as redelivered that no application had seen."""
        self.by_did: dict[Did, Station] = {}
        self.on_start: Callable[[Life], None] = lambda life: None
        self.max_close_time = 0.0
        rng = random.Random(f"{seed}/executor")
        loop.executor_delay = lambda: rng.uniform(0.0, 0.002)
        self._ids = itertools.count(1)
        self._counters: Counter[tuple[Life, Station, int]] = Counter()
        self._volatile_rng = random.Random(f"{seed}/volatile")
        # A script says itself what it sends.
        shares = (0.0, 0.3, 0.7) if isinstance(seed, int) else (0.0,)
        self._volatile_share = self._volatile_rng.choice(shares)
        self.is_latest = self._volatile_share > 0 and random.Random(f"{seed}/latest").random() < 0.5
        """Whether each volatile message replaces the one before it that waits in its stream."""

    def trace(self, text: str) -> None:
        """Something happened."""
        self.lines.append(f"{self.loop.now:.6f} {text}")

    def violate(self, text: str) -> None:
        """Something happened that must not."""
        self.trace(f"VIOLATION {text}")
        self.violations.append(f"{self.loop.now:.6f} {text}")

    def add(self, config: TransportConfig) -> Station:
        """A machine, not yet switched on. All know where all are."""
        station = Station(self, len(self.stations), config)
        self.stations.append(station)
        self.by_did[station.identity.did] = station
        for one in self.stations:
            for other in self.stations:
                if one is not other:
                    one.routing.update(other.identity.did, other.address)
        return station

    # -- what applications do ---------------------------------------------------------------

    def pick_volatile(self) -> bool:
        """Whether the next message is volatile: a share of them, which goes by the seed."""
        return self._volatile_rng.random() < self._volatile_share

    def make(
        self,
        life: Life,
        to: Station,
        lane: Priority,
        size: int,
        deadline: Deadline,
        *,
        is_volatile: bool = False,
    ) -> Sent:
        """The next message of `life` to `to` in that lane."""
        number = next(self._ids)
        stream = lane + VOLATILE * is_volatile
        self._counters[life, to, stream] += 1
        counter = self._counters[life, to, stream]
        head = _HEAD.pack(number, life.station.index, lane, counter)
        payload = head + random.Random(number).randbytes(max(0, size - len(head)))
        station, expires_at, ends_at = life.station, None, None
        if isinstance(deadline, datetime):
            expires_at = deadline.timestamp()
        elif isinstance(deadline, float):
            expires_at, ends_at = station.now + deadline, station.monotonic + deadline
        sent = Sent(
            number, life, to, lane, counter, payload, expires_at, is_volatile, ends_at=ends_at
        )
        self.sent[number] = sent
        return sent

    def send_nowait(
        self,
        life: Life,
        to: Station,
        lane: Priority,
        size: int,
        deadline: float | datetime | None = None,
    ) -> Sent:
        """Send it, or be told why not."""
        is_volatile = self.pick_volatile()
        sent = self.make(life, to, lane, size, deadline, is_volatile=is_volatile)
        try:
            # Also from a script: what the node begins is the life's.
            receipt = life.context.copy().run(
                lambda: life.node.send_nowait(
                    to.identity.did, sent.payload, priority=lane, deadline=deadline
                )
            )
        except SignedWireError as error:
            self.on_not_sent(sent, error)
        else:
            self.on_queued(sent, receipt)
        return sent

    async def send(
        self,
        life: Life,
        to: Station,
        lane: Priority,
        size: int,
        deadline: float | datetime | None = None,
        *,
        is_kept: bool = False,
    ) -> Sent:
        """The same; waits until it is queued. `is_kept`: it is durable in any case."""
        is_volatile = not is_kept and self.pick_volatile()
        sent = self.make(life, to, lane, size, deadline, is_volatile=is_volatile)
        life.is_sending = True
        try:
            receipt = await life.node.send(
                to.identity.did, sent.payload, priority=lane, deadline=deadline, until="queued"
            )
        except SignedWireError as error:
            self.on_not_sent(sent, error)
        else:
            self.on_queued(sent, receipt)
        finally:
            life.is_sending = False
        return sent

    async def persist(
        self,
        life: Life,
        to: Station,
        lane: Priority,
        size: int,
        deadline: float | datetime | None = None,
    ) -> Sent:
        """The same; waits until it is in the store."""
        sent = await self.send(life, to, lane, size, deadline, is_kept=True)
        if sent.receipt is not None:
            with contextlib.suppress(SignedWireError):
                await sent.receipt.wait(DeliveryState.PERSISTED)
                self.trace(f"{sent} persisted for its sender")
        return sent

    async def send_many(self, life: Life, to: Station, lane: Priority, sizes: list[int]) -> None:
        """Many at once."""
        is_volatile = self.pick_volatile() and not self.is_latest
        many = [self.make(life, to, lane, size, None, is_volatile=is_volatile) for size in sizes]
        life.is_sending = True
        try:
            receipts = await life.node.send_many(
                to.identity.did, [sent.payload for sent in many], priority=lane, until="queued"
            )
        except SignedWireError as error:
            for sent, receipt in zip(many, error.receipts, strict=False):
                assert isinstance(receipt, Receipt)
                self.on_queued(sent, receipt)
            for sent in many[len(error.receipts) :]:
                self.on_not_sent(sent, error)
        else:
            for sent, receipt in zip(many, receipts, strict=True):
                self.on_queued(sent, receipt)
        finally:
            life.is_sending = False

    def on_not_sent(self, sent: Sent, error: SignedWireError) -> None:
        self.trace(f"{sent} not sent: {type(error).__name__}")
        sent.sender.refusals[type(error).__name__] += 1

    def on_queued(self, sent: Sent, receipt: Receipt) -> None:
        """`send()` has taken it."""
        self.trace(f"{sent} queued {len(sent.payload)}")
        sent.receipt = receipt
        self.by_receipt[receipt] = sent
        if receipt in self.unseen and receipt.reason is not None:
            self.unseen.pop(receipt).ended_unseen[receipt.reason] -= 1
        if receipt.state is not DeliveryState.QUEUED:
            self.on_advance(receipt, receipt.state, receipt.reason)

    def on_delivered(self, life: Life, message: Message) -> Sent | None:
        """The application has taken a message."""
        number, sender, lane, counter = _HEAD.unpack_from(message.payload)
        sent = self.sent.get(number)
        self.trace(f"{life} delivered #{number}")
        if sent is None or message.payload != sent.payload:
            self.violate(f"{life} got what nobody sent: {message!r}")
            return None
        if sent.to is not life.station:
            self.violate(f"{sent} came to {life}")
        if message.sender != sent.sender.station.identity.did or not message.is_proven:
            self.violate(f"{sent}: its sender shows as {message.sender}")
        if message.priority != lane or lane != sent.lane or sender != sent.sender.station.index:
            self.violate(f"{sent}: its header is {message!r}")
        if sent.sender.station.index in life.denied:
            self.violate(f"{sent} delivered to {life}, which denies its sender")
        if life in sent.delivered_to:
            self.violate(f"{sent} delivered twice to {life}")
        self._check_redelivery(life, message, sent)
        if sent.delivered_to and sent.was_confirmed and life not in sent.accepted_by:
            self.violate(f"{sent} delivered again although its sender had been told")
        is_v1 = sent.sender.station.speaks_v1 or life.station.speaks_v1
        stream = sent.lane + VOLATILE * sent.is_volatile
        last = life.last.get((sent.sender, stream), 0)
        if not is_v1 and message.durable is sent.is_volatile:
            self.violate(f"{sent}: its header says durable={message.durable}")
        if counter <= last and not is_v1:
            self.violate(f"{sent} after {last}: order in {life}")
        life.last[sent.sender, stream] = max(counter, last)
        is_first = not sent.delivered_to and not sent.is_volatile
        if life.store is not None and is_first and not is_v1:
            key, place = (sent.sender.station, sent.lane), (sent.sender.number, counter)
            before = life.station.last.get(key, (0, 0))
            if place <= before:
                self.violate(f"{sent} after {before}: order of first deliveries to {life}")
            life.station.last[key] = max(place, before)
        # What its sender's clock said when it was written; it may have been set since the send.
        due = message.expires_at_us
        if due is not None and life.station.now >= due / 1e6 + 1e-5:
            self.violate(f"{sent} delivered {life.station.now - due / 1e6:.3f} s late")
        if not is_v1 and (due is None) != (sent.expires_at is None):
            self.violate(f"{sent}: its deadline is {due}")
        receipt = sent.receipt
        if receipt is not None and sent.was_told_expired and not is_v1:
            self.violate(f"{sent} delivered after its sender was told that it expired")
        sent.delivered_to.append(life)
        return sent

    def _check_redelivery(self, life: Life, message: Message, sent: Sent) -> None:
        earlier = [one for one in sent.delivered_to if one is not life]
        if sent.is_done:
            self.violate(f"{sent} delivered to {life}, though it was durably done")
        if message.redelivered and sent.id not in life.restored:
            self.violate(f"{sent} marked as redelivered, and no earlier life had it")
        is_kept = life.store is not None and message.epoch > 0  # not of v1
        if is_kept and earlier and not message.redelivered:
            self.violate(f"{sent} delivered to {earlier[-1]}, and again to {life} without a mark")
        # Whether the application had seen it is not stored: a mark too many is none too few.
        self.overmarked += message.redelivered and not earlier

    # -- what the hooks see -----------------------------------------------------------------

    def on_opened(self, station: Station, store: DiskStore) -> None:
        """A store has been opened: what it must hold, and what it must not."""
        if store.integrity != "ok":
            self.violate(f"{station}: its store is damaged: {store.integrity}")
        outgoing = {_number_in(body) for body in store.outgoing_bodies}
        dead = {_number_in(body): reason for body, reason in store.dead_rows}
        incoming = {_number_in(body) for body in store.incoming_bodies.values()}
        self.trace(f"{station} opens: {len(outgoing)} out, {len(dead)} dead, {len(incoming)} in")
        for sent in self.sent.values():
            is_late = station.was_late(sent)
            # A disk that failed after it had written them said nothing of the dead letters of a
            # denied recipient. The next life has them.
            is_denied = dead.get(sent.id) == Reason.DENIED
            sent.was_buried |= is_denied and sent.sender.station is station
            if sent.sender.station is station and sent.was_persisted:
                # A dead letter tells the next life what the last one was not told.
                is_kept = sent.id in outgoing or sent.id in dead or is_late
                is_kept = is_kept or sent.was_unconfirmed or sent.was_buried
                if not is_kept and not is_settled(sent):
                    self.violate(f"{sent} was persisted, and is gone from the store")
            is_missing = sent.id not in incoming and not sent.is_volatile
            if sent.to is station and is_missing and sent.was_confirmed:
                is_answered = sent.done_by or sent.refused_by or sent.denied_by or is_late
                if not is_answered:
                    self.violate(f"{sent} was accepted by {station}, and is gone from its store")
            if sent.to is station and sent.id in incoming and sent.is_done:
                self.violate(f"{sent} was durably done, and is in the store of {station}")

    def on_done(self, life: Life, body: bytes) -> None:
        """That a message is done was told to be durable."""
        sent = self.sent[_number_in(body)]
        self.trace(f"{life} durably done #{sent.id}")
        sent.is_done = True

    def on_numbered(self, message: OutgoingMessage) -> None:
        """It has its header."""
        sent = self.sent.get(_number_in(message.body))
        if sent is not None:
            sent.due_us = _U64.unpack_from(message.body, _EXPIRY_AT)[0] or None
            sent.dues_us = [] if sent.due_us is None else [sent.due_us]

    def on_written(self, life: Life, body: bytes) -> None:
        """It goes into a link: not after its deadline."""
        sent = self.sent.get(_number_in(body))
        due = _U64.unpack_from(body, _EXPIRY_AT)[0]
        if sent is None or not due:
            return
        station = life.station
        sent.due_us = due
        late = station.now - due / 1e6
        if sent.sender is life and sent.ends_at is not None:
            late = station.monotonic - sent.ends_at
        if late > 1e-5:
            self.violate(f"{sent} written {late:.3f} s after its deadline")

    def _check_expired(self, sent: Sent, receipt: Receipt) -> None:
        """No deadline ends early; and where the receiver's clock ended it, it says so."""
        station = sent.sender.station
        if sent.receipt is not receipt or sent.expires_at is None:
            return
        is_refused = receipt in self.refused
        if is_refused and (
            sent.due_us is None or max(sent.to.latest, sent.to.now) < sent.due_us / 1e6
        ):
            self.violate(f"{sent}: refused as late, and it was not by the clock of {sent.to}")
        # Without a refusal, that the clocks differ is why no link opened until its deadline.
        if is_refused and receipt.detail_kind is FailureKind.CLOCKS_DIFFER:
            return
        if sent.ends_at is not None:
            if station.monotonic < sent.ends_at - 1e-3:
                early = sent.ends_at - station.monotonic
                self.violate(f"{sent}: expired {early:.3f} s before its deadline")
        elif max(station.latest, station.now) < sent.expires_at - 1e-3:
            self.violate(f"{sent}: expired, and the clock of {station} was not there yet")

    def on_restored(self, message: OutgoingMessage) -> None:
        """It was loaded from the store."""
        sent = self.sent.get(_number_in(message.body))
        if sent is None or message.payload_size != len(sent.payload):
            self.violate(f"loaded what nobody sent: {message!r}")
        elif sent.receipt is not message:
            self.restored[message] = sent

    def on_advance(self, receipt: Receipt, before: DeliveryState, reason: Reason | None) -> None:
        """A receipt has moved."""
        sent = self.by_receipt.get(receipt) or self.restored.get(receipt)
        state = receipt.state
        owner = current_owner()
        if sent is None:
            # Of a `send_many()` that was not let finish.
            if receipt.is_final and reason is not None and isinstance(owner, Life):
                owner.ended_unseen[reason] += 1
                self.unseen[receipt] = owner
            return
        if (owner if isinstance(owner, Life) else sent.sender).is_dead:
            return
        sent.was_persisted |= state is DeliveryState.PERSISTED
        sent.is_told |= state not in _UNSETTLED
        sent.was_unconfirmed |= receipt.is_unconfirmed
        # And not that it may have arrived.
        is_doubtful = receipt.detail_kind is FailureKind.UNANSWERED
        sent.was_told_expired |= state is DeliveryState.EXPIRED and not is_doubtful
        self.trace(f"{sent} {state}" + f" ({reason})" * (reason is not None))
        destination = sent.to.speaks_v1 or sent.sender.station.speaks_v1
        if before in _ACCEPTED and state in _UNSETTLED:
            self.violate(f"{sent}: {before} and then {state}")
        self._check_outcome(sent, receipt, before)
        if state in _ACCEPTED:
            sent.was_confirmed = True
            if not (sent.accepted_by or sent.denied_by):
                self.violate(f"{sent}: {state}, but it came into no inbox")
            if destination:
                self.violate(f"{sent}: {state} by a v1 peer")
        if state is DeliveryState.HANDLED and not sent.done_by:
            self.violate(f"{sent}: handled, but nobody called ack()")
        if state is DeliveryState.REFUSED:
            if reason is Reason.REFUSED and not sent.refused_by:
                self.violate(f"{sent}: refused, but by nobody")
            elif reason is None:
                self.violate(f"{sent}: refused without a reason")
            elif reason is Reason.NOT_ALLOWED:
                if not sent.denied_by:
                    self.violate(f"{sent}: not allowed, but nobody denied its sender")
            elif reason is Reason.INBOX_FULL and sent.to.store_path is not None:
                pass
            elif reason is not Reason.REFUSED:
                self.violate(f"{sent}: refused: {reason}")
        is_answer = receipt in self.refused and state in _FAILED  # also `expired`
        if state is DeliveryState.REFUSED or is_answer:
            self._check_proof_of_refusal(sent, receipt)
        if state is DeliveryState.EXPIRED:
            self._check_expired(sent, receipt)
            if sent.expires_at is None:
                self.violate(f"{sent}: expired, but it had no deadline")
            elif (
                sent.delivered_to
                and len(sent.to.lives) == 1
                and not destination
                and sent.receipt is receipt  # else nobody holds it
                and not is_doubtful  # else its sender was told that it may have been
            ):
                self.violate(f"{sent}: expired, but it was delivered")
        if state is DeliveryState.PERSISTED and sent.is_volatile:
            self.violate(f"{sent}: volatile, and in a store")
        if state is DeliveryState.FAILED and reason is None:
            self.violate(f"{sent}: failed without a reason")

    def on_refusals(self, messages: Iterable[OutgoingMessage]) -> None:
        """A recipient has signed that it refuses these."""
        self.refused.update(messages)

    def _check_outcome(self, sent: Sent, receipt: Receipt, before: DeliveryState) -> None:
        """A message has one outcome, and only a volatile one may have one that is unknown."""
        state = receipt.state
        if before in _FAILED and state is not before:
            self.violate(f"{sent}: {before} and then {state}")
        if before in _ACCEPTED and state in _FAILED and receipt not in self.refused:
            self.violate(f"{sent}: {before} and then {state}, and its peer did not refuse it")
        is_unknown = receipt.reason is Reason.UNKNOWN_OUTCOME
        if is_unknown and not sent.is_volatile:
            self.violate(f"{sent}: durable, and its outcome is unknown")
        elif is_unknown and len(sent.to.lives) < 2:
            self.violate(f"{sent}: its outcome is unknown, and {sent.to} has not restarted")
        if sent.is_volatile and state not in _UNSETTLED:
            is_replaced = receipt.reason is Reason.REPLACED
            sent.outcome = "unknown" if is_unknown else "replaced" if is_replaced else str(state)
            if is_replaced and not self.is_latest:
                self.violate(f"{sent}: replaced, and has no key")

    def _check_proof_of_refusal(self, sent: Sent, receipt: Receipt) -> None:
        """Whoever refuses a message has signed that, for this very message."""
        try:
            proven = verify_receipt(receipt.proof())
        except (LookupError, SignedWireError) as error:
            self.violate(f"{sent}: refused without a proof: {error}")
            return
        if not proven.is_refused or proven.reason is not receipt.reason:
            self.violate(f"{sent}: refused, and its proof says {proven}")
        if _number_in(proven.envelope.body) != sent.id:
            self.violate(f"{sent}: refused, and its proof is of another message")

    def on_arrival(self, life: Life, message: Message) -> None:
        """A message came into an inbox."""
        life.arrived += 1
        number = _HEAD.unpack_from(message.payload)[0]
        self.trace(f"{life} accepted #{number}")
        sent = self.sent.get(number)
        if sent is None:
            self.violate(f"{life} accepted what nobody sent: {message!r}")
            return
        if life in sent.accepted_by:
            self.violate(f"{sent} accepted twice by {life}")
        is_v1 = sent.sender.station.speaks_v1 or life.station.speaks_v1
        if sent.is_volatile and sent.accepted_by and not is_v1:
            self.violate(f"{sent} is volatile, and accepted by {sent.accepted_by[0]} and {life}")
        sent.accepted_by.append(life)
        if message.redelivered:
            life.waiting[sent.sender.station.identity.did, _stream_in(message)] += 1
        elif message.epoch > 0:
            place = sent.sender.station.identity.did, _stream_in(message)
            life.waiting[place] += 1
            if not life.restored and (
                life.waiting[place] > credit_of(life.station.config, place[1])
            ):
                self.violate(f"{life}: more waits from {sent.sender.station} than its credit")

    def on_take(self, life: Life, message: Message) -> None:
        """A message left an inbox."""
        if message.epoch > 0:
            life.waiting[message.sender, _stream_in(message)] -= 1

    def on_denied(self, life: Life, body: bytes) -> None:
        """A message was dropped because its sender is denied."""
        sent = self.sent[_number_in(body)]
        self.trace(f"{life} drops #{sent.id} of a denied sender")
        if sent.sender.station.index not in life.station.denied:
            self.violate(f"{sent} dropped by {life}, which does not deny its sender")
        sent.denied_by.append(life)

    def on_removed(self, life: Life, names: list[RowName], reason: Reason) -> None:
        """Rows have left a store without an answer of their peer."""
        if reason is not Reason.DENIED:
            return
        gone = set(names)
        for sent in self.sent.values():
            row = sent.receipt
            if sent.sender.station is life.station and isinstance(row, OutgoingMessage):
                sent.was_buried |= (row.recipient, row.priority, row.row) in gone

    def check_limits(self) -> None:
        """Memory, now."""
        for station in self.stations:
            life = station.life
            if life is None:
                continue
            config = station.config
            # Not by `peers()`, whose full reports took a fifteenth of the time of a campaign.
            for session in life.node._core.endpoint.sessions.senders():
                sender, did = session.sender, session.did
                there = self.by_did[did].config
                if station.speaks_v1 or self.by_did[did].speaks_v1:
                    continue  # without credit, what is written is bounded by the kernel
                # What comes back from a broken link had its place before.
                most = config.send_queue_limit + config.critical_reserve
                if life.store is not None:
                    most = max(most, config.send_queue_limit + _PAGE)
                in_flight = Counter(
                    message.options.stream
                    for streams in (sender.streams.durable, sender.streams.volatile)
                    for flight in streams._in_flight.values()
                    for message in flight.all()
                )
                for kind in (range(VOLATILE), range(VOLATILE, STREAMS)):
                    flying = {stream: credit_of(there, stream) for stream in kind}
                    if self.by_did[did].store_path is not None and 0 in kind:
                        # What comes twice costs no credit, and waits for the disk.
                        flying = {stream: 2 * credit for stream, credit in flying.items()}
                    queued = sum(map(sender.lanes.size, kind))
                    is_over = any(in_flight[one] > credit for one, credit in flying.items())
                    if is_over or queued > most + sum(flying.values()):
                        self.violate(f"{life}: {queued} queued, {in_flight} in flight by stream")
            pool = life.node.pool_stats()
            if pool.active > pool.limit:
                self.violate(f"{life}: {pool}")

    # -- ends ---------------------------------------------------------------------------------

    def unsettled(self) -> list[Sent]:
        """Messages of the living of which nobody knows what became."""
        return [
            sent
            for sent in self.sent.values()
            if sent.receipt is not None and not sent.sender.is_dead and not is_settled(sent)
        ]

    def untaken(self) -> int:
        """What waits in inboxes."""
        return sum(
            station.life.node.stats().inbox_messages for station in self.stations if station.life
        )

    def stored(self) -> int:
        """What waits in stores. v1 peers do not say when a row may go."""
        return sum(
            station.life.store.backlog(other.identity.did).rows
            for station in self.stations
            if station.life is not None and station.life.store is not None
            for other in self.stations
            if not (other.speaks_v1 or station.speaks_v1)
        )

    def check_files(self) -> None:
        """The nodes are closed: what they have left must be what they have told."""
        for station in self.stations:
            if station.store_path is not None and station.lives:
                owner = Owner("inspector")

                def make_disk(work: Work, station: Station = station, owner: Owner = owner) -> Disk:
                    path, rng = station.store_path or "", random.Random(0)
                    return Disk(self.loop, owner, work, path, Habits(), rng, self.trace)

                did = station.identity.did
                store = DiskStore(station.store_path, did, station.limits, make_disk)
                self.on_opened(station, store)
                store.close()

    async def close(self, life: Life) -> None:
        """Close a node; check that it is quick and leaves nothing."""
        self.trace(f"{life} closes")
        began = self.loop.now

        async def end() -> None:
            await life.node.close()

        await self.loop.create_task(end(), context=life.context)
        took = self.loop.now - began
        self.max_close_time = max(self.max_close_time, took)
        self.trace(f"{life} closed")
        limit = life.station.config.close_timeout
        if took > limit + 0.05:
            self.violate(f"{life}: close() took {took:.3f} s of {limit}")
        # A turn for the tasks that wait for the node and for what is ready now.
        for _ in range(5):
            await asyncio.sleep(0)
        for task in life.applications:
            task.cancel()
        await asyncio.gather(*life.applications, return_exceptions=True)
        for task in life.tasks:
            if not task.done():
                self.violate(f"{life}: a task is left: {task.get_coro()!r}")
        for handle in self.loop.handles_of(life):
            self.violate(f"{life}: a callback is left: {handle!r}")
        for end_ in self.network.ends_of(life):
            self.violate(f"{life}: a socket is left: {end_.connection.name}")
        self._check_counts(life)
        life.is_dead = True

    def _check_counts(self, life: Life) -> None:
        """Everything dropped was counted, and every receipt of a closed node is final."""
        stats = life.node.stats()
        dropped = stats.dropped
        ended = life.ended_unseen.copy()
        for sent in self.sent.values():
            receipt = sent.receipt
            if sent.sender is not life or receipt is None:
                continue
            if not is_settled(sent) and not receipt.is_detached:
                self.violate(f"{sent}: {receipt.state} after its node was closed")
            if receipt.state in _FAILED:
                assert receipt.reason is not None
                ended[receipt.reason] += 1
        replaced = ended.pop(Reason.REPLACED, 0)  # these are no drops, and none is missed
        if stats.replaced != replaced:
            self.violate(f"{life}: {replaced} replaced, {stats.replaced} counted")
        for reason, count in ended.items():
            if dropped.get(reason, 0) < count:
                self.violate(f"{life}: {count} ended {reason}, {dropped.get(reason, 0)} counted")
        told = dropped.get(Reason.ATTEMPTS_EXHAUSTED, 0)
        if told != ended[Reason.ATTEMPTS_EXHAUSTED]:
            self.violate(f"{life}: {told} counted as exhausted of {ended}")
        if stats.messages_received != life.arrived:
            self.violate(f"{life}: {life.arrived} arrived, {stats.messages_received} counted")
        # What has a row is delivered by the next life.
        left = life.waiting.total() if life.store is None else 0
        if dropped.get(Reason.INBOX_CLOSED, 0) < left:
            self.violate(f"{life}: {left} untaken, {dropped.get(Reason.INBOX_CLOSED, 0)} counted")

    def check_loop(self) -> None:
        """Nothing went wrong unseen."""
        for problem in self.loop.problems:
            self.violate(f"in the loop: {problem}")


def credit_of(config: TransportConfig, stream: int) -> int:
    """How many messages a peer may have under way in one stream."""
    if stream % VOLATILE == Priority.CRITICAL:
        return max(1, config.critical_reserve)
    return config.credit_messages


def _stream_in(message: Message) -> int:
    """The stream of a v2 message."""
    return stream_of(message.envelope.body)


def is_settled(sent: Sent) -> bool:
    """Whether its sender knows what became of it, as far as its wire tells."""
    receipt = sent.receipt
    if receipt is None or sent.is_told or receipt.is_final or receipt.state in _ACCEPTED:
        return True
    return receipt.is_unconfirmed and receipt.state is DeliveryState.WRITTEN


def _number_in(body: bytes) -> int:
    """Which message it is, by the payload of its v2 envelope."""
    return int(_HEAD.unpack_from(body, MIN_V2_HEADER_SIZE)[0])


# -- the library under simulation ------------------------------------------------------------


class _Clock(Clock):
    """The clocks of the machine whose code runs."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def monotonic(self) -> float:
        owner = current_owner()
        return owner.station.monotonic if isinstance(owner, Life) else self._loop.now

    def unix_time_us(self) -> int:
        owner = current_owner()
        now = owner.station.now if isinstance(owner, Life) else BASE + self._loop.now
        return round(now * 1e6)

    def new_epoch(self) -> int:
        owner = current_owner()
        assert isinstance(owner, Life)
        owner.newest_epoch = max(owner.newest_epoch + 1, self.unix_time_us())
        return owner.newest_epoch


_identities: dict[int, Identity] = {}
_contexts: dict[tuple[Did, int], dict[bool, Any]] = {}


def identity_of(index: int) -> Identity:
    """The key of the station with that number, in every run."""
    if index not in _identities:
        _identities[index] = Identity(bytes([index + 1]) * 32)
    return _identities[index]


def _renew(self: TlsIdentity, now_us: int) -> None:
    """Contexts of a fixed length: Ed25519 instead of P-256, and one certificate a day."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    day = now_us // _DAY_US
    expires_at_us = day * _DAY_US + tls._CERTIFICATE_LIFETIME_US
    identity = self._identity
    key = (identity.did, day)
    if key not in _contexts:
        secret: Any = Ed25519PrivateKey.from_private_bytes(bytes(identity.did))
        spki = secret.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        proof = make_did_proof(identity, spki, expires_at_us)
        certificate = issue_certificate(secret, proof)
        # The null CA's signature has 70 to 72 bytes, the serial number mostly 20.
        while len(
            certificate.signature
        ) != 71 or certificate.serial_number.bit_length() not in range(153, 160):
            certificate = issue_certificate(secret, proof)
        _contexts[key] = {
            side: tls.make_context(secret, certificate, is_server=side) for side in (True, False)
        }
    self._contexts = _contexts[key]
    self._renew_at_us = expires_at_us - tls._CERTIFICATE_LIFETIME_US // 2


@contextlib.contextmanager
def simulated(world: World) -> Iterator[None]:
    """The library sees the world's clocks, and the world sees what the library does."""
    undo = contextlib.ExitStack()

    def put(owner: Any, name: str, value: Any) -> Any:
        old = getattr(owner, name)
        setattr(owner, name, value)
        undo.callback(setattr, owner, name, old)
        return old

    def put_all(name: str, value: Any) -> Any:
        """Replace a function of `receipt_module` there, and where it was imported by its name."""
        old = getattr(receipt_module, name)
        for module in tuple(sys.modules.values()):
            if module.__name__.startswith("signedwire.") and getattr(module, name, None) is old:
                put(module, name, value)
        return old

    undo.enter_context(clock_module.use(_Clock(world.loop)))
    put(TlsIdentity, "_renew", _renew)
    put(sqlite_tables, "_CHECKPOINT_BYTES", _CHECKPOINT_BYTES)

    def life() -> Life:
        return cast(Life, current_owner())

    def add_many(inbox: Inbox, messages: list[Message], priority: int, *sender: Any) -> None:
        for message in messages:
            world.on_arrival(life(), message)
        old_add_many(inbox, messages, priority, *sender)

    def put_in(inbox: Inbox, message: Message, priority: int, *sender: Any) -> bool:
        if not inbox.has_room(priority):
            return bool(old_put(inbox, message, priority, *sender))
        world.on_arrival(life(), message)
        return bool(old_put(inbox, message, priority, *sender))

    def take(inbox: Inbox) -> Message | None:
        message: Message | None = old_take(inbox)
        if message is not None:
            world.on_take(life(), message)
        return message

    def remove_if(inbox: Inbox, is_unwanted: Callable[[Message], bool]) -> list[Message]:
        removed: list[Message] = old_remove_if(inbox, is_unwanted)
        for message in removed:
            world.on_take(life(), message)
        return removed

    def discard(denied: DenialFilter, messages: Iterable[Message]) -> None:
        messages = list(messages)
        for message in messages:
            if message.epoch > 0:  # else of v1, whose header is another
                world.on_denied(life(), message.envelope.body)
        old_discard(denied, messages)

    def removed(
        rows: RemovedRows, names: Iterable[RowName], reason: Reason, cause: str = ""
    ) -> None:
        names = list(names)
        world.on_removed(life(), names, reason)
        old_removed(rows, names, reason, cause)

    def restore_rows(endpoint: Endpoint, rows: Iterable[IncomingRow]) -> list[int]:
        rows = list(rows)
        denied: list[int] = old_restore_rows(endpoint, rows)
        for row in rows:
            if row.id in denied:
                world.on_denied(life(), row.body)
        return denied

    def advance_all(
        receipts: Iterable[Receipt],
        state: DeliveryState,
        reason: Reason | None = None,
        detail: str = "",
    ) -> None:
        before = [(receipt, receipt.state) for receipt in receipts]
        old_advance_all([receipt for receipt, _ in before], state, reason, detail)
        for receipt, old_state in before:
            world.on_advance(receipt, old_state, reason)

    def transition_all(receipts: Iterable[Receipt], state: DeliveryState, at_us: int) -> None:
        before = [(receipt, receipt.state) for receipt in receipts if not receipt.is_final]
        old_climb_all([receipt for receipt, _ in before], state, at_us)
        for receipt, old_state in before:
            world.on_advance(receipt, old_state, None)

    def send_receipts(session: Session, *arguments: Any, **more: Any) -> None:
        life().carries_receipts = True
        old_send_receipts(session, *arguments, **more)

    def send_batch(session: Session, bodies: list[bytes], joined: Acceptance | None = None) -> Any:
        for body in bodies:
            world.on_written(life(), body)
        if joined is not None:
            world.counts["joint"] += 1
            life().carries_receipts = True
        return old_send_batch(session, bodies, joined)

    def abort_batch(session: Session, stream: int) -> bool:
        is_aborted: bool = old_abort_batch(session, stream)
        world.counts["aborts"] += is_aborted
        return is_aborted

    def refused(streams: AllSendStreams, *arguments: Any) -> list[Refused]:
        found: list[Refused] = old_refused(streams, *arguments)
        world.on_refusals(message for message, _ in found)
        return found

    def messages(sending: Sending, *arguments: Any, **more: Any) -> Any:
        # By position: recipient, priority, payload type, deadline, payloads.
        sent = world.sent.get(_HEAD.unpack_from(arguments[4][0])[0])
        more["is_durable"] = is_durable = sent is None or not sent.is_volatile
        more["latest"] = b"" if world.is_latest and not is_durable else None
        return old_messages(sending, *arguments, **more)

    def complete(message: OutgoingMessage, *arguments: Any) -> None:
        old_complete(message, *arguments)
        world.on_numbered(message)

    def restore(message: OutgoingMessage, *arguments: Any, **more: Any) -> None:
        old_restore(message, *arguments, **more)
        world.on_restored(message)

    ids = random.Random(f"{world.seed}/ids")

    def new_ids(count: int) -> list[bytes]:
        return [ids.randbytes(16) for _ in range(count)]

    put(sending_module, "new_ids", new_ids)
    old_messages = put(Sending, "messages", messages)
    old_send_batch = put(Session, "send_batch", send_batch)
    old_abort_batch = put(Session, "abort_batch", abort_batch)
    old_refused = put(AllSendStreams, "refused", refused)
    old_restore = put(OutgoingMessage, "restore", restore)
    old_complete = put(OutgoingMessage, "complete", complete)
    old_add_many = put(Inbox, "add_many", add_many)
    old_put = put(Inbox, "put", put_in)
    old_take = put(Inbox, "take", take)
    old_removed = put(RemovedRows, "end", removed)
    old_remove_if = put(Inbox, "remove_if", remove_if)
    old_discard = put(DenialFilter, "discard", discard)
    old_restore_rows = put(Endpoint, "restore", restore_rows)
    old_advance_all = put_all("advance_all", advance_all)
    old_climb_all = put_all("transition_all", transition_all)
    old_send_receipts = put(Session, "send_receipts", send_receipts)
    try:
        yield
    finally:
        undo.close()
