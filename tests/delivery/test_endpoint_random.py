"""Random sequences of everything that can happen to an `Endpoint`; what never may is looked for.

After each step: every message is in one place or has ended, once; nobody was sent more than
its credit, or granted more than its window. At each peer: every message at most once, and in
the order of its lane. At the end nothing waits, and no stranger is kept beyond the limit.
"""

from __future__ import annotations

import gc
from collections import Counter, defaultdict
from collections.abc import Callable
from random import Random
from typing import Any, Final

import pytest
from peerkit import REFUSED, RESET, Desk, FakeLink, FakeStore, closed, still_clock

from idkit import number_of
from linkkit import ALICE, BOB, EVE, body_of, credits, received
from signedwire.clock import WallInstant
from signedwire.delivery import session_map
from signedwire.delivery.message import IncomingMessage
from signedwire.delivery.null_store import NullStore
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.peer_receiver import PeerReceiver
from signedwire.delivery.receive_streams import ReceiveStreams
from signedwire.errors import BackpressureError, NotAllowedError, UnknownPeerError
from signedwire.identity import Identity
from signedwire.types import Credit, DeliveryState, Priority, Reason
from signedwire.wire import link_frames as frames
from signedwire.wire.header import STREAMS, VOLATILE, message_id_of, stream_of
from signedwire.wire.link_frames import Epochs
from signedwire.wire.session import BatchReceived
from wirekit import random_seed

STRANGERS: Final = 6
CONFIG: Final[dict[str, Any]] = {
    "credit_messages": 20,
    "credit_bytes": 8000,
    "critical_reserve": 3,
    "max_payload_size": 1000,
    "inbox_bytes": 30_000,
    "max_attempts": 2,
}
ENDS: Final = (
    RESET,
    None,
    closed(frames.CLOSE_DONE),
    closed(frames.CLOSE_TOO_MANY),
    closed(frames.CLOSE_EVICTED),
    closed(frames.CLOSE_DENIED),
)
LOST: Final = {DeliveryState.FAILED, DeliveryState.EXPIRED, DeliveryState.REFUSED}


class Peer:
    """The other side: what it has accepted from us, and what it sends."""

    def __init__(self, who: Identity) -> None:
        self.who = who
        self.epochs = Epochs(9, 9)
        self.sent = [0] * STREAMS
        self.streams = [ReceiveStreams(bytes(who.did), bytes(ALICE.did), 10_000) for _ in range(2)]
        """What it has accepted of our durable messages, and of our volatile ones."""
        self.got: dict[int, list[int]] = defaultdict(list)
        """Numbers of our messages that it has accepted, by stream, in their order."""
        self.unsigned: list[tuple[FakeLink, int]] = []
        """Batches that it has judged and not answered."""
        self.judged: Counter[FakeLink] = Counter()

    def judge(self, link: FakeLink, at: int) -> list[int]:
        """What a receiver makes of one batch; returns places of what it accepts."""
        batch, _, bodies = link.batches[at]
        what = BatchReceived(bodies, batch.root, batch.leaves, batch.signature)
        streams = self.streams[stream_of(bodies[0]) >= VOLATILE]
        arrivals = streams.arrived(what, 1 << 16, 0)
        known = {*arrivals.duplicates, *(message.leaf for message in arrivals.new)}
        for message in arrivals.new:
            self.got[message.stream].append(number_of(message_id_of(bodies[message.index]).hex()))
        return [n for n, leaf in enumerate(batch.leaves) if leaf in known]


class World:
    """A desk, its peers, and the dice."""

    def __init__(self, rng: Random, *, is_durable: bool) -> None:
        self.rng = rng
        make: Callable[[Any], FakeStore] | None = FakeStore if is_durable else None
        self.desk = Desk(store=make, **(CONFIG | {"send_queue_limit": 1000 if is_durable else 12}))
        if not is_durable:
            self.desk.context.store = NullStore(self.desk.host)
        strangers = [Identity.from_seed((50 + n).to_bytes(32, "big")) for n in range(12)]
        self.peers = {who.did: Peer(who) for who in (BOB, EVE, *strangers)}
        self.desk.route(BOB)
        self.links: list[FakeLink] = []
        self.messages: list[OutgoingMessage] = []
        self.taken: list[IncomingMessage] = []
        self.received: Counter[tuple[Any, ...]] = Counter()

    @property
    def open_links(self) -> list[FakeLink]:
        self.links = [link for link in self.links if not link.is_over]
        return self.links

    def peer(self) -> Peer:
        # Mostly two, and now and then one of many strangers.
        named = [self.peers[BOB.did], self.peers[EVE.did]]
        return self.rng.choice(named if self.rng.random() < 0.8 else list(self.peers.values()))

    # -- steps ----------------------------------------------------------------------------

    def post(self) -> None:
        peer, rng = self.peer(), self.rng
        deadline: float | None = None
        if rng.random() < 0.3:
            seconds = rng.uniform(0.5, 20)
            is_date = rng.random() < 0.5
            wall = self.desk.clock.wall_us / 1e6
            deadline = WallInstant(wall + seconds) if is_date else self.desk.clock.seconds + seconds
        messages = [
            self.desk.message(
                peer.who,
                bytes(rng.randrange(900)),
                priority=priority,
                expires_at=deadline,
                is_durable=is_durable,
            )
            for priority in [rng.choice(list(Priority))]
            for is_durable in [rng.random() < 0.5]
            for _ in range(rng.choice((1, 1, 3)))
        ]
        try:
            if len(messages) == 1:
                self.desk.endpoint.submitter.submit(messages[0], messages[0].payload_size)
                count = 1
            else:
                count = self.desk.endpoint.submitter.submit_many(messages)
        except (BackpressureError, NotAllowedError, UnknownPeerError):
            count = 0
        self.messages += messages[:count]

    def link(self) -> None:
        peer, rng = self.peer(), self.rng
        if self.desk.access.denies(peer.who.did):
            return
        link = self.desk.begin(peer.who, is_dialed=rng.random() < 0.5)
        self.links.append(link)
        if rng.random() < 0.8:
            self.hello(link)

    def hello(self, link: FakeLink | None = None) -> None:
        opening = [one for one in self.open_links if not one.is_open and one.hello is None]
        if link is None:
            if not opening:
                return
            link = self.rng.choice(opening)
        peer, rng = self.peers[link.session.did], self.rng
        if rng.random() < 0.1:
            self.restart(peer, link)
        known = [streams.epoch for streams in peer.streams]
        for which in range(2):
            if rng.random() < 0.05:
                known[which] += 1  # somebody else has used our key
        # It closes a link of an older epoch, and takes up a newer one.
        if any(
            streams.epoch > ours
            for streams, ours in zip(peer.streams, link.our_epochs, strict=True)
        ):
            link.end(closed(frames.CLOSE_STALE_EPOCH))
            return
        marks: tuple[int, ...] = ()
        for streams, its, ours in zip(peer.streams, known, link.our_epochs, strict=True):
            if ours != streams.epoch:
                streams.begin(ours)
            marks += streams.marks_now() if its == ours else (0, 0, 0, 0)
        room = Credit(rng.randrange(1, 40), rng.randrange(1500, 20_000))
        link.say_hello(
            epochs=peer.epochs,
            known_epochs=Epochs(*known),
            marks=marks,
            credit=credits(*room, 5, 6000),
        )

    def restart(self, peer: Peer, link: FakeLink) -> None:
        """A peer has begun anew: it has lost the marks of volatile messages, and its old links."""
        has_store = self.rng.random() < 0.5
        peer.epochs = Epochs(peer.epochs.durable + (not has_store), peer.epochs.volatile + 1)
        peer.sent = [*(peer.sent[:VOLATILE] if has_store else [0] * 4), 0, 0, 0, 0]
        peer.streams[1] = ReceiveStreams(bytes(peer.who.did), bytes(ALICE.did), 10_000)
        for old in self.links:
            if old is not link and old.session.did == peer.who.did:
                peer.judged[old] = 10**9

    def answer(self) -> None:
        """The peer accepts the next batch of a link; its word may be lost."""
        for link in self.open_links:
            peer = self.peers[link.session.did]
            if peer.judged[link] < len(link.batches):
                at = peer.judged[link]
                peer.judged[link] += 1
                accepted = peer.judge(link, at)
                dice = self.rng.random()
                if dice < 0.2:
                    continue  # it comes later, or never
                if dice < 0.3 and accepted:
                    link.accept(at, names=accepted[:1])
                elif len(accepted) == len(link.batches[at][2]):
                    link.accept(at)
                elif accepted:
                    link.accept(at, names=accepted)
                if dice > 0.9:
                    link.handle(at)

    def refuse(self) -> None:
        for link in self.open_links:
            if link.batches and self.rng.random() < 0.3:
                link.refuse(self.rng.choice(self.rng.choice(link.batches)[1]), Reason.REFUSED)

    def end(self) -> None:
        if self.open_links:
            link = self.rng.choice(self.links)
            how = self.rng.choice((*ENDS, "us"))
            if isinstance(how, str):
                link.close(frames.CLOSE_EVICTED, "made room")
            else:
                link.end(how)

    def bring(self) -> None:
        """A peer sends, new or once more, within what it was granted."""
        open_ = [link for link in self.open_links if link.is_open]
        if not open_:
            return
        link = self.rng.choice(open_)
        peer, stream = self.peers[link.session.did], self.rng.randrange(STREAMS)
        room = link.peer_credit_left(stream)
        count = min(self.rng.randrange(1, 5), room.messages, room.bytes // 230)
        if count <= 0:
            return
        again = self.rng.random() < 0.2 and peer.sent[stream] >= count
        first = peer.sent[stream] - count + 1 if again else peer.sent[stream] + 1
        peer.sent[stream] = max(peer.sent[stream], first + count - 1)
        bodies = [
            body_of(
                stream,
                n,
                bytes([n % 256]) * 100,
                sender=peer.who,
                recipient=ALICE,
                epoch=link.their_epochs[stream >= VOLATILE],
            )
            for n in range(first, first + count)
        ]
        link.bring_batch(received(bodies, peer.who))

    def take(self) -> None:
        for message in self.desk.take()[:]:
            envelope = message.envelope
            # A stranger that was forgotten may bring it once more, to another receiver.
            name = (message.origin, envelope.epoch, message.stream, message.sequence_number)
            self.received[name] += 1
            self.taken.append(message)

    def reply(self) -> None:
        if self.taken:
            message = self.taken.pop(self.rng.randrange(len(self.taken)))
            message.ack() if self.rng.random() < 0.7 else message.nack()

    def commit(self) -> None:
        self.desk.store.commit()
        for session in self.desk.endpoint.sessions.senders():
            self.desk.endpoint.send_waiting(session)

    def wait(self) -> None:
        self.desk.host.wait(self.rng.choice((0.0, 0.1, 1.0, 6.0)))

    def step_clock(self) -> None:
        self.desk.clock.step(self.rng.choice((-100.0, -1.0, 1.0, 100.0)))
        self.desk.endpoint.on_clock_step()

    def access(self) -> None:
        did = self.peer().who.did
        self.desk.access.deny(did)
        self.desk.host.run()
        if self.rng.random() < 0.9:
            self.desk.access.undeny(did)

    def route(self) -> None:
        peer = self.rng.choice((BOB, EVE))
        is_there = self.desk.routes.resolve(peer.did) is None
        self.desk.route(peer) if is_there else self.desk.route(peer, None)
        self.desk.endpoint.reroute(self.desk.endpoint.sessions.senders())
        self.desk.endpoint.send_stranded()

    def fail_to_dial(self) -> None:
        for session in self.desk.endpoint.sessions.senders():
            if session.link is None and session.sender.dialer is not None:
                session.sender.note_attempt_failed(REFUSED)

    def run(self) -> None:
        self.desk.host.run()

    # -- what holds after each of them ------------------------------------------------------

    def check(self) -> None:
        places: Counter[int] = Counter()
        for session in self.desk.endpoint.sessions.senders():
            sender = session.sender
            for message in sender.lanes:
                places[id(message)] += 1
            for message, *_ in sender._dead:
                places[id(message)] += not message.is_final
            flying = [
                message
                for streams in (sender.streams.durable, sender.streams.volatile)
                for flight in streams._in_flight.values()
                for message in flight.messages
                if message is not None
            ]
            assert len(flying) == sender.streams.in_flight
            assert session.link is not None or not flying
            for message in flying:
                places[id(message)] += 1
        lost = 0
        for message in self.messages:
            lost += message.state in LOST
            waits = not message.is_final and message.state is not DeliveryState.ACCEPTED
            is_uncommitted = message.is_stored and message.state is DeliveryState.QUEUED
            if waits and not is_uncommitted:
                assert places[id(message)] == 1, f"{message!r} waits nowhere, or twice"
            else:
                assert places[id(message)] <= 1
        assert self.desk.host.counters.send_failures == lost
        assert self.desk.context.budget._used >= 0
        self.check_credit()
        assert max(self.received.values(), default=0) <= 1, "delivered twice"

    def check_credit(self) -> None:
        for session in self.desk.endpoint.sessions.all():
            if session.has_receiver:
                window = session.receiver._window
                for stream, size in enumerate(window._sizes):
                    used = window._in_inbox.of(stream)
                    for one in window._links:
                        used = used.plus(*one.state.peer_credit_left(stream))
                    assert not used.exceeds(size), (stream, used, size)
                    assert min(window._in_inbox.of(stream)) >= 0
                    assert min(window._uncommitted.of(stream)) >= 0
                self.check_grants(session.receiver)

    def check_grants(self, receiver: PeerReceiver) -> None:
        """No credit is lost: what is free is on a link, or the next answer looks at it."""
        window, answers = receiver._window, receiver.answers
        for stream, size in enumerate(window._sizes):
            free = size.minus(window._in_inbox.of(stream)).minus(window._uncommitted.of(stream))
            for one in window._links:
                free = free.minus(one.state.peer_credit_left(stream))
            if max(free) > 0 and stream not in window._changed:
                raise AssertionError(f"{free} of stream {stream} is lost")
            is_cut = answers in receiver._context.budget._cut
            if max(free) > 0 and answers.link is not None and not answers.is_flush_due:
                assert is_cut or not self.desk.host.is_open, f"nobody will grant {free} of {stream}"

    def check_peers(self) -> None:
        """Each of our messages once, and in the order in which they were queued."""
        for peer in self.peers.values():
            for stream, numbers in peer.got.items():
                assert numbers == sorted(set(numbers)), (peer.who.did, stream)

    def finish(self) -> None:
        """Everything ends or is delivered, and who is a stranger is forgotten."""
        for did in self.peers:
            self.desk.access.undeny(did)
        self.commit()
        self.desk.host.run()
        self.take()
        while self.taken:
            self.reply()
        for link in list(self.open_links):
            link.end()
        self.desk.route(BOB, None)
        self.desk.route(EVE, None)
        self.desk.endpoint.reroute(self.desk.endpoint.sessions.senders())
        self.commit()
        self.desk.host.wait(10)
        self.commit()
        self.desk.host.run()
        self.check()
        if not self.desk.store.is_durable:
            assert all(m.is_final or m.is_confirmed for m in self.messages)
            self.messages.clear()
            self.links.clear()
            for peer in self.peers.values():
                peer.judged.clear()
            gc.collect()
            self.desk.session(ALICE)
            self.desk.host.run()
            assert len(self.desk.endpoint.sessions.all()) <= STRANGERS
        assert self.desk.context.budget._used == 0
        self.desk.endpoint.end()
        assert not self.desk.host.timers


STEPS: Final[tuple[tuple[Callable[[World], None], int], ...]] = (
    (World.post, 20),
    (World.link, 8),
    (World.hello, 3),
    (World.answer, 15),
    (World.refuse, 1),
    (World.end, 5),
    (World.bring, 12),
    (World.take, 6),
    (World.reply, 8),
    (World.commit, 8),
    (World.wait, 4),
    (World.step_clock, 1),
    (World.access, 1),
    (World.route, 2),
    (World.fail_to_dial, 2),
    (World.run, 15),
)


def run(rng: Random, *, is_durable: bool, length: int = 400) -> None:
    """One sequence, looked at after each step."""
    steps, weights = zip(*STEPS, strict=True)
    with still_clock():
        world = World(rng, is_durable=is_durable)
        for step in rng.choices(steps, weights, k=length):
            step(world)
            world.check()
        world.check_peers()
        world.finish()
        world.check_peers()


@pytest.mark.parametrize("is_durable", [False, True], ids=["no store", "store"])
@pytest.mark.parametrize("round_", range(8))
def test_whatever_happens(round_: int, is_durable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_map, "_MAX_STRANGERS", STRANGERS)
    _, rng = random_seed()
    run(rng, is_durable=is_durable)
