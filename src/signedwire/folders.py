"""Folders: makes the names of new, renamed and removed files durable over a power cut.

`fsync()` of a file keeps only its content. The name is in the folder, which needs its own
sync. Every module that promises a durable name calls this one.
"""

from __future__ import annotations

import errno
import os
from types import TracebackType
from typing import Final, Self

__all__ = ["NO_LINKS", "Folder", "make_folders", "rename_new", "sync_folder"]

_POSIX: Final = os.name == "posix"
_FLAGS: Final = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_SYNC: Final = frozenset({errno.EINVAL, errno.ENOTSUP})
NO_LINKS: Final = frozenset(
    {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK, errno.EXDEV}
    | ({errno.EACCES} if not _POSIX else set())
)
"""Error codes of link() on a file system without hard links: FAT, some NFS, SMB and FUSE."""


class Folder:
    """An open folder, to sync later: opening it only then could fail for lack of descriptors.

    Nothing is opened on Windows, or if this user may not read the folder (EACCES, as with
    mode 0300). Such a folder is not synced, because a sync needs that right.

    Args:
        path: The folder; empty for the working directory.

    Raises:
        OSError: the folder cannot be opened for another reason.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._descriptor = -1
        if _POSIX:  # pragma: no branch
            try:
                self._descriptor = os.open(os.fspath(path) or os.curdir, _FLAGS)
            except OSError as error:
                if error.errno != errno.EACCES:
                    raise

    def sync(self) -> None:
        """Make the names in the folder durable; blocks.

        EINVAL and ENOTSUP are ignored, from a file system that cannot sync a folder.

        Raises:
            OSError: the disk failed; changes of the names may be lost.
        """
        if self._descriptor >= 0:
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                if error.errno not in _NO_SYNC:
                    raise

    def close(self) -> None:
        """Close the descriptor. Safe to call twice."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def sync_folder(path: str | os.PathLike[str]) -> None:
    """Make the names in a folder durable, where `Folder` can; blocks.

    Raises:
        OSError: the disk failed, or the folder cannot be opened.
    """
    with Folder(path) as folder:
        folder.sync()


def make_folders(path: str | os.PathLike[str]) -> None:
    """Make a folder and its missing parents, with mode 0700, and make them durable.

    Raises:
        OSError: a folder cannot be made or synced, or something else has its name.
    """
    path = os.fspath(path)
    above = os.path.dirname(path)
    if above and not os.path.isdir(above):
        make_folders(above)
    try:
        os.mkdir(path, 0o700)
    except OSError:  # an existing folder does not always give EEXIST
        if not os.path.isdir(path):
            raise
    else:
        sync_folder(above)


def rename_new(old: str, new: str) -> None:
    """Rename a file without replacing another one; a crash may leave both names.

    On a file system without hard links, a file that appears between check and rename is
    replaced.

    Raises:
        FileExistsError: something has the new name; nothing was done.
        OSError: the file cannot be renamed.
    """
    try:
        os.link(old, new)
    except FileExistsError:
        # NFS repeats a call whose answer was lost, so the existing name may be ours.
        if not os.path.samestat(os.lstat(old), os.lstat(new)):
            raise
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if os.path.lexists(new):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new) from None
        os.rename(old, new)
        return
    os.unlink(old)
