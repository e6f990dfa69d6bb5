"""Tells a new, unfinished store file from one whose content was lost.

    x.db-unfinished    an empty marker file, made before `x.db`, removed when that is complete

A first start that is killed leaves an empty file with the marker beside it, and the next
start begins again. An empty file without the marker has lost its content: denials, the
marks against duplicates, and messages. Such a file is refused.
"""

from __future__ import annotations

import contextlib
import os
import stat

from signedwire.errors import StoreCorruptError, StoreOpenError

__all__ = ["begin", "check_begun", "finish", "marker_of"]


def marker_of(path: str) -> str:
    """Return the path of the marker, beside the file to which symbolic links lead."""
    return f"{os.path.realpath(path)}-unfinished"


def begin(path: str) -> None:
    """Make the marker, before the store file itself is made.

    Raises:
        StoreOpenError: another file is in the place of the marker.
        OSError: the marker cannot be made.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(marker_of(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    if os.path.lexists(marker_of(path)) and not _is_there(path):
        raise StoreOpenError(path, f"{marker_of(path)} is in the way", "Move it away")


def finish(path: str) -> None:
    """Remove the marker, if there is one: the file is complete, or was not made."""
    if _is_there(path):
        with contextlib.suppress(OSError):  # beside a complete file the marker does no harm
            os.unlink(marker_of(path))


def check_begun(path: str, *, is_empty: bool) -> None:
    """Refuse an empty file that has no marker.

    Raises:
        StoreCorruptError: the file is empty and has no marker.
    """
    if is_empty and not _is_there(path):
        raise StoreCorruptError(
            path,
            "it is empty, and no node was interrupted while it made it: its content is lost",
            "Restore an earlier copy. Or remove the file to start with an empty store: without "
            "denials, waiting messages, and the marks that detect duplicates",
        )


def _is_there(path: str) -> bool:
    # Only an empty regular file is the marker: a file with content is never removed.
    try:
        found = os.lstat(marker_of(path))
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == 0
