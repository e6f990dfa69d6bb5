"""Send one message to the DID and address that `hello_listener.py` printed."""

import asyncio
import sys

from signedwire import Identity, Node, SignedWireError


async def main(target: str) -> None:
    did, _, address = target.partition("@")
    async with Node(Identity.generate()) as node:
        node.routing.update(did, address)

        # send() returns when the listener has verified the message and signed for it.
        receipt = await node.send(did, b"hello")
        print("The listener has verified the message and signed for it.")

        # The application of the listener calls ack() a moment later.
        await receipt.wait("handled", timeout=10)
        print(f"The message is {receipt.state}: the application is done with it.")


if len(sys.argv) != 2 or "@" not in sys.argv[1]:
    sys.exit("usage: python hello_sender.py DID@HOST:PORT")
try:
    asyncio.run(main(sys.argv[1]))
except SignedWireError as error:
    sys.exit(str(error))
