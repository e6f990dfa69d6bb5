"""How the file of a store begins: an empty file is a new store only while it is being made.

    x.db-unfinished    empty; there from before `x.db` is made until it is whole

A first start that is killed leaves an empty file, and the mark beside it, and the next
start begins again. An empty file without the mark has lost what was in it: denials, the
marks against duplicates, and messages. Such a file is refused.
"""

from __future__ import annotations

import contextlib
import os
import stat

from signedwire.errors import StoreCorruptError, StoreOpenError

__all__ = ["begin", "check_begun", "finish", "mark_of"]


def mark_of(path: str) -> str:
    """The path of the mark: beside the file that links lead to."""
    return f"{os.path.realpath(path)}-unfinished"


def begin(path: str) -> None:
    """Make the mark, before the file itself is made.

    Raises:
        StoreOpenError: another file is in its place.
        OSError: it cannot be made.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(mark_of(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    if os.path.lexists(mark_of(path)) and not _is_there(path):
        raise StoreOpenError(path, f"{mark_of(path)} is in its way", "Move it away")


def finish(path: str) -> None:
    """Remove the mark, where there is one: the file is whole, or was not made."""
    if _is_there(path):
        with contextlib.suppress(OSError):  # beside a whole file it does no harm
            os.unlink(mark_of(path))


def check_begun(path: str, *, is_empty: bool) -> None:
    """Refuse a file that is empty although nobody was making it.

    Raises:
        StoreCorruptError: it is.
    """
    if is_empty and not _is_there(path):
        raise StoreCorruptError(
            path,
            "it is empty, and no node is known to have begun it: what was in it is lost",
            "Restore a copy of before, or remove the file to begin anew, without the denials, "
            "the messages that wait, and the marks of what has arrived already",
        )


def _is_there(path: str) -> bool:
    # Only an empty file is ours: never is anything removed that somebody has written.
    try:
        found = os.lstat(mark_of(path))
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == 0
