"""Signals that a running `signedwire listen` acts on.

SIGHUP reloads the access file, and SIGUSR1 rotates the evidence log.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys

from signedwire.cli.formatting import count_of
from signedwire.cli.output import say
from signedwire.errors import ConfigError, SignedWireError
from signedwire.node import Node
from signedwire.transport.own_thread import in_own_thread

__all__ = ["reload_on_sighup", "rotate_on_sigusr1"]


def reload_on_sighup(node: Node) -> None:
    """Read the access file of `node` again on each SIGHUP, and print the result on stderr.

    The handler stays until the running loop is closed. There is none if the configuration
    names no access file, if the signal is ignored, or if the system has no such signal.
    """
    hang_up = getattr(signal, "SIGHUP", None)
    if (
        node.config.access_file is None
        or hang_up is None
        or signal.getsignal(hang_up) is signal.SIG_IGN
    ):
        return
    # The handler stays while the node closes: else the signal would end the process meanwhile.
    asyncio.get_running_loop().add_signal_handler(hang_up, _Reloading(node).request)


class _Reloading:
    """Reads the access file on request; requests that arrive meanwhile share one reading."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._is_requested = False
        self._task: asyncio.Task[None] | None = None

    def request(self) -> None:
        """Read the file, now or after the reading that is going on."""
        self._is_requested = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while self._is_requested:
            self._is_requested = False
            try:
                rules = await in_own_thread(self._node.access.reload)
            except ConfigError as error:
                text = f"the access list stays as it was: {error}"
            else:
                found = "it has no rule and denies nobody"
                if rules:
                    found = f"{count_of(rules, 'rule')} in force"
                text = f"read {self._node.config.access_file} again: {found}"
            with contextlib.suppress(OSError):  # the list is loaded even if stderr is closed
                say(text)


def rotate_on_sigusr1(node: Node) -> None:
    """Rotate the evidence log of `node` on each SIGUSR1, and print the result on stderr."""
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
