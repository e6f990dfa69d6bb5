"""The attacking process: N links that repeat one attack, in one event loop.

    python -m hostile.attacker ATTACK LINKS ADDRESS

Words: "go" begins, and is answered at once; "stop" ends it and answers with the counts.
The attack called "burner" opens no link: it only burns CPU, for a baseline.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from typing import Final

from signedwire import Address

from . import frame_attacks, handshake_attacks, record_attacks
from .child import LOOPS, commands, main, say
from .frame_attacks import Attack
from .stranger import Field, Who
from .victim import VICTIM

__all__ = ["ATTACKS", "BURNER", "NOBODY"]

NOBODY: Final = "nobody"
BURNER: Final = "burner"
_SPARE_KEYS: Final = 64
"""Fresh keys beside those of the first links, for the links that are opened anew."""

ATTACKS: Final[dict[str, Attack]] = (
    frame_attacks.ATTACKS | record_attacks.ATTACKS | handshake_attacks.ATTACKS
)


def burn(is_over: threading.Event) -> None:
    """Use all the CPU that one thread gets."""
    while not is_over.is_set():
        for _ in range(10_000):
            pass


async def run(name: str, count: int, address: str) -> None:
    links: list[asyncio.Task[None]] = []
    is_over = threading.Event()
    crowd = [Who.new() for _ in range(count + _SPARE_KEYS)] if name in ATTACKS else []
    field = Field.against(Address.parse(address), VICTIM.did, crowd)
    gc.freeze()
    say()
    async for words in commands():
        match words:
            case ["go"]:
                say()
                if name == BURNER:
                    threading.Thread(target=burn, args=(is_over,), daemon=True).start()
                elif name != NOBODY:
                    links = [asyncio.ensure_future(ATTACKS[name](field)) for _ in range(count)]
            case ["stop"]:
                is_over.set()
                flaws = [str(link.exception()) for link in links if link.done()]
                for link in links:
                    link.cancel()
                await asyncio.gather(*links, return_exceptions=True)
                say(
                    bytes_sent=field.bytes_sent,
                    opened=field.opened,
                    closed=field.closed,
                    refused=field.refused,
                    flaws=flaws,
                )


if __name__ == "__main__":
    fastest = "uvloop" if "uvloop" in LOOPS else "asyncio"
    main(run(sys.argv[1], int(sys.argv[2]), sys.argv[3]), fastest)
