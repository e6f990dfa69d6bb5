"""Links of strangers share the room for unfinished batches; links of known peers need none."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import pytest
from test_link import next_of
from test_links import RawPeer

from linkkit import ping
from signedwire import Node, Reason
from signedwire.delivery.stranger_room import StrangerRoom
from signedwire.wire import link_frames as frames
from signedwire.wire.parts import BatchWriter
from signedwire.wire.session import Closed, HelloReceived
from tlskit import quick
from wirekit import BOB, LIMIT, eventually, identity, on_asyncio, on_both_loops, within

SIZE: Final = 50_000
STRANGERS: Final = [identity(number) for number in range(700, 704)]


def node(room: StrangerRoom, **changes: Any) -> Node:
    """BOB, whose strangers share this room."""
    bob = Node(BOB, quick(**changes))
    bob._core.runtime.stranger_room = room
    return bob


class Slow(RawPeer):
    """A peer that sends the first part of a batch, and the rest when the test wants."""

    rest: BatchWriter

    async def begin(self, payload: bytes = b"", *, size: int = SIZE) -> None:
        """Send the first part."""
        if self.session.their_hello is None:
            await self.next(HelloReceived)
        self.session.send_batch([self.body(1, payload.ljust(size, b"."))])
        self._channel.send(self.session.data_to_send(1))
        self.rest = self.session.outgoing._queue.pop()
        await self._write()

    async def finish(self) -> None:
        """Send the other parts."""
        while not self.rest.is_done:
            await self.say(b"".join(self.rest.next_part()))

    async def closed(self) -> Closed:
        """The end of the link."""
        return await self.next(Closed)


async def dial(bob: Node, number: int) -> Slow:
    return await Slow.dial(bob, STRANGERS[number])


class Keeper:
    """Keeps the room from strangers."""

    def on_room(self) -> None:
        """Nothing waits."""

    look_again = on_room


def room(**changes: Any) -> StrangerRoom:
    """Room for two of the batches."""
    return StrangerRoom(2 * SIZE + 1000, **changes)


@on_both_loops
async def test_a_third_batch_waits_for_one_of_two_and_a_known_peer_does_not() -> None:
    shared = room()
    async with node(shared) as bob:
        bob.routing.update(STRANGERS[3].did, "127.0.0.1:9")
        with (
            await dial(bob, 0) as first,
            await dial(bob, 1) as second,
            await dial(bob, 2) as third,
            await dial(bob, 3) as known,
        ):
            await first.begin(b"first")
            await second.begin(b"second")
            await eventually(lambda: shared.used > 2 * SIZE)
            await third.begin(b"third")
            await third.finish()
            await eventually(lambda: len(shared.waiting) == 1)
            await known.begin(b"known", size=4 * SIZE)
            await known.finish()
            assert (await next_of(bob)).payload.startswith(b"known")
            await asyncio.sleep(0.05)
            assert len(bob._core.endpoint.inbox) == 0
            await second.finish()
            got = {(await next_of(bob)).payload.rstrip(b".") for _ in range(2)}
            assert got == {b"second", b"third"}
            await eventually(lambda: SIZE < shared.used < 2 * SIZE)
            await first.finish()
            assert (await next_of(bob)).payload.startswith(b"first")
            assert (shared.used, shared.waiting) == (0, ())


@on_both_loops
async def test_a_link_that_waits_too_long_is_closed() -> None:
    shared = room(patience=0.3)
    async with node(shared, ping_interval=0.05, dead_timeout=0.15) as bob:
        with (
            await dial(bob, 0) as first,
            await dial(bob, 1) as second,
            await dial(bob, 2) as third,
        ):
            began = asyncio.get_running_loop().time()
            await first.begin()
            await second.begin()
            tasks = [asyncio.create_task(each.closed()) for each in (first, second)]
            await eventually(lambda: shared.used > 2 * SIZE)
            await third.begin()
            closed = await within(LIMIT, third.closed())
            assert (closed.code, closed.is_by_peer) == (frames.CLOSE_TOO_MANY, True)
            assert closed.cause == "no room for what strangers send"
            assert asyncio.get_running_loop().time() - began > 0.29
            assert bob.stats().dropped[Reason.CONNECTION_LIMIT] == 1
            assert not any(task.done() for task in tasks)
            assert shared.waiting == ()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@on_both_loops
async def test_the_other_limits_of_a_link_stand_still_while_it_waits() -> None:
    """The peer sends nothing for longer than all of them. PINGs tell it that the node lives."""
    shared, keeper = room(), Keeper()
    timeouts = {"ping_interval": 0.05, "dead_timeout": 0.2, "frame_timeout": 0.2}
    async with node(shared, **timeouts) as bob:
        with await dial(bob, 2) as third:
            shared.resize(keeper, 2 * SIZE)
            await third.begin(b"third")
            await third.finish()
            await eventually(lambda: shared.waiting)
            before = bob.stats().bytes_sent
            third._is_mute = True  # it answers nothing either
            await asyncio.sleep(0.6)
            assert bob.stats().bytes_sent - before > 5 * len(ping(1).encode())
            shared.forget(keeper)
            assert (await next_of(bob)).payload.startswith(b"third")
            third._is_mute = False
            await third.end()


@on_both_loops
async def test_a_stranger_that_becomes_known_goes_on() -> None:
    shared = room()
    async with node(shared) as bob:
        with await dial(bob, 0) as first, await dial(bob, 2) as third:
            await first.begin(size=2 * SIZE)
            await eventually(lambda: shared.used > 2 * SIZE)
            await third.begin(b"third")
            await third.finish()
            await eventually(lambda: shared.waiting)
            bob.routing.update(STRANGERS[1].did, "127.0.0.1:9")  # somebody else
            await asyncio.sleep(0.02)
            assert shared.waiting
            await asyncio.to_thread(bob.routing.update, STRANGERS[2].did, "127.0.0.1:9")
            assert (await next_of(bob)).payload.startswith(b"third")
            assert (shared.waiting, shared.used > 2 * SIZE) == ((), True)


@pytest.mark.parametrize("how", ["end", "abort"])
@on_both_loops
async def test_room_is_freed_by_an_end_and_by_an_abort(how: str) -> None:
    shared = room()
    async with node(shared) as bob:
        with await dial(bob, 0) as first, await dial(bob, 2) as third:
            await first.begin(size=2 * SIZE)
            await eventually(lambda: shared.used > 2 * SIZE)
            await third.begin(b"third")
            await third.finish()
            await eventually(lambda: shared.waiting)
            if how == "end":
                first.reset()
            else:
                await first.say(frames.Part(frames.ABORT, 1).encode())
            assert (await next_of(bob)).payload.startswith(b"third")
            assert shared.used == 0


@on_asyncio
async def test_a_node_that_closes_ends_the_links_that_wait() -> None:
    shared = room()
    async with node(shared) as bob:
        with await dial(bob, 0) as first, await dial(bob, 2) as third:
            await first.begin(size=2 * SIZE)
            await eventually(lambda: shared.used > 2 * SIZE)
            await third.begin()
            await eventually(lambda: shared.waiting)
            await bob.close()
            assert (shared.used, shared.waiting) == (0, ())
            assert (await third.closed()).code == frames.CLOSE_DONE


# -- what waits for the application ----------------------------------------------------------


@on_both_loops
async def test_small_messages_of_strangers_use_the_room_too() -> None:
    """Until the application takes them. Each link alone would have credit for far more."""
    shared = room()
    each, batches = 20, 40
    async with node(shared) as bob:
        bob.routing.update(STRANGERS[3].did, "127.0.0.1:9")
        peers = [await dial(bob, number) for number in range(3)]

        async def fill(peer: Slow) -> None:
            for batch in range(batches):
                first = batch * each + 1
                await peer.send(*(peer.body(first + n, bytes(1000)) for n in range(each)))

        filling = [asyncio.create_task(fill(peer)) for peer in peers]
        await eventually(lambda: len(shared.waiting) == 3)
        await asyncio.sleep(0.05)
        assert len(shared.waiting) == 3
        assert shared.is_full
        # Each link may go over the limit by one batch.
        size = 1126 * bob.stats().inbox_messages
        assert size < shared.limit + 3 * each * 1126
        with await dial(bob, 3) as known:
            await known.send(known.body(1, b"from a known peer"))
            await eventually(lambda: bob.stats().messages_received % each == 1)
        total = 1
        while total < 3 * each * batches + 1:
            await next_of(bob)
            total += 1
        await within(LIMIT, asyncio.gather(*filling))
        await eventually(lambda: not shared.waiting and not shared.is_full)
        for peer in peers:
            peer.close()


@on_asyncio
async def test_who_becomes_known_frees_the_room_of_strangers() -> None:
    shared = room()
    async with node(shared) as bob:
        with await dial(bob, 0) as first, await dial(bob, 1) as second:
            for start in (1, 51):
                await first.send(*(first.body(start + n, bytes(1000)) for n in range(50)))
            await eventually(lambda: shared.is_full)
            await second.begin(b"second")
            await second.finish()
            await eventually(lambda: len(shared.waiting) == 1)
            bob.routing.update(STRANGERS[0].did, "127.0.0.1:9")
            await next_of(bob)  # what is left counts for a known peer from now on
            await eventually(lambda: not shared.is_full)
            await eventually(lambda: not shared.waiting)
