"""Everything about one peer that outlives its links, and which of its links is the one.

Whoever dialed, there is one open link to a peer at a time, and it carries both
directions. `judge()` decides what becomes of a new one; `link_opened()` and
`link_closed()` carry that out.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final, Literal

from signedwire import clock
from signedwire.delivery.peer_receiver import PeerReceiver
from signedwire.delivery.peer_sender import PeerSender
from signedwire.delivery.ports import LinkPort, Timer
from signedwire.delivery.session_context import SessionContext
from signedwire.delivery.streams import SendStream
from signedwire.errors import Cause, FailureKind, kind_of
from signedwire.events import PeerConnected, PeerDisconnected
from signedwire.logs import fields
from signedwire.stats import PeerStatus
from signedwire.types import Did, PeerState, Reason, Target
from signedwire.wire import link_frames
from signedwire.wire.link_frames import FRAME_MARGIN, Hello, Receipts
from signedwire.wire.session import Closed

__all__ = ["LinkVerdict", "PeerSession"]

_RETURN_GRACE: Final = 5.0
"""Seconds that messages wait for a peer that can only be reached when it dials us."""

_EXCUSED_ENDS: Final = 3
"""Orderly ends in a row without one answer, before each further one counts as an attempt."""


class LinkVerdict(enum.Enum):
    """What becomes of a link whose HELLO has come."""

    USE = enum.auto()
    """It is the link of its peer from now on; another one is closed."""
    OURSELVES = enum.auto()
    """It leads to this very node."""
    DUPLICATE = enum.auto()
    """Both sides keep the link that there is."""
    NO_EPOCH_LEFT = enum.auto()
    """The peer claims the last epoch there is: this node could never begin a newer one."""
    PEER_IS_AHEAD = enum.auto()
    """The peer has heard from a later state of our key: begin a newer epoch, then reconnect."""
    HELLO_IS_STALE = enum.auto()
    """A newer epoch has begun since our HELLO: the peer would refuse its messages. Reconnect."""


class PeerSession:
    """One peer: what is sent to it, what is received from it, and its link.

    Its halves are made when they are first used. A peer that is a stranger again loses its
    sending half, which takes the more memory; what makes delivery happen once is kept longer.

    Args:
        context: What all sessions share.
        did: The peer's DID.
        new_sender: Makes the sending half. Any thread.
    """

    __slots__ = (
        "_context",
        "_host",
        "_new_sender",
        "_orderly_ends",
        "_receiver",
        "_sender",
        "_their_epoch",
        "denies_us",
        "did",
        "hang_ups",
        "last_error",
        "last_error_at",
        "least_epoch",
        "left_at",
        "link",
        "resolved",
        "return_timer",
        "since",
        "weight",
        "wire",
    )

    def __init__(
        self,
        context: SessionContext,
        did: Did,
        new_sender: Callable[[PeerSession], PeerSender],
    ) -> None:
        self._context = context
        self._host = context.host
        self._new_sender = new_sender
        self.did = did
        self._sender: PeerSender | None = None
        self._receiver: PeerReceiver | None = None
        self.link: LinkPort | None = None
        """The open v2 link, whoever dialed it."""
        self.wire: Literal["v1", "v2"] | None = None
        """Which wire the peer speaks, where that is known: v2 for ever, v1 until the connection
        ends."""
        self.resolved: tuple[int, Target | None] = -1, None
        """The version of the routing table, and the address there. One value: threads share it."""
        self.hang_ups = 0
        """How often in a row the peer hung up on TLS."""
        self.denies_us = False
        """Whether the peer turned us away when we were last linked or dialed it."""
        self._orderly_ends = 0
        self._their_epoch = 0
        self.return_timer: Timer | None = None
        """Until when messages wait for a peer that can be reached only when it dials us."""
        self.since = clock.monotonic()
        """When it was first heard of, or its last link ended, by the monotonic clock."""
        self.last_error: Cause | None = None
        """Why its last link ended."""
        self.last_error_at: float | None = None
        self.left_at: float | None = None
        """When the last link of a peer without a route ended, by the monotonic clock."""
        self.least_epoch = 0
        """The epoch that a new stream to the peer must have at least."""
        self.weight = 0
        """Bytes that it counts for while the peer is a stranger that has gone."""

    # -- halves -----------------------------------------------------------------------------

    @property
    def sender(self) -> PeerSender:
        """The sending half. Any thread."""
        return self._sender or self._new_sender(self)

    @property
    def has_sender(self) -> bool:
        """Whether there is a sending half: the peer is more than a stranger that has gone."""
        return self._sender is not None

    def is_sending_by(self, sender: PeerSender) -> bool:
        """Whether this is the sending half still: a stranger loses it. Any thread."""
        return self._sender is sender

    def set_sender(self, sender: PeerSender | None) -> None:
        """Take a new sending half, or let go of it. For the endpoint alone."""
        self._sender = sender

    @property
    def receiver(self) -> PeerReceiver:
        """The receiving half. For nodes that speak v2."""
        receiver = self._receiver
        if receiver is None:
            assert self._context.us is not None
            receiver = PeerReceiver(self._context, self._context.us, self.did)
            self._receiver = receiver
        return receiver

    @property
    def has_receiver(self) -> bool:
        """Whether there is a receiving half."""
        return self._receiver is not None

    def forget_receiver(self) -> None:
        """Let go of the receiving half, and of the marks."""
        if self._receiver is not None:
            self._receiver.forget()
            self._receiver = None

    # -- a link opens -----------------------------------------------------------------------

    def hello(self) -> Hello:
        """The HELLO of a new link to the peer."""
        config = self._host.config
        return Hello(
            min_version=link_frames.VERSION,
            max_version=link_frames.VERSION,
            epoch=self.sender.epoch,
            features=0,
            max_frame_size=config.max_payload_size + FRAME_MARGIN,
            max_payload_size=config.max_payload_size,
            credit=self.receiver.recv_window(),
            known_epoch=self.receiver.stream.epoch,
            marks=self.receiver.hello_marks,
        )

    def judge(self, link: LinkPort, hello: Hello) -> LinkVerdict:
        """What becomes of a link whose HELLO has come. Changes nothing."""
        if self.did == self._context.us and hello.epoch == self.sender.epoch:
            return LinkVerdict.OURSELVES  # with another epoch, it is another process with our key
        old = self.link
        # A newer epoch has lost the old link, whatever that one seems to be here.
        if old is not None and old.their_epoch == hello.epoch and self._keeps(old, link):
            return LinkVerdict.DUPLICATE
        if hello.known_epoch >= link_frames.MAX_EPOCH:
            return LinkVerdict.NO_EPOCH_LEFT
        if self._is_peer_ahead(hello):
            return LinkVerdict.PEER_IS_AHEAD
        if link.our_epoch != self.sender.epoch:
            return LinkVerdict.HELLO_IS_STALE
        return LinkVerdict.USE

    def _keeps(self, old: LinkPort, new: LinkPort) -> bool:
        """If both sides dialed, the link that the smaller DID dialed stays; else the newer."""
        assert self._context.us is not None
        if old.is_dialed == new.is_dialed:
            return False
        return old.is_dialed == (self._context.us < self.did)

    def _is_peer_ahead(self, hello: Hello) -> bool:
        """Whether the peer has heard more from our key than this node has ever sent."""
        if hello.known_epoch != self.sender.epoch:
            return hello.known_epoch > self.sender.epoch
        return self._context.store.is_ahead(self.did, hello.marks)

    def link_opened(self, link: LinkPort, hello: Hello) -> None:
        """Make this the link of the peer. For a link that was judged `USE`."""
        sender, old = self.sender, self.link
        self._warn_of_old_copy(hello)
        if old is not None:
            words, kind = "there is another link now", FailureKind.CLOSED_HERE
            self._host.emit(PeerDisconnected(self.did, words, kind))
        if self._their_epoch not in (0, hello.epoch) and hello.known_epoch != sender.epoch:
            why = "its peer has begun anew since and forgotten it"
            sender.abandon(Reason.STALE_EPOCH, f"{why}; whether it was handled is not known")
        self._their_epoch = hello.epoch
        self.link = link
        self.hang_ups = 0
        self._context.store.reached(self.did)
        self.stop_waiting()
        self.receiver.answers.use(link)
        if old is not None:
            old.close(link_frames.CLOSE_DUPLICATE_LINK, "there is another link now")

    def announce(self, link: LinkPort) -> None:
        """Report that the peer is connected."""
        extra = fields("linked", peer=self.did, address=link.address)
        self._host.log.info("linked with %s (%s)", self.did, link.address, extra=extra)
        self._host.emit(PeerConnected(self.did, link.address, link.is_dialed))

    def _warn_of_old_copy(self, hello: Hello) -> None:
        if hello.known_epoch == self.sender.epoch and self._context.store.learn(
            self.did, hello.marks
        ):
            self._host.log.warning(
                "%s has accepted messages that our store does not know of: the store is an old "
                "copy. What waited in it is sent again, and delivered only if it was not before",
                self.did,
                extra=fields("old copy", peer=self.did),
            )

    def restart_stream(self, hello: Hello, stream: SendStream) -> None:
        """The peer is ahead: number messages anew, in the newer epoch of `stream`."""
        self._host.log.warning(
            "%s has heard from a later state of our key: two processes use it, "
            "our store is an old copy, or our clock went back",
            self.did,
            extra=fields("later state", peer=self.did),
        )
        sender = self.sender
        marks = hello.marks if hello.known_epoch == sender.epoch else None
        if self.link is not None:
            self.link.close(link_frames.CLOSE_STALE_EPOCH, "reconnecting with a newer epoch")
        # Numbered anew, what has arrived already would arrive twice.
        for message in sender.lanes.remove_if(lambda message: message.was_written):
            sender.give_up(
                message,
                Reason.STALE_EPOCH,
                "it was written; the peer has heard from a later state of this key since, "
                "so it cannot be asked whether it arrived",
            )
        sender.abandon(
            Reason.STALE_EPOCH,
            "the peer has heard from a later state of this key since, so it says no more "
            "whether it was handled",
        )
        sender.stream = stream
        self._context.store.restart(sender, stream.epoch, marks)

    # -- a link ends ------------------------------------------------------------------------

    def link_closed(self, link: LinkPort, cause: Cause, closed: Closed | None) -> tuple[bool, bool]:
        """An open link has ended.

        Returns:
            Whether it was the link of the peer, and whether its end is excused: it costs what
            was in flight no attempt.
        """
        answers = self.receiver.answers
        if answers.link is link:
            answers.detach()
        was_used = self.link is link
        is_excused = closed is not None and closed.is_orderly
        if was_used:
            self.link = None
            is_excused = self.is_end_excused(closed, has_progress=link.has_progress)
        extra = fields("link ended", peer=self.did, address=link.address)
        text = "the link with %s (%s) ended: %s"
        self._host.log.info(text, self.did, link.address, cause, extra=extra)
        if was_used:
            self._host.emit(PeerDisconnected(self.did, str(cause), cause.kind))
            self.since = clock.monotonic()
            self.last_error, self.last_error_at = cause, self.since
        return was_used, is_excused

    def is_end_excused(self, closed: Closed | None, *, has_progress: bool) -> bool:
        """Whether the end of a link costs what was in flight no attempt. Call it once for each.

        An orderly end is excused, but not time after time without one answer in between.
        """
        self.denies_us = (
            closed is not None and closed.is_by_peer and closed.code == link_frames.CLOSE_DENIED
        )
        if closed is None or not closed.is_orderly:
            return False
        if has_progress:
            self._orderly_ends = 0
        elif closed.is_by_peer and closed.code != link_frames.CLOSE_TOO_MANY:
            self._orderly_ends += 1  # a peer that is full may be so for long
        return self._orderly_ends <= _EXCUSED_ENDS

    @property
    def has_just_left(self) -> bool:
        """Whether a peer without a route was linked a moment ago, and may dial again soon."""
        return self.left_at is not None and clock.monotonic() - self.left_at < _RETURN_GRACE

    def wait_for_return(self, on_absent: Callable[[PeerSession], None]) -> None:
        """Call `on_absent` with this session, unless `stop_waiting()` is called within 5 s."""
        if self.return_timer is None:
            self.return_timer = self._host.call_later(_RETURN_GRACE, on_absent, self)

    def stop_waiting(self) -> None:
        """Cancel the timer of `wait_for_return()`: the peer is back, or the node ends."""
        if self.return_timer is not None:
            self.return_timer.cancel()
            self.return_timer = None

    # -- answers ----------------------------------------------------------------------------

    def is_expected(self, receipts: Receipts) -> bool:
        """Whether a message of ours waits for what these receipts name."""
        return self.sender.stream.is_expected(receipts)

    def note_progress(self) -> None:
        """The peer has answered a message: its next orderly ends are excused again."""
        self._orderly_ends = 0

    # -- what is known ----------------------------------------------------------------------

    @property
    def is_forgettable(self) -> bool:
        """Whether nothing waits to be sent to the peer, and no answer is outstanding."""
        sender, receiver = self._sender, self._receiver
        if self.link is not None or (receiver is not None and receiver.has_links):
            return False  # one that is opening has named the epoch of the sending half
        if sender is None:
            return True
        if sender.route is not None or sender.lanes or not sender.stream.is_forgettable:
            return False
        backlog = self._context.store.backlog(self.did)
        return backlog is None or not backlog.rows

    def status(self) -> PeerStatus:
        """The state of the peer now. Any thread."""
        link, sender, now = self.link, self.sender, clock.now()
        route = sender.route

        def unix(instant: float | None) -> float | None:
            return None if instant is None else clock.to_unix(instant, now)

        if link is not None:
            state, since = PeerState.CONNECTED, link.since
        elif route is not None:
            state, since = route.state, route.since
        else:
            state, since = PeerState.IDLE, self.since
        last_error = self.last_error if route is None else route.last_error
        return PeerStatus(
            did=self.did,
            wire=self.wire,
            address=route.address if route is not None else link.address if link else None,
            state=state,
            since=clock.to_unix(since, now),
            last_error=None if last_error is None else str(last_error),
            last_error_kind=kind_of(last_error),
            last_error_at=unix(self.last_error_at if route is None else route.last_error_at),
            retry_at=unix(None if route is None else route.retry_at),
            round_trip=link.round_trip if link else route.round_trip if route else None,
            queued=sender.lanes.sizes(),
            stored=self._context.store.backlog(self.did),
            in_flight=sender.stream.in_flight,
            overdue=None if link is None else link.overdue,
            send_window=None if link is None else link.send_window,
            failed_attempts=sender.failures,
            dropped=dict(sender.dropped),
            denies_us=self.denies_us and link is None,
        )
