"""Bring docs/performance.md up to date: `python -m benches.report RUN`, `make report`.

RUN is what `python -m benches --save RUN` has written. The figure docs/performance.svg is
drawn anew, which needs matplotlib, the extra `plot`; and so is what stands in the page
between two comments, `BEGIN` and `END`. All else in it is written by hand and stays.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from importlib import util
from pathlib import Path
from typing import Any, Final

from benches.micro import STEPS
from benches.results import System

__all__ = ["BEGIN", "END", "block", "main", "replace_block"]

BEGIN: Final = "<!-- measured: written by python -m benches.report -->"
END: Final = "<!-- measured: end -->"

_PAGE: Final = Path(__file__).parent.parent / "docs" / "performance.md"
_FIGURE: Final = "performance.svg"
_WIDTH: Final = 88

Run = dict[str, Any]
"""The document of one run of the bench."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write figure and tables of a run; the exit code.

    Returns:
        0; 1 if nothing was written, after a sentence that says why.
    """
    parser = argparse.ArgumentParser("python -m benches.report", description=__doc__)
    parser.add_argument("run", type=Path, help="what `python -m benches --save` has written")
    parser.add_argument("--page", type=Path, default=_PAGE)
    parser.add_argument(
        "--no-figure", action="store_true", help="leave the figure as it is; needs no matplotlib"
    )
    options = parser.parse_args(arguments)
    if not options.no_figure and util.find_spec("matplotlib") is None:
        # Tables of one run beside the figure of another would be worse than neither.
        return _refuse("the figure needs matplotlib: pip install '.[plot]', or --no-figure")
    try:
        run: Run = json.loads(options.run.read_text(encoding="utf-8"))
        page = options.page.read_text(encoding="utf-8")
        page = replace_block(page, block(run))
    except (OSError, ValueError) as error:
        return _refuse(str(error))
    if not options.no_figure:
        from benches.figure import draw

        draw(run, options.page.with_name(_FIGURE))
    options.page.write_text(page, encoding="utf-8")
    return 0


def _refuse(sentence: str) -> int:
    sys.stderr.write(f"report: {sentence}\n")
    return 1


def replace_block(page: str, text: str) -> str:
    """The page with `text` between its two comments.

    Raises:
        ValueError: it does not have each of them once, in this order.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in before + after:
        raise ValueError(f"the page needs {BEGIN} and, after it, {END}, each once")
    return f"{before}{begin}\n{text}\n{end}{after}"


def block(run: Run) -> str:
    """What stands between the comments. Parts that the run has not measured are not there."""
    parts = [
        _machine(run),
        f"![Throughput and round trips by system]({_FIGURE})" if run["measures"] else "",
        *(_throughput(run, size) for size in run["settings"]["sizes"]),
        _round_trips(run),
        _fanout(run),
        _start(run),
        _steps(run),
        _links(run),
        _stored(run),
        _notes(run),
    ]
    return "\n\n".join(filter(None, parts))


def _machine(run: Run) -> str:
    machine, settings = run["machine"], run["settings"]
    load = machine["load"]
    shared = "" if load is None else f", load average {load:.1f} when it began"
    return textwrap.fill(
        f"Measured on {machine['date']}: signedwire {machine['signedwire']}, {machine['cores']} "
        f"cores, {machine['cpu']}, {machine['system']}, Python {machine['python']}{shared}. "
        f"Each figure is the median of {settings['rounds']} rounds of {settings['seconds']:g} s "
        f"in which the systems take turns; ± is half the distance from the lowest to the highest.",
        _WIDTH,
    )


def _throughput(run: Run, size: int) -> str:
    measures = _figures(run, "messages/s", size)
    peers = _peers(measures)
    rows = (
        [
            _label(measure),
            f"{measure['median']:,.0f}",
            _spread(measure),
            f"{measure['sender_cpu']:.1f} / {measure['receiver_cpu']:.1f}",
            *_ratios(measure, peers),
        ]
        for measure in measures
    )
    columns = ["messages/s", "±", "CPU µs per message, sender / receiver"]
    columns += [f"× {peer}" for peer in peers]
    return _section(f"Throughput, {size} bytes", ["higher is better", *columns], rows)


def _round_trips(run: Run) -> str:
    size = run["settings"]["sizes"][0]
    measures = _figures(run, "round trip p50", size)
    slowest = {_label(each): each for each in _figures(run, "round trip p99", size)}
    peers = _peers(measures)
    rows = (
        [
            _label(measure),
            *(cell for each in (measure, slowest[_label(measure)]) for cell in _microseconds(each)),
            *_ratios(measure, peers),
            *_ratios(slowest[_label(measure)], peers[-1:]),
        ]
        for measure in measures
    )
    columns = ["p50", "±", "p99", "±", *(f"p50 × {peer}" for peer in peers)]
    columns += [f"p99 × {peer}" for peer in peers[-1:]]  # the floor, where it was measured
    return _section(f"Round trip, {size} bytes", ["lower is better", *columns], rows)


def _fanout(run: Run) -> str:
    rows = (
        [
            f"{figure['peers']:,}",
            f"{figure['chunk']:,}",
            figure["loop"],
            f"{figure['median']:,.0f}",
            _spread(figure),
            f"{figure['sender_cpu']:.1f} / {figure['receiver_cpu']:.1f}",
            _ratio(figure["ratio"]),
        ]
        for figure in run["fanout"]
    )
    columns = ["peers", "in calls of", "loop", "messages/s, all together", "±"]
    columns += ["CPU µs per message, sender / receiver", "× one peer"]
    return _section("Fan-out, one node to many, 64 bytes", columns, rows)


def _start(run: Run) -> str:
    rows = (
        [figure["what"], f"{figure['median'] * 1e3:.0f} ms", _spread(figure)]
        for figure in run["start"]
    )
    return _section("A fresh process", ["until", "median", "±"], rows)


def _steps(run: Run) -> str:
    sizes = run["settings"]["sizes"]
    rows = (
        [f"{step} ({STEPS[step]})", *(f"{costs[str(size)]:.2f} µs" for size in sizes)]
        for step, costs in run["micro_us"].items()
    )
    columns = ["of one message", *(f"{size} bytes" for size in sizes)]
    return _section("Steps, by payload size and by batch", columns, rows)


def _links(run: Run) -> str:
    rows = (
        [
            f"{cost['links']:,}",
            cost["loop"],
            _both_ends(cost, "kib", "{:.0f}"),
            _both_ends(cost, "cpu_ms", "{:.1f}"),
            f"{cost['seconds']:.2f} s",
        ]
        for cost in run["links"]
    )
    columns = ["links", "loop", "KiB per link, dialer / listener"]
    columns += ["CPU ms per link, dialer / listener", "all set up in"]
    return _section("Links, by their number", columns, rows)


def _stored(run: Run) -> str:
    rows = (
        [
            f"{_label(measure)}, {measure['size']} bytes",
            f"{measure['median']:,.0f}",
            _spread(measure),
            _ratio(measure["ratio_without_store"]),
            _ratio(measure["ratio_nats"]),
        ]
        for measure in run["stored"]
    )
    columns = ["higher is better", "messages/s", "±", "× without stores", "× NATS JetStream"]
    return _section("With stores on both sides", columns, rows)


def _notes(run: Run) -> str:
    """What the others' figures include, what was lost, and who is not there."""
    lost: dict[str, int] = {}
    for measure in (*run["measures"], *run["stored"]):
        name = measure["system"]["name"]
        lost[name] = lost.get(name, 0) + measure["lost"]
    items = [f"**{name}**: {note}" for name, note in run["notes"].items() if name in lost]
    if lost:
        counts = ", ".join(f"{name} {count:,}" for name, count in lost.items())
        items.append(f"Messages lost: {counts}.")
    items += [f"Left out: {name}: {reason}." for name, reason in run["left_out"].items()]
    lines = (
        textwrap.fill(f"- {item}", _WIDTH, subsequent_indent="  ", break_on_hyphens=False)
        for item in items
    )
    return "\n".join(["### What the others include", "", *lines]) if items else ""


def _figures(run: Run, what: str, size: int) -> list[dict[str, Any]]:
    return [each for each in run["measures"] if (each["what"], each["size"]) == (what, size)]


def _peers(measures: Iterable[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(peer for measure in measures for peer in measure["ratios"]))


def _label(measure: dict[str, Any]) -> str:
    return System(**measure["system"]).label


def _spread(measure: dict[str, Any]) -> str:
    return f"{measure['spread'] * 100:.0f} %"


def _microseconds(measure: dict[str, Any]) -> Iterator[str]:
    yield f"{measure['median'] * 1e6:,.0f} µs"
    yield _spread(measure)


def _ratios(measure: dict[str, Any], peers: list[str]) -> list[str]:
    return [_ratio(measure["ratios"].get(peer)) for peer in peers]


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"**{ratio:.2f}**"


def _both_ends(cost: dict[str, Any], what: str, form: str) -> str:
    ends = (cost[f"{end}_{what}"] for end in ("dialer", "listener"))
    return " / ".join("-" if each is None else form.format(each) for each in ends)


def _section(title: str, columns: list[str], rows: Iterable[list[str]]) -> str:
    """A table under its heading; nothing where it has no rows."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if not lines:
        return ""
    rule = "|".join(["---", *("--:" for _ in columns[1:])])
    return "\n".join([f"### {title}", "", f"| {' | '.join(columns)} |", f"|{rule}|", *lines])


if __name__ == "__main__":
    raise SystemExit(main())
