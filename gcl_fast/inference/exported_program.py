"""Export the encoder as a graph of torch's operations, and write it as a .pt2 file that needs torch and no gcl_fast.

This file and onnx_file.py have the same functions: `export.py` takes one of them by the flag --to.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from gcl_fast.inference.pixel_encoder import PixelEncoder
from gcl_fast.versions import EXPORT_WARNINGS

SUFFIX = ".pt2"
CONTAINER = f"exported program of torch {torch.__version__}"


def check_packages() -> None:
    """Do nothing: a .pt2 file needs torch alone."""


def export_program(network: PixelEncoder, size: tuple[int, int]) -> ExportedProgram:
    """Return the graph of `network` for images (N, H, W, 3) uint8 of one size (H, W), with any N >= 1."""
    images = torch.zeros(2, *size, 3, dtype=torch.uint8)  # a batch of 1 would count as a constant
    return torch.export.export(network, (images,), dynamic_shapes={"images": {0: Dim("batch", min=1)}})


def write(program: ExportedProgram, file: BinaryIO, metadata: str) -> None:
    """Write a .pt2 file, with `metadata` as its extra file gcl_fast.json."""
    content = io.BytesIO()  # torch ends the process where a write to a file fails
    torch.export.save(program, content, extra_files={"gcl_fast.json": metadata})
    file.write(content.getvalue())


def open_file(path: Path) -> Callable[[Tensor], Tensor]:
    """Return a call of the .pt2 file at `path`, from images (N, H, W, 3) uint8 to rows (N, D)."""
    with path.open("rb") as file, warnings.catch_warnings():  # torch complains of a name without .pt2
        warnings.filterwarnings("ignore", EXPORT_WARNINGS)
        return torch.export.load(file).module()


def snippet(name: str) -> str:
    """Return lines of Python that turn `images` into `rows` by the .pt2 file called `name`."""
    return f"""\
import torch

network = torch.export.load({json.dumps(name)}).module()
with torch.no_grad():
    rows = network(torch.from_numpy(images)).numpy()"""
