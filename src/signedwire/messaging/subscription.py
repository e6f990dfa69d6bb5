"""`Subscription`: the publications of one subject of one peer, for the application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from types import TracebackType
from typing import Any, Self

from signedwire.arguments import as_seconds
from signedwire.delivery.message import Message
from signedwire.delivery.receipt import future_waker
from signedwire.delivery.subscriptions import Subscriptions, Topic
from signedwire.errors import ClosedError
from signedwire.home import Bound
from signedwire.transport.core import NodeCore
from signedwire.transport.inbox_reader import InboxReader
from signedwire.types import Did

__all__ = ["Subscription"]


class Subscription(Bound, instead="subscribe again there"):
    """The publications of one subject of one peer. `Node.subscribe()` makes it.

    Await it, or use it as an async context manager: both wait until the publisher has accepted.
    Then iterate over it. From then on the node subscribes again whenever a link to the publisher
    opens, and dials it when the link was lost, until `close()`. It belongs to the event loop of
    its node.
    """

    __slots__ = ("_core", "_subscriptions", "_timeout", "_topic", "reader")

    def __init__(
        self,
        core: NodeCore,
        subscriptions: Subscriptions,
        topic: Topic,
        timeout: float | None = None,
    ) -> None:
        self._core = core
        self._subscriptions = subscriptions
        self._topic = topic
        self._timeout = timeout
        self.reader = InboxReader(core.runtime, core.endpoint, topic.inbox, self._check)
        """Takes the publications. For this package alone."""

    @property
    def publisher(self) -> Did:
        """The DID of the publisher."""
        return self._topic.did

    @property
    def subject(self) -> str:
        """The subject."""
        return self._topic.subject

    @property
    def is_open(self) -> bool:
        """Whether publications are taken: since it was awaited, and until it has ended."""
        return self._topic.is_open

    # -- opening and closing ------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, Self]:
        return self.open().__await__()

    async def open(self) -> Self:
        """Subscribe, and wait until the publisher has accepted; `await subscription` calls this.

        While the publisher is away, the call tries again with pauses. If the call fails or is
        cancelled, the subscription is closed.

        Raises:
            MessageRefusedError: the publisher refused; the text has its reason.
            NotAllowedError: `node.access` denies the publisher.
            TimeoutError: the `timeout` of `Node.subscribe()` passed first.
            ValueError: this node is subscribed to this subject of this peer already.
            ClosedError: the node is not started or is closed, or the subscription has ended.
            WrongContextError: the node belongs to another event loop or to a parent process.
        """
        home, topic = self._core.runtime.home, self._topic
        home.check_here()
        home.check_open()
        if topic.is_accepted and topic.is_open:
            return self
        is_ours = not topic.is_open  # else another task has opened it, and keeps it
        if is_ours:
            self._check_not_over()
            self._subscriptions.open(topic)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout):
                while not topic.is_accepted:
                    home.check_open()
                    self._check_not_over()
                    changed = loop.create_future()
                    topic.wakes.append(future_waker(loop, changed))
                    await changed
        except TimeoutError:
            if is_ours:
                self._subscriptions.close(topic)
            raise TimeoutError(
                f"{topic.did} did not accept the subscription to {topic.subject!r} within "
                f"{self._timeout} s: {topic.trouble}"
            ) from None
        except BaseException:
            if is_ours:
                self._subscriptions.close(topic)
            raise
        return self

    async def close(self) -> None:
        """Unsubscribe. The publisher is told if there is a link, else at the next link.

        Publications that were not read are refused, and so are those that still come. The call
        does not wait for the publisher, and is safe to repeat.

        Raises:
            WrongContextError: the node belongs to another event loop or to a parent process.
        """
        self._core.runtime.home.check_here()
        self._subscriptions.close(self._topic)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # -- reading --------------------------------------------------------------------------

    async def receive(self, timeout: float | None = None) -> Message:
        """Wait for the next publication. Cancelling loses none.

        Args:
            timeout: Seconds to wait, 0 or more; by default `None`, without limit.

        Raises:
            TimeoutError: no publication came within `timeout` seconds.
            MessageRefusedError: the publisher has refused to go on.
            ClosedError: the subscription or the node is closed.
            ValueError, TypeError, WrongContextError: see `Node.receive()`.
        """
        self._core.runtime.home.check_here()
        return await self.reader.arrive(as_seconds(timeout))

    def __aiter__(self) -> AsyncIterator[Message]:
        """Yield each publication as it comes, until `close()`. See `Node.messages()`.

        Raises:
            MessageRefusedError: the publisher has refused to go on.
            ClosedError, WrongContextError: see `Node.messages()`.
        """
        return self._messages()

    async def _messages(self) -> AsyncGenerator[Message]:
        if not self._topic.is_accepted:
            await self.open()
        async for message in self.reader.messages():
            yield message

    def _check(self) -> None:
        """Raise if no further publication can come."""
        self._check_not_over()
        if not self._topic.is_open:
            raise ClosedError(
                f"not subscribed to {self.subject!r} of {self.publisher} yet",
                "Await the subscription first",
            )

    def _check_not_over(self) -> None:
        topic = self._topic
        if topic.error is not None:
            raise topic.error
        if topic.is_closed:
            raise ClosedError(
                f"the subscription to {self.subject!r} of {self.publisher} is closed",
                "Make a new one with node.subscribe()",
            )

    def __repr__(self) -> str:
        topic = self._topic
        state = "open" if topic.is_open else "closed" if topic.is_closed else "not open yet"
        return f"<Subscription to {topic.subject!r} of {topic.did.short} {state}>"
