"""A process that may have no more descriptors or threads: one sentence, and it goes on."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from signedwire import Identity, Node, SignedWireError
from signedwire import sync as blocking
from signedwire.resources import check_descriptors

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX limits")

FEW = """
import contextlib, os, resource, sys
from signedwire import Identity, SignedWireError
from signedwire.sync import Node
identity = Identity.generate()
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = []
with contextlib.suppress(OSError):
    while True:
        held.append(os.open(os.devnull, os.O_RDONLY))
for descriptor in held[: int(sys.argv[1])]:
    os.close(descriptor)
try:
    Node(identity).close()
except SignedWireError as error:
    print(error)
for descriptor in held[int(sys.argv[1]) :]:
    os.close(descriptor)
with Node(identity) as node:
    print("then", node.is_listening)
"""


@pytest.mark.parametrize("left", [0, 1, 2, 3, 5, 8, 11])
def test_a_process_with_few_descriptors_left_goes_on(left: int) -> None:
    """uvloop's event loop would end it with code 134 where one to three are left."""
    ran = subprocess.run(
        [sys.executable, "-c", FEW, str(left)], capture_output=True, text=True, timeout=30
    )
    assert (ran.returncode, ran.stderr) == (0, ""), ran
    said, then = ran.stdout.splitlines()
    assert said.startswith("this process has too few descriptors left for a node (Too many open")
    assert "`ulimit -n`" in said
    assert then == "then True"


@pytest.mark.parametrize("limit", [6, 9, 12, 14, 32])
def test_the_command_line_with_a_low_limit(limit: int, tmp_path: Path) -> None:
    Identity.generate().save(tmp_path / "key.pem")
    ran = subprocess.run(
        [
            *(
                "sh",
                "-c",
                f'ulimit -n {limit}; exec "$@"',
                "sh",
                sys.executable,
                "-m",
                "signedwire",
            ),
            *("listen", "--identity", str(tmp_path / "key.pem"), "--no-store", "--timeout", "0.1"),
        ],
        capture_output=True,
        text=True,
        timeout=30,
    )
    if limit == 32:
        assert ran.returncode == 0, ran
    else:
        assert 0 < ran.returncode < 20, ran
        assert ran.stderr.count("\n") == 1, ran
        assert "oo many open files" in ran.stderr, ran
        assert "`ulimit -n`" in ran.stderr, ran


def test_the_check_leaves_nothing_open() -> None:
    before = os.listdir("/dev/fd")
    check_descriptors()
    assert len(os.listdir("/dev/fd")) == len(before)


def test_no_more_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def use_a_store() -> None:
        async with Node(Identity.generate(), store=tmp_path / "x.db"):
            raise AssertionError("it has started")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    told = "the system gives this process no more threads. Raise its limits"
    with pytest.raises(SignedWireError, match=told):
        blocking.Node(Identity.generate())
    with pytest.raises(SignedWireError, match=told):
        asyncio.run(use_a_store())
