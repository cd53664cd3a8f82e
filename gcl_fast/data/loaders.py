"""Load batches of crops to the training device, by epoch plans (TrainLoader) or once each (ExtractLoader)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from gcl_fast.data.augment import Augmentation, Draws, draw_for, no_change
from gcl_fast.data.cache import CropCache, choose_cache
from gcl_fast.data.image_files import ImageFiles
from gcl_fast.data.records import Records
from gcl_fast.kernels.sample_crops import sample_crops

FILL_BATCH = 64  # crops that are decoded at a time to fill a cache

Batch = tuple[torch.Tensor, torch.Tensor]


class TrainLoader:
    """Loads training batches of `records` in the order of a plan.

    A file that breaks during the run gives a blank crop and a warning; it never ends an epoch.

    Args:
        records: the crops; plans hold positions in them.
        size: (H, W) of the images.
        device: where the batches go.
        augmentation: random changes of the crops, or None.
        cache: None, "host", "device" or "auto" (see `choose_cache`). The first batch fills it.
        threads: threads of the decoder.
        seed: seed of the augmentation, which depends on (seed, epoch, step, place in the step's batch) alone.
        rank: this process's number in 0..world_size-1. A plan is this rank's slice of every step's batch, and the
            augmentation is what one process would draw for that slice.
        world_size: number of processes.

    Attributes:
        engine: the decoder's name, see `ImageFiles`.
        cache: where decoded crops are kept ("host" or "device"), or None.
        notice: one line about both, for the run's header.

    Raises:
        UserError: `cache` is unknown, or names a memory that is too small.

    Example:
        >>> from PIL import Image
        >>> from gcl_fast.data import open_dataset, shuffled_plan
        >>> for i in range(4):
        ...     Image.new("RGB", (32, 64)).save(f"{i}.jpg")
        >>> loader = TrainLoader(open_dataset("folder", ".").train, (128, 64), augmentation=Augmentation())
        >>> for image, index in loader.epoch(shuffled_plan(4, 2, seed=0, epoch=0), epoch=0):
        ...     print(tuple(image.shape), tuple(index.shape))
        (2, 3, 128, 64) (2,)
        (2, 3, 128, 64) (2,)
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
        self._files = ImageFiles(records.paths, size, self._device, threads)
        self._cached_crops: CropCache | None = None
        self.engine = self._files.engine
        self.notice = f"{self._files.note}, cache {why}"

    def epoch(self, plan: torch.Tensor, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of `plan` from step `start` on.

        A start in mid-epoch yields the same batches as the whole epoch does from that step on.

        Args:
            plan: (steps, B) int64 positions in the records.
            epoch: number of the epoch, which decides the augmentation.
            start: first step.

        Yields:
            Image (B, 3, H, W) float32, ImageNet-normalized, in channels_last memory; and index (B,) int64 into the
            records. Both are on the device.
        """
        steps = list(plan[start:].numpy())
        for step, (positions, (crops, where)) in enumerate(zip(steps, self._crops(steps)), start):
            image = sample_crops(crops, where, *self._draws(positions, epoch, step).to(crops.device))
            yield image, torch.from_numpy(positions).to(self._device, non_blocking=True)

    def _crops(self, steps: list[np.ndarray]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield, for each step, a tensor of crops on the device and the rows of it that make the batch."""
        if self.cache is None:
            return ((images, torch.arange(len(images), device=self._device)) for images in self._files.batches(steps))
        if self._cached_crops is None:
            batches = self._files.batches(_chunks(np.arange(self._shape[0]), FILL_BATCH))
            self._cached_crops = CropCache(batches, self._shape, self.cache, self._device)
        return map(self._cached_crops.find, steps)

    def _draws(self, positions: np.ndarray, epoch: int, step: int) -> Draws:
        """Draw the augmentation of this rank's slice of a step."""
        if self._augmentation is None:
            return no_change(len(positions))
        return draw_for(self._augmentation, len(positions), self._seed, epoch, step, self._rank, self._world_size)


class ExtractLoader:
    """Loads every crop of `records` exactly once over all ranks, in order, resized and normalized.

    Rank r of W visits r, r + W, ...; the last batch may be smaller. Iteration yields (image, index) as
    `TrainLoader.epoch` does.

    Args:
        records: the crops.
        size: (H, W) of the images.
        device: where the batches go.
        batch_size: crops per batch.
        rank: this process's number in 0..world_size-1.
        world_size: number of processes.
        threads: threads of the decoder.

    Attributes:
        engine: the decoder's name, see `ImageFiles`.

    Example:
        >>> from PIL import Image
        >>> from gcl_fast.data import open_dataset
        >>> for i in range(3):
        ...     Image.new("RGB", (32, 64)).save(f"{i}.jpg")
        >>> loader = ExtractLoader(open_dataset("folder", ".").train, (128, 64), batch_size=2)
        >>> [index.tolist() for image, index in loader]
        [[0, 1], [2]]
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
        self._files = ImageFiles(records.paths, size, self._device, threads)
        self.engine = self._files.engine

    def __len__(self) -> int:
        return len(self._plan)

    @property
    def blanks(self) -> set[int]:
        """Return the positions of the crops that did not decode so far, whose images are blank."""
        return self._files.blanks

    def __iter__(self) -> Iterator[Batch]:
        for positions, images in zip(self._plan, self._files.batches(self._plan)):
            where = torch.arange(len(images), device=self._device)
            image = sample_crops(images, where, *no_change(len(images)).to(self._device))
            yield image, torch.from_numpy(positions).to(self._device, non_blocking=True)


def _chunks(positions: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Split `positions` into batches of `batch_size`; the last may be smaller."""
    return [positions[i : i + batch_size] for i in range(0, len(positions), batch_size)]
