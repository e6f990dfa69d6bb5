"""A new store is made if no file exists, or if a first start was killed; never in a lost file."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import sys
from pathlib import Path
from types import FrameType

import pytest

from signedwire.delivery.store import SqliteStore, beginning, schema
from signedwire.delivery.store.beginning import marker_of
from signedwire.errors import StoreCorruptError, StoreOpenError
from storekit import OTHER, PEER, US, Note, make, put

SOURCES = {schema.__file__, beginning.__file__}
posix_only = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node.db"


def used(path: Path) -> None:
    """Make a store with a message and a denial."""
    store = make("inline", path)
    put(store, Note())
    store.access.deny([bytes(OTHER)])
    assert store.close()


def refused(path: Path) -> str:
    before = {each.name: each.read_bytes() for each in path.parent.iterdir()}
    with pytest.raises(StoreCorruptError) as caught:
        SqliteStore(path, US)
    assert {each.name: each.read_bytes() for each in path.parent.iterdir()} == before
    return str(caught.value)


def test_nothing_but_the_store_is_left(path: Path) -> None:
    used(path)
    assert [each.name for each in path.parent.iterdir()] == ["node.db"]


@pytest.mark.parametrize("is_used", [True, False])
def test_an_emptied_file_is_no_new_store(path: Path, is_used: bool) -> None:
    if is_used:
        used(path)
    path.write_bytes(b"")
    said = refused(path)
    assert "it is empty, and no node was interrupted while it made it" in said
    assert "Restore an earlier copy. Or remove the file to start with an empty store" in said
    path.unlink()
    used(path)


def test_an_emptied_file_keeps_the_wal_beside_it(path: Path) -> None:
    """The WAL alone may have the last commits, and SQLite would remove it."""
    path.write_bytes(b"")
    Path(f"{path}-wal").write_bytes(b"what was committed last")
    refused(path)


@pytest.mark.parametrize("is_used", [True, False])
def test_a_file_that_has_lost_its_tables_is_no_new_store(path: Path, is_used: bool) -> None:
    if is_used:
        used(path)
    connection = sqlite3.connect(path, isolation_level=None)
    names = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    ).fetchall()
    for (name,) in names:
        connection.execute(f"DROP TABLE {name}")
    connection.execute("PRAGMA user_version = 0")
    connection.execute("VACUUM")
    connection.close()
    assert "it is empty" in refused(path)


def killed_at(path: Path, count: int) -> bool:
    """Open the file in a child that is killed before its nth call; return whether it was."""
    child = os.fork()
    if child == 0:
        left = count

        def hook(frame: FrameType, event: str, _: object) -> None:
            nonlocal left
            # The calls of the system and of SQLite that these modules make.
            if event == "c_call" and frame.f_code.co_filename in SOURCES:
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.setprofile(hook)
            schema.open_file(str(path), US)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@posix_only
def test_a_first_start_that_is_killed_begins_again(tmp_path: Path) -> None:
    """The kill comes between any two calls."""
    sizes: list[int] = []
    while True:
        folder = tmp_path / f"killed{len(sizes)}"
        folder.mkdir()
        if not killed_at(path := folder / "node.db", len(sizes)):
            break
        sizes.append(path.stat().st_size if path.exists() else -1)
        used(path)
        store = make("inline", path)
        assert [row.recipient for row in store.outbox().result(0)] == [PEER]
        assert store.access.denied == {bytes(OTHER)}
        assert store.close()
        assert os.listdir(folder) == ["node.db"]
    assert len(sizes) > 30
    assert [sizes.count(size) > 1 for size in (-1, 0, 4096)] == [True] * 3


@posix_only
def test_a_start_that_is_killed_loses_nothing(path: Path) -> None:
    used(path)
    count = 0
    while killed_at(path, count):
        count += 1
    assert count > 20
    store = make("inline", path)
    assert len(store.outbox().result(0)) == 1
    assert store.close()


def test_a_mark_that_was_left_beside_a_whole_store(path: Path) -> None:
    used(path)
    Path(marker_of(str(path))).touch()
    used(path)
    assert os.listdir(path.parent) == ["node.db"]
    path.write_bytes(b"")
    refused(path)


def test_a_file_of_somebody_else_in_place_of_the_mark(path: Path) -> None:
    mark = Path(marker_of(str(path)))
    mark.write_text("precious")
    with pytest.raises(StoreOpenError, match=r"unfinished is in the way\. Move it away"):
        SqliteStore(path, US)
    assert not path.exists()
    mark.rename(path.parent / "moved")
    used(path)
    mark.write_text("precious")
    used(path)
    assert mark.read_text() == "precious"


def test_a_store_that_is_begun_behind_a_link(tmp_path: Path) -> None:
    """The marker is beside the file itself, also if a symbolic link is opened."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    real, link = tmp_path / "real" / "node.db", tmp_path / "link" / "node.db"
    assert marker_of(str(real)) == marker_of(str(link))
    used(link)
    used(real)


def test_a_disk_that_fails_as_the_file_is_made(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The empty file is there, and so is the mark, by which the next start begins again."""
    real = os.open

    def make_and_fail(name: str, flags: int, *mode: int) -> int:
        descriptor = real(name, flags, *mode)
        if name != str(path):
            return descriptor
        os.close(descriptor)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", make_and_fail)
        with pytest.raises(StoreOpenError, match="Input/output error"):
            SqliteStore(path, US)
    assert path.read_bytes() == b""
    used(path)
    assert os.listdir(path.parent) == ["node.db"]
