"""Wakes the command that waits when something changed: a receipt, a peer, or standard input."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Iterator
from typing import Final, Self

from signedwire.delivery.receipt import Receipt
from signedwire.resources import start_thread
from signedwire.sync import Node

__all__ = ["News"]

_CHUNK: Final = 4096


class News:
    """One waiting thread, woken by a byte on a pair of sockets: any thread may write it.

    Use it as a context manager around that of the node: its thread ends with the node.

    Args:
        node: The node whose peers are watched.
    """

    def __init__(self, node: Node) -> None:
        self._read, self._write = socket.socketpair()
        for end in (self._read, self._write):
            end.setblocking(False)
        self._lock = threading.Lock()
        self._is_closed = False
        events = node.events()

        def follow() -> None:
            for _ in events:
                self.notify()

        self._thread = threading.Thread(target=follow, name="signedwire-news", daemon=True)
        start_thread(self._thread)

    def notify(self) -> None:
        """End the wait that goes on, or the next one. Any thread."""
        # One that is full wakes as well.
        with self._lock, contextlib.suppress(BlockingIOError):
            if not self._is_closed:
                self._write.send(b"\0")

    @contextlib.contextmanager
    def about(self, receipt: Receipt) -> Iterator[None]:
        """Be woken by a receipt, too."""
        receipt.add_callback(self.notify)
        try:
            yield
        finally:
            receipt.remove_callback(self.notify)

    def wait(self, seconds: float | None, descriptor: int | None = None) -> None:
        """Wait for news, or until `descriptor` can be read, for so many seconds at most."""
        inputs: list[socket.socket | int] = [self._read]
        if descriptor is not None:
            inputs.append(descriptor)
        select.select(inputs, [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            self._read.recv(_CHUNK)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        with self._lock:
            self._is_closed = True
            self._read.close()
            self._write.close()
