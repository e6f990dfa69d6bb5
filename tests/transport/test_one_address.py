"""Many behind one address that is not loopback: what each may take, and whether all arrive."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import oneaddress
from netns import inside, namespace, why_not

ADDRESS: Final = "192.0.2.1"
SCRIPT: Final = str(Path(oneaddress.__file__))
TARGET: Final = 30.0
"""Seconds in which a crowd of 300 arrives; a test allows five times as long."""
STRANGERS: Final = """
import socket, sys
held = [socket.create_connection((sys.argv[1], int(sys.argv[2]))) for _ in range(int(sys.argv[3]))]
for sock in held:
    sock.sendall(bytes.fromhex("160301"))
print("there", flush=True)
sys.stdin.read()
"""

REASON = why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))


@contextlib.contextmanager
def running(name: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Python in the namespace, ended with the test."""
    process = subprocess.Popen(
        inside(name, sys.executable, *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> Any:
    """End its standard input; what it says last."""
    out, _ = process.communicate("\n", timeout=5 * TARGET)
    return json.loads(out)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("v1_peers", ["all", "hub"])
def test_300_nodes_behind_one_address_all_arrive_and_none_over_v1(v1_peers: str, loop: str) -> None:
    with namespace(ADDRESS) as name, running(name, SCRIPT, "hub", ADDRESS, loop) as hub:
        port = line_of(hub)
        with running(name, SCRIPT, "crowd", ADDRESS, port, "300", v1_peers, loop) as crowd:
            assert line_of(crowd) == "ready"
            said = end(crowd)
        heard = end(hub)
    assert said["errors"] == []
    assert said["arrived"] == 300
    assert said["wires"] == {"v2": 300}
    assert said["failed_attempts"] == 0
    assert said["last"] < 5 * TARGET
    assert heard["senders"] == 300


@pytest.mark.parametrize("strangers", [9, 200])
def test_half_open_connections_keep_nobody_at_their_address_out(strangers: int) -> None:
    with namespace(ADDRESS) as name, running(name, SCRIPT, "hub", ADDRESS, "asyncio") as hub:
        port = line_of(hub)
        with running(name, "-c", STRANGERS, ADDRESS, port, str(strangers)) as held:
            assert line_of(held) == "there"
            with running(name, SCRIPT, "crowd", ADDRESS, port, "8", "all", "asyncio") as crowd:
                assert line_of(crowd) == "ready"
                said = end(crowd)
    assert (said["arrived"], said["wires"]) == (8, {"v2": 8})
    # Nobody was even asked to come again later: the strangers made room.
    assert (said["failed_attempts"], said["turned_away"]) == (0, 0)
