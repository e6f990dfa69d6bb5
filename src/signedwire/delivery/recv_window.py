"""The credit of one peer at its receiver: how much it may send before the application takes more.

    credit = window
             - messages that wait in the inbox
             - messages that are not new, until their batch is committed
             - peer_credit_left of each link

Each stream has a window of its own, so that none waits for the messages of another. All links of
a peer share it, so links that overlap cannot add up to more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from signedwire.config import TransportConfig
from signedwire.delivery.inbox_budget import BudgetUser, InboxBudget
from signedwire.delivery.message import IncomingMessage
from signedwire.delivery.ports import LinkPort
from signedwire.delivery.stranger_room import StrangerRoom
from signedwire.types import Credit, Priority
from signedwire.wire.header import MAX_V2_HEADER_SIZE, STREAMS, VOLATILE

__all__ = ["RecvWindow"]

_CRITICAL: Final = int(Priority.CRITICAL)
_NOTHING: Final = Credit(0, 0)


class RecvWindow:
    """Counts what uses the credit of one peer, by stream. For the event loop alone.

    Args:
        config: `credit_messages`, `credit_bytes` and `critical_reserve` are the windows.
        budget: Bytes that all peers share.
        room: Bytes that all strangers share.
        is_stranger: Returns whether the peer is one now.
    """

    __slots__ = (
        "_budget",
        "_changed",
        "_in_budget",
        "_in_inbox",
        "_in_room",
        "_is_stranger",
        "_links",
        "_room",
        "_sizes",
        "_uncommitted",
        "taken",
    )

    def __init__(
        self,
        config: TransportConfig,
        budget: InboxBudget,
        room: StrangerRoom,
        is_stranger: Callable[[], bool],
    ) -> None:
        # Without a reserve, Critical still gets credit for one message, but none ahead of others.
        critical = max(1, config.critical_reserve) if config.credit_messages else 0
        largest = MAX_V2_HEADER_SIZE + config.max_payload_size
        usual = Credit(config.credit_messages, config.credit_bytes)
        urgent = Credit(critical, critical * 1024 + largest)
        self._sizes = tuple(
            urgent if stream % VOLATILE == _CRITICAL else usual for stream in range(STREAMS)
        )
        self._budget = budget
        self._room = room
        self._is_stranger = is_stranger
        self._in_inbox = _Totals()
        self._uncommitted = _Totals()
        self.taken: list[IncomingMessage] = []
        """Messages that have left the inbox, to be counted by the next call. The caller appends."""
        self._changed = set(range(STREAMS))
        """Streams for which `next_grant()` may find more than before."""
        self._in_budget = 0
        """Bytes that the budget counts for this peer."""
        self._in_room = 0
        """Bytes that the room of strangers counts for this peer."""
        self._links: list[LinkPort] = []
        """Links whose HELLO has granted credit, and that have not ended."""

    @property
    def has_links(self) -> bool:
        """Whether a link of the peer is open, or opening."""
        return bool(self._links)

    @property
    def is_unused(self) -> bool:
        """Whether the peer has no link, and no message of it waits in the inbox."""
        self._count_taken()
        return not self._links and not any(self._in_inbox.messages)

    def first_grant(self, receiver: BudgetUser) -> tuple[Credit, ...]:
        """Return the credit of all streams for a HELLO. See `next_grant()`."""
        self._changed.update(range(STREAMS))
        found = self.next_grant(receiver)
        return tuple(found.get(stream, _NOTHING) for stream in range(STREAMS))

    def next_grant(self, receiver: BudgetUser) -> dict[int, Credit]:
        """Return the further credit to grant now, by stream.

        The budget asks `receiver` to grant what it cut here.
        """
        self._count_taken()
        changed, self._changed = self._changed, set()
        found: dict[int, Credit] = {}
        for stream in sorted(changed, key=_urgency):
            messages, free = self._sizes[stream]
            messages -= self._in_inbox.messages[stream] + self._uncommitted.messages[stream]
            free -= self._in_inbox.bytes[stream] + self._uncommitted.bytes[stream]
            for link in self._links:
                unused = link.state.peer_credit_left(stream)
                messages -= unused.messages
                free -= unused.bytes
            size = self._budget.free_for(receiver, max(0, free))
            if size < free:
                self._changed.add(stream)
            if messages > 0 or size:
                granted = Credit(max(0, messages), size)
                whole = self._sizes[stream]  # one for many links: each costs 64 bytes
                found[stream] = whole if granted == whole else granted
        return found

    def add_link(self, link: LinkPort) -> None:
        """Count the credit that the HELLO of a link has granted."""
        self._links.append(link)

    def remove_link(self, link: LinkPort) -> None:
        """Free the credit that a link was granted and has not used."""
        self._links.remove(link)
        self._changed.update(range(STREAMS))

    def add_to_inbox(self, stream: int, messages: list[IncomingMessage]) -> None:
        """Count accepted messages of a stream, and their bytes in the shared budget."""
        size = sum([message.size for message in messages])
        self._in_inbox.add(stream, len(messages), size)
        self.update_budget()

    def add_uncommitted(self, stream: int, messages: int, size: int) -> None:
        """Count messages that are not new and wait for a commit; numbers below 0 free them."""
        self._uncommitted.add(stream, messages, size)
        self._changed.add(stream)

    def look_at(self, stream: int) -> None:
        """Grant again what the peer has used of a stream and what is free already."""
        self._changed.add(stream)

    def update_budget(self) -> None:
        """Have the shared budget count the bytes that wait in the inbox now."""
        self._count_taken()
        waiting = sum(self._in_inbox.bytes)
        if waiting != self._in_budget:
            counted, self._in_budget = self._in_budget, waiting
            self._budget.add(waiting - counted)
            in_room = waiting if waiting and self._is_stranger() else 0
            counted, self._in_room = self._in_room, in_room
            if in_room != counted:
                self._room.add_inbox(in_room - counted)

    def _count_taken(self) -> None:
        """Free the credit of the messages in `taken`."""
        if not self.taken:
            return
        taken, self.taken = self.taken, []
        messages, sizes = self._in_inbox.messages, self._in_inbox.bytes
        for message in taken:
            stream = message.stream
            messages[stream] -= 1
            sizes[stream] -= message.size
            self._changed.add(stream)


class _Totals:
    """Numbers of messages and bytes by stream."""

    __slots__ = ("bytes", "messages")

    def __init__(self) -> None:
        self.messages = [0] * STREAMS
        self.bytes = [0] * STREAMS

    def add(self, stream: int, messages: int, size: int) -> None:
        self.messages[stream] += messages
        self.bytes[stream] += size

    def of(self, stream: int) -> Credit:
        return Credit(self.messages[stream], self.bytes[stream])


def _urgency(stream: int) -> int:
    """Return a key that is least for the stream that gets the rest of a budget first."""
    return -(stream % VOLATILE)
