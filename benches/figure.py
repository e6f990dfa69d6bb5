"""The figure of docs/performance.md: throughput as bars, round trips as p50 and p99."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from matplotlib import rc_context
from matplotlib.figure import Figure

from benches.results import System

__all__ = ["draw"]

_OURS: Final = {"v2": "#1b6ca8", "v1": "#8fb8d8"}
_THEIRS: Final = "#b0a89f"
_STYLE: Final[Any] = {
    # The same run gives the same file, and its text stays text.
    "svg.hashsalt": "signedwire",
    "svg.fonttype": "none",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw(run: dict[str, Any], path: Path) -> None:
    """Write the figure of a run of the bench as SVG.

    A bar or point is the median of the rounds, the line across it goes from the lowest to
    the highest of them.
    """
    sizes = run["settings"]["sizes"]
    count = len(sizes) + 1
    with rc_context(_STYLE):
        figure = Figure(figsize=(8, 2.6 * count), layout="constrained")
        axes = figure.subplots(count)
        for axis, size in zip(axes, sizes, strict=False):
            _draw_throughput(axis, size, _figures(run, "messages/s", size))
        _draw_round_trips(axes[-1], run, sizes[0])
        # White, also where the page is dark.
        figure.savefig(path, format="svg", facecolor="white", metadata={"Date": None})


def _figures(run: dict[str, Any], what: str, size: int) -> list[dict[str, Any]]:
    return [each for each in run["measures"] if (each["what"], each["size"]) == (what, size)]


def _draw_throughput(axis: Any, size: int, measures: list[dict[str, Any]]) -> None:
    rates = [measure["median"] for measure in measures]
    axis.barh(
        range(len(measures)),
        rates,
        xerr=_errors(measures),
        color=[_colour(measure) for measure in measures],
        error_kw={"elinewidth": 1, "capsize": 2},
    )
    for place, measure in enumerate(measures):
        axis.annotate(
            f"{measure['median']:,.0f}",
            (max(measure["rounds"]), place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
        )
    axis.set_title(f"messages/s, {size} bytes (higher is better)", loc="left")
    axis.margins(x=0.15)
    axis.xaxis.set_major_formatter("{x:,.0f}")
    _name_rows(axis, measures)


def _draw_round_trips(axis: Any, run: dict[str, Any], size: int) -> None:
    measures: list[dict[str, Any]] = []
    # On a logarithmic axis a bar's length would say nothing, so these are points.
    for what, fill in (("round trip p50", "full"), ("round trip p99", "none")):
        measures = _figures(run, what, size)
        for place, measure in enumerate(measures):
            axis.errorbar(
                measure["median"] * 1e6,
                place,
                xerr=[[error[0] * 1e6] for error in _errors([measure])],
                fmt="o",
                fillstyle=fill,
                color=_colour(measure),
                ecolor="black",
                elinewidth=1,
                capsize=2,
                label=what if place == 0 else None,
            )
    axis.set_title(f"round trip in µs, {size} bytes (lower is better)", loc="left")
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.grid(axis="x", which="both", linewidth=0.3)
    axis.set_axisbelow(True)
    if measures:
        axis.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    _name_rows(axis, measures)


def _name_rows(axis: Any, measures: list[dict[str, Any]]) -> None:
    labels = [System(**measure["system"]).label for measure in measures]
    axis.set_yticks(range(len(labels)), labels)
    axis.invert_yaxis()
    axis.tick_params(axis="y", length=0)


def _errors(measures: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """How far the lowest and the highest round are from the median."""
    below = [measure["median"] - min(measure["rounds"]) for measure in measures]
    above = [max(measure["rounds"]) - measure["median"] for measure in measures]
    return below, above


def _colour(measure: dict[str, Any]) -> str:
    system = System(**measure["system"])
    return _OURS[system.wire] if system.is_ours else _THEIRS
