"""Pauses between attempts: exponential, jittered, capped."""

from __future__ import annotations

import random
from collections.abc import Iterator

__all__ = ["backoff_delays"]


def backoff_delays(
    base: float,
    cap: float,
    jitter: float,
    rng: random.Random | None = None,
    *,
    factor: float = 2,
) -> Iterator[float]:
    """Yield pauses in seconds for ever: base·2, base·4, base·8 … each scaled by 1 ± jitter.

    With another `factor` than 2, so much is each longer than the one before.

    With the default base of 0.1 s the first two are the 200 and 400 ms of the
    v1 reference. Every pause is jittered, the first too, so that peers of a
    restarted node do not return in one wave; the cap holds after the jitter.
    """
    draw = (rng or random).uniform
    delay = base * factor
    while True:
        yield min(cap, delay * draw(1 - jitter, 1 + jitter))
        delay = min(delay * factor, cap)
