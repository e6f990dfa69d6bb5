"""The members of the fleet, each a process of its own: `python members.py NAME`."""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass

from signedwire import Fleet, HandlerContext, SignedEnvelope, Silence, as_completed


@dataclass
class EStop:
    sent_at: float


@dataclass
class Status:
    battery: float
    speed: float


def tell(**news: object) -> None:
    print(json.dumps({"at": time.time(), **news}), flush=True)


async def ticks(rate: float) -> AsyncIterator[int]:
    loop, number, due = asyncio.get_running_loop(), 0, 0.0
    while True:
        yield number
        number, due = number + 1, max(due + 1 / rate, loop.time())
        await asyncio.sleep(due - loop.time())


async def robot(me: Fleet) -> None:
    state = Status(battery=0.83, speed=0.0)

    @me.on("drive", allow="base", within=0.3)
    async def drive(speed: float) -> None:
        state.speed = speed

    @me.on(EStop, allow=("base", "operator"))
    async def stop(command: EStop, context: HandlerContext) -> None:
        state.speed = 0.0
        tell(stopped_by=context.sender, one_way=time.time() - command.sent_at)

    @me.serve("get_battery", allow=("base", "operator"))
    async def get_battery() -> float:
        return state.battery

    @me.lost("base", after=0.5)
    async def alone(silence: Silence) -> None:
        state.speed = 0.0
        tell(alone=silence.silent_for)

    telemetry, status = me.publisher("telemetry", int), me.publisher("status", Status)
    image = me.publisher("image", bytes)
    async for number in ticks(200):
        await telemetry.put(number)
        if number % 100 == 0:
            await image.put(bytes(200_000))
        if number % 200 == 0:
            await status.put(state)


async def base(me: Fleet) -> None:
    robots, counts = me.group("robot"), Counter[str]()

    async def follow(subject: str, type_: type[object]) -> None:
        async for _, _, message in robots.subscribe(subject, type_):
            counts[subject] += 1
            if subject == "status":
                await me.node.mirror(message)  # with the signature of the robot

    async with asyncio.TaskGroup() as tasks:
        for subject, type_ in (("telemetry", int), ("image", bytes), ("status", Status)):
            tasks.create_task(follow(subject, type_))
        async for number in ticks(10):
            await robots.send(0.4, subject="drive", until="queued")
            if number % 10 == 0:
                tell(received=dict(counts))
                counts.clear()


async def console(me: Fleet) -> None:
    robots = me.group("robot")
    async for number in ticks(4):
        began = time.perf_counter()
        outcomes = await robots.send(EStop(sent_at=time.time()), until="queued")
        ended = as_completed(outcomes.receipts, "handled")
        ends = [(each.recipient, time.perf_counter() - began) async for each in ended]
        await outcomes.wait("handled")
        failed = {str(each.name): each.reason for each in outcomes.failed}
        tell(handled=[took for did, took in ends if did in outcomes.delivered], failed=failed)
        peer = me.peer(list(robots)[number % len(robots)])
        if peer.name not in failed:
            tell(battery_of=peer.name, level=await peer.call("get_battery", returns=float))


async def auditor(me: Fleet) -> None:
    async for _, mirrored, _ in me.group("base").subscribe("status", bytes):
        envelope = SignedEnvelope.decode(mirrored)
        envelope.verify()
        tell(status_of=me.node.name_of(envelope.sender))


async def main(name: str) -> None:
    members = {"base": base, "robot": robot, "console": console, "auditor": auditor}
    async with Fleet.from_file(f"{name}.toml") as me:
        work = asyncio.create_task(members[name.split("-")[0]](me))
        # The starter holds the other end of our input, so this process does not outlive it.
        asyncio.get_running_loop().add_reader(sys.stdin, work.cancel)
        await work


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
