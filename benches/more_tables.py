"""Fan-out and starting for people: tables, and what the numbers mean."""

from __future__ import annotations

from rich.table import Table

from benches.fanout import IN_FLIGHT, SIZE
from benches.results import Results, Start
from signedwire.bench.columns import new_table, with_spread

__all__ = ["fanout_table", "more_meaning", "start_table"]


def fanout_table(results: Results) -> Table:
    """Messages per second to all peers together."""
    table = new_table(
        "fan-out, one node to",
        "in calls of",
        "loop",
        "\tmessages/s",
        "\tto one",
        "\tCPU µs each",
        "\tlost",
    )
    for figure in results.fanout:
        ratio = results.fanout_ratio(figure)
        table.add_row(
            f"{figure.peers:,} peer{'s' * (figure.peers != 1)}",
            f"{figure.chunk:,}",
            figure.loop,
            with_spread(f"{figure.median:,.0f}", figure.spread),
            "-" if ratio is None else f"[bold]{ratio:.2f}[/]",
            f"{figure.sender_cpu:.1f} / {figure.receiver_cpu:.1f}",
            f"{figure.lost:,} of {figure.sent:,}",
        )
    return table


def start_table(results: Results) -> Table:
    """Milliseconds of a fresh process, beside those of Python alone."""
    table = new_table("a fresh process", "\tms", "\tmore than python")
    least: Start | None = next(iter(results.start), None)
    for figure in results.start:
        assert least is not None
        more = (figure.median - least.median) * 1e3
        table.add_row(
            figure.what,
            with_spread(f"{figure.median * 1e3:.1f}", figure.spread),
            "-" if figure is least else f"[bold]{more:.1f}[/]",
        )
    return table


def more_meaning(results: Results) -> str:
    """What has to be known beside them; empty where nothing was measured."""
    text = ""
    if results.fanout:
        text = (
            f"Fan-out: one node in one process sends {SIZE} bytes, as fast as it can, to nodes "
            f"that are all in one other process; to one: the ratio to the figure with one peer. "
            f"For every number of peers {IN_FLIGHT:,} messages are in flight, in calls of "
            f"send_many() with as many payloads as the table says, in turn. messages/s: accepted, "
            f"with their signed receipts, from the first call to the last receipt. Links are up "
            f"before. CPU: sender / receiver. "
        )
    if results.start:
        count = len(results.start[0].rounds)
        text += (
            f"A fresh process: from its start until it has imported signedwire, or has made a "
            f"key and a node, and holds the signed receipt of a message to a peer that was "
            f"running already. Medians of {count} runs in turns, files warm; ± is half the range."
        )
    return text.strip()
