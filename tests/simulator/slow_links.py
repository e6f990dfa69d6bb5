"""Two nodes and a slow link between them, in virtual time.

The link has a deep queue that acknowledges early: its two kernels take 4 MiB of each direction at
once. So nothing but the reports of the receiving node tells the sender what has arrived.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from signedwire import Address, Identity, Node, TransportConfig
from signedwire import clock as clock_module

from .loop import Owner, VirtualLoop
from .network import HostNetwork, Network, Weather

__all__ = ["SlowLink", "in_virtual_time"]

T = TypeVar("T")

_DEEP: Final = 4 * 1024 * 1024
_PORT: Final = 4000


class _Clock(clock_module.Clock):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def monotonic(self) -> float:
        return self._loop.now

    def unix_time_us(self) -> int:
        return round((1.7e9 + self._loop.now) * 1e6)


@dataclass
class SlowLink:
    """Two linked nodes."""

    loop: VirtualLoop
    network: Network
    alice: Node
    bob: Node
    owners: tuple[Owner, Owner]


def in_virtual_time(
    script: Callable[[SlowLink], Awaitable[T]],
    *,
    rate: float,
    delay: float,
    queue: int = _DEEP,
    **options: Any,
) -> T:
    """Run a script with two nodes whose link carries `rate` bytes a second each way.

    Args:
        script: Gets the link.
        rate: Bytes a second.
        delay: Seconds one way.
        queue: Bytes of each direction that the path takes at once.
        options: Options of both nodes.
    """
    loop = VirtualLoop()
    network = Network(loop, "slow", lambda text: None)
    network.weather = Weather((delay, delay), rate, queue, fragmentation=0)

    async def whole() -> T:
        async with _nodes(loop, network, options) as link:
            return await loop.create_task(_run(script, link), context=link.owners[0].context)

    try:
        with clock_module.use(_Clock(loop)):
            found = loop.run_until_complete(whole())
    finally:
        loop.close()
    assert not loop.problems, loop.problems
    return found


async def _run(script: Callable[[SlowLink], Awaitable[T]], link: SlowLink) -> T:
    return await script(link)


@contextlib.asynccontextmanager
async def _nodes(
    loop: VirtualLoop, network: Network, options: dict[str, Any]
) -> AsyncIterator[SlowLink]:
    owners = Owner("alice"), Owner("bob")
    nodes = []
    for at, owner in enumerate(owners):
        ip = f"10.0.0.{at + 1}"
        config = TransportConfig(listen=Address(ip, _PORT), **options)
        host: Any = HostNetwork(network, at, ip)
        identity = Identity.from_seed(bytes([at + 1]) * 32)
        node = owner.context.run(Node, identity, config, network=host)
        await loop.create_task(node.start(), context=owner.context)
        nodes.append(node)
    alice, bob = nodes
    alice.routing.update(bob.did, Address("10.0.0.2", _PORT))
    try:
        yield SlowLink(loop, network, alice, bob, owners)
    finally:
        for owner, node in zip(owners, nodes, strict=True):
            await loop.create_task(node.close(), context=owner.context)
