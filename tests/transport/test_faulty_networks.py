"""A network of the application that raises: one stream ends, and all else goes on.

The tables say which call raises, and what the node does meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
import warnings
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import pytest
from test_link import meet

from netkit import End
from signedwire import (
    Address,
    DeliveryFailedError,
    DialError,
    FailureKind,
    Listener,
    MemoryNetwork,
    Node,
    Reason,
    Receiver,
    Remote,
    Stream,
    Target,
    TcpNetwork,
    WrongContextError,
)
from signedwire.logs import EventLog
from signedwire.transport.guarded_stream import GuardedStream
from signedwire.types import PeerState
from tlskit import quick
from wirekit import (
    ALICE,
    BOB,
    CAROL,
    LIMIT,
    eventually,
    identity,
    on_asyncio,
    on_both_loops,
    signedwire_threads,
    within,
)

OTHERS: Final = (CAROL, identity(7))
LOG: Final = EventLog(logging.getLogger("signedwire.transport"))


class Faults:
    """The calls that raise, and how often they did."""

    def __init__(self) -> None:
        self.names: frozenset[str] = frozenset()
        self.error: BaseException = OSError("my fault")
        self.fired = 0

    def arm(self, *names: str, error: BaseException) -> None:
        """Let these calls raise, from now on; none: let no call raise."""
        self.names, self.error, self.fired = frozenset(names), error, 0

    def end(self) -> None:
        """Let no call raise any more."""
        self.names = frozenset()

    def look(self, name: str) -> None:
        if name in self.names:
            self.fired += 1
            raise self.error


class FaultyStream:
    """A stream, between a node and the memory network, whose calls raise as `Faults` says."""

    def __init__(self, inner: Stream, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not callable(value):
            self._faults.look(name)
            return value

        def call(*args: Any) -> Any:
            self._faults.look(name)
            return value(*args)

        return call


class Relay:
    """Gives its receiver a faulty stream instead of the real one."""

    def __init__(self, receiver: Receiver, faults: Faults) -> None:
        self._receiver = receiver
        self._faults = faults

    def connected(self, stream: Stream) -> None:
        faulty: Any = FaultyStream(stream, self._faults)
        self._receiver.connected(faulty)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._receiver, name)


class FaultyListener:
    def __init__(self, inner: Listener, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    @property
    def address(self) -> Target:
        self._faults.look("listener.address")
        return self._inner.address

    def close(self) -> None:
        self._inner.close()
        self._faults.look("listener.close")

    def shut_down(self) -> None:
        self._inner.shut_down()
        self._faults.look("listener.shut_down")


class FaultyNetwork:
    """The memory network. Streams made while `is_faulty` is true raise as `faults` says."""

    def __init__(self, memory: MemoryNetwork) -> None:
        self.memory = memory
        self.faults = Faults()
        self.is_faulty = False
        """Whether a stream that is made now may raise."""

    async def dial(self, target: Target, receiver: Receiver) -> Stream:
        return await self.memory.dial(target, self._relay(receiver))

    async def listen(self, target: Target, accept: Callable[[], Receiver]) -> Listener:
        def relayed() -> Receiver:
            return self._relay(accept())

        return FaultyListener(await self.memory.listen(target, relayed), self.faults)

    def _relay(self, receiver: Receiver) -> Receiver:
        return cast(Receiver, Relay(receiver, self.faults if self.is_faulty else Faults()))


class Group:
    """BOB, over a network whose streams to ALICE are faulty, and peers with links to him."""

    def __init__(self, bob: Node, alice: Node, others: list[Node], network: FaultyNetwork) -> None:
        self.bob, self.alice, self.others, self.network = bob, alice, others, network
        self.faults = network.faults

    async def works_for_all(self, text: bytes) -> None:
        """Messages go both ways between BOB and each peer."""
        for peer in (self.alice, *self.others):
            await within(LIMIT, peer.send(self.bob.did, text, until="accepted"))
            await within(LIMIT, self.bob.send(peer.did, text, until="accepted"))


@contextlib.asynccontextmanager
async def group(tmp_path: Path) -> AsyncIterator[Group]:
    network = FaultyNetwork(MemoryNetwork())
    config = quick(store=tmp_path / "bob.db", evidence=tmp_path / "bob.log", close_timeout=3)
    async with contextlib.AsyncExitStack() as stack:
        others = [
            await stack.enter_async_context(Node(one, quick(), network=network.memory))
            for one in OTHERS
        ]
        alice = await stack.enter_async_context(Node(ALICE, quick(), network=network.memory))
        bob = await stack.enter_async_context(Node(BOB, config, network=network))
        for peer in (*others, alice):
            meet(peer, bob)
            meet(bob, peer)
        for peer in others:
            await within(LIMIT, peer.send(bob.did, b"hello", until="accepted"))
        network.is_faulty = True
        yield Group(bob, alice, others, network)


def link_of(node: Node) -> float:
    """When the link of a peer to BOB was opened."""
    return node.peers()[BOB.did].since


def has_no_link(node: Node) -> bool:
    return node.peers()[BOB.did].state is not PeerState.CONNECTED


async def use_input(one: Group) -> None:
    await within(LIMIT, one.alice.send(BOB.did, b"in", until="accepted"))


async def use_output(one: Group) -> None:
    await within(LIMIT, one.bob.send(ALICE.did, b"out", until="accepted"))


async def use_deny(one: Group) -> None:
    one.bob.access.deny(ALICE.did)
    await eventually(partial(has_no_link, one.alice))
    one.bob.access.undeny(ALICE.did)


async def use_probe(one: Group) -> None:
    await within(LIMIT, one.bob.probe(ALICE.did, timeout=1))


PHASES: Final = {
    "input": use_input,
    "output": use_output,
    "deny": use_deny,
    "probe": use_probe,
}
TABLE: Final = [
    ("start", "remote"),
    ("start", "is_closing"),
    ("start", "write"),
    ("start", "waiting"),
    ("input", "is_closing"),
    ("input", "write"),
    ("input", "waiting"),
    ("output", "is_closing"),
    ("output", "write"),
    ("output", "waiting"),
    ("output", "unsent"),
    ("deny", "is_closing"),
    ("deny", "write"),
    ("deny", "waiting"),
    ("deny", "close"),
    ("probe", "remote"),
    ("probe", "write"),
    ("probe", "waiting"),
    ("probe", "is_closing"),
    ("probe", "close"),
    ("probe", "round_trip"),
]
each_error = pytest.mark.parametrize(
    "error", [OSError("my fault"), asyncio.CancelledError()], ids=["OSError", "CancelledError"]
)


@pytest.mark.parametrize(("phase", "call"), TABLE)
@each_error
@on_both_loops
async def test_a_call_of_one_stream_raises(
    phase: str,
    call: str,
    error: BaseException,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with group(tmp_path) as one:
        if phase == "start":
            one.faults.arm(call, error=error)
            sent = one.alice.send_nowait(BOB.did, b"first")
            await eventually(lambda: one.faults.fired)
            one.faults.end()
            await within(LIMIT, sent.wait("accepted"))
        else:
            await one.works_for_all(b"before")
            one.faults.arm(call, error=error)
            work = asyncio.create_task(PHASES[phase](one))
            await eventually(lambda: one.faults.fired)
            one.faults.end()
            await within(LIMIT, work)
        assert f"failed in {call}, so that connection ends" in caplog.text
        before = [link_of(peer) for peer in one.others]
        await one.works_for_all(b"after")
        assert [link_of(peer) for peer in one.others] == pytest.approx(before, abs=0.01), (
            "the links of the others stayed"
        )


CLOSE: Final = ("is_closing", "write", "waiting", "close", "listener.close")


@pytest.mark.parametrize("call", CLOSE)
@each_error
@on_both_loops
async def test_a_call_raises_while_the_node_closes(
    call: str, error: BaseException, tmp_path: Path
) -> None:
    async with group(tmp_path) as one:
        await one.works_for_all(b"before")
        bob = one.bob

        async def read_all() -> None:
            async for _ in bob.messages():
                pass

        reading = asyncio.create_task(read_all())
        await asyncio.sleep(0)
        one.faults.arm(call, error=error)
        await within(LIMIT, bob.close())
        assert one.faults.fired
        await within(LIMIT, bob.close())
        await within(LIMIT, reading)
        for peer in (one.alice, *one.others):
            await eventually(partial(has_no_link, peer))
        assert not {thread for thread in signedwire_threads() if "disk" in thread.name}
        again = Node(BOB, bob.config, network=one.network.memory)
        await again.start()  # store, evidence log and address are free
        await again.close()


@on_both_loops
async def test_all_calls_of_a_stream_raise_and_go_on_raising(tmp_path: Path) -> None:
    async with group(tmp_path) as one:
        await one.works_for_all(b"before")
        one.faults.arm(*CALLS, error=RuntimeError("always"))
        one.alice.send_nowait(BOB.did, b"x")
        await eventually(lambda: one.faults.fired > 1)
        for peer in one.others:
            await within(LIMIT, peer.send(BOB.did, b"good", until="accepted"))
            await within(LIMIT, one.bob.send(peer.did, b"good", until="accepted"))
        await within(LIMIT, one.bob.close())


@pytest.mark.parametrize("call", ["listener.close", "listener.address"])
@on_asyncio
async def test_a_listener_raises_when_a_start_fails(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = FaultyNetwork(MemoryNetwork())
    config = quick(store=tmp_path / "bob.db")
    network.faults.arm(call, error=OSError("my fault"))
    node = Node(BOB, config, network=network)
    if call == "listener.close":

        def fail(*_: object) -> None:
            raise RuntimeError("no clock")

        monkeypatch.setattr("signedwire.transport.core.ClockWatch", fail)
    with pytest.raises((OSError, RuntimeError)):
        await node.start()
    assert network.faults.fired
    monkeypatch.undo()
    network.faults.end()
    await within(LIMIT, node.close())
    again = Node(BOB, config, network=network)
    await again.start()
    await again.close()


# -- attempts to connect ---------------------------------------------------------------


class FaultyDialing(TcpNetwork):
    """A TCP network in which one call raises. It counts the calls."""

    def __init__(self, call: str, error: BaseException) -> None:
        self.call, self.error, self.calls = call, error, 0

    async def resolve(self, target: Target) -> Any:
        await self._look("resolve")
        return await super().resolve(target)

    async def dial(self, target: Target, receiver: Receiver, resolved: Any = None) -> Stream:
        await self._look("dial")
        return await super().dial(target, receiver, resolved)

    async def _look(self, call: str) -> None:
        if call != self.call:
            return
        self.calls += 1
        if isinstance(self.error, asyncio.CancelledError):
            task = asyncio.ensure_future(asyncio.sleep(LIMIT))
            task.cancel()
            await task
        raise self.error


DIAL_FAULTS: Final = [asyncio.CancelledError(), GeneratorExit(), KeyError("my fault")]
each_dial_fault = pytest.mark.parametrize("error", DIAL_FAULTS, ids=repr)
each_step = pytest.mark.parametrize("call", ["resolve", "dial"])


def faults_in(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Return address and error of each logged fault."""
    records: list[Any] = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert {one.event for one in records} <= {"dial fault"}
    return [(one.address, one.error) for one in records]


@each_step
@each_dial_fault
@pytest.mark.parametrize("wire", ["auto", "v1"])
@on_both_loops
async def test_an_attempt_that_raises_has_failed(
    wire: Any, call: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    network = FaultyDialing(call, error)
    config = quick(
        wire=wire, v1_peers="all" if wire == "v1" else (), max_attempts=3, close_timeout=1
    )
    async with Node(ALICE, config, network=network) as node:
        node.routing.update(BOB.did, "127.0.0.1:9")
        with pytest.raises(DeliveryFailedError) as caught:
            await within(LIMIT, node.send(BOB.did, b"x"))
        assert caught.value.reason is Reason.ATTEMPTS_EXHAUSTED
        words = f"cannot connect to 127.0.0.1:9: {error!r}"
        assert caught.value.receipt.detail == words
        assert node.peers()[BOB.did].last_error == words
        assert (network.calls, node.stats().dial_failures) == (3, 3)
    assert faults_in(caplog) == [("127.0.0.1:9", type(error).__name__)] * 3


@each_step
@each_dial_fault
@pytest.mark.parametrize("as_stranger", [False, True])
@on_both_loops
async def test_a_probe_that_raises_has_failed(
    as_stranger: bool, call: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    network = FaultyDialing(call, error)
    async with Node(ALICE, quick(wire="auto"), network=network) as node:
        found = await within(
            LIMIT, node.probe(BOB.did, Address("127.0.0.1", 9), as_stranger=as_stranger)
        )
        assert found.address == Address("127.0.0.1", 9)
        assert (found.failure, found.error) == (FailureKind.OTHER, f"cannot connect: {error!r}")
        results = [one async for one in node.probes(BOB.did, "127.0.0.1:9")]
        assert [one.failure for one in results] == [FailureKind.OTHER]
    assert faults_in(caplog) == [("127.0.0.1:9", type(error).__name__)] * 2


class Waits(TcpNetwork):
    """A TCP network that waits in one call. It turns its cancellation into another error."""

    def __init__(self, call: str, error: BaseException | None) -> None:
        self.call, self.error, self.calls = call, error, 0

    async def resolve(self, target: Target) -> Any:
        return await self._wait("resolve")

    async def dial(self, target: Target, receiver: Receiver, resolved: Any = None) -> Stream:
        await self._wait("dial")
        raise AssertionError

    async def _wait(self, call: str) -> None:
        if call != self.call:
            return
        self.calls += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if self.error is not None:
                raise self.error from None
            raise


ENDS: Final = [
    None,
    KeyError("my fault"),
    DialError(Address("127.0.0.1", 9), "cancelled"),
    GeneratorExit(),
    TimeoutError(),
]


@each_step
@pytest.mark.parametrize("error", ENDS, ids=repr)
@pytest.mark.parametrize("wire", ["auto", "v1"])
@on_both_loops
async def test_a_node_closes_whatever_a_cancelled_attempt_raises(
    wire: Any, error: BaseException | None, call: str
) -> None:
    network = Waits(call, error)
    config = quick(
        wire=wire,
        v1_peers="all" if wire == "v1" else (),
        connect_timeout=None,
        close_timeout=0.02,
    )
    async with Node(ALICE, config, network=network) as node:
        node.routing.update(BOB.did, "127.0.0.1:9")
        sent = node.send_nowait(BOB.did, b"x")
        await eventually(lambda: network.calls)
        await within(LIMIT, node.close())
        assert sent.reason is Reason.CLOSED
    assert network.calls == 1


@each_step
@on_both_loops
async def test_a_probe_is_cancelled_and_a_limit_is_kept(call: str) -> None:
    network = Waits(call, None)
    async with Node(ALICE, quick(wire="auto"), network=network) as node:
        probing = asyncio.create_task(node.probe(BOB.did, "127.0.0.1:9"))
        await eventually(lambda: network.calls)
        probing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await within(LIMIT, probing)
        found = await within(LIMIT, node.probe(BOB.did, "127.0.0.1:9", timeout=0.01))
        assert found.failure is FailureKind.TIMED_OUT


@pytest.mark.parametrize(
    ("call", "kind"),
    [("resolve", FailureKind.NAME_SERVER_SILENT), ("dial", FailureKind.TIMED_OUT)],
)
@on_both_loops
async def test_a_network_with_limits_of_its_own(call: str, kind: FailureKind) -> None:
    network = FaultyDialing(call, TimeoutError())
    async with Node(ALICE, quick(wire="auto", connect_timeout=None), network=network) as node:
        found = await within(LIMIT, node.probe(BOB.did, "127.0.0.1:9"))
        assert found.failure is kind
        assert (found.error or "").endswith("in time")


@pytest.mark.parametrize("step", ["resolve", "dial", "handshake", "pause"])
@pytest.mark.parametrize("wire", ["auto", "v1"])
def test_a_dialer_that_is_collected_with_its_loop_does_nothing(
    wire: Any, step: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """A loop was closed before its node was: there is no network to blame, and none to use."""
    if step == "handshake" and wire == "v1":
        pytest.skip("v1 has none")

    async def begin(port: int) -> Node:
        network = Waits(step, None) if step in ("resolve", "dial") else TcpNetwork()
        config = quick(
            wire=wire,
            v1_peers="all" if wire == "v1" else (),
            retry_base_delay=60,  # or the loop may be closed amid a new attempt
            retry_max_delay=60,
        )
        node = Node(ALICE, config, network=network)
        await node.start()
        node.routing.update(BOB.did, f"127.0.0.1:{port}")
        node.send_nowait(BOB.did, b"x")
        state = PeerState.BACKING_OFF if step == "pause" else PeerState.DIALING
        await eventually(lambda: node.peers()[BOB.did].state is state)
        await asyncio.sleep(0.02)
        return node

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        if step != "pause":
            held.listen()
        loop = asyncio.new_event_loop()
        node = loop.run_until_complete(begin(held.getsockname()[1]))
        loop.close()

        async def use_another_loop() -> None:
            nonlocal node
            with pytest.raises(WrongContextError):
                await node.close()
            del node
            await asyncio.sleep(0)
            gc.collect()

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            asyncio.run(use_another_loop())
    told = [one.getMessage() for one in caplog.records if one.name.startswith("signedwire")]
    assert not [text for text in told if "unexpected" in text]
    assert "Exception ignored" not in capsys.readouterr().err


# -- the guard alone -------------------------------------------------------------------


class Scripted:
    """A stream that does what a test says; it notes its calls."""

    def __init__(self, **results: Any) -> None:
        self._results: dict[str, Any] = {"remote": Remote(None, "host", None), **results}
        self.calls: list[str] = []

    @property
    def remote(self) -> Any:
        return self._result("remote")

    def _result(self, name: str) -> Any:
        self.calls.append(name)
        result = self._results.get(name)
        if isinstance(result, BaseException):
            raise result
        return result

    def __getattr__(self, name: str) -> Any:
        return lambda *_: self._result(name)


def guard(**results: Any) -> tuple[GuardedStream, End, Scripted]:
    end = End()
    stream: Any = Scripted(**results)
    guarded = GuardedStream(end, LOG)
    guarded.connected(stream)
    return guarded, end, stream


@pytest.mark.parametrize("remote", [None, ("target", "host", None), OSError("no"), ("host", None)])
@on_asyncio
async def test_a_stream_without_a_remote_counts_as_a_stranger_and_ends(remote: Any) -> None:
    guarded, end, stream = guard(remote=remote)
    assert end.is_connected
    assert guarded.remote.group is not None, "it is not taken for this machine"
    assert guarded.is_closing()
    assert end.events == [], "nothing before the next turn"
    await asyncio.sleep(0)
    assert [type(event) for event in end.events] == [ConnectionError]
    assert "abort" in stream.calls


VALUES: Final = [("waiting", None, 0), ("waiting", -5, 0), ("unsent", "1", 0), ("unsent", 7, 7)]


@pytest.mark.parametrize(("call", "value", "seen"), VALUES)
@on_asyncio
async def test_a_number_that_is_none(call: str, value: Any, seen: int) -> None:
    guarded, end, _ = guard(**{call: value})
    assert getattr(guarded, call)() == seen
    await asyncio.sleep(0)
    assert end.is_lost == (not isinstance(value, int))


CALLS: Final = {
    "write": (b"x",),
    "waiting": (),
    "unsent": (),
    "pause_reading": (),
    "resume_reading": (),
    "close": (),
    "abort": (),
    "is_closing": (),
    "is_reset": (),
    "unacknowledged": (),
    "peer_has_closed": (),
    "round_trip": (),
}


@pytest.mark.parametrize("call", CALLS)
@each_error
@on_asyncio
async def test_each_call_that_raises_ends_the_stream_once(
    call: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    names = {name for name, value in vars(Stream).items() if not name.startswith("_")}
    assert set(CALLS) == names - {"remote", "set_receiver"}, (
        "a call of a stream is not in the table"
    )
    guarded, end, stream = guard(**{"abort": error, call: error})
    for _ in range(2):
        getattr(guarded, call)(*CALLS[call])
    assert guarded.is_closing()
    guarded.received(b"late")
    guarded.ended()
    guarded.writable()
    await asyncio.sleep(0)
    guarded.lost(None)
    assert [type(event) for event in end.events] == [ConnectionError]
    assert not end.data
    assert caplog.text.count("so that connection ends") == 1
    assert stream.calls.count("abort") <= 2


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit()], ids=["interrupt", "exit"])
@on_asyncio
async def test_the_end_of_the_program_is_not_held_back(error: BaseException) -> None:
    guarded, _, _ = guard(write=error)
    with pytest.raises(type(error)):
        guarded.write(b"x")
    guarded.lost(None)


@on_asyncio
async def test_reports_beyond_the_contract_are_ignored() -> None:
    end = End()
    guarded = GuardedStream(end, LOG)
    guarded.received(b"before it is connected")
    guarded.writable()
    stream: Any = Scripted()
    guarded.connected(stream)
    guarded.connected(stream)
    guarded.received(b"")
    guarded.received(b"x")
    guarded.lost(None)
    guarded.lost(OSError())
    guarded.received(b"late")
    assert end.data == b"x"
    assert end.events == [None]


@on_asyncio
async def test_a_fault_of_the_receiver_ends_its_stream_alone() -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    guarded, end, stream = guard()
    end.events.append("ended")  # so that `received` is against its contract
    guarded.received(b"x")  # does not raise into the backend
    await asyncio.sleep(0)
    assert end.is_lost
    assert stream.calls == ["remote", "abort"]
    assert [context["message"] for context in told] == [
        "a report of the stream with host could not be processed"
    ]
