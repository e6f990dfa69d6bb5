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
from signedwire.types import Address, Did, Location, SignaturePolicy, Target

__all__ = ["PRESETS", "TransportConfig"]


Connections: TypeAlias = Annotated[int, Range(1, 65_535, "connections")]
Attempts: TypeAlias = Annotated[int, Range(1, 65_535, "attempts")]
Files: TypeAlias = Annotated[int, Range(1, 65_535, "files")]
Slots: TypeAlias = Annotated[int, Range(1, 1_000_000, "messages")]
Seconds: TypeAlias = Annotated[float, Range(0.001, 86_400, "seconds")]
Age: TypeAlias = Annotated[float, Range(1, 3_650 * 86_400, "seconds")]
StoredRows: TypeAlias = Annotated[int, Range(1, 10**9, "messages")]
StoredBytes: TypeAlias = Annotated[int, Range(1024, 2**44, "bytes")]


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class TransportConfig:
    """How a node listens, dials, retries, and whom it believes. Immutable.

    Durations are float seconds; `None` means no limit.

    Raises:
        ConfigError: with the field, its value and what is allowed.
    """

    listen: Given[Target | str | None, Target | None] = Given(Address("127.0.0.1", 0))
    """Where the node accepts connections; port 0 takes a free port. "0.0.0.0:9001" takes every
    IPv4 address of this machine, "[::]:9001" every IPv6 address and none of IPv4. A network
    without ports takes a location, such as "unix:/run/robot.sock". With None the node accepts
    nothing and only dials.

    Allowed: host:port, or None; default "127.0.0.1:0"."""

    fallback: Given[Target | str | None, Target | None] = Given(None)
    """The address to which messages go whose DID has no route. The port must be a real one. With
    None, such a message is refused, or waits where there is a store.

    Allowed: host:port, or None; default None."""

    network: Literal["tcp", "unix", "memory"] = "tcp"
    """What carries the bytes. "unix" takes locations, such as unix:/run/robot.sock, and stays
    inside this machine; "memory" stays inside this process. A node that is given a network of
    its own uses that one.

    Allowed: tcp or unix or memory; default "tcp"."""

    signatures: Given[SignaturePolicy | Literal["required", "if-present"], SignaturePolicy] = Given(
        SignaturePolicy.REQUIRED
    )
    """What becomes of envelopes without a signature, which only v1 has. "required" drops them;
    "if-present" delivers them with a sender that is not proven.

    Allowed: required or if-present; default "required"."""

    v1_peers: Given[Literal["all"] | Iterable[Did | str], Literal["all"] | frozenset[Did]] = Given(
        frozenset()
    )
    """The DIDs with which this node may speak the v1 wire, whoever dials. A DID that has spoken v2
    is never spoken to in v1 again. Where v1 is the only wire (`wire` "v1", and `TcpTransport`),
    the default means every DID.

    Allowed: all, or a list of DIDs; default an empty list."""

    allow: Given[Iterable[Did | str] | None, frozenset[Did] | None] = Given(None)
    """The DIDs that may link to this node and be sent to. All others are denied, so an empty list
    denies everybody. `allow` lines of `access_file` are added to this list. With None,
    everybody is allowed who is not denied.

    Allowed: a list of DIDs, or None; default None."""

    deny: Given[Iterable[Did | str], frozenset[Did]] = Given(frozenset())
    """The DIDs that are denied, whatever any allow list says.

    Allowed: a list of DIDs; default an empty list."""

    access_file: Given[str | os.PathLike[str] | None, Path | None] = Given(None)
    """A file with a line `allow DID` or `deny DID` for each rule; see `AccessList`. The node reads
    it at its start, and again when it is told to. A wrong line keeps the node from starting.
    The node never writes the file.

    Allowed: the path of a file, or None; default None."""

    wire: Literal["auto", "v1"] = "auto"
    """Which wires the node speaks. "auto" is the v2 link, and v1 with the DIDs in `v1_peers`. "v1"
    is nothing but v1 frames.

    Allowed: auto or v1; default "auto"."""

    max_payload_size: Annotated[int, Range(1, 256 * 2**20, "bytes")] = 2**20
    """The largest payload that the node sends and accepts over v2.

    Allowed: a whole number of bytes from 1 to 268_435_456; default 1_048_576 (1 MiB)."""

    credit_messages: Slots = 4096
    """How many messages one v2 peer may have sent that the application has not taken yet.

    Allowed: a whole number of messages from 1 to 1_000_000; default 4_096."""

    credit_bytes: Annotated[int, Range(1024, 2**34, "bytes")] = 2 * 2**20
    """How many bytes of envelopes one v2 peer may have sent that the application has not taken
    yet. This must be at least what one message of `max_payload_size` needs.

    Allowed: a whole number of bytes from 1_024 to 17_179_869_184; default 2_097_152 (2 MiB)."""

    inbox_bytes: Annotated[int, Range(1024, 2**40, "bytes")] = 64 * 2**20
    """How many bytes of envelopes all v2 peers together may have sent that the application has not
    taken yet. At this limit no peer is granted more credit until half of the bytes are taken.
    Messages within credit that was granted before may still arrive. This must be at least one
    message of `max_payload_size`.

    Allowed: a whole number of bytes from 1_024 to 1_099_511_627_776; default 67_108_864 (64
    MiB)."""

    ping_interval: Seconds = 5.0
    """After how long without a byte from a v2 peer the node sends a PING.

    Allowed: a number of seconds from 0.001 to 86_400; default 5.0."""

    dead_timeout: Seconds = 15.0
    """After how long without a byte from a v2 peer the node closes the link. This must be more
    than `ping_interval`.

    Allowed: a number of seconds from 0.001 to 86_400; default 15.0."""

    answer_timeout: Seconds = 60.0
    """After how long without a receipt or refusal for a message the node closes the link to a v2
    peer. The attempt then counts as failed.

    Allowed: a number of seconds from 0.001 to 86_400; default 60.0."""

    max_connections: Connections = 10
    """Maximum number of outbound connections at once.

    Allowed: a whole number of connections from 1 to 65_535; default 10."""

    max_inbound_connections: Connections = 1000
    """Maximum number of accepted connections that have proven their sender. Where the process may
    open too few descriptors, this, `max_unproven_connections` and `max_connections` are less.

    Allowed: a whole number of connections from 1 to 65_535; default 1_000."""

    max_unproven_connections: Connections = 128
    """Maximum number of accepted connections that have not proven their sender yet.

    Allowed: a whole number of connections from 1 to 65_535; default 128."""

    max_unproven_per_host: Connections = 8
    """Maximum number of accepted connections from one IPv4 address or one IPv6 /56 that have not
    proven their sender yet. Loopback is exempt. When one more arrives, the oldest of them has
    one second left to prove itself, and less where others need its place.

    Allowed: a whole number of connections from 1 to 65_535; default 8."""

    send_queue_limit: Slots = 1000
    """Maximum number of messages queued in memory for one peer. One more is refused; with a store
    it waits on the disk alone.

    Allowed: a whole number of messages from 1 to 1_000_000; default 1_000."""

    critical_reserve: Annotated[int, Range(0, 1_000_000, "messages")] = 64
    """Further slots for each peer that only Critical messages may use, so that an emergency stop
    gets into a full queue.

    Allowed: a whole number of messages from 0 to 1_000_000; default 64."""

    inbox_limit: Slots = 1000
    """Maximum number of messages received and not yet taken by the application. When the inbox is
    full, the node reads no more.

    Allowed: a whole number of messages from 1 to 1_000_000; default 1_000."""

    max_frame_size: Annotated[int, Range(V1_OVERHEAD, 2**24 - 1, "bytes")] = 2048
    """The largest v1 frame, without its length prefix. A larger one closes its connection. The
    first byte of a v1 length must be zero, which bounds this option.

    Allowed: a whole number of bytes from 170 to 16_777_215; default 2_048."""

    max_v1_payload_size: Annotated[int, Range(0, 2**24 - 1 - V1_OVERHEAD, "bytes")] = 1024
    """The largest payload that the node sends to a v1 peer. This must be at most `max_frame_size`
    - 170. Live v1 peers drop a larger payload silently, so `send()` refuses it.

    Allowed: a whole number of bytes from 0 to 16_777_045; default 1_024."""

    store: Given[str | os.PathLike[str] | None, Path | None] = Given(None)
    """The file in which messages wait, so that no crash loses them. A `Node` makes it where there
    is none; its folder must exist. One file belongs to one node at a time. With None, messages
    wait in memory.

    Allowed: the path of a file, or None; default None."""

    evidence: Given[str | os.PathLike[str] | None, Path | None] = Given(None)
    """The file in which the node keeps every accepted envelope with its signature, hash-chained. A
    `Node` makes it where there is none; its folder must exist. One file belongs to one node at
    a time. With None, nothing is kept.

    Allowed: the path of a file, or None; default None."""

    evidence_max_bytes: StoredBytes | None = None
    """The size at which the evidence log is rotated. Its file then gets a number and stays in the
    folder, and the log goes on in a new file. With None, size never rotates the log.

    Allowed: a whole number of bytes from 1_024 to 17_592_186_044_416, or None; default None."""

    evidence_max_age: Age | None = None
    """The age of its file at which the evidence log is rotated, with the next message that is
    accepted. With None, age never rotates the log.

    Allowed: a number of seconds from 1 to 315_360_000, or None; default None."""

    evidence_keep: Files | None = None
    """How many numbered files of the evidence log are left after a rotation; the oldest are
    removed. With None, nothing is ever removed.

    Allowed: a whole number of files from 1 to 65_535, or None; default None."""

    ack: Literal["manual", "auto"] = "manual"
    """When a received message counts as handled. With "manual", the application calls
    `message.ack()`; until then a store keeps the message, and a crash delivers it again. With
    "auto", the message is handled when the application takes it.

    Allowed: manual or auto; default "manual"."""

    outbox_limit: StoredRows = 2_000_000
    """Maximum number of messages that wait in the store. One more is refused. Critical messages
    have `critical_reserve` further slots, as in the three limits below.

    Allowed: a whole number of messages from 1 to 1_000_000_000; default 2_000_000."""

    outbox_bytes: StoredBytes = 4 * 2**30
    """Maximum number of bytes of envelopes that wait in the store. This must be at least one
    message of `max_payload_size`.

    Allowed: a whole number of bytes from 1_024 to 17_592_186_044_416; default 4_294_967_296
    (4_096 MiB)."""

    outbox_peer_limit: StoredRows = 1_000_000
    """Maximum number of messages that wait in the store for one peer.

    Allowed: a whole number of messages from 1 to 1_000_000_000; default 1_000_000."""

    outbox_peer_bytes: StoredBytes = 2**30
    """Maximum number of bytes of envelopes that wait in the store for one peer. This must be at
    least one message of `max_payload_size`.

    Allowed: a whole number of bytes from 1_024 to 17_592_186_044_416; default 1_073_741_824
    (1_024 MiB)."""

    unmet_peer_limit: StoredRows = 10_000
    """Maximum number of messages that wait in the store for one peer never met; one more is
    refused. Such a peer has no route and no link, it never linked to this node, and there is no
    `fallback`. Critical messages have `critical_reserve` further slots, as in the two limits
    below.

    Allowed: a whole number of messages from 1 to 1_000_000_000; default 10_000."""

    unmet_peer_bytes: StoredBytes = 64 * 2**20
    """Maximum number of bytes of envelopes that wait in the store for one peer never met. This and
    `unmet_bytes`, where they are set, must be at least one message of `max_payload_size`.

    Allowed: a whole number of bytes from 1_024 to 17_592_186_044_416; default 67_108_864 (64
    MiB)."""

    unmet_bytes: StoredBytes = 2**30
    """Maximum number of bytes of envelopes that wait in the store for all peers never met
    together.

    Allowed: a whole number of bytes from 1_024 to 17_592_186_044_416; default 1_073_741_824
    (1_024 MiB)."""

    unmet_max_age: Age = 7 * 86_400.0
    """How long a message waits for a peer never met. Then it becomes a dead letter with the reason
    "aged out". When a way to the peer becomes known, waiting messages no longer age.

    Allowed: a number of seconds from 1 to 315_360_000; default 604_800.0."""

    dead_letter_limit: StoredRows = 100_000
    """Maximum number of dead letters: messages that were refused or given up. When there are more,
    the oldest is dropped and counted.

    Allowed: a whole number of messages from 1 to 1_000_000_000; default 100_000."""

    dead_letter_bytes: StoredBytes = 256 * 2**20
    """Maximum number of bytes of envelopes in dead letters.

    Allowed: a whole number of bytes from 1_024 to 17_592_186_044_416; default 268_435_456
    (256 MiB)."""

    max_unacked_messages: StoredRows = 100_000
    """Maximum number of accepted messages in the store that are not `ack()`. One more is not
    accepted, and its sender is told "inbox full".

    Allowed: a whole number of messages from 1 to 1_000_000_000; default 100_000."""

    max_unacked_bytes: StoredBytes = 2**30
    """Maximum number of bytes of accepted envelopes in the store that are not `ack()`. This must
    be at least one message of `max_payload_size`.

    Allowed: a whole number of bytes from 1_024 to 17_592_186_044_416; default 1_073_741_824
    (1_024 MiB)."""

    max_unacked_peer_messages: StoredRows = 50_000
    """Maximum number of accepted messages of one sender in the store that are not `ack()`.

    Allowed: a whole number of messages from 1 to 1_000_000_000; default 50_000."""

    max_attempts: Attempts = 3
    """How many connections or writes are tried for a message before it is given up. A message in a
    store is not given up for that.

    Allowed: a whole number of attempts from 1 to 65_535; default 3."""

    retry_base_delay: Seconds = 0.1
    """The pause after attempt n, counted from 1, is this times 2ⁿ: 0.2 and 0.4 seconds by default.
    With a store none of the three retry options is used: pauses grow from 0.5 seconds by a
    factor of 1.6 to 30 seconds, ± 50 %.

    Allowed: a number of seconds from 0.001 to 86_400; default 0.1."""

    retry_max_delay: Seconds = 5.0
    """The longest pause between two attempts.

    Allowed: a number of seconds from 0.001 to 86_400; default 5.0."""

    retry_jitter: Annotated[float, Range(0, 1)] = 0.25
    """The fraction by which each pause is varied at random: a pause is scaled by a factor of 1 ±
    this.

    Allowed: a number from 0 to 1; default 0.25."""

    connect_timeout: Seconds | None = 5.0
    """Time limit for one attempt to connect, and for the lookup of a host name before it.

    Allowed: a number of seconds from 0.001 to 86_400, or None; default 5.0."""

    handshake_timeout: Seconds | None = 10.0
    """Time limit for a new connection to prove its peer, dialed or accepted. Over v2, TLS and
    HELLO prove it; over v1, the first acceptable envelope.

    Allowed: a number of seconds from 0.001 to 86_400, or None; default 10.0."""

    frame_timeout: Seconds | None = 30.0
    """Time limit from the first to the last byte of one frame. More bytes do not extend it.

    Allowed: a number of seconds from 0.001 to 86_400, or None; default 30.0."""

    close_timeout: Seconds = 2.0
    """Time limit for `close()`, whatever a peer does.

    Allowed: a number of seconds from 0.001 to 86_400; default 2.0."""

    replay_memory: Annotated[int, Range(1, 2**24, "envelopes")] = 131_072
    """How many signed v1 envelopes are remembered, so that a replay is not delivered again.

    Allowed: a whole number of envelopes from 1 to 16_777_216; default 131_072."""

    verify_threads: Annotated[int, Range(1, 256, "threads")] | None = None
    """How many threads verify signatures. None means one per core, at most 4.

    Allowed: a whole number of threads from 1 to 256, or None; default None."""

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
