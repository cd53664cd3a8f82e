"""Make the pages of the site that docs/ does not hold.

These are README, CONTRIBUTING, CHANGELOG, licence and pictures, and a page for the public calls of each room.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "gcl_fast"
RESULTS = "benchmarks/results/"  # its pictures are results/NAME of the site
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
TEXTS = ("LICENSE", "NOTICE", "CITATION.cff")
LINK = re.compile(r"(?<=\]\()(?P<target>[^)#:\s]+)(?=[)#])")


def rooms() -> dict[str, list[str]]:
    """Return the public calls, those in `__all__`, of each room or module of the package that has any."""
    calls = {}
    for path in sorted([*PACKAGE.glob("*/__init__.py"), *PACKAGE.glob("[!_]*.py")]):
        name = path.parent.name if path.stem == "__init__" else path.stem
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                calls[name] = ast.literal_eval(node.value)
    return calls


def page_of(room: str, calls: list[str]) -> str:
    """Return the page of a room: its docstring, then each of its public calls."""
    lines = [f"# gcl_fast.{room}", "", f"::: gcl_fast.{room}", "    options: {members: false}"]
    for call in calls:
        in_own_file = (PACKAGE / room / f"{call}.py").is_file()  # which hides the call of its name from griffe
        lines += ["", f"::: gcl_fast.{room}.{call}" + (f".{call}" if in_own_file else "")]
        lines += ["    options: {show_root_heading: true, show_root_toc_entry: true}"]
    return "\n".join(lines) + "\n"


def on_config(config: Any) -> Any:
    """Add a page for each room to the navigation."""
    config.nav.append({"Public calls": [{room: f"api/{room}.md"} for room in rooms()]})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and pictures to the files of the site."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    for room, calls in rooms().items():
        files.append(File.generated(config, f"api/{room}.md", content=page_of(room, calls)))
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
