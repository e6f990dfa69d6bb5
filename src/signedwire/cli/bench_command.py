"""`signedwire bench`: against a peer, and as that peer."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from typing import Final

from signedwire.bench import MIN_SIZE, progress
from signedwire.bench.peer_bench import PeerBench, PeerResults
from signedwire.bench.peer_server import BenchServer
from signedwire.bench.peer_table import show_peer
from signedwire.cli import keys
from signedwire.cli.addresses import command, find_peer, forbid_v1, listening_config, reachable
from signedwire.cli.errors import BadInput, NotDone
from signedwire.cli.exit_codes import ExitCode
from signedwire.cli.formatting import count_of
from signedwire.cli.output import emit, say
from signedwire.cli.peer_options import BenchOptions
from signedwire.cli.ping_commands import code_of_failure, hint_for, probing_node
from signedwire.cli.signals import end_on_signals, notify_ready, restoring_signals
from signedwire.config import TransportConfig
from signedwire.errors import FailureKind
from signedwire.identity import Identity
from signedwire.node import Node
from signedwire.portal import new_event_loop
from signedwire.stats import Probe
from signedwire.types import Address, Did, SignaturePolicy, Target

__all__ = ["bench"]

_SIZES: Final = [64, 1000]
"""Bytes of the payloads that are measured by default."""


def bench(options: BenchOptions) -> int:
    """Measure a peer, or be that peer."""
    if options.to is not None and options.serve:
        raise BadInput(
            "DID@HOST:PORT and --serve exclude each other",
            "One machine serves, another one measures it",
        )
    if options.listen is not None and not options.serve:
        raise BadInput("--listen is where --serve listens", "Add --serve")
    if options.serve:
        return _serve(options)
    if options.to is None:
        raise BadInput(
            "there is no peer to measure",
            "Run `signedwire bench --serve` on its machine; that prints the command for this one",
        )
    return _measure(options, options.to)


def _identity(options: BenchOptions) -> Identity:
    return keys.load_or_create(options) if options.own_identity else Identity.generate()


def _only_v2(config: TransportConfig) -> TransportConfig:
    """Return the configuration with v2 only, and without files: no message is kept."""
    if config.wire == "v1":
        raise BadInput(
            "this bench measures the v2 wire, and the configuration says wire = v1",
            'Set wire = "auto", or leave it away',
        )
    return forbid_v1(config).replace(store=None, evidence=None, signatures=SignaturePolicy.REQUIRED)


# -- the peer that is measured --------------------------------------------------------


def _serve(options: BenchOptions) -> int:
    node = Node(_identity(options), _only_v2(listening_config(options, options.listen)))
    with restoring_signals(), asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(_serving(options, node))


async def _serving(options: BenchOptions, node: Node) -> int:
    signal_came, server, is_announced = end_on_signals(), BenchServer(node), False
    try:
        async with node:
            _announce(options, node)
            is_announced = True
            await server.run()
    except asyncio.CancelledError:
        if (code := signal_came()) is None:
            raise  # Ctrl-C
        return code
    finally:
        # After the close, which counts the messages that were not taken.
        if is_announced:
            with contextlib.suppress(OSError):  # the error of stdout is reported elsewhere
                _summarise(options, node, server)
    return 0


def _announce(options: BenchOptions, node: Node) -> None:
    assert node.address is not None
    address = reachable(node.address)
    peer = f"{node.did}@{address}"
    say("serving; on another machine, measure it with")
    say(f"  {command(node.config)} bench {peer}")
    if _is_local(address):
        say("only this machine can reach it; --listen 0.0.0.0:PORT is for others too")
    say("anybody who has that line can send to it: it counts, echoes and keeps nothing")
    say("Ctrl-C ends it")
    notify_ready()
    if options.json:
        emit({"event": "serving", "did": str(node.did), "address": str(address), "peer": peer})


def _is_local(address: Target) -> bool:
    if not isinstance(address, Address):
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(address.host).is_loopback
    return address.host == "localhost"


def _summarise(options: BenchOptions, node: Node, server: BenchServer) -> None:
    dropped = {str(reason): n for reason, n in node.stats().dropped.items() if n}
    if options.json:
        emit(
            {
                "event": "summary",
                "messages": server.messages,
                "bytes": server.bytes,
                "echoed": server.echoed,
                "peer_count": server.clients,
                "unasked": server.unasked,
                "unanswered": server.unanswered,
                "dropped": dropped,
            }
        )
        return
    also = {
        "from senders that are no clients": server.unasked,
        "echoes or answers not sent": server.unanswered,
        **{f"dropped: {reason}": n for reason, n in sorted(dropped.items())},
    }
    say(
        f"received {server.messages:,} messages, {server.bytes:,} bytes, from "
        f"{count_of(server.clients, 'peer')}; echoed {server.echoed:,}"
        + "".join(f"; {n} {what}" for what, n in also.items() if n)
    )


# -- the one that measures ------------------------------------------------------------


def _measure(options: BenchOptions, to: str) -> int:
    config = _only_v2(options.load_config()).replace(listen=None)
    sizes = list(dict.fromkeys(options.size or _SIZES))
    if not all(MIN_SIZE <= size <= config.max_payload_size for size in sizes):
        raise BadInput(
            f"sizes are {MIN_SIZE} to {config.max_payload_size} bytes here",
            "Give another --size, or raise max_payload_size on both sides",
        )
    did, address = find_peer(to, options, config.fallback)
    identity = _identity(options)
    node = Node(identity, config)
    node.routing.update(did, address)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        # A probe reports better than a failed link why a peer is not reached.
        found = runner.run(_probe(config, identity if options.own_identity else None, did, address))
        if not found.is_reached:
            raise _not_reached(found, identity.did if options.own_identity else None)
        results = runner.run(_measuring(options, node, did, address, sizes))
    if options.json:
        emit(results.as_json())
    else:
        from rich.console import Console

        show_peer(Console(), results)
    return ExitCode.FAILED if results.lost else 0


async def _measuring(
    options: BenchOptions, node: Node, did: Did, address: Target, sizes: list[int]
) -> PeerResults:
    async with node:
        measuring = PeerBench(node, did)
        with progress() as tell:
            tell(f"asking {address}")
            await measuring.agree()
            return await measuring.measure(
                f"{did}@{address}", sizes, options.seconds, options.rounds, tell
            )


async def _probe(
    config: TransportConfig, identity: Identity | None, did: Did, address: Target
) -> Probe:
    async with probing_node(config, identity) as node:
        return await node.probe(did, address, as_stranger=identity is None)


def _not_reached(found: Probe, us: Did | None) -> NotDone:
    hint = hint_for(found, us)
    if found.failure is FailureKind.HUNG_UP_ON_TLS:
        hint = "v1 peers cannot be measured: they send no receipts"
    elif found.connect_time is None:
        hint = "Is `signedwire bench --serve` running there, and are host and port right?"
    fact = f"{found.did} was not reached at {found.address}: {found.error}"
    return NotDone(fact, hint, code_of_failure(found))
