"""Kills, faults and cuts, as many as a suite has time for; the Makefile has the campaigns."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest

from nodechild import allocated_kib

from .__main__ import campaign
from .faults import Fault, exchange, why_no_strace
from .ledger import Ledger
from .records import Kind
from .soak import soak

KILLS = int(os.environ.get("CRASH_KILLS", "20"))
posix_only = pytest.mark.skipif(os.name != "posix", reason="SIGKILL is of POSIX")
needs_strace = pytest.mark.skipif(bool(why_no_strace()), reason=why_no_strace() or "-")


def seed() -> int:
    drawn = random.randrange(2**32)
    sys.stdout.write(f"seed={drawn}\n")
    return drawn


@posix_only
@pytest.mark.timeout(600)
async def test_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    first = seed()
    outcomes = await campaign([first, first + 1], KILLS, tmp_path)
    for outcome in outcomes:
        assert not outcome.violations, str(outcome)
    assert sum(outcome.kills for outcome in outcomes) == KILLS
    assert sum(outcome.messages for outcome in outcomes) > 300 * KILLS
    assert sum(outcome.redeliveries for outcome in outcomes) > 0


@needs_strace
@pytest.mark.timeout(120)
@pytest.mark.parametrize("role", ["sender", "receiver"])
@pytest.mark.parametrize(
    ("call", "what"),
    [
        ("fdatasync", "EIO"),
        ("fdatasync", "KILL"),
        ("pwrite64", "EIO"),
        ("pwrite64", "ENOSPC"),
        ("pwrite64", "KILL"),
        ("sendto", "KILL"),
    ],
)
async def test_what_is_acknowledged_outlives_a_fault(
    role: str, call: str, what: str, tmp_path: Path
) -> None:
    draw = random.Random(seed())
    # Early as often as late.
    when = draw.choice((draw.randrange(1, 8), draw.randrange(8, 40)))
    outcome = await exchange(Fault(role, call, what, when), tmp_path)
    assert not outcome.violations, f"{outcome.fault}: {outcome.violations}"
    assert outcome.has_happened, outcome.fault


@posix_only
@pytest.mark.timeout(180)
async def test_cuts_and_kills_lose_nothing(tmp_path: Path) -> None:
    # Memory is for hours, not for some seconds.
    ends = await soak(13, tmp_path, seed(), kill_interval=3, is_memory_due=False)
    for end in ends:
        assert not end.violations, str(end)
        assert end.kills
        assert end.messages > 1000


def test_memory_in_use_is_what_lives() -> None:
    before = allocated_kib()
    held = [bytes(100) for _ in range(100_000)]  # 133 bytes each, and 8 of the list
    survivors = held[::1000]  # one in each arena, and more
    full = allocated_kib()
    if before is None or full is None:
        pytest.skip("an allocator does not report here")
    assert 12_000 < full - before < 16_000
    del held
    after = allocated_kib()
    assert after is not None
    assert after - before < 1000  # though no arena is free
    assert len(survivors) == 100


class TestLedger:
    """It finds what it is there to find."""

    def said(self, *said: tuple[Kind, int] | tuple[Kind, int, int] | None) -> Ledger:
        """`None` is a restart of the receiver; the third is the detail."""
        ledger = Ledger()
        for each in said:
            if each is None:
                ledger.receiver_restarts()
            else:
                ledger.hear(each[0], 1, each[2] if len(each) == 3 else 0, each[1])
        return ledger

    def test_all_is_well(self) -> None:
        ledger = self.said(
            (Kind.PERSISTED, 1),
            (Kind.DELIVERED, 1),
            None,
            (Kind.DELIVERED, 1, 1),
            (Kind.DELIVERED, 2),
            (Kind.FINISHING, 1),
            (Kind.FINISHING, 2),
            (Kind.DONE, 1),
            (Kind.HANDLED, 1),
        )
        assert ledger.violations == []
        assert ledger.missing() == []
        assert (ledger.first_deliveries, ledger.redeliveries) == (2, 1)

    @pytest.mark.parametrize("promise", [Kind.PERSISTED, Kind.ACCEPTED, Kind.DELIVERED])
    def test_lost(self, promise: Kind) -> None:
        assert self.said((promise, 7)).missing() == [7]

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ("came twice", [(Kind.DELIVERED, 1), (Kind.DELIVERED, 1, 1)]),
            ("unmarked", [(Kind.DELIVERED, 1), None, (Kind.DELIVERED, 1)]),
            ("there was none before", [(Kind.DELIVERED, 1, 1)]),
            (
                "after its ack()",
                [(Kind.DELIVERED, 1), (Kind.DONE, 1), None, (Kind.DELIVERED, 1, 1)],
            ),
            (
                "was handled",
                [(Kind.DELIVERED, 1), (Kind.HANDLED, 1), None, (Kind.DELIVERED, 1, 1)],
            ),
            ("came after 2", [(Kind.DELIVERED, 2), (Kind.DELIVERED, 1)]),
            ("came first after 2", [(Kind.DELIVERED, 2), None, (Kind.DELIVERED, 1)]),
            ("failed", [(Kind.FAILED, 1)]),
        ],
    )
    def test_violations(
        self, words: str, said: list[tuple[Kind, int] | tuple[Kind, int, int] | None]
    ) -> None:
        assert words in " ".join(self.said(*said).violations)
