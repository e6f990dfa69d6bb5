"""The results for people: one table with ratios, and what the numbers mean."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from signedwire.bench.micro import STEPS
from signedwire.bench.results import Measure, Results

__all__ = ["show"]


def show(console: Console, results: Results) -> None:
    """Print everything."""
    machine = results.machine
    console.print()
    console.print(
        Text(f"signedwire {machine['signedwire']} on the v1 wire, {machine['date']}", style="bold")
    )
    console.print(
        f"{machine['cores']} cores, {machine['cpu']}, {machine['system']}, "
        f"Python {machine['python']}",
        style="dim",
        highlight=False,
    )
    console.print()
    console.print(_comparison(results))
    console.print()
    console.print(_steps(results))
    console.print()
    console.print(_losses(results), highlight=False)
    for name, reason in results.left_out.items():
        console.print(Text.assemble(("left out: ", "yellow"), f"{name}: {reason}"))
    console.print(_meaning(results), style="dim", highlight=False)


def _comparison(results: Results) -> Table:
    peers = {m.system for m in results.measures if not m.system.is_ours}
    peer = next(iter(peers), None)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("process to process")
    table.add_column("loop")
    table.add_column("signedwire", justify="right")
    if peer is not None:
        table.add_column(f"{peer.name} {peer.version}", justify="right")
        table.add_column("ratio", justify="right")
        table.add_column("better", style="dim")
    before = ""
    ours = [measure for measure in results.measures if measure.system.is_ours]
    for measure in sorted(ours, key=_order):
        what = f"{measure.what}, {measure.size} bytes"
        cells = ["" if what == before else what, measure.system.loop, _figure(measure)]
        before = what
        if peer is not None:
            theirs = results.find(measure.what, measure.size, peer)
            ratio = results.ratio(measure)
            cells += [
                "-" if theirs is None else _figure(theirs),
                "-" if ratio is None else f"[bold]{ratio:.2f}[/]",
                "higher" if measure.what == "messages/s" else "lower",
            ]
        table.add_row(*cells)
    return table


def _order(measure: Measure) -> tuple[bool, str, int]:
    return measure.what != "messages/s", measure.what, measure.size


def _figure(measure: Measure) -> str:
    spread = f"[dim]±{measure.spread * 100:.0f}%[/]"
    if measure.what == "messages/s":
        return f"{measure.median:,.0f} {spread}"
    return f"{measure.median * 1e6:,.0f} µs {spread}"


def _losses(results: Results) -> str:
    """How many messages of the throughput rounds arrived, by system."""
    sent: dict[str, int] = {}
    lost: dict[str, int] = {}
    for measure in results.measures:
        name = measure.system.name
        sent[name] = sent.get(name, 0) + measure.sent
        lost[name] = lost.get(name, 0) + measure.lost
    parts = [f"{name} {lost[name]:,} of {sent[name]:,}" for name in sent]
    return f"messages lost: {', '.join(parts)}"


def _steps(results: Results) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    sizes = results.settings["sizes"]
    table.add_column("one message, step by step")
    for size in sizes:
        table.add_column(f"{size} bytes", justify="right")
    table.add_column("", style="dim")
    for step, meaning in STEPS.items():
        table.add_row(step, *(f"{results.micro[step][size]:.2f} µs" for size in sizes), meaning)
    return table


def _meaning(results: Results) -> str:
    settings = results.settings
    sizes = "Sizes are of the encoded payload"
    queues = (
        f"Queue and inbox: {settings['send_queue_limit']} and {settings['inbox_limit']} messages"
    )
    if any(not measure.system.is_ours for measure in results.measures):
        sizes += (
            ", equal for both: omnimesh packs its share into an AgentCommand, signedwire "
            "takes the bytes"
        )
        queues += " (our defaults), 1000 and 1024 at omnimesh"
    return (
        f"Two processes on loopback, over TCP. Every message is signed by its sender and verified "
        f"by its receiver, through the public API. messages/s: what reached the receiving "
        f"application while the sender was sending in a loop, {settings['seconds']:g} s; what was "
        f"still under way then is only awaited. Round trip: one message there and one back, "
        f"then the next. "
        f"Medians of {settings['rounds']} rounds in which the systems take turns, after a "
        f"warm-up; ± is half the range. {sizes}. {queues}. Nothing is pinned to a core. "
        f"Took {results.seconds_taken:.0f} s."
    )
