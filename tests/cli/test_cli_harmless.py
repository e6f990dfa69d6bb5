"""Foreign text can neither move a terminal nor break a line of JSON: {place} × {sequence}."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clikit import LIMIT, Ran, isolate, listener, run, start_listening

from signedwire import Address, Did, Identity, Reason
from signedwire.cli import errors
from signedwire.cli.app import _LogFormatter
from signedwire.errors import SignedWireError
from signedwire.types import parse_peer

BOB = Identity.from_seed(bytes(range(32)))
AWAY = f"{BOB.did}@127.0.0.1:1"
SEQUENCES = {
    "colour": "\x1b[31m",
    "title": "\x1b]0;title\x07",
    "C1": "\x9b31m",
    "return": "\rover",
    "backspace": "\b\b\b",
    "line tabulation": "\x0b",
    "form feed": "\x0c",
    "next line": "\x85",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
    "override": "\u202egnp.exe",
    "embedding": "\u202a",
    "isolate": "\u2066x\u2069",
    "zero width": "\u200b\u200d\ufeff",
    "mark": "\u200e\u061c",
    "tag": "\U000e0041",
    "delete": "\x7f",
    "surrogate": "\udcff",
}


@pytest.fixture(autouse=True)
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return isolate(tmp_path, monkeypatch)


def bad(text: str) -> set[str]:
    """The characters of an output that a terminal would not show as they are."""
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn")
    return {c for c in text if unicodedata.category(c) in kinds} - {"\n"}


def check(ran: Ran, *, is_json: bool) -> None:
    assert not bad(ran.stdout), ran
    assert not bad(ran.stderr), ran
    if is_json:
        for line in ran.stdout.split("\n")[:-1]:
            assert isinstance(json.loads(line), dict)
            line.encode("ascii")


def _payload(text: str, json_: list[str], folder: Path) -> Ran:
    """From a peer, in `listen`, and then in its log."""
    with listener(BOB) as bob:
        process, to = start_listening("--count", "1", "--no-store", *json_)
        with process:
            did, _, address = to.partition("@")
            bob.routing.update(did, address)
            bob.send(did, text.encode("utf-8", "surrogateescape"))
            code = process.wait()
            lines = [process.rest(name) for name in ("stdout", "stderr")]
    return Ran(code, *("".join(f"{line}\n" for line in part) for part in lines))


def _outbox(text: str, json_: list[str], folder: Path) -> Ran:
    run("send", AWAY, text)
    return run("outbox", "show", "1", *json_)


def _file(text: str, json_: list[str], folder: Path) -> Ran:
    return run("verify", f"/no/{text}", *json_)


def _store(text: str, json_: list[str], folder: Path) -> Ran:
    return run("send", AWAY, "x", "--store", str(folder / f"s{text}.db"), *json_)


def _key(text: str, json_: list[str], folder: Path) -> Ran:
    return run("id", "new", str(folder / f"k{text}.pem"), *json_)


def _did(text: str, json_: list[str], folder: Path) -> Ran:
    return run("send", f"{text}@h:1", "x", *json_)


def _host(text: str, json_: list[str], folder: Path) -> Ran:
    return run("ping", f"{BOB.did}@h{text}:1", *json_)


def _option(text: str, json_: list[str], folder: Path) -> Ran:
    return run("send", AWAY, "x", "--priority", text, *json_)


def _peers(text: str, json_: list[str], folder: Path) -> Ran:
    file = folder / "peers.toml"
    name = text.encode("unicode_escape").decode().replace("\\x", "\\u00")
    file.write_text(f'[peers]\n"{name}" = "h:1"\n', encoding="utf-8")
    return run("peers", "--peers", file, *json_)


def _config(text: str, json_: list[str], folder: Path) -> Ran:
    file = folder / "node.toml"
    name = text.encode("unicode_escape").decode().replace("\\x", "\\u00")
    file.write_text(f'listen = "{name}"\n', encoding="utf-8")
    return run("config", "show", "--config", file, *json_)


def _environment(text: str, json_: list[str], folder: Path) -> Ran:
    os.environ["SIGNEDWIRE_STORE"] = f"{folder}/e{text}.db"
    try:
        return run("config", "show", *json_)
    finally:
        del os.environ["SIGNEDWIRE_STORE"]


PLACES: dict[str, Callable[[str, list[str], Path], Ran]] = {
    "a payload in the outbox": _outbox,
    "the name of a file": _file,
    "the name of a store": _store,
    "the name of a key": _key,
    "a DID": _did,
    "a host": _host,
    "an option": _option,
    "a peers file": _peers,
    "a configuration": _config,
    "the environment": _environment,
}


@pytest.mark.parametrize("json_", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize("sequence", SEQUENCES)
@pytest.mark.parametrize("place", PLACES)
def test_nothing_from_others_reaches_a_terminal(
    place: str, sequence: str, json_: list[str], tmp_path: Path
) -> None:
    check(PLACES[place](SEQUENCES[sequence], json_, tmp_path), is_json=bool(json_))


@pytest.mark.parametrize("json_", [[], ["--json"]], ids=["text", "json"])
def test_nothing_in_a_payload_reaches_the_terminal_of_a_listener(
    json_: list[str], tmp_path: Path
) -> None:
    ran = _payload("".join(SEQUENCES.values()), json_, tmp_path)
    assert ran.exit_code == 0, ran
    check(ran, is_json=bool(json_))


@pytest.mark.parametrize("sequence", SEQUENCES)
@pytest.mark.parametrize("json_", [[], ["--json"]], ids=["text", "json"])
def test_nothing_in_an_error_reaches_a_terminal(
    sequence: str, json_: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors repeat foreign text, such as the words with which a peer closed a link."""
    text = SEQUENCES[sequence]
    for error in (SignedWireError(text, text), RuntimeError(text), OSError(5, text, text)):

        def fail(self: object, error: Exception = error) -> int:
            raise error

        monkeypatch.setattr("signedwire.cli.config_commands.check", fail)
        ran = run("config", "check", *json_)
        assert ran.stderr.count("\n") == 1
        check(ran, is_json=bool(json_))
        if json_:
            assert json.loads(ran.stderr)["exit_code"] == ran.exit_code


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_nothing_in_a_log_record_or_its_traceback_reaches_a_terminal(sequence: str) -> None:
    text = SEQUENCES[sequence]
    try:
        raise RuntimeError(text)
    except RuntimeError as error:
        info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("signedwire", 40, "f", 1, "%s", (text,), info)
    told = _LogFormatter("%(message)s").format(record)
    assert not bad(told)
    assert "Traceback" in told


@pytest.mark.parametrize("verbose", [[], ["-v"]], ids=["", "-v"])
@pytest.mark.skipif(os.name != "posix", reason="needs modes of files")
def test_nothing_in_a_warning_reaches_a_terminal(verbose: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "d\x1b[31mX\u202e"
    folder.mkdir()
    assert run("id", "new", folder / "g.pem").exit_code == 0
    (folder / "g.pem").chmod(0o440)
    ran = process("id", "show", folder / "g.pem", "--key-group-readable", *verbose)
    assert ran.exit_code == 0, ran
    assert "g.pem" in ran.stderr
    check(ran, is_json=False)


@pytest.mark.parametrize("verbose", [[], ["-v"]], ids=["", "-v"])
def test_nothing_in_the_log_of_another_library_reaches_a_terminal(verbose: list[str]) -> None:
    """asyncio logs exceptions that nobody has caught."""
    program = (
        "import logging, sys, typer; from signedwire.cli import config_commands, main\n"
        "def fail(options):\n"
        "    try: raise RuntimeError('caught \\x1b[31m')\n"
        "    except RuntimeError: logging.getLogger('asyncio').exception('told \\x1b[31m')\n"
        "    return 0\n"
        "config_commands.check = fail\n"
        f"sys.argv = ['signedwire', 'config', 'check', *{verbose!r}]\n"
        "main()\n"
    )
    ran = python("-c", program)
    assert ran.exit_code == 0, ran
    assert "told \\x1b[31m" in ran.stderr
    assert "caught \\x1b[31m" in ran.stderr
    check(ran, is_json=False)


@pytest.mark.skipif(os.name != "posix", reason="needs a terminal to ask at")
def test_nothing_in_a_question_reaches_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "d\x1b[31mX\u202e.pem"
    Identity.generate().save(path, "password")
    ours, its = os.openpty()
    with (
        os.fdopen(ours, "wb", buffering=0) as terminal,
        os.fdopen(its, "rb") as stdin,
        subprocess.Popen(
            [sys.executable, "-m", "signedwire", "id", "show", path],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # else it asks at the terminal of who runs the tests
        ) as asking,
    ):
        asked = b""
        assert asking.stderr is not None
        # What is typed before the space that ends the question is thrown away.
        while not asked.endswith(b": "):
            byte = os.read(asking.stderr.fileno(), 1)
            assert byte, asked
            asked += byte
        terminal.write(b"password\n")
        stdout, stderr = asking.communicate(timeout=LIMIT)
    assert stdout.startswith(b"did:key:"), stderr
    assert asked.startswith(b"Password of ")
    check(Ran(0, stdout.decode(), (asked + stderr).decode()), is_json=False)


def python(*words: str | os.PathLike[str]) -> Ran:
    """A process of its own: the log handlers of pytest are not there."""
    ran = subprocess.run(
        [sys.executable, *words], capture_output=True, encoding="utf-8", timeout=LIMIT
    )
    return Ran(ran.returncode, ran.stdout, ran.stderr)


def process(*words: str | os.PathLike[str]) -> Ran:
    return python("-m", "signedwire", *words)


def test_json_never_has_nan_and_is_utf8() -> None:
    from signedwire.cli.output import as_line

    with pytest.raises(ValueError):
        as_line({"x": float("nan")})
    line = as_line({"a\udcff": ["\udcff", {"b": "\ud800"}], "c": "ä"})
    assert json.loads(line) == {"a\\udcff": ["\\udcff", {"b": "\\ud800"}], "c": "ä"}
    json.loads(line).__repr__().encode()


COMMANDS: dict[str, tuple[list[str], ...]] = {
    "id new": (["id", "new"], ["id", "new", "/proc/x/y"]),
    "id show": (["id", "show"], ["id", "show", "/no/x"]),
    "listen": (["listen", "--timeout", "0.05"], ["listen", "--listen", "x"]),
    "send": (["send", AWAY, "x"], ["send", AWAY, "x", "--no-store"], ["send", "bob", "x"]),
    "ping": (["ping", AWAY], ["ping", "bob"]),
    "peers": (["peers"],),
    "verify": (["verify", "/no/x"], ["verify", "/dev/null"]),
    "config show": (["config", "show"], ["config", "show", "--config", "/no/x"]),
    "config check": (["config", "check"], ["config", "check", "--peers", "/no/x"]),
    "outbox": (["outbox", "list"], ["outbox", "show", "1"], ["outbox", "show", "9"]),
    "outbox retry": (["outbox", "retry"],),
    "outbox export": (["outbox", "export", "/no/x"],),
    "outbox drop": (["outbox", "drop", "9"], ["outbox", "drop", "--all"]),
    "dead": (["dead", "list"], ["dead", "show", "9"], ["dead", "drop", "9"], ["dead", "retry"]),
    "evidence": (["evidence", "verify", "/no/x"], ["evidence", "show", "/dev/null"]),
    "bench": (["bench", AWAY], ["bench", "--listen", "x"]),
    "usage": (["sing"], ["send"]),
}


def is_did(value: object) -> bool:
    return isinstance(value, str) and str(Did.parse(value)) == value


def is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


# One key has one meaning in all commands. What is in none of these is of one command alone.
MEANINGS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("did", "recipient", "sender", "owner", "answered_by"), is_did),
    "dids": lambda value: all(map(is_did, value)),
    "peer": lambda value: parse_peer(value)[1] is not None,  # DID@host:port, to be typed
    "address": lambda value: Address.parse(value) is not None,
    **dict.fromkeys(("file", "store", "config", "peers"), lambda value: "/" in value),
    **dict.fromkeys(("problem", "message", "hint", "reason", "detail", "event"), is_text),
    "wire": lambda value: value in ("v1", "v2"),
    "state": lambda value: value == value.lower(),
    "dropped": lambda value: isinstance(value, dict),
}
# What older names of the same things were, and the word that stands for them.
NO_KEYS = {"path": "file", "did_is_proven": "is_proven", "valid": "is_valid", "time": "…_us"}


def expect_meaning(fields: dict[str, Any]) -> None:
    """Each key of a JSON line means what it does everywhere, or is null."""
    for name, value in fields.items():
        assert name not in NO_KEYS, f"{name} is {NO_KEYS.get(name)} elsewhere"
        if value is None:
            continue
        if name in MEANINGS:
            assert MEANINGS[name](value), (name, value)
        elif name.startswith("is_"):
            assert isinstance(value, bool), (name, value)
        elif name.endswith("_us"):
            assert isinstance(value, int), (name, value)
        elif name.endswith("_ms"):
            assert isinstance(value, (int, float)), (name, value)


@pytest.mark.parametrize("verbose", [[], ["-v"]], ids=["quiet", "verbose"])
def test_every_line_of_stdout_is_json_for_every_command_and_outcome(
    verbose: list[str], tmp_path: Path
) -> None:
    run("id", "new")
    run("send", AWAY, "waits")
    codes = set()
    for ways in COMMANDS.values():
        for words in ways:
            is_usage = words[0] == "sing" or words == ["send"]
            ran = run(*words, *([] if is_usage else verbose), "--json")
            codes.add(ran.exit_code)
            for value in ran.objects:
                assert isinstance(value, dict), words
                expect_meaning(value)
            if ran.exit_code and not ran.stdout:
                (told,) = [line for line in ran.stderr.split("\n") if line.startswith("{")]
                assert json.loads(told)["exit_code"] == ran.exit_code, words
                expect_meaning(json.loads(told))
    assert {0, 2, 3, 4, 6} <= codes


def test_json_of_what_succeeds_has_the_same_keys(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(f'evidence = "{tmp_path}/e.log"\n')
    process, to = start_listening("--json", "--config", str(tmp_path / "c.toml"))
    (tmp_path / "p.toml").write_text('[peers]\n"{}" = "{}"\n'.format(*to.split("@")))
    with process:
        ways: tuple[tuple[str, ...], ...] = (
            ("send", to, "x", "--proof", f"{tmp_path}/proof", "--no-store"),
            ("ping", to),
            ("peers", "--peers", f"{tmp_path}/p.toml"),
            ("config", "check", "--peers", f"{tmp_path}/p.toml"),
            ("verify", f"{tmp_path}/proof"),
        )
        for words in ways:
            ran = run(*words, "--json")
            assert ran.exit_code == 0, ran
            assert ran.objects, words
            for fields in ran.objects:
                expect_meaning(fields)
        expect_meaning(json.loads(process.line()))
        process.interrupt()
        assert process.wait() == 130
    for word in ("verify", "show"):
        ran = run("evidence", word, f"{tmp_path}/e.log", "--json")
        assert ran.exit_code == 0, ran
        for fields in ran.objects:
            expect_meaning(fields)


def test_an_error_names_its_peer_and_reason_in_json() -> None:
    with listener() as bob:
        bob.access.allow_only([])
        ran = run("send", AWAY, "x", "--no-store", "--json")
    told = json.loads(ran.stderr.splitlines()[-1])
    assert told["did"] == str(BOB.did)
    assert told["reason"] == str(Reason.ATTEMPTS_EXHAUSTED)
    assert told["exit"] == "unreached"
    assert errors.code_of(SignedWireError("x")).name == "FAILED"
