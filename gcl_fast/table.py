"""Write tables as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(rows: Sequence[Sequence[str]], longest: int = 44) -> str:
    """Return `rows`, the header first, as aligned lines: the first column to the left, the others to the right.

    Args:
        rows: cells, as many in every row.
        longest: number of characters of the widest cell; longer ones end in "…".

    Example:
        >>> print(text_table([["stage", "mAP"], ["warmup", "72.1"], ["joint", "74.4"]]))
        stage    mAP
        warmup  72.1
        joint   74.4
    """
    cells = [[cell if len(cell) <= longest else cell[: longest - 1] + "…" for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]).rstrip()
        for row in cells
    )
