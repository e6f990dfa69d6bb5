"""The bench: a tiny run gives its table and its JSON, and its sizes are what they say."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

import pytest
from benches import nats_server, peers
from benches.links import crowds_for
from benches.nats_server import NatsServer, what_is_missing
from benches.payload import COMMAND, MAX_SIZE, v1_data_size
from benches.peers import CURVE, FLOOR, NATS_CORE, OMNIMESH
from benches.results import Measure, Results, System
from benches.running import run_bench

from signedwire.bench import MIN_SIZE

pytest.importorskip("rich")


def not_installed(package: str) -> str:
    return "" if util.find_spec(package) else f"{package} is not installed"


PEERS = (OMNIMESH, CURVE, NATS_CORE, FLOOR)
MISSING: dict[str, Callable[[], str]] = {
    OMNIMESH: lambda: not_installed("omnimesh"),  # it is for Linux on x86_64 alone
    CURVE: lambda: not_installed("zmq"),
    NATS_CORE: what_is_missing,
    FLOOR: lambda: "",
}
needs_nats = pytest.mark.skipif(bool(what_is_missing()), reason=what_is_missing())


def test_a_tiny_run_gives_a_table(capfd: pytest.CaptureFixture[str]) -> None:
    given = {"links": [6], "backlog": 5000, "fanout": [1, 2], "starts": 1}
    assert run_bench(seconds=0.2, sizes=[64], compare=False, rounds=1, **given) == 0  # type: ignore[arg-type]
    table = capfd.readouterr().out
    for what in ("messages/s", "round trip p50", "round trip p99"):
        assert re.search(rf"{what}, 64 bytes +\nsignedwire v2 on asyncio +[\d,]+ (µs )?±0%", table)
    assert re.search(r"signedwire v2 on asyncio +[\d.]+ / [\d.]+", table)
    assert re.search(r"6, of 2 nodes to 3 +asyncio +\S+ / \S+ +[\d.]+ / [\d.]+", table)
    assert re.search(r"verify +[\d.]+ µs", table)
    assert re.search(r"verify batch of 256 +[\d.]+ µs", table)
    assert re.search(r"2 peers +100 +asyncio +[\d,]+", table)
    assert re.search(r"first message +[\d.]+", table)
    assert re.search(r"\d+ cores?, ", table)
    assert re.search(r"64 bytes, asyncio +[\d,]+ ±\d+% +[\d,]+ ±\d+% +\d\.\d\d\n", table)
    assert re.search(r"signedwire v2 on asyncio, stored +[\d.]+ / [\d.]+", table)
    assert re.search(r"64 bytes, one by one +1 +[\d,.]+ µs", table)
    assert re.search(r"64 bytes, as they come +[\d,]+ +[\d,.]+ µs", table)
    assert re.search(r"5,000 waiting, 64 bytes +[\d,.]+ µs +[\d,]+/s +[\d,]+/s", table)
    assert re.search(r"ratio +\d+\.\d\d +\d+\.\d\d", table)
    for name in (*PEERS, "NATS JetStream"):
        assert f"left out: {name}: a run without comparison was asked for" in table
    assert max(map(len, table.splitlines())) <= 80


def test_a_tiny_run_gives_json(capfd: pytest.CaptureFixture[str]) -> None:
    document = run_for_json(
        capfd,
        sizes=[64, 1000],
        compare=False,
        rounds=2,
        links=[4],
        only=["messages", "links", "steps"],
    )
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
        assert measure["ratios"] == {}
        assert (measure["sender_cpu"] is not None) == (measure["what"] == "messages/s")
    for links in document["links"]:
        assert links["links"] == 4
        assert links["dialer_cpu_ms"] > 0
        assert links["listener_cpu_ms"] > 0
    assert document["links"][0]["loop"] == "asyncio"
    assert set(document["micro_us"]) == {
        *("sign", "verify", "encode", "decode", "frame decode"),
        *(f"{what} batch of {count}" for what in ("sign", "verify") for count in (1, 16, 256)),
    }
    assert document["machine"]["cores"] >= 1
    assert document["left_out"].keys() >= set(PEERS)


def test_what_a_store_costs_as_json(capfd: pytest.CaptureFixture[str]) -> None:
    document = run_for_json(
        capfd, sizes=[64, 1000], compare=False, rounds=1, backlog=2000, only=["store"]
    )
    assert not document["measures"]
    stored = [each for each in document["stored"] if each["system"]["loop"] == "asyncio"]
    assert {(each["system"]["does"], each["size"]) for each in stored} == {
        (does, size) for does in ("done", "stored") for size in (64, 1000)
    }
    for measure in stored:
        assert measure["median"] > 0
        assert measure["lost"] == 0
        is_stored = measure["system"]["does"] == "stored"
        assert (measure["ratio_without_store"] is not None) == is_stored
        assert measure["ratio_nats"] is None
    assert [(cost["size"], cost["rows"] == 1) for cost in document["commits"]] == [
        (64, True),
        (64, False),
        (1000, True),
        (1000, False),
    ]
    for cost in document["commits"]:
        assert cost["rows"] >= 1
        assert min(cost["commit"], cost["row"], cost["sync"], cost["ratio"]) > 0
    assert [cost["waiting"] for cost in document["backlogs"]] == [1000, 2000]
    assert document["backlog_ratios"].keys() == {"send", "rate"}
    assert "NATS JetStream" in document["left_out"]


def run_for_json(capfd: pytest.CaptureFixture[str], **arguments: Any) -> dict[str, Any]:
    assert run_bench(seconds=0.2, json=True, **arguments) == 0
    document: dict[str, Any] = json.loads(capfd.readouterr().out)
    return document


def test_a_part_alone(capfd: pytest.CaptureFixture[str]) -> None:
    document = run_for_json(capfd, sizes=[64], only=["steps"])
    assert document["settings"]["only"] == ["steps"]
    assert document["micro_us"]
    for other in ("measures", "stored", "commits", "backlogs", "links", "fanout", "start"):
        assert not document[other]
    assert run_bench(seconds=0.2, sizes=[64], only=["steps"]) == 0
    table = capfd.readouterr().out
    assert "verify" in table
    assert "messages/s" not in table


@needs_nats
def test_jetstream_beside_us(capfd: pytest.CaptureFixture[str]) -> None:
    document = run_for_json(capfd, sizes=[64], rounds=1, backlog=0, only=["store"])
    assert not document["left_out"].get("NATS JetStream")
    assert "does not sync each" in document["notes"]["NATS JetStream"]
    measures = {
        (measure["system"]["name"], measure["system"]["does"]): measure
        for measure in document["stored"]
        if measure["system"]["loop"] == "asyncio"
    }
    assert measures["signedwire", "stored"]["ratio_nats"] > 0
    theirs = measures["NATS JetStream", "stored"]
    assert theirs["median"] > 0
    assert theirs["lost"] == 0
    assert theirs["ratio_nats"] is None


def test_jetstream_is_left_out_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_server, "_program", lambda: None)
    assert what_is_missing().startswith("nats-server is not installed")


@needs_nats
def test_the_server_is_stopped(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as server:
        assert re.fullmatch(r"nats://127\.0\.0\.1:\d+", server.url)
        assert is_running(server.pid)
    assert not is_running(server.pid)


@needs_nats
def test_the_server_ends_with_a_bench_that_is_killed(tmp_path: Path) -> None:
    bench = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path\n"
            "from benches.nats_server import NatsServer\n"
            "print(NatsServer(Path(sys.argv[1])).pid, flush=True); time.sleep(60)",
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert bench.stdout is not None
    pid = int(bench.stdout.readline())
    bench.kill()
    bench.wait()
    bench.stdout.close()
    deadline = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(pid)


def is_running(pid: int) -> bool:
    done = subprocess.run(
        ["ps", "-o", "stat=,args=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return "nats-server" in done.stdout and not done.stdout.startswith("Z")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The saved document of a run beside every peer that is here."""
    file = tmp_path_factory.mktemp("bench") / "folder" / "run.json"
    assert run_bench(seconds=0.2, sizes=[64], rounds=1, only=["messages"], save=file) == 0
    document: dict[str, Any] = json.loads(file.read_text())
    return document


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_beside_us(peer: str, compared: dict[str, Any]) -> None:
    if reason := MISSING[peer]():
        pytest.skip(reason)
    assert not [name for name in compared["left_out"] if name.startswith(peer)]
    assert compared["notes"][peer]
    theirs = [each for each in compared["measures"] if each["system"]["name"] == peer]
    whats = {"round trip p50", "round trip p99"} | ({"messages/s"} if peer != FLOOR else set())
    assert {each["what"] for each in theirs} == whats
    for measure in theirs:
        assert measure["median"] > 0
        assert measure["lost"] == 0
        assert measure["ratios"] == {}
    for measure in compared["measures"]:
        if measure["system"]["name"] == "signedwire" and measure["what"] in whats:
            assert measure["ratios"][peer] > 0


def test_what_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> None:
        return None

    monkeypatch.setattr("importlib.util.find_spec", find)
    monkeypatch.setitem(sys.modules, "zmq", None)
    monkeypatch.setattr(nats_server, "_program", lambda: None)
    monkeypatch.setattr(peers, "start_pairs", lambda stack, results, starts, tell: list(starts))
    results = Results(machine={}, settings={})
    with contextlib.ExitStack() as stack:
        systems: Any = peers.open_pairs(stack, results, True, 5.0, print)
    assert {system.name for system in systems} == {"signedwire", FLOOR}
    assert results.notes.keys() == {FLOOR}
    for peer in set(PEERS) - {FLOOR}:
        assert "install" in results.left_out[peer]


@needs_nats
async def test_what_nats_drops_does_not_hold_its_sender_up(tmp_path: Path) -> None:
    from benches.nats_core import NatsPeer

    with NatsServer(tmp_path) as server:
        sender = NatsPeer(server.url)
        await sender.open()
        await sender.route("nobody", server.url)
        async with asyncio.timeout(20):
            report = await sender.send(size=64, seconds=0.5)
        await sender.close()
    # As many as may be in flight, and then on, although none of them came.
    assert report["sent"] > nats_server.CORE_WINDOW


def test_ratios_are_to_each_peer_in_the_same_loop() -> None:
    def measure(name: str, loop: str, rate: float, what: str = "messages/s") -> Measure:
        system = System(name=name, version="1", wire="w", loop=loop)
        return Measure(what=what, size=64, system=system, rounds=[rate])

    ours = measure("signedwire", "asyncio", 100.0)
    results = Results(
        machine={},
        settings={},
        measures=[
            ours,
            measure("signedwire", "uvloop", 7.0),
            measure("native one", "native", 50.0),
            measure("one of loops", "asyncio", 200.0),
            measure("one of loops", "uvloop", 3.0),
            measure("slow one", "native", 0.0),
            measure("floor", "asyncio", 1.0, "round trip p50"),
        ],
    )
    assert results.peers() == ["native one", "one of loops", "slow one", "floor"]
    assert results.ratios(ours) == {"native one": 2.0, "one of loops": 0.5}
    assert [results.ratios(theirs) for theirs in results.measures[2:]] == [{}] * 5
    assert results.as_json()["measures"][0]["ratios"] == results.ratios(ours)


@pytest.mark.parametrize(
    "arguments",
    [
        {"seconds": 0},
        {"rounds": 0},
        {"sizes": []},
        {"sizes": [64, 1025]},
        {"sizes": [1]},
        {"links": [0]},
        {"backlog": -1},
        {"only": []},
        {"only": ["stores"]},
    ],
)
def test_senseless_arguments_are_refused(
    arguments: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_bench(**arguments) == 2  # type: ignore[arg-type]
    assert capsys.readouterr().err.startswith("signedwire bench: ")


def test_where_nothing_can_be_saved_nothing_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_bench(save=tmp_path) == 2
    assert f"cannot save to {tmp_path}: " in capsys.readouterr().err


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
