"""The cast: Alice, Bob and an impostor, as the conductor knows them."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from benches.children import Child

from signedwire import Address, Did, Identity

__all__ = ["Actor", "wait_for"]

_RATE_WINDOW: Final = 6
"""News over which a rate is taken; they come ten times a second."""


class Actor:
    """A node in a child process, with its key and port; it can be killed and started again."""

    def __init__(self, name: str, limit: float) -> None:
        self.name = name
        self._limit = limit
        self._seed = secrets.token_bytes(32)
        self.identity = Identity.from_seed(self._seed)
        self.v1_peers: list[Did] = []
        """Whom it believes v1 frames."""
        self._news: deque[dict[str, Any]] = deque(maxlen=_RATE_WINDOW)
        self._child: Child | None = None
        self.address = Address("127.0.0.1", 0)
        self.listening_at = 0.0
        """When it began to listen, by `time.perf_counter`, one clock for all processes."""

    def launch(self) -> None:
        """Start the process if there is none; `start()` makes it a node."""
        if self._child is None:
            self._news.clear()
            self._child = Child(
                self.name, "examples.demo.node", limit=self._limit, on_news=self._news.append
            )

    def start(self) -> None:
        """Begin to listen; with the same key and, from the second time on, the same port."""
        self.launch()
        opened = self.ask(
            "open",
            seed=self._seed.hex(),
            port=self.address.port,
            v1_peers=[str(did) for did in self.v1_peers],
        )
        self.did = Did.parse(opened["did"])
        self.address = Address.parse(opened["address"])
        self.listening_at = opened["at"]

    @property
    def child(self) -> Child:
        """Its process."""
        assert self._child is not None
        return self._child

    def ask(self, what: str, /, *, timeout: float = 10.0, **arguments: object) -> Any:
        """Ask the process; see `Child.ask`."""
        return self.child.ask(what, timeout=timeout, **arguments)

    def meet(self, other: Actor) -> None:
        """Know where the other is."""
        self.ask("route", did=str(other.did), address=str(other.address))

    def close(self) -> None:
        """Kill the process and free everything."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def latest(self, key: str) -> Any:
        """The last that it told of a counter."""
        news = self._news[-1] if self._news else {}
        return news.get(key, 0)

    def rate(self, key: str) -> float:
        """How fast a counter rose in the last half second."""
        news = list(self._news)
        if len(news) < 2:
            return 0.0
        return float(news[-1][key] - news[0][key]) / float(news[-1]["at"] - news[0]["at"])


def wait_for(is_true: Callable[[], bool], timeout: float) -> bool:
    """Whether it came true in time."""
    end = time.monotonic() + timeout
    while not is_true():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
