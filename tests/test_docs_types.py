"""What README and docs show type-checks under `mypy --strict`, block by block."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import typekit
from test_docs import ALL, Block

PYTHON = [block for block in ALL if block.language == "python"]
_PLACE = re.compile(r"block_(\d+)\.py:(\d+): (.*)")


def complaints(blocks: list[Block], folder: Path) -> list[str]:
    """What is wrong with them, each with its page and line there.

    Each block is a program of its own, as `test_docs` runs it.
    """
    for number, block in enumerate(blocks):
        (folder / f"block_{number}.py").write_text(block.text)
    found = []
    for line in typekit.check(folder):
        match = _PLACE.match(line)
        assert match, line
        block = blocks[int(match[1])]
        found.append(f"{block.document}:{block.line + int(match[2]) - 1}: {match[3]}")
    return found


@pytest.mark.timeout(300)
def test_every_block_type_checks(tmp_path: Path) -> None:
    assert len(PYTHON) >= 12
    assert complaints(PYTHON, tmp_path) == []


@pytest.mark.timeout(300)
def test_a_wrong_block_is_named_by_its_page_and_line(tmp_path: Path) -> None:
    text = (
        "from signedwire import Receipt, RoutingTable\n\n\n"
        "async def main(receipt: Receipt, table: RoutingTable) -> None:\n"
        '    await receipt.wait("handeld")\n'
        '    table.update("did", None)\n'
    )
    wrong = Block("page.md", 40, "python", "", text)
    first, second = complaints([wrong], tmp_path)
    assert first.startswith('page.md:44: error: Argument 1 to "wait"')
    assert second.startswith('page.md:45: error: Argument 2 to "update"')
