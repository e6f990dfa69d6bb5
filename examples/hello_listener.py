"""Wait for one message and print it. `hello_sender.py` sends it."""

import asyncio

from signedwire import Identity, Node


async def main() -> None:
    # The identity is a key pair. Its public half is the DID, the name of this node.
    async with Node(Identity.generate()) as node:
        print("In another terminal, run:", flush=True)
        print(f"python hello_sender.py {node.did}@{node.address}", flush=True)

        message = await node.receive(timeout=300)
        print(f"{message.sender} says: {message.payload.decode()}")

        # The message counts as handled only after ack().
        message.ack()


asyncio.run(main())
