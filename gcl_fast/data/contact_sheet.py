"""Draw some crops of each split on one sheet, a line for each person, so that wrong labels are seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from gcl_fast.atomic import write_target
from gcl_fast.data.broken_images import UNREADABLE
from gcl_fast.data.pillow_decoder import open_rgb
from gcl_fast.data.records import Records, ReIDDataset
from gcl_fast.data.survey import SPLITS

CROP = (64, 128)  # pixels of the box that a crop is fitted into: width, height
GAP, TITLE, LABEL, MARGIN = 4, 24, 14, 70  # pixels between crops, above a split, below a crop, left of a line
LINES, COLUMNS = 6, 10  # people of a split, crops of a person


def contact_sheet(dataset: ReIDDataset, path: Path) -> int:
    """Write a PNG with crops of people spread evenly over each split, and return the number of crops.

    A line shows crops of one person, spread over their cameras. Crops without identity fill lines in record order.

    Args:
        dataset: as `open_dataset` returns it.
        path: of the PNG.

    Raises:
        UserError: `path` cannot be written.
    """
    parts = [(split, _lines(getattr(dataset, split))) for split in SPLITS]
    parts = [(split, lines) for split, lines in parts if lines]
    line_height = CROP[1] + LABEL + GAP
    height = sum(TITLE + len(lines) * line_height for _, lines in parts)
    sheet = Image.new("RGB", (MARGIN + COLUMNS * (CROP[0] + GAP), height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    top = crops = 0
    for split, lines in parts:
        records: Records = getattr(dataset, split)
        draw.text((GAP, top + 6), f"{split}: {len(records):,} crops", "black", font)
        top += TITLE
        for label, places in lines:
            draw.text((GAP, top + CROP[1] // 2), label, "black", font)
            for column, place in enumerate(places):
                left = MARGIN + column * (CROP[0] + GAP)
                sheet.paste(_fitted(records.paths[place]), (left, top))
                camera = int(records.camera[place])
                draw.text((left, top + CROP[1] + 1), f"camera {camera}" if camera else "", "gray", font)
            top += line_height
            crops += len(places)
    write_target(path, lambda file: sheet.save(file, format="PNG"))
    return crops


def _lines(records: Records) -> list[tuple[str, list[int]]]:
    """Return a label and positions in `records` for each line."""
    people = np.unique(records.identity[records.identity > 0])
    if not len(people):
        places = _spread(len(records), LINES * COLUMNS)
        return [("", places[begin : begin + COLUMNS]) for begin in range(0, len(places), COLUMNS)]
    lines = []
    for person in people[_spread(len(people), LINES)].tolist():
        crops = np.flatnonzero(records.identity == person)
        crops = crops[np.argsort(records.camera[crops], kind="stable")]
        lines.append((f"person {person}", crops[_spread(len(crops), COLUMNS)].tolist()))
    return lines


def _spread(count: int, most: int) -> list[int]:
    """Return at most `most` positions that are spread evenly over `count`."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()


def _fitted(path: Path) -> Image.Image:
    """Return an image in the middle of a box of `CROP`; red where it does not decode."""
    try:
        image = open_rgb(path)
    except UNREADABLE:
        return Image.new("RGB", CROP, "firebrick")
    return ImageOps.pad(image, CROP, color="whitesmoke")
