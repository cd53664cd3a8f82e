"""Batches of crops on the training device: TrainLoader follows epoch plans, ExtractLoader visits every crop once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from gcl_fast.data.augment import Augmentation, Draws, draw, no_change, sample
from gcl_fast.data.cache import CropCache, choose_cache
from gcl_fast.data.files import PictureFiles
from gcl_fast.data.records import Records
from gcl_fast.random_streams import Stream, numpy_generator

FILL_BATCH = 64  # crops decoded at once when a cache is filled

Batch = tuple[torch.Tensor, torch.Tensor]


class TrainLoader:
    """Training batches of `records`, in the order of a plan.

    size: (height, width). augmentation: None for plain crops. cache: None, "host", "device" or "auto" (see
    choose_cache); it is filled when the first batch is asked for. threads: of the decoder. seed: of the augmentation,
    which is a pure function of (seed, epoch, step, place in the step's batch). rank, world_size: the plan is this
    slice of every step's global batch; it is changed as one process would change it.

    engine: what decodes (see PictureFiles). cache: where decoded crops are kept, or None. notice: one line on both.
    A file that breaks during the run is replaced by a blank crop, with a warning; it never ends an epoch.
    """

    def __init__(
        self,
        records: Records,
        size: tuple[int, int],
        device: torch.device | str = "cpu",
        *,
        augmentation: Augmentation | None = None,
        cache: str | None = None,
        threads: int = 2,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._device, self._augmentation, self._seed = torch.device(device), augmentation, seed
        self._rank, self._world_size = rank, world_size
        self._shape = (len(records), *size, 3)
        self.cache, why = choose_cache(cache, self._shape, self._device)
        self._files = PictureFiles(records.paths, size, self._device, threads)
        self._filled: CropCache | None = None
        self.engine = self._files.engine
        self.notice = f"{self._files.note}, cache {why}"

    def epoch(self, plan: torch.Tensor, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches of steps `start` to the end of `plan` (steps, batch), on the device.

        Yields image (B, 3, H, W) float32, ImageNet-normalized, channels_last, and index (B,) int64 into the records.
        Starting in mid-epoch yields the very batches that the whole epoch would have yielded from there on.
        """
        steps = list(plan[start:].numpy())
        for step, (positions, (crops, where)) in enumerate(zip(steps, self._crops(steps)), start):
            image = sample(crops, where, self._draws(positions, epoch, step).to(crops.device))
            yield image, torch.from_numpy(positions).to(self._device, non_blocking=True)

    def _crops(self, steps: list[np.ndarray]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """For each step, crops on the device and where among them the batch is."""
        if self.cache is None:
            return ((images, torch.arange(len(images), device=self._device)) for images in self._files.batches(steps))
        if self._filled is None:
            decoded = self._files.batches(_chunks(np.arange(self._shape[0]), FILL_BATCH))
            self._filled = CropCache(decoded, self._shape, self.cache, self._device)
        return map(self._filled.find, steps)

    def _draws(self, positions: np.ndarray, epoch: int, step: int) -> Draws:
        if self._augmentation is None:
            return no_change(len(positions))
        generator = numpy_generator(self._seed, epoch, step, Stream.AUGMENTATION)
        drawn = draw(self._augmentation, self._world_size * len(positions), generator)
        first = self._rank * len(positions)
        return Draws(*(value[first : first + len(positions)] for value in drawn))


class ExtractLoader:
    """Every crop of `records` exactly once over all ranks, in order, unchanged but for size and normalization.

    Rank r of W visits r, r + W, ...; the last batch may be smaller. Yields (image, index) as TrainLoader does.
    """

    def __init__(
        self,
        records: Records,
        size: tuple[int, int],
        device: torch.device | str = "cpu",
        batch_size: int = 64,
        rank: int = 0,
        world_size: int = 1,
        threads: int = 2,
    ) -> None:
        self._device = torch.device(device)
        self._plan = _chunks(np.arange(rank, len(records), world_size), batch_size)
        self._files = PictureFiles(records.paths, size, self._device, threads)
        self.engine = self._files.engine

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[Batch]:
        for positions, images in zip(self._plan, self._files.batches(self._plan)):
            where = torch.arange(len(images), device=self._device)
            image = sample(images, where, no_change(len(images)).to(self._device))
            yield image, torch.from_numpy(positions).to(self._device, non_blocking=True)


def _chunks(positions: np.ndarray, batch_size: int) -> list[np.ndarray]:
    return [positions[i : i + batch_size] for i in range(0, len(positions), batch_size)]
