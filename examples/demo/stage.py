"""Where the demo is seen: a terminal, plain lines, or nowhere.

Texts are rich markup. Colour only repeats what the words and signs say.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from examples.demo.checks import Check, Checks

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["Screen", "Stage"]

_NAME_WIDTH: Final = 45
_BAR_WIDTH: Final = 24
_PAUSE: Final = 0.7
_LATE: Final = 12.0

Lines = Callable[[], list[str]]


class Stage:
    """Collects the checks and shows nothing: what `--json` needs."""

    def __init__(self) -> None:
        self.checks = Checks()
        self.started_at = time.monotonic()
        self._live: Lines = list

    def open(self) -> None:
        """Begin to show."""

    def close(self) -> None:
        """Leave the terminal as it was."""

    def show(self, *lines: str) -> None:
        """Show lines for good."""

    def scene(self, title: str, *explanation: str) -> None:
        """A new scene: what will be seen, in plain words."""

    def live(self, lines: Lines) -> None:
        """Show what `lines` returns, anew several times a second, until the scene's results."""
        self._live = lines

    def pause(self) -> None:
        """Let a reader look at the results."""

    def check(self, name: str, seen: object, expected: object, ok: bool | None = None) -> None:
        """Check a claim and show what came of it."""
        self.checks.add(name, seen, expected, ok)

    def bar(self, share: float) -> str:
        """A bar, as long as `share` says."""
        return ""


class Screen(Stage):
    """The real thing, on a `rich` console.

    A terminal shows the scene that is on in a live region at the bottom; what is over
    stands above it for good, so it works at any height. Anything else gets lines.
    """

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        ascii_only = console.options.ascii_only
        self._good, self._bad = ("ok", "NO") if ascii_only else ("✓", "✗")
        self._block, self._gap = ("#", ".") if ascii_only else ("━", "╌")
        from rich.live import Live

        self._region = Live(
            console=console, get_renderable=self._render, refresh_per_second=10, transient=True
        )

    def open(self) -> None:
        if self._console.is_terminal:
            self._region.start()

    def close(self) -> None:
        self._region.stop()

    def show(self, *lines: str) -> None:
        for line in lines:
            self._console.print(line, highlight=False, emoji=False)

    def scene(self, title: str, *explanation: str) -> None:
        self.show("", f"[bold cyan]{title}[/]", *(f"  {line}" for line in explanation))

    def live(self, lines: Lines) -> None:
        super().live(lines)
        self._region.refresh()

    def pause(self) -> None:
        # Not where the machine is so slow that all of it takes long enough.
        if self._console.is_terminal and time.monotonic() < self.started_at + _LATE:
            time.sleep(_PAUSE)

    def check(self, name: str, seen: object, expected: object, ok: bool | None = None) -> None:
        self.show(self._verdict(self.checks.add(name, seen, expected, ok)))

    def _verdict(self, check: Check) -> str:
        name = f"{check.name:<{_NAME_WIDTH}}"
        if check.ok:
            return f"  [bold green]{self._good}[/] {name} [bold]{check.seen}[/]"
        return f"  [bold red]{self._bad} {name} {check.seen}, expected {check.expected}[/]"

    def bar(self, share: float) -> str:
        full = max(0, min(_BAR_WIDTH, round(share * _BAR_WIDTH)))
        return f"[green]{self._block * full}[/][dim]{self._gap * (_BAR_WIDTH - full)}[/]"

    def _render(self) -> RenderableType:
        from rich.text import Text

        seconds = time.monotonic() - self.started_at
        lines = [*self._live(), "", f"[dim]  {seconds:4.1f} s, of about 12 s[/]"]
        return Text("\n").join(Text.from_markup(line, emoji=False) for line in lines)
