"""Log records have fields, and what strangers repeat does not flood the log."""

from __future__ import annotations

import ast
import logging
from pathlib import Path
from typing import Any

import pytest

from signedwire import logs
from signedwire.logs import LINES_PER_SECOND, NAMES, EventLog, fields
from wirekit import ALICE

PACKAGE = Path(logs.__file__).parent
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
OWN = ("cli", "demo", "bench")
"""Programs, which write for people; the library is what a formatter reads."""


def calls() -> list[tuple[str, ast.Call]]:
    """Every call of a logger in the library."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).parts[0] in OWN:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr in LEVELS and ast.unparse(node.func.value).endswith(
                ("log", "logger")
            ):
                found.append((f"{path.name}:{node.lineno}", node))
    return found


def test_every_logging_call_has_fields() -> None:
    found = calls()
    assert len(found) >= 20
    without = [where for where, call in found if "extra" not in {k.arg for k in call.keywords}]
    assert without == []


def events() -> set[str]:
    """The event of every `fields(…)`."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "fields":
                assert isinstance(node.args[0], ast.Constant)
                found.add(str(node.args[0].value))
                assert {keyword.arg for keyword in node.keywords} <= set(NAMES)
    return found


def test_the_docs_have_every_event_and_field() -> None:
    text = (PACKAGE.parents[1] / "docs" / "operations.md").read_text(encoding="utf-8")
    section = text.split("\n## Logs")[1]
    row = next(line for line in section.splitlines() if line.startswith("| `event` |"))
    assert set(row.split("|")[2].split("`")[1::2]) == events()
    for name in NAMES:
        assert f"\n| `{name}` |" in section


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="payload"):
        fields("x", payload=b"secret")


def test_values_are_plain(caplog: pytest.LogCaptureFixture) -> None:
    assert fields("x", peer=ALICE.did, count=3, reason=None) == {
        "event": "x",
        "peer": str(ALICE.did),
        "count": 3,
        "reason": None,
    }


def test_what_is_repeated_is_counted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(logs, "monotonic", lambda: now)
    caplog.set_level(logging.INFO, "signedwire.test")
    log = EventLog(logging.getLogger("signedwire.test"))

    def write(event: str) -> None:
        log.info("%s happened", event, extra=fields(event))

    for _ in range(1000):
        write("linked")
    write("stall")  # another event is not held back
    assert len(caplog.records) == LINES_PER_SECOND + 1
    now += 1
    write("linked")
    last: Any = caplog.records[-1]
    assert last.getMessage() == "linked happened (968 lines like this were left out before)"
    assert (last.event, last.funcName) == ("linked", "write")
    log.debug("%s", "not at this level", extra=fields("linked"))
    assert len(caplog.records) == LINES_PER_SECOND + 2
