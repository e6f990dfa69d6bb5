"""An `Endpoint` among fakes: no loop, socket, disk or sleep. A test calls what a driver would.

desk = Desk()
link = desk.link(BOB)          # a link of Bob's is open
message = desk.post(BOB)       # queued, and brought to the link
link.accept()                  # Bob has signed for all that was written
"""

from __future__ import annotations

import contextlib
import gc
import heapq
import itertools
import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from idkit import id_of, number_of
from linkkit import ALICE, BOB, PLENTY, body, hello, received
from signedwire import clock
from signedwire.clock import Clock
from signedwire.config import TransportConfig
from signedwire.delivery.access import AccessList
from signedwire.delivery.dial_history import DialHistory
from signedwire.delivery.endpoint import Endpoint
from signedwire.delivery.inbox import Inbox
from signedwire.delivery.known_senders import KnownSenders
from signedwire.delivery.message import IncomingMessage
from signedwire.delivery.null_store import NullStore
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.peer_session import EndedLink, PeerSession
from signedwire.delivery.policy import Policies
from signedwire.delivery.ports import MessageQueue
from signedwire.delivery.receipt import transition_all
from signedwire.delivery.receive_streams import Arrivals
from signedwire.delivery.send_options import SendOptions
from signedwire.delivery.send_streams import Refused
from signedwire.delivery.session_context import SessionContext
from signedwire.delivery.store import Backlog, Marks, OnCommit, RememberedLeaves
from signedwire.delivery.stranger_room import StrangerRoom
from signedwire.delivery.stream_answers import Answers
from signedwire.errors import Cause, FailureKind, StoreError
from signedwire.events import Event
from signedwire.home import Home, Phase
from signedwire.identity import Identity
from signedwire.logs import EventLog
from signedwire.stats import Counters
from signedwire.types import (
    Address,
    Credit,
    DeliveryState,
    Did,
    PeerState,
    Priority,
    Reason,
    Target,
    unix_time_us,
)
from signedwire.wire import link_frames as frames
from signedwire.wire.batch import leaf_of
from signedwire.wire.clock_offset import ClockOffset
from signedwire.wire.envelope import sign_batch
from signedwire.wire.header import MIN_V2_HEADER_SIZE, STREAMS, VOLATILE, stream_of
from signedwire.wire.link_frames import Epochs, Hello, Receipts
from signedwire.wire.send_window import SendWindow
from signedwire.wire.session import BatchReceived, Closed, SentBatch
from signedwire.wire.session_events import CLOSE_MISSING

HERE: Final = Address("127.0.0.1", 9001)
REFUSED: Final = Cause("refused", FailureKind.REFUSED)
THERE: Final = Address("127.0.0.1", 9002)
TOP_DOWN: Final = (7, 3, 6, 2, 5, 1, 4, 0)
"""All streams, in the order in which they are written."""
RESET: Final = Closed(CLOSE_MISSING, "the connection was reset", is_by_peer=True)


def closed(code: int, *, is_by_peer: bool = True) -> Closed:
    """An end that somebody has announced."""
    return Closed(code, f"closed with code {code}", is_by_peer)


class ManualClock(Clock):
    """Both clocks stand still until a test moves them."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 1000.0
        self.wall_us = 1_700_000_000_000_000

    def monotonic(self) -> float:
        return self.seconds

    def unix_time_us(self) -> int:
        return self.wall_us

    def step(self, seconds: float) -> None:
        """Set the wall clock."""
        self.wall_us += round(seconds * 1e6)

    def move(self, seconds: float) -> None:
        """Time passes, by both clocks."""
        self.seconds += seconds
        self.step(seconds)


@contextlib.contextmanager
def still_clock() -> Iterator[ManualClock]:
    """The clocks of the process stand still meanwhile."""
    still = ManualClock()
    with clock.use(still):
        yield still


class FakeTimer:
    """A call that is due at an instant of the loop's clock."""

    def __init__(self, due: float, call: Callable[[], None]) -> None:
        self.due = due
        self.call = call
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class FakeHost:
    """A `Host` whose calls wait until a test runs them."""

    def __init__(self, still: ManualClock, config: TransportConfig) -> None:
        self.clock = still
        self.config = config
        self.counters = Counters()
        self.log = EventLog(logging.getLogger("signedwire.transport"))
        self.home = Home()
        self.home.phase = Phase.OPEN
        self.is_open = True
        self.speaks_v2 = config.wire == "auto"
        self.is_in_loop = True
        self.stranger_room = StrangerRoom()
        self.time = 0.0
        self.soon: deque[Callable[[], None]] = deque()
        self.drops: Counter[tuple[Reason, Did | None]] = Counter()
        self.events: list[Event] = []
        self._timers: list[tuple[float, int, FakeTimer]] = []
        self._count = itertools.count()

    def call_soon(self, callback: Callable[..., None], *args: object) -> None:
        self.soon.append(lambda: callback(*args))

    def call_later(self, seconds: float, callback: Callable[..., None], *args: object) -> FakeTimer:
        assert seconds >= 0
        timer = FakeTimer(self.time + seconds, lambda: callback(*args))
        heapq.heappush(self._timers, (timer.due, next(self._count), timer))
        return timer

    def drop(self, reason: Reason, did: Did | None = None, host: str = "", count: int = 1) -> None:
        self.drops[reason, did] += count

    def drop_refused(self, did: Did, by_reason: Counter[Reason], count: int = 1) -> None:
        self.counters.backpressure_events += count
        by_reason[Reason.QUEUE_FULL] += count
        self.drop(Reason.QUEUE_FULL, did, count=count)

    def drop_failed(
        self, reason: Reason, did: Did, by_reason: Counter[Reason], count: int = 1
    ) -> None:
        self.counters.send_failures += count
        by_reason[reason] += count
        self.drop(reason, did, count=count)

    def drop_replaced(self, did: Did, by_reason: Counter[Reason], count: int = 1) -> None:
        self.counters.replaced += count
        by_reason[Reason.REPLACED] += count

    def emit(self, event: Event) -> None:
        self.events.append(event)

    @property
    def timers(self) -> list[FakeTimer]:
        """Those that will be called, the first one first."""
        return [timer for _, _, timer in sorted(self._timers) if not timer.is_cancelled]

    def run(self) -> None:
        """Call what waits for the next turns of the loop."""
        while self.soon:
            self.soon.popleft()()

    def wait(self, seconds: float, *, by_clock: float | None = None) -> None:
        """Time passes; `by_clock`: the clocks show another duration than the loop's."""
        end = self.time + seconds
        self.run()
        self.clock.move(seconds if by_clock is None else by_clock)
        while self._timers and self._timers[0][0] <= end:
            self.time, _, timer = heapq.heappop(self._timers)
            if not timer.is_cancelled:
                timer.call()
            self.run()
        self.time = end

    def dropped(self, reason: Reason) -> int:
        """How many were dropped for this reason, of all peers."""
        return sum(count for (why, _), count in self.drops.items() if why is reason)


class FakeRoute:
    """Whoever dials one address."""

    def __init__(self, address: Target) -> None:
        self.address = address
        self.state = PeerState.DIALING
        self.since = 0.0
        self.retry_at: float | None = None
        self.history = DialHistory(lambda: iter(()))
        self.round_trip: float | None = None


class FakeConnector:
    """Notes who is to be dialed; a test opens the link."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Did, Target | None]] = []
        self.looks = 0

    def connect(self, session: PeerSession, address: Target) -> None:
        self.calls.append(("connect", session.did, address))
        session.sender.dialer = FakeRoute(address)

    def disconnect(self, session: PeerSession) -> None:
        if session.has_sender and session.sender.dialer is not None:
            self.calls.append(("disconnect", session.did, None))
            session.sender.dialer = None

    def note_progress(self) -> None:
        """A message was answered or given up."""
        self.looks += 1


class FakeRoutes:
    """A routing table."""

    def __init__(self) -> None:
        self.version = 0
        self.max_rates: dict[Did, float] = {}
        self._addresses: dict[Did, Target] = {}

    def resolve(self, did: Did) -> Target | None:
        return self._addresses.get(did)

    def max_rate(self, did: Did) -> float | None:
        return self.max_rates.get(did)

    def put(self, did: Did, address: Target | None) -> None:
        self.version += 1
        if address is None:
            self._addresses.pop(did, None)
        else:
            self._addresses[did] = address


class FakeStore(NullStore):
    """A store that commits when a test says so, and fails, or has no room, as it likes."""

    def __init__(self, host: FakeHost, *, is_durable: bool = True) -> None:
        super().__init__(host)
        self.is_durable = is_durable
        self.calls: list[tuple[Any, ...]] = []
        self.waiting: deque[OnCommit] = deque()
        """Of operations that are not committed."""
        self.room = 10**6
        """Messages that fit into the inbox."""
        self.is_held_now = False
        self.epochs: dict[Did, int] = {}
        self.known_marks: dict[Did, Marks] = {}
        self.ahead: set[Did] = set()
        self.old_copies: set[Did] = set()
        self.v2: set[Did] = set()
        self.rows: Counter[Did] = Counter()
        """Messages that wait on the disk alone."""
        self.loads: list[Callable[[RememberedLeaves | None], None]] = []
        self.has_leaves = False
        self.queue_of: Callable[[Did], MessageQueue]
        self.on_accept: Callable[[], None] | None = None
        self._rows = itertools.count(1)

    def commit(self, error: StoreError | None = None) -> None:
        """End the operations that wait now."""
        for _ in range(len(self.waiting)):
            self.waiting.popleft()(error)

    def called(self, name: str) -> list[tuple[Any, ...]]:
        """The arguments of each call of this name."""
        return [call[1:] for call in self.calls if call[0] == name]

    def put(
        self,
        queue: MessageQueue,
        messages: list[OutgoingMessage],
        *,
        is_patient: bool = False,
        replaces: Sequence[int] = (),
    ) -> int:
        if not self.is_durable:
            return super().put(queue, messages, is_patient=is_patient, replaces=replaces)
        for message in messages:
            message.is_stored, message.row = True, next(self._rows)
        self.calls.append(("put", queue.did, len(messages), tuple(replaces)))
        did = queue.did
        self.waiting.append(lambda error: self._on_put(self.queue_of(did), messages, error))
        return len(messages)

    def _on_put(
        self, queue: MessageQueue, messages: list[OutgoingMessage], error: StoreError | None
    ) -> None:
        for message in messages:
            if error is not None:
                message.is_stored = False
                queue.give_up(message, Reason.STORE_FAILED)
                continue
            message.transition(DeliveryState.PERSISTED, unix_time_us())
            if not message.is_final:
                assert queue.lanes.put(message, message.options.stream)

    def epoch(self, did: Did) -> int | None:
        return self.epochs.get(did) if self.is_durable else None

    def look_at_clock(self) -> bool:
        return self.is_held_now

    def written(self, did: Did, messages: list[OutgoingMessage]) -> None:
        self.calls.append(("written", did, numbers(messages)))

    def settled(self, did: Did, messages: Iterable[OutgoingMessage]) -> None:
        self.calls.append(("settled", did, numbers(messages)))

    def refused(self, did: Did, refused: Iterable[Refused], reason: Reason, detail: str) -> None:
        found = [(one.message.message_id, one.was_accepted) for one in refused]
        self.calls.append(("refused", did, found, reason, detail))

    def ended(self, message: OutgoingMessage, reason: Reason, cause: str) -> None:
        self.calls.append(("ended", number_of(message.message_id), reason, cause))

    def is_ahead(self, did: Did, marks: Sequence[int]) -> bool:
        return did in self.ahead

    def learn(self, did: Did, marks: Sequence[int]) -> bool:
        self.calls.append(("learn", did, tuple(marks)))
        return did in self.old_copies

    def restart(self, queue: MessageQueue, epoch: int, marks: Sequence[int] | None) -> None:
        self.calls.append(("restart", queue.did, epoch, marks))
        self.epochs[queue.did] = epoch

    def reached(self, did: Did) -> None:
        self.calls.append(("reached", did))

    def give_up_denied(self, queue: MessageQueue) -> None:
        self.calls.append(("give_up_denied", queue.did))

    def backlog(self, did: Did) -> Backlog | None:
        return Backlog(self.rows[did], 0) if self.is_durable else None

    def has_spoken_v2(self, did: Did) -> bool:
        return self.is_durable and did in self.v2

    def note_v2(self, did: Did) -> None:
        self.v2.add(did)

    def marks(self, did: Did) -> Marks:
        return self.known_marks.get(did) or super().marks(did)

    def load_leaves(self, did: Did, on_loaded: Callable[[RememberedLeaves | None], None]) -> bool:
        if self.has_leaves:
            self.loads.append(on_loaded)
        return self.has_leaves

    def began(self, did: Did, marks: Marks) -> None:
        self.calls.append(("began", did, marks))

    def inbox_room(self, did: Did, messages: Sequence[IncomingMessage]) -> int:
        return min(self.room, len(messages))

    def accept(
        self,
        did: Did,
        marks: Marks,
        batch: BatchReceived,
        arrivals: Arrivals,
        not_stored: Sequence[int],
        on_commit: OnCommit,
    ) -> None:
        if self.on_accept is not None:
            self.on_accept()
        for message in arrivals.new:
            message.row = next(self._rows)
        self.calls.append(("accept", did, marks, [m.payload for m in arrivals.new], not_stored))
        self.waiting.append(on_commit)

    def acked(self, messages: Sequence[IncomingMessage], on_commit: OnCommit) -> None:
        self.calls.append(("acked", [message.payload for message in messages]))
        self.waiting.append(on_commit)


class FakeLink:
    """An open link: what it writes, and what it was told to, in order."""

    def __init__(self, desk: Desk, session: PeerSession, who: Identity, *, is_dialed: bool) -> None:
        self._desk = desk
        self.session = session
        self.who = who
        self.is_dialed = is_dialed
        self.is_over = False
        self.is_open = False
        self.has_progress = False
        self.address: Target | None = HERE
        self.since = desk.clock.monotonic()
        self.round_trip: float | None = 0.25
        self.clock_offset: ClockOffset | None = None
        self.heard_at = 0.0
        self.pings_every: list[float | None] = []
        self.window: SendWindow | None = SendWindow()
        self.overdue: float | None = None
        self.our_hello = session.hello()
        self.hello: Hello | None = None
        self.granted = list(self.our_hello.credit)
        self.arrived = [Credit(0, 0)] * STREAMS
        self.spent = [Credit(0, 0)] * STREAMS
        self.closes: list[tuple[int, str]] = []
        self.messages: list[OutgoingMessage] = []
        """All that were written, in order."""
        self.batches: list[tuple[SentBatch, list[OutgoingMessage], list[bytes]]] = []
        self.said: list[tuple[Any, ...]] = []
        """Receipts and answers, as they were queued."""
        self.committed: dict[bytes, list[bool]] = {}
        """By root or leaf: of each receipt, whether it says that a store has committed it."""
        self.notes: list[tuple[int, int]] = []
        self.settled = 0
        self.max_batch = 1 << 16
        self.is_slow = False
        """Whether the system has not taken what was written."""
        self.is_half_way = False
        """Whether some parts of each batch are written, and some are not."""
        self.ended: EndedLink | None = None

    # -- as the session sees it -----------------------------------------------------------

    @property
    def state(self) -> FakeLink:
        """The link is its own state."""
        return self

    @property
    def our_epochs(self) -> Epochs:
        return self.our_hello.epochs

    @property
    def their_epochs(self) -> Epochs:
        return Epochs(0, 0) if self.hello is None else self.hello.epochs

    @property
    def credit_left(self) -> tuple[Credit, ...] | None:
        if self.hello is None:
            return None
        return tuple(
            have.minus(used) for have, used in zip(self.hello.credit, self.spent, strict=True)
        )

    def peer_credit_left(self, stream: int) -> Credit:
        return self.granted[stream].minus(self.arrived[stream])

    @property
    def all_unused(self) -> tuple[Credit, ...]:
        """What was granted and is not used, by stream."""
        return tuple(map(self.peer_credit_left, range(STREAMS)))

    def pump(self) -> None:
        if not self.is_open or self.is_over:
            return
        assert self.hello is not None
        window, sender = self.credit_left, self.session.sender
        assert window is not None
        largest = self.hello.max_payload_size
        for stream in TOP_DOWN:
            messages = sender.next_batch(stream, window[stream], largest, self.max_batch)
            if messages:
                break
        else:
            return
        bodies = [message.body for message in messages]
        assert {stream_of(body) for body in bodies} == {stream}, "a batch is of one stream"
        self.spent[stream] = self.spent[stream].plus(len(bodies), sum(map(len, bodies)))
        assert not self.spent[stream].exceeds(self.hello.credit[stream]), (
            "more was sent than the peer takes"
        )
        root, signature, leaves = sign_batch(self._desk.us, bodies)
        batch = SentBatch(root, leaves, signature)
        sender.sent(batch, messages, bodies)
        self.batches.append((batch, messages, bodies))
        self.messages += messages
        if not self.is_slow:
            transition_all(messages, DeliveryState.WRITTEN, unix_time_us())
        if sender.lanes:
            self._desk.host.call_soon(self.pump)

    def abort_dead(self) -> None:
        sender = self.session.sender
        for batch, messages, _ in self.batches if self.is_half_way else ():
            if all(map(sender.is_dead, messages)):
                sender.aborted(batch.name)

    def queue_receipts(
        self,
        roots: list[bytes],
        leaves: list[bytes],
        *,
        is_committed: bool,
        is_urgent: bool = False,
    ) -> None:
        if roots or leaves:
            self.said.append(("urgent" if is_urgent else "receipts", list(roots), list(leaves)))
            self._note_committed([*roots, *leaves], is_committed=is_committed)

    def _note_committed(self, hashes: Sequence[bytes], *, is_committed: bool) -> None:
        for each in hashes:
            self.committed.setdefault(each, []).append(is_committed)

    def batch_settled(self) -> None:
        self.settled += 1

    def answer(self, credit: Mapping[int, Credit], answers: Answers) -> None:
        for is_committed, handled in ((False, answers.handled), (True, answers.handled_committed)):
            if handled:
                self.said.append(("handled", list(handled)))
                self._note_committed(handled, is_committed=is_committed)
        if answers.refused:
            self.said.append(("refused", list(answers.refused)))
        self.said.append(("credit", dict(credit)))
        for stream, more in credit.items():
            assert min(more) >= 0
            assert max(more) > 0, "nothing was granted"
            self.granted[stream] = self.granted[stream].plus(*more)

    def ping_every(self, seconds: float | None) -> None:
        self.pings_every.append(seconds)

    def note_arrivals(self, new: int, repeats: int) -> None:
        self.notes.append((new, repeats))

    def close(self, code: int, reason: str) -> None:
        if not self.is_over:
            self.closes.append((code, reason))
            self.end(Closed(code, reason, is_by_peer=False))

    # -- as a test drives it --------------------------------------------------------------

    @property
    def code(self) -> int | None:
        """What we have closed it with."""
        return self.closes[0][0] if self.closes else None

    @property
    def payloads(self) -> list[bytes]:
        """Of all that was written, in order."""
        return [body[MIN_V2_HEADER_SIZE:] for _, _, bodies in self.batches for body in bodies]

    def heard(self, kind: str) -> list[Any]:
        """What the peer was told of this kind."""
        return [one[1] if len(one) == 2 else one[1:] for one in self.said if one[0] == kind]

    def end(self, how: Closed | None = RESET) -> None:
        """The link is over, as a `Link` reports it."""
        if self.is_over:
            return
        self.is_over = True
        self.session.receiver.link_ended(self)
        endpoint = self._desk.endpoint
        if self.is_open:
            self.is_open = False
            cause = Cause("cut" if how is None else how.cause, FailureKind.RESET)
            self.ended = endpoint.link_closed(self.session, self, cause, how)
            endpoint.requeue_after(self.session, self, self.ended, cause)
        endpoint.sessions.forget_if_stranger(self.session)

    def say_hello(self, **changes: Any) -> FakeLink:
        """The peer's HELLO has come."""
        values: dict[str, Any] = {
            "epochs": Epochs(9, 9),
            "credit": PLENTY,
            "known_epochs": self.our_hello.epochs,
        }
        said = hello(**(values | changes))
        endpoint, session = self._desk.endpoint, self.session
        if endpoint.hello_received(session, self, said):
            self.hello = said
            self.is_open = True
            endpoint.link_opened(session, self, said)
        return self

    def let_go(self) -> None:
        """Forget what was written, as a `Link` does: receipts are their senders' alone."""
        self.messages, self.batches = [], []
        gc.collect()

    def accept(self, at: int = -1, *, names: Sequence[int] | None = None) -> bool:
        """The peer signs for a batch that was written, or for messages of it."""
        batch = self.batches[at][0]
        if names is None:
            return self.sign(frames.ACCEPTED_BATCHES, batch.root)
        return self.sign(frames.ACCEPTED_ENVELOPES, *(batch.leaves[name] for name in names))

    def handle(self, at: int = -1) -> bool:
        """The peer's application is done with a batch."""
        return self.sign(frames.HANDLED_ENVELOPES, *self.batches[at][0].leaves)

    def sign(self, kind: int, *hashes: bytes) -> bool:
        return self.answer_with(Receipts(kind, unix_time_us(), hashes, bytes(64)))

    def answer_with(self, receipts: Receipts) -> bool:
        """These answers of the peer have come."""
        self.has_progress |= self._desk.endpoint.on_receipts(self.session, receipts)
        return self.has_progress

    def refuse(
        self,
        message: OutgoingMessage,
        reason: Reason = Reason.INBOX_FULL,
        at_us: int | None = None,
    ) -> bool:
        """The peer does not take a message; at that time by its clock, or now."""
        return self.refuse_many([message], reason, at_us=at_us)

    def refuse_many(
        self,
        messages: Sequence[OutgoingMessage],
        reason: Reason,
        text: str = "",
        at_us: int | None = None,
    ) -> bool:
        """The peer does not take these messages."""
        leaves = tuple(leaf_of(message.body) for message in messages)
        code = frames.REASON_CODES[reason]
        at_us = unix_time_us() if at_us is None else at_us
        refusals = Receipts(4, at_us, leaves, bytes(64), code, text.encode())
        has_progress = self._desk.endpoint.on_receipts(self.session, refusals)
        self.has_progress |= has_progress
        return has_progress

    def bring(self, *numbers: int, payload: bytes = b"hello", **options: Any) -> BatchReceived:
        """A batch of the peer's comes: the messages of these sequences."""
        epochs = self.their_epochs
        epoch = epochs.durable if options.get("is_durable", True) else epochs.volatile
        options = {"epoch": epoch, "sender": self.who, **options}
        bodies = [body(n, payload, recipient=self._desk.us, **options) for n in numbers]
        return self.bring_batch(received(bodies, self.who))

    def bring_batch(self, batch: BatchReceived) -> BatchReceived:
        """This batch comes."""
        stream = stream_of(batch.bodies[0])
        self.arrived[stream] = self.arrived[stream].plus(len(batch.bodies), batch.size)
        self.session.receiver.receive(batch, unix_time_us(), self)
        return batch


class Desk:
    """An endpoint and the fakes around it. `us` is the key of the node."""

    def __init__(
        self,
        *,
        us: Identity = ALICE,
        store: Callable[[FakeHost], FakeStore] | None = None,
        **config: Any,
    ) -> None:
        self.us = us
        assert isinstance(clock._clock, ManualClock), "a test begins with `still_clock()`"
        self.clock = clock._clock
        self.host = FakeHost(self.clock, TransportConfig(**config))
        self.store = FakeStore(self.host, is_durable=False) if store is None else store(self.host)
        # A store that commits later is asked for by name.
        inbox_store = NullStore(self.host) if store is None else self.store
        self.access = AccessList(self.host.config)
        self.access._open(None)
        self.inbox = Inbox(1000, 64)
        self.routes = FakeRoutes()
        self.context = SessionContext(
            self.host,
            us.did if self.host.speaks_v2 else None,
            self.access,
            KnownSenders(self.host.config, self.routes, self.access),
            self.inbox,
            self.store,
            inbox_store,
            Policies([], self.host.log),
        )
        self.connector = FakeConnector()
        self.endpoint = Endpoint(self.context, self.routes, threading.Lock())
        self.endpoint.connector = self.connector
        self.context.on_progress = self.connector.note_progress
        self.store.queue_of = lambda did: self.endpoint.sessions.session(did).sender
        self.access.on_change = self.endpoint.on_access_change
        self._numbers = itertools.count(1)

    @property
    def peers(self) -> Any:
        """The map of sessions, private parts included."""
        return self.endpoint.sessions

    def session(self, who: Identity = BOB) -> PeerSession:
        return self.endpoint.sessions.session(who.did)

    def begin(self, who: Identity = BOB, *, is_dialed: bool = False) -> FakeLink:
        """A link whose peer is proven, and has not said HELLO."""
        session = self.endpoint.proven(who.did)
        link = FakeLink(self, session, who, is_dialed=is_dialed)
        session.receiver.link_granted(link)
        return link

    def link(self, who: Identity = BOB, *, is_dialed: bool = False, **changes: Any) -> FakeLink:
        """A link that is open."""
        return self.begin(who, is_dialed=is_dialed).say_hello(**changes)

    def message(
        self,
        who: Identity = BOB,
        payload: bytes = b"hello",
        *,
        priority: Priority = Priority.NORMAL,
        expires_at: float | None = None,
        is_bulk: bool = False,
        is_durable: bool = True,
    ) -> OutgoingMessage:
        terms = SendOptions(who.did, priority, expires_at, is_bulk=is_bulk, is_durable=is_durable)
        return OutgoingMessage(terms, id_of(next(self._numbers)), payload)

    def post(self, who: Identity = BOB, payload: bytes = b"hello", **terms: Any) -> OutgoingMessage:
        """Queue a message, and have the loop look at it."""
        message = self.message(who, payload, **terms)
        self.endpoint.submitter.submit(message, len(payload))
        if self.store.is_durable:
            self.store.commit()
            self.endpoint.send_waiting(self.session(who))
        self.host.run()
        return message

    def route(self, who: Identity = BOB, address: Target | None = THERE) -> None:
        """The peer can be dialed there; `None`: it cannot."""
        self.routes.put(who.did, address)

    def take(self) -> list[IncomingMessage]:
        """What the application takes now."""
        messages = list(iter(self.inbox.take, None))
        for message in messages:
            if message.origin is not None:
                message.origin.taken(message)
        return messages


def epochs(number: int) -> Epochs:
    """The same epoch for durable messages and for volatile ones."""
    return Epochs(number, number)


def marks(*durable: int, volatile: tuple[int, ...] = (0, 0, 0, 0)) -> tuple[int, ...]:
    """The marks of a HELLO: those of the durable streams, then those of the volatile ones."""
    assert (len(durable), len(volatile)) == (VOLATILE, VOLATILE)
    return (*durable, *volatile)


def numbers(messages: Iterable[OutgoingMessage]) -> list[int]:
    """The numbers of messages: who notes them keeps no receipt alive."""
    return [number_of(message.message_id) for message in messages]


def payloads(messages: Iterable[IncomingMessage]) -> list[bytes]:
    """What the application has got."""
    return [message.payload for message in messages]
