"""The bench: a tiny run gives its table and its JSON, and its sizes are what they say."""

from __future__ import annotations

import json
import re

import pytest

from signedwire.bench import run_bench
from signedwire.bench.links import crowds_for
from signedwire.bench.payload import COMMAND, MAX_SIZE, MIN_SIZE, v1_data_size

pytest.importorskip("rich")


def test_a_tiny_run_gives_a_table(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_bench(seconds=0.2, sizes=[64], compare=False, rounds=1, links=[6]) == 0
    table = capfd.readouterr().out
    assert re.search(r"messages/s, 64 bytes +v2 +asyncio +[\d,]+", table)
    assert re.search(r"round trip p99, 64 bytes +v2 +asyncio +[\d,]+ µs", table)
    assert re.search(r"signedwire v2 on asyncio +[\d.]+ / [\d.]+", table)
    assert re.search(r"6, of 2 nodes to 3 +asyncio +\S+ / \S+ +[\d.]+ / [\d.]+", table)
    assert re.search(r"verify +[\d.]+ µs", table)
    assert re.search(r"\d+ cores?, ", table)
    assert "left out: omnimesh: a run without comparison was asked for" in table
    assert max(map(len, table.splitlines())) <= 80


def test_a_tiny_run_gives_json(capfd: pytest.CaptureFixture[str]) -> None:
    assert (
        run_bench(seconds=0.2, sizes=[64, 1000], compare=False, json=True, rounds=2, links=[4]) == 0
    )
    document = json.loads(capfd.readouterr().out)
    measures = [
        measure for measure in document["measures"] if measure["system"]["loop"] == "asyncio"
    ]
    assert {
        (measure["system"]["wire"], measure["what"], measure["size"]) for measure in measures
    } == {
        (wire, *figure)
        for wire in ("v1", "v2")
        for figure in (
            ("messages/s", 64),
            ("messages/s", 1000),
            ("round trip p50", 64),
            ("round trip p99", 64),
        )
    }
    for measure in measures:
        assert measure["median"] > 0
        assert len(measure["rounds"]) == 2
        assert measure["lost"] == 0
        assert measure["ratio"] is None
        assert (measure["sender_cpu"] is not None) == (measure["what"] == "messages/s")
    for links in document["links"]:
        assert links["links"] == 4
        assert links["dialer_cpu_ms"] > 0
        assert links["listener_cpu_ms"] > 0
    assert document["links"][0]["loop"] == "asyncio"
    assert set(document["micro_us"]) == {"sign", "verify", "encode", "decode", "frame decode"}
    assert document["machine"]["cores"] >= 1
    assert "omnimesh" in document["left_out"]


def test_omnimesh_beside_us(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("omnimesh", reason="the v1 client is for Linux on x86_64 only")
    assert run_bench(seconds=0.2, sizes=[64], json=True, rounds=1, links=[]) == 0
    document = json.loads(capfd.readouterr().out)
    assert "omnimesh" not in document["left_out"]
    ratios = [measure["ratio"] for measure in document["measures"] if measure["ratio"]]
    assert len(ratios) >= 6


@pytest.mark.parametrize(
    "arguments",
    [
        {"seconds": 0},
        {"rounds": 0},
        {"sizes": []},
        {"sizes": [64, 1025]},
        {"sizes": [1]},
        {"links": [0]},
    ],
)
def test_senseless_arguments_are_refused(
    arguments: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_bench(**arguments) == 2  # type: ignore[arg-type]
    assert capsys.readouterr().err.startswith("signedwire bench: ")


@pytest.mark.parametrize("count", [1, 2, 7, 100, 1000])
def test_crowds_make_exactly_so_many_links(count: int) -> None:
    dialing, accepting = crowds_for(count)
    assert dialing * accepting == count
    assert dialing <= accepting


def test_both_sides_carry_payloads_of_the_same_size() -> None:
    payloads = pytest.importorskip("signedwire.payloads", reason="needs protobuf")
    for size in range(MIN_SIZE, MAX_SIZE + 1):
        command = payloads.AgentCommand(command_type=COMMAND, payload=bytes(v1_data_size(size)))
        # At two sizes a varint grows by a byte, and no length fits exactly.
        assert size - len(payloads.encode(command)) in ((0, 1) if 128 < size <= 136 else (0,))
