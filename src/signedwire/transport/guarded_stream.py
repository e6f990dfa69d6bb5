"""A guard around the streams of networks from outside this package.

    backend ─→ GuardedStream ─→ ProtocolDetector, Link, …     reports
    backend ←─ GuardedStream ←─ ProtocolDetector, Link, …     calls

A stream that raises, or that returns what it may not, counts as broken: the guard logs the fault
with the address, aborts the stream, and reports its end. So no part of the node needs a guard of
its own, and a fault of one stream ends no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

from signedwire.logs import FATAL, EventLog, fields
from signedwire.transport.network import Network, Receiver, Remote, Stream
from signedwire.transport.tcp import TcpNetwork
from signedwire.transport.unix import UnixNetwork

__all__ = ["GuardedStream", "guarded"]

T = TypeVar("T")

_UNKNOWN: Final = Remote(None, "an unknown host", "unknown")
"""The other side of a stream that does not tell it."""


def guarded(network: Network, receiver: Receiver, log: EventLog) -> Receiver:
    """Return a receiver for a stream of `network`, with a guard before it where one is needed.

    The streams of TCP and Unix sockets need none: a guard would cost time for each batch.
    """
    if type(network) in (TcpNetwork, UnixNetwork):
        return receiver
    return GuardedStream(receiver, log)


class GuardedStream(Stream):
    """A stream whose calls never raise, and the receiver of the stream that it guards.

    Args:
        receiver: The receiver of all reports.
        log: Receives the faults of the stream.
    """

    __slots__ = ("_has_failed", "_inner", "_log", "_loop", "_receiver", "_remote")

    def __init__(self, receiver: Receiver, log: EventLog) -> None:
        self._receiver: Receiver | None = receiver
        self._log = log
        self._inner: Stream | None = None
        """The stream of the network; `None`: not connected yet, or at its end."""
        self._remote = _UNKNOWN
        self._has_failed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    # -- reports of the stream: see `Receiver` ------------------------------------------------

    def connected(self, stream: Stream) -> None:
        """See `Receiver`."""
        if self._loop is not None or self._receiver is None:
            return
        self._loop = asyncio.get_running_loop()
        self._inner = stream
        self._remote = self._call("remote", lambda: _checked(stream.remote), _UNKNOWN)
        self._report(self._receiver.connected, self)

    def received(self, data: bytes, /) -> None:
        """See `Receiver`. Empty bytes are ignored."""
        if data and (receiver := self._listener) is not None:
            self._report(receiver.received, data)

    def ended(self) -> None:
        """See `Receiver`."""
        if (receiver := self._listener) is not None:
            self._report(receiver.ended)

    def writable(self) -> None:
        """See `Receiver`."""
        if (receiver := self._listener) is not None:
            self._report(receiver.writable)

    def lost(self, error: Exception | None) -> None:
        """See `Receiver`. A second call is ignored."""
        receiver, self._receiver = self._receiver, None
        if receiver is not None and self._loop is not None:
            self._report(receiver.lost, error)
        # Else guard and stream would refer to each other until a garbage collection.
        self._inner = None

    @property
    def _listener(self) -> Receiver | None:
        """The receiver, while it may be told anything but the end."""
        return None if self._has_failed or self._loop is None else self._receiver

    def _report(self, report: Callable[..., None], *args: object) -> None:
        """Tell the receiver. Its faults are faults of this package."""
        try:
            report(*args)
        except FATAL:
            raise
        except BaseException as error:  # noqa: BLE001 - the backend can do nothing about it
            assert self._loop is not None
            words = f"a report of the stream with {self._remote.host} could not be processed"
            self._loop.call_exception_handler({"message": words, "exception": error})
            self._break(f"a report of the stream was not processed: {error!r}")

    # -- calls of the receiver: see `Stream` --------------------------------------------------

    @property
    def remote(self) -> Remote:
        """See `Stream`."""
        return self._remote

    def set_receiver(self, receiver: Receiver) -> None:
        """See `Stream`. The guard stays the receiver of the stream."""
        if self._receiver is not None:
            self._receiver = receiver

    def write(self, data: bytes, /) -> None:
        """See `Stream`."""
        if (inner := self._inner) is not None and not self._has_failed:
            self._call("write", lambda: inner.write(data), None)

    def waiting(self) -> int:
        """See `Stream`."""
        inner = self._inner
        return 0 if inner is None else self._call("waiting", lambda: max(0, inner.waiting()), 0)

    def unsent(self) -> int:
        """See `Stream`."""
        inner = self._inner
        return 0 if inner is None else self._call("unsent", lambda: max(0, inner.unsent()), 0)

    def pause_reading(self) -> None:
        """See `Stream`."""
        if (inner := self._inner) is not None and not self._has_failed:
            self._call("pause_reading", inner.pause_reading, None)

    def resume_reading(self) -> None:
        """See `Stream`."""
        if (inner := self._inner) is not None and not self._has_failed:
            self._call("resume_reading", inner.resume_reading, None)

    def close(self) -> None:
        """See `Stream`."""
        if (inner := self._inner) is not None and not self._has_failed:
            self._call("close", inner.close, None)

    def abort(self) -> None:
        """See `Stream`."""
        if (inner := self._inner) is not None and not self._has_failed:
            self._call("abort", inner.abort, None)

    def is_closing(self) -> bool:
        """See `Stream`."""
        inner = self._inner
        if inner is None or self._has_failed:
            return True
        return self._call("is_closing", lambda: bool(inner.is_closing()), True)

    def is_reset(self) -> bool:
        """See `Stream`."""
        inner = self._inner
        return inner is not None and self._call("is_reset", inner.is_reset, False)

    def unacknowledged(self) -> int | None:
        """See `Stream`."""
        inner = self._inner
        return None if inner is None else self._call("unacknowledged", inner.unacknowledged, None)

    def peer_has_closed(self) -> bool:
        """See `Stream`."""
        inner = self._inner
        return inner is None or self._call("peer_has_closed", inner.peer_has_closed, True)

    def round_trip(self) -> float | None:
        """See `Stream`."""
        inner = self._inner
        return None if inner is None else self._call("round_trip", inner.round_trip, None)

    # -- faults -------------------------------------------------------------------------------

    def _call(self, name: str, call: Callable[[], T], instead: T) -> T:
        """Call the stream. If that fails, break the stream and return `instead`."""
        try:
            return call()
        except FATAL:
            raise
        except BaseException as error:  # noqa: BLE001 - also the CancelledError of asyncio
            if not self._has_failed:
                host = self._remote.host
                extra = fields("stream fault", address=host, error=type(error).__name__)
                text = "the stream with %s failed in %s, so that connection ends"
                self._log.error(text, host, name, exc_info=error, extra=extra)
                self._break(f"the stream of the network failed in {name}: {error!r}")
            return instead

    def _break(self, words: str) -> None:
        """Abort the stream, and report its end in the next turn of the loop."""
        inner, loop = self._inner, self._loop
        if self._has_failed or inner is None or loop is None:
            return
        self._has_failed = True
        loop.call_soon(self.lost, ConnectionError(words))
        self._call("abort", inner.abort, None)


def _checked(remote: object) -> Remote:
    if not isinstance(remote, Remote) or not isinstance(remote.host, str):
        raise TypeError(f"remote is {type(remote).__name__}, not a Remote")
    return remote
