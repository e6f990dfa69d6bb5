"""The words about each option: its docstring, `docs/configuration.md`, and where they come from."""

from __future__ import annotations

import ast
import inspect
import itertools
import re

import pytest

import make_configuration_page
from signedwire import config
from signedwire.config import OPTIONS, TransportConfig
from signedwire.errors import ConfigError
from signedwire.option_texts import describe_options, facts_of
from signedwire.settings import IDENTITY_OPTIONS, load_config

DESCRIBED = describe_options()
# In an editor the docstring stands alone.
HEADLESS = re.compile(r"(Of|The same|Those|It|Who|Whose|That|These|They)\b")


def field_docs() -> dict[str, str]:
    """The docstring below each field, as it is in the source."""
    (cls,) = ast.parse(inspect.cleandoc(inspect.getsource(TransportConfig))).body
    assert isinstance(cls, ast.ClassDef)
    docs = {}
    for node, below in itertools.pairwise(cls.body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            assert isinstance(below, ast.Expr), f"{node.target.id} has no docstring"
            docs[node.target.id] = inspect.cleandoc(ast.literal_eval(below.value))
    return docs


@pytest.mark.parametrize("name", OPTIONS)
def test_the_docstring_ends_with_what_is_allowed_and_the_default(name: str) -> None:
    text, facts = field_docs()[name].split("\n\n")
    assert " ".join(facts.split()) == facts_of(OPTIONS[name])
    assert DESCRIBED[name].text == " ".join(text.split())


@pytest.mark.parametrize("name", DESCRIBED)
def test_the_text_is_plain(name: str) -> None:
    text = DESCRIBED[name].text
    assert not HEADLESS.match(text)
    assert text.endswith(".")
    for sentence in re.split(r"(?<=[.;:]) ", text):
        assert len(sentence.split()) < 30, sentence


def test_every_option_is_described_in_order() -> None:
    assert list(DESCRIBED) == [*OPTIONS, *IDENTITY_OPTIONS]


@pytest.mark.parametrize("name", OPTIONS)
def test_the_variable_sets_the_option(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}="):
        load_config(environ={DESCRIBED[name].variable: "\0"})


def test_each_kind_of_option_in_words() -> None:
    assert DESCRIBED["credit_bytes"][1:6] == (
        "whole number",
        "bytes",
        "1_024 to 17_179_869_184",
        "2_097_152 (2 MiB)",
        "SIGNEDWIRE_CREDIT_BYTES",
    )
    assert DESCRIBED["connect_timeout"][1:5] == (
        "number, or None",
        "seconds",
        "0.001 to 86_400",
        "5.0",
    )
    assert DESCRIBED["listen"][1:5] == ("host:port, or None", "", "", '"127.0.0.1:0"')
    assert DESCRIBED["signatures"][1:5] == ('"required" or "if-present"', "", "", '"required"')
    assert DESCRIBED["v1_peers"][1:5] == (
        '"all", or list of DIDs or names',
        "",
        "",
        "an empty list",
    )
    assert DESCRIBED["names"][1:5] == ("table of names and DIDs", "", "", "an empty table")
    assert DESCRIBED["roles"][1] == "table of roles, each with a list of names or DIDs"
    assert DESCRIBED["store"][1:5] == ("path, or None", "", "", "None")
    assert DESCRIBED["key_group_readable"][1:5] == ("true or false", "", "", "False")


def test_without_the_source_an_error_names_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_source(_: object) -> str:
        raise OSError("could not get source code")

    monkeypatch.setattr(inspect, "getsource", no_source)
    with pytest.raises(ConfigError, match=r"cannot be read: .* docs/configuration\.md"):
        describe_options()
    assert config.OPTIONS  # everything else works


def test_the_page_is_up_to_date() -> None:
    """`make docs` writes it."""
    page = make_configuration_page.PAGE.read_text(encoding="utf-8")
    assert page == make_configuration_page.render()


def test_the_page_has_a_heading_for_each_option() -> None:
    headings = re.findall(r"^### `(\w+)`$", make_configuration_page.render(), re.MULTILINE)
    assert headings == ["preset", *DESCRIBED]
