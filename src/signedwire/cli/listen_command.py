"""`signedwire listen`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Final

from signedwire.cli import keys
from signedwire.cli.addresses import command, listening_config, reachable
from signedwire.cli.errors import NotDone
from signedwire.cli.exit_codes import ExitCode
from signedwire.cli.formatting import (
    UNPROVEN,
    count_of,
    decoded_fields,
    envelope_fields,
    payload_text,
)
from signedwire.cli.key_locks import KeyLock
from signedwire.cli.node_signals import reload_on_sighup, rotate_on_sigusr1
from signedwire.cli.option_values import word
from signedwire.cli.output import emit, escape, paint, result_as_is, say
from signedwire.cli.peer_options import ListenOptions
from signedwire.cli.signals import end_on_signals, notify_ready, restoring_signals
from signedwire.cli.store_choice import Chosen, choose, lock_of, prepare, refuse_key, tell_new
from signedwire.config import TransportConfig
from signedwire.delivery.message import Message
from signedwire.errors import StoreInUseError
from signedwire.events import Dropped, Event, EventsMissed
from signedwire.names import Names
from signedwire.node import Node
from signedwire.portal import new_event_loop
from signedwire.routing import RoutingTable
from signedwire.types import Did, PayloadType, Reason, SignaturePolicy, unix_time_us

__all__ = ["listen"]

_ANOTHER_KEY: Final = (
    "Use the listener that runs with this key, or end it; a second one needs a key of its own: "
    "`signedwire id new FILE`, then --identity FILE"
)
_ANOTHER_STORE: Final = (
    "One node uses a store at a time. If the node that has it open runs with this key, use that "
    "node, or end it. If it has another key, give --store another FILE"
)
_WIDTH: Final = 21
"""Characters of a DID in short."""
_EACH_ATTEMPT: Final = " (each attempt counts)"
_WHY: Final = {
    Reason.NOT_FOR_US: "addressed to another DID; ours is {did}",
    Reason.UNSIGNED: "--allow-unsigned accepts unsigned messages",
    Reason.BAD_SIGNATURE: "changed on the way, or not signed by the sender that it names",
    Reason.NOT_ALLOWED: "its sender{sender} is not among v1_peers",
    Reason.DUPLICATE: "delivered before",
    Reason.DENIED: "the access list denies its sender{sender}",
    Reason.BAD_IDENTITY: "a connection that did not prove its DID",
    Reason.TOO_SLOW: "a connection that sent too little for too long",
    Reason.WRONG_PROTOCOL: "a connection that uses no wire that we accept",
}


def listen(options: ListenOptions) -> int:
    """Receive messages and print them until the count, the time or a signal ends it."""
    config = _config(options)
    identity = keys.load_or_create(options)
    chosen = choose(options, identity.did)
    routing = (
        RoutingTable() if options.peers is None else RoutingTable.load(options.peers, options.names)
    )
    node = Node(identity, config.replace(store=chosen.path), routing)
    with (
        restoring_signals(),
        asyncio.Runner(loop_factory=new_event_loop) as runner,
        lock_of(identity.did) as lock,
    ):
        return runner.run(_Listening(options, node, chosen, lock).run())


def _config(options: ListenOptions) -> TransportConfig:
    config = listening_config(options, options.listen)
    if config.evidence is not None:
        refuse_key(
            config.evidence,
            "evidence log",
            "Give `evidence` the path of a file, and look at SIGNEDWIRE_EVIDENCE",
        )
    if options.allow_unsigned:
        config = config.replace(signatures=SignaturePolicy.IF_PRESENT)
    if options.v1 or options.allow_unsigned:  # only v1 has unsigned messages
        config = config.replace(v1_peers="all")
    return config


class _Listening:
    """One run of `signedwire listen`."""

    def __init__(self, options: ListenOptions, node: Node, store: Chosen, lock: KeyLock) -> None:
        self._options = options
        self._node = node
        self._store = store
        self._lock = lock
        names = node.config.names
        self._width = max([_WIDTH, *(len(names.label_of(did)) for did in names.values())])
        self._printed = 0
        self._is_announced = False

    async def run(self) -> int:
        signal_came = end_on_signals()
        try:
            async with self._running():
                self._announce()
                # --timeout limits the whole command, not the wait for one message.
                async with asyncio.timeout(self._options.timeout):
                    async with self._reporting_drops():
                        await self._print_all()
        except StoreInUseError as error:
            hint = _ANOTHER_KEY if self._store.is_default else _ANOTHER_STORE
            raise NotDone(error.fact, hint, ExitCode.STORE) from None
        except TimeoutError:
            if self._options.count is not None:
                raise NotDone(
                    f"{self._printed} of {self._options.count} messages came within "
                    f"{self._options.timeout:g} s",
                    "Give it a longer --timeout, or see with -v what was dropped",
                    ExitCode.NO_ANSWER,
                ) from None
        except asyncio.CancelledError:
            if (code := signal_came()) is None:
                raise  # Ctrl-C
            return code
        finally:
            # After the close, which counts the messages that were not printed.
            if self._is_announced:
                with contextlib.suppress(OSError):  # the error of stdout is reported elsewhere
                    self._summarise()
        return 0

    async def _print_all(self) -> None:
        async for message in self._node.messages():
            self._print(message)
            message.ack()
            self._printed += 1
            if self._printed == self._options.count:
                if self._store.path is not None:
                    await self._node.outbox.flush()  # the peer learns of ack() after its commit
                await asyncio.sleep(0)  # and in the next turn of the loop
                return

    def _print(self, message: Message) -> None:
        try:
            if self._options.json:
                emit(_fields(message))
            else:
                result_as_is(_line(message, self._node.config.names, self._width))
        except BrokenPipeError:
            raise
        except OSError as error:
            fate = "it is delivered again at the next start" if self._store.path else "it is lost"
            sender = message.proven_sender or "an unproven sender"
            raise NotDone(
                f"standard output cannot be written ({error.strerror}); message "
                f"{message.message_id[:8]} from {sender} was not printed and "
                f"not acknowledged; {fate}",
                "Make room, or print it elsewhere",
                ExitCode.SYSTEM,
            ) from None

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        is_new = prepare(self._store)
        reload_on_sighup(self._node)
        async with self._node:
            self._lock.release()  # the store is open; from now on it is in use for others
            if is_new:
                tell_new(self._store)
            if self._node.stats().evidence is not None:
                rotate_on_sigusr1(self._node)
            yield

    @contextlib.asynccontextmanager
    async def _reporting_drops(self) -> AsyncIterator[None]:
        if self._options.json:  # the summary has them
            yield
            return
        watching = asyncio.create_task(self._report_drops(self._node.events()))
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _report_drops(self, events: AsyncIterator[Event]) -> None:
        """Report the first drop of each reason at once: else a wrong DID looks like silence."""
        reported: set[Reason] = set()
        self._report_new_drops(reported)  # drops while the node started
        async for event in events:
            if isinstance(event, Dropped) and event.reason not in reported:
                reported.add(event.reason)
                self._report_drop(event.reason, event.did)
            elif isinstance(event, EventsMissed):
                self._report_new_drops(reported)

    def _report_new_drops(self, reported: set[Reason]) -> None:
        for reason in self._node.stats().dropped.keys() - reported:
            reported.add(reason)
            self._report_drop(reason, None)

    def _report_drop(self, reason: Reason, sender: Did | None) -> None:
        why = _WHY.get(reason, "see docs/operations.md")
        named = "" if sender is None else f" {sender}"
        say(f"dropped: {reason} ({why.format(did=self._node.did, sender=named)})")

    def _announce(self) -> None:
        assert self._node.address is not None
        address = reachable(self._node.address)
        peer = f"{self._node.did}@{address}"
        self._is_announced = True
        say("listening; send to it with")
        say(f'  {command(self._node.config)} send {peer} "hello"')
        if self._options.json:
            did = str(self._node.did)
            emit({"event": "listening", "did": did, "address": str(address), "peer": peer})
        notify_ready()

    def _summarise(self) -> None:
        dropped = {str(reason): n for reason, n in self._node.stats().dropped.items() if n}
        if self._options.json:
            emit({"event": "summary", "messages": self._printed, "dropped": dropped})
            return
        causes = ", ".join(
            f"{n} {reason}{_EACH_ATTEMPT * (reason == Reason.DENIED)}"
            for reason, n in sorted(dropped.items())
        )
        also = f"; dropped: {causes}" if causes else ""
        say(f"received {count_of(self._printed, 'message')}{also}")


def _fields(message: Message) -> dict[str, object]:
    return {
        "event": "message",
        "received_at_us": unix_time_us(),
        **envelope_fields(message.envelope, is_proven=message.is_proven),
        # A v2 sender holds our signed receipt, and the message is handled once this is printed.
        "is_receipted": message.envelope.epoch is not None,
        "is_redelivered": message.redelivered,
        "decoded": decoded_fields(message.payload),
        "envelope": message.envelope.encode().hex(),
    }


def _line(message: Message, names: Names, width: int) -> str:
    sender = message.proven_sender
    # Padded before it is coloured, so that columns stay columns.
    who = f"{UNPROVEN if sender is None else names.label_of(sender):<{width}}"
    if sender is None:
        who = paint(who, "yellow")
    kind = message.payload_type
    label = "" if kind is PayloadType.RAW else f"[{word(kind)}] "
    if message.subject:
        label = f"{escape(message.subject)}: {label}"
    if message.redelivered:
        label = f"(again) {label}"
    clock = f"{time.strftime('%H:%M:%S')}.{int(time.time() % 1 * 1000):03d}"
    return f"{clock}  {who}  {word(message.priority):<8}  {label}{payload_text(message.payload)}"
