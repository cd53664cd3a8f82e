"""Compare an exported file with PyTorch in float32, row by row."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from gcl_fast.errors import UserError

BATCHES = (1, 5, 64)  # numbers of images that are compared
TOLERANCE = 1e-5  # of every value of a row


def check_agreement(
    run: Callable[[Tensor], Tensor], network: Callable[[Tensor], Tensor], size: tuple[int, int], file: object
) -> float:
    """Compare the rows of a file with those of the network that it was made of, on batches of each size in BATCHES.

    Args:
        run: the file's call, from images (N, H, W, 3) uint8 to rows (N, D).
        network: the call of the network in PyTorch.
        size: (H, W) of the images.
        file: its name, for the message.

    Returns:
        The largest difference of two values.

    Raises:
        UserError: a difference is above TOLERANCE, or the file gives rows of another shape or dtype.
    """
    largest = 0.0
    for count in BATCHES:
        images = sample_images(count, size)
        with torch.no_grad():
            rows, expected = run(images), network(images)
        if rows.shape != expected.shape or rows.dtype != expected.dtype:
            raise UserError(
                f"{file} was not written: for {count} images it gives {tuple(rows.shape)} {rows.dtype}, and PyTorch"
                f" {tuple(expected.shape)} {expected.dtype}; another version of torch or onnxscript may export it"
            )
        difference = float((rows - expected).abs().max())
        if not difference <= TOLERANCE:  # NaN as well
            raise UserError(
                f"{file} was not written: for {count} images its rows differ from PyTorch's in float32 by"
                f" {difference:.1e}, more than {TOLERANCE:g}; another version of torch or onnxscript may export it"
            )
        largest = max(largest, difference)
    return largest


def sample_images(count: int, size: tuple[int, int]) -> Tensor:
    """Make images of smooth patches in random colours, (count, H, W, 3) uint8, the same ones in every call."""
    generator = torch.Generator().manual_seed(count)
    patches = torch.rand(count, 3, 8, 4, generator=generator)
    return (255 * F.interpolate(patches, size, mode="bilinear")).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
