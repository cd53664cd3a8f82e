"""Decode image files by Pillow in threads of the CPU, where DALI and torchvision's libjpeg are missing."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gcl_fast.data.broken_images import FORMATS, refuse_special
from gcl_fast.data.resize import resize

PREFETCH = 2  # batches that are decoded while the caller works on one


def decode(file: Path | BinaryIO) -> Tensor:
    """Decode one image file by Pillow to (h, w, 3) uint8; raise one of broken_images.UNREADABLE if it is broken."""
    if isinstance(file, Path):
        refuse_special(file)
    with Image.open(file, formats=FORMATS) as image:
        return rgb(image)


def open_rgb(file: Path | BinaryIO) -> Image.Image:
    """Decode one image file, as `decode` does, to an RGB image of Pillow."""
    return Image.fromarray(decode(file).numpy())


def rgb(image: Image.Image) -> Tensor:
    """Return an image of any mode as (h, w, 3) uint8."""
    return torch.from_numpy(np.array(eight_bits(image).convert("RGB")))


def eight_bits(image: Image.Image) -> Image.Image:
    """Return an image of more than 8 bits per channel with 8; Pillow would clamp its values to 255."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    pixels = np.asarray(image)
    if image.mode in ("I", "F") and pixels.max(initial=0) <= 255:
        return Image.fromarray(pixels.clip(0).astype(np.uint8))
    return Image.fromarray((pixels.astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))


class PillowDecoder:
    """Decodes batches of `paths` to uint8 (B, H, W, 3) on `device`.

    Each thread decodes and resizes a part of a batch. Subclasses replace `_decode`.
    """

    engine = "pillow"

    def __init__(self, paths: Sequence[Path], size: tuple[int, int], device: torch.device, threads: int) -> None:
        self._paths, self._size, self._device, self._threads = list(paths), size, device, threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="gcl_fast-decode")

    def replace(self, position: int, path: Path) -> None:
        """Read `path` for the crop at `position` from now on."""
        self._paths[position] = path

    def batches(self, plan: Sequence[np.ndarray]) -> Iterator[Tensor]:
        """Yield one tensor for each array of positions in `plan`.

        Raises:
            OSError: or another of broken_images.UNREADABLE, if a file does not decode.
        """
        handles: deque[Any] = deque()
        for step in range(len(plan)):
            while len(handles) <= PREFETCH and step + len(handles) < len(plan):
                handles.append(self._begin(plan[step + len(handles)]))
            yield self._finish(handles.popleft())

    def _begin(self, positions: np.ndarray) -> Any:
        """Start to decode a batch and return what `_finish` needs for it."""
        return self._split(self._part, positions)

    def _finish(self, handle: Any) -> Tensor:
        """Wait for a batch and return it on the device."""
        images = torch.cat([part.result() for part in handle])
        return images.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else images

    def _split(self, work: Any, positions: np.ndarray) -> list[Future[Any]]:
        """Call `work` with a part of `positions` on every thread."""
        parts = np.array_split(positions, min(self._threads, len(positions)))
        return [self._pool.submit(work, part) for part in parts]

    def _part(self, positions: np.ndarray) -> Tensor:
        """Decode and resize a part of a batch: (positions, H, W, 3) uint8 on the CPU."""
        return resize([self._decode(position) for position in positions], self._size)

    def _decode(self, position: int) -> Tensor:
        """Return the crop at `position`, (h, w, 3) uint8."""
        return decode(self._paths[position])
