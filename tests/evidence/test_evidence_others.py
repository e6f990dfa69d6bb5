"""Changes of an evidence log by other programs, while it is written and before it is opened."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from evidencekit import append, inline, numbers_in

from signedwire.errors import EvidenceLogError
from signedwire.evidence.chain import HEADER_SIZE
from signedwire.evidence.files import RotationPolicy
from signedwire.evidence.log import EvidenceLog

pytestmark = pytest.mark.skipif(os.name != "posix", reason="an open file stays where it is")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "evidence.log"


def copytruncate(path: Path) -> None:
    shutil.copy(path, f"{path}.1")
    os.truncate(path, 0)


def truncate_by_one(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def write_behind(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def rename(path: Path) -> None:
    path.rename(f"{path}.1")


def rename_and_create(path: Path) -> None:
    path.rename(f"{path}.1")
    path.touch(0o600)


def replace(path: Path) -> None:
    shutil.copy(path, f"{path}.2")
    os.replace(f"{path}.2", path)


def link(path: Path) -> None:
    os.link(path, f"{path}.1")


def move_the_folder(path: Path) -> None:
    path.parent.rename(f"{path.parent}-moved")
    path.parent.mkdir()


def point_elsewhere(path: Path) -> None:
    path.rename(f"{path}.1")
    shutil.copy(f"{path}.1", f"{path}.2")
    path.symlink_to(f"{path}.2")


DEEDS: list[tuple[Callable[[Path], None], str]] = [
    (copytruncate, "cut it to 0 bytes"),
    (truncate_by_one, "cut it to"),
    (write_behind, "another program wrote to it"),
    (rename, "moved it away"),
    (rename_and_create, "put another file in its place"),
    (Path.unlink, "another program removed it"),
    (replace, "put another file in its place"),
    (link, "2 names instead of 1"),
    (move_the_folder, "moved it away"),
    (point_elsewhere, "put another file in its place"),
]
each_deed = pytest.mark.parametrize(("deed", "words"), DEEDS, ids=[d[0].__name__ for d in DEEDS])


@each_deed
def test_the_next_message_is_not_acknowledged_and_none_after_it(
    path: Path, deed: Callable[[Path], None], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    log = inline(path)
    assert append(log, 1) is None
    deed(path)
    files = {each: each.read_bytes() for each in path.parent.glob("*") if each.is_file()}
    failure = append(log, 2)
    assert isinstance(failure, EvidenceLogError)
    assert words in failure.fact
    assert "nothing more is accepted or acknowledged" in failure.fact
    assert "logrotate" in failure.hint
    assert log.stats().failure == failure.fact
    assert [each.levelno for each in caplog.records] == [logging.ERROR]
    with pytest.raises(EvidenceLogError):
        append(log, 3)
    assert log.head.records == 1
    assert log.close()
    # Nothing was written at a wrong place.
    assert files == {each: each.read_bytes() for each in path.parent.glob("*") if each.is_file()}


@each_deed
def test_no_receipt_for_what_was_in_it_either(
    path: Path, deed: Callable[[Path], None], words: str
) -> None:
    """A repeated message needs no second record; the first one covers its receipt."""
    log = inline(path)
    assert append(log, 1) is None
    deed(path)
    told: list[object] = []
    log.append([], told.append)
    [failure] = told
    assert isinstance(failure, EvidenceLogError)
    assert words in failure.fact
    assert log.close()


@each_deed
def test_it_is_not_rotated(path: Path, deed: Callable[[Path], None], words: str) -> None:
    log = inline(path)
    assert append(log, 1) is None
    deed(path)
    with pytest.raises(EvidenceLogError, match=words.replace("(", "\\(")):
        log.rotate().result(0)
    assert not list(path.parent.glob("*.0*"))
    assert log.close()


@each_deed
def test_between_the_write_and_the_sync(
    path: Path, deed: Callable[[Path], None], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from signedwire.evidence import log as log_module

    log = inline(path)
    assert append(log, 1) is None
    monkeypatch.setattr(log_module, "sync_data", lambda _: deed(path))
    failure = append(log, 2)
    assert isinstance(failure, EvidenceLogError)
    assert words in failure.fact
    assert log.head.records == 1
    assert log.close()


def test_an_idle_log_tells_it_when_it_is_closed(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = inline(path)
    assert append(log, 1) is None
    copytruncate(path)
    assert log.close()
    assert "cut it to 0 bytes" in caplog.text
    assert caplog.records[0].levelno == logging.ERROR


def test_a_log_that_had_two_names_keeps_them(path: Path) -> None:
    assert inline(path).close()
    link(path)
    log = inline(path)
    assert append(log, 1) is None
    Path(f"{path}.1").unlink()
    failure = append(log, 2)
    assert failure is not None
    assert "1 names instead of 2" in failure.fact
    assert log.close()


def test_a_file_system_that_became_read_only(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = inline(path)
    assert append(log, 1) is None

    def refuse(*_: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "write", refuse)
    failure = append(log, 2)
    monkeypatch.undo()
    assert isinstance(failure, EvidenceLogError)
    assert "Read-only file system" in failure.fact
    assert log.close()
    assert numbers_in([path]) == [1]


def test_a_mode_that_cannot_be_changed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.touch()
    path.chmod(0o666)

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fchmod", refuse)
        with pytest.raises(EvidenceLogError, match="this user may not change that") as caught:
            inline(path)
    assert "chmod 0600" in caught.value.hint
    assert path.read_bytes() == b""


AS_ANOTHER_USER = """
import os, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from evidencekit import inline
from signedwire.errors import EvidenceLogError
os.setgroups([]), os.setgid(12345), os.setuid(12345)
try:
    inline(Path(sys.argv[1]))
except EvidenceLogError as error:
    print(error)
"""


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to be somebody else"
)
@pytest.mark.parametrize(
    ("mode", "words"),
    [
        (0o600, "cannot be opened: Permission denied"),
        (0o444, "cannot be opened: Permission denied"),
        # A user who may write to the file could have changed it, and could do so later.
        (0o666, "other users have access (mode 0666), and this user may not change that"),
    ],
)
def test_a_file_of_another_user(mode: int, words: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder, "evidence.log")
        path.touch()
        path.chmod(mode)
        here = Path(__file__).parent
        done = subprocess.run(
            [sys.executable, "-c", AS_ANOTHER_USER, path, here, here.parent],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert words in done.stdout, done
        assert done.stdout.count("\n") == 1
        assert path.read_bytes() == b""


class TestRest:
    """A log that lost its beginning and was continued."""

    @staticmethod
    def cut(path: Path, at: int, *numbers: int) -> bytes:
        log = inline(path)
        assert append(log, *numbers) is None
        assert log.close()
        whole = path.read_bytes()
        size = (len(whole) - HEADER_SIZE) // len(numbers)
        path.write_bytes(whole[HEADER_SIZE + at * size :])
        return whole[: HEADER_SIZE + at * size]

    @pytest.mark.parametrize("at", [0, 1, 2])
    @pytest.mark.parametrize("name", ["evidence.log.1", "evidence.log-20260101"])
    def test_the_start_says_what_is_missing_and_where_it_is(
        self, path: Path, at: int, name: str
    ) -> None:
        front = self.cut(path, at, 1, 2, 3)
        before = path.with_name(name)
        before.write_bytes(front)
        rest = path.read_bytes()
        with pytest.raises(EvidenceLogError) as caught:
            inline(path)
        place = f"record {at}" if at else "the header"
        assert f"its first record follows {place} of {before}" in caught.value.fact
        assert "in front of it" in caught.value.hint
        assert path.read_bytes() == rest
        # The whole chain is there again.
        path.write_bytes(front + rest)
        before.unlink()
        assert inline(path).head.records == 3
        assert numbers_in([path]) == [1, 2, 3]

    def test_where_it_is_not_known(self, path: Path) -> None:
        self.cut(path, 1, 1, 2)
        path.with_name("evidence.log.1").write_bytes(b"something else")
        for number in (3, 4):  # more than what is read at once, and not where it is
            other = inline(path.with_name(f"evidence.log.{number}"))
            assert append(other, number, number + 1, size=600_000) is None
            assert other.close()
        with pytest.raises(
            EvidenceLogError, match="its first record follows a record of another file"
        ):
            inline(path)

    @pytest.mark.parametrize("change", [0, 4, 30, 200, -1])
    def test_what_is_no_record_is_no_log(self, path: Path, change: int) -> None:
        self.cut(path, 1, 1, 2)
        data = bytearray(path.read_bytes())
        data[change] ^= 1
        path.write_bytes(data)
        # A changed hash breaks the chain alone, and the envelope proves the rest.
        words = "its first record follows a record" if change == -1 else "not an evidence log"
        with pytest.raises(EvidenceLogError, match=words):
            inline(path)


def archive(path: Path, last: int) -> Path:
    return path.with_name(f"{path.name}.{last:012}")


class TestLost:
    """Where a log is gone and its numbered files are there, no new chain begins by itself."""

    @pytest.mark.parametrize("deed", [rename, Path.unlink, lambda path: os.truncate(path, 0)])
    def test_the_start_is_refused(self, path: Path, deed: Callable[[Path], None]) -> None:
        log = inline(path)
        assert append(log, 1, 2) is None
        log.rotate().result(0)
        assert append(log, 3) is None
        assert log.close()
        deed(path)
        before = sorted(each.name for each in path.parent.iterdir())
        before_it = archive(path, 2)
        with pytest.raises(EvidenceLogError) as caught:
            inline(path)
        assert str(before_it) in caught.value.fact
        assert "Put the log back" in caught.value.hint
        assert sorted(each.name for each in path.parent.iterdir()) == before
        before_it.unlink()
        assert inline(path).head.records == 0

    @pytest.mark.parametrize("records", [2, 3, 4, 6, 9])
    def test_an_older_copy_in_its_place(self, path: Path, records: int) -> None:
        """The log is a copy of the first file, before or at its rotation, or of a later file."""
        log = inline(path, RotationPolicy(max_bytes=1000))
        copy = path.with_name("copy")
        for number in range(1, 14):
            assert append(log, number) is None
            if number == records:
                copy.write_bytes(path.read_bytes())
        assert log.close()
        if records == 4:
            copy = archive(path, 4)
        shutil.copyfile(copy, path)
        with pytest.raises(EvidenceLogError, match="is an older copy") as failed:
            inline(path)
        assert "Put the log back" in failed.value.hint

    def test_a_copy_of_the_log_beside_it_is_none_of_the_chain(self, path: Path) -> None:
        log = inline(path)
        assert append(log, 1, 2) is None
        shutil.copyfile(path, archive(path, 202601021530))
        assert append(log, 3) is None
        assert log.close()
        shutil.copyfile(path, archive(path, 202601021531))
        log = inline(path)
        assert log.head.records == 3
        assert log.close()

    def test_a_compressed_one_counts_too(self, path: Path) -> None:
        path.with_name("evidence.log.000000000002.gz").touch()
        with pytest.raises(EvidenceLogError, match="is not there"):
            EvidenceLog(path, inline(path.with_name("other"))._file._owner)


IN_A_MOUNT = """
import sys, os, subprocess
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from evidencekit import append, inline
folder = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=True)
log = inline(folder / "evidence.log")
assert append(log, 1) is None
deed = DEED
deed()
number = 2
while (failure := append(log, number)) is None:
    number += 1
print(number, failure)
before = log.head.records
log.close()
AFTER
"""
# The folder is on a file system of its own. Each case: what is done to that, what is checked
# then, and the text of the failure.
MOUNTS = {
    "another mount on it": (
        'lambda: subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)',
        "",
        "moved it away",
    ),
    "unmounted": (
        'lambda: subprocess.run(["umount", "-l", folder], check=True)',
        "",
        "moved it away",
    ),
    "full": (
        "lambda: None",
        'subprocess.run(["mount", "-o", "remount,size=1m", folder], check=True)\n'
        'again = inline(folder / "evidence.log")\n'
        "assert again.head.records == before == number - 1, again.head",
        "No space left on device",
    ),
}


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or shutil.which("unshare") is None,
    reason="needs root and unshare",
)
@pytest.mark.parametrize("name", MOUNTS)
def test_mounts(tmp_path: Path, name: str) -> None:
    deed, after, words = MOUNTS[name]
    code = IN_A_MOUNT.replace("DEED", deed).replace("AFTER", after)
    here = Path(__file__).parent
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", code, tmp_path, here, here.parent],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert words in done.stdout
