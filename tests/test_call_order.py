"""The main calls of one message happen in the order in which docs/architecture.md lists them."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytest

from signedwire import Identity, Node, TransportConfig
from test_architecture import ROOT, SOURCE
from wirekit import LIMIT, on_both_loops

_ROW: Final = re.compile(r"^\|[^|`]*\| `([\w.]+)` \|", re.MULTILINE)
_PREFIX: Final = f"{SOURCE}{os.sep}"
_WARM: Final = 5
"""Messages before the one that is observed, so that the link is open and has credit."""


def listed() -> tuple[list[str], list[str]]:
    """Return the calls of the two tables: without stores, and those that stores add."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = page.partition("## The calls of one message\n")[2].partition("\n## ")[0]
    plain, _, stored = section.partition("With stores on both sides")
    return _ROW.findall(plain), _ROW.findall(stored)


@contextmanager
def calls() -> Iterator[list[str]]:
    """Collect the qualified names of the functions of signedwire that this thread calls."""
    found: list[str] = []

    def note(frame: FrameType, event: str, arg: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(_PREFIX):
            found.append(frame.f_code.co_qualname)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(before)


async def calls_of_one_message(folder: Path | None) -> list[str]:
    """Send messages between two nodes; return the calls of the last one, up to its receipt."""
    stores = {name: folder / name if folder else None for name in ("alice", "bob")}
    async with (
        Node(Identity.generate(), TransportConfig(listen=None), store=stores["alice"]) as alice,
        Node(Identity.generate(), store=stores["bob"]) as bob,
    ):
        alice.routing.update(bob.did, bob.address)
        for _ in range(_WARM):
            receipt = await alice.send(bob.did, b"x", until="accepted")
            (await bob.receive(LIMIT)).ack()
            await receipt.wait("handled", timeout=LIMIT)
        with calls() as found:
            await alice.send(bob.did, b"x" * 64, until="accepted")
        return found


def missing(expected: list[str], found: list[str]) -> str | None:
    """Return the first of the expected calls that does not come in its order, else `None`."""
    rest = iter(found)
    return next((call for call in expected if call not in rest), None)


class TestCallOrder:
    @on_both_loops
    async def test_without_stores(self) -> None:
        expected, _ = listed()
        assert len(expected) > 40
        assert missing(expected, await calls_of_one_message(None)) is None

    @on_both_loops
    async def test_with_stores(self, tmp_path: Path) -> None:
        _, expected = listed()
        assert len(expected) > 10
        assert missing(expected, await calls_of_one_message(tmp_path)) is None


@pytest.mark.parametrize(
    ("expected", "first"),
    [(["a", "c"], None), (["a", "b", "c"], None), (["b", "a"], "a"), (["a", "a"], "a")],
)
def test_the_order_counts(expected: list[str], first: str | None) -> None:
    assert missing(expected, ["a", "b", "c"]) == first


def test_only_this_thread_is_observed() -> None:
    with calls() as found:
        thread = threading.Thread(target=Identity.generate)
        thread.start()
        thread.join()
    assert "Identity.generate" not in found
