"""A receiver for tests of networks: it notes what a stream tells."""

from __future__ import annotations

from signedwire import Stream

__all__ = ["End"]


class End:
    """One end of a stream.

    Args:
        is_reading: Whether it reads at once; else it waits for `stream.resume_reading()`.
        does_close: Whether it closes its side when the other side has ended.
    """

    def __init__(self, *, is_reading: bool = True, does_close: bool = True) -> None:
        self.data = b""
        self.events: list[object] = []
        """"ended", "writable", and at last what `lost` was given."""
        self._stream: Stream | None = None
        self._is_reading = is_reading
        self._does_close = does_close

    @property
    def is_connected(self) -> bool:
        """Whether it was ever connected."""
        return self._stream is not None

    @property
    def stream(self) -> Stream:
        """Its stream."""
        assert self._stream is not None, "it is not connected"
        return self._stream

    @property
    def is_lost(self) -> bool:
        """Whether the stream is closed."""
        return any(event is None or isinstance(event, Exception) for event in self.events)

    def connected(self, stream: Stream) -> None:
        assert self._stream is None
        self._stream = stream
        if not self._is_reading:
            stream.pause_reading()

    def received(self, data: bytes) -> None:
        assert data
        assert not self.events or self.events == ["writable"]
        self.data += data

    def ended(self) -> None:
        self.events.append("ended")
        if self._does_close:
            self.stream.close()

    def writable(self) -> None:
        self.events.append("writable")

    def lost(self, error: Exception | None) -> None:
        assert not self.is_lost
        self.events.append(error)
