"""What `read_small_file` takes, refuses, and leaves open: nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from signedwire.files import NotRegularError, TooLargeError, read_small_file

pytestmark = pytest.mark.skipif(not Path("/dev/fd").exists(), reason="no /dev/fd")


def refused(path: Path, timeout: float | None = None) -> OSError:
    before = set(os.listdir("/dev/fd"))
    with pytest.raises(OSError, match=r"it is |its writer") as caught:
        read_small_file(path, 10, pipe_timeout=timeout)
    assert set(os.listdir("/dev/fd")) == before
    return caught.value


def test_a_file_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "f"
    for size in (0, 1, 10):
        path.write_bytes(b"x" * size)
        data, status = read_small_file(path, 10)
        assert data == b"x" * size
        assert os.path.samestat(status, path.stat())
    path.write_bytes(b"x" * 11)
    for timeout in (None, 0.1):
        assert isinstance(refused(path, timeout), TooLargeError)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink(os.devnull, path)])
def test_what_is_no_file(make: Callable[[Path], object], tmp_path: Path) -> None:
    make(tmp_path / "f")
    assert isinstance(refused(tmp_path / "f"), NotRegularError)


def test_a_pipe_without_a_writer_is_given_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f")
    assert isinstance(refused(tmp_path / "f", 0.05), TimeoutError)
