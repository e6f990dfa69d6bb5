"""A network between simulated hosts: TCP as an application sees it, with its misfortunes.

A connection is two pipes. What is written goes

    transport's buffer → sender's kernel → wire → receiver's kernel → receiver

through a window, in pieces, each due at an instant of its own, in order. A pipe that is
blocked (partition, host without power, stall) delivers nothing and loses nothing: TCP
sends again. A black hole loses everything. A cut delivers some bytes of a write and then
breaks the connection. Data for an end that is gone is answered with a reset, if the way
back is open. Bytes that nobody acknowledges for 15 s break the sender's end, as
TCP_USER_TIMEOUT does.

All randomness is drawn from a generator of the connection, so what one connection does
moves nothing in another.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from signedwire import Address, Receiver, Remote, Stream, Target
from signedwire.errors import DialError, FailureKind, ListenError
from signedwire.transport.socket_addresses import host_group

from .loop import Owner, VirtualLoop, current_owner

__all__ = ["Connection", "End", "HostNetwork", "Network", "Weather"]

_USER_TIMEOUT: Final = 15.0
_MAX_READ: Final = 256 * 1024


@dataclass
class Weather:
    """What the network is like, and what it does to connections by itself."""

    latency: tuple[float, float] = (0.0002, 0.003)
    """Seconds one way."""
    bandwidth: float = 10e6
    """Bytes a second."""
    window: int = 64 * 1024
    """Bytes that both kernels together hold of one direction."""
    fragmentation: float = 0.1
    """Probability that a write arrives in pieces."""
    cut: float = 0.0
    """Probability that a write is cut somewhere."""
    receipt_cut: float = 0.0
    """Probability that a write that carries receipts is cut."""
    refusal: float = 0.0
    """Probability that a dial is refused."""
    slow_dial: float = 0.0
    """Probability that a dial takes up to 8 s more."""


@dataclass(frozen=True)
class _Piece:
    due: float
    data: bytes = b""
    is_fin: bool = False
    is_cut: bool = False


class Network:
    """All hosts, connections and listeners."""

    def __init__(self, loop: VirtualLoop, seed: str, trace: Callable[[str], None]) -> None:
        self.loop = loop
        self.weather = Weather()
        self.connections: dict[int, Connection] = {}
        self.dials = 0
        self.made = 0
        self.down: set[int] = set()
        """Hosts without power."""
        self.blocked: set[tuple[int, int]] = set()
        """(from, to): ways that are blocked."""
        self.avoids_silly_windows = False
        """Whether a sender waits for a good part of a window; else it crawls, byte by byte."""
        self._seed = seed
        self.trace = trace
        self._listeners: dict[Target, _Listener] = {}
        self._count = 0
        self.context = contextvars.copy_context()
        self._changed: list[asyncio.Future[None]] = []

    # -- ways ---------------------------------------------------------------------------

    def is_open(self, from_: int, to: int) -> bool:
        """Whether packets go that way."""
        return (from_, to) not in self.blocked and not {from_, to} & self.down

    def change(self) -> None:
        """`blocked` or `down` has changed: what can go on goes on."""
        for connection in tuple(self.connections.values()):
            for pipe in connection.pipes:
                pipe.kick()
        changed, self._changed = self._changed, []
        for future in changed:
            if not future.done():
                future.set_result(None)

    async def until_open(self, here: int, there: int) -> None:
        """A SYN is sent again and again."""
        while not (self.is_open(here, there) and self.is_open(there, here)):
            future = self.loop.create_future()
            self._changed.append(future)
            await future

    # -- connections --------------------------------------------------------------------

    def draw(self) -> random.Random:
        """The generator for the next connection or dial."""
        self._count += 1
        return random.Random(f"{self._seed}/{self._count}")

    def live(self) -> list[Connection]:
        """Connections of which an end is left, oldest first."""
        return list(self.connections.values())

    def ends_of(self, owner: Owner) -> list[End]:
        """Sockets that `owner` has open."""
        return [
            end
            for connection in self.connections.values()
            for end in connection.ends
            if end.owner is owner and not end.is_gone
        ]

    def crash(self, owner: Owner, *, is_silent: bool) -> None:
        """The owner is gone. Its kernel says so to its peers, or not even that."""
        for end in self.ends_of(owner):
            end.vanish()
            if not is_silent:
                end.outgoing.reset_other()
        for address, listener in tuple(self._listeners.items()):
            if listener.owner is owner:
                del self._listeners[address]

    def listener(self, address: Target) -> _Listener | None:
        """Who listens there."""
        return self._listeners.get(address)

    def add_listener(self, listener: _Listener) -> None:
        """Somebody begins to listen."""
        if listener.address in self._listeners:
            raise ListenError(listener.address, "the port is in use", "Choose another")
        self._listeners[listener.address] = listener

    def remove_listener(self, listener: _Listener) -> None:
        """And ends."""
        if self._listeners.get(listener.address) is listener:
            del self._listeners[listener.address]


class _Listener:
    def __init__(
        self,
        network: Network,
        host: int,
        address: Target,
        accept: Callable[[], Receiver],
        owner: Owner,
    ) -> None:
        self._network = network
        self.host = host
        self.address = address
        self.accept = accept
        self.owner = owner

    def close(self) -> None:
        self._network.remove_listener(self)

    shut_down = close


class HostNetwork:
    """`transport.network.Network` for the node on one host."""

    def __init__(self, network: Network, host: int, ip: str) -> None:
        self._network = network
        self._host = host
        self._ip = ip

    async def dial(self, target: Target, receiver: Receiver) -> Stream:
        network = self._network
        network.dials += 1
        rng = network.draw()
        weather = network.weather
        delay = rng.uniform(*weather.latency) + rng.uniform(*weather.latency)
        if rng.random() < weather.slow_dial:
            delay += rng.uniform(0.5, 8.0)
        is_refused = rng.random() < weather.refusal
        await asyncio.sleep(delay)
        listener = network.listener(target)
        assert isinstance(target, Address)
        there = int(target.host.rsplit(".", 1)[1]) - 1
        await network.until_open(self._host, there)
        listener = network.listener(target)
        if is_refused or listener is None:
            raise DialError(target, "connection refused", kind=FailureKind.REFUSED)
        owner = current_owner()
        assert owner is not None
        connection = Connection(network, rng, (self._host, there), (owner, listener.owner))
        here, other = connection.ends
        here.begin(receiver, target)
        ip = self._ip
        port = 40_000 + connection.number

        def accept() -> None:
            other.begin(listener.accept(), Address(ip, port))

        network.loop.call_soon(accept, context=listener.owner.context)
        return here

    async def listen(self, target: Target, accept: Callable[[], Receiver]) -> _Listener:
        owner = current_owner()
        assert owner is not None
        listener = _Listener(self._network, self._host, target, accept, owner)
        self._network.add_listener(listener)
        return listener


class Connection:
    """Two ends and two pipes."""

    def __init__(
        self,
        network: Network,
        rng: random.Random,
        hosts: tuple[int, int],
        owners: tuple[Owner, Owner],
    ) -> None:
        self.network = network
        self.rng = rng
        network.made += 1
        self.number = network.made
        self.hosts = hosts
        self.name = f"c{self.number}({hosts[0]}>{hosts[1]})"
        here, there = End(self, 0, owners[0]), End(self, 1, owners[1])
        self.ends = (here, there)
        seeds = rng.random(), rng.random()
        to_there = Pipe(self, here, there, random.Random(seeds[0]))
        to_here = Pipe(self, there, here, random.Random(seeds[1]))
        self.pipes = (to_there, to_here)
        here.outgoing = there.incoming = to_there
        there.outgoing = here.incoming = to_here
        network.connections[self.number] = self

    def reset(self) -> None:
        """Both ends are told that it broke."""
        for end in self.ends:
            end.break_off(errno.ECONNRESET)

    def black_hole(self) -> None:
        """From now on everything written on it vanishes."""
        for pipe in self.pipes:
            pipe.is_black_hole = True

    def forget_if_over(self) -> None:
        """Both ends are gone."""
        if all(end.is_gone and not end.outgoing.is_draining for end in self.ends):
            self.network.connections.pop(self.number, None)


class Pipe:
    """One direction."""

    def __init__(self, connection: Connection, src: End, dst: End, rng: random.Random) -> None:
        self.connection = connection
        self.src = src
        self.dst = dst
        self.rng = rng
        self.is_black_hole = False
        self.is_stalled = False
        self.cut_next: int | None = None
        """Cut the next write after so many bytes, at most."""
        self._network = connection.network
        self._loop = connection.network.loop
        self._buffer: deque[bytes] = deque()
        self.buffered = 0
        self._wire: deque[_Piece] = deque()
        self._received: deque[bytes] = deque()
        self._received_size = 0
        self._has_fin = False
        self._wants_fin = False
        self._is_cut = False
        self._last_due = 0.0
        self._taken = 0
        self._acknowledged = 0
        self._unacknowledged_since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._user_timer: asyncio.TimerHandle | None = None

    @property
    def unacknowledged(self) -> int:
        """Bytes that the sender's kernel took and the receiver's has not said it has."""
        return self._taken - self._acknowledged

    @property
    def has_arrivals(self) -> bool:
        """Whether the receiver could read something, or the end."""
        return bool(self._received_size) or self._has_fin or self.dst.is_gone

    @property
    def is_draining(self) -> bool:
        """Whether the kernel still has something to bring, though the sender is gone."""
        return bool(self._wire) and not self.is_black_hole and not self._is_cut

    @property
    def has_unread(self) -> bool:
        return bool(self._received_size)

    # -- the sender's side --------------------------------------------------------------

    def write(self, data: bytes, cut_after: int | None) -> None:
        if cut_after is not None and not self._is_cut:
            self._buffer.append(data[:cut_after])
            self.buffered += cut_after
            self._fill()
            # What the window did not take of the prefix is lost too.
            self._is_cut = True
            self._taken += len(data) - cut_after
            self._push(_Piece(self._due(0), is_cut=True))
            return
        self._buffer.append(data)
        self.buffered += len(data)
        self._fill()

    def finish(self) -> None:
        """FIN, after what was written."""
        self._wants_fin = True
        self._fill()

    def drop_buffer(self) -> None:
        """The transport was aborted: what the kernel has not taken is gone."""
        self._buffer.clear()
        self.buffered = 0

    def _fill(self) -> None:
        """The kernel takes what the window lets it."""
        window = self._network.weather.window
        while self._buffer and not self._is_cut:
            room = window - self.unacknowledged - self._received_size
            if room <= 0:
                return
            if self._network.avoids_silly_windows and room < min(self.buffered, window // 4):
                return
            data = self._buffer.popleft()
            if len(data) > room:
                self._buffer.appendleft(data[room:])
                data = data[:room]
            if len(data) > 1 and self.rng.random() < self._network.weather.fragmentation:
                at = self.rng.randrange(1, len(data))
                self._buffer.appendleft(data[at:])
                data = data[:at]
            self.buffered -= len(data)
            if not self.unacknowledged:
                self._unacknowledged_since = self._loop.now
            self._taken += len(data)
            self._push(_Piece(self._due(len(data)), data))
            self._watch()
        if self._wants_fin and not self._is_cut:
            self._wants_fin = False
            self._push(_Piece(self._due(0), is_fin=True))

    def _due(self, size: int) -> float:
        weather = self._network.weather
        due = max(self._last_due, self._loop.now + self.rng.uniform(*weather.latency))
        self._last_due = due + size / weather.bandwidth
        return self._last_due

    def _push(self, piece: _Piece) -> None:
        self._wire.append(piece)
        self.kick()

    def _watch(self) -> None:
        """TCP_USER_TIMEOUT."""
        if self._user_timer is None and self.unacknowledged and not self.src.is_gone:
            self._user_timer = self._loop.at(
                self._unacknowledged_since + _USER_TIMEOUT,
                self._on_user_timeout,
                context=self._network.context,
            )

    def _on_user_timeout(self) -> None:
        self._user_timer = None
        if self.unacknowledged and self._loop.now >= self._unacknowledged_since + _USER_TIMEOUT:
            self.src.break_off(errno.ETIMEDOUT)
        else:
            self._watch()

    # -- the wire: the network's context --------------------------------------------------

    @property
    def is_blocked(self) -> bool:
        here, there = self.src.host, self.dst.host
        return self.is_stalled or self.is_black_hole or not self._network.is_open(here, there)

    def kick(self) -> None:
        """Something was written, or the way is open again."""
        if self._wire and self._timer is None and not self.is_blocked:
            self._timer = self._loop.at(
                max(self._loop.now, self._wire[0].due), self._arrive, context=self._network.context
            )

    def _arrive(self) -> None:
        self._timer = None
        while self._wire and not self.is_blocked:
            if self._wire[0].due > self._loop.now:
                break
            piece = self._wire.popleft()
            if piece.is_cut:
                self.connection.reset()
                return
            if self.dst.is_gone:
                if piece.data:
                    self._wire.clear()
                    self._acknowledged = self._taken - len(piece.data)
                    self._reset_source()
                    return
                continue
            if piece.is_fin:
                self._has_fin = True
            else:
                self._received.append(piece.data)
                self._received_size += len(piece.data)
                self._acknowledged += len(piece.data)
                self._unacknowledged_since = self._loop.now
            self.dst.wake()
        if self._user_timer is not None and not self.unacknowledged:
            self._user_timer.cancel()
            self._user_timer = None
        self.kick()
        if not self._wire:
            self.connection.forget_if_over()

    def _reset_source(self) -> None:
        """Data came for an end that is gone: RST, if it finds its way back."""
        if self._network.is_open(self.dst.host, self.src.host) and not self.is_black_hole:
            self.src.break_off(errno.ECONNRESET)
        self.connection.forget_if_over()

    def reset_other(self) -> None:
        """Our end is gone: RST to the other, if it finds its way."""
        if self._network.is_open(self.src.host, self.dst.host) and not self.is_black_hole:
            self._loop.call_later(
                self._network.weather.latency[1],
                self.dst.break_off,
                errno.ECONNRESET,
                context=self._network.context,
            )

    # -- the receiver's side: its context ---------------------------------------------------

    def read(self) -> bytes:
        """What a socket would give now."""
        parts: list[bytes] = []
        size = 0
        while self._received and size < _MAX_READ:
            part = self._received.popleft()
            size += len(part)
            parts.append(part)
        self._received_size -= size
        if size:
            self._loop.call_soon(self._after_read, context=self._network.context)
        return b"".join(parts)

    def _after_read(self) -> None:
        if not self.src.is_gone:
            self._fill()
            self.src.on_room()
        elif self._buffer or self._wants_fin:
            self._fill()

    @property
    def is_at_end(self) -> bool:
        """Whether the sender has ended and all was read."""
        return self._has_fin and not self._received


class End(Stream):
    """One end of a connection, as its owner's receiver sees it."""

    outgoing: Pipe
    incoming: Pipe

    def __init__(self, connection: Connection, side: int, owner: Owner) -> None:
        self.connection = connection
        self.side = side
        self.host = connection.hosts[side]
        self.owner = owner
        self.is_gone = False
        self._network = connection.network
        self._loop = connection.network.loop
        self._receiver: Receiver | None = None
        self._remote = Remote(None, "unknown", "unknown")
        self._is_closing = False
        self._is_reading = True
        self._is_read_due = False
        self._has_ended = False
        self._has_told_end = False
        self._is_full = False

    def begin(self, receiver: Receiver, peer: Address) -> None:
        """The connection is there. In the owner's context."""
        self._remote = Remote(peer, peer.host, host_group(peer.host))
        self._receiver = receiver
        receiver.connected(self)
        if self.is_gone:
            # It broke before anybody looked: accept() gives it all the same.
            self._loop.call_soon(receiver.lost, ConnectionResetError(errno.ECONNRESET, "reset"))
            return
        self.wake()

    @property
    def remote(self) -> Remote:
        return self._remote

    def set_receiver(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def unacknowledged(self) -> int | None:
        return self.outgoing.unacknowledged

    def peer_has_closed(self) -> bool:
        return self.incoming.has_arrivals

    # -- writing ------------------------------------------------------------------------

    def write(self, data: bytes, /) -> None:
        if self._is_closing or not data:
            return
        weather, rng = self._network.weather, self.outgoing.rng
        carries_receipts = getattr(self.owner, "carries_receipts", False)
        self.owner.carries_receipts = False  # type: ignore[attr-defined]
        cut = rng.random() < weather.cut
        if carries_receipts and rng.random() < weather.receipt_cut:
            cut = True
        cut_after: int | None = None
        if self.outgoing.cut_next is not None:
            cut_after, self.outgoing.cut_next = min(self.outgoing.cut_next, len(data)), None
        elif cut:
            cut_after = rng.randrange(0, len(data) + 1)
        if cut_after is not None:
            self._network.trace(
                f"{self.connection.name} cut from {self.host} after {cut_after}/{len(data)}"
                + " with receipts" * carries_receipts
            )
        self.outgoing.write(data, cut_after)
        self._is_full = self.outgoing.buffered > 0

    def on_room(self) -> None:
        """The kernel took something. In the network's context."""
        if self._is_closing:
            self._end_if_written()
            return
        if self._is_full and not self.outgoing.buffered:
            self._loop.call_soon(self._tell_writable, context=self.owner.context)

    def _tell_writable(self) -> None:
        if self._is_full and not self.is_gone and not self.outgoing.buffered:
            self._is_full = False
            assert self._receiver is not None
            self._receiver.writable()

    def waiting(self) -> int:
        return self.outgoing.buffered

    # -- closing ------------------------------------------------------------------------

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._end_if_written()

    def abort(self) -> None:
        if self.is_gone:
            return
        self._is_closing = True
        self.outgoing.drop_buffer()
        self._end_if_written()

    def _end_if_written(self) -> None:
        if self.is_gone or self.outgoing.buffered:
            return
        had_unread = self.incoming.has_unread
        self._go(None)
        if had_unread:
            self.outgoing.reset_other()
        else:
            self.outgoing.finish()

    def break_off(self, code: int) -> None:
        """The network says that it is over."""
        if self.is_gone:
            return
        self._is_closing = True
        self.outgoing.drop_buffer()
        if code == errno.ETIMEDOUT:
            error: OSError = TimeoutError(code, "timed out")
        else:
            error = ConnectionResetError(code, "connection reset by peer")
        self._go(error)

    def _go(self, error: Exception | None) -> None:
        self.is_gone = True
        self._loop.call_soon(self._tell_end, error, context=self.owner.context)
        self.connection.forget_if_over()

    def _tell_end(self, error: Exception | None) -> None:
        if self._receiver is not None and not self._has_told_end:
            self._has_told_end = True
            self._receiver.lost(error)

    def vanish(self) -> None:
        """The owner crashed: nobody is told anything here."""
        self.is_gone = self._is_closing = self._has_told_end = True
        self.outgoing.drop_buffer()

    # -- reading ------------------------------------------------------------------------

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        self._is_reading = True
        self.wake()

    def wake(self) -> None:
        """Something can be read."""
        if not self._is_read_due and self._receiver is not None and not self.is_gone:
            self._is_read_due = True
            self._loop.call_soon(self._read, context=self.owner.context)

    def _read(self) -> None:
        self._is_read_due = False
        if self._is_closing or not self._is_reading or self._receiver is None:
            return
        data = self.incoming.read()
        if data:
            self._receiver.received(data)
            self.wake()
        elif self.incoming.is_at_end and not self._has_ended:
            self._has_ended = True
            self._receiver.ended()
