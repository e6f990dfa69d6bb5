"""The figures of a bench against a peer, as data."""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass
from typing import Any

__all__ = ["PeerRate", "RoundTrip", "Rounds", "percentiles"]


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """One figure: a value from each round."""

    rounds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def spread(self) -> float:
        """Half the distance from the lowest to the highest round, as a share of the median."""
        return (max(self.rounds) - min(self.rounds)) / 2 / self.median if self.median else 0.0

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {**dataclasses.asdict(self), "median": self.median, "spread": self.spread}


@dataclass(frozen=True, kw_only=True)
class PeerRate(Rounds):
    """Messages per second to a peer elsewhere, each with its receipt."""

    size: int
    """Payload, bytes."""
    in_flight: int
    """Messages that were sent and not yet accepted, at most."""
    sent: int
    cpu: float
    """CPU microseconds of this process per message, all its threads."""


@dataclass(frozen=True, kw_only=True)
class RoundTrip(Rounds):
    """Seconds to a peer and back."""

    what: str
    """"p50" or "p99", of each round."""
    size: int


def percentiles(times: list[float]) -> tuple[float, float]:
    """p50 and p99."""
    if len(times) < 2:
        return times[0], times[0]
    return statistics.median(times), statistics.quantiles(times, n=100)[98]
