"""What a bench run has measured, as data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from signedwire.bench.figures import Rounds

__all__ = [
    "BacklogCost",
    "CommitCost",
    "FanOut",
    "LinkCost",
    "Measure",
    "Results",
    "Start",
    "System",
]


@dataclass(frozen=True, kw_only=True)
class FanOut(Rounds):
    """Messages per second to so many peers together, each with its receipt."""

    peers: int
    loop: str
    size: int
    """Payload, bytes."""
    at_a_time: int
    """Calls of `send_many()` that run together, each to another peer."""
    chunk: int
    """Payloads of each of those calls."""
    sent: int
    lost: int
    sender_cpu: float
    """CPU microseconds of the sending process per message, all its threads."""
    receiver_cpu: float
    """The same of the receiving process, in which all the peers are."""


@dataclass(frozen=True, kw_only=True)
class Start(Rounds):
    """Seconds from the start of a process until it has come so far."""

    what: str
    """"python", "import signedwire" or "first message"."""


@dataclass(frozen=True, kw_only=True)
class System:
    """One column of the comparison: a system, and the event loop it runs in."""

    name: str
    """Such as "signedwire"; a peer has the name of its package."""
    version: str
    wire: str
    """"v2": TLS, batch signatures, signed receipts; "v1": one signature each, no answer; of
    others what their note says."""
    loop: str
    """"asyncio" or "uvloop"; "native" where it is not Python's."""
    does: str = ""
    """"stored": a store on both sides, and done() or its like for each message; "done":
    that without a store; "": neither."""

    @property
    def kind(self) -> str:
        """What the child process is told to be."""
        if self.loop == "native":
            return self.name
        return "-".join(filter(None, (self.wire, self.loop, self.does)))

    @property
    def label(self) -> str:
        """What people call it."""
        if self.loop == "native":
            return self.name
        if not self.is_ours:
            return f"{self.name} on {self.loop}"
        return f"signedwire {self.wire} on {self.loop}{f', {self.does}' * bool(self.does)}"

    @property
    def is_ours(self) -> bool:
        return self.name == "signedwire"


@dataclass(frozen=True, kw_only=True)
class Measure(Rounds):
    """One figure of one system: a value from each round."""

    what: str
    """"messages/s", "round trip p50" or "round trip p99"."""
    size: int
    """Encoded payload, bytes."""
    system: System
    sent: int = 0
    lost: int = 0
    sender_cpu: float | None = None
    """CPU microseconds of the sending process per message, all its threads; throughput only."""
    receiver_cpu: float | None = None
    """The same of the receiving process."""


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


@dataclass(frozen=True, kw_only=True)
class CommitCost:
    """What the commits of a store cost, for a peer that is away. Medians."""

    size: int
    """Payload, bytes."""
    rows: float
    """Messages in a commit: 1, or as many as come while the one before it runs."""
    commit: float
    """Seconds, from the first statement of a transaction to its end."""
    row: float
    """Seconds from one message to the next that is told to be stored."""
    sync: float
    """Seconds of a pwrite of 4 KiB and its fdatasync in the same folder, in turns with it."""

    @property
    def ratio(self) -> float | None:
        """Of a message's share in a commit to the sync."""
        return self.commit / self.rows / self.sync if self.sync else None


@dataclass(frozen=True, kw_only=True)
class BacklogCost:
    """What `send()` costs while so many messages wait for a peer that is away. Medians."""

    waiting: int
    size: int
    fill_rate: float
    """Messages per second with which `send_many()` had stored those that wait."""
    send: float
    """Seconds of a lone `send()`, until it is persisted."""
    rate: float
    """Messages per second of `send()` that are called `at_a_time`, until all are persisted."""
    at_a_time: int


@dataclass(kw_only=True)
class Results:
    """Everything that is shown."""

    machine: dict[str, Any]
    settings: dict[str, Any]
    measures: list[Measure] = field(default_factory=list)
    stored: list[Measure] = field(default_factory=list)
    """Those of systems that say `done()`, with a store and without."""
    commits: list[CommitCost] = field(default_factory=list)
    backlogs: list[BacklogCost] = field(default_factory=list)
    """The one with fewer waiting first."""
    backlog_ratios: dict[str, float] = field(default_factory=dict)
    """"send" and "rate", many to few: medians of those of each turn, which a slow moment of
    the disk does not change."""
    links: list[LinkCost] = field(default_factory=list)
    fanout: list[FanOut] = field(default_factory=list)
    """By loop, in the order of the counts."""
    start: list[Start] = field(default_factory=list)
    """Python alone is the first."""
    micro: dict[str, dict[int, float]] = field(default_factory=dict)
    """Step → payload size → microseconds."""
    notes: dict[str, str] = field(default_factory=dict)
    """System → what has to be known beside its figures."""
    left_out: dict[str, str] = field(default_factory=dict)
    """System → why it is not here."""
    seconds_taken: float = 0.0

    def find(self, what: str, size: int, system: System) -> Measure | None:
        """The measure of one system, if it was taken."""
        for measure in (*self.measures, *self.stored):
            if (measure.what, measure.size, measure.system) == (what, size, system):
                return measure
        return None

    def peers(self) -> list[str]:
        """The names of what the messages part compares us with."""
        return list(dict.fromkeys(m.system.name for m in self.measures if not m.system.is_ours))

    def ratios(self, ours: Measure) -> dict[str, float]:
        """Ours divided by that of each peer, of medians, by the peer's name.

        One that runs in Python's loops as we do is compared in the same loop. Empty for
        what is not ours.
        """
        if not ours.system.is_ours:
            return {}
        return {
            theirs.system.name: ours.median / theirs.median
            for theirs in self.measures
            if not theirs.system.is_ours
            and (theirs.what, theirs.size) == (ours.what, ours.size)
            and theirs.system.loop in ("native", ours.system.loop)
            and theirs.median
        }

    def beside_stored(self, ours: Measure) -> tuple[Measure | None, Measure | None]:
        """The same without stores, and that of NATS JetStream; `None` where it is not there."""
        plain = dataclasses.replace(ours.system, does="done")
        nats = next(
            (
                other
                for other in self.stored
                if not other.system.is_ours
                and (other.size, other.system.loop) == (ours.size, ours.system.loop)
            ),
            None,
        )
        return self.find(ours.what, ours.size, plain), nats

    def stored_ratios(self, ours: Measure) -> tuple[float | None, float | None]:
        """Ours divided by each of those, of medians; nothing for what is not ours, stored."""
        if not ours.system.is_ours or ours.system.does != "stored":
            return None, None
        without, nats = (
            None if other is None or not other.median else ours.median / other.median
            for other in self.beside_stored(ours)
        )
        return without, nats

    def fanout_ratio(self, figure: FanOut) -> float | None:
        """To the figure with one peer, the same calls and loop; `None` where there is none."""
        for other in self.fanout:
            if (other.peers, other.chunk, other.loop) == (1, figure.chunk, figure.loop):
                return figure.median / other.median
        return None

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "machine": self.machine,
            "settings": self.settings,
            "measures": [
                {**measure.as_json(), "ratios": self.ratios(measure)} for measure in self.measures
            ],
            "stored": [
                {
                    **measure.as_json(),
                    "ratio_without_store": self.stored_ratios(measure)[0],
                    "ratio_nats": self.stored_ratios(measure)[1],
                }
                for measure in self.stored
            ],
            "commits": [{**dataclasses.asdict(cost), "ratio": cost.ratio} for cost in self.commits],
            "backlogs": [dataclasses.asdict(cost) for cost in self.backlogs],
            "backlog_ratios": self.backlog_ratios,
            "links": [dataclasses.asdict(cost) for cost in self.links],
            "fanout": [
                {**figure.as_json(), "ratio": self.fanout_ratio(figure)} for figure in self.fanout
            ],
            "start": [figure.as_json() for figure in self.start],
            "micro_us": self.micro,
            "notes": self.notes,
            "left_out": self.left_out,
            "seconds_taken": round(self.seconds_taken, 1),
        }
