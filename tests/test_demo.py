"""The demo: it ends in time, shows what it says, and a false check is an exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
from examples.demo.checks import Checks
from examples.demo.outage import Ledger

COMMAND = "from examples.demo.show import run_demo; raise SystemExit(run_demo({}))"
LIMIT = 20.0


def run(arguments: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", COMMAND.format(arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "COLUMNS": "80"},
        timeout=LIMIT,
        check=False,
    )


def test_it_shows_plain_lines_without_a_terminal() -> None:
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    for words in (
        "did:key:z6Mk",
        "1x and 1x, on one link",
        "each with Bob's receipt",
        "true; ",
        "refused 1x: bad signature",
        "refused 1x: unsigned",
        "refused 3x: duplicate",
        "refused 1x: not allowed",
        "1x, and 0 others",
        "0 messages told",
        "of all that she sent, with a signed receipt",
        "overtook waiting Low",
        "to send, ",
        "all redelivered; 0 others",
        "0 of 2,000",
        "0 to send, 0 not done, 0 dead",
        "All 20 checks were true",
    ):
        assert words in done.stdout
    lines = done.stdout.splitlines()
    assert len(lines) <= 50
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in done.stdout


def test_json_is_one_document() -> None:
    done = run("json=True")
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["ok"] is True
    assert all(check["ok"] for check in document["checks"])
    assert document["counters"]["bob, until he was killed"]["dropped"] == {
        "bad signature": 1,
        "unsigned": 1,
        "duplicate": 3,
        "not allowed": 1,
    }


@pytest.mark.skipif(
    not os.path.exists(f"/proc/self/task/{os.getpid()}/children"),
    reason="children are looked up in Linux's /proc",
)
def test_no_child_outlives_a_killed_demo() -> None:
    demo = subprocess.Popen(
        [sys.executable, "-c", COMMAND.format("json=True")], stdout=subprocess.DEVNULL
    )
    children: list[int] = []
    deadline = time.monotonic() + LIMIT
    while len(children) < 2 and time.monotonic() < deadline:
        children = _children(demo.pid)
        time.sleep(0.05)
    demo.kill()
    demo.wait()
    assert len(children) == 2
    while any(_is_ours(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in children if _is_ours(pid)]


def _children(pid: int) -> list[int]:
    # Of its main thread, which starts them.
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split() if _is_ours(int(child))]


def _is_ours(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return b"examples.demo.node" in file.read()
    except OSError:
        return False


def noted(number: int, again: bool = False, stream: int = 1) -> dict[str, object]:
    return {"news": "noted", "stream": stream, "number": number, "again": again}


class TestLedger:
    """What is said of two nodes that were killed, held against what came."""

    def test_all_that_was_told_stored_came(self) -> None:
        ledger = Ledger()
        ledger.hear({"news": "persisted", "stream": 1, "last": 2})
        for number in (1, 2, 3):  # one was stored and not told any more
            ledger.hear(noted(number))
        assert ledger.arrived(1) == (2, True)
        assert [*ledger.again, *ledger.unmarked, *ledger.after_done] == []

    def test_one_that_is_missing_is_seen(self) -> None:
        ledger = Ledger()
        ledger.hear({"news": "persisted", "stream": 1, "last": 3})
        for number in (1, 3):
            ledger.hear(noted(number))
        assert ledger.arrived(1) == (2, False)

    def test_the_wrong_order_is_seen(self) -> None:
        ledger = Ledger()
        ledger.hear({"news": "persisted", "stream": 1, "last": 2})
        for number in (2, 1):
            ledger.hear(noted(number))
        assert ledger.arrived(1) == (2, False)

    def test_one_that_comes_again_is_marked(self) -> None:
        ledger = Ledger()
        for again in (False, True):
            ledger.hear(noted(1, again))
        assert ledger.again == [(1, 1)]
        assert [*ledger.unmarked, *ledger.after_done] == []
        assert ledger.first[1] == [1]
        ledger.hear(noted(1))
        assert ledger.unmarked == [(1, 1)]

    def test_one_that_comes_after_done_is_seen(self) -> None:
        ledger = Ledger()
        ledger.hear(noted(1))
        ledger.hear({"news": "done", "those": [[1, 1]]})
        ledger.hear(noted(1, again=True))
        assert ledger.after_done == [(1, 1)]

    def test_one_that_was_done_and_not_told_is_done(self) -> None:
        ledger = Ledger()
        for number in (1, 2):
            ledger.hear(noted(number))
        ledger.look(undone=[(1, 2)])
        for number in (1, 2):
            ledger.hear(noted(number, again=True))
        assert ledger.after_done == [(1, 1)]


class TestChecks:
    def test_all_true(self) -> None:
        checks = Checks()
        assert checks.add("two and two", 4, 4).ok
        assert checks.add("some arrived", "7", "at least one", True).ok
        assert checks.exit_code == 0

    def test_one_false_is_enough(self) -> None:
        checks = Checks()
        checks.add("two and two", 4, 4)
        check = checks.add("refused", "0x", "1x")
        checks.add("arrived", 3, 3)
        assert not check.ok
        assert (check.seen, check.expected) == ("0x", "1x")
        assert checks.exit_code == 1

    def test_equal_values_do_not_outvote_a_false_verdict(self) -> None:
        checks = Checks()
        checks.add("the same text, and yet", "x", "x", False)
        assert checks.exit_code == 1

    def test_nothing_checked_is_nothing_shown(self) -> None:
        assert Checks().exit_code == 1
