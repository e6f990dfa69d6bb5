"""How `signedwire send` waits for one message: woken by events, with nothing looked at twice."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary

from signedwire.cli.errors import NotDone
from signedwire.cli.exit_codes import ExitCode
from signedwire.cli.news import News
from signedwire.delivery.receipt import Receipt
from signedwire.errors import FailureKind
from signedwire.sync import Node
from signedwire.types import DeliveryState, Did, PeerState

__all__ = ["Waits"]

_LINGER: Final = 0.1
"""Seconds in which a peer that refuses what we wrote has hung up."""
_GRACE: Final = 5.0
"""Seconds without a link after which nobody will tell any more that it was handled."""


class Waits:
    """The waits of one run, for messages to one peer.

    Args:
        timeout: Seconds for each message, from the first wait for it; `None`: no limit.
    """

    def __init__(self, node: Node, did: Did, news: News, timeout: float | None) -> None:
        self._node = node
        self._did = did
        self._news = news
        self._timeout = timeout
        # The wall clock may be set while somebody waits.
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
        """Wait until a message has come so far; `False`: an interruption came first.

        Args:
            is_kept: Whether it is enough that the message is in the store. It may raise.
            late: Makes the error for a message whose time has passed.
            is_interrupted: Whether something else is to be done first.
            descriptor: Where that may come from.

        Raises:
            DeliveryFailedError: the message will not come so far.
            NotDone: nor will anybody say so, or --timeout has passed.
        """
        first_wait = self._first_waits.setdefault(receipt, time.monotonic())
        with self._news.about(receipt):
            while True:
                with contextlib.suppress(TimeoutError):
                    receipt.result(until, 0)
                    return True
                receipt.raise_if_failed()  # an expired message is a TimeoutError too
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
                self._news.wait(min(limits, default=None), descriptor)

    def _grace_left(self, receipt: Receipt) -> float | None:
        """Seconds in which the link may come back over which a message is told to be handled.

        `None`: there is a link, or the message was not accepted yet.

        Raises:
            NotDone: nobody will tell any more.
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
            f"{self._did} accepted message #{receipt.sequence_number}, then its link ended, "
            "so it is not known whether it was handled",
            "The message is not lost there; ask its application",
            ExitCode.NO_ANSWER,
        )

    def check_hung_up(self, last: Receipt) -> None:
        """See whether a v1 peer broke the connection off right after a message.

        One that ends it in an orderly way has read what was sent; a v1 peer that
        ends itself does that. One that resets it has thrown bytes away.

        Raises:
            NotDone: it did, so it has most likely not taken the message.
        """
        until = time.monotonic() + _LINGER
        while last.is_unconfirmed:
            status = self._node.peers()[self._did]
            error_at, (state, at_us) = status.last_error_at, last.history[-1]
            # Put back into the queue, it is on its way again: that is not this case.
            is_after = error_at is not None and error_at * 1e6 >= at_us
            has_broken = is_after and status.last_error_kind is not FailureKind.CLOSED
            if state is DeliveryState.WRITTEN and has_broken:
                raise NotDone(
                    f"message #{last.sequence_number} was written, but then the "
                    f"{status.last_error}, so it was most likely not taken",
                    "Is a v1 peer listening there, and nothing else?",
                )
            left = until - time.monotonic()
            if left <= 0:
                return
            with self._news.about(last):
                self._news.wait(left)
