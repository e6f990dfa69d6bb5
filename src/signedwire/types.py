"""The basic types: DIDs, addresses, priorities, reasons and states.

Nothing here does I/O or handles a key's secret half. Everything is immutable.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple, Self, TypeAlias
from unicodedata import is_normalized

from nacl.bindings import crypto_core_ed25519_is_valid_point

from signedwire.base_errors import AddressError, DidError
from signedwire.clock import unix_time_us as unix_time_us
from signedwire.clock import utc_text as utc_text
from signedwire.states import DeliveryState as DeliveryState
from signedwire.states import Reason as Reason

__all__ = [
    "Did",
    "Address",
    "ControlType",
    "Credit",
    "Kind",
    "MAX_SUBJECT_SIZE",
    "Location",
    "Priority",
    "PayloadType",
    "Reason",
    "SignaturePolicy",
    "DeliveryState",
    "PeerState",
    "Target",
    "is_subject_text",
    "parse_peer",
    "parse_target",
    "shared_credit",
]

_BASE58_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE58_VALUES: Final = {c: i for i, c in enumerate(_BASE58_ALPHABET)}
# The multicodec prefix of an Ed25519 public key, as did:key has it.
_ED25519_MULTICODEC: Final = b"\xed\x01"


class Did:
    """The name of a node: its Ed25519 public key. Immutable, hashable, 32 bytes.

    `Did.parse(text)` reads the three usual spellings. `str(did)` returns
    `did:key:z6Mk…`, `did.hex()` 64 hex digits, and `bytes(did)` the key itself.

    A DID never equals text: `did == str(did)` is false, and so is `str(did) in {did}`. Parse
    the text of a configuration with `Did.parse` before you compare it. Calls that take "a
    `Did` or its text" parse it themselves.

    A DID is a canonical encoding of a point of prime order. `DidError` refuses the 14
    encodings of small-order points, non-canonical encodings, and points with a torsion
    component. For those, one signature can verify under several keys or for several
    messages ("Taming the many EdDSAs", Chalkias et al. 2020), so they identify nobody.
    """

    __slots__ = ("_hash", "_raw")
    _raw: bytes
    _hash: int

    def __init__(self, public_key: bytes) -> None:
        # Not `bytes()` alone, which turns a number into so many zeros.
        if not isinstance(public_key, (bytes, bytearray, memoryview)):
            raise TypeError(
                f"Did() takes the 32 bytes of a public key, not {type(public_key).__name__}; "
                "Did.parse(text) reads text"
            )
        raw = bytes(public_key)
        if len(raw) != 32:
            raise DidError(
                f"a DID is 32 bytes, got {len(raw)}",
                "Pass the raw Ed25519 public key, or use Did.parse() for text",
            )
        if not crypto_core_ed25519_is_valid_point(raw):
            raise DidError(
                f"{raw.hex()} is not a usable Ed25519 public key "
                "(small order, not canonical, or not on the curve)",
                "Ask the peer for its DID again: no key has this form",
            )
        object.__setattr__(self, "_raw", raw)
        object.__setattr__(self, "_hash", hash(raw))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `did:key:z6Mk…`, bare `z6Mk…` or 64 hex digits.

        The fragment of a DID URL (`did:key:z6Mk…#z6Mk…`) is ignored.

        Raises:
            DidError: `text` is not a DID; the error has the text and the cause.
            TypeError: `text` is not a str.
        """
        given: object = text
        if not isinstance(given, str):
            hint = "it is one already" if isinstance(given, Did) else "Did(raw) takes 32 bytes"
            raise TypeError(f"Did.parse() reads text, not {type(given).__name__}: {hint}")
        stripped = text.strip()
        if stripped.startswith(("did:key:", "z6Mk")):
            # DID documents name a key like this; the fragment repeats the part before it.
            stripped = stripped.partition("#")[0]
        if len(stripped) == 64:
            try:
                raw = bytes.fromhex(stripped)
            except ValueError:
                raise DidError(
                    f"{stripped!r} is not a DID: 64 characters, but not all are hex digits"
                ) from None
            return cls._read(raw, stripped)
        multibase = stripped.removeprefix("did:key:")
        if not multibase.startswith("z6Mk"):
            raise DidError(
                f"{_quote(text)} is not a DID",
                "A DID is did:key:z6Mk…, z6Mk… or 64 hex digits; `signedwire id show` prints yours",
            )
        if len(multibase) > 64:
            raise DidError(f"{_quote(text)} is not a DID: {len(multibase)} characters long")
        return cls._read(_decode_multibase(multibase, stripped), stripped)

    @classmethod
    def _read(cls, raw: bytes, text: str) -> Self:
        """Make `Did(raw)`; an error quotes `text`, which the user typed."""
        try:
            return cls(raw)
        except DidError:
            raise DidError(
                f"{text!r} is not a DID: no key has this form",
                "Copy the whole DID again",
            ) from None

    def hex(self) -> str:
        """Return 64 lower-case hex digits, as v1 peers write a DID."""
        return self._raw.hex()

    @property
    def short(self) -> str:
        """A form for people, such as `did:key:z6MkhaXg…2doK`. Not unique."""
        text = str(self)
        return f"{text[:16]}…{text[-4:]}"

    def __bytes__(self) -> bytes:
        return self._raw

    def __str__(self) -> str:
        return did_text(self._raw)

    def __repr__(self) -> str:
        return f"Did('{self}')"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Did):
            return self._raw == other._raw
        return NotImplemented

    def __hash__(self) -> int:
        return self._hash

    def __lt__(self, other: object) -> bool:
        if isinstance(other, Did):
            return self._raw < other._raw
        return NotImplemented

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a Did is immutable")

    def __reduce__(self) -> tuple[type[Did], tuple[bytes]]:
        return Did, (self._raw,)


@lru_cache(maxsize=4096)
def known_did(raw: bytes) -> Did:
    """Return `Did(raw)` from a cache of the last 4096, because checking a point costs 50 µs."""
    return Did(raw)


def did_text(raw: bytes) -> str:
    """Return the text of a DID for a message, without checking that `raw` is a usable key."""
    return f"did:key:{_encode_multibase(raw)}"


def _quote(text: str, limit: int = 80) -> str:
    """Quote and escape foreign text, and cut it to `limit` characters as shown."""
    quoted = repr(text)
    return quoted if len(quoted) <= limit + 2 else f"{quoted[:limit]}…{quoted[-1]}"


def _encode_multibase(raw: bytes) -> str:
    number = int.from_bytes(_ED25519_MULTICODEC + raw, "big")
    digits: list[str] = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_BASE58_ALPHABET[digit])
    return "z" + "".join(reversed(digits))


def _decode_multibase(multibase: str, text: str) -> bytes:
    number = 0
    for character in multibase[1:]:
        digit = _BASE58_VALUES.get(character)
        if digit is None:
            raise DidError(
                f"{text!r} is not a DID: {character!r} is not a base58 character",
                "Base58 has no 0, O, I or l: check for a typing error",
            )
        number = number * 58 + digit
    decoded = number.to_bytes((number.bit_length() + 7) // 8, "big")
    if len(decoded) != 34 or not decoded.startswith(_ED25519_MULTICODEC):
        raise DidError(
            f"{text!r} is not a DID: it does not hold an Ed25519 public key",
            "Was a character lost when it was copied?",
        )
    return decoded[2:]


class Address(NamedTuple):
    """The address at which a peer listens: host (name or IP) and TCP port.

    `str()` returns `host:port`.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `host:port` or `[ipv6]:port`; the port is 0 to 65535.

        Raises:
            AddressError: `text` is not an address; the error has the text and the cause.
            TypeError: `text` is not a str.
        """
        given: object = text
        if not isinstance(given, str):
            hint = ": it is one already" if isinstance(given, Address) else ", such as host:9001"
            raise TypeError(f"Address.parse() reads text, not {type(given).__name__}{hint}")
        stripped = text.strip()
        scheme, has_scheme, _ = stripped.partition("://")
        if has_scheme:
            raise AddressError(
                f"{_quote(text)} is not an address: it begins with a scheme",
                "A path begins with one slash: unix:/run/robot.sock"
                if scheme == "unix"
                else f"Leave {_quote(scheme, 20)[1:-1]}:// away, and what follows the port",
            )
        if stripped.startswith("[") and stripped.endswith("]"):
            raise AddressError(
                f"{_quote(text)} is not an address: the port is missing",
                f"Write it behind the bracket, for example {_quote(stripped)[1:-1]}:9001",
            )
        host, separator, port_text = stripped.rpartition(":")
        if not separator or not host:
            raise AddressError(
                f"{_quote(text)} is not an address",
                "Write host:port, for example 127.0.0.1:9001 or [::1]:9001",
            )
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
            try:
                ipaddress.IPv6Address(host.partition("%")[0])
            except ValueError:
                raise AddressError(
                    f"{_quote(text)} is not an address: {_quote(host)} is not IPv6"
                ) from None
        elif ":" in host:
            raise AddressError(
                f"{_quote(text)} is not an address: put an IPv6 host in brackets",
                "For example [::1]:9001",
            )
        if host == "*":
            raise AddressError(
                f"{_quote(text)} is not an address: * is no host",
                f"For all of this machine's addresses write 0.0.0.0:{_quote(port_text)[1:-1]}, "
                f"or [::]:{_quote(port_text)[1:-1]} for those of IPv6",
            )
        if any(c.isspace() or not c.isprintable() for c in host) or len(host) > 253:
            raise AddressError(f"{_quote(text)} is not an address: bad host name")
        # The length first: int() raises on more than 4300 digits.
        is_number = len(port_text) <= 5 and port_text.isascii() and port_text.isdigit()
        is_port = is_number and int(port_text) <= 65535
        if not is_port and host == "unix":
            raise AddressError(
                f"{_quote(text)} is not an address: a Unix socket has an absolute path",
                "Write unix:/run/robot.sock, with one slash; names without a file "
                "are not supported",
            )
        if not is_port:
            raise AddressError(
                f"{_quote(text)} is not an address: {_quote(port_text)} is no port (0 to 65535)"
            )
        return cls(host, int(port_text))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Location(NamedTuple):
    """The target of a peer on a network that has no hosts and ports.

    `str()` gives `scheme:/path`, for example `unix:/run/robot.sock`. The network
    defines which schemes it takes and what a path means.
    """

    scheme: str
    path: str

    @classmethod
    def parse(cls, text: str) -> Location:
        """Read `scheme:/path`: one slash at least, 1024 characters at most.

        A scheme begins with a lower-case letter; letters, digits, `+`, `.` and `-` follow,
        31 at most.

        Raises:
            AddressError: with the text and what is wrong with it.
            TypeError: `text` is no str.
        """
        if not isinstance(text, str):
            raise TypeError(f"Location.parse() reads text, not {type(text).__name__}")
        found = _LOCATION.fullmatch(text.strip())
        if found is None or len(found[0]) > _MAX_LOCATION or not found[2].isprintable():
            raise AddressError(
                f"{_quote(text)} is not a location",
                "Write scheme:/path, for example unix:/run/robot.sock",
            )
        return cls(found[1], found[2])

    def __str__(self) -> str:
        return f"{self.scheme}:{self.path}"


_LOCATION: Final = re.compile(r"([a-z][a-z0-9+.-]{0,31}):(/(?!/).*)", re.DOTALL)
_MAX_LOCATION: Final = 1024

Target: TypeAlias = Address | Location
"""The place at which a peer listens. TCP takes an `Address`, a Unix socket a `Location`."""


def parse_target(text: str) -> Target:
    """Read `host:port` as an `Address`, or `scheme:/path` as a `Location`.

    Raises:
        AddressError: with the text and what is wrong with it.
        TypeError: `text` is no str.
    """
    if isinstance(text, str) and _LOCATION.fullmatch(text.strip()):
        return Location.parse(text)
    return Address.parse(text)


def parse_peer(text: str, read: Callable[[str], Did] = Did.parse) -> tuple[Did, Target | None]:
    """Read `DID`, `DID@host:port` or `DID@scheme:/path`, as the command line takes a peer.

    Args:
        text: The text.
        read: Reads the part before the `@`; with `Names.did_of`, it may be a name.

    Raises:
        DidError, AddressError: the part before or after the `@` is wrong.
    """
    did_text, separator, target_text = text.strip().partition("@")
    did = read(did_text)
    return did, parse_target(target_text) if separator else None


MAX_SUBJECT_SIZE: Final = 255
"""Maximum size of a subject in UTF-8, in bytes."""


def is_subject_text(text: str) -> bool:
    """Whether every character of a text may be in a subject: it is printable, and in NFC."""
    return text.isprintable() and is_normalized("NFC", text)


class Credit(NamedTuple):
    """Messages and bytes: the credit of a stream, the part that is used, or the rest."""

    messages: int
    """Number of messages."""
    bytes: int
    """Bytes of those messages."""

    def plus(self, messages: int, size: int) -> Credit:
        """Return the sum with further messages and bytes."""
        return Credit(self.messages + messages, self.bytes + size)

    def minus(self, used: Credit) -> Credit:
        """Return the difference to `used`."""
        if not (used.messages or used.bytes):
            return self  # not a copy: the credit of most streams is never used
        return Credit(self.messages - used.messages, self.bytes - used.bytes)

    def exceeds(self, limit: Credit) -> bool:
        """Whether one of the figures is above that of `limit`."""
        return self.messages > limit.messages or self.bytes > limit.bytes


@lru_cache(maxsize=64)
def shared_credit(messages: int, size: int) -> Credit:
    """Return `Credit(messages, size)`, the same object for the same figures.

    Most links have the same credit in most streams, and keep several figures for each.
    """
    return Credit(messages, size)


class Priority(enum.IntEnum):
    """The lane of a message. Messages of a higher lane are always written first."""

    LOW = 0
    NORMAL = 1
    HIGH = 2
    CRITICAL = 3


class Kind(enum.IntEnum):
    """The kind of a message, in byte 122 of a v2 header."""

    MESSAGE = 0
    """A message to one recipient; every v1 message is one."""
    REQUEST = 1
    """A message that asks for a reply."""
    REPLY = 2
    """The answer to a request, which its header names."""
    PUBLICATION = 3
    """A message to everybody who wants its subject."""
    CONTROL = 4
    """A message between two nodes, which no application gets. See `ControlType`."""


class ControlType(enum.IntEnum):
    """The type of a control message, in byte 123 of a v2 header.

    CHARTER, SUCCESSION and FILE are reserved for later versions, and refused as malformed.
    """

    SUBSCRIBE = 1
    UNSUBSCRIBE = 2
    CHARTER = 3
    SUCCESSION = 4
    FILE = 5


class PayloadType(enum.IntEnum):
    """The type of a payload, as declared by the sender, in byte 105 of the header."""

    RAW = 0
    ROBOT_COMMAND = 1
    MODEL_WEIGHTS = 2
    INFERENCE_RESULT = 3
    SENSOR_FUSION = 4


class SignaturePolicy(enum.StrEnum):
    """How a node treats an envelope without a signature.

    An envelope with a wrong signature is always dropped.
    """

    REQUIRED = "required"
    """The envelope is dropped and counted."""
    IF_PRESENT = "if-present"
    """The envelope is delivered, its sender shown as unproven."""


class PeerState(enum.StrEnum):
    """The state of the link to a peer."""

    IDLE = "idle"
    """No connection, and nothing that needs one."""
    DIALING = "dialing"
    """Connecting, or waiting for a slot in the pool."""
    CONNECTED = "connected"
    BACKING_OFF = "backing off"
    """Waiting before the next attempt; see `retry_at` and `last_error`."""
    CLOSED = "closed"
