"""`Roles`: names for groups of DIDs, which hold for one node alone. No I/O.

    [roles]                              roles={"robot": ["robot-1", "robot-2"]}
    robot = ["robot-1", "robot-2"]

Like a name, a role is local: it is written in a configuration, is never sent, and proves nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Final, cast

from signedwire.arguments import shown
from signedwire.errors import ConfigError, DidError, UnknownNameError
from signedwire.names import Names, is_name
from signedwire.types import Did

__all__ = ["Roles"]

_EXPECTED: Final = (
    "Expected a table of roles, each with a list of names or DIDs, such as [roles] with "
    'robot = ["robot-1", "robot-2"]'
)
_RULE: Final = (
    "A role is 1 to 63 characters of a-z, 0-9, `-`, `_` and `.`, begins with a letter, "
    "and is neither all nor none"
)


class Roles(Mapping[str, tuple[Did, ...]]):
    """A map from role to its members, in order. It never changes, and any thread may read it.

    The members that `Roles()` was given as names are names until `found()`.

    Args:
        table: The names or DIDs of each role.

    Raises:
        ConfigError: a role or one of its members cannot be used. The text names it.
    """

    __slots__ = ("_members",)

    IN_WORDS: ClassVar = "table of roles, each with a list of names or DIDs"
    """The form of a value, for people."""

    def __init__(self, table: object = ()) -> None:
        self._members: dict[str, tuple[Did | str, ...]] = {}
        if table == ():
            return
        if not isinstance(table, Mapping):
            raise ConfigError(f"roles={shown(table, 100)} is not allowed", _EXPECTED)
        for role, members in table.items():
            if not isinstance(role, str) or not is_name(role):
                raise ConfigError(f"a key of roles is not allowed: {shown(role)}", _RULE)
            if isinstance(members, (str, Mapping)) or not isinstance(members, Iterable):
                raise ConfigError(f"roles.{role}: {shown(members, 100)} is no list", _EXPECTED)
            self._members[role] = tuple(dict.fromkeys(_read(role, each) for each in members))

    def found(self, names: Names) -> Roles:
        """Return these roles with the DIDs of the names in them.

        Raises:
            ConfigError: a name is unknown, or a role has the text of a name.
        """
        found: dict[str, list[Did]] = {}
        for role, members in self._members.items():
            try:
                found[role] = [names.did_of(each) for each in members]
            except DidError as error:
                raise ConfigError(f"roles.{role}: {error.fact}", error.hint) from None
            if role in names and found[role] != [names[role]]:
                raise ConfigError(
                    f"roles.{role}: {role!r} is the name of a peer too, so a rule for it could "
                    "mean either",
                    "Give the role another text",
                )
        return Roles(found)

    def members_of(self, who: str | Did | Iterable[str | Did], names: Names) -> tuple[Did, ...]:
        """Return the DIDs that are given by roles, names or DIDs, each once.

        Args:
            who: A role, a name, a DID, or several of them.
            names: The names that are known.

        Raises:
            UnknownNameError: a text is neither a role, nor a name, nor a DID. The error has the
                most similar ones.
            DidError: a text is no DID, and cannot be a role or a name.
            TypeError: `who` is something else.
        """
        if not isinstance(who, (str, Did)):
            if not isinstance(who, Iterable):
                raise TypeError(f"{shown(who)} is neither a role, a name, nor a list of them")
            parts = [self.members_of(_one(each), names) for each in who]
            return tuple(dict.fromkeys(did for part in parts for did in part))
        members = self.get(who) if isinstance(who, str) else None
        if members is not None:
            return members
        try:
            return (names.did_of(who),)
        except UnknownNameError as error:
            fact = f"{str(who)!r} is neither a role, nor a name of a peer, nor a DID"
            nearest = difflib.get_close_matches(str(who), self._members, n=1)
            hint = f"Did you mean the role {nearest[0]}?" if nearest else error.hint
            raise UnknownNameError(fact, hint) from None

    def __getitem__(self, role: str) -> tuple[Did, ...]:
        return cast("tuple[Did, ...]", self._members[role])

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __hash__(self) -> int:
        return hash(frozenset(self._members.items()))

    def __repr__(self) -> str:
        return repr({role: [str(did) for did in dids] for role, dids in self._members.items()})


def _one(who: Any) -> str | Did:
    if not isinstance(who, (str, Did)):
        raise TypeError(f"{shown(who)} is neither a role, a name nor a DID")
    return who


def _read(role: str, member: object) -> Did | str:
    if isinstance(member, Did):
        return member
    if not isinstance(member, str):
        raise ConfigError(f"roles.{role}: {shown(member)} is neither a name nor a DID", _EXPECTED)
    if is_name(member):
        return member  # another source may define the name
    try:
        return Did.parse(member)
    except DidError as error:
        raise ConfigError(f"roles.{role}: {error.fact}", error.hint) from None
