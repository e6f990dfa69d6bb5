"""Questions and answers without asyncio: one thread answers, the main thread asks."""

import threading

from signedwire import Identity
from signedwire.sync import Node


def answer(server: Node) -> None:
    """Answer every question until the node is closed."""
    for message in server.messages():
        number = int(message.payload)
        server.send(message.sender, b"%d" % number**2)
        message.ack()


def main() -> None:
    # Any thread may call every method. Each node runs an event loop in its own thread.
    with Node(Identity.generate()) as server, Node(Identity.generate()) as client:
        client.routing.update(server.did, server.address)
        thread = threading.Thread(target=answer, args=(server,))
        thread.start()

        for number in (7, 12, 111):
            receipt = client.send(server.did, b"%d" % number)
            reply = client.receive(timeout=10)
            reply.ack()
            print(f"The square of {number} is {reply.payload.decode()}.")
            receipt.result(until="handled", timeout=10)

        server.close()  # messages() ends, and so does the thread
        thread.join()
    print("Both nodes are closed.")


if __name__ == "__main__":
    main()
