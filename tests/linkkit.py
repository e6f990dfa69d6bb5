"""What the tests of the v2 link share: keys, bodies, batches and two sessions back to back."""

from __future__ import annotations

from typing import Any, Final

from bodykit import encode_v2_body
from idkit import id_of
from signedwire.identity import Identity
from signedwire.types import Credit, Priority
from signedwire.wire import link_frames as frames
from signedwire.wire.clock_offset import Stamp
from signedwire.wire.envelope import MerklePath, SignedEnvelope, sign_batch
from signedwire.wire.header import STREAMS, VOLATILE
from signedwire.wire.link_frames import Epochs, Hello, Part, Ping, Pong
from signedwire.wire.parts import Batch, IncomingBatches, OutgoingBatches
from signedwire.wire.session import (
    BatchReceived,
    Event,
    HelloReceived,
    SentBatch,
    Session,
    SessionLimits,
)

ALICE: Final = Identity.from_seed(bytes(range(32)))
BOB: Final = Identity.from_seed(bytes(range(1, 33)))
EVE: Final = Identity.from_seed(bytes(range(2, 34)))
AT: Final = Stamp(1_700_000_000_000_000, 5_000_000)
"""When all PINGs and PONGs are sent and received, by both sides."""


def credits(
    messages: int, size: int, critical_messages: int, critical_size: int
) -> tuple[Credit, ...]:
    """The credit of each stream; those of Critical have the second pair, all others the first."""
    other, critical = Credit(messages, size), Credit(critical_messages, critical_size)
    return tuple(
        critical if stream % VOLATILE == Priority.CRITICAL else other for stream in range(STREAMS)
    )


def with_credit(
    credit: tuple[Credit, ...], stream: int, messages: int, size: int
) -> tuple[Credit, ...]:
    """The same with other credit for one stream."""
    return (*credit[:stream], Credit(messages, size), *credit[stream + 1 :])


PLENTY: Final = credits(1000, 1 << 20, 100, 1 << 17)


def body(
    sequence: int = 1,
    payload: bytes = b"hello",
    *,
    sender: Identity = ALICE,
    recipient: Identity = BOB,
    priority: int = Priority.NORMAL,
    payload_type: int = 0,
    epoch: int = 9,
    expires_at_us: int = 0,
    is_durable: bool = True,
    **fields: Any,
) -> bytes:
    """Header and payload of a v2 envelope."""
    return encode_v2_body(
        bytes(sender.did) + bytes(recipient.did),
        payload,
        message_id=id_of(0),
        sequence_number=sequence,
        timestamp_us=1,
        priority=priority,
        payload_type=payload_type,
        epoch=epoch,
        expires_at_us=expires_at_us,
        is_durable=is_durable,
        **fields,
    )


def body_of(stream: int, sequence: int = 1, payload: bytes = b"hello", **fields: Any) -> bytes:
    """A body of this stream. See `body()`."""
    return body(
        sequence,
        payload,
        priority=stream % VOLATILE,
        is_durable=stream < VOLATILE,
        **fields,
    )


def received(bodies: list[bytes], sender: Identity = ALICE) -> BatchReceived:
    """What a session says when `sender` has sent these."""
    root, signature, leaves = sign_batch(sender, bodies)
    return BatchReceived(bodies, root, leaves, signature)


def sent(bodies: list[bytes], sender: Identity = ALICE) -> SentBatch:
    """What a session says when these are sent over it."""
    root, signature, leaves = sign_batch(sender, bodies)
    return SentBatch(root, leaves, signature)


def alone(bodies: list[bytes], index: int = 0, sender: Identity = ALICE) -> SignedEnvelope:
    """One envelope of a signed batch, by itself."""
    _, signature, leaves = sign_batch(sender, bodies)
    return SignedEnvelope(bodies[index], MerklePath(index, len(bodies), signature, leaves=leaves))


def hello(**changes: Any) -> Hello:
    """A HELLO as a node says it."""
    values: dict[str, Any] = {
        "min_version": frames.VERSION,
        "max_version": frames.VERSION,
        "features": 0,
        "max_batch_bytes": 1 << 16,
        "max_payload_size": 1 << 16,
        "epochs": Epochs(9, 9),
        "known_epochs": Epochs(0, 0),
        "marks": (0,) * STREAMS,
        "credit": PLENTY,
    }
    return Hello(**(values | changes))


def ping(number: int) -> Ping:
    """A PING as the sessions of these tests send it."""
    return Ping(number, AT)


def pong(number: int) -> Pong:
    """The answer to that `ping()`."""
    return Pong(ping(number), AT, AT)


def read_clocks() -> tuple[int, int]:
    """The clocks of the sessions of these tests."""
    return AT


def session(
    us: Identity = ALICE,
    them: Identity = BOB,
    *,
    credit: tuple[Credit, ...] = PLENTY,
    now: float = 0.0,
    **limits: Any,
) -> Session:
    """A session that has just begun."""
    values: dict[str, Any] = {"max_payload_size": 1 << 16, **limits}
    return Session(us, them.did, hello(credit=credit), SessionLimits(**values), now, read_clocks)


def events_of(a_session: Session) -> list[Event]:
    """All that has happened, oldest first."""
    return list(iter(a_session.next_event, None))


def exchange(one: Session, other: Session, now: float = 0.0) -> None:
    """Carry bytes both ways until neither has any."""
    while True:
        there, back = one.data_to_send(), other.data_to_send()
        if not there and not back:
            return
        other.receive_data(there, now)
        one.receive_data(back, now)


def open_pair(
    ours: tuple[Credit, ...] = PLENTY, theirs: tuple[Credit, ...] = PLENTY, **limits: Any
) -> tuple[Session, Session]:
    """Alice's and Bob's sessions, open, with nothing to say."""
    alice = session(ALICE, BOB, credit=ours, **limits)
    bob = session(BOB, ALICE, credit=theirs, **limits)
    exchange(alice, bob)
    assert [type(e) for e in events_of(alice)] == [HelloReceived]
    assert [type(e) for e in events_of(bob)] == [HelloReceived]
    return alice, bob


def batches_of(data: bytes) -> list[Batch]:
    """The batches in a whole number of frames."""
    incoming = IncomingBatches(1 << 30, 0)
    parts = [frame for frame in frames_of(data) if isinstance(frame, Part)]
    found = [batch for part in parts if (batch := incoming.add(part, 0.0)) is not None]
    assert not incoming.unfinished
    return found


def frames_of(data: bytes) -> list[frames.Frame | None]:
    """The frames in a whole number of them."""
    decoder = frames.LinkFrameDecoder(1 << 30)
    decoded = [frames.decode(kind, body) for kind, body in decoder.receive_data(data)]
    assert not decoder.has_partial_frame
    return decoded


def outgoing_batches() -> OutgoingBatches:
    """The batches of a link whose window holds nothing back, and has the largest parts."""
    outgoing = OutgoingBatches()
    outgoing.window.rate = 1e12
    return outgoing
