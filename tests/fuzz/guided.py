"""A target in a process of its own that atheris guides by coverage."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path

__all__ = ["GuidedRun"]

_MAX_MEMORY = 1024
"""MiB: a process with a tenth of that has read nothing yet, and no input is larger than 9 KB."""
_LATEST = 90
"""Seconds that a process may take beyond its time."""


@cache
def _processes() -> ForkServerContext:
    """Processes that find the code instrumented."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"{__package__}.instrumented"])
    return context


@dataclass(frozen=True, slots=True)
class GuidedRun:
    """One target for some seconds."""

    name: str
    seed: int
    seconds: float
    artifacts: Path
    """Where crashing inputs go."""
    folder: Path
    """For the files of this run; `corpus` in it has the inputs to begin with."""

    def run(self) -> tuple[int, str]:
        """The exit code, and what was printed."""
        process = _processes().Process(target=self._fuzz, daemon=True)
        process.start()
        process.join(self.seconds + _LATEST)
        is_hung = process.exitcode is None
        if is_hung:
            process.kill()
            process.join()
        output = self._output.read_text(errors="replace") if self._output.exists() else ""
        if is_hung:
            return 124, output + "\nit hung"
        return process.exitcode or 0, output

    @property
    def _output(self) -> Path:
        return self.folder / "output"

    def _fuzz(self) -> None:
        """In the process. libFuzzer ends it, without giving it time to tidy up."""
        import atheris

        output = os.open(self._output, os.O_WRONLY | os.O_CREAT, 0o600)
        for stream in (1, 2):
            os.dup2(output, stream)
        tempfile.tempdir = str(self.folder)
        from .targets import TARGETS

        target = TARGETS[self.name]
        atheris.Setup(
            [
                sys.argv[0],
                f"-max_total_time={max(1, round(self.seconds))}",
                f"-seed={self.seed}",
                f"-max_len={target.max_size}",
                f"-artifact_prefix={self.artifacts}/{target.name}-",
                "-timeout=20",
                f"-rss_limit_mb={_MAX_MEMORY}",
                "-print_final_stats=1",
                str(self.folder / "corpus"),
            ],
            target.run,
        )
        try:
            atheris.Fuzz()
        finally:
            # After a crash. A process of `multiprocessing` ends without what C does at an exit,
            # and that is where libFuzzer saves the input.
            ctypes.PyDLL(None).exit(1)
