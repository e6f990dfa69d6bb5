"""signedwire delivers signed messages to a key.

A node is an Ed25519 key, and its DID is the public key. You send bytes to a DID. They travel
encrypted over TCP, without a broker, and arrive verified, in order and once. The peer signs a
receipt for each message. With peers of the older v1 network, the node uses their wire protocol
if the configuration allows it.

    import asyncio
    from signedwire import Identity, Node

    async def main() -> None:
        async with Node(Identity.generate()) as alice, Node(Identity.generate()) as bob:
            alice.routing.update(bob.did, bob.address)
            await alice.send(bob.did, b"hello")
            message = await bob.receive()
            print(message.sender == alice.did, message.payload)

    asyncio.run(main())

Payloads go down through these layers and up again:

    application → node → delivery → transport → wire → bytes

Packages:

- `wire`: envelopes, frames, signatures of batches, the session of a link. No I/O.
- `delivery`: decisions: queues, receipts, order, policies; the store.
- `evidence`: the evidence log: its chain of hashes, and its files.
- `transport`: drivers: links, TLS, networks, dialers, the listener; the v1 wire.
- `messaging`: requests, topics, typed payloads; built on messages.
- `payloads`: the typed messages of the v1 network (an extra).
- `cli`: the command line (an extra). `bench`: its command `bench`.

Modules for users:

- `node`, `sync`: `Node` for asyncio and for threads. `node_life`: its start and end; `node_state`:
  its files, peers and counters. `sync_parts`: blocking forms of what belongs to a node.
- `fleet`: `Fleet`, a node with names, roles and typed values. `fleet_handlers`: its handlers;
  `fleet_peers`: its peers, groups and publishers.
- `outbox`: the messages in the store of a node.
- `identity`: keys, the only module that signs and verifies; `keysources`: finding the key of a
  process; `keyfiles`, `keyformats` and `keytexts`: reading and writing key files.
- `config`: the options; `settings`: reading them from a file and the environment;
  `option_texts`: a text about each.
- `routing`, `names` and `roles`: addresses, names and groups of peers; `types` and `states`;
  `errors`, with their roots in `base_errors`; `events`, `stats`, `metrics`.

Modules for the others:

- `node_life`, `node_state`: the parts of `Node` about its life and its state.
- `sending`: how a node sends; `subject_options`: the defaults of a subject;
  `portal`: how threads call a node.
- `options`, `contradictions`, `config_changes`: checks and types of options; `arguments`: checks
  of arguments.
- `environment`: variables, and folders of this user; `files`, `folders`: opening files, and making
  their names durable; `streams`: descriptors 0 to 2; `resources`: descriptors of the process.
- `clock`: deadlines and suspension; `home`: the process and the event loop of a node; `logs`.
"""

import signedwire.cli.interrupts  # noqa: F401 - first: see there
from signedwire.arguments import BytesLike, Deadline, PayloadTypeName, PriorityName, Until
from signedwire.config import TransportConfig
from signedwire.config_changes import ConfigChanges
from signedwire.delivery.access import AccessList
from signedwire.delivery.message import Message
from signedwire.delivery.outcomes import as_completed
from signedwire.delivery.policy import AdmissionContext, MessageHeader, Policy
from signedwire.delivery.receipt import Receipt
from signedwire.delivery.store import Backlog, DeadLetter, OutgoingRow, StoreStats
from signedwire.errors import (
    AddressError,
    BackpressureError,
    ClosedError,
    ConfigError,
    ConnectTimeout,
    DeliveryError,
    DeliveryFailedError,
    DialError,
    DidError,
    DidProofError,
    EnvelopeError,
    EvidenceLogError,
    FailedReceipt,
    FailureKind,
    IdentityError,
    IdentityProblem,
    ListenError,
    MessageExpiredError,
    MessageRefusedError,
    NoReplyError,
    NotAllowedError,
    PayloadTooLargeError,
    ReceiptView,
    RemoteProtocolError,
    ResolveTimeout,
    SchemaError,
    SignatureError,
    SignedWireError,
    StoreCorruptError,
    StoreError,
    StoreFailedError,
    StoreFullError,
    StoreInUseError,
    StoreOpenError,
    StoreVersionError,
    TransportError,
    UnknownNameError,
    UnknownPeerError,
    WrongContextError,
)
from signedwire.events import (
    ClockStepped,
    ConnectionFailed,
    Dropped,
    Event,
    EventsMissed,
    EvidenceFailed,
    EvidenceRemoved,
    EvidenceRotated,
    LoopStalled,
    MessageRefused,
    PeerConnected,
    PeerDisconnected,
)
from signedwire.fleet import Fleet
from signedwire.fleet_handlers import HandlerContext
from signedwire.fleet_peers import Group, GroupSubscription, Peer, Publisher
from signedwire.identity import Identity
from signedwire.keysources import load_identity
from signedwire.messaging.codecs import (
    NACKED,
    Codec,
    JsonCodec,
    MsgspecCodec,
    Nacked,
    codec_for,
    decode_or_nack,
)
from signedwire.messaging.outcomes import FailedMember, Outcomes
from signedwire.messaging.silence import Silence, SilenceCallback, SilenceWatch
from signedwire.messaging.subjects import SubjectRegistry, subject_of
from signedwire.messaging.subscription import Subscription
from signedwire.metrics import Distribution, Metric, MetricKind, Sample
from signedwire.names import Names
from signedwire.node import Node
from signedwire.outbox import DeadLetters, Outbox
from signedwire.routing import RoutingTable
from signedwire.settings import load_config
from signedwire.states import Step
from signedwire.stats import (
    EvidenceHead,
    EvidenceStats,
    Health,
    PeerMap,
    PeerStatus,
    PoolStats,
    Probe,
    TransportStats,
)
from signedwire.subject_options import SubjectOptions
from signedwire.transport.asyncio_stream import AsyncioStream
from signedwire.transport.blocking import MemoryTransport, TcpTransport
from signedwire.transport.memory import MemoryNetwork
from signedwire.transport.network import (
    Listener,
    NeedsDescriptors,
    Network,
    Receiver,
    Remote,
    Resolving,
    Stream,
)
from signedwire.transport.socket_addresses import SocketAddress
from signedwire.transport.tcp import TcpNetwork
from signedwire.transport.unix import UnixNetwork
from signedwire.types import (
    Address,
    ControlType,
    Credit,
    DeliveryState,
    Did,
    Kind,
    Location,
    PayloadType,
    PeerState,
    Priority,
    Reason,
    SignaturePolicy,
    Target,
)
from signedwire.wire.envelope import MerklePath, SignedEnvelope
from signedwire.wire.receipt_proof import ProvenDelivery, verify_receipt

__version__ = "0.1.0"

__all__ = [
    "AccessList",
    "AdmissionContext",
    "MessageHeader",
    "Policy",
    "Address",
    "AddressError",
    "AsyncioStream",
    "Backlog",
    "BackpressureError",
    "BytesLike",
    "ClosedError",
    "Codec",
    "ConfigChanges",
    "ConfigError",
    "ConnectTimeout",
    "ConnectionFailed",
    "ControlType",
    "Credit",
    "DeadLetter",
    "DeadLetters",
    "Deadline",
    "DeliveryError",
    "DeliveryFailedError",
    "DeliveryState",
    "DialError",
    "Did",
    "DidError",
    "Distribution",
    "Dropped",
    "EnvelopeError",
    "Event",
    "EventsMissed",
    "EvidenceFailed",
    "EvidenceHead",
    "EvidenceLogError",
    "EvidenceRemoved",
    "EvidenceRotated",
    "EvidenceStats",
    "FailedMember",
    "FailedReceipt",
    "FailureKind",
    "Fleet",
    "Group",
    "GroupSubscription",
    "HandlerContext",
    "Health",
    "Identity",
    "IdentityError",
    "IdentityProblem",
    "ListenError",
    "Listener",
    "JsonCodec",
    "Kind",
    "Location",
    "ClockStepped",
    "LoopStalled",
    "MemoryNetwork",
    "MemoryTransport",
    "MerklePath",
    "Message",
    "MessageExpiredError",
    "MessageRefused",
    "MessageRefusedError",
    "NoReplyError",
    "Metric",
    "MetricKind",
    "MsgspecCodec",
    "NACKED",
    "Nacked",
    "Names",
    "NeedsDescriptors",
    "Network",
    "Node",
    "NotAllowedError",
    "Outbox",
    "Outcomes",
    "OutgoingRow",
    "PayloadTooLargeError",
    "PayloadType",
    "PayloadTypeName",
    "Peer",
    "PeerConnected",
    "PeerDisconnected",
    "PeerState",
    "PeerMap",
    "PeerStatus",
    "PoolStats",
    "Priority",
    "PriorityName",
    "Probe",
    "DidProofError",
    "ProvenDelivery",
    "Publisher",
    "Reason",
    "Receipt",
    "ReceiptView",
    "Receiver",
    "RemoteProtocolError",
    "Remote",
    "ResolveTimeout",
    "Resolving",
    "RoutingTable",
    "Sample",
    "SchemaError",
    "SignaturePolicy",
    "SignatureError",
    "SignedEnvelope",
    "SignedWireError",
    "Silence",
    "SilenceCallback",
    "SilenceWatch",
    "SocketAddress",
    "Step",
    "StoreCorruptError",
    "StoreError",
    "StoreFailedError",
    "StoreFullError",
    "StoreInUseError",
    "StoreOpenError",
    "StoreStats",
    "StoreVersionError",
    "Stream",
    "SubjectRegistry",
    "Subscription",
    "SubjectOptions",
    "Target",
    "TcpNetwork",
    "TcpTransport",
    "TransportConfig",
    "TransportError",
    "TransportStats",
    "UnknownNameError",
    "UnknownPeerError",
    "UnixNetwork",
    "Until",
    "WrongContextError",
    "__version__",
    "as_completed",
    "codec_for",
    "decode_or_nack",
    "load_config",
    "load_identity",
    "subject_of",
    "verify_receipt",
]
