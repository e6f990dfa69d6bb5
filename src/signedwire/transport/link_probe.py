"""The v2 link of a probe, which carries no messages: a proof, HELLO, and PINGs."""

from __future__ import annotations

import contextlib
import ssl
from dataclasses import replace
from functools import partial
from typing import Final

from signedwire.clock import monotonic, stamp
from signedwire.errors import Cause, DidProofError, FailureKind
from signedwire.identity import Identity
from signedwire.stats import Probe
from signedwire.transport.handshake import Handshake
from signedwire.transport.link_errors import (
    NO_ROOM,
    cause_of_close,
    words_of_tls,
)
from signedwire.transport.network import Stream
from signedwire.transport.probe_connection import ProbeConnection
from signedwire.transport.tls_channel import TlsChannel, is_full_alert
from signedwire.types import Credit, Did, unix_time_us
from signedwire.wire import link_frames as frames
from signedwire.wire.clock_offset import Stamp
from signedwire.wire.header import STREAMS
from signedwire.wire.session import Session, SessionLimits
from signedwire.wire.session_events import Closed

__all__ = ["LinkProbe"]

_NOTHING: Final = (Credit(0, 0),) * STREAMS


class LinkProbe(ProbeConnection):
    """A link that carries no messages.

    Args:
        identity: The key that this side proves.
        channel: Encrypts and decrypts.
        limits: The limits of the session.
        found: The finding so far.
        is_silent: Whether to send nothing in the TLS channel, not even HELLO.
    """

    def __init__(
        self,
        identity: Identity,
        channel: TlsChannel,
        limits: SessionLimits,
        found: Probe,
        *,
        is_silent: bool,
    ) -> None:
        super().__init__(found)
        self._identity = identity
        self._channel = channel
        self._handshake = Handshake(channel, None)
        self._limits = limits
        self._is_silent = is_silent
        self._session: Session | None = None
        self._received = 0
        self._read_clocks = partial(stamp, monotonic())
        self._round_trip: float | None = None  # the last one that `ping()` has not returned

    @property
    def _is_open(self) -> bool:
        return self._session is not None and self._session.their_hello is not None

    async def opened(self) -> None:
        """Wait for the peer's HELLO."""
        while not self._is_open:
            await self.changes()

    async def ping(self) -> None:
        """Measure one round trip. The first PING goes with HELLO, the next after the interval."""
        session = self._session
        assert session is not None
        while self._round_trip is None:
            due = session.next_timeout()
            limit = None if due is None else max(0.0, due - monotonic())
            if not await self.changes(limit):
                session.handle_timeout(monotonic())
                self._turn()
        offset = session.pings.clock_offset.estimate(Stamp(*self._read_clocks()))
        self.found = replace(
            self.found,
            round_trip=self._round_trip,
            clock_offset=None if offset is None else offset.seconds,
            clock_offset_bound=None if offset is None else offset.bound,
        )
        self._round_trip = None

    # -- input -------------------------------------------------------------------

    def connected(self, stream: Stream) -> None:
        """See `Receiver`."""
        super().connected(stream)
        self._channel.start()
        self._flush()

    def received(self, data: bytes) -> None:
        """See `Receiver`."""
        if self._cause is not None:
            return
        self._received += len(data)
        try:
            if self._session is None and (did := self._handshake.receive_data(data)) is not None:
                self._session = self._begin(did)
                data = b""  # plaintext may have come with the last bytes of the handshake
            plain = b"" if self._session is None else self._channel.receive_data(data)
        except ssl.SSLError as error:
            self._fail(self._broken(error))
            return
        except DidProofError as error:
            self._fail(Cause(error.fact, error.kind))
            return
        if self._session is not None and plain:
            self._session.receive_data(plain, monotonic())
        self._turn()

    def _begin(self, answered_by: Did) -> Session:
        """Return the session with whoever has proven a DID, unless another one is probed."""
        self.found = replace(self.found, answered_by=answered_by)
        if not self.found.is_proven:
            fact = f"{answered_by} answered, not {self.found.did}"
            raise DidProofError(fact, kind=FailureKind.WRONG_KEY)
        now = unix_time_us()
        hello = frames.Hello(
            min_version=frames.VERSION,
            max_version=frames.VERSION,
            features=0,
            max_payload_size=0,
            max_batch_bytes=frames.MAX_BATCH_BYTES,
            epochs=frames.Epochs(now, now),
            known_epochs=frames.Epochs(0, 0),
            marks=(0,) * STREAMS,
            credit=_NOTHING,
        )
        return Session(
            self._identity,
            answered_by,
            hello,
            self._limits,
            monotonic(),
            self._read_clocks,
            on_round_trip=self._measured,
        )

    def _measured(self, seconds: float) -> None:
        self._round_trip = seconds

    def _turn(self) -> None:
        """Handle the events, write what is due, and wake the task that waits."""
        session = self._session
        while session is not None and (event := session.next_event()) is not None:
            if isinstance(event, Closed):
                cause = cause_of_close(event)
                if not event.is_by_peer:
                    cause = cause.prefixed("this side closed the link: ")
                self._fail(cause)
        self._flush()
        self._wake()

    def _flush(self) -> None:
        if self.stream is None or self.stream.is_closing():
            return
        data = b"" if self._session is None else self._session.data_to_send()
        if data and not self._is_silent:
            self._channel.send(data)
        if data := self._channel.data_to_send():
            self.stream.write(data)

    # -- the end ----------------------------------------------------------------------

    def _end_of(self, cause: Cause) -> Cause:
        if not self._received:
            words = "the peer hung up on TLS, as v1 peers do"
            return Cause(words, FailureKind.HUNG_UP_ON_TLS)
        if self._session is None:
            return Cause(f"{cause} in the middle of TLS", FailureKind.TLS_FAILED)
        if not self._is_open:
            words = (
                f"the peer has proven its DID, then turned us away ({cause}); "
                "it may have an access list that the key we used is not on"
            )
            return Cause(words, FailureKind.TURNED_AWAY)
        return cause

    def _broken(self, error: ssl.SSLError) -> Cause:
        if is_full_alert(error):
            return NO_ROOM
        reason = words_of_tls(error)
        if self._session is None:
            words = f"the peer does not speak TLS as v2 peers do: {reason}"
            return Cause(words, FailureKind.TLS_FAILED)
        words = f"the peer has proven its DID, then TLS failed: {reason}"
        return Cause(words, FailureKind.TLS_FAILED if self._is_open else FailureKind.TURNED_AWAY)

    def end(self) -> None:
        if self._session is not None and not self._is_silent and self._cause is None:
            with contextlib.suppress(ssl.SSLError):
                self._session.close(frames.CLOSE_DONE, "done")
                self._flush()
        super().end()
        self._channel.release()
