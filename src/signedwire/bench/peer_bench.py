"""How fast is a peer, over the network between? `signedwire bench DID@host:port`.

The peer runs `signedwire bench --serve`. One question is sent first, and nothing else until
the peer has answered it as only that command does. Then each round measures every size and
the round trip. At the end the peer sends the number of messages that it has counted.
"""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from signedwire import Did, Node, SignedWireError
from signedwire.bench import Tell
from signedwire.bench.figures import PeerRate, RoundTrip, percentiles
from signedwire.bench.peer_server import ASK, COUNT, SO_MANY, YES

__all__ = ["AT_A_TIME", "NoBenchError", "PeerBench", "PeerResults", "chunk_of"]

AT_A_TIME: Final = 4
"""Concurrent calls of `send_many()`: the network is not idle while one of them waits for its
last receipt."""
_CHUNK: Final = 1000
_CHUNK_BYTES: Final = 2**20
_ANSWER_TIMEOUT: Final = 5.0
"""Seconds to wait for an answer."""
_STALL_TIMEOUT: Final = 30.0
"""Seconds to wait for messages that are in flight at the end of a measurement."""
_MAX_WARM_UP: Final = 0.5
"""Seconds."""
_MAX_TRIPS: Final = 20_000


class NoBenchError(SignedWireError):
    """The peer does not answer as a bench server does."""


@dataclass(kw_only=True)
class PeerResults:
    """The results of one run."""

    peer: str
    """DID@host:port of the peer."""
    rates: list[PeerRate] = field(default_factory=list)
    round_trips: list[RoundTrip] = field(default_factory=list)
    """The 50th and the 99th percentile."""
    sent: int = 0
    """All messages, also those of the warm-up and of round trips."""
    lost: int = 0
    """Messages of `sent` that the peer has not counted."""
    seconds_taken: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the results as `--json` prints them."""
        return {
            "peer": self.peer,
            "rates": [rate.as_json() for rate in self.rates],
            "round_trips": [trip.as_json() for trip in self.round_trips],
            "sent": self.sent,
            "lost": self.lost,
            "seconds_taken": round(self.seconds_taken, 1),
        }


def chunk_of(size: int) -> int:
    """Return the number of payloads for one `send_many()`: at most 1000, and at most 1 MiB.

    So a slow network is done soon with the messages in flight at the end.

    Args:
        size: Bytes of each payload.
    """
    return max(1, min(_CHUNK, _CHUNK_BYTES // size))


class PeerBench:
    """Measures one peer.

    Args:
        node: A started node with a route to the peer, used for nothing else.
        peer: The DID of the peer.
    """

    def __init__(self, node: Node, peer: Did) -> None:
        self._node = node
        self._peer = peer
        self._sent = 0

    async def agree(self) -> None:
        """Ask the peer whether it is a bench server, and wait for the answer.

        Raises:
            NoBenchError: the peer accepted the question and did not answer it.
            SignedWireError: the question could not be delivered.
        """
        if await self._ask(ASK, YES) is None:
            raise NoBenchError(
                f"{self._peer} is there, and does not answer as `signedwire bench --serve` does "
                f"within {_ANSWER_TIMEOUT:g} s; nothing but one question was sent to it",
                "Run `signedwire bench --serve` there, and give the address that it prints",
            )

    async def measure(
        self, name: str, sizes: Sequence[int], seconds: float, rounds: int, tell: Tell
    ) -> PeerResults:
        """Warm up, then measure in rounds. Call `agree()` first.

        Args:
            name: DID@host:port of the peer, for the results.
            sizes: Bytes of the payloads to measure.
            seconds: Duration of each measurement.
            rounds: Number of measurements of each size.
            tell: Takes the progress as text.

        Raises:
            NoBenchError: the peer stopped answering or accepting messages.
            SignedWireError: the peer is not reached any more.
        """
        began_at = time.monotonic()
        rates: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
        trips: list[tuple[float, float]] = []
        for number in range(rounds + 1):
            turn = seconds if number else min(seconds, _MAX_WARM_UP)
            title = f"round {number} of {rounds}" if number else "warm-up"
            for size in sizes:
                tell(f"{title}: {size} bytes")
                rates[size] += [await self._send(size, turn)] * bool(number)
            tell(f"{title}: round trip")
            trips += [percentiles(await self._round_trips(sizes[0], turn / 4))] * bool(number)
        results = PeerResults(
            peer=name,
            rates=[_rate(size, turns) for size, turns in rates.items()],
            round_trips=[
                RoundTrip(rounds=list(times), what=what, size=sizes[0])
                for what, times in zip(("p50", "p99"), zip(*trips, strict=True), strict=True)
            ],
            sent=self._sent,
        )
        results.lost = self._sent - await self._counted()
        results.seconds_taken = time.monotonic() - began_at
        return results

    async def _send(self, size: int, seconds: float) -> dict[str, float]:
        """Send for a time; returns the accepted messages, the seconds and the CPU seconds."""
        node, peer, payloads = self._node, self._peer, [bytes(size)] * chunk_of(size)
        cpu, started_at = time.process_time(), time.perf_counter()
        end, limit = started_at + seconds, seconds + _STALL_TIMEOUT

        async def send_on() -> int:
            sent = 0
            while True:
                # Returns when every message has its signed receipt.
                await node.send_many(peer, payloads, until="accepted")
                sent += len(payloads)
                if time.perf_counter() >= end:
                    return sent

        sending = [asyncio.create_task(send_on()) for _ in range(AT_A_TIME)]
        try:
            async with asyncio.timeout(limit):
                sent = sum(await asyncio.gather(*sending))
        except TimeoutError:
            raise self._silence(f"accept what was sent within {limit:g} s") from None
        finally:
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)
        seconds, cpu = time.perf_counter() - started_at, time.process_time() - cpu
        self._sent += sent
        # Messages that are accepted but not counted yet would slow down the next measurement.
        await self._counted()
        return {"sent": sent, "seconds": seconds, "cpu": cpu}

    async def _round_trips(self, size: int, seconds: float) -> list[float]:
        """Return the seconds of each round trip, one message at a time; at least one."""
        times: list[float] = []
        end = time.perf_counter() + seconds
        while not times or (time.perf_counter() < end and len(times) < _MAX_TRIPS):
            payload = b"\1" + len(times).to_bytes(8, "big") + bytes(size - 9)
            started_at = time.perf_counter()
            await self._node.send(self._peer, payload, until="queued")
            if await self._receive(payload) is None:
                raise self._silence(f"send a message back within {_ANSWER_TIMEOUT:g} s")
            times.append(time.perf_counter() - started_at)
        self._sent += len(times)
        return times

    async def _counted(self) -> int:
        answer = await self._ask(COUNT, SO_MANY)
        if answer is None or not (answer.isdigit() and len(answer) < 20):
            raise self._silence("answer how many messages came: was it restarted meanwhile")
        return int(answer)

    async def _ask(self, question: bytes, answer: bytes) -> bytes | None:
        """Return the text behind the right answer; `None`: no answer came in time."""
        # A random nonce: only a peer that has the question can have answered it.
        nonce = secrets.token_hex(16).encode()
        await self._node.send(self._peer, question + nonce)
        answered = await self._receive(answer + nonce)
        return None if answered is None else answered[len(answer + nonce) :].strip()

    async def _receive(self, beginning: bytes) -> bytes | None:
        """Return the peer's next message that begins so; `None`: none came in time."""
        deadline = time.monotonic() + _ANSWER_TIMEOUT
        while True:
            try:
                message = await self._node.receive(max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                return None
            message.ack()
            if (
                message.is_proven
                and message.sender == self._peer
                and message.payload.startswith(beginning)
            ):
                return message.payload

    def _silence(self, what: str) -> NoBenchError:
        return NoBenchError(
            f"{self._peer} did not {what}", "Is `signedwire bench --serve` still running there?"
        )


def _rate(size: int, turns: list[dict[str, float]]) -> PeerRate:
    return PeerRate(
        rounds=[turn["sent"] / turn["seconds"] for turn in turns],
        size=size,
        in_flight=AT_A_TIME * chunk_of(size),
        sent=int(sum(turn["sent"] for turn in turns)),
        cpu=statistics.median(turn["cpu"] / turn["sent"] for turn in turns) * 1e6,
    )
