"""The access list in a store: the denied and allowed DIDs, kept over restarts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from signedwire.delivery.store.commits import Executor, Operation
from signedwire.delivery.store.tables import AccessRule
from signedwire.delivery.store.work import Work

__all__ = ["AccessRules"]

_NOBODY = b""
_KEY_SIZE = 32


class AccessRules:
    """The stored access list, as `Store.access`. Each DID is given as its 32 bytes.

    Each change returns at once and is on the disk with the next commit. Any thread may call.

    Raises:
        StoreFailedError, ClosedError: the store takes nothing more.
        ValueError: a key is not 32 bytes; a file with such a key could not be opened again.
    """

    def __init__(self, work: Work, executor: Executor) -> None:
        self._work = work
        self._executor = executor
        rules = work.ledger.rules
        self.denied = frozenset(rules[AccessRule.DENY])
        """The DIDs that were denied when the store was opened."""
        self.allowed = frozenset(rules[AccessRule.ALLOW]) if rules[AccessRule.ONLY] else None
        """The allow list when the store was opened; `None`: there was none."""

    def deny(self, keys: Iterable[bytes]) -> None:
        """Store that these DIDs are denied."""
        self._submit(partial(self._work.tables.add_rules, AccessRule.DENY, _sound(keys)))

    def undeny(self, keys: Iterable[bytes]) -> None:
        """Store that these DIDs are no longer denied."""
        self._submit(partial(self._work.tables.remove_rules, AccessRule.DENY, _sound(keys)))

    def allow_only(self, keys: Iterable[bytes] | None) -> None:
        """Store an allow list in place of the previous one; `None` removes it."""
        known = None if keys is None else _sound(keys)
        self._submit(partial(self._replace, known))

    def _replace(self, keys: list[bytes] | None) -> None:
        tables = self._work.tables
        tables.remove_rules(AccessRule.ALLOW, None)
        if keys is None:
            tables.remove_rules(AccessRule.ONLY, None)
        else:
            tables.add_rules(AccessRule.ONLY, [_NOBODY])
            tables.add_rules(AccessRule.ALLOW, keys)

    def _submit(self, run: Callable[[], object]) -> None:
        with self._work.ledger.lock:
            self._executor.submit(Operation(run))
        self._executor.flush()


def _sound(keys: Iterable[bytes]) -> list[bytes]:
    known = list(keys)
    for key in known:
        if type(key) is not bytes or len(key) != _KEY_SIZE:
            raise ValueError(
                f"a key of the access list is the {_KEY_SIZE} bytes of a DID, not {key!r}"
            )
    return known
