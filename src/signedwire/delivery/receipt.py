"""A receipt: the delivery state of one sent message.

    queued ─→ persisted ─→ written ─→ accepted ─→ handled
       │      (in a store)  ↖──┘ (the connection broke first)
       └─→ failed(reason), expired, or refused(reason) from any state

- `persisted`: the message is in the store of its node, and a crash does not lose it.
- `written`: the operating system has the message, on a connection that the peer had not
  closed.
- `accepted`: the peer has verified the message and will give it to its application,
  once. Its signed receipt says so, and `proof()` shows it to others.
- `handled`: the peer's application has acknowledged the message.

v1 peers never answer: a message to one ends at `written`, and `is_confirmed` stays
false. When a connection breaks, a message without a receipt goes back to `queued` and is
written again. With v1, that is a message that the peer's host has not acknowledged. The
states `handled`, `failed`, `expired` and `refused` are final. An accepted message may
still be handled, be refused or expire.

A confirmation by the store or the peer stays true. `wait("accepted")` returns for an
accepted message even if the peer's application has refused it since, so the order in
which the two answers are seen does not matter. `wait("handled")` raises then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Generator, Iterable
from typing import Any, Protocol

from signedwire.arguments import Until, as_seconds, chosen, shown
from signedwire.clock import monotonic
from signedwire.delivery.advice import NEEDS_STORE, NOT_DELIVERED, advice
from signedwire.errors import (
    ClosedError,
    DeliveryFailedError,
    FailureKind,
    MessageExpiredError,
    MessageRefusedError,
    kind_of,
)
from signedwire.home import Bound, running_loop
from signedwire.states import DeliveryState, Reason
from signedwire.states import Step as Step
from signedwire.types import Did, unix_time_us

__all__ = [
    "ProofSource",
    "Receipt",
    "Step",
    "advance_all",
    "transition_all",
    "queued_step",
    "future_waker",
    "state_to_wait_for",
]

# One lock for all receipts: waiting is rare, but receipts are many.
_ADDING = threading.Lock()
_RANK = {
    DeliveryState.QUEUED: 0,
    DeliveryState.PERSISTED: 1,
    DeliveryState.WRITTEN: 2,
    DeliveryState.ACCEPTED: 3,
    DeliveryState.HANDLED: 4,
}
_RANKED = {str(state): state for state in _RANK}
_STATES = tuple(DeliveryState)
_CODES = {state: code for code, state in enumerate(_STATES)}
# Maximum length of a history: the first three steps and the last ones are kept.
_MAX_STEPS = 16
_FIRST_STEPS = 3
_FAILED = frozenset({DeliveryState.FAILED, DeliveryState.EXPIRED, DeliveryState.REFUSED})
_FINAL = _FAILED | {DeliveryState.HANDLED}
_CONFIRMED = frozenset({DeliveryState.ACCEPTED, DeliveryState.HANDLED})
# States that stay true whatever follows. `written` does not: it is withdrawn if the link breaks
# before an answer.
_LASTING = frozenset({DeliveryState.QUEUED, DeliveryState.PERSISTED, DeliveryState.ACCEPTED})


class ProofSource(Protocol):
    """The signed receipt of a recipient for one or several messages."""

    def prove(self, receipt: Receipt) -> bytes:
        """Make the receipt proof for one of these messages."""


class Receipt(Bound, instead="pass its `state` and `reason`, or the bytes of `proof()`"):
    """The delivery state of one sent message, updated while the message is on its way.

    Any thread may read the attributes. Only the transport changes them.
    """

    __slots__ = (
        "__weakref__",
        "_changed",
        "_id",
        "_recipient",
        "_steps",
        "detail",
        "is_detached",
        "is_final",
        "is_unconfirmed",
        "reason",
        "state",
    )

    def __init__(
        self,
        recipient: Did,
        message_id: bytes,
        *,
        steps: tuple[int, ...] = (),
    ) -> None:
        self._recipient = recipient
        # (code, time, code, time, …): a flat tuple of numbers, which the garbage collector
        # does not visit. With a list of tuples it took half of the time of a burst.
        # Receipts that change together share one: see `queued_step()`, `transition_all()`.
        self._steps = steps or queued_step(unix_time_us())
        self._changed: list[Callable[[], None]] | None = None
        self._id = message_id
        self.state = DeliveryState.QUEUED
        """The present state of the message."""
        self.is_final = False
        """Whether the state can no longer change."""
        self.reason: Reason | None = None
        """Why the message failed, expired or was refused, or why an accepted message gets no
        further answer; `None` otherwise."""
        self.detail = ""
        """The last error on the way, or the text that came with a refusal, for people; may be
        empty. In the text of a peer, each character that is not printable is a "?"."""
        self.is_unconfirmed = False
        """Whether the message went to a v1 peer, which never answers."""
        self.is_detached = False
        """Whether the node was closed while the message waits in the store."""

    @property
    def recipient(self) -> Did:
        """The DID of the recipient."""
        return self._recipient

    @property
    def message_id(self) -> str:
        """The id of the message, which the recipient sees too: 32 hex digits, at random.

        Texts show the first 8.
        """
        return self._id.hex()

    @property
    def history(self) -> tuple[Step, ...]:
        """The states with the times at which they were reached, oldest first.

        At most 16 steps are kept: the first three, and the last ones.
        """
        steps = self._steps
        return tuple(Step(_STATES[steps[at]], steps[at + 1]) for at in range(0, len(steps), 2))

    @property
    def queued_at_us(self) -> int:
        """When the message was queued: Unix time, microseconds. The envelope carries it."""
        return self._steps[1]

    @property
    def is_confirmed(self) -> bool:
        """Whether the peer has confirmed that it has the message. Never true for v1 peers."""
        return self.state in _CONFIRMED

    @property
    def detail_kind(self) -> FailureKind | None:
        """The kind of `detail`, for programs; `None` where it has none. Any thread."""
        return kind_of(self.detail)

    def proof(self) -> bytes:
        """Return bytes that prove to anybody that the recipient accepted or refused this message.

        They prove the last of its answers: accepted, handled or refused. `verify_receipt()`
        and `signedwire verify` check them offline. Any thread may call.

        Raises:
            LookupError: there is no signed receipt yet; v1 peers never send one.
        """
        proof = self._make_proof()
        if proof is None:
            raise LookupError(
                f"message {self.message_id[:8]} to {self.recipient} is {self.state}: "
                "its recipient has signed no receipt"
            )
        return proof

    def _make_proof(self) -> bytes | None:
        """Return the receipt proof; `None` until the recipient has signed."""
        return None

    def has_reached(self, state: Until) -> bool:
        """Whether the message has reached `state`, or any state after it.

        `accepted` stays reached if the message was refused or expired since, and
        `persisted` if it failed since. A refused message has reached `written`. A message
        to a v1 peer ends at `written`, which counts as every further state. Any thread
        may call.

        Args:
            state: A `DeliveryState` or its text.

        Raises:
            ValueError, TypeError: there is no such state.
        """
        if type(state) is not DeliveryState:
            state = state_named(state)
        now = self.state  # read once: another thread may change it
        if now in _FAILED and state not in _FAILED:
            reached = [_RANK[step.state] for step in self.history if step.state in _LASTING]
            if now is DeliveryState.REFUSED:
                reached.append(_RANK[DeliveryState.WRITTEN])
            return max(reached) >= _RANK[state]
        if state in _FAILED:
            return now == state
        if self.is_unconfirmed and now is DeliveryState.WRITTEN:
            return True
        return _RANK[now] >= _RANK[state]

    def raise_if_failed(self) -> None:
        """Raise the error of a message that has failed; else do nothing.

        Raises:
            ClosedError: the node was closed; the message is still in the store.
            MessageExpiredError: the deadline passed first.
            MessageRefusedError: the peer refused the message; `reason` tells why.
            DeliveryFailedError: the message was given up; `reason` tells why.
        """
        if self.is_detached:
            raise ClosedError(
                f"the node was closed; message {self.message_id[:8]} to {self.recipient} is "
                "in its store",
                "It is sent when a node with that store runs again",
            )
        if self.state is DeliveryState.EXPIRED:
            raise MessageExpiredError(
                self,
                Reason.EXPIRED,
                f"message {self.message_id[:8]} to {self.recipient} expired before it "
                f"{self._what_came_too_late()}",
                self._hint(Reason.EXPIRED),
            )
        if self.state is DeliveryState.REFUSED:
            reason = self.reason or Reason.REFUSED
            raise MessageRefusedError(
                self,
                reason,
                f"{self.recipient} refused message {self.message_id[:8]}: {reason}"
                + self._detail_text()
                + NOT_DELIVERED * (reason is Reason.DUPLICATE),
                advice(None, reason) if reason is Reason.DUPLICATE else "",
            )
        if self.state is DeliveryState.FAILED:
            reason = self.reason or Reason.CLOSED
            raise DeliveryFailedError(
                self,
                reason,
                f"message {self.message_id[:8]} to {self.recipient} {self._fate()}: "
                f"{reason}{self._detail_text()}",
                self._hint(reason),
            )

    def __await__(self) -> Generator[Any, None, Receipt]:
        """Wait as `wait()` does: `receipt = await node.send_nowait(…)`."""
        return self.wait().__await__()

    async def wait(self, until: Until | None = None, timeout: float | None = None) -> Receipt:
        """Wait until the message has reached `until`, and return this receipt.

        `accepted` and `persisted` stay reached if the message was refused, expired or
        given up since, so that this agrees with `send()` in whatever order answers come.
        The wait ends with an answer, at the message's deadline, when the node is closed, or
        after `timeout`. Cancelling the wait does not cancel the message. Any event loop in
        any thread may wait; without an event loop, use `result()`.

        Args:
            until: The state: a `DeliveryState` or its text. The default is that of `send()`:
                "persisted" if the node has a store, else "accepted".
            timeout: Seconds, 0 or more; `None`, the default, sets no limit.

        Raises:
            WrongContextError: the node's event loop cannot run meanwhile, or no asyncio
                event loop runs here.
            ValueError, TypeError: there is no such state, the message never reaches it (see
                `send_many()`), or `timeout` is not a number of seconds.
            MessageRefusedError: the peer or its application has refused the message.
            DeliveryFailedError: the message was given up, or no further answer will come.
            MessageExpiredError: the deadline passed first.
            ClosedError: the node was closed first; the message is in the store or accepted.
            TimeoutError: `timeout` seconds passed first; the text has the state of the message.
        """
        loop = running_loop("receipt.wait()", "Call receipt.result() in a thread")
        until, timeout = self._state_named(until), as_seconds(timeout)
        try:
            async with asyncio.timeout(timeout):
                while not self.has_reached(until):
                    changed = loop.create_future()
                    wake = future_waker(loop, changed)
                    self.add_callback(wake)
                    try:
                        # Checked again after `add_callback()`, so that no change is missed.
                        if not self.has_reached(until):
                            self._raise_if_over(until)
                            await asyncio.wait({changed}, timeout=self._seconds_left())
                    finally:
                        self.remove_callback(wake)
        except TimeoutError as error:
            if isinstance(error, MessageExpiredError):
                raise
            raise self._still_on_its_way(timeout) from None
        return self

    def result(self, until: Until | None = None, timeout: float | None = None) -> Receipt:
        """Wait like `wait()`, but block the calling thread: for programs without asyncio.

        Takes the arguments of `wait()`, and raises its errors. Any thread may call this.
        Ctrl-C ends the wait; the message stays on its way.

        Raises:
            RuntimeError: called without a `timeout` in the thread of the node's event loop,
                where the call would block for ever.
        """
        timeout = as_seconds(timeout)
        until = self._state_named(until, is_blocking=timeout is None)
        deadline = None if timeout is None else monotonic() + timeout
        changed = threading.Event()
        self.add_callback(changed.set)
        try:
            while not self.has_reached(until):
                self._raise_if_over(until)
                left, pause = None, self._seconds_left()
                if deadline is not None:
                    left = max(0.0, deadline - monotonic())
                    pause = left if pause is None else min(left, pause)
                if pause is not None:
                    pause = min(pause, threading.TIMEOUT_MAX)
                if not changed.wait(pause) and pause == left and left is not None:
                    raise self._still_on_its_way(timeout)
                changed.clear()
        finally:
            self.remove_callback(changed.set)
        return self

    def add_callback(self, callback: Callable[[], None]) -> None:
        """Call a function after each change of this receipt, for programs with loops of their own.

        The function is called in the thread that changes the state, mostly that of the node's
        event loop, and must return at once. Its exceptions are logged. Any thread may add one.

        Args:
            callback: Takes no argument. A function that is added twice is called twice.
        """
        with _ADDING:
            if self._changed is None:
                self._changed = []
            self._changed.append(callback)

    def remove_callback(self, callback: Callable[[], None]) -> None:
        """Undo one `add_callback()`. A call that has begun goes on. Any thread may call.

        Raises:
            ValueError: the function was not added.
        """
        with _ADDING:
            if self._changed is None:
                raise ValueError("this callback was not added")
            self._changed.remove(callback)

    def _wake(self) -> None:
        for callback in tuple(self._changed or ()):
            try:
                callback()
            except Exception:  # the application's bug must not stop other messages
                logging.getLogger("signedwire").exception("a callback of a receipt failed")

    def _state_named(self, until: Until | None, *, is_blocking: bool = False) -> DeliveryState:
        """Return the state to wait for.

        Raises:
            ValueError, TypeError: there is no such state, or the wait would never end.
        """
        default = default_wait_state(has_store=self._has_store)
        state = default if until is None else state_named(until)
        self._check_followed(state, is_blocking=is_blocking)
        return state

    @property
    def _has_store(self) -> bool:
        """Whether the node has a store."""
        return False

    def _raise_if_over(self, until: DeliveryState) -> None:
        """Raise if the message will never reach `until`."""
        self.raise_if_failed()
        if self.is_final:
            raise ValueError(
                f"message {self.message_id[:8]} to {self.recipient} is {self.state}, "
                f"and so is never {until}"
            )
        if self.state is not DeliveryState.ACCEPTED:
            return
        name = f"message {self.message_id[:8]} to {self.recipient} was accepted"
        if self.reason is Reason.CLOSED:
            raise ClosedError(f"{name}, but {self.detail}", "Ask its peer whether it was handled")
        if self.reason is not None:
            raise DeliveryFailedError(self, self.reason, f"{name}, but {self.detail}")
        left = self._seconds_left()
        if left is not None and left <= 0:
            raise MessageExpiredError(
                self,
                Reason.EXPIRED,
                f"{name}, but its application did not acknowledge it before the deadline",
                "The application may have taken it in time and still work on it: a later answer "
                "still changes this receipt",
            )

    def _seconds_left(self) -> float | None:
        """Return the seconds until the deadline of an accepted message; `None`: nothing to watch.

        Only waits watch this deadline. The result is 0 to 1 s, because the clock may be set or
        the machine suspended meanwhile.
        """
        return None

    def _check_followed(self, until: DeliveryState, *, is_blocking: bool = False) -> None:
        """Raise if a wait for `until` would never end."""

    def _still_on_its_way(self, timeout: float | None) -> TimeoutError:
        return TimeoutError(
            f"message {self.message_id[:8]} to {self.recipient} is still "
            f"{self.state} after {timeout} s"
        )

    def _what_came_too_late(self) -> str:
        # A message that was written in time may have arrived or been taken too late.
        if self.detail_kind is FailureKind.UNANSWERED:
            return f"was answered; {self.detail}"
        if self._was_written:
            return f"was taken there{self._detail_text()}; it was not delivered"
        return f"could be written{self._detail_text()}; it will not be sent"

    @property
    def _was_written(self) -> bool:
        return any(step.state is DeliveryState.WRITTEN for step in self.history)

    def _fate(self) -> str:
        if self._was_written and not self.is_confirmed:
            return "was written, but no answer came, so the peer may have it; it was given up"
        return "was not delivered"

    def _hint(self, reason: Reason) -> str:
        return advice(self.detail_kind, reason)

    def _detail_text(self) -> str:
        return f" ({self.detail})" if self.detail else ""

    def __repr__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        return f"<Receipt {self.message_id[:8]} to {self.recipient.short} {self.state}{reason}>"


def state_to_wait_for(until: Until | None, *, has_store: bool) -> DeliveryState:
    """Return the state that `send()` waits for; for `None`, the default.

    Raises:
        ValueError, TypeError: `until` is not a state that a wait can end with.
        ValueError: `until` is "persisted", and the node has no store.
    """
    if until is None:
        return default_wait_state(has_store=has_store)
    # A look-up first: `state_named()` takes up to 1 µs longer.
    named = _RANKED.get(until) if type(until) is str else None
    state = named or state_named(until, _RANK)
    if state is DeliveryState.PERSISTED and not has_store:
        raise ValueError(NEEDS_STORE)
    return state


def default_wait_state(*, has_store: bool) -> DeliveryState:
    """Return the default state for which `send()`, `wait()` and `result()` wait."""
    return DeliveryState.PERSISTED if has_store else DeliveryState.ACCEPTED


def state_named(until: Until, among: Iterable[DeliveryState] | None = None) -> DeliveryState:
    """Return the state that `until` is or names.

    Raises:
        ValueError, TypeError: there is no such state; see `chosen()`.
    """
    try:
        return chosen(DeliveryState, until, "until", among)
    except TypeError as error:
        if isinstance(until, (int, float)):
            raise TypeError(f"{error}. Seconds are given by name: timeout={shown(until)}") from None
        raise


def queued_step(at_us: int) -> tuple[int, ...]:
    """Return the history of a receipt that is queued now; receipts made together share it."""
    return 0, at_us


def transition_all(receipts: Iterable[Receipt], state: DeliveryState, at_us: int) -> None:
    """Set a state that needs no reason, at a tenth of the cost of `advance()`.

    Receipts that have reached the state, or are final, do not change. Receipts of one
    batch mostly share one history, which is made and checked once for all of them. That
    saves 0.5 µs per receipt, and a third of the garbage collector's work.
    """
    before: tuple[int, ...] | None = None
    after: tuple[int, ...] = ()
    rank = _RANK[state]
    for receipt in receipts:
        if receipt._steps is not before:
            if _RANK.get(receipt.state, rank) >= rank:
                continue
            before = receipt._steps
            after = _shortened((*before, _CODES[state], at_us))
        receipt._steps = after
        receipt.state = state
        if receipt._changed is not None:
            receipt._wake()


def advance_all(
    receipts: Iterable[Receipt],
    state: DeliveryState,
    reason: Reason | None = None,
    detail: str = "",
) -> None:
    """Set one state in receipts, none of which is final.

    Receipts of one batch mostly share one history, as in `transition_all()`.
    """
    at_us, is_final = unix_time_us(), state in _FINAL
    before: tuple[int, ...] | None = None
    after: tuple[int, ...] = ()
    for receipt in receipts:
        if receipt._steps is not before:
            before = receipt._steps
            after = _shortened((*before, _CODES[state], at_us))
        receipt.reason, receipt.detail = reason, detail
        receipt._steps = after
        receipt.is_final = is_final
        # The state is set last: a thread that sees it also sees the other attributes.
        receipt.state = state
        receipt._wake()


def _shortened(steps: tuple[int, ...]) -> tuple[int, ...]:
    """Return a history cut to 16 steps; a peer that keeps breaking links lengthens it."""
    if len(steps) <= 2 * _MAX_STEPS:
        return steps
    return steps[: 2 * _FIRST_STEPS] + steps[-2 * (_MAX_STEPS - _FIRST_STEPS) :]


def future_waker(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]
) -> Callable[[], None]:
    """Return a function that resolves `future` in its loop; any thread may call it often."""

    def resolve() -> None:
        if not future.done():
            future.set_result(None)

    def wake() -> None:
        # The transport may run in the loop of another thread. A closed loop has no waiter, and
        # its error must not keep the caller from waking others.
        if asyncio._get_running_loop() is loop:  # the usual case, which saves two system calls
            resolve()
            return
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(resolve)

    return wake
