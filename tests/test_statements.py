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


PURE = {"all", "any", "bool", "isinstance", "issubclass", "len", "max", "min", "exceeds", "values"}
"""Functions and methods that only look."""


def calls_in(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names and lines of the calls, but for those of `PURE`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            func = node.func
            name = func.attr if isinstance(func, ast.Attribute) else ast.unparse(func)
            if name not in PURE:
                yield name, node.lineno


def acting_properties_in(tree: ast.AST) -> Iterator[str]:
    """Names of properties that call something, and so may have an effect."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and any(
            ast.unparse(one) == "property" for one in node.decorator_list
        ):
            body = ast.Module(node.body, [])
            if any(True for _ in calls_in(body)):
                yield node.name


def effects_in_asserts(tree: ast.AST, properties: set[str]) -> Iterator[int]:
    """Lines of asserts that call something, or read a property that does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            read = {one.attr for one in ast.walk(node.test) if isinstance(one, ast.Attribute)}
            if any(True for _ in calls_in(node.test)) or read & properties:
                yield node.lineno


ACTING = {name for path in MODULES for name in acting_properties_in(ast.parse(path.read_text()))}
ACTING.discard("address")  # `Node.address` calls, and changes nothing


@each_module
def test_no_assert_has_an_effect(path: Path) -> None:
    """Python leaves out asserts with the option -O."""
    assert not list(effects_in_asserts(ast.parse(path.read_text()), ACTING))


def test_the_check_of_asserts() -> None:
    code = """
class Session:
    @property
    def sender(self):
        return self._sender or self._new_sender(self)
    @property
    def size(self):
        return len(self._sender)

assert session.sender.lanes is not None
assert session.begin()
assert session.size > len(session)
"""
    tree = ast.parse(code)
    assert set(acting_properties_in(tree)) == {"sender"}
    assert list(effects_in_asserts(tree, {"sender"})) == [10, 11]
    assert "sender" in ACTING


def unlocked_sums_in(tree: ast.AST) -> Iterator[int]:
    """Lines of functions for any thread that add to an attribute or an item without a lock."""
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        if "any thread" not in (ast.get_docstring(function) or "").lower():
            continue
        locked = {
            id(node)
            for block in ast.walk(function)
            if isinstance(block, ast.With)
            and any("lock" in ast.unparse(item.context_expr) for item in block.items)
            for node in ast.walk(block)
        }
        for node in ast.walk(function):
            if not isinstance(node, ast.AugAssign) or isinstance(node.target, ast.Name):
                continue
            if id(node) not in locked:
                yield node.lineno


@each_module
def test_no_thread_counts_without_a_lock(path: Path) -> None:
    """`x.y += 1` reads, then writes: the counts of two threads may become one."""
    assert not list(unlocked_sums_in(ast.parse(path.read_text())))


def test_the_check_of_counters() -> None:
    code = """
def put(self):
    'Queue a message. Any thread.'
    self.count += 1
    self.by_reason[1] += 1
    with self._lock:
        self.count += 1

def look(self):
    'Count. In the loop.'
    self.count += 1
"""
    assert list(unlocked_sums_in(ast.parse(code))) == [4, 5]
