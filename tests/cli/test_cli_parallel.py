"""Real processes with one key at the same time: all messages arrive, or that is said."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from clikit import LIMIT, isolate, listener, run, start_listening

from signedwire import Identity
from signedwire.cli.exit_codes import ExitCode
from signedwire.cli.key_locks import KeyLock
from signedwire.cli.store_choice import lock_of
from signedwire.sync import Node

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX locks")

COUNT = 12
PATIENCE = 5 * LIMIT
"""Twelve interpreters start on what may be one core."""


@pytest.fixture(autouse=True)
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    key = isolate(tmp_path, monkeypatch)
    assert run("id", "new").exit_code == 0
    return key


def start(*args: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "signedwire", *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def received(node: Node, count: int) -> list[bytes]:
    payloads: list[bytes] = []
    for _ in range(count):
        message = node.receive(LIMIT)
        assert message is not None, payloads
        payloads.append(message.payload)
        message.ack()
    with pytest.raises(TimeoutError):
        node.receive(0.2)
    return payloads


@pytest.mark.parametrize("options", [[], ["--no-store"], ["--store", "s.db"]], ids=str)
def test_twelve_parallel_sends_all_arrive(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with listener() as bob:
        to = f"{bob.did}@{bob.address}"
        processes = [start("send", to, f"report-{i}", *options) for i in range(COUNT)]
        ended = [process.communicate(timeout=PATIENCE) for process in processes]
        codes = [process.returncode for process in processes]
        assert codes == [0] * COUNT, ended
        assert sorted(received(bob, COUNT)) == sorted(b"report-%d" % i for i in range(COUNT))
    if options != ["--no-store"]:
        # Each had its lock: none went without the store, and none was told that it must.
        assert not any(b"in use" in err or b"going on beside" in err for _, err in ended)


def test_senders_beside_a_listener_of_the_same_key_all_arrive() -> None:
    """The listener has the store for long: they say that they go without it."""
    process, _ = start_listening()
    with process, listener() as bob:
        to = f"{bob.did}@{bob.address}"
        processes = [start("send", to, f"report-{i}") for i in range(4)]
        ended = [each.communicate(timeout=PATIENCE) for each in processes]
        assert [each.returncode for each in processes] == [0] * 4, ended
        assert all(b"works without a" in err for _, err in ended)
        assert sorted(received(bob, 4)) == [b"report-%d" % i for i in range(4)]
        process.terminate()
        process.wait()


def test_a_listener_that_starts_while_a_send_runs_waits_for_the_store(key: Path) -> None:
    lock = lock_of(Identity.load(key).did)
    lock.acquire()
    timer = threading.Timer(0.5, lock.release)
    timer.start()
    process, _ = start_listening()
    with process:
        assert not timer.is_alive()
        process.terminate()
        process.wait()


def test_a_turn_that_does_not_come_is_told_and_the_message_goes_out(key: Path) -> None:
    with lock_of(Identity.load(key).did), listener() as bob:
        ran = run("send", f"{bob.did}@{bob.address}", "x", "--timeout", "0.3")
        assert ran.exit_code in (ExitCode.DONE, ExitCode.NO_ANSWER), ran
        assert "has been at work for 0 s; going on beside it" in ran.stderr
        message = bob.receive(LIMIT)
        assert message is not None
        assert message.payload == b"x"


def test_a_folder_that_others_can_write_to_holds_no_lock(key: Path, tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    os.chmod(folder, 0o777)
    did = Identity.load(key).did
    with KeyLock(did, folder), KeyLock(did, folder, 5.0) as second:
        assert second.waited < 1.0
    assert list(folder.iterdir()) == []


def test_the_environment_changes_nothing(
    key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login shell has variables that cron has not."""
    did = Identity.load(key).did
    shell = {"XDG_RUNTIME_DIR": str(tmp_path), "TMPDIR": str(tmp_path), "HOME": str(tmp_path)}
    for name, value in shell.items():
        monkeypatch.setenv(name, value)
    with lock_of(did):
        for name in shell:
            monkeypatch.delenv(name)
        monkeypatch.setattr("tempfile.tempdir", None)
        with lock_of(did, 0.3) as second:
            assert second.waited >= 0.3


def test_one_at_a_time_and_no_file_stays(key: Path, tmp_path: Path) -> None:
    """Each removes the file while others wait for it, and none is let in by the one removed."""
    folder, did = tmp_path / "turns", Identity.load(key).did
    inside, most = [0], [0]

    def take_turns() -> None:
        for _ in range(20):
            with KeyLock(did, folder) as lock:
                assert lock.waited < 10
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                threading.Event().wait(0.001)
                inside[0] -= 1

    threads = [threading.Thread(target=take_turns) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(PATIENCE)
    assert most == [1]
    assert list(folder.iterdir()) == []


def test_who_did_not_get_the_turn_leaves_the_lock(key: Path, tmp_path: Path) -> None:
    did = Identity.load(key).did
    with KeyLock(did, tmp_path):
        with KeyLock(did, tmp_path, 0.1):
            pass
        with KeyLock(did, tmp_path, 0.1) as third:
            assert third.waited >= 0.1
