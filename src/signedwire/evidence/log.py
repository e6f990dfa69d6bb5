"""The file of an evidence log, and the thread that writes it.

    append ─→ queue ─→ records of all waiting messages ─→ write, fdatasync ─→ callbacks

`chain` defines a record. The file only grows at its end, and nothing in it is ever
changed. A record is on the disk when `on_commit(None)` is called. All messages that wait
during one sync share the next one, as in a store. After a failed write the log accepts
nothing more, and every waiting caller gets the error.

Opening reads the whole file and checks its chain. Bytes behind the last sound record,
from a crash, were never confirmed to any caller. They are cut off and kept in a file
beside the log, because they might be damage and not a torn write. Earlier damage is an
error.

No other program may change the file. Before a record counts as written, the file is
compared with its known state (see `FileWatch`), and a difference is a failure.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Final

from signedwire.clock import monotonic
from signedwire.delivery.message import Message
from signedwire.delivery.store.commits import Dispatch, Executor, Inline, Operation, Writer
from signedwire.delivery.store.records import OnCommit
from signedwire.errors import ClosedError, EvidenceLogError, StoreError
from signedwire.evidence.chain import (
    Chain,
    LogHeader,
    name_of,
)
from signedwire.evidence.disk import (
    BINARY,
    NotRotatedError,
    close,
    discard_next,
    make_next,
    remove_unfinished,
    sync_data,
    write_all,
)
from signedwire.evidence.files import (
    NEW_SUFFIX,
    ChangedByOthersError,
    FileWatch,
    NumberedFiles,
    Removed,
    Rotated,
    RotationPolicy,
)
from signedwire.evidence.opening import (
    Found,
    lost_error,
    open_error,
    open_log,
    read_log,
)
from signedwire.files import cause_of
from signedwire.folders import Folder, sync_folder
from signedwire.logs import fields
from signedwire.stats import EvidenceHead, EvidenceStats
from signedwire.types import Did, did_text, unix_time_us

__all__ = ["EvidenceLog"]

_CHUNK: Final = 1024 * 1024
_BYTES_PER_MESSAGE: Final = 1024
"""Number of bytes that count as one more message where the writer limits one commit."""
_MAX_WAITING: Final = 4096
_CHANGED_HINT: Final = (
    "Keep logrotate and similar programs away from it. Stop the node, restore the file, and "
    "start it again; docs/evidence.md explains how to rotate it"
)
_RETRY_ROTATION: Final = 60.0
"""Seconds after a failed rotation until the next attempt."""


RotationEvent = Rotated | Removed


_NO_ROTATION: Final = RotationPolicy()


class EvidenceLog:
    """An evidence log, with the thread that owns its file. Opening and `close()` block.

    Args:
        path: Path of the file, which is made if there is none.
        owner: The node's DID; the file belongs to this node alone.
        dispatch: Schedules the callbacks, such as `loop.call_soon_threadsafe`. By default
            they run in the thread that writes, where they must not raise or block.
        unacked: Names (`name_of`) of messages that a store has accepted. If a crash came
            before they were logged, `restored()` logs them.
        is_threaded: Whether a separate thread writes. Otherwise each call writes.
        rotation: When to rotate the log, and how many old files to keep.

    Raises:
        EvidenceLogError: the file cannot be used; its content is unchanged.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        owner: Did,
        *,
        dispatch: Dispatch = lambda run: run(),
        unacked: Collection[bytes] = (),
        is_threaded: bool = True,
        rotation: RotationPolicy = _NO_ROTATION,
    ) -> None:
        try:
            self.path = os.path.abspath(path)
        except FileNotFoundError:
            raise EvidenceLogError(
                os.fsdecode(path),
                "cannot be opened: its path is relative, and the working directory is gone",
                "Give the whole path",
            ) from None
        self.on_rotation: Callable[[RotationEvent], None] | None = None
        """Callback for a rotation or the removal of an old file; runs where `on_commit` does."""
        self._log = logging.getLogger("signedwire.evidence")
        files: list[_File] = []

        def open_() -> _File:
            files.append(_File(self.path, owner, unacked, self._log, rotation, self._emit))
            return files[0]

        executor: Executor
        if is_threaded:
            executor = Writer(open_, dispatch, self._on_failure, "signedwire-log")
        else:
            executor = Inline(open_(), dispatch, self._on_failure)
        self._executor = executor
        self._file = files[0]
        self._unlogged = self._file.unlogged

    # -- accepted messages, any thread ---------------------------------------------------

    def append(self, messages: Sequence[Message], on_commit: OnCommit | None = None) -> None:
        """Log accepted messages; call `on_commit` when all messages so far are on the disk.

        `messages` may be empty. Unsigned messages are not logged, because they prove nothing.

        Raises:
            EvidenceLogError, ClosedError: the log has failed, or is closed.
        """
        proven = [message for message in messages if message.is_proven]
        weight = len(proven) + sum(message.size for message in proven) // _BYTES_PER_MESSAGE
        run = partial(self._file.append, proven, unix_time_us()) if proven else None
        self._executor.submit(Operation(run, on_commit, None, weight))
        self._executor.flush()

    def after(self, messages: Sequence[Message], on_commit: OnCommit) -> OnCommit:
        """Return a callback for the commit of `messages` that logs them, then calls `on_commit`."""
        return partial(self._append_then, messages, on_commit)

    def _append_then(
        self, messages: Sequence[Message], on_commit: OnCommit, error: StoreError | None
    ) -> None:
        if error is None:
            try:
                self.append(messages, on_commit)
            except StoreError as failure:
                on_commit(failure)
            except ClosedError:  # messages in a store are delivered again
                on_commit(EvidenceLogError(self.path, "is closed"))
        else:
            on_commit(error)

    def restored(self, message: Message, on_commit: OnCommit) -> None:
        """Log a message that an earlier process accepted, unless that process logged it."""
        name = name_of(message.envelope.body)
        is_missing = name in self._unlogged
        self._unlogged.discard(name)
        self._append_then([message] if is_missing else [], on_commit, None)

    # -- the log -----------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """Whether fewer than 4096 messages wait for the disk; if not, callers should wait."""
        return self._executor.waiting < _MAX_WAITING

    @property
    def head(self) -> EvidenceHead:
        """The head of the log on the disk, which covers every record."""
        return self._file.head

    @property
    def failure(self) -> StoreError | None:
        """The error that stopped the log; `None` while it works."""
        return self._executor.failure

    @property
    def on_failed(self) -> Callable[[StoreError], None] | None:
        """Callback for the failure of the log; runs once, where `on_commit` does."""
        return self._executor.on_failed

    @on_failed.setter
    def on_failed(self, callback: Callable[[StoreError], None] | None) -> None:
        self._executor.on_failed = callback

    def rotate(self, archive: str | os.PathLike[str] | None = None) -> Future[EvidenceHead]:
        """Rename the file, and continue in a new one whose header names the old head.

        Args:
            archive: The new path of the old file. By default the next number, beside the
                log; a log without records then stays as it is.

        Returns:
            A future of the head of the old file. It fails with EvidenceLogError if the
            path exists or is on another disk; the log then continues unchanged.

        Raises:
            TypeError: `archive` is not a path.
            EvidenceLogError: `archive` cannot be the path of a file; nothing has changed.
        """
        future: Future[EvidenceHead] = Future()
        name = None if archive is None else _archive_name(self.path, archive)
        rotate = partial(self._file.rotate, name)
        self._executor.submit(Operation(rotate, None, future))
        self._executor.flush()
        return future

    def stats(self) -> EvidenceStats:
        """Return a snapshot of the numbers."""
        failure = self._executor.failure
        return EvidenceStats(
            path=self.path,
            head=self._file.head,
            size=self._file.size,
            torn=self._file.torn,
            waiting=self._executor.waiting,
            failure=None if failure is None else failure.fact,
        )

    def close(self, timeout: float | None = None) -> bool:
        """Write all appended messages and release the file; blocks. Safe to call twice.

        Returns `False` if `timeout` seconds were not enough; the thread then continues.
        """
        is_closed = self._executor.close(timeout)
        head = self.head
        extra = fields("evidence closed", path=self.path, count=head.records)
        args = self.path, head.records, head
        self._log.info("evidence log %s: %d records, head %s", *args, extra=extra)
        return is_closed

    def _emit(self, event: RotationEvent) -> None:
        if self.on_rotation is not None:
            self.on_rotation(event)

    def _on_failure(self, error: BaseException) -> EvidenceLogError:
        hint = "Check the disk, then start the node again"
        if isinstance(error, ChangedByOthersError):
            hint = _CHANGED_HINT
        elif getattr(error, "errno", None) == errno.ENOSPC:
            hint = "Make room on the disk, then start the node again"
        elif not isinstance(error, OSError):
            hint = "This is a fault of signedwire: report it, and start the node again"
        failure = EvidenceLogError(
            self.path,
            f"has failed: {cause_of(error)}; nothing more is accepted or acknowledged",
            hint,
        )
        self._log.error("%s", failure, extra=fields("evidence failed", path=self.path))
        return failure


def _archive_name(path: str, archive: str | os.PathLike[str]) -> str:
    name = os.fspath(archive)
    if not isinstance(name, str):
        raise TypeError(f"the name of an archive is text or a Path, not {type(name).__name__}")
    if not name or "\0" in name:
        raise EvidenceLogError(
            path, f"was not rotated: {name!r} is not a file name", "Give the archive a file name"
        )
    return os.path.abspath(name)


class _File:
    """The `Engine` of an evidence log: holds the open file, in the thread that writes."""

    def __init__(
        self,
        path: str,
        owner: Did,
        unacked: Collection[bytes],
        log: logging.Logger,
        rotation: RotationPolicy,
        emit: Callable[[RotationEvent], None],
    ) -> None:
        self._path = path
        self._owner = owner
        self._log = log
        self._rotation = rotation
        self._emit = emit
        self._notifications: list[RotationEvent] = []
        self._numbers = NumberedFiles(path, bytes(owner))
        self._retry_at = 0.0
        self._buffer = bytearray()
        self._is_changed = False
        self.torn = 0
        """Number of bytes from a crash that were cut off when the log was opened."""
        try:
            self._fd = open_log(path, self._numbers)
        except OSError as error:
            raise open_error(path, error) from None
        try:
            newest = self._numbers.newest()
            found = read_log(self._fd, path, set(unacked))
            if found is None:
                if newest is not None:
                    raise lost_error(path, "is empty", newest)
                self._remove_rights(0o077)
                found = self._begin(set(unacked))
            else:
                self._check_owner(found.header)
                later = self._numbers.later_part(found.header, found.size, found.count)
                if later is not None:
                    raise lost_error(path, "is an older copy, or of another chain", later)
                self._remove_rights(0o022)
                self._cut(found)
                remove_unfinished(path, bytes(owner))
            # The lock is held, so no other node rotates the log now.
            self._records_before = self._numbers.records_before(found.header)
            sync_folder(os.path.dirname(path))  # a crash may have prevented it before
        except OSError as error:
            close(self._fd)
            raise open_error(path, error) from None
        except BaseException:
            close(self._fd)
            raise
        self.unlogged = found.unlogged
        self._chain = Chain(found.head, found.count)
        self.head = EvidenceHead(found.count, found.head.hex())
        self.size = found.size
        self._continue_in(found.header)

    def _continue_in(self, header: LogHeader) -> None:
        """Continue the log in the file that is open now."""
        self._watch = FileWatch(self._fd, self._path)
        self._started_at_us = header.started_at_us
        self._opened_at = monotonic()

    # -- opening ---------------------------------------------------------------------------

    def _begin(self, unacked: set[bytes]) -> Found:
        header = LogHeader(bytes(self._owner), unix_time_us())
        data = header.encode()
        os.ftruncate(self._fd, 0)
        write_all(self._fd, data)
        os.fsync(self._fd)
        return Found(header, data[-32:], 0, len(data), unacked)

    def _check_owner(self, header: LogHeader) -> None:
        if header.owner != bytes(self._owner):
            raise EvidenceLogError(
                self._path,
                f"cannot be used: it belongs to {did_text(header.owner)}, and this node is "
                f"{self._owner}",
                "Start with the key that it was made with, or name another file",
            )

    def _remove_rights(self, bits: int) -> None:
        """Remove the mode bits `bits`: all of group and others for a new log, else write bits."""
        mode = stat.S_IMODE(os.fstat(self._fd).st_mode)
        if os.name != "posix" or not mode & bits:
            return
        try:
            os.fchmod(self._fd, mode & ~bits)
        except PermissionError:
            raise EvidenceLogError(
                self._path,
                f"cannot be used: other users have access (mode {mode:04o}), and this user may not "
                "change that",
                f"Run `chmod {mode & ~bits:04o}` on it as its owner, or name another file",
            ) from None
        self._log.warning(
            "evidence log %s: its mode %04o gave access to other users; it is %04o now",
            self._path,
            mode,
            mode & ~bits,
            extra=fields("evidence mode", path=self._path),
        )

    def _cut(self, found: Found) -> None:
        total = os.fstat(self._fd).st_size
        self.torn = total - found.size
        if not self.torn:
            return
        beside = f"{self._path}.torn-{found.size}-{unix_time_us()}"
        copy = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY, 0o600)
        try:
            os.lseek(self._fd, found.size, os.SEEK_SET)
            while data := os.read(self._fd, _CHUNK):
                write_all(copy, data)
            os.fsync(copy)
        finally:
            os.close(copy)
        sync_folder(os.path.dirname(beside))
        os.ftruncate(self._fd, found.size)
        os.fsync(self._fd)
        self._log.warning(
            "evidence log %s: %d bytes behind record %d are not a whole record, as after a "
            "crash; they were moved to %s",
            self._path,
            self.torn,
            found.count,
            beside,
            extra=fields("evidence torn", path=self._path, count=self.torn),
        )

    # -- the engine --------------------------------------------------------------------------

    def append(self, messages: Sequence[Message], accepted_at_us: int) -> None:
        """Make the records of messages; the next `commit()` writes them to the disk."""
        for message in messages:
            if self._is_full(accepted_at_us):
                self._rotate_by_policy()
            self._buffer += self._chain.record(accepted_at_us, message.envelope)
            if len(self._buffer) >= _CHUNK:
                self._flush()

    def _is_full(self, now_us: int) -> bool:
        """Whether the policy requires a rotation before the next record."""
        policy, size = self._rotation, self.size + len(self._buffer)
        if not self._chain.count or (self._retry_at and monotonic() < self._retry_at):
            return False
        if policy.max_bytes is not None and size >= policy.max_bytes:
            return True
        if policy.max_age is None:
            return False
        # The monotonic clock measures from the opening only, and the wall clock may have been
        # set back, so the larger age counts.
        age = (now_us - self._started_at_us) / 1_000_000
        return max(age, monotonic() - self._opened_at) >= policy.max_age

    def _rotate_by_policy(self) -> None:
        result = self.rotate(None)
        self._retry_at = 0.0
        if isinstance(result, EvidenceLogError):  # no record is lost: the file only grows
            self._retry_at = monotonic() + _RETRY_ROTATION
            self._log.error("%s", result, extra=fields("evidence not rotated", path=self._path))

    def _flush(self) -> None:
        if self._buffer:
            self._watch.check(self.size)  # else there could be a gap before the records
            self._is_changed = True
            write_all(self._fd, self._buffer)
            self.size += len(self._buffer)
            self._buffer.clear()

    def commit(self, *, is_idle: bool) -> bool:
        """See `Engine`."""
        self._flush()
        if not self._is_changed:
            self._watch.check(self.size)
            return False
        sync_data(self._fd)
        self._watch.check(self.size)
        self._is_changed = False
        self.head = EvidenceHead(self._chain.count, self._chain.head.hex())
        return True

    def notifications(self) -> list[Callable[[], None]]:
        """See `Engine`."""
        notifications, self._notifications = self._notifications, []
        return [partial(self._emit, each) for each in notifications]

    def checkpoint(self) -> None:
        """See `Engine`."""

    def close(self) -> None:
        """See `Engine`. Changes of an idle log by other programs are detected here."""
        if not self._buffer and not self._is_changed:  # else a commit has failed
            try:
                self._watch.check(self.size)
            except OSError as error:
                self._log.error(
                    "the evidence log %s is damaged: %s",
                    self._path,
                    cause_of(error),
                    extra=fields("evidence failed", path=self._path),
                )
        close(self._fd)

    def rotate(self, archive: str | None) -> EvidenceHead | EvidenceLogError:
        """Rotate the log; return the head of the old file, or the error if nothing was done."""
        self.commit(is_idle=True)
        head, path = self.head, self._path
        last = self._records_before + head.records
        if archive is None:
            if not head.records:
                return head
            archive = self._numbers.name(last)
        if os.path.lexists(archive):
            return EvidenceLogError(path, f"was not rotated: {archive} exists", "Name another file")
        header = LogHeader(bytes(self._owner), unix_time_us(), self._chain.head)
        data = header.encode()
        try:
            self._replace_file(archive, data)
        except NotRotatedError as error:
            return EvidenceLogError(
                path,
                f"was not rotated: {error}",
                "Name a file that does not exist, on the same disk, in a directory that exists",
            )
        self._chain = Chain(data[-32:])
        self.head = EvidenceHead(0, data[-32:].hex())
        self.size = len(data)
        self._records_before = last
        self._continue_in(header)
        self._log.info(
            "evidence log %s: rotated; its %d records are in %s now",
            path,
            head.records,
            archive,
            extra=fields("evidence rotated", path=archive, count=head.records),
        )
        self._notifications.append(Rotated(archive, head.records, head.hash))
        if self._rotation.keep is not None:
            self._notifications += self._numbers.remove_all_but(
                self._rotation.keep, last, self._log
            )
        return head

    def _replace_file(self, archive: str, data: bytes) -> None:
        """Rename the log to `archive`, and give its name to a new file with `data`.

        Raises:
            NotRotatedError: nothing was done.
            OSError: the log is renamed, and the next start must do the second rename.
        """
        path = self._path
        with contextlib.ExitStack() as stack:
            try:
                # Opened before the rename: after it there may be no file descriptor left.
                names = {os.path.dirname(archive), os.path.dirname(path)}
                folders = [stack.enter_context(Folder(each)) for each in names]
                fd, is_readable = make_next(path, data, self._fd)
                try:
                    os.rename(path, archive)
                except OSError:
                    discard_next(fd, path)
                    raise
            except (OSError, StoreError) as error:
                raise NotRotatedError(cause_of(error)) from error
            if not is_readable:
                self._log.warning(
                    "evidence log %s: other users could read the old file, and only this user can "
                    "read the new one; set its group and mode again",
                    path,
                    extra=fields("evidence mode", path=path),
                )
            self._is_changed = True  # until both renames are on the disk
            old, self._fd = self._fd, fd
            close(old)
            for folder in folders:  # else only the second rename might be on the disk
                folder.sync()
            os.rename(path + NEW_SUFFIX, path)  # see finish_rotation()
            for folder in folders:
                folder.sync()
            self._is_changed = False
