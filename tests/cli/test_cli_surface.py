"""Help, usage, the translation of exceptions, and starting without the extra."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import get_type_hints

import pytest
from clikit import expect_one_sentence, isolate, run, run_python

import signedwire
from signedwire import Identity, SignedWireError
from signedwire.cli.commands import all_commands
from signedwire.cli.exit_codes import COMMON

BOB = str(Identity.from_seed(bytes(range(32))).did)


@pytest.fixture(autouse=True)
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return isolate(tmp_path, monkeypatch)


@pytest.mark.parametrize("command", all_commands())
def test_every_command_has_help_exit_codes_and_the_common_options(command: str) -> None:
    ran = run(*command.split(), "--help")
    assert ran.exit_code == 0
    told = " ".join(ran.stdout.split())
    for code in (*COMMON, *all_commands()[command].options.exit_codes):
        assert f"{int(code)} {code.in_short}" in told
    unused = {name.replace("_", "-") for name in all_commands()[command].options.unused}
    for option in ("config", "identity", "peers", "json", "verbose"):
        assert (f" --{option} " in told) is (option not in unused)
    assert "[default: (" not in told
    # Another command is no part of this one's exit codes.
    for name in ("`send`", "`listen`", "`bench --serve`"):
        assert name not in told.partition("Exit codes:")[2]


def test_no_summary_in_a_list_of_commands_is_cut() -> None:
    for words in ([], ["id"], ["outbox"], ["dead"], ["config"], ["evidence"]):
        listed = run(*words, "--help").stdout.partition("Commands:")[2]
        assert listed
        assert "..." not in listed, listed


def test_an_option_that_a_command_does_not_use_is_still_accepted(tmp_path: Path) -> None:
    assert run("verify", "/no/f", "--peers", tmp_path / "p", "--identity", "k").exit_code == 3


@pytest.mark.parametrize("name", all_commands())
def test_every_command_has_a_function_that_takes_its_options(name: str) -> None:
    command = all_commands()[name]
    function = getattr(import_module(f"signedwire.cli.{command.module}"), command.function)
    assert get_type_hints(function) == {"options": command.options, "return": int}


def test_no_command_imports_the_table_that_imports_it() -> None:
    for path in (Path(signedwire.__file__).parent / "cli").glob("*.py"):
        imported = {
            f"{node.module}.{alias.name}"
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        of_table = [name for name in imported if name.startswith("signedwire.cli.commands.")]
        assert bool(of_table) is (path.name == "app.py"), path.name
        if path.name not in ("app.py", "__init__.py"):
            assert not any(name.startswith("signedwire.cli.app.") for name in imported), path.name


def test_the_root_says_its_version_and_helps_whoever_gives_no_command() -> None:
    assert run("--version").stdout == f"signedwire {signedwire.__version__}\n"
    ran = run()
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert "Commands:" in ran.stderr


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["sing"], ["no such command 'sing'", "`signedwire --help`"]),
        (["--jsn"], ["no such option", "--jsn", "Options come after the command, as in"]),
        (["id"], ["missing command", "`signedwire id --help`"]),
        (["send"], ["missing argument 'DID[@HOST:PORT]'", "`signedwire send --help`"]),
        (["send", "bob@h:1", "x"], ["'bob' is not a DID", "64 hex digits"]),
        (["send", f"{BOB}@h", "x"], ["'h' is not an address", "host:port"]),
        (["send", f"{BOB}@h:0", "x"], ["nobody listens on port 0"]),
        (
            ["send", BOB, "x", "--no-store"],
            [f"no address is known for {BOB}", "Write DID@host:port", "--peers"],
        ),
        (["send", f"{BOB}@h:1"], ["there is nothing to send", "--file FILE"]),
        (["send", "hello"], ["'hello' is not a DID"]),
        (["send", f"{BOB}@h:1", "hello", "world"], ["world", "Put quotes around a text that has"]),
        (["id", "show", "a", "b"], ["(b). See `signedwire id show --help`"]),
        (["send", f"{BOB}@h:1", "x", "--file", "f"], ["TEXT and --file exclude each other"]),
        (["send", f"{BOB}@h:1", "--file", "/no/f"], ["cannot read /no/f: No such file"]),
        (["send", f"{BOB}@h:1", "x", "--heartbeat"], ["--heartbeat takes no TEXT"]),
        (
            ["send", f"{BOB}@h:1", "--heartbeat", "--llm-query"],
            ["--heartbeat and --llm-query exclude each other"],
        ),
        (["send", f"{BOB}@h:1", "x", "--target", "t"], ["--target is the target of --agent-co"]),
        (["send", f"{BOB}@h:1", "x", "--model", "m"], ["belong to --llm-query"]),
        (["send", f"{BOB}@h:1", "x", "--priority", "top"], ["'top' is none of low, normal, high"]),
        (["send", f"{BOB}@h:1", "x", "--payload-type", "z"], ["'z' is none of raw, robot-command"]),
        (["send", f"{BOB}@h:1", "x", "--deadline", "nan"], ["'nan' is not a positive number of s"]),
        (["send", f"{BOB}@h:1", "--motion", "1,2"], ["'1,2' is not six numbers"]),
        (["send", f"{BOB}@h:1", "--motion", "1,2,3,4,5,inf"], ["is not six numbers"]),
        (["send", f"{BOB}@h:1", "\udcff", "--llm-query"], ["a prompt is UTF-8 text, and byte 0"]),
        (["send", f"{BOB}@h:1", "x" * (2**20 + 1)], ["over the limit of 1048576", "Split"]),
        (["send", f"{BOB}@h:1", "x", "--until", "read"], ["'read' is none of queued, persis"]),
        (["send", f"{BOB}@h:1", "x", "--timeout", "0"], ["'0' is not a positive number of s"]),
        (["send", f"{BOB}@h:1", "-", "--proof", "p"], ["--proof is for one message"]),
        (
            ["send", f"{BOB}@h:1", "x", "--proof", "p", "--until", "written"],
            ["--proof needs a receipt, and --until written does not wait for one"],
        ),
        (["send", f"{BOB}@h:1", "x", "--proof", "/no/p"], ["cannot write /no/p: No such file"]),
        (["send", f"{BOB}@h:1", "x", "--proof", "/etc/passwd"], ["/etc/passwd exists already"]),
        (["listen", "--listen", "nowhere"], ["listen='nowhere' is not allowed", "host:port"]),
        (["listen", "--count", "0"], ["'--count': '0' is not a whole number from 1 on"]),
        (["ping", f"{BOB}@h:1", "--count", "many"], ["'many' is not a whole number from 1 on"]),
        (["bench", "--size", "-1"], ["'-1' is not a whole number from 0 on"]),
        (["peers"], ["there is no peers file", "--peers FILE"]),
        (["peers", "--peers", "/no/f"], ["cannot read /no/f"]),
        (["ping", BOB], [f"no address is known for {BOB}"]),
        (["verify", "/no/f"], ["cannot read /no/f: No such file or directory"]),
        (["config", "show", "--config", "/no/f"], ["cannot read /no/f", "Does the file exist"]),
        (["listen", "--identity", "/proc/x/y"], ["no such file", "`signedwire id new /proc/x/y`"]),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else None,
)
def test_bad_input_is_told_in_one_sentence(args: list[str], parts: list[str]) -> None:
    # A file that is named in vain is told apart from a wrong option.
    files = ("/no/f", "/no/p", "/proc/x/y", "/etc/passwd")
    code = 3 if any(word in files for word in args) else 2
    ran = run(*args)
    # What the first use of an identity and of a store says is no part of the error.
    ran.stderr = "".join(
        line for line in ran.stderr.splitlines(True) if not line.startswith("made a new ")
    )
    expect_one_sentence(ran, code, *parts)


def test_the_network_of_one_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNEDWIRE_PRESET", "development")
    for args in (["listen"], ["send", f"{BOB}@h:1", "x"], ["ping", f"{BOB}@h:1"]):
        expect_one_sentence(run(*args), 2, "stays inside one process", 'network = "tcp"')


def test_a_peer_that_the_configuration_forbids_is_bad_input(
    monkeypatch: pytest.MonkeyPatch, key: Path
) -> None:
    run("id", "new")
    monkeypatch.setenv("SIGNEDWIRE_STORE", "none")
    monkeypatch.setenv("SIGNEDWIRE_WIRE", "v1")
    monkeypatch.setenv("SIGNEDWIRE_V1_PEERS", str(Identity.generate().did))
    expect_one_sentence(run("send", f"{BOB}@h:1", "x"), 8, "is not among v1_peers", "Add --v1")


def test_nothing_to_listen_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNEDWIRE_LISTEN", "none")
    expect_one_sentence(run("listen"), 2, "nothing to listen on", "Give --listen HOST:PORT")


def test_errors_are_json_where_results_are() -> None:
    for args in (["send", "bob", "x", "--json"], ["send", "--json", "--nonsense"]):
        ran = run(*args)
        assert (ran.exit_code, ran.stdout) == (2, "")
        told = json.loads(ran.stderr)
        assert set(told) == {
            "error", "message", "hint", "did", "reason", "detail", "state", "store",
            "exit_code", "exit"
        }  # fmt: skip
        assert (told["exit_code"], told["exit"]) == (2, "usage")
        assert told["error"] in ("DidError", "UnknownNameError", "UsageError")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (RuntimeError("boom"), 1, "signedwire: internal error: RuntimeError: boom. This is a bug"),
        (KeyboardInterrupt(), 130, "signedwire: interrupted.\n"),
        (BrokenPipeError(), 141, ""),
        (SignedWireError("it failed", "Mend it"), 1, "signedwire: it failed. Mend it.\n"),
        (SignedWireError("so \x1b[31mred\nand more"), 1, r"so \x1b[31mred\nand more."),
        (OSError(28, "No space left on device"), 10, "signedwire: No space left on device. Ch"),
        (PermissionError(13, "Permission denied", "/f"), 10, "/f: Permission denied. Check the"),
        (ImportError("it needs that: pip install that"), 1, "it needs that: pip install that."),
    ],
)
def test_one_place_makes_a_sentence_and_an_exit_code_of_each_exception(
    error: BaseException, code: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object) -> int:
        raise error

    monkeypatch.setattr("signedwire.cli.config_commands.check", fail)
    ran = run("config", "check")
    assert ran.exit_code == code
    assert text in ran.stderr
    assert ran.stderr.count("\n") == bool(text)
    if code == 1 and isinstance(error, RuntimeError):
        assert "Traceback" in run("config", "check", "-v").stderr


def test_without_the_extra_it_says_what_to_install() -> None:
    for missing in ("typer", "rich"):
        ran = run_python(
            f"import sys; sys.modules[{missing!r}] = None; import signedwire.cli as c; c.main()"
        )
        assert (ran.exit_code, ran.stdout) == (1, "")
        assert "pip install 'signedwire[cli]', or '.[cli]' in a checkout" in ran.stderr
        assert ran.stderr.count("\n") == 1


def test_help_loads_neither_rich_nor_what_only_some_commands_need() -> None:
    ran = run_python(
        "import sys\n"
        "from signedwire.cli.app import app\n"
        "sys.argv = ['signedwire', '--help']\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        "unwanted = {'rich.console', 'google.protobuf', 'signedwire.cli.send_command'}\n"
        "print(sorted(unwanted & set(sys.modules)), file=sys.stderr)"
    )
    assert ran.stderr == "[]\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_stdout_is_told() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "signedwire.cli", "config", "show"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=15,
            check=False,
        )
    assert done.returncode == 10
    assert done.stderr == (
        "signedwire: standard output: No space left on device. "
        "Check the path, its permissions and the disk.\n"
    )
