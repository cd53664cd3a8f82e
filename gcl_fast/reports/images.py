"""Make small JPEG images that a page holds itself."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from PIL import Image

from gcl_fast.data.broken_images import UNREADABLE
from gcl_fast.data.pillow_decoder import open_rgb

SIZE = (64, 128)  # (width, height) of a thumbnail
QUALITY = 78
WIDEST = 1000  # pixels of the figure of views


def data_uri(image: Image.Image, quality: int = QUALITY) -> str:
    """Return an image as a JPEG in a data URI."""
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def thumbnail(path: Path) -> str:
    """Return a crop as a small JPEG in a data URI, stretched to SIZE; black where the image does not decode."""
    try:
        image = open_rgb(path)
    except UNREADABLE:
        image = Image.new("RGB", SIZE)
    return data_uri(image.resize(SIZE, Image.Resampling.BILINEAR))


def view_image(path: Path, origin: str) -> dict[str, Any]:
    """Return the section of novel views, whose figure a PNG holds.

    Args:
        path: of the PNG.
        origin: a sentence for the reader on where the figure comes from.
    """
    image = open_rgb(path)
    if image.width > WIDEST:
        image = image.resize((WIDEST, round(image.height * WIDEST / image.width)), Image.Resampling.LANCZOS)
    return {"image": data_uri(image), "width": image.width, "height": image.height, "origin": origin}
