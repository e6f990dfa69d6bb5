"""What a bench run has measured, as data."""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Measure", "Results", "System"]


@dataclass(frozen=True, kw_only=True)
class System:
    """One column of the comparison: a system, and the event loop it runs in."""

    name: str
    """Such as "signedwire"; a peer has the name of its package."""
    version: str
    wire: str
    """"v2": TLS, batch signatures, signed receipts; "v1": one signature each, no answer."""
    loop: str
    """"asyncio" or "uvloop"; "native" where it is not Python's."""

    @property
    def kind(self) -> str:
        """What the child process is told to be."""
        return f"{self.wire}-{self.loop}" if self.is_ours else self.name

    @property
    def label(self) -> str:
        """What people call it."""
        return f"signedwire {self.wire} on {self.loop}" if self.is_ours else self.name

    @property
    def is_ours(self) -> bool:
        return self.name == "signedwire"


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One figure of one system: a value from each round."""

    what: str
    """"messages/s", "round trip p50" or "round trip p99"."""
    size: int
    """Encoded payload, bytes."""
    system: System
    rounds: list[float]
    sent: int = 0
    lost: int = 0
    sender_cpu: float | None = None
    """CPU microseconds of the sending process per message, all its threads; throughput only."""
    receiver_cpu: float | None = None
    """The same of the receiving process."""

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def spread(self) -> float:
        """Half the distance from the lowest to the highest round, as a share of the median."""
        return (max(self.rounds) - min(self.rounds)) / 2 / self.median if self.median else 0.0


@dataclass(frozen=True, kw_only=True)
class LinkCost:
    """What links cost to set up and to keep. Each end is one process."""

    links: int
    """How many were set up."""
    nodes: tuple[int, int]
    """Between how many nodes in the dialing and in the accepting process."""
    loop: str
    seconds: float
    """From the first dial until every link had carried one message and its receipt."""
    dialer_cpu_ms: float
    """CPU of the dialing process per link, for all that."""
    listener_cpu_ms: float
    dialer_kib: float | None
    """By how much its resident memory grew, per link; `None` where /proc does not tell."""
    listener_kib: float | None


@dataclass(kw_only=True)
class Results:
    """Everything that is shown."""

    machine: dict[str, Any]
    settings: dict[str, Any]
    measures: list[Measure] = field(default_factory=list)
    links: list[LinkCost] = field(default_factory=list)
    micro: dict[str, dict[int, float]] = field(default_factory=dict)
    """Step → payload size → microseconds."""
    left_out: dict[str, str] = field(default_factory=dict)
    """System → why it is not here."""
    seconds_taken: float = 0.0

    def find(self, what: str, size: int, system: System) -> Measure | None:
        """The measure of one system, if it was taken."""
        for measure in self.measures:
            if (measure.what, measure.size, measure.system) == (what, size, system):
                return measure
        return None

    def ratio(self, ours: Measure) -> float | None:
        """Ours divided by the peer's, of medians; `None` without a peer."""
        for measure in self.measures:
            if (measure.what, measure.size) == (
                ours.what,
                ours.size,
            ) and not measure.system.is_ours:
                return ours.median / measure.median if measure.median else None
        return None

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "machine": self.machine,
            "settings": self.settings,
            "measures": [
                {
                    **dataclasses.asdict(measure),
                    "median": measure.median,
                    "spread": measure.spread,
                    "ratio": self.ratio(measure) if measure.system.is_ours else None,
                }
                for measure in self.measures
            ],
            "links": [dataclasses.asdict(cost) for cost in self.links],
            "micro_us": self.micro,
            "left_out": self.left_out,
            "seconds_taken": round(self.seconds_taken, 1),
        }
