"""Each exit code can really be produced, and the docs and `--help` tell it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from clikit import LIMIT, Process, expect_one_sentence, isolate, listener, run, start_listening

from signedwire import Identity, Reason, SignedEnvelope
from signedwire.cli.exit_codes import EVERY, ExitCode
from signedwire.sync import Node
from signedwire.types import parse_peer
from signedwire.wire.frames import encode_frame

BOB = Identity.from_seed(bytes(range(32)))
AWAY = f"{BOB.did}@127.0.0.1:1"

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")


@pytest.fixture(autouse=True)
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return isolate(tmp_path, monkeypatch)


def at(node: Node) -> str:
    return f"{node.did}@{node.address}"


def _done(_: Path) -> int:
    with listener() as bob:
        return run("send", at(bob), "x").exit_code


def _failed(folder: Path) -> int:
    file = folder / "e"
    with listener() as bob:
        run("send", at(bob), "x", "--proof", file)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    return run("verify", file).exit_code


def _usage(_: Path) -> int:
    return run("send", "bob", "x").exit_code


def _file(folder: Path) -> int:
    (folder / "bad.pem").write_text("no key")
    codes = {
        run("id", "show", folder / "bad.pem").exit_code,
        run("config", "check", "--config", folder / "none.toml").exit_code,
        run("verify", folder / "none").exit_code,
    }
    assert len(codes) == 1
    return codes.pop()


def _stored(_: Path) -> int:
    code = run("send", AWAY, "x").exit_code
    # Who asks for no more has what he asked for.
    assert run("send", AWAY, "x", "--until", "persisted").exit_code == ExitCode.DONE
    return code


def _no_answer(_: Path) -> int:
    codes = {run("listen", "--count", "1", "--timeout", "0.05", "--no-store").exit_code}
    with listener() as bob:
        ran = run("send", at(bob), "x", "--until", "handled", "--timeout", "0.1")
        codes.add(ran.exit_code)
    with socket.socket() as silent:  # accepts, and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        to = f"{BOB.did}@127.0.0.1:{silent.getsockname()[1]}"
        codes.add(run("send", to, "x", "--deadline", "0.2", "--no-store").exit_code)
    assert len(codes) == 1, codes
    return codes.pop()


def _unreached(_: Path) -> int:
    codes = {run("send", AWAY, "x", "--no-store").exit_code, run("ping", AWAY).exit_code}
    with listener() as bob:
        other = f"{BOB.did}@{bob.address}"
        unkept = run("send", other, "x", "--no-store")
        codes |= {unkept.exit_code, run("ping", other).exit_code}
    assert len(codes) == 1, codes
    return codes.pop()


def _refused(_: Path) -> int:
    with listener() as bob:

        def refuse() -> None:
            message = bob.receive(LIMIT)
            assert message is not None
            message.nack(Reason.NOT_ALLOWED)

        thread = threading.Thread(target=refuse)
        thread.start()
        code = run("send", at(bob), "x", "--until", "handled").exit_code
        thread.join()
    return code


def _denied(_: Path) -> int:
    run("id", "new")
    with listener() as bob:
        bob.access.allow_only([])
        ran = run("send", at(bob), "x", "--no-store")
        expect_one_sentence(
            ran, ExitCode.DENIED, "was not delivered", "ask its owner to let did:key:"
        )
        stored = run("send", at(bob), "x")
        assert "is persisted, and not yet accepted: the peer does not let us in" in stored.stderr
        assert stored.exit_code == ExitCode.STORED
        codes = {ran.exit_code, run("ping", at(bob)).exit_code}
    assert len(codes) == 1, codes
    return codes.pop()


def _store(folder: Path) -> int:
    (folder / "broken.db").write_bytes(b"no store" * 1000)
    return run("send", AWAY, "x", "--store", folder / "broken.db").exit_code


def _system(_: Path) -> int:
    with listener() as bob:
        codes = {run("listen", "--listen", str(bob.address), "--no-store").exit_code}
    if Path("/dev/full").exists():
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                [sys.executable, "-m", "signedwire", "config", "show"],
                stdout=full,
                stderr=subprocess.DEVNULL,
                timeout=LIMIT,
                check=False,
            )
        codes.add(done.returncode)
    assert len(codes) == 1, codes
    return codes.pop()


def _signalled(number: signal.Signals) -> Callable[[Path], int]:
    def produce(_: Path) -> int:
        process, _peer = start_listening("--no-store")
        with process:
            process.send(number)
            code = process.wait()
        # Negative: it ended by the signal itself, which a shell shows as 128 and the number.
        assert code == (130 if number is signal.SIGINT else -number)
        return 128 + abs(code) if code < 0 else code

    return produce


def _pipe_closed(_: Path) -> int:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "signedwire", "config", "show"],
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=LIMIT,
        check=False,
    )
    os.close(write)
    assert done.stderr == b""
    return done.returncode


WAYS: dict[ExitCode, Callable[[Path], int]] = {
    ExitCode.DONE: _done,
    ExitCode.FAILED: _failed,
    ExitCode.USAGE: _usage,
    ExitCode.FILE: _file,
    ExitCode.STORED: _stored,
    ExitCode.NO_ANSWER: _no_answer,
    ExitCode.UNREACHED: _unreached,
    ExitCode.REFUSED: _refused,
    ExitCode.DENIED: _denied,
    ExitCode.STORE: _store,
    ExitCode.SYSTEM: _system,
    ExitCode.HUNG_UP: _signalled(signal.SIGHUP),
    ExitCode.INTERRUPTED: _signalled(signal.SIGINT),
    ExitCode.PIPE_CLOSED: _pipe_closed,
    ExitCode.TERMINATED: _signalled(signal.SIGTERM),
}


@pytest.mark.parametrize("code", EVERY, ids=lambda code: code.name.lower())
def test_each_exit_code_can_be_produced(code: ExitCode, tmp_path: Path) -> None:
    assert WAYS[code](tmp_path) == code


def test_the_docs_have_every_exit_code_and_no_other() -> None:
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    section = text.split("## Exit codes")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", section, re.MULTILINE)
    assert [(int(number), words.strip()) for number, words in rows] == [
        (int(code), code.meaning) for code in sorted(EVERY)
    ]


def test_the_service_tells_systemd_that_it_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        path = f"/tmp/signedwire-notify-{os.getpid()}"
        manager.bind(path)
        manager.settimeout(LIMIT)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        try:
            process, _ = start_listening("--no-store")
            with process:
                assert manager.recv(100) == b"READY=1"
                process.terminate()
                assert process.wait() == -signal.SIGTERM
        finally:
            os.unlink(path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_at_any_moment_ends_it_by_that_signal(number: signal.Signals) -> None:
    """During the imports, the start, the run and the close."""
    for moment in range(6):
        process = Process("listen", "--no-store", "--json")
        with process:
            if moment >= 3:
                process.json()
            else:
                threading.Event().wait(0.1 * moment)
            for _ in range(1 + moment % 3):  # the later ones may come while it closes
                if process.is_running:
                    process.send(number)
            assert process.wait() == -number, moment
            rest = [line for line in process.rest("stderr") if "Traceback" in line]
            assert rest == []


def test_an_ignored_sighup_stays_ignored() -> None:
    """A signal is ignored, as under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which children inherit
    try:
        process, _ = start_listening("--no-store")
    finally:
        signal.signal(signal.SIGHUP, before)
    with process:
        process.send(signal.SIGHUP)
        threading.Event().wait(0.2)
        assert process.is_running
        process.terminate()
        assert process.wait() == -signal.SIGTERM


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("json", [[], ["--json"]], ids=["text", "json"])
def test_a_full_disk_under_stdout_does_not_hide_what_became_of_a_message(json: list[str]) -> None:
    with listener() as bob, open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "signedwire", "send", at(bob), "x", "--no-store", *json],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=LIMIT,
            check=False,
        )
        message = bob.receive(LIMIT)
        assert message is not None
    told = done.stderr.decode().splitlines()[-1]
    assert done.returncode == ExitCode.SYSTEM, told
    assert "No space left on device" in told
    assert f"message {message.message_id[:8]} is accepted" in told
    assert "Do not send it again" in told


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_what_could_not_be_printed_is_not_handled() -> None:
    run("id", "new")
    with open("/dev/full", "wb") as full, listener() as alice:
        process = Process("listen", stdout=full)
        with process:
            to = ""
            while not to:
                words = process.line("stderr").split()
                to = words[2] if words[:2] == ["signedwire", "send"] else ""
            did, _, address = to.partition("@")
            alice.routing.update(did, address)
            receipt = alice.send(did, b"x")
            assert process.wait() == ExitCode.SYSTEM
            told = process.rest("stderr")[-1]
            assert "was not printed" in told
            assert "is delivered again at the next start" in told
            assert receipt.state == "accepted"
    ran = run("listen", "--count", "1", "--timeout", "5")
    assert ran.exit_code == 0, ran
    assert ran.stdout.rstrip().endswith("(again) x")


def test_what_could_not_be_printed_may_be_unsigned() -> None:
    run("id", "new")
    with open("/dev/full", "wb") as full:
        process = Process("listen", "--allow-unsigned", "--no-store", stdout=full)
        with process:
            to = ""
            while not to:
                words = process.line("stderr").split()
                to = words[2] if words[:2] == ["signedwire", "send"] else ""
            did, address = parse_peer(to)
            assert address is not None
            sender = Identity.generate().did
            unsigned = SignedEnvelope.unsigned(sender, did, b"x", sequence_number=1)
            frame = encode_frame(unsigned.encode())
            with socket.create_connection(address, LIMIT) as connection:
                connection.sendall(frame)
                assert process.wait() == ExitCode.SYSTEM
            told = process.rest("stderr")[-1]
            assert " from an unproven sender was not printed" in told
            assert str(sender) not in told
