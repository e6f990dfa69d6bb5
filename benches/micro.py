"""What the steps of a message cost, each alone, in this process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from signedwire import Did, Identity, SignedEnvelope
from signedwire.wire.envelope import sign_batch, verify_batch
from signedwire.wire.frames import FrameDecoder, encode_frame
from signedwire.wire.header import V2_START, encode_v2_common, pack_v2_start

__all__ = ["BATCHES", "STEPS", "measure_steps"]

BATCHES: Final = (1, 16, 256)
"""Messages under one signature, up to the most that a batch may have."""

STEPS: Final = {
    "sign": "v1: build, hash, sign",
    "verify": "v1: hash, check the signature",
    "encode": "v1: envelope to frame",
    "decode": "v1: frame to envelope",
    "frame decode": "v1: cut it from a stream of 64",
    **{f"sign batch of {count}": "v2: hash each, sign the root" for count in BATCHES},
    **{f"verify batch of {count}": "v2: hash each, check the root" for count in BATCHES},
}
"""The name of each step, and what is done in it."""

Step = tuple[Callable[[], object], int]
"""A step as a function, and how many messages one call deals with."""

_FRAMES_AT_A_TIME: Final = 64
_REPEATS: Final = 5


def measure_steps(sizes: list[int], seconds: float) -> dict[str, dict[int, float]]:
    """Microseconds of each step for each payload size, medians; about `seconds` in all."""
    share = seconds / (len(STEPS) * len(sizes) * _REPEATS)
    table: dict[str, dict[int, float]] = {step: {} for step in STEPS}
    for size in sizes:
        for step, (function, count) in _steps(size).items():
            table[step][size] = _microseconds(function, share) / count
    return table


def _steps(size: int) -> dict[str, Step]:
    alice, bob = Identity.generate(), Identity.generate().did
    payload = bytes(size)
    return {**_v1_steps(alice, bob, payload), **_v2_steps(alice, bob, payload)}


def _v1_steps(alice: Identity, bob: Did, payload: bytes) -> dict[str, Step]:
    envelope = SignedEnvelope.sign(alice, bob, payload, sequence_number=1)
    body = envelope.encode()
    stream = encode_frame(body) * _FRAMES_AT_A_TIME
    decoder = FrameDecoder(len(body))
    return {
        "sign": (lambda: SignedEnvelope.sign(alice, bob, payload, sequence_number=1), 1),
        "verify": (envelope.verify, 1),
        "encode": (lambda: encode_frame(envelope.encode()), 1),
        "decode": (lambda: SignedEnvelope.decode(body), 1),
        "frame decode": (lambda: decoder.receive_data(stream), _FRAMES_AT_A_TIME),
    }


def _v2_steps(alice: Identity, bob: Did, payload: bytes) -> dict[str, Step]:
    sender = bytes(alice.did)
    signing: dict[str, Step] = {}
    verifying: dict[str, Step] = {}
    for count in BATCHES:
        common = encode_v2_common(sender + bytes(bob), 1, 1, 0, 1, 0)
        bodies = [
            pack_v2_start(V2_START, bytes(16), number) + common + payload
            for number in range(1, count + 1)
        ]
        _, signature, _ = sign_batch(alice, bodies)
        signing[f"sign batch of {count}"] = (partial(sign_batch, alice, bodies), count)
        verifying[f"verify batch of {count}"] = (
            partial(verify_batch, sender, bodies, signature),
            count,
        )
    return signing | verifying


def _microseconds(function: Callable[[], object], seconds: float) -> float:
    """The median over some repeats of the time that one call takes."""
    calls = 1
    while (once := _time(function, calls)) < seconds / 4:
        calls *= 2
    calls = max(1, round(calls * seconds / once))
    return statistics.median(_time(function, calls) / calls for _ in range(_REPEATS)) * 1e6


def _time(function: Callable[[], object], calls: int) -> float:
    started_at = time.perf_counter()
    for _ in range(calls):
        function()
    return time.perf_counter() - started_at
