"""The one place where an exception becomes one sentence and an exit code."""

from __future__ import annotations

import json
import logging
from typing import Any, Final, NamedTuple

import typer

from signedwire.cli.output import escape, say
from signedwire.errors import (
    AddressError,
    ConfigError,
    ConnectTimeout,
    DeliveryFailedError,
    DialError,
    DidError,
    EnvelopeError,
    IdentityError,
    MessageExpiredError,
    NotAllowedError,
    PayloadTooLargeError,
    ResolveTimeout,
    SignedWireError,
    StoreInUseError,
    StoreVersionError,
    UnknownPeerError,
)
from signedwire.transport.link_errors import HUNG_UP_ON_TLS
from signedwire.types import Reason

__all__ = [
    "BAD_INPUT",
    "FAILED",
    "HUNG_UP_ON_TLS",
    "INTERRUPTED",
    "PIPE_CLOSED",
    "BadInput",
    "NotDone",
    "explain",
    "hint_about",
    "report",
]

FAILED: Final = 1
BAD_INPUT: Final = 2
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141


class BadInput(SignedWireError):
    """An option, argument or file that cannot be used: exit code 2."""


class NotDone(SignedWireError):
    """What was asked for did not happen: exit code 1."""


class _Report(NamedTuple):
    """How an exception is told."""

    kind: str
    fact: str
    hint: str
    exit_code: int


_BAD_INPUT_ERRORS: Final = (
    BadInput,
    ConfigError,
    DidError,
    AddressError,
    IdentityError,
    EnvelopeError,
    UnknownPeerError,
    NotAllowedError,
    PayloadTooLargeError,
    StoreVersionError,
)

# What to do now, on the command line: the errors' own hints speak to programs.
_HINTS: Final[tuple[tuple[type[SignedWireError], str], ...]] = (
    (UnknownPeerError, "Write DID@host:port, or name the peer in a file given with --peers"),
    (MessageExpiredError, "Give it a longer --deadline, or run `signedwire ping DID@host:port`"),
    (StoreInUseError, "Wait until it ends, ask that node itself, or give another --store"),
    (ResolveTimeout, "Does the name server answer? An IP address needs none"),
    (ConnectTimeout, "Is the host up, and does a firewall between let the port through?"),
    (DialError, "Is `signedwire listen` running there, and are host and port right?"),
)

# Usage errors of typer, and of click under older releases of it: the class itself has no
# public name in both.
_UsageError: Final[type[BaseException]] = typer.BadParameter.__mro__[1]


def report(error: BaseException, *, as_json: bool = False) -> int:
    """Tell `error` on stderr, unless it needs no word, and return the exit code."""
    told = _translate(error)
    if told.kind == "BrokenPipeError":
        return told.exit_code
    if as_json:
        fields = {"error": told.kind, "message": told.fact, "hint": told.hint or None}
        say(json.dumps({**fields, "exit_code": told.exit_code}))
    else:
        say(f"signedwire: {escape(_sentence(told.fact, told.hint))}")
    if told.kind == "InternalError":
        logging.getLogger("signedwire").debug("the traceback:", exc_info=error)
    return told.exit_code


def explain(error: SignedWireError) -> tuple[str, str]:
    """The fact and the hint of an error, as the command line tells them."""
    fact = error.fact
    if HUNG_UP_ON_TLS in fact:
        # What follows is a hint for programs.
        before, _, after = fact.partition(HUNG_UP_ON_TLS)
        fact = before + HUNG_UP_ON_TLS + (")" if after.endswith(")") else "")
    return fact, _hint(error)


def hint_about(cause: str) -> str:
    """What to do about an attempt that failed although somebody was there; empty: nobody was."""
    if HUNG_UP_ON_TLS in cause:
        return "If it is a v1 peer, add --v1"
    if " answered, not " in cause:
        return "Another key answers there: is the DID right?"
    return ""


def _sentence(fact: str, hint: str) -> str:
    ends = (".", "!", "?")
    fact = fact if fact.endswith(ends) else f"{fact}."
    if not hint:
        return fact
    return f"{fact} {hint if hint.endswith(ends) else f'{hint}.'}"


def _translate(error: BaseException) -> _Report:
    kind = type(error).__name__
    if isinstance(error, SignedWireError):
        code = BAD_INPUT if isinstance(error, _BAD_INPUT_ERRORS) else FAILED
        return _Report(kind, *explain(error), code)
    if isinstance(error, _UsageError):
        return _usage(error)
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return _Report("Interrupted", "interrupted", "", INTERRUPTED)
    if isinstance(error, BrokenPipeError):
        return _Report(kind, "", "", PIPE_CLOSED)
    if isinstance(error, ImportError):
        # Said by the part that needs an extra, with the command that installs it.
        return _Report("ImportError", str(error), "", FAILED)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename is not None else ""
        cause = error.strerror or str(error)
        return _Report(kind, f"{where}{cause}", "Check the path, its permissions and the disk", 1)
    hint = "This is a bug in signedwire: run it again with -v and report what it shows"
    return _Report("InternalError", f"internal error: {kind}: {error}", hint, FAILED)


def _hint(error: SignedWireError) -> str:
    if isinstance(error, DeliveryFailedError) and error.reason is Reason.ATTEMPTS_EXHAUSTED:
        hint = hint_about(error.fact)
        return hint or "Is the peer running, and its address right? `signedwire ping` tries it"
    if isinstance(error, NotAllowedError) and error.reason is Reason.NOT_ALLOWED:
        return "Add --v1, or name it in v1_peers of the configuration"
    for kind, hint in _HINTS:
        if isinstance(error, kind):
            return hint
    return error.hint


def _usage(error: Any) -> _Report:
    context = error.ctx
    command = context.command_path if context is not None else "signedwire"
    fact = str(error.format_message()).strip().rstrip(".")
    fact = f"{fact[:1].lower()}{fact[1:]}"
    return _Report("UsageError", fact, f"See `{command} --help`", BAD_INPUT)
