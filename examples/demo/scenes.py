"""The four scenes. Each shows something real and checks what it says."""

from __future__ import annotations

import socket
import time
from typing import Any, Final

from examples.demo.cast import Actor, wait_for
from examples.demo.stage import Stage
from signedwire import Identity, SignedEnvelope, SignedWireError
from signedwire.wire.frames import encode_frame
from signedwire.wire.receipt_proof import verify_receipt

__all__ = ["emergency", "forgeries", "restart", "traffic"]

_TRAFFIC, _STEADY, _LOW, _CRITICAL = 1, 2, 3, 4  # streams of numbered messages
_TRAFFIC_SECONDS: Final = 1.5
_FULL_BAR: Final = 200_000
_STEADY_RATE: Final = 100
_TEXT: Final = "close the valve"
_REPLAYS: Final = 3
_EMERGENCY_SECONDS: Final = 1.0
_QUEUE_LIMIT: Final = 1000  # the default of TransportConfig
_ARRIVAL_TIMEOUT: Final = 2.0
_BACKLOG_TIMEOUT: Final = 10.0


def traffic(stage: Stage, alice: Actor, bob: Actor) -> None:
    """Signed messages with signed receipts, as fast as two processes can."""
    stage.scene(
        "1. Signed traffic",
        "Over TLS 1.3, both ends proven by DID. Alice's signatures cover every message;",
        "Bob verifies before his application sees one, and signs that he has it.",
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
    total = flooded["sent"]
    wait_for(lambda: bob.ask("seen", stream=_TRAFFIC)["count"] >= total, _BACKLOG_TIMEOUT)
    seen = bob.ask("seen", stream=_TRAFFIC)
    sent, received = alice.ask("stats")["sent"], bob.ask("stats")["received"]
    stage.live(list)
    linked = alice.ask("linked"), bob.ask("linked")
    stage.check(
        "each proved its DID to the other, in TLS",
        f"{len(linked[0])}x and {len(linked[1])}x, on one link",
        "1x and 1x, on one link",
        linked == ([str(bob.did)], [str(alice.did)]),
    )
    rate = received / (seen["last_at"] - started_at)
    stage.check(
        "in order, once, each with Bob's receipt",
        f"{flooded['confirmed']:,} of {sent:,}; {rate:,.0f}/s",
        f"all of {total:,}, in order",
        flooded["confirmed"] == received == sent == seen["count"] == total and not seen["breaks"],
    )
    _show_proof(stage, alice, bob)


def _show_proof(stage: Stage, alice: Actor, bob: Actor) -> None:
    """Check a receipt as a third party would: here, without either of the two."""
    proof = bytes.fromhex(alice.ask("say", text=_TEXT))
    envelope = verify_receipt(proof).envelope
    is_true = (envelope.sender, envelope.recipient, envelope.payload) == (
        alice.did,
        bob.did,
        _TEXT.encode(),
    )
    refused = 0
    for position in range(len(proof)):
        try:
            verify_receipt(proof[:position] + bytes([proof[position] ^ 1]) + proof[position + 1 :])
        except SignedWireError:
            refused += 1
    stage.check(
        "a receipt checked offline; with a bit changed",
        f"{'true' if is_true else 'false'}; {refused} of {len(proof)} refused",
        f"true; {len(proof)} of {len(proof)} refused",
    )


def forgeries(stage: Stage, alice: Actor, bob: Actor, carol: Identity) -> None:
    """What a third party can try with the older wire, v1, which has no TLS."""
    stage.scene(
        "2. Forgeries",
        "Bob also believes Carol, an old robot, on wire v1: it has no TLS. Mallory has",
        "copied her message, and even has Alice's key. She sends Bob what she can make.",
    )
    text = "open the gripper"
    genuine = SignedEnvelope.sign(carol, bob.did, text.encode(), sequence_number=1).encode()
    # One bit of the payload's first letter: "open" becomes "npen".
    tampered = bytearray(genuine)
    tampered[genuine.index(text.encode())] ^= 1
    unsigned = SignedEnvelope.unsigned(carol.did, bob.did, b"drive off", sequence_number=2)
    downgrade = SignedEnvelope.sign(alice.identity, bob.did, b"drive off", sequence_number=3)
    before = bob.ask("stats")["dropped"]
    with socket.create_connection((bob.address.host, bob.address.port), 2) as mallory:
        for envelope in (
            genuine,
            bytes(tampered),
            unsigned.encode(),
            *[genuine] * _REPLAYS,
            downgrade.encode(),
        ):
            mallory.sendall(encode_frame(envelope))
        wait_for(lambda: _new_drops(bob, before, "not allowed") >= 1, _ARRIVAL_TIMEOUT)
    for what, reason, count in (
        ("one bit of it changed", "bad signature", 1),
        ("no signature, Carol's name on it", "unsigned", 1),
        (f"the real one, sent {_REPLAYS} times again", "duplicate", _REPLAYS),
        ("Alice's real key, but v1: she speaks v2", "not allowed", 1),
    ):
        seen = _new_drops(bob, before, reason)
        stage.check(what, f"refused {seen}x: {reason}", f"refused {count}x: {reason}")
    heard = bob.ask("heard")
    stage.check(
        "Bob's application got Carol's real one",
        f"{heard.count(text)}x, and {len(heard) - 1 - heard.count(text)} others",
        "1x, and 0 others",
        heard == [_TEXT, text],
    )


def restart(stage: Stage, alice: Actor, bob: Actor, mallory: Actor) -> dict[str, Any]:
    """Kill Bob, put an impostor in his place, start him again; returns his counters before."""
    stage.scene(
        "3. A crash, and an impostor",
        "Bob is killed; Mallory takes his address; Bob returns. Nobody tells Alice.",
    )
    status = f"Bob runs, process {bob.child.pid}"

    def lines() -> list[str]:
        return [
            f"    {bob.address}: {status}",
            f"    alice link to bob: {alice.latest('link')}; waiting in her queue: "
            f"{alice.latest('queued')}",
        ]

    stage.live(lines)
    alice.ask("begin_steady", stream=_STEADY, rate=_STEADY_RATE)
    time.sleep(0.7)
    before: dict[str, Any] = bob.ask("stats")
    bob.child.kill()
    killed_at = time.perf_counter()
    bob.close()
    bob.launch()  # a new process, which does not listen yet
    status = "[bold red]nobody, Bob was killed[/]"
    mallory.address = bob.address
    mallory.start()
    status = f"[bold red]Mallory[/], process {mallory.child.pid}"
    wait_for(lambda: _refused_identities(alice) > 0, _ARRIVAL_TIMEOUT)
    time.sleep(0.4)
    stolen, refusals = mallory.ask("stats")["received"], _refused_identities(alice)
    mallory.close()
    bob.start()
    status = f"[bold green]Bob is back[/] as process {bob.child.pid}"
    wait_for(lambda: bob.ask("seen", stream=_STEADY)["count"] > 0, _ARRIVAL_TIMEOUT)
    time.sleep(0.8)
    sent = alice.ask("end_steady", instants=[killed_at, bob.listening_at])
    wait_for(lambda: bob.ask("seen", stream=_STEADY)["last"] >= sent["sent"], _ARRIVAL_TIMEOUT)
    seen = bob.ask("seen", stream=_STEADY)
    stage.live(list)
    stage.check(
        "Mallory at Bob's address: she is not his DID",
        f"refused {refusals}x, {stolen} messages told",
        "refused 1x or more, 0 messages told",
        refusals > 0 and stolen == 0,
    )
    _check_return(stage, alice, bob, seen, killed_at)
    _check_arrivals(stage, seen, sent)
    return before


def _check_return(
    stage: Stage, alice: Actor, bob: Actor, seen: dict[str, Any], killed_at: float
) -> None:
    took = seen["first_at"] - bob.listening_at
    reconnections = alice.ask("stats")["reconnections"]
    stage.check(
        f"Bob was away {bob.listening_at - killed_at:.1f} s; Alice reconnected",
        f"{reconnections}x, {max(took, 0):.2f} s after his return",
        "1x or more, under 2 s",
        reconnections >= 1 and seen["count"] > 0 and took < 2,
    )


def _check_arrivals(stage: Stage, seen: dict[str, Any], sent: dict[str, Any]) -> None:
    """Whether what was sent from the kill on has arrived at the new Bob, and all is receipted."""
    first_away, first_back = sent["first_after"]
    away, back = first_back - first_away, sent["sent"] - first_back + 1
    arrived_away = max(0, min(seen["last"] + 1, first_back) - max(seen["first"], first_away))
    arrived_back = max(0, seen["last"] + 1 - max(seen["first"], first_back))
    stage.check(
        "sent while he was away, and after: arrived",
        f"{arrived_away}/{away} and {arrived_back}/{back}, in order",
        f"{away} and {back}, in order",
        (arrived_away, arrived_back) == (away, back) and not seen["breaks"],
    )
    stage.check(
        "of all that she sent, with a signed receipt",
        f"{sent['confirmed']} of {sent['sent']}",
        f"{sent['sent']} of {sent['sent']}",
    )


def emergency(stage: Stage, alice: Actor, bob: Actor) -> None:
    """Critical messages past a full queue of Low."""
    stage.scene(
        "4. Emergency stop",
        "Alice fills her queue with Low, to its limit; then a Critical one. Many times.",
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
    stage.check(
        f"delivered; {sent['refused']}x the queue was full before",
        f"{critical['count']} Critical, {low['count']:,} Low",
        f"{sent['critical']} Critical, {sent['low']:,} Low; full before each",
        (critical["count"], low["count"]) == (sent["critical"], sent["low"])
        and sent["refused"] == sent["critical"] > 0,
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


def _refused_identities(alice: Actor) -> int:
    count: int = alice.ask("stats")["dropped"].get("bad identity", 0)
    return count


def _new_drops(bob: Actor, before: dict[str, int], reason: str) -> int:
    dropped: dict[str, int] = bob.ask("stats")["dropped"]
    return dropped.get(reason, 0) - before.get(reason, 0)
