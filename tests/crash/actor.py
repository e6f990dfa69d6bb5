"""One node with a store, which sends or receives until it is killed.

    python -m crash.actor sender|receiver FILE SEED PORT FIRST [PEER_PORT PACE]

It obeys one word a line on stdin: "stop" (let what waits come to its end, and say so),
"memory", "end". The end of stdin ends it too. FIRST is the number of the first message.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
from collections import deque
from functools import partial
from typing import Final

from nodechild import in_use_kib, rss_kib
from signedwire import (
    Address,
    DeliveryFailedError,
    DeliveryState,
    Identity,
    Message,
    Node,
    Priority,
    Receipt,
    TransportConfig,
)
from signedwire.delivery.store import Store
from signedwire.errors import StoreError

from .records import RECORD, Kind

__all__ = ["RECEIVER", "SENDER", "WINDOW", "main", "obey", "say", "say_of", "store_of"]

SENDER: Final = Identity.from_seed(b"crash sender".ljust(32, b"."))
RECEIVER: Final = Identity.from_seed(b"crash receiver".ljust(32, b"."))
WINDOW: Final = 400
"""Messages of a lane that this process has sent and that are not accepted."""
_CHUNK: Final = 64
_UNDONE: Final = 60
_FOLLOWED: Final = 1000


def say(*records: tuple[int, int, int, int]) -> None:
    data = b"".join([RECORD.pack(*record) for record in records])
    while data:
        data = data[os.write(1, data) :]


def store_of(node: Node) -> Store:
    outbox = node._core.store
    assert outbox is not None
    return outbox.store


class Sender:
    """Keeps each lane's window full, by each of the ways to send."""

    def __init__(self, node: Node, rng: random.Random, first: int, pace: int = 0) -> None:
        self._node = node
        self._pace = pace
        self._rng = rng
        self._next = first
        self._is_stopping = False
        self._sent: dict[Priority, deque[tuple[int, Receipt]]] = {
            lane: deque() for lane in Priority
        }
        self._accepted: deque[tuple[int, int, Receipt]] = deque(maxlen=_FOLLOWED)
        self._room = asyncio.Event()
        self._has_said = False

    def stop(self) -> None:
        self._is_stopping = True
        self._room.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            for lane in Priority:
                tasks.create_task(self._send(lane))

    def _payloads(self, count: int) -> tuple[range, list[bytes]]:
        numbers = range(self._next, self._next + count)
        self._next += count
        rng = self._rng
        sizes = [5000 if rng.random() < 0.01 else rng.randrange(200) for _ in numbers]
        return numbers, [
            number.to_bytes(8, "little") + bytes(size)
            for number, size in zip(numbers, sizes, strict=True)
        ]

    async def _send(self, lane: Priority) -> None:
        node, sent, to = self._node, self._sent[lane], RECEIVER.did
        while not self._is_stopping:
            if len(sent) > WINDOW - _CHUNK:
                self._room.clear()
                await self._room.wait()
                continue
            # Critical has few places, and is for few.
            most = 8 if lane is Priority.CRITICAL else _CHUNK
            numbers, payloads = self._payloads(self._rng.randrange(1, most + 1))
            way = self._rng.randrange(3)
            if way == 0:
                receipts = await node.send_many(to, payloads, priority=lane)
            elif way == 1:
                receipts = [
                    await node.send(to, payload, priority=lane, until="queued")
                    for payload in payloads
                ]
                for receipt in receipts:
                    await receipt.wait(DeliveryState.PERSISTED)
            else:
                receipts = []
                for payload in payloads[:4]:
                    receipts.append(await node.send(to, payload, priority=lane))
            told = list(zip(numbers, receipts, strict=False))
            say(*((Kind.PERSISTED, lane, 0, number) for number, _ in told))
            sent += told
            if self._pace:
                await asyncio.sleep(len(told) / self._pace)
            elif lane is Priority.CRITICAL:
                await asyncio.sleep(0.02)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(0.01)
            records: list[tuple[int, int, int, int]] = []
            for lane, sent in self._sent.items():
                for _ in range(len(sent)):
                    number, receipt = sent.popleft()
                    if receipt.has_reached(DeliveryState.ACCEPTED):
                        records.append((Kind.ACCEPTED, lane, 0, number))
                        self._accepted.append((number, lane, receipt))
                    elif receipt.is_final:
                        records.append((Kind.FAILED, lane, 0, number))
                        sys.stderr.write(f"{number}: {receipt}\n")
                    else:
                        sent.append((number, receipt))
            for _ in range(len(self._accepted)):
                number, lane_, receipt = self._accepted.popleft()
                if receipt.state is DeliveryState.HANDLED:
                    records.append((Kind.HANDLED, lane_, 0, number))
                else:
                    self._accepted.append((number, lane_, receipt))
            say(*records)
            self._room.set()
            if self._is_stopping and not self._has_said and self._is_quiet():
                self._has_said = True
                say((Kind.QUIET, 0, 0, store_of(self._node).stats().dead.rows))

    def _is_quiet(self) -> bool:
        return not any(self._sent.values()) and not store_of(self._node).backlog().rows


class Receiver:
    """Takes what comes, and is done with it a little later, in any order."""

    def __init__(self, node: Node, rng: random.Random) -> None:
        self._node = node
        self._store = store_of(node)
        self._rng = rng
        self._unacked: list[Message] = []
        self._is_stopping = False

    def stop(self) -> None:
        self._is_stopping = True

    async def run(self) -> None:
        has_said = False
        while True:
            with contextlib.suppress(TimeoutError):
                self._take(await self._node.receive(timeout=0.02))
            while (message := self._node.receive_nowait()) is not None:
                self._take(message)
            if self._is_stopping:
                self._finish(len(self._unacked))
                stats = self._store.stats()
                if not has_said and not stats.inbox.rows:
                    has_said = True
                    say((Kind.QUIET, 0, 0, stats.dead.rows))

    def _take(self, message: Message) -> None:
        number = int.from_bytes(message.payload[:8], "little")
        say((Kind.DELIVERED, message.priority, int(message.redelivered), number))
        self._unacked.append(message)
        if len(self._unacked) >= self._rng.randrange(1, _UNDONE):
            self._finish(self._rng.randrange(1, len(self._unacked) + 1))

    def _finish(self, count: int) -> None:
        if not count:
            return
        self._rng.shuffle(self._unacked)
        finished = [self._unacked.pop() for _ in range(count)]
        say_of(Kind.FINISHING, finished)
        for message in finished:
            message.ack()
        # What was submitted before a barrier is committed when it is told; all that was done
        # in this turn of the loop is submitted at its end.
        on_commit = partial(_on_done, finished)
        asyncio.get_running_loop().call_soon(self._store.barrier, on_commit)


def _on_done(messages: list[Message], error: StoreError | None) -> None:
    assert error is None, error
    say_of(Kind.DONE, messages)


def say_of(kind: Kind, messages: list[Message]) -> None:
    say(
        *((kind, each.priority, 0, int.from_bytes(each.payload[:8], "little")) for each in messages)
    )


async def obey(actor: Sender | Receiver | None) -> None:
    """Until the word to end; the end of stdin is that of the process."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while word := (await reader.readline()).decode().strip():
        if word == "stop" and actor is not None:
            actor.stop()
        elif word == "memory":
            say((Kind.IN_USE, 0, 0, in_use_kib()), (Kind.MEMORY, 0, 0, rss_kib()))
        elif word == "end":
            return
    os._exit(0)  # whoever started us is no more


async def main(role: str, path: str, seed: str, port: str, first: str, *rest: str) -> None:
    """Be that actor."""
    rng = random.Random(seed)
    is_sender = role == "sender"
    # What a restart of the other side takes is waited for by the driver as well.
    config = TransportConfig(listen=Address("127.0.0.1", int(port)))
    node = Node(SENDER if is_sender else RECEIVER, config, store=path)
    if is_sender:
        node.routing.update(RECEIVER.did, Address("127.0.0.1", int(rest[0])))
    async with node:
        actor = Sender(node, rng, int(first), int(rest[1])) if is_sender else Receiver(node, rng)
        say((Kind.READY, 0, 0, 0))
        work = asyncio.create_task(actor.run())
        obeying = asyncio.create_task(obey(actor))
        await asyncio.wait({work, obeying}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except DeliveryFailedError as failure:
        sys.stderr.write(f"{failure}\n")
        sys.exit(3)
