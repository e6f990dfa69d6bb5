"""The interface of a network backend, which carries the bytes of a node.

    class MyNetwork:                                   # any object that has these two
        async def dial(self, target, receiver): ...    # → Stream
        async def listen(self, target, accept): ...    # → Listener

    Node(identity, TransportConfig(listen="mine:/base"), network=MyNetwork())

A network makes ordered, reliable byte streams, as TCP does. It has to keep nothing secret
and need not know who is there: TLS and the DID proof happen above it. One network
may serve several nodes. All calls, in both directions, are made in the event loop of the
node, and none of them may block.

`TcpNetwork`, `UnixNetwork` and `MemoryNetwork` implement the interface. `examples/own_network.py`
is another implementation, in one file.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

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

R = TypeVar("R")


class Remote(NamedTuple):
    """The other side of a stream, as the network reports it. Nothing of it is proven.

    `target` and `host` appear in log lines, events and status. `group` is for admission:
    connections of one group share `max_unproven_per_host`.
    """

    target: Target | None
    """The address of the other side; `None`: the network does not know it."""
    host: str
    """The host as text, for example an IP address."""
    group: str | None
    """The group that counts as one host, such as an IPv6 /56. `None`: this machine, no limit."""


class Receiver(Protocol):
    """The callbacks of a stream. The node implements them, and a backend calls them.

    The stream calls `connected` first and `lost` last, each once.
    """

    def connected(self, stream: Stream) -> None:
        """Take a stream that is open."""

    def received(self, data: bytes, /) -> None:
        """Process received bytes, at least one.

        Not called while reading is paused, except when the stream broke: then up to 256 KiB may
        come just before `lost`.
        """

    def ended(self) -> None:
        """The other side sends no more. Called at most once; writing goes on until `close()`."""

    def writable(self) -> None:
        """All written bytes were sent, after a `write` that left some. See `Stream.waiting`."""

    def lost(self, error: Exception | None) -> None:
        """The stream is closed. The last call, exactly once. `error`: why it broke, or `None`."""


class Stream(Protocol):
    """One open connection. Subclass it, and define the abstract methods.

    The others have defaults: `unsent()` returns `waiting()`, `is_reset()` and `peer_has_closed()`
    return `False`, `unacknowledged()` and `round_trip()` return `None`. For transports of asyncio
    or uvloop, subclass `AsyncioStream` instead.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def remote(self) -> Remote:
        """The other side; also after the end. Its `target` is the dialed one on a dialed stream."""

    @abstractmethod
    def set_receiver(self, receiver: Receiver) -> None:
        """Call another receiver from now on, without a call of `connected`."""

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
        """Call `received` and `ended` again."""

    @abstractmethod
    def close(self) -> None:
        """Stop reading, send all written bytes, then close. Calls `lost(None)`, but not at once."""

    @abstractmethod
    def abort(self) -> None:
        """Close now and drop the bytes that wait. `lost` follows, not at once."""

    @abstractmethod
    def is_closing(self) -> bool:
        """Return whether the stream is closed or closing, by a call or because it broke."""

    def unsent(self) -> int:
        """Return the bytes of `waiting()`, plus the unsent bytes in the operating system, if known.

        A link writes a batch only if they are few, so that an urgent batch need not wait long.
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
        """Return the round-trip time in seconds; `None`: the network does not measure it.

        Only v1 and `Node.probe()` use it. A v2 link measures with PING.
        """
        return None


class Listener(Protocol):
    """Accepts streams at one address until it is closed."""

    @property
    def address(self) -> Target:
        """The address of the listener, with the real port instead of 0."""

    def close(self) -> None:
        """Stop accepting, and free the address. Accepted streams stay. May be called twice."""

    def shut_down(self) -> None:
        """Free the address without the event loop: it is closed."""


class Network(Protocol):
    """Makes streams, which carry bytes in order and without loss; any object with these methods.

    It need not encrypt, nor know who is at the other end: TLS and the DID proof happen above it.
    All calls are made in the event loop of the node, and none may block. One network may serve
    several nodes.

    A network may also have an attribute `uses_descriptors`. If it is true, the limits of
    connections are lowered at the start to the descriptors that the process may open. A network
    that looks names up may have a method `resolve`; see `Resolving`. A listener that needs a
    descriptor for each connection may have a method `when_short`; see `NeedsDescriptors`.
    """

    async def dial(self, target: Target, receiver: Receiver) -> Stream:
        """Connect to a listener.

        `receiver.connected` is called before this returns. Cancelling leaves nothing open: a
        stream that was connected already is closed, and `lost` is called.

        Args:
            target: The address of the listener.
            receiver: The receiver of the stream.

        Raises:
            DialError: The target is not reached. It has the cause as text, and its `kind`.
        """

    async def listen(self, target: Target, accept: Callable[[], Receiver]) -> Listener:
        """Accept streams.

        Args:
            target: The address to listen on.
            accept: Returns a new receiver for each stream.

        Raises:
            ListenError: The address is in use, or is not one of this network or machine.
        """


@runtime_checkable
class NeedsDescriptors(Protocol):
    """A listener that needs a descriptor of the process for each connection."""

    def when_short(self, make_room: Callable[[OSError], bool]) -> None:
        """Call `make_room` from now on if the process has no descriptor for a connection.

        Args:
            make_room: Closes another connection, and returns whether it has closed one. Its
                argument is the error of accepting.
        """


@runtime_checkable
class Resolving(Protocol[R]):
    """A network that looks targets up. A lookup needs no connection slot, unlike a dial."""

    async def resolve(self, target: Target) -> R:
        """Look a target up, for `dial`.

        Raises:
            DialError: The target is unknown. It has the cause as text, and its `kind`.
        """

    async def dial(self, target: Target, receiver: Receiver, resolved: R | None = None) -> Stream:
        """See `Network.dial`; `resolved` is the result of `resolve(target)`."""
