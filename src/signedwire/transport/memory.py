"""A network in memory, for tests: byte streams with seeded delay, loss and cuts.

    network = MemoryNetwork(seed=7, delay=(0.001, 0.02), cut=0.01)
    async with Node(alice, config, network=network) as a, \\
               Node(bob, config, network=network) as b: ...

Everything above the byte stream, from queues to signatures, is the same as over TCP. Nodes listen
on any target; port 0 gets a free one. They may live in different event loops and threads. Within
one loop, the same seed and the same calls give the same faults.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from signedwire.arguments import shown
from signedwire.errors import DialError, FailureKind, ListenError
from signedwire.home import Bound
from signedwire.transport.network import Listener, Receiver, Remote, Stream
from signedwire.types import Address, Target

__all__ = ["MemoryNetwork"]

_WINDOW: Final = 64 * 1024
"""Bytes that a stream holds for a reader that has paused, as the buffers of a socket do."""
_FIRST_FREE_PORT: Final = 49152
_CALLER: Final = Remote(Address("127.0.0.1", 0), "127.0.0.1", None)
"""The other side of an accepted stream: this process, so it is local."""


class MemoryNetwork(Bound, instead="give the same one to every node, in one process"):
    """Byte streams in memory, between the nodes that have the same `MemoryNetwork`.

    Args:
        seed: Seed of all random decisions.
        delay: Shortest and longest time, 0 to 86,400 seconds, until a write arrives. Writes
            arrive in order.
        loss: Probability, 0 to 1, that a write is lost and its stream goes on. TCP never does
            that; the layers above must survive it nevertheless.
        cut: Probability, 0 to 1, that a write breaks its connection instead of arriving.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        delay: tuple[float, float] = (0.0, 0.0),
        loss: float = 0.0,
        cut: float = 0.0,
    ) -> None:
        if not (0 <= loss <= 1 and 0 <= cut <= 1):
            raise ValueError(f"loss {loss} and cut {cut} are probabilities, 0 to 1")
        if not isinstance(delay, tuple) or len(delay) != 2:
            raise TypeError(f"delay {shown(delay)} is not (shortest, longest) in seconds")
        if not 0 <= delay[0] <= delay[1] <= 86_400:
            raise ValueError(f"delay {delay} is not (shortest, longest) in seconds")
        self.seed = seed
        self.delay = delay
        self.loss = loss
        self.cut = cut
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._listeners: dict[Target, _MemoryListener] = {}
        self._streams: set[_Stream] = set()
        self._next_port = _FIRST_FREE_PORT

    def __repr__(self) -> str:
        shortest, longest = self.delay
        return (
            f"<MemoryNetwork seed={self.seed} delay={shortest:g}-{longest:g} s loss={self.loss:g} "
            f"cut={self.cut:g}, {len(self._listeners)} listeners>"
        )

    async def dial(self, target: Target, receiver: Receiver) -> Stream:
        """See `Network.dial`."""
        listener = self._listeners.get(target)
        if listener is not None and listener.loop.is_closed():
            listener.close()  # its node did not: the address is free, as that of a dead process
            listener = None
        if listener is None:
            raise DialError(target, "connection refused", kind=FailureKind.REFUSED)
        loop = asyncio.get_running_loop()
        here = _Stream(self, loop, receiver, Remote(target, _host_of(target), None))
        there = _Stream(self, listener.loop, listener.accept(), _CALLER)
        here.other, there.other = there, here
        # The other end is connected first: the receiver of this end may write at once.
        try:
            listener.loop.call_soon_threadsafe(there.begin)
        except RuntimeError:  # its loop was closed just now
            raise DialError(target, "connection refused", kind=FailureKind.REFUSED) from None
        with self._lock:
            self._streams |= {here, there}
        receiver.connected(here)
        return here

    async def listen(self, target: Target, accept: Callable[[], Receiver]) -> Listener:
        """See `Network.listen`."""
        with self._lock:
            if isinstance(target, Address) and target.port == 0:
                while Address(target.host, self._next_port) in self._listeners:
                    self._next_port += 1
                target = Address(target.host, self._next_port)
                self._next_port += 1
            present = self._listeners.get(target)
            if present is not None and not present.loop.is_closed():
                raise ListenError(target, "the port is in use", "Choose another, or use port 0")
            listener = _MemoryListener(self, target, asyncio.get_running_loop(), accept)
            self._listeners[target] = listener
            return listener

    def cut_all(self) -> int:
        """Break all open connections; return how many there were."""
        with self._lock:
            streams = tuple(self._streams)
        for stream in streams:
            stream.break_off()
        return len(streams) // 2

    def fate(self) -> tuple[float, bool, bool]:
        """Draw the fate of the next write: (delay in seconds, is_lost, is_cut)."""
        with self._lock:
            draw = self._random
            return (
                draw.uniform(*self.delay),
                draw.random() < self.loss,
                draw.random() < self.cut,
            )

    def _remove_listener(self, listener: _MemoryListener) -> None:
        """Free the address of a listener."""
        with self._lock:
            if self._listeners.get(listener.address) is listener:
                del self._listeners[listener.address]

    def _remove_stream(self, stream: _Stream) -> None:
        """Forget a stream that has ended."""
        with self._lock:
            self._streams.discard(stream)


class _MemoryListener:
    def __init__(
        self,
        network: MemoryNetwork,
        address: Target,
        loop: asyncio.AbstractEventLoop,
        accept: Callable[[], Receiver],
    ) -> None:
        self._network = network
        self.address = address
        self.loop = loop
        self.accept = accept

    def close(self) -> None:
        self._network._remove_listener(self)

    shut_down = close


class _Stream(Stream):
    """One end of a connection. Its receiver is called in the event loop of this end.

    `write` of the other end may be called in another loop and thread.
    """

    other: _Stream

    def __init__(
        self,
        network: MemoryNetwork,
        loop: asyncio.AbstractEventLoop,
        receiver: Receiver,
        remote: Remote,
    ) -> None:
        self._remote = remote
        self._network = network
        self._loop = loop
        self._receiver = receiver
        self._lock = threading.Lock()
        self._arriving: deque[tuple[float, bytes | None]] = deque()  # None: end of stream
        self._in_transit = 0  # bytes that were written here and that the other end has not read
        self._last_due = 0.0
        self._is_reading = True
        self._is_closing = False
        self._is_gone = False
        self._is_full = False  # `writable` is due

    def begin(self) -> None:
        """Report that the stream is open. Called in the event loop of its receiver."""
        self._receiver.connected(self)

    @property
    def remote(self) -> Remote:
        """See `Stream`."""
        return self._remote

    def set_receiver(self, receiver: Receiver) -> None:
        """See `Stream`."""
        self._receiver = receiver

    # -- writing: in the loop of this end ----------------------------------------------------------

    def write(self, data: bytes) -> None:
        """See `Stream`."""
        if self._is_closing or not data:
            return
        delay, is_lost, is_cut = self._network.fate()
        if is_cut:
            self.break_off()
            return
        if is_lost:
            return
        with self._lock:
            self._in_transit += len(data)
            self._is_full = self._in_transit > _WINDOW
        self.other._arrive(data, delay)

    def waiting(self) -> int:
        """See `Stream`: the bytes that the buffers of a socket would not hold."""
        return max(0, self._in_transit - _WINDOW)

    def unacknowledged(self) -> int | None:
        """See `Stream`: the bytes that the other end has not read."""
        return self._in_transit

    def is_closing(self) -> bool:
        """See `Stream`."""
        return self._is_closing

    def close(self) -> None:
        """See `Stream`."""
        if not self._is_closing:
            self._is_closing = True
            self.other._arrive(None, 0.0)
            self._loop.call_soon_threadsafe(self._end, None)

    def abort(self) -> None:
        """See `Stream`. Bytes on the way are lost; the other end sees the end of the stream."""
        if not self._is_closing:
            self.other._call(self.other._drop_arriving)
            self.close()

    def break_off(self) -> None:
        """Break the connection at both ends. Bytes on the way are lost."""
        for end in (self, self.other):
            end._is_closing = True
            end._call(end._end, ConnectionResetError("the connection was cut"))

    def peer_has_closed(self) -> bool:
        """See `Stream`."""
        return bool(self._arriving)

    # -- reading: `_arrive` is called in the other loop, all else in the loop of this end --

    def pause_reading(self) -> None:
        """See `Stream`."""
        self._is_reading = False

    def resume_reading(self) -> None:
        """See `Stream`."""
        self._is_reading = True
        self._call(self._read)

    def _arrive(self, data: bytes | None, delay: float) -> None:
        with self._lock:
            # The clock of the loop that reads, whichever loop writes.
            self._last_due = max(self._last_due, self._loop.time() + delay)
            self._arriving.append((self._last_due, data))
        self._call(self._read)

    def _drop_arriving(self) -> None:
        """Drop the bytes on the way, but not the end of the stream."""
        while self._arriving and self._arriving[0][1] is not None:
            self._arriving.popleft()

    def _call(self, callback: Callable[..., None], *args: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, *args)

    def _read(self) -> None:
        while self._arriving and self._is_reading and not self._is_gone:
            due, data = self._arriving[0]
            now = self._loop.time()
            if due > now:
                self._loop.call_at(due, self._read)
                return
            self._arriving.popleft()
            if self._is_closing:
                continue
            if data is None:
                self._receiver.ended()
            else:
                self.other._on_read(len(data))
                self._receiver.received(data)

    def _on_read(self, size: int) -> None:
        with self._lock:
            self._in_transit -= size
            is_due = self._is_full and self._in_transit <= _WINDOW
            if is_due:
                self._is_full = False
        if is_due:
            self._call(self._report_writable)

    def _report_writable(self) -> None:
        # If the stream is full again, the call comes later.
        if not self._is_gone and not self._is_full:
            self._receiver.writable()

    def _end(self, error: Exception | None) -> None:
        if not self._is_gone:
            self._is_gone = True
            self._network._remove_stream(self)
            self._receiver.lost(error)


def _host_of(target: Target) -> str:
    return target.host if isinstance(target, Address) else str(target)
