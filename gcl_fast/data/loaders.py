"""Batches of crops on the training device: TrainLoader follows epoch plans, ExtractLoader visits every crop once."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from gcl_fast.data.augment import Augmentation, augment, draw, normalize
from gcl_fast.data.cache import FILL_BATCH, CachedSource, choose_cache
from gcl_fast.data.pictures import blank_picture, why_broken
from gcl_fast.data.pillow import PREFETCH, PillowSource
from gcl_fast.data.records import Records

log = logging.getLogger(__name__)

Batch = tuple[torch.Tensor, torch.Tensor]


class Source(Protocol):
    """Decoded crops by position: DaliSource or PillowSource."""

    engine: str

    def replace(self, position: int, path: Path) -> None: ...

    def batches(self, plan: Sequence[np.ndarray]) -> Iterator[torch.Tensor]: ...


class TrainLoader:
    """Training batches of `records`, in the order of a plan.

    size: (height, width). augmentation: None for plain crops. cache: None, "host", "device" or
    "auto" (see choose_cache). threads: of the decoder. seed: of the augmentation, which is a pure function of
    (seed, epoch, step, plan).

    engine: "dali-cpu", "dali-gpu" or "pillow". cache: where decoded crops are kept, or None. notice: one line on both.
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
    ) -> None:
        self._device, self._augmentation, self._seed = torch.device(device), augmentation, seed
        self._shape = (len(records), *size, 3)
        self.cache, why = choose_cache(cache, self._shape, self._device)
        plain = augmentation is None and self.cache is None  # then DALI normalizes, else the change comes first
        self._files = _Files(records, size, self._device, threads, normalized=plain)
        self._memory: CachedSource | None = None
        self.engine = self._files.engine
        self.notice = f"{self._files.note}, cache {why}"

    def epoch(self, plan: torch.Tensor, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches of steps `start` to the end of `plan` (steps, batch), on the device.

        Yields image (B, 3, H, W) float32, ImageNet-normalized, channels_last, and index (B,) int64 into the records.
        Starting in mid-epoch yields the very batches that the whole epoch would have yielded from there on.
        """
        steps = list(plan[start:].numpy())
        for step, (positions, images) in enumerate(zip(steps, self._batches(steps)), start):
            index = torch.from_numpy(positions).to(self._device, non_blocking=True)
            if self._augmentation is None:
                yield _finish(images), index
            else:
                # The first crop tells the ranks apart: they hold different slices of the same step
                generator = np.random.default_rng([self._seed, epoch, step, int(positions[0])])
                draws = draw(self._augmentation, len(positions), generator).to(self._device)
                yield augment(images, draws), index

    def _batches(self, steps: list[np.ndarray]) -> Iterator[torch.Tensor]:
        if self.cache is None:
            return self._files.batches(steps)
        if self._memory is None:
            decoded = self._files.batches(_chunks(np.arange(self._shape[0]), FILL_BATCH))
            self._memory = CachedSource.fill(decoded, self._shape, self.cache, self._device)
        return self._memory.batches(steps)


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
        self._files = _Files(records, size, self._device, threads, normalized=True)
        self.engine = self._files.engine

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[Batch]:
        for positions, images in zip(self._plan, self._files.batches(self._plan)):
            yield _finish(images), torch.from_numpy(positions).to(self._device, non_blocking=True)


class _Files:
    """The decoder of this machine, with blank crops in place of files that break while it runs."""

    def __init__(
        self, records: Records, size: tuple[int, int], device: torch.device, threads: int, normalized: bool
    ) -> None:
        self._paths = records.paths
        self._source, self.note = _decoder(records.paths, size, device, threads, normalized)
        self.engine = self._source.engine
        self._blank: set[int] = set()

    def batches(self, plan: Sequence[np.ndarray]) -> Iterator[torch.Tensor]:
        done = 0
        while done < len(plan):
            try:
                for images in self._source.batches(plan[done:]):
                    yield images
                    done += 1
            except (RuntimeError, OSError):
                if not self._blank_out(np.concatenate(plan[done : done + PREFETCH + 1])):
                    raise

    def _blank_out(self, positions: np.ndarray) -> bool:
        """Replace those of `positions` that do not decode; whether there was any."""
        broken = {
            int(i): why for i in np.unique(positions) if i not in self._blank and (why := why_broken(self._paths[i]))
        }
        for position, why in broken.items():
            log.warning("%s broke during the run (%s): a blank crop takes its place", self._paths[position], why)
            self._source.replace(position, blank_picture())
        self._blank.update(broken)
        return bool(broken)


def _decoder(
    paths: Sequence[Path], size: tuple[int, int], device: torch.device, threads: int, normalized: bool
) -> tuple[Source, str]:
    """DALI where it can be imported, else Pillow; and what the run header says about it."""
    try:
        from gcl_fast.data.pipeline import DaliSource
    except ImportError as error:
        return PillowSource(paths, size, device, threads), f"pillow (no DALI: {error})"
    source = DaliSource(paths, size, device, threads, normalized)
    return source, source.engine


def _finish(images: torch.Tensor) -> torch.Tensor:
    """To normalized (B, 3, H, W); DALI may have normalized already."""
    return normalize(images) if images.dtype == torch.uint8 else images.permute(0, 3, 1, 2)


def _chunks(positions: np.ndarray, batch_size: int) -> list[np.ndarray]:
    return [positions[i : i + batch_size] for i in range(0, len(positions), batch_size)]
