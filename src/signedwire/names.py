"""`Names`: short names for DIDs, which hold for one node alone. No I/O.

A name is local: it is written in a configuration, is never sent, and proves nothing. The node
turns it into a DID at once, and everything after that is about the DID.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from types import MappingProxyType
from typing import Any, Final, Self

from signedwire.arguments import as_did, shown
from signedwire.errors import DidError, UnknownNameError
from signedwire.types import Did

__all__ = ["Names", "is_name"]

# Neither a DID (did:key:…, z6Mk… or 64 hex digits), nor an option, nor part of an address.
_NAME: Final = re.compile(r"[a-z][a-z0-9._-]{0,62}")
_RULE: Final = (
    "A name is 1 to 63 characters of a-z, 0-9, `-`, `_` and `.`, begins with a letter, "
    "and is neither all nor none"
)
_WHERE: Final = 'Names are written in the configuration: [names], then robot-1 = "did:key:…"'
_HOW: Final = "A DID is did:key:z6Mk…, z6Mk… or 64 hex digits; `signedwire id show` prints yours"
_NOT_NAMES: Final = frozenset({"all", "none"})
"""Words that stand for something else where a DID may be given."""
_MAX_SIZE: Final = 63
_MAX_LISTED: Final = 3
_MAX_COMPARED: Final = 10_000
"""Names that are compared with an unknown one; more would take too long."""


def is_name(text: str) -> bool:
    """Whether a text has the form of a name. No DID has it."""
    return _NAME.fullmatch(text) is not None and text not in _NOT_NAMES


class Names(Mapping[str, Did]):
    """A map from name to DID. It never changes, and any thread may read it.

    Several names may have one DID.

    Args:
        names: The DID of each name, as a `Did` or its text.

    Raises:
        DidError: a name or a DID cannot be used; the error has the name.
        TypeError: `names` is no mapping, or a name is no text.
    """

    __slots__ = ("_dids", "_names")

    def __init__(self, names: Mapping[str, Did | str] = MappingProxyType({})) -> None:
        if not isinstance(names, Mapping):
            raise TypeError(f"names are a mapping from name to DID, not {type(names).__name__}")
        self._dids = {name: _read(name, did) for name, did in names.items()}
        # The first name of a DID is the one that is shown.
        self._names = {did: name for name, did in reversed(self._dids.items())}

    def __getitem__(self, name: str) -> Did:
        return self._dids[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._dids)

    def __len__(self) -> int:
        return len(self._dids)

    def __hash__(self) -> int:
        return hash(frozenset(self._dids.items()))

    def __eq__(self, other: object) -> bool:
        return self._dids == other._dids if isinstance(other, Names) else NotImplemented

    def __reduce__(self) -> tuple[type[Self], tuple[dict[str, Did]]]:
        return type(self), (self._dids,)

    def __repr__(self) -> str:
        return f"Names({ {name: str(did) for name, did in self._dids.items()} })"

    def name_of(self, did: Did) -> str | None:
        """Return the name of a DID; `None` if it has none. Of several, it is the first."""
        return self._names.get(did)

    def label_of(self, did: Did) -> str:
        """Return a DID in short for people, with its name before it if it has one."""
        name = self._names.get(did)
        return did.short if name is None else f"{name} ({did.short})"

    def in_words(self, value: object) -> object:
        """Return a DID as text with its name before it; any other value is returned as it is.

        A DID without a name is returned as it is, too.
        """
        name = self._names.get(value) if isinstance(value, Did) else None
        return value if name is None else f"{name} ({value})"

    def did_of(self, value: object, argument: str = "recipient") -> Did:
        """Return the DID that is given as a `Did`, its text, or a name.

        Args:
            value: What the caller has passed.
            argument: The name of the argument, for the error.

        Raises:
            UnknownNameError: the text may be a name, and no DID has it. The error has the most
                similar names.
            DidError: the text is neither a DID nor a name.
            TypeError: `value` is neither a `Did` nor a text.
        """
        if type(value) is Did:
            return value
        if not isinstance(value, str):
            return as_did(value, argument)
        name = value.strip()
        known = self._dids.get(name)
        if known is not None:
            return known
        if is_name(name):
            raise _unknown(name, self._nearest(name))
        try:
            return as_did(value, argument)
        except DidError:
            nearest = self._nearest(name)  # for Robot-1, say
            if not nearest:
                raise
        raise _unknown(name, nearest)

    def over(self, others: Names) -> Names:
        """Return these names, and those of `others` that are not among them.

        If both have a name, it keeps the DID that it has here: local names win over all others.
        """
        return Names({**self._dids, **{n: d for n, d in others.items() if n not in self._dids}})

    def _nearest(self, text: str) -> list[str]:
        """Return the names that are most similar to a text; none for a text that is too long."""
        if len(text) > _MAX_SIZE or not self._dids:
            return []
        some = islice(self._dids, _MAX_COMPARED)
        return difflib.get_close_matches(text.lower(), some, n=_MAX_LISTED)


def _unknown(name: str, nearest: list[str]) -> UnknownNameError:
    fact = f"{name!r} is not a DID, and no peer has that name"
    if nearest:
        return UnknownNameError(fact, f"Did you mean {' or '.join(nearest)}? {_WHERE}")
    return UnknownNameError(fact, f"{_WHERE}. {_HOW}")


def _read(name: Any, did: Any) -> Did:
    if not isinstance(name, str):
        raise TypeError(f"a name is a text, not {type(name).__name__}")
    if not is_name(name):
        raise DidError(f"{shown(name)} is not a name", _RULE)
    if isinstance(did, Mapping):
        raise DidError(
            f"{name}: its value is a table", f'Put quotes around a name with a dot: "{name}.1" = …'
        )
    if not isinstance(did, (Did, str)):
        raise DidError(f"{name}: {shown(did)} is not a DID", "Give a Did or its text")
    try:
        return as_did(did)
    except DidError as error:
        raise DidError(f"{name}: {error.fact}", error.hint) from None
