"""What the application last answered to the messages of one peer, to send again after a cut."""

from __future__ import annotations

from collections import deque

from signedwire.wire.link_frames import Refusal

__all__ = ["RememberedAnswers"]


class RememberedAnswers:
    """The last `limit` answers, by leaf; the oldest is forgotten first.

    A dict and a deque take 65 bytes an answer beside the leaf, an OrderedDict 114: of 40
    strangers that use all their credit that is 10 MiB less.

    Args:
        limit: Number of answers that are remembered, at least 1.
    """

    __slots__ = ("_answers", "_limit", "_order")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._answers: dict[bytes, Refusal | None] = {}
        self._order: deque[bytes] = deque()

    def __len__(self) -> int:
        return len(self._answers)

    def put(self, leaf: bytes, refusal: Refusal | None) -> None:
        """Remember an answer; `None` is handled."""
        if leaf not in self._answers:
            self._order.append(leaf)
        self._answers[leaf] = refusal
        if len(self._order) > self._limit:
            del self._answers[self._order.popleft()]

    def pick(self, leaves: list[bytes]) -> tuple[list[bytes], list[Refusal]]:
        """The answers to these messages, as far as known: handled leaves, and refusals."""
        known = [(leaf, self._answers[leaf]) for leaf in leaves if leaf in self._answers]
        return (
            [leaf for leaf, refusal in known if refusal is None],
            [refusal for _, refusal in known if refusal is not None],
        )

    def all(self) -> tuple[list[bytes], list[Refusal]]:
        """All answers: handled leaves, and refusals."""
        return self.pick(list(self._answers))

    def refused_leaves(self) -> list[bytes]:
        """The leaves of refused messages."""
        return [leaf for leaf, refusal in self._answers.items() if refusal is not None]

    def clear(self) -> None:
        """Forget all: the sender has begun to count anew."""
        self._answers.clear()
        self._order.clear()
