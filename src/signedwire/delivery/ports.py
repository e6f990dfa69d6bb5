"""What the decisions of `delivery` need of the outside, as narrow protocols.

    Host                       the node's loop, counters, events and log
    LinkPort                   one open v2 connection
    RoutePort                  whoever connects to a peer
    Routes                     which DID is reached where
    OutboxStore, InboxStore    where messages and marks are kept: `null_store`, or a disk
    EvidencePort               the evidence log

Tests put plain objects in their place, so no decision needs a loop, a socket or a clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from signedwire.config import TransportConfig
from signedwire.delivery.lanes import Lanes
from signedwire.delivery.message import Message, OutgoingMessage
from signedwire.delivery.receive_stream import Arrivals
from signedwire.delivery.store import Backlog, Marks, OnCommit, RememberedLeaves
from signedwire.delivery.streams import Refused
from signedwire.errors import Cause, StoreError
from signedwire.events import Event
from signedwire.home import Home
from signedwire.logs import EventLog
from signedwire.stats import Counters
from signedwire.types import Credit, Did, PeerState, Reason, Target
from signedwire.wire.link_frames import Refusal
from signedwire.wire.session import BatchReceived

__all__ = [
    "EvidencePort",
    "Host",
    "InboxStore",
    "LinkPort",
    "MessageQueue",
    "OutboxStore",
    "RoutePort",
    "Routes",
    "Timer",
]


class Timer(Protocol):
    """A call that is due later."""

    def cancel(self) -> None:
        """Do not call any more."""


class Routes(Protocol):
    """Which DID is reached where."""

    @property
    def version(self) -> int:
        """Grows with each change."""

    def resolve(self, did: Did) -> Target | None:
        """The address of a DID; `None`: none is known."""


class Host(Protocol):
    """The node as its decisions see it."""

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
        """Whether messages are taken in."""

    @property
    def speaks_v2(self) -> bool:
        """Whether the node has a key and may use it."""

    @property
    def is_in_loop(self) -> bool:
        """Whether this is the thread of the node's loop."""

    @property
    def is_loop_running(self) -> bool:
        """Whether an event loop runs in this thread."""

    def call_soon(self, callback: Callable[..., None], *args: object) -> None:
        """Call `callback` in the loop. Any thread."""

    def call_later(self, seconds: float, callback: Callable[..., None], *args: object) -> Timer:
        """Call `callback` in the loop when `seconds` have passed."""

    def drop(self, reason: Reason, did: Did | None = None, host: str = "", count: int = 1) -> None:
        """Count what was dropped. Any thread."""

    def emit(self, event: Event) -> None:
        """Tell `Node.events()`."""


class LinkPort(Protocol):
    """An open v2 link, as the session of its peer sees it."""

    @property
    def is_dialed(self) -> bool:
        """Whether this node dialed it."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""

    @property
    def has_progress(self) -> bool:
        """Whether the peer has answered a message that went over it."""

    @property
    def our_epoch(self) -> int:
        """The epoch of our HELLO."""

    @property
    def their_epoch(self) -> int:
        """The epoch of the peer's HELLO; 0 before it came."""

    @property
    def address(self) -> Target | None:
        """The peer's address."""

    @property
    def since(self) -> float:
        """When it was opened, by the monotonic clock."""

    @property
    def round_trip(self) -> float | None:
        """Seconds, as PING and PONG measure it."""

    @property
    def send_window(self) -> Credit | None:
        """How much more the peer takes now."""

    @property
    def granted_unused(self) -> Credit:
        """How much the peer may still send on it."""

    @property
    def overdue(self) -> float | None:
        """Seconds that the oldest batch has waited for its answer, where that is long."""

    def pump(self) -> None:
        """Write one batch of what waits for the peer."""

    def queue_receipts(
        self, roots: list[bytes], leaves: list[bytes], *, is_urgent: bool = False
    ) -> None:
        """Sign for these batches and envelopes with the next write; `is_urgent`: write now."""

    def batch_settled(self) -> None:
        """All answers to one received batch were queued, or never will be."""

    def answer(self, credit: Credit, handled: list[bytes], refused: list[Refusal]) -> None:
        """Send credit, and what the application has handled and refused."""

    def note_arrivals(self, new: int, repeats: int) -> None:
        """Count the messages of a batch that were new, and those that brought nothing."""

    def close(self, code: int, reason: str) -> None:
        """Send CLOSE and hang up, without waiting."""


class RoutePort(Protocol):
    """Whoever connects to a peer: the dialer of one address."""

    address: Target
    state: PeerState
    since: float
    last_error: Cause | None
    last_error_at: float | None
    retry_at: float | None

    @property
    def round_trip(self) -> float | None:
        """Seconds, while connected and where it is known."""


class MessageQueue(Protocol):
    """What waits for one peer, as a store sees it."""

    @property
    def did(self) -> Did:
        """The peer's DID."""

    @property
    def lanes(self) -> Lanes[OutgoingMessage]:
        """The queue."""

    @property
    def epoch(self) -> int:
        """The epoch in which messages are numbered now."""

    def give_up(self, message: OutgoingMessage, reason: Reason, cause: str = "") -> None:
        """End a message, and tell its sender."""

    @property
    def dropped(self) -> Counter[Reason]:
        """Messages to the peer that were given up or refused, by reason."""

    def note_failed(self, reason: Reason) -> None:
        """Count a message that was not delivered."""

    def when_room(self, wake: Callable[[], None]) -> bool:
        """Have `wake` called when half of the queue is empty; `False`: it is already."""

    def forget_room(self, wake: Callable[[], None]) -> None:
        """Withdraw a wake-up of `when_room()`."""


class OutboxStore(Protocol):
    """Where messages to peers are kept.

    Callbacks are called in the loop. Methods that only note progress raise nothing when the
    store has failed: that is reported where messages are stored.
    """

    @property
    def is_durable(self) -> bool:
        """Whether messages outlive the process."""

    @property
    def failure(self) -> StoreError | None:
        """Why it takes nothing more; `None`: it does."""

    # -- sending ----------------------------------------------------------------------

    def put(
        self,
        queue: MessageQueue,
        messages: list[OutgoingMessage],
        *,
        is_patient: bool = False,
        replaces: Sequence[int] = (),
    ) -> int:
        """Keep messages until they can be sent; returns how many there was room for. Any thread.

        Raises:
            BackpressureError, StoreFullError, StoreFailedError: not even the first was kept.
        """

    def when_room(self, queue: MessageQueue, wake: Callable[[], None]) -> bool:
        """Have `wake` called, once, when there is room; `False`: there is."""

    def forget_room(self, queue: MessageQueue, wake: Callable[[], None]) -> None:
        """Withdraw a wake-up of `when_room()`."""

    def has_room(self, queue: MessageQueue, priority: int) -> bool:
        """Whether a message of this priority would be taken now. Any thread."""

    def epoch(self, did: Did) -> int | None:
        """The epoch of a new stream to a peer; `None`: that of the process. Any thread."""

    def is_held(self) -> bool:
        """Whether nothing may be sent now, because deadlines are being moved on the disk."""

    def written(self, did: Did, messages: list[OutgoingMessage]) -> None:
        """A link has taken these."""

    def settled(self, did: Did, messages: Iterable[OutgoingMessage]) -> None:
        """These need nothing more."""

    def refused(self, did: Did, refused: Iterable[Refused]) -> None:
        """The peer does not take these."""

    def ended(self, message: OutgoingMessage, reason: Reason, cause: str) -> None:
        """The message was given up here."""

    def doubt(self, message: OutgoingMessage) -> str:
        """What to tell of a message that expires without an answer."""

    def is_ahead(self, did: Did, marks: Sequence[int]) -> bool:
        """Whether the peer has accepted numbers of this epoch that were never given."""

    def learn(self, did: Did, marks: Sequence[int]) -> bool:
        """Take up the peer's marks; whether they show that the store is an old copy."""

    def restart(self, queue: MessageQueue, epoch: int, marks: Sequence[int] | None) -> None:
        """Begin a new epoch, and load everything anew. See `StoreDriver.restart`."""

    def reached(self, did: Did) -> None:
        """The peer could be reached."""

    def attempt_failed(self, did: Did, cause: Cause) -> None:
        """The peer could not be reached."""

    def give_up_denied(self, queue: MessageQueue) -> None:
        """Make dead letters of what waits for a peer that is denied."""

    def backlog(self, did: Did) -> Backlog | None:
        """How much waits for a peer; `None` where nothing is kept."""

    # -- peers ------------------------------------------------------------------------

    def has_spoken_v2(self, did: Did) -> bool:
        """Whether an earlier process has heard the DID prove itself over v2. Any thread."""

    def note_v2(self, did: Did) -> None:
        """A DID has proven itself over v2."""


class InboxStore(Protocol):
    """Where marks, and messages that the application has not handled, are kept."""

    @property
    def failure(self) -> StoreError | None:
        """Why it takes nothing more; `None`: it does."""

    def marks(self, did: Did) -> Marks:
        """What was accepted from a sender and committed; epoch 0: nothing."""

    def hello_marks(self, did: Did, current: Marks) -> tuple[int, int, int, int]:
        """The marks that a HELLO may name, where the stream stands at `current`."""

    def load_leaves(self, did: Did, on_loaded: Callable[[RememberedLeaves | None], None]) -> bool:
        """Call `on_loaded` with what is remembered of a sender; `False`: nothing is."""

    def began(self, did: Did, marks: Marks) -> None:
        """The sender named a new epoch."""

    def inbox_room(self, did: Did, messages: Sequence[Message]) -> int:
        """How many of these messages fit into the inbox, the first ones."""

    def accept(
        self,
        did: Did,
        marks: Marks,
        batch: BatchReceived,
        arrivals: Arrivals,
        not_stored: Sequence[int],
        on_commit: OnCommit,
    ) -> None:
        """Keep the new messages of a batch, and call `on_commit` when that is committed.

        Args:
            not_stored: Places in the batch for which there was no room.
        """

    def acked(self, messages: Sequence[Message], on_commit: OnCommit) -> None:
        """The application has handled or refused these; call `on_commit` when that is committed."""


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

    def append(self, messages: Sequence[Message], on_commit: OnCommit | None = None) -> None:
        """Log accepted messages; call `on_commit` when all messages so far are on the disk.

        Raises:
            EvidenceLogError, ClosedError: the log takes nothing more.
        """

    def after(self, messages: Sequence[Message], on_commit: OnCommit) -> OnCommit:
        """Return a callback for the commit of `messages` that logs them, then calls `on_commit`."""

    def restored(self, message: Message, on_commit: OnCommit) -> None:
        """Log a message that an earlier process accepted, unless that process logged it."""
