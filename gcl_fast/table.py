"""Write tables as text for a terminal, and the cells of tables in Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

COUNTS = (  # metrics of a stage that are no fractions
    "queries",
    "queries_left_out",
    "query_broken",
    "gallery_broken",
    "query_tracklets",
    "gallery_tracklets",
    "seconds",
    "steps",
    "skipped",
)


def is_fraction(metric: str) -> bool:
    """Return whether a metric is a fraction, which tables show in per cent.

    Example:
        >>> is_fraction("mAP"), is_fraction("seconds"), is_fraction("frechet")
        (True, False, False)
    """
    return metric not in COUNTS and not metric.startswith("frechet")


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


def markdown_text(text: str) -> str:
    """Return a text on one line that Markdown shows as it is, also in a cell of a table.

    Example:
        >>> print(markdown_text("a|b <i>c</i> rank_1 _d_"))
        a\\|b &lt;i&gt;c&lt;/i&gt; rank_1 \\_d\\_
    """
    # An underscore within a word is none of Markdown's marks
    plain = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*\[\]|~#]|(?<!\w)_|_(?!\w))", r"\\\1", plain)
