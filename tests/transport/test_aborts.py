"""A large batch whose messages have expired does not use up a slow link."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

import pytest
from test_link import Net, meet, next_of

from signedwire import DeliveryState, MessageExpiredError, Node, Priority, Reason
from signedwire.wire.session import Session
from wirekit import ALICE, BOB, LIMIT, eventually, on_both_loops, within

MIB: Final = 2**20
DELAY: Final = 0.05
"""Seconds for each 64 KiB: a large message takes a second."""
DEADLINE: Final = 0.3


def link_of(node: Node, peer: Node) -> Any:
    return node._core.endpoint.sessions.session(peer.did).link


def session_of(node: Node, peer: Node) -> Session:
    session: Session = link_of(node, peer).state.session
    return session


def marks_of(node: Node, peer: Node) -> list[int]:
    """The marks of the peer's messages."""
    marks: list[int] = node._core.endpoint.sessions.session(peer.did).receiver.durable.marks
    return marks


def slow() -> Net:
    return Net("memory", delay=(DELAY, DELAY))


@on_both_loops
async def test_a_large_message_that_expires_on_its_way_is_aborted() -> None:
    net = slow()
    async with net.node(ALICE) as alice, net.node(BOB) as bob:
        meet(alice, bob)
        await alice.send(bob.did, b"first", priority=Priority.LOW, until="accepted")
        assert (await next_of(bob)).payload == b"first"
        before, marks = bob.stats().bytes_received, marks_of(bob, alice)[:]
        large = alice.send_nowait(bob.did, bytes(MIB), priority=Priority.LOW, deadline=DEADLINE)
        later = alice.send_nowait(bob.did, b"later", priority=Priority.LOW)
        with pytest.raises(MessageExpiredError, match="so the peer does not have it"):
            await large.wait("accepted", timeout=LIMIT)
        output = link_of(alice, bob)._output
        await eventually(lambda: not output._under_way or later.state is DeliveryState.WRITTEN)
        assert marks_of(bob, alice) == marks
        assert (await within(LIMIT, next_of(bob))).payload == b"later"
        await later.wait("accepted", timeout=LIMIT)
        assert bob.stats().bytes_received - before < MIB * 3 // 4
        assert marks_of(bob, alice)[Priority.LOW] == marks[Priority.LOW] + 2
        assert not session_of(bob, alice)._incoming.unfinished
        sender = alice._core.endpoint.sessions.session(bob.did).sender
        assert (sender.streams.in_flight, sender.streams.in_flight_bytes) == (0, 0)
        output._awaited(session_of(alice, bob), sender)  # it forgets what was answered
        assert (output._under_way, output._ends) == ({}, {})
        # The whole credit is there again, as the application has taken the rest.
        full = alice._core.runtime.config.credit_bytes
        await eventually(lambda: session_of(bob, alice).peer_credit_left(0).bytes == full)
        again = await alice.send(bob.did, bytes(MIB), priority=Priority.LOW, until="accepted")
        assert again.state is DeliveryState.ACCEPTED
        assert len((await next_of(bob)).payload) == MIB


@on_both_loops
async def test_one_of_a_store_that_expires_on_its_way(tmp_path: Path) -> None:
    net = slow()
    async with net.node(ALICE, store=tmp_path / "alice.db") as alice, net.node(BOB) as bob:
        meet(alice, bob)
        await alice.send(bob.did, b"first", priority=Priority.LOW, until="accepted")
        large = alice.send_nowait(bob.did, bytes(MIB), priority=Priority.LOW, deadline=DEADLINE)
        with pytest.raises(MessageExpiredError, match="so the peer does not have it"):
            await large.wait("accepted", timeout=LIMIT)
        await alice.send(bob.did, b"later", priority=Priority.LOW, until="accepted")
        assert [(await next_of(bob)).payload for _ in range(2)] == [b"first", b"later"]
        assert await alice.outbox.list() == []
        assert alice.peers()[bob.did].dropped == {Reason.EXPIRED: 1}


@on_both_loops
async def test_one_that_is_alive_has_the_batch_finished() -> None:
    net = slow()
    async with net.node(ALICE) as alice, net.node(BOB) as bob:
        meet(alice, bob)
        await alice.send(bob.did, b"first", until="accepted")
        await next_of(bob)
        # More than the window of the link and one batch, so that a batch is under way.
        head = alice.send_nowait(bob.did, bytes(200_000))
        dead = alice.send_nowait(bob.did, bytes(30_000), deadline=0.1)
        alive = alice.send_nowait(bob.did, b"alive")
        await alive.wait("accepted", timeout=LIMIT)
        assert head.state is DeliveryState.ACCEPTED
        assert dead.state is DeliveryState.EXPIRED
        got = [(await next_of(bob)).payload for _ in range(2)]
        assert got == [bytes(200_000), b"alive"]


@on_both_loops
async def test_an_abort_and_then_a_broken_link() -> None:
    """What was aborted does not come back over the next link."""
    net = slow()
    assert net.memory is not None
    async with net.node(ALICE) as alice, net.node(BOB) as bob:
        meet(alice, bob)
        await alice.send(bob.did, b"first", priority=Priority.LOW, until="accepted")
        large = alice.send_nowait(bob.did, bytes(MIB), priority=Priority.LOW, deadline=DEADLINE)
        later = [alice.send_nowait(bob.did, b"%d" % n, priority=Priority.LOW) for n in range(3)]
        with pytest.raises(MessageExpiredError, match="so the peer does not have it"):
            await large.wait("accepted", timeout=LIMIT)
        net.memory.cut_all()
        await asyncio.gather(*(each.wait("accepted", timeout=LIMIT) for each in later))
        got = [(await next_of(bob)).payload for _ in range(4)]
        assert got == [b"first", b"0", b"1", b"2"]
