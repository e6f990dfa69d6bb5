"""Attacks by frames: each is one frame, or one kind of it, repeated on an open link."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final, TypeAlias

from bodykit import encode_v2_body
from linkkit import credits, ping, pong
from signedwire import Did, Identity
from signedwire.identity import Label
from signedwire.types import Priority, unix_time_us
from signedwire.wire import link_frames as frames
from signedwire.wire.envelope import sign_batch
from signedwire.wire.header import VOLATILE
from signedwire.wire.link_frames import Close, CreditFrame, Receipts
from signedwire.wire.parts import encode_batch
from wirekit import CAROL

from .stranger import BURST, EPOCH, Field, Link, LinkEndedError, Who, hello

__all__ = ["ATTACKS", "Attack", "batch", "bodies_of", "flood", "new", "receipts", "signed_receipts"]

Attack: TypeAlias = Callable[[Field], Awaitable[None]]
"""One link's share of an attack: repeats until it is cancelled."""
NORMAL: Final = int(Priority.NORMAL)
"""The durable stream of the usual priority."""
_MORE_NAMES: Final = frames.MAX_RECEIPT_HASHES


# -- how to repeat -----------------------------------------------------------------


def flood(make: Callable[[Who, Did], bytes]) -> Attack:
    """The frames of `make`, as many as go; on a new link with a new key where it is ended."""

    async def attack(field: Field) -> None:
        while True:
            try:
                async with field.link() as link:
                    unit = make(link.who, field.victim)
                    burst = unit * max(1, BURST // len(unit))
                    while True:
                        await link.send(burst)
            except LinkEndedError:
                continue

    return attack


def once(make: Callable[[Who, Did], bytes]) -> Attack:
    """The frames of `make` one time; then, when the victim has ended the link, anew."""

    async def attack(field: Field) -> None:
        while True:
            try:
                async with field.link() as link:
                    await link.send(make(link.who, field.victim))
                    await link.ended()
            except LinkEndedError:
                continue

    return attack


def hang_up(make: Callable[[Who, Did], bytes]) -> Attack:
    """The frames of `make` in one burst, and the connection is reset while they wait."""

    async def attack(field: Field) -> None:
        while True:
            try:
                async with field.link() as link:
                    unit = make(link.who, field.victim)
                    await link.send(unit * max(1, BURST // len(unit)))
                    link.reset()
            except LinkEndedError:
                continue

    return attack


def stream(make: Callable[[int], bytes]) -> Attack:
    """Frames that are each another: `make` is given how many there were before."""

    async def attack(field: Field) -> None:
        while True:
            try:
                async with field.link() as link:
                    number = 0
                    while True:
                        burst = b"".join([make(number + n) for n in range(2000)])
                        number += 2000
                        await link.send(burst)
            except LinkEndedError:
                continue

    return attack


# -- receipts ------------------------------------------------------------------------


def receipts(
    who: Identity, victim: Did, kind: int, count: int = 1, *, is_forged: bool = False
) -> bytes:
    """One RECEIPT of `count` hashes that nobody knows."""
    hashes = tuple(os.urandom(32) for _ in range(count))
    return signed_receipts(who, victim, kind, hashes, is_forged=is_forged)


def signed_receipts(
    who: Identity, victim: Did, kind: int, hashes: tuple[bytes, ...], *, is_forged: bool = False
) -> bytes:
    """One RECEIPT of these hashes."""
    unsigned = Receipts(kind, unix_time_us(), hashes, code=int(kind == 4))
    text = bytes(who.did) + bytes(victim) + unsigned.statement
    signature = bytes(64) if is_forged else who._sign_labelled(Label.RECEIPT, text)
    return replace(unsigned, signature=signature).encode()


def _receipts(kind: int, count: int = 1) -> Attack:
    return flood(lambda who, victim: receipts(who.identity, victim, kind, count))


# -- envelopes -------------------------------------------------------------------------


def bodies_of(
    who: Identity,
    victim: Did,
    count: int,
    *,
    to: Did | None = None,
    first: int = 1,
    epoch: int = EPOCH,
    expires_at_us: int = 0,
    stream: int = NORMAL,
    payload: bytes = b"",
) -> list[bytes]:
    """Messages of one stream, `first` being the number of the first one."""
    now = unix_time_us()
    return [
        encode_v2_body(
            bytes(who.did) + bytes(to or victim),
            payload,
            message_id=number.to_bytes(16, "little"),
            sequence_number=number,
            timestamp_us=now,
            priority=stream % VOLATILE,
            payload_type=0,
            epoch=epoch,
            expires_at_us=expires_at_us,
            is_durable=stream < VOLATILE,
        )
        for number in range(first, first + count)
    ]


def batch(
    who: Identity,
    victim: Did,
    count: int,
    *,
    is_malformed: bool = False,
    is_forged: bool = False,
    **terms: Any,
) -> tuple[bytes, int]:
    """The frames of one signed batch, and the bytes of its envelopes. See `bodies_of()`."""
    bodies = bodies_of(who, victim, count, **terms)
    if is_malformed:
        bodies = [b"JUNK" + body[4:] for body in bodies]
    signature = sign_batch(who, bodies)[1]
    if is_forged:
        signature = bytes(64)
    return encode_batch(signature, bodies, terms.get("stream", NORMAL)), sum(map(len, bodies))


Batch: TypeAlias = Callable[[Identity, Did], tuple[bytes, int]]


def repeated(count: int, make: Batch) -> Attack:
    """One batch of `count`, again and again, within the credit."""

    async def attack(field: Field) -> None:
        while True:
            try:
                async with field.link(listens=True) as link:
                    frame, size = make(link.who.identity, field.victim)
                    while True:
                        await _send_batches(link, [frame], count, size)
            except LinkEndedError:
                continue

    return attack


async def _send_batches(link: Link, made: list[bytes], count: int, size: int) -> None:
    for frame in made:
        await link.send_batch(frame, count, size)


def new(count: int, stream: int = NORMAL, **flaws: Any) -> Attack:
    """Messages that are new and in order, `count` to a batch; all but the first have `flaws`."""

    async def attack(field: Field) -> None:
        while True:
            try:
                async with field.link(listens=True) as link:
                    first, who = 1, link.who.identity
                    while True:
                        after_the_first = flaws if first > 1 else {}
                        frame, size = batch(
                            who, field.victim, count, first=first, stream=stream, **after_the_first
                        )
                        await link.send_batch(frame, count, size)
                        first += count
            except LinkEndedError:
                continue

    return attack


def _forged(count: int, stream: int) -> Attack:
    async def attack(field: Field) -> None:
        while True:
            try:
                async with field.link(listens=True) as link:
                    who = link.who.identity
                    frame, size = batch(who, field.victim, count, stream=stream, is_forged=True)
                    await link.send_batch(frame, count, size)
                    await link.ended()
            except LinkEndedError:
                continue

    return attack


def _envelopes(name: str, stream: int, count: int) -> dict[str, Attack]:
    """Each sort of batch, of `count` messages of a stream."""

    def always(**flaws: Any) -> Attack:
        return repeated(
            count, lambda who, victim: batch(who, victim, count, stream=stream, **flaws)
        )

    return {
        f"{name}-new-{count}": new(count, stream),
        f"{name}-duplicate-{count}": always(),
        f"{name}-wrong-epoch-{count}": always(epoch=EPOCH - 1),
        f"{name}-malformed-{count}": always(is_malformed=True),
        f"{name}-not-for-us-{count}": always(to=CAROL.did),
        f"{name}-expired-{count}": always(expires_at_us=1),
        f"{name}-late-{count}": new(count, stream, expires_at_us=1),
        f"{name}-forged-{count}": _forged(count, stream),
    }


# -- the others --------------------------------------------------------------------------


def _credit(more: int) -> bytes:
    return CreditFrame(credits(more, more, more, more)).encode()


async def _trickle(field: Field) -> None:
    """A frame of the largest size, a byte at a time, each in a segment of its own."""
    while True:
        try:
            async with field.link() as link:
                await link.send(frames.MAX_LENGTH.to_bytes(4, "big") + b"\x02")
                while True:
                    await link.send(b"x")
        except LinkEndedError:
            continue


def _hold(size: int) -> Attack:
    """The first `size` bytes of a frame of the largest size, and then nothing."""

    async def attack(field: Field) -> None:
        while True:
            try:
                async with field.link() as link:
                    await link.send(frames.MAX_LENGTH.to_bytes(4, "big") + b"\x02" + bytes(size))
                    await link.ended(3600)
            except LinkEndedError:
                continue

    return attack


ATTACKS: Final[dict[str, Attack]] = {
    "receipt-1": _receipts(1),
    "receipt-2": _receipts(2),
    "receipt-3": _receipts(3),
    "receipt-1-full": _receipts(1, _MORE_NAMES),
    "receipt-2-full": _receipts(2, _MORE_NAMES),
    "receipt-3-full": _receipts(3, _MORE_NAMES),
    "receipt-forged": once(lambda who, victim: receipts(who.identity, victim, 2, is_forged=True)),
    **_envelopes("envelopes", NORMAL, 1),
    **_envelopes("envelopes", NORMAL, 256),
    **_envelopes("volatile", NORMAL + VOLATILE, 1),
    **_envelopes("volatile", NORMAL + VOLATILE, 256),
    "refusals-1": _receipts(4),
    "refusals-full": _receipts(4, _MORE_NAMES),
    "credit-unchanged": flood(lambda who, victim: _credit(0)),
    "credit-plus-1": stream(lambda number: _credit(number + 1)),
    "ping": flood(lambda who, victim: ping(1).encode()),
    "ping-reset": hang_up(lambda who, victim: ping(1).encode()),
    "pong": flood(lambda who, victim: pong(1).encode()),
    "hello-again": once(lambda who, victim: hello()),
    "unknown-frame": flood(lambda who, victim: b"\x00\x00\x00\x01\xff"),
    "unknown-frame-closes": once(lambda who, victim: b"\x00\x00\x00\x01\x7f"),
    "frame-of-zero-bytes": once(lambda who, victim: bytes(4)),
    "frame-trickled": _trickle,
    "frame-announced": _hold(0),
    "frame-withheld": _hold(frames.MAX_LENGTH - 2),
    "frame-too-large": once(lambda who, victim: b"\xff\xff\xff\xff\x02"),
    "close": once(lambda who, victim: Close(0, "").encode()),
}
