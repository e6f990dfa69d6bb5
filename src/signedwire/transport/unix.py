"""The Unix-socket network: nodes of one machine that connect over a file.

The file has mode 0600 before it can be connected to, so only processes of this user and of root
reach the node. Closing the listener removes the file. A file that a crashed process has left is
replaced; the file of an open listener is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
import sys
from collections.abc import Callable
from typing import Any, Final, TypeGuard

from signedwire.errors import Cause, DialError, FailureKind, ListenError
from signedwire.transport.accepting import SocketAcceptor
from signedwire.transport.asyncio_stream import AsyncioStream
from signedwire.transport.network import Listener, Receiver, Remote, Stream
from signedwire.transport.os_errors import describe_os_error
from signedwire.types import Location, Target

__all__ = ["UnixNetwork"]

_MODE: Final = 0o600
_MAX_PATH: Final = 107 if sys.platform == "linux" else 103
"""Bytes that the path of a socket may have: one fewer than `sun_path` of the system."""
_NO_SOCKET: Final = "there is a file that is no socket"
_SEND_BUFFER: Final = 64 * 1024
"""Bytes that the kernel may hold unread, so that no urgent message waits long."""
_NOT_UNIX: Final = Cause("a Unix socket is reached at unix:/path", FailureKind.UNREACHABLE)
_NOT_UNIX_HINT: Final = 'Write unix:/run/robot.sock, for example, or use network = "tcp"'


class UnixNetwork:
    """Dials and listens on Unix sockets, for nodes of one machine and one user.

    A target is a `Location` with the scheme `unix`, in text `unix:/run/robot.sock`. Its path
    may have 107 bytes on Linux, and 103 on other systems. Names without a file, as Linux has
    them, are not supported. All peers count as local, so `max_unproven_per_host` does not
    apply.

    Raises:
        NotImplementedError: This platform has no Unix sockets.
    """

    uses_descriptors = True

    def __init__(self) -> None:
        if not hasattr(socket, "AF_UNIX"):
            raise NotImplementedError("this platform has no Unix sockets; use TCP")

    def __repr__(self) -> str:
        return "<UnixNetwork>"

    async def dial(self, target: Target, receiver: Receiver) -> Stream:
        """See `Network.dial`."""
        if not _is_unix(target):
            raise DialError(target, _NOT_UNIX, _NOT_UNIX_HINT)
        stream = _UnixStream(receiver, target)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.connect(target.path)  # at once, or not at all
            await asyncio.get_running_loop().create_unix_connection(lambda: stream, sock=sock)
        except OSError as error:
            sock.close()
            raise DialError(target, *_dial_failure(error, target.path)) from error
        except BaseException:
            stream.give_up()
            sock.close()
            raise
        return stream

    async def listen(self, target: Target, accept: Callable[[], Receiver]) -> Listener:
        """See `Network.listen`. A file of a process that is gone is replaced."""
        if not _is_unix(target):
            raise ListenError(target, _NOT_UNIX, _NOT_UNIX_HINT)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _bind(sock, target.path)
            return _UnixListener(sock, target, lambda: _UnixStream(accept(), target))
        except OSError as error:
            sock.close()
            raise ListenError(target, *_listen_failure(error, target.path)) from error
        except BaseException:
            sock.close()
            raise


class _UnixStream(AsyncioStream):
    __slots__ = ("_target",)

    def __init__(self, receiver: Receiver, target: Location) -> None:
        super().__init__(receiver)
        self._target = target

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        with contextlib.suppress(OSError):  # closed already: `connection_lost` follows
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        super().connection_made(transport)

    def _remote(self, peername: Any) -> Remote:
        return Remote(self._target, str(self._target), None)


class _UnixListener:
    """An open listener, and its file."""

    def __init__(
        self, sock: socket.socket, address: Location, accept: Callable[[], _UnixStream]
    ) -> None:
        self.address = address
        self._pid = os.getpid()
        self._sock = sock
        self._file = _identity(address.path)
        self._server = SocketAcceptor([sock], accept, self._remove)

    def close(self) -> None:
        """See `Listener`."""
        self._server.close()

    def shut_down(self) -> None:
        """See `Listener`."""
        self._server.shut_down()
        self._remove()

    def when_short(self, make_room: Callable[[OSError], bool]) -> None:
        """See `NeedsDescriptors`."""
        self._server.on_shortage = make_room

    def _remove(self) -> None:
        """Remove the file, unless another process has replaced it."""
        self._sock.close()
        # A forked child has a copy of this object, and the file is not its own.
        if self._file is not None and os.getpid() == self._pid:
            if _identity(self.address.path) == self._file:
                with contextlib.suppress(OSError):
                    os.unlink(self.address.path)
            self._file = None


def _is_unix(target: Target) -> TypeGuard[Location]:
    return isinstance(target, Location) and target.scheme == "unix"


def _identity(path: str) -> tuple[int, int] | None:
    """Return device and inode of a file; `None`: there is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _bind(sock: socket.socket, path: str) -> None:
    """Bind to the path, with mode 0600 before anybody can connect: it does not listen yet."""
    try:
        sock.bind(path)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not _remove_stale(path):
            raise
        sock.bind(path)
    try:
        os.chmod(path, _MODE)
    except BaseException:
        os.unlink(path)
        raise


def _remove_stale(path: str) -> bool:
    """Remove a socket without a listener; return whether the path was such a socket."""
    before = _identity(path)
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            probe.connect(path)
    except ConnectionRefusedError:
        if _identity(path) == before:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        return True
    except FileNotFoundError:
        return True
    except OSError:  # for example no permission: leave it
        return False
    return False


def _dial_failure(error: OSError, path: str) -> tuple[Cause, str]:
    """Return the cause of a failed connect, and a hint."""
    if isinstance(error, BlockingIOError):  # its queue is full; its process may be stopped
        return Cause("too many wait there for its listener"), "It is tried again"
    if error.errno is None:
        words, hint = _too_long(path)
        return Cause(words, FailureKind.UNREACHABLE), hint
    if isinstance(error, FileNotFoundError):
        cause = Cause("there is no such socket", FailureKind.REFUSED)
        return cause, "Is the peer running?"
    if isinstance(error, ConnectionRefusedError) and not _is_socket(path):
        return Cause(_NO_SOCKET, FailureKind.UNREACHABLE), "Name the socket of the peer"
    if isinstance(error, ConnectionRefusedError):
        cause = Cause("nobody listens there any more", FailureKind.REFUSED)
        return cause, "Is the peer running?"
    if isinstance(error, PermissionError):
        cause = Cause("permission denied", FailureKind.SYSTEM)
        return cause, "A node's socket is for processes of the same user"
    return describe_os_error(error), ""


def _listen_failure(error: OSError, path: str) -> tuple[str, str]:
    """The cause in words, and what to do."""
    if error.errno is None:
        return _too_long(path)
    if error.errno == errno.EADDRINUSE:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return _NO_SOCKET, "Choose another path"
        return "somebody listens there", "Stop it, or choose another path"
    if isinstance(error, FileNotFoundError):
        return "its folder does not exist", "Make the folder first"
    if isinstance(error, PermissionError):
        return "permission denied", "May this user write to the folder?"
    return describe_os_error(error), ""


def _too_long(path: str) -> tuple[str, str]:
    """Words for the error of Python that has no number: the address cannot hold the path."""
    size = len(os.fsencode(path))
    words = f"its path has {size} bytes, and that of a socket may have {_MAX_PATH}"
    return words, "Choose a shorter path"


def _is_socket(path: str) -> bool:
    """Whether a path leads to a socket; also `True` if its file is gone by now."""
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return True
