"""What the tests of transport, node and sync share: both event loops, raw sockets, leak checks.

A test under `@on_asyncio` or `@on_both_loops` fails if it leaves a task, thread or socket
behind, or if anything reached the loop's exception handler.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import logging
import os
import random
import socket
import struct
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import pytest

from idkit import id_of, number_of
from signedwire import (
    Address,
    Did,
    Identity,
    PayloadType,
    Priority,
    Receipt,
    RoutingTable,
    SignedEnvelope,
    Target,
    TransportConfig,
)
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.send_options import SendOptions
from signedwire.transport.core import NodeCore
from signedwire.transport.network import Listener, Network, Receiver, Stream
from signedwire.transport.tcp import TcpNetwork
from signedwire.wire.frames import FrameDecoder, encode_frame

try:
    import uvloop
except ImportError:
    uvloop = None  # type: ignore[assignment]

# What was there before any test need not be looked at after each of them: 50 ms a time.
gc.collect()
gc.freeze()

if TYPE_CHECKING:
    from signedwire.transport.v1.intake import V1Intake

T = TypeVar("T")
Test = Callable[..., Coroutine[Any, Any, None]]

LOOPS: Final = [
    pytest.param(asyncio.new_event_loop, id="asyncio"),
    pytest.param(
        getattr(uvloop, "new_event_loop", None),
        id="uvloop",
        marks=pytest.mark.skipif(uvloop is None, reason="needs uvloop"),
    ),
]
SLACK: Final = 1.0
"""Seconds that a busy machine may add to a time that a test has an upper bound for."""
LIMIT: Final = 10.0
"""Seconds after which a wait for an event is a failure. Never waited out by a passing test."""


# -- running ---------------------------------------------------------------------


def on_both_loops(test: Test) -> Callable[..., None]:
    """Run an async test once on asyncio's loop and once on uvloop's."""
    marked: Callable[..., None] = pytest.mark.parametrize("loop_factory", LOOPS)(_checked(test))
    return marked


def on_asyncio(test: Test) -> Callable[..., None]:
    """Run an async test on asyncio's loop."""
    checked = _checked(test)
    marked: Callable[..., None] = pytest.mark.parametrize("loop_factory", LOOPS[:1])(checked)
    return marked


def _checked(test: Test) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, loop_factory: Callable[[], asyncio.AbstractEventLoop], **kw: Any) -> None:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(_watched(test(*args, **kw)))

    plain = inspect.signature(test)
    added = inspect.Parameter("loop_factory", inspect.Parameter.KEYWORD_ONLY)
    signature = plain.replace(parameters=[*plain.parameters.values(), added])
    run.__signature__ = signature  # type: ignore[attr-defined]
    return run


async def _watched(test: Coroutine[Any, Any, None]) -> None:
    unhandled: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: unhandled.append(context))
    await asyncio.sleep(0)
    async with asyncio.timeout(30), no_leaks():
        await test
    gc.collect()
    await asyncio.sleep(0)
    assert not unhandled, unhandled


def tcp_sockets() -> set[str]:
    """The TCP sockets that this process has open, by inode."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # listdir()'s own is gone, others may be
            inode = os.readlink(f"/proc/self/fd/{name}")
            if inode.startswith("socket:"):
                sock = socket.socket(fileno=int(name))
                if sock.family in (socket.AF_INET, socket.AF_INET6):
                    found.add(inode)
                sock.detach()
    return found


def signedwire_threads() -> set[threading.Thread]:
    """Our threads, by their names; not those that a loop keeps for `to_thread`."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("signedwire")}


class _SilentDisks(logging.Handler):
    """Notes whether a node has warned that its disk does not answer."""

    has_warned = False

    def emit(self, record: logging.LogRecord) -> None:
        """Look at a record of the package."""
        self.has_warned |= getattr(record, "event", "") == "disk silent"


@contextlib.asynccontextmanager
async def no_leaks() -> AsyncIterator[None]:
    """What is inside leaves no task, thread or socket.

    A thread may stay longer only if a node has warned of a silent disk, as on a busy machine.
    """
    tasks, threads, sockets = asyncio.all_tasks(), signedwire_threads(), tcp_sockets()
    log, disks = logging.getLogger("signedwire"), _SilentDisks()
    log.addHandler(disks)
    try:
        yield
    finally:
        log.removeHandler(disks)
    # Sockets are closed by callbacks of the next rounds of the loop.
    with contextlib.suppress(TimeoutError):
        await eventually(lambda: tcp_sockets() <= sockets, timeout=1)
    if disks.has_warned:
        with contextlib.suppress(TimeoutError):
            await eventually(lambda: signedwire_threads() <= threads, timeout=10)
    assert asyncio.all_tasks() <= tasks
    assert signedwire_threads() <= threads
    assert tcp_sockets() <= sockets


def random_seed() -> tuple[int, random.Random]:
    """A seed, and what it seeds. Printed, so that a failure shows it."""
    seed = random.randrange(2**32)
    sys.stdout.write(f"seed={seed}\n")
    return seed, random.Random(seed)


async def eventually(is_true: Callable[[], object], timeout: float = LIMIT) -> None:
    """Return as soon as the condition holds; TimeoutError after `timeout` seconds."""
    async with asyncio.timeout(timeout):
        while not is_true():
            await asyncio.sleep(0.001)


async def within(seconds: float, awaitable: Awaitable[T]) -> T:
    """The result, or TimeoutError."""
    async with asyncio.timeout(seconds):
        return await awaitable


# -- things ---------------------------------------------------------------------


@functools.cache
def identity(number: int) -> Identity:
    """The same key for the same number."""
    return Identity.from_seed(number.to_bytes(32, "big"))


ALICE: Final = identity(1)
BOB: Final = identity(2)
CAROL: Final = identity(3)


def receipt_to(did: Did, number: int) -> OutgoingMessage:
    """The receipt of a message without a node."""
    return OutgoingMessage(SendOptions(did, Priority.NORMAL), id_of(number))


def quick(**changes: Any) -> TransportConfig:
    """v1, with pauses and limits of a tenth or less of the defaults."""
    values: dict[str, Any] = {
        "wire": "v1",
        "v1_peers": "all",
        "retry_base_delay": 0.005,
        "retry_max_delay": 0.05,
        "connect_timeout": 1.0,
        "close_timeout": 0.25,
    }
    return TransportConfig(**(values | changes))


def sealed(
    number: int,
    payload: bytes = b"",
    *,
    sender: Identity = ALICE,
    recipient: Did = BOB.did,
    priority: Priority = Priority.NORMAL,
) -> SignedEnvelope:
    """A signed envelope."""
    return SignedEnvelope.sign(
        sender,
        recipient,
        payload,
        sequence_number=number,
        priority=priority,
        payload_type=PayloadType.RAW,
    )


def framed(envelope: SignedEnvelope) -> bytes:
    """As it is on the wire."""
    return encode_frame(envelope.encode())


class OpenCore:
    """A `Core` with its routing table, open inside `async with`, that posts numbered messages."""

    def __init__(
        self,
        config: TransportConfig | None = None,
        network: Network | None = None,
        us: Did | None = None,
    ) -> None:
        self.routing = RoutingTable()
        config = (config or quick()).replace(wire="v1")
        self.core = NodeCore(config, self.routing, network or TcpNetwork(), us, ALICE)
        self._next_number = 1

    async def __aenter__(self) -> Self:
        await self.core.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.core.close()

    def post(
        self,
        payload: bytes = b"",
        to: Did = BOB.did,
        *,
        priority: Priority = Priority.NORMAL,
        expires_at: float | None = None,
    ) -> Receipt:
        """Submit the next message; they are numbered from 1."""
        message = OutgoingMessage(
            SendOptions(to, priority, expires_at), id_of(self._next_number), payload
        )
        self.core.endpoint.submitter.submit(message, len(payload))
        self._next_number += 1
        return message

    @property
    def intake(self) -> V1Intake:
        """What its v1 connections share."""
        assert self.core._v1 is not None
        return self.core._v1.intake

    @property
    def address(self) -> Address:
        """Where it listens."""
        address = self.core.acceptor.address
        assert isinstance(address, Address)
        return address


# -- raw sockets -----------------------------------------------------------------


class RawServer:
    """A listening socket under the test's full control."""

    def __init__(
        self, port: int = 0, *, receive_buffer: int | None = None, backlog: int = 128
    ) -> None:
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.bind(("127.0.0.1", port))
        self.sock.listen(backlog)
        self.sock.setblocking(False)
        self.address = Address("127.0.0.1", self.sock.getsockname()[1])

    async def accept(self) -> RawLink:
        """The next connection."""
        async with asyncio.timeout(LIMIT):
            sock, _ = await asyncio.get_running_loop().sock_accept(self.sock)
        sock.setblocking(False)
        return RawLink(sock)

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RawLink:
    """One connection, accepted or dialed."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.bytes_read = 0
        self._decoder = FrameDecoder(2**24 - 1)
        self._frames: list[bytes] = []

    @classmethod
    async def dial(cls, address: Target) -> Self:
        """Connect."""
        sock = socket.socket()
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, tuple(address))
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    async def read(self) -> SignedEnvelope | None:
        """The next envelope; `None` at the end of the stream."""
        while not self._frames:
            data = await within(LIMIT, asyncio.get_running_loop().sock_recv(self.sock, 65536))
            if not data:
                return None
            self.bytes_read += len(data)
            self._frames += self._decoder.receive_data(data)
        return SignedEnvelope.decode(self._frames.pop(0))

    async def read_numbers(self, count: int) -> list[int]:
        """The numbers of the next `count` messages, fewer where the stream ends.

        They are those that `OpenCore.post()` gives them.
        """
        numbers: list[int] = []
        while len(numbers) < count and (envelope := await self.read()) is not None:
            numbers.append(number_of(envelope.message_id.hex()))
        return numbers

    async def write(self, data: bytes) -> None:
        await within(LIMIT, asyncio.get_running_loop().sock_sendall(self.sock, data))

    async def wait_closed(self) -> None:
        """Until the other side has closed or reset it."""
        with contextlib.suppress(ConnectionError):
            while await within(LIMIT, asyncio.get_running_loop().sock_recv(self.sock, 65536)):
                pass

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """Close with RST, whatever is unread or unsent."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def refusing_address() -> Iterator[Address]:
    """An address that refuses connections, and that nobody else can take meanwhile."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield Address("127.0.0.1", sock.getsockname()[1])


@contextlib.contextmanager
def blackhole() -> Iterator[Address]:
    """An address that never answers: its backlog is full, so SYNs are dropped."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        address = server.getsockname()
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        yield Address(*address)


# -- networks ---------------------------------------------------------------------


class RecordingNetwork:
    """A network that notes when it is asked to dial and can be held up or made to fail."""

    def __init__(self, network: Network | None = None) -> None:
        self.inner: Network = network or TcpNetwork()
        self.dialed_at: list[float] = []
        self.error: Exception | None = None
        """Raised by every dial, if set."""
        self.gate = asyncio.Event()
        """A dial waits for it; open at first."""
        self.gate.set()
        self.links: list[Stream] = []

    async def dial(self, target: Target, receiver: Receiver) -> Stream:
        self.dialed_at.append(asyncio.get_running_loop().time())
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        stream = await self.inner.dial(target, receiver)
        self.links.append(stream)
        return stream

    async def listen(self, target: Target, accept: Callable[[], Receiver]) -> Listener:
        return await self.inner.listen(target, accept)

    @property
    def pauses(self) -> list[float]:
        """Seconds between one dial and the next."""
        return [after - at for at, after in zip(self.dialed_at, self.dialed_at[1:], strict=False)]
