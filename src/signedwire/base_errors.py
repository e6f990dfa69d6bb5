"""The root of all errors, and the errors of the basic types.

`signedwire.errors` has the whole tree, these included: import them from there. They stand
apart because `types` raises them, while other errors carry a `Did` or an `Address`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol, SupportsBytes

from signedwire.states import DeliveryState, FailureKind, Reason, Step, Until

__all__ = ["AddressError", "DidError", "ReceiptView", "SignedWireError"]


class ReceiptView(Protocol):
    """The part of a `signedwire.Receipt` that an error shows; see there for the meanings.

    The receipt of an error is always a `signedwire.Receipt`.
    """

    @property
    def recipient(self) -> SupportsBytes:
        """The DID of the recipient."""

    @property
    def message_id(self) -> str:
        """The id of the message: 32 hex digits."""

    @property
    def state(self) -> DeliveryState:
        """The present state of the message."""

    @property
    def reason(self) -> Reason | None:
        """Why the message failed, expired or was refused; `None` otherwise."""

    @property
    def detail(self) -> str:
        """The last error on the way, as text for people; may be empty."""

    @property
    def detail_kind(self) -> FailureKind | None:
        """The kind of `detail`, for programs; `None` where it has none."""

    @property
    def history(self) -> tuple[Step, ...]:
        """The states with the times at which they were reached, oldest first."""

    @property
    def is_final(self) -> bool:
        """Whether the state can no longer change."""

    @property
    def is_confirmed(self) -> bool:
        """Whether the peer has confirmed that it has the message."""

    @property
    def is_unconfirmed(self) -> bool:
        """Whether the message went to a v1 peer, which never answers."""

    @property
    def is_detached(self) -> bool:
        """Whether the node was closed while the message waits in the store."""

    def has_reached(self, state: Until) -> bool:
        """Whether the message has reached `state`, or any state after it."""

    def proof(self) -> bytes:
        """Return bytes that prove to anybody that the recipient accepted this message."""

    async def wait(self, until: Until | None = None, timeout: float | None = None) -> ReceiptView:
        """Wait until the message has reached `until`."""

    def result(self, until: Until | None = None, timeout: float | None = None) -> ReceiptView:
        """Wait like `wait()`, but block the calling thread."""

    def add_callback(self, callback: Callable[[], None]) -> None:
        """Call a function each time that the receipt changes."""

    def remove_callback(self, callback: Callable[[], None]) -> None:
        """Undo one `add_callback()`."""


class SignedWireError(Exception):
    """Root of all errors of this package.

    `fact` tells what failed. `hint` is one sentence on what to do now; it may be empty.
    `str()` returns both together. `receipts` has the receipts of all queued messages of a
    `send_many()` that failed; else it is empty. An error can be pickled, as a pool of
    processes does, but without `receipts` and `receipt`.
    """

    receipts: tuple[ReceiptView, ...] = ()

    def __init__(self, fact: str, hint: str = "") -> None:
        super().__init__(fact, hint)
        self.fact = fact
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.fact}. {self.hint}" if self.hint else self.fact

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would call the constructor with `args`, which are other arguments.
        state = {name: value for name, value in vars(self).items() if name not in _BOUND}
        return _rebuild, (type(self),), state

    def __setstate__(self, state: dict[str, Any] | None) -> None:
        state = state or {}
        SignedWireError.__init__(self, state.get("fact", ""), state.get("hint", ""))
        vars(self).update(state)


_BOUND: Final = frozenset({"receipt", "receipts"})
"""Attributes that belong to a node."""


def _rebuild(kind: type[SignedWireError]) -> SignedWireError:
    return kind.__new__(kind)


class DidError(SignedWireError, ValueError):
    """Text or bytes that are not a usable DID."""


class AddressError(SignedWireError, ValueError):
    """Text that is not a `host:port` address."""
