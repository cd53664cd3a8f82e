"""Crops from image files by threads of the CPU. Pillow decodes where DALI and torchvision's libjpeg are missing."""

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

from gcl_fast.data.pictures import FORMATS
from gcl_fast.data.resize import resize

PREFETCH = 2  # batches under way while the caller works on one


def decode(file: Path | BinaryIO) -> Tensor:
    """Decode one image file by Pillow: (h, w, 3) uint8. Raises one of pictures.UNREADABLE where it cannot."""
    with Image.open(file, formats=FORMATS) as opened:
        image: Image.Image = opened
        if image.mode.startswith("I;16"):  # grey, of which Pillow would make white wherever it is above 255
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        return torch.from_numpy(np.array(image.convert("RGB")))


class PillowSource:
    """Decode batches of `paths`: uint8 (B, H, W, 3) on `device`. Twin of DaliSource.

    Each thread decodes and resizes a part of a batch. A subclass may decode otherwise, by its own `_decode`.
    """

    engine = "pillow"

    def __init__(self, paths: Sequence[Path], size: tuple[int, int], device: torch.device, threads: int) -> None:
        self._paths, self._size, self._device, self._threads = list(paths), size, device, threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="gcl_fast-decode")

    def replace(self, position: int, path: Path) -> None:
        """From now on, read `path` for the crop at `position`."""
        self._paths[position] = path

    def batches(self, plan: Sequence[np.ndarray]) -> Iterator[Tensor]:
        """Yield one tensor per array of positions in `plan`. Raises one of pictures.UNREADABLE at a file that does not
        decode."""
        under_way: deque[Any] = deque()
        for step in range(len(plan)):
            while len(under_way) <= PREFETCH and step + len(under_way) < len(plan):
                under_way.append(self._begin(plan[step + len(under_way)]))
            yield self._finish(under_way.popleft())

    def _begin(self, positions: np.ndarray) -> Any:
        """Start to decode a batch and return what `_finish` needs for it."""
        return self._split(self._part, positions)

    def _finish(self, handle: Any) -> Tensor:
        images = torch.cat([part.result() for part in handle])
        return images.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else images

    def _split(self, work: Any, positions: np.ndarray) -> list[Future[Any]]:
        """Call `work` with a part of `positions` on every thread."""
        parts = np.array_split(positions, min(self._threads, len(positions)))
        return [self._pool.submit(work, part) for part in parts]

    def _part(self, positions: np.ndarray) -> Tensor:
        return resize([self._decode(position) for position in positions], self._size)

    def _decode(self, position: int) -> Tensor:
        """Return the crop at `position`, (h, w, 3) uint8."""
        return decode(self._paths[position])
