"""A proxy that is a slow path: one bottleneck each way, and little room before it.

    python -m hostile.slow_proxy RATE ADDRESS

It listens, and carries each connection to ADDRESS. All connections together get RATE bytes a
second each way: each way has one `Bottleneck`, which serves their chunks in the order in which
they come. A connection has at most one chunk there.

Where bytes of one connection can wait, each way:

- the kernel's receive buffer, `_BUFFER` bytes. Linux doubles that for its own needs. So the TCP
  window stays below `2 * _BUFFER`, because the buffer is set before `listen()` and `connect()`.
- one chunk, `CHUNK` bytes, that waits for its turn or is on its way.

The send buffer is `_BUFFER` too, but is empty while the other side reads. `HELD` is the sum, and
`test_slow_links` holds the proxy to it. The time that this is:

    rate         3 MB/s     1 MB/s     0.3 MB/s
    HELD         3.2 ms     9.7 ms     32 ms
    one chunk    0.5 ms     1.5 ms     4.9 ms

What the nodes write beyond that waits in their own kernels.

The loop's selector is `select()`: its timeout has microseconds, and that of `epoll()` whole
milliseconds. A chunk that comes late because the process did not run is made up for, up to
`_CATCH_UP` seconds. What is later than that is lost, as on a real path, and the share that the
proxy carried falls. The proxy reports both.

Words: "mark" counts from now on; "found" answers with the bytes and seconds since then.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
import sys
import time
from typing import Final

from signedwire import Address

from .child import commands, main, say
from .hold_ups import HoldUps

__all__ = ["CHUNK", "HELD"]

CHUNK: Final = 1460
"""Bytes that are carried at once: a packet of Ethernet."""
_BUFFER: Final = 4 * 1024
HELD: Final = 2 * _BUFFER + CHUNK
"""Bytes of a connection that wait in the proxy at most, each way."""
_CATCH_UP: Final = 0.002


def small(sock: socket.socket) -> socket.socket:
    """Give a socket small buffers; before it connects or listens, or its window is large."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError, AttributeError):  # not on every system
        # Loopback has segments of 64 KiB, and a window smaller than that opens late.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, CHUNK)
    sock.setblocking(False)
    return sock


class Bottleneck:
    """One way of the path."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._turn = asyncio.Lock()  # its waiters are served in their order
        self._free_at = 0.0
        self.carried = 0

    async def carry(self, size: int) -> None:
        """Return when so many bytes have passed."""
        loop = asyncio.get_running_loop()
        async with self._turn:
            now = loop.time()
            self._free_at = max(self._free_at, now - _CATCH_UP) + size / self._rate
            if self._free_at > now:
                await asyncio.sleep(self._free_at - now)
        self.carried += size


async def pump(source: socket.socket, sink: socket.socket, way: Bottleneck) -> None:
    """Carry the bytes of one connection one way, until its end."""
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, CHUNK):
        await way.carry(len(data))
        await loop.sock_sendall(sink, data)


async def carry(near: socket.socket, to: Address, ways: tuple[Bottleneck, Bottleneck]) -> None:
    """Carry one connection, until either side ends it."""
    with near, small(socket.socket()) as far, contextlib.suppress(OSError):
        await asyncio.get_running_loop().sock_connect(far, tuple(to))
        pumps = [
            asyncio.create_task(pump(near, far, ways[0])),
            asyncio.create_task(pump(far, near, ways[1])),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for one in pumps:
            one.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def accept(server: socket.socket, to: Address, ways: tuple[Bottleneck, Bottleneck]) -> None:
    """Carry every connection."""
    async with asyncio.TaskGroup() as tasks:
        while True:
            near, _ = await asyncio.get_running_loop().sock_accept(server)
            near.setblocking(False)
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            tasks.create_task(carry(near, to, ways))


async def proxy(rate: str, address: str) -> None:
    """Carry connections and obey, until stdin ends."""
    ways = Bottleneck(int(rate)), Bottleneck(int(rate))
    hold_ups = HoldUps()
    began = time.monotonic()
    with small(socket.socket()) as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        say(address=f"127.0.0.1:{server.getsockname()[1]}")
        work = asyncio.create_task(accept(server, Address.parse(address), ways))
        async for words in commands():
            if words == ["mark"]:
                ways[0].carried = ways[1].carried = 0
                hold_ups.clear()
                began = time.monotonic()
                say()
            else:
                seconds = time.monotonic() - began
                say(
                    down=ways[0].carried / seconds,
                    up=ways[1].carried / seconds,
                    held_up=hold_ups.spans,
                    own=hold_ups.own,
                    cpu=hold_ups.cpu(),
                )
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


def exact_loop() -> asyncio.AbstractEventLoop:
    """Return a loop whose timers have microseconds."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


if __name__ == "__main__":
    main(proxy(*sys.argv[1:]), exact_loop)
