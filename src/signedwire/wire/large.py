"""Checks envelopes and receipt proofs of any size in little memory, by reading them in pieces.

Of an envelope larger than `WHOLE`, only header, hash and signature are kept, with the
Merkle path in v2. They suffice to verify the signature. The payload is hashed and dropped.
"""

from __future__ import annotations

import struct
from hashlib import sha256
from typing import Final, NoReturn, Protocol, Self

from blake3 import blake3

from signedwire.errors import EnvelopeError
from signedwire.wire.batch import GROUP_SIZE, HASH_SIZE
from signedwire.wire.envelope import SIGNATURE_SIZE, MerklePath, SignedEnvelope
from signedwire.wire.header import (
    MAX_V2_HEADER_SIZE,
    V1_HEADER_SIZE,
    V2_VERSION,
    payload_start,
    version_of,
)
from signedwire.wire.link_frames import MAX_RECEIPT_SIZE
from signedwire.wire.receipt_proof import MAGIC, ProvenDelivery, check_version, prove_delivery

__all__ = ["MAX_ENVELOPE", "WHOLE", "EnvelopeStream", "LargeEnvelope", "ReceiptProofStream"]

WHOLE: Final = 2 * 1024 * 1024
"""Largest envelope that a check holds whole, in bytes."""
MAX_ENVELOPE: Final = 2**28 + 2**16
"""Size of the largest payload that can be configured, with header and path, in bytes."""

_MAX_END: Final = 2 * (GROUP_SIZE - 1) * HASH_SIZE + HASH_SIZE + MerklePath.MIN_SIZE
"""Size of the longest path, with receipt hash, index, count, form and signature, in bytes."""
_MAX_RECEIPT: Final = 1 + HASH_SIZE + MAX_RECEIPT_SIZE
"""Size of the longest receipt of a proof, with form and root, in bytes."""
_SIZE: Final = struct.Struct("<I")


class _Hasher(Protocol):
    """A hash object of `hashlib` or `blake3`."""

    def copy(self) -> Self: ...

    def digest(self) -> bytes: ...

    def update(self, data: bytes | memoryview, /) -> object: ...


class LargeEnvelope(SignedEnvelope):
    """Header, hash and signature of an envelope whose payload was not kept.

    `verify()` and the fields of the header work as usual. `payload` is empty, and
    `encode()` raises `EnvelopeError`.
    """

    __slots__ = ("_digest", "_payload_size")

    def __init__(
        self, header: bytes, signature: bytes | MerklePath, digest: bytes, payload_size: int
    ) -> None:
        super().__init__(header, signature)
        self._digest = digest
        self._payload_size = payload_size

    @property
    def digest(self) -> bytes:
        """The hash of header and payload, 32 bytes."""
        return self._digest

    @property
    def payload_size(self) -> int:
        """Size of the payload that was read, in bytes."""
        return self._payload_size

    def encode(self) -> NoReturn:
        """Raise `EnvelopeError`, because the payload was not kept."""
        raise EnvelopeError(
            f"an envelope cannot be encoded: its payload of {self._payload_size} bytes was hashed "
            "and not kept"
        )


class EnvelopeStream:
    """Reads one envelope that stands alone, piece by piece.

    Args:
        is_v1: Whether the bytes arrived by v1, whatever version their header names.
        whole: Largest envelope that is kept whole, in bytes.
    """

    def __init__(
        self,
        *,
        is_v1: bool = False,
        whole: int = WHOLE,
    ) -> None:
        self.size = 0
        """Number of bytes read so far."""
        self._is_v1 = is_v1
        self._decode = SignedEnvelope.decode_v1 if is_v1 else SignedEnvelope.decode
        # With a lower limit, the header and the longest end could overlap.
        self._whole = max(whole, MAX_V2_HEADER_SIZE + _MAX_END)
        self._held = bytearray()  # the whole envelope; of a large one, its end
        self._start = b""
        self._hasher: _Hasher | None = None

    @property
    def is_too_long(self) -> bool:
        """Whether more bytes were read than any envelope has."""
        return self.size > MAX_ENVELOPE

    @property
    def start(self) -> bytes:
        """The first bytes of the envelope, at most as many as the longest header has."""
        return self._start or bytes(self._held[:MAX_V2_HEADER_SIZE])

    def receive_data(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        self.size += len(data)
        self._held += data
        if self._hasher is None:
            if self.size <= self._whole:
                return
            self._start = self.start
            is_v2 = not self._is_v1 and version_of(self._start) == V2_VERSION
            self._hasher = sha256() if is_v2 else blake3()
        more = len(self._held) - _MAX_END
        if more > 0:
            with memoryview(self._held) as held:
                self._hasher.update(held[:more])
            del self._held[:more]

    def envelope(self) -> SignedEnvelope:
        """Return the envelope; a `LargeEnvelope` if it has more than `whole` bytes.

        Raises:
            EnvelopeError: the bytes that were read are not an envelope.
        """
        if self._hasher is None:
            return self._decode(bytes(self._held))
        # The first and the last bytes hold everything but the hash.
        both_ends = self._decode(self._start + bytes(self._held))
        path = both_ends.merkle_path
        if path is None:
            header, end = self._start[:V1_HEADER_SIZE], SIGNATURE_SIZE
        else:
            header, end = self._start[: payload_start(self._start)], len(path.encode())
        hasher = self._hasher.copy()
        hasher.update(bytes(self._held[:-end]))
        size = self.size - end - len(header)
        return LargeEnvelope(header, path or both_ends.signature, hasher.digest(), size)


class ReceiptProofStream:
    """Reads one receipt proof, piece by piece.

    Args:
        whole: Largest envelope that is kept whole, in bytes.
    """

    def __init__(self, *, whole: int = WHOLE) -> None:
        self._start = bytearray()
        self._left = 0
        self._envelope = EnvelopeStream(whole=whole)
        self._receipt = bytearray()

    @property
    def is_too_long(self) -> bool:
        """Whether the envelope or the receipt is larger than any valid one."""
        size = self._left + self._envelope.size
        return size > MAX_ENVELOPE or len(self._receipt) > _MAX_RECEIPT

    def receive_data(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        view = memoryview(data)
        lacking = len(MAGIC) + _SIZE.size - len(self._start)
        if lacking > 0:
            self._start += view[:lacking]
            if len(view) < lacking:
                return
            view = view[lacking:]
            (self._left,) = _SIZE.unpack_from(self._start, len(MAGIC))
        part = view[: self._left]
        self._left -= len(part)
        self._envelope.receive_data(part)
        # One byte over the maximum is enough to detect that it is no receipt.
        self._receipt += view[len(part) :][: _MAX_RECEIPT + 1 - len(self._receipt)]

    def delivery(self) -> ProvenDelivery:
        """Verify the receipt proof and return its facts.

        An envelope of more than `whole` bytes is a `LargeEnvelope`.

        Raises:
            EnvelopeError: the bytes that were read are not a receipt proof.
            SignatureError: for the same causes as in `verify_receipt()`.
        """
        check_version(bytes(self._start))
        if len(self._start) < len(MAGIC) + _SIZE.size or not self._start.startswith(MAGIC):
            raise EnvelopeError("not a receipt proof", "Receipt.proof() makes one")
        return prove_delivery(self._envelope.envelope(), bytes(self._receipt))
