"""The exit codes of `signedwire`, on which scripts can branch.

docs/operations.md has the same table. Each command's `--help` lists the codes that it
can end with: those that every command has, and those in its `exit_codes`.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Final

from signedwire.cli.interrupts import INTERRUPTED as _INTERRUPTED

__all__ = ["COMMON", "EVERY", "ExitCode", "epilog"]


class ExitCode(IntEnum):
    """How a run of the command line ended; `meaning` is the text for people."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> ExitCode:
        """Make a code with its meaning, which `--help` and the docs show."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    DONE = 0, "success; for `send`: the message reached the state `--until`"
    FAILED = 1, "a failure that has no other code, or a check found a fault"
    USAGE = 2, "the command line or a given value cannot be used"
    FILE = 3, "the identity, the configuration or another file cannot be read, written or used"
    STORED = 4, "the message was not delivered yet: it is stored, and is sent later"
    NO_ANSWER = 5, "there was no answer in time: `--timeout` or `--deadline` passed"
    UNREACHED = 6, "the peer was not reached, or another key answered at its address"
    REFUSED = 7, "the peer refused the message"
    DENIED = 8, "forbidden by an access list or by `v1_peers`, at this node or at the peer"
    STORE = 9, "the store or the evidence log cannot be used, is in use, is full or failed"
    SYSTEM = 10, "the operating system refused something: a port, the disk, standard output"
    HUNG_UP = 129, "SIGHUP; `listen` and `bench --serve` close in an orderly way first"
    INTERRUPTED = _INTERRUPTED, "Ctrl-C (SIGINT)"
    PIPE_CLOSED = 141, "the reader of standard output closed it"
    TERMINATED = 143, "SIGTERM; `listen` and `bench --serve` close in an orderly way first"

    @property
    def in_short(self) -> str:
        """The meaning without what holds for single commands only."""
        return self.meaning.partition(";")[0]


COMMON: Final = (
    ExitCode.DONE,
    ExitCode.FAILED,
    ExitCode.USAGE,
    ExitCode.FILE,
    ExitCode.SYSTEM,
    ExitCode.HUNG_UP,
    ExitCode.INTERRUPTED,
    ExitCode.PIPE_CLOSED,
    ExitCode.TERMINATED,
)
"""The codes that every command can end with."""


EVERY: Final[tuple[ExitCode, ...]] = tuple(ExitCode.__members__.values())
"""All codes."""


def epilog(more: Iterable[ExitCode] = ()) -> str:
    """Return the text below a command's help: its exit codes, and where its output goes.

    Args:
        more: The codes of the command beside `COMMON`.
    """
    codes = "; ".join(f"{int(code)} {code.in_short}" for code in sorted({*COMMON, *more}))
    return (
        f"Exit codes: {codes}. Results go to stdout; errors, logs and prose go to stderr. With "
        "--json each result is one JSON object on a line, and so is an error."
    )
