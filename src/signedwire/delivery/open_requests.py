"""The requests of this node that wait for a reply.

A reply names the leaf of its request, under its signature. So it is known by the DID that was asked
and by that leaf, and a reply from another DID, or to another request, matches nothing. The leaf is
known when the request is written. A request that is sent again in a new epoch has another leaf,
and then both count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from signedwire.delivery.message import IncomingMessage
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.errors import BackpressureError
from signedwire.types import Did, Reason

__all__ = ["MAX_OPEN_REQUESTS", "OpenRequest", "OpenRequests"]

MAX_OPEN_REQUESTS: Final = 1024
"""Maximum number of open requests to one peer."""


class OpenRequest:
    """One request that waits for its reply.

    Args:
        message: The request.
        on_reply: Called in the loop when the reply is there.
    """

    __slots__ = ("leaves", "message", "on_reply", "reply")

    def __init__(self, message: OutgoingMessage, on_reply: Callable[[], None]) -> None:
        self.message = message
        self.on_reply = on_reply
        self.leaves: list[bytes] = []
        """The leaves under which the request was written; mostly one."""
        self.reply: IncomingMessage | None = None
        """The first reply; `None`: there is none yet."""


class OpenRequests:
    """The open requests of one node. In the loop."""

    __slots__ = ("_by_leaf", "_by_message", "_counts")

    def __init__(self) -> None:
        self._by_message: dict[OutgoingMessage, OpenRequest] = {}
        self._by_leaf: dict[tuple[Did, bytes], OpenRequest] = {}
        self._counts: Counter[Did] = Counter()

    def __bool__(self) -> bool:
        """Whether a request is open."""
        return bool(self._by_message)

    def __len__(self) -> int:
        return len(self._by_message)

    def open(self, message: OutgoingMessage, on_reply: Callable[[], None]) -> OpenRequest:
        """Wait for the reply to a message that was not written yet, until `close()`.

        Raises:
            BackpressureError: 1,024 requests to this peer are open.
        """
        did = message.recipient
        if self._counts[did] >= MAX_OPEN_REQUESTS:
            raise BackpressureError(
                did,
                Reason.QUEUE_FULL,
                f"{MAX_OPEN_REQUESTS} requests to {did} wait for their replies; "
                "this one was not queued",
                "Wait for some of them, or give requests a shorter timeout",
            )
        request = self._by_message[message] = OpenRequest(message, on_reply)
        self._counts[did] += 1
        return request

    def close(self, request: OpenRequest) -> None:
        """Wait for the reply no more."""
        message, did = request.message, request.message.recipient
        del self._by_message[message]
        for leaf in request.leaves:
            self._by_leaf.pop((did, leaf), None)
        self._counts[did] -= 1
        if not self._counts[did]:
            del self._counts[did]

    def note_written(self, messages: Iterable[OutgoingMessage], leaves: Iterable[bytes]) -> None:
        """Note the leaves of messages that a link has taken. Most of them are no requests."""
        for message, leaf in zip(messages, leaves, strict=True):
            request = self._by_message.get(message)
            if request is not None and leaf not in request.leaves:
                request.leaves.append(leaf)
                self._by_leaf[message.recipient, leaf] = request

    def answer(self, sender: Did, leaf: bytes, reply: IncomingMessage) -> bool:
        """Give a reply to the request that waits for it; `False`: none does.

        Args:
            sender: The DID that has signed the reply.
            leaf: The leaf that the reply names.
            reply: The reply.
        """
        request = self._by_leaf.get((sender, leaf))
        if request is None or request.reply is not None:
            return False
        request.reply = reply
        request.on_reply()
        return True
