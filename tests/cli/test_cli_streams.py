"""The command line as a process: closed standard streams, SIGTERM, and an early Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from clikit import LIMIT, isolate, listener, run, start_listening

from signedwire import Identity
from signedwire.cli.exit_codes import ExitCode
from signedwire.streams import open_standard_descriptors

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and a shell")


@pytest.fixture(autouse=True)
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return isolate(tmp_path, monkeypatch)


def shell(words: str, closed: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command with streams closed by the shell: `<&-`, `>&-`, `2>&-`."""
    return subprocess.run(
        ["sh", "-c", f'exec "{sys.executable}" -m signedwire {words} {closed}'],
        capture_output=True,
        timeout=LIMIT,
    )


CLOSED = ["<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"]


@pytest.mark.parametrize("message", [["-"], ["--file", "/dev/stdin"]], ids=" ".join)
@pytest.mark.parametrize("way", ["option", "variable"])
def test_key_and_message_do_not_both_come_from_standard_input(
    message: list[str], way: str, tmp_path: Path
) -> None:
    key = tmp_path / "n.pem"
    Identity.generate().save(key)
    words = ["send", f"{Identity.generate().did}@127.0.0.1:1", *message, "--no-store"]
    chosen = ["--identity-fd", "0"] if way == "option" else []
    env = {} if way == "option" else {"SIGNEDWIRE_IDENTITY_FD": "0"}
    ran = subprocess.run(
        [sys.executable, "-m", "signedwire", *words, *chosen],
        input=key.read_bytes() + b"one\n",
        capture_output=True,
        timeout=LIMIT,
        env=os.environ | env,
    )
    told = ran.stderr.decode()
    assert ran.returncode == ExitCode.USAGE, ran
    assert " ".join(message) + " and " in told
    assert ("--identity-fd 0" if way == "option" else "identity_fd = 0") in told


@pytest.mark.parametrize("closed", CLOSED)
def test_a_message_is_sent_with_closed_streams(closed: str) -> None:
    with listener() as node:
        ran = shell(f"send {node.did}@{node.address} hello --no-store", closed)
        assert ran.returncode == 0, ran
        message = node.receive(LIMIT)
        assert message is not None
        assert message.payload == b"hello"
    if " 2>&-" not in f" {closed}":
        assert b"Traceback" not in ran.stderr
    if ">&-" not in closed.replace("2>&-", ""):
        assert ran.stdout.startswith(b"accepted")


@pytest.mark.parametrize("closed", CLOSED)
def test_a_result_goes_to_its_stream_or_nowhere(closed: str) -> None:
    assert run("id", "new").exit_code == 0
    ran = shell("id show", closed)
    assert ran.returncode == 0, ran
    assert ran.stderr == b""
    is_shown = ">&-" not in closed.replace("2>&-", "")
    assert ran.stdout.startswith(b"did:key:") == is_shown


def unwritable(words: str, way: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command with a stderr that takes nothing: a full disk, or a closed pipe."""
    if way == "full disk":
        stderr = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, stderr = os.pipe()
        os.close(reader)
    try:
        return subprocess.run(
            [sys.executable, "-m", "signedwire", *words.split()],
            stdout=subprocess.PIPE,
            stderr=stderr,
            timeout=LIMIT,
        )
    finally:
        os.close(stderr)


needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


@needs_full
@pytest.mark.parametrize("way", ["full disk", "closed pipe"])
def test_an_unwritable_stderr_changes_no_exit_code(way: str, tmp_path: Path) -> None:
    away = f"{Identity.generate().did}@127.0.0.1:1"
    key, store = tmp_path / "n.pem", tmp_path / "s.db"
    for words, code in {
        f"id new {key}": ExitCode.DONE,
        f"id show {key} -v": ExitCode.DONE,
        f"id show {tmp_path / 'nope.pem'}": ExitCode.FILE,
        f"id show {tmp_path / 'nope.pem'} --json": ExitCode.FILE,
        "id show --no-such-option": ExitCode.USAGE,
        "": ExitCode.USAGE,
        f"send {away} x --identity {key} --store {store}": ExitCode.STORED,
        f"outbox list --identity {key} --store {store}": ExitCode.DONE,
    }.items():
        ran = unwritable(words, way)
        assert ran.returncode == code, (words, ran)
    assert ran.stdout.count(b"\n") == 1, ran  # the message waits


@needs_full
@pytest.mark.parametrize("way", ["full disk", "closed pipe"])
def test_a_new_store_is_sent_from_with_an_unwritable_stderr(way: str, tmp_path: Path) -> None:
    with listener() as node:
        peer = f"{node.did}@{node.address}"
        ran = unwritable(f"send {peer} hello --store {tmp_path / 'new.db'}", way)
        assert ran.returncode == 0, ran
        assert ran.stdout.startswith(b"accepted")
        assert node.receive(LIMIT) is not None


@needs_full
@pytest.mark.parametrize("way", ["full disk", "closed pipe"])
def test_listening_goes_on_with_an_unwritable_stderr(way: str) -> None:
    ran = unwritable("listen --timeout 1 --json", way)
    assert ran.returncode == 0, ran
    events = [json.loads(line)["event"] for line in ran.stdout.splitlines()]
    assert events == ["listening", "summary"]


def test_json_is_nothing_but_json_where_stderr_is_closed() -> None:
    ran = shell("listen --json --no-store --timeout 0.2", "2>&-")
    assert ran.returncode == 0, ran
    events = [json.loads(line)["event"] for line in ran.stdout.splitlines()]
    assert events == ["listening", "summary"]


def test_an_error_is_not_printed_to_stdout_where_stderr_is_closed() -> None:
    ran = shell("send nobody hello", "2>&-")
    assert (ran.returncode, ran.stdout) == (2, b"")


def test_closed_standard_input_is_not_an_empty_message() -> None:
    ran = shell(f"send {Identity.generate().did}@127.0.0.1:9 - --no-store", "<&-")
    assert ran.returncode == 3
    assert b"standard input is closed" in ran.stderr


PORTAL = """
import os, sys
for fd in map(int, sys.argv[1]):
    os.close(fd)
from signedwire import Identity
from signedwire.cli.exit_codes import ExitCode
from signedwire.sync import Node
with Node(Identity.generate()) as a, Node(Identity.generate()) as b:
    a.routing.update(b.did, b.address)
    a.send(b.did, b"x")
    b.receive().ack()
os._exit(7)
"""


@pytest.mark.parametrize("closed", ["0", "1", "2", "01", "012"])
def test_a_blocking_node_in_a_program_with_closed_streams(closed: str) -> None:
    ran = subprocess.run([sys.executable, "-c", PORTAL, closed], capture_output=True, timeout=LIMIT)
    assert (ran.returncode, ran.stderr) == (7, b"")


def test_only_closed_descriptors_are_opened() -> None:
    before = [os.fstat(number).st_ino for number in range(3)]
    assert open_standard_descriptors() == []
    assert [os.fstat(number).st_ino for number in range(3)] == before


@pytest.mark.parametrize("count", [1, 3])
def test_sigterm_ends_in_order_and_then_by_the_signal(count: int) -> None:
    process, _ = start_listening()
    with process:
        for _ in range(count):
            process.terminate()
        assert process.wait() == -signal.SIGTERM
        assert process.rest("stderr") == ["received 0 messages"]  # after the close


def test_ctrl_c_while_it_imports_is_no_traceback() -> None:
    """Each import is told on stderr as it ends, so that the moment is no guess."""
    for module in ("signedwire.errors", "signedwire.node", "typer", "signedwire.cli.commands"):
        process = subprocess.Popen(
            [sys.executable, "-X", "importtime", "-m", "signedwire", "listen", "--no-store"],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        assert process.stderr is not None
        with process:
            for line in process.stderr:
                if line.split(b"|")[-1].strip() == module.encode():
                    break
            process.send_signal(signal.SIGINT)
            rest = process.stderr.read()
        assert b"Traceback" not in rest, (module, rest)
        assert process.returncode == 130, module


def test_ctrl_c_stays_as_it_is_for_who_imports_the_library() -> None:
    code = (
        "import signal; import signedwire; "
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=LIMIT).returncode == 0
