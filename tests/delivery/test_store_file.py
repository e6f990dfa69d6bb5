"""The file of a store: crashes, a damaged or foreign file, a second process, a failing disk."""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from linkkit import ALICE, BOB, body, received
from signedwire.delivery.store import Marks, SqliteStore, StoreLimits, schema, sqlite_tables
from signedwire.delivery.store.schema import VERSION
from signedwire.delivery.store.sqlite_tables import _CHECKPOINT_BYTES as WAL_BYTES
from signedwire.errors import (
    StoreCorruptError,
    StoreError,
    StoreFailedError,
    StoreInUseError,
    StoreOpenError,
    StoreVersionError,
)
from signedwire.identity import Identity
from signedwire.types import Priority, Reason
from storekit import LIMIT, OTHER, PEER, US, Note, Told, accept, put, told

LOW, NORMAL, HIGH, CRITICAL = Priority
CHILD = str(Path(__file__).with_name("storechild.py"))
KILLS = int(os.environ.get("KILLS", "6"))
NAMES = "SELECT type, name, tbl_name FROM sqlite_schema"
posix_only = pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node.db"


class Stores:
    """Open the file, and close it at the end of the test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.opened: list[SqliteStore] = []

    def __call__(self, limits: StoreLimits | None = None) -> SqliteStore:
        self.opened.append(SqliteStore(self.path, US, limits=limits))
        return self.opened[-1]

    def close(self) -> None:
        for store in self.opened:
            assert store.close(LIMIT)


@pytest.fixture
def stores(path: Path) -> Iterator[Stores]:
    stores = Stores(path)
    yield stores
    stores.close()


def row_numbers(store: SqliteStore, lane: int = NORMAL) -> list[int]:
    return [row.row for row in store.load(PEER, lane, 0, 10**6, 10**9).result(LIMIT)]


def run_child(path: Path, *words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, CHILD, str(path), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done


def check(path: Path) -> None:
    """Run the integrity check of SQLite, and compare our counts with the rows."""
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        counted = connection.execute(
            "SELECT id >> 40, count(*), sum(length(body)) FROM outgoing GROUP BY 1 ORDER BY 1"
        ).fetchall()
        kept = connection.execute(
            "SELECT id, rows, bytes FROM lane WHERE rows ORDER BY id"
        ).fetchall()
        assert kept == counted
        for orphans in (
            "SELECT count(*) FROM incoming WHERE batch NOT IN (SELECT id FROM batch)",
            "SELECT count(*) FROM batch WHERE peer NOT IN (SELECT id FROM peer)",
            "SELECT count(*) FROM lane WHERE id >> 2 NOT IN (SELECT id FROM peer)",
            "SELECT count(*) FROM dead WHERE peer NOT IN (SELECT id FROM peer)",
        ):
            assert connection.execute(orphans).fetchone() == (0,)
    finally:
        connection.close()


class TestReopening:
    def test_everything_is_there(self, stores: Stores, path: Path) -> None:
        store = stores()
        notes = [Note(b"a" * n, queued_at_us=50 + n, expires_at_us=2**52 + n) for n in range(5)]
        put(store, *notes, Note(priority=CRITICAL, queued_at_us=3))
        assert told(store.settled, PEER, [(NORMAL, 5)]) is None
        assert told(store.dead_letter, PEER, [(NORMAL, 1)], Reason.REFUSED, "no") is None
        store.written(PEER, NORMAL, 2)
        store.attempt_failed(PEER, "no route")
        ids = accept(store, [1, 2, 3], epoch=2**64 - 7)
        store.acked([ids[0]])
        assert told(store.note_v2, OTHER) is None
        epoch, leaves = store.epoch(PEER), store.leaves(PEER).result(LIMIT)
        letters, rows = store.dead_letters().result(LIMIT), store.outbox().result(LIMIT)
        before = store.stats()
        assert store.close(LIMIT)

        store = stores()
        after = store.stats()
        assert (after.outbox, after.dead, after.inbox) == (before.outbox, before.dead, before.inbox)
        assert after.oldest_queued_at_us == before.oldest_queued_at_us == 3
        assert store.next_expiry_us == 2**52 + 1
        assert store.epoch(PEER) == epoch
        assert store.outbox().result(LIMIT) == rows
        assert [row.is_written for row in rows] == [True, False, False, False]
        assert (rows[0].attempts, rows[0].last_error) == (1, "no route")
        assert [row.body for row in rows[:3]] == [note.body for note in notes[1:4]]
        assert store.dead_letters().result(LIMIT) == letters
        assert store.marks(PEER) == Marks(2**64 - 7, (0, 3, 0, 0))
        unacked = store.unacked().result(LIMIT)
        assert [row.id for row in unacked] == list(ids[1:])
        for row in unacked:
            row.envelope.verify()
        assert store.leaves(PEER).result(LIMIT) == leaves
        assert store.v2_speakers() == [OTHER]
        assert store.recipients() == [PEER]
        # Numbers and ids continue.
        more = Note()
        put(store, more)
        assert more.row == 6
        assert accept(store, [4])[0] > ids[-1]
        assert store.close(LIMIT)
        check(path)

    def test_ids_of_peers_without_a_row_are_used_again(self, stores: Stores) -> None:
        store = stores()
        store.load(OTHER, NORMAL, 0, 1).result(LIMIT)  # the peer is in memory alone
        put(store, Note())
        assert store.close(LIMIT)
        store = stores()
        put(store, Note(b"x"), recipient=OTHER)
        assert [(row.recipient, row.payload) for row in store.outbox().result(LIMIT)] == [
            (OTHER, b"x"),
            (PEER, b"hello"),
        ]

    def test_no_number_twice(self, stores: Stores) -> None:
        store = stores()
        put(store, Note(), Note())
        assert told(store.settled, PEER, [(NORMAL, 1), (NORMAL, 2)]) is None
        assert store.close(LIMIT)
        store = stores()
        assert store.recipients() == []
        note = Note()
        put(store, note)
        assert note.row == 3

    def test_what_may_wait_is_there_after_a_close(self, stores: Stores) -> None:
        store = stores()
        put(store, Note())
        store.written(PEER, NORMAL, 1)
        epoch = store.epoch(OTHER)
        assert store.close(LIMIT)
        store = stores()
        assert store.outbox().result(LIMIT)[0].is_written
        assert store.epoch(OTHER) == epoch

    def test_less_memory_for_leaves_than_before(self, stores: Stores, path: Path) -> None:
        store = stores()
        for start in range(1, 9):
            ids = accept(store, [start])
            if start > 2:
                store.acked(ids)
        assert store.close(LIMIT)
        store = stores(StoreLimits(max_sender_leaves=3))
        assert len(store.leaves(PEER).result(LIMIT).accepted[NORMAL]) == 3
        rows = store.unacked().result(LIMIT)
        for row in rows:
            row.envelope.verify()
        assert told(store.acked, [row.id for row in rows]) is None
        assert store.close(LIMIT)
        connection = sqlite3.connect(path)
        assert connection.execute("SELECT count(*) FROM batch").fetchone() == (3,)
        connection.close()

    @posix_only
    def test_is_private(self, stores: Stores, path: Path) -> None:
        before = os.umask(0)
        try:
            store = stores()
            put(store, Note())
            for name in (path, Path(f"{path}-wal")):
                assert stat.S_IMODE(name.stat().st_mode) == 0o600
            assert store.close(LIMIT)
            path.chmod(0o644)
            stores()
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        finally:
            os.umask(before)

    def test_a_wal_that_cannot_be_looked_at(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def open_(*_: object, **__: object) -> None:
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(sqlite_tables, "open", open_, raising=False)
        with pytest.raises(StoreOpenError, match="Too many open files"):
            SqliteStore(path, US)

    def test_strangers_that_were_forgotten(self, stores: Stores) -> None:
        store = stores(StoreLimits(max_peers=10))
        put(store, Note())
        for n in range(30):
            assert told(store.note_v2, Identity(bytes([n, 2]) * 16).did) is None
        assert store.close(LIMIT)
        store = stores(StoreLimits(max_peers=10))
        assert len(store._ledger.peers) <= 10
        assert store._ledger._next_peer < 20
        (row,) = store.outbox().result(LIMIT)
        assert row.recipient == PEER


class TestWal:
    """The WAL has at most 4 MiB and the size of one transaction."""

    def size(self, path: Path) -> int:
        return Path(f"{path}-wal").stat().st_size

    def test_stays_small(self, path: Path, stores: Stores) -> None:
        store, sizes = stores(), set()
        for _ in range(30):
            notes = [Note(b"x" * 1000) for _ in range(500)]
            put(store, *notes)
            sizes.add(self.size(path))
            assert told(store.settled, PEER, [(NORMAL, note.row) for note in notes]) is None
            sizes.add(self.size(path))
        assert WAL_BYTES < max(sizes) < WAL_BYTES + 2**20
        assert path.stat().st_size < 8 * 2**20

    def test_stays_small_where_a_row_changes_a_page(self, path: Path, stores: Stores) -> None:
        """Messages are answered in random order, so that each changes another page."""
        store, rng, largest = stores(), random.Random(2), 0
        notes = [Note(b"x" * 64, expires_at_us=rng.randrange(2**52, 2**53)) for _ in range(8000)]
        for start in range(0, len(notes), 200):
            put(store, *notes[start : start + 200])
        rng.shuffle(notes)
        for start in range(0, len(notes), 64):
            names = [(NORMAL, note.row) for note in notes[start : start + 64]]
            assert told(store.settled, PEER, names) is None
            largest = max(largest, self.size(path))
        assert WAL_BYTES < largest < WAL_BYTES + 2**20

    def test_shrinks_after_a_large_transaction(self, path: Path, stores: Stores) -> None:
        store = stores()
        put(store, *[Note(b"x" * 60_000) for _ in range(150)])
        assert self.size(path) > 2 * WAL_BYTES
        store.flush().result(LIMIT)  # the checkpoint has ended now
        put(store, Note())
        assert self.size(path) == WAL_BYTES
        assert store.close(LIMIT)
        check(path)

    def test_stays_small_over_crashes(self, path: Path, stores: Stores) -> None:
        """No process lives long enough for a checkpoint."""
        sizes = []
        for _ in range(6):
            run_child(path, "crash", 40)
            sizes.append(self.size(path))
        assert min(sizes) > 2**20
        assert max(sizes) < WAL_BYTES
        assert path.stat().st_size < 2**20
        store = stores()
        assert self.size(path) == 0
        assert len(row_numbers(store)) == 6 * 100

    @posix_only
    def test_cannot_be_copied_back(self, path: Path, stores: Stores) -> None:
        """While the file cannot grow, it cannot be opened. When it can, it has every row."""
        for _ in range(4):
            run_child(path, "crash", 0)
        done = run_child(path, "open", path.stat().st_size, code=1)
        assert f"StoreOpenError: cannot open the store {path}: " in done.stderr
        assert "Check that the disk has room and that this user may write there" in done.stderr
        assert row_numbers(stores()) == list(range(1, 401))


def replay(lines: list[str]) -> dict[str, set[int]]:
    heard: dict[str, set[int]] = defaultdict(set)
    for line in lines:
        word, *numbers = line.split()
        heard[word] |= set(map(int, numbers))
    return heard


@posix_only
class TestCrash:
    def test_kill(self, path: Path, stores: Stores) -> None:
        """Reported changes survive a kill. A change that was not reported may survive or not."""
        rng = random.Random(4)
        heard: dict[str, set[int]] = defaultdict(set)
        for kill in range(KILLS):
            child = subprocess.Popen(
                [sys.executable, CHILD, str(path), "load", str(kill)], stdout=subprocess.PIPE
            )
            assert child.stdout is not None
            lines = [child.stdout.readline().decode() for _ in range(rng.randrange(1, 400))]
            child.send_signal(signal.SIGKILL)
            rest = child.stdout.read().decode()
            lines += rest[: rest.rfind("\n") + 1].splitlines()
            child.stdout.close()
            child.wait(LIMIT)
            for word, numbers in replay(lines).items():
                heard[word] |= numbers
            store = stores()
            rows = set(row_numbers(store))
            dead = {
                int.from_bytes(letter.body[24:32], "little") % 2**20  # its number without the base
                for letter in store.dead_letters(limit=10**6).result(LIMIT)
            }
            assert heard["put"] - heard["ask"] <= rows
            assert heard["put"] <= rows | dead | heard["ask"]
            assert not rows & heard["settled"]
            assert not rows & dead
            assert heard["dead"] <= dead
            unacked = store.unacked(limit=10**6).result(LIMIT)
            accepted = {row.envelope.sequence_number for row in unacked}
            assert [row.envelope.sequence_number for row in unacked] == sorted(accepted)
            assert heard["accepted"] - heard["finish"] <= accepted
            assert not accepted & heard["done"]
            mark = store.marks(PEER).lanes[NORMAL]
            assert mark >= max(heard["accepted"] | accepted, default=0)
            for row in unacked[:3]:
                row.envelope.verify()
            assert store.close(LIMIT)
            check(path)
        assert len(heard["put"]) > 100
        assert len(heard["accepted"]) > 100

    def test_torn_tail(self, path: Path, stores: Stores, tmp_path: Path) -> None:
        """If the WAL loses its end, the store has the commits before that, and nothing else."""
        store = stores()
        for number in range(12):
            put(store, Note(b"%d" % number))
        size = Path(f"{path}-wal").stat().st_size
        rng = random.Random(1)
        found = []
        for cut in sorted([0, 1, 31, size - 1, *(rng.randrange(size) for _ in range(12)), size]):
            torn = tmp_path / f"torn{cut}.db"
            shutil.copy(path, torn)
            tail = Path(f"{path}-wal").read_bytes()[:cut] + rng.randbytes(rng.randrange(5000))
            Path(f"{torn}-wal").write_bytes(tail)
            again = SqliteStore(torn, US)
            found.append(row_numbers(again))
            note = Note()
            put(again, note)
            assert note.row == len(found[-1]) + 1
            assert again.close(LIMIT)
            check(torn)
        assert found == sorted(found)
        assert found[-1] == list(range(1, 13))
        assert all(each == list(range(1, len(each) + 1)) for each in found)
        assert len({len(each) for each in found}) > 4


class TestUnusable:
    def test_in_use(self, stores: Stores, path: Path) -> None:
        stores()
        with pytest.raises(
            StoreInUseError, match="another process, or another node of this one"
        ) as caught:
            SqliteStore(path, US)
        assert caught.value.path == str(path)
        code = (
            "import sys\n"
            "from signedwire.delivery.store import SqliteStore\n"
            "from signedwire.errors import StoreInUseError\n"
            "from signedwire.types import Did\n"
            "try: SqliteStore(sys.argv[1], Did(bytes.fromhex(sys.argv[2])))\n"
            "except StoreInUseError as error: print(error)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(path), US.hex()],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        assert f"cannot open the store {path}: another process, or another node" in done.stdout

    def test_a_disk_that_hangs(self, stores: Stores) -> None:
        """`close()` returns in time; no callback of a submitted operation runs meanwhile."""
        store, gate, on_commit = stores(), threading.Event(), Told()
        store._ask(lambda: gate.wait(LIMIT))
        store.put(PEER, [Note()], on_commit=on_commit)
        assert not store.close(0.01)
        assert not on_commit.is_told
        gate.set()
        assert on_commit.wait() is None

    def test_closed_by_a_callback(self, stores: Stores) -> None:
        store = stores()
        store.put(PEER, [Note()], on_commit=lambda _: store.close())  # type: ignore[arg-type]
        assert store.close(LIMIT)

    def test_free_again_after_close(self, stores: Stores) -> None:
        assert stores().close(LIMIT)
        stores()

    def test_no_store(self, path: Path) -> None:
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE other (x)")
        connection.close()
        before = path.read_bytes()
        with pytest.raises(StoreVersionError, match="it is no store of signedwire"):
            SqliteStore(path, US)
        assert path.read_bytes() == before

    def test_of_another_node(self, stores: Stores, path: Path) -> None:
        assert stores().close(LIMIT)
        with pytest.raises(StoreVersionError, match=f"it belongs to {US}, and this node is"):
            SqliteStore(path, OTHER)
        stores()

    def test_no_database(self, path: Path) -> None:
        path.write_bytes(b"dear diary " * 1000)
        path.chmod(0o644)
        with pytest.raises(StoreVersionError, match=r"it is no store, or .* copy it away before"):
            SqliteStore(path, US)
        assert path.read_bytes() == b"dear diary " * 1000
        assert stat.S_IMODE(path.stat().st_mode) == 0o644

    @pytest.mark.parametrize("where", [100, 3 * 4096 + 8, -4096])
    def test_damaged(self, stores: Stores, path: Path, where: int) -> None:
        store = stores()
        put(store, *[Note(b"x" * 500) for _ in range(200)])
        assert store.close(LIMIT)
        data = bytearray(path.read_bytes())
        at = where if where > 0 else len(data) + where
        data[at : at + 300] = b"\xa5" * 300
        path.write_bytes(data)
        with pytest.raises(StoreCorruptError, match="the file is damaged"):
            SqliteStore(path, US)
        assert not [each for each in threading.enumerate() if each.name == "signedwire-store"]

    def test_tables_that_do_not_fit(self, stores: Stores, path: Path) -> None:
        store = stores()
        put(store, Note())
        assert store.close(LIMIT)
        with sqlite3.connect(path) as connection:
            connection.execute("DELETE FROM peer")
        connection.close()
        with pytest.raises(StoreCorruptError, match="do not fit together"):
            SqliteStore(path, US)

    def test_no_directory(self, tmp_path: Path) -> None:
        with pytest.raises(StoreOpenError, match="Make the directory first"):
            SqliteStore(tmp_path / "missing" / "node.db", US)

    def test_a_sqlite_that_is_too_old(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
        with pytest.raises(StoreOpenError, match=r"a store needs 3\.35\.0"):
            SqliteStore(path, US)

    def test_a_directory(self, tmp_path: Path) -> None:
        with pytest.raises(StoreOpenError, match="cannot open the store"):
            SqliteStore(tmp_path, US)

    @pytest.mark.parametrize("has_statvfs", [True, False])
    @pytest.mark.parametrize("which", ["file", "folder", "neither"])
    def test_what_this_user_may_not_write_to(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, which: str, has_statvfs: bool
    ) -> None:
        """SQLite gives no cause then, and not every system tells whether a volume is read-only."""
        path.touch()
        readable = {"file": str(path), "folder": str(path.parent)}.get(which)
        monkeypatch.setattr(os, "access", lambda place, mode: place != readable)
        if not has_statvfs:
            monkeypatch.delattr(os, "statvfs", raising=False)
        fault = sqlite3.OperationalError("disk I/O error")
        fault.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        error = schema._open_error(str(path), fault)
        assert isinstance(error, StoreOpenError)
        assert error.path == str(path)
        if readable is None:
            assert error.fact.endswith("disk I/O error")
        else:
            assert error.fact.endswith(f"this user may not write to {readable}")


class TestVersions:
    @pytest.mark.parametrize(
        ("version", "text"),
        [
            (1, "version 1, and this signedwire reads only 4. Send its messages with the earlier"),
            (3, "version 3, and this signedwire reads only 4. Send its messages with the earlier"),
            (5, "version 5, and this signedwire supports up to 4. Use the newer"),
        ],
    )
    def test_another_version(self, stores: Stores, path: Path, version: int, text: str) -> None:
        store = stores()
        put(store, Note())
        assert store.close(LIMIT)
        for number in (version, VERSION):
            connection = sqlite3.connect(path, isolation_level=None)
            connection.execute(f"PRAGMA user_version = {number}")
            connection.close()
            if number != VERSION:
                with pytest.raises(StoreVersionError, match=re.escape(text)):
                    SqliteStore(path, US)
        assert row_numbers(stores()) == [1], "it was not changed"

    def test_tables_that_cannot_be_made_change_nothing(
        self, stores: Stores, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            broken = (*schema._SCHEMA, "CREATE TABLE access (x)")
            patch.setattr(schema, "_SCHEMA", broken)
            with pytest.raises(StoreOpenError, match="already exists"):
                SqliteStore(path, US)
        put(stores(), Note())

    def test_a_transaction_that_sqlite_has_rolled_back_itself(
        self, stores: Stores, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """SQLite does that if the disk is full. The error has the first message of SQLite."""
        twice = ("CREATE TABLE more (x UNIQUE)", "INSERT OR ROLLBACK INTO more VALUES (1), (1)")
        with monkeypatch.context() as patch:
            patch.setattr(schema, "_SCHEMA", (*schema._SCHEMA, *twice))
            with pytest.raises(StoreOpenError, match=r"UNIQUE constraint failed: more\.x"):
                SqliteStore(path, US)
        put(stores(), Note())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
class TestFaults:
    """A bug of ours or of a caller ends the thread, and no caller waits for ever."""

    def test_an_operation_that_raises(self, stores: Stores) -> None:
        store = stores()
        future = store._ask(lambda: 1 // 0)
        assert isinstance(future.exception(LIMIT), StoreFailedError)
        with pytest.raises(StoreFailedError, match=r"by zero.*a fault of signedwire"):
            store.put(PEER, [Note()])

    def test_a_callback_that_raises(self, stores: Stores) -> None:
        store = stores()
        store.put(PEER, [Note()], on_commit=lambda error: 1 // 0)  # type: ignore[arg-type]
        assert store.close(LIMIT)
        with pytest.raises(StoreFailedError, match=r"by zero.*a fault of signedwire"):
            store.put(PEER, [Note()])

    def test_a_checkpoint_that_fails(self, stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
        """The commit before it counts; operations after it fail."""
        store = stores()
        failures: list[StoreError] = []
        store.on_failed = failures.append

        def checkpoint() -> None:
            raise sqlite3.OperationalError("disk I/O error")

        monkeypatch.setattr(store._work.tables, "checkpoint", checkpoint)
        put(store, Note())
        assert store.close(LIMIT)
        assert [failure.fact for failure in failures] == [store.stats().failure]
        assert store.on_failed is not None
        assert row_numbers(stores()) == [1]

    def test_marks_that_were_not_committed(self, stores: Stores) -> None:
        store = stores()
        on_commit, batch = Told(), received([body(1, sender=BOB, recipient=ALICE)], BOB)
        gate = threading.Event()
        store._ask(lambda: gate.wait(LIMIT))
        store._ask(lambda: 1 // 0)
        store.accept(PEER, Marks(9, (0, 1, 0, 0)), batch, [0], on_commit=on_commit)
        gate.set()
        assert isinstance(on_commit.wait(), StoreFailedError)
        assert store.marks(PEER) == Marks(0, (0, 0, 0, 0))

    def test_a_loop_that_is_closed(self, path: Path) -> None:
        def call(run: object) -> None:
            raise RuntimeError("Event loop is closed")

        store = SqliteStore(path, US, dispatch=call)
        store.put(PEER, [Note()], on_commit=Told())
        store.flush().result(LIMIT)
        assert store.failure is None
        assert store.close(LIMIT)


class TestFailingDisk:
    def fill(self, store: SqliteStore) -> None:
        tables = store._work.tables
        store._ask(
            partial(tables._ask, "PRAGMA max_page_count = 30")  # type: ignore[attr-defined]
        ).result(LIMIT)

    def test_full(self, stores: Stores, path: Path) -> None:
        store = stores()
        put(store, Note(b"first"))
        self.fill(store)
        thens = [Told() for _ in range(6)]
        failures: list[StoreError] = []
        store.on_failed = failures.append
        # All are in one transaction, or behind it, because the thread waits meanwhile.
        gate = threading.Event()
        blocked = store._ask(lambda: gate.wait(LIMIT))
        for on_commit in thens:
            store.put(PEER, [Note(b"x" * 50_000)], on_commit=on_commit)
        rows = store.outbox()
        lazy = store.flush()
        gate.set()
        blocked_error = blocked.exception(LIMIT)
        for on_commit in thens:
            error = on_commit.wait()
            assert isinstance(error, StoreFailedError)
            assert isinstance(error, OSError)
        for future in (rows, lazy):
            assert isinstance(future.exception(LIMIT), StoreFailedError)
        assert blocked_error is None or isinstance(blocked_error, StoreFailedError)
        assert str(error) == (
            f"the store {path} has failed: database or disk is full; whether it has the last "
            "messages is unknown, and it takes and acknowledges nothing more. Make room on the "
            "disk, then start the node again: it goes on from the last commit"
        )
        for call in (
            lambda: store.put(PEER, [Note()]),
            lambda: store.barrier(Told()),
            store.flush,
        ):
            with pytest.raises(StoreFailedError):
                call()
        assert store.failure is error
        assert failures == [error]
        assert isinstance(error, StoreFailedError)
        assert store.stats().failure == error.fact
        assert store.close(LIMIT)
        again = stores()
        assert row_numbers(again) == [1]
        put(again, Note(b"x" * 50_000))
        assert again.close(LIMIT)
        check(path)

    @pytest.mark.parametrize("has_listener", [True, False])
    def test_full_without_a_thread(self, stores: Stores, path: Path, has_listener: bool) -> None:
        store = SqliteStore(path, US, is_threaded=False)
        put(store, Note(b"first"))
        self.fill(store)
        failures: list[StoreError] = []
        if has_listener:
            store.on_failed = failures.append
        error = told(store.put, PEER, [Note(b"x" * 200_000)])
        assert isinstance(error, StoreFailedError)
        assert failures == ([error] if has_listener else [])
        with pytest.raises(StoreFailedError):
            store.flush()
        assert store.close()
        assert row_numbers(stores()) == [1]

    @posix_only
    def test_a_file_that_cannot_grow(self, path: Path, stores: Stores) -> None:
        done = run_child(path, "until-error", 300_000)
        *puts, first, on_commit, health = done.stdout.splitlines()
        assert first.startswith("first StoreFailedError the store")
        stored = len(puts)
        assert on_commit == f"then StoreFailedError {stored}"
        assert health.startswith("health the store")
        assert stored > 10
        found = row_numbers(stores())
        assert found[:stored] == list(range(1, stored + 1))
        assert len(found) <= stored + 1  # the last one may be stored, as its error says

    @pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
    @pytest.mark.parametrize(
        ("call", "error"),
        [("fdatasync", "EIO"), ("pwrite64", "ENOSPC"), ("pwrite64", "EIO")],
    )
    def test_calls_that_fail(self, path: Path, stores: Stores, call: str, error: str) -> None:
        put(store := stores(), Note(b"first"))
        assert store.close(LIMIT)
        when = 40 if call == "pwrite64" else 8
        done = subprocess.run(
            [
                *("strace", "-f", "-qq", "-o", "/dev/null"),
                *("-e", f"inject={call}:error={error}:when={when}+"),
                *(sys.executable, CHILD, str(path), "until-error"),
            ],
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        if "ptrace" in done.stderr or "Operation not permitted" in done.stderr:
            pytest.skip("strace may not trace here")
        *puts, first, on_commit, health = done.stdout.splitlines()
        assert first.startswith("first StoreFailedError the store")
        stored = len(puts)
        assert on_commit == f"then StoreFailedError {stored}"
        assert health.startswith("health the store")
        found = row_numbers(stores())
        assert found[: stored + 1] == list(range(1, stored + 2))
        assert len(found) <= stored + 2

    @pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
    def test_synced_before_it_is_told(self, path: Path) -> None:
        trace = path.with_suffix(".trace")
        child = subprocess.Popen(
            [
                *("strace", "-f", "-qq", "-s", "12", "-o", str(trace)),
                *("-e", "trace=fdatasync,fsync,pwrite64,write"),
                *(sys.executable, CHILD, str(path), "until-error", str(600_000)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        _, errors = child.communicate(timeout=LIMIT)
        if "ptrace" in errors:
            pytest.skip("strace may not trace here")
        is_synced, seen = False, 0
        for line in trace.read_text().splitlines():
            if "pwrite64(" in line:
                is_synced = False
            elif re.search(r"(fdatasync|fsync).*= 0", line):
                is_synced = True
            elif 'write(1, "put' in line:
                assert is_synced, line
                seen += 1
        assert seen > 20
