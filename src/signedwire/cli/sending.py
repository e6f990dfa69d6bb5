"""`signedwire send`."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from signedwire.cli.errors import BadInput, NotDone
from signedwire.cli.output import emit, result, standard_input
from signedwire.cli.pinging import find_peer
from signedwire.delivery.receipt import Receipt
from signedwire.errors import DeliveryError
from signedwire.routing import RoutingTable
from signedwire.sync import Node
from signedwire.transport.outbound import ORDERLY_CLOSE
from signedwire.types import Address, DeliveryState, Did

if TYPE_CHECKING:
    from signedwire.cli.surface import Send

__all__ = ["send"]

_CHUNK: Final = 64 * 1024
_LINGER: Final = 0.1
"""Seconds in which a peer that refuses what we wrote has hung up."""
_UNCONFIRMED: Final = "v1 peers do not confirm"

Wrap = Callable[[bytes], bytes]
"""Makes the payload from what was given."""


def send(options: Send) -> int:
    """Send one message, or the lines of standard input."""
    _check_usage(options)
    config = options.load_config().replace(listen=None)
    did, address = find_peer(options.to, options, config.fallback)
    identity = options.load_identity()
    wrap = _wrapper(options, identity.did)
    # Before the node: it begins when it is made, and has to be closed.
    payload = None if options.text == "-" else wrap(_given(options))
    node = Node(identity, config, RoutingTable({did: address}))
    sending = _Sending(options, node, did, address)
    return sending.send_lines(wrap) if payload is None else sending.send_one(payload)


# -- what is sent -----------------------------------------------------------------


def _check_usage(options: Send) -> None:
    """Refuse options that contradict each other, before anything is done."""
    kinds = {
        "--agent-command": options.agent_command is not None,
        "--heartbeat": options.heartbeat,
        "--motion": options.motion is not None,
        "--llm-query": options.llm_query,
    }
    chosen = [name for name, is_given in kinds.items() if is_given]
    if len(chosen) > 1:
        raise BadInput(f"{' and '.join(chosen)} exclude each other", "Send them one by one")
    is_given = options.text is not None or options.file is not None
    if options.text is not None and options.file is not None:
        raise BadInput("TEXT and --file exclude each other", "Give one of them")
    if chosen and chosen[0] in ("--heartbeat", "--motion"):
        if is_given:
            raise BadInput(f"{chosen[0]} takes no TEXT and no --file", "Leave them away")
    elif not is_given and chosen != ["--agent-command"]:
        raise BadInput(
            "there is nothing to send", "Give TEXT, --file FILE, or - for the lines of stdin"
        )
    if options.target and options.agent_command is None:
        raise BadInput("--target is the target of --agent-command", "Give both, or neither")
    if (options.system_prompt or options.model) and not options.llm_query:
        raise BadInput("--system-prompt and --model belong to --llm-query", "Add --llm-query")


def _given(options: Send) -> bytes:
    if options.file is None:
        # surrogateescape gives back the bytes that were typed.
        return (options.text or "").encode("utf-8", "surrogateescape")
    return _read_file(options.file)


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            # A v1 frame is shorter than 2^24 bytes whatever the configuration says.
            return file.read(2**24)
    except OSError as error:
        raise BadInput(
            f"cannot read {path}: {error.strerror}", "Does the file exist, and may you read it?"
        ) from None


def _wrapper(options: Send, did: Did) -> Wrap:
    """What turns the given bytes into a payload: themselves, or a v1 payload around them."""
    is_v1 = options.llm_query or options.heartbeat
    if not is_v1 and options.agent_command is None and options.motion is None:
        return lambda given: given
    from signedwire import payloads

    def wrap(given: bytes) -> bytes:
        message: payloads.Payload
        if options.agent_command is not None:
            message = payloads.AgentCommand(
                command_type=options.agent_command,
                target_did=options.target.encode("utf-8", "surrogateescape"),
                payload=given,
            )
        elif options.llm_query:
            message = payloads.LlmQuery(
                prompt=_text(given), system_prompt=options.system_prompt, model=options.model
            )
        elif options.motion is not None:
            (lx, ly, lz), (ax, ay, az) = options.motion.linear, options.motion.angular
            message = payloads.MotionCommand(
                linear=payloads.Vector3(x=lx, y=ly, z=lz),
                angular=payloads.Vector3(x=ax, y=ay, z=az),
            )
        else:
            uptime_ms = int(time.monotonic() * 1000)
            message = payloads.Heartbeat(sender_did=bytes(did), uptime_ms=uptime_ms)
        return payloads.encode(message)

    return wrap


def _text(given: bytes) -> str:
    try:
        return given.decode()
    except UnicodeDecodeError as error:
        raise BadInput(
            f"a prompt is UTF-8 text, and byte {error.start} of this one is not",
            "Convert it, or send the bytes without --llm-query",
        ) from None


# -- how --------------------------------------------------------------------------


class _Sending:
    """One run of `signedwire send`."""

    def __init__(self, options: Send, node: Node, did: Did, address: Address) -> None:
        self._options = options
        self._node = node
        self._did = did
        self._address = address
        self._pending: deque[tuple[int, Receipt, int]] = deque()  # line, receipt, size
        self._last: Receipt | None = None
        self._lines = 0

    def send_one(self, payload: bytes) -> int:
        with self._node as node:
            receipt = node.send(
                self._did,
                payload,
                priority=self._options.priority,
                payload_type=self._options.payload_type,
                deadline=self._options.deadline,
            )
            self._check_hung_up(receipt)
        # Closing gives up what a broken connection had put back into the queue.
        receipt.raise_if_failed()
        if self._options.json:
            self._emit(receipt, len(payload), None)
        else:
            size = "1 byte" if len(payload) == 1 else f"{len(payload)} bytes"
            where = f"{self._did.short} at {self._address}"
            result(f"written: {size} to {where} ({_UNCONFIRMED})")
        return 0

    def send_lines(self, wrap: Wrap) -> int:
        """Read what there is, queue it, and read on when all of that is written."""
        try:
            with self._node:
                for chunk in self._read_lines():
                    for line in chunk:
                        self._queue(wrap, line)
                    self._settle()
                if self._last is not None:
                    self._check_hung_up(self._last)
        finally:
            written = self._lines - self._node.stats().send_failures
            if not self._options.json:
                lines = "1 line" if written == 1 else f"{written} lines"
                result(f"written: {lines} to {self._did.short} ({_UNCONFIRMED})")
        if written < self._lines:
            raise NotDone(
                f"{self._lines - written} of {self._lines} lines were not delivered: the "
                f"connection to {self._address} broke, and they did not get through after that",
                "Send the last lines again",
            )
        return 0

    def _read_lines(self) -> Iterator[list[bytes]]:
        """Lists of whole lines, each as soon as it is there; the last may lack its end."""
        # The descriptor itself: it gives what there is, where a buffered file waits for more.
        descriptor = standard_input().fileno()
        limit = self._node.config.max_v1_payload_size
        rest = b""
        while chunk := os.read(descriptor, _CHUNK):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > limit + 1:  # one more for a carriage return
                yield lines
                raise self._too_long(f"more than {limit}")
            yield lines
        if rest:
            yield [rest]

    def _queue(self, wrap: Wrap, line: bytes) -> None:
        number = self._lines + 1
        try:
            payload = wrap(line.removesuffix(b"\r"))
            if len(payload) > self._node.config.max_v1_payload_size:
                self._settle()
                raise self._too_long(str(len(payload)))
            receipt = self._submit(payload)
        except (DeliveryError, BadInput) as error:
            raise _at_line(number, error) from None
        self._lines, self._last = number, receipt
        self._pending.append((number, receipt, len(payload)))

    def _submit(self, payload: bytes) -> Receipt:
        """Queue a line, without asking for more room than there is."""
        if len(self._pending) >= self._node.config.send_queue_limit:
            self._settle()
        return self._node.send_nowait(
            self._did,
            payload,
            priority=self._options.priority,
            payload_type=self._options.payload_type,
            deadline=self._options.deadline,
        )

    def _too_long(self, size: str) -> NotDone:
        limit = self._node.config.max_v1_payload_size
        return NotDone(
            f"line {self._lines + 1} of standard input makes a payload of {size} bytes, over "
            f"the v1 limit of {limit}; the lines before it are written, and none after it is",
            "Split it, or raise max_v1_payload_size where the peer is known to take more",
        )

    def _settle(self) -> None:
        """Wait until all that was queued is written."""
        while self._pending:
            number, receipt, size = self._pending[0]
            try:
                receipt.result()
            except DeliveryError as error:
                raise _at_line(number, error) from None
            self._pending.popleft()
            if self._options.json:
                self._emit(receipt, size, number)

    def _emit(self, receipt: Receipt, size: int, line: int | None) -> None:
        fields: dict[str, object] = {} if line is None else {"line": line}
        emit(
            {
                **fields,
                "state": str(DeliveryState.WRITTEN),
                "is_confirmed": receipt.is_confirmed,
                "recipient": str(receipt.recipient),
                "address": str(self._address),
                "sender": str(self._node.did),
                "sequence_number": receipt.sequence_number,
                "size": size,
            }
        )

    def _check_hung_up(self, last: Receipt) -> None:
        """See whether the peer broke the connection off right after a message.

        One that ends it in an orderly way has read what was sent; a v1 peer that
        ends itself does that. One that resets it has thrown bytes away.

        Raises:
            NotDone: it did, so it has most likely not taken the message.
        """
        until = time.monotonic() + _LINGER
        while time.monotonic() < until:
            time.sleep(_LINGER / 10)
            error_at = self._node.peers()[self._did].last_error_at
            state, at_us = last.history[-1]
            # Put back into the queue, it is on its way again: that is not this case.
            if state is not DeliveryState.WRITTEN or not error_at or error_at * 1e6 < at_us:
                continue
            error = self._node.peers()[self._did].last_error or ""
            if not error.endswith(ORDERLY_CLOSE):
                raise NotDone(
                    f"message #{last.sequence_number} was written, but then the {error}, "
                    "so it was most likely not taken",
                    "Is a v1 peer listening there, and nothing else?",
                )


def _at_line(number: int, error: DeliveryError | BadInput) -> NotDone:
    return NotDone(f"line {number} of standard input: {error.fact}", error.hint)
