"""One row of the bench: a victim, an honest peer and an attacker, measured and judged."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from dataclasses import dataclass, field
from typing import Any, Final

from .attacker import BURNER, NOBODY
from .child import ChildError, child
from .recipient_attacks import FED, RECIPIENT_ATTACKS

__all__ = ["GRACE", "Limits", "Row", "header", "measure", "percentile"]

GRACE: Final = 2.0
"""Seconds after the last honest message that its answer is waited for, the attack going on."""
_SETTLE: Final = 0.3
_PATIENCE: Final = 30.0


def percentile(ordered: list[float], share: float) -> float:
    """The value that `share` of them do not exceed."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What must hold. Durations in seconds, memory in KiB.

    The stall is judged by the CPU time of the victim's own thread between two beats of its
    1 ms timer. What the kernel gives to other processes in between is no fault of the
    node, and on two cores that is most of the wall time.
    """

    p99_few: float = 0.050
    """Of the honest peer beside up to 8 links."""
    p99_many: float = 0.250
    """Beside more; or three times that beside a burner, if that is longer."""
    stall: float = 0.020
    memory_kib: int = 64 * 1024

    def times(self, factor: float) -> Limits:
        """Limits of time, so many times as long: for a machine that is shared."""
        return Limits(
            p99_few=self.p99_few * factor,
            p99_many=self.p99_many * factor,
            stall=self.stall * factor,
            memory_kib=self.memory_kib,
        )

    def p99(self, links: int, burner_p99: float) -> float:
        """What the honest peer's p99 may be beside so many links."""
        return self.p99_few if links <= 8 else max(self.p99_many, 3 * burner_p99)


@dataclass(kw_only=True)
class Row:
    """What one attack by so many links did. Durations in seconds."""

    attack: str
    links: int
    p50: float = 0.0
    p99: float = 0.0
    longest: float = 0.0
    done: int = 0
    sent: int = 0
    """Honest messages; those that are not `done` count in p99 with the time they waited."""
    newcomer: float = 0.0
    """The longer of two: from its first dial until its first message was accepted."""
    kept_out: int = 0
    """Newcomers that were not accepted at all."""
    stall_cpu: float = 0.0
    stall_wall: float = 0.0
    memory_kib: int = 0
    """The victim's peak over what it had before."""
    cpu: float = 0.0
    """The victim's, as a share of one core."""
    attack_bytes: int = 0
    opened: int = 0
    closed: int = 0
    refused: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    """The limits that do not hold, in words."""

    def judge(self, limits: Limits, burner_p99: float) -> None:
        """Fill `broken`."""
        p99 = limits.p99(self.links, burner_p99)
        if self.p99 > p99:
            self.broken.append(f"p99 > {1e3 * p99:.0f} ms")
        if self.stall_cpu > limits.stall:
            self.broken.append(f"stall > {1e3 * limits.stall:.0f} ms")
        if self.memory_kib > limits.memory_kib:
            self.broken.append(f"memory > {limits.memory_kib // 1024} MiB")

    def __str__(self) -> str:
        verdict = ", ".join(self.broken) or "holds"
        newcomer = "never" if self.kept_out else f"{1e3 * self.newcomer:.0f}"
        return (
            f"{self.attack:26}{self.links:3}{1e3 * self.p50:9.1f}{1e3 * self.p99:9.1f}"
            f"{1e3 * self.longest:9.0f}{self.done:5}/{self.sent:<4}{newcomer:>7}"
            f"{1e3 * self.stall_cpu:8.1f}{1e3 * self.stall_wall:8.1f}"
            f"{self.memory_kib / 1024:7.1f}{100 * self.cpu:5.0f}"
            f"{self.attack_bytes / 1e6:8.1f}{self.opened:7}{self.closed:7}  {verdict}"
        )


def header() -> str:
    """Above the rows. Times in ms, memory in MiB, CPU in percent, traffic in MB."""
    return (
        f"{'attack':26}{'n':>3}{'p50':>9}{'p99':>9}{'max':>9}{'done':>10}{'newcom':>7}"
        f"{'st.cpu':>8}{'st.wall':>8}{'memory':>7}{'cpu':>5}{'traffic':>8}{'opened':>7}"
        f"{'closed':>7}  limits"
    )


async def measure(attack: str, links: int, seconds: float, loop: str = "asyncio") -> Row:
    """Start the three, attack for so long, and return what was measured.

    Raises:
        ChildError: one of the three could not work at all.
    """
    async with contextlib.AsyncExitStack() as stack:
        victim = await stack.enter_async_context(child("victim", loop))
        address = (await victim.answer())["address"]
        honest, attacker = await asyncio.gather(
            stack.enter_async_context(child("honest", loop, address)),
            stack.enter_async_context(child("attacker", attack, links, address)),
        )
        await asyncio.gather(honest.answer(), attacker.answer())
        if attack in RECIPIENT_ATTACKS:
            await victim.ask("feed", FED)
            await attacker.ask("prepare", timeout=_PATIENCE)
        await asyncio.sleep(_SETTLE)
        await victim.ask("start")
        sending = asyncio.create_task(honest.ask("send", seconds, GRACE, timeout=_PATIENCE))
        await attacker.ask("go")
        times = await sending
        counts = await attacker.ask("stop")
        if counts["flaws"]:
            raise ChildError(f"the attack {attack} failed: {counts['flaws'][0]}")
        return _row(attack, links, times, counts, await victim.ask("measured"))


def _row(
    attack: str, links: int, times: dict[str, Any], counts: dict[str, Any], found: dict[str, Any]
) -> Row:
    seconds = times["seconds"]
    return Row(
        attack=attack,
        links=0 if attack in (NOBODY, BURNER) else links,
        p50=statistics.median(seconds),
        p99=percentile(seconds, 0.99),
        longest=seconds[-1],
        done=len(seconds) - times["lost"],
        sent=len(seconds),
        newcomer=times["newcomers"][-1],
        kept_out=times["kept_out"],
        stall_cpu=found["stall_cpu"],
        stall_wall=found["stall_wall"],
        memory_kib=found["peak_kib"] - found["idle_kib"],
        cpu=found["cpu"],
        attack_bytes=counts["bytes_sent"],
        opened=counts["opened"],
        closed=counts["closed"],
        refused=counts["refused"],
        dropped=found["dropped"],
    )
