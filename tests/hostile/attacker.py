"""The attacking process: N links that repeat one attack, in one event loop.

    python -m hostile.attacker ATTACK LINKS ADDRESS

Words: "go" begins, and is answered at once; "stop" ends it and answers with the counts.
Where the victim is to send to the attacker, "prepare" comes first, and is answered when
enough messages have come.
The attack called "burner" opens no link: it only burns CPU, for a baseline.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from typing import Final

from signedwire import Address

from . import frame_attacks, handshake_attacks, recipient_attacks, record_attacks, stream_attacks
from .child import LOOPS, commands, main, say
from .frame_attacks import Attack
from .recipient_attacks import RECIPIENT_ATTACKS
from .stranger import Field, Who
from .victim import VICTIM

__all__ = ["ATTACKS", "BURNER", "NOBODY"]

NOBODY: Final = "nobody"
BURNER: Final = "burner"
_SPARE_KEYS: Final = 64
"""Fresh keys beside those of the first links, for the links that are opened anew."""

ATTACKS: Final[dict[str, Attack]] = (
    frame_attacks.ATTACKS
    | stream_attacks.ATTACKS
    | record_attacks.ATTACKS
    | handshake_attacks.ATTACKS
    | recipient_attacks.UNREAD_ATTACKS
    | RECIPIENT_ATTACKS
)


def burn(is_over: threading.Event) -> None:
    """Use all the CPU that one thread gets."""
    while not is_over.is_set():
        for _ in range(10_000):
            pass


class Attackers:
    """The links of one attack."""

    def __init__(self, name: str, count: int, address: Address) -> None:
        self._name = name
        self._count = count
        crowd = [Who.new() for _ in range(count + _SPARE_KEYS)] if name in ATTACKS else []
        self._field = Field.against(address, VICTIM.did, crowd)
        self._is_over = threading.Event()
        self._links: list[asyncio.Task[None]] = []

    def _begin(self) -> None:
        attack = ATTACKS[self._name]
        self._links = [asyncio.ensure_future(attack(self._field)) for _ in range(self._count)]

    async def prepare(self) -> None:
        """Let a recipient take its messages."""
        self._begin()
        fed = asyncio.ensure_future(self._field.is_fed.wait())
        await asyncio.wait({fed, *self._links}, return_when=asyncio.FIRST_COMPLETED)
        say()

    def go(self) -> None:
        """Attack."""
        say()
        self._field.may_begin.set()
        if self._name == BURNER:
            threading.Thread(target=burn, args=(self._is_over,), daemon=True).start()
        elif self._name != NOBODY and not self._links:
            self._begin()

    async def stop(self) -> None:
        """End it, and say what there was."""
        self._is_over.set()
        flaws = [repr(link.exception()) for link in self._links if link.done()]
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)
        field = self._field
        say(
            bytes_sent=field.bytes_sent,
            opened=field.opened,
            closed=field.closed,
            refused=field.refused,
            flaws=flaws,
        )


async def run(name: str, count: int, address: str) -> None:
    attackers = Attackers(name, count, Address.parse(address))
    gc.freeze()
    say()
    async for words in commands():
        match words:
            case ["prepare"]:
                await attackers.prepare()
            case ["go"]:
                attackers.go()
            case ["stop"]:
                await attackers.stop()


if __name__ == "__main__":
    fastest = "uvloop" if "uvloop" in LOOPS else "asyncio"
    main(run(sys.argv[1], int(sys.argv[2]), sys.argv[3]), fastest)
