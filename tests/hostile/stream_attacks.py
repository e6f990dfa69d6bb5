"""Attacks on the streams of a peer, and on batches that share a signature.

Batches of all eight streams at once, batches that are begun and not finished, receipts under the
signature of a batch, and copies with long paths.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, TypeAlias

from signedwire import Did, Identity
from signedwire.identity import Label
from signedwire.types import Priority, unix_time_us
from signedwire.wire import link_frames as frames
from signedwire.wire.batch import MAX_BATCH, batch_root, leaves_of
from signedwire.wire.batch_signer import BatchSigner
from signedwire.wire.header import STREAMS, VOLATILE
from signedwire.wire.link_frames import ABORT, ACCEPTED_BATCHES, ACCEPTED_ENVELOPES, FIRST, Part
from signedwire.wire.parts import BatchWriter, encode_batch, most_joined
from signedwire.wire.receipt_signer import Acceptance, ReceiptSigner
from signedwire.wire.sent_batch import SentCopies

from .frame_attacks import Attack, batch, bodies_of, flood, new
from .stranger import Field, LinkEndedError
from .unfinished import first_parts

__all__ = ["ATTACKS"]

Made: TypeAlias = tuple[bytes, int, int]
"""The frames of a batch, and its messages and bytes as credit counts them."""
_NORMAL: Final = int(Priority.NORMAL)
_MOST_CRITICAL: Final = 16
"""Messages in a batch of Critical ones, whose credit is small."""
_LARGE: Final = 60_000


# -- all streams at once ------------------------------------------------------------------


def _all_streams(count: int, size: int = 0, *, is_new: bool = True) -> Attack:
    """Batches of each stream in turn, within the credit of each."""
    payload = bytes(size)

    async def attack(field: Field) -> None:
        while True:
            try:
                async with field.link(listens=True) as link:
                    first = 1
                    while True:
                        for stream in range(STREAMS):
                            is_critical = stream % VOLATILE == Priority.CRITICAL
                            number = min(count, _MOST_CRITICAL) if is_critical else count
                            frame, total = batch(
                                *(link.who.identity, field.victim, number),
                                first=first,
                                stream=stream,
                                payload=payload,
                            )
                            await link.send_batch(frame, number, total)
                        first += count if is_new else 0
            except LinkEndedError:
                continue

    return attack


def _unfinished(parts: int) -> Attack:
    """The first parts of a batch of 1 MiB in each stream, and then nothing."""
    began = b"".join([first_parts(parts, stream) for stream in range(STREAMS)])

    async def attack(field: Field) -> None:
        while True:
            try:
                async with field.link() as link:
                    await link.send(began)
                    await link.ended(3600)
            except LinkEndedError:
                continue

    return attack


def _begun_and_aborted(who: object, victim: Did) -> bytes:
    """A batch of each stream: its first part, and the abort of it."""
    data = bytes(frames.MAX_BODY - frames.FIRST_PART_HEADER)
    return b"".join(
        [
            Part(FIRST, stream, data, 1, len(data)).encode() + Part(ABORT, stream).encode()
            for stream in range(STREAMS)
        ]
    )


# -- one signature for several things -------------------------------------------------------


def _each(make: Callable[[Identity, Did, int], Made], step: int, *, is_new: bool = True) -> Attack:
    """Batches of `make`, which is given the number of the first message, within the credit."""

    async def attack(field: Field) -> None:
        while True:
            try:
                async with field.link(listens=True) as link:
                    who, first = link.who.identity, 1
                    made = make(who, field.victim, first)
                    while True:
                        await link.send_batch(*made)
                        if is_new:
                            first += step
                            made = make(who, field.victim, first)
            except LinkEndedError:
                continue

    return attack


def _until_it_ends(make: Callable[[Identity, Did, int], Made]) -> Attack:
    """One batch of `make` on each link, after which the victim ends it."""

    async def attack(field: Field) -> None:
        while True:
            try:
                async with field.link(listens=True) as link:
                    await link.send_batch(*make(link.who.identity, field.victim, 1))
                    await link.ended()
            except LinkEndedError:
                continue

    return attack


def _joint(kind: int, names: int) -> Callable[[Identity, Did, int], Made]:
    """A message, and a receipt of so many hashes that nobody knows."""

    def make(who: Identity, victim: Did, first: int) -> Made:
        bodies = bodies_of(who, victim, 1, first=first)
        hashes = [os.urandom(32) for _ in range(min(names, most_joined(bodies)))]
        signer = BatchSigner(who, ReceiptSigner(who, victim))
        signed, joined = signer.sign(
            bodies, Acceptance(kind, hashes, unix_time_us(), is_committed=False)
        )
        return encode_batch(signed.signature, bodies, None, joined), 1, len(bodies[0])

    return make


def _forged_joint(who: Identity, victim: Did, first: int) -> Made:
    frame, messages, size = _joint(ACCEPTED_ENVELOPES, 400)(who, victim, first)
    return frame[:-1] + bytes((frame[-1] ^ 1,)), messages, size


def _garbage_joint(who: Identity, victim: Did, first: int) -> Made:
    """A joint frame whose statement is none."""
    frame, messages, size = _joint(ACCEPTED_ENVELOPES, 400)(who, victim, first)
    start = 5 + frames.FIRST_PART_HEADER + 2
    return frame[:start] + os.urandom(12) + frame[start + 12 :], messages, size


def _copies(count: int, *, is_forged: bool = False) -> Callable[[Identity, Did, int], Made]:
    """Messages in a tree of 256, whose other leaves nobody needs to know."""

    def make(who: Identity, victim: Did, first: int) -> Made:
        bodies = bodies_of(who, victim, count, first=first, stream=_NORMAL + VOLATILE)
        tree = leaves_of(bodies) + [os.urandom(32) for _ in range(MAX_BATCH - count)]
        root = batch_root(bytes(who.did), tree)
        signature = who._sign_labelled(Label.BATCH, root)
        items = SentCopies(root, tree[:count], signature, 0, tree).items(bodies)
        if is_forged:  # the last hash of the last path: all others are computed before it
            at = len(items[-1]) - len(bodies[-1]) - 1
            items[-1] = items[-1][:at] + bytes((items[-1][at] ^ 1,)) + items[-1][at + 1 :]
        writer = BatchWriter(signature, items, _NORMAL + VOLATILE, is_copies=True)
        pieces: list[bytes | memoryview] = []
        while not writer.is_done:
            pieces += writer.next_part()
        return b"".join(pieces), count, sum(map(len, items))

    return make


ATTACKS: Final[dict[str, Attack]] = {
    "streams-new-1": _all_streams(1),
    "streams-new-256": _all_streams(256),
    "streams-duplicate-1": _all_streams(1, is_new=False),
    "stream-filled": new(1, payload=bytes(_LARGE)),
    "streams-filled": _all_streams(1, _LARGE),
    "parts-unfinished": _unfinished(1),
    "parts-all-but-the-last": _unfinished(64),
    "parts-aborted": flood(_begun_and_aborted),
    "joint-unknown": _each(_joint(ACCEPTED_BATCHES, 1), 1),
    "joint-unknown-full": _each(_joint(ACCEPTED_ENVELOPES, 500), 1),
    "joint-duplicate": _each(_joint(ACCEPTED_ENVELOPES, 500), 1, is_new=False),
    "joint-forged": _until_it_ends(_forged_joint),
    "joint-garbage": _until_it_ends(_garbage_joint),
    "copies-new-1": _each(_copies(1), 1),
    "copies-new-32": _each(_copies(32), 32),
    "copies-duplicate-32": _each(_copies(32), 32, is_new=False),
    "copies-forged": _until_it_ends(_copies(32, is_forged=True)),
}
