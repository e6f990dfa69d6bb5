"""Two processes, real traffic, under 20 s: `make demo`.

- `scenes`, `outage`: what is shown. `checks`: every line shown as a result is one; the exit
  code is 0 only if all were true.
- `cast`, `node`: Alice, Bob and an impostor, each a process with an ordinary
  `signedwire.Node` on the v2 wire. `keeper`: one with a store.
- `stage`: the screen, plain lines, or nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json as jsonlib
import os
import secrets
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benches.children import ChildGone

from examples.demo import scenes
from examples.demo.cast import Actor
from examples.demo.outage import KeepingActor, Ledger, power_cut
from examples.demo.stage import Screen, Stage
from signedwire import Identity

__all__ = ["run_demo"]

_LIMIT: Final = 18.0
"""Seconds after which the demo ends, whatever hangs."""


def run_demo(json: bool = False) -> int:
    """Show signedwire at work, for about 12 s and never more than 20.

    Returns:
        0 if every check was true, 1 if one was not, 2 where it cannot run.
    """
    try:
        stage = _stage(json)
    except ImportError:
        sys.stderr.write("the demo needs rich: pip install '.[cli]'\n")
        return 1
    # Made by those who come on last: a demo that is killed before leaves nothing.
    folder = Path(tempfile.gettempdir(), f"signedwire-demo-{secrets.token_hex(8)}")
    ledger = Ledger()
    alice, bob, mallory = (Actor(name, _LIMIT) for name in ("alice", "bob", "mallory"))
    dora, emil = (KeepingActor(name, _LIMIT, folder, ledger) for name in ("dora", "emil"))
    cast = (alice, bob, mallory, dora, emil)
    watchdog = threading.Timer(_LIMIT, _end_now, (cast, folder))
    watchdog.daemon = True
    watchdog.start()
    counters: dict[str, Any] = {}
    try:
        with contextlib.ExitStack() as stack:
            stack.callback(stage.close)
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            for actor in cast:
                stack.callback(actor.close)
            stage.open()
            counters = _play(stage, alice, bob, mallory, (dora, emil))
            stage.pause()
            power_cut(stage, dora, emil, ledger)
            stage.pause()
            _show_counters(stage, counters)
    except KeyboardInterrupt:
        return 130
    except (ChildGone, OSError) as error:
        stage.check("the demo ran to its end", f"no: {error}", "yes")
    finally:
        watchdog.cancel()
    seconds = time.monotonic() - stage.started_at
    if json:
        document = {
            "ok": stage.checks.exit_code == 0,
            "seconds": round(seconds, 1),
            "checks": [dataclasses.asdict(check) for check in stage.checks],
            "counters": counters,
        }
        sys.stdout.write(jsonlib.dumps(document) + "\n")
    else:
        _show_verdict(stage, seconds)
    return stage.checks.exit_code


def _stage(json: bool) -> Stage:
    if json:
        return Stage()
    from rich.console import Console

    return Screen(Console())


def _play(
    stage: Stage, alice: Actor, bob: Actor, mallory: Actor, keepers: Sequence[KeepingActor]
) -> dict[str, Any]:
    """All that needs no store; returns the counters of everybody at the end."""
    carol = Identity.generate()
    bob.v1_peers = [carol.did, alice.identity.did]
    stage.show(
        "[bold]signedwire demo[/]  two nodes, two processes. A node's name, its DID, is its key:"
    )
    for actor in (alice, bob):
        actor.launch()
    for actor in (alice, bob):
        actor.start()
        stage.show(f"  [bold]{actor.name:<5}[/] [cyan]{actor.did}[/]  process {actor.child.pid}")
    alice.meet(bob)
    bob.meet(alice)
    stage.pause()
    scenes.traffic(stage, alice, bob)
    stage.pause()
    # They come on later, and nobody is to wait for them then.
    mallory.launch()
    for keeper in keepers:
        keeper.launch()
    scenes.forgeries(stage, alice, bob, carol)
    stage.pause()
    before = scenes.restart(stage, alice, bob, mallory)
    stage.pause()
    scenes.emergency(stage, alice, bob)
    return {
        "alice": alice.ask("stats"),
        "bob, until he was killed": before,
        "bob, since": bob.ask("stats"),
    }


def _show_counters(stage: Stage, counters: dict[str, Any]) -> None:
    head = ("sent", "received", "refused", "reconnected", "given up")
    stage.show("", f"[bold]{'the counters at the end':<25}{_columns(head)}[/]")
    for name, counter in counters.items():
        refused = sum(counter["dropped"].get(reason, 0) for reason in _REFUSALS)
        numbers = (
            counter["sent"],
            counter["received"],
            refused,
            counter["reconnections"],
            counter["send_failures"],
        )
        stage.show(f"  {name:<23}{_columns([f'{number:,}' for number in numbers])}")


def _columns(cells: Sequence[str]) -> str:
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, _WIDTHS, strict=True))


_WIDTHS: Final = (9, 10, 9, 13, 10)
_REFUSALS: Final[Sequence[str]] = (
    "bad signature",
    "unsigned",
    "duplicate",
    "not allowed",
    "bad identity",
)


def _show_verdict(stage: Stage, seconds: float) -> None:
    total = len(stage.checks)
    wrong = sum(not check.ok for check in stage.checks)
    if stage.checks.exit_code == 0:
        verdict = f"[bold green]All {total} checks were true[/]"
    else:
        verdict = f"[bold red]{wrong} of {total} checks were not true[/]"
    stage.show("", f"{verdict}, in {seconds:.1f} s. Next: README.md, or `signedwire --help`.")


def _end_now(cast: Sequence[Actor | KeepingActor], folder: Path) -> None:
    """The watchdog: whatever hangs, end the children and then ourselves."""
    for actor in cast:
        with contextlib.suppress(Exception):
            actor.close()
    shutil.rmtree(folder, ignore_errors=True)
    if sys.stdout.isatty():
        sys.stdout.write("\x1b[?25h")  # the live display hides the cursor
    sys.stdout.flush()
    sys.stderr.write(f"signedwire demo: stopped after {_LIMIT:g} s, something hung\n")
    sys.stderr.flush()
    os._exit(1)
