"""signedwire delivers signed messages to a key.

A node is an Ed25519 key; its DID is the public key. You send bytes to a DID;
they travel over TCP, with no broker between, and arrive verified and in order.

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

- `node`, `sync`: the public object, for asyncio and for threads.
- `delivery`: queues, receipts, backoff, what a received envelope must pass.
- `transport`: connections; the pool of them; the listener; TCP and memory.
- `wire`: envelopes and frames. No I/O.
- `identity`: keys; the only place that signs and verifies.
- `config`, `settings`, `routing`, `stats`, `types`, `errors`: what their names say.
- `payloads`: the typed messages that v1 peers understand (an extra).
- `cli`: the command line (an extra).
"""

from signedwire.config import SignaturePolicy, TransportConfig
from signedwire.delivery.message import Message
from signedwire.delivery.receipt import Receipt
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
    EnvelopeError,
    IdentityError,
    ListenError,
    MessageExpiredError,
    NotAllowedError,
    PayloadTooLargeError,
    RemoteProtocolError,
    SignatureError,
    SignedWireError,
    TransportError,
    UnknownPeerError,
)
from signedwire.identity import Identity
from signedwire.node import Node
from signedwire.routing import RoutingTable
from signedwire.settings import load_config
from signedwire.stats import PeerStatus, PoolStats, TransportStats
from signedwire.transport.blocking import MemoryTransport, TcpTransport
from signedwire.transport.memory import MemoryNetwork
from signedwire.types import (
    Address,
    DeliveryState,
    Did,
    PayloadType,
    PeerState,
    Priority,
    Reason,
)
from signedwire.wire.envelope import SignedEnvelope

__version__ = "0.1.0"

__all__ = [
    "Address",
    "AddressError",
    "BackpressureError",
    "ClosedError",
    "ConfigError",
    "ConnectTimeout",
    "DeliveryError",
    "DeliveryFailedError",
    "DeliveryState",
    "DialError",
    "Did",
    "DidError",
    "EnvelopeError",
    "Identity",
    "IdentityError",
    "ListenError",
    "MemoryNetwork",
    "MemoryTransport",
    "Message",
    "MessageExpiredError",
    "Node",
    "NotAllowedError",
    "PayloadTooLargeError",
    "PayloadType",
    "PeerState",
    "PeerStatus",
    "PoolStats",
    "Priority",
    "Reason",
    "Receipt",
    "RemoteProtocolError",
    "RoutingTable",
    "SignaturePolicy",
    "SignatureError",
    "SignedEnvelope",
    "SignedWireError",
    "TcpTransport",
    "TransportConfig",
    "TransportError",
    "TransportStats",
    "UnknownPeerError",
    "__version__",
    "load_config",
]
