"""When a silence is reported: once, at the limit, and not for a stall of our own loop."""

from __future__ import annotations

import pytest

from signedwire.delivery.silence import (
    GRACE,
    STALL,
    SilenceDetector,
    SilenceFound,
    WatchedPeers,
    ping_interval,
)
from wirekit import ALICE, BOB, random_seed


def run(
    detector: SilenceDetector, heard: list[float], until: float, late: float = 0.0
) -> list[tuple[float, SilenceFound]]:
    """Look whenever it is due, `late` seconds later, and return what was found and when."""
    found = []
    while (now := detector.due + late) < until:
        before = [at for at in heard if at <= now]
        if (silence := detector.look(now, max(before, default=None))) is not None:
            found.append((now, silence))
    return found


def test_a_peer_that_was_never_heard() -> None:
    assert run(SilenceDetector(0.5, 10.0), [], 20.0) == [(10.5, SilenceFound(0.5, False))]


def test_it_is_reported_again_after_the_peer_was_heard() -> None:
    found = run(SilenceDetector(0.5, 10.0), [10.2, 13.01, 13.3], 30.0)
    assert [round(at, 9) for at, _ in found] == [10.7, 13.8]


def test_a_peer_that_is_heard_in_time() -> None:
    heard = [10.0 + 0.49 * number for number in range(1000)]
    assert run(SilenceDetector(0.5, 10.0), heard, 490.0) == []


def test_a_stall_gives_the_sockets_time() -> None:
    detector = SilenceDetector(0.5, 10.0)
    now = detector.due + 5.0
    assert detector.look(now, None) is None
    assert detector.due == now + GRACE
    # The frames that waited in the socket.
    assert detector.look(detector.due, now + 0.01) is None
    ((at, silence),) = run(detector, [], 30.0)
    assert at == pytest.approx(now + 0.51)
    assert silence.seconds == pytest.approx(0.5)
    assert not silence.is_own_stall


def test_a_silence_after_a_stall_is_named_as_such() -> None:
    detector = SilenceDetector(0.5, 10.0)
    now = detector.due + 5.0
    assert detector.look(now, None) is None
    found = detector.look(now + GRACE, None)
    assert found is not None
    assert found.is_own_stall
    assert found.seconds == pytest.approx(5.0 + 0.5 / 3 + GRACE)


def test_a_stall_before_the_limit_counts_too() -> None:
    """The PING that asks a quiet peer was late."""
    detector = SilenceDetector(0.9, 10.0)
    assert detector.look(10.3 + STALL + 0.01, None) is None
    ((at, silence),) = run(detector, [], 20.0)
    assert at == pytest.approx(10.9 + GRACE)
    assert silence.seconds == pytest.approx(0.9 + GRACE)
    assert silence.is_own_stall


def test_a_loop_that_is_always_late_still_reports() -> None:
    (found,) = run(SilenceDetector(0.5, 10.0), [], 100.0, late=1.0)
    assert found[1].is_own_stall
    assert found[0] < 14.0


def test_random_histories() -> None:
    """None early, none more than 100 ms late, and one for each silence."""
    _, rng = random_seed()
    for _ in range(300):
        limit = rng.choice([0.1, 0.25, 0.5, 2.0])
        start = at = 50.0
        heard, expected = [], []
        for _ in range(rng.randrange(1, 40)):
            gap = rng.expovariate(1 / limit)
            if gap > limit:
                gap += 0.06  # else it may end before the look
                expected.append(at + limit)
            at += gap
            heard.append(at)
        expected.append(at + limit)
        found = run(SilenceDetector(limit, start), heard, at + 10 * limit, rng.uniform(0, 0.05))
        assert len(found) == len(expected), (limit, heard)
        for (when, silence), due in zip(found, expected, strict=True):
            assert due - 1e-9 <= when <= due + 0.1
            assert silence.seconds >= limit - 1e-9
            assert not silence.is_own_stall


def test_pings_follow_the_shortest_limit() -> None:
    watched = WatchedPeers()
    assert watched.interval(BOB.did) is None
    watched.add(BOB.did, 3.0)
    assert watched.interval(BOB.did) == 1.0
    watched.add(BOB.did, 0.6)
    assert watched.interval(BOB.did) == pytest.approx(0.2)
    assert watched.interval(ALICE.did) is None
    watched.remove(BOB.did, 0.6)
    assert watched.interval(BOB.did) == 1.0
    watched.note_link_over(BOB.did, 5.0)
    watched.note_link_over(BOB.did, 4.0)
    watched.note_link_over(ALICE.did, 4.0)
    assert watched.heard_at(BOB.did) == 5.0
    assert watched.heard_at(ALICE.did) is None
    watched.remove(BOB.did, 3.0)
    assert watched.interval(BOB.did) is watched.heard_at(BOB.did) is None
    assert ping_interval(0.1) == 0.05
