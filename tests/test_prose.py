"""Docstrings and pages are plain English; see `prosekit` for the rules."""

from pathlib import Path

import pytest

from prosekit import check_module, check_page, sentences, words
from test_architecture import MODULES, PAGES, ROOT, SOURCE


def name_of(path: Path) -> str:
    return path.relative_to(ROOT if path.suffix == ".md" else SOURCE).as_posix()


def findings(path: Path) -> list[str]:
    check = check_page if path.suffix == ".md" else check_module
    return [str(finding) for finding in check(path.read_text(encoding="utf-8"))]


class TestProse:
    @pytest.mark.parametrize("path", [*MODULES, *PAGES], ids=name_of)
    def test_is_plain(self, path: Path) -> None:
        assert not findings(path)


class TestDocstringRules:
    @pytest.mark.parametrize(
        "text",
        [
            "Of one sender.",
            "The same in bytes.",
            "Those that wait.",
            "It is full.",
            "They are done.",
            "Who was denied.",
            "Whose leaves are remembered.",
            "That is all.",
            "This goes.",
            "These rows go.",
            "Whoever has it may call.",
            "What the sender chose.",
            "As `decode()`.",
            "Where a link stands.",
            "Which links wait.",
            "Let it go.",
            "Nobody asks.",
            "Somebody waits.",
            "Some of those that wait.",
            "One of them waits.",
        ],
    )
    def test_a_headless_start(self, text: str) -> None:
        (finding,) = check_module(f'"""{text}"""')
        assert "begins with" in finding.problem

    @pytest.mark.parametrize(
        "text",
        [
            "Offset of the record in the file.",
            "Item of a list.",
            "Whether the signature fits.",
            "What did the peer send?",
            "Where is the socket?",
            "Some of the links that wait.",
            "Letters of a word.",
            "Thisbe.",
            "`It` is a class.",
        ],
    )
    def test_another_start(self, text: str) -> None:
        assert not check_module(f'"""{text}"""')

    @pytest.mark.parametrize(
        "text",
        [
            "Whether the peer owes the rest.",
            "When the sender says it made the message.",
            "Epoch that the other side knows.",
            "Links whose peers have had their turn.",
            "Text\n\nas the peer said.",
        ],
    )
    def test_a_person(self, text: str) -> None:
        (finding,) = check_module(f'"""{text}"""')
        assert "personifies" in finding.problem

    def test_everything_with_a_docstring_is_seen(self) -> None:
        code = (
            '"""It is one."""\n'
            'A: int = 1\n"""It is two."""\n'
            'class B:\n    """It is three."""\n    c: int\n    """It is four."""\n'
            '    def d(self):\n        """It is five."""\n'
            '        self.e = 1\n        """It is six."""\n'
        )
        assert [finding.line for finding in check_module(code)] == [1, 3, 5, 7, 9, 11]

    def test_a_string_that_is_no_docstring_is_not(self) -> None:
        assert not check_module('print("It is one.")\n')


def sentence_of(count: int) -> str:
    return " ".join(["Word", *["word"] * (count - 1)]) + "."


class TestLength:
    @pytest.mark.parametrize(("count", "is_long"), [(30, False), (31, True)])
    @pytest.mark.parametrize(
        "frame",
        [
            "{}",
            "Short one. {} Short one.",
            "Title.\n\nArgs:\n    name: {}\n    other: Short one.",
            "Title.\n\n- {}\n- Short one.",
            "Title.\n\nRaises:\n    KeyError: short.\n\n{}",
        ],
    )
    def test_a_docstring(self, frame: str, count: int, *, is_long: bool) -> None:
        code = f'def f():\n    """{frame}"""'.format(sentence_of(count))
        assert bool(check_module(code)) is is_long

    def test_code_in_a_docstring_is_not_counted(self) -> None:
        assert not check_module(f'"""Title.\n\n    {sentence_of(40)}\n\nText.\n"""')

    def test_the_line_is_that_of_the_paragraph(self) -> None:
        (finding,) = check_module(f'x = 1\n"""Title.\n\nShort.\n\n{sentence_of(31)}\n"""')
        assert finding.line == 6

    @pytest.mark.parametrize("frame", ["{}", "> {}", "- {}", "1. {}", "```\nx\n```\n{}"])
    def test_a_page(self, frame: str) -> None:
        assert check_page(frame.format(sentence_of(31)))
        assert not check_page(frame.format(sentence_of(30)))

    @pytest.mark.parametrize("frame", ["```\n{}\n```", "| {} |", "# {}", "    {}", "<!-- {} -->"])
    def test_what_is_no_prose(self, frame: str) -> None:
        assert not check_page(frame.format(sentence_of(31)))

    def test_items_of_a_list_are_apart(self) -> None:
        assert not check_page("- " + "\n- ".join([sentence_of(20)[:-1]] * 2))

    @pytest.mark.parametrize(
        ("text", "counts"),
        [
            ("One two. Three.", [2, 1]),
            ("Is it? Yes.", [2, 1]),
            ("Call `a b c d` now.", [3]),
            ("See [a b](https://c.d/e%20f) now.", [4]),
            ("About 0.5 s, e.g. Here — too.", [6]),
            ("One.\n`two` three.", [1, 2]),
        ],
    )
    def test_words(self, text: str, counts: list[int]) -> None:
        assert [words(sentence) for sentence in sentences(text)] == counts
