"""What the steps of one v1 message cost, each alone, in this process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Final

from signedwire import Identity, SignedEnvelope
from signedwire.wire.frames import FrameDecoder, encode_frame

__all__ = ["STEPS", "measure_steps"]

STEPS: Final = {
    "sign": "build, hash, sign",
    "verify": "hash, check the signature",
    "encode": "envelope to frame",
    "decode": "frame to envelope",
    "frame decode": "cut it from a stream of 64",
}
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


def _steps(size: int) -> dict[str, tuple[Callable[[], object], int]]:
    """Each step as a function, and how many messages one call deals with."""
    alice, bob = Identity.generate(), Identity.generate().did
    payload = bytes(size)
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
