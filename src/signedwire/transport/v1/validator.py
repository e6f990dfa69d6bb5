"""The checks of a received v1 frame, before anything else uses it.

The checks, in this order, cheapest first:

1. The frame decodes.
2. Its recipient is this node.
3. Its sender may use v1 with this node, is not denied, and has never used v2: a sender
   cannot go back from v2.
4. The envelope is signed, if the policy requires that.
5. The envelope was not delivered before.
6. The signature proves the sender.

The first failed check gives the reason for which the frame is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from blake3 import blake3

from signedwire.config import TransportConfig
from signedwire.delivery.bounded_memory import BoundedSet
from signedwire.delivery.message import IncomingMessage
from signedwire.errors import EnvelopeError
from signedwire.identity import verify_digest
from signedwire.types import Did, Reason, SignaturePolicy
from signedwire.wire.envelope import SIGNATURE_SIZE, UNSIGNED, SignedEnvelope
from signedwire.wire.header import PRIORITY, recipient_of, sender_of

__all__ = ["Verified", "V1Validator"]


class Verified(NamedTuple):
    """A message that may be delivered, unless a copy is delivered first."""

    message: IncomingMessage
    priority: int
    replay_key: bytes


class V1Validator:
    """Checks received v1 frames.

    `check_all()` may run in several threads at once. Only the thread that delivers may
    call `is_replay()` and `remember()`.

    Args:
        config: The limits and the signature policy.
        us: Our DID; envelopes for another are refused. `None` accepts all recipients.
        is_denied: Tells whether the DID of these 32 bytes is denied; by default none is.
        v2_speakers: DIDs that have proven themselves over v2; their v1 frames are refused.
    """

    def __init__(
        self,
        config: TransportConfig,
        us: Did | None,
        is_denied: Callable[[bytes], bool] = lambda _: False,
        v2_speakers: BoundedSet | None = None,
    ) -> None:
        self._us = None if us is None else bytes(us)
        self._requires_signature = config.signatures is SignaturePolicy.REQUIRED
        self._senders = (
            None if config.v1_peers == "all" else frozenset(bytes(did) for did in config.v1_peers)
        )
        self._is_denied = is_denied
        self._v2_speakers = BoundedSet(0) if v2_speakers is None else v2_speakers
        # Two memories: unsigned envelopes, which anybody can make, must not displace
        # signed ones.
        self._replays = BoundedSet(config.replay_memory)
        self._unsigned_replays = BoundedSet(config.replay_memory)

    def check_all(self, frames: Iterable[bytes]) -> list[Verified | Reason]:
        """Check frames; return for each, in order, the message or the reason to drop it."""
        return [self.check(frame) for frame in frames]

    def check(self, frame: bytes) -> Verified | Reason:
        """Check one frame. Costs about 45 µs, nearly all of it for the signature."""
        try:
            envelope = SignedEnvelope.decode_v1(frame)
        except EnvelopeError:
            return Reason.MALFORMED
        if self._us is not None and recipient_of(frame) != self._us:
            return Reason.NOT_FOR_US
        sender = sender_of(frame)
        if self._senders is not None and sender not in self._senders:
            return Reason.NOT_ALLOWED
        if self._is_denied(sender):
            return Reason.DENIED
        if sender in self._v2_speakers:
            return Reason.NOT_ALLOWED
        digest = blake3(memoryview(frame)[:-SIGNATURE_SIZE]).digest()
        signature = frame[-SIGNATURE_SIZE:]
        if signature == UNSIGNED:
            if self._requires_signature:
                return Reason.UNSIGNED
            return Verified(
                IncomingMessage(envelope.body, signature, is_proven=False), frame[PRIORITY], digest
            )
        if digest in self._replays:
            return Reason.DUPLICATE
        if not verify_digest(sender, digest, signature):
            return Reason.BAD_SIGNATURE
        return Verified(IncomingMessage(envelope.body, signature), frame[PRIORITY], digest)

    def is_replay(self, verified: Verified) -> bool:
        """Whether a copy was delivered since the check: two copies can be in check at once."""
        return verified.replay_key in self._memory(verified)

    def remember(self, verified: Verified) -> None:
        """Note that the message has been delivered."""
        self._memory(verified).add(verified.replay_key)

    def _memory(self, verified: Verified) -> BoundedSet:
        return self._replays if verified.message.is_proven else self._unsigned_replays
