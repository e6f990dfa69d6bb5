"""`RecvWindow` against a model that recomputes the credit of all streams each time.

Two peers send over real wire sessions, within what they were told. So a grant that is too large
shows as a window that is exceeded, and a grant that is lost as a window that stays small.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import pytest
from peerkit import Desk, FakeLink, FakeStore, still_clock

from linkkit import ALICE, BOB, EVE, body_of, events_of, exchange, hello, read_clocks
from signedwire.delivery import peer_receiver
from signedwire.delivery.inbox_budget import BudgetUser
from signedwire.delivery.message import IncomingMessage
from signedwire.delivery.recv_window import RecvWindow
from signedwire.delivery.store import Marks, RememberedLeaves
from signedwire.delivery.stream_answers import Answers
from signedwire.errors import StoreFailedError
from signedwire.identity import Identity
from signedwire.types import Credit
from signedwire.wire import link_frames as frames
from signedwire.wire.header import STREAMS, VOLATILE
from signedwire.wire.link_frames import Epochs
from signedwire.wire.sent_batch import sign_copies
from signedwire.wire.session import BatchFailed, BatchReceived, Closed, Session, SessionLimits
from signedwire.wire.session_events import Event

FAILURE: Final = StoreFailedError("node.db", "no space", "nothing more is kept")
CONFIG: Final[dict[str, Any]] = {
    "credit_messages": 8,
    "credit_bytes": 80_000,
    "critical_reserve": 3,
    "max_payload_size": 30_000,
}
NOTHING: Final = Credit(0, 0)

SEEDS: Final = 40
STEPS: Final = 400


class CheckedWindow(RecvWindow):
    """A window that remembers each message it was told of, and compares each grant."""

    __slots__ = ("links", "uncommitted", "waiting")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.waiting: dict[int, IncomingMessage] = {}
        self.uncommitted: list[tuple[int, int, int]] = []
        self.links: list[Any] = []

    def in_use(self, stream: int) -> Credit:
        """All that the peer has of a stream: granted, sent, or being stored."""
        mine = [one for one in self.waiting.values() if one.stream == stream]
        used = Credit(len(mine), sum(one.size for one in mine))
        for place, messages, size in self.uncommitted:
            used = used.plus(messages, size) if place == stream else used
        for link in self.links:
            used = used.plus(*link.state.peer_credit_left(stream))
        return used

    def missing(self, stream: int) -> Credit:
        """What a stream lacks of its window; below 0: what it has beyond it."""
        return self._sizes[stream].minus(self.in_use(stream))

    def next_grant(self, receiver: BudgetUser) -> dict[int, Credit]:
        self._count_taken()
        budget = self._budget
        free = max(0, budget._limit - budget._used)
        model: dict[int, Credit] = {}
        for stream in range(STREAMS):
            messages, size = self.missing(stream)
            granted = Credit(max(0, messages), min(free, max(0, size)))
            if granted != NOTHING:
                model[stream] = granted
        found = super().next_grant(receiver)
        assert found == model, "not what a look at all streams finds"
        return found

    def add_link(self, link: Any) -> None:
        self.links.append(link)
        super().add_link(link)

    def remove_link(self, link: Any) -> None:
        self.links.remove(link)
        super().remove_link(link)

    def add_to_inbox(self, stream: int, messages: list[IncomingMessage]) -> None:
        for message in messages:
            assert message.stream == stream
            self.waiting[id(message)] = message
        super().add_to_inbox(stream, messages)

    def _count_taken(self) -> None:
        for message in self.taken:
            del self.waiting[id(message)]
        super()._count_taken()

    def add_uncommitted(self, stream: int, messages: int, size: int) -> None:
        self.uncommitted.append((stream, messages, size))
        super().add_uncommitted(stream, messages, size)


class WireLink(FakeLink):
    """A link whose credit two real sessions count; the peer's end sends what a test says."""

    def __init__(self, desk: Desk, who: Identity) -> None:
        session = desk.endpoint.proven(who.did)
        super().__init__(desk, session, who, is_dialed=False)
        limits = SessionLimits(max_payload_size=CONFIG["max_payload_size"])
        self.ours = Session(ALICE, who.did, self.our_hello, limits, 0.0, read_clocks)
        session.receiver.link_granted(self)
        self.theirs: Session

    def open(self, epochs: Epochs) -> None:
        """Both HELLOs come."""
        said = hello(epochs=epochs, known_epochs=self.our_hello.epochs)
        limits = SessionLimits(max_payload_size=1 << 16)
        self.theirs = Session(self.who, ALICE.did, said, limits, 0.0, read_clocks)
        exchange(self.ours, self.theirs)
        for each in (self.ours, self.theirs):
            events_of(each)
        self.say_hello(epochs=epochs)

    def peer_credit_left(self, stream: int) -> Credit:
        return self.ours.peer_credit_left(stream)

    def answer(self, credit: Mapping[int, Credit], answers: Answers) -> None:
        for stream, more in credit.items():
            self.ours.grant(stream, *more)

    def carry(self, data: bytes | None = None) -> None:
        """Bring what the peer has written, or this of it; then tell it what is to be told."""
        if self.is_over:
            return
        self.ours.receive_data(self.theirs.data_to_send() if data is None else data, 0.0)
        for event in events_of(self.ours):
            self.happened(event)
        if not self.is_over:
            self.theirs.receive_data(self.ours.data_to_send(), 0.0)
            assert not self.theirs.is_closed

    def happened(self, event: Event) -> None:
        if isinstance(event, BatchReceived):
            if not self.is_over:
                self.session.receiver.receive(event, self._desk.clock.wall_us, self)
        elif isinstance(event, BatchFailed):
            self.session.receiver.failed(event)
            self.close(frames.CLOSE_BAD_SIGNATURE, "a batch that you did not sign")
        else:
            assert not isinstance(event, Closed), "a peer within its credit broke a rule"


class Peer:
    """One sender."""

    def __init__(self, who: Identity) -> None:
        self.who = who
        self.epochs = Epochs(9, 9)
        self.next = [1] * STREAMS
        self.sent: list[list[bytes]] = [[] for _ in range(STREAMS)]
        """By stream, the last batch."""
        self.opening: list[WireLink] = []
        self.link: WireLink | None = None

    @property
    def open_link(self) -> WireLink | None:
        """The link, if it can carry something."""
        link = self.link
        return link if link is not None and link.is_open and not link.is_over else None

    def bodies(self, stream: int, size: int, count: int, flaw: str) -> list[bytes]:
        """The next messages of a stream, wrong as `flaw` says."""
        if flaw == "again" and self.sent[stream]:
            return self.sent[stream]
        epoch = self.epochs[stream >= VOLATILE]
        first, self.next[stream] = self.next[stream], self.next[stream] + count
        made = [
            body_of(
                stream,
                first + n,
                bytes(size),
                sender=self.who,
                recipient=BOB if flaw == "not for us" else ALICE,
                epoch=epoch - 1 if flaw == "epoch" else epoch,
                expires_at_us=1 if flaw == "late" and n % 2 else 0,
            )
            for n in range(count)
        ]
        if flaw == "twice":
            made[-1] = made[0]
        self.sent[stream] = made
        return made


def fitting(bodies: Iterable[bytes], credit: Credit, overhead: int = 0) -> list[bytes]:
    """As many of these as the credit covers."""
    found: list[bytes] = []
    size = 0
    for each in bodies:
        size += len(each) + overhead
        if len(found) >= credit.messages or size > credit.bytes or (found and size > 1 << 16):
            break
        found.append(each)
    return found


class World:
    """A node and two peers; `step()` does anything that uses credit or frees it."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        has_store = rng.random() < 0.6
        store: Callable[..., FakeStore] | None = FakeStore if has_store else None
        self.desk = Desk(store=store, inbox_bytes=rng.choice([60_000, 10**7]), **CONFIG)
        if has_store and rng.random() < 0.5:
            self.desk.store.known_marks[BOB.did] = Marks(9, (0, 0, 0, 0))
            self.desk.store.has_leaves = True
        self.peers = {who: Peer(who) for who in (BOB, EVE)}
        self.seen: Counter[str] = Counter()
        """What has happened, so that a test does not pass because nothing did."""

    def window(self, who: Identity) -> CheckedWindow:
        window = self.desk.session(who).receiver._window
        assert isinstance(window, CheckedWindow)
        return window

    def step(self) -> None:
        """Do one thing, and look whether too much was granted."""
        who = self.rng.choice([BOB, EVE])
        actions: list[Callable[[], None]] = [
            lambda: self.begin_link(who),
            lambda: self.open_link(who),
            lambda: self.end_link(who),
            lambda: self.end_opening(who),
            lambda: self.send(who),
            lambda: self.send_copies(who),
            lambda: self.finish(who),
            lambda: self.abort(who),
            self.commit,
            self.change_room,
            self.break_store,
            self.load,
            self.take,
            self.turn,
        ]
        weights = [6, 6, 1, 1, 24, 6, 3, 6, 10, 2, 2, 2, 8, 12]
        (action,) = self.rng.choices(actions, weights)
        action()
        self.check_nothing_is_beyond_the_window()

    # -- links ----------------------------------------------------------------------------

    def begin_link(self, who: Identity) -> None:
        peer = self.peers[who]
        if len(peer.opening) < 3:
            peer.opening.append(WireLink(self.desk, who))

    def open_link(self, who: Identity, *, may_restart: bool = True) -> None:
        """A HELLO of the peer comes; it may have begun new epochs."""
        peer = self.peers[who]
        if not peer.opening:
            return
        more = [n + (may_restart and self.rng.random() < 0.15) for n in peer.epochs]
        for stream in range(STREAMS):
            if more[stream >= VOLATILE] != peer.epochs[stream >= VOLATILE]:
                peer.next[stream] = 1
                self.seen["a new epoch"] += 1
        peer.epochs = Epochs(*more)
        link = peer.opening.pop(0)
        self.seen["links that overlap"] += peer.open_link is not None
        link.open(peer.epochs)
        peer.link = link

    def end_link(self, who: Identity) -> None:
        link = self.peers[who].open_link
        if link is not None:
            self.seen["ends in a batch"] += bool(link.ours.unfinished_bytes)
            link.end()

    def end_opening(self, who: Identity) -> None:
        if self.peers[who].opening:
            self.peers[who].opening.pop().end()

    # -- batches --------------------------------------------------------------------------

    def send(self, who: Identity) -> None:
        peer, rng = self.peers[who], self.rng
        link, stream = peer.open_link, rng.randrange(STREAMS)
        if link is None or link.theirs.outgoing.has(stream):
            return
        flaw = rng.choice(["", "", "", "again", "late", "twice", "epoch", "not for us"])
        how = rng.choices(["whole", "begun", "forged"], [10, 8, 1])[0]
        sizes = [20_000, 30_000] if how == "begun" else [0, 5, 100, 9_000, 30_000]
        size, count = rng.choice(sizes), rng.randint(1, 5)
        bodies = peer.bodies(stream, size, count, flaw)
        bodies = fitting(bodies, link.theirs.credit_left(stream))
        if not bodies:
            self.seen["no credit"] += 1
            return
        link.theirs.send_batch(bodies)
        self.seen[flaw] += 1
        self.seen[how] += 1
        if how == "begun":
            link.carry(link.theirs.data_to_send(1))
        elif how == "forged":
            data = link.theirs.data_to_send()
            link.carry(data[:-1] + bytes((data[-1] ^ 1,)))
        else:
            link.carry(link.theirs.data_to_send(1 << 16))

    def send_copies(self, who: Identity) -> None:
        peer, stream = self.peers[who], self.rng.randrange(STREAMS)
        link = peer.open_link
        if link is None or link.theirs.outgoing.has(stream):
            return
        bodies = peer.bodies(stream, 50, self.rng.randint(1, 4), self.rng.choice(["", "late"]))
        bodies = fitting(bodies, link.theirs.credit_left(stream), overhead=2 + 32 * 4)
        if bodies:
            others = [body_of(stream, n, sender=who, recipient=EVE) for n in range(1, 6)]
            link.theirs.send_copies(sign_copies(who, [others, bodies])[1], bodies)
            link.carry()
            self.seen["copies"] += 1

    def finish(self, who: Identity) -> None:
        """The rest of all batches that were begun comes."""
        if (link := self.peers[who].open_link) is not None:
            link.carry()

    def abort(self, who: Identity) -> None:
        link = self.peers[who].open_link
        if link is None or not (begun := sorted(link.ours._incoming.unfinished)):
            return
        if link.theirs.abort_batch(self.rng.choice(begun)):
            (abort,) = link.theirs._control
            link.theirs._control.clear()
            assert isinstance(abort, bytes)
            link.carry(abort)
            self.seen["aborted"] += 1

    # -- the store and the application ------------------------------------------------------

    def commit(self) -> None:
        fails = self.rng.random() < 0.3
        self.seen["a commit fails"] += fails and bool(self.desk.store.waiting)
        self.desk.store.commit(FAILURE if fails else None)

    def change_room(self) -> None:
        self.desk.store.room = self.rng.choice([0, 1, 2, 10**6])

    def break_store(self, when: str = "") -> None:
        def fail() -> None:
            self.seen["the store fails at once"] += 1
            raise FAILURE

        when = when or self.rng.choice(["never", "never", "never", "at once", "at once", "before"])
        self.desk.store.on_accept = fail if when == "at once" else None
        self.desk.store.failure = FAILURE if when == "before" else None

    def load(self) -> None:
        """The leaves of an earlier process are loaded."""
        while self.desk.store.loads:
            self.seen["loaded"] += 1
            self.desk.store.loads.pop()(RememberedLeaves(([], [], [], []), [], []))

    def take(self, most: int = 0) -> None:
        acks = self.rng.random() < 0.5
        for _ in range(most or self.rng.randint(1, 20)):
            message = self.desk.inbox.take()
            if message is None:
                return
            assert message.origin is not None
            message.origin.taken(message)
            if acks:
                message.ack()

    # -- what must hold ----------------------------------------------------------------------

    def turn(self) -> None:
        """The loop runs until nothing waits for it, and CREDIT reaches the peers."""
        self.desk.host.run()
        for who, peer in self.peers.items():
            if peer.open_link is None:
                continue
            peer.open_link.carry(b"")
            window, answers = self.window(who), self.desk.session(who).receiver.answers
            lacks = [window.missing(stream) for stream in range(STREAMS)]
            assert not any(lack.messages for lack in lacks), "a grant of messages was lost"
            if any(lack.bytes for lack in lacks):
                assert answers in self.desk.context.budget._cut, "a grant of bytes was lost"
                self.seen["cut by the budget"] += 1

    def check_nothing_is_beyond_the_window(self) -> None:
        for who, peer in self.peers.items():
            for stream in range(STREAMS):
                assert min(self.window(who).missing(stream)) >= 0, "too much was granted"
                if (link := peer.open_link) is not None:
                    left = link.theirs.credit_left(stream)
                    assert not left.exceeds(link.ours.peer_credit_left(stream))

    def settle(self) -> None:
        """All is stored and taken; then a link of each peer has the whole window."""
        desk = self.desk
        self.break_store("never")
        self.load()
        for who in self.peers:
            self.finish(who)
        for who, peer in self.peers.items():
            if peer.open_link is None:
                if not peer.opening:
                    self.begin_link(who)
                self.open_link(who, may_restart=False)
            while peer.opening:
                peer.opening.pop().end()
        desk.store.commit()
        self.take(10**6)
        self.turn()
        assert desk.context.budget._used == 0
        for who, peer in self.peers.items():
            window, link = self.window(who), peer.open_link
            assert link is not None
            for stream in range(STREAMS):
                whole, unused = window._sizes[stream], link.peer_credit_left(stream)
                assert unused.messages == whole.messages
                assert unused.bytes >= min(whole.bytes, desk.context.budget._limit)


@pytest.fixture(autouse=True)
def checked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(peer_receiver, "RecvWindow", CheckedWindow)
    with still_clock():
        yield


def test_no_grant_is_lost_and_none_is_too_large() -> None:
    seen: Counter[str] = Counter()
    for seed in range(SEEDS):
        world = World(random.Random(seed))
        try:
            for step in range(STEPS):
                world.step()
                if step % 100 == 99:
                    world.settle()
        except AssertionError as error:
            error.add_note(f"seed {seed}")
            raise
        seen += world.seen
    assert min(seen.values()) >= 10, seen
    assert len(seen) == 19, seen
