"""The choice of the store that a command uses, and how it is opened."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from signedwire.cli.common_options import CommonOptions, NodeOptions, StoreFileOptions
from signedwire.cli.errors import BadFile, BadInput
from signedwire.cli.key_locks import KeyLock, lock_folder
from signedwire.cli.output import escape, say
from signedwire.cli.redaction import key_as_path
from signedwire.config import TransportConfig
from signedwire.delivery.store import SqliteStore
from signedwire.environment import state_folder
from signedwire.errors import StoreInUseError
from signedwire.folders import make_folders
from signedwire.outbox import limits_of
from signedwire.types import Did

__all__ = [
    "NO_STORE",
    "Chosen",
    "choose",
    "lock_of",
    "open_file",
    "open_or_do_without",
    "prepare",
    "refuse_key",
    "tell_new",
]

T = TypeVar("T")

_DEFAULT: Final = "default"


class Chosen(NamedTuple):
    """The store of a command."""

    path: Path | None
    """The file; `None`: the command uses no store."""
    is_default: bool
    """Whether it is the user's own store, which neither an option nor a setting names."""

    @property
    def how_to_see_it(self) -> str:
        """A sentence on the commands that show and drop the messages that wait in the store."""
        named = "" if self.is_default else f" --store {escape(str(self.path))}"
        return (
            f"`signedwire outbox list{named}` shows what waits, "
            f"`signedwire outbox drop ID{named}` removes it"
        )


NO_STORE: Final = Chosen(None, False)


def choose(options: NodeOptions, did: Did) -> Chosen:
    """Return the store for `did`: that of the options, of the configuration, or the user's own.

    Raises:
        BadInput: --store and --no-store are both given.
    """
    if options.no_store:
        if options.store is not None:
            raise BadInput("--store and --no-store exclude each other", "Give one of them")
        return NO_STORE
    return _choose(options.store, options, did)


def _choose(named: Path | None, options: CommonOptions, did: Did) -> Chosen:
    if named is not None:
        return Chosen(named, False)
    for setting in options.settings.explain():
        if setting.name == "store" and setting.origin != _DEFAULT:
            return Chosen(None if setting.value is None else Path(str(setting.value)), False)
    # One file for each key, because a store belongs to one key.
    return Chosen(state_folder() / f"{str(did).removeprefix('did:key:')}.db", True)


def lock_of(did: Did, patience: float | None = None) -> KeyLock:
    """Return the lock of a key, not taken yet.

    Args:
        did: The key.
        patience: Seconds to wait for the lock, at most 10; `None`: 10.
    """
    return KeyLock(did, lock_folder(), patience)


def prepare(chosen: Chosen) -> bool:
    """Make the user's own folder for stores, and return whether the store will be new.

    Raises:
        BadInput: the path of the store is a key.
        BadFile: the folder cannot be made.
    """
    path = chosen.path
    # os.path.exists() raises nothing; opening the store reports what is wrong with the path.
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
    """Raise if a path that does not exist is a key.

    Args:
        path: The path.
        what: The kind of file that it should name, for the error.
        hint: The hint of the error.

    Raises:
        BadInput: the path is a key.
    """
    if not os.path.exists(path) and (fact := key_as_path(path, what)):
        raise BadInput(fact, hint)


def tell_new(chosen: Chosen) -> None:
    """Say on stderr where a new store was made."""
    say(f"made a new store in {escape(str(chosen.path))}")


def open_or_do_without(chosen: Chosen, make: Callable[[Path | None], T]) -> tuple[T, Chosen]:
    """Make something with the store; if the user's own store is in use, make it without one.

    Args:
        chosen: The store.
        make: Takes the path of the store, or `None` for no store.

    Returns:
        What `make` has made, and the store that it uses.

    Raises:
        StoreInUseError: a store that was named is in use.
        Exception: the errors of `prepare()` and of `make`.
    """
    is_new = prepare(chosen)
    try:
        made = make(chosen.path)
    except StoreInUseError as error:
        if not chosen.is_default:
            raise
        say(
            f"another process has {escape(error.path)} open. So this command works without a "
            "store, and does not keep a message that it cannot deliver now"
        )
        return make(None), NO_STORE
    if is_new:
        tell_new(chosen)
    return made, chosen


def open_file(options: StoreFileOptions, did: Did, config: TransportConfig) -> SqliteStore:
    """Open a store that exists, to work on it while no node does.

    Raises:
        BadInput: the configuration names no store.
        BadFile: there is no such file.
        StoreOpenError: the file cannot be used, or a node is using it.
    """
    path, is_default = _choose(options.store, options, did)
    if path is None:
        raise BadInput("the configuration says store = none", "Name a store with --store FILE")
    if not _may_exist(path):
        hint = "`signedwire send` and `signedwire listen` make one"
        raise BadFile(f"there is no store {path}", hint if is_default else "Is its name right?")
    return SqliteStore(path, did, limits=limits_of(config), is_threaded=False)


def _may_exist(path: Path) -> bool:
    """Return whether the file exists or cannot be looked at; opening it then reports why."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        pass
    return True
