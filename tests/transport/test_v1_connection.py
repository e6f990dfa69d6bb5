"""A v1 connection alone: when it is drained, and when its owner is told of messages."""

from __future__ import annotations

from typing import Any, cast

import pytest

from idkit import id_of
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.send_options import SendOptions
from signedwire.errors import Cause
from signedwire.transport.v1.connection import V1Connection
from signedwire.types import Priority
from wirekit import BOB, on_asyncio

SIZE = 10


class Kernel:
    """A stream whose bytes go as far as the test says."""

    def __init__(self) -> None:
        self.in_memory = 0
        self.in_kernel: int | None = 0
        self.is_broken = False

    def write(self, data: bytes) -> None:
        self.in_memory += len(data)

    def waiting(self) -> int:
        return 0 if self.is_broken else self.in_memory

    def unacknowledged(self) -> int | None:
        return self.in_kernel

    def is_closing(self) -> bool:
        return self.is_broken

    def close(self) -> None:
        self.is_broken = True

    abort = close


class Owner:
    """Notes what a connection tells its owner."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def pump(self) -> None:
        pass

    def on_written(self, messages: list[OutgoingMessage]) -> None:
        self.calls.append(("written", len(messages)))

    def on_acknowledged(self, messages: list[OutgoingMessage]) -> None:
        self.calls.append(("acknowledged", len(messages)))

    def on_lost(self, connection: V1Connection, lost: list[OutgoingMessage], cause: Cause) -> None:
        self.calls.append(("lost", len(lost)))


class Place:
    """A connection that was given `count` frames of `SIZE` bytes, none of which was taken."""

    def __init__(self, count: int) -> None:
        self.kernel, self.owner = Kernel(), Owner()
        self.connection = V1Connection(self.owner)
        self.connection.connected(cast("Any", self.kernel))
        options = SendOptions(BOB.did, Priority.NORMAL)
        messages = [OutgoingMessage(options, id_of(number), b"x") for number in range(1, count + 1)]
        self.connection.write([(bytes(SIZE), message) for message in messages])

    def move(self, in_memory: int, in_kernel: int | None) -> None:
        self.kernel.in_memory, self.kernel.in_kernel = in_memory, in_kernel


@pytest.mark.parametrize(
    ("in_memory", "in_kernel", "is_drained"),
    [
        (2 * SIZE, 0, False),
        (SIZE, 0, False),
        (1, 0, False),
        (0, 2 * SIZE, False),
        (0, 1, False),
        (0, 0, True),
        (0, None, True),  # the kernel does not count acknowledgements
        (1, None, False),
    ],
)
@on_asyncio
async def test_drained_when_the_host_of_the_peer_has_every_byte(
    in_memory: int, in_kernel: int | None, *, is_drained: bool
) -> None:
    place = Place(2)
    place.move(in_memory, in_kernel)
    assert place.connection.is_drained is is_drained
    assert place.connection.is_drained is is_drained
    assert place.owner.calls == [], "a property has told the owner something"


@on_asyncio
async def test_a_connection_that_wrote_nothing_is_drained() -> None:
    assert V1Connection(Owner()).is_drained
    assert Place(0).connection.is_drained


@pytest.mark.parametrize(("in_kernel", "lost"), [(0, 1), (SIZE, 2)])
@on_asyncio
async def test_bytes_that_a_broken_stream_has_thrown_away_are_not_taken(
    in_kernel: int, lost: int
) -> None:
    place = Place(2)
    place.move(SIZE, in_kernel)
    place.connection.writable()
    place.kernel.is_broken = True
    assert not place.connection.is_drained
    place.connection.lost(None)
    assert place.owner.calls[-1] == ("lost", lost)


@on_asyncio
async def test_a_connection_that_has_broken_after_its_last_byte_is_drained() -> None:
    place = Place(2)
    place.move(0, SIZE)
    place.connection.writable()
    place.kernel.is_broken = True
    assert not place.connection.is_drained
    place.kernel.in_kernel = 0
    assert place.connection.is_drained


@on_asyncio
async def test_a_drained_connection_tells_of_all_messages_when_it_is_closed() -> None:
    place = Place(2)
    place.move(0, 0)
    assert place.connection.is_drained
    assert place.connection.close() == []
    assert place.owner.calls == [("acknowledged", 2), ("written", 2)]
    assert place.connection.is_drained


@on_asyncio
async def test_a_lost_connection_is_drained() -> None:
    place = Place(2)
    place.move(0, SIZE)
    place.connection.lost(None)
    assert place.owner.calls == [("acknowledged", 1), ("written", 2), ("lost", 1)]
    assert place.connection.is_drained
