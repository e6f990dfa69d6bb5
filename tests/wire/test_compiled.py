"""Which form of the package the tests run against."""

from __future__ import annotations

import os
from importlib.machinery import EXTENSION_SUFFIXES

from signedwire.wire import session


def test_the_package_has_the_form_that_was_asked_for() -> None:
    is_compiled = session.__file__.endswith(tuple(EXTENSION_SUFFIXES))
    assert is_compiled == (os.environ.get("SIGNEDWIRE_COMPILED") == "1")
