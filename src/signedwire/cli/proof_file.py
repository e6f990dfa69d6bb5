"""The file of `signedwire send --proof`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

from signedwire.cli.errors import BadFile, NotDone
from signedwire.cli.exit_codes import ExitCode
from signedwire.delivery.receipt import Receipt
from signedwire.folders import sync_folder
from signedwire.types import DeliveryState

__all__ = ["Save", "proof_file"]

Save: TypeAlias = Callable[[Receipt], None]
"""Saves the receipt proof of a message."""


@contextlib.contextmanager
def proof_file(path: Path | None) -> Iterator[Save]:
    """Make the file before anything is sent, and remove it if no proof was saved.

    Args:
        path: The file, which must not exist; `None`: no proof is wanted.

    Yields:
        A function that saves the proof; without a path, it does nothing.

    Raises:
        BadFile: the file exists, or cannot be made.
    """
    if path is None:
        yield lambda receipt: None
        return
    try:
        file = path.open("xb", buffering=0)
    except FileExistsError:
        raise BadFile(
            f"{path} exists already, and a proof is never overwritten", "Name another file"
        ) from None
    except OSError as error:
        raise BadFile(
            f"cannot write {path}: {error.strerror}",
            "Does the folder exist, and may you write to it?",
        ) from None

    def save(receipt: Receipt) -> None:
        if not receipt.is_confirmed and receipt.state is not DeliveryState.REFUSED:
            raise NotDone(
                f"message {receipt.message_id[:8]} was written, but there is no proof of "
                "it: v1 peers sign no receipts",
                "Leave --proof away",
            )
        try:
            data = receipt.proof()
            while data:
                data = data[file.write(data) :]
            os.fsync(file.fileno())
            sync_folder(path.parent)
        except OSError as error:
            raise NotDone(
                f"message {receipt.message_id[:8]} is {receipt.state}, but its proof cannot be "
                f"written to {path}: {error.strerror}",
                "Do not send it again",
                ExitCode.SYSTEM,
            ) from None
        saved.append(receipt)

    saved: list[Receipt] = []
    try:
        with file:
            yield save
    finally:
        # A saved proof stays whatever fails afterwards, because it cannot be made again.
        if not saved:
            path.unlink(missing_ok=True)
