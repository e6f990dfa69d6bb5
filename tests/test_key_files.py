"""Key files: who may read one, and what a crash, a full disk or a race leaves of a new one."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from signedwire import Identity, IdentityError, IdentityProblem, files, keyfiles

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX files")

SEED = bytes(range(32))


def load_error(path: Path, *, group_readable: bool = False) -> IdentityError:
    with pytest.raises(IdentityError) as caught:
        Identity.load(path, group_readable=group_readable)
    return caught.value


def save_error(path: Path) -> IdentityError:
    with pytest.raises(IdentityError) as caught:
        Identity.from_seed(SEED).save(path)
    return caught.value


@pytest.fixture
def tight() -> Iterator[Path]:
    """A folder above which nobody but root and this user may write."""
    base = "/root" if os.geteuid() == 0 and os.access("/root", os.W_OK) else os.path.expanduser("~")
    fault = keyfiles._fault_above(base, os.stat(base)) if os.path.isdir(base) else "none"
    if fault is not None:
        pytest.skip(f"no folder that others may not write above: {fault}")
    with tempfile.TemporaryDirectory(dir=base) as name:
        yield Path(name)


@pytest.fixture(autouse=True)
def not_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyfiles, "_warned", set())


# --- what may be read --------------------------------------------------------------------


def key_in(folder: Path, mode: int = 0o440) -> Path:
    path = folder / "key.pem"
    Identity.from_seed(SEED).save(path)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("mode", [0o440, 0o640, 0o540])
def test_its_group_may_read_it_by_the_option_alone(
    tight: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = key_in(tight, mode)
    error = load_error(path)
    assert error.problem is IdentityProblem.EXPOSED
    for part in ("fsGroup", "`key_group_readable = true`", "SIGNEDWIRE_KEY_GROUP_READABLE=true"):
        assert part in error.hint
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert Identity.load(path, group_readable=True) == Identity.from_seed(SEED)
    assert caplog.messages == [
        f"the key file {path} may be read by group {path.stat().st_gid} (mode {mode:04o}), as "
        "key_group_readable allows"
    ]


@pytest.mark.parametrize("mode", [0o460, 0o660, 0o444, 0o644, 0o441, 0o604, 0o420, 0o442])
def test_nobody_else_may_and_no_group_may_write(tight: Path, mode: int) -> None:
    path = key_in(tight, mode)
    error = load_error(path, group_readable=True)
    assert error.problem is IdentityProblem.EXPOSED
    assert error.fact.endswith(f"other users may access it (mode {mode:04o})")
    assert "key_group_readable" not in error.hint


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_nobody_else_may_write_to_a_folder_above(tight: Path, mode: int) -> None:
    folder = tight / "middle" / "low"
    folder.mkdir(parents=True)
    path = key_in(folder)
    for above in (folder, folder.parent):
        above.chmod(mode)
        error = load_error(path, group_readable=True)
        assert f"others may write to {above} (mode {mode:04o})" in error.fact
        above.chmod(0o755)
    assert Identity.load(path, group_readable=True)


def test_a_secret_as_kubernetes_mounts_it(tight: Path) -> None:
    """A sticky folder that all may write, and two links: key.pem → ..data/key.pem → ..2026/."""
    mount = tight / "secret"
    mount.mkdir()
    (mount / "..2026").mkdir(mode=0o755)
    key_in(mount / "..2026")
    (mount / "..data").symlink_to("..2026")
    (mount / "key.pem").symlink_to("..data/key.pem")
    mount.chmod(0o3777)
    assert Identity.load(mount / "key.pem", group_readable=True) == Identity.from_seed(SEED)
    mount.chmod(0o777)
    assert "others may write" in load_error(mount / "key.pem", group_readable=True).fact


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_others_own_no_part_of_the_way(tight: Path) -> None:
    path = key_in(tight)
    os.chown(path, 12345, -1)
    assert "it belongs to user 12345" in load_error(path, group_readable=True).fact
    os.chown(path, 0, -1)
    link = tight / "link"
    link.symlink_to("key.pem")
    os.chown(link, 12345, -1, follow_symlinks=False)
    assert f"{link} belongs to user 12345" in load_error(link, group_readable=True).fact
    os.chown(tight, 12345, -1)
    assert f"{tight} belongs to user 12345" in load_error(path, group_readable=True).fact


def test_a_path_that_leads_elsewhere_meanwhile(
    tight: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = key_in(tight)
    real_open = os.open

    def open_then_swap(name: str, *args: int) -> int:
        descriptor = real_open(name, *args)
        path.rename(tight / "old")
        (tight / "other").write_bytes(b"x")
        (tight / "other").rename(path)
        return descriptor

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", open_then_swap)
        error = load_error(path, group_readable=True)
    assert "it was replaced meanwhile" in error.fact


@pytest.mark.parametrize("kind", ["folder", "pipe", "socket", "device"])
def test_what_is_no_file_is_named_and_never_waited_for(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    path = Path(os.devnull) if kind == "device" else Path("key")

    def no_open(name: str, flags: int) -> int:
        raise AssertionError("to open a device can do something")

    monkeypatch.setattr(os, "open", no_open)
    with socket.socket(socket.AF_UNIX) as listener:
        if kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path, 0o600)
        elif kind == "socket":
            listener.bind("key")
        error = load_error(path)
    assert error.problem is IdentityProblem.UNREADABLE
    assert error.fact.endswith(f": it is a {kind}, not a regular file")
    assert ("--identity-fd" in error.hint) == (kind == "pipe")


def test_a_pipe_that_comes_between_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "key", 0o600)
    monkeypatch.setattr(files, "_mode_of", lambda name: None)
    assert "it is a pipe" in load_error(tmp_path / "key").fact


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert os.strerror(errno.ELOOP) in load_error(tmp_path / "a").fact


def test_something_beside_the_mode_forbids_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SELinux, as far as it can be had here: the system refuses what owner and mode allow."""
    path = key_in(tmp_path, 0o600)

    def refuse(name: str, flags: int) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    error = load_error(path)
    assert "SELinux (`restorecon -v" in error.hint
    path.chmod(0o000)
    assert "it belongs to user" in load_error(path).hint
    assert "a folder above it" in load_error(tmp_path / "none").hint


# --- what is left of a new one -------------------------------------------------------------


def test_it_has_its_name_only_when_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key"
    seen: list[tuple[str, bool, int]] = []
    for name in ("fsync", "link"):
        real = getattr(os, name)

        def watch(*args: object, name: str = name, real: Callable[..., None] = real) -> None:
            seen.append((name, path.exists(), len(os.listdir(tmp_path))))
            real(*args)

        monkeypatch.setattr(os, name, watch)
    Identity.from_seed(SEED).save(path)
    # The file beside is synced, then linked; then, with the name, the folder is synced.
    assert seen == [("fsync", False, 1), ("link", False, 1), ("fsync", True, 2)]
    assert os.listdir(tmp_path) == ["key"]
    assert path.stat().st_nlink == 1


NO_LINKS = [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK]


def refuse_links(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def link(source: str, target: str) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", link)


@pytest.mark.parametrize("code", NO_LINKS)
def test_a_file_system_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    refuse_links(monkeypatch, code)
    path = tmp_path / "key"
    Identity.from_seed(SEED).save(path)
    assert Identity.load(path) == Identity.from_seed(SEED)
    assert save_error(path).problem is IdentityProblem.EXISTS
    assert os.listdir(tmp_path) == ["key"]


def test_without_hard_links_somebody_else_is_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key"

    def link(source: str, target: str) -> None:
        path.write_bytes(b"another's")
        raise OSError(errno.EPERM, "")

    monkeypatch.setattr(os, "link", link)
    assert save_error(path).problem is IdentityProblem.EXISTS
    assert path.read_bytes() == b"another's"
    assert os.listdir(tmp_path) == ["key"]


def test_nfs_repeats_a_link_whose_answer_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.link

    def link(source: str, target: str) -> None:
        real(source, target)
        real(source, target)  # FileExistsError

    monkeypatch.setattr(os, "link", link)
    Identity.from_seed(SEED).save(tmp_path / "key")
    assert Identity.load(tmp_path / "key") == Identity.from_seed(SEED)


def test_another_file_comes_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    real = os.link

    def link(source: str, target: str) -> None:
        path.write_bytes(b"another's")
        real(source, target)

    monkeypatch.setattr(os, "link", link)
    assert save_error(path).problem is IdentityProblem.EXISTS
    assert path.read_bytes() == b"another's"
    assert os.listdir(tmp_path) == ["key"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("with_links", [True, False])
def test_a_full_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, with_links: bool
) -> None:
    calls = 0
    if not with_links:
        refuse_links(monkeypatch, errno.EPERM)

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == (1 if with_links else 2):
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)
    error = save_error(tmp_path / "key")
    assert error.problem is IdentityProblem.UNWRITABLE
    assert os.strerror(code) in error.fact
    assert os.listdir(tmp_path) == []


def test_a_really_full_disk(tmp_path: Path) -> None:
    """A file system of one page, in a mount namespace of its own."""
    script = (
        f"mount -t tmpfs -o size=4k,mode=700 none {tmp_path} && "
        f"head -c 4096 /dev/zero > {tmp_path}/full; "
        f"{sys.executable} -m signedwire id new {tmp_path}/key.pem; echo $?; ls -A {tmp_path}"
    )
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare here")
    ran = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=60
    )
    if "unshare:" in ran.stderr or "mount:" in ran.stderr:
        pytest.skip("no mount namespace may be made here")
    assert ran.stdout.split() == ["3", "full"], ran
    assert "No space left on device" in ran.stderr


@pytest.mark.parametrize("umask", [0o777, 0o277, 0])
def test_the_umask_takes_nothing_from_us(tmp_path: Path, umask: int) -> None:
    old = os.umask(umask)
    try:
        Identity.from_seed(SEED).save(tmp_path / "key")
    finally:
        os.umask(old)
    assert (tmp_path / "key").stat().st_mode & 0o7777 == 0o600


def test_a_file_system_that_keeps_no_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As FAT does: there the key would be everybody's, and could not be loaded."""
    real = os.open

    def open_for_all(name: str, flags: int, mode: int = 0o777) -> int:
        descriptor = real(name, flags, mode)
        if flags & os.O_CREAT:
            os.chmod(name, 0o755)
        return descriptor

    monkeypatch.setattr(os, "open", open_for_all)
    monkeypatch.setattr(os, "fchmod", lambda descriptor, mode: None)
    error = save_error(tmp_path / "key")
    assert "this file system lets others access every file (mode 0755)" in error.fact
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_read_only() -> None:
    error = save_error(Path("/proc/sys/key"))
    assert error.problem is IdentityProblem.UNWRITABLE
    assert "Check that its directory exists and is writable" in error.hint


def test_the_longest_name(tmp_path: Path) -> None:
    path = tmp_path / ("k" * 255)
    Identity.from_seed(SEED).save(path)
    assert Identity.load(path) == Identity.from_seed(SEED)


# --- a power cut, as far as SIGKILL at a system call shows it --------------------------------


HALF_WRITTEN = """
import os, signal
from signedwire import load_identity
def cut(descriptor):
    os.ftruncate(descriptor, 60)
    os.kill(os.getpid(), signal.SIGKILL)
os.fsync = cut
load_identity(create=True)
"""
MAKE = "from signedwire import load_identity; load_identity(create=True)"


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize(
    ("call", "is_there"),
    [
        (None, False),  # while it writes
        ("fsync:error=EIO:signal=SIGKILL:when=1", False),
        ("linkat,link:error=EIO:signal=SIGKILL:when=1", False),
        ("fsync:error=EIO:signal=SIGKILL:when=2", True),  # that of the folder
    ],
)
def test_killed_while_the_key_is_made(tmp_path: Path, call: str | None, is_there: bool) -> None:
    """Whole or absent: whatever is there afterwards, the next start goes on with it."""
    environ = {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    environ = {name: value for name, value in environ.items() if not name.startswith("SIGNEDWIRE_")}
    (tmp_path / "signedwire").mkdir()  # or the first sync would be that of the folder above
    command = [sys.executable, "-c", HALF_WRITTEN if call is None else MAKE]
    if call is not None:
        names = call.partition(":")[0]
        strace = ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={names}"]
        command = [*strace, "-e", f"inject={call}", *command]
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    if "ptrace" in ran.stderr.lower():
        pytest.skip("strace may not trace here")
    assert ran.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), ran
    path = tmp_path / "signedwire" / "identity.pem"
    assert path.exists() == is_there
    before = Identity.load(path).did if is_there else None
    again = subprocess.run(
        [sys.executable, "-m", "signedwire", "listen", "--timeout", "0.2", "--no-store"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert again.returncode == 0, again
    assert ("made a new identity" in again.stderr) != is_there
    assert before in (None, Identity.load(path).did)
