"""Sending of one message by `signedwire send`, and the steps that lines share with it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from signedwire.cli.errors import NotDone, code_of, explain
from signedwire.cli.exit_codes import ExitCode
from signedwire.cli.formatting import count_of
from signedwire.cli.kept_messages import KeptMessages
from signedwire.cli.output import emit, escape, result
from signedwire.cli.proof_file import Save
from signedwire.cli.receipt_waits import ReceiptWaits
from signedwire.cli.send_options import SendOptions
from signedwire.cli.send_outcomes import UNCONFIRMED, milliseconds, saying_fate, wire_of
from signedwire.cli.store_choice import Chosen
from signedwire.cli.wakeups import Wakeups
from signedwire.delivery.receipt import Receipt
from signedwire.errors import (
    BackpressureError,
    DeliveryError,
    DeliveryFailedError,
    StoreFullError,
)
from signedwire.sync import Node
from signedwire.types import DeliveryState, Did, Reason, Target

__all__ = ["MessageSender"]


class MessageSender:
    """Sends messages to one peer, waits for them, and prints their results.

    Args:
        options: The options of the command.
        node: The node, not started yet.
        did: The peer.
        address: The peer's address; `None`: it is not known.
        store: The store of the node.
    """

    def __init__(
        self, options: SendOptions, node: Node, did: Did, address: Target | None, store: Chosen
    ) -> None:
        self.options = options
        self.node = node
        self.did = did
        self.address = address
        self.store = store
        self.until = options.until or DeliveryState.ACCEPTED
        """The state to wait for."""
        if store.path is not None and self.until is DeliveryState.QUEUED:
            self.until = DeliveryState.PERSISTED  # with a store, queueing commits the message
        self.kept = KeptMessages(options, node, did, address, store)
        self.label = options.names.label_of(did)
        """The peer for people: its DID in short, and its name if it has one."""
        self._waits: ReceiptWaits

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Start the node, and close it at the end."""
        with Wakeups(self.node) as wakeups, self.node:
            self._waits = ReceiptWaits(self.node, self.did, wakeups, self.options.timeout)
            yield

    def send(self, payload: bytes, save: Save) -> int:
        """Send one message and print its result; returns the exit code.

        Args:
            payload: The payload.
            save: Saves the receipt proof.

        Raises:
            DeliveryFailedError: the message was not delivered.
            NotDone: it did not reach the state that the options require.
        """
        with self.running():
            receipt = self.submit(payload)
            with self._explaining(receipt, save):
                self.wait(receipt)
            self.check_hung_up(receipt)
        # After the close, which gives up messages that were not written.
        with self._explaining(receipt, save):
            state = self._final_state(receipt)
        save(receipt)
        proof = "" if self.options.proof is None else f"; its proof is in {self.options.proof}"
        with saying_fate(f"message {receipt.message_id[:8]} is {state}{proof}"):
            if self.options.json:
                self.emit(receipt, state, len(payload))
            else:
                result(self._text(receipt, state, count_of(len(payload), "byte")))
                self.kept.say_when_sent()
        # A message to a v1 peer may have been written, and be back in the store since.
        is_enough = state is not DeliveryState.PERSISTED or state is self.until
        return ExitCode.DONE if is_enough else ExitCode.STORED

    # -- steps ----------------------------------------------------------------------------

    def submit(self, payload: bytes, make_room: Callable[[], object] | None = None) -> Receipt:
        """Queue a message.

        Args:
            payload: The payload.
            make_room: Waits until there is room in the queue; `None`: a full queue raises.

        Raises:
            DeliveryError: the message cannot be queued.
        """
        while True:
            try:
                return self.node.send_nowait(
                    self.did,
                    payload,
                    priority=self.options.priority,
                    payload_type=self.options.payload_type,
                    subject=self.options.subject,
                    deadline=self.options.deadline,
                )
            except StoreFullError:
                raise
            except BackpressureError:
                if make_room is None:
                    raise
                make_room()

    def wait(
        self,
        receipt: Receipt,
        until: DeliveryState | None = None,
        *,
        is_interrupted: Callable[[], bool] | None = None,
        descriptor: int | None = None,
    ) -> bool:
        """Wait until a message has reached a state; `False`: an interruption came first.

        Args:
            receipt: The receipt of the message.
            until: The state; `None`: the one that the options require.
            is_interrupted: Whether the caller has something else to do first.
            descriptor: A file descriptor that can be read when `is_interrupted` turns true.

        Raises:
            DeliveryFailedError: the message will not reach the state.
            NotDone: no answer will come any more, or --timeout has passed.
        """
        state = until or self.until
        return self._waits.wait(
            receipt,
            state,
            is_kept=lambda: self.kept.keeps(receipt, state),
            late=lambda timeout: self.kept.late(receipt, state, timeout),
            is_interrupted=is_interrupted,
            descriptor=descriptor,
        )

    def check_hung_up(self, last: Receipt) -> None:
        """Raise if a v1 peer reset the connection right after the last message.

        Raises:
            NotDone: the connection was reset, so the message was most likely not taken.
        """
        self._waits.check_hung_up(last)

    def denial(self, error: DeliveryError | NotDone) -> NotDone | None:
        """Return the error for a message that failed because the peer's access list denies us."""
        status = self.node.peers().get(self.did)
        is_exhausted = (
            isinstance(error, DeliveryFailedError) and error.reason is Reason.ATTEMPTS_EXHAUSTED
        )
        if status is None or not status.denies_us or not is_exhausted:
            return None
        return NotDone(
            error.fact,
            f"It may have an access list: ask its owner to let {self.node.did} in",
            ExitCode.DENIED,
            cause=error,
        )

    @contextlib.contextmanager
    def _explaining(self, receipt: Receipt, save: Save) -> Iterator[None]:
        """Explain why a message has failed, and save the proof if the peer refused it."""
        try:
            yield
        except DeliveryFailedError as error:
            raise self.denial(error) or self._proven(error, receipt, save) or error from None

    def _proven(self, error: DeliveryFailedError, receipt: Receipt, save: Save) -> NotDone | None:
        """Save the proof of a refusal, and return the error that names its file."""
        path = self.options.proof
        if path is None or receipt.state is not DeliveryState.REFUSED:
            return None
        save(receipt)
        fact, hint = explain(error)
        return NotDone(f"{fact}; its proof is in {path}", hint, code_of(error), cause=error)

    # -- results --------------------------------------------------------------------------

    def _final_state(self, receipt: Receipt) -> DeliveryState:
        """Return the state of a message after the close; an unexpected receipt counts too.

        Raises:
            DeliveryFailedError: the message did not reach the state to wait for.
        """
        reached = {step.state for step in receipt.history}
        if (
            receipt.state is DeliveryState.FAILED
            and self.until is DeliveryState.WRITTEN
            and DeliveryState.WRITTEN in reached
            and not receipt.is_unconfirmed
        ):
            return DeliveryState.WRITTEN  # no receipt came before the close: none was required
        if receipt.is_detached:
            return receipt.state
        if self.until is DeliveryState.HANDLED or not receipt.has_reached(DeliveryState.ACCEPTED):
            receipt.raise_if_failed()
        return self.shown_state(receipt)

    def shown_state(self, receipt: Receipt) -> DeliveryState:
        """Return the state to show: never beyond `accepted`, unless --until is `handled`.

        Otherwise the result would depend on whether the application answers before the close.
        """
        is_beyond = receipt.is_final and receipt.has_reached(DeliveryState.ACCEPTED)
        if is_beyond and self.until is not DeliveryState.HANDLED:
            return DeliveryState.ACCEPTED
        return receipt.state

    def _text(self, receipt: Receipt, state: DeliveryState, what: str) -> str:
        who = self.label if self.address is None else f"{self.label} at {self.address}"
        if state is DeliveryState.PERSISTED:
            return f"{state}: {what} for {who} (in {escape(str(self.store.path))})"
        if not receipt.is_confirmed:
            why = UNCONFIRMED if receipt.is_unconfirmed else "no receipt came yet"
            return f"{state}: {what} to {who} ({why})"
        took = milliseconds(receipt, state)
        shown = "" if took is None else f", {took:.1f} ms"
        return f"{state}: {what} by {who}{shown} (signed receipt)"

    def emit(
        self, receipt: Receipt, state: DeliveryState, size: int, line: int | None = None
    ) -> None:
        """Print the result of a message as JSON.

        Args:
            receipt: The receipt of the message.
            state: The state to show.
            size: Bytes of the payload.
            line: Number of the line of standard input, from 1; `None`: the message is none.
        """
        fields: dict[str, object] = {} if line is None else {"line": line}
        if state is DeliveryState.PERSISTED:
            fields["detail"] = self.kept.last_error()
        if self.options.proof is not None:
            fields["proof"] = str(self.options.proof)
        emit(
            {
                **fields,
                "state": str(state),
                "is_confirmed": receipt.is_confirmed,
                "wire": wire_of(receipt),
                "store": None if self.store.path is None else str(self.store.path),
                "took_ms": milliseconds(receipt, state),
                "recipient": str(receipt.recipient),
                "address": None if self.address is None else str(self.address),
                "sender": str(self.node.did),
                "message_id": receipt.message_id,
                "size": size,
            }
        )
