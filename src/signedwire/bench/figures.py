"""The figures of a bench against a peer, as data."""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass
from typing import Any

__all__ = ["PeerRate", "RoundTrip", "Rounds", "percentiles"]


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """The values of one figure, one from each round."""

    rounds: list[float]

    @property
    def median(self) -> float:
        """The median of all rounds."""
        return statistics.median(self.rounds)

    @property
    def spread(self) -> float:
        """Half the distance from the lowest to the highest round, as a share of the median."""
        return (max(self.rounds) - min(self.rounds)) / 2 / self.median if self.median else 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the figure as `--json` prints it."""
        return {**dataclasses.asdict(self), "median": self.median, "spread": self.spread}


@dataclass(frozen=True, kw_only=True)
class PeerRate(Rounds):
    """Messages per second to a peer, each with its receipt."""

    size: int
    """Bytes of the payload."""
    in_flight: int
    """Maximum number of messages that are sent and not yet accepted."""
    sent: int
    """Messages of all rounds."""
    cpu: float
    """CPU microseconds per message of all threads of this process."""


@dataclass(frozen=True, kw_only=True)
class RoundTrip(Rounds):
    """Seconds of a round trip."""

    what: str
    """"p50" or "p99" of each round."""
    size: int
    """Bytes of the payload."""


def percentiles(times: list[float]) -> tuple[float, float]:
    """Return the 50th and the 99th percentile."""
    if len(times) < 2:
        return times[0], times[0]
    return statistics.median(times), statistics.quantiles(times, n=100)[98]
