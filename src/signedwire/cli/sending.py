"""`signedwire send`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from signedwire.cli.errors import (
    About,
    BadInput,
    NotDone,
    hint_about,
)
from signedwire.cli.exit_codes import ExitCode
from signedwire.cli.news import News
from signedwire.cli.output import emit, escape, result, say, standard_input
from signedwire.cli.reaching import allow_v1, find_route, forbid_v1, is_v1_allowed, no_address
from signedwire.cli.render import count_of
from signedwire.cli.send_fate import (
    HOW_IT_GOES,
    MOST_UNCONFIRMED,
    NO_ADDRESS,
    UNCONFIRMED,
    at_line,
    milliseconds,
    too_long_for_v1,
    wire_of,
)
from signedwire.cli.send_options import Save, check_usage, proof_file
from signedwire.cli.send_waits import Waits
from signedwire.cli.storing import WITHOUT, Chosen, choose, open_or_do_without, turn_of
from signedwire.cli.wrapping import Wrap, given_payload, wrapper
from signedwire.config import TransportConfig
from signedwire.delivery.receipt import Receipt
from signedwire.errors import (
    BackpressureError,
    DeliveryError,
    DeliveryFailedError,
    FailureKind,
    StoreFullError,
)
from signedwire.identity import Identity
from signedwire.routing import RoutingTable
from signedwire.sync import Node
from signedwire.types import DeliveryState, Did, PeerState, Reason, Target

if TYPE_CHECKING:
    from signedwire.cli.surface import Send

__all__ = ["send"]

_CHUNK: Final = 64 * 1024
_LEAST_TIMEOUT: Final = 0.05
"""Seconds that are left of --timeout at least when the turn of the key has come."""


def send(options: Send) -> int:
    """Send one message, or the lines of standard input."""
    kind = check_usage(options)
    config = options.load_config().replace(listen=None, evidence=None)
    did, address = find_route(options.to, options, config.fallback)
    if address is None and options.no_store:
        raise no_address(did, options)
    if options.v1 or kind is not None:
        config = allow_v1(config, did)
    identity = options.load_identity()
    store = choose(options, identity.did)
    if store.path is None and options.until is DeliveryState.PERSISTED:
        raise BadInput("--until persisted needs a store", "Leave --no-store away")
    if address is None and store.path is None:
        raise no_address(did, options)
    with turn_of(identity.did, options.timeout) as turn:
        if options.timeout is not None and turn.waited > _LEAST_TIMEOUT:
            left = max(_LEAST_TIMEOUT, round(options.timeout - turn.waited, 2))
            options = dataclasses.replace(options, timeout=left)
        return _send(options, identity, config, did, address, store)


def _send(
    options: Send,
    identity: Identity,
    config: TransportConfig,
    did: Did,
    address: Target | None,
    store: Chosen,
) -> int:
    wrap, routing = (
        wrapper(options, identity.did),
        RoutingTable({} if address is None else {did: address}),
    )

    def make(path: Path | None) -> Node:
        return Node(identity, config.replace(store=path), routing)

    if options.text == "-":
        node, store = open_or_do_without(store, make)
        return _Sending(options, node, did, address, store).send_lines(wrap)
    payload = wrap(given_payload(options))
    is_too_long = is_v1_allowed(config, did) and len(payload) > config.max_v1_payload_size
    # Live v1 peers drop such a thing without a word, so it goes out over v2 or not at all.
    if is_too_long:
        config, store = forbid_v1(config), WITHOUT
    try:
        with proof_file(options.proof) as save:
            node, store = open_or_do_without(store, make)
            return _Sending(options, node, did, address, store).send_one(payload, save)
    except DeliveryFailedError as error:
        has_hung_up = error.receipt.detail_kind is FailureKind.HUNG_UP_ON_TLS
        if is_too_long and address is not None and has_hung_up:
            raise too_long_for_v1(len(payload), config, address) from None
        raise


# -- how --------------------------------------------------------------------------


class _Sending:
    """One run of `signedwire send`."""

    def __init__(
        self, options: Send, node: Node, did: Did, address: Target | None, store: Chosen
    ) -> None:
        self._options = options
        self._node = node
        self._did = did
        self._address = address
        self._store = store
        self._until = options.until or DeliveryState.ACCEPTED
        if store.path is not None and self._until is DeliveryState.QUEUED:
            self._until = DeliveryState.PERSISTED  # it is as soon as it is queued
        self._failed_before = 0
        self._kept: list[Receipt] = []  # in the store, as the peer is away
        self._is_v1_allowed = is_v1_allowed(node.config, did)
        self._wire: str | None = "v1" if node.config.wire == "v1" else None
        self._pending: deque[tuple[int, Receipt, int]] = deque()  # line, receipt, size
        # Lines to a v1 peer, which go back into the store where its host has not had them.
        self._written: deque[Receipt] = deque(maxlen=MOST_UNCONFIRMED)
        self._last: Receipt | None = None
        self._lines = 0
        self._input = -1
        self._waits: Waits

    # -- one message ------------------------------------------------------------

    def send_one(self, payload: bytes, save: Save) -> int:
        with News(self._node) as news, self._node:
            self._waits = Waits(self._node, self._did, news, self._options.timeout)
            receipt = self._submit(payload)
            try:
                self._wait(receipt)
            except DeliveryFailedError as error:
                raise self._denial(error) or error from None
            self._waits.check_hung_up(receipt)
        # After the close, which gives up what had not left.
        try:
            state = self._final_state(receipt)
        except DeliveryFailedError as error:
            raise self._denial(error) or error from None
        save(receipt)
        proof = "" if self._options.proof is None else f"; its proof is in {self._options.proof}"
        with self._saying_fate(f"message #{receipt.sequence_number} is {state}{proof}"):
            if self._options.json:
                self._emit(receipt, state, len(payload), None)
            else:
                result(self._text(receipt, state, count_of(len(payload), "byte")))
                self._tell_kept()
        # One to a v1 peer may have been written, and be back in the store since.
        is_enough = state is not DeliveryState.PERSISTED or state is self._until
        return ExitCode.DONE if is_enough else ExitCode.STORED

    @contextlib.contextmanager
    def _saying_fate(self, fate: str) -> Iterator[None]:
        """Where a result cannot be printed, the error says what became of the message."""
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            raise NotDone(
                f"standard output cannot be written ({error.strerror}); {fate}",
                "Do not send it again",
                ExitCode.SYSTEM,
            ) from None

    def _denial(self, error: DeliveryError | NotDone) -> NotDone | None:
        """The error for a message that failed because the peer's access list keeps us out."""
        status = self._node.peers().get(self._did)
        is_exhausted = (
            isinstance(error, DeliveryFailedError) and error.reason is Reason.ATTEMPTS_EXHAUSTED
        )
        if status is None or not status.denies_us or not is_exhausted:
            return None
        return NotDone(
            error.fact,
            f"It may have an access list: ask its owner to let {self._node.did} in",
            ExitCode.DENIED,
            cause=error,
        )

    def _final_state(self, receipt: Receipt) -> DeliveryState:
        """Where the message is at last; a receipt that came unasked for counts.

        Raises:
            DeliveryFailedError: it did not get as far as was asked for.
        """
        has_been = {step.state for step in receipt.history}
        if (
            receipt.state is DeliveryState.FAILED
            and self._until is DeliveryState.WRITTEN
            and DeliveryState.WRITTEN in has_been
            and not receipt.is_unconfirmed
        ):
            return DeliveryState.WRITTEN  # no receipt came before the close: none was asked for
        if receipt.is_detached:
            return receipt.state
        if self._until is DeliveryState.HANDLED or not receipt.has_reached(DeliveryState.ACCEPTED):
            receipt.raise_if_failed()
        return self._shown(receipt)

    def _shown(self, receipt: Receipt) -> DeliveryState:
        """The state, but what comes behind `accepted` only where that was asked for, and so
        never by chance.
        """
        is_beyond = receipt.is_final and receipt.has_reached(DeliveryState.ACCEPTED)
        if is_beyond and self._until is not DeliveryState.HANDLED:
            return DeliveryState.ACCEPTED
        return receipt.state

    def _text(self, receipt: Receipt, state: DeliveryState, what: str) -> str:
        who = self._did.short if self._address is None else f"{self._did.short} at {self._address}"
        if state is DeliveryState.PERSISTED:
            return f"{state}: {what} for {who} (in {escape(str(self._store.path))})"
        if not receipt.is_confirmed:
            why = UNCONFIRMED if receipt.is_unconfirmed else "no receipt came yet"
            return f"{state}: {what} to {who} ({why})"
        took = milliseconds(receipt, state)
        shown = "" if took is None else f", {took:.1f} ms"
        return f"{state}: {what} by {who}{shown} (signed receipt)"

    # -- lines ------------------------------------------------------------------

    def send_lines(self, wrap: Wrap) -> int:
        """Read what there is and queue it; wait for answers while there is no more."""
        try:
            with News(self._node) as news, self._node:
                self._waits = Waits(self._node, self._did, news, self._options.timeout)
                for chunk in self._read_lines():
                    for line in chunk:
                        self._queue(wrap, line)
                    self._settle(are_more_to_come=True)
                self._settle()
                if self._last is None:
                    say("nothing to send: no line came on standard input")
                else:
                    self._waits.check_hung_up(self._last)
        finally:
            # After the close, in which more may have been answered or given up.
            failed = self._node.stats().send_failures
            behind = [each for _, each, _ in self._pending if not self._has_come(each)]
            failed += sum(not each.is_final and not each.is_detached for each in behind)
            self._kept += [each for each in (*behind, *self._written) if each.is_detached]
            kept = sum(not self._has_come(each) for each in self._kept)
            come = max(0, self._lines - failed - kept)
            if not self._options.json:
                self._tell_lines(come, kept)
        if failed:
            raise NotDone(
                f"{failed} of {self._lines} lines were not delivered: the connection to "
                f"{self._address} broke, and they did not get through after that",
                "Send the last lines again",
                ExitCode.UNREACHED,
                About(self._did, detail=self._last_error()),
            )
        return ExitCode.STORED if kept else ExitCode.DONE

    def _tell_lines(self, come: int, kept: int) -> None:
        if come:
            result(self._lines_text(come))
        if kept:
            path = escape(str(self._store.path))
            result(f"persisted: {count_of(kept, 'line')} for {self._did.short} (in {path})")
            self._tell_kept()

    def _lines_text(self, come: int) -> str:
        lines = count_of(come, "line")
        if self._last is not None and self._last.is_unconfirmed:
            return f"written: {lines} to {self._did.short} ({UNCONFIRMED})"
        if self._until in (DeliveryState.ACCEPTED, DeliveryState.HANDLED):
            return f"{self._until}: {lines} by {self._did.short} (signed receipts)"
        return f"{self._until}: {lines} to {self._did.short}"

    def _read_lines(self) -> Iterator[list[bytes]]:
        """Lists of whole lines, each as soon as it is there; the last may lack its end."""
        # The descriptor itself: it gives what there is, where a buffered file waits for more.
        self._input = standard_input().fileno()
        rest = bytearray()  # grows in place: a long line is not copied for each piece of it
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

    def _limit(self) -> int:
        """How long a payload may be: over v1 while that may be what the peer speaks."""
        config = self._node.config
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
            receipt = self._submit(payload)
        except DeliveryError as error:
            self._settle()
            raise at_line(number, error) from None
        self._lines, self._last = number, receipt
        self._pending.append((number, receipt, len(payload)))
        if self._wire is None and self._is_v1_allowed:
            self._settle(DeliveryState.WRITTEN)
            if receipt.has_reached(DeliveryState.WRITTEN):
                self._wire = "v1" if receipt.is_unconfirmed else "v2"

    def _submit(self, payload: bytes) -> Receipt:
        """Queue a message, as soon as there is room for it."""
        while True:
            try:
                return self._node.send_nowait(
                    self._did,
                    payload,
                    priority=self._options.priority,
                    payload_type=self._options.payload_type,
                    deadline=self._options.deadline,
                )
            except StoreFullError:
                raise
            except BackpressureError:
                self._settle_first()

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

    # -- waiting ----------------------------------------------------------------

    def _settle(
        self, until: DeliveryState | None = None, *, are_more_to_come: bool = False
    ) -> None:
        """Wait until all that was queued has come as far as asked for, or there is more to read.

        With `until`, all have come so far, and none is done with.
        """
        if until is not None:
            for number, receipt, _ in self._pending:
                self._wait_for_line(number, receipt, until)
            return
        while self._pending:
            if not self._settle_first(is_patient=not are_more_to_come):
                return

    def _settle_first(self, *, is_patient: bool = True) -> bool:
        """Wait for the oldest; `False`: it is impatient, and there is more to read first."""
        number, receipt, size = self._pending[0]
        if not self._wait_for_line(number, receipt, self._until, is_patient=is_patient):
            return False
        self._pending.popleft()
        if receipt.is_unconfirmed:
            self._written.append(receipt)
        if self._options.json:
            with self._saying_fate(f"line {number} is {self._shown(receipt)}"):
                self._emit(receipt, self._shown(receipt), size, number)
        return True

    def _wait_for_line(
        self, number: int, receipt: Receipt, until: DeliveryState, *, is_patient: bool = True
    ) -> bool:
        try:
            return self._wait(receipt, until, is_patient=is_patient)
        except (DeliveryError, NotDone) as error:
            raise at_line(number, self._denial(error) or error) from None

    def _has_input(self) -> bool:
        # Elsewhere select() knows sockets only: there the answers are waited for first.
        return os.name == "posix" and bool(select.select([self._input], [], [], 0)[0])

    def _has_come(self, receipt: Receipt) -> bool:
        return receipt.has_reached(self._until)

    def _wait(
        self, receipt: Receipt, until: DeliveryState | None = None, *, is_patient: bool = True
    ) -> bool:
        """Wait until a message has come so far; `False`: it is impatient, and input came first.

        Raises:
            DeliveryFailedError: it will not.
            NotDone: nor will anybody say so, or --timeout has passed.
        """
        until = until or self._until
        return self._waits.wait(
            receipt,
            until,
            is_kept=lambda: self._is_kept(receipt, until),
            late=lambda timeout: self._late(receipt, until, timeout),
            is_interrupted=None if is_patient else self._has_input,
            descriptor=None if is_patient or os.name != "posix" else self._input,
        )

    def _is_kept(self, receipt: Receipt, until: DeliveryState) -> bool:
        """Whether all that can be done now for a message is to keep it: its peer is away.

        Raises:
            NotDone: that is not enough, or it is not for being away that it fails.
        """
        if self._address is None:
            return self._is_kept_for_later(receipt, until)
        status = self._node.peers()[self._did]
        if status.state is PeerState.CONNECTED:
            self._failed_before = status.failed_attempts
        failed = status.failed_attempts - self._failed_before
        if receipt.state is not DeliveryState.PERSISTED or failed < self._node.config.max_attempts:
            return False
        why = status.last_error or ""
        hint = hint_about(status.last_error_kind)
        if status.denies_us:
            fact = f"as the peer does not let us in ({why})"
            hint = f"Ask its owner to let {self._node.did} in: it is sent when that is so"
            raise self._only_stored(receipt, until, fact, hint)
        if hint or self._options.until is not None or self._options.proof is not None:
            fact = f"as the peer was not reached ({why})"
            raise self._only_stored(receipt, until, fact, hint or "It is sent when it can be")
        self._keep(receipt)
        return True

    def _is_kept_for_later(self, receipt: Receipt, until: DeliveryState) -> bool:
        """The same for a peer of which no address is known."""
        if receipt.state is not DeliveryState.PERSISTED:
            return False
        if self._options.until is not None or self._options.proof is not None:
            raise self._only_stored(receipt, until, f"as {NO_ADDRESS}", HOW_IT_GOES)
        self._keep(receipt)
        return True

    def _keep(self, receipt: Receipt) -> None:
        if receipt not in self._kept:
            self._kept.append(receipt)

    def _only_stored(self, receipt: Receipt, until: DeliveryState, why: str, hint: str) -> NotDone:
        """The error for a message that is stored, where more was asked for."""
        return NotDone(
            f"message #{receipt.sequence_number} to {self._did} is not {until} but "
            f"{receipt.state}, {why}",
            f"{hint}. {self._store.what_waits}",
            ExitCode.STORED,
            self._about(receipt),
        )

    def _late(self, receipt: Receipt, until: DeliveryState, timeout: float) -> NotDone:
        fact = (
            f"message #{receipt.sequence_number} to {self._did} is {receipt.state} "
            f"after {timeout:g} s, and not yet {until}"
        )
        about = self._about(receipt)
        if about.store is not None:
            hint = f"It stays in the store and is sent later. {self._store.what_waits}"
            return NotDone(fact, hint, ExitCode.STORED, about)
        hint = "Give it a longer --timeout, or run `signedwire ping DID@host:port`"
        return NotDone(fact, hint, ExitCode.NO_ANSWER, about)

    def _about(self, receipt: Receipt) -> About:
        """What a program is told of a message: in the store it is until the peer answers."""
        is_answered = receipt.is_final or receipt.has_reached(DeliveryState.ACCEPTED)
        store = None if is_answered or self._store.path is None else str(self._store.path)
        return About(
            self._did,
            receipt.reason,
            self._last_error(),
            receipt.state,
            store,
        )

    def _last_error(self) -> str | None:
        """Why the peer has not been reached; of one without an address: that."""
        if self._address is None:
            return NO_ADDRESS
        return self._node.peers()[self._did].last_error or None

    def _tell_kept(self) -> None:
        """Say what becomes of what was kept."""
        if not any(each.state is DeliveryState.PERSISTED for each in self._kept):
            return
        if self._address is None:
            say(f"{NO_ADDRESS}. {HOW_IT_GOES}. {self._store.what_waits}")
            return
        why = escape(self._last_error() or "it is away")
        say(
            f"the peer was not reached ({why}); it is sent when `signedwire send` to this peer, or "
            f"`signedwire listen --peers FILE`, runs next. {self._store.what_waits}"
        )

    # -- telling ----------------------------------------------------------------

    def _emit(self, receipt: Receipt, state: DeliveryState, size: int, line: int | None) -> None:
        fields: dict[str, object] = {} if line is None else {"line": line}
        if state is DeliveryState.PERSISTED:
            fields["detail"] = self._last_error()
        if self._options.proof is not None:
            fields["proof"] = str(self._options.proof)
        emit(
            {
                **fields,
                "state": str(state),
                "is_confirmed": receipt.is_confirmed,
                "wire": wire_of(receipt),
                "store": None if self._store.path is None else str(self._store.path),
                "took_ms": milliseconds(receipt, state),
                "recipient": str(receipt.recipient),
                "address": None if self._address is None else str(self._address),
                "sender": str(self._node.did),
                "sequence_number": receipt.sequence_number,
                "size": size,
            }
        )
