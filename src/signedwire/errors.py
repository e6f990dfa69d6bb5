"""Every exception that signedwire raises, in one tree.

    SignedWireError
    ├── ConfigError (ValueError)            a configuration that cannot be used
    ├── DidError (ValueError)               text or bytes that are no usable DID
    │   └── UnknownNameError (LookupError)  no peer has this name
    ├── AddressError (ValueError)           text that is no host:port
    ├── IdentityError (ValueError)          a key that cannot be read, written or trusted
    ├── EnvelopeError (ValueError)          bytes or fields that make no envelope
    ├── SignatureError                      a signature that does not prove its sender
    ├── SchemaError (ValueError)            a payload that is not what its receiver expects
    ├── RemoteProtocolError                 a peer broke the rules of the wire
    ├── DidProofError                          the other side did not prove its DID
    ├── TransportError
    │   ├── ListenError (OSError)           the listener cannot start
    │   ├── DialError (OSError)             a peer cannot be reached
    │   │   └── ConnectTimeout (TimeoutError)
    │   │       └── ResolveTimeout      its host name was not resolved in time
    │   └── ClosedError                     used before start() or after close()
    │       └── WrongContextError           used in another event loop, or a forked child
    ├── DeliveryError                       one message, and what became of it
    │   ├── UnknownPeerError (LookupError)  no address is known for the DID
    │   ├── NotAllowedError                 the configuration forbids this peer
    │   ├── PayloadTooLargeError (ValueError)
    │   ├── BackpressureError               the queue to the peer is full
    │   │   └── StoreFullError (StoreError) a limit of the store is reached
    │   └── DeliveryFailedError             given up, with the reason
    │       ├── MessageRefusedError         the peer will not take it
    │       ├── MessageExpiredError (TimeoutError)
    │       └── NoReplyError (TimeoutError) a request had no reply in time
    └── StoreError                          the store of a node
        ├── StoreOpenError                  it cannot be opened; nothing in it was changed
        │   ├── StoreInUseError             another process has it open
        │   ├── StoreCorruptError           it is damaged
        │   └── StoreVersionError           of another version, another node, or no store
        ├── StoreFailedError (OSError)      its disk failed: it acknowledges nothing more
        └── EvidenceLogError                the evidence log cannot be opened, or has failed

The attributes of an error hold its data, and its text is composed from them. The text
has what failed, for which peer or message, what became of the message, and what to do
now. Catch `SignedWireError` to catch them all.
"""

from __future__ import annotations

import enum
from typing import Final, Protocol

from signedwire.base_errors import AddressError as AddressError
from signedwire.base_errors import DidError as DidError
from signedwire.base_errors import ReceiptView as ReceiptView
from signedwire.base_errors import SignedWireError as SignedWireError
from signedwire.states import Cause as Cause
from signedwire.states import DeliveryState, Reason
from signedwire.states import FailureKind as FailureKind
from signedwire.states import kind_of as kind_of
from signedwire.types import Did, Target

__all__ = [
    "SignedWireError",
    "ConfigError",
    "DidError",
    "UnknownNameError",
    "AddressError",
    "IdentityError",
    "IdentityProblem",
    "EnvelopeError",
    "SignatureError",
    "SchemaError",
    "RemoteProtocolError",
    "DidProofError",
    "TransportError",
    "ListenError",
    "DialError",
    "ConnectTimeout",
    "ResolveTimeout",
    "ClosedError",
    "WrongContextError",
    "DeliveryError",
    "UnknownPeerError",
    "NotAllowedError",
    "PayloadTooLargeError",
    "BackpressureError",
    "DeliveryFailedError",
    "MessageRefusedError",
    "MessageExpiredError",
    "NoReplyError",
    "StoreError",
    "StoreOpenError",
    "StoreInUseError",
    "StoreCorruptError",
    "StoreVersionError",
    "StoreFailedError",
    "StoreFullError",
    "EvidenceLogError",
    "FailureKind",
]

_MAX_DETAIL: Final = 256
"""Maximum size in bytes of UTF-8 of the text of a SchemaError; a refusal carries no more."""


class ConfigError(SignedWireError, ValueError):
    """A configuration value, key or file that cannot be used."""


class UnknownNameError(DidError, LookupError):
    """A text that is no DID and may be a name, but no DID has this name."""


class IdentityProblem(enum.Enum):
    """The cause of an `IdentityError`. Programs branch on this, never on the text."""

    ABSENT = "absent"
    """There is no file of that name, or nothing names a key."""
    EMPTY = "empty"
    """The file is empty."""
    EXISTS = "exists"
    """Something has that name already, so nothing was written."""
    UNREADABLE = "unreadable"
    """The system does not allow to read the file, or the path is not a file."""
    UNWRITABLE = "unwritable"
    """The file could not be written; no part of it is left."""
    EXPOSED = "exposed"
    """Other users may read or change the file."""
    ENCRYPTED = "encrypted"
    """The key needs a password, and none was given."""
    NOT_ENCRYPTED = "not encrypted"
    """A password was given, and the key needs none."""
    WRONG_PASSWORD = "wrong password"
    """The password does not open the key, or the file is damaged."""
    NOT_PRIVATE = "not private"
    """The file holds the public half, or a certificate."""
    AMBIGUOUS = "ambiguous"
    """The file may hold a key or something else, or one of several: a person must decide."""
    DAMAGED = "damaged"
    """The file is a damaged key, or a part of one."""
    UNUSABLE = "unusable"
    """The file is not an Ed25519 private key in a supported format."""


class IdentityError(SignedWireError, ValueError):
    """A key cannot be read, written, decrypted or trusted; `problem` has the cause.

    The text never contains a part of a key or password.
    """

    def __init__(
        self, fact: str, hint: str = "", problem: IdentityProblem = IdentityProblem.UNUSABLE
    ) -> None:
        super().__init__(fact, hint)
        self.problem = problem


class EnvelopeError(SignedWireError, ValueError):
    """Bytes that do not decode as an envelope, or fields that cannot be encoded."""


class SignatureError(SignedWireError):
    """An envelope whose signature does not prove its sender, or that has none."""


class SchemaError(SignedWireError, ValueError):
    """A payload that does not decode as the type that its receiver expects.

    `detail` is the text of the error: printable, at most 256 bytes of UTF-8. So it fits the
    `detail` of `Message.nack()`. It may quote a part of the payload.

    Args:
        text: What is wrong, and in which field. Characters that are not printable are escaped,
            and a long text is cut.
    """

    def __init__(self, text: str) -> None:
        super().__init__(_printable(text, _MAX_DETAIL))

    @property
    def detail(self) -> str:
        """The text of the error: printable, at most 256 bytes of UTF-8."""
        return self.fact


def _printable(text: str, limit: int) -> str:
    """Return a text with escapes in place of what is not printable, cut to `limit` bytes."""
    start = "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode()
        for each in text[:limit]
    )
    raw = start.encode()
    if len(raw) <= limit and len(text) <= limit:
        return start
    return raw[: limit - len("…".encode())].decode(errors="ignore") + "…"


class RemoteProtocolError(SignedWireError):
    """A peer broke the rules of the wire; its connection is closed."""

    def __init__(self, reason: Reason, fact: str) -> None:
        super().__init__(fact)
        self.reason = reason


class DidProofError(SignedWireError):
    """The other side of a connection did not prove its DID, or proved another; see `kind`."""

    def __init__(self, fact: str, hint: str = "", kind: FailureKind = FailureKind.UNPROVEN) -> None:
        super().__init__(fact, hint)
        self.kind = kind


class TransportError(SignedWireError):
    """An error of sockets and links; the subclasses tell which."""


class ListenError(TransportError, OSError):
    """The listener cannot start, most often because the port is in use."""

    def __init__(self, address: Target, cause: str, hint: str = "") -> None:
        super().__init__(f"cannot listen on {address}: {cause}", hint)
        self.address = address


class DialError(TransportError, OSError):
    """A peer cannot be reached at its address; `kind` says why, for programs.

    Args:
        address: The address that was dialed.
        cause: Why, in words. A `Cause` brings its kind.
        hint: What to do.
        kind: Why, for programs. By default that of `cause`, or "other".
    """

    def __init__(
        self, address: Target, cause: str, hint: str = "", kind: FailureKind | None = None
    ) -> None:
        super().__init__(f"cannot connect to {address}: {cause}", hint)
        self.address = address
        self.cause = str(cause)
        self.kind: FailureKind = kind or kind_of(cause) or FailureKind.OTHER


class ConnectTimeout(DialError, TimeoutError):
    """A peer did not answer within `connect_timeout`, or not within `handshake_timeout`."""

    def __init__(
        self,
        address: Target,
        cause: str,
        hint: str = "",
        kind: FailureKind = FailureKind.TIMED_OUT,
    ) -> None:
        super().__init__(address, cause, hint, kind)


class ResolveTimeout(ConnectTimeout):
    """The host name of a peer was not resolved within `connect_timeout`.

    No connection was tried, so the failure does not count against `max_attempts`.
    """

    def __init__(self, address: Target, cause: str, hint: str = "") -> None:
        super().__init__(address, cause, hint, FailureKind.NAME_SERVER_SILENT)


class ClosedError(TransportError):
    """The node or transport has been closed."""


class WrongContextError(ClosedError):
    """The node was used in another event loop or in a forked child, where it cannot work."""


class DeliveryError(SignedWireError):
    """An error about one message to one peer.

    `recipient` is the peer's DID, and `reason` the cause.
    """

    def __init__(self, recipient: Did, reason: Reason, fact: str, hint: str = "") -> None:
        super().__init__(fact, hint)
        self.recipient = recipient
        self.reason = reason


class UnknownPeerError(DeliveryError, LookupError):
    """No address is known for the recipient; the message was not queued."""


class NotAllowedError(DeliveryError):
    """The access rules or `v1_peers` forbid messages to this peer; the message was not queued."""


class PayloadTooLargeError(DeliveryError, ValueError):
    """The payload is larger than the peer accepts; the message was not queued."""


class BackpressureError(DeliveryError):
    """The queue to the peer is full; the message was not queued."""


class FailedReceipt(ReceiptView, Protocol):
    """The receipt of one message that was given up; always a `signedwire.Receipt`."""

    @property
    def recipient(self) -> Did:
        """The DID of the recipient."""


class DeliveryFailedError(DeliveryError):
    """A queued message was given up. `receipt` has its state and history."""

    def __init__(self, receipt: FailedReceipt, reason: Reason, fact: str, hint: str = "") -> None:
        super().__init__(receipt.recipient, reason, fact, hint)
        self.receipt = receipt


class MessageRefusedError(DeliveryFailedError):
    """The peer or its application has refused the message; `reason` tells why."""


class MessageExpiredError(DeliveryFailedError, TimeoutError):
    """The deadline of a message passed before it was delivered, or before the peer answered."""


class NoReplyError(DeliveryFailedError, TimeoutError):
    """A request had no reply within its timeout; `state` tells how far the request has come.

    - `queued`: the peer was not reached, and does not have the request.
    - `written`: the peer may have the request.
    - `accepted`: the peer has the request, and may still work on it.
    - `handled`: its application has acknowledged the request without a reply.
    """

    def __init__(
        self, receipt: FailedReceipt, state: DeliveryState, fact: str, hint: str = ""
    ) -> None:
        super().__init__(receipt, Reason.EXPIRED, fact, hint)
        self.state = state


class StoreError(SignedWireError):
    """An error of the store of a node; the subclasses tell which."""


class StoreOpenError(StoreError):
    """A store cannot be opened. The node does not start; the file is unchanged."""

    def __init__(self, path: str, cause: str, hint: str = "") -> None:
        super().__init__(f"cannot open the store {path}: {cause}", hint)
        self.path = path


class StoreInUseError(StoreOpenError):
    """Another process, or another node of this one, has the store open."""


class StoreCorruptError(StoreOpenError):
    """The file of the store is damaged."""


class StoreVersionError(StoreOpenError):
    """The file is of a newer version, belongs to another node, or is not a store."""


class StoreFailedError(StoreError, OSError):
    """A commit failed, most often because the disk is full or broken.

    From then on the store takes and acknowledges no further message. `cause` is the text of
    the system's error.
    """

    def __init__(self, path: str, cause: str, fate: str, hint: str = "") -> None:
        super().__init__(f"the store {path} has failed: {cause}; {fate}", hint)
        self.path = path
        self.cause = cause


class StoreFullError(BackpressureError, StoreError):
    """A limit of the store is reached; the message was not stored."""


class EvidenceLogError(StoreError):
    """The evidence log cannot be opened or rotated, or its disk has failed.

    After a failure of the disk, the node accepts and acknowledges nothing more.
    """

    def __init__(self, path: str, cause: str, hint: str = "") -> None:
        super().__init__(f"the evidence log {path} {cause}", hint)
        self.path = path
