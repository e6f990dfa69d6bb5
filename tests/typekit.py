"""Type-checks programs as their authors would: `mypy --strict`, from the installed package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Programs of others import what carries no types; the cache is what makes the second run quick.
_SETTINGS = f"""
[mypy]
strict = true
cache_dir = {ROOT / ".mypy_cache" / "consumer"}
[mypy-omnimesh.*]
ignore_missing_imports = true
"""


def check(folder: Path, *options: str) -> list[str]:
    """What mypy says of the programs in `folder`: lines that begin with `name.py:line: `."""
    (folder / "mypy.ini").write_text(_SETTINGS)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--config-file", "mypy.ini", *options),
            *("--no-error-summary", "--hide-error-context", "--no-pretty"),
            *sorted(path.name for path in folder.glob("*.py")),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert not done.stderr
    return done.stdout.splitlines()
