"""Nodes that publish and subscribe, for the tests of topics."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from signedwire import Identity, Message, Node, RoutingTable
from signedwire.messaging.subscription import Subscription
from signedwire.transport.memory import MemoryNetwork
from tlskit import quick
from wirekit import ALICE, BOB, LIMIT, eventually


class Net:
    """Makes nodes that can meet in memory."""

    def __init__(self, **faults: Any) -> None:
        self.network = MemoryNetwork(**faults)

    def node(self, who: Identity, policy: Any = None, **changes: Any) -> Node:
        return Node(who, quick(**changes), network=self.network, policy=policy)

    @contextlib.asynccontextmanager
    async def pair(self, **changes: Any) -> AsyncIterator[tuple[Node, Node]]:
        """ALICE, who publishes, and BOB, who knows where she is."""
        async with self.node(ALICE, **changes) as alice, self.node(BOB) as bob:
            meet(bob, alice)
            yield alice, bob


def meet(a: Node, b: Node) -> None:
    """Tell `a` where `b` is."""
    a.routing.update(b.did, b.address)


async def take(subscription: Subscription, count: int) -> list[bytes]:
    return [(await subscription.receive(LIMIT)).payload for _ in range(count)]


def subscriptions(node: Node) -> int:
    """How many subscriptions the publisher keeps."""
    return len(node._topics.subscribers)


async def cut(a: Node, b: Node) -> None:
    """Break the link between two nodes, and wait until both know."""
    for node, other in ((a, b), (b, a)):
        session = node._core.endpoint.sessions.get(other.did)
        if session is not None and session.link is not None:
            session.link.close(0, "cut by a test")
    await asyncio.sleep(0)


__all__ = [
    "Message",
    "Net",
    "RoutingTable",
    "cut",
    "eventually",
    "meet",
    "subscriptions",
    "take",
]
