"""SIGUSR1 has `signedwire listen` rotate its evidence log."""

from __future__ import annotations

import asyncio
import signal
import sys

from signedwire.cli.output import say
from signedwire.errors import SignedWireError
from signedwire.node import Node

__all__ = ["rotate_on_sigusr1"]


def rotate_on_sigusr1(node: Node) -> None:
    """Rotate the evidence log of `node` whenever SIGUSR1 comes, and say so on stderr."""
    tasks: set[asyncio.Task[None]] = set()

    def begin() -> None:
        task = asyncio.get_running_loop().create_task(_rotate(node))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    if sys.platform != "win32":
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, begin)


async def _rotate(node: Node) -> None:
    try:
        head = await node.rotate_evidence()
    except SignedWireError as error:
        say(str(error))
    else:
        say(f"rotated the evidence log: {head.records} records, head {head}")
