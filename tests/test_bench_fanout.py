"""Fan-out and starting: tiny runs in real processes, and what does not fit is said."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from benches import fanout, startup
from benches.children import environment
from benches.fanout import CALLS, IN_FLIGHT
from benches.results import FanOut, Results
from benches.running import run_bench

from signedwire.bench.figures import percentiles

pytest.importorskip("rich")


def test_a_tiny_fan_out_gives_json(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_bench(seconds=0.1, json=True, rounds=2, fanout=[1, 3], only=["fanout"]) == 0
    document = json.loads(capfd.readouterr().out)
    figures = [figure for figure in document["fanout"] if figure["loop"] == "asyncio"]
    shapes = [(figure["peers"], figure["chunk"]) for figure in figures]
    assert shapes == [(peers, chunk) for chunk in CALLS for peers in (1, 3)]
    for figure in figures:
        assert len(figure["rounds"]) == 2
        assert figure["median"] > 0
        assert figure["lost"] == 0
        assert figure["sent"] >= 2 * figure["at_a_time"] * figure["chunk"]
        assert figure["sender_cpu"] > 0
        assert figure["receiver_cpu"] > 0
        assert figure["size"] == 64
        assert figure["at_a_time"] * figure["chunk"] == IN_FLIGHT
    for one, three in (figures[:2], figures[2:]):
        assert one["ratio"] == 1.0
        assert three["ratio"] == pytest.approx(three["median"] / one["median"])
    assert not document["measures"]


def test_a_tiny_fan_out_and_a_start_give_tables(capfd: pytest.CaptureFixture[str]) -> None:
    given = {"fanout": [1, 2], "starts": 1, "only": ["fanout", "start"]}
    assert run_bench(seconds=0.1, rounds=1, **given) == 0  # type: ignore[arg-type]
    table = capfd.readouterr().out
    each = r"[\d,]+ ±\d+% +\d\.\d\d +[\d.]+ / [\d.]+ +0 of [\d,]+"
    assert re.search(rf"1 peer +1,000 +asyncio +{each}", table)
    assert re.search(rf"2 peers +100 +asyncio +{each}", table)
    assert f"{IN_FLIGHT:,} messages are in flight" in " ".join(table.split())
    assert re.search(r"python +[\d.]+ ±0% +-", table)
    assert re.search(r"import signedwire +[\d.]+ ±0% +[\d.]+", table)
    assert re.search(r"first message +[\d.]+ ±0% +[\d.]+", table)
    assert max(map(len, table.splitlines())) <= 80


def test_what_does_not_fit_the_machine_is_named(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanout, "hard_limit", lambda: 100)
    given = {"rounds": 1, "fanout": [1, 1000], "only": ["fanout"], "json": True}
    assert run_bench(seconds=0.1, **given) == 0  # type: ignore[arg-type]
    document = json.loads(capfd.readouterr().out)
    assert {figure["peers"] for figure in document["fanout"]} == {1}
    reason = document["left_out"]["fan-out to 1,000 peers"]
    assert reason == "their process needs 2,064 descriptors, and may have 100: see ulimit -Hn"


def test_a_limit_is_raised_as_far_as_it_may_be() -> None:
    pytest.importorskip("resource", reason="Windows has no such limit")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import resource as r\n"
            "from benches.descriptors import hard_limit, raise_limit\n"
            "r.setrlimit(r.RLIMIT_NOFILE, (64, 128))\n"
            "raise_limit(100); print(r.getrlimit(r.RLIMIT_NOFILE), hard_limit())\n"
            "raise_limit(50); raise_limit(500); print(r.getrlimit(r.RLIMIT_NOFILE))\n",
        ],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    assert done.stdout == "(100, 128) 128\n(100, 128)\n"


def test_a_fan_out_without_one_peer_has_no_ratio() -> None:
    results = Results(machine={}, settings={})
    figure = FanOut(
        rounds=[2.0, 4.0, 3.0],
        peers=10,
        loop="asyncio",
        size=64,
        at_a_time=10,
        chunk=1000,
        sent=9,
        lost=0,
        sender_cpu=1.0,
        receiver_cpu=1.0,
    )
    results.fanout.append(figure)
    assert results.fanout_ratio(figure) is None
    assert figure.median == 3.0
    assert figure.spread == pytest.approx(1 / 3)


def test_starting_as_json(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_bench(json=True, starts=2, only=["start"]) == 0
    document = json.loads(capfd.readouterr().out)
    times = {figure["what"]: figure for figure in document["start"]}
    assert list(times) == ["python", "import signedwire", "first message"]
    assert all(len(figure["rounds"]) == 2 for figure in times.values())
    assert all(min(figure["rounds"]) > 0 for figure in times.values())


def test_a_program_that_fails_is_named(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(startup.PROGRAMS, "python", "raise OSError('no such thing')")
    assert run_bench(json=True, starts=1, only=["start"]) == 1
    document = json.loads(capfd.readouterr().out)
    assert document["start"] == []
    assert document["left_out"]["starting"] == ("it failed: 'python' ended: OSError: no such thing")


@pytest.mark.parametrize("arguments", [{"fanout": [0]}, {"fanout": [10**6]}, {"starts": 0}])
def test_senseless_arguments_are_refused(
    arguments: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_bench(**arguments) == 2  # type: ignore[arg-type]
    assert capsys.readouterr().err.startswith("signedwire bench: ")


def test_percentiles() -> None:
    assert percentiles([3.0]) == (3.0, 3.0)
    p50, p99 = percentiles([float(number) for number in range(101)])
    assert p50 == 50.0
    assert 98 <= p99 <= 100
