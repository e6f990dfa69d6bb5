"""Attacks by connections: each is one step of a handshake, again and again."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections import deque
from collections.abc import Callable
from typing import Final

from signedwire import Identity
from tlskit import Credentials, certificate, did_proof_of, new_key, spki_of

from .frame_attacks import Attack
from .stranger import Field, LinkEndedError, Who, reset

__all__ = ["ATTACKS"]

_HELD: Final = 16
"""Connections that each link holds open at once, where it closes none itself."""


def client_hello() -> bytes:
    """One ClientHello, which is good for any number of connections."""
    outgoing = ssl.MemoryBIO()
    tls = Who.new().context.wrap_bio(ssl.MemoryBIO(), outgoing)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake with nobody")


def words(make: Callable[[], bytes], *, holds: bool = False, waits: bool = False) -> Attack:
    """Connect, write the bytes of `make`, and close, or hold it open, or wait to be closed."""

    async def attack(field: Field) -> None:
        loop = asyncio.get_running_loop()
        said, held = make(), deque[socket.socket]()
        try:
            while True:
                sock = await field.connect()
                if sock is None:
                    continue
                held.append(sock)
                try:
                    if said:
                        await loop.sock_sendall(sock, said)
                        field.bytes_sent += len(said)
                    if waits:
                        async with asyncio.timeout(1):
                            while await loop.sock_recv(sock, 65536):
                                pass
                        field.closed += 1
                except (OSError, TimeoutError):
                    field.closed += 1
                while len(held) > (_HELD if holds else 0):
                    reset(held.popleft())
        finally:
            for sock in held:
                reset(sock)

    return attack


async def _answered(field: Field) -> None:
    """ClientHello, the victim's whole answer, and the end."""
    loop, said = asyncio.get_running_loop(), client_hello()
    while True:
        sock = await field.connect()
        if sock is None:
            continue
        try:
            await loop.sock_sendall(sock, said)
            field.bytes_sent += len(said)
            async with asyncio.timeout(1):
                if not await loop.sock_recv(sock, 65536):
                    field.closed += 1
        except (OSError, TimeoutError):
            field.closed += 1
        finally:
            reset(sock)


def _through(said: bytes | None) -> Attack:
    """A whole handshake, `said` (by default a HELLO), and the end."""

    async def attack(field: Field) -> None:
        while True:
            try:
                async with field.link(words=said):
                    pass
            except LinkEndedError:
                continue

    return attack


def lying(make: Callable[[Identity, bytes], bytes], padding: int = 0) -> Attack:
    """A whole handshake with a certificate whose proof comes from `make`."""
    key = new_key()
    liar = Identity.generate()
    proof = make(liar, spki_of(key))
    chain = (certificate(key, (proof,) if proof else (), other=bytes(padding)),)
    who = Who(liar, Credentials(key, chain).context(is_server=False))

    async def attack(field: Field) -> None:
        while True:
            try:
                async with field.link(who) as link:
                    await link.ended()
            except LinkEndedError:
                continue

    return attack


def lazily(make: Callable[[], Attack]) -> Attack:
    """An attack that is prepared when it is used first: keys take their time."""

    async def attack(field: Field) -> None:
        await make()(field)

    return attack


def _damaged(who: Identity, spki: bytes) -> bytes:
    return did_proof_of(who, spki)[:-1] + b"\0"


ATTACKS: Final[dict[str, Attack]] = {
    "connect": words(bytes),
    "connect-3-bytes": words(lambda: b"\x16\x03\x01", holds=True),
    "clienthello-silence": words(client_hello, holds=True),
    "clienthello-close": words(client_hello),
    "clienthello-answered": _answered,
    "clienthello-garbage": words(
        lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc" + os.urandom(508), waits=True
    ),
    "first-byte-v1": words(lambda: b"\x00\x00\x00\xaa" + bytes(170), waits=True),
    "first-byte-other": words(lambda: b"GET / HTTP/1.1\r\n\r\n", waits=True),
    "handshake-close": _through(b""),
    "handshake-hello-close": _through(None),
    "handshake-bad-proof": lazily(lambda: lying(_damaged)),
    "handshake-no-proof": lazily(lambda: lying(lambda who, spki: b"")),
    "handshake-huge-certificate": lazily(lambda: lying(did_proof_of, padding=60_000)),
}
