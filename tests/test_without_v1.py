"""Without the package `transport.v1` everything that v2 promises still holds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

TESTS: Final = Path(__file__).parent
SOURCE: Final = TESTS.parent / "src" / "signedwire"
FILES: Final = ("test_link.py", "test_receiving.py", "test_stored.py")
_PYTEST: Final = (sys.executable, "-m", "pytest", "-o", "addopts=", "-p", "no:cacheprovider")
WHOLE: Final = os.environ.get("WITHOUT_V1") == "whole"


@pytest.mark.skipif("WITHOUT_V1" in os.environ and not WHOLE, reason="it is what runs here")
def test_v2_needs_nothing_of_v1(tmp_path: Path) -> None:
    """`make without-v1` runs all tests of links and delivery so."""
    shutil.copytree(SOURCE, tmp_path / "signedwire")
    shutil.rmtree(tmp_path / "signedwire" / "transport" / "v1")
    files = [TESTS / "transport" / name for name in FILES]
    if WHOLE:
        files = [TESTS / "transport", TESTS / "delivery", TESTS / "test_outbox.py"]
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-o",
            "addopts=",
            "-p",
            "no:cacheprovider",
            *map(str, files),
        ],
        env=os.environ | {"PYTHONPATH": str(tmp_path), "WITHOUT_V1": "1"},
        capture_output=True,
        text=True,
        timeout=3000 if WHOLE else 280,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-4000:]
    last = ran.stdout.splitlines()[-1]
    counts = {kind: int(count) for count, kind in re.findall(r"(\d+) (passed|skipped)", last)}
    # Not all were skipped, and what was skipped needs v1.
    assert counts["passed"] > (1000 if WHOLE else 150), last
    assert counts.get("skipped", 0) < counts["passed"] / 2, last
