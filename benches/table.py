"""The results for people: tables with ratios, and what the numbers mean."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benches.micro import STEPS
from benches.more_tables import fanout_table, more_meaning, start_table
from benches.peers import OMNIMESH
from benches.results import CommitCost, LinkCost, Measure, Results
from benches.stored import NATS
from signedwire.bench.columns import new_table as _table
from signedwire.bench.columns import with_spread

__all__ = ["show"]

_BUSY = 0.5
"""Load average per core from which on we say that the machine is shared."""


def show(console: Console, results: Results) -> None:
    """Print everything."""
    machine = results.machine
    console.print()
    console.print(Text(f"signedwire {machine['signedwire']}, {machine['date']}", style="bold"))
    console.print(
        f"{machine['cores']} cores, {machine['cpu']}, {machine['system']}, "
        f"Python {machine['python']}",
        style="dim",
        highlight=False,
    )
    load = machine["load"]
    if load is not None and load > _BUSY * machine["cores"]:
        console.print(
            f"shared: load average {load:.1f} when it began. Trust CPU per message, then ratios.",
            style="yellow",
            highlight=False,
        )
    for table in (
        _comparison(results),
        _stored(results),
        _cpu(results),
        _commits(results),
        _backlogs(results),
        _links(results),
        fanout_table(results),
        start_table(results),
        _steps(results),
    ):
        if table.row_count:
            console.print()
            console.print(table)
    console.print()
    if results.measures or results.stored:
        console.print(_losses(results), highlight=False)
    for name, reason in results.left_out.items():
        console.print(Text.assemble(("left out: ", "yellow"), f"{name}: {reason}"))
    for text in (
        _meaning(results),
        _stored_meaning(results),
        more_meaning(results),
        *_notes(results),
        _ending(results),
    ):
        if text:
            console.print(text, style="dim", highlight=False)


def _comparison(results: Results) -> Table:
    """Every system's figures; beside ours the ratio to each peer's."""
    peers = results.peers()
    # One word to a line, so that the table fits a terminal of 80 columns.
    columns = ("\n".join(("\t×", *peer.split())) for peer in peers)
    table = _table("process to process", "\tmedian", *columns)
    before = None
    for measure in sorted(results.measures, key=_order):
        if before != (measure.what, measure.size):
            table.add_row(f"[bold]{measure.what}, {measure.size} bytes[/]")
        before = measure.what, measure.size
        ratios = results.ratios(measure)
        cells = (f"[bold]{ratios[peer]:.2f}[/]" if peer in ratios else "" for peer in peers)
        table.add_row(measure.system.label, _figure(measure), *cells)
    return table


def _order(measure: Measure) -> tuple[bool, str, int]:
    return measure.what != "messages/s", measure.what, measure.size


def _figure(measure: Measure) -> str:
    is_rate = measure.what == "messages/s"
    figure = f"{measure.median:,.0f}" if is_rate else f"{measure.median * 1e6:,.0f} µs"
    return with_spread(figure, measure.spread)


def _stored(results: Results) -> Table:
    """With a store on both sides, beside the same without, and NATS JetStream."""
    has_nats = any(not measure.system.is_ours for measure in results.stored)
    columns = ["stored, messages/s", "\tsignedwire", "\twithout", "\tratio"]
    table = _table(*columns, *([f"\t{NATS}", "\tratio"] if has_nats else []))
    ours = [each for each in results.stored if each.system.does == "stored" and each.system.is_ours]
    for measure in sorted(ours, key=_order):
        ratios = (
            "-" if ratio is None else f"[bold]{ratio:.2f}[/]"
            for ratio in results.stored_ratios(measure)
        )
        cells = [f"{measure.size} bytes, {measure.system.loop}", _figure(measure)]
        for other, ratio in zip(results.beside_stored(measure), ratios, strict=True):
            cells += ["-" if other is None else _figure(other), ratio]
        table.add_row(*cells[: len(table.columns)])
    return table


def _commits(results: Results) -> Table:
    """What commits cost, beside a sync of the disk."""
    table = _table(
        "stored, peer away", "\trows", "\tcommit", "\tper row", "\ttold", "\tfdatasync", "\tratio"
    )
    for cost in results.commits:
        table.add_row(*_commit_cells(cost))
    return table


def _commit_cells(cost: CommitCost) -> list[str]:
    return [
        f"{cost.size} bytes, {'one by one' if cost.rows == 1 else 'as they come'}",
        f"{cost.rows:,.0f}",
        *(
            f"{seconds * 1e6:,.1f} µs" if seconds < 1e-4 else f"{seconds * 1e6:,.0f} µs"
            for seconds in (cost.commit, cost.commit / cost.rows, cost.row, cost.sync)
        ),
        "-" if cost.ratio is None else f"[bold]{cost.ratio:.2f}[/]",
    ]


def _backlogs(results: Results) -> Table:
    """What `send()` costs beside few and beside many that wait."""
    table = _table("send(), peer away", "\talone", "\ttogether", "\tstored with send_many()")
    for cost in results.backlogs:
        table.add_row(
            f"{cost.waiting:,} waiting, {cost.size} bytes",
            f"{cost.send * 1e6:,.0f} µs",
            f"{cost.rate:,.0f}/s",
            f"{cost.fill_rate:,.0f}/s",
        )
    if results.backlog_ratios:
        ratios = (f"[bold]{results.backlog_ratios[key]:.2f}[/]" for key in ("send", "rate"))
        table.add_row("ratio", *ratios)
    return table


def _cpu(results: Results) -> Table:
    """What a message costs each of the two processes."""
    sizes = results.settings["sizes"]
    table = _table("CPU µs per message, sender / receiver", *(f"\t{size} bytes" for size in sizes))
    measures = (*results.measures, *results.stored)
    for system in dict.fromkeys(measure.system for measure in measures if measure.sent):
        found = [results.find("messages/s", size, system) for size in sizes]
        table.add_row(system.label, *(_pair_of(measure) for measure in found))
    return table


def _pair_of(measure: Measure | None) -> str:
    if measure is None or measure.sender_cpu is None or measure.receiver_cpu is None:
        return "-"
    return f"{measure.sender_cpu:.1f} / {measure.receiver_cpu:.1f}"


def _links(results: Results) -> Table:
    table = _table(
        "v2 links, dialer / listener",
        "loop",
        "\tKiB per link",
        "\tCPU ms per link",
        "\tset up in",
    )
    for cost in results.links:
        table.add_row(
            f"{cost.links:,}, of {cost.nodes[0]} nodes to {cost.nodes[1]}",
            cost.loop,
            _memory(cost),
            f"{cost.dialer_cpu_ms:.1f} / {cost.listener_cpu_ms:.1f}",
            f"{cost.seconds:.2f} s",
        )
    return table


def _memory(cost: LinkCost) -> str:
    if cost.dialer_kib is None or cost.listener_kib is None:
        return "-"
    return f"{cost.dialer_kib:.0f} / {cost.listener_kib:.0f}"


def _steps(results: Results) -> Table:
    sizes = results.settings["sizes"]
    table = _table("per message, step by step", *(f"\t{size} bytes" for size in sizes), "")
    for step, meaning in STEPS.items() if results.micro else ():
        figures = (f"{results.micro[step][size]:.2f} µs" for size in sizes)
        table.add_row(step, *figures, f"[dim]{meaning}[/]")
    return table


def _losses(results: Results) -> str:
    """How many messages of the throughput rounds arrived, by system."""
    sent: dict[str, int] = {}
    lost: dict[str, int] = {}
    for measure in (*results.measures, *results.stored):
        if not measure.sent:
            continue
        system = measure.system
        name = f"{system.name} {system.wire}" if system.is_ours else system.name
        name += f" {system.does}" * (system.is_ours and bool(system.does))
        sent[name] = sent.get(name, 0) + measure.sent
        lost[name] = lost.get(name, 0) + measure.lost
    parts = [f"{name} {lost[name]:,} of {sent[name]:,}" for name in sent]
    return f"messages lost: {', '.join(parts)}"


def _meaning(results: Results) -> str:
    settings = results.settings
    if not (results.measures or results.links):
        return ""
    has_omnimesh = OMNIMESH in results.peers()
    packing = (
        ": omnimesh packs its share into an AgentCommand, signedwire takes the bytes"
        if has_omnimesh
        else ""
    )
    return (
        f"Two processes on loopback, through the public API. signedwire: every message is signed "
        f"by its sender and verified by its receiver. v2 includes TLS 1.3, ordering, credit, and "
        f"the receiver's signed receipt for each message: calls of "
        f"send_many() with {settings['messages_at_a_time']:,}, {settings['calls_at_a_time']} at a "
        f"time, which return when all are accepted. v1 is not "
        f"encrypted, and nobody answers: send() returns when the message is queued. messages/s "
        f"(higher is better): what reached the receiving application while the sender was "
        f"sending in a loop, {settings['seconds']:g} s; what was still under way then is only "
        f"awaited. Round trip (lower is better): one message there, one back, then the next; on "
        f"v2 each is a batch of one and has its receipt. ×: ours divided by theirs, of medians, "
        f"in the same loop where theirs is Python's. CPU: of the whole process, all threads, "
        f"user and system. Medians of {settings['rounds']} rounds in which the systems take "
        f"turns, after a warm-up; ± is half the range. Sizes are of the encoded payload, equal "
        f"for all{packing}. Queue and inbox: {settings['send_queue_limit']} and "
        f"{settings['inbox_limit']} messages (our defaults)"
        f"{', 1000 and 1024 at omnimesh' * has_omnimesh}. "
        f"Links: each from one node to another, all of one process to all of another, 32 at a "
        f"time; time and CPU include one message and its receipt, KiB are of idle links, by "
        f"growth of resident memory; nodes and their TLS contexts are not counted."
    )


def _stored_meaning(results: Results) -> str:
    if not (results.stored or results.commits):
        return ""
    settings = results.settings
    text = (
        f"Stored: each node has a store in a file of its own. messages/s includes, for each "
        f"message, that it is on the sender's disk before it is sent, and on the receiver's "
        f"before it is delivered and receipted; the receipt, on which it leaves the sender's "
        f"store; the application's done(), committed before the clock stops, and the word of "
        f"that to the sender. send_many() with {settings['messages_at_a_time']:,}, "
        f"{settings['calls_at_a_time']} calls at a time, until all are accepted, for "
        f"{settings['seconds']:g} s; medians of {settings['rounds']} rounds, in turns. without: "
        f"the same with done() and no store. On the disk means fdatasync has returned, of a "
        f"commit that many messages share."
    )
    if results.commits:
        text += (
            " Peer away: stores in one process, whose messages wait. commit: from the first "
            "statement of a transaction to its end, median of the last 512, one by one or as "
            "they come of one send_many(); told: from call to call, or message to message, that "
            "are told to be stored. fdatasync: of 4 KiB written over in the same folder, in turns "
            "with them; ratio: commit per row to that."
        )
    if results.backlogs:
        text += (
            f" send(), alone: until persisted, beside so many that wait; together: "
            f"{results.backlogs[0].at_a_time} of them at a time. Both stores take turns, call by "
            f"call. ratio: many to few waiting, the median of the turns; "
            f"meant is 0.8 to 1.2."
        )
    return text


def _notes(results: Results) -> list[str]:
    """What has to be known beside the figures of each peer that has some."""
    seen = {measure.system.name for measure in (*results.measures, *results.stored)}
    return [f"{name}: {note}" for name, note in results.notes.items() if name in seen]


def _ending(results: Results) -> str:
    return f"Nothing is pinned to a core. Took {results.seconds_taken:.0f} s."
