"""The state of one peer that outlives its links, and the choice between two links.

There is one open link to a peer at a time, whichever side dialed, and it carries both
directions. `judge()` decides about a new link; `link_opened()` and `link_closed()` carry
that out.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from signedwire import clock
from signedwire.delivery.dial_history import DialHistory
from signedwire.delivery.peer_receiver import PeerReceiver
from signedwire.delivery.peer_sender import PeerSender
from signedwire.delivery.ports import LinkPort, Timer
from signedwire.delivery.send_streams import SendStreams
from signedwire.delivery.session_context import SessionContext
from signedwire.errors import Cause, FailureKind, kind_of
from signedwire.events import PeerConnected, PeerDisconnected
from signedwire.logs import fields
from signedwire.stats import PeerStatus
from signedwire.types import Did, PeerState, Priority, Reason, Target
from signedwire.wire import link_frames
from signedwire.wire.clock_offset import ClockOffset
from signedwire.wire.header import VOLATILE
from signedwire.wire.link_frames import Epochs, Hello, Receipts
from signedwire.wire.session import Closed

__all__ = ["EndedLink", "LinkVerdict", "PeerSession"]

_RETURN_GRACE: Final = 5.0
"""Seconds that messages wait for a peer that can only be reached when it dials us."""

_UNKNOWN: Final = Epochs(0, 0)
_EXCUSED_ENDS: Final = 3
"""Orderly ends in a row without one answer that are excused. Each further one is an attempt."""


class LinkVerdict(enum.Enum):
    """Decision about a link whose HELLO has come."""

    USE = enum.auto()
    """Use the link from now on, and close the previous one."""
    OURSELVES = enum.auto()
    """Close the link, because it leads to this very node."""
    DUPLICATE = enum.auto()
    """Close the link, because both sides keep the previous one."""
    NO_EPOCH_LEFT = enum.auto()
    """Close the link: the peer names the last possible epoch, so no newer one could begin."""
    PEER_IS_AHEAD = enum.auto()
    """Begin a newer epoch and reconnect: the peer has received from a later state of our key."""
    HELLO_IS_STALE = enum.auto()
    """Reconnect: a newer epoch has begun since our HELLO, so its messages would be refused."""


class EndedLink(NamedTuple):
    """The end of an open link, as `PeerSession.link_closed()` judges it."""

    was_used: bool
    """Whether it was the link of the peer."""
    is_excused: bool
    """Whether the end costs the messages in flight no attempt."""


class PeerSession:
    """One peer: its sending half, its receiving half, and its link.

    The halves are made when they are first used. A peer that is a stranger again loses its
    sending half, which needs more memory. The receiving half, which makes delivery happen
    once, is kept longer.

    Args:
        context: The parts that all sessions share.
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
        "_their_epochs",
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
        "seen_at",
        "since",
        "uses",
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
        """The open v2 link, whichever side dialed; `None`: there is none."""
        self.wire: Literal["v1", "v2"] | None = None
        """The wire of the peer; `None`: not known. v2 is for ever, v1 ends with the connection."""
        self.resolved: tuple[int, Target | None] = -1, None
        """Version of the routing table, and the address there. One value, for other threads."""
        self.hang_ups = 0
        """Number of times in a row that the peer hung up during TLS."""
        self.denies_us = False
        """Whether the peer closed the last link, or refused the last dial, as denied."""
        self._orderly_ends = 0
        self._their_epochs = _UNKNOWN
        self.return_timer: Timer | None = None
        """The timer of `wait_for_return()`; `None`: it does not run."""
        self.since = clock.monotonic()
        """Instant at which the last link ended, or this session was made; monotonic clock."""
        self.seen_at: float | None = None
        """Instant at which the last link ended; monotonic clock. `None`: there was no link."""
        self.last_error: Cause | None = None
        """The cause of the end of the last link."""
        self.last_error_at: float | None = None
        self.left_at: float | None = None
        """Instant at which the last link of a peer without a route ended; monotonic clock."""
        self.least_epoch = 0
        """The smallest epoch that a new stream to the peer may have."""
        self.uses = 0
        """Number of requests of the peer that are being handled."""
        self.weight = 0
        """Size in bytes that is counted while the peer is a stranger without a link."""

    # -- halves -----------------------------------------------------------------------------

    @property
    def sender(self) -> PeerSender:
        """The sending half. Any thread."""
        return self._sender or self._new_sender(self)

    @property
    def has_sender(self) -> bool:
        """Whether there is a sending half. A forgotten stranger has none."""
        return self._sender is not None

    def is_sending_by(self, sender: PeerSender) -> bool:
        """Whether this is still the sending half, which a stranger loses. Any thread."""
        return self._sender is sender

    def set_sender(self, sender: PeerSender | None) -> None:
        """Set the sending half, or forget it. For the session map alone."""
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
        """Forget the receiving half, with the marks."""
        if self._receiver is not None:
            self._receiver.forget()
            self._receiver = None

    # -- a link opens -----------------------------------------------------------------------

    def hello(self) -> Hello:
        """Make the HELLO of a new link to the peer."""
        config = self._host.config
        return Hello(
            min_version=link_frames.VERSION,
            max_version=link_frames.VERSION,
            features=0,
            max_payload_size=config.max_payload_size,
            max_batch_bytes=link_frames.MAX_BATCH_BYTES,
            epochs=self.sender.streams.epochs,
            known_epochs=self.receiver.epochs,
            marks=self.receiver.hello_marks,
            credit=self.receiver.first_grant(),
        )

    def judge(self, link: LinkPort, hello: Hello) -> LinkVerdict:
        """Decide about a link whose HELLO has come. Changes nothing."""
        ours = self.sender.streams.epochs
        if self.did == self._context.us and hello.epochs.volatile == ours.volatile:
            return LinkVerdict.OURSELVES  # with another one, it is another process with our key
        old = self.link
        # If the peer has begun a newer epoch, it has lost the old link.
        if old is not None and old.state.their_epochs == hello.epochs and self._keeps(old, link):
            return LinkVerdict.DUPLICATE
        if max(hello.known_epochs) >= link_frames.MAX_EPOCH:
            return LinkVerdict.NO_EPOCH_LEFT
        if self.is_durable_behind(hello) or self.is_volatile_behind(hello):
            return LinkVerdict.PEER_IS_AHEAD
        if link.state.our_epochs != ours:
            return LinkVerdict.HELLO_IS_STALE
        return LinkVerdict.USE

    def _keeps(self, old: LinkPort, new: LinkPort) -> bool:
        """Whether the old link stays.

        If both sides dialed, the link that the smaller DID dialed stays; else the newer one.
        """
        assert self._context.us is not None
        if old.state.is_dialed == new.state.is_dialed:
            return False
        return old.state.is_dialed == (self._context.us < self.did)

    def is_durable_behind(self, hello: Hello) -> bool:
        """Whether the peer has more durable messages of our key than this node has ever sent."""
        known, epoch = hello.known_epochs.durable, self.sender.streams.durable.epoch
        if known != epoch:
            return known > epoch
        return self._context.store.is_ahead(self.did, hello.marks[:VOLATILE])

    def is_volatile_behind(self, hello: Hello) -> bool:
        """Whether the peer has had a later volatile epoch of our key than the present one."""
        return hello.known_epochs.volatile > self.sender.streams.volatile.epoch

    def link_opened(self, link: LinkPort, hello: Hello) -> None:
        """Make this the link of the peer. The verdict about the link is `USE`."""
        old = self.link
        self._warn_of_old_copy(hello)
        if old is not None:
            words, kind = "there is another link now", FailureKind.CLOSED_HERE
            self._host.emit(PeerDisconnected(self.did, words, kind))
        self.link = link
        self.hang_ups = 0
        self._context.store.reached(self.did)
        self.stop_waiting()
        self.receiver.answers.use(link)
        interval = self._context.watched.interval(self.did)
        if interval is not None:
            link.ping_every(interval)
        if old is not None:
            old.close(link_frames.CLOSE_DUPLICATE_LINK, "there is another link now")

    def announce(self, link: LinkPort) -> None:
        """Report that the peer is connected."""
        extra = fields("linked", peer=self.did, address=link.address)
        self._host.log.info("linked with %s (%s)", self.did, link.address, extra=extra)
        self._host.emit(PeerConnected(self.did, link.address, link.state.is_dialed))

    def _warn_of_old_copy(self, hello: Hello) -> None:
        epoch = self.sender.streams.durable.epoch
        if (
            hello.known_epochs.durable == epoch
            and self._context.store.learn(self.did, hello.marks[:VOLATILE])
            and not self._context.claims_log.note_attempt(self.did)
        ):
            self._host.log.warning(
                "%s has accepted messages that our store does not have: the store is an old "
                "copy. The messages in it are sent again, and those that arrived before are not "
                "delivered twice",
                self.did,
                extra=fields("old copy", peer=self.did),
            )

    def end_unknown(self, hello: Hello) -> None:
        """End what waits for an answer of a process of the peer that has ended.

        Its marks and answers of volatile messages are lost, and without a store also those of
        durable ones. Whether a volatile message that was written has arrived cannot be found out,
        and sent again it might arrive twice.
        """
        before, self._their_epochs = self._their_epochs, hello.epochs
        sender, known = self.sender, hello.known_epochs
        durable, volatile = sender.streams.durable, sender.streams.volatile
        why = "the peer has restarted since without its state; whether it was handled is not known"
        if before.durable not in (0, hello.epochs.durable) and known.durable != durable.epoch:
            sender.abandon_streams(durable, Reason.STALE_EPOCH, why)
        # Its own epoch tells. The one of ours that it knows does not: a HELLO may have been made
        # before ours came on another link, or after ours came on a link that did not open.
        if before.volatile not in (0, hello.epochs.volatile):
            sender.abandon_streams(volatile, Reason.STALE_EPOCH, why)
            if not volatile.is_fresh:
                self._give_up_written()

    def _give_up_written(self) -> None:
        """End the volatile messages that were written and have no answer."""
        sender = self.sender
        sender.give_up_many(
            sender.lanes.remove_if(
                lambda message: message.was_written and not message.options.is_durable
            ),
            Reason.UNKNOWN_OUTCOME,
            "it was written, and the peer has restarted since, so whether it arrived is not known",
        )

    def restart_durable(self, hello: Hello, streams: SendStreams) -> None:
        """Number durable messages anew, in the newer epoch of `streams`: the peer is ahead."""
        sender = self.sender
        is_same = hello.known_epochs.durable == sender.streams.durable.epoch
        marks = hello.marks[:VOLATILE] if is_same else None
        self._restart(sender.streams.durable)
        sender.streams.begin(streams, is_durable=True)
        self._context.store.restart(sender, streams.epoch, marks)

    def restart_volatile(self, streams: SendStreams) -> None:
        """Number volatile messages anew, in the newer epoch of `streams`: the peer is ahead."""
        sender = self.sender
        self._restart(sender.streams.volatile)
        sender.streams.begin(streams, is_durable=False)

    def _restart(self, streams: SendStreams) -> None:
        """End what cannot be sent again in a newer epoch, for durable messages or for volatile."""
        if not self._context.claims_log.note_attempt(self.did):
            self._host.log.warning(
                "%s says that it knows a later state of our key. If that is true, two processes "
                "use the key, our store is an old copy, or our clock went back. "
                "A newer epoch begins",
                self.did,
                extra=fields("later state", peer=self.did),
            )
        sender = self.sender
        is_durable = streams is sender.streams.durable
        if self.link is not None:
            self.link.close(link_frames.CLOSE_STALE_EPOCH, "reconnecting with a newer epoch")
        # A message that has arrived would arrive twice under a new number.
        sender.give_up_many(
            sender.lanes.remove_if(
                lambda message: message.was_written and message.options.is_durable is is_durable
            ),
            Reason.STALE_EPOCH,
            "it was written, and a newer epoch has begun since, so the peer cannot be asked "
            "whether it arrived",
        )
        sender.abandon_streams(
            streams,
            Reason.STALE_EPOCH,
            "a newer epoch has begun since, so the peer cannot answer any more whether it was "
            "handled",
        )

    # -- a link ends ------------------------------------------------------------------------

    def link_closed(self, link: LinkPort, cause: Cause, closed: Closed | None) -> EndedLink:
        """Note that an open link has ended."""
        answers = self.receiver.answers
        watched = self._context.watched
        if watched.interval(self.did) is not None:
            watched.note_link_over(self.did, link.state.heard_at)
        if answers.link is link:
            answers.detach()
        was_used = self.link is link
        is_excused = closed is not None and closed.is_orderly
        if was_used:
            self.link = None
            is_excused = self.count_end(closed, has_progress=link.state.has_progress)
        extra = fields("link ended", peer=self.did, address=link.address)
        text = "the link with %s (%s) ended: %s"
        self._host.log.info(text, self.did, link.address, cause, extra=extra)
        if was_used:
            self._host.emit(PeerDisconnected(self.did, str(cause), cause.kind))
            self.since = self.seen_at = clock.monotonic()
            self.last_error, self.last_error_at = cause, self.since
        return EndedLink(was_used, is_excused)

    def count_end(self, closed: Closed | None, *, has_progress: bool) -> bool:
        """Count the end of a link, once; return whether it costs no attempt.

        Orderly ends are excused, but no more than three in a row without one answer.
        """
        self.denies_us = (
            closed is not None and closed.is_by_peer and closed.code == link_frames.CLOSE_DENIED
        )
        if closed is None or not closed.is_orderly:
            return False
        if has_progress:
            self._orderly_ends = 0
        elif closed.is_by_peer and closed.code != link_frames.CLOSE_TOO_MANY:
            self._orderly_ends += 1  # other codes only: a peer may be full for a long time
        return self._orderly_ends <= _EXCUSED_ENDS

    @property
    def has_just_left(self) -> bool:
        """Whether a peer without a route was linked a moment ago, and may dial again soon."""
        return self.left_at is not None and clock.monotonic() - self.left_at < _RETURN_GRACE

    def wait_for_return(self, on_absent: Callable[[PeerSession], None]) -> None:
        """Call `on_absent` with this session 5 s after its link ended, unless `stop_waiting()`.

        For a peer that has just left.
        """
        if self.return_timer is None:
            assert self.left_at is not None
            left = self.left_at + _RETURN_GRACE - clock.monotonic()
            self.return_timer = self._host.call_later(max(0.0, left), on_absent, self)

    def stop_waiting(self) -> None:
        """Cancel the timer of `wait_for_return()`: the peer is back, or the node ends."""
        if self.return_timer is not None:
            self.return_timer.cancel()
            self.return_timer = None

    # -- answers ----------------------------------------------------------------------------

    def is_expected(self, receipts: Receipts) -> bool:
        """Whether a message waits for one of these receipts."""
        return self.sender.streams.is_expected(receipts)

    def keep_error(self, history: DialHistory) -> None:
        """Keep the last error of a dialer that the peer leaves, for `status()`."""
        if _is_later(history.last_error_at, self.last_error_at):
            self.last_error, self.last_error_at = history.last_error, history.last_error_at

    def note_progress(self) -> None:
        """Excuse the next orderly ends again, because the peer has answered a message."""
        self._orderly_ends = 0

    # -- state -----------------------------------------------------------------------------

    @property
    def is_forgettable(self) -> bool:
        """Whether nothing waits to be sent to the peer, and no answer can come any more."""
        sender, receiver = self._sender, self._receiver
        if self.link is not None or (receiver is not None and receiver.has_links):
            return False  # the HELLO of an opening link names the epoch of the sending half
        if sender is None:
            return True
        if self.uses or sender.dialer is not None or sender.has_messages:
            return False
        if not sender.streams.is_forgettable:
            return False
        backlog = self._context.store.backlog(self.did)
        return backlog is None or not backlog.rows

    @property
    def clock_offset(self) -> ClockOffset | None:
        """How far the peer's clock is from ours; `None`: no link has measured it lately."""
        return None if self.link is None else self.link.state.clock_offset

    def status(self) -> PeerStatus:
        """Return the state of the peer now. Any thread."""
        # `_sender`, because `sender` would make a sending half for a forgotten stranger.
        link, sender, now = self.link, self._sender, clock.now()
        route = None if sender is None else sender.dialer

        offset = None if link is None else link.state.clock_offset
        window = None if link is None else link.state.window

        def unix(instant: float | None) -> float | None:
            return None if instant is None else clock.to_unix(instant, now)

        if link is not None:
            state, since = PeerState.CONNECTED, link.state.since
        elif route is not None:
            state, since = route.state, route.since
        else:
            state, since = PeerState.IDLE, self.since
        last_error, last_error_at = self.last_error, self.last_error_at
        if route is not None and _is_later(route.history.last_error_at, last_error_at):
            last_error, last_error_at = route.history.last_error, route.history.last_error_at
        return PeerStatus(
            did=self.did,
            wire=self.wire,
            address=route.address if route is not None else link.address if link else None,
            state=state,
            since=clock.to_unix(since, now),
            last_error=None if last_error is None else str(last_error),
            last_error_kind=kind_of(last_error),
            last_error_at=unix(last_error_at),
            retry_at=unix(None if route is None else route.retry_at),
            round_trip=link.state.round_trip if link else route.round_trip if route else None,
            clock_offset=None if offset is None else offset.seconds,
            clock_offset_bound=None if offset is None else offset.bound,
            queued=dict.fromkeys(Priority, 0) if sender is None else sender.lanes.sizes(),
            stored=self._context.store.backlog(self.did),
            in_flight=0 if sender is None else sender.streams.in_flight,
            overdue=None if link is None else link.overdue,
            rate=None if window is None else window.rate or None,
            window=None if window is None else window.size,
            bytes_in_flight=None if window is None else window.under_way,
            least_round_trip=None if window is None else _finite(window.least_round_trip),
            credit=None if link is None else link.state.credit_left,
            failed_attempts=0 if sender is None else sender.failures,
            dropped={} if sender is None else dict(sender.dropped),
            denies_us=self.denies_us and link is None,
        )


def _finite(seconds: float) -> float | None:
    """Return a time that was measured; `None` for an infinite one, which was not."""
    return None if seconds == math.inf else seconds


def _is_later(instant: float | None, other: float | None) -> bool:
    return instant is not None and (other is None or instant >= other)
