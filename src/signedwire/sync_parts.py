"""Blocking forms of what belongs to a node: its subscriptions, its outbox, its dead letters."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from signedwire import outbox as aio_outbox
from signedwire.arguments import (
    as_seconds,
)
from signedwire.delivery.message import Message
from signedwire.delivery.store import DeadLetter, OutgoingRow
from signedwire.errors import ClosedError, WrongContextError
from signedwire.home import Bound
from signedwire.messaging import subscription as aio_subscription
from signedwire.outbox import Letters, OutgoingRows, Receipts
from signedwire.portal import Portal
from signedwire.types import Did

__all__ = ["DeadLetters", "Outbox", "Subscription"]


class Subscription(Bound, instead="subscribe again there"):
    """A blocking `signedwire.Subscription`, which is open. Any thread may call its methods.

    Use it as a context manager or call `close()`, and iterate over it. Several threads that read
    it share the publications.
    """

    def __init__(self, subscription: aio_subscription.Subscription, portal: Portal) -> None:
        self._subscription = subscription
        self._portal = portal
        portal.call(subscription.open)

    @property
    def publisher(self) -> Did:
        """See `signedwire.Subscription.publisher`."""
        return self._subscription.publisher

    @property
    def subject(self) -> str:
        """See `signedwire.Subscription.subject`."""
        return self._subscription.subject

    @property
    def is_open(self) -> bool:
        """See `signedwire.Subscription.is_open`."""
        return self._subscription.is_open

    def receive(self, timeout: float | None = None) -> Message:
        """See `signedwire.Subscription.receive`. Ctrl-C loses no publication."""
        return self._subscription.reader.wait(as_seconds(timeout))

    def __iter__(self) -> Iterator[Message]:
        """Yield each publication as it comes, until `close()`."""
        while True:
            try:
                message = self.receive()
            except WrongContextError:
                raise
            except ClosedError:
                return
            yield message

    def close(self) -> None:
        """See `signedwire.Subscription.close`."""
        with contextlib.suppress(ClosedError):  # the node was closed before
            self._portal.call(self._subscription.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<sync.Subscription{repr(self._subscription)[len('<Subscription') :]}"


class Outbox(Bound, instead="pass what its `list()` gave"):
    """A blocking `signedwire.Outbox`, as `Node.outbox`. Any thread may call its methods."""

    def __init__(self, outbox: aio_outbox.Outbox, portal: Portal) -> None:
        self._outbox = outbox
        self._portal = portal

    def __repr__(self) -> str:
        return repr(self._outbox)

    def list(
        self, recipient: Did | str | None = None, *, after: int = 0, limit: int = 100
    ) -> OutgoingRows:
        """See `signedwire.Outbox.list`."""
        return self._portal.call(lambda: self._outbox.list(recipient, after=after, limit=limit))

    def show(self, id_: int) -> OutgoingRow | None:
        """See `signedwire.Outbox.show`."""
        return self._portal.call(lambda: self._outbox.show(id_))

    def drop(self, *ids: int) -> int:
        """See `signedwire.Outbox.drop`."""
        return self._portal.call(lambda: self._outbox.drop(*ids))

    def retry(self, recipient: Did | str | None = None) -> int:
        """See `signedwire.Outbox.retry`."""
        return self._portal.call(lambda: self._outbox.retry(recipient))

    def flush(self) -> None:
        """See `signedwire.Outbox.flush`."""
        self._portal.call(self._outbox.flush)

    def export(self, path: str | os.PathLike[str]) -> int:
        """See `signedwire.Outbox.export`."""
        return self._portal.call(lambda: self._outbox.export(path))


class DeadLetters(Bound, instead="pass what its `list()` gave"):
    """A blocking `signedwire.DeadLetters`, as `Node.dead`. Any thread may call its methods."""

    def __init__(self, dead: aio_outbox.DeadLetters, portal: Portal) -> None:
        self._dead = dead
        self._portal = portal

    def __repr__(self) -> str:
        return repr(self._dead)

    def list(
        self, recipient: Did | str | None = None, *, after: int = 0, limit: int = 100
    ) -> Letters:
        """See `signedwire.DeadLetters.list`."""
        return self._portal.call(lambda: self._dead.list(recipient, after=after, limit=limit))

    def show(self, id_: int) -> DeadLetter | None:
        """See `signedwire.DeadLetters.show`."""
        return self._portal.call(lambda: self._dead.show(id_))

    def drop(self, *ids: int) -> int:
        """See `signedwire.DeadLetters.drop`."""
        return self._portal.call(lambda: self._dead.drop(*ids))

    def retry(self, *ids: int) -> Receipts:
        """See `signedwire.DeadLetters.retry`."""
        return self._portal.call(lambda: self._dead.retry(*ids))
