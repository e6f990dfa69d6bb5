"""Errors of the operating system: their words for people, and their kinds for programs."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection
from typing import Final

from signedwire.errors import Cause, FailureKind

__all__ = ["describe_os_error", "most_telling"]

_KINDS: Final = {
    errno.ECONNREFUSED: FailureKind.REFUSED,
    errno.ETIMEDOUT: FailureKind.TIMED_OUT,
    errno.ENETUNREACH: FailureKind.UNREACHABLE,
    errno.EHOSTUNREACH: FailureKind.UNREACHABLE,
    errno.ENETDOWN: FailureKind.UNREACHABLE,
    errno.EHOSTDOWN: FailureKind.UNREACHABLE,
    errno.EADDRNOTAVAIL: FailureKind.UNREACHABLE,
    errno.EINVAL: FailureKind.UNREACHABLE,  # a link-local address without its zone
    errno.ECONNRESET: FailureKind.RESET,
    errno.ECONNABORTED: FailureKind.RESET,
    errno.EPIPE: FailureKind.RESET,
}
_MOST_TELLING: Final = (
    FailureKind.REFUSED,
    FailureKind.RESET,
    FailureKind.TIMED_OUT,
    FailureKind.UNREACHABLE,
    FailureKind.NAME_SERVER_SILENT,
    FailureKind.NAME_UNKNOWN,
    FailureKind.SYSTEM,
)
"""The order in which one kind is named if several addresses failed."""


def describe_os_error(error: OSError) -> Cause:
    """Return the words of the operating system for an error, and the kind of failure."""
    if isinstance(error, socket.gaierror):
        if error.errno == socket.EAI_AGAIN:
            words = "the host name cannot be looked up now: no name server answers"
            return Cause(words, FailureKind.NAME_SERVER_SILENT)
        return Cause("the host name is unknown", FailureKind.NAME_UNKNOWN)
    if error.errno:
        kind = _KINDS.get(error.errno, FailureKind.SYSTEM)
        return Cause(os.strerror(error.errno).lower(), kind)
    kind = FailureKind.OTHER
    if isinstance(error, TimeoutError):
        kind = FailureKind.TIMED_OUT
    elif isinstance(error, ConnectionRefusedError):
        kind = FailureKind.REFUSED
    return Cause(str(error) or type(error).__name__, kind)


def most_telling(kinds: Collection[FailureKind]) -> FailureKind:
    """Return the kind of failure to name if several addresses of a host have failed.

    A refusal comes first: the host has answered.
    """
    return next((kind for kind in _MOST_TELLING if kind in kinds), FailureKind.OTHER)
