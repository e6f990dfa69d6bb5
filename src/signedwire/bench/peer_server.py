"""The peer of `signedwire bench DID@host:port`: it counts and echoes messages.

Everything is a message. A sender asks first, and no other program answers that question,
so nobody floods a peer that is no bench server:

    ask         ASK nonce     → YES nonce              and the sender becomes a client
    count       0 …           → nothing                at least `MIN_SIZE` bytes
    echo        1 …           → the same bytes
    how many?   COUNT nonce   → SO_MANY nonce number   since the client asked

Questions and numbers are text, and a nonce is 32 hex digits. So whoever gets a question
unexpectedly can read it. Messages of senders that are no clients are counted apart and not
answered. An answer is never longer than 64 bytes or than the message that it answers. It
goes back on the link of its sender, or nowhere.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from signedwire import DeliveryError, Did, Message, Node

__all__ = ["ASK", "COUNT", "SO_MANY", "YES", "BenchServer"]

ASK: Final = b"signedwire bench 1: may I measure? "
YES: Final = b"signedwire bench 1: yes "
COUNT: Final = b"signedwire bench 1: how many? "
SO_MANY: Final = b"signedwire bench 1: so many "
_NONCE_SIZE: Final = 32
_MAX_CLIENTS: Final = 1000
"""Senders that are remembered; for another one, the sender that asked longest ago is forgotten."""


class BenchServer:
    """Takes and answers the messages of a node.

    Args:
        node: A started node, used for nothing else.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        # For each client, the messages that were counted or echoed since it asked.
        self._clients: OrderedDict[Did, int] = OrderedDict()
        self.messages = 0
        """Messages of clients that were counted or echoed."""
        self.bytes = 0
        """Bytes of their payloads."""
        self.echoed = 0
        """Messages that were echoed."""
        self.clients = 0
        """Senders that asked; a sender that was forgotten and asks again counts again."""
        self.unasked = 0
        """Messages of senders that are no clients, and messages with unknown content."""
        self.unanswered = 0
        """Answers that could not be queued."""

    async def run(self) -> None:
        """Take messages until the node is closed."""
        async for message in self._node.messages():
            self._take(message)
            message.ack()

    def _take(self, message: Message) -> None:
        if not message.is_proven:
            self.unasked += 1
            return
        sender, payload = message.sender, message.payload
        if sender in self._clients and payload[:1] in (b"\0", b"\1"):
            self._clients[sender] += 1
            self.messages += 1
            self.bytes += len(payload)
            if payload[0]:
                self.echoed += self._answer(sender, payload)
        elif (nonce := _after(ASK, payload)) is not None:
            self._add_client(sender)
            self._answer(sender, YES + nonce)
        elif (nonce := _after(COUNT, payload)) is not None and sender in self._clients:
            self._answer(sender, b"%b%b %d" % (SO_MANY, nonce, self._clients[sender]))
        else:
            self.unasked += 1

    def _add_client(self, sender: Did) -> None:
        self.clients += sender not in self._clients
        self._clients[sender] = 0
        self._clients.move_to_end(sender)
        if len(self._clients) > _MAX_CLIENTS:
            self._clients.popitem(last=False)

    def _answer(self, sender: Did, payload: bytes) -> bool:
        try:
            # Without waiting: a client that takes no answers must not delay others.
            self._node.send_nowait(sender, payload)
        except DeliveryError:
            self.unanswered += 1
            return False
        return True


def _after(word: bytes, payload: bytes) -> bytes | None:
    """Return the nonce after this word; `None`: the payload is something else."""
    is_it = payload.startswith(word) and len(payload) == len(word) + _NONCE_SIZE
    return payload[len(word) :] if is_it else None
