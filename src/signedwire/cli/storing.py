"""Which store a command uses, and how it is opened."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from signedwire.cli.errors import BadFile, BadInput
from signedwire.cli.output import escape, say
from signedwire.cli.redaction import key_as_path
from signedwire.cli.turns import Turn, turns_folder
from signedwire.delivery.store import SqliteStore
from signedwire.environment import state_folder
from signedwire.errors import StoreInUseError
from signedwire.folders import make_folders
from signedwire.outbox import limits_of
from signedwire.types import Did

if TYPE_CHECKING:
    from signedwire.cli.store_surface import StoreCommand
    from signedwire.cli.surface import Command, Storing
    from signedwire.config import TransportConfig

__all__ = [
    "WITHOUT",
    "Chosen",
    "choose",
    "open_file",
    "open_or_do_without",
    "prepare",
    "refuse_key",
    "tell_new",
    "turn_of",
]

T = TypeVar("T")

_DEFAULT: Final = "default"


class Chosen(NamedTuple):
    """The store of a command."""

    path: Path | None
    """`None`: none is wanted."""
    is_default: bool
    """Whether nobody named it."""

    @property
    def what_waits(self) -> str:
        """A sentence about the commands that look at what waits in it, and take it back."""
        named = "" if self.is_default else f" --store {escape(str(self.path))}"
        return (
            f"`signedwire outbox list{named}` shows what waits, "
            f"`signedwire outbox drop ID{named}` takes it back"
        )


WITHOUT: Final = Chosen(None, False)
"""No store."""


def choose(options: Storing, did: Did) -> Chosen:
    """The store for `did`: as the options say, the configuration, or the user's own."""
    if options.no_store:
        if options.store is not None:
            raise BadInput("--store and --no-store exclude each other", "Give one of them")
        return WITHOUT
    return _choose(options.store, options, did)


def _choose(named: Path | None, options: Command, did: Did) -> Chosen:
    if named is not None:
        return Chosen(named, False)
    for setting in options.settings.explain():
        if setting.name == "store" and setting.origin != _DEFAULT:
            return Chosen(None if setting.value is None else Path(str(setting.value)), False)
    # One for each key: a store belongs to one.
    return Chosen(state_folder() / f"{str(did).removeprefix('did:key:')}.db", True)


def turn_of(did: Did, patience: float | None = None) -> Turn:
    """The turn of a key; `patience` is in seconds."""
    return Turn(did, turns_folder(), patience)


def prepare(chosen: Chosen) -> bool:
    """Make the user's own folder for stores; whether the store will be new."""
    path = chosen.path
    # os.path.exists() raises nothing: opening the store says what is wrong, and of what.
    if path is None or os.path.exists(path):
        return False
    refuse_key(path, "store", "Give --store the path of a file, and look at SIGNEDWIRE_STORE")
    if chosen.is_default:
        try:
            make_folders(path.parent)
        except OSError as error:
            raise BadFile(
                f"cannot make the folder {path.parent} for the store: {error.strerror}",
                "Name a file with --store, do without: --no-store, or set HOME",
            ) from None
    return True


def refuse_key(path: Path, what: str, hint: str) -> None:
    """Raise `BadInput` where a key was given as the path of `what`, which is not there."""
    if not os.path.exists(path) and (fact := key_as_path(path, what)):
        raise BadInput(fact, hint)


def tell_new(chosen: Chosen) -> None:
    """Say where the store is that was made just now."""
    say(f"made a new store in {escape(str(chosen.path))}")


def open_or_do_without(chosen: Chosen, make: Callable[[Path | None], T]) -> tuple[T, Chosen]:
    """What `make` makes with the store; without it where the user's own is in use."""
    is_new = prepare(chosen)
    try:
        made = make(chosen.path)
    except StoreInUseError as error:
        if not chosen.is_default:
            raise
        say(
            f"{escape(error.path)} is in use by another process, so this goes without a store: "
            "what cannot be delivered now is not kept"
        )
        return make(None), WITHOUT
    if is_new:
        tell_new(chosen)
    return made, chosen


def open_file(options: StoreCommand, did: Did, config: TransportConfig) -> SqliteStore:
    """The store itself, to work on while no node does. It has to be there.

    Raises:
        StoreOpenError: it cannot be used, or a node is using it.
    """
    path, is_default = _choose(options.store, options, did)
    if path is None:
        raise BadInput("the configuration says store = none", "Name a store with --store FILE")
    if not _may_be_there(path):
        hint = "`signedwire send` and `signedwire listen` make one"
        raise BadFile(f"there is no store {path}", hint if is_default else "Is its name right?")
    return SqliteStore(path, did, limits=limits_of(config), is_threaded=False)


def _may_be_there(path: Path) -> bool:
    """Whether there is such a file, or it cannot be looked at: opening it then says why."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        pass
    return True
