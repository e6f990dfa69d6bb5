"""Folders: how a file that was made, renamed or removed stays so after a power cut.

`fsync()` of a file keeps its content. Its name is in the folder, which needs a sync of its
own. Every module that promises that a name is durable calls this one.
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
"""What link() says on a file system without hard links: FAT, some of NFS, SMB and FUSE."""


class Folder:
    """An open folder, to be synced later: opening it then could fail for want of descriptors.

    Nothing is opened on Windows, and where this user may not read the folder (EACCES, as
    with mode 0300): such a folder is not synced, because nobody without that right can.

    Args:
        path: The folder; empty: the working directory.

    Raises:
        OSError: it cannot be opened for another reason.
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
        """Make the names in it durable; blocks.

        A file system that cannot sync a folder says EINVAL or ENOTSUP, and that is ignored.

        Raises:
            OSError: the disk failed: what was done to the names may be lost.
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
    """Make a folder and those above it that are missing, of mode 0700, and make them durable.

    Raises:
        OSError: one cannot be made or synced, or something else has its name.
    """
    path = os.fspath(path)
    above = os.path.dirname(path)
    if above and not os.path.isdir(above):
        make_folders(above)
    try:
        os.mkdir(path, 0o700)
    except OSError:  # not always EEXIST where it is there
        if not os.path.isdir(path):
            raise
    else:
        sync_folder(above)


def rename_new(old: str, new: str) -> None:
    """Rename a file, and never over another one; a crash may leave both names.

    Without hard links another file can still come between the look and the renaming.

    Raises:
        FileExistsError: something has the new name; nothing was done.
        OSError: it cannot be renamed.
    """
    try:
        os.link(old, new)
    except FileExistsError:
        # NFS repeats a call whose answer was lost: the name that is there may be ours.
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
