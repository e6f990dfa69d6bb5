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


@pytest.mark.skipif("WITHOUT_V1" in os.environ, reason="it needs v1")
@pytest.mark.parametrize(
    ("missing", "error"),
    [
        (None, "ok"),
        ("signedwire.transport.v1", "speaks v2 alone"),
        ("signedwire.transport.v1.connection", "No module named"),
        ("some_library", "No module named 'some_library'"),
    ],
)
def test_only_a_missing_package_is_told_as_v2_alone(
    missing: str | None, error: str, tmp_path: Path
) -> None:
    """A module that v1 itself needs and that is missing is a fault of the installation."""
    shutil.copytree(SOURCE, tmp_path / "signedwire")
    v1 = tmp_path / "signedwire" / "transport" / "v1"
    if missing == "signedwire.transport.v1":
        shutil.rmtree(v1)
    elif missing == "signedwire.transport.v1.connection":
        (v1 / "connection.py").unlink()
    elif missing is not None:
        wire = v1 / "wire.py"
        future = "from __future__ import annotations"
        wire.write_text(wire.read_text().replace(future, f"{future}\nimport {missing}"))
    program = (
        "from signedwire import Identity, Node, TransportConfig\n"
        "Node(Identity.generate(), TransportConfig(v1_peers='all'))\n"
        "print('ok')"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert error in (ran.stdout if missing is None else ran.stderr), ran.stderr
    assert (ran.returncode == 0) is (missing is None)
    is_told_so = "speaks v2 alone" in ran.stderr
    assert is_told_so is (missing == "signedwire.transport.v1")
