"""Metrics: the table, what is made from it, histograms, and the values of running nodes."""

from __future__ import annotations

import dataclasses
import importlib
import math
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterable
from typing import Any, Final, get_type_hints

import pytest
from examples.text_exporter import as_text

from make_metrics import PAGE, ROOT, SOURCE, page, source
from signedwire import Distribution, Metric, MetricKind, Reason, Sample
from signedwire.delivery.store import StoreStats
from signedwire.metrics import (
    COUNTERS,
    HISTOGRAMS,
    METRICS,
    NO_VALUES,
    Histogram,
    SharedHistogram,
    samples_of,
)
from signedwire.stats import Counters, EvidenceStats, TransportStats
from wirekit import LIMIT, random_seed

TIMES: Final = [metric.name for metric in HISTOGRAMS]


def value_of(samples: Iterable[Sample], name: str) -> Any:
    (value,) = [sample.value for sample in samples if sample.metric.name == name]
    return value


class TestTable:
    def test_no_name_twice(self) -> None:
        names = [metric.name for metric in METRICS]
        assert len(set(names)) == len(names)

    @pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
    def test_each_row_is_whole(self, metric: Metric) -> None:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", metric.name)
        assert not metric.name.endswith(("_total", "_bucket", "_sum", "_count"))  # an exporter's
        assert metric.unit
        assert re.fullmatch(r"[A-Z1][^\n|]*\.", metric.help)  # the page has it in a table
        assert metric.name.endswith("_seconds") == (metric.unit == "seconds")
        is_histogram = metric.kind is MetricKind.HISTOGRAM
        assert bool(metric.buckets) == is_histogram
        assert is_histogram or not metric.is_shared
        assert not (metric.label and metric.kind is not MetricKind.COUNTER)
        bounds = metric.buckets
        assert list(bounds) == sorted(set(bounds))
        assert all(0 < bound < math.inf for bound in bounds)

    def test_each_counter_has_a_row_and_the_reverse(self) -> None:
        counters = {name for name in Counters.__annotations__ if not name.startswith("_")}
        assert counters == set(COUNTERS)
        with pytest.raises(AttributeError):
            Counters().invented = 1  # type: ignore[attr-defined]

    def test_each_field_has_a_row_and_the_reverse(self) -> None:
        fields = {field.name for field in dataclasses.fields(TransportStats)}
        parts = {"store", "evidence"}
        assert fields - parts == {metric.name for metric in METRICS if not metric.field}
        assert {metric.field.split(".")[0] for metric in METRICS if metric.field} == parts

    @pytest.mark.parametrize(
        ("part", "kind", "others"),
        [
            # Words, the hash, another form of the same, and what the histogram has.
            ("store", StoreStats, {"oldest_queued_at_us", "commit_median", "commit_longest"}),
            ("evidence", EvidenceStats, {"path"}),
        ],
    )
    def test_each_figure_of_a_part_has_a_row(
        self, part: str, kind: type[Any], others: set[str]
    ) -> None:
        told = {
            metric.field.split(".")[1] for metric in METRICS if metric.field.split(".")[0] == part
        }
        fields = {field.name for field in dataclasses.fields(kind)}
        assert fields - others - {"failure"} == told - {"has_failed", "oldest_queued_at"}
        assert "has_failed" in told

    def test_what_is_made_from_it_is_up_to_date(self) -> None:
        assert PAGE.read_text(encoding="utf-8") == page(), "run `make docs`"
        text = SOURCE.read_text(encoding="utf-8")
        assert source(text) == text, "run `make docs`"

    def test_the_page_has_each(self) -> None:
        rows = re.findall(r"^\| `(\w+)`.*?\| (\w+) \| (\w+) \| (.*) \|$", page(), re.MULTILINE)
        assert rows == [(one.name, one.kind, one.unit, one.help) for one in METRICS]


class TestHistogram:
    @pytest.mark.parametrize("kind", [Histogram, SharedHistogram])
    def test_buckets(self, kind: type[Histogram]) -> None:
        _, rng = random_seed()
        for _ in range(200):
            bounds = sorted({rng.uniform(0.001, 10) for _ in range(rng.randint(1, 20))})
            histogram, values = kind(tuple(bounds)), []
            for _ in range(rng.randint(0, 100)):
                choices = (rng.choice(bounds), rng.uniform(0, 12), rng.expovariate(1), 0.0)
                values.append(rng.choice(choices))  # a bound itself is in its bucket
                histogram.observe(values[-1])
            found = histogram.read()
            assert found.buckets == tuple(
                (bound, sum(value <= bound for value in values)) for bound in (*bounds, math.inf)
            )
            assert found.count == len(values)
            assert found.sum == pytest.approx(math.fsum(values))

    def test_no_values(self) -> None:
        assert (NO_VALUES.count, NO_VALUES.sum) == (0, 0)
        assert Histogram((1.0,)).read() == Distribution(((1.0, 0), (math.inf, 0)), 0.0)

    @pytest.mark.parametrize("value", [-1e-9, -math.inf, math.inf, math.nan])
    def test_what_is_no_duration_is_left_out(self, value: float) -> None:
        histogram = Histogram((1.0,))
        histogram.observe(value)
        assert histogram.read() == Histogram((1.0,)).read()

    def test_reading_while_another_thread_observes(self) -> None:
        histogram, is_over = Histogram((1.0, 2.0)), threading.Event()

        def observe() -> None:
            while not is_over.is_set():
                for value in (0.5, 1.5, 2.5):
                    histogram.observe(value)

        thread = threading.Thread(target=observe)
        thread.start()
        try:
            last = histogram.read()
            deadline = time.monotonic() + LIMIT
            while last.count < 20_000 and time.monotonic() < deadline:
                now = histogram.read()
                for (_, before), (_, after) in zip(last.buckets, now.buckets, strict=True):
                    assert before <= after
                assert [count for _, count in now.buckets] == sorted(c for _, c in now.buckets)
                last = now
        finally:
            is_over.set()
            thread.join()
        assert histogram.read().count >= 20_000


class Slow(float):
    """A value that takes as long to be added as the test wants."""

    begun: threading.Event
    may_end: threading.Event

    def __radd__(self, other: float) -> float:
        self.begun.set()
        assert self.may_end.wait(LIMIT)
        return float(self) + other


class TestThreads:
    def test_two_threads_observe_commits(self) -> None:
        """What one adds while the other is in the midst of it is not lost."""
        counters, slow = Counters(), Slow(1.0)
        slow.begun, slow.may_end = threading.Event(), threading.Event()
        first = threading.Thread(target=counters.observe, args=("commit_seconds", slow))
        second = threading.Thread(target=counters.observe, args=("commit_seconds", 2.0))
        first.start()
        assert slow.begun.wait(LIMIT)
        second.start()
        second.join(0.05)  # without a lock, it would have ended
        slow.may_end.set()
        first.join()
        second.join()
        histogram = counters._histograms["commit_seconds"].read()
        assert (histogram.count, histogram.sum) == (2, 3.0)

    def test_many(self) -> None:
        counters, each, interval = Counters(), 5_000, sys.getswitchinterval()

        def observe(value: float) -> None:
            for _ in range(each):
                counters.observe("commit_seconds", value)

        threads = [threading.Thread(target=observe, args=(2.0**n,)) for n in range(-3, 1)]
        sys.setswitchinterval(1e-6)
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(interval)
        histogram = counters._histograms["commit_seconds"].read()
        assert (histogram.count, histogram.sum) == (4 * each, each * (2 - 2.0**-3))

    def test_the_loop_takes_no_lock(self) -> None:
        """Only what other threads observe has one."""
        histograms = Counters()._histograms
        kinds = {name: type(histogram) for name, histogram in histograms.items()}
        assert kinds == dict.fromkeys(TIMES, Histogram) | {"commit_seconds": SharedHistogram}


def test_an_unknown_histogram() -> None:
    with pytest.raises(KeyError):
        Counters().observe("messages_sent", 1.0)


def full_stats() -> TransportStats:
    """Figures of each kind, none of them alike."""
    counters = Counters()
    for number, name in enumerate(COUNTERS, 1000):
        setattr(counters, name, number)
    for number, name in enumerate(TIMES, 1):
        for value in (0.001, 0.3, 1e9):
            counters.observe(name, value * number)
    counters.dropped.update({reason: number for number, reason in enumerate(Reason, 1)})
    return counters.snapshot(
        inbound_connections=1,
        inbound_limit=2,
        inbox_messages=3,
        outbound_connections=4,
        outbound_limit=5,
        evidence=None,
    )


class Family:
    """What the text says of one metric."""

    def __init__(self, name: str, help_: str) -> None:
        self.name, self.help, self.type = name, help_, ""
        self.series: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}


_NAME: Final = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL: Final = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"')
_SERIES: Final = re.compile(rf"({_NAME})(?:\{{(.*)\}})? (\S+)")
_NUMBER: Final = re.compile(r"[+-]?(?:\d+(?:\.\d+)?(?:e[+-]?\d+)?|Inf)|NaN")


def parse(text: str) -> dict[str, Family]:
    """Read the Prometheus text format 0.0.4, strictly: anything odd is an AssertionError."""
    assert text.endswith("\n")
    families: dict[str, Family] = {}
    family: Family | None = None
    for line in text[:-1].split("\n"):
        if found := re.fullmatch(rf"# HELP ({_NAME}) ((?:[^\\]|\\\\|\\n)*)", line):
            assert found[1] not in families, f"{found[1]} begins twice"
            family = families[found[1]] = Family(found[1], found[2])
        elif found := re.fullmatch(rf"# TYPE ({_NAME}) (counter|gauge|histogram)", line):
            assert family is not None
            assert family.name == found[1]
            assert not family.type
            assert not family.series
            family.type = found[2]
        else:
            found = _SERIES.fullmatch(line)
            assert found, line
            assert family is not None
            assert family.type
            ends = ("_bucket", "_sum", "_count") if family.type == "histogram" else ("",)
            assert found[1] in {family.name + end for end in ends}
            labels = tuple(_LABEL.findall(found[2] or ""))
            assert ",".join(f'{name}="{value}"' for name, value in labels) == (found[2] or "")
            assert len(dict(labels)) == len(labels)
            assert _NUMBER.fullmatch(found[3]), found[3]
            assert (found[1], labels) not in family.series, f"{line} is there twice"
            family.series[found[1], labels] = float(found[3])
    for family in families.values():
        assert family.series
        if family.type == "histogram":
            check_histogram(family)
        elif family.type == "counter":
            assert family.name.endswith("_total")
            assert all(value >= 0 for value in family.series.values())
    return families


def check_histogram(family: Family) -> None:
    buckets = [
        (labels, value)
        for (name, labels), value in family.series.items()
        if name.endswith("_bucket")
    ]
    bounds = [float(dict(labels)["le"]) for labels, _ in buckets]
    assert bounds == sorted(set(bounds))
    assert dict(buckets[-1][0])["le"] == "+Inf"
    counts = [value for _, value in buckets]
    assert counts == sorted(counts)
    assert family.series[f"{family.name}_count", ()] == counts[-1]
    assert family.series[f"{family.name}_sum", ()] >= 0


class TestExporter:
    def test_each_value_is_in_the_text(self) -> None:
        samples = list(samples_of(full_stats()))
        families = parse(as_text(samples))
        wanted: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        for metric, labels, value in samples:
            name = f"signedwire_{metric.name}"
            family = families[name + "_total" * (metric.kind is MetricKind.COUNTER)]
            assert (family.type, family.help) == (metric.kind, metric.help)
            if isinstance(value, Distribution):
                wanted[f"{name}_sum", ()] = value.sum
                wanted[f"{name}_count", ()] = value.count
                for bound, count in value.buckets:
                    text = "+Inf" if bound == math.inf else f"{bound:g}"
                    assert float(text) == bound
                    wanted[f"{name}_bucket", (("le", text),)] = count
            else:
                wanted[family.name, tuple(labels.items())] = value
        found = {key: value for one in families.values() for key, value in one.series.items()}
        assert found == wanted
        assert len(found) > len(METRICS)

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ("# TYPE", "# TIPE"),
            (" 1000\n", " 1,000\n"),
            ('le="+Inf"} 3', 'le="+Inf"} 2'),
            ('{reason="unknown peer"}', "{reason=unknown peer}"),
            ('{reason="unknown peer"}', '{reason="too large"}'),
            ("signedwire_inbound_limit 2", "signedwire_inbound_limits 2"),
            ("# HELP signedwire_inbound_limit", "# HELP signedwire_outbound_limit"),
        ],
    )
    def test_the_parser_is_strict(self, before: str, after: str) -> None:
        text = as_text(samples_of(full_stats()))
        assert before in text
        with pytest.raises(AssertionError):
            parse(text.replace(before, after, 1))

    def test_the_example_runs(self) -> None:
        program = [sys.executable, "-W", "error", str(ROOT / "examples" / "text_exporter.py"), "0"]
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as exporter:
            try:
                assert exporter.stdout is not None
                url = exporter.stdout.readline().strip()
                assert url.startswith("http://127.0.0.1:")
                opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
                with opener.open(url, timeout=LIMIT) as answer:
                    kind, text = answer.headers["Content-Type"], answer.read().decode()
            finally:
                exporter.kill()
        assert kind == "text/plain; version=0.0.4; charset=utf-8"
        families = parse(text)
        assert families.keys() == {
            f"signedwire_{metric.name}" + "_total" * (metric.kind is MetricKind.COUNTER)
            for metric in METRICS
            if not metric.field and not metric.label
        }
        assert families["signedwire_inbound_limit"].series["signedwire_inbound_limit", ()] > 0


def test_hints_are_those_of_the_kinds() -> None:
    """The type of each field is that of its metric."""
    scope = {"StoreStats": StoreStats, **vars(importlib.import_module("signedwire.stats"))}
    hints = get_type_hints(TransportStats, scope)
    for metric in METRICS:
        if not metric.field and not metric.label:
            is_histogram = metric.kind is MetricKind.HISTOGRAM
            assert hints[metric.name] is (Distribution if is_histogram else int)
