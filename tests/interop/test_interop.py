"""Our node and a live v1 peer: every kind of message, restarts, refusals, volume, crashes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from v1_peer import Mode, V1Peer, require_omnimesh

from signedwire import (
    Address,
    Did,
    Identity,
    Message,
    Node,
    Priority,
    Reason,
    SignaturePolicy,
    SignedEnvelope,
)
from signedwire import payloads as v1
from signedwire.wire.frames import encode_frame
from wirekit import (
    ALICE,
    BOB,
    CAROL,
    LIMIT,
    RawLink,
    eventually,
    framed,
    on_asyncio,
    on_both_loops,
    quick,
)

require_omnimesh()

COMMAND = v1.AgentCommand(command_type="pick", target_did=b"robot-1", payload=b"A12")


@pytest.fixture(params=["production", "lightweight"])
def peer(request: pytest.FixtureRequest) -> Iterator[V1Peer]:
    mode: Mode = request.param
    with V1Peer(mode) as peer:
        yield peer


@pytest.fixture
def production_peer() -> Iterator[V1Peer]:
    with V1Peer("production") as peer:
        yield peer


@contextlib.asynccontextmanager
async def alice_and(peer: V1Peer, **changes: Any) -> Any:
    """Our node, and the peer, each with a route to the other."""
    async with Node(ALICE, quick(**changes)) as alice:
        meet(alice, peer)
        yield alice


def meet(node: Node, peer: V1Peer) -> Did:
    """Tell each of the other; again after a restart, when the peer has a new DID."""
    did = Did.parse(peer.did)
    node.routing.update(did, peer.address)
    peer.register_peer(node.did.hex(), str(node.address))
    return did


async def receive_many(peer: V1Peer, count: int) -> list[dict[str, Any]]:
    return await asyncio.to_thread(peer.receive_many, count, LIMIT)


async def receive_kinds(node: Node, count: int) -> list[tuple[str, Message]]:
    messages = []
    for _ in range(count):
        message = await node.receive(LIMIT)
        assert message is not None
        messages.append((v1.kind(v1.decode(message.payload)), message))
    return messages


# -- kinds ---------------------------------------------------------------------------------


@on_both_loops
async def test_every_kind_from_us(peer: V1Peer) -> None:
    sent: list[tuple[v1.Payload, dict[str, Any]]] = [
        (
            COMMAND,
            {
                "type": "agent_command",
                "command_type": "pick",
                "target_did": b"robot-1".hex(),
                "payload": list(b"A12"),
            },
        ),
        (
            v1.MotionCommand(
                linear=v1.Vector3(x=1.5, y=-2), angular=v1.Vector3(z=0.5), deadline_ns=9
            ),
            {
                "type": "motion_command",
                "linear_x": 1.5,
                "linear_y": -2.0,
                "linear_z": 0.0,
                "angular_x": 0.0,
                "angular_y": 0.0,
                "angular_z": 0.5,
                "deadline_ns": 9,
            },
        ),
        (
            v1.InferenceResult(model_id="m", confidence=0.5, label="cup", latency_us=7),
            {
                "type": "inference_result",
                "model_id": "m",
                "confidence": 0.5,
                "label": "cup",
                "latency_us": 7,
            },
        ),
        (
            v1.Heartbeat(uptime_ms=60000, cpu_usage=75, mem_usage_kb=4096, epoch=1),
            {
                "type": "heartbeat",
                "uptime_ms": 60000,
                "cpu_usage": 75,
                "mem_usage_kb": 4096,
                "epoch": 1,
            },
        ),
        (
            v1.LlmQuery(prompt="Which way?", system_prompt="You navigate.", model="llama3"),
            {
                "type": "llm_query",
                "prompt": "Which way?",
                "system_prompt": "You navigate.",
                "model": "llama3",
            },
        ),
        (
            v1.LlmResponse(response="Left.", latency_us=5),
            {"type": "llm_response", "response": "Left.", "latency_us": 5},
        ),
        (v1.ModelWeights(model_id="m", compressed_weights=b"w"), {"type": "unknown"}),
        (v1.SensorFusionFrame(frame_id="f", image_data=b"i"), {"type": "unknown"}),
    ]
    async with alice_and(peer) as alice:
        for payload, _ in sent:
            await alice.send(peer.did, v1.encode(payload))
        received = await receive_many(peer, len(sent))
    for message in received:
        assert message.pop("sender_did") == ALICE.did.hex()
        assert message.pop("received_at_us") > 0
    assert received == [expected for _, expected in sent]


@on_both_loops
async def test_every_kind_that_a_client_can_send(peer: V1Peer) -> None:
    async with alice_and(peer) as alice:
        our_did = alice.did.hex()
        peer.send_agent_command(our_did, "pick", b"robot-1", b"A12")
        peer.send_motion_command(our_did, linear=(1.5, 0, -0.25), deadline_ns=9)
        peer.send_heartbeat(our_did, uptime_ms=60000, cpu=75, mem_kb=4096, epoch=1)
        peer.send_llm_query(our_did, "Which way?", "You navigate.", "llama3")
        received = await receive_kinds(alice, 4)
    assert [kind for kind, _ in received] == [
        "agent_command",
        "motion_command",
        "heartbeat",
        "llm_query",
    ]
    assert [message.sequence_number for _, message in received] == [1, 2, 3, 4]
    for _, message in received:
        assert message.sender == Did.parse(peer.did)
        assert message.is_proven
        assert message.priority is Priority.NORMAL
        message.envelope.verify()
    assert v1.decode(received[0][1].payload) == COMMAND
    motion = v1.decode(received[1][1].payload)
    assert isinstance(motion, v1.MotionCommand)
    assert (motion.linear.x, motion.linear.z, motion.deadline_ns) == (1.5, -0.25, 9)


@on_asyncio
async def test_every_priority_and_the_largest_payload(production_peer: V1Peer) -> None:
    peer = production_peer
    async with alice_and(peer) as alice:
        for priority in Priority:
            await alice.send(peer.did, v1.encode(COMMAND), priority=priority)
        head = v1.encode(v1.AgentCommand(command_type="big", payload=bytes(900)))
        fitting = v1.AgentCommand(command_type="big", payload=bytes(900 + 1024 - len(head)))
        assert len(v1.encode(fitting)) == 1024
        await alice.send(peer.did, v1.encode(fitting))
        received = await receive_many(peer, 5)
    assert [message["command_type"] for message in received] == ["pick"] * 4 + ["big"]


# -- restarts -----------------------------------------------------------------------------------


@on_both_loops
async def test_its_restart(production_peer: V1Peer) -> None:
    peer = production_peer
    async with alice_and(peer) as alice:
        for round_number in range(3):
            for _ in range(3):
                await alice.send(peer.did, v1.encode(COMMAND))
            assert len(await receive_many(peer, 3)) == 3
            peer.send_heartbeat(alice.did.hex(), epoch=round_number)
            ((kind, message),) = await receive_kinds(alice, 1)
            assert (kind, message.sender) == ("heartbeat", Did.parse(peer.did))
            await asyncio.to_thread(peer.restart)
            meet(alice, peer)
        await alice.send(peer.did, v1.encode(COMMAND))
        assert len(await receive_many(peer, 1)) == 1
        assert alice.stats().reconnections == 3
        assert alice.stats().dropped == {}


@on_asyncio
async def test_our_restart(production_peer: V1Peer) -> None:
    peer = production_peer
    async with alice_and(peer) as alice:
        peer.send_heartbeat(ALICE.did.hex(), epoch=1)
        await receive_kinds(alice, 1)
        address = alice.address
    async with Node(ALICE, quick(listen=address)) as alice:
        # Its first message after our close is lost, as the driver's text says.
        peer.send_heartbeat(ALICE.did.hex(), epoch=2)
        await asyncio.sleep(0.01)
        epochs = []
        for epoch in range(3, 100):
            peer.send_heartbeat(ALICE.did.hex(), epoch=epoch)
            with contextlib.suppress(TimeoutError):
                message = await alice.receive(0.1)
                heartbeat = v1.decode(message.payload)
                assert isinstance(heartbeat, v1.Heartbeat)
                epochs.append(heartbeat.epoch)
            if len(epochs) == 3:
                break
        assert len(epochs) == 3
        assert epochs == sorted(epochs)


@on_asyncio
async def test_it_is_killed_while_we_send(production_peer: V1Peer) -> None:
    """We reconnect, and everything that is sent after its restart arrives."""
    peer = production_peer
    async with alice_and(peer, max_attempts=100) as alice:
        first_did, running = Did.parse(peer.did), True

        async def keep_sending() -> None:
            while running:
                with contextlib.suppress(Exception):
                    await alice.send(first_did, v1.encode(COMMAND), deadline=0.5)

        sending = asyncio.create_task(keep_sending())
        await eventually(lambda: alice.stats().messages_sent > 50)
        await asyncio.to_thread(peer.kill)
        await eventually(lambda: alice.stats().dial_failures)
        await asyncio.to_thread(peer.start, peer.port)
        running = False
        did = meet(alice, peer)
        receipts = [alice.send_nowait(did, v1.encode(COMMAND)) for _ in range(100)]
        assert len(await receive_many(peer, 100)) == 100
        await asyncio.gather(*(receipt.wait() for receipt in receipts))
        assert alice.stats().reconnections >= 1
        await sending


# -- refusals -------------------------------------------------------------------------------------


def tampered(identity: Identity, recipient: Did) -> bytes:
    body = bytearray(signed(identity, recipient).encode())
    body[110] ^= 1
    return encode_frame(bytes(body))


def signed(identity: Identity, recipient: Did) -> SignedEnvelope:
    return SignedEnvelope.sign(identity, recipient, v1.encode(COMMAND), sequence_number=1)


@on_asyncio
async def test_what_it_refuses(peer: V1Peer) -> None:
    did = Did.parse(peer.did)
    unsigned = SignedEnvelope.unsigned(BOB.did, did, v1.encode(COMMAND), sequence_number=1)
    last = v1.encode(v1.Heartbeat(epoch=9))
    with await RawLink.dial(Address.parse(peer.address)) as link:
        await link.write(framed(unsigned))
        await link.write(tampered(ALICE, did))
        await link.write(framed(signed(ALICE, CAROL.did)))
        await link.write(framed(SignedEnvelope.sign(ALICE, did, last, sequence_number=2)))
        received: list[dict[str, Any]] = []
        while not received or received[-1]["type"] != "heartbeat":
            received += await receive_many(peer, 1)
    senders = [message["sender_did"] for message in received]
    if peer.mode == "production":
        assert senders == [ALICE.did.hex()]
    else:
        assert senders == [BOB.did.hex(), ALICE.did.hex()], "it believes the claim"


@on_asyncio
async def test_what_we_refuse_of_it(production_peer: V1Peer) -> None:
    peer = production_peer
    async with alice_and(peer, v1_peers=[BOB.did]) as alice:
        peer.send_heartbeat(alice.did.hex())
        await eventually(lambda: alice.stats().dropped == {Reason.NOT_ALLOWED: 1})
    async with alice_and(peer, signatures=SignaturePolicy.IF_PRESENT) as alice:
        peer.register_peer(CAROL.did.hex(), str(alice.address))
        peer.send_heartbeat(CAROL.did.hex())
        await eventually(lambda: alice.stats().dropped == {Reason.NOT_FOR_US: 1})
        peer.send_heartbeat(alice.did.hex())
        ((_, message),) = await receive_kinds(alice, 1)
        assert message.sender == Did.parse(peer.did)


# -- volume ---------------------------------------------------------------------------------------


@on_both_loops
async def test_a_thousand_each_way_at_once(production_peer: V1Peer) -> None:
    peer = production_peer
    count = 1000
    async with alice_and(peer) as alice:

        async def send() -> None:
            for number in range(count):
                payload = v1.AgentCommand(command_type="bulk", target_did=number.to_bytes(8, "big"))
                await alice.send(peer.did, v1.encode(payload), until="queued")

        # The driver serves one call at a time: it queues all of its own first.
        sending = asyncio.create_task(asyncio.to_thread(peer.send_many, alice.did.hex(), count))
        theirs = await receive_kinds(alice, count)
        await sending
        ours, _ = await asyncio.gather(receive_many(peer, count), send())
        assert alice.stats().dropped == {}
    assert [int(message["target_did"], 16) for message in ours] == list(range(count))
    numbers = []
    for _, message in theirs:
        command = v1.decode(message.payload)
        assert isinstance(command, v1.AgentCommand)
        numbers.append(int.from_bytes(command.target_did, "big"))
    assert numbers == list(range(count))


@on_asyncio
async def test_our_stalled_application_stops_it_and_loses_nothing(
    production_peer: V1Peer,
) -> None:
    """Its process stands still, or its client refuses more; whatever it took arrives."""
    peer = production_peer
    async with alice_and(peer, inbox_limit=10) as alice:
        sending = asyncio.create_task(
            asyncio.to_thread(peer.send_many, alice.did.hex(), 20_000, payload_data=bytes(900))
        )
        before = -1
        while (now := alice.stats().bytes_received) != before or not now:
            before = now
            await asyncio.sleep(0.1)
        assert alice.stats().inbox_messages == 10
        assert now < 2_000_000, "what is read and not delivered is bounded"
        received = asyncio.create_task(until_heartbeat(alice))
        with contextlib.suppress(ValueError):  # "Send buffer full"
            await sending
        while not received.done():
            with contextlib.suppress(ValueError):
                await asyncio.to_thread(peer.send_heartbeat, alice.did.hex())
            await asyncio.wait({received}, timeout=0.05)
        numbers = await received
        assert len(numbers) > 1000
        assert numbers == list(range(1, len(numbers) + 1))
        assert alice.stats().dropped == {}


async def until_heartbeat(node: Node) -> list[int]:
    """The sequence numbers of all that came before."""
    numbers: list[int] = []
    while True:
        ((kind, message),) = await receive_kinds(node, 1)
        if kind == "heartbeat":
            return numbers
        numbers.append(message.sequence_number)
