"""Statements that look harmless and are not: the source has none of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "signedwire"
MODULES = sorted(path for path in SOURCE.rglob("*.py") if not path.name.endswith("_pb2.py"))

each_module = pytest.mark.parametrize(
    "path", MODULES, ids=[str(path.relative_to(SOURCE)) for path in MODULES]
)


def rescheduled_in(tree: ast.AST) -> Iterator[int]:
    """Lines that set a new deadline for a timeout, outside `expire()`."""
    allowed = {
        id(node)
        for one in ast.walk(tree)
        if isinstance(one, ast.FunctionDef) and one.name == "expire"
        for node in ast.walk(one)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or id(node) in allowed:
            continue
        if node.attr == "reschedule":
            yield node.lineno


@each_module
def test_no_timeout_is_rescheduled_that_may_be_expiring(path: Path) -> None:
    """`asyncio.Timeout.reschedule()` raises RuntimeError if the timeout is expiring."""
    assert not list(rescheduled_in(ast.parse(path.read_text())))


def test_the_check_of_reschedule() -> None:
    assert list(rescheduled_in(ast.parse("def close(step):\n    step.reschedule(0)"))) == [2]
    assert not list(rescheduled_in(ast.parse("def expire(step):\n    step.reschedule(0)")))
