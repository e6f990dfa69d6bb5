"""`TransportConfig`: every option of a node, each with its unit, bound and default.

Start from a preset and name what differs:

    TransportConfig.production(listen="0.0.0.0:9001", v1_peers=["did:key:z6Mk…"])

A configuration is checked as a whole when it is made, and never changes. `settings` reads
one from a file and from the environment by the annotations below. An option is written in
two places: here, and as a keyword type in `config_changes`.
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
from signedwire.names import Names
from signedwire.options import Given, Option, Range
from signedwire.roles import Roles
from signedwire.subject_options import SubjectOptions, Subjects, SubjectTable
from signedwire.types import Address, Did, Location, SignaturePolicy, Target

__all__ = ["PRESETS", "TransportConfig"]


Connections: TypeAlias = Annotated[int, Range(1, 65_535, "connections")]
Attempts: TypeAlias = Annotated[int, Range(1, 65_535, "attempts")]
Files: TypeAlias = Annotated[int, Range(1, 65_535, "files")]
Slots: TypeAlias = Annotated[int, Range(1, 1_000_000, "messages")]
Seconds: TypeAlias = Annotated[float, Range(0.001, 86_400, "seconds")]
Age: TypeAlias = Annotated[float, Range(1, 3_650 * 86_400, "seconds")]
StoredRows: TypeAlias = Annotated[int, Range(1, 10**9, "messages")]
RoleTable: TypeAlias = Annotated[Mapping[str, tuple[Did, ...]], Roles]
SubjectTables: TypeAlias = Annotated[Mapping[str, SubjectOptions], SubjectTable]
StoredBytes: TypeAlias = Annotated[int, Range(1024, 2**44, "bytes")]


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class TransportConfig:
    """The options of a node. Immutable; any thread may read it.

    Durations are seconds. For an optional limit, `None` means no limit. The last line below
    each option has the allowed values and the default.

    Raises:
        ConfigError: a value is not allowed, or two contradict each other. The text has the
            option, its value and what is allowed.
    """

    listen: Given[Target | str | None, Target | None] = Given(Address("127.0.0.1", 0))
    """The address on which the node accepts connections. Port 0 selects a free port.
    "0.0.0.0:9001" means every IPv4 address of this machine, "[::]:9001" every IPv6 address and
    none of IPv4. A network without ports uses a location, such as "unix:/run/robot.sock". With
    None, the node accepts no connections and only dials.

    Allowed: host:port, or None; default "127.0.0.1:0"."""

    fallback: Given[Target | str | None, Target | None] = Given(None)
    """The address to which the node sends messages for a DID that has no route. The port must not
    be 0. With None, such a message is refused; with a store, it waits until a route is known.

    Allowed: host:port, or None; default None."""

    network: Literal["tcp", "unix", "memory"] = "tcp"
    """The network that carries the bytes. "unix" connects processes of this machine by locations
    such as unix:/run/robot.sock; "memory" connects nodes of this process. `Node(network=…)`
    overrides this option.

    Allowed: tcp or unix or memory; default "tcp"."""

    signatures: Given[SignaturePolicy | Literal["required", "if-present"], SignaturePolicy] = Given(
        SignaturePolicy.REQUIRED
    )
    """How the node treats envelopes without a signature, which only v1 peers can send. "required"
    drops them; "if-present" delivers them, marked as not proven.

    Allowed: required or if-present; default "required"."""

    v1_peers: Given[Literal["all"] | Iterable[Did | str], Literal["all"] | frozenset[Did]] = Given(
        frozenset()
    )
    """The DIDs with which this node may use the older v1 wire protocol, in both directions. Once a
    DID has used v2, the node never uses v1 with it again. If v1 is the only wire (`wire` is "v1",
    or `TcpTransport`), the default means every DID.

    Allowed: all, or a list of DIDs or names; default an empty list."""

    names: Given[Mapping[str, Did | str], Names] = Given(Names())
    """Names for DIDs. A name works wherever a DID does: in calls of this node, in the options with
    lists of DIDs, in the access file, and on the command line. It holds for this node alone. A
    name is 1 to 63 characters of a-z, 0-9, `-`, `_` and `.`, and begins with a letter. A DID may
    have several names. A variable has the form name=DID, with commas.

    Allowed: a table of names, each with a DID; default an empty table."""

    roles: Given[Mapping[str, Iterable[Did | str]], RoleTable] = Given(Roles())
    """Groups of peers for `Fleet`: each role has a list of names or DIDs. A role has the same form
    as a name, and is not one of the `names`. It holds for this node alone. A variable has an inline
    table of TOML.

    Allowed: a table of roles, each with a list of names or DIDs; default an empty table."""

    allow: Given[Iterable[Did | str] | None, frozenset[Did] | None] = Given(None)
    """The DIDs that may link to this node and that it may send to. All others are denied, so an
    empty list denies everybody. The `allow` lines of `access_file` are added to this list. With
    None, every DID is allowed that `deny` does not name.

    Allowed: a list of DIDs or names, or None; default None."""

    deny: Given[Iterable[Did | str], frozenset[Did]] = Given(frozenset())
    """The DIDs that are denied, even if an allow list names them.

    Allowed: a list of DIDs or names; default an empty list."""

    access_file: Given[str | os.PathLike[str] | None, Path | None] = Given(None)
    """A file of access rules with one line `allow DID` or `deny DID` for each. The node reads it at
    its start, and again at `node.access.reload()`; `signedwire listen` does so at SIGHUP. A wrong
    line prevents the start. The node never writes the file.

    Allowed: the path of a file, or None; default None."""

    wire: Literal["auto", "v1"] = "auto"
    """The wire protocols that the node uses. "auto" means v2 links, and v1 with the DIDs in
    `v1_peers`. "v1" means v1 alone.

    Allowed: auto or v1; default "auto"."""

    max_payload_size: Annotated[int, Range(1, 256 * 2**20, "bytes")] = 2**20
    """The largest payload that the node sends and accepts over v2.

    Allowed: a whole number of bytes from 1 to 268_435_456; default 1_048_576 (1 MiB)."""

    credit_messages: Annotated[int, Range(0, 1_000_000, "messages")] = 4096
    """Maximum number of messages that one v2 peer may have sent in one stream and that the
    application has not taken yet. With 0 this node only sends: the messages of v2 peers stay with
    them, also Critical ones.

    Allowed: a whole number of messages from 0 to 1_000_000; default 4_096."""

    credit_bytes: Annotated[int, Range(1024, 2**34, "bytes")] = 2 * 2**20
    """Maximum size of the envelopes that one v2 peer may have sent in one stream and that the
    application has not taken yet. This must be at least what one message of `max_payload_size`
    needs.

    Allowed: a whole number of bytes from 1_024 to 17_179_869_184; default 2_097_152 (2 MiB)."""

    inbox_bytes: Annotated[int, Range(1024, 2**40, "bytes")] = 64 * 2**20
    """Maximum size of the envelopes that all v2 peers together may have sent and that the
    application has not taken yet. At this limit, the node grants no peer further credit until
    half of the bytes are taken. Messages for which a peer already has credit may still arrive.
    This must be at least one message of `max_payload_size`.

    Allowed: a whole number of bytes from 1_024 to 1_099_511_627_776; default 67_108_864 (64
    MiB)."""

    ping_interval: Seconds = 5.0
    """Time without a byte from a v2 peer after which the node sends a PING.

    Allowed: a number of seconds from 0.001 to 86_400; default 5.0."""

    dead_timeout: Seconds = 15.0
    """Time without a byte from a v2 peer after which the node closes the link. This must be more
    than `ping_interval`.

    Allowed: a number of seconds from 0.001 to 86_400; default 15.0."""

    answer_timeout: Seconds = 60.0
    """Time without a receipt or refusal for a message after which the node closes the link to a v2
    peer. The attempt then counts as failed.

    Allowed: a number of seconds from 0.001 to 86_400; default 60.0."""

    max_connections: Connections = 10
    """Maximum number of outbound connections at once.

    Allowed: a whole number of connections from 1 to 65_535; default 10."""

    max_inbound_connections: Connections = 1000
    """Maximum number of accepted connections that have proven their sender. If the process may open
    too few descriptors, the node lowers this, `max_unproven_connections` and `max_connections`.

    Allowed: a whole number of connections from 1 to 65_535; default 1_000."""

    max_unproven_connections: Connections = 128
    """Maximum number of accepted connections that have not proven their sender yet.

    Allowed: a whole number of connections from 1 to 65_535; default 128."""

    max_unproven_per_host: Connections = 8
    """Maximum number of accepted connections from one IPv4 address or one IPv6 /56 network that
    have not proven their sender yet. Loopback is exempt. When one more arrives, the oldest of them
    has one more second to prove itself, or less if others need its slot.

    Allowed: a whole number of connections from 1 to 65_535; default 8."""

    send_queue_limit: Slots = 1000
    """Maximum number of messages queued in memory for one peer. Without a store, one more is
    refused; with a store, it waits on the disk only.

    Allowed: a whole number of messages from 1 to 1_000_000; default 1_000."""

    critical_reserve: Annotated[int, Range(0, 1_000_000, "messages")] = 64
    """Additional slots for each peer that only Critical messages may use. They let an emergency
    stop into a full queue.

    Allowed: a whole number of messages from 0 to 1_000_000; default 64."""

    subjects: Given[Subjects, SubjectTables] = Given(SubjectTable())
    """Defaults for the messages of a subject: `durable`, `latest`, `priority` and `deadline` in
    seconds. They are those of the arguments of `send()`, which have precedence. See
    `SubjectOptions`. A variable has an inline table of TOML.

    Allowed: a table for each subject; default an empty table."""

    inbox_limit: Slots = 1000
    """Maximum number of received messages that the application has not taken yet. While this many
    wait, the node reads nothing from its peers.

    Allowed: a whole number of messages from 1 to 1_000_000; default 1_000."""

    max_frame_size: Annotated[int, Range(V1_OVERHEAD, 2**24 - 1, "bytes")] = 2048
    """The largest v1 frame that the node accepts, without its length prefix. A larger one closes
    its connection.

    Allowed: a whole number of bytes from 170 to 16_777_215; default 2_048."""

    max_v1_payload_size: Annotated[int, Range(0, 2**24 - 1 - V1_OVERHEAD, "bytes")] = 1024
    """The largest payload that the node sends to a v1 peer. `send()` refuses a larger one, because
    v1 peers drop it silently. This must be at most `max_frame_size` - 170.

    Allowed: a whole number of bytes from 0 to 16_777_045; default 1_024."""

    store: Given[str | os.PathLike[str] | None, Path | None] = Given(None)
    """The file in which messages wait, so that a crash loses none. A node creates it if it is
    absent; its folder must exist. Only one node at a time may use a file. With None, messages
    wait in memory.

    Allowed: the path of a file, or None; default None."""

    evidence: Given[str | os.PathLike[str] | None, Path | None] = Given(None)
    """The file of the evidence log: the node keeps every accepted envelope with its signature,
    hash-chained. A node creates it if it is absent; its folder must exist. Only one node at a
    time may use a file. With None, nothing is kept.

    Allowed: the path of a file, or None; default None."""

    evidence_max_bytes: StoredBytes | None = None
    """The size at which the evidence log is rotated. A number is then added to the name of its
    file, and the log continues in a new file. With None, the log is not rotated by size.

    Allowed: a whole number of bytes from 1_024 to 17_592_186_044_416, or None; default None."""

    evidence_max_age: Age | None = None
    """The age of the file of the evidence log at which the next accepted message rotates the log.
    With None, the log is not rotated by age.

    Allowed: a number of seconds from 1 to 315_360_000, or None; default None."""

    evidence_keep: Files | None = None
    """Number of rotated files of the evidence log that are kept; a rotation removes the oldest
    beyond it. With None, none is removed.

    Allowed: a whole number of files from 1 to 65_535, or None; default None."""

    ack: Literal["manual", "auto"] = "manual"
    """When a received message counts as handled. With "manual", the application calls
    `message.ack()`; until then a store keeps the message, and a crash delivers it again. With
    "auto", the message is handled when the application takes it.

    Allowed: manual or auto; default "manual"."""

    outbox_limit: StoredRows = 2_000_000
    """Maximum number of messages that wait in the store to be sent. One more is refused. Critical
    messages have `critical_reserve` additional slots, here and in `outbox_bytes`,
    `outbox_peer_limit` and `outbox_peer_bytes`.

    Allowed: a whole number of messages from 1 to 1_000_000_000; default 2_000_000."""

    outbox_bytes: StoredBytes = 4 * 2**30
    """Maximum size of the envelopes that wait in the store to be sent. This must be at least one
    message of `max_payload_size`.

    Allowed: a whole number of bytes from 1_024 to 17_592_186_044_416; default 4_294_967_296
    (4_096 MiB)."""

    outbox_peer_limit: StoredRows = 1_000_000
    """Maximum number of messages that wait in the store to be sent to one peer.

    Allowed: a whole number of messages from 1 to 1_000_000_000; default 1_000_000."""

    outbox_peer_bytes: StoredBytes = 2**30
    """Maximum size of the envelopes that wait in the store to be sent to one peer. This must be at
    least one message of `max_payload_size`.

    Allowed: a whole number of bytes from 1_024 to 17_592_186_044_416; default 1_073_741_824
    (1_024 MiB)."""

    unmet_peer_limit: StoredRows = 10_000
    """Maximum number of messages that wait in the store for one peer never met. One more is
    refused. A peer is never met if it has no route, never had a link with this node, and there is
    no `fallback`. Critical messages have `critical_reserve` additional slots, here and in
    `unmet_peer_bytes` and `unmet_bytes`.

    Allowed: a whole number of messages from 1 to 1_000_000_000; default 10_000."""

    unmet_peer_bytes: StoredBytes = 64 * 2**20
    """Maximum size of the envelopes that wait in the store for one peer never met: see
    `unmet_peer_limit`. If this or `unmet_bytes` is set, it must be at least one message of
    `max_payload_size`.

    Allowed: a whole number of bytes from 1_024 to 17_592_186_044_416; default 67_108_864 (64
    MiB)."""

    unmet_bytes: StoredBytes = 2**30
    """Maximum size of the envelopes that wait in the store for all peers never met together: see
    `unmet_peer_limit`.

    Allowed: a whole number of bytes from 1_024 to 17_592_186_044_416; default 1_073_741_824
    (1_024 MiB)."""

    unmet_max_age: Age = 7 * 86_400.0
    """Time after which a message for a peer never met becomes a dead letter with the reason "aged
    out". Once the peer gets a route or a link, its waiting messages no longer age.

    Allowed: a number of seconds from 1 to 315_360_000; default 604_800.0."""

    dead_letter_limit: StoredRows = 100_000
    """Maximum number of dead letters in the store: messages that the peer refused or that the node
    gave up. If there are more, the oldest is dropped and counted.

    Allowed: a whole number of messages from 1 to 1_000_000_000; default 100_000."""

    dead_letter_bytes: StoredBytes = 256 * 2**20
    """Maximum size of the envelopes of all dead letters. If they are larger, the oldest is dropped
    and counted.

    Allowed: a whole number of bytes from 1_024 to 17_592_186_044_416; default 268_435_456
    (256 MiB)."""

    max_unacked_messages: StoredRows = 100_000
    """Maximum number of received messages in the store that the application has not acknowledged
    with `message.ack()`. One more is refused with the reason "inbox full".

    Allowed: a whole number of messages from 1 to 1_000_000_000; default 100_000."""

    max_unacked_bytes: StoredBytes = 2**30
    """Maximum size of the received envelopes in the store that the application has not
    acknowledged. This must be at least one message of `max_payload_size`.

    Allowed: a whole number of bytes from 1_024 to 17_592_186_044_416; default 1_073_741_824
    (1_024 MiB)."""

    max_unacked_peer_messages: StoredRows = 50_000
    """Maximum number of received messages of one sender in the store that the application has not
    acknowledged.

    Allowed: a whole number of messages from 1 to 1_000_000_000; default 50_000."""

    max_attempts: Attempts = 3
    """Number of failed connections or writes after which a message is given up. A message in a
    store is never given up for that reason.

    Allowed: a whole number of attempts from 1 to 65_535; default 3."""

    retry_base_delay: Seconds = 0.1
    """Base of the pause between attempts: after attempt n, counted from 1, the node waits this
    times 2ⁿ, by default 0.2 and 0.4 seconds. A node with a store ignores the three `retry`
    options: its pauses grow from 0.5 seconds by a factor of 1.6 to 30 seconds, ± 50 %.

    Allowed: a number of seconds from 0.001 to 86_400; default 0.1."""

    retry_max_delay: Seconds = 5.0
    """The longest pause between two attempts.

    Allowed: a number of seconds from 0.001 to 86_400; default 5.0."""

    retry_jitter: Annotated[float, Range(0, 1)] = 0.25
    """The fraction by which each pause is varied at random: 0.25 means a factor between 0.75 and
    1.25.

    Allowed: a number from 0 to 1; default 0.25."""

    connect_timeout: Seconds | None = 5.0
    """Time limit for one attempt to connect, and another for the lookup of a host name before it.

    Allowed: a number of seconds from 0.001 to 86_400, or None; default 5.0."""

    handshake_timeout: Seconds | None = 10.0
    """Time limit for the other side of a new connection to prove its DID, dialed or accepted. Over
    v2, TLS and the HELLO frame prove it; over v1, the first acceptable envelope.

    Allowed: a number of seconds from 0.001 to 86_400, or None; default 10.0."""

    frame_timeout: Seconds | None = 30.0
    """Time limit from the first to the last byte of one frame. More bytes do not extend it.

    Allowed: a number of seconds from 0.001 to 86_400, or None; default 30.0."""

    close_timeout: Seconds = 2.0
    """Time limit for `close()`, whatever a peer does.

    Allowed: a number of seconds from 0.001 to 86_400; default 2.0."""

    replay_memory: Annotated[int, Range(1, 2**24, "envelopes")] = 131_072
    """Number of signed v1 envelopes that the node remembers, to drop copies of them.

    Allowed: a whole number of envelopes from 1 to 16_777_216; default 131_072."""

    verify_threads: Annotated[int, Range(1, 256, "threads")] | None = None
    """Number of threads that verify v1 signatures. None means one per core, at most 4.

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
        for name, option in OPTIONS.items():
            object.__setattr__(self, name, option.find_names(getattr(self, name), self.names))
        check_pairs(self, {name: option.default for name, option in OPTIONS.items()})

    @classmethod
    def development(cls, **changes: Unpack[ConfigChanges]) -> Self:
        """Return options for tests in one process: memory network, unsigned envelopes accepted.

        Args:
            changes: The options that differ from the preset.

        Raises:
            ConfigError: an option is unknown, or a value is not allowed.
        """
        return cls.preset("development", **changes)

    @classmethod
    def lightweight(cls, **changes: Unpack[ConfigChanges]) -> Self:
        """Return options for a trusted network: TCP, v1 with every DID, unsigned accepted.

        Arguments and errors are those of `development()`.
        """
        return cls.preset("lightweight", **changes)

    @classmethod
    def production(cls, **changes: Unpack[ConfigChanges]) -> Self:
        """Return options for open networks: signatures required, v1 only with `v1_peers`.

        By default `v1_peers` is empty. Arguments and errors are those of `development()`.
        """
        return cls.preset("production", **changes)

    @classmethod
    def preset(cls, name: str, /, **changes: Unpack[ConfigChanges]) -> Self:
        """Return the options of the preset called `name`, with changes.

        Args:
            name: "development", "lightweight" or "production".
            changes: The options that differ from the preset.

        Raises:
            ConfigError: the preset or an option is unknown, or a value is not allowed.
        """
        if name not in PRESETS:
            raise ConfigError(f"unknown preset {name!r}", did_you_mean(name, PRESETS))
        return cls(**{**PRESETS[name], **_known(changes)})

    def replace(self, **changes: Unpack[ConfigChanges]) -> Self:
        """Return a copy with changes, checked as a whole.

        Args:
            changes: The options that differ from this configuration.

        Raises:
            ConfigError: an option is unknown, or a value is not allowed.
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
"""The options that each preset sets; all others have their defaults."""


def _shown(value: object) -> str:
    """Return Python text for a value that `TransportConfig()` accepts."""
    if isinstance(value, (enum.Enum, Address, Location, Path)):
        return repr(str(value))
    if isinstance(value, Names):
        return repr({name: str(did) for name, did in value.items()})
    if isinstance(value, frozenset):
        return f"{sorted(map(str, value))}"
    return repr(value)


def _known(changes: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in changes:
        if name not in OPTIONS:
            hint = did_you_mean(name, OPTIONS)
            if name in ("peers", "routes", "routing"):  # v1_peers, the nearest, enables v1
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
"""Every option by name, from the fields of the dataclass."""

PRESET_OPTION: Final = Option("preset", None, (Literal[tuple(PRESETS)],), False)
"""The key that names a preset in a file or in the environment."""
