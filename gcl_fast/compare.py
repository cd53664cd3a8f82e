"""Compare finished runs: gcl-fast compare runs/A runs/B

It prints each stage's metrics, the settings that differ, intervals over seeds, and mAP by dataset.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gcl_fast.arguments import Parser
from gcl_fast.console import printable
from gcl_fast.entry import entry, in_one_line

FORMATS = ("table", "markdown", "html")
SUFFIXES = {".md": "markdown", ".html": "html", ".htm": "html"}


def parser() -> Parser:
    """Return the parser of the flags."""
    parser = Parser("gcl-fast compare", str(__doc__))
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of two runs or more")
    parser.add_argument("--format", choices=FORMATS, help="default: by the suffix of --out, else table")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write to a file instead of printing")
    parser.add_argument("--stages", nargs="+", action="extend", help="compare these stages alone (default: all)")
    return parser


@entry
def main(arguments: list[str] | None) -> int:
    """Print or write the comparison, and return the exit status."""
    options = parser().parse_args(arguments)
    with in_one_line():
        from gcl_fast.atomic import check_target, write_text
        from gcl_fast.reports.comparison import compare
        from gcl_fast.reports.tables import as_html, as_markdown, as_text
        from gcl_fast.run.run_files import read_run

    if options.out is not None:
        check_target(options.out)
    runs = [read_run(path) for path in options.runs]
    tables = compare(runs, options.stages)
    form = options.format or (SUFFIXES.get(options.out.suffix.lower(), "table") if options.out else "table")
    title = f"Comparison of {len(runs)} runs"
    text = {"table": as_text, "markdown": as_markdown}[form](tables) if form != "html" else as_html(title, tables)
    if options.out is None:
        print(printable(text))
    else:
        write_text(options.out, text.rstrip() + "\n")
        print(f"{options.out}: {title.lower()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
