"""Wakeups of a command that waits: for a receipt, a peer, or standard input."""

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

__all__ = ["Wakeups"]

_CHUNK: Final = 4096


class Wakeups:
    """Wakes one waiting thread by a byte on a pair of sockets; any thread may write it.

    Use it as a context manager around that of the node: its thread ends with the node.

    Args:
        node: The node whose events wake the thread.
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
                self.wake()

        self._thread = threading.Thread(target=follow, name="signedwire-wakeups", daemon=True)
        start_thread(self._thread)

    def wake(self) -> None:
        """End the present wait, or the next one. Any thread."""
        # A socket that is full wakes the reader as well.
        with self._lock, contextlib.suppress(BlockingIOError):
            if not self._is_closed:
                self._write.send(b"\0")

    @contextlib.contextmanager
    def watching(self, receipt: Receipt) -> Iterator[None]:
        """Wake on changes of this receipt too."""
        receipt.add_callback(self.wake)
        try:
            yield
        finally:
            receipt.remove_callback(self.wake)

    def wait(self, seconds: float | None, descriptor: int | None = None) -> None:
        """Wait for `wake()`, or until `descriptor` can be read.

        Args:
            seconds: Maximum time to wait; `None`: no limit.
            descriptor: A file descriptor; `None`: wait for `wake()` only.
        """
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
