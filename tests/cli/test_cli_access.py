"""`signedwire listen` with an access file: a wrong one stops it, SIGHUP reads it again."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from clikit import LIMIT, expect_one_sentence, isolate, run, start_listening

from signedwire import Identity

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="SIGHUP")


@pytest.fixture
def access(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    isolate(tmp_path, monkeypatch)
    path = tmp_path / "access"
    path.write_text(f"deny {Identity.generate().did}\n")
    monkeypatch.setenv("SIGNEDWIRE_ACCESS_FILE", str(path))
    return path


def test_it_does_not_start_with_a_wrong_line(access: Path) -> None:
    access.write_text("# my list\nforbid somebody\n")
    assert run("id", "new").exit_code == 0
    ran = run("listen", "--no-store", "--timeout", "1")
    assert ran.exit_code != 0
    expect_one_sentence(ran, ran.exit_code, f"{access}, line 2: 'forbid' is no rule")


def test_a_hang_up_reads_it_again(access: Path, tmp_path: Path) -> None:
    other = str(tmp_path / "bob.pem")
    assert run("id", "new", other).exit_code == 0
    bob = run("id", "show", other).stdout.strip()
    process, peer = start_listening("--no-store")
    with process:
        access.write_text("deny\n")
        process._process.send_signal(signal.SIGHUP)
        line = process.line("stderr")
        assert line.startswith("the access list stays as it was: ")
        assert f"{access}, line 1: deny takes one DID" in line
        access.write_text(f"deny {bob}\n")
        process._process.send_signal(signal.SIGHUP)
        assert process.line("stderr") == f"read {access} again: 1 rule in force"
        assert process.is_running
        ran = run("send", peer, "hello", "--identity", other, "--no-store")
        assert ran.exit_code != 0
        why = f"the access list denies its sender {bob}"
        assert process.line("stderr") == f"dropped: denied ({why})"
        process.terminate()
        process.wait()
        assert process.rest("stderr")[-1].endswith(" denied (each attempt counts)")


def test_a_file_that_was_cut_off_drops_no_denial_and_a_comment_says_that_it_does(
    access: Path,
) -> None:
    denied = access.read_text()
    assert run("id", "new").exit_code == 0
    process, _ = start_listening("--no-store")
    with process:
        for text in ("", "\n", " \n\t\n", "\ufeff\n"):
            access.write_text(text, encoding="utf-8")
            process.send(signal.SIGHUP)
            line = process.line("stderr")
            assert line.startswith("the access list stays as it was: ")
            assert f"{access} is empty: it may have been cut off" in line
        for text, words in (
            (denied, "1 rule in force"),
            (f"{denied}allow {Identity.generate().did}\n", "2 rules in force"),
            ("allow none\n", "1 rule in force"),
        ):
            access.write_text(text)
            process.send(signal.SIGHUP)
            assert process.line("stderr") == f"read {access} again: {words}"


def test_a_file_with_comments_alone_is_said_to_deny_nobody(access: Path) -> None:
    assert run("id", "new").exit_code == 0
    process, _ = start_listening("--no-store")
    with process:
        access.write_text("# nobody\n")
        process.send(signal.SIGHUP)
        words = "it has no rule and denies nobody"
        assert process.line("stderr") == f"read {access} again: {words}"


def test_the_name_of_the_file_turns_no_terminal_round(
    access: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = access.with_name("a\u202eb")
    access.rename(path)
    monkeypatch.setenv("SIGNEDWIRE_ACCESS_FILE", str(path))
    assert run("id", "new").exit_code == 0
    process, _ = start_listening("--no-store")
    with process:
        for text, begin in (("# none\n", "read "), ("nonsense\n", "the access list stays as")):
            path.write_text(text)
            process.send(signal.SIGHUP)
            line = process.line("stderr")
            assert line.startswith(begin)
            assert "a\\u202eb" in line


SLOW_CLOSE = """
import asyncio, sys
from signedwire.cli import main
from signedwire.transport.core import NodeCore

close = NodeCore.close

async def slowly(core):
    print("closing", file=sys.stderr, flush=True)
    await asyncio.sleep(1)
    await close(core)

NodeCore.close = slowly
sys.argv = ["signedwire", "listen", "--no-store"]
main()
"""


def test_a_hang_up_does_not_end_a_listener_that_closes(access: Path) -> None:
    assert run("id", "new").exit_code == 0
    with subprocess.Popen([sys.executable, "-c", SLOW_CLOSE], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert any(line.startswith(b"  signedwire send") for line in process.stderr)
        process.terminate()
        assert process.stderr.readline() == b"closing\n"
        process.send_signal(signal.SIGHUP)
        _, told = process.communicate(timeout=LIMIT)
        assert b"received 0 messages" in told
        assert process.returncode == -signal.SIGTERM


def test_a_hang_up_that_is_ignored_stays_so(access: Path) -> None:
    assert run("id", "new").exit_code == 0
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which children inherit, as of nohup
    try:
        process, _ = start_listening("--no-store")
    finally:
        signal.signal(signal.SIGHUP, before)
    with process:
        access.write_text("nonsense\n")
        process.send(signal.SIGHUP)
        process.terminate()
        process.wait()
        assert process.rest("stderr") == ["received 0 messages"]
