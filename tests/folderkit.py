"""What the tests of folder syncs share: a folder that fails."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest


def fails_for_folders(patch: pytest.MonkeyPatch, code: int) -> None:
    """Each fsync of a folder fails so; those of files do not."""
    real = os.fsync

    def fsync(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(code, os.strerror(code))
        real(fd)

    patch.setattr(os, "fsync", fsync)


def cannot_be_opened(patch: pytest.MonkeyPatch, folder: Path, code: int) -> None:
    """The system refuses to open this folder; files in it are opened."""
    real = os.open

    def open_(path: Any, *args: Any, **more: Any) -> int:
        if os.fspath(path) == str(folder):
            raise OSError(code, os.strerror(code))
        return real(path, *args, **more)

    patch.setattr(os, "open", open_)
