"""Open v2 links: which one to a peer is the one, and what its answers mean.

Whoever dialed, there is one link to a peer at a time, and it carries both
directions. What a link knew and another must know, its streams and its credit,
lives in `Peer` and `Inflow` and outlives it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from signedwire import clock
from signedwire.delivery.message import OutgoingMessage
from signedwire.delivery.receipt import CLOCKS_DIFFER, Receipt
from signedwire.events import LoopStalled, MessageRefused, PeerConnected, PeerDisconnected
from signedwire.logs import fields
from signedwire.transport.access import AccessList
from signedwire.transport.denials import Denials
from signedwire.transport.inflow import InboxBudget, Inflow
from signedwire.transport.link import Link
from signedwire.transport.link_dialer import LinkDialer
from signedwire.transport.peer import Peer
from signedwire.types import DeliveryState, Did, Reason
from signedwire.wire import link_frames
from signedwire.wire.link_frames import Hello, Receipts, Refusal
from signedwire.wire.session import Closed

if TYPE_CHECKING:
    from signedwire.transport.core import Core

__all__ = ["Links"]

# Strangers whose marks are remembered: how many, and how many bytes of them all.
_MAX_INFLOWS: Final = 10_000
_MAX_INFLOW_BYTES: Final = 64 * 1024 * 1024
# A v2 peer that is full hangs up as v1 peers do, though not time after time.
_HANG_UPS_OF_V1: Final = 2


class Links:
    """The open links and what is known of those who use them."""

    def __init__(self, core: Core, us: Did | None) -> None:
        self._core = core
        self._us = us
        self._links: set[Link] = set()
        self.has_ended = False
        """Whether the goodbyes are said: answers of the application come too late."""
        self.lingering: set[Link] = set()
        """Those that have ended and still bring their goodbye."""
        self._inflows: OrderedDict[Did, Inflow] = OrderedDict()  # least recently linked first
        self._weighed: dict[Did, int] = {}
        self._weights = 0
        self._budget = InboxBudget(core.config)
        self.access = AccessList(core.config)
        self.denials = Denials(core, self.access)
        self.access.on_change = self.denials.on_change
        core.incoming.screen.is_denied = self.access.is_key_denied

    async def restore(self) -> None:
        """Take up what an earlier process has accepted and its application not done."""
        if self._core.outbox is None:
            return
        store = self._core.outbox.store
        for did in store.v2_speakers():
            self._core.incoming.screen.v2_senders.add(bytes(did))
        after = 0
        while rows := await asyncio.wrap_future(store.undone(after=after)):
            for row in self.denials.allowed_of(rows):
                self.inflow(row.sender).restore(row)
            after = rows[-1].id

    def end(self) -> None:
        """Say goodbye to everybody."""
        self.has_ended = True
        for inflow in tuple(self._inflows.values()):
            inflow.flush()  # what the application said last
        for link in tuple(self._links):
            link.close(link_frames.CLOSE_DONE, "the node is closing")

    def abort_lingering(self) -> None:
        """The node is closed: no socket may be left."""
        for link in tuple(self.lingering):
            link.abort()

    def inflow(self, did: Did) -> Inflow:
        """The receiving half of a peer; made where there was none."""
        inflow = self._inflows.get(did)
        if inflow is None:
            if len(self._inflows) >= _MAX_INFLOWS:
                self._forget_an_inflow()
            assert self._us is not None
            inflow = self._inflows[did] = Inflow(self._core, self._us, did, self._budget)
        return inflow

    def flush(self, link: Link, did: Did) -> None:
        """A link ends: what its peer is to be told by it goes now, or by another."""
        inflow = self._inflows.get(did)
        if inflow is not None and inflow.link is link:
            inflow.flush()

    def _forget_an_inflow(self) -> bool:
        """A stranger needs only a new key to make another: forget the oldest stranger."""
        for did, inflow in self._inflows.items():
            if inflow.is_forgettable and not self._core.outgoing.is_known(did):
                self._drop_inflow(inflow)
                return True
        return False

    def _drop_inflow(self, inflow: Inflow) -> None:
        self._budget.forget(inflow)
        del self._inflows[inflow.peer]
        self._weights -= self._weighed.pop(inflow.peer, 0)

    def _weigh(self, inflow: Inflow) -> None:
        """What it holds counts when its peer is gone, for that is when strangers add up."""
        weight = inflow.weight
        self._weights += weight - self._weighed.get(inflow.peer, 0)
        self._weighed[inflow.peer] = weight
        while self._weights > _MAX_INFLOW_BYTES and self._forget_an_inflow():
            pass

    def forget_if_stranger(self, did: Did) -> None:
        """A connection has ended: keep nothing of who brought and got nothing."""
        inflow = self._inflows.get(did)
        if inflow is not None and inflow.is_empty:
            self._drop_inflow(inflow)
        elif inflow is not None and inflow.is_forgettable:
            self._weigh(inflow)
        self._core.outgoing.forget_if_stranger(self._core.outgoing.peer(did))

    def hello(self, did: Did) -> Hello:
        """What a new link to a peer says first."""
        core, inflow = self._core, self.inflow(did)
        return Hello(
            min_version=link_frames.VERSION,
            max_version=link_frames.VERSION,
            epoch=core.outgoing.peer(did).stream.epoch,
            features=0,
            max_frame_size=core.session_limits.max_frame_size,
            max_payload_size=core.config.max_payload_size,
            credit=inflow.credit(),
            known_epoch=inflow.stream.epoch,
            marks=inflow.told_marks,
        )

    def check_access(self, did: Did) -> Reason | None:
        """Why a proven DID may not link to us; `None`: it may."""
        outbox = self._core.outbox
        if outbox is not None and outbox.store.failure is not None:
            return Reason.STORE_FAILED  # nothing more is accepted here
        return Reason.DENIED if self.access.is_denied(did) else None

    def of_denied(self) -> list[Link]:
        """Open links to peers that are denied now."""
        return [
            link
            for link in tuple(self._links)
            if link.did is not None and self.access.is_denied(link.did)
        ]

    def note_v2(self, did: Did) -> None:
        """It has proven itself over v2: never again v1 with it, in neither direction."""
        peer = self._core.outgoing.peer(did)
        peer.wire = "v2"
        outbox = self._core.outbox
        if outbox is not None and not outbox.store.has_spoken_v2(did):
            outbox.note_v2(did)
        if self.is_v1_allowed(did):  # else it is not believed on v1 anyway
            self._core.incoming.screen.v2_senders.add(bytes(did))
        if peer.dialer is not None and not isinstance(peer.dialer, LinkDialer):
            self._core.outgoing.unassign(peer)
            self._core.call_in_loop(self._core.outgoing.assign, peer)

    def attach(self, link: Link, hello: Hello) -> None:
        """A link is open. Of two to one peer, keep the one that both sides keep."""
        assert link.did is not None
        peer, inflow = self._core.outgoing.peer(link.did), self.inflow(link.did)
        self._links.add(link)
        if link.did == self._us and hello.epoch == peer.stream.epoch:
            # Another process may have our key; this one is ourselves.
            self._core.drop(Reason.BAD_IDENTITY, link.did)
            for message in peer.lanes.remove_if(lambda _: True):
                cause = "the address is that of this very node"
                self._core.outgoing.give_up(message, Reason.BAD_IDENTITY, cause)
            link.close(link_frames.CLOSE_DUPLICATE_LINK, "that is this very node")
            return
        old = peer.link
        # A newer epoch has lost the old link, whatever that one seems to be here.
        if old is not None and old.their_epoch == hello.epoch and self._keeps(old, link):
            link.close(link_frames.CLOSE_DUPLICATE_LINK, "there is another link already")
            return
        if hello.known_epoch >= link_frames.MAX_EPOCH:
            link.close(link_frames.CLOSE_PROTOCOL_ERROR, "it leaves us no epoch to count on in")
            return
        if self._knows_more(hello, peer):
            # Count on where the peer stands.
            self._core.log.warning(
                "%s has heard from a later state of our key: two processes use it, "
                "our store is an old copy, or our clock went back",
                link.did,
                extra=fields("later state", peer=link.did),
            )
            is_known = hello.known_epoch == peer.stream.epoch
            marks = hello.marks if is_known else None
            self._restart_stream(peer, hello.known_epoch + 1, marks)
            link.close(link_frames.CLOSE_STALE_EPOCH, "reconnecting with a newer epoch")
            return
        self._warn_of_old_copy(hello, peer)
        if old is not None:
            self._core.emit(PeerDisconnected(link.did, "there is another link now"))
        if peer.their_epoch not in (0, hello.epoch) and hello.known_epoch != peer.stream.epoch:
            why = "its peer has begun anew since and forgotten it"
            peer.abandon(Reason.STALE_EPOCH, f"{why}; whether it was handled is not known")
        peer.their_epoch = hello.epoch
        peer.link = link
        peer.hang_ups = 0
        if self._core.outbox is not None:
            self._core.outbox.reached(peer)
        peer.stop_waiting()
        self._inflows.move_to_end(link.did)
        inflow.use(link)
        if old is not None:
            old.close(link_frames.CLOSE_DUPLICATE_LINK, "there is another link now")
            self._core.outgoing.put_back(peer.stream.take_back(), is_fault=False)
        extra = fields("linked", peer=link.did, address=link.address)
        self._core.log.info("linked with %s (%s)", link.did, link.address, extra=extra)
        self._core.emit(PeerConnected(link.did, link.address, link.is_dialed))
        link.pump()

    def _keeps(self, old: Link, new: Link) -> bool:
        """Both dialed at once: the link that the smaller DID dialed stays. Else the newer."""
        assert self._us is not None
        assert new.did is not None
        if old.is_dialed == new.is_dialed:
            return False
        return old.is_dialed == (self._us < new.did)

    def _knows_more(self, hello: Hello, peer: Peer) -> bool:
        """Whether the peer has heard more from our key than this node has ever said."""
        outbox, epoch = self._core.outbox, peer.stream.epoch
        if hello.known_epoch != epoch or outbox is None:
            return hello.known_epoch > epoch
        return outbox.is_ahead(peer, hello.marks)

    def _warn_of_old_copy(self, hello: Hello, peer: Peer) -> None:
        outbox = self._core.outbox
        if (
            outbox is not None
            and hello.known_epoch == peer.stream.epoch
            and outbox.store.learn(peer.did, hello.marks)
        ):
            self._core.log.warning(
                "%s has accepted messages that our store does not know of: the store is an old "
                "copy. What waited in it is sent again, and delivered only if it was not before",
                peer.did,
                extra=fields("old copy", peer=peer.did),
            )

    def _restart_stream(self, peer: Peer, epoch: int, marks: Sequence[int] | None) -> None:
        if peer.link is not None:
            peer.link.close(link_frames.CLOSE_STALE_EPOCH, "reconnecting with a newer epoch")
        # Numbered anew, what has arrived already would arrive twice.
        for message in peer.lanes.remove_if(lambda message: message.was_written):
            self._core.outgoing.give_up(
                message,
                Reason.STALE_EPOCH,
                "it was written; the peer has heard from a later state of this key since, "
                "so it cannot be asked whether it arrived",
            )
        peer.abandon(
            Reason.STALE_EPOCH,
            "the peer has heard from a later state of this key since, so it says no more "
            "whether it was handled",
        )
        peer.stream = self._core.outgoing.new_stream(peer.did, epoch)
        if self._core.outbox is not None:
            self._core.outbox.restart(peer, epoch, marks)

    def detach(self, link: Link, cause: str, closed: Closed | None) -> None:
        """An open link has ended: what has no receipt waits for the next one."""
        assert link.did is not None
        self._links.discard(link)
        outgoing = self._core.outgoing
        peer, inflow = outgoing.peer(link.did), self.inflow(link.did)
        if inflow.link is link:
            inflow.link = None
        is_the_one = peer.link is link
        is_excused = closed is not None and closed.is_orderly
        if is_the_one:
            peer.link = None
            is_excused = peer.is_end_excused(closed, has_landed=link.has_landed)
        if link.dialer is not None:
            link.dialer.on_link_over(link, cause, closed, is_excused=is_excused)
        extra = fields("link ended", peer=link.did, address=link.address)
        text = "the link with %s (%s) ended: %s"
        self._core.log.info(text, link.did, link.address, cause, extra=extra)
        if not is_the_one:
            return
        self._core.emit(PeerDisconnected(link.did, cause))
        outgoing.note_left(peer, cause)
        # While a node closes, another link may come yet, and order is to hold over it for
        # what a later process will send.
        if self.has_ended or not (self._core.is_open or self._core.outbox is not None):
            cause = "written, but no receipt came"
            outgoing.give_up_all(peer, peer.stream.take_back(), Reason.CLOSED, cause)
            return
        # One that brought nothing through was a failed attempt, which the dialer has
        # counted for all that waits; on another, what was on its way is under suspicion.
        is_fault = not is_excused and (link.has_landed or link.dialer is None)
        outgoing.put_back(
            peer.stream.take_back(),
            is_fault=is_fault,
            cause=f"the link ended before an answer came: {cause}",
        )
        if peer.lanes:
            outgoing.assign(peer)

    def is_v1_allowed(self, did: Did) -> bool:
        """Whether the configuration lets this DID speak v1."""
        return self._core.config.v1_peers == "all" or did in self._core.config.v1_peers

    def may_speak_v1(self, peer: Peer) -> bool:
        """Whether to try v1 with a peer that hung up on TLS. Never once it has spoken v2."""
        # Not by `peer.wire`: strangers are forgotten, and this is not.
        has_spoken_v2 = bytes(peer.did) in self._core.incoming.screen.v2_senders
        if self._core.outbox is not None:
            has_spoken_v2 = has_spoken_v2 or self._core.outbox.store.has_spoken_v2(peer.did)
        return not has_spoken_v2 and self.is_v1_allowed(peer.did)

    def on_hang_up(self, peer: Peer) -> bool:
        """It hung up on TLS: whether it may be a v1 peer. After some times it is."""
        if not self.may_speak_v1(peer):
            return False
        peer.hang_ups += 1
        if peer.hang_ups >= _HANG_UPS_OF_V1:
            peer.wire = "v1"
            self._core.call_in_loop(self._core.outgoing.assign, peer)
        return True

    def on_v1_over(self, peer: Peer) -> None:
        """A v1 connection to it has ended: it may speak v2 when it is back."""
        if peer.wire == "v1" and self._core.speaks_v2:
            peer.wire = None
            peer.hang_ups = _HANG_UPS_OF_V1 - 1

    def is_expected(self, did: Did, receipts: Receipts) -> bool:
        """Whether any message of ours waits for what these name."""
        return self._core.outgoing.peer(did).stream.is_expected(receipts)

    def on_receipts(self, did: Did, receipts: Receipts) -> bool:
        """The peer has signed for messages of ours; whether any was waiting for that."""
        peer = self._core.outgoing.peer(did)
        accepted = peer.stream.receipts(receipts, receipts.statement + receipts.signature)
        if self._core.outbox is not None:
            self._core.outbox.settled(did, accepted)
        self._core.outgoing.disarm_expiries(accepted)
        self._core.outgoing.places.look()
        if accepted:
            peer.orderly_ends = 0
        return bool(accepted)

    def on_refusals(self, did: Did, refusals: tuple[Refusal, ...]) -> bool:
        """The peer will not take messages of ours; whether any was waiting for that."""
        peer = self._core.outgoing.peer(did)
        refused = peer.stream.refused(refusals)
        if self._core.outbox is not None:
            self._core.outbox.refused(did, refused)
        for receipt, reason, name, _ in refused:
            if receipt.is_final:
                continue  # its deadline came before its answer
            self._core.counters.send_failures += 1
            self._core.drop(reason, did)
            peer.dropped[reason] += 1
            is_late = reason is Reason.EXPIRED
            state = DeliveryState.EXPIRED if is_late else DeliveryState.REFUSED
            receipt.advance(state, reason, _doubt_of_clocks(receipt) if is_late else "")
            self._core.outgoing.disarm_expiries((receipt,))
            if name is not None:
                receipt.release()  # else its evidence has them
            self._core.emit(MessageRefused(did, receipt.sequence_number, reason))
        if refused:
            peer.orderly_ends = 0
        return bool(refused)

    def on_stall(self, seconds: float) -> None:
        """Our own loop stood still."""
        text = "the event loop stood still for %.1f s; no peer is blamed"
        self._core.log.warning(text, seconds, extra=fields("stall", seconds=seconds))
        self._core.emit(LoopStalled(seconds))


def _doubt_of_clocks(receipt: Receipt) -> str:
    """What to say where a peer finds a deadline passed that is not, by our clock."""
    expires_at = receipt.expires_at if isinstance(receipt, OutgoingMessage) else None
    is_early = expires_at is not None and clock.left(expires_at) > 0
    return CLOCKS_DIFFER if is_early else ""
