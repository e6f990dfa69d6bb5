"""The peer of `signedwire bench DID@host:port`: it counts, echoes, and does nothing else.

Everything is a message. Who wants to measure asks first, and is answered by no other
program, so that nobody floods a peer that does not expect it:

    asks        ASK nonce     → YES nonce              and from now on is a guest
    to count    0 …           → nothing                at least `MIN_SIZE` bytes
    to echo     1 …           → the same bytes
    how many?   COUNT nonce   → SO_MANY nonce number   since it asked; none: it is no guest

Words and numbers are text, a nonce is 32 hex digits, so that whoever gets a question
unexpectedly can read what it is. What comes from a sender that has not asked is counted
apart and not answered; an answer is never longer than 64 bytes or what it answers, and
goes back on the link of its sender or nowhere.
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
_MAX_GUESTS: Final = 1000
"""Senders that are remembered: who asked longest ago is forgotten for one more."""


class BenchServer:
    """Takes what comes to a node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        # Since it asked, how many messages of each guest were counted or echoed.
        self._guests: OrderedDict[Did, int] = OrderedDict()
        self.messages = 0
        """Of guests, counted or echoed."""
        self.bytes = 0
        """Their payloads."""
        self.echoed = 0
        self.guests = 0
        """Who asked; one that was forgotten and asks again counts again."""
        self.unasked = 0
        """Messages of senders that had not asked, or that make no sense."""
        self.unanswered = 0
        """Answers that could not be queued."""

    async def run(self) -> None:
        """Until the node is closed."""
        async for message in self._node.messages():
            self._take(message)
            message.ack()

    def _take(self, message: Message) -> None:
        if not message.is_proven:
            self.unasked += 1
            return
        sender, payload = message.sender, message.payload
        if sender in self._guests and payload[:1] in (b"\0", b"\1"):
            self._guests[sender] += 1
            self.messages += 1
            self.bytes += len(payload)
            if payload[0]:
                self.echoed += self._answer(sender, payload)
        elif (nonce := _after(ASK, payload)) is not None:
            self._welcome(sender)
            self._answer(sender, YES + nonce)
        elif (nonce := _after(COUNT, payload)) is not None and sender in self._guests:
            self._answer(sender, b"%b%b %d" % (SO_MANY, nonce, self._guests[sender]))
        else:
            self.unasked += 1

    def _welcome(self, sender: Did) -> None:
        self.guests += sender not in self._guests
        self._guests[sender] = 0
        self._guests.move_to_end(sender)
        if len(self._guests) > _MAX_GUESTS:
            self._guests.popitem(last=False)

    def _answer(self, sender: Did, payload: bytes) -> bool:
        try:
            # Never waiting: a guest that takes no answers is not to hold up the others.
            self._node.send_nowait(sender, payload)
        except DeliveryError:
            self.unanswered += 1
            return False
        return True


def _after(word: bytes, payload: bytes) -> bytes | None:
    """The nonce after this word; `None` where it is something else."""
    is_it = payload.startswith(word) and len(payload) == len(word) + _NONCE_SIZE
    return payload[len(word) :] if is_it else None
