"""The report writes what a run has measured into the page, and nothing else of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benches import report
from benches.micro import STEPS
from benches.report import BEGIN, END, block, replace_block
from benches.results import FanOut, LinkCost, Measure, Results, Start, System

DOCS = Path(__file__).parent.parent / "docs"


def some_results() -> Results:
    ours = System(name="signedwire", version="1", wire="v2", loop="asyncio")
    theirs = System(name="pyzmq CURVE", version="2", wire="curve", loop="native")
    stored = System(name="signedwire", version="1", wire="v2", loop="asyncio", does="stored")
    return Results(
        machine={
            "date": "2026-01-02 03:04 UTC",
            "cores": 2,
            "cpu": "some CPU",
            "system": "Linux 6",
            "python": "3.11.7",
            "signedwire": "0.1.0",
            "load": 0.25,
        },
        settings={"seconds": 2.0, "sizes": [64], "rounds": 3},
        measures=[
            Measure(
                what=what,
                size=64,
                system=system,
                rounds=[low, low * 1.5, low * 2],
                sender_cpu=3.25,
                receiver_cpu=4.0,
            )
            for system, factor in ((ours, 1), (theirs, 4))
            for what, low in (
                ("messages/s", 1000.0 * factor),
                ("round trip p50", 1e-4 / factor),
                ("round trip p99", 3e-4 / factor),
            )
        ],
        stored=[Measure(what="messages/s", size=64, system=stored, rounds=[500.0])],
        links=[
            LinkCost(
                links=1000,
                nodes=(10, 100),
                loop="asyncio",
                seconds=1.5,
                dialer_cpu_ms=1.25,
                listener_cpu_ms=1.5,
                dialer_kib=None,
                listener_kib=40.0,
            )
        ],
        fanout=[
            FanOut(
                rounds=[2000.0, 3000.0, 4000.0],
                peers=100,
                loop="uvloop",
                size=64,
                at_a_time=10,
                chunk=1000,
                sent=9,
                lost=0,
                sender_cpu=3.0,
                receiver_cpu=4.0,
            )
        ],
        start=[Start(rounds=[0.3], what="first message")],
        micro={step: {64: 1.5} for step in STEPS},
        notes={"pyzmq CURVE": "what it includes", "nobody": "never measured"},
        left_out={"omnimesh": "it is not installed"},
    )


@pytest.fixture
def run() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(some_results().as_json()))
    return document


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "performance.md"
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    return path


@pytest.fixture
def file(tmp_path: Path, run: dict[str, Any]) -> Path:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(run))
    return path


@pytest.mark.parametrize(
    "text",
    [
        "Measured on 2026-01-02 03:04 UTC: signedwire 0.1.0, 2 cores, some CPU",
        "median of 3 rounds of 2 s",
        "### Throughput, 64 bytes",
        "| signedwire v2 on asyncio | 1,500 | 33 % | 3.2 / 4.0 | **0.25** |",
        "| pyzmq CURVE | 6,000 | 33 % | 3.2 / 4.0 |  |",
        "### Round trip, 64 bytes",
        "| signedwire v2 on asyncio | 150 µs | 33 % | 450 µs | 33 % | **4.00** | **4.00** |",
        "| 100 | 1,000 | uvloop | 3,000 | 33 % | 3.0 / 4.0 |  |",
        "| first message | 300 ms | 0 % |",
        "| verify batch of 256 (v2: hash each, check the root) | 1.50 µs |",
        "| 1,000 | asyncio | - / 40 | 1.2 / 1.5 | 1.50 s |",
        "| signedwire v2 on asyncio, stored, 64 bytes | 500 | 0 % |  |  |",
        "- **pyzmq CURVE**: what it includes",
        "- Messages lost: signedwire 0, pyzmq CURVE 0.",
        "- Left out: omnimesh: it is not installed.",
    ],
)
def test_the_block_has_what_was_measured(text: str, run: dict[str, Any]) -> None:
    assert text in block(run).replace("cores,\nsome", "cores, some")


def test_every_table_has_as_many_cells_in_each_row(run: dict[str, Any]) -> None:
    tables = [part for part in block(run).split("\n\n") if part.startswith("|")]
    assert len(tables) == 7
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_what_was_not_measured_is_not_there(run: dict[str, Any]) -> None:
    run |= {"measures": [], "stored": [], "links": [], "fanout": [], "start": [], "left_out": {}}
    text = block(run)
    assert "Steps" in text
    others = ("Throughput", "Round trip", "Links", "Fan-out", "fresh", "stores", "include")
    for other in (*others, "![", "nobody"):
        assert other not in text


def test_only_the_block_of_the_page_changes(page: Path, file: Path, run: dict[str, Any]) -> None:
    assert report.main([str(file), "--page", str(page), "--no-figure"]) == 0
    text = page.read_text()
    assert text == f"before\n{BEGIN}\n{block(run)}\n{END}\nafter\n"
    assert not page.with_suffix(".svg").exists()
    assert report.main([str(file), "--page", str(page), "--no-figure"]) == 0
    assert page.read_text() == text


@pytest.mark.parametrize(
    "text", ["", BEGIN, END, f"{END}\n{BEGIN}", f"{BEGIN}{END}{END}", f"{BEGIN}{BEGIN}{END}"]
)
def test_a_page_without_its_two_comments_is_refused(
    text: str, page: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page.write_text(text)
    assert report.main([str(file), "--page", str(page), "--no-figure"]) == 1
    assert capsys.readouterr().err.startswith("report: the page needs ")
    assert page.read_text() == text


@pytest.mark.parametrize("text", [None, "no JSON"])
def test_a_run_that_cannot_be_read_is_refused(
    text: str | None, page: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    assert report.main([str(file), "--page", str(page), "--no-figure"]) == 1
    assert capsys.readouterr().err.startswith("report: ")
    assert "old" in page.read_text()


def test_without_matplotlib_it_says_what_to_install(
    page: Path,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def find(name: str) -> None:
        return None

    monkeypatch.setattr("importlib.util.find_spec", find)
    assert report.main([str(file), "--page", str(page)]) == 1
    assert "pip install '.[plot]'" in capsys.readouterr().err
    assert "old" in page.read_text()


def test_the_figure_is_the_same_for_the_same_run(page: Path, file: Path) -> None:
    pytest.importorskip("matplotlib", reason="the figure needs the extra `plot`")
    figure = page.with_suffix(".svg")
    drawn = []
    for _ in range(2):
        assert report.main([str(file), "--page", str(page)]) == 0
        drawn.append(figure.read_text())
    assert drawn[0] == drawn[1]
    for text in ("signedwire v2 on asyncio", "pyzmq CURVE", "1,500", "round trip p99"):
        assert text in drawn[0]


def test_the_page_of_this_project_is_ready_for_it() -> None:
    page = (DOCS / "performance.md").read_text()
    assert f"{BEGIN}\nnew\n{END}" in replace_block(page, "new")
    assert "(performance.svg)" in page
    assert (DOCS / "performance.svg").exists()
