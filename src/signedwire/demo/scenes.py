"""The four scenes. Each shows something real and checks what it says."""

from __future__ import annotations

import socket
import time
from typing import Any, Final

from signedwire import SignedEnvelope
from signedwire.demo.cast import Actor, wait_for
from signedwire.demo.stage import Stage
from signedwire.wire.frames import encode_frame

__all__ = ["emergency", "forgeries", "restart", "traffic"]

_TRAFFIC, _STEADY, _LOW, _CRITICAL = 1, 2, 3, 4  # streams of numbered messages
_TRAFFIC_SECONDS: Final = 3.0
_FULL_BAR: Final = 40_000
_STEADY_RATE: Final = 200
_REPLAYS: Final = 3
_EMERGENCY_SECONDS: Final = 1.5
_QUEUE_LIMIT: Final = 1000  # the default of TransportConfig
_ARRIVAL_TIMEOUT: Final = 2.0
_BACKLOG_TIMEOUT: Final = 10.0


def traffic(stage: Stage, alice: Actor, bob: Actor) -> None:
    """Signed messages, as fast as two processes can."""
    stage.scene(
        "1. Signed traffic",
        "Alice signs every message with her key. Bob verifies every signature",
        "before his application sees the message. Each counts for itself.",
    )

    def lines() -> list[str]:
        rows = []
        for actor, verb, key in ((alice, "signed  ", "sent"), (bob, "verified", "received")):
            rate = actor.rate(key)
            rows.append(
                f"    {actor.name:<5} {verb} {rate:>7,.0f}/s {stage.bar(rate / _FULL_BAR)} "
                f"{actor.latest(key):>9,} in all"
            )
        return rows

    stage.live(lines)
    started_at = time.perf_counter()
    flooded = alice.ask(
        "flood", stream=_TRAFFIC, seconds=_TRAFFIC_SECONDS, timeout=_TRAFFIC_SECONDS + 3
    )
    wait_for(lambda: bob.ask("seen", stream=_TRAFFIC)["count"] >= flooded, _BACKLOG_TIMEOUT)
    seen = bob.ask("seen", stream=_TRAFFIC)
    sent, received = alice.ask("stats")["sent"], bob.ask("stats")["received"]
    stage.live(list)
    rate = received / (seen["last_at"] - started_at)
    stage.check(
        "signed, sent, verified, delivered",
        f"{received:,} of {sent:,}; {rate:,.0f}/s",
        f"all of {flooded:,}",
        received == sent == seen["count"] == flooded,
    )
    stage.check(
        "in order, none missing, none twice", f"{seen['breaks']} exceptions", "0 exceptions"
    )


def forgeries(stage: Stage, alice: Actor, bob: Actor) -> None:
    """Tampered, unsigned, replayed: what a third party can try with a real envelope."""
    stage.scene(
        "2. Forgeries",
        "Mallory has copied one real message of Alice's, byte for byte, and opens",
        "a connection to Bob. He refuses what she sends, and counts the reasons.",
    )
    text = "open the gripper"
    alice.ask("say", text=text)
    if not wait_for(lambda: bool(bob.ask("heard")), _ARRIVAL_TIMEOUT):
        stage.check("Alice's message reached Bob", "no", "yes")
        return
    genuine = bytes.fromhex(bob.ask("heard")[0]["envelope"])
    # One bit of the payload's first letter: "open" becomes "npen".
    position = genuine.index(text.encode())
    tampered = bytearray(genuine)
    tampered[position] ^= 1
    unsigned = SignedEnvelope.unsigned(
        alice.did, bob.did, b"drive off the table", sequence_number=1
    )
    before = bob.ask("stats")["dropped"]
    with socket.create_connection((bob.address.host, bob.address.port), 2) as mallory:
        for envelope in (bytes(tampered), unsigned.encode(), *[genuine] * _REPLAYS):
            mallory.sendall(encode_frame(envelope))
        wait_for(lambda: _new_drops(bob, before, "duplicate") >= _REPLAYS, _ARRIVAL_TIMEOUT)
    for what, reason, count in (
        ("one bit of it changed", "bad signature", 1),
        ("no signature, Alice's name on it", "unsigned", 1),
        (f"the real one, sent {_REPLAYS} times again", "duplicate", _REPLAYS),
    ):
        seen = _new_drops(bob, before, reason)
        stage.check(what, f"refused {seen}x: {reason}", f"refused {count}x: {reason}")
    times = len(bob.ask("heard"))
    stage.check(
        "Bob's application got the real one", f"{times}x, and nothing else", "1x, and nothing else"
    )


def restart(stage: Stage, alice: Actor, bob: Actor) -> dict[str, Any]:
    """Kill Bob, start him again; returns his counters before."""
    stage.scene(
        "3. A crash",
        f"Alice sends {_STEADY_RATE} messages a second. Bob is killed (SIGKILL) meanwhile, and",
        "started again with the same key and port. Nobody tells Alice.",
    )
    status = f"running, process {bob.child.pid}"

    def lines() -> list[str]:
        return [
            f"    bob   {status}",
            f"    alice link to bob: {alice.latest('link')}; waiting in her queue: "
            f"{alice.latest('queued')}",
        ]

    stage.live(lines)
    alice.ask("begin_steady", stream=_STEADY, rate=_STEADY_RATE)
    time.sleep(0.7)
    before: dict[str, Any] = bob.ask("stats")
    bob.child.kill()
    killed_at = time.perf_counter()
    status = "[bold red]killed[/]"
    time.sleep(0.7)
    bob.close()
    bob.start()
    status = f"[bold green]back[/] as process {bob.child.pid}, on {bob.address}"
    wait_for(lambda: bob.ask("seen", stream=_STEADY)["count"] > 0, _ARRIVAL_TIMEOUT)
    time.sleep(0.8)
    sent = alice.ask("end_steady", instants=[killed_at, bob.listening_at])
    wait_for(lambda: bob.ask("seen", stream=_STEADY)["last"] >= sent["sent"], _ARRIVAL_TIMEOUT)
    seen = bob.ask("seen", stream=_STEADY)
    stage.live(list)
    took = seen["first_at"] - bob.listening_at
    away = bob.listening_at - killed_at
    reconnections = alice.ask("stats")["reconnections"]
    first_away, first_back = sent["first_after"]
    stage.check(
        f"Bob was away {away:.1f} s; Alice reconnected",
        f"{reconnections}x, {max(took, 0):.2f} s after his return",
        "1x or more, under 2 s",
        reconnections >= 1 and seen["count"] > 0 and took < 2,
    )
    _check_arrivals(stage, "sent while he was away, arrived", seen, first_away, first_back - 1)
    _check_arrivals(stage, "sent after his return, arrived", seen, first_back, sent["sent"])
    return before


def _check_arrivals(stage: Stage, name: str, seen: dict[str, Any], first: int, last: int) -> None:
    """Whether messages `first` to `last` have all arrived; in order and once, if without breaks."""
    total = last - first + 1
    arrived = max(0, min(seen["last"], last) - max(seen["first"], first) + 1)
    stage.check(
        name,
        f"{arrived} of {total}, in order",
        f"{total} of {total}, in order",
        arrived == total and seen["breaks"] == 0,
    )


def emergency(stage: Stage, alice: Actor, bob: Actor) -> None:
    """Critical messages past a full queue of Low."""
    stage.scene(
        "4. Emergency stop",
        "Alice queues Low messages until her queue is full and refuses one more.",
        "Then a Critical one: it has a reserved place, and goes first. Many times.",
    )
    stage.live(
        lambda: [
            f"    alice waiting in her queue {alice.latest('queued'):>7,}",
            f"    bob   received            {bob.latest('received'):>7,}",
        ]
    )
    sent = alice.ask(
        "emergency", stream=_LOW, seconds=_EMERGENCY_SECONDS, timeout=_EMERGENCY_SECONDS + 3
    )
    wait_for(lambda: bob.ask("seen", stream=_LOW)["count"] >= sent["low"], _BACKLOG_TIMEOUT)
    low, critical = bob.ask("seen", stream=_LOW), bob.ask("seen", stream=_CRITICAL)
    stage.live(list)
    total = sent["low"] + sent["critical"]
    stage.check(
        f"Critical and Low delivered; {sent['refused']} refused",
        f"{critical['count']} and {low['count']:,}",
        f"{sent['critical']} and {sent['low']:,}, refused before each Critical",
        low["count"] + critical["count"] == total and sent["refused"] == sent["critical"] > 0,
    )
    overtaken = critical["least_overtaken"] or 0
    stage.check(
        "each Critical overtook waiting Low messages",
        f"{overtaken:,} or more",
        f"{_QUEUE_LIMIT:,}",
        overtaken >= _QUEUE_LIMIT,
    )
    fast, slow = (1e3 * (stream["median_delay"] or 0) for stream in (critical, low))
    stage.check(
        "from Alice's send to Bob's hands, median",
        f"{fast:.1f} ms; Low {slow:.1f} ms",
        "less than Low",
        0 < fast < slow,
    )


def _new_drops(bob: Actor, before: dict[str, int], reason: str) -> int:
    dropped: dict[str, int] = bob.ask("stats")["dropped"]
    return dropped.get(reason, 0) - before.get(reason, 0)
