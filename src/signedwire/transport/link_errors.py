"""Why a v2 link did not open, or ended: words for people, kinds for programs."""

from __future__ import annotations

import ssl
from typing import Final

from signedwire.errors import Cause, DialError, DidProofError, FailureKind, kind_of
from signedwire.transport.os_errors import describe_os_error
from signedwire.transport.tls_channel import is_full_alert
from signedwire.types import Reason, Target
from signedwire.wire import link_frames as frames
from signedwire.wire.session_events import CLOSE_MISSING, Closed

__all__ = [
    "CLOSED_HERE",
    "NO_ROOM",
    "RESET",
    "cause_of_close",
    "cause_of_failed_proof",
    "cause_of_loss",
    "dial_error",
    "words_of_tls",
]

CLOSED_HERE: Final = Cause("closed here", FailureKind.CLOSED_HERE)
NO_ROOM: Final = Cause("the peer is full: it accepts no other connection now", FailureKind.FULL)
RESET: Final = Cause("the peer reset the connection", FailureKind.RESET)

_HUNG_UP: Final = Cause(
    "the peer hung up on TLS without an alert, as v1 peers do, and v2 peers that are full",
    FailureKind.HUNG_UP_ON_TLS,
)
# The meaning of the close codes, for the side that receives one.
_CLOSE_WORDS: Final = {
    frames.CLOSE_DONE: "it is closing",
    frames.CLOSE_PROTOCOL_ERROR: "we broke a rule, or were too slow",
    frames.CLOSE_DUPLICATE_LINK: "another link is kept",
    frames.CLOSE_STALE_EPOCH: "stale epoch",
    frames.CLOSE_DENIED: "we are denied",
    frames.CLOSE_TOO_MANY: "too many connections",
    frames.CLOSE_VERSION: "no common version",
    frames.CLOSE_BAD_SIGNATURE: "our signature did not fit",
    frames.CLOSE_EVICTED: "it made room for another peer",
    frames.CLOSE_UNAVAILABLE: "it can store nothing now",
    frames.CLOSE_CLOCK: "the clocks differ",
}
_KINDS: Final = {
    frames.CLOSE_PROTOCOL_ERROR: FailureKind.PROTOCOL,
    frames.CLOSE_DENIED: FailureKind.DENIED,
    frames.CLOSE_TOO_MANY: FailureKind.FULL,
    frames.CLOSE_VERSION: FailureKind.VERSION,
    frames.CLOSE_BAD_SIGNATURE: FailureKind.BAD_SIGNATURE,
    frames.CLOSE_CLOCK: FailureKind.CLOCKS_DIFFER,
}
_ENDED_BY_PEER: Final = frozenset({FailureKind.CLOSED, FailureKind.RESET, FailureKind.TLS_FAILED})


def cause_of_close(closed: Closed) -> Cause:
    """Return why a session ended; with the code and the text of the CLOSE of the peer."""
    if not closed.is_by_peer:
        return Cause(closed.cause, _kind_of_our_close(closed))
    kind = _KINDS.get(closed.code, FailureKind.CLOSED)
    if closed.code == CLOSE_MISSING:
        return Cause(closed.cause, kind)
    words = _CLOSE_WORDS.get(closed.code, "unknown code")
    text = f": {closed.cause}" if closed.cause else ""
    return Cause(f"the peer closed the link with code {closed.code} ({words}){text}", kind)


def _kind_of_our_close(closed: Closed) -> FailureKind:
    if (kind := kind_of(closed.cause)) is not None:
        return kind
    if closed.reason is Reason.TOO_SLOW:
        return FailureKind.TIMED_OUT
    if closed.code in (frames.CLOSE_DENIED, frames.CLOSE_TOO_MANY):
        return FailureKind.CLOSED_HERE
    return _KINDS.get(closed.code, FailureKind.CLOSED_HERE)


def cause_of_loss(error: Exception | None, *, is_before_hello: bool) -> Cause:
    """Return why a connection is gone.

    Args:
        error: The error of the network; `None`: the other side ended the connection.
        is_before_hello: Whether the other side is proven and has not sent HELLO.
    """
    if isinstance(error, OSError):
        return describe_os_error(error)
    words = (
        "the peer closed the connection before HELLO"
        if is_before_hello
        else "the peer closed the connection"
    )
    return Cause(words, FailureKind.CLOSED)


def dial_error(
    address: Target, cause: Cause, *, is_silent: bool, is_proven: bool, is_told: bool = False
) -> DialError:
    """Return why a link did not open.

    Args:
        address: The address that was dialed.
        cause: Why the link ended.
        is_silent: Whether the other side sent no byte.
        is_proven: Whether the other side had proven its DID.
        is_told: Whether the other side has sent CLOSE, which says why.
    """
    kind = cause.kind
    if is_silent and kind in _ENDED_BY_PEER:
        return DialError(address, _HUNG_UP)
    if is_proven and not is_told and kind in _ENDED_BY_PEER:
        kind = FailureKind.TURNED_AWAY
    return DialError(address, cause, kind=kind)


def cause_of_failed_proof(error: ssl.SSLError | DidProofError, *, may_be_full: bool) -> Cause:
    """Return why a link ended that has not read, or cannot decrypt, what the peer sent.

    Args:
        error: The flaw of the proof, or the error of TLS.
        may_be_full: Whether this node dials, so that an alert can mean `NO_ROOM`.
    """
    if isinstance(error, DidProofError):
        return Cause(error.fact, error.kind)
    if may_be_full and is_full_alert(error):
        return NO_ROOM
    return Cause(f"TLS failed: {words_of_tls(error)}", FailureKind.TLS_FAILED)


def words_of_tls(error: ssl.SSLError) -> str:
    """Return the words of OpenSSL for an error."""
    return (error.reason or str(error)).lower().replace("_", " ")
