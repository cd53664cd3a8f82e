"""Draw a figure of matches: each query, and the images of the gallery that are most similar to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from gcl_fast.atomic import write_target
from gcl_fast.data.broken_images import UNREADABLE
from gcl_fast.data.pillow_decoder import open_rgb
from gcl_fast.errors import UserError
from gcl_fast.gallery.index import Index, Match

CROP = (96, 160)  # pixels of the box that a crop is fitted into
GAP, LABEL, EDGE = 8, 30, 12  # pixels between crops, below them, around all
LINE = 16  # characters of a name
MOST = 4000  # images of a figure: 260 MB of pixels


def match_figure(queries: Sequence[Path], matches: Sequence[Sequence[Match]], index: Index, path: Path) -> None:
    """Write a PNG with a line for each query: the query, then its matches with cosine, camera and name.

    Args:
        queries: the image files.
        matches: those of each query, best first.
        index: of the gallery.
        path: of the PNG.

    Raises:
        UserError: there are more than `MOST` images, one of them is gone or does not decode (any more), or `path`
            cannot be written.
    """
    columns = 1 + max(map(len, matches), default=0)
    if (images := len(queries) * columns) > MOST:
        raise UserError(f"--image: a figure of {images:,} images would hold more than {MOST:,}; take fewer queries")
    wide, high = CROP[0] + GAP, CROP[1] + LABEL + GAP
    sheet = Image.new("RGB", (2 * EDGE + columns * wide + GAP, 2 * EDGE + len(queries) * high), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for line, (query, best) in enumerate(zip(queries, matches)):
        top = EDGE + line * high
        cells = [(query, "query", query.name)]
        for match in best:
            camera = f"  camera {match.camera}" if match.camera else ""
            cells.append((index.path(match.row), f"{match.cosine:.3f}{camera}", match.name))
        for column, (file, text, name) in enumerate(cells):
            left = EDGE + column * wide + (GAP if column else 0)
            sheet.paste(_fitted(file), (left, top))
            draw.text((left, top + CROP[1] + 3), text, "black", font)
            draw.text((left, top + CROP[1] + 16), _short(name), "gray", font)
        draw.line([(EDGE + wide, top), (EDGE + wide, top + CROP[1])], "silver", 1)
    write_target(path, lambda file: sheet.save(file, format="PNG"))


def _fitted(file: Path) -> Image.Image:
    """Return an image in the middle of a box of `CROP`."""
    try:
        image = open_rgb(file)
    except UNREADABLE as error:
        raise UserError(f"--image: {file} does not decode ({error})") from error
    return ImageOps.pad(image, CROP, color="whitesmoke")


def _short(name: str) -> str:
    """Return both ends of a name, in the characters that Pillow's own font has."""
    plain = name.encode("ascii", "replace").decode()
    return plain if len(plain) <= LINE else f"{plain[: LINE // 2]}..{plain[3 - LINE // 2 :]}"
