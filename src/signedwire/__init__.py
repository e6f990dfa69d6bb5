"""signedwire delivers signed messages to a key.

A node is an Ed25519 key; its DID is the public key. You send bytes to a DID;
they travel over TCP, with no broker between, encrypted, and arrive verified, in
order and once; the peer's signed receipt says so. Live v1 peers are spoken to in
their wire, where the configuration allows it.

    import asyncio
    from signedwire import Identity, Node

    async def main() -> None:
        async with Node(Identity.generate()) as alice, Node(Identity.generate()) as bob:
            alice.routing.update(bob.did, bob.address)
            await alice.send(bob.did, b"hello")
            message = await bob.receive()
            print(message.sender == alice.did, message.payload)

    asyncio.run(main())

Data goes one way through the house, down to send and up to receive:

    application → node → delivery → transport → wire → bytes

- `node`, `sync`: the public object, for asyncio and for threads; `outbox`: what
  waits in its store.
- `delivery`: queues, receipts, backoff, what a received envelope must pass.
- `transport`: connections; the pool of them; the listener; TLS; the networks.
- `wire`: envelopes, frames, batch signatures, the link's session. No I/O.
- `identity`: keys; the only place that signs and verifies. `keyformats`: what a key file
  may hold; `keyfiles`: who may read one, and how one is written; `keysources`: where the
  key of a process comes from.
- `config`, `settings`, `routing`, `stats`, `events`, `types`, `errors`: what their
  names say; `option_texts`: each option in words; `arguments`, `contradictions`: what callers
  pass is checked there; `sending`: the part of a node that sends; `environment`: whose
  variables are whose, folders
  of this user; `folders`: how the names in one are made durable; `home`: in which process
  and event loop a node can work; `streams`: descriptors 0 to 2.
- `payloads`: the typed messages that v1 peers understand (an extra).
- `cli`: the command line (an extra).
"""

import signedwire.cli.interrupts  # noqa: F401 - first: see there
from signedwire.arguments import BytesLike, Deadline, PayloadTypeName, PriorityName, Until
from signedwire.config import TransportConfig
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
    FailureKind,
    IdentityError,
    IdentityProblem,
    ListenError,
    MessageExpiredError,
    MessageRefusedError,
    NotAllowedError,
    PayloadTooLargeError,
    RemoteProtocolError,
    ResolveTimeout,
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
from signedwire.identity import Identity
from signedwire.keysources import load_identity
from signedwire.metrics import Distribution, Metric, MetricKind, Sample
from signedwire.node import Node
from signedwire.outbox import DeadLetters, Outbox
from signedwire.routing import RoutingTable
from signedwire.settings import load_config
from signedwire.stats import (
    EvidenceHead,
    EvidenceStats,
    Health,
    PeerStatus,
    PoolStats,
    Probe,
    TransportStats,
)
from signedwire.transport.blocking import MemoryTransport, TcpTransport
from signedwire.transport.memory import MemoryNetwork
from signedwire.transport.network import Listener, Network, Receiver, Remote, Stream
from signedwire.transport.tcp import TcpNetwork
from signedwire.transport.unix import UnixNetwork
from signedwire.types import (
    Address,
    DeliveryState,
    Did,
    Location,
    PayloadType,
    PeerState,
    Priority,
    Reason,
    SignaturePolicy,
    Target,
)
from signedwire.wire.envelope import SignedEnvelope
from signedwire.wire.receipt_proof import ProvenDelivery, verify_receipt

__version__ = "0.1.0"

__all__ = [
    "AccessList",
    "AdmissionContext",
    "MessageHeader",
    "Policy",
    "Address",
    "AddressError",
    "Backlog",
    "BackpressureError",
    "BytesLike",
    "ClosedError",
    "ConfigError",
    "ConnectTimeout",
    "ConnectionFailed",
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
    "FailureKind",
    "Health",
    "Identity",
    "IdentityError",
    "IdentityProblem",
    "ListenError",
    "Listener",
    "Location",
    "ClockStepped",
    "LoopStalled",
    "MemoryNetwork",
    "MemoryTransport",
    "Message",
    "MessageExpiredError",
    "MessageRefused",
    "MessageRefusedError",
    "Metric",
    "MetricKind",
    "Network",
    "Node",
    "NotAllowedError",
    "Outbox",
    "OutgoingRow",
    "PayloadTooLargeError",
    "PayloadType",
    "PayloadTypeName",
    "PeerConnected",
    "PeerDisconnected",
    "PeerState",
    "PeerStatus",
    "PoolStats",
    "Priority",
    "PriorityName",
    "Probe",
    "DidProofError",
    "ProvenDelivery",
    "Reason",
    "Receipt",
    "Receiver",
    "RemoteProtocolError",
    "Remote",
    "ResolveTimeout",
    "RoutingTable",
    "Sample",
    "SignaturePolicy",
    "SignatureError",
    "SignedEnvelope",
    "SignedWireError",
    "StoreCorruptError",
    "StoreError",
    "StoreFailedError",
    "StoreFullError",
    "StoreInUseError",
    "StoreOpenError",
    "StoreStats",
    "StoreVersionError",
    "Stream",
    "Target",
    "TcpNetwork",
    "TcpTransport",
    "TransportConfig",
    "TransportError",
    "TransportStats",
    "UnknownPeerError",
    "UnixNetwork",
    "Until",
    "WrongContextError",
    "__version__",
    "as_completed",
    "load_config",
    "load_identity",
    "verify_receipt",
]
