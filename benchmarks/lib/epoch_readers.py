"""Read epochs of crops: our loader with each cache, and torchvision's transforms in a DataLoader as the peer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from gcl_fast.data import Augmentation, Records, TrainLoader, shuffled_plan
from gcl_fast.data.augment import IMAGENET_MEAN, IMAGENET_STD


class PeerDataset(Dataset):
    """Decodes, resizes (bicubic) and normalizes crops by Pillow and torchvision."""

    def __init__(self, records: Records, size: tuple[int, int]) -> None:
        self.paths = records.paths
        self.transform = transforms.Compose(
            [
                transforms.Resize(size, transforms.InterpolationMode.BICUBIC),
                transforms.ToTensor(),
                transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB")), index


def write_crops(folder: Path, count: int) -> None:
    """Write JPEG crops of 128x64 with smooth shapes and some grain, about as large (4 kB) as street crops."""
    generator = np.random.default_rng(0)
    for i in range(count):
        blobs = Image.fromarray(generator.integers(0, 256, (16, 8, 3), dtype=np.uint8))
        pixels = np.asarray(blobs.resize((64, 128), Image.Resampling.BICUBIC)) + generator.normal(0, 5, (128, 64, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i:05d}.jpg", quality=92)


def epochs(batches: Callable[[int], Iterator]) -> Callable[[], int]:
    """Return a function that reads the next epoch at each call and returns how many crops it has."""
    number = itertools.count()

    def read() -> int:
        return sum(len(image) for image, _ in batches(next(number)))

    return read


def epochs_of(loader: TrainLoader, count: int, batch_size: int) -> Callable[[], int]:
    """Make a function that reads one epoch of `loader` over `count` crops after the other."""
    return epochs(lambda epoch: loader.epoch(shuffled_plan(count, batch_size, seed=0, epoch=epoch), epoch))


def ours(
    records: Records, size: tuple[int, int], device: torch.device, batch_size: int, threads: int
) -> dict[str, Callable[[], int]]:
    """Make, by name, functions that read an epoch as a run does here: with each cache, plain and augmented."""
    readers: dict[str, Callable[[], int]] = {}
    caches = (None, "host", "device") if device.type == "cuda" else (None, "host")
    for cache, augmentation in itertools.product(caches, (None, Augmentation())):
        loader = TrainLoader(records, size, device, augmentation=augmentation, cache=cache, threads=threads)
        name = f"{loader.engine}, {cache} cache" if cache else loader.engine
        readers[name + (", augmented" if augmentation else "")] = epochs_of(loader, len(records), batch_size)
    return readers


def peers(
    records: Records, size: tuple[int, int], device: torch.device, batch_size: int, workers: list[int]
) -> dict[str, Callable[[], int]]:
    """Make, by name, functions that read an epoch through torchvision's transforms and a DataLoader."""
    readers: dict[str, Callable[[], int]] = {}
    for count in workers:
        peer = DataLoader(
            PeerDataset(records, size),
            batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=count,
            persistent_workers=True,
            pin_memory=device.type == "cuda",
        )
        readers[f"torchvision, {count} workers"] = epochs(partial(move, peer, device))
    return readers


def move(peer: DataLoader, device: torch.device, epoch: int) -> Iterator:
    """Yield the peer's batches on the device; the peer shuffles by itself."""
    return ((image.to(device, non_blocking=True), index) for image, index in peer)
