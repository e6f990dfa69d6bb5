"""The answers about the messages of one `ReceiveStreams`, until a link takes them."""

from __future__ import annotations

from typing import NamedTuple

from signedwire.delivery.bounded_memory import BoundedMap
from signedwire.delivery.receive_streams import ReceiveStreams
from signedwire.wire.link_frames import REASON_CODES, REASONS, Refusal

__all__ = ["Answers", "RememberedAnswers", "StreamAnswers"]


class Answers(NamedTuple):
    """Answers of the application, for a link to send."""

    handled: list[bytes]
    """Leaves of handled messages that no store had committed."""
    handled_committed: list[bytes]
    """Leaves of handled messages that a store had committed."""
    refused: list[Refusal]
    """Refusals of messages."""


class StreamAnswers:
    """The answers about durable messages of one peer, or about volatile ones.

    Args:
        streams: The messages.
        limit: Number of answers to remember. About 130 bytes each, and the text of a refusal.
    """

    __slots__ = ("_handled", "_receipt_first", "_refused", "_remembered", "streams")

    def __init__(self, streams: ReceiveStreams, limit: int) -> None:
        self.streams = streams
        self._handled: list[bytes] = []
        self._refused: list[Refusal] = []
        # Leaves of messages that the application has refused. An earlier link may have lost
        # their receipts, so these are sent again before the refusals: a peer must have the
        # receipt of an accepted message before it gets the refusal.
        self._receipt_first: list[bytes] = []
        self._remembered = RememberedAnswers(limit)

    @property
    def weight(self) -> int:
        """Approximate memory of the remembered answers, in bytes."""
        return self._remembered.weight

    def put(self, leaf: bytes, refusal: Refusal | None) -> None:
        """Add the application's answer to a message: a refusal, or `None` for "handled"."""
        if refusal is None:
            self._handled.append(leaf)
        else:
            self._refused.append(refusal)
            self._receipt_first.append(leaf)
        self._remembered.put(leaf, refusal)

    def refuse(self, refusals: list[Refusal]) -> None:
        """Add refusals of messages that were not accepted. They are not remembered."""
        self._refused += refusals

    def repeat(self, leaves: list[bytes]) -> None:
        """Add the remembered answers to these messages, whose receipts are sent before."""
        handled, refused = self._remembered.pick(leaves)
        self._handled += handled
        self._refused += refused

    def repeat_all(self) -> None:
        """Begin with all remembered answers, because an earlier link may have lost them."""
        self._handled, self._refused = self._remembered.all()
        self._receipt_first = [refusal.leaf for refusal in self._refused]

    def take(self) -> tuple[list[bytes], list[bytes], list[Refusal]]:
        """Return and forget leaves to receipt first, handled leaves, and refusals."""
        taken = self._receipt_first, self._handled, self._refused
        self._receipt_first, self._handled, self._refused = [], [], []
        return taken

    def clear(self) -> None:
        """Forget all answers, because they are about numbers of an older epoch."""
        self.take()
        self._remembered.clear()


class RememberedAnswers(BoundedMap[bytes | None]):
    """The last `limit` answers, by leaf; the oldest is forgotten first.

    A refusal is kept as the code of its reason and the text, in one byte string, and `None`
    means "handled". So no answer is an object that the garbage collector has to visit.
    """

    __slots__ = ("_text_size",)

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._text_size = 0

    @property
    def weight(self) -> int:
        """Approximate memory of the answers, in bytes."""
        return 130 * len(self._entries) + self._text_size

    def put(self, leaf: bytes, refusal: Refusal | None) -> None:
        """Remember an answer: a refusal, or `None` for "handled"."""
        if leaf in self._entries:
            self._text_size -= len(self._entries[leaf] or b"")
        elif len(self._entries) >= self._limit:
            self._text_size -= len(self._forget_oldest() or b"")
        packed = None if refusal is None else _packed(refusal)
        self._text_size += len(packed or b"")
        self._entries[leaf] = packed

    def pick(self, leaves: list[bytes]) -> tuple[list[bytes], list[Refusal]]:
        """Return the known answers to these messages: handled leaves, and refusals."""
        known = [(leaf, self._entries[leaf]) for leaf in leaves if leaf in self._entries]
        return (
            [leaf for leaf, packed in known if packed is None],
            [_unpacked(leaf, packed) for leaf, packed in known if packed is not None],
        )

    def all(self) -> tuple[list[bytes], list[Refusal]]:
        """Return all answers: handled leaves, and refusals."""
        return self.pick(list(self._entries))

    def clear(self) -> None:
        """Forget all answers, because the sender has begun a new epoch."""
        self._entries.clear()
        self._gaps = self._text_size = 0


def _packed(refusal: Refusal) -> bytes:
    return bytes([REASON_CODES[refusal.reason]]) + refusal.text.encode()


def _unpacked(leaf: bytes, packed: bytes) -> Refusal:
    return Refusal(leaf, REASONS[packed[0]], packed[1:].decode())
