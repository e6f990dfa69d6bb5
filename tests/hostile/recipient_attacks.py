"""Attacks by one recipient: a peer to which the victim sends, and that answers wrongly.

Each takes `FED` messages without an answer, and then repeats one thing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

from linkkit import credits, ping
from signedwire import Did, Identity
from signedwire.wire import link_frames as frames
from signedwire.wire.link_frames import MAX_RECEIPT_HASHES, Close, CreditFrame
from tlskit import MALLORY

from .frame_attacks import Attack, batch, receipts, signed_receipts
from .stranger import BURST, Field, Link, LinkEndedError, Who, hello

__all__ = ["FED", "RECIPIENT_ATTACKS", "UNREAD_ATTACKS"]

FED: Final = 6_144
"""As many as a node has in flight to one peer, whatever that grants."""
_CREDIT: Final = 4 * FED
_UNREAD_BATCHES: Final = 8
"""Sent between two looks at whether the victim has taken them: half of its credit."""
_LARGEST: Final = 2**32 - 1


def after(
    fed: int, make: Callable[[Link, Identity, Did], bytes], *, grants: int = _CREDIT
) -> Attack:
    """Grant so much, take `fed` messages, wait for the start, then flood with `make`."""

    async def attack(field: Field) -> None:
        who = Who.new(MALLORY)
        while True:
            try:
                async with field.link(who, words=hello(credit=grants), listens=True) as link:
                    while len(link.leaves) < fed:
                        await link.change()
                    field.is_fed.set()
                    await field.may_begin.wait()
                    while True:
                        await link.send(make(link, MALLORY, field.victim))
            except LinkEndedError:
                continue

    return attack


def repeated(make: Callable[[Link, Identity, Did], bytes], *, grants: int = _CREDIT) -> Attack:
    """The same, with one frame that is made once and repeated."""
    made: dict[Link, bytes] = {}

    def burst(link: Link, who: Identity, victim: Did) -> bytes:
        if link not in made:
            made.clear()
            unit = make(link, who, victim)
            made[link] = unit * max(1, BURST // len(unit))
        return made[link]

    return after(FED, burst, grants=grants)


def _one_receipt_each(link: Link, who: Identity, victim: Did) -> bytes:
    """A receipt of its own for each message, the last one first: each of them is due."""
    leaves = [link.leaves.pop() for _ in range(min(256, len(link.leaves)))]
    return (
        b"".join([signed_receipts(who, victim, 2, (leaf,)) for leaf in leaves]) or ping(1).encode()
    )


def _refuse_each(link: Link, who: Identity, victim: Did) -> bytes:
    """A refusal for each message, 500 in a frame: each of them is due."""
    leaves = tuple(link.leaves[:MAX_RECEIPT_HASHES])
    del link.leaves[:MAX_RECEIPT_HASHES]
    return signed_receipts(who, victim, 4, leaves) if leaves else ping(1).encode()


def _receipts_all_over(link: Link, who: Identity, victim: Did) -> bytes:
    """Receipts for messages that are far from each other, 500 in a frame: all are due."""
    last = 8 * MAX_RECEIPT_HASHES
    leaves = tuple(link.leaves[:last:8])
    del link.leaves[:last:8]
    return signed_receipts(who, victim, 2, leaves) if leaves else ping(1).encode()


async def _cut(field: Field) -> None:
    """Take what comes, and cut the link with all of it unanswered, again and again."""
    who = Who.new(MALLORY)
    while True:
        with contextlib.suppress(LinkEndedError):
            async with field.link(who, words=hello(credit=_CREDIT), listens=True) as link:
                while len(link.leaves) < FED:
                    await link.change()
                field.is_fed.set()
                await field.may_begin.wait()
                await link.send(Close(frames.CLOSE_TOO_MANY, "").encode())


def _credit_by_one() -> Attack:
    granted = [0]

    def burst(link: Link, who: Identity, victim: Did) -> bytes:
        first, granted[0] = granted[0], granted[0] + 256
        return b"".join(
            [CreditFrame(credits(n, 2**40, 0, 0)).encode() for n in range(first, first + 256)]
        )

    return after(0, burst, grants=0)


async def _unread(field: Field) -> None:
    """Batches that are known, on a link that never reads: the receipts pile up there.

    It claims to take payloads of 4 GiB. A second link tells by PING when the victim has
    taken what was sent, and so has granted the credit for it again.
    """
    words = hello(_LARGEST)
    while True:
        try:
            async with field.link(listens=True) as probe, field.link(words=words) as link:
                link.stop_reading()
                frame = batch(link.who.identity, field.victim, 256)[0]
                while True:
                    await link.send(frame * _UNREAD_BATCHES)
                    for _ in range(2):
                        await probe.ask()
        except LinkEndedError:
            continue


RECIPIENT_ATTACKS: Final[dict[str, Attack]] = {
    "recipient-receipt-unknown": repeated(lambda link, who, victim: receipts(who, victim, 2)),
    "recipient-receipt-unknown-full": repeated(
        lambda link, who, victim: receipts(who, victim, 2, MAX_RECEIPT_HASHES)
    ),
    "recipient-batch-unknown": repeated(lambda link, who, victim: receipts(who, victim, 1)),
    "recipient-handled-unknown": repeated(lambda link, who, victim: receipts(who, victim, 3)),
    "recipient-receipt-again": repeated(
        lambda link, who, victim: signed_receipts(who, victim, 2, (link.leaves[-1],))
    ),
    "recipient-handled-again": repeated(
        lambda link, who, victim: signed_receipts(who, victim, 3, (link.leaves[-1],))
    ),
    "recipient-receipt-each": after(FED, _one_receipt_each),
    "recipient-receipts-all-over": after(FED, _receipts_all_over),
    "recipient-refuse-each": after(FED, _refuse_each),
    "recipient-cut": _cut,
    "recipient-refusals-unknown": repeated(lambda link, who, victim: receipts(who, victim, 4)),
    "recipient-refusals-unknown-full": repeated(
        lambda link, who, victim: receipts(who, victim, 4, MAX_RECEIPT_HASHES)
    ),
    "recipient-credit-by-one": _credit_by_one(),
}
"""By one link each, whatever number is asked for."""

UNREAD_ATTACKS: Final[dict[str, Attack]] = {"unread-receipts": _unread}
