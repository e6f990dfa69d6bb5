"""What an evidence log asks of its folder, and of the process that has the same file open."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from evidencekit import append, inline

from folderkit import fails_for_folders
from signedwire.errors import EvidenceLogError

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
        # A start that died before this sync, or that it failed for, is no reason to go without.
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
