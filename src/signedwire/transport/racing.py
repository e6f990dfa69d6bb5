"""Connects to the first of several addresses that answers (RFC 8305, "Happy Eyeballs")."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Sequence
from typing import Final

from signedwire.transport.socket_addresses import SocketAddress

__all__ = ["connect_first"]

_NEXT_AFTER: Final = 0.25
"""Seconds that an address may take until the next is tried beside it."""


async def connect_first(addresses: Sequence[SocketAddress]) -> socket.socket:
    """Return a socket that is connected to one of the addresses.

    The next address is tried when the one before has failed, or after 250 ms.
    Cancelling leaves no socket open.

    Raises:
        ExceptionGroup: All addresses have failed. It has an OSError for each of them.
    """
    left = list(addresses)
    running: set[asyncio.Task[socket.socket]] = set()
    errors: list[Exception] = []
    winner: socket.socket | None = None
    try:
        while winner is None and (left or running):
            if left:
                running.add(asyncio.create_task(_connect(left.pop(0))))
            done, _ = await asyncio.wait(
                running,
                timeout=_NEXT_AFTER if left else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                if winner is not None:
                    break
                running.discard(task)
                try:
                    winner = task.result()
                except OSError as error:
                    errors.append(error.with_traceback(None))  # which refers to `errors`
    except BaseException:
        _stop(running)
        await asyncio.gather(*running, return_exceptions=True)
        raise
    # No wait from here on: a socket that is returned must not be lost by a cancellation.
    _stop(running)
    if winner is None:
        raise ExceptionGroup("no address could be connected to", errors)
    return winner


def _stop(running: set[asyncio.Task[socket.socket]]) -> None:
    for task in running:
        task.add_done_callback(_close_unwanted)
        task.cancel()


def _close_unwanted(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _connect(socket_address: SocketAddress) -> socket.socket:
    sock = socket.socket(socket_address.family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setblocking(False)
        await _connect_socket(sock, socket_address)
        if sock.getsockname() == sock.getpeername():
            # A dial to a free port of the ephemeral range can connect to itself (RFC 9293,
            # 3.5, simultaneous open).
            raise ConnectionRefusedError("nobody listens there (connected to itself)")
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect_socket(sock: socket.socket, socket_address: SocketAddress) -> None:
    """Connect without a lookup: uvloop's `sock_connect` makes one, and loses the IPv6 zone."""
    loop = asyncio.get_running_loop()
    if sys.platform == "win32":
        await loop.sock_connect(sock, socket_address.sockaddr)
        return
    try:
        sock.connect(socket_address.sockaddr)
    except BlockingIOError:
        pass
    else:
        return
    connected = loop.create_future()
    loop.add_writer(sock.fileno(), _set_done, connected)
    try:
        await connected
    finally:
        loop.remove_writer(sock.fileno())
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def _set_done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
