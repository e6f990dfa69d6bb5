"""Code branches on types and kinds of errors, never on their words."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from signedwire import FailureKind

SOURCE = Path(__file__).resolve().parents[1] / "src" / "signedwire"
MODULES = sorted(path for path in SOURCE.rglob("*.py") if not path.name.endswith("_pb2.py"))

PAGE = SOURCE.parents[1] / "docs" / "operations.md"

WORDS = {"fact", "hint", "detail", "cause", "last_error", "strerror", "error"}
"""Attributes that hold text for people, and locals that are named after them."""
ERRORS = {"error", "exc", "failure", "fault"}
"""Names of exceptions: `str()` and `args` of them are their words."""
LOOKS = {"startswith", "endswith", "find", "index", "count", "partition", "split", "removesuffix"}
"""Methods that look into a text."""


def holds_words(node: ast.expr) -> bool:
    """Whether an expression is the text of an error."""
    if isinstance(node, ast.BoolOp):  # status.last_error or ""
        return any(map(holds_words, node.values))
    if isinstance(node, ast.Attribute):
        return node.attr in WORDS or (node.attr == "args" and holds_an_error(node.value))
    if isinstance(node, ast.Subscript):
        return holds_words(node.value)
    if isinstance(node, ast.Name):
        return node.id in WORDS - {"error"}
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute):  # error.fact.lower()
            return holds_words(node.func.value)
        is_text = isinstance(node.func, ast.Name) and node.func.id in {"str", "repr"}
        return is_text and any(holds_an_error(each) or holds_words(each) for each in node.args)
    return False


def holds_an_error(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ERRORS


def matches_of(tree: ast.AST) -> Iterator[int]:
    """Lines in which the text of an error is looked into or compared."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            if not all(isinstance(op, (ast.Is, ast.IsNot)) for op in node.ops) and any(
                map(holds_words, (node.left, *node.comparators))
            ):
                yield node.lineno
        elif isinstance(node, ast.Match):
            if holds_words(node.subject):
                yield node.lineno
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            is_look = node.func.attr in LOOKS and holds_words(node.func.value)
            is_pattern = node.func.attr in {"search", "match", "fullmatch", "findall"} and any(
                map(holds_words, node.args)
            )
            if is_look or is_pattern:
                yield node.lineno


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_no_module_branches_on_the_words_of_an_error(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [
        f"line {number}: {lines[number - 1].strip()}"
        for number in matches_of(ast.parse("\n".join(lines)))
    ]
    assert not found, "give the error a kind, and branch on that"


@pytest.mark.parametrize(
    "code",
    [
        'if "hung up" in error.fact: pass',
        "if sign in self.detail: pass",
        "if self.detail == UNANSWERED: pass",
        'if receipt.detail != "x": pass',
        'if (status.last_error or "").endswith("closed it"): pass',
        'if " answered, not " in cause: pass',
        'if str(error) == "refused": pass',
        'if "refused" not in str(exc).lower(): pass',
        'if error.args[0] == "refused": pass',
        'if re.search("refused", error.fact): pass',
        'head, _, tail = fact.partition("(")',
        'match error.fact:\n    case "refused": pass',
    ],
)
def test_the_check_finds(code: str) -> None:
    assert list(matches_of(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "if error.kind is FailureKind.REFUSED: pass",
        "if receipt.detail_kind in _DOUBTS: pass",
        "if status.last_error is None: pass",
        "if error.errno == errno.EACCES: pass",
        'text = f"{error.fact}: {cause}"',
        "if error.cause: pass",
    ],
)
def test_the_check_lets_pass(code: str) -> None:
    assert not list(matches_of(ast.parse(code)))


def test_the_page_explains_every_kind_and_no_other() -> None:
    text = PAGE.read_text(encoding="utf-8")
    section = text.partition("## Why is my peer not reached?")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == list(FailureKind)
