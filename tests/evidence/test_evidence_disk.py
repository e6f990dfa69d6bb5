"""An evidence log and its folder, and two processes that open the same log."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evidencekit import Killed, Mortal, append, chain_of, inline, numbers_in

from folderkit import fails_for_folders
from linkkit import BOB
from signedwire.errors import EvidenceLogError
from signedwire.evidence import disk, opening
from signedwire.evidence.chain import LogHeader
from signedwire.evidence.files import header_of

fcntl = pytest.importorskip("fcntl")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="a folder cannot be opened there")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "evidence.log"


class TestFolderSync:
    def test_the_evidence_log_does_not_begin(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fails_for_folders(monkeypatch, errno.EIO)
        with pytest.raises(EvidenceLogError, match="cannot be opened: Input/output error"):
            inline(tmp_path / "evidence.log")
        # The next start syncs too, because this one may have died before its sync.
        with pytest.raises(EvidenceLogError, match="cannot be opened: Input/output error"):
            inline(tmp_path / "evidence.log")
        monkeypatch.undo()
        assert inline(tmp_path / "evidence.log").close()

    def test_the_evidence_log_fails_where_a_rotation_is_not_durable(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log = inline(tmp_path / "evidence.log")
        assert append(log, 1) is None
        with monkeypatch.context() as patch:
            fails_for_folders(patch, errno.EIO)
            with pytest.raises(EvidenceLogError, match="has failed: Input/output error"):
                log.rotate().result(0)
        with pytest.raises(EvidenceLogError, match="has failed"):
            append(log, 2)
        assert log.close()
        log = inline(tmp_path / "evidence.log")
        assert append(log, 2) is None
        assert log.close()

    def test_the_archive_is_durable_before_the_next_log_has_its_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, elsewhere = tmp_path / "evidence.log", tmp_path / "old"
        elsewhere.mkdir()
        log = inline(path)
        assert append(log, 1) is None
        done: list[str] = []
        rename, fsync = os.rename, os.fsync

        def note_rename(old: str, new: str) -> None:
            done.append(f"rename {Path(old).name}")
            rename(old, new)

        def note_fsync(fd: int) -> None:
            folders = {each.stat().st_ino: each.name for each in (tmp_path, elsewhere)}
            done.append(f"sync {folders.get(os.fstat(fd).st_ino, 'file')}")
            fsync(fd)

        monkeypatch.setattr(os, "rename", note_rename)
        monkeypatch.setattr(os, "fsync", note_fsync)
        log.rotate(elsewhere / "1.log").result(0)
        monkeypatch.undo()
        both = {f"sync {tmp_path.name}", "sync old"}
        assert done[:2] == ["sync file", "rename evidence.log"]
        assert set(done[2:4]) == both
        assert done[4] == "rename evidence.log.new"
        assert f"sync {tmp_path.name}" in done[5:]
        assert log.close()


class TestTwoProcesses:
    """A second process starts on a log that is in use, and the first rotates just then.

    It is refused at its start, and never takes a record or the file from the first.
    """

    def test_the_rotation_ends_before_the_other_can_finish_it(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log = inline(path)
        assert append(log, 1) is None
        rename = os.rename
        done: list[str] = []

        def read_then_go_on(name: str) -> LogHeader | None:
            header = header_of(name)
            if not done and name.endswith(".new"):
                done.append(name)
                rename(name, path)  # the first process goes on
            return header

        def start_another(old: str, new: str) -> None:
            if not old.endswith(".new"):
                rename(old, new)
                return
            with monkeypatch.context() as patch:
                patch.setattr(disk, "header_of", read_then_go_on)
                with pytest.raises(EvidenceLogError, match="has it open"):
                    inline(path)

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", start_another)
            log.rotate().result(0)
        assert done
        assert append(log, 2) is None
        assert log.close()
        assert numbers_in(chain_of(path)) == [1, 2]
        assert not Path(f"{path}.new").exists()

    @staticmethod
    def before_the_lock(patch: pytest.MonkeyPatch, deed: Callable[[], object]) -> list[bool]:
        """Call a function when the next process that starts asks for its lock."""
        flock, done = fcntl.flock, list[bool]()

        def lock(fd: int, how: int) -> None:
            if not done:
                done.append(True)
                deed()
            flock(fd, how)

        patch.setattr(fcntl, "flock", lock)
        return done

    def test_the_file_that_was_opened_is_an_archive_when_it_is_locked(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log = inline(path)
        assert append(log, 1) is None
        done = self.before_the_lock(monkeypatch, lambda: log.rotate().result(0))
        with pytest.raises(EvidenceLogError, match="has it open"):
            inline(path)
        assert done
        assert append(log, 2) is None
        assert log.close()
        assert numbers_in(chain_of(path)) == [1, 2]

    def test_the_file_that_was_there_is_gone_when_it_is_opened(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log = inline(path)
        assert append(log, 1) is None
        rename, open_ = os.rename, os.open
        archive = f"{path}.000000000001"
        opened: list[str] = []

        def open_too_late(name: Any, flags: int, *args: Any) -> int:
            if name == str(path):
                opened.append(name)
                if len(opened) == 1:
                    raise FileExistsError
                rename(path, archive)  # the first process begins to rotate
                patch.setattr(os, "open", open_)
            return open_(name, flags, *args)

        new = Path(f"{path}.new")
        with monkeypatch.context() as patch:
            fd = -1
            try:
                patch.setattr(os, "open", open_too_late)
                header = LogHeader(bytes(BOB.did), 1, log._file._chain.head)
                new.write_bytes(header.encode())
                fd = open_(new, os.O_RDWR)
                fcntl.flock(fd, fcntl.LOCK_EX)
                with pytest.raises(EvidenceLogError, match="has it open"):
                    inline(path)
            finally:
                os.close(fd)
        assert len(opened) == 2
        assert log.close()

    def test_the_first_one_rotates_and_ends(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The second process then has the new file and the right numbers."""
        log = inline(path)
        assert append(log, 1) is None

        def rotate_and_end() -> None:
            log.rotate().result(0)
            assert append(log, 2, 3) is None
            log.rotate().result(0)
            assert log.close()

        done = self.before_the_lock(monkeypatch, rotate_and_end)
        other = inline(path)
        assert done
        assert append(other, 4) is None
        other.rotate().result(0)
        assert other.close()
        assert [each.name[-2:] for each in chain_of(path)] == ["01", "03", "04", "og"]
        assert numbers_in(chain_of(path)) == [1, 2, 3, 4]

    def test_a_new_file_in_the_middle_of_a_rotation(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The other process saw the log, then finds none and makes an empty file."""
        log = inline(path)
        assert append(log, 1) is None
        rename, lexists = os.rename, os.path.lexists
        seen: list[str] = []

        def see_it_still(name: str) -> bool:
            if not seen:
                seen.append(name)
                return True
            return lexists(name)

        def start_another(old: str, new: str) -> None:
            if old.endswith(".new"):
                with monkeypatch.context() as patch:
                    patch.setattr(os.path, "lexists", see_it_still)
                    with pytest.raises(EvidenceLogError, match="has it open"):
                        inline(path)
            rename(old, new)

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", start_another)
            log.rotate(path.with_name("old.log")).result(0)
        assert seen == [str(path)]
        assert append(log, 2) is None
        assert log.close()
        assert numbers_in([path.with_name("old.log"), path]) == [1, 2]

    def test_a_rotation_that_ends_while_it_is_looked_for(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The log was absent, and is there at the second look, so it is not reported as lost."""
        log = inline(path)
        assert append(log, 1) is None
        log.rotate().result(0)
        assert log.close()
        away = path.rename(path.with_name("away"))
        monkeypatch.setattr(opening, "refuse_while_rotating", lambda path: away.rename(path))
        log = inline(path)
        assert append(log, 2) is None
        assert log.close()
        assert numbers_in(chain_of(path)) == [1, 2]

    @pytest.mark.parametrize("is_moved", [True, False])
    def test_the_log_is_moved_away_or_its_rotation_ended(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, is_moved: bool
    ) -> None:
        """The log disappears between the check and the opening, and is not made anew."""
        log = inline(path)
        assert append(log, 1) is None
        log.rotate().result(0)
        assert log.close()
        other, new = path.with_name("moved"), path.with_name("evidence.log.new")
        if is_moved:
            done = self.before_the_lock(monkeypatch, lambda: path.rename(other))
            with pytest.raises(EvidenceLogError, match="is not there"):
                inline(path)
            assert done
            assert not path.exists()
            return
        path.rename(new)

        def read_then_end(name: str) -> LogHeader | None:
            header = header_of(name)
            if new.exists():
                new.rename(path)
            return header

        monkeypatch.setattr(disk, "header_of", read_then_end)
        log = inline(path)
        assert append(log, 2) is None
        assert log.close()
        assert numbers_in(chain_of(path)) == [1, 2]

    def test_a_name_that_always_leads_elsewhere(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The opening ends with an error instead of trying for ever."""
        assert inline(path).close()
        monkeypatch.setattr(os.path, "samestat", lambda one, two: False)
        with pytest.raises(EvidenceLogError, match="another program has replaced it"):
            inline(path)


class TestFinishing:
    """A crash came between the two renames of a rotation: the next start does the second."""

    @pytest.fixture
    def new(self, path: Path) -> Path:
        log = inline(path)
        assert append(log, 1) is None
        log.rotate().result(0)
        assert log.close()
        return path.rename(f"{path}.new")

    def test_a_file_that_comes_meanwhile_is_not_replaced(
        self, path: Path, new: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data, link = new.read_bytes(), os.link

        def be_late(old: str, target: str) -> None:
            if not path.exists():
                path.write_bytes(b"another's")
            link(old, target)

        monkeypatch.setattr(os, "link", be_late)
        with pytest.raises(EvidenceLogError, match="not an evidence log"):
            inline(path)
        assert path.read_bytes() == b"another's"
        assert new.read_bytes() == data

    @pytest.mark.parametrize("is_after", [False, True])
    def test_a_crash_at_each_step_of_it(
        self, path: Path, new: Path, monkeypatch: pytest.MonkeyPatch, is_after: bool
    ) -> None:
        data = new.read_bytes()
        for at in range(1, 100):
            path.unlink(missing_ok=True)
            new.write_bytes(data)
            with monkeypatch.context() as patch:
                mortal = Mortal(patch, at, is_after=is_after)
                with contextlib.suppress(Killed):
                    inline(path).close()
            mortal.let_go()
            log = inline(path)
            assert not new.exists()
            assert path.stat().st_nlink == 1
            assert append(log, 2) is None
            assert log.close()
            assert numbers_in(chain_of(path)) == [1, 2]
            if mortal.count < at:
                assert at > 10
                return
        pytest.fail("it never came to its end")

    def test_an_empty_file_has_its_name(self, path: Path, new: Path) -> None:
        """No process rotates the log, so the start reports an empty log."""
        path.touch()
        with pytest.raises(EvidenceLogError, match="is empty, and"):
            inline(path)
        path.with_name("evidence.log.000000000001").unlink()
        assert inline(path).close()
        assert inline(path).close()
        assert not new.exists()
