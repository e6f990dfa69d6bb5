"""`signedwire request` and `signedwire answer`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clikit import LIMIT, Process, isolate, run

from signedwire import Identity, Message, MessageRefusedError, RoutingTable, TransportConfig
from signedwire.sync import Node

PYTHON = sys.executable


@pytest.fixture(autouse=True)
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return isolate(tmp_path, monkeypatch)


@pytest.fixture
def robot() -> Iterator[Node]:
    with Node(Identity.generate(), TransportConfig(listen="127.0.0.1:0")) as node:
        yield node


def peer_of(node: Node) -> str:
    return f"{node.did}@{node.address}"


class TestRequest:
    def test_the_reply_is_printed(self, robot: Node) -> None:
        robot.serve("get_battery", lambda message: b"0.87 of " + message.payload)
        done = run("request", peer_of(robot), "full", "--subject", "get_battery")
        assert (done.exit_code, done.stdout) == (0, "0.87 of full\n")
        done = run("request", peer_of(robot), "-", "--subject", "get_battery", given="stdin")
        assert done.stdout == "0.87 of stdin\n"
        done = run("request", peer_of(robot), "--subject", "get_battery", "--json")
        (reply,) = done.objects
        assert (reply["event"], reply["kind"], reply["sender"]) == (
            "reply",
            "reply",
            str(robot.did),
        )

    def test_why_there_is_none(self, robot: Node) -> None:
        def full(message: Message) -> None:
            message.nack("rate", "one a minute")

        robot.serve("full", full)
        done = run("request", peer_of(robot), "--subject", "full")
        assert done.exit_code == 7
        assert "rate (one a minute)" in done.stderr
        done = run("request", peer_of(robot), "--subject", "other")
        assert (done.exit_code, "unknown subject" in done.stderr) == (7, True)
        address = robot.address
        robot.close()
        done = run("request", f"{robot.did}@{address}", "--timeout", "0.3")
        assert (done.exit_code, "was not reached" in done.stderr) == (6, True)

    def test_a_peer_that_still_works(self, robot: Node) -> None:
        done = run("request", peer_of(robot), "--timeout", "0.3")  # nothing takes it
        assert done.exit_code == 5
        assert "accepted request" in done.stderr

    def test_usage(self, tmp_path: Path, robot: Node) -> None:
        done = run("request", peer_of(robot), "x", "--file", str(tmp_path / "y"))
        assert (done.exit_code, "exclude each other" in done.stderr) == (2, True)
        done = run("request", peer_of(robot), "--file", str(tmp_path / "absent"))
        assert (done.exit_code, "cannot read" in done.stderr) == (3, True)
        done = run("request", str(robot.did))
        assert (done.exit_code, "no address is known" in done.stderr) == (2, True)


def new_key(folder: Path) -> str:
    """Make a key that is not that of the answering process."""
    path = str(folder / "other.pem")
    assert run("id", "new", path).exit_code == 0
    return path


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def start_answering(subject: str, program: str, *more: str) -> tuple[Process, str]:
    process = Process("answer", subject, "--exec", program, "--json", *more)
    return process, str(process.json()["peer"])


class TestAnswer:
    def test_a_program_answers(self, tmp_path: Path) -> None:
        script = tmp_path / "answer.py"
        script.write_text(
            "import os, sys\n"
            "text = sys.stdin.read()\n"
            "if text == 'no': sys.exit('the battery is out')\n"
            "names = sorted(n for n in os.environ if n.startswith('SIGNEDWIRE'))\n"
            "fds = max(map(int, os.listdir('/dev/fd')))\n"
            "print(text, os.environ['SIGNEDWIRE_SUBJECT'], len(names), 'SECRET' in os.environ, fds)"
        )
        os.environ["SECRET"] = "x"
        process, peer = start_answering("battery", f"{PYTHON} {script}")
        other = new_key(tmp_path)
        with process:
            done = run("request", peer, "hi", "--subject", "battery", "--identity", other)
            assert done.stdout == "hi battery 3 False 3\\n\n"
            done = run("request", peer, "no", "--subject", "battery", "--identity", other)
            assert (done.exit_code, "the battery is out" in done.stderr) == (7, True)
            done = run("request", peer, "x", "--subject", "else", "--identity", other)
            assert (done.exit_code, "unknown subject" in done.stderr) == (7, True)
            process.interrupt()
            assert process.wait() == 130
        del os.environ["SECRET"]

    def test_a_program_that_hangs_is_killed_at_the_deadline(self, tmp_path: Path) -> None:
        mark = tmp_path / "mark"
        script = tmp_path / "hang.py"
        script.write_text(
            f"import os, time\nopen({str(mark)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)\n"
        )
        process, peer = start_answering("x", f"{PYTHON} {script}")
        with process:
            done = run(
                "request",
                peer,
                "--subject",
                "x",
                "--timeout",
                "2",
                "--identity",
                new_key(tmp_path),
            )
            assert done.exit_code == 5
            pid = int(mark.read_text())
            end = time.monotonic() + LIMIT
            while _is_running(pid):
                assert time.monotonic() < end, "the program still runs"
                time.sleep(0.02)

    def test_usage(self) -> None:
        for words, text in (
            ("'", "cannot be split"),
            ("", "is empty"),
            ("no-such-program-1", "there is no program"),
        ):
            done = run("answer", "x", "--exec", words)
            assert (done.exit_code, text in done.stderr) == (2, True)


def test_a_dead_request_is_not_sent_again(tmp_path: Path, robot: Node) -> None:
    robot.serve("x", lambda message: message.nack("refused", "no"))
    key, store = str(tmp_path / "key.pem"), str(tmp_path / "a.db")
    assert run("id", "new", key).exit_code == 0
    config = TransportConfig(listen=None)
    with Node(
        Identity.load(key), config, RoutingTable({robot.did: robot.address}), store=store
    ) as a:
        with pytest.raises(MessageRefusedError):
            a.request(robot.did, subject="x", durable=True)
        (letter,) = a.dead.list()
    done = run("dead", "retry", str(letter.id), "--store", store, "--identity", key)
    assert (done.exit_code, "is a request, and nobody waits" in done.stderr) == (9, True)
    assert run("dead", "list", "--store", store, "--identity", key).stdout.strip()
