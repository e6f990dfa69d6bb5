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
        """Bytes came, at least one. Never called while reading is paused."""

    def ended(self) -> None:
        """The other side sends no more. The stream stays open, so that we can, until `close()`."""

    def writable(self) -> None:
        """No byte waits any more, after a `write` that left some. See `Stream.waiting`."""

    def lost(self, error: Exception | None) -> None:
        """The stream is closed; `error` is the cause where it broke, an `OSError` if possible."""


class Stream(Protocol):
    """One open connection. Subclass it: what is not abstract has an answer already."""

    __slots__ = ()

    @property
    @abstractmethod
    def remote(self) -> Remote:
        """The other side. It stays known after the end."""

    @abstractmethod
    def set_receiver(self, receiver: Receiver) -> None:
        """Report to another receiver from now on; `connected` is not called again."""

    @abstractmethod
    def write(self, data: bytes, /) -> None:
        """Send `data`, or keep it until it can be sent. Nobody writes after `close()`."""

    @abstractmethod
    def waiting(self) -> int:
        """Bytes that were written and are still kept here, so that memory grows by them.

        If it is not 0 after a `write`, `Receiver.writable` is called when it is.
        """

    @abstractmethod
    def pause_reading(self) -> None:
        """Call `received` and `ended` no more, so that the other side has to wait."""

    @abstractmethod
    def resume_reading(self) -> None:
        """Go on after `pause_reading()`."""

    @abstractmethod
    def close(self) -> None:
        """Read no more, send what waits, then close. `lost(None)` follows, not at once."""

    @abstractmethod
    def abort(self) -> None:
        """Close now; what waits is thrown away. `lost` follows, not at once."""

    @abstractmethod
    def is_closing(self) -> bool:
        """Whether it is closed, or will be: by a call here, or because it broke."""

    def unsent(self) -> int:
        """Bytes of `waiting()`, plus those that the operating system keeps unsent, if known.

        A link writes a batch when this is small, so that an urgent one need not wait long.
        """
        return self.waiting()

    def is_reset(self) -> bool:
        """Whether the other side broke it, which `lost` cannot tell while reading is paused."""
        return False

    def unacknowledged(self) -> int | None:
        """Bytes that were sent and that the other host is not known to have.

        `None`: unknown. It is asked a last time from `Receiver.lost`. Only v1 needs it: a v2
        peer signs for what it has.
        """
        return None

    def peer_has_closed(self) -> bool:
        """Whether something can be read now: on a stream that only writes, its end. For v1."""
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
