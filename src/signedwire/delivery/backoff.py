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

    With the default base of 0.1 s, the first two pauses are the 200 and 400 ms of the
    v1 reference. Every pause has jitter, also the first, so that peers of a restarted
    node do not return in one wave.

    Args:
        base: Half of the first pause (with the default `factor`), in seconds.
        cap: Maximum pause in seconds; it applies after the jitter.
        jitter: Relative deviation, 0 to 1.
        rng: Source of the jitter, by default the module `random`.
        factor: Ratio of each pause to the previous one.
    """
    draw = (rng or random).uniform
    delay = base * factor
    while True:
        yield min(cap, delay * draw(1 - jitter, 1 + jitter))
        delay = min(delay * factor, cap)
