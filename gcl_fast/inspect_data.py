"""Show what a reader sees in a dataset before hours are spent on it: gcl-fast data DIR

It names the layout, and counts splits, people, cameras, image sizes, files that are passed over, broken images and
equal files. Nothing is written but the sheet, and the verdicts on images, which later runs use.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcl_fast.arguments import Parser
from gcl_fast.console import printable
from gcl_fast.entry import entry, in_one_line
from gcl_fast.errors import UserError
from gcl_fast.settings import DATASETS

if TYPE_CHECKING:
    from gcl_fast.data import ReIDDataset

SHOWN = 3  # broken images that the text names


def parser() -> argparse.ArgumentParser:
    """Return the parser of the flags."""
    parser = Parser("gcl-fast data", str(__doc__))
    add = parser.add_argument
    add("root", type=Path, metavar="DIR", help="folder of the dataset, or a manifest")
    add("--dataset", choices=DATASETS, metavar="NAME", help=f"default: the layout it has; {', '.join(DATASETS)}")
    add("--sheet", type=Path, metavar="FILE", help="write a PNG with crops of some people of each split")
    add("--json", action="store_true", help="one JSON object instead of text")
    return parser


@entry
def main(arguments: list[str] | None) -> int:
    """Print what is in a dataset, and return the exit status."""
    options = parser().parse_args(arguments)
    with in_one_line():
        from gcl_fast.atomic import check_target
        from gcl_fast.data import open_dataset
        from gcl_fast.data.contact_sheet import contact_sheet
        from gcl_fast.data.layouts.detection import detect
        from gcl_fast.data.layouts.image_names import IMAGE_SUFFIXES

    if options.sheet is not None:
        if options.sheet.suffix.lower() != ".png":
            raise UserError(f"--sheet {options.sheet}: expected a name that ends in .png")
        check_target(options.sheet)
    root = options.root.expanduser().resolve()
    if not root.exists():
        raise UserError(f"there is no folder and no manifest {options.root}")
    name = options.dataset or detect(root)
    if name is None:
        raise UserError(f"{options.root} holds no images of {', '.join(IMAGE_SUFFIXES)}, and is no manifest")
    dataset = open_dataset(name, root)
    facts = {"dataset": name, "detected": options.dataset is None, **survey(dataset)}
    if options.sheet is not None:
        facts["sheet"] = {"file": str(options.sheet), "crops": contact_sheet(dataset, options.sheet)}
    print(json.dumps(facts, indent=2) if options.json else printable(as_text(facts)))
    return 0


def survey(dataset: ReIDDataset) -> dict[str, Any]:
    """Return what is in a dataset, as JSON holds it."""
    from dataclasses import asdict

    from gcl_fast.data import find_broken
    from gcl_fast.data.survey import SPLITS, equal_files, image_sizes, survey_split, unmatched_queries

    threads = os.cpu_count() or 1
    records = {split: getattr(dataset, split) for split in SPLITS}
    paths = [*dict.fromkeys(path for part in records.values() for path in part.paths)]
    equal = equal_files(dataset, threads)
    broken = {
        split: {part.names[place]: why for place, why in find_broken(part, threads).items()}
        for split, part in records.items()
    }
    return {
        "root": str(dataset.root),
        "splits": {split: asdict(survey_split(part)) for split, part in records.items()},
        "queries_without_match": unmatched_queries(dataset.query, dataset.gallery),
        "sizes": _sizes(image_sizes(paths, threads)),
        "passed_over": dict(dataset.passed_over),
        "notes": list(dataset.notes),
        "equal_files": {
            "within": equal.within,
            "across": equal.across,
            "examples": {
                place: [_short(path, dataset.root) for path in pair] for place, pair in equal.examples.items()
            },
        },
        "broken": broken,
    }


def _short(path: Path, root: Path) -> str:
    """Return a path relative to `root` where it is below."""
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _sizes(sizes: list[tuple[int, int]]) -> dict[str, Any]:
    """Return the smallest, the median and the largest width and height in pixels."""
    if not sizes:
        return {}
    (widths, heights), middle = (sorted(values) for values in zip(*sizes)), len(sizes) // 2
    return {
        "smallest": [widths[0], heights[0]],
        "median": [widths[middle], heights[middle]],
        "largest": [widths[-1], heights[-1]],
        "different": len(set(sizes)),
    }


def as_text(facts: dict[str, Any]) -> str:
    """Return what `survey` found as text: a table of the splits, then lines, warnings last."""
    from gcl_fast.table import text_table

    how = "recognized by its layout" if facts["detected"] else "as named"
    rows = [
        [
            "split",
            "crops",
            "people",
            "least / median / most crops a person",
            "cameras",
            "distractors",
            "unlabelled",
            "tracklets",
        ]
    ]
    for split, part in facts["splits"].items():
        a_person = "{} / {:g} / {}".format(*part["crops_per_person"]) if part["crops_per_person"] else "-"
        cameras = len(part["cameras"].keys() - {0})
        numbers = (part["people"], cameras, part["distractors"], part["unlabelled"], part["tracklets"])
        people, *others = (f"{number:,}" for number in numbers)
        rows.append([split, f"{part['crops']:,}", people, a_person, *others])
    shown = [column for column in zip(*rows) if set(column[1:]) != {"0"}]
    lines = [f"{facts['dataset']}, {how}, in {facts['root']}", "", text_table([*zip(*shown)]), ""]
    if sizes := facts["sizes"]:
        by = lambda size: f"{size[0]}x{size[1]}"
        spread = f"{by(sizes['smallest'])} to {by(sizes['largest'])}, median {by(sizes['median'])}"
        lines.append(f"image sizes, width x height: {by(sizes['median']) if sizes['different'] == 1 else spread}")
    lines += facts["notes"]
    if "sheet" in facts:
        lines.append(f"{facts['sheet']['file']}: {facts['sheet']['crops']} crops")
    lines += [f"warning: {warning}" for warning in _warnings(facts)]
    return "\n".join(lines)


def _warnings(facts: dict[str, Any]) -> list[str]:
    """Return a sentence for each thing that may spoil a training or an evaluation."""
    warnings = []
    for split, reasons in facts["broken"].items():
        if reasons:
            first = "; ".join(f"{name}: {why}" for name, why in list(reasons.items())[:SHOWN])
            more = "; ..." if len(reasons) > SHOWN else ""
            warnings.append(f"images of {split} that do not decode: {len(reasons):,} ({first}{more})")
    if count := facts["queries_without_match"]:
        warnings.append(f"queries that do not count, since no other camera of the gallery has their person: {count:,}")
    equal = facts["equal_files"]
    for split, count in equal["within"].items():
        if count:
            one, other = equal["examples"][split]
            warnings.append(f"files of {split} with the bytes of another one: {count:,} ({one} and {other})")
    for pair, count in equal["across"].items():
        if count:
            earlier, later = pair.split(", ")
            one, other = equal["examples"][pair]
            leak = ", so that training sees test images" if earlier == "train" else ""
            warnings.append(f"files of {later} with the bytes of one in {earlier}{leak}: {count:,} ({one} and {other})")
    return warnings


if __name__ == "__main__":
    sys.exit(main())
