"""The targets over code that atheris has instrumented, in a process that forks for each target.

To instrument takes some 8 s, so it is done once: `forkserver` imports this module, and its
children find `targets` as it is here. Nothing else of the fuzzer may import it.
"""

from __future__ import annotations

import contextlib
import io

import atheris

_INSTRUMENTED = ["signedwire", "tomllib"]

with (
    contextlib.redirect_stderr(io.StringIO()),  # it names each module
    atheris.instrument_imports(include=_INSTRUMENTED),
):
    from . import targets

__all__ = ["targets"]
