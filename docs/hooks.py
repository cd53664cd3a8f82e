"""Bring the files that stand outside docs/ into the site: README, CONTRIBUTING, CHANGELOG, licence and pictures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
RESULTS = "benchmarks/results/"  # its pictures are results/NAME of the site
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
TEXTS = ("LICENSE", "NOTICE", "CITATION.cff")
LINK = re.compile(r"(?<=\]\()(?P<target>[^)#:\s]+)(?=[)#])")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and pictures to the files of the site."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    for name in TEXTS:
        files.append(File.generated(config, f"{name}.txt", content=(ROOT / name).read_text()))
    for picture in sorted((ROOT / RESULTS).glob("*.png")):
        files.append(File.generated(config, f"results/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point the links of a page, which are right in the repository, to their places in the site."""
    moved = page.file.src_uri in PAGES.values()
    return LINK.sub(lambda link: place_of(link["target"], moved), markdown)


def place_of(target: str, at_root: bool) -> str:
    """Return the place in the site of a link's target.

    Args:
        target: relative to docs/, or to the repository's root.
        at_root: whether it is relative to the root.
    """
    path = target if at_root else target.removeprefix("../") if target.startswith("../") else f"docs/{target}"
    if path in PAGES:
        return PAGES[path]
    if path in TEXTS:
        return f"{path}.txt"
    if path.startswith(RESULTS):
        return "results/" + path.removeprefix(RESULTS)
    return path.removeprefix("docs/") if path.startswith("docs/") else target
