"""One connection of a probe, and the look at what may be a v1 peer."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from signedwire.errors import Cause, FailureKind
from signedwire.stats import Probe
from signedwire.transport.link_errors import CLOSED_HERE
from signedwire.transport.network import Stream
from signedwire.transport.os_errors import describe_os_error

__all__ = ["NotReachedError", "ProbeConnection", "V1Probe"]


class NotReachedError(Exception):
    """A probe has not reached its peer.

    Args:
        cause: Why.
    """

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause)
        self.cause = cause


class ProbeConnection:
    """One connection of a probe, the `Receiver` of its stream.

    Args:
        found: The finding so far.
    """

    def __init__(self, found: Probe) -> None:
        self.found = found
        """The finding so far."""
        self.stream: Stream | None = None
        self._cause: Cause | None = None
        self._changed: asyncio.Future[None] | None = None

    def failed(self, cause: Cause) -> Probe:
        """Return the finding of a failed probe."""
        return replace(
            self.found,
            failure=cause.kind,
            error=str(cause),
            round_trip=None,
            clock_offset=None,
            clock_offset_bound=None,
        )

    def connected(self, stream: Stream) -> None:
        """See `Receiver`."""
        self.stream = stream

    def received(self, data: bytes) -> None:
        """See `Receiver`."""
        raise NotImplementedError

    def ended(self) -> None:
        """See `Receiver`."""
        self._fail(self._end_of(Cause("the connection ended", FailureKind.CLOSED)))

    def writable(self) -> None:
        """See `Receiver`: few bytes are written, and nothing waits for that."""

    def lost(self, error: Exception | None) -> None:
        """See `Receiver`."""
        cause = Cause("the connection ended", FailureKind.CLOSED)
        if isinstance(error, OSError):
            cause = describe_os_error(error)
        self._fail(self._end_of(cause))

    def _end_of(self, cause: Cause) -> Cause:
        """Return the cause of the failure if the connection ends at this point."""
        raise NotImplementedError

    def _fail(self, cause: Cause) -> None:
        """Note a failure. The first one counts."""
        self._cause = self._cause or cause
        self._wake()

    def _wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    async def changes(self, limit: float | None = None) -> bool:
        """Wait until something has happened; return `False` if nothing has within `limit` seconds.

        Raises:
            NotReachedError: The connection has failed.
        """
        if self._cause is None:
            self._changed = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._changed}, timeout=limit)
        if self._cause is not None:
            raise NotReachedError(self._cause)
        return self._changed is not None and self._changed.done()

    def end(self) -> None:
        """Close the connection without waiting for the other side."""
        self._fail(CLOSED_HERE)
        if self.stream is None or self.stream.is_closing():
            return
        if self.stream.waiting():
            self.stream.abort()
        else:
            self.stream.close()


class V1Probe(ProbeConnection):
    """A connection to what may be a v1 peer, which keeps it open and writes nothing."""

    def received(self, data: bytes) -> None:
        """See `Receiver`."""
        self._fail(Cause("the other side wrote bytes, which no v1 peer does", FailureKind.PROTOCOL))

    def _end_of(self, cause: Cause) -> Cause:
        return Cause("the other side closed the connection at once", FailureKind.CLOSED)
