"""`signedwire bench`: measures a peer of your own over the network between.

`peer_server` is the peer that is measured, and `peer_bench` measures it. `figures` has the
results as data, `peer_table` and `columns` print them. To compare this machine with other
software, run `make bench` in a checkout.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

__all__ = ["MIN_SIZE", "Tell", "progress"]

MIN_SIZE: Final = 16
"""Minimum bytes of a payload that is measured."""

Tell: TypeAlias = Callable[[str], None]
"""Takes a few words on what is being measured now."""


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Show on a terminal what is being measured; without a terminal, show nothing."""
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("") as status:
        yield status.update
