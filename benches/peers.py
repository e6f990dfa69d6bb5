"""Who takes part in the messages part: signedwire, and what it is compared with.

A peer that cannot run here is named in `Results.left_out` with the reason; one that
can has its note in `Results.notes`: what its figures include and what they do not.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable
from functools import partial
from importlib import metadata, util
from typing import Final

from benches.nats_server import CORE_WINDOW, NatsServer, ServerGone, what_is_missing
from benches.results import Results, System
from benches.rounds import Pair, loops, start_pairs
from benches.stored import temporary_folder
from signedwire import __version__
from signedwire.bench import Tell

__all__ = ["CURVE", "FLOOR", "NATS_CORE", "OMNIMESH", "open_pairs"]

OMNIMESH: Final = "omnimesh"
CURVE: Final = "pyzmq CURVE"
NATS_CORE: Final = "nats-py"
FLOOR: Final = "floor"

Starts = dict[System, Callable[[], Pair]]
"""How to start each system."""


class _Missing(Exception):
    """A peer cannot run here; says why."""


def open_pairs(
    stack: contextlib.ExitStack, results: Results, compare: bool, limit: float, tell: Tell
) -> list[Pair]:
    """Start every system that runs here; the others are named in `results.left_out`."""
    known = loops(results.left_out)
    starts: Starts = {}
    for wire in ("v2", "v1"):
        for loop in known:
            system = System(name="signedwire", version=__version__, wire=wire, loop=loop)
            starts[system] = partial(Pair, system, limit)
    finders: dict[str, Callable[[], tuple[Starts, str]]] = {
        OMNIMESH: partial(_omnimesh, limit),
        CURVE: partial(_curve, limit),
        NATS_CORE: partial(_nats_core, known, limit, stack),
        FLOOR: partial(_floor, known, limit),
    }
    for name, find in finders.items():
        if not compare:
            results.left_out[name] = "a run without comparison was asked for"
            continue
        try:
            found, results.notes[name] = find()
        except _Missing as reason:
            results.left_out[name] = str(reason)
        else:
            starts |= found
    return start_pairs(stack, results, starts, tell)


def _omnimesh(limit: float) -> tuple[Starts, str]:
    if util.find_spec("omnimesh") is None:
        raise _Missing("it is not installed; pip install 'signedwire[bench]', on Linux x86_64 only")
    version = metadata.version("omnimesh")
    system = System(name=OMNIMESH, version=version, wire="v1", loop="native")
    return {system: partial(Pair, system, limit)}, (
        f"{version}, the v1 client. Each message is signed and verified; nothing is encrypted, "
        f"and nobody answers: a send returns when the message is queued."
    )


def _curve(limit: float) -> tuple[Starts, str]:
    try:
        import zmq
    except ImportError as error:
        raise _Missing(f"pyzmq: {error}; pip install 'signedwire[bench]'") from None
    version = f"{zmq.pyzmq_version()}, libzmq {zmq.zmq_version()}"
    system = System(name=CURVE, version=version, wire="curve", loop="native")
    return {system: partial(Pair, system, limit, "benches.zmq_curve")}, (
        f"{version}, blocking API, PUSH to PULL; round trips DEALER to DEALER. What they send is "
        f"encrypted and authenticated with CURVE; the listener's key is checked, the dialer's is "
        f"not. No message is signed: nothing can be shown to a third party. Nobody answers: a "
        f"send returns when the message is queued, and blocks at ØMQ's default high-water mark, "
        f"1000 messages at each end, so that none is dropped. CPU includes ØMQ's own I/O "
        f"threads, which are not Python."
    )


def _nats_core(known: list[str], limit: float, stack: contextlib.ExitStack) -> tuple[Starts, str]:
    if missing := what_is_missing():
        raise _Missing(missing)
    try:
        server = stack.enter_context(NatsServer(stack.enter_context(temporary_folder())))
    except (ServerGone, OSError, ValueError) as error:
        raise _Missing(f"its server did not start: {error}") from None
    starts: Starts = {}
    for loop in known:
        system = System(name=NATS_CORE, version=server.version, wire="nats", loop=loop)
        arguments = ((server.url,), (server.url,))
        starts[system] = partial(Pair, system, limit, "benches.nats_core", arguments)
    return starts, (
        f"nats-server {server.version}, publish and subscribe by callback, through the server, "
        f"JetStream unused. Nothing is signed or encrypted, nothing is kept, and nobody answers; "
        f"the client writes what its loop has collected. The server drops messages if a "
        f"subscriber is too slow. So the receiver reports every {CORE_WINDOW // 10:,} messages, "
        f"and at most about {CORE_WINDOW:,} are in flight. Messages that are dropped "
        f"nevertheless count as lost. The server's CPU is in no figure."
    )


def _floor(known: list[str], limit: float) -> tuple[Starts, str]:
    starts: Starts = {}
    for loop in known:
        system = System(name=FLOOR, version=ssl.OPENSSL_VERSION, wire="tls", loop=loop)
        starts[system] = partial(Pair, system, limit, "benches.floor", has_throughput=False)
    return starts, (
        f"the least cost of a signed round trip in Python. It is a bare asyncio.Protocol over the "
        f"loop's own TLS 1.3 ({ssl.OPENSSL_VERSION}). Each way takes one Ed25519 signature over "
        f"as many bytes as an envelope of ours has, and its check. No ordering, credit, receipts "
        f"or queues. Round trips only."
    )
