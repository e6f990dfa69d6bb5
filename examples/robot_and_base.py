"""A base station steers a robot: urgent messages overtake others, stale ones are not obeyed.

The robot accepts no connections, as behind NAT: it dials the base, and the base answers on
that link.
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

        # 1. The robot reports. The base now has a link to it, and needs no address.
        await robot.send(base.did, b"at the gate")
        report = await base.receive(timeout=10)
        report.ack()
        print(f"Base:  the robot reports {report.payload.decode()!r}.")

        # 2. The base sends 200 parts of a map, and then an emergency stop.
        parts = [b"map %d" % number for number in range(200)]
        await base.send_many(robot.did, parts, priority=Priority.LOW)
        await base.send(robot.did, b"STOP", priority=Priority.CRITICAL)
        print("Base:  sent 200 parts of a map, then STOP. The robot has signed for all of them.")

        # receive() gives the highest priority first. On the way STOP overtakes, too.
        first = await robot.receive(timeout=10)
        assert first.payload == b"STOP"
        first.ack()
        print(f"Robot: {first.payload.decode()} came first. The motors are off.")
        for expected in parts:
            part = await robot.receive(timeout=10)
            assert part.payload == expected
            part.ack()
        print("Robot: then came the 200 parts of the map, in order.")

        # 3. A command that is worth nothing after 0.3 seconds, and a robot that is busy.
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
