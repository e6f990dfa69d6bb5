"""Parts of the node that take received messages of other kinds than `Kind.MESSAGE`.

    reply          the call that waits for it
    request        the handler of its subject
    publication    the subscription of its subject
    control        the subscribers of this node

A message that is not taken goes to the inbox, and `Node.receive()` returns it. Control messages
are always taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from signedwire.delivery.message import IncomingMessage
from signedwire.errors import ClosedError
from signedwire.types import Kind

__all__ = ["Consumer", "Consumers"]

Consumer: TypeAlias = Callable[[IncomingMessage], bool]
"""Function that takes a message, or returns `False`. The message uses credit until
`IncomingMessage.origin.taken()` is called."""


class Consumers:
    """The consumers of one node, by kind. In the loop."""

    __slots__ = ("_by_kind",)

    def __init__(self) -> None:
        self._by_kind: dict[Kind, Consumer] = {}

    def set(self, kind: Kind, consumer: Consumer) -> None:
        """Give the messages of a kind to `consumer` from now on."""
        self._by_kind[kind] = consumer

    def offer(self, messages: Sequence[IncomingMessage]) -> list[IncomingMessage]:
        """Give each message to the consumer of its kind; return those that nobody has taken."""
        return [message for message in messages if not self.is_taken(message)]

    def is_taken(self, message: IncomingMessage) -> bool:
        """Give one message to the consumer of its kind; return whether it was taken."""
        consumer = self._by_kind.get(message.kind)
        if consumer is None:
            return False
        try:
            return consumer(message)
        except ClosedError:  # the node has ended meanwhile, so nobody can be answered
            return True
