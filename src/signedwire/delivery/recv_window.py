"""The credit of one peer at its receiver: how much it may send before the application takes more.

    credit = window
             - messages that wait in the inbox
             - messages that are not new, until their batch is committed
             - granted_unused of each link

All links of a peer share one window, so links that overlap cannot add up to more. Critical has a
window of its own.
"""

from __future__ import annotations

from typing import Final

from signedwire.config import TransportConfig
from signedwire.delivery.inbox_budget import BudgetUser, InboxBudget
from signedwire.delivery.message import IncomingMessage
from signedwire.delivery.ports import LinkPort
from signedwire.types import Credit, Priority
from signedwire.wire.header import MAX_V2_HEADER_SIZE

__all__ = ["RecvWindow"]

_CRITICAL: Final = int(Priority.CRITICAL)


class RecvWindow:
    """Counts what uses the credit of one peer. For the event loop alone.

    Args:
        config: `credit_messages`, `credit_bytes` and `critical_reserve` are the window.
        budget: Bytes that all peers share.
    """

    __slots__ = ("_budget", "_in_budget", "_in_inbox", "_links", "_size", "_uncommitted")

    def __init__(self, config: TransportConfig, budget: InboxBudget) -> None:
        # Without a reserve, Critical still gets credit for one message, but none ahead of others.
        critical = max(1, config.critical_reserve) if config.credit_messages else 0
        largest = MAX_V2_HEADER_SIZE + config.max_payload_size
        self._size = Credit(
            config.credit_messages, config.credit_bytes, critical, critical * 1024 + largest
        )
        self._budget = budget
        # Messages and bytes, then those of Critical, as in `Credit`.
        self._in_inbox = [0, 0, 0, 0]
        self._uncommitted = [0, 0, 0, 0]
        self._in_budget = 0
        """Bytes that the budget counts for this peer."""
        self._links: list[LinkPort] = []
        """Links whose HELLO has granted credit, and that have not ended."""

    @property
    def has_links(self) -> bool:
        """Whether a link of the peer is open, or opening."""
        return bool(self._links)

    @property
    def is_unused(self) -> bool:
        """Whether the peer has no link, and no message of it waits in the inbox."""
        return not self._links and not any(self._in_inbox)

    def credit(self, receiver: BudgetUser) -> Credit:
        """Return the credit to grant now. The budget asks `receiver` to grant what it cut here."""
        messages, size, critical, critical_size = self._size
        for used in (
            self._in_inbox,
            self._uncommitted,
            *[link.state.granted_unused for link in self._links],
        ):
            messages -= used[0]
            size -= used[1]
            critical -= used[2]
            critical_size -= used[3]
        budget = self._budget
        return Credit(
            max(0, messages),
            budget.free_for(receiver, max(0, size)),
            max(0, critical),
            budget.free_for(receiver, max(0, critical_size)),
        )

    def add_link(self, link: LinkPort) -> None:
        """Count the credit that the HELLO of a link has granted."""
        self._links.append(link)

    def remove_link(self, link: LinkPort) -> None:
        """Free the credit that a link was granted and has not used."""
        self._links.remove(link)

    def add_to_inbox(self, messages: list[IncomingMessage]) -> None:
        """Count accepted messages, and their bytes in the shared budget.

        All of them are Critical, or none is.
        """
        size = sum([message.size for message in messages])
        _add(self._in_inbox, messages[0].lane, len(messages), size)
        self.update_budget()

    def remove_from_inbox(self, message: IncomingMessage) -> None:
        """Free the credit of one message. `update_budget()` frees its bytes for other peers."""
        in_inbox, at = self._in_inbox, 2 if message.lane == _CRITICAL else 0
        in_inbox[at] -= 1  # not by `_add()`: this is called for each message
        in_inbox[at + 1] -= message.size

    def add_uncommitted(self, lane: int, messages: int, size: int) -> None:
        """Count messages that are not new and wait for a commit; numbers below 0 free them."""
        _add(self._uncommitted, lane, messages, size)

    def update_budget(self) -> None:
        """Have the shared budget count the bytes that wait in the inbox now."""
        waiting = self._in_inbox[1] + self._in_inbox[3]
        counted, self._in_budget = self._in_budget, waiting
        self._budget.add(waiting - counted)


def _add(totals: list[int], lane: int, messages: int, size: int) -> None:
    at = 2 if lane == _CRITICAL else 0
    totals[at] += messages
    totals[at + 1] += size
