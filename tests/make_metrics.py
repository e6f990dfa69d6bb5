"""Write what is made from the table of metrics: `make docs`, or `python tests/make_metrics.py`.

docs/metrics.md            the page, as a whole
src/signedwire/stats.py    the fields of `TransportStats`, between two comments
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Final

from signedwire.metrics import HISTOGRAMS, METRICS, Metric, MetricKind

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "metrics.md"
SOURCE: Final = ROOT / "src" / "signedwire" / "stats.py"
BEGIN: Final = "    # -- made from metrics.METRICS by `make docs`\n"
END: Final = "    # -- end\n"

_HEAD: Final = """\
# Metrics

`node.metrics()` returns the value of each metric now, as a list of
`(metric, labels, value)`. Any thread may call it, and it does not block. `metric` is a
descriptor with `name`, `kind`, `unit` and `help`. `labels` is a mapping: for `dropped` it has the
label `reason`, else it is empty. `value` is a number, or for a histogram a `Distribution`:

- `count` and `sum` are the number and the sum of all values.
- `buckets` is a tuple of pairs `(bound, number of values up to bound)`. The numbers are
  cumulative, and the last bound is infinite, as in Prometheus.

`examples/text_exporter.py` serves all metrics in the Prometheus text format, in one short file.
`node.stats()` has the same numbers as attributes, and `node.peers()` has the status of each peer.
No metric has a DID as a label: anybody can make DIDs, and so could make an exporter's memory grow.

Counters begin at 0 when the node starts. Metrics of the store or of the evidence log are absent
if the node has none.

| metric | kind | unit | meaning |
|---|---|---|---|
"""
_MIDDLE: Final = """
## Buckets of the histograms

A histogram counts values by size, in fixed buckets. The table has the bounds in seconds, without
the last one, which is infinite.

| histogram | bounds |
|---|---|
"""
_TYPES: Final = {
    MetricKind.COUNTER: "int = 0",
    MetricKind.GAUGE: "int = 0",
    MetricKind.HISTOGRAM: "Distribution = NO_VALUES",
}


def page() -> str:
    """The text of docs/metrics.md."""
    rows = [f"| {_name(one)} | {one.kind} | {one.unit} | {one.help} |\n" for one in METRICS]
    buckets = [
        f"| `{one.name}` | {', '.join(f'{bound:g}' for bound in one.buckets)} |\n"
        for one in HISTOGRAMS
    ]
    return "".join((_HEAD, *rows, _MIDDLE, *buckets))


def _name(metric: Metric) -> str:
    label = f", by label `{metric.label}`" if metric.label else ""
    return f"`{metric.name}`{label}"


def fields() -> str:
    """The fields of `TransportStats` that are metrics, as source code."""
    return "".join(_field(metric) for metric in METRICS if not metric.field)


def _field(metric: Metric) -> str:
    type_ = _TYPES[metric.kind]
    if metric.label:
        type_ = "Mapping[Reason, int] = field(default_factory=dict)"
    gauge = "Gauge. " if metric.kind is MetricKind.GAUGE else ""
    text = textwrap.fill(
        f'"""{gauge}{metric.help}"""',
        99,
        initial_indent="    ",
        subsequent_indent="    ",
        break_on_hyphens=False,
        break_long_words=False,
    )
    return f"    {metric.name}: {type_}\n{text}\n"


def source(before: str) -> str:
    """The text of stats.py with these fields."""
    head, _, rest = before.partition(BEGIN)
    _, end, tail = rest.partition(END)
    return head + BEGIN + fields() + end + tail


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    SOURCE.write_text(source(SOURCE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"wrote {PAGE.relative_to(ROOT)} and {SOURCE.relative_to(ROOT)}\n")
