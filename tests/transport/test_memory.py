"""`MemoryNetwork`: it works as TCP does, with seeded faults."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import Context
from typing import Any, TypeVarTuple, cast

import pytest

from netkit import End
from signedwire import (
    Address,
    DeliveryState,
    DialError,
    FailureKind,
    Listener,
    ListenError,
    MemoryNetwork,
    Node,
    Stream,
    Target,
)
from wirekit import (
    ALICE,
    BOB,
    LIMIT,
    OpenCore,
    eventually,
    no_leaks,
    on_asyncio,
    on_both_loops,
    quick,
)

Args = TypeVarTuple("Args")


async def connect(network: MemoryNetwork, theirs: End | None = None) -> tuple[End, End]:
    here, there = End(), theirs or End()
    listener = await network.listen(Address("host", 0), lambda: there)
    await network.dial(listener.address, here)
    await eventually(lambda: there.is_connected)
    listener.close()
    return here, there


# -- a network ------------------------------------------------------------------------


@on_both_loops
async def test_bytes_in_order_then_the_end() -> None:
    here, there = await connect(MemoryNetwork(delay=(0, 0.003)))
    for index in range(100):
        here.stream.write(bytes([index]))
    here.stream.write(b"")
    here.stream.close()
    here.stream.close()
    here.stream.write(b"too late")
    await eventually(lambda: there.events)
    assert there.data == bytes(range(100))
    await eventually(lambda: len(there.events) == 2)
    assert there.events == ["ended", None]
    assert here.events == [None]
    assert here.stream.is_closing()


@on_asyncio
async def test_a_reader_that_pauses_stops_the_writer() -> None:
    here, there = await connect(MemoryNetwork(), End(is_reading=False))
    here.stream.write(bytes(64 * 1024))
    assert here.stream.waiting() == 0
    here.stream.write(b"x")
    assert here.stream.waiting() == 1
    assert here.stream.unacknowledged() == 64 * 1024 + 1
    there.stream.resume_reading()
    await eventually(lambda: here.events == ["writable"])
    assert here.stream.unacknowledged() == here.stream.waiting() == 0
    here.stream.abort()
    await eventually(lambda: there.events)


@on_asyncio
async def test_what_the_other_has_not_read_when_it_closes() -> None:
    here, there = await connect(MemoryNetwork(), End(is_reading=False))
    here.stream.write(b"unread")
    there.stream.close()
    assert here.stream.peer_has_closed()
    await eventually(lambda: here.events)
    assert here.stream.unacknowledged() == 6
    assert here.stream.round_trip() is None


@pytest.mark.parametrize("is_reading", [True, False])
@pytest.mark.parametrize("ending", ["close", "abort"])
@on_both_loops
async def test_a_close_delivers_what_was_written_and_an_abort_drops_it(
    ending: str, is_reading: bool
) -> None:
    network = MemoryNetwork(delay=(0.01, 0.01))
    here, there = await connect(network, End(is_reading=is_reading))
    here.stream.write(b"written")
    getattr(here.stream, ending)()
    assert here.stream.is_closing()
    assert there.stream.peer_has_closed()
    await eventually(lambda: here.is_lost)
    there.stream.resume_reading()
    await eventually(lambda: there.is_lost)
    assert there.data == (b"written" if ending == "close" else b"")
    assert (here.events, there.events) == ([None], ["ended", None])
    assert here.stream.unacknowledged() == (0 if ending == "close" else 7)
    here.stream.abort()  # a second end changes nothing
    assert network.cut_all() == 0


@on_asyncio
async def test_nobody_listens() -> None:
    network = MemoryNetwork()
    with pytest.raises(DialError, match="connection refused"):
        await network.dial(Address("host", 1), End())


@on_asyncio
async def test_ports() -> None:
    network = MemoryNetwork()
    first = await network.listen(Address("host", 7), End)
    with pytest.raises(ListenError, match="host:7: the port is in use"):
        await network.listen(Address("host", 7), End)
    await network.listen(Address("other", 7), End)
    await network.listen(Address("host", 49152), End)
    free = [(await network.listen(Address("host", 0), End)).address for _ in range(3)]
    assert free == [("host", port) for port in (49153, 49154, 49155)]
    first.close()
    first.close()
    await network.listen(Address("host", 7), End)


@pytest.mark.parametrize(
    "wrong", [{"loss": 1.1}, {"cut": -0.1}, {"delay": (2.0, 1.0)}, {"delay": (-1.0, 1.0)}]
)
def test_misuse(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"probabilities|shortest"):
        MemoryNetwork(**wrong)


# -- faults --------------------------------------------------------------------------------


@on_both_loops
async def test_everything_lost() -> None:
    here, there = await connect(MemoryNetwork(loss=1))
    here.stream.write(b"x")
    here.stream.close()
    await eventually(lambda: there.events)
    assert there.data == b""


@on_both_loops
async def test_a_cut_takes_what_was_under_way() -> None:
    network = MemoryNetwork(delay=(0.01, 0.01))
    here, there = await connect(network)
    here.stream.write(b"x")
    assert network.cut_all() == 1
    await eventually(lambda: here.events and there.events)
    assert there.data == b""
    for end in (here, there):
        assert isinstance(end.events[-1], ConnectionResetError)
    assert network.cut_all() == 0


async def trace(seed: int) -> tuple[list[int], list[tuple[str, ...]], dict[str, int]]:
    """What is received, each message's history, and the counters, over a bad network."""
    network = MemoryNetwork(seed, cut=0.2, loss=0.1)
    config = quick(max_attempts=50, retry_base_delay=0.001, retry_max_delay=0.002)
    async with OpenCore(config, network, BOB.did) as bob, OpenCore(config, network) as alice:
        alice.routing.update(BOB.did, bob.address)
        receipts = []
        for _ in range(60):
            receipts.append(alice.post())
            await receipts[-1].wait(timeout=LIMIT)
            # One at a time: how many go into one write must not depend on the clock.
            await eventually(lambda: alice.core.dialers._v1[bob.address].is_settled)
        numbers = []
        while (message := bob.core.endpoint.inbox.take()) is not None:
            numbers.append(message.sequence_number)
        stats = alice.core.stats()
        return (
            numbers,
            [tuple(str(step.state) for step in receipt.history) for receipt in receipts],
            {"rewritten": stats.rewritten, "reconnections": stats.reconnections},
        )


@on_asyncio
async def test_the_same_seed_gives_the_same_faults() -> None:
    fates = [[MemoryNetwork(seed, loss=0.5, cut=0.5).fate() for _ in range(1)] for seed in (1, 1)]
    assert fates[0] == fates[1]
    networks = [MemoryNetwork(seed, delay=(0, 1), loss=0.3, cut=0.3) for seed in (5, 5, 6)]
    drawn = [[network.fate() for _ in range(100)] for network in networks]
    assert drawn[0] == drawn[1] != drawn[2]


@on_asyncio
async def test_the_same_seed_gives_the_same_trace() -> None:
    first, again = await trace(11), await trace(11)
    assert first == again
    assert first[2]["rewritten"] > 0
    assert len(first[0]) < 60, "some were lost without a word, as asked"


@on_both_loops
async def test_cuts_lose_and_double_nothing() -> None:
    """What was under way when a connection was cut is written again, and delivered once."""
    network = MemoryNetwork(3, delay=(0, 0.002), cut=0.3)
    config = quick(max_attempts=1000, retry_base_delay=0.001, retry_max_delay=0.002)
    async with OpenCore(config, network, BOB.did) as bob, OpenCore(config, network) as alice:
        alice.routing.update(BOB.did, bob.address)
        numbers: list[int] = []

        def has_all() -> bool:
            while (message := bob.core.endpoint.inbox.take()) is not None:
                numbers.append(message.sequence_number)
            return len(numbers) == 200

        for _ in range(200):
            alice.post()
            await asyncio.sleep(0)
        await eventually(has_all)
        # Not in order: see test_order_holds_over_a_reconnection in test_inbound.
        assert sorted(numbers) == list(range(1, 201))
        assert alice.core.stats().rewritten > 0


@pytest.mark.parametrize("wire", ["v1", "auto"])
@on_both_loops
async def test_two_loops_and_a_node_that_goes_away(wire: str) -> None:
    """Nodes of one network may live in different threads."""
    network = MemoryNetwork(delay=(0, 0.001))
    ready, done = threading.Event(), threading.Event()
    address: list[Target] = []
    numbers: list[int] = []

    async def receive() -> None:
        async with Node(BOB, quick(wire=wire), network=network) as bob:
            assert bob.address is not None
            address.append(bob.address)
            ready.set()
            for _ in range(300):
                message = await bob.receive(LIMIT)
                assert message is not None
                numbers.append(message.sequence_number)
            await asyncio.to_thread(done.wait, LIMIT)

    thread = threading.Thread(target=asyncio.run, args=(receive(),))
    async with no_leaks():
        thread.start()
        await asyncio.to_thread(ready.wait, LIMIT)
        async with Node(ALICE, quick(wire=wire), network=network) as alice:
            alice.routing.update(BOB.did, address[0])
            for _ in range(300):
                await alice.send(BOB.did, b"x")
            await eventually(lambda: len(numbers) == 300)
            done.set()
            await asyncio.to_thread(thread.join)
            receipt = alice.send_nowait(BOB.did, b"x")
            await eventually(lambda: receipt.state is DeliveryState.FAILED)
    assert numbers == list(range(1, 301))


@on_asyncio
async def test_ends_whose_other_end_is_gone_are_quiet() -> None:
    here, there = await connect(MemoryNetwork(delay=(0.001, 0.001)))
    calls: list[Callable[[], None]] = [
        lambda: here.stream.write(b"x"),
        there.stream.close,
        cast(Any, here.stream).break_off,
        here.stream.resume_reading,
    ]
    for call in calls:
        call()
    await eventually(lambda: here.events and there.events)
    await asyncio.sleep(0.005)
    assert there.data == b""


def test_a_listener_whose_loop_is_closed_refuses_and_frees_its_address() -> None:
    network = MemoryNetwork()
    target = Address("host", 1)
    left: list[Listener] = []

    async def leave() -> None:
        left.append(await network.listen(target, End))

    async def come() -> None:
        for _ in range(3):
            with pytest.raises(DialError) as error:
                await network.dial(target, End())
            assert error.value.kind is FailureKind.REFUSED
            assert network.cut_all() == 0, "no stream is kept"

    async def replace() -> None:
        await network.listen(target, End)
        left[0].close()  # late: another listener has the address
        with pytest.raises(ListenError):
            await network.listen(target, End)

    asyncio.run(leave())
    asyncio.run(replace())  # the address is free without a dial
    left.clear()
    asyncio.run(leave())
    asyncio.run(come())
    asyncio.run(replace())


class PatientLoop(asyncio.SelectorEventLoop):
    """A loop that has often run the calls of other threads before those threads go on."""

    def __init__(self, is_done: threading.Event) -> None:
        super().__init__()
        self._thread = threading.get_ident()
        self._is_done = is_done

    def call_soon_threadsafe(
        self, callback: Callable[[*Args], object], *args: *Args, context: Context | None = None
    ) -> asyncio.Handle:
        handle = super().call_soon_threadsafe(callback, *args, context=context)
        if threading.get_ident() != self._thread:
            self._is_done.wait(0.2)
        return handle


class ClosesAtOnce(End):
    """An end that closes as soon as it is open."""

    def __init__(self, is_done: threading.Event) -> None:
        super().__init__()
        self._is_done = is_done

    def connected(self, stream: Stream) -> None:
        super().connected(stream)
        stream.close()

    def lost(self, error: Exception | None) -> None:
        super().lost(error)
        self._is_done.set()


@on_asyncio
async def test_an_end_of_another_thread_that_closes_at_once_is_forgotten() -> None:
    network, is_done, is_over = MemoryNetwork(), threading.Event(), threading.Event()
    listening: Future[Listener] = Future()

    async def accept_until_the_end() -> None:
        listening.set_result(
            await network.listen(Address("host", 0), lambda: ClosesAtOnce(is_done))
        )
        await eventually(is_over.is_set)

    def run_patiently() -> None:
        with asyncio.Runner(loop_factory=lambda: PatientLoop(is_done)) as runner:
            runner.run(accept_until_the_end())

    thread = threading.Thread(target=run_patiently)
    thread.start()
    try:
        here, address = End(), listening.result(LIMIT).address
        await network.dial(address, here)
        await eventually(lambda: here.is_lost and is_done.is_set())
        assert network.cut_all() == 0
        assert network._streams == set()
    finally:
        is_over.set()
        await asyncio.to_thread(thread.join)
