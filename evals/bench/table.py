"""The comparison as a table on the console."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from evals.bench.contenders import BASES
from evals.bench.results import Row, Spread

_COLUMNS = (
    "", "tokens/s", "x plain TRL", "x tuned TRL", "CPU s per 1,000 tokens", "peak memory", "training loss",
    "validation loss",
)  # fmt: skip


def render(rows: Sequence[Row], *, device: str) -> Table:
    """A table with a block of rows for each base.

    Args:
        rows: From :func:`evals.bench.results.summarize`.
        device: ``cpu`` or ``cuda``.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False,
                  caption="median of the rounds, lowest to highest in brackets", caption_justify="left")
    for column in _COLUMNS:
        table.add_column(column, justify="right" if column else "left")
    arm = None
    for row in rows:
        if row.contender.arm != arm:
            arm = row.contender.arm
            table.add_section()
            table.add_row(BASES[arm], *[""] * (len(_COLUMNS) - 1), style="bold")
        table.add_row(f"  {row.contender.title}", *_cells(row, device))
    return table


def _cells(row: Row, device: str) -> list[str]:
    memory = f"{row.peak_memory_bytes / 1e9:.2f} GB {'GPU' if device == 'cuda' else 'RAM'}"
    return [
        spread(row.tokens_per_second, 0),
        spread(row.versus_plain, 2),
        spread(row.versus_tuned, 2),
        spread(row.cpu_seconds_per_1000_tokens, 1),
        memory,
        f"{row.first_loss.median:.2f} → {row.last_loss.median:.2f}",
        spread(row.validation_loss, 3),
    ]


def spread(value: Spread | None, places: int) -> str:
    """``312 (290-330)``; the median alone of a single round, a dash where there is nothing."""
    if value is None:
        return "–"
    median, low, high = (f"{number:.{places}f}" for number in (value.median, value.low, value.high))
    return median if low == high else f"{median} ({low}-{high})"
