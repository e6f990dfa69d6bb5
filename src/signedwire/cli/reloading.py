"""SIGHUP has `signedwire listen` read its access file again."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator

from signedwire.cli.output import say
from signedwire.errors import ConfigError
from signedwire.node import Node

__all__ = ["reload_on_sighup"]


@contextlib.contextmanager
def reload_on_sighup(node: Node) -> Iterator[None]:
    """While the block runs, SIGHUP reads the access file again, and says how that went.

    Where the configuration names none, and where the system has no such signal, nothing
    changes.
    """
    path, hang_up = node.config.access_file, getattr(signal, "SIGHUP", None)
    if path is None or hang_up is None:
        yield
        return

    def reload() -> None:
        try:
            node.access.reload()
        except ConfigError as error:
            say(f"the access list stays as it was: {error}")
        else:
            say(f"read {path} again")

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(hang_up, reload)
    try:
        yield
    finally:
        loop.remove_signal_handler(hang_up)
