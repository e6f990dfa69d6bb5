"""Between the store and the queues: what waits on the disk, and how it comes to be sent.

    submit ─→ Store.put ─→ (commit) ─→ persisted ─→ Peer.lanes ─→ a link
                                          │            ↑
                                          └─ no room ──┘ loaded again when there is

A peer's queue holds the oldest of what waits for it; the rest stays on the disk
alone. A row leaves the store when its message is answered, expires, or is given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Final

from signedwire.clock import new_epoch
from signedwire.delivery.advice import UNANSWERED
from signedwire.delivery.deadlines import instant_of, is_relative, moved
from signedwire.delivery.message import OutgoingMessage, Terms
from signedwire.delivery.store import OutgoingRow, RowName, Store
from signedwire.delivery.streams import Refused
from signedwire.errors import (
    BackpressureError,
    ClosedError,
    StoreError,
    StoreFailedError,
    StoreFullError,
)
from signedwire.logs import fields
from signedwire.transport.peer import Peer
from signedwire.transport.stock import Stock
from signedwire.types import DeliveryState, Did, Priority, Reason, unix_time_us
from signedwire.wire.header import PARTIES, V2_START, epoch_of, expiry_of

if TYPE_CHECKING:
    from signedwire.transport.core import Core

__all__ = ["Outbox"]

_MAX_UNCOMMITTED: Final = 1024
"""Messages that wait for a commit, of all peers together. About what a queue holds: more are
read back from the disk right after, which cost a fifth of the rate at 1000 bytes."""
_PAGE: Final = 512
_DENIED: Final = "its peer is denied by node.access"
# A store can fail at any moment, in its own thread. That is told where messages are
# stored; what only notes how far they have come has then nothing to note it in.
_WHILE_IT_WORKS: Final = contextlib.suppress(StoreFailedError, ClosedError)
_UNANSWERED: Final = frozenset(
    {DeliveryState.QUEUED, DeliveryState.PERSISTED, DeliveryState.WRITTEN}
)
_LONGEST_PAUSE: Final = 1.0
_TOP_DOWN: Final = sorted((int(priority) for priority in Priority), reverse=True)


class Outbox:
    """The messages of a node that wait in its store. `put()` is for any thread."""

    def __init__(self, core: Core, store: Store) -> None:
        self._core = core
        self.store = store
        self._lock = threading.Lock()
        self._stocks: dict[Did, Stock] = {}
        self._uncommitted = 0
        self._room: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due_us: int | None = None
        self._is_look_due = False
        self._has_ended = False
        self._unmet: set[Did] = set()
        """For whom rows wait on the disk alone, until there is a way to them."""
        self._moves = 0  # how often deadlines on the disk were moved

    # -- life -------------------------------------------------------------------

    def start(self) -> None:
        """Take up what an earlier process has left."""
        self.store.on_expired = self._on_expired
        self.store.unmet.on_aged = self._on_aged
        self.store.is_in_use = self._core.outgoing.is_known
        self.store.on_failed = self._on_failed
        self.store.clock_steps.on_moved = self._on_deadlines_moved
        self._core.routing.watch(self._on_routes)
        for did in self.store.recipients():
            self._stock(did).is_unknown = [True] * len(Priority)
            peer = self._core.outgoing.peer(did)
            if self.store.has_spoken_v2(did):
                peer.wire = "v2"
            self._refill(peer)
        self._watch_expiry()

    def _on_failed(self, error: StoreError) -> None:
        self._core.log.error(
            "%s", error, extra=fields("store failed", path=self._core.config.store)
        )

    def _on_routes(self) -> None:
        """A route has changed, in any thread: who was without one may have one."""
        if self._core.is_open and not self._is_look_due:
            self._is_look_due = True
            self._core.call_in_loop(self._look_for_stranded)

    def _look_for_stranded(self) -> None:
        self._is_look_due = False
        for peer in self._core.outgoing.stranded():
            self._core.outgoing.assign(peer)
        unmet, self._unmet = self._unmet, set()
        for did in unmet:
            self._refill(self._core.outgoing.peer(did))

    def end(self) -> None:
        """No timer stays, and nobody waits any more for what waits on the disk alone."""
        self._has_ended = True
        if self._timer is not None:
            self._timer.cancel()
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        for stock in tuple(self._stocks.values()):
            for receipt in self._receipts_of(stock):
                if receipt.state is DeliveryState.PERSISTED:
                    receipt.park()
                    receipt.release()

    def give_up_uncommitted(self) -> None:
        """The disk did not answer in time: nobody waits for it any more."""
        cause = "the disk did not answer while the node closed; whether it is stored is not known"
        for stock in tuple(self._stocks.values()):
            for receipt in self._receipts_of(stock):
                if receipt.state is DeliveryState.QUEUED:
                    receipt.advance(DeliveryState.FAILED, Reason.STORE_FAILED, cause)

    def _receipts_of(self, stock: Stock) -> list[OutgoingMessage]:
        with self._lock:
            return list(stock.receipts.values())

    # -- into the store: any thread -----------------------------------------------

    async def flush(self, deadline: float) -> None:
        """Wait until what was said before is committed and told, or until `deadline`, loop time."""
        left = max(0.0, deadline - asyncio.get_running_loop().time())
        await asyncio.sleep(0)  # each `done()` of this turn of the loop comes to the store
        with _WHILE_IT_WORKS, contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left):
                await asyncio.wrap_future(self.store.flush())

    def put(
        self, peer: Peer, messages: list[OutgoingMessage], replaces: Sequence[int] = ()
    ) -> None:
        """Number messages and store them; their receipts tell when that is done.

        `replaces` are dead letters, which go when these are stored.

        Raises:
            BackpressureError: too many wait for the disk; `room()` waits for it.
            StoreFullError, StoreFailedError: nothing was stored.
        """
        if self._uncommitted >= _MAX_UNCOMMITTED:
            raise BackpressureError(
                peer.did,
                Reason.QUEUE_FULL,
                f"{self._uncommitted} messages wait for the disk; "
                f"the message to {peer.did} was not queued",
                "Send slower, or `await node.send(…)`, which waits",
            )
        then = partial(self._on_stored, peer, list(messages))  # the caller may change its own
        is_met = self._core.outgoing.has_way(peer)
        for message in messages:
            message.is_stored = True
        # Who loads a row must find the receipt that goes with it.
        with self._lock:
            self.store.put(peer.did, messages, replaces=replaces, then=then, is_met=is_met)
            self._uncommitted += len(messages)
            receipts = self._stock(peer.did).receipts
            for message in messages:
                receipts[message.priority, message.row] = message

    async def room(self) -> None:
        """Wait until the disk has caught up."""
        loop = asyncio.get_running_loop()
        while self._core.is_open and self._uncommitted > _MAX_UNCOMMITTED // 2:
            if self._room is None or self._room.done():
                self._room = loop.create_future()
            await asyncio.wait({self._room})

    def _stock(self, did: Did) -> Stock:
        stock = self._stocks.get(did)
        if stock is None:
            stock = self._stocks.setdefault(did, Stock())
        return stock

    # -- the loop: from the store to the queue ----------------------------------------

    def _on_stored(
        self, peer: Peer, messages: list[OutgoingMessage], error: StoreError | None
    ) -> None:
        with self._lock:
            self._uncommitted -= len(messages)
        room = self._room
        if room is not None and not room.done() and self._uncommitted <= _MAX_UNCOMMITTED // 2:
            room.set_result(None)
        if error is not None:
            # Full after all: what seemed to have expired did not make the room.
            is_full = isinstance(error, StoreFullError)
            reason = Reason.QUEUE_FULL if is_full else Reason.STORE_FAILED
            for message in messages:
                message.is_stored = False
                self._core.outgoing.give_up(message, reason, error.fact)
            return
        peer = self._core.outgoing.peer(peer.did)  # forgotten as a stranger since, perhaps
        stock, now = self._stock(peer.did), unix_time_us()
        is_met = self._look_for_way(peer)
        for message in messages:
            message.climb(DeliveryState.PERSISTED, now)
            if self._has_ended:
                message.park()
                message.release()
                continue
            lane, row = message.priority, message.row
            was_behind = stock.is_behind(lane)
            stock.told[lane] = max(stock.told[lane], row)
            if message.is_final:
                continue  # removed already: there is nothing to load
            if row <= stock.loaded[lane]:
                continue  # loaded already: this very object is in its lane, or beyond
            if (
                epoch_of(message.body) == peer.stream.epoch  # else numbered before a restart
                and is_met
                and not was_behind
                and peer.lanes.put(message, lane)
            ):
                stock.loaded[lane] = row
            else:
                message.release()  # to be loaded
        if self._has_ended:
            return
        if messages[0].expires_at is not None or not is_met:
            self._watch_expiry()
        self._core.outgoing.assign(peer)
        self._refill(peer)

    def _refill(self, peer: Peer) -> None:
        """Load a page of the highest lane that is behind, if its queue has room."""
        peer = self._core.outgoing.peer(peer.did)
        stock = self._stock(peer.did)
        if stock.is_loading or not self._core.is_open or self.store.failure is not None:
            return
        if self._core.links.access.is_denied(peer.did):
            self.give_up_denied(peer)
            return
        if not self._look_for_way(peer):
            self._unmet.add(peer.did)
            return
        for lane in _TOP_DOWN:
            if stock.is_behind(lane):
                # A page of a higher lane does not wait for the lower ones.
                if peer.lanes.has_room(lane) or not peer.lanes.size(lane):
                    with _WHILE_IT_WORKS:
                        self._load(peer, stock, lane)
                elif not stock.is_waiting:
                    stock.is_waiting = True
                    wake = partial(self._core.call_in_loop, self._on_room, peer)
                    if not peer.lanes.when_room(wake):
                        wake()
                return

    def _look_for_way(self, peer: Peer) -> bool:
        """Whether there is a way to a peer; the store is told. In the loop."""
        has_way = self._core.outgoing.has_way(peer)
        with _WHILE_IT_WORKS:
            self.store.unmet.set_met(peer.did, has_way)
        return has_way

    def give_up_denied(self, peer: Peer) -> None:
        """Make dead letters of what waits on the disk, if the peer is denied still."""
        if not self.store.backlog(peer.did).rows:
            return
        last = self.store.unmet.last_rows(peer.did)
        # Asked after that: whatever is put later may have been put when the peer was let in.
        if not self._core.links.access.is_denied(peer.did):
            self._refill(peer)
            return
        with _WHILE_IT_WORKS:
            gone = self.store.unmet.bury_up_to(peer.did, last, Reason.DENIED, _DENIED)
            gone.add_done_callback(partial(self._core.call_in_loop, self._on_buried, peer))

    def _on_buried(self, peer: Peer, gone: Future[list[RowName]]) -> None:
        if gone.cancelled() or gone.exception() is not None:
            return  # the store has failed or closed, which is told elsewhere
        if names := gone.result():
            self.removed(names, Reason.DENIED, _DENIED)
            self.give_up_denied(peer)  # there may be more than one transaction takes

    def _on_room(self, peer: Peer) -> None:
        self._stock(peer.did).is_waiting = False
        self._refill(peer)

    def _load(self, peer: Peer, stock: Stock, lane: int) -> None:
        future = self.store.load(peer.did, lane, stock.loaded[lane], _PAGE)
        stock.is_loading = True
        version = stock.restarts, self._moves
        told = partial(self._on_loaded, peer, lane, version, stock.told[lane])
        future.add_done_callback(partial(self._core.call_in_loop, told))

    def _on_loaded(
        self,
        peer: Peer,
        lane: int,
        version: tuple[int, int],
        told: int,
        future: Future[list[OutgoingRow]],
    ) -> None:
        peer = self._core.outgoing.peer(peer.did)
        stock = self._stock(peer.did)
        stock.is_loading = False
        if future.cancelled() or future.exception() is not None:
            return  # the store has failed or closed, which is told elsewhere
        if version != (stock.restarts, self._moves):
            self._refill(peer)  # these have an epoch that has ended, or deadlines of before
            return
        rows = future.result()
        with self._lock:  # whoever is in `put()` has entered its receipts then
            held = [stock.receipts.get((lane, row.row)) for row in rows]
        messages = []
        for row, known in zip(rows, held, strict=True):
            message = known or _message_of(row)
            due = row.expires_at_us
            is_of_this_process = row.row >= self.store.lane(peer.did, lane).opened_at
            origin_us = self.store.clock_steps.origin_us if is_of_this_process else None
            expires_at = None if due is None else instant_of(due, origin_us)
            message.restore(row.body, was_written=row.is_written, expires_at=expires_at)
            message.row = row.row
            stock.receipts[lane, row.row] = message
            if not self._is_ours(row, peer.did, lane):
                why = "somebody has changed the store: this is not what was stored"
                self._core.outgoing.give_up(message, Reason.MALFORMED, why)
                continue
            was_used = row.is_written or row.sequence <= stock.accepted[lane]
            if stock.restarts and was_used:
                self._core.outgoing.give_up(message, Reason.STALE_EPOCH)
            else:
                messages.append(message)
        if rows:
            stock.loaded[lane] = rows[-1].row
        else:
            stock.is_unknown[lane] = False
            stock.loaded[lane] = max(stock.loaded[lane], told)
        peer.lanes.add_many(messages, lane)
        if messages:
            self._core.outgoing.assign(peer)
        self._refill(peer)

    def _is_ours(self, row: OutgoingRow, did: Did, lane: int) -> bool:
        """Whether a row is what a node of our key stores: it is about to be signed."""
        header, us = row.body, bytes(self._core.identity.did)
        return (
            header.startswith(V2_START)
            and header[PARTIES] == us + bytes(did)
            and row.lane == lane
            and self.store.lane(did, lane).can_have(row.row, row.sequence)
        )

    def is_ahead(self, peer: Peer, marks: Sequence[int]) -> bool:
        """Whether the peer has accepted, in our own epoch, sequences that are ours to give.

        So it is where the file is an old copy and our clock has gone back since, or where
        another process uses our key and our store's copy now.
        """
        return any(
            mark > self.store.lane(peer.did, lane).written_sequence
            for lane, mark in enumerate(marks)
        )

    def restart(self, peer: Peer, epoch: int, marks: Sequence[int] | None) -> None:
        """The peer has heard from a later state of this key: load everything anew.

        `marks` are what it had accepted in the epoch that ends, `None` where that is not
        known: to send that again in another would deliver it twice.
        """
        self.store.begin_epoch(peer.did, epoch)
        stock = self._stock(peer.did)
        # Above what earlier processes used, the numbers are of messages of this one.
        used = [self.store.lane(peer.did, lane).first_sequence - 1 for lane in range(len(Priority))]
        stock.accepted = used if marks is None else list(map(min, marks, used))
        peer.lanes.remove_if(lambda message: message.is_stored)
        stock.loaded = [0] * len(Priority)
        stock.is_unknown = [True] * len(Priority)
        stock.restarts += 1
        self._refill(peer)

    # -- the loop: what becomes of rows --------------------------------------------------

    def written(self, peer: Peer, messages: list[OutgoingMessage]) -> None:
        """A link has taken these."""
        with _WHILE_IT_WORKS:
            for lane, row in {one.priority: one.row for one in messages}.items():
                self.store.written(peer.did, lane, row)

    def settled(self, did: Did, messages: Iterable[OutgoingMessage]) -> None:
        """These need nothing more."""
        names = [(message.priority, message.row) for message in messages if message.is_stored]
        if names:
            with _WHILE_IT_WORKS:
                self.store.settled(did, names)

    def refused(self, did: Did, refused: Iterable[Refused]) -> None:
        """The peer will not take these: dead letters, but for what came too late."""
        by_reason: dict[Reason, list[tuple[int, int]]] = {}
        with _WHILE_IT_WORKS:
            for message, reason, name, body in refused:
                if name is not None:
                    assert isinstance(message, OutgoingMessage)
                    by_reason.setdefault(reason, []).append((message.priority, message.row))
                elif reason is not Reason.EXPIRED:
                    why = "the peer's application refused it"
                    self.store.bury_accepted(did, body, reason, why)
            for reason, names in by_reason.items():
                if reason is Reason.EXPIRED:
                    self.store.settled(did, names)
                else:
                    self.store.bury(did, names, reason, "the peer refused it")

    def ended(self, message: OutgoingMessage, reason: Reason, cause: str) -> None:
        """It was given up here."""
        did, name = message.recipient, (message.priority, message.row)
        with _WHILE_IT_WORKS:
            if reason is Reason.EXPIRED:
                self.store.settled(did, [name])
            else:
                self.store.bury(did, [name], reason, cause)

    def note_v2(self, did: Did) -> None:
        """A DID has proven itself over v2."""
        with _WHILE_IT_WORKS:
            self.store.note_v2(did)

    def epoch(self, did: Did) -> int:
        """Of our messages to a peer. Any thread."""
        with _WHILE_IT_WORKS:
            return self.store.epoch(did)
        return new_epoch()

    def failed(self, peer: Peer, cause: str) -> None:
        """The peer could not be reached."""
        with _WHILE_IT_WORKS:
            self.store.attempt_failed(peer.did, cause)

    def reached(self, peer: Peer) -> None:
        """The peer could be reached."""
        with _WHILE_IT_WORKS:
            self.store.reached(peer.did)
        if peer.did in self._unmet:
            self._unmet.discard(peer.did)
            self._refill(peer)

    def doubt(self, did: Did, lane: int, row: int) -> str:
        """What to say of a message without an answer: whether its peer may have it.

        A process that was killed has not noted all that it had written.
        """
        return UNANSWERED if self.store.lane(did, lane).may_be_written(row) else ""

    def removed(self, names: Iterable[RowName], reason: Reason, cause: str = "") -> None:
        """Rows are gone. What is in flight is not sent again.

        `cause` is what their receipts say; by default whether their peers may have them.
        """
        by_peer: dict[Did, set[tuple[int, int]]] = {}
        for did, lane, row in names:
            by_peer.setdefault(did, set()).add((lane, row))
        for did, those in by_peer.items():
            self._removed_of(did, those, reason, cause)

    def _removed_of(
        self, did: Did, names: set[tuple[int, int]], reason: Reason, cause: str
    ) -> None:
        peer, stock = self._core.outgoing.peer(did), self._stock(did)
        is_expired = reason is Reason.EXPIRED
        for message in peer.lanes.remove_if(
            lambda message: message.is_stored and (message.priority, message.row) in names
        ):
            names.remove((message.priority, message.row))
            message.is_stored = False  # no row to be buried
            why = cause or self.doubt(did, message.priority, message.row)
            self._core.outgoing.give_up(message, reason, why)
        state = DeliveryState.EXPIRED if is_expired else DeliveryState.FAILED
        for name in names:  # on the disk alone, or in flight
            receipt = stock.receipts.get(name)
            # Queued: its removal is told before that it was stored.
            if receipt is None or receipt.state in _UNANSWERED or not is_expired:
                self._core.counters.send_failures += 1
                self._core.drop(reason, did)
                peer.dropped[reason] += 1
                if receipt is not None:
                    receipt.advance(state, reason, cause or self.doubt(did, *name))

    # -- deadlines and clocks --------------------------------------------------------------

    def is_moving_deadlines(self) -> bool:
        """Whether nothing may be sent now: the wall clock was set. See `Store`."""
        return self.store.look_at_clock()

    def on_clock_step(self) -> None:
        """The wall clock was set."""
        self.store.look_at_clock()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._due_us = None
        self._watch_expiry()

    def _on_deadlines_moved(self, by_us: int) -> None:
        """The rows have their new deadlines: so have the messages that wait here."""
        self._moves += 1
        for did in tuple(self._stocks):
            peer = self._core.outgoing.peer(did)
            opened_at = [self.store.lane(did, lane).opened_at for lane in range(len(Priority))]
            for message in peer.lanes:
                due = expiry_of(message.body) if message.sequence else None
                if (
                    due is not None
                    and is_relative(due)
                    and not message.was_written
                    and message.is_stored
                    and message.row >= opened_at[message.priority]
                ):
                    message.body = moved(message.body, by_us)
            if peer.lanes:
                self._core.outgoing.assign(peer)
            self._refill(peer)

    def _watch_expiry(self) -> None:
        due = self.store.next_expiry_us
        if due is None or (self._due_us is not None and self._due_us <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due_us = due
        # Not longer: the clock may be set.
        pause = min(max(0.001, (due - unix_time_us()) / 1e6), _LONGEST_PAUSE)
        self._timer = asyncio.get_running_loop().call_later(pause, self._expire)

    def _expire(self) -> None:
        self._timer = self._due_us = None
        due = self.store.next_expiry_us
        if due is not None and due > unix_time_us():
            self._watch_expiry()
        elif self._core.is_open:
            with _WHILE_IT_WORKS:
                self.store.expire(self._on_looked)

    def _on_looked(self, error: StoreError | None) -> None:
        if error is None and self._core.is_open:
            self._watch_expiry()

    def _on_expired(self, names: list[RowName]) -> None:
        self.removed(names, Reason.EXPIRED)

    def _on_aged(self, names: list[RowName]) -> None:
        self.removed(names, Reason.AGED_OUT, self.store.unmet.words_of_age)


def _message_of(row: OutgoingRow) -> OutgoingMessage:
    """One whose sender is no more, or has let go of its receipt; `restore()` does the rest."""
    terms = Terms(row.recipient, row.priority, queued_at_us=row.queued_at_us)
    message = OutgoingMessage(terms, row.message_number)
    message.climb(DeliveryState.PERSISTED, row.queued_at_us)
    return message
