"""`TransportConfig`: every option of a node, each with its unit, bound and default.

Start from a preset and name what differs:

    TransportConfig.production(listen="0.0.0.0:9001", v1_peers=["did:key:z6Mk…"])

A configuration is checked as a whole when it is made and never changes; whatever
holds one may rely on every value in it. `settings` reads one from a file and from
the environment, guided by the annotations below, so an option is written only here.
"""

from __future__ import annotations

import dataclasses
import enum
import os
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Final,
    Generic,
    Literal,
    NamedTuple,
    NoReturn,
    Self,
    TypeAlias,
    TypeVar,
    Union,
    Unpack,
    get_args,
    get_origin,
    get_type_hints,
)

from signedwire.arguments import did_you_mean as did_you_mean
from signedwire.config_changes import ConfigChanges
from signedwire.contradictions import V1_OVERHEAD, check_pairs
from signedwire.errors import AddressError, ConfigError, DidError, SignedWireError
from signedwire.types import Address, Did

__all__ = ["PRESETS", "SignaturePolicy", "TransportConfig"]


class SignaturePolicy(enum.StrEnum):
    """What becomes of an envelope that carries no signature.

    One whose signature is present and wrong is always dropped.
    """

    REQUIRED = "required"
    """It is dropped and counted."""
    IF_PRESENT = "if-present"
    """It is delivered, its sender shown as unproven."""


class Range(NamedTuple):
    """The bounds of a number, both allowed, and its unit for messages."""

    least: float
    most: float
    unit: str = ""

    def __str__(self) -> str:
        # Underscores as in Python and TOML, so that the text can be pasted.
        return f"{self.least:_} to {self.most:_}"


_In = TypeVar("_In")
_Out = TypeVar("_Out")


class Given(Generic[_In, _Out]):
    """The type of a field that is given as one type and read as another.

    A descriptor-typed field as the `dataclasses` documentation has it: type checkers
    take the argument's type from `__set__` and the attribute's from `__get__`. At run
    time it yields the default, then `slots=True` puts a plain slot in its place and
    `__post_init__` converts.
    """

    def __init__(self, default: _Out) -> None:
        self._default = default

    def __get__(self, instance: object, owner: type | None = None) -> _Out:
        return self._default

    def __set__(self, instance: object, value: _In) -> NoReturn:
        raise AttributeError("a configuration is immutable; use replace()")


Count: TypeAlias = Annotated[int, Range(1, 65_535)]
Slots: TypeAlias = Annotated[int, Range(1, 1_000_000)]
Seconds: TypeAlias = Annotated[float, Range(0.001, 86_400, "seconds")]
StoredRows: TypeAlias = Annotated[int, Range(1, 10**9)]
StoredBytes: TypeAlias = Annotated[int, Range(1024, 2**44, "bytes")]


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class TransportConfig:
    """How a node listens, dials, retries, and whom it believes. Immutable.

    Durations are float seconds; `None` means no limit.

    Raises:
        ConfigError: with the field, its value and what is allowed.
    """

    listen: Given[Address | str | None, Address | None] = Given(Address("127.0.0.1", 0))
    """Where to accept connections: an `Address` or "host:port"; port 0 takes a free one.
    None accepts nothing and only dials. Default 127.0.0.1:0."""

    fallback: Given[Address | str | None, Address | None] = Given(None)
    """Where to send for a DID that has no route, as for `listen` but with a real port.
    Default None: a message to an unknown DID is refused."""

    carrier: Literal["tcp", "memory"] = "tcp"
    """What carries the bytes. "memory" stays inside this process. Default "tcp"."""

    signatures: Given[SignaturePolicy | Literal["required", "if-present"], SignaturePolicy] = Given(
        SignaturePolicy.REQUIRED
    )
    """What becomes of unsigned envelopes. Default "required": they are dropped."""

    v1_peers: Given[Literal["all"] | Iterable[Did | str], Literal["all"] | frozenset[Did]] = Given(
        frozenset()
    )
    """Which DIDs may speak the v1 wire, of those that reach us and those that we dial:
    "all", or those named. One that has spoken v2 never may again. Default: nobody; but
    everybody where v1 is the only wire, with `wire` "v1" and in `TcpTransport`."""

    wire: Literal["auto", "v1"] = "auto"
    """"auto": the v2 link, and v1 with the DIDs in `v1_peers`. "v1": nothing but v1 frames.
    Default "auto"."""

    max_payload_size: Annotated[int, Range(1, 256 * 2**20, "bytes")] = 2**20
    """The largest payload sent and accepted over v2, 1 to 268_435_456 bytes. Default 1 MiB."""

    credit_messages: Slots = 4096
    """Messages that a v2 peer may have sent us and our application not yet taken,
    1 to 1_000_000. Default 4096."""

    credit_bytes: Annotated[int, Range(1024, 2**34, "bytes")] = 2 * 2**20
    """Bytes of envelopes that a v2 peer may have sent us and our application not yet taken,
    1024 to 17_179_869_184, and at least what one message of `max_payload_size` needs.
    Default 2 MiB."""

    inbox_bytes: Annotated[int, Range(1024, 2**40, "bytes")] = 64 * 2**20
    """Bytes of v2 envelopes of all peers together that our application has not yet taken,
    1024 to 1_099_511_627_776, and at least one message of `max_payload_size`. When they
    are this many, nobody is granted more credit until half of them are taken; what was
    granted before may still come. Default 64 MiB."""

    ping_interval: Seconds = 5.0
    """Ask a silent v2 peer after this, 0.001 to 86_400 seconds. Default 5.0."""

    dead_timeout: Seconds = 15.0
    """Give a v2 peer up that has sent not a byte for this, 0.001 to 86_400 seconds and
    more than `ping_interval`. Default 15.0."""

    answer_timeout: Seconds = 60.0
    """Close the link of a v2 peer that has not answered a message for this, so that the
    attempt counts, 0.001 to 86_400 seconds. Default 60.0."""

    max_connections: Count = 10
    """Outbound connections at once, 1 to 65_535. Default 10."""

    max_inbound_connections: Count = 1000
    """Accepted connections that have proven their sender, 1 to 65_535; fewer where the
    process may not open so many descriptors, as for the other two. Default 1000."""

    max_unproven_connections: Count = 128
    """Accepted connections that have not yet proven their sender, 1 to 65_535.
    Default 128."""

    max_unproven_per_host: Count = 8
    """Accepted connections from one IPv4 address or one IPv6 /56 that have not yet proven
    their sender, 1 to 65_535; loopback is exempt. When one more comes, the oldest of them
    has one second left to prove itself, and less where others need its place. Default 8."""

    send_queue_limit: Slots = 1000
    """Messages queued per peer, 1 to 1_000_000; one more is refused, or waits on the disk
    alone where there is a store. Default 1000."""

    critical_reserve: Annotated[int, Range(0, 1_000_000)] = 64
    """Further slots per peer for Critical messages alone, 0 to 1_000_000, so that an
    emergency stop gets into a full queue. Default 64."""

    inbox_limit: Slots = 1000
    """Messages received and not yet taken by the application, 1 to 1_000_000; when it is
    full, reading pauses. Default 1000."""

    max_frame_size: Annotated[int, Range(V1_OVERHEAD, 2**24 - 1, "bytes")] = 2048
    """The largest v1 frame, in bytes without its length prefix, 170 to 16_777_215: the
    first byte of a v1 length must be zero. A larger one closes its connection.
    Default 2048."""

    max_v1_payload_size: Annotated[int, Range(0, 2**24 - 1 - V1_OVERHEAD, "bytes")] = 1024
    """The largest payload to a v1 peer in bytes, 0 to 16_777_045 and at most
    `max_frame_size` - 170. Live v1 peers drop a larger one without a word, so sending it
    is refused. Default 1024."""

    store: Given[str | os.PathLike[str] | None, Path | None] = Given(None)
    """The file in which messages wait, so that no crash loses them; of a `Node`, and of
    one at a time. Made where there is none; its folder has to exist. Default None: they
    wait in memory."""

    evidence: Given[str | os.PathLike[str] | None, Path | None] = Given(None)
    """The file in which every accepted envelope is kept with its proof, hash-chained; of a
    `Node`, and of one at a time. Made where there is none; its folder has to exist.
    Default None: none is kept."""

    ack: Literal["done", "auto"] = "done"
    """When a received message counts as handled: "done", when the application calls
    `message.done()`; until then a store keeps it, and a crash delivers it again. "auto":
    when the application takes it. Default "done"."""

    outbox_limit: StoredRows = 2_000_000
    """Messages that wait in the store, 1 to 1_000_000_000; one more is refused. Critical
    has `critical_reserve` further ones, as in the three limits below. Default 2_000_000."""

    outbox_bytes: StoredBytes = 4 * 2**30
    """Bytes of envelopes that wait in the store, at least one message of `max_payload_size`
    and 1024 to 17_592_186_044_416. Default 4096 MiB."""

    outbox_peer_limit: StoredRows = 1_000_000
    """Messages to one peer that wait in the store, 1 to 1_000_000_000. Default 1_000_000."""

    outbox_peer_bytes: StoredBytes = 2**30
    """Bytes of envelopes to one peer that wait in the store, at least one message of
    `max_payload_size` and 1024 to 17_592_186_044_416. Default 1024 MiB."""

    dead_letter_limit: StoredRows = 100_000
    """Messages kept that were refused or given up, 1 to 1_000_000_000; when there are
    more, the oldest is dropped and counted. Default 100_000."""

    dead_letter_bytes: StoredBytes = 256 * 2**20
    """Bytes of envelopes kept that were refused or given up, 1024 to 17_592_186_044_416.
    Default 256 MiB."""

    undone_limit: StoredRows = 100_000
    """Accepted messages in the store that are not done, 1 to 1_000_000_000; one more is
    not accepted, and its sender is told "inbox full". Default 100_000."""

    undone_bytes: StoredBytes = 2**30
    """Bytes of accepted envelopes in the store that are not done, at least one message of
    `max_payload_size` and 1024 to 17_592_186_044_416. Default 1024 MiB."""

    undone_peer_limit: StoredRows = 50_000
    """Accepted messages of one sender in the store that are not done, 1 to 1_000_000_000.
    Default 50_000."""

    max_attempts: Count = 3
    """Connections or writes tried per message before it is given up, 1 to 65_535; what is
    in a store is not given up for that. Default 3."""

    retry_base_delay: Seconds = 0.1
    """The pause after attempt n, counted from 1, is this times 2ⁿ; 0.001 to 86_400
    seconds. Default 0.1, so the pauses are 0.2 and 0.4 s. With a store none of the three
    retry settings is used: its pauses grow from 0.5 s by 1.6 to 30 s, ± 50 %."""

    retry_max_delay: Seconds = 5.0
    """No pause is longer, 0.001 to 86_400 seconds. Default 5.0."""

    retry_jitter: Annotated[float, Range(0, 1)] = 0.25
    """Each pause is scaled by a random factor of 1 ± this, 0 to 1. Default 0.25."""

    connect_timeout: Seconds | None = 5.0
    """For one connection attempt, and for the lookup of a host name before it,
    0.001 to 86_400 seconds or None. Default 5.0."""

    handshake_timeout: Seconds | None = 10.0
    """For a new connection to prove its peer, dialed or accepted: over v2 by TLS and HELLO,
    over v1 by the first acceptable envelope. 0.001 to 86_400 seconds or None. Default 10.0."""

    frame_timeout: Seconds | None = 30.0
    """From the first to the last byte of one frame, 0.001 to 86_400 seconds or None;
    absolute, so trickling bytes do not extend it. Default 30.0."""

    close_timeout: Seconds = 2.0
    """`close()` returns within this whatever a peer does, 0.001 to 86_400 seconds.
    Default 2.0."""

    replay_memory: Annotated[int, Range(1, 2**24)] = 131_072
    """Signed envelopes remembered so that a replay is not delivered again,
    1 to 16_777_216. Default 131_072."""

    verify_threads: Annotated[int, Range(1, 256)] | None = None
    """Threads that verify signatures, 1 to 256. Default None: one per core, at most 4."""

    def __repr__(self) -> str:
        values = ((name, getattr(self, name)) for name in OPTIONS)
        changed = (
            f"{name}={_shown(value)}" for name, value in values if value != OPTIONS[name].default
        )
        return f"{type(self).__name__}({', '.join(changed)})"

    def __post_init__(self) -> None:
        for name, option in OPTIONS.items():
            object.__setattr__(self, name, option.read(getattr(self, name)))
        check_pairs(self, {name: option.default for name, option in OPTIONS.items()})

    @classmethod
    def development(cls, **changes: Unpack[ConfigChanges]) -> Self:
        """Inside one process: the memory carrier, unsigned envelopes accepted."""
        return cls.preset("development", **changes)

    @classmethod
    def lightweight(cls, **changes: Unpack[ConfigChanges]) -> Self:
        """On a trusted network: TCP, v1 from every DID, a signature verified if present."""
        return cls.preset("lightweight", **changes)

    @classmethod
    def production(cls, **changes: Unpack[ConfigChanges]) -> Self:
        """Signatures required; the v1 wire only for the DIDs named in `v1_peers`.

        Without `v1_peers` that is nobody.
        """
        return cls.preset("production", **changes)

    @classmethod
    def preset(cls, name: str, /, **changes: Unpack[ConfigChanges]) -> Self:
        """The preset called `name` with `changes` made to it.

        Raises:
            ConfigError: for an unknown preset or field, naming the nearest, or a bad value.
        """
        if name not in PRESETS:
            raise ConfigError(f"unknown preset {name!r}", did_you_mean(name, PRESETS))
        return cls(**{**PRESETS[name], **_known(changes)})

    def replace(self, **changes: Unpack[ConfigChanges]) -> Self:
        """A copy with `changes` made to it, checked as a whole.

        Raises:
            ConfigError: for an unknown field, naming the nearest, or a bad value.
        """
        return dataclasses.replace(self, **_known(changes))


PRESETS: Final[Mapping[str, Mapping[str, Any]]] = types.MappingProxyType(
    {
        "development": {"carrier": "memory", "signatures": SignaturePolicy.IF_PRESENT},
        "lightweight": {
            "carrier": "tcp",
            "signatures": SignaturePolicy.IF_PRESENT,
            "v1_peers": "all",
        },
        "production": {
            "carrier": "tcp",
            "signatures": SignaturePolicy.REQUIRED,
            "v1_peers": frozenset(),
        },
    }
)
"""What each preset sets; the rest are the defaults."""


def _shown(value: object) -> str:
    """A value as `TransportConfig()` takes it, without what cannot be pasted."""
    if isinstance(value, (enum.Enum, Address, Path)):
        return repr(str(value))
    if isinstance(value, frozenset):
        return f"{sorted(map(str, value))}"
    return repr(value)


def read_did(value: object) -> Did:
    """A `Did`, or text that `Did.parse` reads. Raises DidError for anything else."""
    if isinstance(value, Did):
        return value
    if isinstance(value, str):
        return Did.parse(value)
    raise DidError(f"{value!r} is not a DID", "Expected a Did or its text")


def read_address(value: object) -> Address:
    """An `Address`, or text that `Address.parse` reads. Raises AddressError for anything else."""
    if isinstance(value, (Address, str)):
        # An Address is a plain tuple that anybody can fill, so it is read like its text.
        return Address.parse(str(value))
    raise AddressError(f"{value!r} is not an address", "Expected an Address or host:port")


def _known(changes: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in changes:
        if name not in OPTIONS:
            raise ConfigError(f"unknown option {name!r}", did_you_mean(name, OPTIONS))
    return changes


# --- From an annotation to a checked value ---------------------------------------------
# An annotation is a union of alternatives, None perhaps among them. An alternative is
# Annotated[number, Range], Literal[words], an enum of words, Address, Path or frozenset[Did].
# The three functions below say what each expects, reads and makes of text.


@dataclass(frozen=True, slots=True)
class Option:
    """One option as its field is annotated."""

    name: str
    default: object
    alternatives: tuple[Any, ...]
    is_optional: bool

    @classmethod
    def of(cls, name: str, default: object, annotation: Any) -> Option:
        if get_origin(annotation) is Given:
            annotation = get_args(annotation)[1]
        is_union = get_origin(annotation) in (Union, types.UnionType)
        parts = get_args(annotation) if is_union else (annotation,)
        alternatives = tuple(part for part in parts if part is not types.NoneType)
        return cls(name, default, alternatives, types.NoneType in parts)

    @property
    def expected(self) -> str:
        """What is allowed, for people, such as `a whole number from 1 to 256, or None`."""
        parts = [_expected(alternative) for alternative in self.alternatives]
        return ", or ".join(parts + ["None"] * self.is_optional)

    def read(self, value: object) -> object:
        """`value` as the field holds it.

        Raises:
            ConfigError: with the name, the value and what is allowed.
        """
        if value is None and self.is_optional:
            return None
        reason = ""
        for alternative in self.alternatives:
            try:
                return _read(alternative, value)
            except SignedWireError as error:
                reason = f": {error.fact}"
            except (TypeError, ValueError):
                pass
        raise self._refusal(value, reason)

    def read_text(self, text: str) -> object:
        """The same from the text of an environment variable; a list has commas.

        Raises:
            ConfigError: with the name, the text and what is allowed.
        """
        if self.is_none(text):
            return None
        for alternative in self.alternatives:
            try:
                value = _from_text(alternative, text.strip())
            except ValueError:
                continue
            return self.read(value)
        raise self._refusal(text)

    def is_none(self, value: object) -> bool:
        """Whether `value` is the word that stands for None where there is no null."""
        return self.is_optional and isinstance(value, str) and value.strip().lower() == "none"

    def _refusal(self, value: object, reason: str = "") -> ConfigError:
        shown = repr(value)
        shown = shown if len(shown) <= 100 else f"{shown[:99]}…"
        return ConfigError(
            f"{self.name}={shown} is not allowed{reason}", f"Expected {self.expected}"
        )


def _expected(alternative: Any) -> str:
    kind = get_origin(alternative)
    if kind is Annotated:
        number, bounds = get_args(alternative)
        noun = "a whole number" if number is int else "a number"
        return f"{noun}{f' of {bounds.unit}' * bool(bounds.unit)} from {bounds}"
    if kind is Literal:
        return " or ".join(get_args(alternative))
    if kind is frozenset:
        return "a list of DIDs"
    if alternative is Path:
        return "the path of a file"
    return "host:port" if alternative is Address else " or ".join(alternative)


def _read(alternative: Any, value: Any) -> object:
    """`value` as `alternative` has it.

    Raises:
        TypeError, ValueError, SignedWireError: where it is no such thing.
    """
    kind = get_origin(alternative)
    if kind is Annotated:
        number, bounds = get_args(alternative)
        # bool is an int to Python, but `max_attempts=True` is a mistake.
        if isinstance(value, bool) or not isinstance(value, (int, number)):
            raise TypeError
        # Written so that NaN, which compares false, is refused.
        if not bounds.least <= value <= bounds.most:
            raise ValueError
        return number(value)
    if kind is Literal:
        if value not in get_args(alternative):
            raise ValueError
        return value
    if kind is frozenset:
        # A str is an iterable too, but its characters are no DIDs.
        if isinstance(value, str):
            raise TypeError
        return frozenset(read_did(item) for item in value)
    if alternative is Address:
        return read_address(value)
    if alternative is Path:
        if not isinstance(value, (str, os.PathLike)) or not isinstance(os.fspath(value), str):
            raise TypeError
        if not str(value).strip() or "\0" in str(value):
            raise ValueError
        return Path(value)
    return alternative(value)


def _from_text(alternative: Any, text: str) -> object:
    """`text` as what `_read` takes. Raises ValueError where it cannot be."""
    kind = get_origin(alternative)
    if kind is Annotated:
        number, _ = get_args(alternative)
        return number(text)
    if kind is Literal:
        return _read(alternative, text)
    if kind is frozenset:
        return [item.strip() for item in text.split(",") if item.strip()]
    return text


_ANNOTATIONS: Final = get_type_hints(TransportConfig, include_extras=True)

OPTIONS: Final[Mapping[str, Option]] = types.MappingProxyType(
    {
        field.name: Option.of(field.name, field.default, _ANNOTATIONS[field.name])
        for field in dataclasses.fields(TransportConfig)
    }
)
"""Every option by name, read off the dataclass."""

PRESET_OPTION: Final = Option("preset", None, (Literal[tuple(PRESETS)],), False)
"""The key that names a preset in a file or in the environment."""
