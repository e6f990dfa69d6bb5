"""Nodes behind one address, as processes: `python oneaddress.py hub|crowd …`.

hub ADDRESS LOOP                  a node with the default limits; prints its port, then,
                                  at the end of standard input, its counters as JSON
crowd ADDRESS PORT COUNT V1 LOOP  nodes that all send one message at once; prints JSON
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter

from signedwire import FailureKind, Identity, Node, TransportConfig

HUB = Identity.from_seed(b"a hub that many come to, at once")


def say(words: object) -> None:
    """One line for the test."""
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


async def hub(address: str) -> None:
    """Take what comes until standard input ends."""
    config = TransportConfig(listen=f"{address}:0", v1_peers="all")
    async with Node(HUB, config) as node:
        assert node.address is not None
        say(node.address[1])
        senders: set[str] = set()

        async def take() -> None:
            async for message in node.messages():
                senders.add(str(message.sender))
                message.ack()

        taking = asyncio.create_task(take())
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        say(json.dumps({"senders": len(senders)}))
        taking.cancel()


async def crowd(address: str, port: int, count: int, v1_peers: str) -> None:
    """Start all nodes, then let each send one message, all at once."""
    allowed = "all" if v1_peers == "all" else [HUB.did]
    config = TransportConfig(listen=None, v1_peers=allowed, max_attempts=1)
    nodes = [Node(Identity.generate(), config) for _ in range(count)]
    for node in nodes:
        await node.start()
        node.routing.update(HUB.did, f"{address}:{port}")
    say("ready")
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    began = time.monotonic()

    async def send(node: Node) -> float:
        await node.send(HUB.did, b"here I am")
        return time.monotonic() - began

    results = await asyncio.gather(*map(send, nodes), return_exceptions=True)
    arrived = [result for result in results if isinstance(result, float)]
    statuses = [node.peers()[HUB.did] for node in nodes]
    said = {
        "arrived": len(arrived),
        "last": max(arrived, default=0.0),
        "wires": Counter(str(status.wire) for status in statuses),
        "failed_attempts": sum(status.failed_attempts for status in statuses),
        "turned_away": sum(status.last_error_kind is FailureKind.FULL for status in statuses),
        "errors": [str(error) for error in results if isinstance(error, BaseException)][:3],
    }
    say(json.dumps(said))
    await asyncio.gather(*[node.close() for node in nodes])


def main() -> None:
    """Run one of the two."""
    role, address, *rest, loop = sys.argv[1:]
    factory = asyncio.new_event_loop
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        if role == "hub":
            runner.run(hub(address))
        else:
            port, count, v1_peers = rest
            runner.run(crowd(address, int(port), int(count), v1_peers))


if __name__ == "__main__":
    main()
