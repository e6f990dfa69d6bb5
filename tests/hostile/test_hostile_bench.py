"""A small share of the bench: eight hostile links, and limits of five times the target.

What is measured is printed with -s. `python -m hostile` runs all of it.
"""

from __future__ import annotations

import sys
from typing import Final

import pytest

from hostile.__main__ import main, measured
from hostile.attacker import ATTACKS, NOBODY
from hostile.bench import Limits, Row, measure
from hostile.records import RecordWriter

LINKS: Final = 8
SECONDS: Final = 1.5
FACTOR: Final = 5.0


def report(row: object) -> None:
    sys.stderr.write(f"\n[measured] {row}\n")


@pytest.mark.parametrize(
    "attack",
    [
        "receipt-2",
        "envelopes-duplicate-1",
        "streams-new-1",
        "joint-unknown-full",
        "copies-new-32",
        "key-update-requested",
        "handshake-bad-proof",
        "record-empty",
        "hello-again",
    ],
)
async def test_an_honest_peer_gets_through_beside_eight_hostile_links(attack: str) -> None:
    row = await measured(
        *(attack, LINKS, SECONDS, "asyncio"),
        limits=Limits().times(FACTOR),
        burner_p99=0.0,
        tries=2,
    )
    report(row)
    assert row.opened >= LINKS, "nobody attacked"
    assert not row.broken, row


async def test_without_an_attack_every_limit_holds() -> None:
    row = await measure(NOBODY, 0, SECONDS)
    row.judge(Limits().times(FACTOR), 0.0)
    report(row)
    assert row.done == row.sent == round(SECONDS / 0.02)
    assert not row.broken, row
    assert not row.kept_out


class TestTheBenchItself:
    def test_each_limit_can_break(self) -> None:
        row = Row(attack="x", links=8, p99=0.051, stall_cpu=0.021, memory_kib=64 * 1024 + 1)
        row.judge(Limits(), burner_p99=1.0)
        assert row.broken == ["p99 > 50 ms", "stall > 20 ms", "memory > 64 MiB"]

    def test_beside_many_links_the_burner_may_excuse_more(self) -> None:
        limits = Limits()
        assert limits.p99(40, burner_p99=0.01) == 0.250
        assert limits.p99(40, burner_p99=0.1) == pytest.approx(0.3)
        assert limits.p99(8, burner_p99=0.1) == 0.050

    def test_an_unknown_attack_is_an_error(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--attack", "nothing-like-it"]) == 2
        assert "--list" in capsys.readouterr().out

    def test_every_attack_is_listed_once(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--list"]) == 0
        listed = capsys.readouterr().out.split()
        assert len(listed) == len(set(listed))
        assert set(ATTACKS) <= set(listed)

    def test_keys_of_records_are_those_of_rfc_8448(self) -> None:
        """RFC 8448, 3: client_application_traffic_secret_0 and what is made of it."""
        secret = bytes.fromhex("9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5")
        writer = RecordWriter("TLS_AES_128_GCM_SHA256", secret)
        assert writer._expand(b"key", 16).hex() == "17422dda596ed5d9acd890e3c63f5051"
        assert writer._expand(b"iv", 12).hex() == "5b78923dee08579033e523d9"
        assert writer.seal(bytes(range(50))).hex().startswith("1703030043a23f7054b62c94d0affafe82")
