"""Published test vectors, read from the folder beside the checkout; never copied into it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

VECTORS = Path(__file__).resolve().parents[2] / "shared" / "vectors"


def load_vectors(name: str) -> Any:
    """The parsed `shared/vectors/<name>.json`; skips the calling test where it is absent."""
    path = VECTORS / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"{path} is absent: the published vectors are not part of the checkout")
    return json.loads(path.read_text(encoding="utf-8"))
