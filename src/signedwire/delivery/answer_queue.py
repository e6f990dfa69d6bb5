"""The application's last answers to the messages of one peer, to resend after a broken link."""

from __future__ import annotations

from signedwire.delivery.replay import Recent
from signedwire.wire.link_frames import REASON_CODES, REASONS, Refusal

__all__ = ["RememberedAnswers"]


class RememberedAnswers(Recent[int | None]):
    """The last `limit` answers, by leaf; the oldest is forgotten first.

    A refusal is kept as a number, and `None` means "handled". So no answer is an object
    that the garbage collector has to visit.
    """

    __slots__ = ()

    def put(self, leaf: bytes, refusal: Refusal | None) -> None:
        """Remember an answer: a refusal, or `None` for "handled"."""
        if leaf not in self._entries and len(self._entries) >= self._limit:
            self._forget_oldest()
        self._entries[leaf] = None if refusal is None else _packed(refusal)

    def pick(self, leaves: list[bytes]) -> tuple[list[bytes], list[Refusal]]:
        """Return the known answers to these messages: handled leaves, and refusals."""
        known = [(leaf, self._entries[leaf]) for leaf in leaves if leaf in self._entries]
        return (
            [leaf for leaf, packed in known if packed is None],
            [_unpacked(packed) for _, packed in known if packed is not None],
        )

    def all(self) -> tuple[list[bytes], list[Refusal]]:
        """Return all answers: handled leaves, and refusals."""
        return self.pick(list(self._entries))

    def refused_leaves(self) -> list[bytes]:
        """Return the leaves of the refused messages."""
        return [leaf for leaf, packed in self._entries.items() if packed is not None]

    def clear(self) -> None:
        """Forget all answers, because the sender has begun a new epoch."""
        self._entries.clear()
        self._gaps = 0


def _packed(refusal: Refusal) -> int:
    return refusal.sequence << 16 | refusal.lane << 8 | REASON_CODES[refusal.reason]


def _unpacked(packed: int) -> Refusal:
    return Refusal(packed >> 8 & 0xFF, packed >> 16, REASONS[packed & 0xFF])
