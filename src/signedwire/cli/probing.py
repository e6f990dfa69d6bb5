"""Reaching out to a peer without sending a message, for `ping` and `peers`.

A `Prober` makes a real v2 link: TCP, TLS with both DIDs proven, HELLO, then PINGs. It
does so with a key of its own. With ours it hears the peer's HELLO and hangs up without
saying one: else a node of ours that runs elsewhere would lose its link, and its place
in the count of messages. Blocking, each step within the limits of the configuration.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from signedwire.config import TransportConfig
from signedwire.errors import DialError, ProofError, ResolveTimeout
from signedwire.identity import Identity
from signedwire.transport.tcp import TcpCarrier, describe_os_error
from signedwire.transport.tls import TlsChannel, TlsIdentity, proven_did, tells_full
from signedwire.types import Address, Allowance, Did, unix_time_us
from signedwire.wire import link_frames as frames
from signedwire.wire.session import Closed, Session, SessionLimits

__all__ = ["HUNG_UP", "TURNED_AWAY", "Finding", "Prober", "probe_tcp"]

HUNG_UP: Final = "hung up on TLS"
"""The state of a peer that may speak v1."""
TURNED_AWAY: Final = "turned away"
"""The state of a peer that has proven its DID and does not let us in."""

_WATCH: Final = 0.25
"""Seconds in which a v1 peer that refuses us has hung up."""
_INTERVAL: Final = 1.0
_READ_SIZE: Final = 64 * 1024
_NOTHING: Final = Allowance(0, 0, 0, 0)


@dataclass(kw_only=True)
class Finding:
    """What is known of a peer so far."""

    did: Did
    """Whom we look for."""
    address: Address
    state: str = "unreachable"
    """"connected": a v2 link, or for v1 "open": somebody listens; else what is wrong."""
    wire: str | None = None
    answered_by: Did | None = None
    """Who has proven to be there."""
    connect_ms: float | None = None
    """TCP."""
    handshake_ms: float | None = None
    """From there to the peer's HELLO: TLS, both DIDs proven, the link open."""
    round_trip_ms: float | None = None
    """From PING to PONG."""
    error: str | None = None
    """Why it is not reached, in words."""

    @property
    def is_reached(self) -> bool:
        """Whether all is well, as far as its wire tells."""
        return self.error is None

    @property
    def is_proven(self) -> bool:
        """Whether it was the DID that we looked for."""
        return self.answered_by == self.did

    def fields(self) -> dict[str, object]:
        """For JSON."""
        return {
            "did": str(self.did),
            "address": str(self.address),
            "state": self.state,
            "wire": self.wire,
            "is_proven": self.is_proven,
            "answered_by": None if self.answered_by is None else str(self.answered_by),
            "connect_ms": self.connect_ms,
            "handshake_ms": self.handshake_ms,
            "round_trip_ms": self.round_trip_ms,
            "problem": self.error,
        }


class _NotReachedError(Exception):
    """State and words; ends a probe."""

    def __init__(self, state: str, words: str) -> None:
        super().__init__(state, words)
        self.state = state
        self.words = words


class Prober:
    """Makes links, one at a time or several in threads.

    Args:
        identity: Our key, where the peer lets in only those it knows; by default a new one.
    """

    def __init__(self, config: TransportConfig, identity: Identity | None = None) -> None:
        self._config = config
        self._is_silent = identity is not None
        self._identity = identity or Identity.generate()
        self._tls = TlsIdentity(self._identity)
        self._tls.channel(is_server=False)  # makes its keys now, and not in each thread

    def probe(
        self, did: Did, address: Address, count: int = 1, *, may_be_v1: bool = False
    ) -> Iterator[Finding]:
        """Link and PING `count` times, a second apart: a finding after each, or the failure.

        What hangs up on TLS is tried as v1 is, where `may_be_v1`.
        """
        config = self._config
        if config.wire == "v1":
            yield from _repeat_tcp(did, address, config, count)
            return
        finding = Finding(did=did, address=address)
        try:
            if self._is_silent:
                for number in range(count):
                    if number:
                        time.sleep(_INTERVAL)
                    with contextlib.closing(self._link(finding)) as link:
                        link.open()
                    yield finding
            else:
                with contextlib.closing(self._link(finding)) as link:
                    link.open()
                    for _ in range(count):
                        link.ping()
                        yield finding
        except _NotReachedError as error:
            if error.state == HUNG_UP and may_be_v1:
                yield from _repeat_tcp(did, address, config, count)
                return
            finding.state, finding.error = error.state, error.words
            finding.round_trip_ms = None
            yield finding

    def _link(self, finding: Finding) -> _ProbedLink:
        channel = self._tls.channel(is_server=False)
        return _ProbedLink(
            self._identity, channel, self._config, finding, is_silent=self._is_silent
        )


class _ProbedLink:
    """One link, as far as a probe needs it."""

    def __init__(
        self,
        identity: Identity,
        channel: TlsChannel,
        config: TransportConfig,
        finding: Finding,
        *,
        is_silent: bool,
    ) -> None:
        self._is_silent = is_silent
        self._identity = identity
        self._channel = channel
        self._config = config
        self._finding = finding
        self._socket: socket.socket | None = None
        self._session: Session | None = None
        self._has_heard = False

    def open(self) -> None:
        """Connect, prove, and wait for HELLO."""
        finding = self._finding
        self._socket = _connect(finding, self._config.connect_timeout)
        began = time.perf_counter()
        timeout = self._config.handshake_timeout
        deadline = None if timeout is None else began + timeout
        self._channel.start()
        self._flush()
        while not self._channel.is_ready:
            self._receive(deadline)
        self._session = session = self._begin()
        # HELLO may have come with the end of the handshake.
        self._take(self._channel.receive_data(b""))
        while session.their_hello is None:
            self._receive(deadline)
        finding.handshake_ms = _milliseconds_since(began)
        finding.state, finding.wire = "connected", "v2"

    def _begin(self) -> Session:
        finding = self._finding
        try:
            finding.answered_by = proven_did(self._channel.tls, unix_time_us())
        except ProofError as error:
            raise _NotReachedError("unproven", error.fact) from None
        if not finding.is_proven:
            raise _NotReachedError(
                "another peer", f"{finding.answered_by} is there, not {finding.did}"
            )
        config = self._config
        hello = frames.Hello(
            min_version=frames.VERSION,
            max_version=frames.VERSION,
            epoch=unix_time_us(),
            features=0,
            max_frame_size=frames.FRAME_MARGIN,
            max_payload_size=0,
            credit=_NOTHING,
            known_epoch=0,
            marks=(0, 0, 0, 0),
        )
        limits = SessionLimits(
            hello_timeout=config.handshake_timeout,
            frame_timeout=config.frame_timeout,
            ping_interval=_INTERVAL,
            dead_timeout=max(config.dead_timeout, 2 * _INTERVAL),
        )
        return Session(self._identity, finding.did, hello, limits, time.perf_counter())

    def ping(self) -> None:
        """One round trip: the first PING goes out with HELLO, the next after a pause."""
        session = self._session
        assert session is not None
        while session.round_trip is None:
            due = session.next_timeout()
            try:
                self._receive(due)
            except TimeoutError:
                session.handle_timeout(time.perf_counter())
                self._turn()
        self._finding.round_trip_ms = round(session.round_trip * 1000, 3)
        session.round_trip = None  # so that the next is no average

    def _receive(self, deadline: float | None) -> None:
        """Read once and deal with it. TimeoutError only once the link is open."""
        assert self._socket is not None
        is_open = self._session is not None and self._session.their_hello is not None
        try:
            left = None if deadline is None else deadline - time.perf_counter()
            if left is not None and left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            data = self._socket.recv(_READ_SIZE)
        except TimeoutError:
            if is_open:
                raise
            limit = self._config.handshake_timeout
            raise _NotReachedError("silent", f"no handshake within {limit:g} s") from None
        except OSError as error:
            data, cause = b"", str(describe_os_error(error))
        else:
            cause = "the connection ended"
        if not data:
            raise self._ended(cause)
        self._has_heard = True
        try:
            plain = self._channel.receive_data(data)
        except ssl.SSLError as error:
            raise self._broke(error) from None
        self._take(plain)

    def _take(self, plain: bytes) -> None:
        if self._session is not None and plain:
            self._session.receive_data(plain, time.perf_counter())
        self._turn()

    def _turn(self) -> None:
        session = self._session
        while session is not None and (event := session.next_event()) is not None:
            if isinstance(event, Closed):
                raise _NotReachedError(
                    "closed", f"{'it' if event.is_by_peer else 'we'} closed the link: {event.cause}"
                )
        self._flush()

    def _flush(self) -> None:
        assert self._socket is not None
        data = b"" if self._session is None else self._session.data_to_send()
        if data and not self._is_silent:
            self._channel.send(data)
        # What cannot be written is told by the reading.
        with contextlib.suppress(OSError):
            self._socket.sendall(self._channel.data_to_send())

    def _ended(self, cause: str) -> _NotReachedError:
        if not self._has_heard:
            return _NotReachedError(HUNG_UP, "it hung up on TLS, as v1 peers do")
        if self._session is None:
            return _NotReachedError("no v2 peer", f"{cause} in the middle of TLS")
        if self._session.their_hello is None:
            return _NotReachedError(
                TURNED_AWAY,
                f"it has proven its DID, then turned us away ({cause}); "
                "it may have an access list that the key we used is not on",
            )
        return _NotReachedError("closed", cause)

    def _broke(self, error: ssl.SSLError) -> _NotReachedError:
        if tells_full(error):
            return _NotReachedError("full", "it is full: it has no room for another connection now")
        reason = str(error.reason or error).lower().replace("_", " ")
        if self._session is None:
            return _NotReachedError("no v2 peer", f"it does not speak TLS as v2 peers do: {reason}")
        return _NotReachedError(TURNED_AWAY, f"it has proven its DID, then TLS failed: {reason}")

    def close(self) -> None:
        """Say goodbye and hang up."""
        if self._socket is None:
            return
        with contextlib.suppress(OSError, ssl.SSLError, _NotReachedError):
            if self._session is not None:
                self._session.close(frames.CLOSE_DONE, "done")
                self._flush()
        self._socket.close()


def _connect(finding: Finding, timeout: float | None) -> socket.socket:
    try:
        connection = asyncio.run(_race(finding, timeout))
    except ResolveTimeout as error:
        raise _NotReachedError("unreachable", error.cause) from None
    except TimeoutError:
        raise _NotReachedError("unreachable", f"no answer within {timeout:g} s") from None
    except DialError as error:
        cause = f"cannot connect: {error.cause}"
        raise _NotReachedError("unreachable", cause) from None
    connection.settimeout(timeout)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


async def _race(finding: Finding, timeout: float | None) -> socket.socket:
    """Connect as a node does: the lookup in a thread that can be left, the addresses raced."""
    address, carrier, began = finding.address, TcpCarrier(), time.perf_counter()
    try:
        async with asyncio.timeout(timeout):
            endpoints = await carrier.resolve(address)
    except TimeoutError:
        cause = f"the name {address.host} was not resolved within {timeout:g} s"
        raise ResolveTimeout(address, cause) from None
    async with asyncio.timeout(timeout):
        connection = await carrier.connect(address, endpoints)
    finding.connect_ms = _milliseconds_since(began)
    return connection


def _milliseconds_since(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 3)


# -- v1 -----------------------------------------------------------------------------


def _repeat_tcp(
    did: Did, address: Address, config: TransportConfig, count: int
) -> Iterator[Finding]:
    for number in range(count):
        if number:
            time.sleep(_INTERVAL)
        yield probe_tcp(did, address, config.connect_timeout)


def probe_tcp(did: Did, address: Address, timeout: float | None) -> Finding:
    """Connect, and look whether the other side keeps the connection, as v1 peers do."""
    finding = Finding(did=did, address=address)
    try:
        connection = _connect(finding, timeout)
    except _NotReachedError as error:
        finding.error = error.words
        return finding
    with connection:
        connection.settimeout(_WATCH)
        try:
            received = connection.recv(1)
        except TimeoutError:
            finding.state, finding.wire = "open", "v1"
            return finding
        except OSError:
            received = b""
    finding.state = "wrote" if received else "closed"
    finding.error = "it wrote bytes, as no v1 peer does" if received else "it hung up at once"
    return finding
