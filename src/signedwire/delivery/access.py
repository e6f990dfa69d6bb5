"""DIDs that may link to us and be sent to: by configuration, a file, and calls at run time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from signedwire.arguments import shown
from signedwire.config import TransportConfig
from signedwire.delivery.policy import AdmissionContext, MessageHeader
from signedwire.delivery.store.access import AccessRules
from signedwire.errors import ConfigError, DidError
from signedwire.files import NotRegularError, TooLargeError, cause_of, read_small_file
from signedwire.home import Bound
from signedwire.names import Names
from signedwire.types import Did, Reason

if TYPE_CHECKING:
    from signedwire.delivery.store import Store

__all__ = ["AccessFile", "AccessList", "read_access_file"]

_MAX_FILE_SIZE: Final = 16 * 1024 * 1024
"""Maximum size in bytes, enough for 200,000 lines."""
_NO_NAMES: Final = Names()
_HOW: Final = "A line is `allow DID`, `deny DID`, `allow none`, empty, or a comment after #"


class _Change(NamedTuple):
    """A call that changes the list."""

    keep: Callable[[AccessRules, Any], None]
    """The method that makes the change in a store."""
    keys: frozenset[bytes] | None


class AccessFile(NamedTuple):
    """The rules of an access file, with DIDs as their 32 bytes."""

    allowed: frozenset[bytes] | None
    """The DIDs of its `allow` lines; `None`: the file has no such line."""
    denied: frozenset[bytes]
    """The DIDs of its `deny` lines."""


class AccessList(Bound, instead="it is a part of its node"):
    """Decides which DIDs may link to this node and get its messages: `node.access`. Any thread.

    There are three sources: `allow` and `deny` of the configuration, the lines of
    `access_file` (`allow DID`, `deny DID`, or `allow none` for an empty allow list), and the
    methods below. A DID that any source denies is denied, even if an allow list has it. The
    `allow` option and the `allow` lines make one allow list together, and `allow_only()`
    makes another. A DID must be on each of the lists that exist.

    Changes by the methods are kept in the store of the node, and hold after a restart. They
    are on the disk some milliseconds later; `await node.outbox.flush()` waits for that.
    Without a store they hold until the node is closed. The node never writes the
    configuration or the file.

    When a call that denies a DID has returned, no message of that DID reaches the application.
    No further message is written to it. In the next turn of the event loop, its link is closed
    with code 4. Its messages in the inbox and the stored inbox are dropped and
    counted as `denied`. Messages that wait to be sent to it fail with that reason; with a store
    they become dead letters. New links of the DID are closed right after TLS has proven it, and
    its v1 messages are dropped.
    """

    def __init__(self, config: TransportConfig) -> None:
        self._lock = threading.RLock()
        self._reading = threading.Lock()
        self.has_rules = False
        """Whether any DID can be denied. An attribute, because it is read for each message."""
        # DIDs are kept as bytes, because v1 frames are checked before they are parsed.
        self._path = config.access_file
        self._names = config.names
        self._options = AccessFile(
            None if config.allow is None else self._keys(config.allow), self._keys(config.deny)
        )
        self._file = AccessFile(None, frozenset())
        # Each is changed by one atomic operation: the first is replaced, the set of denials is
        # changed in place.
        self._configured = self._options
        self._denied: set[bytes] = set()
        self._allowed: frozenset[bytes] | None = None
        self._store: Store | None = None
        # Changes made before the start, when the store is not open yet.
        self._early: list[_Change] = []
        self._is_open = False
        self._changes = 0
        self.on_change: Callable[[], None] | None = None
        """Called after each change, in the thread that made it."""
        self._update()

    def __repr__(self) -> str:
        only = "all" if self._allowed is None else f"{len(self._allowed)}"
        return f"<AccessList {len(self._denied)} denied, {only} allowed>"

    def deny(self, *dids: Did | str) -> None:
        """Deny these DIDs from now on.

        Args:
            dids: `Did` objects, their text, or names.

        Raises:
            DidError: a text is no DID; nothing was changed.
            TypeError: one is neither a `Did` nor text; nothing was changed.
            StoreFailedError, ClosedError: the change holds now, but is not in the store,
                because its disk has failed or the node is closed.
        """
        self._change(_Change(AccessRules.deny, self._keys(dids)))

    def undeny(self, *dids: Did | str) -> tuple[Did, ...]:
        """Withdraw denials of `deny()`.

        Returns:
            Those of the DIDs that are still denied: by the configuration, by the access file, or
            because they are not on an allow list.

        Raises:
            DidError, TypeError, StoreFailedError, ClosedError: see `deny()`.
        """
        keys = self._keys(dids)
        self._change(_Change(AccessRules.undeny, keys))
        return tuple(Did(key) for key in sorted(keys) if self.is_key_denied(key))

    def allow_only(self, dids: Iterable[Did | str] | None) -> None:
        """Deny all other DIDs; `None` withdraws the list of an earlier call.

        The list replaces that of an earlier call. It does not allow a DID that is denied, or
        that is not on the allow list of the configuration.

        Args:
            dids: `Did` objects, their text, or names. An empty list allows nobody.

        Raises:
            DidError, TypeError, StoreFailedError, ClosedError: see `deny()`.
        """
        keys = None if dids is None else self._keys(dids)
        self._change(_Change(AccessRules.allow_only, keys))

    def reload(self) -> int:
        """Read `access_file` again. Blocks the thread, about 50 µs for each line.

        In an event loop, call it in a thread: `await asyncio.to_thread(node.access.reload)`.

        Returns:
            The number of rules that the file has, each counted once. With 0 it denies nobody.

        Raises:
            ConfigError: the file cannot be read, or a line is wrong, so the rules read before
                still hold. Or the configuration names no file.
        """
        if self._path is None:
            raise ConfigError(
                "there is no access file to read again",
                "Name one: access_file in the configuration, or SIGNEDWIRE_ACCESS_FILE",
            )
        # One thread at a time, so that an older reading never replaces a newer one. The methods
        # that change the list do not wait for this lock.
        with self._reading:
            found = read_access_file(self._path, self._names)
            self._take_up(found, self._path)
        if self.on_change is not None:
            self.on_change()
        allowed = 0 if found.allowed is None else max(1, len(found.allowed))  # 1: `allow none`
        return allowed + len(found.denied)

    def is_denied(self, did: Did | str) -> bool:
        """Whether this DID is denied.

        Args:
            did: A `Did`, its text, or a name.

        Raises:
            DidError, TypeError: `did` is no DID.
        """
        return self.is_key_denied(bytes(self._names.did_of(did, "DID to look for")))

    def admit(self, header: MessageHeader, context: AdmissionContext) -> Reason | None:
        """Refuse messages of denied DIDs, as a `Policy`, also if nothing proves the sender."""
        return Reason.DENIED if self.denies(header.sender) else None

    def denies(self, did: Did) -> bool:
        """Whether this DID is denied: `is_denied()` without a check of the argument.

        Args:
            did: A `Did`, not its text.
        """
        return self.has_rules and self.is_key_denied(bytes(did))

    def is_key_denied(self, key: bytes) -> bool:
        """Whether the DID of these 32 bytes is denied."""
        while True:
            changes = self._changes
            configured = self._configured
            if key in self._denied or key in configured.denied:
                return True
            for allowed in (configured.allowed, self._allowed):
                if allowed is not None and key not in allowed:
                    return True
            # After a change meanwhile, look again: the sources were read at different moments.
            if changes == self._changes:
                return False

    def is_key_named(self, key: bytes) -> bool:
        """Whether an allow list names the DID of these 32 bytes."""
        lists = (self._configured.allowed, self._allowed)
        return any(allowed is not None and key in allowed for allowed in lists)

    def _open(self, store: Store | None) -> None:
        """Apply the changes that the store has kept. At the start, after the file was read."""
        with self._lock:
            self._is_open = True
            early, self._early = self._early, []
            if store is None:
                return
            # Changes made before the start are newer than those that the store has kept.
            self._store = store
            self._denied |= store.access.denied
            self._allowed = store.access.allowed
            for change in early:
                self._carry_out(change)
            self._update()

    def _take_up(self, found: AccessFile, path: Path) -> None:
        with self._lock:
            has_lost_its_list = self._file.allowed is not None and found.allowed is None
            if has_lost_its_list and self._options.allowed is None:
                raise ConfigError(
                    f"the access file {path} has no `allow` line any more, which would allow "
                    "everybody, so its former rules still hold",
                    "Write `allow none` to allow nobody; to allow everybody, restart the node",
                )
            self._file = found
            lists = [each.allowed for each in (self._options, found) if each.allowed is not None]
            allowed = frozenset().union(*lists) if lists else None
            self._configured = AccessFile(allowed, self._options.denied | found.denied)
            self._update()

    def _keys(self, dids: Iterable[Did | str]) -> frozenset[bytes]:
        # Bytes would be taken for a list of numbers, and empty bytes for an empty allow list.
        if isinstance(dids, (str, bytes, bytearray, memoryview, Did)):
            raise TypeError(f"expected a list of DIDs, not one {type(dids).__name__}")
        find = self._names.did_of
        return frozenset(bytes(find(did, "DID of an access list")) for did in dids)

    def _update(self) -> None:
        """Update what depends on the list. The caller holds the lock."""
        self._changes += 1
        self.has_rules = bool(self._denied or self._configured.denied) or not (
            self._allowed is None and self._configured.allowed is None
        )

    def _change(self, change: _Change) -> None:
        try:
            with self._lock:
                self._carry_out(change)
        finally:
            if self.on_change is not None:
                self.on_change()

    def _carry_out(self, change: _Change) -> None:
        """Change the list, then the store, so that the change holds even if the store fails."""
        keep, keys = change
        if keep is AccessRules.allow_only:
            self._allowed = None if keys is None else frozenset(keys)
        else:
            assert keys is not None  # only `allow_only(None)` has none
            if keep is AccessRules.deny:
                self._denied |= keys
            else:
                self._denied -= keys
        self._update()
        if self._store is not None:
            keep(self._store.access, keys)
        elif not self._is_open:
            self._early.append(change)


def read_access_file(path: Path, names: Names = _NO_NAMES) -> AccessFile:
    """Read the rules of the access file at `path`.

    Args:
        path: The file.
        names: Names that may stand in place of a DID.

    Raises:
        ConfigError: the file cannot be read, is no regular file, is larger than 16 MiB, or
            has a wrong line. The error names the file and the line.
    """
    allowed: set[bytes] = set()
    denied: set[bytes] = set()
    has_allow_list = False
    for number, line in enumerate(_lines(path), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        rule, *rest = words
        if rule not in ("allow", "deny"):
            raise ConfigError(f"{path}, line {number}: {shown(rule, 42)} is no rule", _HOW)
        if not rest or (len(rest) > 1 and not rest[1].startswith("#")):
            raise ConfigError(f"{path}, line {number}: {rule} takes one DID", _HOW)
        if [rule, rest[0]] == ["allow", "none"]:
            has_allow_list = True
            continue
        try:
            key = bytes(names.did_of(rest[0]))
        except DidError as error:
            raise ConfigError(f"{path}, line {number}: {error.fact}", error.hint) from None
        if rule == "allow":
            has_allow_list = True
            allowed.add(key)
        else:
            denied.add(key)
    return AccessFile(frozenset(allowed) if has_allow_list else None, frozenset(denied))


def _lines(path: Path) -> list[str]:
    try:
        data, _ = read_small_file(path, _MAX_FILE_SIZE)
    except NotRegularError:
        raise ConfigError(f"the access file {path} is no regular file", "Name a file") from None
    except TooLargeError:
        raise ConfigError(
            f"the access file {path} is larger than 16 MiB", "Is it the right file?"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"cannot read the access file {path}: {cause_of(error)}",
            "Does the file exist, and may this user read it?",
        ) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {number}: not UTF-8", _HOW) from None
    if not text.strip():
        raise ConfigError(
            f"the access file {path} is empty: it may have been cut off",
            "Write a rule into it, or a comment if there shall be no rule",
        )
    return text.split("\n")
