"""Which form of the package the tests run against."""

from __future__ import annotations

import os
import tomllib
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import signedwire

_PACKAGE = Path(signedwire.__file__).parent
_PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_the_package_has_the_form_that_was_asked_for() -> None:
    hatch = tomllib.loads(_PROJECT.read_text())["tool"]["hatch"]["build"]
    hook = hatch["targets"]["wheel"]["hooks"]["custom"]
    paths = {path for pattern in hook["compiled"] for path in _PACKAGE.glob(pattern)}
    paths -= {_PACKAGE / path for path in hook["pure"]}
    assert len(paths) > 20
    forms = {_is_compiled(path) for path in paths}
    assert forms == {os.environ.get("SIGNEDWIRE_COMPILED") == "1"}


def _is_compiled(path: Path) -> bool:
    names = path.relative_to(_PACKAGE.parent).with_suffix("").parts
    return str(import_module(".".join(names)).__file__).endswith(tuple(EXTENSION_SUFFIXES))
