"""SIGHUP has `signedwire listen` read its access file again."""

from __future__ import annotations

import asyncio
import contextlib
import signal

from signedwire.cli.output import say
from signedwire.errors import ConfigError
from signedwire.node import Node
from signedwire.transport.outlast import in_own_thread

__all__ = ["reload_on_sighup"]


def reload_on_sighup(node: Node) -> None:
    """Have SIGHUP read the access file of `node` again, and say on stderr how that went.

    From now on, until the running loop is closed. Where the configuration names no such file,
    where the signal is ignored, and where the system has no such signal, nothing changes.
    """
    hang_up = getattr(signal, "SIGHUP", None)
    if (
        node.config.access_file is None
        or hang_up is None
        or signal.getsignal(hang_up) is signal.SIG_IGN
    ):
        return
    # Stays there while the node closes: else the signal would end the process meanwhile.
    asyncio.get_running_loop().add_signal_handler(hang_up, _Reloading(node).ask)


class _Reloading:
    """Reads the file whenever that is asked for: once for all that comes meanwhile."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._is_asked = False
        self._task: asyncio.Task[None] | None = None

    def ask(self) -> None:
        """The signal has come."""
        self._is_asked = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while self._is_asked:
            self._is_asked = False
            try:
                await in_own_thread(self._node.access.reload)
            except ConfigError as error:
                text = f"the access list stays as it was: {error}"
            else:
                text = f"read {self._node.config.access_file} again"
            with contextlib.suppress(OSError):  # nobody reads stderr: it is read all the same
                say(text)
