"""Waits of `signedwire send` for receipts. Events end them; nothing is polled."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary

from signedwire.cli.errors import NotDone
from signedwire.cli.exit_codes import ExitCode
from signedwire.cli.wakeups import Wakeups
from signedwire.delivery.receipt import Receipt
from signedwire.errors import FailureKind
from signedwire.sync import Node
from signedwire.types import DeliveryState, Did, PeerState

__all__ = ["ReceiptWaits"]

_LINGER: Final = 0.1
"""Seconds within which a peer that refuses our bytes has reset the connection."""
_GRACE: Final = 5.0
"""Seconds without a link after which no answer of the peer's application is expected."""


class ReceiptWaits:
    """The waits of one run, for messages to one peer.

    Args:
        node: The node that sends.
        did: The peer.
        wakeups: Wakes this thread on events of the node.
        timeout: Seconds for each message, from the first wait for it; `None`: no limit.
    """

    def __init__(self, node: Node, did: Did, wakeups: Wakeups, timeout: float | None) -> None:
        self._node = node
        self._did = did
        self._wakeups = wakeups
        self._timeout = timeout
        # By the monotonic clock, because the wall clock may be set during a wait.
        self._first_waits: WeakKeyDictionary[Receipt, float] = WeakKeyDictionary()

    def wait(
        self,
        receipt: Receipt,
        until: DeliveryState,
        *,
        is_kept: Callable[[], bool],
        late: Callable[[float], NotDone],
        is_interrupted: Callable[[], bool] | None = None,
        descriptor: int | None = None,
    ) -> bool:
        """Wait until a message has reached a state; `False`: an interruption came first.

        Args:
            receipt: The receipt of the message.
            until: The state.
            is_kept: Whether it is enough that the message is in the store. May raise.
            late: Makes the error for a message that is not there after --timeout.
            is_interrupted: Whether the caller has something else to do first.
            descriptor: A file descriptor that can be read when `is_interrupted` turns true.

        Raises:
            DeliveryFailedError: the message will not reach the state.
            NotDone: no answer will come any more, or --timeout has passed.
        """
        first_wait = self._first_waits.setdefault(receipt, time.monotonic())
        with self._wakeups.watching(receipt):
            while True:
                with contextlib.suppress(TimeoutError):
                    receipt.result(until, 0)
                    return True
                receipt.raise_if_failed()  # the error of an expired message is a TimeoutError too
                if is_kept():
                    return True
                pauses = [receipt._seconds_left(), self._grace_left(receipt)]
                if self._timeout is not None:
                    left = first_wait + self._timeout - time.monotonic()
                    if left <= 0:
                        raise late(self._timeout)
                    pauses.append(left)
                if is_interrupted is not None and is_interrupted():
                    return False
                limits = [each for each in pauses if each is not None]
                self._wakeups.wait(min(limits, default=None), descriptor)

    def _grace_left(self, receipt: Receipt) -> float | None:
        """Return the seconds for which to wait for a new link, over which the answer can come.

        `None`: there is a link, or the message was not accepted yet.

        Raises:
            NotDone: the time is over.
        """
        if receipt.state is not DeliveryState.ACCEPTED:
            return None
        status = self._node.peers()[self._did]
        if status.state is PeerState.CONNECTED:
            return None
        left = status.since + _GRACE - time.time()
        if left > 0:
            return left
        raise NotDone(
            f"{self._did} accepted message {receipt.message_id[:8]}, then its link ended, "
            "so it is not known whether it was handled",
            "The message is not lost there; ask its application",
            ExitCode.NO_ANSWER,
        )

    def check_hung_up(self, last: Receipt) -> None:
        """Raise if a v1 peer reset the connection right after the last message.

        A v1 peer that closes the connection in an orderly way has read all bytes. A peer
        that resets it has thrown bytes away.

        Raises:
            NotDone: the connection was reset, so the message was most likely not taken.
        """
        until = time.monotonic() + _LINGER
        while last.is_unconfirmed:
            status = self._node.peers()[self._did]
            error_at, (state, at_us) = status.last_error_at, last.history[-1]
            # A message that is queued again is on its way again, and so does not count.
            is_after = error_at is not None and error_at * 1e6 >= at_us
            has_broken = is_after and status.last_error_kind is not FailureKind.CLOSED
            if state is DeliveryState.WRITTEN and has_broken:
                raise NotDone(
                    f"message {last.message_id[:8]} was written, but then the "
                    f"{status.last_error}, so it was most likely not taken",
                    "Is a v1 peer listening there, and nothing else?",
                )
            left = until - time.monotonic()
            if left <= 0:
                return
            with self._wakeups.watching(last):
                self._wakeups.wait(left)
