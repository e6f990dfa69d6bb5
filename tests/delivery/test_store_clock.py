"""The wall clock is set: which deadlines in the store are moved, and which bytes change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clockkit import SetClock
from idkit import id_of
from linkkit import ALICE, BOB
from signedwire import clock
from signedwire.clock import WallInstant, monotonic, unix_time
from signedwire.delivery.outgoing_message import OutgoingMessage
from signedwire.delivery.send_options import SendOptions
from signedwire.delivery.store import MemoryStore, OutgoingRow, SqliteStore, Store
from signedwire.types import Priority

LIMIT = 10.0
HOUR_US = 3600 * 1_000_000
NORMAL = int(Priority.NORMAL)
Open = Callable[[], Store]


@pytest.fixture
def set_clock() -> Iterator[SetClock]:
    set_clock = SetClock()
    with clock.use(set_clock):
        yield set_clock


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path, set_clock: SetClock) -> Iterator[Store]:
    made: Store = MemoryStore(ALICE.did)
    if request.param == "sqlite":
        made = SqliteStore(tmp_path / "a.db", ALICE.did)
    yield made
    made.close()


def put(store: Store, *deadlines: float | None) -> None:
    terms = [SendOptions(BOB.did, Priority.NORMAL, deadline) for deadline in deadlines]
    store.put(BOB.did, [OutgoingMessage(each, id_of(1), b"x") for each in terms])


def rows(store: Store) -> list[OutgoingRow]:
    return store.outbox().result(LIMIT)


def test_seconds_are_moved_and_dates_are_not(store: Store, set_clock: SetClock) -> None:
    put(store, monotonic() + 60, WallInstant(unix_time() + 60), None)
    before = rows(store)
    moved: list[int] = []
    store.clock_steps.on_moved = moved.append
    set_clock.ahead = 3600.0
    store.look_at_clock()
    seconds, date, never = rows(store)
    assert moved == [pytest.approx(HOUR_US, abs=50_000)]
    assert store.look_at_clock() is False
    assert seconds.expires_at_us == (before[0].expires_at_us or 0) + moved[0]
    assert (date, never) == (before[1], before[2])
    assert store.next_expiry_us == date.expires_at_us
    assert store.clock_steps.origin_us == pytest.approx(
        (unix_time() - monotonic()) * 1e6, abs=50_000
    )


def test_what_a_link_had_keeps_its_bytes_and_its_seconds(store: Store, set_clock: SetClock) -> None:
    put(store, monotonic() + 60, monotonic() + 60)
    before = rows(store)
    store.written(BOB.did, NORMAL, 1)
    set_clock.ahead = 3600.0
    store.expire()
    written, waiting = rows(store)
    assert written == before[0]._replace(is_written=True)
    assert waiting.expires_at_us != before[1].expires_at_us
    set_clock.slept = 61.0
    store.expire()
    assert rows(store) == []


def test_a_step_back_is_no_respite(store: Store, set_clock: SetClock) -> None:
    put(store, monotonic() + 60)
    set_clock.ahead = -3600.0
    store.expire()
    assert len(rows(store)) == 1
    set_clock.slept = 61.0
    store.expire()
    assert rows(store) == []


def test_rows_of_an_earlier_process_are_dates(tmp_path: Path, set_clock: SetClock) -> None:
    first = SqliteStore(tmp_path / "a.db", ALICE.did)
    put(first, monotonic() + 60)
    before = rows(first)
    first.close()
    second = SqliteStore(tmp_path / "a.db", ALICE.did)
    set_clock.ahead = -3600.0
    second.look_at_clock()
    assert [row.body for row in rows(second)] == [row.body for row in before]
    put(second, monotonic() + 60)
    set_clock.ahead = 3600.0
    second.expire()
    assert [row.row for row in rows(second)] == [2]
    second.close()


def test_a_store_that_is_closed_moves_nothing(store: Store, set_clock: SetClock) -> None:
    put(store, monotonic() + 60)
    store.flush().result(LIMIT)
    store.close()
    set_clock.ahead = 3600.0
    assert store.look_at_clock() is False
