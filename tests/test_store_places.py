"""Where a store cannot be: one sentence that says what to do, and the node does not start."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from signedwire import Identity, Node, StoreOpenError
from signedwire import sync as blocking


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
        (
            errno.EACCES,
            "Permission denied. Check that the disk has room and that this user",
        ),
        (errno.ENOSPC, "the disk is full. Make room on it"),
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


START = """
import sys
from signedwire import Identity, StoreOpenError
from signedwire.sync import Node
try:
    Node(Identity.from_seed(bytes(32)), store=sys.argv[1]).close()
except StoreOpenError as error:
    print(error)
"""
ONLY_READS = (
    *("setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"),
    *("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"),
    "--bounding-set=-all,+dac_read_search",
)


def started(before: tuple[str, ...], store: Path) -> str:
    """What is said where a node is started with this store, in a process of its own."""
    if os.geteuid() != 0 or shutil.which(before[0]) is None:
        pytest.skip(f"needs root and {before[0]}")
    ran = subprocess.run(
        [*before, sys.executable, "-c", START, str(store)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    if ran.returncode == 99 or ran.stderr.startswith(("unshare:", "setpriv:")):
        pytest.skip(f"this system does not let us: {ran.stderr.strip()}")
    assert (ran.returncode, ran.stderr) == (0, ""), ran
    return ran.stdout.strip()


def within(mount: str) -> tuple[str, ...]:
    script = f'{mount} || exit 99; exec "$@"'
    return ("unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh")


def existing(folder: Path) -> Path:
    """A store that was used before, in a folder that every user may look into."""
    folder.mkdir()
    blocking.Node(Identity.from_seed(bytes(32)), store=folder / "x.db").close()
    return folder / "x.db"


def test_a_store_on_a_file_system_that_has_become_read_only(tmp_path: Path) -> None:
    store = existing(tmp_path / "volume")
    before = store.read_bytes()
    mount = f"mount --bind '{store.parent}' '{store.parent}' && "
    said = started(within(f"{mount} mount -o remount,bind,ro '{store.parent}'"), store)
    assert said == (
        f"cannot open the store {store}: its file system is read-only. "
        "Name a file on a volume that can be written"
    )
    assert store.read_bytes() == before


@pytest.mark.parametrize("left_kib", range(0, 128, 16))
def test_a_store_on_a_full_disk(tmp_path: Path, left_kib: int) -> None:
    """At whichever step of making it the disk is full, that is said."""
    mount = f"mount -t tmpfs -o size=256k none '{tmp_path}' && "
    mount += f"head -c {(256 - left_kib) * 1024} /dev/zero >'{tmp_path}/ballast'"
    said = started(within(mount), tmp_path / "x.db")
    full = (
        f"cannot open the store {tmp_path}/x.db: the disk is full. "
        "Make room on it, or name another file"
    )
    assert said in ({full} if left_kib < 64 else {full, ""})


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_store_that_this_user_may_only_read(what: str) -> None:
    # In no folder of pytest's, into which only its owner may look.
    with tempfile.TemporaryDirectory(prefix="signedwire-test-") as name:
        Path(name).chmod(0o755)
        store = existing(Path(name) / "volume")
        of, mode = (store, 0o666) if what == "folder" else (store.parent, 0o777)
        of.chmod(mode)
        said = started(ONLY_READS, store)
        place = store if what == "file" else store.parent
        assert f"this user may not write to {place}. A store needs" in said
