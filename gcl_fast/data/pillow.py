"""Crops from picture files through Pillow and a thread pool, where there is no DALI (macOS, aarch64)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gcl_fast.data.pictures import FORMATS

PREFETCH = 2  # batches under way while the caller works on one


class PillowSource:
    """Decoded batches of `paths`: uint8 (B, H, W, 3) on `device`. Twin of DaliSource."""

    engine = "pillow"

    def __init__(self, paths: Sequence[Path], size: tuple[int, int], device: torch.device, threads: int) -> None:
        self._paths, self._size, self._device = list(paths), size, device
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="gcl_fast-decode")

    def replace(self, position: int, path: Path) -> None:
        """From now on, read `path` for the crop at `position`."""
        self._paths[position] = path

    def batches(self, plan: Sequence[np.ndarray]) -> Iterator[torch.Tensor]:
        """One tensor per array of positions in `plan`. Raises one of pictures.UNREADABLE at a file that does not
        decode."""
        under_way: deque[list[Future[np.ndarray]]] = deque()
        for step in range(len(plan)):
            while len(under_way) <= PREFETCH and step + len(under_way) < len(plan):
                under_way.append([self._pool.submit(self._decode, self._paths[i]) for i in plan[step + len(under_way)]])
            images = np.stack([crop.result() for crop in under_way.popleft()])
            yield torch.from_numpy(images).to(self._device)

    def _decode(self, path: Path) -> np.ndarray:
        height, width = self._size
        with Image.open(path, formats=FORMATS) as opened:
            image: Image.Image = opened
            if image.mode.startswith("I;16"):  # grey, of which Pillow would make white wherever it is above 255
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            return np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC))
