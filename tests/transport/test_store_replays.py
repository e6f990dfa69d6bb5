"""Old envelopes sent again to a node with a store: none is delivered twice, none new refused."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from test_links import RawPeer

from linkkit import batches_of
from signedwire import Address, Node, Priority, Reason, TransportConfig
from signedwire.types import unix_time_us
from signedwire.wire import idle as idle_module
from signedwire.wire import link_frames as frames
from signedwire.wire.batch import leaf_of
from signedwire.wire.envelope import sign_batch
from signedwire.wire.link_frames import Refusal
from signedwire.wire.parts import encode_batch
from signedwire.wire.session import (
    Closed,
    HelloReceived,
    ReceiptsReceived,
)
from wirekit import ALICE, BOB, CAROL, LIMIT, eventually, on_asyncio, within

REPLAYS: Final = int(os.environ.get("REPLAYS", "100000"))
_BATCH: Final = 256
_OLD: Final = 32
"""Batches: more than are remembered leaf by leaf."""
_IN_FLIGHT: Final = 4
EPOCH: Final = 9


class Replayed:
    """The node under attack, over its restarts, and what its application was given."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.delivered: Counter[int] = Counter()
        self.redelivered = 0
        self.replayed = 0
        self.receipted = 0
        self.refused: Counter[Reason] = Counter()
        self.keeps_undone = False
        self.sequence = 0
        self.captured: list[bytes] = []
        """Frames as they left the sender, in order."""

    @contextlib.asynccontextmanager
    async def node(self) -> AsyncIterator[Node]:
        config = TransportConfig(listen=Address("127.0.0.1", 0))
        async with Node(BOB, config, store=self.path) as node:
            taking = asyncio.create_task(self._take(node))
            try:
                yield node
            finally:
                taking.cancel()
                await asyncio.gather(taking, return_exceptions=True)

    async def _take(self, node: Node) -> None:
        async for message in node.messages():
            if message.redelivered:
                self.redelivered += 1
            else:
                self.delivered[message.sequence_number] += 1
            if not self.keeps_undone:
                message.ack()

    async def send_new(self, peer: RawPeer, count: int = 1) -> None:
        """What nobody has seen before is accepted, whatever came before it."""
        bodies = [peer.body(self.sequence + n, b"%d" % n, epoch=EPOCH) for n in range(1, count + 1)]
        if peer.session.their_hello is None:
            await peer.next(HelloReceived)
        root, signature, _ = sign_batch(peer.who, bodies)
        frame = encode_batch(signature, bodies)
        await self._exchange(peer, [(root, frame)], is_new=True)
        self.sequence += count
        self.captured.append(frame)
        await within(LIMIT, eventually(lambda: self.delivered[self.sequence] == 1))

    async def replay(self, peer: RawPeer, captured: list[bytes]) -> None:
        """Send frames as they were, within the credit that there is."""
        if peer.session.their_hello is None:
            await peer.next(HelloReceived)
        for at in range(0, len(captured), _IN_FLIGHT):
            some = captured[at : at + _IN_FLIGHT]
            await self._exchange(peer, [(_root_of(frame), frame) for frame in some])
            self.replayed += sum(_count_of(frame) for frame in some)

    async def _exchange(
        self, peer: RawPeer, batches: list[tuple[bytes, bytes]], *, is_new: bool = False
    ) -> None:
        """Until each envelope has its receipt or its refusal."""
        waiting = sum(_count_of(frame) for _, frame in batches)
        sizes = {root: _count_of(frame) for root, frame in batches}
        await peer.say(*(frame for _, frame in batches))
        async with asyncio.timeout(LIMIT):
            while waiting > 0:
                while peer.events:
                    event = peer.events.popleft()
                    if isinstance(event, ReceiptsReceived):
                        kind, hashes = event.receipts.kind, event.receipts.hashes
                        if kind == frames.ACCEPTED_BATCHES:
                            count = sum(sizes[root] for root in hashes)
                        elif kind == frames.ACCEPTED_ENVELOPES:
                            count = len(hashes)
                        elif kind == frames.REFUSED_ENVELOPES:
                            assert not is_new, event.receipts
                            assert event.receipts.reason is not None
                            self.refused.update([event.receipts.reason] * len(hashes))
                            waiting -= len(hashes)
                            continue
                        else:
                            continue
                        waiting -= count
                        self.receipted += 0 if is_new else count
                    assert not isinstance(event, Closed), event
                if waiting > 0:
                    await peer.read()

    def check(self) -> None:
        """Each that was sent was delivered, once."""
        assert set(self.delivered) == set(range(1, self.sequence + 1))
        assert set(self.delivered.values()) == {1}


_known: dict[bytes, tuple[bytes, int]] = {}


def _look(frame: bytes) -> tuple[bytes, int]:
    if frame not in _known:
        ((_, bodies, _),) = batches_of(frame)
        _known[frame] = sign_batch(ALICE, bodies)[0], len(bodies)
    return _known[frame]


def _root_of(frame: bytes) -> bytes:
    return _look(frame)[0]


def _count_of(frame: bytes) -> int:
    return _look(frame)[1]


@pytest.mark.timeout(180)
@on_asyncio
async def test_100_000_replays_are_delivered_never_and_stop_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So many on one link are a flood, which ends it; that is tested where it is counted.
    monkeypatch.setattr(idle_module, "_MAX_LEVEL", 10**9)
    share = REPLAYS // 4
    rounds = max(1, share // (_OLD * _BATCH))
    all_ = Replayed(tmp_path / "node.db")
    async with all_.node() as node:
        with await RawPeer.dial(node, ALICE, epoch=EPOCH) as peer:
            for _ in range(_OLD):
                await all_.send_new(peer, _BATCH)
            old = list(all_.captured)
            # The same link.
            for _ in range(rounds + 1):
                await all_.replay(peer, old)
                await all_.send_new(peer)
            await peer.end()
        # New ones.
        for _ in range(rounds):
            with await RawPeer.dial(node, ALICE, epoch=EPOCH) as peer:
                await all_.replay(peer, old)
                await all_.send_new(peer)
                await peer.end()
    # After restarts, the last of which find messages that were not done.
    for turn in range(rounds + 1):
        all_.keeps_undone = turn > 0
        async with all_.node() as node:
            with await RawPeer.dial(node, ALICE, epoch=EPOCH) as peer:
                await all_.replay(peer, old)
                await all_.send_new(peer, 3)
                await peer.end()
    all_.keeps_undone = False
    async with all_.node() as node:
        with await RawPeer.dial(node, ALICE, epoch=EPOCH) as peer:
            await all_.replay(peer, all_.captured[_OLD:])
            await peer.end()
        through = await _replay_through_another(node, old, share)
        with await RawPeer.dial(node, ALICE, epoch=EPOCH) as peer:
            await all_.send_new(peer)
            await peer.end()
    all_.check()
    assert all_.replayed + through >= REPLAYS
    assert all_.redelivered == sum(3 * turn for turn in range(1, rounds + 1))
    # What is remembered has its receipt again; what is older is refused by some name.
    assert all_.receipted + sum(all_.refused.values()) == all_.replayed
    assert all_.receipted > 0


async def _replay_through_another(node: Node, old: list[bytes], count: int) -> int:
    """A peer that has the frames and not the key: as they are, and in batches of its own."""
    sent = 0
    refused: Counter[Reason] = Counter()
    for turn in range(count // _BATCH + 1):
        frame = old[turn % len(old)]
        ((_, bodies, _),) = batches_of(frame)
        is_signed = turn % 2
        if is_signed:
            frame = encode_batch(sign_batch(CAROL, bodies)[1], bodies)
        with await RawPeer.dial(node, CAROL, epoch=unix_time_us()) as thief:
            await thief.next(HelloReceived)
            await thief.say(frame)
            left = len(bodies)
            while left:
                refusals = await thief.next_refusals()
                left -= len(refusals)
                refused.update(refusal.reason for refusal in refusals)
            if is_signed:
                await thief.end()
            else:
                closed = await thief.next(Closed)
                assert closed.code == frames.CLOSE_BAD_SIGNATURE
        sent += len(bodies)
    assert sum(refused.values()) == sent
    assert set(refused) == {Reason.BAD_SIGNATURE, Reason.MALFORMED}
    return sent


@on_asyncio
async def test_a_duplicate_is_called_one_after_restarts_too(tmp_path: Path) -> None:
    all_ = Replayed(tmp_path / "node.db")
    for _ in range(3):
        async with all_.node() as node:
            with await RawPeer.dial(node, ALICE, epoch=EPOCH) as peer:
                for _ in range(0 if all_.captured else _OLD):
                    await all_.send_new(peer, _BATCH)
                await all_.replay(peer, all_.captured[:8])
                await peer.end()
    assert set(all_.refused) == {Reason.DUPLICATE}, all_.refused


@on_asyncio
async def test_replays_of_an_epoch_that_is_over(tmp_path: Path) -> None:
    all_ = Replayed(tmp_path / "node.db")
    async with all_.node() as node:
        with await RawPeer.dial(node, ALICE, epoch=EPOCH) as peer:
            for _ in range(4):
                await all_.send_new(peer, _BATCH)
            await peer.end()
    for restarts in range(2):
        async with all_.node() as node:
            # In the HELLO of its time, once there was a later one.
            with await RawPeer.dial(node, ALICE, epoch=EPOCH + 1 + restarts) as peer:
                await all_.replay(peer, all_.captured)
                await peer.end()
            with await RawPeer.dial(node, ALICE, epoch=EPOCH) as peer:
                await peer.say(*all_.captured)
                assert (await peer.next(Closed)).code == frames.CLOSE_STALE_EPOCH
            await eventually(lambda: node.stats().inbound_connections == 0)
    async with all_.node() as node:
        with await RawPeer.dial(node, ALICE, epoch=EPOCH) as peer:
            await peer.say(*all_.captured)
            assert (await peer.next(Closed)).code == frames.CLOSE_STALE_EPOCH
    all_.check()
    assert all_.refused == {Reason.MALFORMED: all_.replayed}
    assert all_.replayed == 8 * _BATCH


@on_asyncio
async def test_no_receipt_for_what_was_never_accepted_after_a_restart(tmp_path: Path) -> None:
    """A batch of good and bad: of the bad ones nothing is remembered, or a resent one would
    get a receipt, which proves a delivery.
    """
    all_ = Replayed(tmp_path / "node.db")
    async with all_.node() as node:
        with await RawPeer.dial(node, ALICE, epoch=EPOCH) as peer:
            first = peer.body(1, b"good", epoch=EPOCH)
            other = peer.body(1, b"never accepted", epoch=EPOCH)
            await peer.send(first, other, peer.body(2, b"good", epoch=EPOCH))
            assert len(await peer.next_refusals()) == 1
            assert len((await peer.next_receipts()).hashes) == 2
            await peer.end()
    async with all_.node() as node:
        with await RawPeer.dial(node, ALICE, epoch=EPOCH) as peer:
            await peer.send(other)
            (refusal,) = await peer.next_refusals()
            assert refusal.reason is Reason.DUPLICATE
            await peer.send(first)
            receipts = await peer.next_receipts()
            assert receipts.kind == frames.ACCEPTED_BATCHES
            await peer.end()
    assert all_.delivered == {1: 1, 2: 1}


@on_asyncio
async def test_what_a_full_inbox_refused_is_refused_after_a_restart_too(tmp_path: Path) -> None:
    """Its sender may not have heard it; the marks have passed it all the same. Critical, for
    nothing else is granted credit beyond the room.
    """
    config = TransportConfig(listen=Address("127.0.0.1", 0), max_unacked_messages=1)
    for turn in range(2):
        async with Node(BOB, config, store=tmp_path / "node.db") as node:
            with await RawPeer.dial(node, ALICE, epoch=EPOCH) as peer:
                bodies = [_urgent(peer, number) for number in (1, 2, 3)]
                for one in bodies:
                    await peer.send(one)
                refusals: list[Refusal] = []
                while len(refusals) < 2:
                    refusals += await peer.next_refusals()
                assert refusals == [
                    Refusal(leaf_of(one), Reason.INBOX_FULL) for one in bodies[1:]
                ], turn
                await peer.end()


@on_asyncio
async def test_no_receipt_for_what_a_full_inbox_refused_though_the_batch_has_it_twice(
    tmp_path: Path,
) -> None:
    config = TransportConfig(listen=Address("127.0.0.1", 0), max_unacked_messages=1)
    for turn in range(2):
        async with Node(BOB, config, store=tmp_path / "node.db") as node:
            with await RawPeer.dial(node, ALICE, epoch=EPOCH) as peer:
                if not turn:
                    await peer.send(_urgent(peer, 1))
                    await peer.next_receipts()
                twice = _urgent(peer, 2, b"pay")
                await peer.send(twice, twice)
                refusals: list[Refusal] = []
                while len(refusals) < 1 + turn:
                    refusals += await peer.next_refusals()
                assert set(refusals) == {Refusal(leaf_of(twice), Reason.INBOX_FULL)}
                await peer.send(_urgent(peer, 1))  # whose receipt would come after
                receipts = await peer.next_receipts()
                assert receipts.kind == frames.ACCEPTED_BATCHES
                await peer.end()


@on_asyncio
async def test_the_reason_is_the_same_again(tmp_path: Path) -> None:
    config = TransportConfig(listen=Address("127.0.0.1", 0), max_unacked_messages=1)
    due = unix_time_us() + 3_600_000_000
    for turn in range(3):
        async with Node(BOB, config, store=tmp_path / "node.db") as node:
            with await RawPeer.dial(node, ALICE, epoch=EPOCH) as peer:
                await peer.send(_urgent(peer, 1, expires_at_us=due))
                second = _urgent(peer, 2, expires_at_us=due)
                await peer.send(second)
                (refusal,) = await peer.next_refusals()
                assert refusal == Refusal(leaf_of(second), Reason.INBOX_FULL), turn
                await peer.end()


def _urgent(peer: RawPeer, sequence: int, payload: bytes = b"", **changes: Any) -> bytes:
    return peer.body(sequence, payload, priority=Priority.CRITICAL, epoch=EPOCH, **changes)
