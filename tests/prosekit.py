"""Finds prose that a reader has to decode: in docstrings, and in the pages of the docs.

Checked are docstrings of modules, classes and functions, and the texts below attributes.
Code, tables and headings are left out; each list item and each entry of a section such as
`Args:` is a text of its own.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

MAX_WORDS = 30
"""Maximum number of words in a sentence; a code span counts as one word."""

_HEADLESS = re.compile(
    r"(?:Of|The same|Those|It|Its|They|Their|Them|Who|Whose|Whom|Whoever|Whatever|That|This|These"
    r"|What|As|Where|Which|Let|Nobody|Somebody"
    r"|(?:Some|Any|All|Each|One|None) of (?:those|them|these))\b(?![-_`(\[.])"
)
_PARTY = (
    r"(?:peers?|senders?|receivers?|recipients?|dialers?|strangers?|other sides?|nodes?|links?)"
)
_PERSON = re.compile(
    rf"\b{_PARTY}(?: that| which| who)?(?: \w+ly| still| also| itself)?"
    r" (?:say|says|said|tell|tells|told|know|knows|knew|believe|believes|believed|want|wants)\b"
    r"|\bow(?:e|es|ed|ing)\b"
    r"|\b(?:has|have|had) (?:had )?(?:its|their) turn\b",
    re.IGNORECASE,
)
_SPAN = re.compile(r"(`+)(?:(?!\1).)+?\1", re.DOTALL)
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_ITEM = re.compile(r"\s*(?:[-*•]|\d+\.)\s+")
_SECTION = re.compile(r"(?:Args|Attributes|Raises|Returns|Yields|Example|Examples|Note|Source):$")
_ENTRY = re.compile(r" {4}[\w*`.][\w*`., ]*:\s")
_END = re.compile(
    r"(?<!e\.g)(?<!i\.e)(?<!\bvs)(?<!\bNo)[.!?][\"')*_]*\s+(?=[\"'(*_]*(?:[A-Z0-9`]|v\d|signedwire\b))"
)


class Finding(NamedTuple):
    """One place in a file whose text has to be mended."""

    line: int
    problem: str

    def __str__(self) -> str:
        """Line and problem, as a compiler prints them."""
        return f"line {self.line}: {self.problem}"


def check_module(code: str) -> list[Finding]:
    """Return what is wrong with the docstrings of a Python module, in order of lines."""
    findings: list[Finding] = []
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):
            continue
        text = node.value.value
        if not isinstance(text, str):
            continue
        if headless := _HEADLESS.match(text.strip()):
            is_question = text.strip().partition("\n\n")[0].endswith("?")
            if not (headless[0] in {"What", "Where", "Which", "Who", "Whose"} and is_question):
                findings.append(Finding(node.lineno, f"begins with {headless[0]!r}"))
        plain = _spans_as_words(text)
        findings += [
            Finding(node.lineno + plain.count("\n", 0, match.start()), f"personifies: {match[0]!r}")
            for match in _PERSON.finditer(plain)
        ]
        findings += _long_sentences(_docstring_blocks(text), node.lineno)
    return sorted(findings)


def check_page(text: str) -> list[Finding]:
    """Return the sentences of a Markdown page that are too long, in order of lines."""
    return sorted(_long_sentences(_page_blocks(text), 1))


def sentences(text: str) -> list[str]:
    """Split one paragraph into sentences, with each code span as one word."""
    plain = " ".join(_LINK.sub(r"\1", _spans_as_words(text)).split())
    return [part for part in _END.split(plain) if part]


def words(sentence: str) -> int:
    """Count the words of a sentence; a lone dash or sign is none."""
    return sum(any(map(str.isalnum, token)) for token in sentence.split())


def _spans_as_words(text: str) -> str:
    return _SPAN.sub(lambda match: "`Span`" + "\n" * match[0].count("\n"), text)


def _long_sentences(blocks: Iterator[tuple[int, str]], first_line: int) -> list[Finding]:
    return [
        Finding(first_line + line, f"{words(sentence)} words: {sentence[:60]!r}")
        for line, block in blocks
        for sentence in sentences(block)
        if words(sentence) > MAX_WORDS
    ]


def _docstring_blocks(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of each paragraph, list item and section entry of a docstring."""
    lines = text.splitlines()
    margin = min((_indent(line) for line in lines[1:] if line.strip()), default=0)
    lines = [line[margin:] if number else line.strip() for number, line in enumerate(lines)]
    block: list[str] = []
    start = 0
    is_section = False
    for number, line in enumerate([*lines, ""]):
        is_entry = is_section and _ENTRY.match(f"{line} ") is not None
        is_item = _ITEM.match(line) is not None
        is_code = _indent(line) >= 4 and not is_section and not block
        if not line.strip() or is_entry or is_item or is_code or _SECTION.match(line.strip()):
            if block:
                yield start, "\n".join(block)
            block = []
            if line.strip() and not is_entry:
                is_section = _SECTION.match(line.strip()) is not None
            if not is_entry and not is_item:
                continue
        elif _indent(line) == 0:
            is_section = False
        if not block:
            start = number
        mark = _ITEM if is_item else _ENTRY if is_entry else None
        block.append(mark.sub("", line, count=1) if mark is not None else line)


def _page_blocks(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of each paragraph and list item of a Markdown page."""
    block: list[str] = []
    start = 0
    is_fenced = is_comment = False
    for number, line in enumerate([*text.splitlines(), ""]):
        stripped = line.strip()
        is_fence = stripped.startswith("```")
        if is_fence:
            is_fenced = not is_fenced
        is_comment = is_comment or stripped.startswith("<!--")
        is_item = _ITEM.match(line) is not None
        is_code = not block and _indent(line) >= 4 and not is_item
        is_apart = not stripped or is_fence or is_fenced or is_comment or is_code
        if is_apart or is_item or stripped.startswith(("|", "#", "<")):
            if block:
                yield start, "\n".join(block)
            block = []
            if not is_item or is_fenced or is_comment:
                is_comment = is_comment and "-->" not in stripped
                continue
        if not block:
            start = number
        block.append(_ITEM.sub("", line, count=1) if is_item else stripped.lstrip("> "))


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
