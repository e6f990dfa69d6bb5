"""`signedwire ping` and `signedwire peers`."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from signedwire.cli import keys
from signedwire.cli.addresses import allow_v1, find_peer, is_v1_allowed
from signedwire.cli.common_options import ProbeOptions
from signedwire.cli.errors import BadInput
from signedwire.cli.exit_codes import ExitCode
from signedwire.cli.output import emit, escape, paint, result, result_as_is, say
from signedwire.cli.peer_options import PeersOptions, PingOptions
from signedwire.config import TransportConfig
from signedwire.errors import FailureKind
from signedwire.identity import Identity
from signedwire.names import Names
from signedwire.node import Node
from signedwire.portal import new_event_loop
from signedwire.routing import RoutingTable
from signedwire.stats import Probe
from signedwire.types import Did
from signedwire.wire.clock_offset import ClockOffset

__all__ = ["code_of_failure", "hint_for", "peers", "ping", "probing_node"]

_INTERVAL: Final = 1.0
"""Seconds from one ping to the next."""
_STATES: Final = {
    FailureKind.HUNG_UP_ON_TLS: "hung up on TLS",
    FailureKind.WRONG_KEY: "another peer",
    FailureKind.UNPROVEN: "unproven",
    FailureKind.TURNED_AWAY: "turned away",
    FailureKind.DENIED: "turned away",
    FailureKind.FULL: "full",
    FailureKind.NO_HANDSHAKE: "silent",
    FailureKind.TLS_FAILED: "no v2 peer",
}
"""Words for a failure during the handshake, in JSON and in the list of peers; else "closed".

Before the connection opened, the state is the kind of the failure.
"""


def probing_node(config: TransportConfig, identity: Identity | None) -> Node:
    """Return a node that only probes: it listens nowhere, stores nothing, and denies nobody.

    Args:
        config: The configuration of the command.
        identity: The key; `None`: a key made for this run.
    """
    config = config.replace(
        listen=None, store=None, evidence=None, access_file=None, deny=(), allow=None
    )
    return Node(identity or Identity.generate(), config)


# -- one peer -----------------------------------------------------------------------


def ping(options: PingOptions) -> int:
    """Link to a peer and ping it --count times; fails if one attempt failed."""
    config = options.load_config()
    did, address = find_peer(options.to, options, config.fallback)
    identity = _own_identity(options)
    if options.v1 or is_v1_allowed(config, did):
        config = allow_v1(config, did)

    async def follow() -> list[Probe]:
        node, found = probing_node(config, identity), list[Probe]()
        async with node:
            probes = node.probes(did, address, interval=_INTERVAL, as_stranger=identity is None)
            async with contextlib.aclosing(probes):
                async for probe in probes:
                    found.append(probe)
                    if options.json:
                        emit(_fields(probe))
                    else:
                        for line in _ping_lines(probe, is_first=len(found) == 1):
                            result(line)
                    if len(found) == options.count:
                        break
        return found

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        found = runner.run(follow())
    failed = [probe for probe in found if not probe.is_reached]
    if not options.json:
        us = None if identity is None else identity.did
        _conclude(found[-1], options.count, len(failed), us, config.names)
    return code_of_failure(failed[0]) if failed else ExitCode.DONE


def _own_identity(options: ProbeOptions) -> Identity | None:
    return keys.load_or_create(options) if options.own_identity else None


def _fields(found: Probe) -> dict[str, object]:
    return {
        "did": str(found.did),
        "address": str(found.address),
        "state": _state(found),
        "wire": found.wire,
        "is_proven": found.is_proven,
        "answered_by": None if found.answered_by is None else str(found.answered_by),
        "connect_ms": _milliseconds(found.connect_time),
        "handshake_ms": _milliseconds(found.handshake_time),
        "round_trip_ms": _milliseconds(found.round_trip),
        "clock_offset_ms": _milliseconds(found.clock_offset),
        "clock_offset_bound_ms": _milliseconds(found.clock_offset_bound),
        "problem": found.error,
    }


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def _state(found: Probe) -> str:
    if found.failure is None:
        return "connected" if found.wire == "v2" else "open"
    if found.connect_time is None:
        return str(found.failure)
    if found.failure is FailureKind.PROTOCOL and found.answered_by is None:
        return "wrote"  # v1 peers never write first
    if found.handshake_time is not None and not found.denies_us:
        return "closed"
    return _STATES.get(found.failure, "closed")


def _ping_lines(found: Probe, *, is_first: bool) -> list[str]:
    address, connected = found.address, ""
    if found.connect_time is not None:
        connected = f"connected in {found.connect_time * 1000:.2f} ms"
    if found.error is not None:
        joint = "; " if found.failure is FailureKind.TURNED_AWAY else ", but "
        return [f"{address}: {connected}{joint if connected else ''}{escape(found.error)}"]
    if found.wire == "v1":
        return [f"{address}: {connected}, and it keeps the connection"]
    lines = []
    handshake = f"handshake {(found.handshake_time or 0.0) * 1000:.2f} ms"
    if is_first:
        lines.append(f"{address}: {found.answered_by}, proven; {connected}, {handshake}")
    elif found.round_trip is None:
        lines.append(f"{address}: {handshake}")
    if found.round_trip is not None:
        lines.append(f"{address}: round trip {found.round_trip * 1000:.2f} ms")
    if is_first and (offset := _wrong_clock(found)) is not None:
        lines.append(f"{address}: its clock is {offset}")
    return lines


def _wrong_clock(found: Probe) -> ClockOffset | None:
    """Return how far the peer's clock is from ours; `None`: no difference is certain."""
    if found.clock_offset is None or found.clock_offset_bound is None:
        return None
    offset = ClockOffset(found.clock_offset, found.clock_offset_bound)
    return offset if offset.is_noticeable else None


def _conclude(found: Probe, count: int, failures: int, us: Did | None, names: Names) -> None:
    did, address = names.in_words(found.did), found.address
    if failures:
        of = "" if count == 1 else f" ({failures} of {count} attempts failed)"
        if count > 1 and found.handshake_time is not None:
            of = " any more"
        what = "did not let us in" if found.denies_us else "was not reached"
        say(f"signedwire: {did} {what} at {address}{of}. {hint_for(found, us)}")
    elif found.wire == "v1":
        say(f"proven: somebody listens at {address} and keeps the connection, as a v1 peer does")
        say(f"not proven: that it is {did}; v1 peers never answer")


def code_of_failure(found: Probe) -> ExitCode:
    """Return the exit code for the result of one probe."""
    if found.is_reached:
        return ExitCode.DONE
    return ExitCode.DENIED if found.denies_us else ExitCode.UNREACHED


def hint_for(found: Probe, us: Did | None) -> str:
    """Return what to do about a peer that was not reached.

    Args:
        found: The result of the probe.
        us: Our DID; `None`: the probe used a key made for this run.
    """
    if found.failure is FailureKind.HUNG_UP_ON_TLS:
        return "If it is a v1 peer, add --v1."
    if found.failure is FailureKind.WRONG_KEY:
        return "Another key answers there: is the DID right?"
    if found.denies_us and us is not None:
        return f"If it has an access list, ask its owner to let {us} in."
    if found.denies_us:
        return "If it has an access list with our DID, add --own-identity."
    return "Is `signedwire listen` running there, and are host and port right?"


# -- all peers ----------------------------------------------------------------------


def peers(options: PeersOptions) -> int:
    """Probe every peer of the peers file; fails if one was not reached."""
    if options.peers is None:
        raise BadInput("there is no peers file", "Name one with --peers FILE")
    config = options.load_config()
    routes = list(RoutingTable.load(options.peers, options.names))
    identity = _own_identity(options)
    if options.v1 or (config.wire == "v1" and not config.v1_peers):
        config = config.replace(v1_peers="all")

    async def survey() -> int:
        """Probe all peers at the same time; print them in the order of the file."""
        node, failures = probing_node(config, identity), 0
        async with node:
            tasks = [
                asyncio.create_task(node.probe(did, address, as_stranger=identity is None))
                for did, address in routes
            ]
            try:
                for task in tasks:
                    found = await task
                    failures += not found.is_reached
                    if options.json:
                        emit(_fields(found))
                    else:
                        result_as_is(_peer_line(found, config.names))
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        return failures

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        failures = runner.run(survey())
    if not options.json:
        source = escape(str(options.peers))
        say(f"reached {len(routes) - failures} of {len(routes)} peers in {source}")
    return ExitCode.UNREACHED if failures else ExitCode.DONE


def _peer_line(found: Probe, names: Names) -> str:
    mark = paint("ok    ", "green") if found.is_reached else paint("failed", "red")
    parts = [
        mark,
        str(names.in_words(found.did)),
        str(found.address),
        found.wire or "-",
        _state(found),
    ]
    if found.error is not None:
        parts.append(escape(found.error))
    elif found.round_trip is not None:
        parts.append(f"{found.round_trip * 1000:.2f} ms")
    elif found.handshake_time is not None:
        parts.append(f"handshake {found.handshake_time * 1000:.2f} ms")
    else:
        parts.append("DID not proven")
    if (offset := _wrong_clock(found)) is not None:
        parts.append(f"its clock is {offset}")
    return "  ".join(parts)
