"""Columns of text, aligned as Go's tabwriter aligns Docker's tables."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NARROWEST = 10
PADDING = 3


def simple(rows: Iterable[Sequence[str]]) -> str:
    """Rows of equally many cells, one line each."""
    all_rows = list(rows)
    if not all_rows:
        return ""
    last = len(all_rows[0]) - 1
    widths = [
        max(NARROWEST, max(len(row[column]) for row in all_rows) + PADDING)
        for column in range(last)
    ]
    lines = [
        "".join([cell.ljust(width) for cell, width in zip(row, widths, strict=False)]) + row[last]
        for row in all_rows
    ]
    return "\n".join(lines) + "\n"


def aligned(
    text: str, narrowest: int = NARROWEST, padding: int = PADDING, *, fill: str = " "
) -> str:
    """Lines with tab-ended cells; a column is what consecutive lines share."""
    lines = [line.split("\t") for line in text.split("\n")]
    widths: list[list[int]] = [[0] * (len(cells) - 1) for cells in lines]
    deepest = max((len(cells) - 1 for cells in lines), default=0)
    for column in range(deepest):
        start = 0
        while start < len(lines):
            if len(lines[start]) - 1 <= column:
                start += 1
                continue
            end = start
            while end < len(lines) and len(lines[end]) - 1 > column:
                end += 1
            width = max(len(lines[row][column]) for row in range(start, end)) + padding
            width = max(width, narrowest)
            for row in range(start, end):
                widths[row][column] = width
            start = end
    return "\n".join(
        "".join(
            [cell.ljust(width, fill) for cell, width in zip(cells, row, strict=False)]
            + cells[len(row) :]
        )
        for cells, row in zip(lines, widths, strict=True)
    )
