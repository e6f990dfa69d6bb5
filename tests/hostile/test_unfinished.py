"""What strangers that begin a large batch and stop cost their node, beyond idle links.

`make unfinished` does it with a thousand; what is measured is printed with -s.
"""

from __future__ import annotations

import sys

import pytest

from hostile.unfinished import LIMIT_KIB, measure_unfinished
from signedwire.transport.descriptors import free_descriptors

LINKS = 60
"""More than have room for 1 MiB."""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_unfinished_batches_cost_what_has_arrived_of_them(loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    free = free_descriptors()
    if free is not None and free < 2 * LINKS:
        pytest.skip("this process may open too few descriptors")
    found = await measure_unfinished(LINKS, loop=loop)
    sys.stderr.write(f"\n[measured] {found}\n")
    assert found.kept == LINKS
    # The share of so many links, and as much again for what a small number does not even out.
    assert found.more_kib < 2 * LIMIT_KIB * LINKS / 1000
