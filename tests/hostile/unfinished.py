"""Strangers that begin a large batch and stop: what their node holds for it.

python -m hostile.unfinished [LINKS [PARTS]]
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from dataclasses import dataclass
from typing import Final

from linkkit import ping
from signedwire import Address
from signedwire.wire import link_frames as frames
from signedwire.wire.link_frames import FIRST, Part

from .child import child
from .stranger import Field, Link, LinkEndedError, Who
from .victim import VICTIM

__all__ = ["LIMIT_KIB", "Unfinished", "first_parts", "measure_unfinished"]

LIMIT_KIB: Final = 64 * 1024
"""What a thousand such links may cost beyond a thousand idle ones."""
_TOTAL: Final = 2**20
_AT_ONCE: Final = 4
"""Links that are opened at the same time: a host may have eight without a proof."""
_SETTLE: Final = 3.0
"""Seconds after which the node holds all that it takes."""
_KEEP_ALIVE: Final = 4.0


@dataclass(frozen=True)
class Unfinished:
    """The result."""

    links: int
    parts: int
    """Parts that each link has sent of its batch."""
    kept: int
    """Links that the node had at the end."""
    idle_kib: int
    """Memory of the node with all links, before the first part."""
    peak_kib: int

    @property
    def more_kib(self) -> int:
        """What the batches cost."""
        return self.peak_kib - self.idle_kib

    def __str__(self) -> str:
        return (
            f"{self.links} strangers with {self.parts} part(s) of 1 MiB each: "
            f"{self.more_kib / 1024:.1f} MiB beyond the {self.idle_kib / 1024:.1f} MiB of "
            f"the idle links; {self.kept} links are left"
        )


def first_parts(count: int, stream: int = 1) -> bytes:
    """The first parts of a batch, as long as they may be."""
    data = bytes(frames.MAX_BODY - frames.FIRST_PART_HEADER)
    first = Part(FIRST, stream, data, 1, _TOTAL).encode()
    later = Part(0, stream, bytes(frames.MAX_BODY - frames.PART_HEADER)).encode()
    return first + (count - 1) * later


async def measure_unfinished(links: int, parts: int = 1, loop: str = "asyncio") -> Unfinished:
    """Open the links, let them be idle, and then have each begin a batch."""
    async with child("victim", loop) as victim, contextlib.AsyncExitStack() as stack:
        address = Address.parse((await victim.answer())["address"])
        field = Field.against(address, VICTIM.did, [Who.new() for _ in range(64)])
        opened: list[Link] = []
        alive = asyncio.create_task(keep_alive(opened))
        stack.callback(alive.cancel)

        async def open_some(count: int) -> None:
            for _ in range(count):
                link = await stack.enter_async_context(field.link(Who.new()))
                opened.append(link)

        shares = [len(range(at, links, _AT_ONCE)) for at in range(_AT_ONCE)]
        await asyncio.gather(*map(open_some, shares))
        await asyncio.sleep(1.0)
        await victim.ask("start")
        began = first_parts(parts)
        for link in opened:
            with contextlib.suppress(LinkEndedError):
                await link.send(began)
        await asyncio.sleep(_SETTLE)
        found = await victim.ask("measured")
        return Unfinished(links, parts, found["inbound"], found["idle_kib"], found["peak_kib"])


async def keep_alive(links: list[Link]) -> None:
    """Send PINGs, so that no link ends as silent."""
    for number in range(1, 1_000):
        await asyncio.sleep(_KEEP_ALIVE)
        for link in tuple(links):
            with contextlib.suppress(LinkEndedError):
                await link.send(ping(number).encode())


def main(links: int = 1_000, parts: int = 1) -> None:
    """Measure and print it."""
    found = asyncio.run(measure_unfinished(links, parts))
    sys.stdout.write(f"{found}\n")
    if found.more_kib > LIMIT_KIB or found.kept < links:
        raise SystemExit(1)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
