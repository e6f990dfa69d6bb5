"""Messages wait on disk while the peer is away, and survive a crash of the sender."""

import asyncio
import multiprocessing
import os
import tempfile
from pathlib import Path

from signedwire import Did, Identity, Node

MESSAGES = [b"22.1 degrees", b"22.4 degrees", b"22.9 degrees"]


async def store_messages(folder: Path, base: Did) -> None:
    """Store three messages for a base that is away, and crash."""
    sensor = Identity.load(folder / "sensor.pem")
    async with Node(sensor, store=folder / "sensor.db") as node:
        for text in MESSAGES:
            # With a store, send() returns when the message is on the disk.
            receipt = await node.send(base, text)
            print(f"Sensor: {text.decode()!r} is {receipt.state}.", flush=True)
        print("Sensor: the base is away, and now my process crashes.", flush=True)
        os._exit(1)  # nothing is closed


def first_process(folder: Path, base: Did) -> None:
    asyncio.run(store_messages(folder, base))


async def deliver(folder: Path, base: Identity) -> None:
    """Open the same store in another process. The base is back."""
    sensor = Identity.load(folder / "sensor.pem")
    async with Node(sensor, store=folder / "sensor.db") as node, Node(base) as base_node:
        waiting = await node.outbox.list()
        print(f"Sensor: restarted. {len(waiting)} messages wait in the store.")

        # Once the base has a route, the waiting messages are sent at once.
        node.routing.update(base_node.did, base_node.address)
        for expected in MESSAGES:
            message = await base_node.receive(timeout=30)
            assert message.payload == expected
            message.ack()
            print(f"Base:   received {message.payload.decode()!r}.")

        while await node.outbox.list():  # until the receipts have arrived
            await asyncio.sleep(0.05)
        print("Sensor: the base has signed for all of them. The store is empty.")


def main() -> None:
    base = Identity.generate()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Identity.generate().save(folder / "sensor.pem")
        crashing = multiprocessing.get_context("spawn").Process(
            target=first_process, args=(folder, base.did)
        )
        crashing.start()
        crashing.join()
        assert crashing.exitcode == 1
        asyncio.run(deliver(folder, base))


if __name__ == "__main__":
    main()
