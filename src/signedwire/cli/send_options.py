"""The options of `signedwire send`: which exclude each other, and the file of --proof."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from signedwire.cli.errors import BadFile, BadInput, NotDone
from signedwire.cli.exit_codes import ExitCode
from signedwire.delivery.receipt import Receipt
from signedwire.folders import sync_folder
from signedwire.types import DeliveryState

if TYPE_CHECKING:
    from signedwire.cli.surface import Send

__all__ = ["Save", "check_usage", "proof_file"]

Save = Callable[[Receipt], None]
"""Saves the receipt proof."""


def check_usage(options: Send) -> str | None:
    """Refuse options that contradict each other, before anything is done.

    Returns the option that chose a v1 payload, if one did.
    """
    kinds = {
        "--agent-command": options.agent_command is not None,
        "--heartbeat": options.heartbeat,
        "--motion": options.motion is not None,
        "--llm-query": options.llm_query,
    }
    chosen = [name for name, is_given in kinds.items() if is_given]
    if len(chosen) > 1:
        raise BadInput(f"{' and '.join(chosen)} exclude each other", "Send them one by one")
    is_given = options.text is not None or options.file is not None
    if options.text is not None and options.file is not None:
        raise BadInput("TEXT and --file exclude each other", "Give one of them")
    if chosen and chosen[0] in ("--heartbeat", "--motion"):
        if is_given:
            raise BadInput(f"{chosen[0]} takes no TEXT and no --file", "Leave them away")
    elif not is_given and chosen != ["--agent-command"]:
        raise BadInput(
            "there is nothing to send", "Give TEXT, --file FILE, or - for the lines of stdin"
        )
    if options.target and options.agent_command is None:
        raise BadInput("--target is the target of --agent-command", "Give both, or neither")
    if (options.system_prompt or options.model) and not options.llm_query:
        raise BadInput("--system-prompt and --model belong to --llm-query", "Add --llm-query")
    if options.proof is not None:
        if options.text == "-":
            raise BadInput("--proof is for one message, and - sends many", "Send them one by one")
        if options.until not in (None, DeliveryState.ACCEPTED, DeliveryState.HANDLED):
            raise BadInput(
                f"--proof needs a receipt, and --until {options.until} does not wait for one",
                "Leave --until away",
            )
    return chosen[0] if chosen else None


@contextlib.contextmanager
def proof_file(path: Path | None) -> Iterator[Save]:
    """A function that saves the proof, into a file that is there before all is done."""
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
        if not receipt.is_confirmed:
            raise NotDone(
                f"message #{receipt.sequence_number} was written, but there is no proof of "
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
                f"message #{receipt.sequence_number} is {receipt.state}, but its proof cannot be "
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
        # Whatever fails after it, a proof stays: there is no other.
        if not saved:
            path.unlink(missing_ok=True)
