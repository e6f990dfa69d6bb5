"""Columns of tables, and figures with their spread."""

from __future__ import annotations

from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

__all__ = ["new_table", "with_spread"]


def new_table(*columns: str) -> Table:
    """Return a table; a title that starts with a tab is that of a column of numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        justify: JustifyMethod = "right" if column.startswith("\t") else "left"
        table.add_column(Text(column.strip(), justify=justify), justify=justify, vertical="bottom")
    return table


def with_spread(figure: str, spread: float) -> str:
    """Return a figure with its spread: `1,234 ±5%`."""
    return f"{figure} [dim]±{spread * 100:.0f}%[/]"
