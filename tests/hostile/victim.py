"""The node that is attacked: default configuration, an application that takes and answers.

    python -m hostile.victim LOOP

Words: "start" measures from now on; "feed COUNT" sends so many messages to `RECIPIENT`;
"measured" answers with what was measured since "start".
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Final

from nodechild import rss_kib
from signedwire import Did, Identity, Node
from signedwire.types import PayloadType, PeerState, Priority
from tlskit import MALLORY

from .child import commands, main, say

__all__ = ["RECIPIENT", "VICTIM"]

VICTIM: Final = Identity.from_seed(b"hostile victim".ljust(32, b"."))
RECIPIENT: Final = MALLORY.did
"""To whom the victim sends, where the attack needs that."""
_BEAT: Final = 0.001


class Heart:
    """A timer of 1 ms in the victim's loop: the gaps are what the loop was held up for.

    Two gaps are kept. Wall time counts also what the kernel gave to other processes.
    CPU time of the loop's thread counts only what the thread itself did in between: so
    the longest is the longest turn of the loop, however busy the machine is.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.reset()
        self._beat()

    def reset(self) -> None:
        self.wall = self.cpu = 0.0
        self._wall_at, self._cpu_at = time.perf_counter(), time.thread_time()

    def look(self) -> None:
        """Count the gap up to now."""
        wall, cpu = time.perf_counter(), time.thread_time()
        self.wall = max(self.wall, wall - self._wall_at)
        self.cpu = max(self.cpu, cpu - self._cpu_at)
        self._wall_at, self._cpu_at = wall, cpu

    def _beat(self) -> None:
        self.look()
        self._loop.call_later(_BEAT, self._beat)


def forget_peak() -> None:
    """Let VmHWM begin again at what is resident now."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def peak_kib() -> int:
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


async def take(node: Node) -> None:
    async for message in node.messages():
        message.ack()


def is_linked(node: Node, to: Did) -> bool:
    status = node.peers().get(to)
    return status is not None and status.state is PeerState.CONNECTED


async def feed(node: Node, to: Did, count: int) -> None:
    """Send so many messages, half of them volatile: an answer may be about either kind."""
    while not is_linked(node, to):  # there is no other way to it
        await asyncio.sleep(0.01)
    half = [b"%16d" % number for number in range(count // 2)]
    await asyncio.gather(feed_volatile(node, to, half), node.send_many(to, half, until="queued"))


async def feed_volatile(node: Node, to: Did, payloads: list[bytes]) -> None:
    endpoint = node._core.endpoint
    lanes = endpoint.sessions.session(to).sender.lanes
    terms = to, Priority.NORMAL, PayloadType.RAW, None
    for message in node._sending.messages(*terms, payloads, is_durable=False):
        while not lanes.has_room(message.options.stream):
            await asyncio.sleep(0.001)
        endpoint.submitter.submit(message, message.payload_size)


class Measure:
    """What is measured from one instant on."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._heart = Heart()
        self.start()

    def start(self) -> None:
        forget_peak()
        self._idle_kib = rss_kib()
        self._before = self._node.stats()
        self._wall_at, self._cpu_at = time.perf_counter(), time.process_time()
        self._heart.reset()

    def say(self) -> None:
        self._heart.look()
        now, before = self._node.stats(), self._before
        seconds = time.perf_counter() - self._wall_at
        say(
            seconds=seconds,
            stall_wall=self._heart.wall,
            stall_cpu=self._heart.cpu,
            cpu=(time.process_time() - self._cpu_at) / seconds,
            idle_kib=self._idle_kib,
            peak_kib=peak_kib(),
            received=now.messages_received - before.messages_received,
            bytes_received=now.bytes_received - before.bytes_received,
            accepted=now.connections_accepted - before.connections_accepted,
            inbound=now.inbound_connections,
            dropped={
                str(reason): count - before.dropped.get(reason, 0)
                for reason, count in now.dropped.items()
                if count != before.dropped.get(reason, 0)
            },
        )


async def run() -> None:
    async with Node(VICTIM) as node:
        measure = Measure(node)
        work = [asyncio.create_task(take(node))]
        say(address=str(node.address))
        async for words in commands():
            match words:
                case ["start"]:
                    measure.start()
                    say()
                case ["feed", count]:
                    work.append(asyncio.create_task(feed(node, RECIPIENT, int(count))))
                    say()
                case ["measured"]:
                    measure.say()
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)


if __name__ == "__main__":
    main(run(), *sys.argv[1:])
