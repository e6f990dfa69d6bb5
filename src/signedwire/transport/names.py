"""Looks host names up, each in a thread of its own.

`getaddrinfo` blocks and cannot be stopped. So one host has at most one thread, however
many ask for it, and hosts that were slow before share half of the threads. A lookup that has
taken a second no longer counts, so that others can begin: there are then up to twice as many
threads. They are daemons: a process ends without waiting for them. A host that was resolved
before is answered from memory when its lookup takes long.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections import OrderedDict
from typing import Any, Final

from signedwire.clock import monotonic
from signedwire.transport.socket_addresses import SocketAddress, interleaved

__all__ = ["RESOLVER", "Resolver"]

_MAX_LOOKUPS: Final = 64
_MAX_REMEMBERED: Final = 1024
_SLOW: Final = 1.0
"""Seconds after which a lookup is slow. Slow hosts share half of the threads."""
_KNOWN_AFTER: Final = 0.25
"""Seconds after which the last addresses of a host are used instead of a new lookup."""


class _Lookup:
    """The lookup of one host, and the futures that wait for it."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.is_slow = False
        self.began = 0.0
        self.waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[Any]]] = []


class Resolver:
    """Looks names up for all nodes of the process. Any thread, any event loop.

    Args:
        max_lookups: Maximum number of threads, at least 2, and as many again for lookups that
            have taken over a second. Hosts that were slow before get at most half of them.
    """

    def __init__(self, max_lookups: int = _MAX_LOOKUPS) -> None:
        self._max_lookups = max_lookups
        self.reset()

    def reset(self) -> None:
        """Forget everything, as a forked child must: it has no threads of its parent."""
        self._lock = threading.Lock()
        self._lookups: dict[str, _Lookup] = {}
        self._waiting: OrderedDict[str, _Lookup] = OrderedDict()
        self._running: set[_Lookup] = set()
        self._slow: OrderedDict[str, None] = OrderedDict()
        self._known: OrderedDict[str, list[SocketAddress]] = OrderedDict()

    @property
    def running(self) -> int:
        """Number of threads now. Any thread."""
        return len(self._running)

    async def look_up(self, host: str) -> list[SocketAddress]:
        """Return the addresses of a host, at port 0. Cancelling stops the wait, not the thread.

        Raises:
            OSError: `socket.gaierror`, or no thread could be started.
            UnicodeError: No host can have such a name.
        """
        loop = asyncio.get_running_loop()
        waiter = loop, loop.create_future()
        with self._lock:
            lookup = self._lookups.get(host)
            if lookup is None:
                lookup = self._lookups[host] = self._waiting[host] = _Lookup(host)
            lookup.waiters.append(waiter)
            known = self._known.get(host)
        self._start()
        look_again = loop.call_later(_SLOW, self._start)
        try:
            async with asyncio.timeout(None if known is None else _KNOWN_AFTER):
                outcome = await waiter[1]
        except TimeoutError:
            assert known is not None
            return known
        finally:
            look_again.cancel()
            self._stop_waiting(lookup, waiter)
        if isinstance(outcome, Exception):
            raise outcome.with_traceback(None)  # several tasks may raise the same one
        addresses: list[SocketAddress] = outcome
        return addresses

    def _stop_waiting(self, lookup: _Lookup, waiter: tuple[Any, Any]) -> None:
        with self._lock:
            if waiter in lookup.waiters:
                lookup.waiters.remove(waiter)
            if not lookup.waiters and self._waiting.pop(lookup.host, None) is not None:
                del self._lookups[lookup.host]  # no thread has begun, and none is needed now

    def _start(self) -> None:
        """Start threads for lookups that wait, within the limits."""
        with self._lock:
            now = monotonic()
            slow = sum(lookup.is_slow for lookup in self._running)
            overdue = sum(now - lookup.began >= _SLOW for lookup in self._running)
            limit = self._max_lookups + min(overdue, self._max_lookups)
            started = []
            for host, lookup in tuple(self._waiting.items()):
                if len(self._running) >= limit:
                    break
                lookup.is_slow = host in self._slow
                if lookup.is_slow and slow >= self._max_lookups // 2:
                    continue
                slow += lookup.is_slow
                del self._waiting[host]
                lookup.began = now
                self._running.add(lookup)
                started.append(lookup)
        for lookup in started:
            thread = threading.Thread(
                target=self._run, args=(lookup,), name=f"resolver-{lookup.host}", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # the limit of threads is reached
                self._finish(lookup, OSError("no thread can be started to look the name up"), 0.0)

    def _run(self, lookup: _Lookup) -> None:
        outcome: list[SocketAddress] | Exception
        try:
            infos = socket.getaddrinfo(lookup.host, None, type=socket.SOCK_STREAM)
            outcome = interleaved(SocketAddress(info[0], info[4]).at(0) for info in infos)
        except Exception as error:  # noqa: BLE001 - whoever asked is told
            outcome = error
        self._finish(lookup, outcome, monotonic() - lookup.began)
        self._start()

    def _finish(
        self, lookup: _Lookup, outcome: list[SocketAddress] | Exception, took: float
    ) -> None:
        with self._lock:
            if self._lookups.get(lookup.host) is not lookup:
                return  # forgotten by a fork
            del self._lookups[lookup.host]
            self._running.discard(lookup)
            self._slow.pop(lookup.host, None)
            if took >= _SLOW:
                _remember(self._slow, lookup.host, None)
            if not isinstance(outcome, Exception):
                _remember(self._known, lookup.host, outcome)
            waiters = tuple(lookup.waiters)
        for loop, future in waiters:
            try:
                loop.call_soon_threadsafe(_answer, future, outcome)
            except RuntimeError:  # the loop of the task is closed
                continue


def _answer(future: asyncio.Future[Any], outcome: object) -> None:
    if not future.done():
        future.set_result(outcome)


def _remember(memory: OrderedDict[str, Any], host: str, value: object) -> None:
    memory[host] = value
    memory.move_to_end(host)
    if len(memory) > _MAX_REMEMBERED:
        memory.popitem(last=False)


RESOLVER: Final = Resolver()
"""The resolver of this process. Its limits hold for all nodes together."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=RESOLVER.reset)
