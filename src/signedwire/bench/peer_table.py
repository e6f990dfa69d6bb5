"""The results of a bench against a peer, as tables for people."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from signedwire.bench.columns import new_table, with_spread
from signedwire.bench.peer_bench import PeerResults

__all__ = ["show_peer"]


def show_peer(console: Console, results: PeerResults) -> None:
    """Print the results of one run."""
    console.print()
    # As `Text`: rich would replace a word between the colons of a DID by an emoji.
    console.print(Text(results.peer, style="bold"), soft_wrap=True)
    table = new_table("to this peer", "\tmessages/s", "\tMB/s", "\tCPU µs here")
    for rate in results.rates:
        table.add_row(
            f"{rate.size} bytes",
            with_spread(f"{rate.median:,.0f}", rate.spread),
            f"{rate.median * rate.size / 1e6:,.2f}",
            f"{rate.cpu:.1f}",
        )
    trips = new_table("there and back", *(f"\t{trip.what}" for trip in results.round_trips))
    figures = (
        with_spread(f"{trip.median * 1e6:,.0f} µs", trip.spread) for trip in results.round_trips
    )
    trips.add_row(f"{results.round_trips[0].size} bytes", *figures)
    for each in (table, trips):
        console.print()
        console.print(each)
    console.print()
    console.print(f"messages lost: {results.lost:,} of {results.sent:,}", highlight=False)
    console.print(_meaning(results), style="dim", highlight=False)


def _meaning(results: PeerResults) -> str:
    rounds = len(results.rates[0].rounds)
    in_flight = " or ".join(
        f"{count:,}" for count in dict.fromkeys(rate.in_flight for rate in results.rates)
    )
    return (
        f"messages/s (higher is better): accepted, each signed by this side, verified by the "
        f"peer, and with its signed receipt; {in_flight} under way at a time, from the first "
        f"call to the last receipt. MB/s are of payload alone. There and back (lower is "
        f"better): one message, echoed by the peer's application, then the next. Medians of "
        f"{rounds} round{'s' * (rounds != 1)} that alternate, after a warm-up; ± is half the "
        f"range. Lost is what the peer's application has not counted. "
        f"Took {results.seconds_taken:.0f} s."
    )
