"""What one node sends to 1, 10, 100 and 1000 peers together.

The sender is one node in one process, the peers are as many nodes in another; all links
are up before a clock starts. For each number of peers there is such a pair of processes
for each event loop; those of a loop take turns, round by round.

What is in flight is the same for all numbers of peers, `IN_FLIGHT` messages: ten calls
of `send_many()` at a time with 1000 payloads each, and, in turns with it, a hundred with
100 each. The next call is to whoever is next in turn. So one column tells what peers
cost, and the two beside each other what smaller batches do. A program that has queues
to work off sends like this; one that tells a thousand peers one thing each has batches
of one, and less than this.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Sequence
from typing import Any, Final, Self

from benches.children import Child, ChildGone
from benches.descriptors import hard_limit
from benches.fanout_child import SPARE_DESCRIPTORS
from benches.results import FanOut, Results
from benches.rounds import loops
from signedwire.bench import Tell

__all__ = ["CALLS", "IN_FLIGHT", "MAX_PEERS", "SIZE", "measure_fanout"]

IN_FLIGHT: Final = 10_000
"""Messages that are sent and not yet accepted, whatever the number of peers."""
CALLS: Final = (1000, 100)
"""Payloads of one `send_many()`; as many calls at a time as make `IN_FLIGHT`."""
MAX_PEERS: Final = 10_000
SIZE: Final = 64
"""Payload, bytes."""
_CHILD: Final = "benches.fanout_child"
_START_SECONDS: Final = 30.0
_SECONDS_PER_PEER: Final = 0.05
"""To make a node and its link, on a slow machine."""
_SLACK: Final = 20.0
_MAX_WARM_UP: Final = 0.3


class FanOutPair:
    """A sending process and one with all its peers, linked.

    Args:
        limit: Seconds after which both processes end, whatever happened.
    """

    def __init__(self, peers: int, loop: str, limit: float) -> None:
        self.peers = peers
        self._children = contextlib.ExitStack()
        timeout = _START_SECONDS + peers * _SECONDS_PER_PEER
        with contextlib.ExitStack() as stack:
            self._sender, self._receiver = (
                stack.enter_context(Child(name, _CHILD, loop, limit=limit))
                for name in ("the sender", "the process with all peers")
            )
            others = self._receiver.ask("open", nodes=peers, timeout=timeout)
            self._sender.ask("link", peers=others, timeout=timeout)
            self._children = stack.pop_all()

    def turn(self, seconds: float, chunk: int) -> dict[str, Any]:
        """Send for so long: "rate", "sent", "lost", and CPU seconds of both sides."""
        # Answered before anything is sent, or the first messages would be counted elsewhere.
        self._receiver.ask("reset")
        counting = self._receiver.begin("receive")
        sending = self._sender.ask(
            "send",
            at_a_time=IN_FLIGHT // chunk,
            chunk=chunk,
            size=SIZE,
            seconds=seconds,
            timeout=seconds + _SLACK,
        )
        self._receiver.ask("expect", count=sending["sent"])
        report = self._receiver.result(counting, "receive", _SLACK)
        return {
            "rate": sending["sent"] / sending["seconds"],
            "sent": sending["sent"],
            "lost": sending["sent"] - report["received"],
            "sender_cpu": sending["cpu"],
            "receiver_cpu": report["cpu"],
        }

    def close(self) -> None:
        self._children.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def measure_fanout(
    results: Results, counts: Sequence[int], seconds: float, rounds: int, tell: Tell
) -> None:
    """Rounds that alternate over the counts; what does not fit is named in `left_out`."""
    fitting = [count for count in counts if _fits(count, results.left_out)]
    for loop in loops(results.left_out):
        with contextlib.ExitStack() as stack:
            pairs = _start(stack, results, fitting, loop, seconds, rounds, tell)
            turns = _turns(pairs, results, loop, seconds, rounds, tell)
        results.fanout += [_figure(*key, loop, each) for key, each in turns.items()]


def _fits(peers: int, left_out: dict[str, str]) -> bool:
    needed = 2 * peers + SPARE_DESCRIPTORS
    limit = hard_limit()
    if needed > limit:
        left_out[f"fan-out to {peers:,} peers"] = (
            f"their process needs {needed:,} descriptors, and may have {limit:,.0f}: see ulimit -Hn"
        )
    return needed <= limit


def _name(peers: int, loop: str) -> str:
    return f"fan-out to {peers:,} peer{'s' * (peers != 1)} on {loop}"


def _start(
    stack: contextlib.ExitStack,
    results: Results,
    counts: Sequence[int],
    loop: str,
    seconds: float,
    rounds: int,
    tell: Tell,
) -> list[FanOutPair]:
    """Those that start; the others are named in `results.left_out`."""
    starting = len(counts) * _START_SECONDS + 2 * sum(counts) * _SECONDS_PER_PEER
    limit = starting + (rounds + 1) * len(counts) * len(CALLS) * (seconds + _SLACK)
    pairs = []
    for peers in counts:
        tell(f"linking {peers:,} peers on {loop}")
        try:
            pairs.append(stack.enter_context(FanOutPair(peers, loop, limit)))
        except ChildGone as error:
            results.left_out[_name(peers, loop)] = f"it did not start: {error}"
    return pairs


def _turns(
    pairs: list[FanOutPair],
    results: Results,
    loop: str,
    seconds: float,
    rounds: int,
    tell: Tell,
) -> dict[tuple[int, int], list[dict[str, Any]]]:
    """The turns by peers and payloads of a call; who fails is named in `results.left_out`."""
    turns: dict[tuple[int, int], list[dict[str, Any]]] = {
        (pair.peers, chunk): [] for chunk in CALLS for pair in pairs
    }
    for number in range(rounds + 1):
        name = f"round {number} of {rounds}" if number else "warm-up"
        for pair in tuple(pairs):
            tell(f"{name}: {_name(pair.peers, loop)}")
            try:
                for chunk in CALLS:
                    turn = pair.turn(seconds if number else min(seconds, _MAX_WARM_UP), chunk)
                    turns[pair.peers, chunk] += [turn] * bool(number)
            except ChildGone as error:
                pairs.remove(pair)
                pair.close()
                for chunk in CALLS:
                    del turns[pair.peers, chunk]
                results.left_out[_name(pair.peers, loop)] = f"it failed in the {name}: {error}"
    return turns


def _figure(peers: int, chunk: int, loop: str, turns: list[dict[str, Any]]) -> FanOut:
    sender_cpu, receiver_cpu = (
        statistics.median(turn[side] / turn["sent"] for turn in turns) * 1e6
        for side in ("sender_cpu", "receiver_cpu")
    )
    return FanOut(
        rounds=[turn["rate"] for turn in turns],
        peers=peers,
        loop=loop,
        size=SIZE,
        at_a_time=IN_FLIGHT // chunk,
        chunk=chunk,
        sent=sum(turn["sent"] for turn in turns),
        lost=sum(turn["lost"] for turn in turns),
        sender_cpu=sender_cpu,
        receiver_cpu=receiver_cpu,
    )
