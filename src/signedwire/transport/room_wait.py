"""The wait of a link of a stranger for room for an unfinished batch.

first part ─→ StrangerRoom ─┬→ room: read on
                            └→ none: not read ─┬→ room, or no stranger any more: read on
                                               └→ too long: CLOSE
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from signedwire.clock import monotonic
from signedwire.delivery.known_senders import KnownSenders
from signedwire.transport.link_ports import InputPort
from signedwire.transport.link_socket import LinkSocket
from signedwire.transport.link_state import LinkState
from signedwire.transport.runtime import Runtime
from signedwire.types import Reason
from signedwire.wire import link_frames as frames

__all__ = ["RoomWait"]


class RoomWait:
    """Asks for room for the unfinished batches of one link. See `StrangerRoom`.

    While the link waits, its socket is not read, and the time limits of its session wait too. PINGs
    keep the other side from ending the link as silent.

    Args:
        runtime: The surroundings of all parts of the node.
        known: The DIDs that are no strangers.
        link: The link.
        state: The state of the link, with its session.
        socket: The socket of the link.
    """

    __slots__ = (
        "_interval",
        "_known",
        "_link",
        "_loop",
        "_on_over",
        "_room",
        "_runtime",
        "_since",
        "_size",
        "_socket",
        "_state",
        "_timer",
        "is_waiting",
    )

    def __init__(
        self,
        runtime: Runtime,
        known: KnownSenders,
        link: InputPort,
        state: LinkState,
        socket: LinkSocket,
    ) -> None:
        self._runtime = runtime
        self._room = runtime.stranger_room
        self._known = known
        self._interval = runtime.config.ping_interval
        self._link: InputPort | None = link
        self._state = state
        self._socket = socket
        self._loop = asyncio.get_running_loop()
        self._on_over: Callable[[], None] | None = None
        self._size = 0
        """Bytes that the link has asked for."""
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.is_waiting = False
        """Whether the link must handle no input now."""

    def call_when_over(self, go_on: Callable[[], None]) -> None:
        """Set the function that handles the input that is left after each wait."""
        self._on_over = go_on

    def look(self) -> None:
        """Note which batches are unfinished after a frame; wait if there is no room for them."""
        session, is_known = self._state.session, self._state.is_known
        if session is None or (is_known and not self._size):
            return
        size = 0 if is_known else session.unfinished_bytes
        is_full = self._room.is_full and not is_known
        if (size == self._size and not is_full) or self.is_waiting:
            return
        if (size > self._size or is_full) and self._is_known():
            size, is_full = 0, False
        self._size = size
        if is_full:
            self._room.wait(self, size)
        elif self._room.resize(self, size):
            return
        if self._is_known():  # since the last look: another thread may have set a route
            self._size = 0
            self._room.forget(self)
        else:
            self.is_waiting = True
            self._since = self._loop.time()
            self._socket.set_held(True)
            session.postpone(self._room.patience)
            self._arm()

    def end(self) -> None:
        """Free the room, because the link has ended."""
        self._link = self._on_over = None
        self.is_waiting = False
        if self._timer is not None:
            self._timer.cancel()
        self._room.forget(self)

    # -- while the link waits -----------------------------------------------------------------

    def _arm(self) -> None:
        left = self._since + self._room.patience - self._loop.time()
        self._timer = self._loop.call_later(max(0.0, min(left, self._interval)), self._on_timer)

    def _on_timer(self) -> None:
        now, session, link = self._loop.time(), self._state.session, self._link
        if session is None or link is None or not self.is_waiting:
            return
        if now < self._since + self._room.patience:
            session.send_ping(now, monotonic())
            link.finish_turn()
            self._arm()
        else:
            self._runtime.drop(Reason.CONNECTION_LIMIT, self._state.did)
            link.close(frames.CLOSE_TOO_MANY, "no room for what strangers send")

    def _is_known(self) -> bool:
        """Look whether the other side is no stranger by now, as when it has got a route."""
        state = self._state
        if state.did is not None and state.did in self._known:
            state.is_known = True
        return state.is_known

    # -- see `RoomUser` -------------------------------------------------------------------------

    def on_room(self) -> None:
        """See `RoomUser`. The link goes on in the next turn: this one is that of another link."""
        self._loop.call_soon(self._go_on)

    def look_again(self) -> None:
        """See `RoomUser`."""
        if self._is_known():
            self._size = 0
            self._room.forget(self)
            self.on_room()

    def _go_on(self) -> None:
        session, link = self._state.session, self._link
        if session is None or link is None or not self.is_waiting:
            return
        self.is_waiting = False
        if self._timer is not None:
            self._timer.cancel()
        now = self._loop.time()
        session.postpone(now - self._since - self._room.patience)
        # The PONGs that wait tell nothing of the round-trip time. That of a new PING does.
        session.send_ping(now, monotonic())
        self._socket.set_held(False)
        if self._on_over is not None:
            self._on_over()
        link.finish_turn()
