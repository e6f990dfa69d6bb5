"""Commands that ran in this process leave the handlers of signals as they were."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from clikit import isolate, run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")

WORDS = {
    "listen": ["listen", "--no-store"],
    "bench": ["bench", "--serve"],
}
COMMANDS = {"listen": "listen_command", "bench": "bench_command"}


def loop_factories() -> list[Callable[[], asyncio.AbstractEventLoop]]:
    try:
        import uvloop
    except ImportError:
        return [asyncio.new_event_loop]
    return [asyncio.new_event_loop, uvloop.new_event_loop]


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("factory", loop_factories(), ids=lambda each: each.__module__)
def test_a_command_leaves_no_handler_behind(
    name: str,
    factory: Callable[[], asyncio.AbstractEventLoop],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    isolate(tmp_path, monkeypatch)
    access = tmp_path / "access"
    access.write_text("# nobody\n")
    monkeypatch.setenv("SIGNEDWIRE_ACCESS_FILE", str(access))
    monkeypatch.setenv("SIGNEDWIRE_EVIDENCE", str(tmp_path / "evidence.log"))
    module = f"signedwire.cli.{COMMANDS[name]}"
    monkeypatch.setattr(f"{module}.new_event_loop", factory)
    monkeypatch.setattr(f"{module}.notify_ready", lambda: signal.raise_signal(signal.SIGTERM))
    ended: list[int] = []
    monkeypatch.setattr("signedwire.cli.app.end_by_signal", ended.append)
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT)
    marks = {number: lambda *_: None for number in numbers}
    before = {number: signal.signal(number, marks[number]) for number in numbers}
    try:
        ran = run(*WORDS[name])
        after = {number: signal.getsignal(number) for number in numbers}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert (ran.exit_code, ended) == (143, [143]), ran
    assert after == marks
