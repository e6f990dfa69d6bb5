"""The bench: a tiny run gives its table and its JSON, and its sizes are what they say."""

from __future__ import annotations

import json
import re

import pytest

from signedwire.bench import run_bench
from signedwire.bench.payload import COMMAND, MAX_SIZE, MIN_SIZE, v1_data_size

pytest.importorskip("rich")


def test_a_tiny_run_gives_a_table(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_bench(seconds=0.2, sizes=[64], compare=False, rounds=1) == 0
    table = capfd.readouterr().out
    assert re.search(r"messages/s, 64 bytes +asyncio +[\d,]+", table)
    assert re.search(r"round trip p99, 64 bytes +asyncio +[\d,]+ µs", table)
    assert re.search(r"verify +[\d.]+ µs", table)
    assert re.search(r"\d+ cores?, ", table)
    assert "left out: omnimesh: a run without comparison was asked for" in table
    assert max(map(len, table.splitlines())) <= 80


def test_a_tiny_run_gives_json(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_bench(seconds=0.2, sizes=[64, 1000], compare=False, json=True, rounds=2) == 0
    document = json.loads(capfd.readouterr().out)
    measures = [
        measure for measure in document["measures"] if measure["system"]["loop"] == "asyncio"
    ]
    assert {(measure["what"], measure["size"]) for measure in measures} == {
        ("messages/s", 64),
        ("messages/s", 1000),
        ("round trip p50", 64),
        ("round trip p99", 64),
    }
    for measure in measures:
        assert measure["median"] > 0
        assert len(measure["rounds"]) == 2
        assert measure["lost"] == 0
        assert measure["ratio"] is None
    assert set(document["micro_us"]) == {"sign", "verify", "encode", "decode", "frame decode"}
    assert document["machine"]["cores"] >= 1
    assert "omnimesh" in document["left_out"]


def test_omnimesh_beside_us(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("omnimesh", reason="the v1 client is for Linux on x86_64 only")
    assert run_bench(seconds=0.2, sizes=[64], json=True, rounds=1) == 0
    document = json.loads(capfd.readouterr().out)
    assert "omnimesh" not in document["left_out"]
    ratios = [measure["ratio"] for measure in document["measures"] if measure["ratio"]]
    assert len(ratios) >= 3


@pytest.mark.parametrize(
    "arguments",
    [{"seconds": 0}, {"rounds": 0}, {"sizes": []}, {"sizes": [64, 1025]}, {"sizes": [1]}],
)
def test_senseless_arguments_are_refused(
    arguments: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_bench(**arguments) == 2  # type: ignore[arg-type]
    assert capsys.readouterr().err.startswith("signedwire bench: ")


def test_both_sides_carry_payloads_of_the_same_size() -> None:
    payloads = pytest.importorskip("signedwire.payloads", reason="needs protobuf")
    for size in range(MIN_SIZE, MAX_SIZE + 1):
        command = payloads.AgentCommand(command_type=COMMAND, payload=bytes(v1_data_size(size)))
        # At two sizes a varint grows by a byte, and no length fits exactly.
        assert size - len(payloads.encode(command)) in ((0, 1) if 128 < size <= 136 else (0,))
