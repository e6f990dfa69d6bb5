"""The workflow for a public forge: which systems and versions it runs, with which rights."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORKFLOW = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
# What is done, without comments, which are for people.
LINES = [line for line in WORKFLOW.splitlines() if not line.lstrip().startswith("#")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def entries(key: str) -> list[str]:
    """What follows `key:` on its line, each time that it occurs; as text."""
    found = [re.fullmatch(rf"[ -]*{re.escape(key)}:(.*)", line) for line in LINES]
    return [match[1].strip() for match in found if match is not None]


def items(key: str) -> list[str]:
    """The items of the one list in brackets under `key`."""
    (text,) = entries(key)
    assert text.startswith("["), text
    return [item.strip().strip("\"'") for item in text.strip("[]").split(",")]


def test_the_versions_are_those_of_the_classifiers() -> None:
    prefix = "Programming Language :: Python :: "
    classified = [c.removeprefix(prefix) for c in PROJECT["classifiers"] if c.startswith(prefix)]
    assert items("python") == classified == ["3.11", "3.12", "3.13", "3.14"]
    assert PROJECT["requires-python"] == f">={classified[0]}"


def test_it_runs_on_three_systems() -> None:
    assert items("os") == ["ubuntu-latest", "macos-latest", "windows-latest"]
    assert entries("runs-on") == ["ubuntu-latest", "${{ matrix.os }}"]


def test_it_runs_the_checks_and_the_tests() -> None:
    runs = entries("run")
    assert "make check" in runs
    assert "python -m pytest" in runs
    (install,) = [run for run in runs if "pip install" in run]
    extras = re.findall(r"\[([\w,]+)\]", install)[0].split(",")
    assert set(extras) <= PROJECT["optional-dependencies"].keys()
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make ([\w-]+)", " ".join(runs)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_it_may_only_read_and_knows_no_secret() -> None:
    (at,) = [number for number, line in enumerate(LINES) if line.lstrip().startswith("permissions")]
    assert LINES[at] == "permissions:"  # of the whole workflow: no job takes more
    assert LINES[at + 1 : at + 3] == ["  contents: read", ""]
    text = "\n".join(LINES)
    assert "secrets" not in text
    assert "pull_request_target" not in text  # that one has secrets where strangers' code runs
    assert entries("persist-credentials") == ["false"] * len(entries("runs-on"))


def test_actions_are_those_of_the_forge_and_pinned_by_their_major_version() -> None:
    actions = entries("uses")
    assert actions
    for action in actions:
        assert re.fullmatch(r"actions/[\w-]+@v\d+", action), action


def test_it_names_no_host() -> None:
    text = "\n".join(LINES)
    assert "://" not in text
    assert "index-url" not in text


def test_every_job_ends() -> None:
    assert len(entries("timeout-minutes")) == len(entries("runs-on"))


def test_it_is_indented_by_pairs_of_spaces() -> None:
    for line in WORKFLOW.splitlines():
        assert "\t" not in line
        assert line == line.rstrip()
        assert (len(line) - len(line.lstrip())) % 2 == 0
