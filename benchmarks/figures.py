"""Write the figures of README.md and docs/ from the result files, so that a text cannot differ from a measurement.

    python benchmarks/figures.py           # refresh the marked places
    python benchmarks/figures.py --check   # exit 1 and name the places that differ from the files

A text marks a table with `<!-- figures: NAME -->` and `<!-- end -->` on lines of their own, and a single figure with
`<!-- figure: NAME -->3.1x<!-- end -->`. The names are those of `page_tables.TABLES` and `page_tables.FIGURES`. The
pictures in docs/images carry the text of what they show, which is compared in the same way.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from page_tables import FIGURES, TABLES
from page_tables.drawings import DRAWINGS, is_stale
from page_tables.rows import Files

ROOT = Path(__file__).parents[1]
DIFFERS = "differs from the result files; python benchmarks/figures.py refreshes it"
MARK = re.compile(
    r"(?P<open><!-- (?P<kind>figures?): (?P<name>[\w-]+) -->)(?P<text>.*?)(?P<end><!-- end -->)", re.DOTALL
)


def refreshed(text: str, files: Files, place: str) -> tuple[str, list[str]]:
    """Return `text` with every marked figure taken from `files`, and the names of the marks that had another text.

    Args:
        text: a Markdown page.
        files: the result files.
        place: name of the page, for messages.

    Raises:
        ValueError: a mark without an end, or a name that neither TABLES nor FIGURES has.
    """
    stale: list[str] = []

    def replacement(mark: re.Match[str]) -> str:
        name, inline = mark["name"], mark["kind"] == "figure"
        known = FIGURES if inline else TABLES
        if name not in known:
            raise ValueError(f"{place}: there is no {mark['kind']} {name!r}; there are {', '.join(sorted(known))}")
        figure = known[name](files)
        content = figure if inline else f"\n{figure}\n"
        if content != mark["text"]:
            stale.append(name)
        return f"{mark['open']}{content}{mark['end']}"

    result = MARK.sub(replacement, text)
    if unfinished := len(re.findall(r"<!-- figures?: ", text)) - len(MARK.findall(text)):
        raise ValueError(f"{place}: {unfinished} marks of figures have no <!-- end -->")
    return result, stale


def pages(root: Path) -> list[Path]:
    """Return README.md and every page of docs/ under `root`."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Refresh or check the pages under `root`. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a page differs")
    options = parser.parse_args(arguments)
    files, status = Files(root), 0
    for path in pages(root):
        text, place = path.read_text(), path.relative_to(root).as_posix()
        try:
            result, stale = refreshed(text, files, place)
        except (ValueError, FileNotFoundError) as error:
            print(f"benchmarks/figures.py: {error}", file=sys.stderr)
            return 1
        for name in stale:
            verb = (
                "differs from the result files; python benchmarks/figures.py refreshes it"
                if options.check
                else "refreshed"
            )
            print(f"{place}: {name} {verb}")
        if stale and options.check:
            status = 1
        elif stale:
            path.write_text(result)
    for name, (draw, _) in DRAWINGS.items():
        path = root / "docs" / "images" / f"{name}.png"
        if not is_stale(files, name, path):
            continue
        print(f"{path.relative_to(root).as_posix()} {DIFFERS if options.check else 'refreshed'}")
        if options.check:
            status = 1
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(files, path)
    return status


if __name__ == "__main__":
    sys.exit(main())
