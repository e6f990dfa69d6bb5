"""Who may link to us and be sent to, changeable while the node runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from signedwire.types import Did

__all__ = ["AccessList"]


class AccessList:
    """A deny list and an optional allow list of DIDs. Any thread.

    A denied DID is turned away right after TLS has proven it, before it costs any
    session. A link that is open when its DID is denied is closed. What a denied DID
    signed and sent over v1 is dropped.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # As bytes: frames of v1 are asked about before anything else is known of them.
        self._denied: frozenset[bytes] = frozenset()
        self._allowed: frozenset[bytes] | None = None
        self.on_change: Callable[[], None] | None = None
        """Called after each change, in the thread that made it."""

    def __repr__(self) -> str:
        only = "all" if self._allowed is None else f"{len(self._allowed)}"
        return f"<AccessList {len(self._denied)} denied, {only} allowed>"

    def deny(self, *dids: Did | str) -> None:
        """Turn these away from now on."""
        with self._lock:
            self._denied |= _keys(dids)
        self._changed()

    def undeny(self, *dids: Did | str) -> None:
        """Take these off the deny list."""
        with self._lock:
            self._denied -= _keys(dids)
        self._changed()

    def allow_only(self, dids: Iterable[Did | str] | None) -> None:
        """Turn everybody else away; `None`: allow all that are not denied, as at first."""
        with self._lock:
            self._allowed = None if dids is None else _keys(dids)
        self._changed()

    def is_denied(self, did: Did) -> bool:
        """Whether this DID is turned away."""
        return self.is_key_denied(bytes(did))

    def is_key_denied(self, key: bytes) -> bool:
        """The same for the 32 bytes of a DID."""
        return key in self._denied or (self._allowed is not None and key not in self._allowed)

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change()


def _keys(dids: Iterable[Did | str]) -> frozenset[bytes]:
    if isinstance(dids, str):
        raise TypeError("a list of DIDs is due, not one text")
    return frozenset(bytes(Did.parse(did) if isinstance(did, str) else did) for did in dids)
