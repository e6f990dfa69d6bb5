"""Key files: checks and reads one, and writes one completely or not at all."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import shlex
import stat
from collections.abc import Iterator
from typing import Final

from signedwire.errors import IdentityError, IdentityProblem
from signedwire.files import NotRegularError, TooLargeError, cause_of, read_small_file
from signedwire.folders import NO_LINKS, sync_folder
from signedwire.keyformats import is_key_for_path
from signedwire.logs import fields

__all__ = [
    "MAX_FILE_SIZE",
    "read_key_file",
    "refuse_key_for_path",
    "replace_empty_file",
    "write_new_file",
]

MAX_FILE_SIZE: Final = 64 * 1024
"""Largest accepted file, in bytes. The largest honest key, an encrypted OpenSSH one with a
comment, has about 500."""
_POSIX: Final = os.name == "posix"
# O_BINARY is Windows only, O_CLOEXEC POSIX only.
_CREATE_FLAGS: Final = (
    os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
)
_MAX_LINKS: Final = 40
"""Maximum number of symbolic links that are followed in one path, as in Linux."""
_GROUP_OPTION: Final = (
    "where its group has to read it, as in Kubernetes with fsGroup, say so: "
    "`key_group_readable = true` in the configuration, SIGNEDWIRE_KEY_GROUP_READABLE=true, "
    "or --key-group-readable"
)


_logger: Final = logging.getLogger(__name__)
_warned: Final[set[str]] = set()


def refuse_key_for_path(name: str) -> None:
    """Refuse a key that was given as the path of a key file, before it is used or shown.

    Raises:
        IdentityError: `name` is probably a key. The error does not show it.
    """
    if is_key_for_path(name):
        raise IdentityError(
            "what was given as the path of a key file is a key itself, or looks like one, "
            "so it is not shown here",
            "Put it into a file of mode 0600, or into SIGNEDWIRE_IDENTITY_KEY; a path with ./ or "
            "/ at its start is none",
            IdentityProblem.ABSENT,
        )


# --- reading ---------------------------------------------------------------------------


def read_key_file(name: str, *, group_readable: bool = False, warns: bool = True) -> bytes:
    """Return the bytes of a key file, after checks of its kind, permissions and size.

    With `group_readable`, the group of the file may read it; with `warns`, a warning about
    that is logged once.

    The file is opened first and the opened file is checked, so nobody can exchange it in
    between. The call never waits for a writer of a FIFO.

    Raises:
        IdentityError: the file cannot be used; its fact has the cause, without the name.
    """
    try:
        data, status = read_small_file(name, MAX_FILE_SIZE)
    except NotRegularError as error:
        raise _not_regular(error.mode) from None
    except TooLargeError:
        raise IdentityError("it is larger than 64 KiB", "Give the path of a key file") from None
    except FileNotFoundError:
        raise IdentityError(
            "there is no such file",
            f"`signedwire id new {shlex.quote(name)}` makes one",
            IdentityProblem.ABSENT,
        ) from None
    except (OSError, ValueError) as error:
        raise _unreadable(cause_of(error), _why_not(name, error)) from error
    try:
        if _POSIX and data and _is_open_to_group(name, status, group_readable) and warns:
            _warn_once(name, status)
    except OSError as error:
        raise _unreadable(cause_of(error), "Check the folders above it") from error
    return data


def _not_regular(mode: int) -> IdentityError:
    kinds = {
        stat.S_IFDIR: ("a folder", "Give the path of the key file in it"),
        stat.S_IFIFO: ("a pipe", "Hand it over as a descriptor: --identity-fd N"),
        stat.S_IFSOCK: ("a socket", "Give the path of a key file"),
    }
    what, hint = kinds.get(stat.S_IFMT(mode), ("a device", "Give the path of a key file"))
    return _unreadable(f"it is {what}, not a regular file", hint)


def _unreadable(why: str, hint: str) -> IdentityError:
    return IdentityError(why, hint, IdentityProblem.UNREADABLE)


def _why_not(name: str, error: OSError | ValueError) -> str:
    """Return a hint for a file that could not be opened."""
    if isinstance(error, OSError) and error.errno == errno.EIO:
        return "Check the disk that it is on"
    hint = "Check the path and who may read it"
    if not isinstance(error, PermissionError) or not _POSIX:
        return hint
    try:
        status = os.stat(name)
    except OSError:
        return f"{hint}; a folder above it does not let this user in"
    if status.st_uid == os.geteuid() and status.st_mode & stat.S_IRUSR:
        return (
            "Owner and mode allow it, so something else forbids it: SELinux "
            f"(`restorecon -v {shlex.quote(name)}`), AppArmor or the sandbox of the service"
        )
    return f"{hint}: it belongs to user {status.st_uid}, this is user {os.geteuid()}"


def _is_open_to_group(name: str, status: os.stat_result, group_readable: bool) -> bool:
    """Whether the group may read the file.

    Raises:
        IdentityError: other users may access it, or the group may without `group_readable`.
    """
    mode = stat.S_IMODE(status.st_mode)
    if not mode & 0o077:
        return False
    is_group_read_alone = not mode & 0o027 and bool(mode & 0o040)
    if not (is_group_read_alone and group_readable):
        hint = (
            f"Run `chmod 600 {shlex.quote(name)}`, "
            "and make a new key if somebody may have read this one"
        )
        raise IdentityError(
            f"other users may access it (mode {mode:04o})",
            f"{hint}; {_GROUP_OPTION}" if is_group_read_alone else hint,
            IdentityProblem.EXPOSED,
        )
    fault = _fault_above(name, status)
    if fault is not None:
        raise IdentityError(
            f"its group may read it (mode {mode:04o}), and {fault}",
            "Then somebody else can put another key there: give it to root or this user, in "
            "folders that nobody else may write to",
            IdentityProblem.EXPOSED,
        )
    return True


def _warn_once(name: str, status: os.stat_result) -> None:
    if name not in _warned:
        _warned.add(name)
        _logger.warning(
            "the key file %s may be read by group %d (mode %04o), as key_group_readable allows",
            name,
            status.st_gid,
            stat.S_IMODE(status.st_mode),
            extra=fields("key readable by group", path=name),
        )


def _fault_above(name: str, opened: os.stat_result) -> str | None:
    """Describe the users beside root and us who can exchange the file; `None`: nobody can."""
    trusted = (0, os.geteuid())
    if opened.st_uid not in trusted:
        return f"it belongs to user {opened.st_uid}"
    found = None
    for path, status in _walk(os.path.abspath(name)):
        if status.st_uid not in trusted:
            return f"{path} belongs to user {status.st_uid}"
        # In a sticky folder only owners replace their entries, and each owner is checked.
        is_open = status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX
        if stat.S_ISDIR(status.st_mode) and is_open:
            return f"others may write to {path} (mode {stat.S_IMODE(status.st_mode):04o})"
        found = status
    if found is None or not os.path.samestat(found, opened):
        return "it was replaced meanwhile"
    return None


def _walk(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield every folder and symbolic link on the way to `path`, and the file itself."""
    here, links = os.sep, 0
    pending = [part for part in reversed(path.split(os.sep)) if part]
    yield here, os.lstat(here)
    while pending:
        part = pending.pop()
        if part == os.pardir:
            here = os.path.dirname(here)
            continue
        there = os.path.join(here, part)
        status = os.lstat(there)
        yield there, status
        if not stat.S_ISLNK(status.st_mode):
            here = there
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = os.readlink(there)
        if os.path.isabs(target):
            here = os.sep
        pending += [part for part in reversed(target.split(os.sep)) if part not in ("", os.curdir)]


# --- writing ---------------------------------------------------------------------------


def write_new_file(name: str, data: bytes) -> None:
    """Make a file of mode 0600, durable when this returns, and complete or absent at any time.

    The file is written under another name in the same folder, and linked to its own name
    once it is on the disk. So a power cut or a full disk leaves no part of it, and only
    one of two concurrent calls succeeds. A power cut may leave the other name.

    Raises:
        FileExistsError: something has that name.
        OSError, ValueError: the file cannot be written; nothing is left.
    """
    if os.path.lexists(name):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
    with _written_beside(name, data) as beside:
        try:
            os.link(beside, name)
        except FileExistsError:
            # NFS repeats a call whose answer was lost, so the existing name may be ours.
            if not os.path.samestat(os.lstat(beside), os.lstat(name)):
                raise
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            _write_in_place(name, data)
        _sync_or_remove(name)


def replace_empty_file(name: str, data: bytes) -> bool:
    """Replace an empty file by a complete one; return `False` if another process does so.

    The empty file is locked meanwhile, so that only one of several processes replaces it.
    The others get `False` and read the file again.

    Raises:
        OSError: the file cannot be locked or replaced, and stays empty. Or the folder cannot
            be synced: the new file is there, and a power cut may restore the empty one.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        raise OSError(errno.ENOTSUP, "it is empty, and cannot be locked to replace it") from None
    if os.path.islink(name):
        raise OSError(errno.ELOOP, "it is a symbolic link to an empty file")
    descriptor = os.open(name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        status = os.fstat(descriptor)
        if status.st_size or not os.path.samestat(status, os.lstat(name)):
            return False
        with _written_beside(name, data) as beside:
            os.rename(beside, name)
        sync_folder(os.path.dirname(name))
        return True
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _written_beside(name: str, data: bytes) -> Iterator[str]:
    """Write `data` to the disk, under a temporary name in the same folder."""
    # Not derived from the name, which may be as long as the file system allows.
    beside = os.path.join(os.path.dirname(name), f".key-{secrets.token_hex(8)}.new")
    descriptor = os.open(beside, _CREATE_FLAGS, 0o600)
    try:
        try:
            _fill(descriptor, data)
        finally:
            os.close(descriptor)
        yield beside
    finally:
        with contextlib.suppress(OSError):
            os.unlink(beside)


def _fill(descriptor: int, data: bytes) -> None:
    """Write and sync the data, after making the file private."""
    if _POSIX:
        with contextlib.suppress(OSError):
            os.fchmod(descriptor, 0o600)  # the umask may have taken our own rights
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if mode & 0o077:
            raise OSError(
                errno.EPERM, f"this file system lets others access every file (mode {mode:04o})"
            )
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _write_in_place(name: str, data: bytes) -> None:
    """Do as `write_new_file()` without hard links; a power cut may leave a part of the file."""
    descriptor = os.open(name, _CREATE_FLAGS, 0o600)
    try:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            # A process that finds the file still empty waits for this lock.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if not os.path.samestat(os.fstat(descriptor), os.lstat(name)):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        try:
            _fill(descriptor, data)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    finally:
        os.close(descriptor)


def _sync_or_remove(name: str) -> None:
    """Make the name durable; if that fails, remove the file."""
    try:
        sync_folder(os.path.dirname(name))
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
