"""Exchange messages with a peer of the v1 network over its wire.

The peer here is a second node that uses only v1. `docs/v1.md` does the same with `omnimesh`.
"""

import asyncio

from signedwire import DeliveryFailedError, Identity, Node, TransportConfig, payloads


async def main() -> None:
    arm = Node(Identity.generate(), TransportConfig(wire="v1"))
    # v1 neither encrypts nor confirms, so each peer that may use it must be named.
    planner = Node(Identity.generate(), TransportConfig(v1_peers=[arm.did]))
    stranger = Node(Identity.generate())
    async with arm, planner, stranger:
        planner.routing.update(arm.did, arm.address)
        stranger.routing.update(arm.did, arm.address)
        arm.routing.update(planner.did, planner.address)

        # v1 peers exchange protobuf messages of agreed types.
        command = payloads.AgentCommand(command_type="pick", target_did=b"shelf-A12")
        receipt = await planner.send(
            arm.did, payloads.encode(command), payload_type="robot_command"
        )
        # v1 has no receipts, so `written` is the last state.
        print(f"Planner: the command is {receipt.state}. Confirmed: {receipt.is_confirmed}.")

        message = await arm.receive(timeout=10)
        received = payloads.decode(message.payload)
        assert isinstance(received, payloads.AgentCommand)
        print(f"Arm:     {message.sender.short} commands {received.command_type!r}.")

        await arm.send(planner.did, b"picked")
        message = await planner.receive(timeout=10)
        print(f"Planner: {message.sender.short} answers {message.payload.decode()!r}.")

        try:
            await stranger.send(arm.did, b"hello")
        except DeliveryFailedError as error:
            print(f"Another node, that did not name the arm in v1_peers: {error.reason}.")


asyncio.run(main())
