"""A signedwire node and a live v1 peer, in both directions.

The peer is the real package `omnimesh`; what it was seen to do is in `v1_peer`.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest
from v1_peer import Mode, V1Peer, free_port, require_omnimesh

from signedwire import (
    DeliveryState,
    Did,
    Identity,
    Message,
    Node,
    Priority,
    Reason,
    SignedEnvelope,
    TransportConfig,
    payloads,
)
from signedwire.wire.frames import encode_frame

CONFIG = TransportConfig(v1_peers="all")
WAIT = 10.0


@pytest.fixture(scope="module", autouse=True)
def _omnimesh() -> None:
    require_omnimesh()


@pytest.fixture(params=["production", "lightweight"])
def mode(request: pytest.FixtureRequest) -> Mode:
    value: Mode = request.param
    return value


@pytest.fixture
def peer(mode: Mode) -> Iterator[V1Peer]:
    with V1Peer(mode) as peer:
        yield peer


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    async with Node(Identity.generate(), CONFIG) as node:
        yield node


@dataclass
class Pair:
    """Both know where the other is."""

    node: Node
    peer: V1Peer

    @property
    def did(self) -> Did:
        return Did.parse(self.peer.did)

    def introduce(self) -> None:
        self.node.routing.update(self.peer.did, self.peer.address)
        self.peer.register_peer(self.node.did.hex(), str(self.node.address))

    async def hear(self) -> Message:
        message = await self.node.receive(timeout=WAIT)
        assert message is not None, "nothing came from the v1 peer"
        assert message.sender == self.did
        return message

    async def tell(self, payload: payloads.Payload) -> dict[str, object]:
        receipt = await self.node.send(self.peer.did, payloads.encode(payload), until="written")
        assert receipt.state is DeliveryState.WRITTEN
        assert not receipt.is_confirmed, "v1 peers never confirm"
        heard = await asyncio.to_thread(self.peer.receive, WAIT)
        assert heard is not None, f"the v1 peer did not deliver it: {self.peer.output()}"
        assert heard["sender_did"] == self.node.did.hex()
        return heard


@pytest.fixture
def pair(node: Node, peer: V1Peer) -> Pair:
    pair = Pair(node, peer)
    pair.introduce()
    return pair


class TestFromThePeer:
    """Every kind that it can send."""

    async def test_agent_command(self, pair: Pair) -> None:
        pair.peer.send_agent_command(pair.node.did.hex(), "pick", b"robot-1", b"shelf")
        command = payloads.decode((await pair.hear()).payload)
        assert command == payloads.AgentCommand(
            command_type="pick", target_did=b"robot-1", payload=b"shelf"
        )

    async def test_motion_command(self, pair: Pair) -> None:
        pair.peer.send_motion_command(pair.node.did.hex(), (1.5, 0.0, 0.0), (0.0, 0.0, 0.5))
        command = payloads.decode((await pair.hear()).payload)
        assert isinstance(command, payloads.MotionCommand)
        assert (command.linear.x, command.linear.y, command.angular.z) == (1.5, 0.0, 0.5)

    async def test_heartbeat(self, pair: Pair) -> None:
        pair.peer.send_heartbeat(pair.node.did.hex(), 60_000, 75, 4096, 3)
        beat = payloads.decode((await pair.hear()).payload)
        assert isinstance(beat, payloads.Heartbeat)
        assert bytes(pair.did) == beat.sender_did
        assert (beat.uptime_ms, beat.cpu_usage, beat.mem_usage_kb, beat.epoch) == (
            60_000,
            75,
            4096,
            3,
        )

    async def test_llm_query(self, pair: Pair) -> None:
        pair.peer.send_llm_query(pair.node.did.hex(), "where to?", "you navigate", "llama3")
        query = payloads.decode((await pair.hear()).payload)
        assert query == payloads.LlmQuery(
            prompt="where to?", system_prompt="you navigate", model="llama3"
        )

    async def test_its_envelope_verifies_alone(self, pair: Pair) -> None:
        pair.peer.send_agent_command(pair.node.did.hex(), "pick", b"t", b"p")
        envelope = (await pair.hear()).envelope
        assert envelope.version == 7
        assert envelope.priority is Priority.NORMAL
        SignedEnvelope.decode(envelope.encode()).verify()


class TestToThePeer:
    """Every kind that it delivers."""

    async def test_agent_command(self, pair: Pair) -> None:
        heard = await pair.tell(
            payloads.AgentCommand(command_type="pick", target_did=b"r1", payload=b"\x00\xff")
        )
        assert heard["type"] == "agent_command"
        assert heard["command_type"] == "pick"
        assert heard["target_did"] == b"r1".hex()
        assert heard["payload"] == [0, 255]

    async def test_motion_command(self, pair: Pair) -> None:
        heard = await pair.tell(
            payloads.MotionCommand(linear=payloads.Vector3(x=1.5), deadline_ns=7)
        )
        assert heard["type"] == "motion_command"
        assert (heard["linear_x"], heard["deadline_ns"]) == (1.5, 7)

    async def test_heartbeat(self, pair: Pair) -> None:
        heard = await pair.tell(payloads.Heartbeat(uptime_ms=1, cpu_usage=2, epoch=3))
        assert (heard["type"], heard["uptime_ms"], heard["epoch"]) == ("heartbeat", 1, 3)

    async def test_llm_query(self, pair: Pair) -> None:
        heard = await pair.tell(payloads.LlmQuery(prompt="a", system_prompt="b", model="c"))
        assert (heard["type"], heard["prompt"], heard["model"]) == ("llm_query", "a", "c")

    async def test_inference_result(self, pair: Pair) -> None:
        heard = await pair.tell(payloads.InferenceResult(model_id="m", confidence=0.5, label="cat"))
        assert (heard["type"], heard["label"]) == ("inference_result", "cat")

    async def test_llm_response(self, pair: Pair) -> None:
        heard = await pair.tell(payloads.LlmResponse(response="left", latency_us=9))
        assert (heard["type"], heard["response"]) == ("llm_response", "left")

    async def test_kinds_that_it_does_not_know_arrive_as_unknown(self, pair: Pair) -> None:
        heard = await pair.tell(payloads.ModelWeights(model_id="m"))
        assert heard["type"] == "unknown"
        heard = await pair.tell(payloads.SensorFusionFrame(frame_id="f"))
        assert heard["type"] == "unknown"

    @pytest.mark.parametrize("priority", list(Priority))
    async def test_every_priority(self, pair: Pair, priority: Priority) -> None:
        await pair.node.send(
            pair.peer.did,
            payloads.encode(payloads.AgentCommand(command_type=priority.name)),
            priority=priority,
            until="written",
        )
        heard = await asyncio.to_thread(pair.peer.receive, WAIT)
        assert heard is not None
        assert heard["command_type"] == priority.name

    async def test_the_largest_payload(self, pair: Pair) -> None:
        overhead = len(payloads.encode(payloads.AgentCommand(command_type="c", payload=b"x" * 900)))
        size = 900 + 1024 - overhead
        heard = await pair.tell(payloads.AgentCommand(command_type="c", payload=b"x" * size))
        assert len(str(heard["payload"])) > 0
        assert heard["payload"] == [ord("x")] * size


@pytest.mark.parametrize("mode", ["production"], indirect=True)
class TestVolume:
    """1000 each way, nothing lost, in order."""

    async def test_from_the_peer(self, pair: Pair) -> None:
        sending = asyncio.create_task(
            asyncio.to_thread(pair.peer.send_many, pair.node.did.hex(), 1000, "n", b"")
        )
        messages = [await pair.hear() for _ in range(1000)]
        await sending
        numbers = [message.sequence_number for message in messages]
        assert numbers == list(range(numbers[0], numbers[0] + 1000))
        assert pair.node.stats().dropped == {}

    async def test_to_the_peer(self, pair: Pair) -> None:
        hearing = asyncio.create_task(asyncio.to_thread(pair.peer.receive_many, 1000, WAIT))
        for number in range(1000):
            payload = payloads.encode(payloads.AgentCommand(command_type=str(number)))
            await pair.node.send(pair.peer.did, payload, until="queued")
        heard = await hearing
        assert [message["command_type"] for message in heard] == [str(n) for n in range(1000)]


@pytest.mark.parametrize("mode", ["production"], indirect=True)
class TestRestarts:
    async def test_of_the_peer(self, pair: Pair) -> None:
        """It comes back under a new DID on the same port; nothing to it is lost."""
        await pair.tell(payloads.AgentCommand(command_type="before"))
        for _ in range(3):
            await asyncio.to_thread(pair.peer.restart)
            pair.introduce()
            heard = await pair.tell(payloads.AgentCommand(command_type="after"))
            assert heard["command_type"] == "after"

    async def test_of_the_peer_killed_while_we_send(self, pair: Pair) -> None:
        await pair.tell(payloads.AgentCommand(command_type="before"))
        os.kill(pair.peer.pid, signal.SIGKILL)
        old = pair.peer.did
        lost = [
            pair.node.send_nowait(old, payloads.encode(payloads.AgentCommand(command_type="lost")))
            for _ in range(20)
        ]
        await asyncio.to_thread(pair.peer.restart)
        pair.introduce()
        heard = await pair.tell(payloads.AgentCommand(command_type="after"))
        assert heard["command_type"] == "after"
        for receipt in lost:  # to a key that is no more: told, whichever way it went
            assert receipt.state in (
                DeliveryState.QUEUED,
                DeliveryState.WRITTEN,
                DeliveryState.FAILED,
            )

    async def test_of_ours(self, peer: V1Peer) -> None:
        """The peer loses its first message after our close (it does not look); then it is back."""
        identity, port = Identity.generate(), free_port()
        config = CONFIG.replace(listen=f"127.0.0.1:{port}")
        for attempt in range(2):
            async with Node(identity, config) as node:
                pair = Pair(node, peer)
                pair.introduce()
                for number in range(2 if attempt else 1):
                    peer.send_agent_command(node.did.hex(), str(number), b"", b"")
                command = payloads.decode((await pair.hear()).payload)
                assert isinstance(command, payloads.AgentCommand)
                assert command.command_type == str(attempt)


class TestRefusals:
    """What each side does with what it must not believe."""

    async def test_by_the_peer(self, node: Node, peer: V1Peer, mode: Mode) -> None:
        identity = Identity.generate()
        them = Did.parse(peer.did)
        payload = payloads.encode(payloads.AgentCommand(command_type="x"))
        good = SignedEnvelope.sign(identity, them, payload, sequence_number=1).encode()
        tampered = bytearray(good)
        tampered[110] ^= 1
        other = SignedEnvelope.sign(identity, node.did, payload, sequence_number=2).encode()
        unsigned = SignedEnvelope.unsigned(node.did, them, payload, sequence_number=3).encode()
        host, port = peer.address.split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        for envelope in (bytes(tampered), other, unsigned, good):
            writer.write(encode_frame(envelope))
        await writer.drain()
        heard = []
        while (message := await asyncio.to_thread(peer.receive, 0.5)) is not None:
            heard.append(message["sender_did"])
        writer.close()
        await writer.wait_closed()
        expected = [identity.did.hex()]
        if mode == "lightweight":
            expected.insert(0, node.did.hex())
        assert heard == expected

    async def test_ours(self, node: Node) -> None:
        """A live peer cannot be made to send such things, so they come by hand."""
        identity = Identity.generate()
        good = SignedEnvelope.sign(identity, node.did, b"x", sequence_number=1).encode()
        tampered = bytearray(good)
        tampered[106] ^= 1
        other = SignedEnvelope.sign(identity, identity.did, b"x", sequence_number=2).encode()
        unsigned = SignedEnvelope.unsigned(identity.did, node.did, b"x", sequence_number=3)
        address = node.address
        assert address is not None
        _, writer = await asyncio.open_connection(*address)
        for envelope in (bytes(tampered), other, unsigned.encode(), good, good):
            writer.write(encode_frame(envelope))
        await writer.drain()
        message = await node.receive(timeout=WAIT)
        assert message is not None
        assert message.sender == identity.did
        assert await node.receive(timeout=0.2) is None
        writer.close()
        await writer.wait_closed()
        assert node.stats().dropped == {
            Reason.BAD_SIGNATURE: 1,
            Reason.NOT_FOR_US: 1,
            Reason.UNSIGNED: 1,
            Reason.DUPLICATE: 1,
        }

    async def test_a_peer_that_is_not_named_is_refused_both_ways(self, peer: V1Peer) -> None:
        config = TransportConfig(v1_peers=[Identity.generate().did])
        async with Node(Identity.generate(), config) as node:
            peer.register_peer(node.did.hex(), str(node.address))
            peer.send_agent_command(node.did.hex(), "x", b"", b"")
            assert await node.receive(timeout=0.5) is None
            assert node.stats().messages_received == 0


@pytest.mark.parametrize("mode", ["production"], indirect=True)
async def test_a_slow_application_loses_nothing(pair: Pair) -> None:
    """Reading pauses when our inbox is full; the peer's send blocks until it goes on."""
    count = 3000  # over our inbox, under what the sockets hold, which would freeze the peer
    sending = asyncio.create_task(
        asyncio.to_thread(pair.peer.send_many, pair.node.did.hex(), count, "n", b"")
    )
    while pair.node.stats().inbox_messages < 1000:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    assert pair.node.stats().inbox_messages <= 1000 + 64
    messages = [await pair.hear() for _ in range(count)]
    await sending
    numbers = [message.sequence_number for message in messages]
    assert numbers == list(range(numbers[0], numbers[0] + count))
