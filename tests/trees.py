"""Trees of empty files for the tests of readers, which open no image."""

from collections.abc import Iterable, Mapping
from pathlib import Path


def make_tree(root: Path, tree: Mapping[str, Iterable[str]]) -> Path:
    """Make empty files below `root`, {folder: names}, and return `root`."""
    for folder, names in tree.items():
        for name in names:
            (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (root / folder / name).touch()
    return root
