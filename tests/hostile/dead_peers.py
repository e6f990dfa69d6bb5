"""Dead peers beside a living one: what the living one's messages take.

    python -m hostile.dead_peers silent 40 10      (in the folder `tests`)

`measure()` starts a node with the default limits, gives it messages for `count` dead
peers of one sort and at once sends to a living peer, one message after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from signedwire import Identity, Node, TransportConfig

__all__ = ["SORTS", "DeadPeersFigures", "Sort", "measure"]

Sort = Literal["silent", "blackholed", "refusing", "unresolvable"]
SORTS: Final[tuple[str, ...]] = get_args(Sort)
"""silent: accepts TCP and says nothing. blackholed: its SYNs are swallowed. refusing:
nobody listens. unresolvable: its name server does not answer."""

_P99: Final = 0.020
_PAUSE: Final = 0.002


@dataclass(frozen=True)
class DeadPeersFigures:
    """Seconds that `send()` to the living peer took, until its receipt came."""

    p50: float
    p99: float
    max: float
    messages: int
    """Those to the living peer that were receipted."""
    evictions: int
    """Open links that were closed to make room. It should be none."""

    @property
    def broken(self) -> list[str]:
        """The limits that do not hold."""
        found = []
        if self.p99 > _P99:
            found.append(f"p99 is {self.p99 * 1e3:.1f} ms, over {_P99 * 1e3:.0f} ms")
        if self.evictions:
            found.append(f"{self.evictions} open links were closed for dead peers")
        return found

    def __str__(self) -> str:
        return (
            f"{self.messages} messages, p50 {self.p50 * 1e3:.1f} ms, p99 {self.p99 * 1e3:.1f} ms, "
            f"max {self.max * 1e3:.0f} ms, {self.evictions} evictions"
        )


async def measure(sort: str, count: int, seconds: float) -> DeadPeersFigures:
    """Send to one living peer for `seconds` beside `count` dead ones of a sort.

    Args:
        sort: One of `SORTS`.
        count: Dead peers, 0 to 200; each has one message waiting all the time.
        seconds: How long to measure, over 0.
    """
    if sort not in SORTS:
        raise ValueError(f"sort {sort!r} is none of {', '.join(SORTS)}")
    config = TransportConfig(listen=None, close_timeout=0.05, max_attempts=10_000)
    async with (
        _dead_hosts(sort) as address,
        Node(Identity.generate()) as living,
        Node(Identity.generate(), config) as node,
    ):
        assert living.address is not None
        node.routing.update(living.did, living.address)
        await node.send(living.did, b"link", deadline=10)
        for number in range(count):
            did = Identity.generate().did
            node.routing.update(did, address.format(number=number))
            node.send_nowait(did, b"to nobody")
        taking = asyncio.create_task(_take(living))
        times = await _send(node, living, seconds)
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        evictions = node.stats().evictions
    times.sort()
    return DeadPeersFigures(
        times[len(times) // 2],
        times[len(times) * 99 // 100],
        times[-1],
        len(times),
        evictions,
    )


async def _send(node: Node, living: Node, seconds: float) -> list[float]:
    loop = asyncio.get_running_loop()
    times = []
    end = loop.time() + seconds
    while (began := loop.time()) < end:
        await node.send(living.did, b"x")
        times.append(loop.time() - began)
        await asyncio.sleep(_PAUSE)
    return times


async def _take(node: Node) -> None:
    async for message in node.messages():
        message.ack()


@contextlib.asynccontextmanager
async def _dead_hosts(sort: str) -> AsyncIterator[str]:
    """An address of the sort; `{number}` in it tells peers apart."""
    with contextlib.ExitStack() as stack:
        if sort == "unresolvable":
            stack.enter_context(_dead_name_server())
            yield "dead-{number}.example:9"
            return
        sock = stack.enter_context(socket.socket())
        sock.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*sock.getsockname())
        if sort == "silent":
            sock.listen(1024)  # the kernel accepts
        elif sort == "blackholed":
            sock.listen(0)
            for _ in range(4):
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(sock.getsockname())
        yield address


@contextlib.contextmanager
def _dead_name_server() -> Iterator[None]:
    real, gate = socket.getaddrinfo, threading.Event()

    def look_up(host: Any, *rest: Any, **more: Any) -> Any:
        if not str(host).endswith(".example"):
            return real(host, *rest, **more)
        gate.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    socket.getaddrinfo = look_up
    try:
        yield
    finally:
        gate.set()
        socket.getaddrinfo = real


if __name__ == "__main__":
    sys.stdout.write(f"{asyncio.run(measure(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))}\n")
