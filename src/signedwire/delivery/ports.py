"""Interfaces through which the decisions of `delivery` use everything else.

    Host                       the node's loop, counters, events and log
    LinkPort                   one open v2 connection
    DialerPort                 the dialer of one address
    Routes                     the addresses of DIDs
    OutboxStore, InboxStore    the store of messages and marks: `null_store`, or a disk
    EvidencePort               the evidence log

Tests put plain objects in their place, so no decision needs a loop, a socket or a clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from signedwire.config import TransportConfig
from signedwire.delivery.dial_history import DialHistory
from signedwire.delivery.message import IncomingMessage
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.receive_streams import Arrivals
from signedwire.delivery.send_queue import SendQueue
from signedwire.delivery.send_streams import Refused
from signedwire.delivery.store import Backlog, Marks, OnCommit, RememberedLeaves
from signedwire.delivery.stranger_room import StrangerRoom
from signedwire.delivery.stream_answers import Answers
from signedwire.errors import Cause, StoreError
from signedwire.events import Event
from signedwire.home import Home
from signedwire.logs import EventLog
from signedwire.stats import Counters
from signedwire.types import Credit, Did, PeerState, Reason, Target
from signedwire.wire.clock_offset import ClockOffset
from signedwire.wire.link_frames import Epochs
from signedwire.wire.send_window import SendWindow
from signedwire.wire.session import BatchReceived

__all__ = [
    "EvidencePort",
    "DialerPort",
    "Host",
    "InboxStore",
    "LinkPort",
    "LinkStatePort",
    "MessageQueue",
    "OutboxStore",
    "Routes",
    "Timer",
]


class Timer(Protocol):
    """A scheduled call."""

    def cancel(self) -> None:
        """Cancel the call."""


class Routes(Protocol):
    """The addresses of DIDs, and the caps on what is sent to them."""

    @property
    def version(self) -> int:
        """Number that grows with each change."""

    def resolve(self, did: Did) -> Target | None:
        """Return the address of a DID; `None`: none is known."""

    def max_rate(self, did: Did) -> float | None:
        """Return the most bytes per second that are sent to a DID; `None`: there is no cap."""


class Host(Protocol):
    """The surroundings of the decisions: a node."""

    @property
    def config(self) -> TransportConfig:
        """The configuration."""

    @property
    def counters(self) -> Counters:
        """The counters behind `Node.stats()`."""

    @property
    def log(self) -> EventLog:
        """The log of the node."""

    @property
    def home(self) -> Home:
        """The process, loop and phase of life of the node."""

    @property
    def is_open(self) -> bool:
        """Whether messages may be sent and received."""

    @property
    def speaks_v2(self) -> bool:
        """Whether the node has a key, and its configuration allows v2."""

    @property
    def is_in_loop(self) -> bool:
        """Whether this is the thread of the node's loop."""

    @property
    def stranger_room(self) -> StrangerRoom:
        """The room for what strangers send."""

    def call_soon(self, callback: Callable[..., None], *args: object) -> None:
        """Call `callback` in the loop. Any thread."""

    def call_later(self, seconds: float, callback: Callable[..., None], *args: object) -> Timer:
        """Call `callback` in the loop after `seconds`."""

    def drop(self, reason: Reason, did: Did | None = None, host: str = "", count: int = 1) -> None:
        """Count dropped messages or connections. Any thread."""

    def drop_refused(self, did: Did, by_reason: Counter[Reason], count: int = 1) -> None:
        """Count messages to a peer that were refused at once, because its queue was full.

        Any thread. `by_reason` is the counter of the peer's own drops.
        """

    def drop_failed(
        self, reason: Reason, did: Did, by_reason: Counter[Reason], count: int = 1
    ) -> None:
        """Count messages to a peer that failed.

        Any thread. `by_reason` is the counter of the peer's own drops.
        """

    def drop_replaced(self, did: Did, by_reason: Counter[Reason], count: int = 1) -> None:
        """Count messages to a peer that newer ones have replaced. Any thread.

        `by_reason` is the counter of the peer's own drops. There is no event.
        """

    def emit(self, event: Event) -> None:
        """Put an event into `Node.events()`."""


class LinkStatePort(Protocol):
    """The state of a v2 link, for the session of its peer."""

    @property
    def is_dialed(self) -> bool:
        """Whether this node dialed the link."""

    @property
    def is_over(self) -> bool:
        """Whether the link has ended."""

    @property
    def has_progress(self) -> bool:
        """Whether the peer has answered a message of this link."""

    @property
    def our_epochs(self) -> Epochs:
        """The epochs of our HELLO."""

    @property
    def their_epochs(self) -> Epochs:
        """The epochs of the peer's HELLO; 0 before it came."""

    @property
    def since(self) -> float:
        """Instant at which the link was opened, by the monotonic clock."""

    @property
    def round_trip(self) -> float | None:
        """Seconds between PING and PONG; `None`: not measured yet."""

    @property
    def heard_at(self) -> float:
        """When the last frame of the peer came, by the clock of the event loop."""

    @property
    def clock_offset(self) -> ClockOffset | None:
        """How far the peer's clock is from ours now; `None`: not measured lately."""

    @property
    def window(self) -> SendWindow | None:
        """The bytes that may be under way to the peer; `None` before the handshake."""

    @property
    def credit_left(self) -> tuple[Credit, ...] | None:
        """By stream, the credit for what we may still send; `None` before the handshake."""

    def peer_credit_left(self, stream: int) -> Credit:
        """Return the credit of a stream for what the peer may still send on this link."""


class LinkPort(Protocol):
    """A v2 link, for the session of its peer."""

    @property
    def state(self) -> LinkStatePort:
        """The state of the link."""

    @property
    def address(self) -> Target | None:
        """The peer's address."""

    @property
    def overdue(self) -> float | None:
        """Seconds that the oldest batch has waited for its answer; `None`: not overdue."""

    def pump(self) -> None:
        """Write one batch of the queue to the peer."""

    def abort_dead(self) -> None:
        """Stop writing each batch under way of which every message has ended or has expired.

        `PeerSender.aborted()` is called for each.
        """

    def queue_receipts(
        self,
        roots: list[bytes],
        leaves: list[bytes],
        *,
        is_committed: bool,
        is_urgent: bool = False,
    ) -> None:
        """Send receipts for these batches and envelopes with the next write.

        Args:
            roots: The batches.
            leaves: The envelopes.
            is_committed: Whether a store has committed them.
            is_urgent: Whether to write at once.
        """

    def batch_settled(self) -> None:
        """Note that no further answer to one received batch will be queued."""

    def answer(self, credit: Mapping[int, Credit], answers: Answers) -> None:
        """Send credit and the application's answers.

        Args:
            credit: By stream, the credit to grant.
            answers: The answers.
        """

    def ping_every(self, seconds: float | None) -> None:
        """Send a PING whenever no frame has come for so long; `None`: as usual."""

    def note_arrivals(self, new: int, repeats: int) -> None:
        """Count the new messages of a batch, and the others."""

    def close(self, code: int, reason: str) -> None:
        """Send CLOSE and hang up. Returns at once."""


class DialerPort(Protocol):
    """The dialer of one address."""

    address: Target
    state: PeerState
    since: float
    retry_at: float | None
    history: DialHistory

    @property
    def round_trip(self) -> float | None:
        """Seconds between PING and PONG; `None`: not connected, or not measured yet."""


class MessageQueue(Protocol):
    """The queue to one peer, for a store."""

    @property
    def did(self) -> Did:
        """The peer's DID."""

    @property
    def lanes(self) -> SendQueue[OutgoingMessage]:
        """The queue."""

    def give_up(self, message: OutgoingMessage, reason: Reason, cause: str = "") -> None:
        """End a message, with the reason and cause in its receipt."""

    def end_replaced(self, messages: Sequence[OutgoingMessage]) -> None:
        """End messages that have left the queue for newer ones with their keys. Any thread."""

    @property
    def dropped(self) -> Counter[Reason]:
        """Messages to the peer that were given up or refused, by reason."""

    def when_room(self, wake: Callable[[], None], *, is_durable: bool) -> bool:
        """Call `wake` once, when half of the slots are empty; `False` if they are already.

        Those are the slots for durable messages, or for volatile ones.
        """

    def forget_room(self, wake: Callable[[], None]) -> None:
        """Withdraw a wake-up of `when_room()`."""


class OutboxStore(Protocol):
    """The store of messages to peers.

    Callbacks are called in the loop. When the store has failed, `put()` raises. Methods that
    only note progress raise nothing.
    """

    @property
    def is_durable(self) -> bool:
        """Whether messages outlive the process."""

    @property
    def failure(self) -> StoreError | None:
        """The error for which the store accepts nothing more; `None`: it works."""

    # -- sending ----------------------------------------------------------------------

    def put(
        self,
        queue: MessageQueue,
        messages: list[OutgoingMessage],
        *,
        is_patient: bool = False,
        replaces: Sequence[int] = (),
    ) -> int:
        """Keep messages until they can be sent. Any thread.

        Args:
            queue: The queue to the recipient.
            messages: Messages with equal options.
            is_patient: Whether the caller retries. If so, a full queue is not counted as a
                drop.
            replaces: Ids of dead letters to remove with the same commit.

        Returns:
            Number of messages for which there was room, from the first one on.

        Raises:
            BackpressureError, StoreFullError, StoreFailedError: no message was kept.
        """

    def when_room(
        self, queue: MessageQueue, wake: Callable[[], None], *, is_durable: bool = True
    ) -> bool:
        """Call `wake` once, when there is room; `False` if there is room already."""

    def forget_room(self, queue: MessageQueue, wake: Callable[[], None]) -> None:
        """Withdraw a wake-up of `when_room()`."""

    def has_room(self, queue: MessageQueue, stream: int) -> bool:
        """Whether a message of this stream would be kept now. Any thread."""

    def epoch(self, did: Did) -> int | None:
        """Return the epoch of a new stream to a peer; `None`: the process's. Any thread."""

    def look_at_clock(self) -> bool:
        """Move deadlines if the wall clock was set; return whether to send nothing until then."""

    def written(self, did: Did, messages: list[OutgoingMessage]) -> None:
        """Note that a link has taken these messages."""

    def settled(self, did: Did, messages: Iterable[OutgoingMessage]) -> None:
        """Remove these messages, which were accepted."""

    def refused(self, did: Did, refused: Iterable[Refused], reason: Reason, detail: str) -> None:
        """Note that the peer has refused these messages; `detail` says more, or is empty."""

    def ended(self, message: OutgoingMessage, reason: Reason, cause: str) -> None:
        """Note that this node has given up the message."""

    def doubt(self, message: OutgoingMessage) -> str:
        """Return the cause for a message that expires without an answer; may be empty."""

    def is_ahead(self, did: Did, marks: Sequence[int]) -> bool:
        """Whether the peer's marks of this epoch are above all numbers that were given."""

    def learn(self, did: Did, marks: Sequence[int]) -> bool:
        """Apply the peer's marks; return whether they show that the store is an old copy."""

    def restart(self, queue: MessageQueue, epoch: int, marks: Sequence[int] | None) -> None:
        """Begin a new epoch, and load all messages again. See `StoreDriver.restart`."""

    def reached(self, did: Did) -> None:
        """Note that the peer was reached."""

    def attempt_failed(self, did: Did, cause: Cause) -> None:
        """Note that an attempt to reach the peer has failed."""

    def give_up_denied(self, queue: MessageQueue) -> None:
        """Make dead letters of the messages to a denied peer."""

    def backlog(self, did: Did) -> Backlog | None:
        """Return the stored messages to a peer, in numbers; `None` without a file."""

    # -- peers ------------------------------------------------------------------------

    def has_spoken_v2(self, did: Did) -> bool:
        """Whether the DID proved itself over v2 to an earlier process. Any thread."""

    def note_v2(self, did: Did) -> None:
        """Note that a DID has proven itself over v2."""


class InboxStore(Protocol):
    """The store of marks, and of messages that the application has not handled."""

    @property
    def is_durable(self) -> bool:
        """Whether messages outlive the process."""

    @property
    def failure(self) -> StoreError | None:
        """The error for which the store accepts nothing more; `None`: it works."""

    def marks(self, did: Did) -> Marks:
        """Return the committed marks of a sender; epoch 0: nothing was accepted."""

    def hello_marks(self, did: Did, current: Marks) -> tuple[int, int, int, int]:
        """Return the marks for a HELLO: committed ones, of the epoch of `current`."""

    def load_leaves(self, did: Did, on_loaded: Callable[[RememberedLeaves | None], None]) -> bool:
        """Call `on_loaded` with the remembered leaves of a sender; `False`: there are none.

        `on_loaded` gets `None` if the store has failed.
        """

    def began(self, did: Did, marks: Marks) -> None:
        """Note that the sender has begun a new epoch."""

    def inbox_room(self, did: Did, messages: Sequence[IncomingMessage]) -> int:
        """Return the number of messages, from the first one on, that fit into the inbox."""

    def accept(
        self,
        did: Did,
        marks: Marks,
        batch: BatchReceived,
        arrivals: Arrivals,
        not_stored: Sequence[int],
        on_commit: OnCommit,
    ) -> None:
        """Keep the new messages of a batch, and call `on_commit` after the commit.

        Args:
            did: The sender.
            marks: The marks after the batch.
            batch: The batch.
            arrivals: The result of checking the batch.
            not_stored: Places in the batch for which there was no room.
            on_commit: Called in the loop, with the error or `None`.

        Raises:
            StoreFailedError, ClosedError: nothing was kept.
        """

    def acked(self, messages: Sequence[IncomingMessage], on_commit: OnCommit) -> None:
        """Remove answered messages, and call `on_commit` after the commit."""


class EvidencePort(Protocol):
    """The evidence log, which keeps every accepted message. Methods may be called in any thread.

    Each `on_commit` is called in the loop, with the error if the log has failed.
    """

    @property
    def failure(self) -> StoreError | None:
        """The error that stopped the log; `None` while it works."""

    @property
    def has_room(self) -> bool:
        """Whether the disk keeps up; if not, callers should wait where they can."""

    def append(
        self, messages: Sequence[IncomingMessage], on_commit: OnCommit | None = None
    ) -> None:
        """Log accepted messages; call `on_commit` when all messages so far are on the disk.

        Raises:
            EvidenceLogError, ClosedError: the log takes nothing more.
        """

    def after(self, messages: Sequence[IncomingMessage], on_commit: OnCommit) -> OnCommit:
        """Return a callback for the commit of `messages` that logs them, then calls `on_commit`."""

    def restored(self, message: IncomingMessage, on_commit: OnCommit) -> None:
        """Log a message that an earlier process accepted, unless that process logged it."""
