"""How commands wait: woken by what they wait for, and never by a clock that ticks."""

from __future__ import annotations

import ast
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from signedwire import DeliveryState, TransportConfig, sync
from signedwire.cli import wakeups as wakeups_module
from signedwire.cli.errors import BadFile
from signedwire.cli.input_files import open_input
from signedwire.cli.key_locks import KeyLock
from signedwire.cli.wakeups import Wakeups
from wirekit import ALICE, BOB, LIMIT, SLACK, receipt_to, refusing_address

COMMANDS = Path(wakeups_module.__file__).parent


@pytest.mark.parametrize("path", sorted(COMMANDS.glob("*.py")), ids=lambda path: path.name)
def test_no_command_polls(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("sleep"):
            assert ast.unparse(node) == "asyncio.sleep(0)", f"line {node.lineno}"


# -- wakeups ---------------------------------------------------------------------------------


def node_of_alice(**changes: Any) -> sync.Node:
    return sync.Node(ALICE, TransportConfig(listen=None, **changes))


def test_a_wakeup_before_the_wait_ends_it() -> None:
    node = node_of_alice()
    with Wakeups(node) as wakeups, node:
        for _ in range(100_000):  # more than the sockets hold: none of it blocks
            wakeups.wake()
        began = time.monotonic()
        wakeups.wait(LIMIT)
        assert time.monotonic() - began < SLACK


@pytest.mark.parametrize("what", ["receipt", "peer", "descriptor"])
def test_what_wakes(what: str) -> None:
    node, receipt = (
        node_of_alice(max_attempts=1000),
        receipt_to(BOB.did, 1),
    )
    read, write = os.pipe()

    def happen() -> None:
        if what == "receipt":
            receipt.advance(DeliveryState.WRITTEN)
        elif what == "descriptor":
            os.write(write, b"x")
        else:
            node.send_nowait(BOB.did, b"x")

    with refusing_address() as nobody, Wakeups(node) as wakeups, node, wakeups.watching(receipt):
        node.routing.update(BOB.did, nobody)
        timer = threading.Timer(0.05, happen)
        began = time.monotonic()
        timer.start()
        wakeups.wait(LIMIT, read)
        assert 0.04 <= time.monotonic() - began < SLACK
        timer.join()
        assert receipt._changed
    assert not receipt._changed
    os.close(read)
    os.close(write)


def test_without_a_wakeup_the_wait_takes_its_time() -> None:
    node = node_of_alice()
    with Wakeups(node) as wakeups, node:
        began = time.monotonic()
        wakeups.wait(0.05)
        assert 0.04 <= time.monotonic() - began < SLACK
    assert not [each for each in threading.enumerate() if each.name == "signedwire-wakeups"]
    wakeups.wake()  # after its end: nothing


# -- locks --------------------------------------------------------------------------------


def test_the_next_one_goes_on_at_once(tmp_path: Path) -> None:
    first, taken = KeyLock(BOB.did, tmp_path), threading.Event()
    first.acquire()
    others = [KeyLock(BOB.did, tmp_path) for _ in range(5)]
    order: list[KeyLock] = []

    def take(lock: KeyLock) -> None:
        lock.acquire()
        order.append(lock)
        taken.set()

    threads = [threading.Thread(target=take, args=(lock,)) for lock in others]
    for thread in threads:
        thread.start()
    assert not taken.wait(0.1)
    holder = first
    for number in range(1, 6):
        taken.clear()
        began = time.monotonic()
        holder.release()
        assert taken.wait(LIMIT)
        assert time.monotonic() - began < SLACK
        assert len(order) == number  # one at a time
        holder = order[-1]
        assert holder.waited >= 0.05
    holder.release()
    for thread in threads:
        thread.join(LIMIT)


def test_who_gave_up_does_not_take_the_turn_later(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first, second, third = (KeyLock(BOB.did, tmp_path, patience=0.1) for _ in range(3))
    first.acquire()
    began = time.monotonic()
    second.acquire()
    assert 0.09 <= time.monotonic() - began < 0.5 + SLACK
    assert "going on beside it" in capfd.readouterr().err
    first.release()
    third.acquire()
    assert third._is_ours
    assert not second._is_ours
    second.release()
    third.release()


# -- named pipes --------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_read_once_somebody_writes(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Timer(0.05, lambda: path.write_bytes(b"hello"))
    writer.start()
    with open_input(path) as file:
        assert file.read() == b"hello"
    writer.join()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_that_nobody_writes_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signedwire.cli.input_files._WAIT_FOR_A_WRITER", 0.05)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(BadFile, match="nobody has written to it"):
        open_input(path)
    os.close(os.open(path, os.O_WRONLY))  # lets its thread end
