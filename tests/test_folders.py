"""What is done to the names in a folder is durable, or it is told that it is not."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from folderkit import cannot_be_opened, fails_for_folders
from linkkit import BOB
from signedwire import Identity, IdentityError
from signedwire.delivery.store import SqliteStore
from signedwire.errors import StoreOpenError
from signedwire.folders import Folder, make_folders, rename_new, sync_folder
from signedwire.keysources import make_key_file

pytestmark = pytest.mark.skipif(os.name != "posix", reason="a folder cannot be opened there")


class TestSync:
    @pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
    def test_a_file_system_that_cannot(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        fails_for_folders(monkeypatch, code)
        sync_folder(tmp_path)

    @pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EACCES])
    def test_a_disk_that_fails(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        fails_for_folders(monkeypatch, code)
        with pytest.raises(OSError, match=os.strerror(code)):
            sync_folder(tmp_path)

    def test_a_folder_that_may_not_be_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cannot_be_opened(monkeypatch, tmp_path, errno.EACCES)
        sync_folder(tmp_path)

    @pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOENT])
    def test_other_reasons_not_to_open_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        cannot_be_opened(monkeypatch, tmp_path, code)
        with pytest.raises(OSError, match=os.strerror(code)):
            sync_folder(tmp_path)

    def test_the_folder_is_closed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        sync_folder(tmp_path)
        fails_for_folders(monkeypatch, errno.EIO)
        with pytest.raises(OSError, match="Input/output"), Folder(tmp_path) as folder:
            folder.sync()
        if before:
            assert len(os.listdir("/proc/self/fd")) == before


class TestMakeFolders:
    def test_each_is_synced_into_the_one_above(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced: list[int] = []
        monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
        made = tmp_path / "a" / "b" / "c"
        make_folders(made)
        above = (tmp_path, tmp_path / "a", tmp_path / "a" / "b")
        assert synced == [each.stat().st_ino for each in above]
        assert [stat.S_IMODE(each.stat().st_mode) for each in above[1:]] == [0o700, 0o700]
        make_folders(made)
        assert len(synced) == 3

    def test_something_else_is_there(self, tmp_path: Path) -> None:
        (tmp_path / "a").touch()
        with pytest.raises(OSError, match=r"File exists|Not a directory"):
            make_folders(tmp_path / "a")
        with pytest.raises(OSError, match=r"File exists|Not a directory"):
            make_folders(tmp_path / "a" / "b")
        (tmp_path / "link").symlink_to(tmp_path / "nowhere")
        with pytest.raises(FileExistsError):
            make_folders(tmp_path / "link")

    def test_another_process_makes_them_too(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = os.mkdir

        def mkdir(path: Any, mode: int = 0o777) -> None:
            real(path, mode)
            real(path, mode)  # FileExistsError: the other one was first

        monkeypatch.setattr(os, "mkdir", mkdir)
        make_folders(tmp_path / "a" / "b")
        assert (tmp_path / "a" / "b").is_dir()


class TestRenameNew:
    @pytest.mark.parametrize("code", [None, errno.EPERM, errno.ENOTSUP])
    def test_it_never_replaces(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int | None
    ) -> None:
        """With hard links and without."""
        if code is not None:

            def refuse(old: str, new: str) -> None:
                raise OSError(code, os.strerror(code))

            monkeypatch.setattr(os, "link", refuse)
        old, new = tmp_path / "old", tmp_path / "new"
        old.write_text("mine")
        new.write_text("another's")
        with pytest.raises(FileExistsError):
            rename_new(str(old), str(new))
        assert (old.read_text(), new.read_text()) == ("mine", "another's")
        new.unlink()
        rename_new(str(old), str(new))
        assert new.read_text() == "mine"
        assert os.listdir(tmp_path) == ["new"]

    def test_nfs_repeats_a_link_whose_answer_was_lost(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = os.link

        def link(old: str, new: str) -> None:
            real(old, new)
            real(old, new)  # FileExistsError

        monkeypatch.setattr(os, "link", link)
        (tmp_path / "old").write_text("mine")
        rename_new(str(tmp_path / "old"), str(tmp_path / "new"))
        assert os.listdir(tmp_path) == ["new"]

    def test_another_fault(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            rename_new(str(tmp_path / "old"), str(tmp_path / "new"))


class TestWhoAsksForIt:
    """A disk that fails is told by each that makes a name, and none takes it for done."""

    def test_the_store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fails_for_folders(monkeypatch, errno.EIO)
        with pytest.raises(StoreOpenError, match="Input/output error"):
            SqliteStore(tmp_path / "store.db", BOB.did)

    @pytest.mark.parametrize("code", [errno.EIO, errno.EACCES])
    def test_a_key(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
        fails_for_folders(monkeypatch, code)
        with pytest.raises(IdentityError, match=os.strerror(code)):
            Identity.generate().save(tmp_path / "key")
        assert os.listdir(tmp_path) == []

    def test_a_key_in_the_place_of_an_empty_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is there then, and the next start finds it; nobody has used it yet."""
        path = tmp_path / "key"
        path.touch(0o600)
        with monkeypatch.context() as patch:
            fails_for_folders(patch, errno.EIO)
            with pytest.raises(IdentityError, match="Input/output error"):
                make_key_file(path, None, is_empty=True)
        assert Identity.load(path)
        assert os.listdir(tmp_path) == ["key"]

    def test_the_folders_above_a_key(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        synced: list[int] = []
        monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
        path = tmp_path / "config" / "signedwire" / "identity.pem"
        assert make_key_file(path, None)
        assert {each.stat().st_ino for each in (tmp_path, *path.parents[:2])} <= {*synced}
