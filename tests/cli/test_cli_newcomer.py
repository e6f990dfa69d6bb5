"""The command line as a newcomer meets it, who has only its texts."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from clikit import LIMIT, Process, Ran, expect_one_sentence, isolate, listener, run, start_listening
from typer.models import OptionInfo

from signedwire import ConfigError, Identity, IdentityError, TransportConfig, load_identity
from signedwire.cli.commands import all_commands
from signedwire.cli.exit_codes import ExitCode
from signedwire.config import OPTIONS
from signedwire.option_texts import describe_options
from signedwire.sync import Node

BOB = Identity.from_seed(bytes(range(32)))
AWAY = f"{BOB.did}@127.0.0.1:1"


@pytest.fixture(autouse=True)
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return isolate(tmp_path, monkeypatch)


# -- config show -------------------------------------------------------------------


def test_what_config_show_prints_keeps_the_store(tmp_path: Path) -> None:
    """The command line's own default is a store, which no line of the file takes away."""
    shown = run("config", "show")
    assert f"# store: one for each key, in {tmp_path / 'state' / 'signedwire'}" in shown.stdout
    assert "store" not in tomllib.loads(shown.stdout)
    file = tmp_path / "shown.toml"
    file.write_text(shown.stdout)
    ran = run("send", AWAY, "x", "--config", file)
    assert ran.exit_code == 4, ran
    assert list((tmp_path / "state" / "signedwire").glob("*.db"))
    # Where somebody says "none", it is "none".
    file.write_text('store = "none"\n')
    assert "\nstore = " in run("config", "show", "--config", file).stdout
    assert run("send", AWAY, "x", "--config", file).exit_code == 6


def test_config_show_names_the_store_in_json_too(tmp_path: Path) -> None:
    (store,) = (each for each in run("config", "show", "--json").objects if each["name"] == "store")
    folder = str(tmp_path / "state" / "signedwire")
    assert store == {
        "name": "store",
        "value": None,
        "origin": "default",
        "note": f"one for each key, in {folder}",
    }


def test_config_show_explains_each_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNEDWIRE_MAX_ATTEMPTS", "5")
    texts = describe_options()
    # The preset is the first one, and is no field of `TransportConfig`.
    shown = run("config", "show", "--explain").stdout
    # With its comments it is the same configuration file.
    assert tomllib.loads(shown) == tomllib.loads(run("config", "show").stdout)
    comments = [line for line in shown.splitlines() if re.match("# (?!store: )", line)]
    assert max(map(len, comments)) <= 80
    paragraphs = [
        " ".join(line.removeprefix("# ") for line in paragraph.splitlines())
        for paragraph in shown.split("\n\n")
    ]
    assert "; SIGNEDWIRE_PRESET preset: none is chosen " in paragraphs.pop(0)
    for (name, text), paragraph in zip(texts.items(), paragraphs, strict=True):
        assert paragraph.startswith(f"{text.text} {text.type}; ")
        # The lines of a store and of a key that nobody names are comments, too.
        assert f"; default {text.default}; {text.variable} {name}" in paragraph
    (attempts,) = [each for each in paragraphs if "max_attempts = " in each]
    assert (
        "; attempts; 1 to 65_535; default 3; SIGNEDWIRE_MAX_ATTEMPTS max_attempts = 5 " in attempts
    )
    assert attempts.endswith("# environment SIGNEDWIRE_MAX_ATTEMPTS")


def test_config_show_explains_each_option_in_json_too() -> None:
    plain = run("config", "show", "--json").objects
    explained = run("config", "show", "--explain", "--json").objects
    assert (plain.pop(0)["name"], explained.pop(0)["variable"]) == ("preset", "SIGNEDWIRE_PRESET")
    for before, after, text in zip(plain, explained, describe_options().values(), strict=True):
        words = {key: value or None for key, value in text._asdict().items()}
        assert after == {**before, **words}


def test_config_show_without_a_home_folder_still_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/")
    monkeypatch.delenv("XDG_STATE_HOME")
    shown = run("config", "show")
    assert shown.exit_code == 0
    assert "# store: one for each key, in the user's state folder" in shown.stdout
    assert set(tomllib.loads(shown.stdout)) >= set(OPTIONS) - {"store"}


# -- what is stored has one exit code ----------------------------------------------


def process(*words: str, given: str = "a line\n", shell: str = "") -> Ran:
    """A run as a process of its own, whose standard input can be read by its descriptor."""
    command: list[str] = [sys.executable, "-m", "signedwire.cli", *words]
    if shell:  # what the shell adds: a pipe, a redirection
        command = ["sh", "-c", f'"$@" {shell}', "sh", *command]
    done = subprocess.run(
        command,
        input=given,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
        start_new_session=True,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def told(ran: Ran) -> dict[str, Any]:
    """The error as JSON; what goes to stderr before it is prose."""
    fields: dict[str, Any] = json.loads(ran.stderr.splitlines()[-1])
    return fields


def no_peer(_: Node) -> str:
    return AWAY


def another_key(bob: Node) -> str:
    return f"{Identity.generate().did}@{bob.address}"


def one_who_denies(bob: Node) -> str:
    bob.access.allow_only([])
    return f"{bob.did}@{bob.address}"


@pytest.mark.parametrize("text", ["x", "-"])
@pytest.mark.parametrize(
    ("peer", "cause"),
    [
        (no_peer, "cannot connect"),
        (another_key, "answered, not"),
        (one_who_denies, "does not let us in"),
    ],
)
def test_what_is_stored_ends_with_one_code_whatever_the_cause(
    peer: Callable[[Node], str], cause: str, text: str
) -> None:
    with listener() as bob:
        to = peer(bob)
        words = ("send", to, text, "--until", "accepted")
        ran = process(*words)
        assert ran.exit_code == ExitCode.STORED
        assert "is persisted, and not yet accepted: " in ran.stderr
        assert cause in ran.stderr
        assert "`signedwire outbox drop ID` removes it" in ran.stderr
        error = told(process(*words, "--json"))
    assert (error["exit_code"], error["exit"]) == (4, "stored")
    assert (error["did"], error["state"]) == (to.split("@")[0], "persisted")
    assert Path(error["store"]).is_file()
    assert error["detail"]
    assert len(run("outbox", "list", "--json").objects) == 2


def test_a_time_limit_says_whether_it_is_sent_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNEDWIRE_MAX_ATTEMPTS", "1000")
    ran = run("send", AWAY, "x", "--timeout", "0.2", "--json")
    assert ran.exit_code == ExitCode.STORED
    assert told(ran)["store"] is not None
    ran = run("send", AWAY, "x", "--timeout", "0.2", "--json", "--no-store")
    assert ran.exit_code == ExitCode.NO_ANSWER
    assert (told(ran)["store"], told(ran)["state"]) == (None, "queued")


def test_what_is_accepted_is_not_said_to_be_sent_later() -> None:
    with listener() as bob:
        to = f"{bob.did}@{bob.address}"
        ran = run("send", to, "x", "--until", "handled", "--timeout", "0.3", "--json")
    assert ran.exit_code == ExitCode.NO_ANSWER
    assert (told(ran)["store"], told(ran)["state"]) == (None, "accepted")


# -- peers in the wrong file ---------------------------------------------------------


@pytest.mark.parametrize(
    "content", ['peers = "p.toml"', f'[peers]\n"{BOB.did}" = "h:1"', "[Peers]", "[routes]"]
)
def test_peers_in_the_configuration_are_not_taken_for_v1_peers(
    content: str, tmp_path: Path
) -> None:
    file = tmp_path / "c.toml"
    file.write_text(content)
    for words in (["config", "check"], ["listen"], ["send", AWAY, "x"]):
        ran = run(*words, "--config", file)
        expect_one_sentence(ran, 3, "unknown key", "--peers FILE or SIGNEDWIRE_PEERS")
        assert "v1_peers" not in ran.stderr
    with pytest.raises(ConfigError, match="routing=RoutingTable") as caught:
        TransportConfig.production(peers="p.toml")  # type: ignore[call-arg]
    assert "v1_peers" not in str(caught.value)


# -- paths that cannot be used -------------------------------------------------------


@pytest.mark.parametrize("name", all_commands())
def test_an_empty_path_is_refused_by_name(name: str) -> None:
    """An empty path comes from a variable that is not set, and is not the working directory."""
    hints = get_type_hints(all_commands()[name].options, include_extras=True)
    of_paths = {field: hint for field, hint in hints.items() if "Path" in str(hint)}
    assert len(of_paths) >= 3
    for field, hint in of_paths.items():
        is_option = isinstance(get_args(hint)[1], OptionInfo)
        given = [f"--{field.replace('_', '-')}", ""] if is_option else [""]
        to = [AWAY, "x"] if name == "send" else []
        ran = run(*name.split(), *to, *given)
        expect_one_sentence(ran, 2, given[0], "the path is empty")


def test_a_file_that_cannot_be_read_is_no_wrong_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"x")
    file.chmod(0)
    # Whoever may read everything is told what others are.
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    for words in (["verify"], ["evidence", "verify"], ["evidence", "show"], ["id", "show"]):
        ran = run(*words, file)
        assert ran.exit_code == 3, ran
    assert run("config", "check", "--config", file).exit_code == 3
    assert run("id", "show", "--identity", file).exit_code == 3
    assert run("peers", "--peers", file).exit_code == 3
    assert run("send", AWAY, "--file", file).exit_code in (3, 4)  # 4: it can be read


@pytest.mark.parametrize("command", ["listen", "send", "outbox list"])
def test_a_store_that_cannot_be_looked_at_is_named_as_the_store(
    command: str, tmp_path: Path
) -> None:
    run("id", "new")
    path = tmp_path / ("x" * 300)  # even asking whether it is there is an error
    to = [AWAY, "x"] if command == "send" else []
    ran = run(*command.split(), *to, "--store", path)
    expect_one_sentence(ran, ExitCode.STORE, f"cannot open the store {path}", "too long")


# -- lines ---------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_no_lines_are_nothing_to_send(options: list[str]) -> None:
    """Nobody is there, so nothing may be said to be accepted."""
    ran = process("send", AWAY, "-", "--no-store", *options, given="")
    assert (ran.exit_code, ran.stdout) == (0, "")
    assert ran.stderr.endswith("nothing to send: no line came on standard input\n")


def test_a_closed_input_is_an_error_and_nothing_else() -> None:
    run("id", "new")
    ran = process("send", AWAY, "-", "--no-store", shell="<&-")
    expect_one_sentence(ran, 3, "standard input is closed")


def test_a_first_line_that_is_not_accepted_is_not_counted() -> None:
    run("id", "new")
    ran = process("send", AWAY, "-", "--no-store")
    expect_one_sentence(ran, 6, "line 1 of standard input", "attempts exhausted")


# -- one fault, one error ------------------------------------------------------------


def test_one_fault_is_one_error_for_one_message_and_for_lines() -> None:
    run("id", "new")
    with listener() as bob:
        for to in (AWAY, another_key(bob), one_who_denies(bob)):
            words = ("send", to, "--no-store", "--json")
            one, lines = told(run(*words, "x")), told(process(*words, "-"))
            assert one["error"] == lines["error"] == "DeliveryFailedError"
            assert one["did"] == lines["did"] == to.split("@")[0]
            assert one["reason"] == lines["reason"] == "attempts exhausted"
            assert one["state"] == lines["state"] == "failed"
            assert one["detail"]
            assert lines["detail"]
            assert one["exit_code"] == lines["exit_code"]


@pytest.mark.parametrize("text", ["x", "-"])
def test_what_is_stored_says_why_in_json_too(text: str) -> None:
    (sent,) = process("send", AWAY, text, "--json").objects
    assert (sent["state"], "connection refused" in sent["detail"]) == ("persisted", True)


# -- a peer without an address -------------------------------------------------------


@pytest.mark.parametrize("text", ["x", "-"])
def test_a_store_takes_messages_for_a_peer_without_an_address(text: str) -> None:
    with listener(BOB) as bob:
        ran = process("send", str(BOB.did), text)
        assert ran.exit_code == ExitCode.STORED
        assert ran.stdout.startswith("persisted: ")
        for part in ("no address is known for the peer yet", "`signedwire send DID@host:port`"):
            assert part in ran.stderr
        (sent,) = process("send", str(BOB.did), text, "--json").objects
        assert (sent["state"], sent["address"]) == ("persisted", None)
        assert sent["detail"] == "no address is known for the peer yet"
        # With an address all of them go, in order.
        assert run("send", f"{BOB.did}@{bob.address}", "now").exit_code == 0
        came = [bob.receive(LIMIT) for _ in range(3)]
    assert [each and each.payload for each in came] == [
        *[b"x" if text == "x" else b"a line"] * 2,
        b"now",
    ]


def test_whoever_asks_for_more_is_told_that_there_is_no_address(tmp_path: Path) -> None:
    for options in (["--until", "accepted"], ["--proof", str(tmp_path / "p")]):
        ran = run("send", str(BOB.did), "x", *options, "--json")
        assert ran.exit_code == ExitCode.STORED
        assert "no address is known for the peer yet" in told(ran)["message"]
    assert run("send", str(BOB.did), "x", "--until", "persisted").exit_code == 0


def test_without_a_store_a_peer_needs_an_address(
    key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expect_one_sentence(
        run("send", str(BOB.did), "x", "--no-store"), 2, "no address is known", "DID@host:port"
    )
    assert not key.exists()
    run("id", "new")
    monkeypatch.setenv("SIGNEDWIRE_STORE", "none")
    expect_one_sentence(run("send", str(BOB.did), "x"), 2, "no address is known", "DID@host:port")


# -- config check --------------------------------------------------------------------


REFUSED = {
    'access_file = "no/access"': "cannot read the access file no/access",
    'identity = "no/key.pem"': "key file no/key.pem",
    'store = "no/s.db"': "the store no/s.db cannot be made: there is no folder no",
    'evidence = "no/e.log"': "the evidence log no/e.log cannot be made",
    'store = "."': "the store . cannot be used: it is no regular file",
    'store = "c.toml"': "the store c.toml cannot be used: it is another file",
}


@pytest.mark.parametrize("line", REFUSED)
def test_config_check_finds_what_listen_refuses(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "c.toml"
    file.write_text(f"{line}\n")
    expect_one_sentence(run("config", "check", "--config", file), 3, REFUSED[line])
    assert sorted(each.name for each in tmp_path.iterdir()) == ["c.toml"]  # nothing made
    assert run("listen", "--config", file, "--timeout", "0.05").exit_code in (3, 9)


def test_config_check_shows_all_that_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "c.toml"
    words = ("config", "check", "--config", str(file), "--peers", "no.toml")
    file.write_text("max_attempts = 0\nlistn = 1\nconnect_timeout = true\n")
    monkeypatch.setenv("SIGNEDWIRE_INBOX_LIMIT", "many")
    ran = run(*words)
    assert ran.exit_code == 3
    parts = ("max_attempts", "listn", "connect_timeout", "INBOX_LIMIT", "no.toml")
    for part, line in zip(parts, ran.stderr.splitlines(), strict=True):
        assert part in line
    errors = [json.loads(line) for line in run(*words, "--json").stderr.splitlines()]
    assert [each["exit_code"] for each in errors] == [3] * 5
    monkeypatch.delenv("SIGNEDWIRE_INBOX_LIMIT")
    file.write_text("\n".join(list(REFUSED)[:4]))
    assert len(run(*words).stderr.splitlines()) == 5


def test_config_check_warns_of_what_has_no_effect(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    log = f'evidence = "{tmp_path}/e.log"\nevidence_keep = 2\n'
    for content, part in (
        (log, "on SIGUSR1 alone"),
        ("evidence_keep = 2\n", "evidence names no file"),
        ("evidence_max_bytes = 2000\n", "evidence names no file"),
        ('identity = "k"\nidentity_fd = 3\n', "identity has no effect"),
        (f"{log}evidence_max_bytes = 2000\n", ""),
    ):
        file.write_text(content)
        ran = run("config", "check", "--config", file)
        assert (ran.exit_code, ran.stderr.count("\n")) == (0, 1 if part else 0), ran
        assert part in ran.stderr
        (checked,) = run("config", "check", "--config", file, "--json").objects
        assert [part in each for each in checked["warnings"]] == ([True] if part else [])


def test_config_check_accepts_what_listen_makes(tmp_path: Path) -> None:
    assert run("config", "check").exit_code == 0  # the key and the store are made later
    assert run("listen", "--timeout", "0.05").exit_code == 0
    assert run("config", "check").exit_code == 0
    (store,) = (tmp_path / "state" / "signedwire").glob("*.db")
    file = tmp_path / "c.toml"
    file.write_text(f'store = "{store}"\n')
    assert run("config", "check", "--config", file).exit_code == 0


# -- pipes, passwords, keys ----------------------------------------------------------


@pytest.mark.parametrize("words", ["--help", "-h", "--version", "send --help", "id --help", ""])
def test_a_reader_that_is_gone_ends_help_as_it_ends_all_else(words: str) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "signedwire.cli", *words.split()],
        stdout=write,
        stderr=write if not words else subprocess.PIPE,  # help that nobody asked for
        timeout=LIMIT,
        check=False,
    )
    os.close(write)
    assert done.returncode == (ExitCode.PIPE_CLOSED if words else done.returncode)
    assert not done.stderr


@pytest.mark.parametrize("shell", ["</dev/null", ""])
def test_a_password_needs_a_terminal_to_be_asked_at(shell: str, key: Path) -> None:
    ran = process("id", "new", "--ask-password", given="secret\nsecret\n", shell=shell)
    expect_one_sentence(ran, 2, "there is no terminal", "--password-env")
    assert not key.exists()


def test_what_is_wrong_with_a_password_names_its_variable(
    key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("id", "new")
    monkeypatch.setenv("SIGNEDWIRE_PASSWORD", "x")
    expect_one_sentence(run("id", "show"), 3, "not encrypted", "Unset SIGNEDWIRE_PASSWORD")
    monkeypatch.setenv("SIGNEDWIRE_PASSWORD", "x")
    with pytest.raises(IdentityError, match="Unset SIGNEDWIRE_PASSWORD"):
        load_identity()
    key.unlink()
    monkeypatch.setenv("SIGNEDWIRE_PASSWORD", "right")
    run("id", "new")
    monkeypatch.setenv("SIGNEDWIRE_PASSWORD", "wrong")
    expect_one_sentence(run("id", "show"), 3, "password is wrong", "in SIGNEDWIRE_PASSWORD right?")


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ("", "unset it, so that another source is used"),
        ("   ", "Put the whole key there again"),
        ("ab" * 32, "write ed25519-seed: before it"),
        ("ed25519-seed:abc", "Put the whole key there again"),
    ],
)
def test_what_is_wrong_with_a_key_in_a_variable_speaks_of_no_file(
    content: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGNEDWIRE_IDENTITY_KEY", content)
    ran = run("id", "show")
    expect_one_sentence(ran, 3, "in SIGNEDWIRE_IDENTITY_KEY", hint)
    assert not [word for word in ("FILE", "NEW", "rm ", "cat ", "copy") if word in ran.stderr]


def test_ping_with_our_own_key_does_not_advise_to_use_it(key: Path) -> None:
    did = run("id", "new").stdout.strip()
    with listener() as bob:
        to = one_who_denies(bob)
        for command in ("ping", "bench"):
            ran = run(command, to, "--own-identity")
            assert ran.exit_code == ExitCode.DENIED
            assert "add --own-identity" not in ran.stdout + ran.stderr
            assert "our key for this run" not in ran.stdout + ran.stderr
            assert f"ask its owner to let {did} in" in ran.stderr
        assert "add --own-identity" in run("ping", to).stderr


# -- signals -------------------------------------------------------------------------


@pytest.mark.parametrize("name", all_commands())
def test_the_help_of_every_command_lists_the_codes_of_signals(name: str) -> None:
    shown = " ".join(run(*name.split(), "--help").stdout.split())
    assert "129 SIGHUP;" in shown
    assert "143 SIGTERM. " in shown


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP"])
def test_a_signal_ends_send_with_that_code(number: str) -> None:
    with Process("send", AWAY, "-", "--no-store") as sending:
        assert "made a new identity" in sending.line("stderr")
        sending.send(signal.Signals[number])
        assert sending.wait() == -signal.Signals[number]


# -- the files of the documents ------------------------------------------------------


def test_the_files_of_the_documents_can_be_used(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    blocks = dict(re.findall(r"```toml file=(\S+)\n(.*?)```", text, re.DOTALL))
    assert blocks.keys() == {"node.toml", "names.toml", "peers.toml"}
    made = run("id", "new", tmp_path / "identity.pem")
    assert made.exit_code == 0
    for name, content in blocks.items():
        here = content.replace("/var/lib/signedwire", str(tmp_path))
        assert (here != content) == (name == "node.toml")
        (tmp_path / name).write_text(here)
    words = ("--config", tmp_path / "node.toml", "--peers", tmp_path / "peers.toml")
    names = run("config", "show", "--config", tmp_path / "names.toml")
    assert names.exit_code == 0
    assert "robot-1" in names.stdout
    (checked,) = run("config", "check", *words, "--json").objects
    assert (checked["ok"], checked["routes"], checked["warnings"]) == (True, 2, [])
    values = {each["name"]: each for each in run("config", "show", *words, "--json").objects}
    assert values["listen"]["value"] == "0.0.0.0:9001"
    assert run("outbox", "list", *words).exit_code == 3  # there is no such store yet


def test_a_relative_path_is_taken_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "c.toml").write_text('identity = "k.pem"\nstore = "s.db"\n')
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run("id", "new", "k.pem")
    assert run("send", AWAY, "x", "--config", "../etc/c.toml").exit_code == ExitCode.STORED
    assert {each.name for each in (tmp_path / "here").iterdir()} >= {"k.pem", "s.db"}
    assert [each.name for each in (tmp_path / "etc").iterdir()] == ["c.toml"]


# -- a full disk ---------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", ["config show", "config show --json", "id show", "outbox list"])
def test_standard_output_that_cannot_be_written_is_named(words: str) -> None:
    run("send", AWAY, "x")
    ran = process(*words.split(), shell=">/dev/full")
    assert ran.exit_code == ExitCode.SYSTEM
    assert "standard output: No space left on device" in ran.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_a_key_that_was_made_is_told_of_though_its_did_cannot_be_printed(
    options: list[str], tmp_path: Path
) -> None:
    ran = process("id", "new", str(tmp_path / "k.pem"), *options, shell=">/dev/full")
    assert ran.exit_code == ExitCode.SYSTEM
    made, error = ran.stderr.splitlines()
    assert made == f"made a new identity in {tmp_path}/k.pem"
    assert "standard output: No space left on device" in error


# -- advice ---------------------------------------------------------------------------


def test_the_advice_about_a_store_in_use_fits_whoever_uses_it(tmp_path: Path) -> None:
    run("id", "new")
    other = tmp_path / "other.pem"
    run("id", "new", other)
    store = tmp_path / "base.db"
    process_, _ = start_listening("--store", str(store))
    with process_:
        ran = run("listen", "--identity", other, "--store", store)
        expect_one_sentence(ran, ExitCode.STORE, "it has another key, give --store another FILE")
    process_, _ = start_listening()
    with process_:
        ran = run("listen")
        expect_one_sentence(ran, ExitCode.STORE, "`signedwire id new FILE`, then --identity FILE")


def test_a_stored_message_is_told_how_it_goes_and_for_how_long_it_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run("id", "new")
    assert "`signedwire send DID@127.0.0.1:1` to this peer" in run("send", AWAY, "x").stderr
    assert "after 7 days (`unmet_max_age`)" in run("send", str(BOB.did), "x").stderr
    monkeypatch.setenv("SIGNEDWIRE_UNMET_MAX_AGE", "43200")
    assert "after 0.5 days (`unmet_max_age`)" in run("send", str(BOB.did), "x").stderr


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")
def test_texts_about_a_peer_on_a_unix_socket_show_its_form(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SIGNEDWIRE_NETWORK", "unix")
    where = f"unix:{tmp_path}/peer"
    told = run("send", f"{BOB.did}@{where}", "x").stderr
    assert f"`signedwire send DID@{where}` to this peer" in told
    told = run("send", str(BOB.did), "x").stderr
    assert "`signedwire send DID@unix:/path` to this peer" in told
    told = run("send", str(BOB.did), "x", "--no-store").stderr
    assert "DID@unix:/path" in told


def test_another_key_is_told_in_whole_sentences() -> None:
    run("id", "new")
    with listener() as bob:
        ran = run("send", another_key(bob), "x")
    assert ran.exit_code == ExitCode.STORED
    assert "is persisted, and not yet accepted: the peer was not reached" in ran.stderr
    assert "is the DID right? `signedwire outbox list`" in ran.stderr


@pytest.mark.parametrize("options", [[], ["--no-store"]], ids=["store", "no store"])
def test_a_host_name_that_is_not_found_is_to_be_checked(options: list[str]) -> None:
    run("id", "new")
    ran = run("send", f"{BOB.did}@a..b:9", "x", *options)
    assert ran.exit_code == (ExitCode.UNREACHED if options else ExitCode.STORED)
    assert "Is the host name right?" in ran.stderr


def test_whom_we_deny_ourselves_is_told_where_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    run("id", "new")
    monkeypatch.setenv("SIGNEDWIRE_DENY", str(BOB.did))
    ran = run("send", AWAY.replace(AWAY.split("@")[0], str(BOB.did)), "x", "--no-store")
    assert ran.exit_code == ExitCode.DENIED
    assert "change `deny`, `allow` or the access file" in ran.stderr


def test_a_payload_that_the_peer_does_not_take_is_to_be_split() -> None:
    run("id", "new")
    with listener(max_payload_size=100) as bob:
        ran = run("send", f"{bob.did}@{bob.address}", "x" * 500)
    assert "500 bytes are over the peer's limit of 100" in ran.stderr
    assert "Split it" in ran.stderr
    assert "`signedwire dead list`" in ran.stderr
    assert len(run("dead", "list", "--json").objects) == 1


def test_a_text_without_quotes_in_toml_is_told_to_need_them(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("listen = 0.0.0.0:9001\n")
    expect_one_sentence(run("config", "show", "--config", file), 3, "Put quotes around a text")


@pytest.mark.skipif(os.name != "posix", reason="needs Unix sockets")
def test_the_line_that_a_listener_on_a_unix_path_prints_works_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run("id", "new")
    folder = tempfile.mkdtemp(prefix="signedwire-")
    path = Path(folder) / "s"
    monkeypatch.setenv("SIGNEDWIRE_NETWORK", "unix")
    monkeypatch.setenv("SIGNEDWIRE_LISTEN", f"unix:{path}")
    try:
        with Process("listen", "--no-store") as listening:
            assert listening.line("stderr").startswith("listening;")
            line = listening.line("stderr").strip()
            assert line.startswith("SIGNEDWIRE_NETWORK=unix signedwire send did:key:")
            monkeypatch.delenv("SIGNEDWIRE_NETWORK")
            monkeypatch.delenv("SIGNEDWIRE_LISTEN")
            pasted = line.replace(" signedwire ", f" {sys.executable} -m signedwire.cli ")
            done = subprocess.run(
                f"{pasted} --no-store",
                shell=True,
                capture_output=True,
                timeout=LIMIT,
                check=False,
            )
            assert done.returncode == 0, (line, done.stderr)
            assert listening.line().endswith("hello")
    finally:
        shutil.rmtree(folder)


def test_config_show_has_the_preset_and_the_key_that_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = run("config", "show").stdout
    assert "# preset: none is chosen " in shown
    assert "# identity: identity.pem in the user's configuration folder " in shown
    monkeypatch.setenv("SIGNEDWIRE_PRESET", "production")
    monkeypatch.setenv("SIGNEDWIRE_IDENTITY", "k.pem")
    shown = run("config", "show", "--explain").stdout
    assert re.search('^preset = "production" +# environment SIGNEDWIRE_PRESET$', shown, re.M)
    assert re.search('^identity = "k.pem" ', shown, re.M)
