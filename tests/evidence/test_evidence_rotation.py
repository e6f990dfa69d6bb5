"""An evidence log that rotates itself: when, what stays, and a crash anywhere in between."""

from __future__ import annotations

import errno
import logging
import os
import random
import shutil
import signal
import stat
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from evidencekit import Killed, Mortal, append, chain_of, inline, message, numbers_in

from folderkit import cannot_be_opened
from linkkit import BOB, EVE
from signedwire.errors import EvidenceLogError
from signedwire.evidence import disk
from signedwire.evidence import files as files_module
from signedwire.evidence import log as log_module
from signedwire.evidence.chain import HEADER_SIZE, Chain, LogHeader
from signedwire.evidence.files import Removed, Rotated, RotationPolicy, header_of
from signedwire.evidence.log import EvidenceLog, RotationEvent
from storekit import LIMIT

CHILD = str(Path(__file__).with_name("evidencechild.py"))
KILLS = int(os.environ.get("KILLS", "6"))
SIZE = 1_000  # size of a file with a header and three records of `message()`


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "evidence.log"


def archive(path: Path, last: int) -> Path:
    return path.with_name(f"{path.name}.{last:012}")


class TestWhen:
    def test_a_file_gets_so_many_bytes_and_at_most_one_record_more(self, path: Path) -> None:
        log = inline(path, RotationPolicy(max_bytes=SIZE))
        assert append(log, *range(1, 12)) is None
        assert log.close()
        files = chain_of(path)
        assert [each.name for each in files] == [
            "evidence.log.000000000004",
            "evidence.log.000000000008",
            "evidence.log",
        ]
        record = (files[0].stat().st_size - HEADER_SIZE) // 4
        assert all(SIZE <= each.stat().st_size < SIZE + record for each in files[:-1])
        assert numbers_in(files) == list(range(1, 12))

    def test_in_the_middle_of_a_batch_too(self, path: Path) -> None:
        log = inline(path, RotationPolicy(max_bytes=SIZE))
        told: list[object] = []
        log.append([message(number) for number in range(1, 100)], told.append)
        assert told == [None]
        assert log.close()
        assert len(chain_of(path)) == 25
        assert numbers_in(chain_of(path)) == list(range(1, 100))

    def test_a_log_of_that_size_at_the_start_rotates_with_the_next_message(
        self, path: Path
    ) -> None:
        log = inline(path)
        assert append(log, *range(1, 10)) is None
        assert log.close()
        log = inline(path, RotationPolicy(max_bytes=SIZE))
        assert chain_of(path) == [path]
        assert append(log, 10) is None
        assert log.close()
        assert chain_of(path) == [archive(path, 9), path]

    def test_its_age_counts_from_its_header(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = [1_000_000_000_000_000]
        monkeypatch.setattr(log_module, "unix_time_us", lambda: now[0])
        log = inline(path)
        assert append(log, 1) is None
        assert log.close()
        now[0] += 59_000_000
        log = inline(path, RotationPolicy(max_age=60))
        assert append(log, 2) is None
        assert chain_of(path) == [path]
        now[0] += 1_000_000
        assert chain_of(path) == [path]  # an idle log stays as it is
        assert append(log, 3) is None
        assert numbers_in([archive(path, 2)]) == [1, 2]
        assert numbers_in([path]) == [3]
        assert log.close()

    def test_a_wall_clock_that_was_set_back_does_not_keep_it_from_rotating(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wall, monotonic = [1_000_000_000_000_000], [50.0]
        monkeypatch.setattr(log_module, "unix_time_us", lambda: wall[0])
        monkeypatch.setattr(log_module, "monotonic", lambda: monotonic[0])
        log = inline(path, RotationPolicy(max_age=60))
        assert append(log, 1) is None
        wall[0] = 0
        monotonic[0] += 60
        assert append(log, 2) is None
        assert chain_of(path) == [archive(path, 1), path]
        assert append(log, 3) is None
        assert numbers_in([path]) == [2, 3]
        assert log.close()

    def test_an_empty_log_is_never_rotated_by_itself(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log = inline(path, RotationPolicy(max_age=1, max_bytes=1))
        monkeypatch.setattr(log_module, "monotonic", lambda: 1e12)
        log.append([])
        head = log.rotate().result(0)
        assert head == log.head
        assert chain_of(path) == [path]
        assert log.close()


class TestNumbers:
    def test_they_go_on_after_a_restart(self, path: Path) -> None:
        for start in (1, 4, 7):
            log = inline(path)
            assert append(log, start, start + 1, start + 2) is None
            assert log.rotate().result(0).records == 3
            assert log.close()
        assert chain_of(path)[:-1] == [archive(path, last) for last in (3, 6, 9)]
        assert numbers_in(chain_of(path)) == list(range(1, 10))

    def test_what_was_compressed_keeps_its_number(self, path: Path) -> None:
        log = inline(path)
        assert append(log, 1, 2) is None
        log.rotate().result(0)
        assert log.close()
        archive(path, 2).rename(f"{archive(path, 2)}.gz")
        log = inline(path)
        assert append(log, 3) is None
        log.rotate().result(0)
        assert archive(path, 3).exists()
        assert log.close()

    def test_a_name_of_one_s_own_counts_its_records_too(self, path: Path) -> None:
        log = inline(path)
        assert append(log, 1, 2) is None
        log.rotate(path.with_name("2025.log")).result(0)
        assert append(log, 3) is None
        log.rotate().result(0)
        assert archive(path, 3).exists()
        assert log.close()
        assert numbers_in([path.with_name("2025.log"), *chain_of(path)]) == [1, 2, 3]

    def test_a_name_that_looks_like_a_pattern(self, tmp_path: Path) -> None:
        path = tmp_path / "a[b]*.log"
        log = inline(path)
        assert append(log, 1) is None
        log.rotate().result(0)
        assert archive(path, 1).exists()
        assert log.close()


class TestKeep:
    def test_the_oldest_go_and_that_is_told(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        log = inline(path, RotationPolicy(max_bytes=SIZE, keep=2))
        news: list[RotationEvent] = []
        log.on_rotation = news.append
        assert append(log, *range(1, 18)) is None
        assert log.close()
        assert chain_of(path) == [archive(path, 12), archive(path, 16), path]
        assert [each for each in news if isinstance(each, Removed)] == [
            Removed(str(archive(path, 4)), 4),
            Removed(str(archive(path, 8)), 8),
        ]
        assert [each.archive for each in news if isinstance(each, Rotated)] == [
            str(archive(path, last)) for last in (4, 8, 12, 16)
        ]
        assert "the chain begins behind record 8 now" in caplog.text
        assert numbers_in(chain_of(path)) == list(range(9, 18))

    def test_without_it_nothing_is_removed(self, path: Path) -> None:
        log = inline(path, RotationPolicy(max_bytes=SIZE))
        assert append(log, *range(1, 100)) is None
        assert log.close()
        assert numbers_in(chain_of(path)) == list(range(1, 100))

    def test_files_of_others_stay(self, path: Path) -> None:
        assert inline(path).close()
        others = {
            archive(path, 0): LogHeader(bytes(EVE.did), 1).encode(),
            path.with_name("evidence.log.0000000000001"): LogHeader(bytes(BOB.did), 1).encode(),
            archive(path, 4): b"something else",
            Path(f"{archive(path, 2)}.gz"): b"compressed",
            path.with_name("evidence.log.1"): b"of logrotate",
        }
        for each, data in others.items():
            each.write_bytes(data)
        archive(path, 5).mkdir()
        log = inline(path, RotationPolicy(keep=1))
        for last in (1, 2, 3, 6):
            assert append(log, *range(log._file._records_before + 1, last + 1)) is None
            log.rotate().result(0)
        assert log.close()
        assert {each: each.read_bytes() for each in others} == others
        assert archive(path, 5).is_dir()
        numbered = [each for each in chain_of(path) if each not in others and each.is_file()]
        assert numbered == [archive(path, 6), path]

    def test_what_cannot_be_removed_stays_and_the_log_goes_on(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def refuse(path: str, **_: object) -> None:
            if path.endswith("1"):
                raise PermissionError(errno.EPERM, "Operation not permitted")

        log = inline(path, RotationPolicy(keep=1))
        monkeypatch.setattr(os, "unlink", refuse)
        for number in (1, 2):
            assert append(log, number) is None
            log.rotate().result(0)
        monkeypatch.undo()
        assert "cannot be removed" in caplog.text
        assert append(log, 3) is None
        assert log.close()
        assert numbers_in(chain_of(path)) == [1, 2, 3]


DATED = 202601021530
"""A number that no rotation makes: the date, which an operator put behind the name of a copy."""


class TestCopies:
    """An operator's copies have names like those of a rotation, and begin with our header."""

    @staticmethod
    def copy(path: Path, number: int) -> Path:
        return Path(shutil.copy(path, archive(path, number)))

    def test_a_copy_never_counts_and_the_new_archive_stays(self, path: Path) -> None:
        log = inline(path, RotationPolicy(keep=2))
        assert append(log, 1) is None
        copies = [self.copy(path, DATED), self.copy(path, DATED + 1)]
        removed: list[RotationEvent] = []
        log.on_rotation = removed.append
        for number in (2, 3, 4, 5):
            log.rotate().result(0)
            assert append(log, number) is None
        assert log.close()
        assert [each.last_record for each in removed if isinstance(each, Removed)] == [1, 2]
        assert all(each.exists() for each in copies)
        assert numbers_in([archive(path, 3), archive(path, 4), path]) == [3, 4, 5]

    @pytest.mark.parametrize("copied", ["the log", "the archive", "both", "an old one"])
    def test_a_copy_is_no_number_after_a_restart(self, path: Path, copied: str) -> None:
        policy = RotationPolicy(keep=2)
        log = inline(path, policy)
        for number in (1, 2, 3):
            assert append(log, number) is None
            if number == 1 and copied == "an old one":  # which is itself removed then
                self.copy(path, DATED)
            log.rotate().result(0)
        assert append(log, 4) is None
        if copied in ("the log", "both"):
            self.copy(path, DATED)
        if copied in ("the archive", "both"):
            shutil.copy(archive(path, 3), archive(path, DATED + 1))
        assert log.close()
        before = {each for each in path.parent.iterdir() if str(DATED)[:-1] in each.name}
        assert before
        log = inline(path, policy)
        log.rotate().result(0)
        assert append(log, 5) is None
        assert log.close()
        assert numbers_in([archive(path, 3), archive(path, 4), path]) == [3, 4, 5]
        assert all(each.exists() for each in before)

    @pytest.mark.parametrize("copied", [True, False])
    def test_where_the_newest_was_compressed(self, path: Path, copied: bool) -> None:
        """Without a hash to compare, the largest number of a file that is no copy counts."""
        log = inline(path)
        for number in (1, 2, 3):
            assert append(log, number) is None
            if number == 2 and copied:
                self.copy(path, DATED)
            log.rotate().result(0)
        if copied:
            self.copy(path, DATED + 1)
        assert log.close()
        archive(path, 3).rename(f"{archive(path, 3)}.gz")
        log = inline(path)
        assert append(log, 4) is None
        log.rotate().result(0)
        assert log.close()
        assert archive(path, 4).exists()

    def test_an_archive_that_cannot_be_read_is_no_reason_to_stop(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If the disk fails after the header was read, the largest other number counts."""
        log = inline(path)
        assert append(log, 1) is None
        log.rotate().result(0)
        assert log.close()

        def fail(*_: object, **__: object) -> Any:
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(files_module, "open", fail, raising=False)
            patch.setattr(
                files_module, "header_of", lambda _: LogHeader(bytes(BOB.did), 1, bytes(32))
            )
            log = inline(path)
        assert log._file._records_before == 1
        assert log.close()

    def test_a_log_that_goes_on_from_no_other_begins_at_0(self, path: Path) -> None:
        log = inline(path)
        assert append(log, 1) is None
        assert log.close()
        self.copy(path, DATED)
        log = inline(path)
        log.rotate().result(0)
        assert log.close()
        assert archive(path, 1).exists()

    def test_headers_are_read_only_where_more_than_keep_are_there(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read: list[str] = []

        def note(name: str) -> LogHeader | None:
            read.append(name)
            return header_of(name)

        log = inline(path, RotationPolicy(keep=3))
        monkeypatch.setattr(files_module, "header_of", note)
        for number in (1, 2, 3):
            assert append(log, number) is None
            log.rotate().result(0)
        assert read == []
        assert append(log, 4) is None
        log.rotate().result(0)
        assert len(read) == 4
        assert log.close()


@pytest.mark.skipif(os.name != "posix", reason="modes")
class TestReaders:
    """Users who may read the log may read the next file too; no other user may write to it."""

    @pytest.mark.parametrize(
        ("mode", "then"),
        [(0o600, 0o600), (0o640, 0o640), (0o644, 0o644), (0o666, 0o644), (0o4770, 0o750)],
    )
    def test_a_rotation_keeps_the_mode(self, path: Path, mode: int, then: int) -> None:
        log = inline(path)
        assert append(log, 1) is None
        path.chmod(mode)
        umask = os.umask(0o077)
        try:
            log.rotate().result(0)
        finally:
            os.umask(umask)
        assert stat.S_IMODE(path.stat().st_mode) == then
        assert append(log, 2) is None
        log.rotate().result(0)
        assert stat.S_IMODE(path.stat().st_mode) == then
        assert log.close()

    @pytest.mark.skipif(
        not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to change the group"
    )
    def test_and_the_group(self, path: Path) -> None:
        log = inline(path)
        assert append(log, 1) is None
        os.chown(path, -1, 12345)
        path.chmod(0o640)
        log.rotate().result(0)
        assert path.stat().st_gid == 12345
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert log.close()

    @pytest.mark.skipif(
        not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to change the group"
    )
    def test_a_group_that_cannot_be_given_leaves_it_private(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Otherwise our own group could read what only the operator's group may read."""

        def refuse(*_: object) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

        log = inline(path)
        assert append(log, 1) is None
        os.chown(path, -1, 12345)
        path.chmod(0o640)
        monkeypatch.setattr(os, "fchown", refuse)
        log.rotate().result(0)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert "only this user can read the new one" in caplog.text
        assert log.close()

    @pytest.mark.skipif(not hasattr(os, "listxattr"), reason="Linux")
    def test_a_file_system_without_attributes(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(fd: int) -> list[str]:
            raise OSError(errno.ENOTSUP, "Operation not supported")

        log = inline(path)
        assert append(log, 1) is None
        path.chmod(0o640)
        monkeypatch.setattr(os, "listxattr", refuse)
        log.rotate().result(0)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert log.close()

    @pytest.mark.skipif(not hasattr(os, "setxattr"), reason="Linux")
    def test_an_access_control_list_leaves_it_private(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The group bits of the mode are then the mask of the list, not the rights of the group."""
        entries = [(1, 6, -1), (2, 4, 12345), (4, 0, -1), (16, 4, -1), (32, 0, -1)]
        acl = struct.pack("<I", 2)
        acl += b"".join(struct.pack("<HHI", tag, what, who % 2**32) for tag, what, who in entries)
        log = inline(path)
        assert append(log, 1) is None
        try:
            os.setxattr(path, "system.posix_acl_access", acl)
        except OSError:
            pytest.skip("this file system has no access control lists")
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        log.rotate().result(0)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert "only this user can read the new one" in caplog.text
        assert log.close()


class TestTroubleBehindARotation:
    """The next file is the log already; what failed besides is logged."""

    @pytest.mark.parametrize("code", [errno.EMFILE, errno.EACCES, errno.EIO])
    def test_the_folder_cannot_be_listed(
        self,
        path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        code: int,
    ) -> None:
        log = inline(path, RotationPolicy(keep=1))
        news: list[RotationEvent] = []
        log.on_rotation = news.append

        def refuse(folder: str) -> Any:
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patch:
            patch.setattr(os, "listdir", refuse)
            for number in (1, 2, 3):
                assert append(log, number) is None
                log.rotate().result(0)
        assert log.failure is None
        assert caplog.text.count("old files cannot be removed") == 3
        assert os.strerror(code) in caplog.text
        assert [type(each) for each in news] == [Rotated] * 3
        assert append(log, 4) is None
        log.rotate().result(0)
        assert [each.last_record for each in news if isinstance(each, Removed)] == [1, 2, 3]
        assert log.close()

    def test_a_folder_that_cannot_be_read(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In a folder of mode 0300 files can be made and renamed, though it cannot be listed."""
        log = inline(path, RotationPolicy(max_bytes=SIZE))
        with monkeypatch.context() as patch:
            cannot_be_opened(patch, path.parent, errno.EACCES)
            assert append(log, *range(1, 12)) is None
        assert log.close()
        assert numbers_in(chain_of(path)) == list(range(1, 12))
        assert len(chain_of(path)) == 3

    @pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
    def test_no_descriptor_for_the_folder(
        self,
        path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        code: int,
    ) -> None:
        """The error comes before anything is renamed, so the log continues as before."""
        log = inline(path, RotationPolicy(max_bytes=SIZE))
        with monkeypatch.context() as patch:
            cannot_be_opened(patch, path.parent, code)
            assert append(log, *range(1, 12)) is None
        assert f"was not rotated: {os.strerror(code)}" in caplog.text
        assert log.failure is None
        assert os.listdir(path.parent) == ["evidence.log"]
        log.rotate().result(0)
        assert append(log, 12) is None
        assert log.close()
        assert numbers_in(chain_of(path)) == list(range(1, 13))

    def test_no_room_for_the_next_file(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The new file was made and cannot be written, so it is removed."""
        log = inline(path)
        assert append(log, 1) is None

        def full(fd: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(EvidenceLogError, match="was not rotated: No space left"):
                log.rotate().result(0)
        assert os.listdir(path.parent) == ["evidence.log"]
        assert append(log, 2) is None
        assert log.close()
        assert numbers_in([path]) == [1, 2]

    def test_what_was_begun_cannot_be_removed(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The rename is refused, and so is the removal of the next file."""
        log = inline(path)
        assert append(log, 1) is None

        def refuse(*_: object) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

        def gone() -> None:
            raise FileNotFoundError

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", refuse)
            patch.setattr(os, "unlink", lambda name: refuse() if os.path.exists(name) else gone())
            with pytest.raises(EvidenceLogError, match="was not rotated: Operation not"):
                log.rotate().result(0)
        assert append(log, 2) is None
        log.rotate().result(0)
        assert log.close()
        assert numbers_in(chain_of(path)) == [1, 2]

    def test_the_second_rename_fails(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """There is no log then: nothing is acknowledged, and the next start ends the rotation."""
        log = inline(path)
        assert append(log, 1) is None
        rename = os.rename

        def fail(old: str, new: str) -> None:
            if old.endswith(".new"):
                raise OSError(errno.EIO, "Input/output error")
            rename(old, new)

        before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", fail)
            with pytest.raises(EvidenceLogError, match="has failed: Input/output error"):
                log.rotate().result(0)
        caplog.clear()
        assert log.close()
        assert not [each for each in caplog.records if each.levelno >= logging.WARNING]
        if before:
            assert len(os.listdir("/proc/self/fd")) == before - 1
        log = inline(path)
        assert append(log, 2) is None
        assert log.close()
        assert numbers_in(chain_of(path)) == [1, 2]


def test_where_it_cannot_rotate_it_goes_on_and_tries_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    monkeypatch.setattr(log_module, "monotonic", lambda: now[0])
    log = inline(path, RotationPolicy(max_bytes=SIZE))

    def full(_: str) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(disk, "open_file", full)
        assert append(log, *range(1, 10)) is None
    assert caplog.text.count("was not rotated: No space left") == 1
    assert chain_of(path) == [path]
    now[0] = 59
    assert append(log, 10) is None
    assert chain_of(path) == [path]
    now[0] = 61
    assert append(log, 11) is None
    assert chain_of(path) == [archive(path, 10), path]
    assert log.close()
    assert numbers_in(chain_of(path)) == list(range(1, 12))


@pytest.mark.parametrize("is_after", [False, True])
def test_a_crash_at_every_system_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_after: bool
) -> None:
    """Whenever the process dies during two rotations, all confirmed records are in one chain."""
    policy = RotationPolicy(max_bytes=SIZE, keep=1)
    for at in range(1, 1000):
        folder = tmp_path / str(at)
        folder.mkdir()
        path = folder / "evidence.log"
        told: list[int] = []
        with monkeypatch.context() as patch:
            mortal = Mortal(patch, at, is_after=is_after)
            try:
                log = inline(path, policy)
                for number in range(1, 13):
                    assert append(log, number) is None
                    told.append(number)
                log.close()
            except Killed:
                is_dead = True
            else:
                is_dead = False
        mortal.let_go()
        log = inline(path, policy)
        kept = numbers_in(chain_of(path))
        # `keep` may have removed the first files; behind them nothing is missing.
        assert kept == list(range(kept[0], kept[-1] + 1)) if kept else not told
        assert not told or kept[-1] >= told[-1]
        assert not told or kept[0] <= max(1, told[-1] - 3)
        assert log.head.records == len(numbers_in([path]))
        assert append(log, 100) is None
        assert log.close()
        after = numbers_in(chain_of(path))
        assert after == [*kept, 100][-len(after) :]
        assert len(after) > 4 or len(after) == len(kept) + 1
        assert not path.with_name("evidence.log.new").exists()
        if not is_dead:
            assert at > 60, "it should have rotated"
            return
    pytest.fail("it never came to its end")


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_kill(path: Path) -> None:
    """A real process that rotates all the time is killed, and killed again, on one chain."""
    rng = random.Random(1)
    told = 0
    for kill in range(KILLS):
        child = subprocess.Popen(
            [sys.executable, CHILD, str(path), str(kill), "20000"], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        first = child.stdout.readline()
        threading.Event().wait(rng.random() / 10)
        child.send_signal(signal.SIGKILL)
        lines = (first + child.stdout.read()).splitlines(True)
        child.wait(LIMIT)
        child.stdout.close()
        told = max(int(line.split()[1]) for line in lines if line.endswith(b"\n"))
        log = inline(path)
        assert log.close()
        numbers = numbers_in(chain_of(path))
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) >= told, f"kill {kill}"
    assert told
    assert len(chain_of(path)) > 2


class TestUnfinished:
    def test_a_new_file_that_is_out_of_date_never_becomes_the_log(self, path: Path) -> None:
        log = inline(path)
        assert append(log, 1) is None
        new = path.with_name("evidence.log.new")
        new.write_bytes(LogHeader(bytes(log._file._owner), 1, log._file._chain.head).encode())
        assert append(log, 2) is None
        assert log.close()
        log = inline(path)
        assert not new.exists()
        assert log.close()

    def test_one_that_has_records_is_left_alone(self, path: Path) -> None:
        log = inline(path)
        assert append(log, 1) is None
        header = LogHeader(bytes(log._file._owner), 1, log._file._chain.head).encode()
        data = header + Chain(header[-32:]).record(1, message(2).envelope)
        path.with_name("evidence.log.new").write_bytes(data)
        assert log.close()
        assert inline(path).close()
        assert path.with_name("evidence.log.new").read_bytes() == data

    def test_a_node_that_rotates_just_now_is_not_disturbed(self, path: Path) -> None:
        """A second process is started between the two renames of the first."""
        log = inline(path)
        assert append(log, 1) is None
        found: list[str] = []
        rename = os.rename

        def watch(old: str, new: str) -> None:
            if old.endswith(".new"):
                with pytest.raises(EvidenceLogError, match="has it open") as caught:
                    EvidenceLog(path, log._file._owner, is_threaded=False)
                found.append(caught.value.fact)
            rename(old, new)

        os.rename = watch  # type: ignore[assignment]
        try:
            log.rotate().result(0)
        finally:
            os.rename = rename
        assert len(found) == 1
        assert append(log, 2) is None
        assert log.close()
        assert numbers_in(chain_of(path)) == [1, 2]


class TestNames:
    @pytest.mark.parametrize("name", ["", "\0", "a\0b"])
    def test_what_is_no_name_is_refused_and_all_goes_on(self, path: Path, name: str) -> None:
        log = inline(path)
        assert append(log, 1) is None
        with pytest.raises(EvidenceLogError, match="is not a file name"):
            log.rotate(name)
        assert append(log, 2) is None
        assert log.close()
        assert numbers_in([path]) == [1, 2]

    @pytest.mark.parametrize("name", [b"x", 5, True])
    def test_another_type_is_refused(self, path: Path, name: Any) -> None:
        log = inline(path)
        with pytest.raises(TypeError):
            log.rotate(name)
        assert append(log, 1) is None
        assert log.close()

    @pytest.mark.parametrize("kind", ["text", "link", "fifo", "folder", "large"])
    def test_what_others_have_put_where_the_next_file_is_to_be_stays(
        self, path: Path, kind: str
    ) -> None:
        log = inline(path)
        assert append(log, 1) is None
        new = path.with_name(f"{path.name}.new")
        match kind:
            case "text":
                new.write_text("mine")
            case "link":
                new.symlink_to(path)
            case "fifo":
                os.mkfifo(new)
            case "folder":
                new.mkdir()
            case "large":
                new.write_bytes(bytes(HEADER_SIZE + 1))
        with pytest.raises(EvidenceLogError, match=r"another file is at .*\.new"):
            log.rotate().result(LIMIT)
        assert os.path.lexists(new)
        assert append(log, 2) is None
        assert log.close()
        assert numbers_in([path]) == [1, 2]

    @pytest.mark.parametrize("left", [0, 1, 8, HEADER_SIZE])
    def test_what_a_crash_has_left_there_goes(self, path: Path, left: int) -> None:
        log = inline(path)
        assert append(log, 1) is None
        path.with_name(f"{path.name}.new").write_bytes(path.read_bytes()[:left])
        assert log.rotate().result(LIMIT).records == 1
        assert log.close()
