"""`signedwire ping`, and where a peer is reached."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from signedwire.cli.errors import FAILED, BadInput
from signedwire.cli.output import emit, result, say
from signedwire.routing import RoutingTable
from signedwire.transport.tcp import describe_os_error
from signedwire.types import Address, Did, parse_peer

if TYPE_CHECKING:
    from signedwire.cli.surface import Command, Ping

__all__ = ["find_peer", "ping"]

_WATCH: Final = 0.25
"""Seconds in which a peer that refuses us has hung up."""
_INTERVAL: Final = 1.0


def find_peer(to: str, options: Command, fallback: Address | None) -> tuple[Did, Address]:
    """The DID and the address in `to`; the address else from the peers file, or the fallback."""
    did, address = parse_peer(to)
    if address is None and options.peers is not None:
        address = RoutingTable.load(options.peers).resolve(did)
    address = address or fallback
    if address is None:
        where = "and there is no peers file" if options.peers is None else f"nor in {options.peers}"
        raise BadInput(
            f"no address is known for {did}: none was given, {where}",
            "Write DID@host:port, or name the peer in a file given with --peers",
        )
    if address.port == 0:
        raise BadInput(f"nobody listens on port 0, as in {address}", "Write the peer's port")
    return did, address


class _Attempt(NamedTuple):
    outcome: str
    """"open", "closed", "wrote" or "failed"."""
    connect_ms: float | None
    words: str


def ping(options: Ping) -> int:
    """Connect as often as asked; 1 if it failed once."""
    config = options.load_config()
    did, address = find_peer(options.to, options, config.fallback)
    failures = 0
    for number in range(options.count):
        if number:
            time.sleep(_INTERVAL)
        attempt = _attempt(address, config.connect_timeout)
        failures += attempt.outcome != "open"
        if options.json:
            emit(
                {
                    "address": str(address),
                    "did": str(did),
                    "did_is_proven": False,
                    "outcome": attempt.outcome,
                    "connect_ms": attempt.connect_ms,
                    "detail": attempt.words,
                }
            )
        else:
            result(f"{address}: {attempt.words}")
    if not options.json:
        _conclude(did, address, options.count, failures)
    return FAILED if failures else 0


def _attempt(address: Address, timeout: float | None) -> _Attempt:
    began = time.perf_counter()
    try:
        connection = socket.create_connection(address, timeout)
    except TimeoutError:
        return _Attempt("failed", None, f"no answer within {timeout:g} s")
    except (OSError, UnicodeError) as error:
        # UnicodeError: a host name that cannot be one, such as "a..b".
        cause = describe_os_error(error) if isinstance(error, OSError) else "no host name"
        return _Attempt("failed", None, f"cannot connect: {cause}")
    milliseconds = round((time.perf_counter() - began) * 1000, 3)
    took = f"connected in {milliseconds:.2f} ms"
    with connection:
        if connection.getsockname() == connection.getpeername():
            # A free port of the ephemeral range, dialed, can meet itself (RFC 9293, 3.5).
            return _Attempt("failed", None, "nobody listens there (connected to itself)")
        connection.settimeout(_WATCH)
        try:
            received = connection.recv(1)
        except TimeoutError:
            return _Attempt("open", milliseconds, f"{took}, and it keeps the connection")
        except OSError:
            received = b""
    if received:
        return _Attempt("wrote", milliseconds, f"{took}, but it wrote bytes, as no v1 peer does")
    return _Attempt("closed", milliseconds, f"{took}, but it hung up at once")


def _conclude(did: Did, address: Address, count: int, failures: int) -> None:
    if failures:
        say(
            f"signedwire: {failures} of {count} attempts found no v1 peer at {address}. "
            "Is `signedwire listen` running there, and are host and port right?"
        )
        return
    say(f"proven: somebody listens at {address} and keeps the connection, as a v1 peer does")
    say(f"not proven: that it is {did}; v1 peers never answer")
