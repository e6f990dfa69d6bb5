"""Pauses between attempts: exponential, jittered, capped."""

from __future__ import annotations

import random
from collections.abc import Iterator

from signedwire.config import TransportConfig

__all__ = ["backoff_delays", "dial_delays"]


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


def dial_delays(
    config: TransportConfig, rng: random.Random, *, is_durable: bool
) -> Iterator[float]:
    """Return the pauses in seconds after one failed attempt to connect, two, three and so on.

    Args:
        config: Has the pauses of a node without a store.
        rng: Source of the jitter.
        is_durable: Whether the node has a store.
    """
    if is_durable:
        # Messages may wait for days: the pauses are long, and differ from node to node.
        return backoff_delays(0.5 / 1.6, 30.0, 0.5, rng, factor=1.6)
    return backoff_delays(config.retry_base_delay, config.retry_max_delay, config.retry_jitter, rng)
