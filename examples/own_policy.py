"""A robot that accepts only commands from its base.

The node asks a policy about each message, before it signs a receipt, stores the message or
gives it to the application. If the policy refuses, the sender gets the reason.
"""

import asyncio

from signedwire import (
    AdmissionContext,
    Did,
    Identity,
    MessageHeader,
    MessageRefusedError,
    Node,
    PayloadType,
    Reason,
    RoutingTable,
    TransportConfig,
)


class OnlyCommands:
    """From one DID, admit only messages of type ROBOT_COMMAND. Admit all of other DIDs.

    Args:
        did: The text of the DID, as a configuration has it.
    """

    def __init__(self, did: str) -> None:
        # A `Did` never equals text, so the rule would not apply to anybody without this.
        self._did = Did.parse(did)

    def admit(self, header: MessageHeader, context: AdmissionContext) -> Reason | None:
        """See `signedwire.Policy`."""
        if header.sender == self._did and header.payload_type is not PayloadType.ROBOT_COMMAND:
            return Reason.NOT_ALLOWED
        return None


async def main() -> None:
    """Send one message that the rule admits, and one that it refuses."""
    base, robot = Identity.generate(), Identity.generate()
    policy = OnlyCommands(str(base.did))
    async with Node(robot, TransportConfig(listen="127.0.0.1:0"), policy=policy) as receiver:
        routes = RoutingTable({robot.did: str(receiver.address)})
        async with Node(base, TransportConfig(listen=None), routes) as sender:
            await sender.send(robot.did, b"go home", payload_type=PayloadType.ROBOT_COMMAND)
            message = await receiver.receive(timeout=10)
            print(f"The robot took the command '{message.payload.decode()}'.")
            try:
                await sender.send(robot.did, b"weights", payload_type=PayloadType.MODEL_WEIGHTS)
            except MessageRefusedError as error:
                print(f"The robot refused another type: {error.reason}.")
            dropped = receiver.stats().dropped[Reason.NOT_ALLOWED]
            print(f"Messages that the robot refused: {dropped}.")


if __name__ == "__main__":
    asyncio.run(main())
