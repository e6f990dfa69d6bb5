"""Where a store cannot be: one sentence that says what to do, and the node does not start."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from signedwire import Identity, Node, StoreOpenError


async def refusal(path: str | Path) -> str:
    node = Node(Identity.generate(), store=path)
    with pytest.raises(StoreOpenError) as caught:
        await node.start()
    assert not node.is_listening
    assert not node.health().is_well
    text = str(caught.value)
    assert text.startswith(f"cannot open the store {path}: ")
    assert "\n" not in text
    return text


async def test_places_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert "it is a directory. Name a file" in await refusal(tmp_path)
    assert "Make the directory first" in await refusal(tmp_path / "none" / "x.db")
    assert "a part of its path is no directory" in await refusal(tmp_path / "file" / "x.db")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.EROFS, "its file system is read-only. Name a file on a volume that"),
        (errno.EACCES, "Permission denied. Is the disk full, or may this user not write there?"),
        (errno.ENOSPC, "No space left on device. Is the disk full"),
    ],
)
async def test_what_the_system_refuses(
    number: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refusing(path: str, flags: int, *rest: int) -> int:
        if str(path).endswith("x.db"):
            raise OSError(number, os.strerror(number))
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", refusing)
    assert says in await refusal(tmp_path / "x.db")
    assert os.listdir(tmp_path) == []


async def test_what_is_no_regular_file_stays_as_it_is(tmp_path: Path) -> None:
    """Only a pipe of the test's own: a device belongs to the whole machine."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    pipe.chmod(0o666)
    link = tmp_path / "link"
    link.symlink_to(pipe)
    for path in (pipe, link):
        assert "it is no regular file" in await refusal(path)
        assert pipe.stat().st_mode & 0o777 == 0o666
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "none")
    assert "it is no regular file" in await refusal(dangling)
    assert not (tmp_path / "none").exists()
