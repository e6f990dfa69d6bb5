"""Errors of the command line, and the report of an exception as one sentence and an exit code."""

from __future__ import annotations

import errno
import logging
import re
from typing import Any, Final, NamedTuple

import typer

from signedwire.cli.exit_codes import ExitCode
from signedwire.cli.output import emit_error, say
from signedwire.cli.redaction import without_keys
from signedwire.errors import (
    AddressError,
    ConfigError,
    ConnectTimeout,
    DeliveryError,
    DeliveryFailedError,
    DialError,
    DidError,
    EnvelopeError,
    FailureKind,
    IdentityError,
    ListenError,
    MessageExpiredError,
    MessageRefusedError,
    NoReplyError,
    NotAllowedError,
    PayloadTooLargeError,
    ResolveTimeout,
    SignedWireError,
    StoreError,
    StoreInUseError,
    UnknownPeerError,
)
from signedwire.keyformats import looks_like_a_key
from signedwire.types import DeliveryState, Did, Reason

__all__ = [
    "About",
    "BadFile",
    "BadInput",
    "HOW_TO_NAME_PEER",
    "NotDone",
    "about_of",
    "code_of",
    "explain",
    "hint_about",
    "hint_about_name",
    "report",
    "sentences",
]


class BadInput(SignedWireError):
    """An option or an argument that cannot be used: `ExitCode.USAGE`."""


class BadFile(BadInput):
    """A file that cannot be read, written or used: `ExitCode.FILE`."""


class About(NamedTuple):
    """The message that an error is about, and what became of it, for JSON."""

    did: Did | None = None
    reason: Reason | None = None
    detail: str | None = None
    """The error of the last attempt."""
    state: DeliveryState | None = None
    store: str | None = None
    """The file in which the message waits; it is sent later."""


class NotDone(SignedWireError):
    """A command did not do its work; `code` is the exit code.

    With a `cause`, an error that this one explains further, `kind` is that of the cause.
    """

    def __init__(
        self,
        fact: str,
        hint: str = "",
        code: ExitCode = ExitCode.FAILED,
        about: About | None = None,
        *,
        cause: SignedWireError | None = None,
    ) -> None:
        super().__init__(fact, hint)
        self.code = code
        self.about = about or (About() if cause is None else about_of(cause))
        self.kind: str = "NotDone" if cause is None else _kind_of(cause)


class _Report(NamedTuple):
    """An exception as it is reported."""

    kind: str
    fact: str
    hint: str
    exit_code: ExitCode


# The first class that fits decides.
_CODES: Final[tuple[tuple[type[SignedWireError], ExitCode], ...]] = (
    (BadFile, ExitCode.FILE),
    (ConfigError, ExitCode.FILE),
    (IdentityError, ExitCode.FILE),
    (BadInput, ExitCode.USAGE),
    (DidError, ExitCode.USAGE),
    (AddressError, ExitCode.USAGE),
    (EnvelopeError, ExitCode.USAGE),
    (UnknownPeerError, ExitCode.USAGE),
    (PayloadTooLargeError, ExitCode.USAGE),
    (NotAllowedError, ExitCode.DENIED),
    (MessageExpiredError, ExitCode.NO_ANSWER),
    (NoReplyError, ExitCode.NO_ANSWER),
    (MessageRefusedError, ExitCode.REFUSED),
    (StoreError, ExitCode.STORE),
    (DialError, ExitCode.UNREACHED),
    (ListenError, ExitCode.SYSTEM),
)
_CODES_OF_REASONS: Final = {
    Reason.ATTEMPTS_EXHAUSTED: ExitCode.UNREACHED,
    Reason.BAD_IDENTITY: ExitCode.UNREACHED,
    Reason.DENIED: ExitCode.DENIED,
    Reason.EXPIRED: ExitCode.NO_ANSWER,
    Reason.STORE_FAILED: ExitCode.STORE,
}

HOW_TO_NAME_PEER: Final = (
    "Write DID@host:port or DID@unix:/path, or name the peer in a file given with --peers"
)
# Hints for the command line; the hints of the errors themselves are for programs.
_HINTS: Final[tuple[tuple[type[SignedWireError], str], ...]] = (
    (UnknownPeerError, HOW_TO_NAME_PEER),
    (NoReplyError, "Give it a longer --timeout, or see whether `signedwire ping` reaches it"),
    (
        MessageExpiredError,
        "Give it a longer --deadline, or see whether `signedwire ping` reaches it",
    ),
    (StoreInUseError, "Wait until it ends, ask that node itself, or give another --store"),
    (ResolveTimeout, "Does the name server answer? An IP address needs none"),
    (ConnectTimeout, "Is the host up, and does a firewall between let the port through?"),
    (DialError, "Is `signedwire listen` running there, and are host and port right?"),
)

_HOW_TO_UNDENY: Final = (
    "To send to it, change `deny`, `allow` or the access file; `signedwire config show` has them. "
    "A program that has denied it at run time must call node.access.undeny()"
)
_TOO_LARGE: Final = (
    "Split it, or ask the peer's owner to raise max_payload_size. If a store is in use, the "
    "message is a dead letter now: `signedwire dead list`"
)
_HINTS_OF_KINDS: Final = {
    FailureKind.HUNG_UP_ON_TLS: "If it is a v1 peer, add --v1",
    FailureKind.WRONG_KEY: "Another key answers there: is the DID right?",
}

# The usage error of typer, or of click in older releases. It has no public name in both.
_UsageError: Final[type[BaseException]] = typer.BadParameter.__mro__[1]


def report(error: BaseException, *, as_json: bool = False) -> ExitCode:
    """Report `error` on stderr, and return its exit code.

    A closed pipe is not reported, because nobody reads the output any more.

    Args:
        error: The exception that ended the command.
        as_json: Whether to print a JSON object instead of a sentence.
    """
    shown = _translate(error)
    if shown.kind == "BrokenPipeError":
        return shown.exit_code
    if as_json:
        about = about_of(error)
        fields = {
            "error": shown.kind,
            "message": without_keys(shown.fact),
            "hint": without_keys(shown.hint) or None,
            **{name: None if each is None else str(each) for name, each in about._asdict().items()},
            "exit_code": int(shown.exit_code),
            "exit": shown.exit_code.name.lower(),
        }
        emit_error(fields)
    else:
        say(f"signedwire: {sentences(shown.fact, shown.hint)}")
    if shown.kind == "InternalError":
        logging.getLogger("signedwire").debug("the traceback:", exc_info=error)
    return shown.exit_code


def about_of(error: BaseException) -> About:
    """Return the message that an error is about; all fields are `None` if it is about none."""
    if isinstance(error, NotDone):
        return error.about
    if isinstance(error, DeliveryFailedError):
        receipt = error.receipt
        return About(error.recipient, error.reason, receipt.detail or None, receipt.state)
    if isinstance(error, DeliveryError):
        return About(error.recipient, error.reason)
    return About()


def explain(error: SignedWireError) -> tuple[str, str]:
    """Return the fact and the hint of an error, as the command line shows them."""
    return error.fact, _hint(error)


def hint_about(kind: FailureKind | None) -> str:
    """Return what to do about a failed attempt to which something answered; else an empty text."""
    return "" if kind is None else _HINTS_OF_KINDS.get(kind, "")


def hint_about_name(kind: FailureKind | None) -> str:
    """Return what to do about a host name that was not found; an empty text for other kinds."""
    return "Is the host name right?" if kind is FailureKind.NAME_UNKNOWN else ""


def sentences(*texts: str) -> str:
    """Return the texts that are not empty, each with a mark at its end."""
    return " ".join(
        text if text.endswith((".", "!", "?")) else f"{text}." for text in texts if text
    )


def _kind_of(error: BaseException) -> str:
    """Return the name of an error for JSON; one fault has one name in every command."""
    return error.kind if isinstance(error, NotDone) else type(error).__name__


def _translate(error: BaseException) -> _Report:
    kind = _kind_of(error)
    if isinstance(error, SignedWireError):
        return _Report(kind, *explain(error), code_of(error))
    if isinstance(error, _UsageError):
        return _usage(error)
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return _Report("Interrupted", "interrupted", "", ExitCode.INTERRUPTED)
    if isinstance(error, BrokenPipeError):
        return _Report(kind, "", "", ExitCode.PIPE_CLOSED)
    if isinstance(error, ImportError):
        # The part that needs an extra has composed the text, with the command to install it.
        return _Report("ImportError", str(error), "", ExitCode.FAILED)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename is not None else ""
        cause = error.strerror or str(error)
        hint = "Check the path, its permissions and the disk"
        if error.errno in (errno.EMFILE, errno.ENFILE):
            hint = "Raise the limit of descriptors: `ulimit -n`"
        return _Report(kind, f"{where}{cause}", hint, ExitCode.SYSTEM)
    hint = "This is a bug in signedwire: run it again with -v and report what it shows"
    return _Report("InternalError", f"internal error: {kind}: {error}", hint, ExitCode.FAILED)


def code_of(error: SignedWireError) -> ExitCode:
    """Return the exit code of an error of this package."""
    if isinstance(error, NotDone):
        return error.code
    if isinstance(error, NoReplyError) and error.state is DeliveryState.QUEUED:
        return ExitCode.UNREACHED
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    if isinstance(error, DeliveryFailedError):
        return _CODES_OF_REASONS.get(error.reason, ExitCode.FAILED)
    return ExitCode.FAILED


def _hint(error: SignedWireError) -> str:
    if isinstance(error, DeliveryFailedError) and error.reason is Reason.ATTEMPTS_EXHAUSTED:
        kind = error.receipt.detail_kind
        hint = hint_about(kind) or hint_about_name(kind)
        return hint or "Is the peer running, and its address right? `signedwire ping` tries it"
    if isinstance(error, NotAllowedError) and error.reason is Reason.NOT_ALLOWED:
        return "Add --v1, or name it in v1_peers of the configuration"
    if isinstance(error, NotAllowedError) and error.reason is Reason.DENIED:
        return _HOW_TO_UNDENY
    if isinstance(error, DeliveryFailedError) and error.reason is Reason.TOO_LARGE:
        return _TOO_LARGE
    for known, hint in _HINTS:
        if isinstance(error, known):
            return hint
    return error.hint


def _usage(error: Any) -> _Report:
    context = error.ctx
    command = context.command_path if context is not None else "signedwire"
    fact = str(error.format_message()).strip().rstrip(".")
    fact = f"{fact[:1].lower()}{fact[1:]}"
    if any(map(looks_like_a_key, (fact, *re.split(r"[\s'\"`(),;=]+", fact)))):
        fact = "an argument that does not belong there is a key itself, or looks like one, so it "
        fact += "is not shown here"
    hint = f"See `{command} --help`"
    if context is not None and context.parent is None and hasattr(error, "option_name"):
        hint = f"Options come after the command, as in `signedwire id show --json`. {hint}"
    elif command == "signedwire send" and type(error) is _UsageError:  # too many words
        hint = f"Put quotes around a text that has spaces. {hint}"
    return _Report("UsageError", fact, hint, ExitCode.USAGE)
