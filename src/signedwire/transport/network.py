"""The interface of a network backend, which carries the bytes of a node.

    class MyNetwork:                                   # any object that has these two
        async def dial(self, target, receiver): ...    # → Stream
        async def listen(self, target, accept): ...    # → Listener

    Node(identity, TransportConfig(listen="mine:/base"), network=MyNetwork())

A network makes ordered, reliable byte streams, as TCP does. It has to keep nothing secret
and need not know who is there: TLS and the DID proof happen above it. One network
may serve several nodes. All calls, in both directions, are made in the event loop of the
node, and none of them may block.

`TcpNetwork`, `UnixNetwork` and `MemoryNetwork` implement it; `examples/own_network.py` is
one more, in one file.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

from signedwire.types import Target

__all__ = [
    "Listener",
    "NeedsDescriptors",
    "Network",
    "Receiver",
    "Remote",
    "Resolving",
    "Stream",
]


class Remote(NamedTuple):
    """The other side of a stream, as the network sees it. It proves nothing.

    `target` and `host` appear in log lines, events and status. `group` is for admission:
    connections of one group share `max_unproven_per_host`.
    """

    target: Target | None
    """Where it is; `None` where the network cannot tell."""
    host: str
    """The host in words, for example an IP address."""
    group: str | None
    """The group that counts as one host, such as an IPv6 /56. `None`: this machine, no limit."""


class Receiver(Protocol):
    """The callbacks of a stream. The transport implements them; a backend calls them.

    `connected` comes first and `lost` last, once each; nothing comes after `lost`.
    """

    def connected(self, stream: Stream) -> None:
        """The stream is open."""

    def received(self, data: bytes, /) -> None:
        """Process received bytes, at least one. Not called while reading is paused."""

    def ended(self) -> None:
        """The other side sends no more. Called at most once; writing goes on until `close()`."""

    def writable(self) -> None:
        """All written bytes were sent, after a `write` that left some. See `Stream.waiting`."""

    def lost(self, error: Exception | None) -> None:
        """The stream is closed. The last call, exactly once. `error`: why it broke, or `None`."""


class Stream(Protocol):
    """One open connection. Subclass it; the methods that are not abstract have defaults.

    For transports of asyncio or uvloop, subclass `AsyncioStream` of `asyncio_stream` instead.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def remote(self) -> Remote:
        """The other side; also after the end. Its `target` is the dialed one on a dialed stream."""

    @abstractmethod
    def set_receiver(self, receiver: Receiver) -> None:
        """Report to another receiver from now on; `connected` is not called again."""

    @abstractmethod
    def write(self, data: bytes, /) -> None:
        """Send `data`, or keep it until it can be sent. Not called after `close()`."""

    @abstractmethod
    def waiting(self) -> int:
        """Bytes that were written and are still in memory.

        If this is not 0 after a `write`, `Receiver.writable` is called when it is 0 again.
        """

    @abstractmethod
    def pause_reading(self) -> None:
        """Stop calling `received` and `ended`, so that the other side must wait."""

    @abstractmethod
    def resume_reading(self) -> None:
        """Go on after `pause_reading()`."""

    @abstractmethod
    def close(self) -> None:
        """Read no more, send what waits, then close. `lost(None)` follows, not at once."""

    @abstractmethod
    def abort(self) -> None:
        """Close now and drop the bytes that wait. `lost` follows, not at once."""

    @abstractmethod
    def is_closing(self) -> bool:
        """Return whether the stream is closed or closing, by a call or because it broke."""

    def unsent(self) -> int:
        """Bytes of `waiting()`, plus those that the operating system keeps unsent, if known.

        A link writes a batch when this is small, so that an urgent one need not wait long.
        """
        return self.waiting()

    def is_reset(self) -> bool:
        """Return whether the other side has reset it; asked while reading is paused."""
        return False

    def unacknowledged(self) -> int | None:
        """Bytes that were sent and that the other host has not acknowledged; `None`: unknown.

        Last called in `Receiver.lost`. Only v1 needs it, because v2 peers send receipts.
        """
        return None

    def peer_has_closed(self) -> bool:
        """Return whether bytes or the end can be read now. Only v1 needs it."""
        return False

    def round_trip(self) -> float | None:
        """Seconds to the other side and back, where it is known. For v1; v2 has its PING."""
        return None


class Listener(Protocol):
    """Accepts streams at one address until it is closed."""

    @property
    def address(self) -> Target:
        """Where it listens, with the real port where 0 was asked for."""

    def close(self) -> None:
        """Accept no more, and free the address. Accepted streams stay. Twice does no harm."""

    def shut_down(self) -> None:
        """Free the address where the event loop is closed and cannot be used."""


class Network(Protocol):
    """Makes streams. See this module's text; any object with these two methods is one.

    A network may also have an attribute `uses_descriptors`: where it is true, the limits of
    connections are lowered at the start to what the process may open. One that looks names up
    may have a method `resolve`, see `Resolving`: a lookup takes no place among connections.
    """

    async def dial(self, target: Target, receiver: Receiver) -> Stream:
        """Connect to whoever listens at `target`.

        `receiver.connected` is called before this returns. Cancelling leaves nothing open:
        where a stream was connected already, it is closed and `lost` reported.

        Raises:
            DialError: with the cause in words and its `kind`: nobody listens there, no such
                target, …
        """

    async def listen(self, target: Target, accept: Callable[[], Receiver]) -> Listener:
        """Accept streams at `target`; each reports to a new receiver from `accept`.

        Raises:
            ListenError: the address is in use, or no address of this network or machine.
        """


@runtime_checkable
class NeedsDescriptors(Protocol):
    """A listener that takes a descriptor of the process for each connection."""

    def when_short(self, make_room: Callable[[OSError], bool]) -> None:
        """Have `make_room` called where the process has no descriptor for a connection.

        It returns whether it has closed another one.
        """


@runtime_checkable
class Resolving(Protocol):
    """A network that looks targets up, so that a dialer can tell a lookup from a dial."""

    async def resolve(self, target: Target) -> Any:
        """Look the target up; what is returned is given to `dial`.

        Raises:
            DialError: with the cause in words, and its `kind`.
        """

    async def dial(self, target: Target, receiver: Receiver, resolved: Any = None) -> Stream:
        """See `Network.dial`; `resolved` is what `resolve(target)` returned."""
