"""`signedwire ping` and `signedwire peers`."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from signedwire.cli.errors import BadInput
from signedwire.cli.exit_codes import ExitCode
from signedwire.cli.output import emit, escape, paint, result, result_as_is, say
from signedwire.cli.probing import HUNG_UP, TURNED_AWAY, Finding, Prober
from signedwire.cli.reaching import find_peer, is_v1_allowed
from signedwire.routing import RoutingTable
from signedwire.types import Did, Target

if TYPE_CHECKING:
    from signedwire.cli.surface import Peers, Ping

__all__ = ["code_of_failure", "hint_for", "peers", "ping"]

_MAX_PROBES = 16
"""Peers that are tried at the same time."""
_Find = Callable[[Did, Target], Finding]


# -- one peer -----------------------------------------------------------------------


def ping(options: Ping) -> int:
    """Link and PING as often as asked; the exit code says whether that failed once."""
    config = options.load_config()
    did, address = find_peer(options.to, options, config.fallback)
    identity = options.load_identity() if options.own_identity else None
    prober = Prober(config, identity)
    may_be_v1 = options.v1 or is_v1_allowed(config, did)
    failures, code = 0, ExitCode.DONE
    finding = Finding(did=did, address=address)
    for number, finding in enumerate(
        prober.probe(did, address, options.count, may_be_v1=may_be_v1), 1
    ):
        failures += not finding.is_reached
        code = code or code_of_failure(finding)
        if options.json:
            emit(finding.fields())
        else:
            for line in _ping_lines(finding, is_first=number == 1):
                result(line)
    if not options.json:
        _conclude(finding, options.count, failures, None if identity is None else identity.did)
    return code


def _ping_lines(finding: Finding, *, is_first: bool) -> list[str]:
    address = finding.address
    if finding.error is not None:
        took = "" if finding.connect_ms is None else f"connected in {finding.connect_ms:.2f} ms, "
        return [f"{address}: {took}{'but ' if took else ''}{escape(finding.error)}"]
    if finding.wire == "v1":
        took = f"connected in {finding.connect_ms:.2f} ms"
        return [f"{address}: {took}, and it keeps the connection"]
    lines = []
    if is_first:
        lines.append(
            f"{address}: {finding.answered_by}, proven; connected in {finding.connect_ms:.2f} ms, "
            f"handshake {finding.handshake_ms:.2f} ms"
        )
    if finding.round_trip_ms is not None:
        lines.append(f"{address}: round trip {finding.round_trip_ms:.2f} ms")
    elif not is_first:
        lines.append(f"{address}: handshake {finding.handshake_ms:.2f} ms")
    return lines


def _conclude(finding: Finding, count: int, failures: int, us: Did | None) -> None:
    did, address = finding.did, finding.address
    if failures:
        of = "" if count == 1 else f" ({failures} of {count} attempts failed)"
        if count > 1 and finding.handshake_ms is not None:
            of = " any more"
        say(f"signedwire: {did} was not reached at {address}{of}. {hint_for(finding, us)}")
    elif finding.wire == "v1":
        say(f"proven: somebody listens at {address} and keeps the connection, as a v1 peer does")
        say(f"not proven: that it is {did}; v1 peers never answer")


def code_of_failure(finding: Finding) -> ExitCode:
    """The exit code for what was found of one peer."""
    if finding.is_reached:
        return ExitCode.DONE
    return ExitCode.DENIED if finding.state == TURNED_AWAY else ExitCode.UNREACHED


def hint_for(finding: Finding, us: Did | None) -> str:
    """What to do about a peer that was not reached; `us` is our DID where it was shown it."""
    if finding.state == HUNG_UP:
        return "If it is a v1 peer, add --v1."
    if finding.state == "another peer":
        return "Another key answers there: is the DID right?"
    if finding.state == TURNED_AWAY and us is not None:
        return f"If it lets in only DIDs that it knows, ask its owner to let {us} in."
    if finding.state == TURNED_AWAY:
        return "If it lets in only DIDs that it knows, add --own-identity."
    return "Is `signedwire listen` running there, and are host and port right?"


# -- all of them --------------------------------------------------------------------


def peers(options: Peers) -> int:
    """Try every peer of the peers file; the exit code says whether one was not reached."""
    if options.peers is None:
        raise BadInput("there is no peers file", "Name one with --peers FILE")
    config = options.load_config()
    routes = list(RoutingTable.load(options.peers))
    prober = Prober(config, options.load_identity() if options.own_identity else None)

    def find(did: Did, address: Target) -> Finding:
        may_be_v1 = options.v1 or is_v1_allowed(config, did)
        return next(prober.probe(did, address, may_be_v1=may_be_v1))

    failures = 0
    for finding in _Survey(routes, find):
        failures += not finding.is_reached
        if options.json:
            emit(finding.fields())
        else:
            result_as_is(_peer_line(finding))
    if not options.json:
        source = escape(str(options.peers))
        say(f"reached {len(routes) - failures} of {len(routes)} peers in {source}")
    return ExitCode.UNREACHED if failures else ExitCode.DONE


class _Survey:
    """Runs the probes in some threads; yields what they found in the order of the file."""

    def __init__(self, routes: list[tuple[Did, Target]], find: _Find) -> None:
        self._find = find
        self._waiting: queue.SimpleQueue[tuple[int, Did, Target]] = queue.SimpleQueue()
        for number, (did, address) in enumerate(routes):
            self._waiting.put((number, did, address))
        self._found: queue.SimpleQueue[tuple[int, Finding | BaseException]] = queue.SimpleQueue()
        self._count = len(routes)

    def __iter__(self) -> Iterator[Finding]:
        for _ in range(min(_MAX_PROBES, self._count)):
            # Daemons: Ctrl-C does not wait for a peer.
            threading.Thread(target=self._work, daemon=True).start()
        early: dict[int, Finding] = {}
        for number in range(self._count):
            while number not in early:
                which, finding = self._found.get()
                if isinstance(finding, BaseException):
                    raise finding
                early[which] = finding
            yield early.pop(number)

    def _work(self) -> None:
        while True:
            try:
                number, did, address = self._waiting.get_nowait()
            except queue.Empty:
                return
            try:
                self._found.put((number, self._find(did, address)))
            except BaseException as error:  # noqa: BLE001 - raised where it is waited for
                self._found.put((number, error))


def _peer_line(finding: Finding) -> str:
    mark = paint("ok    ", "green") if finding.is_reached else paint("failed", "red")
    parts = [mark, str(finding.did), str(finding.address), finding.wire or "-", finding.state]
    if finding.error is not None:
        parts.append(escape(finding.error))
    elif finding.round_trip_ms is not None:
        parts.append(f"{finding.round_trip_ms:.2f} ms")
    elif finding.handshake_ms is not None:
        parts.append(f"handshake {finding.handshake_ms:.2f} ms")
    else:
        parts.append("DID not proven")
    return "  ".join(parts)
