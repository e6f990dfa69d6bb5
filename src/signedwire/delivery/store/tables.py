"""The interface between a `Store` and its rows; see `memory_tables` and `sqlite_tables`.

Only one thread at a time calls a method. Removing a missing row does nothing. The
tables update the ledger by the rows that were really added and removed.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, TypeAlias

from signedwire.types import Reason

__all__ = [
    "PAGE_BYTES",
    "NOT_STORED",
    "AccessRule",
    "BatchRow",
    "DeadRow",
    "Row",
    "Tables",
    "NO_LANE",
]

NOT_STORED: Final = 4
"""Value in `BatchRow.lanes` of an envelope that was refused because there was no room."""
PAGE_BYTES: Final = 4 * 1024 * 1024
"""Maximum size of bodies that one query reads from a file, unless the first is larger."""
NO_LANE: Final = 255
"""Value in `BatchRow.lanes` of an envelope that was refused and is not remembered."""

Row: TypeAlias = tuple[int, int | None, bytes]
"""An outgoing row: id, deadline (Unix time, microseconds), header and payload."""


class AccessRule(enum.StrEnum):
    """The meaning of a row of the access list."""

    DENY = "deny"
    """The DID is denied."""
    ALLOW = "allow"
    """The DID is on the allow list."""
    ONLY = "only"
    """There is an allow list. The DID of this row is empty."""


class DeadRow(NamedTuple):
    """A dead letter as it is stored."""

    id: int
    peer: int
    reason: Reason
    detail: str
    died_at_us: int
    body: bytes


class BatchRow(NamedTuple):
    """A received batch as it is stored."""

    id: int
    peer: int
    signature: bytes
    """64 bytes; if it is joint, 96 with the receipt hash before it (`wire.joint`)."""
    leaves: bytes
    """All leaves of the batch, joined."""
    lanes: bytes
    """One byte for each leaf: its lane, `NOT_STORED` or `NO_LANE`."""
    refused: bytes
    """Indices of the envelopes that came too late, a byte each."""
    places: bytes = b""
    """The places of copies in their tree, as `Copies.encode()` makes them; empty: no copies."""


class Tables(ABC):
    """The rows of a store."""

    # -- outgoing ---------------------------------------------------------------------

    @abstractmethod
    def put(self, rows: Sequence[Row], ages_at_us: int | None = None) -> None:
        """Add outgoing rows. `aged()` returns them from `ages_at_us` on; `None`: never."""

    @abstractmethod
    def remove(self, ids: Sequence[int]) -> None:
        """Remove outgoing rows."""

    @abstractmethod
    def expired(self, now_us: int, limit: int) -> list[int]:
        """Remove rows whose deadline has passed, the earliest first, and return their ids.

        Updates `Ledger.next_expiry_us`.
        """

    @abstractmethod
    def aged(self, now_us: int, limit: int) -> list[int]:
        """Return the ids of rows whose age has passed. The rows stay."""

    @abstractmethod
    def clear_ages(self, first: int, last: int) -> None:
        """Remove the ages of the rows from `first` to `last`."""

    @abstractmethod
    def move_deadlines(self, first: int, unwritten: int, last: int, by_us: int) -> None:
        """Move the deadlines in seconds, and the ages, of the rows `first` to `last`.

        Rows from `unwritten` on are also changed in their headers, because no peer has
        seen them. Updates `Ledger.next_expiry_us`.
        """

    @abstractmethod
    def existing(self, ids: Sequence[int]) -> list[int]:
        """Return the given ids that have a row."""

    @abstractmethod
    def names(self, first: int, last: int, limit: int) -> list[int]:
        """Return the ids of the first rows of a range, in order."""

    @abstractmethod
    def page(self, first: int, last: int, limit: int, max_bytes: int) -> list[tuple[int, bytes]]:
        """Return the first rows of a range: at most `limit`, and `max_bytes` or one row."""

    # -- dead letters -----------------------------------------------------------------

    @abstractmethod
    def dead_letter(self, ids: Sequence[int], reason: Reason, detail: str, at_us: int) -> None:
        """Make dead letters of outgoing rows."""

    @abstractmethod
    def add_dead(self, peer: int, body: bytes, reason: Reason, detail: str, at_us: int) -> None:
        """Add a dead letter that has no row."""

    @abstractmethod
    def dead_page(self, after: int, limit: int, peer: int | None) -> list[DeadRow]:
        """Return the first dead letters: at most `limit`; from a file, `PAGE_BYTES` or one."""

    @abstractmethod
    def remove_dead(self, ids: Sequence[int]) -> int:
        """Remove dead letters; return how many existed."""

    # -- incoming ---------------------------------------------------------------------

    @abstractmethod
    def accept(self, batch: BatchRow, rows: Sequence[tuple[int, int, bytes]]) -> None:
        """Add a batch and its accepted messages, each as (id, index in the batch, body)."""

    @abstractmethod
    def remove_unacked(self, ids: Sequence[int], batches: Sequence[int]) -> None:
        """Remove messages, and batches that nothing needs any more."""

    @abstractmethod
    def unacked_page(self, after: int, limit: int) -> list[tuple[int, int, int, bytes]]:
        """Return unacknowledged messages as (id, batch, index, body), as accepted.

        At most `limit`; from a file, `PAGE_BYTES` of bodies or one.
        """

    @abstractmethod
    def batches(self, ids: Sequence[int]) -> list[BatchRow]:
        """Return batches by their ids."""

    @abstractmethod
    def remove_peer(self, id_: int) -> None:
        """Remove a peer that has no row and no dead letter."""

    # -- the access list --------------------------------------------------------------

    @abstractmethod
    def add_rules(self, rule: AccessRule, keys: Iterable[bytes]) -> None:
        """Add a rule for each DID of 32 bytes; an existing rule stays."""

    @abstractmethod
    def remove_rules(self, rule: AccessRule, keys: Iterable[bytes] | None) -> None:
        """Remove a rule for these DIDs, or for all with `None`."""

    # -- the whole --------------------------------------------------------------------

    @abstractmethod
    def commit(self, *, is_idle: bool) -> bool:
        """Make the changes durable; return `False` if there are none.

        Args:
            is_idle: Whether no operation waits for the next commit.
        """

    @abstractmethod
    def checkpoint(self) -> None:
        """Do maintenance that can wait until callbacks have been scheduled."""

    @abstractmethod
    def close(self) -> None:
        """Release the file. Called after a failure too."""
