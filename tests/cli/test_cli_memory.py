"""Files from others: whatever is in them, commands that read them stay small.

Each command runs in a process of its own, and tells the most memory that it had (VmHWM).
"""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest

from linkkit import BOB, alone, body
from signedwire.cli.formatting import envelope_fields
from signedwire.evidence.chain import HEADER_SIZE, Chain, LogHeader

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the peak")

LIMIT_MIB = 100
COMMAND = """
import sys
from signedwire.cli import main
try:
    code = main()
except SystemExit as error:
    code = error.code
with open("/proc/self/status") as file:
    peak = next(line for line in file if line.startswith("VmHWM"))
print(f"code {code} peak {int(peak.split()[1]) // 1024}", file=sys.stderr)
"""


def run(*args: object, given: Path | None = None) -> tuple[str, int, int]:
    """Output, exit code, and the most memory in MiB."""
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, args)],
        # A pipe, which cannot be read twice.
        input=given.read_bytes() if given else b"",
        capture_output=True,
        timeout=120,
        check=False,
    )
    last = done.stderr.decode().splitlines()[-1].split()
    assert last[::2] == ["code", "peak"], done.stderr
    return (done.stdout + done.stderr).decode(), int(last[1]), int(last[3])


def large_file(path: Path, start: bytes, size: int) -> None:
    """`start`, then zeros, which take no place on the disk."""
    path.write_bytes(start)
    with path.open("r+b") as file:
        file.truncate(size)


MIB = 1024 * 1024
FRAME = struct.pack(">I", 2**24 - 1)
SIX_MB = {
    "short lines": b"49\n" * 2_000_000,
    "lists in JSON": b'{"a":[' + b"[]," * 2_000_000 + b"[]]}",
    "strings in JSON": b'{"a":[' + b'"",' * 2_000_000 + b'""]}',
    "keys in JSON": b'{"a":{' + b'"":"",' * 1_000_000 + b'"":""}}',
    "escapes in JSON": b'{"a":"' + b'\\"' * 3_000_000 + b'"}',
    "wide characters in JSON": b'{"a":"' + b"x" * 6_000_000 + b'\\ud83d\\ude00"}',
    "wide characters, not escaped": b'{"a":"' + b"x" * 6_000_000 + '\U0001f600"}'.encode(),
    "one line of JSON": b'{"a":"' + b"x" * 24_000_000,
    "wrapped": b"00" * 30 + (b"00" * 30 + b"\n") * 100_000,
    "frames": (FRAME + bytes(2**24 - 1)) * 2,
    "small frames": b"\0\0\0\1x" * 1_000 + b"\0\0\0\0",
}


@pytest.mark.parametrize("name", SIX_MB)
def test_verify(tmp_path: Path, name: str) -> None:
    path = tmp_path / "saved"
    path.write_bytes(SIX_MB[name])
    output, code, peak = run("verify", path)
    assert code in (1, 3), output[-1000:]
    assert peak < LIMIT_MIB
    assert "\nvalid" not in output


@pytest.mark.parametrize("start", [b"INMO", b"SWPROOF2\xff\xff\xff\xff", b"SWPROOF2\0\0\0\1INMO"])
def test_verify_what_claims_to_be_large(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "saved"
    large_file(path, start, 160 * MIB)
    _, code, peak = run("verify", path)
    assert code == 1
    assert peak < LIMIT_MIB


@pytest.mark.parametrize("form", ["raw", "hex"])
def test_verify_what_is_large_and_valid(tmp_path: Path, form: str) -> None:
    path = tmp_path / "saved"
    data = alone([body(1, b"x" * 20 * MIB)]).encode()
    path.write_bytes(data if form == "raw" else data.hex().encode())
    output, code, peak = run("verify", path)
    assert code == 0
    assert f"{20 * MIB} bytes" in output
    assert peak < LIMIT_MIB
    output, code, peak = run("verify", "-", "--json", given=path)
    assert code == 0
    assert f'"size": {20 * MIB}, "encoding": null, "payload": null' in output
    assert peak < LIMIT_MIB


def test_verify_a_line_of_one_mebibyte(tmp_path: Path) -> None:
    """Each byte of it escaped, as `listen --json` may print it: the longest honest line."""
    import json

    path = tmp_path / "saved"
    envelope = alone([body(1, b"\x01" * MIB)])
    fields = envelope_fields(envelope, is_proven=True)
    path.write_text(json.dumps({**fields, "decoded": None, "envelope": envelope.encode().hex()}))
    output, code, peak = run("verify", path)
    assert code == 0, output[-1000:]
    assert peak < LIMIT_MIB


def test_an_evidence_log(tmp_path: Path) -> None:
    path = tmp_path / "evidence.log"
    header = LogHeader(bytes(BOB.did), 1_000).encode()
    large_file(path, header + struct.pack("<IBQ", 2**28, 2, 5), HEADER_SIZE + 13 + 2**28 + 32)
    output, code, peak = run("evidence", "verify", path)
    assert code == 1
    assert "record 1, at byte 112" in output
    assert peak < LIMIT_MIB
    record = Chain(header[-32:]).record(5, alone([body(1, bytes(20 * MIB))]))
    path.write_bytes(header + record)
    output, code, peak = run("evidence", "verify", path)
    assert (code, peak < LIMIT_MIB) == (0, True), output[-1000:]
    output, code, peak = run("evidence", "show", path)
    assert (code, peak < LIMIT_MIB) == (0, True), output[-1000:]
    assert f"({20 * MIB} bytes)" in output
    output, code, peak = run("evidence", "show", path, "--json")
    assert (code, peak < LIMIT_MIB) == (0, True), output[-1000:]
    assert '"payload": null, "envelope": null' in output
