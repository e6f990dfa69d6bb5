"""What a `Store` needs of its rows, wherever they are: see `memory_tables` and `sqlite_tables`.

Every method is called by one thread at a time, between two calls of `commit()`.
Removing what is not there does nothing. The ledger follows what was really put
and removed.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, TypeAlias

from signedwire.types import Reason

__all__ = [
    "PAGE_BYTES",
    "UNKEPT",
    "AccessRule",
    "BatchRow",
    "DeadRow",
    "Row",
    "Tables",
    "NO_LANE",
]

UNKEPT: Final = 4
"""In `BatchRow.lanes`, of what was refused for want of room."""
PAGE_BYTES: Final = 4 * 1024 * 1024
"""Of bodies: what is read from a file at once, where the first is not larger by itself."""
NO_LANE: Final = 255
"""In `BatchRow.lanes`, of what was refused and is not to be remembered."""

Row: TypeAlias = tuple[int, int | None, bytes]
"""An outgoing row: name, deadline, header and payload."""


class AccessRule(enum.StrEnum):
    """What a row of the access list says of its DID."""

    DENY = "deny"
    """It is turned away."""
    ALLOW = "allow"
    """It is on the allow list."""
    ONLY = "only"
    """There is an allow list; the DID is empty."""


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
    leaves: bytes
    """One after the other."""
    lanes: bytes
    """Of each, or `UNKEPT`, or `NO_LANE`."""
    refused: bytes
    """Places of those that came too late."""


class Tables(ABC):
    """The rows of a store."""

    # -- outgoing ---------------------------------------------------------------------

    @abstractmethod
    def put(self, rows: Sequence[Row], ages_at_us: int | None = None) -> None:
        """Add outgoing rows. `ages_at_us`: when `aged()` returns them; `None`: never."""

    @abstractmethod
    def remove(self, ids: Sequence[int]) -> None:
        """Remove outgoing rows."""

    @abstractmethod
    def expired(self, now_us: int, limit: int) -> list[int]:
        """Remove rows whose deadline has passed, the earliest first; returns their names.

        Sets `Ledger.next_expiry_us` anew.
        """

    @abstractmethod
    def aged(self, now_us: int, limit: int) -> list[int]:
        """Names of the rows that were put with an age which has passed. They stay."""

    @abstractmethod
    def unage(self, first: int, last: int) -> None:
        """The rows from `first` to `last` have no age any more."""

    @abstractmethod
    def move_deadlines(self, first: int, unwritten: int, last: int, by_us: int) -> None:
        """Move deadlines in seconds of the rows from `first` to `last` by `by_us`.

        Those of rows from `unwritten` on also in their headers: nobody else has seen them.
        Ages are moved too.
        Sets `Ledger.next_expiry_us` anew.
        """

    @abstractmethod
    def existing(self, ids: Sequence[int]) -> list[int]:
        """Those of the names that have a row."""

    @abstractmethod
    def names(self, first: int, last: int, limit: int) -> list[int]:
        """The names of the first rows of a range, in order."""

    @abstractmethod
    def page(self, first: int, last: int, limit: int, max_bytes: int) -> list[tuple[int, bytes]]:
        """The first rows of a range, in order: at most `limit`, and `max_bytes` or one."""

    # -- dead letters -----------------------------------------------------------------

    @abstractmethod
    def bury(self, ids: Sequence[int], reason: Reason, detail: str, at_us: int) -> None:
        """Make dead letters of outgoing rows."""

    @abstractmethod
    def add_dead(self, peer: int, body: bytes, reason: Reason, detail: str, at_us: int) -> None:
        """Add a dead letter that has no row."""

    @abstractmethod
    def dead_page(self, after: int, limit: int, peer: int | None) -> list[DeadRow]:
        """The first dead letters in order: at most `limit`; of a file, `PAGE_BYTES` or one."""

    @abstractmethod
    def remove_dead(self, ids: Sequence[int]) -> int:
        """Remove dead letters; returns how many there were."""

    # -- incoming ---------------------------------------------------------------------

    @abstractmethod
    def accept(self, batch: BatchRow, rows: Sequence[tuple[int, int, bytes]]) -> None:
        """Add a batch, and of its messages those that are not done: name, place, body."""

    @abstractmethod
    def remove_undone(self, ids: Sequence[int], batches: Sequence[int]) -> None:
        """Remove messages, and batches that nothing needs any more."""

    @abstractmethod
    def undone_page(self, after: int, limit: int) -> list[tuple[int, int, int, bytes]]:
        """Messages that are not done, in the order of acceptance: name, batch, place, body.

        At most `limit`; of a file, `PAGE_BYTES` of bodies or one.
        """

    @abstractmethod
    def batches(self, ids: Sequence[int]) -> list[BatchRow]:
        """Batches by name."""

    @abstractmethod
    def remove_peer(self, id_: int) -> None:
        """Remove a peer that has no row and no dead letter."""

    # -- the access list --------------------------------------------------------------

    @abstractmethod
    def add_rules(self, rule: AccessRule, keys: Iterable[bytes]) -> None:
        """Add a rule for the 32 bytes of each DID; one that is there stays."""

    @abstractmethod
    def remove_rules(self, rule: AccessRule, keys: Iterable[bytes] | None) -> None:
        """Remove a rule for these DIDs; `None`: for all."""

    # -- the whole --------------------------------------------------------------------

    @abstractmethod
    def commit(self, *, is_idle: bool) -> bool:
        """Make durable what has changed; `False`: nothing had.

        Args:
            is_idle: Whether nothing waits for the next commit.
        """

    @abstractmethod
    def tidy(self) -> None:
        """What may be done after a commit was told."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file. After a failure too."""
