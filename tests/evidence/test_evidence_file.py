"""The file of an evidence log: order, crashes, torn tails, damage, rotation, a failing disk."""

from __future__ import annotations

import errno
import logging
import os
import random
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from linkkit import ALICE, BOB, EVE, body, received
from signedwire.delivery.message import IncomingMessage
from signedwire.errors import ClosedError, EvidenceLogError, StoreError
from signedwire.evidence import disk, opening
from signedwire.evidence import log as log_module
from signedwire.evidence.chain import HEADER_SIZE, CheckedRecord, LogChecker, LogHeader, name_of
from signedwire.evidence.disk import sync_data
from signedwire.evidence.log import EvidenceLog
from signedwire.wire.envelope import UNSIGNED, SignedEnvelope
from storekit import LIMIT, Told

CHILD = str(Path(__file__).with_name("evidencechild.py"))
KILLS = int(os.environ.get("KILLS", "6"))
posix_only = pytest.mark.skipif(os.name != "posix", reason="signals and modes of POSIX")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "evidence.log"


class Logs:
    """Open the file, and close it at the end of the test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.opened: list[EvidenceLog] = []

    def __call__(self, **options: Any) -> EvidenceLog:
        self.opened.append(EvidenceLog(self.path, BOB.did, **options))
        return self.opened[-1]

    def close(self) -> None:
        for log in self.opened:
            assert log.close(LIMIT)


@pytest.fixture
def logs(path: Path) -> Iterator[Logs]:
    logs = Logs(path)
    yield logs
    logs.close()


def messages(*numbers: int, size: int = 5) -> list[IncomingMessage]:
    batch = received([body(number, bytes(size)) for number in numbers])
    return [IncomingMessage(each, batch, index) for index, each in enumerate(batch.bodies)]


def append(log: EvidenceLog, some: list[IncomingMessage]) -> StoreError | None:
    on_commit = Told()
    log.append(some, on_commit)
    return on_commit.wait()


def read(path: Path) -> tuple[LogChecker, list[CheckedRecord]]:
    checker = LogChecker()
    records = checker.receive_data(path.read_bytes())
    checker.receive_eof()
    return checker, records


def numbers_in(path: Path) -> list[int]:
    checker, records = read(path)
    assert checker.error is None
    return [each.envelope.sequence_number for each in records]


def filled(logs: Logs, count: int = 3) -> bytes:
    """The bytes of a log with so many records, closed."""
    log = logs()
    for number in range(1, count + 1):
        assert append(log, messages(number)) is None
    assert log.close(LIMIT)
    return logs.path.read_bytes()


class TestWriting:
    @pytest.mark.parametrize("is_threaded", [True, False])
    def test_what_is_told_is_in_the_file(self, logs: Logs, is_threaded: bool) -> None:
        log = logs(is_threaded=is_threaded)
        assert log.head.records == 0
        assert append(log, messages(1, 2)) is None
        assert numbers_in(logs.path) == [1, 2]
        assert append(log, messages(*range(3, 40))) is None
        assert numbers_in(logs.path) == list(range(1, 40))
        checker, _ = read(logs.path)
        assert (log.head.records, str(log.head)) == (39, checker.head.hex())

    def test_order_is_that_of_the_calls_also_of_the_answers(self, logs: Logs) -> None:
        log, last = logs(), Told()
        order: list[int] = []

        def tell(number: int, error: StoreError | None) -> None:
            assert error is None
            order.append(number)

        for number in range(1, 200):
            log.append(messages(number), partial(tell, number))
        log.append([], last)
        assert last.wait() is None
        assert order == list(range(1, 200)) == numbers_in(logs.path)

    def test_nobody_is_told_before_the_sync(
        self, logs: Logs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log, go = logs(), threading.Event()
        sync = sync_data

        def slow(fd: int) -> None:
            assert go.wait(LIMIT)
            sync(fd)

        monkeypatch.setattr(log_module, "sync_data", slow)
        first, second = Told(), Told()
        head = log.head
        log.append(messages(1), first)
        log.append(messages(2), second)
        assert not first.is_told
        assert log.head == head
        go.set()
        assert first.wait() is second.wait() is None
        assert log.head.records == 2

    def test_many_share_one_sync(self, logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
        log, syncs, go = logs(), [], threading.Event()

        def count(fd: int) -> None:
            assert go.wait(LIMIT)
            syncs.append(fd)

        monkeypatch.setattr(log_module, "sync_data", count)
        log.append(messages(1))
        while log.stats().waiting:
            pass
        for number in range(2, 500):
            log.append(messages(number))
        assert log.has_room
        go.set()
        assert append(log, []) is None
        assert len(syncs) == 2

    def test_a_large_batch_is_not_kept_in_memory_as_a_whole(self, logs: Logs) -> None:
        log = logs()
        assert append(log, messages(*range(1, 9), size=300_000)) is None
        assert numbers_in(logs.path) == list(range(1, 9))
        assert log.stats().size == logs.path.stat().st_size > 2_400_000

    def test_v1_too_and_what_is_unsigned_not(self, logs: Logs) -> None:
        log = logs()
        v1 = SignedEnvelope.sign(ALICE, BOB.did, b"v1", sequence_number=7)
        signed = IncomingMessage(v1.body, v1.signature)
        unsigned = IncomingMessage(v1.body, UNSIGNED, is_proven=False)
        assert append(log, [unsigned, signed]) is None
        assert append(log, [unsigned]) is None
        assert numbers_in(logs.path) == [7]

    def test_where_the_disk_does_not_keep_up_there_is_no_room(
        self, logs: Logs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(log_module, "_MAX_WAITING", 2)
        log, go = logs(), threading.Event()
        monkeypatch.setattr(log_module, "sync_data", lambda _: go.wait(LIMIT))
        for number in range(1, 5):
            log.append(messages(number))
        assert not log.has_room
        go.set()
        assert append(log, []) is None
        assert log.has_room

    def test_without_fdatasync(self, logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(os, "fdatasync", raising=False)
        assert append(logs(), messages(1)) is None

    def test_after_a_commit(self, logs: Logs) -> None:
        log, good, bad, late = logs(), Told(), Told(), Told()
        log.after(messages(1), good)(None)
        assert good.wait() is None
        failure = StoreError("the store has failed")
        log.after(messages(2), bad)(failure)
        assert bad.wait() is failure
        assert log.close(LIMIT)
        log.after(messages(3), late)(None)
        assert isinstance(late.wait(), EvidenceLogError)
        with pytest.raises(ClosedError):
            log.append(messages(4))
        assert numbers_in(logs.path) == [1]

    def test_close_says_the_head(self, logs: Logs, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        log = logs()
        log.append(messages(1))
        assert log.close(LIMIT)
        assert f"1 records, head {log.head}" in caplog.text


class TestOpening:
    def test_it_goes_on_where_it_ended(self, logs: Logs) -> None:
        filled(logs)
        log = logs()
        assert (log.head.records, log.stats().torn) == (3, 0)
        assert append(log, messages(4)) is None
        assert numbers_in(logs.path) == [1, 2, 3, 4]

    def test_what_the_store_has_and_the_log_has_not_is_written(self, logs: Logs) -> None:
        filled(logs)
        unacked = messages(2, 3, 4, 5)
        log = logs(unacked=[name_of(each.envelope.body) for each in unacked])
        thens = [Told() for _ in unacked]
        for message, on_commit in zip(unacked, thens, strict=True):
            log.restored(message, on_commit)
        assert all(on_commit.wait() is None for on_commit in thens)
        assert numbers_in(logs.path) == [1, 2, 3, 4, 5]
        again = Told()
        log.restored(unacked[3], again)
        assert again.wait() is None
        assert log.head.records == 5

    @posix_only
    def test_it_is_private(self, logs: Logs) -> None:
        logs()
        assert stat.S_IMODE(logs.path.stat().st_mode) == 0o600

    @posix_only
    def test_one_node_at_a_time(self, logs: Logs) -> None:
        logs()
        with pytest.raises(EvidenceLogError, match="another node of this one, has it open"):
            EvidenceLog(logs.path, BOB.did)

    def test_another_node_s_log_is_left_alone(self, logs: Logs, path: Path) -> None:
        before = filled(logs)
        with pytest.raises(EvidenceLogError, match="it belongs to") as caught:
            EvidenceLog(path, EVE.did)
        assert caught.value.path == str(path)
        assert path.read_bytes() == before

    def test_another_file_is_left_alone(self, path: Path) -> None:
        path.write_bytes(b"-----BEGIN PRIVATE KEY-----\n" * 100)
        with pytest.raises(EvidenceLogError, match="it does not begin with SWCHAIN2"):
            EvidenceLog(path, BOB.did)
        assert path.read_bytes().startswith(b"-----BEGIN")

    def test_what_cannot_be_opened(self, tmp_path: Path) -> None:
        with pytest.raises(EvidenceLogError, match="Make its directory first"):
            EvidenceLog(tmp_path / "no" / "log", BOB.did)
        with pytest.raises(EvidenceLogError, match="Is a directory"):
            EvidenceLog(tmp_path, BOB.did)

    @posix_only
    def test_a_relative_path_in_a_folder_that_is_gone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        here = tmp_path / "here"
        here.mkdir()
        with monkeypatch.context() as patch:
            patch.chdir(here)
            here.rmdir()
            with pytest.raises(EvidenceLogError, match="the working directory is gone") as caught:
                EvidenceLog("evidence.log", BOB.did)
            assert caught.value.path == "evidence.log"
            assert caught.value.hint == "Give the whole path"
            EvidenceLog(tmp_path / "evidence.log", BOB.did).close()

    @posix_only
    def test_a_pipe_is_no_file(self, path: Path) -> None:
        os.mkfifo(path)
        with pytest.raises(EvidenceLogError, match="not a regular file"):
            EvidenceLog(path, BOB.did)

    def test_a_disk_that_fails_while_it_is_read(
        self, logs: Logs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = filled(logs)

        def fail(*_: object) -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(log_module, "read_log", fail)
        with pytest.raises(EvidenceLogError, match="cannot be opened: Input/output error"):
            logs()
        assert logs.path.read_bytes() == before


class TestTorn:
    def test_a_tail_torn_anywhere_is_cut_off_kept_and_told(
        self, path: Path, logs: Logs, caplog: pytest.LogCaptureFixture
    ) -> None:
        whole = filled(logs)
        _, records = read(path)
        start = records[2].record.offset
        for size in range(start + 1, len(whole)):
            path.write_bytes(whole[:size])
            caplog.clear()
            log = logs()
            assert log.head.records == 2
            assert log.stats().torn == size - start
            assert f": {size - start} bytes behind record 2 are" in caplog.text
            [beside] = path.parent.glob("evidence.log.torn-*")
            assert beside.read_bytes() == whole[start:size]
            assert str(beside) in caplog.text
            beside.unlink()
            assert log.close(LIMIT)
            assert path.read_bytes() == whole[:start]
        log = logs()
        assert append(log, messages(3)) is None
        assert numbers_in(path) == [1, 2, 3]

    @pytest.mark.parametrize("tail", [bytes(5000), b"\xff" * 100, bytes(range(256)) * 8])
    def test_a_tail_of_zeros_or_garbage(self, logs: Logs, tail: bytes) -> None:
        whole = filled(logs)
        logs.path.write_bytes(whole + tail)
        assert logs().stats().torn == len(tail)
        assert logs.path.read_bytes() == whole

    @pytest.mark.parametrize("left", [0, 1, 8, 40, HEADER_SIZE - 1])
    def test_a_header_that_was_not_finished_is_begun_anew(self, logs: Logs, left: int) -> None:
        whole = filled(logs)
        for data in (whole[:left], bytes(left), bytes(HEADER_SIZE)):
            logs.path.write_bytes(data)
            log = logs()
            assert append(log, messages(9)) is None
            assert log.close(LIMIT)
            assert numbers_in(logs.path) == [9]

    def test_damage_in_front_is_no_torn_tail(
        self, logs: Logs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(opening, "_MAX_TORN", 300)
        whole = bytearray(filled(logs, 4))
        whole[HEADER_SIZE + 150] ^= 1
        logs.path.write_bytes(whole)
        with pytest.raises(EvidenceLogError, match="record 1, at byte 112 of") as caught:
            logs()
        assert "signedwire evidence verify" in caught.value.hint
        assert logs.path.read_bytes() == whole

    def test_a_record_larger_than_that_can_be_torn_too(
        self, logs: Logs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(opening, "_MAX_TORN", 300)
        log = logs()
        assert append(log, messages(1, size=1000)) is None
        assert log.close(LIMIT)
        whole = logs.path.read_bytes()
        logs.path.write_bytes(whole[:-1])
        assert logs().stats().torn == len(whole) - HEADER_SIZE - 1

    @posix_only
    def test_kill(self, path: Path, logs: Logs) -> None:
        """Whenever the process dies, each confirmed record is there, and the chain is sound."""
        rng = random.Random(1)
        for kill in range(KILLS):
            child = subprocess.Popen(
                [sys.executable, CHILD, str(path), str(kill)], stdout=subprocess.PIPE
            )
            assert child.stdout is not None
            first = child.stdout.readline()
            threading.Event().wait(rng.random() / 10)
            child.send_signal(signal.SIGKILL)
            said = [line.split() for line in (first + child.stdout.read()).splitlines(True)]
            child.wait(LIMIT)
            child.stdout.close()
            *_, (_, count, head) = [line for line in said if len(line) == 3 and len(line[2]) == 64]
            log = logs()
            assert log.head.records >= int(count)
            assert log.close(LIMIT)
            checker = LogChecker(bytes.fromhex(head.decode()))
            with path.open("rb") as file:
                while data := file.read(1 << 20):
                    checker.receive_data(data)
            checker.receive_eof()
            assert checker.error is None
            assert checker.head_at == int(count)


class TestFailing:
    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (OSError(errno.EIO, "Input/output error"), "Check the disk"),
            (OSError(errno.ENOSPC, "No space left on device"), "Make room on the disk"),
        ],
    )
    def test_a_failed_sync_is_told_to_everybody_and_is_the_last(
        self,
        logs: Logs,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        error: OSError,
        words: str,
    ) -> None:
        log = logs()
        failures: list[StoreError] = []
        log.on_failed = failures.append
        assert log.on_failed is not None
        assert append(log, messages(1)) is None
        head = log.head

        def fail(fd: int) -> None:
            raise error

        monkeypatch.setattr(log_module, "sync_data", fail)
        told = append(log, messages(2))
        assert isinstance(told, EvidenceLogError)
        assert failures == [told] == [log.failure]
        assert words in str(told)
        assert str(error.strerror) in (log.stats().failure or "")
        assert str(logs.path) in caplog.text
        monkeypatch.undo()
        with pytest.raises(EvidenceLogError):
            log.append(messages(3))
        on_commit = Told()
        log.after(messages(3), on_commit)(None)
        assert isinstance(on_commit.wait(), EvidenceLogError)
        assert log.head == head
        assert log.close(LIMIT)
        assert logs().head.records in (1, 2)

    def test_a_write_that_the_disk_takes_a_part_of(
        self, logs: Logs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log, write = logs(), os.write
        monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data[:7])))
        assert append(log, messages(1)) is None
        left = [3]

        def full(fd: int, data: Any) -> int:
            if not left:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(fd, bytes(data[: left.pop()]))

        monkeypatch.setattr(os, "write", full)
        assert append(log, messages(2)) is not None
        monkeypatch.undo()
        assert log.close(LIMIT)
        again = logs()
        assert (again.head.records, again.stats().torn) == (1, 3)

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_a_fault_of_ours_is_told_too(self, logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(fd: int) -> None:
            raise KeyError

        log = logs()
        monkeypatch.setattr(log_module, "sync_data", fail)
        assert "KeyError" in str(append(log, messages(1)))
        assert "fault of signedwire" in str(log.failure)


class TestRotating:
    def test_the_new_one_goes_on_from_the_old_one(self, logs: Logs, tmp_path: Path) -> None:
        log, archive = logs(), tmp_path / "old.log"
        log.append(messages(1, 2))
        old = log.rotate(archive)
        on_commit = Told()
        log.append(messages(3), on_commit)
        assert on_commit.wait() is None
        assert old.result(LIMIT).records == 2
        assert numbers_in(archive) == [1, 2]
        assert numbers_in(logs.path) == [3]
        checker, _ = read(archive)
        header = read(logs.path)[0].reader.header
        assert header is not None
        assert header.previous == checker.head == bytes.fromhex(old.result().hash)
        assert log.stats().size == logs.path.stat().st_size
        assert log.close(LIMIT)
        assert logs().head.records == 1

    @pytest.mark.parametrize("name", ["taken", "no/such/folder"])
    def test_where_it_cannot_be_all_goes_on_as_before(
        self, logs: Logs, tmp_path: Path, name: str
    ) -> None:
        (tmp_path / "taken").write_text("mine")
        log = logs()
        assert append(log, messages(1)) is None
        with pytest.raises(EvidenceLogError, match="was not rotated"):
            log.rotate(tmp_path / name).result(LIMIT)
        assert append(log, messages(2)) is None
        assert numbers_in(logs.path) == [1, 2]
        assert (tmp_path / "taken").read_text() == "mine"
        assert sorted(each.name for each in tmp_path.iterdir()) == ["evidence.log", "taken"]

    def test_no_room_for_a_new_one(
        self, logs: Logs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_: str) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        log = logs()
        monkeypatch.setattr(disk, "open_file", full)
        with pytest.raises(EvidenceLogError, match="No space left"):
            log.rotate(tmp_path / "old").result(LIMIT)
        assert append(log, messages(1)) is None

    def test_a_crash_between_the_two_renames(self, logs: Logs, path: Path) -> None:
        log = logs()
        assert append(log, messages(1)) is None
        head = log.rotate(path.with_name("old.log")).result(LIMIT)
        assert log.close(LIMIT)
        new = path.with_name("evidence.log.new")
        path.rename(new)
        assert logs().head.records == 0
        assert not new.exists()
        header = read(path)[0].reader.header
        assert header is not None
        assert header.previous.hex() == head.hash

    @pytest.mark.parametrize(
        "data", [b"", b"something else", LogHeader(bytes(BOB.did), 1).encode()]
    )
    def test_another_file_of_that_name_is_not_taken(
        self, path: Path, logs: Logs, data: bytes
    ) -> None:
        new = path.with_name("evidence.log.new")
        new.write_bytes(data)
        logs()
        assert new.read_bytes() == data
