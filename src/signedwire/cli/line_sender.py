"""Sending of the lines of standard input by `signedwire send … -`."""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Iterator
from typing import Final

from signedwire.cli.addresses import is_v1_allowed
from signedwire.cli.errors import About, BadInput, NotDone
from signedwire.cli.exit_codes import ExitCode
from signedwire.cli.formatting import count_of
from signedwire.cli.message_sender import MessageSender
from signedwire.cli.output import escape, result, say, standard_input
from signedwire.cli.send_outcomes import UNCONFIRMED, at_line, saying_fate
from signedwire.cli.send_payloads import Wrap
from signedwire.delivery.receipt import Receipt
from signedwire.errors import DeliveryError
from signedwire.types import DeliveryState

__all__ = ["LineSender"]

_CHUNK: Final = 64 * 1024
_MOST_UNCONFIRMED: Final = 32 * 1024
"""Lines to a v1 peer whose receipts are held. A socket buffers up to 4 MiB by default on
Linux, and a v1 message has over 170 bytes."""


class LineSender:
    """Sends each line of standard input as a message.

    Args:
        sender: Sends the messages.
    """

    def __init__(self, sender: MessageSender) -> None:
        self._sender = sender
        config = sender.node.config
        self._is_v1_allowed = is_v1_allowed(config, sender.did)
        self._wire: str | None = "v1" if config.wire == "v1" else None
        self._pending: deque[tuple[int, Receipt, int]] = deque()  # line, receipt, size
        # Lines to a v1 peer; those that its host has not acknowledged go back into the store.
        self._written: deque[Receipt] = deque(maxlen=_MOST_UNCONFIRMED)
        self._last: Receipt | None = None
        self._lines = 0
        self._input = -1

    def send(self, wrap: Wrap) -> int:
        """Send all lines and print the result; returns the exit code.

        Lines are queued as they are read. While there is no input, answers are awaited.

        Args:
            wrap: Makes the payload of a line.

        Raises:
            NotDone: a line was not delivered; lines behind it are not sent.
        """
        sender = self._sender
        try:
            with sender.running():
                for chunk in self._read_lines():
                    for line in chunk:
                        self._queue(wrap, line)
                    self._settle(are_more_to_come=True)
                self._settle()
                if self._last is None:
                    say("nothing to send: no line came on standard input")
                else:
                    sender.check_hung_up(self._last)
        finally:
            # After the close, during which more lines may have been answered or given up.
            failed, kept = self._counts()
            if not sender.options.json:
                self._show_counts(max(0, self._lines - failed - kept), kept)
        if failed:
            raise NotDone(
                f"{failed} of {self._lines} lines were not delivered: the connection to "
                f"{sender.address} broke, and they did not get through after that",
                "Send the last lines again",
                ExitCode.UNREACHED,
                About(sender.did, detail=sender.kept.last_error()),
            )
        return ExitCode.STORED if kept else ExitCode.DONE

    # -- results --------------------------------------------------------------------------

    def _counts(self) -> tuple[int, int]:
        """Return how many lines were not delivered, and how many are left in the store."""
        sender = self._sender
        behind = [each for _, each, _ in self._pending if not self._is_done(each)]
        failed = sender.node.stats().send_failures
        failed += sum(not each.is_final and not each.is_detached for each in behind)
        left = [each for each in (*behind, *self._written) if each.is_detached]
        sender.kept.receipts += left
        return failed, sum(not self._is_done(each) for each in sender.kept.receipts)

    def _show_counts(self, done: int, kept: int) -> None:
        if done:
            result(self._lines_text(done))
        if kept:
            path = escape(str(self._sender.store.path))
            lines = count_of(kept, "line")
            result(f"persisted: {lines} for {self._sender.label} (in {path})")
            self._sender.kept.say_when_sent()

    def _lines_text(self, done: int) -> str:
        lines, who, until = count_of(done, "line"), self._sender.label, self._sender.until
        if self._last is not None and self._last.is_unconfirmed:
            return f"written: {lines} to {who} ({UNCONFIRMED})"
        if until in (DeliveryState.ACCEPTED, DeliveryState.HANDLED):
            return f"{until}: {lines} by {who} (signed receipts)"
        return f"{until}: {lines} to {who}"

    # -- input ----------------------------------------------------------------------------

    def _read_lines(self) -> Iterator[list[bytes]]:
        """Yield lists of whole lines, each as soon as it is there; the last may lack its end."""
        # A buffered file would wait for a full buffer; the descriptor returns what is there.
        self._input = standard_input().fileno()
        rest = bytearray()  # grows in place, so a long line is not copied for each piece
        while chunk := os.read(self._input, _CHUNK):
            end, begin = chunk.find(b"\n"), chunk.rfind(b"\n") + 1
            if begin:
                first = bytes(rest + chunk[:end])
                rest.clear()
                yield [first, *chunk[end + 1 : begin].split(b"\n")[:-1]]
            rest += chunk[begin:]
            limit = self._limit()
            if len(rest) > limit + 1:  # one more for a carriage return
                self._settle()
                raise self._too_long(f"more than {limit}")
        if rest:
            yield [bytes(rest)]

    def _has_input(self) -> bool:
        # On Windows select() takes sockets only, so there answers are awaited before input.
        return os.name == "posix" and bool(select.select([self._input], [], [], 0)[0])

    def _limit(self) -> int:
        """Return the maximum bytes of a payload: that of v1 until the peer turns out to use v2."""
        config = self._sender.node.config
        if self._wire == "v2" or not self._is_v1_allowed:
            return config.max_payload_size
        return config.max_v1_payload_size

    def _queue(self, wrap: Wrap, line: bytes) -> None:
        number = self._lines + 1
        try:
            payload = wrap(line.removesuffix(b"\r"))
        except BadInput as error:
            self._settle()
            raise at_line(number, error) from None
        if len(payload) > self._limit():
            self._settle()
            raise self._too_long(str(len(payload)))
        try:
            receipt = self._sender.submit(payload, self._settle_first)
        except DeliveryError as error:
            self._settle()
            raise at_line(number, error) from None
        self._lines, self._last = number, receipt
        self._pending.append((number, receipt, len(payload)))
        if self._wire is None and self._is_v1_allowed:
            for line_number, each, _ in self._pending:
                self._wait(line_number, each, DeliveryState.WRITTEN)
            if receipt.has_reached(DeliveryState.WRITTEN):
                self._wire = "v1" if receipt.is_unconfirmed else "v2"

    def _too_long(self, size: str) -> NotDone:
        limit = self._limit()
        wire = "v1 " if self._is_v1_allowed and self._wire != "v2" else ""
        raised = "max_v1_payload_size" if wire else "max_payload_size"
        return NotDone(
            f"line {self._lines + 1} of standard input makes a payload of {size} bytes, over "
            f"the {wire}limit of {limit}; the lines before it are sent, and none after it is",
            f"Split it, or raise {raised} where the peer is known to take more",
            ExitCode.USAGE,
        )

    # -- answers --------------------------------------------------------------------------

    def _settle(self, *, are_more_to_come: bool = False) -> None:
        """Wait until all queued lines are done; with more to come, only until there is input."""
        while self._pending:
            if not self._settle_first(is_patient=not are_more_to_come):
                return

    def _settle_first(self, *, is_patient: bool = True) -> bool:
        """Wait for the oldest line; `False`: the wait is impatient, and input came first."""
        number, receipt, size = self._pending[0]
        if not self._wait(number, receipt, self._sender.until, is_patient=is_patient):
            return False
        self._pending.popleft()
        if receipt.is_unconfirmed:
            self._written.append(receipt)
        if self._sender.options.json:
            state = self._sender.shown_state(receipt)
            with saying_fate(f"line {number} is {state}"):
                self._sender.emit(receipt, state, size, number)
        return True

    def _wait(
        self, number: int, receipt: Receipt, until: DeliveryState, *, is_patient: bool = True
    ) -> bool:
        try:
            return self._sender.wait(
                receipt,
                until,
                is_interrupted=None if is_patient else self._has_input,
                descriptor=None if is_patient or os.name != "posix" else self._input,
            )
        except (DeliveryError, NotDone) as error:
            raise at_line(number, self._sender.denial(error) or error) from None

    def _is_done(self, receipt: Receipt) -> bool:
        return receipt.has_reached(self._sender.until)
