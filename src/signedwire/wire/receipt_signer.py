"""Signs what one end of a link answers to the envelopes of the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from signedwire.identity import Identity, Label
from signedwire.types import Did, Reason
from signedwire.wire import link_frames as frames
from signedwire.wire.joint import receipt_hash
from signedwire.wire.link_frames import Receipts, Refusal

__all__ = ["Acceptance", "ReceiptSigner", "signed"]


class Acceptance(NamedTuple):
    """The content of one receipt of kind 1 or 2."""

    kind: int
    """See `Receipts.kind`."""
    hashes: list[bytes]
    """The roots or leaves that it names, 1 to 500."""
    at_us: int
    """When it happened: Unix time, microseconds."""
    is_committed: bool
    """Whether a store of this end has committed the envelopes."""


def signed(plain: Receipts, signature: bytes, root: bytes = b"") -> Receipts:
    """Return a receipt with its signature, and the root that this also covers, if there is one."""
    # `dataclasses.replace()` takes three times as long, and every message has two receipts.
    kind, at_us, hashes = plain.kind, plain.at_us, plain.hashes
    return Receipts(kind, at_us, hashes, signature, plain.code, plain.text, root)


class ReceiptSigner:
    """Makes RECEIPT frames, and receipts for joint frames.

    Args:
        identity: The key that signs.
        sender: The sender of the envelopes.
    """

    __slots__ = ("_identity", "_parties")

    def __init__(self, identity: Identity, sender: Did) -> None:
        self._identity = identity
        self._parties = bytes(identity.did) + bytes(sender)

    def receipts(
        self, kind: int, hashes: list[bytes], at_us: int, is_committed: bool
    ) -> list[bytes]:
        """Make the frames of `Session.send_receipts()`."""
        return list(self._sign(kind, hashes, at_us, int(is_committed), b""))

    def refusals(self, refusals: Iterable[Refusal], at_us: int) -> list[bytes]:
        """Make the frames of `Session.send_refusals()`: one receipt for each reason and text."""
        leaves: dict[tuple[Reason, str], list[bytes]] = {}
        for leaf, reason, text in refusals:
            leaves.setdefault((reason, text), []).append(leaf)
        made: list[bytes] = []
        for (reason, text), those in leaves.items():
            code = frames.REASON_CODES[reason]
            made += self._sign(frames.REFUSED_ENVELOPES, those, at_us, code, text.encode())
        return made

    def unsigned(self, acceptance: Acceptance) -> tuple[Receipts, bytes]:
        """Make a receipt that is signed together with a batch; return it and its hash."""
        kind, hashes, at_us, is_committed = acceptance
        plain = Receipts(kind, at_us, tuple(hashes), code=int(is_committed))
        return plain, receipt_hash(self._parties, plain.statement)

    def _sign(
        self, kind: int, hashes: list[bytes], at_us: int, code: int, text: bytes
    ) -> Iterator[bytes]:
        for start in range(0, len(hashes), frames.MAX_RECEIPT_HASHES):
            part = tuple(hashes[start : start + frames.MAX_RECEIPT_HASHES])
            plain = Receipts(kind, at_us, part, code=code, text=text)
            signature = self._identity._sign_labelled(
                Label.RECEIPT, self._parties + plain.statement
            )
            yield signed(plain, signature).encode()
