"""The receiving side of a v2 link, in steps of bounded cost.

    socket ─→ receive ─→ queue ─→ step ─┬→ Handshake          until the DID is proven
                                        └→ TlsChannel → Session, one frame in each step

`LoopShares` decides in which turn of the event loop the steps are made.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

from signedwire.clock import monotonic
from signedwire.errors import Cause, DidProofError
from signedwire.transport.handshake import Handshake
from signedwire.transport.link_errors import CLOSED_HERE, RESET
from signedwire.transport.link_ports import InputPort
from signedwire.transport.link_socket import LinkSocket
from signedwire.transport.link_state import LinkState
from signedwire.transport.room_wait import RoomWait
from signedwire.transport.shares import LoopShares
from signedwire.transport.tls_channel import TlsChannel
from signedwire.types import Did

__all__ = ["LinkInput"]

# Ciphertext that is decrypted in one step, so that a step takes about a millisecond at most:
# records may be of one byte, and each costs a microsecond or more.
_STEP: Final = 32 * 1024
_COSTLY_STEP: Final = 4 * 1024
_MAX_OVERHEAD: Final = 64 * 1024
"""Ciphertext beyond twice the plaintext, before it counts as a flood of small records."""
_RECORD_OVERHEAD: Final = 22
"""Header, content type and tag of a TLS 1.3 record."""


class LinkInput:
    """Processes what the socket of a link has received. See `shares.Worker`.

    Args:
        link: The link.
        state: The state of the link, with its session.
        channel: Decrypts.
        socket: Is read unless input waits for a later turn.
        shares: Decides when input is processed.
        wait: Tells whether there is room for the unfinished batches of the link.
        expected: The DID that was dialed; `None`: the connection was accepted.
    """

    __slots__ = (
        "_channel",
        "_handshake",
        "_is_waiting",
        "_link",
        "_loop",
        "_lost",
        "_overhead",
        "_queue",
        "_shares",
        "_socket",
        "_state",
        "_wait",
        "turn_tag",
    )

    def __init__(
        self,
        link: InputPort,
        state: LinkState,
        channel: TlsChannel,
        socket: LinkSocket,
        shares: LoopShares,
        wait: RoomWait,
        expected: Did | None,
    ) -> None:
        self._link: InputPort | None = link
        """`None`: the link has ended. Without it the garbage collector alone could free a link."""
        self._state = state
        self._channel = channel
        self._socket = socket
        self._shares = shares
        self._wait = wait
        wait.call_when_over(self._go_on)
        self._loop = asyncio.get_running_loop()
        self._handshake = Handshake(channel, expected)
        # A list, not a deque: it holds few pieces, because the socket is not read while any is
        # left, and an empty deque takes 624 bytes. Empty bytes: the end of the stream.
        self._queue: list[bytes | memoryview] = []
        self._overhead = 0
        self._is_waiting = False  # whether input waits for a later turn
        self._lost: Cause | None = None  # why the connection is gone, while input of it is left
        self.turn_tag = 0.0

    @property
    def has_more(self) -> bool:
        """Whether received bytes are not processed yet."""
        session = self._state.session
        return bool(self._queue) or (session is not None and session.has_frames)

    # -- the socket -------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Process ciphertext, now or in a later turn of the event loop."""
        if self._is_waiting:
            self._socket.set_waiting(True)
        if len(data) <= _COSTLY_STEP:
            self._queue.append(data)
        else:
            size = _COSTLY_STEP if self._state.session is None or self.is_costly else _STEP
            view = memoryview(data)
            self._queue.extend([view[at : at + size] for at in range(0, len(data), size)])
        self._shares.serve(self)

    def receive_end(self) -> None:
        """Process the end of the stream, after the input that came before it."""
        if self.has_more:
            self._queue.append(b"")
        elif self._link is not None:
            self._end(self._loop.time())
            self._link.finish_turn()

    def lose(self, cause: Cause) -> None:
        """End the link when the input that came before the loss is processed.

        Input of a costly peer is thrown away: strangers that reset and return would leave
        ever more work behind.
        """
        if self.has_more and not (self.is_costly or self._wait.is_waiting):
            self._lost = cause
        else:
            if self._link is not None:
                self._link.end(cause)
            self._channel.release()

    def clear(self) -> None:
        """Process nothing more: the link has ended."""
        self._queue.clear()
        self._link = None
        self._wait.end()

    # -- shares of a turn: see `shares.Worker` ----------------------------------------------

    @property
    def is_costly(self) -> bool:
        return self._link is not None and self._state.is_costly

    def work(self, now: float, until: float) -> bool:
        if (link := self._link) is None:
            return False
        loop_time, fine = self._loop.time, now
        try:
            while not self._state.is_over and self._step(loop_time(), fine):
                link.take_events()
                if (fine := monotonic()) >= until:
                    break
        except (ssl.SSLError, DidProofError) as error:
            link.on_tls_failed(error)
        link.finish_turn()
        is_waiting = self._wait.is_waiting
        if self._lost is not None:
            if is_waiting or not self.has_more:
                link.end(self._lost)
            if self._state.is_over:
                self._channel.release()
        return self.has_more and not is_waiting

    def _go_on(self) -> None:
        """Process the input that has waited for room."""
        if self.has_more:
            self._shares.serve(self)

    def drop_if_reset(self) -> bool:
        link = self._link
        if link is None or not self._state.is_costly or not self._socket.is_reset:
            return False
        link.abort(RESET)
        return True

    def abort(self) -> None:
        if self._link is not None:
            self._link.abort(CLOSED_HERE)

    def set_waiting(self, is_waiting: bool) -> None:
        self._is_waiting = is_waiting
        # The socket of a link that is not costly is read once more. Mostly it has nothing more,
        # and to stop and go on takes two system calls for each link that waits in a turn.
        if not is_waiting or self.is_costly:
            self._socket.set_waiting(is_waiting)

    # -- steps ------------------------------------------------------------------------------

    def _step(self, now: float, fine: float) -> bool:
        """Process one frame or, if no complete one is left, decrypt one piece of ciphertext.

        Args:
            now: The present instant in seconds, by the clock of the event loop.
            fine: The same by a clock with a finer resolution.

        Returns:
            Whether there was something to process.

        Raises:
            DidProofError: The other side has not proven the DID that it must prove.
            ssl.SSLError: The other side broke TLS, or ended it.
        """
        session = self._state.session
        if session is not None:
            if self._wait.is_waiting:
                return False
            if session.handle_frame(now, fine):
                self._wait.look()
                return True
            if session.is_closed:
                self._queue.clear()  # nothing that comes after the end of a session counts
        if not self._queue:
            return False
        if data := self._queue.pop(0):
            self._decrypt(data, now)
        else:
            self._end(now)
        return True

    def _decrypt(self, data: bytes | memoryview, now: float) -> None:
        session, channel = self._state.session, self._channel
        if session is not None:
            plain = channel.receive_data(data)
        else:
            did = self._handshake.receive_data(data)
            if did is None or self._link is None:
                return
            self._link.begin(did)
            if (session := self._state.session) is None:
                return  # the DID is denied
            plain = channel.receive_data(b"")
        if surplus := self._surplus_records(len(data), len(plain)):
            session.count_idle(surplus, now)
        if plain:
            session.put_data(plain, now)
        if channel.is_at_end:
            self._end(now)

    def _end(self, now: float) -> None:
        """Handle the frames that are left, then the end of the stream."""
        if (session := self._state.session) is not None:
            while session.handle_frame(now):
                pass
            session.receive_eof(now)

    def _surplus_records(self, ciphertext: int, plaintext: int) -> int:
        """Return the records that cost more than they carry, after a decryption; often 0."""
        self._overhead = max(0, self._overhead + ciphertext - 2 * plaintext)
        if self._overhead <= _MAX_OVERHEAD:
            return 0
        surplus, self._overhead = self._overhead, 0
        return surplus // _RECORD_OVERHEAD
