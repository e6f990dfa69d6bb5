"""A base station controls a robot: urgent messages overtake others, late ones are not obeyed.

The robot accepts no connections, as if it were behind NAT. It dials the base, and the base
answers on that link.
"""

import asyncio

from signedwire import (
    Identity,
    MessageExpiredError,
    MessageRefusedError,
    Node,
    Priority,
    TransportConfig,
)


async def main() -> None:
    base = Node(Identity.generate())
    robot = Node(Identity.generate(), TransportConfig(listen=None))
    async with base, robot:
        robot.routing.update(base.did, base.address)

        # 1. The robot reports. Now the base has a link to the robot, and needs no address.
        await robot.send(base.did, b"at the gate")
        report = await base.receive(timeout=10)
        report.ack()
        print(f"Base:  the robot reports {report.payload.decode()!r}.")

        # 2. The base sends 200 parts of a map, and then an emergency stop.
        parts = [b"map %d" % number for number in range(200)]
        await base.send_many(robot.did, parts, priority=Priority.LOW)
        await base.send(robot.did, b"STOP", priority=Priority.CRITICAL)
        print("Base:  sent 200 parts of a map, then STOP. The robot has signed for all of them.")

        # receive() returns the highest priority first. In the queues, too, STOP overtakes.
        first = await robot.receive(timeout=10)
        assert first.payload == b"STOP"
        first.ack()
        print(f"Robot: {first.payload.decode()} came first. The motors are off.")
        for expected in parts:
            part = await robot.receive(timeout=10)
            assert part.payload == expected
            part.ack()
        print("Robot: then came the 200 parts of the map, in order.")

        # 3. A command that is useless after 0.3 seconds, and a robot that is busy.
        command = base.send_nowait(robot.did, b"turn left", deadline=0.3)
        print("Base:  turn left within 0.3 seconds!")
        await asyncio.sleep(0.6)
        assert robot.receive_nowait() is None
        print("Robot: I was busy for 0.6 seconds, and no command is waiting for me.")
        try:
            await command.wait("handled", timeout=10)
        except (MessageExpiredError, MessageRefusedError) as error:
            print(f"Base:  the robot did not obey; the reason is {str(error.reason)!r}.")


asyncio.run(main())
