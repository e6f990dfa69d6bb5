"""`TransportConfig`: every option of a node, each with its unit, bound and default.

Start from a preset and name what differs:

    TransportConfig.production(listen="0.0.0.0:9001", v1_peers=["did:key:z6Mk…"])

A configuration is checked as a whole when it is made and never changes; whatever
holds one may rely on every value in it. `settings` reads one from a file and from
the environment, guided by the annotations below. So an option is written here, and once
more, as a type for calls that take some by name, in `config_changes`.
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
    Literal,
    Self,
    TypeAlias,
    Unpack,
    get_type_hints,
)

from signedwire.arguments import did_you_mean
from signedwire.config_changes import ConfigChanges
from signedwire.contradictions import V1_OVERHEAD, check_pairs
from signedwire.errors import ConfigError
from signedwire.options import Given, Option, Range
from signedwire.types import Address, Did, Location, Target

__all__ = ["PRESETS", "SignaturePolicy", "TransportConfig"]


class SignaturePolicy(enum.StrEnum):
    """What becomes of an envelope that carries no signature.

    One whose signature is present and wrong is always dropped.
    """

    REQUIRED = "required"
    """It is dropped and counted."""
    IF_PRESENT = "if-present"
    """It is delivered, its sender shown as unproven."""


Count: TypeAlias = Annotated[int, Range(1, 65_535)]
Slots: TypeAlias = Annotated[int, Range(1, 1_000_000)]
Seconds: TypeAlias = Annotated[float, Range(0.001, 86_400, "seconds")]
Age: TypeAlias = Annotated[float, Range(1, 3_650 * 86_400, "seconds")]
StoredRows: TypeAlias = Annotated[int, Range(1, 10**9)]
StoredBytes: TypeAlias = Annotated[int, Range(1024, 2**44, "bytes")]


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class TransportConfig:
    """How a node listens, dials, retries, and whom it believes. Immutable.

    Durations are float seconds; `None` means no limit.

    Raises:
        ConfigError: with the field, its value and what is allowed.
    """

    listen: Given[Target | str | None, Target | None] = Given(Address("127.0.0.1", 0))
    """Where to accept connections: an `Address` or "host:port"; port 0 takes a free one.
    For a network without ports, a `Location` or "unix:/path".
    "0.0.0.0:9001" takes every IPv4 address of this machine, "[::]:9001" every IPv6 address
    and none of IPv4. None accepts nothing and only dials. Default 127.0.0.1:0."""

    fallback: Given[Target | str | None, Target | None] = Given(None)
    """Where to send for a DID that has no route, as for `listen` but with a real port.
    Default None: a message to an unknown DID is refused."""

    network: Literal["tcp", "unix", "memory"] = "tcp"
    """What carries the bytes. "unix" takes locations, such as unix:/run/robot.sock, and stays
    inside this machine; "memory" stays inside this process. A node that is given a network
    of its own uses that one. Default "tcp"."""

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

    allow: Given[Iterable[Did | str] | None, frozenset[Did] | None] = Given(None)
    """The DIDs that may link to us and be sent to; all others are denied, and an empty list
    denies everybody. `allow` lines of `access_file` are added to it. None: everybody who is
    not denied. Default None."""

    deny: Given[Iterable[Did | str], frozenset[Did]] = Given(frozenset())
    """The DIDs that are denied, whatever any allow list says. Default: nobody."""

    access_file: Given[str | os.PathLike[str] | None, Path | None] = Given(None)
    """A file with a line `allow DID` or `deny DID` for each; see `AccessList`. The node
    reads it at its start, which fails where a line is wrong, and again when it is told to;
    it never writes it. Default None."""

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

    evidence_max_bytes: StoredBytes | None = None
    """Rotate the evidence log when it has so many bytes, 1024 to 17_592_186_044_416: its file
    gets a number and stays beside, and the log goes on in a new one. Default None: never."""

    evidence_max_age: Annotated[float, Range(1, 315_360_000, "seconds")] | None = None
    """The same when the file was begun so long ago, 1 to 315_360_000 seconds, with the next
    message that is accepted. Default None: never."""

    evidence_keep: Count | None = None
    """After a rotation remove the oldest numbered files of the evidence log until this many
    are left, 1 to 65_535. Default None: nothing is ever removed."""

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

    unmet_peer_limit: StoredRows = 10_000
    """Messages that wait in the store for one peer that there is no way to, 1 to
    1_000_000_000: it has no route and no link, there is no `fallback`, and it never linked
    to us. One more is refused. Critical has `critical_reserve` further ones, as in the two
    limits below. Default 10_000."""

    unmet_peer_bytes: StoredBytes = 64 * 2**20
    """The same in bytes of envelopes, 1024 to 17_592_186_044_416. It and `unmet_bytes`, where
    they are set, are at least one message of `max_payload_size`. Default 64 MiB."""

    unmet_bytes: StoredBytes = 2**30
    """The same for all such peers together, 1024 to 17_592_186_044_416 bytes. Default
    1024 MiB."""

    unmet_max_age: Age = 7 * 86_400.0
    """Seconds that a message waits for such a peer, 1 to 315_360_000; then it is a dead
    letter with reason "aged out". Messages that wait when a way to it becomes known do not
    age any more. Default 604800.0, seven days."""

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
        """Inside one process: the memory network, unsigned envelopes accepted."""
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
        "development": {"network": "memory", "signatures": SignaturePolicy.IF_PRESENT},
        "lightweight": {
            "network": "tcp",
            "signatures": SignaturePolicy.IF_PRESENT,
            "v1_peers": "all",
        },
        "production": {
            "network": "tcp",
            "signatures": SignaturePolicy.REQUIRED,
            "v1_peers": frozenset(),
        },
    }
)
"""What each preset sets; the rest are the defaults."""


def _shown(value: object) -> str:
    """A value as `TransportConfig()` takes it, without what cannot be pasted."""
    if isinstance(value, (enum.Enum, Address, Location, Path)):
        return repr(str(value))
    if isinstance(value, frozenset):
        return f"{sorted(map(str, value))}"
    return repr(value)


def _known(changes: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in changes:
        if name not in OPTIONS:
            hint = did_you_mean(name, OPTIONS)
            if name in ("peers", "routes", "routing"):  # not v1_peers, which lets v1 in
                hint = "Routes are an argument of Node: routing=RoutingTable(…)"
            raise ConfigError(f"unknown option {name!r}", hint)
    return changes


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
