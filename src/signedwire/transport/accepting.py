"""Accepts connections on sockets, and goes on when the process has no descriptor left.

If there is no descriptor, asyncio logs each failure with a traceback and pauses for a second, and
uvloop closes the connections that wait. Neither lets the node close a connection to make room. So
this module accepts connections itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Final

__all__ = ["SocketAcceptor"]

_BACKLOG: Final = 1024
"""Connections that may wait in the kernel."""
_ACCEPTS_AT_ONCE: Final = 16
"""Accepted connections that have no protocol yet, at most. They are not counted yet, and a flood
of them must leave time for other work."""
_PAUSE: Final = 0.25
"""Seconds without accepting if no connection can be closed to make room."""
_SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_ENDED: Final = frozenset({errno.EBADF, errno.EINVAL})


class SocketAcceptor:
    """Accepts on sockets that are bound and do not listen yet.

    Args:
        bound: The sockets. Copies of them are used, because an event loop lets no other code
            watch the descriptors of its servers.
        accept: Makes the protocol of a connection.
        on_close: Called by `close()`; it should close `bound`.

    Raises:
        OSError: One of the sockets cannot listen.
    """

    def __init__(
        self,
        bound: Iterable[socket.socket],
        accept: Callable[[], asyncio.Protocol],
        on_close: Callable[[], None],
    ) -> None:
        self._on_close = on_close
        self._accept = accept
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        self._pauses: set[asyncio.TimerHandle] = set()
        self._own: list[socket.socket] = []
        self.on_shortage: Callable[[OSError], bool] = lambda _: False
        """Called if there is no descriptor; returns whether it has closed a connection."""
        try:
            for sock in bound:
                own = socket.socket(fileno=os.dup(sock.fileno()))
                self._own.append(own)
                own.setblocking(False)
                own.listen(_BACKLOG)
        except BaseException:
            self.close()
            raise
        for own in self._own:
            self._loop.add_reader(own, self._on_readable, own)

    @property
    def sockets(self) -> Sequence[socket.socket]:
        """The listening sockets."""
        return self._own

    def close(self) -> None:
        """Stop accepting, and free the addresses."""
        for timer in self._pauses:
            timer.cancel()
        self._pauses.clear()
        for own in self._own:
            self._loop.remove_reader(own)
        self.shut_down()
        self._on_close()

    def shut_down(self) -> None:
        """Free the addresses, even if the loop is closed or a forked child has copies."""
        for own in self._own:
            with contextlib.suppress(OSError):  # ENOTCONN on some systems
                own.shutdown(socket.SHUT_RDWR)
            own.close()
        self._own.clear()

    def _on_readable(self, own: socket.socket) -> None:
        for _ in range(_ACCEPTS_AT_ONCE - len(self._opening)):
            try:
                sock, _ = own.accept()
            except OSError as error:
                self._on_error(own, error)
                return
            sock.setblocking(False)
            task = self._loop.create_task(self._open(sock))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def _on_error(self, own: socket.socket, error: OSError) -> None:
        """Accept again in the next turn of the loop, or after a pause if that would fail again."""
        if error.errno in _ENDED:
            self._loop.remove_reader(own)  # another thread or process has shut the socket down
        elif error.errno in _SHORTAGES and not self.on_shortage(error):
            self._loop.remove_reader(own)
            timer = self._loop.call_later(_PAUSE, self._go_on, own)
            self._pauses = {one for one in self._pauses if one.when() > self._loop.time()} | {timer}

    def _go_on(self, own: socket.socket) -> None:
        self._loop.add_reader(own, self._on_readable, own)

    async def _open(self, sock: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._accept, sock)
        except OSError:  # closed already
            sock.close()
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):
                sock.close()
            raise
