"""Locks that let the processes of one key run one after the other.

They share a store and the numbers of messages. `signedwire send` holds the lock while its
node runs. `listen`, and the commands that work on the store's file, hold it while they open
or use that file. So parallel `send` commands all go through, and none finds the store in use
by another.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from signedwire.cli.output import say
from signedwire.resources import start_thread
from signedwire.types import Did

__all__ = ["KeyLock", "lock_folder"]

_PATIENCE: Final = 10.0
"""Seconds for which a process waits for the lock by default."""


class KeyLock:
    """A lock on a file of the user, for the short-lived processes of one key.

    If the file cannot be made, as without a folder to write to, nothing is locked. A process
    that does not get the lock in time says so on stderr and goes on. Its work then succeeds
    beside the other process, or fails with an error of its own.

    Args:
        did: The key.
        folder: The folder of the lock file; `None`: there is none, and nothing is locked.
        patience: Seconds to wait, at most 10; `None`: 10.
    """

    def __init__(self, did: Did, folder: Path | None, patience: float | None = None) -> None:
        self._did = did
        self._folder = folder
        self._patience = _PATIENCE if patience is None else min(patience, _PATIENCE)
        self._fd = -1
        self._is_ours = False
        self.waited = 0.0
        """Seconds for which `acquire()` has waited."""

    def acquire(self) -> None:
        """Wait for the lock, at most as long as the patience."""
        began = time.monotonic()
        while not self._try() and not self._wait(began + self._patience):
            self.waited = time.monotonic() - began
            if self.waited >= self._patience:
                say(
                    f"another process of {self._did} has been at work for {self.waited:.0f} s; "
                    "going on beside it"
                )
                self.release()
                return
        self.waited = time.monotonic() - began

    def _wait(self, until: float) -> bool:
        """Wait for the lock, which another process has; returns whether it is ours then.

        Args:
            until: An instant of the monotonic clock.
        """
        if self._fd < 0:  # the file was replaced meanwhile, and the new one may be free
            return False
        waiting = _BlockingLock(self._fd)
        self._fd = -1
        fd = waiting.result(max(0.0, until - time.monotonic()))
        if fd is None:
            return False
        self._fd = fd
        return self._is_current()

    def release(self) -> None:
        """Release the lock, so that the next process can take it. Safe to call twice."""
        fd, self._fd = self._fd, -1
        is_ours, self._is_ours = self._is_ours, False
        if fd >= 0:
            if is_ours and self._path is not None:
                # Removed while it is locked, so that waiting processes see that it is gone.
                with contextlib.suppress(OSError):
                    self._path.unlink()
            os.close(fd)

    def _try(self) -> bool:
        """Return whether the lock is ours now, or nothing can be locked."""
        if self._fd < 0:
            self._fd = self._open()
        if self._fd < 0:
            return True
        return _lock(self._fd) and self._is_current()

    def _is_current(self) -> bool:
        """Return whether the file that we have locked is the one that others lock."""
        self._is_ours = self._has_name()
        if not self._is_ours:  # the process that had the lock has removed the file
            self.release()
        return self._is_ours

    @property
    def _path(self) -> Path | None:
        if self._folder is None:
            return None
        return self._folder / f"{str(self._did).removeprefix('did:key:')}.lock"

    def _open(self) -> int:
        if self._folder is None or self._path is None:
            return -1
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            if not _is_private(self._folder):
                return -1
            return os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            return -1

    def _has_name(self) -> bool:
        try:
            found = None if self._path is None else self._path.stat()
            return found is not None and os.path.samestat(os.fstat(self._fd), found)
        except OSError:
            return False

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def lock_folder() -> Path | None:
    """Return the folder for the locks of this user; `None`: there is none.

    The environment does not change it: a login shell has an XDG_RUNTIME_DIR and cron has
    none, and both must use the same folder.
    """
    if sys.platform == "win32":
        try:
            return Path(tempfile.gettempdir()) / "signedwire"
        except OSError:  # there is no temporary folder
            return None
    else:
        return Path("/tmp") / f"signedwire-{os.getuid()}"


def _is_private(folder: Path) -> bool:
    """Return whether no other user can write to the folder, which others may have made."""
    if sys.platform == "win32":
        return True
    found = folder.lstat()
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return is_ours and not found.st_mode & 0o022


class _BlockingLock:
    """Waits for a lock in a thread, because no system call for it has a timeout.

    Args:
        fd: Descriptor of the file; this object closes it if the wait is given up.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._is_locked = threading.Event()
        self._is_given_up = False
        start_thread(threading.Thread(target=self._run, daemon=True))

    def _run(self) -> None:
        while not _lock(self._fd, waits=True) and not self._is_given_up:
            pass  # Windows waits for 10 s at most
        with self._lock:
            if self._is_given_up:
                os.close(self._fd)
            else:
                self._is_locked.set()

    def result(self, seconds: float) -> int | None:
        """Return the descriptor once the file is locked; `None`: it is not after `seconds`."""
        try:
            self._is_locked.wait(seconds)
        finally:
            with self._lock:
                self._is_given_up = not self._is_locked.is_set()
        return None if self._is_given_up else self._fd


def _lock(fd: int, *, waits: bool = False) -> bool:
    """Lock a file, and return whether it is locked.

    Args:
        fd: Descriptor of the file.
        waits: Whether to wait while another process has the lock.

    Returns:
        Whether the file is locked; `True`, too, if the file system has no locks.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(fd, msvcrt.LK_LOCK if waits else msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(fd, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return waits is False or sys.platform != "win32"
    return True
