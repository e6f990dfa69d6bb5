"""One of the demo's nodes that have a store: `python -m examples.demo.keeper LIMIT`.

It tells the conductor at once what it was told and what it did, so that all it has said
is known when it is killed: "persisted", "noted" (a message, before `ack()`), "done" (on
the disk). Messages are numbers of a stream.
"""

from __future__ import annotations

import asyncio
import struct
import sys
from typing import Any, Final, TypeAlias

from benches.children import Channel, Request

from signedwire import Did, Identity, Message, Node, TransportConfig

__all__ = ["Name", "main", "read_name"]

_NUMBERED: Final = struct.Struct("<BQ")
Name: TypeAlias = tuple[int, int]
"""Which message: its stream and its number."""
_AT_A_TIME: Final = 100
_PAUSE: Final = 0.04
"""Between two of those, so that the stream takes a second or so."""
_WORK: Final = 0.1
"""What an application needs for a message."""


def read_name(payload: bytes) -> Name:
    """The name of a message from its payload."""
    stream, number = _NUMBERED.unpack(payload)
    return stream, number


class Keeper:
    """Answers the conductor; every public coroutine is something that it may ask."""

    def __init__(self, node: Node, channel: Channel) -> None:
        self._node = node
        self._channel = channel
        self._peer = node.did
        self._streaming: asyncio.Task[None] | None = None
        self._at_work: set[asyncio.Task[None]] = set()

    async def take_all(self) -> None:
        """Note each message, work on it, be done with it; on many at the same time."""
        while True:
            noted = [self._note(await self._node.receive())]
            while (message := self._node.receive_nowait()) is not None:
                noted.append(self._note(message))
            task = asyncio.create_task(self._finish(noted))
            self._at_work.add(task)
            task.add_done_callback(self._at_work.discard)

    async def _finish(self, messages: list[Message]) -> None:
        await asyncio.sleep(_WORK)
        for message in messages:
            message.ack()
        await self._node.outbox.flush()
        self._channel.news("done", those=[read_name(each.payload) for each in messages])

    def _note(self, message: Message) -> Message:
        stream, number = read_name(message.payload)
        self._channel.news("noted", stream=stream, number=number, again=message.redelivered)
        return message

    async def route(self, did: str, address: str) -> None:
        self._peer = Did.parse(did)
        self._node.routing.update(self._peer, address)

    async def begin(self, stream: int, count: int) -> None:
        """Send so many in the background."""
        self._streaming = asyncio.create_task(self._stream(stream, count))

    async def _stream(self, stream: int, count: int) -> None:
        for first in range(1, count + 1, _AT_A_TIME):
            numbers = range(first, min(first + _AT_A_TIME, count + 1))
            await self._node.send_many(
                self._peer,
                [_NUMBERED.pack(stream, number) for number in numbers],
                until="persisted",
            )
            self._channel.news("persisted", stream=stream, last=numbers[-1])
            await asyncio.sleep(_PAUSE)

    async def left(self) -> dict[str, int]:
        """What is still in the store."""
        await self._node.outbox.flush()
        store = self._node.stats().store
        assert store is not None
        return {
            "waiting": store.outbox.rows,
            "not done": store.inbox.rows,
            "dead": store.dead.rows,
        }


async def _handle(keeper: Keeper, request: Request) -> None:
    try:
        request.answer(await getattr(keeper, request.what)(**request.arguments))
    except Exception as error:  # noqa: BLE001 - the conductor is told
        request.fail(error)


async def _open(request: Request) -> Node:
    arguments: dict[str, Any] = request.arguments
    config = TransportConfig(listen=f"127.0.0.1:{arguments['port']}", retry_max_delay=0.25)
    identity = Identity.from_seed(bytes.fromhex(arguments["seed"]))
    node = Node(identity, config, store=arguments["store"])
    await node.start()
    return node


async def main(limit: float) -> None:
    """Serve until the conductor closes the channel, which ends the process."""
    loop = asyncio.get_running_loop()
    requests: asyncio.Queue[Request] = asyncio.Queue()
    channel = Channel(
        limit, lambda request: loop.call_soon_threadsafe(requests.put_nowait, request)
    )
    channel.listen()
    opening = await requests.get()
    try:
        node = await _open(opening)
    except Exception as error:  # noqa: BLE001 - the conductor is told
        opening.fail(error)
        return
    opening.answer({"address": str(node.address)})
    keeper = Keeper(node, channel)
    tasks: set[asyncio.Task[None]] = {asyncio.create_task(keeper.take_all())}
    while True:
        task = asyncio.create_task(_handle(keeper, await requests.get()))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1])))
