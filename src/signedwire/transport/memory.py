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
from collections.abc import Callable
from typing import Final

from signedwire.arguments import shown
from signedwire.errors import DialError, FailureKind, ListenError
from signedwire.home import Bound
from signedwire.transport.memory_stream import Fate, MemoryStream
from signedwire.transport.network import Listener, Receiver, Remote, Stream
from signedwire.types import Address, Target

__all__ = ["MemoryNetwork"]

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
        self._streams: set[MemoryStream] = set()
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
        callee = Remote(target, _host_of(target), None)
        draw_fate, on_end = self.fate, self._remove_stream
        here = MemoryStream(loop, receiver, callee, draw_fate, on_end)
        there = MemoryStream(listener.loop, listener.accept(), _CALLER, draw_fate, on_end)
        here.other, there.other = there, here
        # The other end is connected first: the receiver of this end may write at once. It may
        # also end at once, in its thread; the lock has it forgotten after it was noted.
        try:
            with self._lock:
                listener.loop.call_soon_threadsafe(there.begin)
                self._streams |= {here, there}
        except RuntimeError:  # its loop was closed just now
            raise DialError(target, "connection refused", kind=FailureKind.REFUSED) from None
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

    def fate(self) -> Fate:
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

    def _remove_stream(self, stream: MemoryStream) -> None:
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


def _host_of(target: Target) -> str:
    return target.host if isinstance(target, Address) else str(target)
