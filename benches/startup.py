"""How long a fresh process takes: to import signedwire, and to its first receipt.

Each run is a new interpreter, which writes a byte when it has come so far; the clock is
the parent's and starts before the process does. One that does nothing but to write the
byte is beside them: what Python itself takes is in all of them. They take turns, after
one of each that is not counted, so files are in memory and compiled.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Final

from benches.children import Child, ChildGone, environment
from benches.results import Results, Start
from signedwire.bench import Tell

__all__ = ["MAX_RUNS", "PROGRAMS", "measure_start"]

MAX_RUNS: Final = 1000
_PEER: Final = "benches.child"
_TIMEOUT: Final = 20.0

PROGRAMS: Final = {
    "python": "import os; os.write(1, b'.')",
    "import signedwire": "import os, signedwire; os.write(1, b'.')",
    "first message": """
import asyncio, os, sys
from signedwire import Identity, Node

async def main(did, address):
    async with Node(Identity.generate()) as node:
        node.routing.update(did, address)
        await node.send(did, b"hello", until="accepted")
        os.write(1, b".")

asyncio.run(main(*sys.argv[1:]))
""",
}
"""What runs, from the least to the most; each is told the DID and the address of a peer."""


def measure_start(results: Results, runs: int, tell: Tell) -> None:
    """So many runs of each program; if the peer fails, `left_out` says so."""
    limit = (runs + 1) * len(PROGRAMS) * _TIMEOUT + _TIMEOUT
    times: dict[str, list[float]] = {what: [] for what in PROGRAMS}
    try:
        with Child("a peer that is running", _PEER, "v2-asyncio", limit=limit) as child:
            peer = child.ask("open", timeout=_TIMEOUT)
            for number in range(runs + 1):
                tell(f"starting: run {number} of {runs}" if number else "starting: warm-up")
                for what, program in PROGRAMS.items():
                    seconds = _time(what, program, peer["did"], peer["address"])
                    times[what] += [seconds] * bool(number)
    except ChildGone as error:
        results.left_out["starting"] = f"it failed: {error}"
        return
    results.start = [Start(rounds=each, what=what) for what, each in times.items()]


def _environment() -> dict[str, str]:
    """As users have it: what pip installs is compiled, so the warm-up may compile it here too."""
    return {
        name: value for name, value in environment().items() if name != "PYTHONDONTWRITEBYTECODE"
    }


def _time(what: str, program: str, *arguments: str) -> float:
    """Seconds until it writes.

    Raises:
        ChildGone: it ended without, or did not end in time.
    """
    started_at = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(),
    ) as process:
        assert process.stdout is not None
        try:
            # A send that does not succeed raises, so each of them ends by itself.
            said = process.stdout.read(1)
            seconds = time.perf_counter() - started_at
            _, errors = process.communicate(timeout=_TIMEOUT)
        except BaseException as error:
            process.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                raise ChildGone(f"{what!r} did not end in {_TIMEOUT:g} s") from None
            raise
    if not said:
        words = errors.decode(errors="replace").strip().rpartition("\n")[2]
        raise ChildGone(f"{what!r} ended: {words or 'it said nothing'}")
    return seconds
