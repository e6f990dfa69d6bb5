"""Files of garbage: little memory, and time that is bounded, whatever is in them.

`garbage.py` has the kinds. Here they have 64 MiB, and the slowest two half of it;
`make garbage` runs them with 1 GiB.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from garbage import KINDS, MIB, SPARSE, TIB, Cost, idle, measure, write

from linkkit import BOB, alone, body
from signedwire.evidence.chain import Chain, LogHeader

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the peak")

SIZE = int(os.environ.get("GARBAGE_MIB", "64")) * MIB
MAX_OVER_IDLE = 64  # MiB
# The slowest kind takes 0.27 s per MiB; five times that, and five seconds for the process.
MAX_SECONDS = 5 + 5 * 0.27 * SIZE / MIB
COMMANDS = (("verify",), ("evidence", "verify"))
# The commands that take it for what it is; to the other one it is just another file.
LOGS = {name for name in KINDS if "log" in name}
SOUND = {name for name in KINDS if "sound" in name}
# The slowest. Whoever kept their lines of 20 bytes would need three times as much memory.
SLOW = {"lines that say nothing", "blank lines and others"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> int:
    """MiB of a command that has nothing to do."""
    return idle(tmp_path_factory.mktemp("idle") / "envelope").peak


def expect_small(cost: Cost, base: int) -> None:
    assert cost.peak - base <= MAX_OVER_IDLE, cost
    assert cost.seconds < MAX_SECONDS, cost
    assert "Traceback" not in cost.output, cost
    assert "internal error" not in cost.output, cost


@pytest.mark.parametrize("name", KINDS)
def test_garbage(tmp_path: Path, base: int, name: str) -> None:
    size = SIZE // 2 if name in SLOW else SIZE
    path = write(tmp_path / "garbage", KINDS[name](size))
    assert path.stat().st_size >= size * 3 // 4
    for command in COMMANDS:
        if (command[0] == "verify") == (name in LOGS):
            continue
        cost = measure(*command, path)
        expect_small(cost, base)
        assert cost.exit_code in ((0,) if name in SOUND else (1, 3)), cost
        assert "valid   line" not in cost.output
    path.unlink()


@pytest.mark.parametrize("name", SPARSE)
def test_a_hole_of_one_tebibyte(tmp_path: Path, base: int, name: str) -> None:
    path = tmp_path / "garbage"
    path.write_bytes(SPARSE[name])
    try:
        os.truncate(path, TIB)
    except OSError as error:
        pytest.skip(f"no such file here: {error.strerror}")
    for command in COMMANDS:
        cost = measure(*command, path)
        expect_small(cost, base)
        assert cost.exit_code in (1, 3), cost


@pytest.mark.parametrize("source", ["/dev/zero", "/dev/urandom"])
def test_what_never_ends(base: int, source: str) -> None:
    """The input is a file, standard input, or a pipe."""
    for command in COMMANDS:
        cost = measure(*command, source)
        expect_small(cost, base)
        assert cost.exit_code == 3, cost
    with open(source, "rb") as file:
        cost = measure("verify", "-", stdin=file.fileno())
        expect_small(cost, base)
        assert cost.exit_code == 3, cost
    with subprocess.Popen(["cat", source], stdout=subprocess.PIPE) as cat:
        assert cat.stdout is not None
        cost = measure("verify", "-", stdin=cat.stdout.fileno())
        cat.kill()
    expect_small(cost, base)
    assert cost.exit_code == 3, cost


def test_text_that_never_ends(tmp_path: Path, base: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text from a pipe is copied, up to a limit, which is lower here."""
    from signedwire.cli import envelope_files
    from signedwire.cli.errors import BadFile

    monkeypatch.setattr(envelope_files, "_MAX_PIPE", 8 * MIB)
    with subprocess.Popen(["yes", "{"], stdout=subprocess.PIPE) as yes:
        assert yes.stdout is not None
        with pytest.raises(BadFile, match="came by a pipe") as caught:
            list(envelope_files.find(yes.stdout))
        yes.kill()
    assert "Save it in a file" in caught.value.hint


@pytest.mark.parametrize("command", COMMANDS)
def test_a_pipe_to_which_nobody_writes(tmp_path: Path, command: tuple[str, ...]) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    cost = measure(*command, path)
    assert cost.exit_code == 3
    assert "nobody has written to it" in cost.output


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_named_pipe_is_read_to_its_end(tmp_path: Path, size: int) -> None:
    header = LogHeader(bytes(BOB.did), 1).encode()
    envelope = alone([body(1, bytes(size))])
    files = {
        ("evidence", "verify"): header + Chain(header[-32:]).record(1, envelope),
        ("verify",): envelope.encode().hex().encode() + b"\n",
    }
    for command, data in files.items():
        path = tmp_path / command[0]
        os.mkfifo(path)
        writer = threading.Thread(target=path.write_bytes, args=(data,))
        writer.start()
        cost = measure(*command, path)
        writer.join(10)
        assert cost.exit_code == 0, cost


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder(tmp_path: Path, command: tuple[str, ...]) -> None:
    cost = measure(*command, tmp_path)
    assert cost.exit_code == 3
    assert f"cannot read {tmp_path}: Is a directory" in cost.output


def test_a_small_pipe_needs_no_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    from signedwire.cli import envelope_files
    from signedwire.cli.errors import BadFile

    def refuse(*_: object, **__: object) -> None:
        raise FileNotFoundError("No usable temporary directory")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    data = alone([body(1, b"x")]).encode().hex().encode() + b"\n"
    reader, writer = os.pipe()
    os.write(writer, data * 3)
    os.close(writer)
    with open(reader, "rb") as file:
        assert len(list(envelope_files.find(file))) == 3
    monkeypatch.setattr(envelope_files, "_IN_MEMORY", 100)
    reader, writer = os.pipe()
    os.write(writer, data * 3)
    os.close(writer)
    with (
        open(reader, "rb") as file,
        pytest.raises(BadFile, match="No usable temporary directory") as caught,
    ):
        list(envelope_files.find(file))
    assert "Save it in a file" in caught.value.hint


def test_what_is_behind_many_that_are_invalid_is_not_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "saved"
    good = json.dumps({"envelope": alone([body(1, b"x")]).encode().hex()}).encode() + b"\n"
    path.write_bytes(good + b"{\n" * 100_000)
    cost = measure("verify", path)
    assert cost.exit_code == 1
    assert "1 valid, 100000 invalid" in cost.output
    path.write_bytes(good + b"{\n" * 100_000 + good)
    cost = measure("verify", path)
    assert "2 valid, 100000 invalid" in cost.output
    path.write_bytes(b"{\n" * 100_001 + good)
    cost = measure("verify", path)
    assert cost.exit_code == 1
    assert "line 100001  neither this nor what is behind it was checked" in cost.output
    assert "0 valid" in cost.output


@pytest.mark.parametrize("blanks", [1, 2, 255, 256, 257, 300, 5_000, 70_000])
@pytest.mark.parametrize("end", ["\n", "\r\n", " \n"])
def test_blank_lines_keep_the_numbers(tmp_path: Path, blanks: int, end: str) -> None:
    path = tmp_path / "saved"
    line = alone([body(1, b"x")]).encode().hex()
    text = f"{line}{end}{end * blanks}  {line}{end}{end}{line}{end}{end * blanks}"
    path.write_bytes(text.encode())
    cost = measure("verify", path)
    assert cost.exit_code == 0
    for number in (1, blanks + 2, blanks + 4):
        assert f"valid    line {number}  from" in cost.output
    assert "3 valid, 0 invalid" in cost.output


def test_a_byte_0_ends_a_text_and_is_told(tmp_path: Path) -> None:
    path = tmp_path / "saved"
    line = alone([body(1, b"x")]).encode().hex().encode() + b"\n"
    path.write_bytes(line * 1000 + b"49\0\n" + line)
    cost = measure("verify", path)
    assert cost.exit_code == 1
    assert "1000 valid, 2 invalid" in cost.output
    assert "byte 0, so the file is no text; what is behind was not read" in cost.output
