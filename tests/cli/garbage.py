"""Files of garbage for `signedwire verify` and `evidence verify`, and what they cost.

    python tests/cli/garbage.py [MIB] [NAME…]

runs each kind with so many MiB, 1024 by default, each in a process of its own, and prints
seconds, exit code, and MiB of memory over those of an idle process.
"""

from __future__ import annotations

import gzip
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from linkkit import BOB, alone, body
from signedwire.cli.formatting import envelope_fields
from signedwire.evidence.chain import Chain, LogHeader

__all__ = ["KINDS", "SPARSE", "Cost", "idle", "measure", "write"]

MIB: Final = 1024 * 1024
TIB: Final = 1024**4
_BLOCK: Final = MIB
_COMMAND: Final = """
import sys
from signedwire.cli import main
try:
    code = main()
except SystemExit as error:
    code = error.code
# Not ru_maxrss, which begins with that of the process that started this one.
with open("/proc/self/status") as file:
    peak = next(line for line in file if line.startswith("VmHWM"))
print(f"code {code} peak {int(peak.split()[1]) // 1024}", file=sys.stderr)
"""


class Cost(NamedTuple):
    """The cost of one run."""

    seconds: float
    exit_code: int
    peak: int
    """MiB of memory at most."""
    output: str
    """The last 4000 characters of stdout and stderr."""


def measure(*args: object, stdin: int | None = None, timeout: float = 120) -> Cost:
    """Run `signedwire` in a process of its own. Its output goes to a file."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.monotonic()
        subprocess.run(
            [sys.executable, "-c", _COMMAND, *map(str, args)],
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=out,
            stderr=err,
            timeout=timeout,
            check=False,
        )
        seconds = time.monotonic() - began
        text = _tail(out) + _tail(err)
    last = text.splitlines()[-1].split()
    assert last[::2] == ["code", "peak"], text
    return Cost(seconds, int(last[1]), int(last[3]), text)


def _tail(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 4000))
    return file.read().decode(errors="replace")


def idle(path: Path) -> Cost:
    """Return the cost of a command that reads one small file and finds nothing wrong."""
    data = alone([body(1, b"x")]).encode()
    path.write_bytes(data)
    cost = measure("verify", path)
    assert cost.exit_code == 0, cost.output
    return cost


def _repeat(start: bytes, part: bytes, end: bytes = b"") -> Callable[[int], Iterator[bytes]]:
    """`start`, then `part` over and over, then `end`."""

    def pieces(size: int) -> Iterator[bytes]:
        yield start
        block = part * max(1, _BLOCK // len(part))
        for _ in range((size - len(start) - len(end)) // len(block)):
            yield block
        yield end

    return pieces


def _random(size: int) -> Iterator[bytes]:
    rng = random.Random(16)
    for _ in range(size // _BLOCK):
        yield rng.randbytes(_BLOCK)


def _random_text(size: int) -> Iterator[bytes]:
    for block in _random(size):
        yield block.replace(b"\0", b"x")


def _random_records(size: int) -> Iterator[bytes]:
    yield LogHeader(bytes(BOB.did), 1).encode()
    yield from _random(size)


def _bomb(size: int) -> Iterator[bytes]:
    """Each MiB of it would be a GiB."""
    part = gzip.compress(bytes(64 * MIB))
    yield from _repeat(part, part)(size)


def _nested(depth: int) -> bytes:
    """A message in a message in a message, `depth` times."""
    data = b""
    for _ in range(depth):
        size, varint = len(data), b""
        while size > 127:
            varint, size = varint + bytes([size & 127 | 128]), size >> 7
        data = b"\x0a" + varint + bytes([size]) + data
    return data


def _protobuf(size: int) -> Iterator[bytes]:
    """Lines that say what is in an envelope, and what is in that is nested 10,000 times."""
    import json

    envelope = alone([body(1, _nested(10_000))])
    fields = {**envelope_fields(envelope, is_proven=True), "decoded": {"a": 1}}
    line = json.dumps({**fields, "envelope": envelope.encode().hex()}).encode() + b"\n"
    yield from _repeat(line, line)(size)


def _log(size: int, payload: bytes, is_sound: bool) -> Iterator[bytes]:
    header = LogHeader(bytes(BOB.did), 1).encode()
    chain = Chain(header[-32:])
    envelope = alone([body(1, payload)])
    if not is_sound:
        chain.record(1, envelope)  # which is left out
    yield header
    written = 0
    while written < size:
        block = b"".join(chain.record(2, envelope) for _ in range(64))
        written += len(block)
        yield block


_HEX: Final = alone([body(1, b"x")]).encode().hex().encode()
_JSON: Final = b'{"event":"summary"}\n'
_FRAME: Final = struct.pack(">I", 2**24 - 1) + bytes(2**24 - 1)
_HEADER: Final = LogHeader(bytes(BOB.did), 1).encode()

KINDS: Final[dict[str, Callable[[int], Iterator[bytes]]]] = {
    "random": _random,
    "random text": _random_text,
    "an envelope without end": _repeat(b"INMO", bytes(MIB)),
    "a proof that claims 4 GiB": _repeat(b"SWPROOF2\xff\xff\xff\xff", bytes(MIB)),
    "a proof with an endless receipt": _repeat(b"SWPROOF2\0\0\0\1INMO", bytes(MIB)),
    "frames of one byte": _repeat(b"", b"\0\0\0\1x"),
    "frames that are small": _repeat(b"", b"\0\0\0\xaa" + bytes(170)),
    "frames that are large": _repeat(b"", _FRAME),
    "short lines": _repeat(b"", b"49\n"),
    "blank lines": _repeat(_JSON, b"\n"),
    "blank lines and others": _repeat(_JSON, b"\n" + _JSON),
    "one line of hex": _repeat(b"", b"00"),
    "one line of an envelope in hex": _repeat(b"494e4d4f", b"00"),
    "lines of envelopes in hex that end early": _repeat(b"", b"494e4d4f\n"),
    "one line of blanks": _repeat(b"", b" "),
    "one line of JSON": _repeat(b'{"a":"', b"x"),
    "an unfinished object on each line": _repeat(b"", b"{\n"),
    "numbers": _repeat(_JSON, b"1\n"),
    "arrays": _repeat(_JSON, b"[]\n"),
    "arrays in one line": _repeat(b'{"a":[', b"[],", b"[]]}"),
    "nested arrays": _repeat(b'{"a":', b"["),
    "nested objects": _repeat(b"", b'{"a":'),
    "lines of 9 MiB of JSON": _repeat(_JSON, b'{"a":"' + b"x" * (9 * MIB - 100) + b'"}\n'),
    "lines that say nothing": _repeat(b"", _JSON),
    "nested protobuf": _protobuf,
    "gzip": _bomb,
    "a log of random records": _random_records,
    "a log that claims large records": _repeat(_HEADER + struct.pack("<IBQ", 2**28, 2, 5), b"x"),
    "a log with a hole": lambda size: _log(size, b"", is_sound=False),
    "a sound log of small records": lambda size: _log(size, b"", is_sound=True),
    "a sound log of large records": lambda size: _log(size, bytes(MIB), is_sound=True),
}
"""The content of the files of each kind, by size in bytes."""

SPARSE: Final = {
    "zeros": b"",
    "an envelope": b"INMO",
    "a proof": b"SWPROOF2\xff\xff\xff\x0f",
    "a frame": struct.pack(">I", 2**24 - 1) + b"INMO",
    "JSON": _JSON,
    "JSON and blanks": _JSON + b'{"a":' + b" " * 100_000,
    "hex": _HEX + b"\n" + _HEX + b"\n" + b" " * 100_000,
    "digits": b"00" * 100_000,
    "a log": _HEADER,
    "a log with a record": _HEADER + struct.pack("<IBQ", 2**28, 2, 5),
}
"""The start of a file of one TiB; the rest is a hole."""


def write(path: Path, pieces: Iterator[bytes]) -> Path:
    """Write a file of garbage."""
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)
    return path


def main() -> None:
    """Run every kind, or those that are named."""
    size, names = 1024, sys.argv[1:]
    if names and names[0].isdigit():
        size, names = int(names[0]), names[1:]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "garbage"
        base = idle(path).peak
        sys.stdout.write(f"idle: {base} MiB\n")
        for name in names or KINDS:
            write(path, KINDS[name](size * MIB))
            for command in (("verify",), ("evidence", "verify")):
                cost = measure(*command, path, timeout=3600)
                what = f"{' '.join(command)}: {name}"
                sys.stdout.write(
                    f"{what:60} {cost.seconds:7.1f} s  exit {cost.exit_code}"
                    f"  {cost.peak - base:4} MiB over idle\n"
                )
                sys.stdout.flush()


if __name__ == "__main__":
    main()
