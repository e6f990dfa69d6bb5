"""How fast is a peer of yours, over the network between? `signedwire bench`.

`peer_server` is the peer that is measured, `peer_bench` the one that measures; `figures`,
`peer_table` and `columns`: the figures as data and for people. How fast this machine is,
beside other software, `make bench` tells in a checkout.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

__all__ = ["MIN_SIZE", "Tell", "progress"]

MIN_SIZE: Final = 16
"""Bytes of the smallest payload that is measured."""

Tell: TypeAlias = Callable[[str], None]
"""Told in a few words what is being measured now."""


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A line on a terminal that says what is being measured; elsewhere nothing."""
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("") as status:
        yield status.update
