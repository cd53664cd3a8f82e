"""Crops per second from JPEG files to normalized batches: each decoder, the caches, and a DataLoader as the peer.

python benchmarks/loader.py                                    2,000 generated crops of 128x64
python benchmarks/loader.py --data-root DIR --size 128 64      any folder of crops
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from lib.reporting import measure_all, report
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from gcl_fast.data import Augmentation, Records, TrainLoader, image_files, open_dataset, shuffled_plan
from gcl_fast.data.augment import IMAGENET_MEAN, IMAGENET_STD
from gcl_fast.process import prepare_process


class PeerDataset(Dataset):
    """The same work with Pillow and torchvision: decode, bicubic resize, normalize."""

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
    """JPEG crops of 128x64 with smooth shapes and some grain, of about the file size of street crops (4 kB)."""
    generator = np.random.default_rng(0)
    for i in range(count):
        blobs = Image.fromarray(generator.integers(0, 256, (16, 8, 3), dtype=np.uint8))
        pixels = np.asarray(blobs.resize((64, 128), Image.Resampling.BICUBIC)) + generator.normal(0, 5, (128, 64, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i:05d}.jpg", quality=92)


def epochs(batches: Callable[[int], Iterator]) -> Callable[[], int]:
    """A function that reads one epoch after the other, one a call, and counts its crops."""
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


def second_choices(
    records: Records, size: tuple[int, int], device: torch.device, batch_size: int, threads: int
) -> dict[str, Callable[[], int]]:
    """Make, by name, functions that read an epoch by the decoders that a run takes where better ones are missing."""
    readers: dict[str, Callable[[], int]] = {}
    best = TrainLoader(records, size, device).engine
    for first in range(1, len(image_files.DECODERS)):
        with patch.object(image_files, "DECODERS", image_files.DECODERS[first:]):
            loader = TrainLoader(records, size, device, threads=threads)
        if loader.engine != best:
            readers[loader.engine] = epochs_of(loader, len(records), batch_size)
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


def processor_seconds(read: Callable[[], int]) -> float:
    """Return the seconds that all cores together spend on an epoch, the least of three: other programs add little."""
    times = [time.process_time()]
    for _ in range(3):
        read()
        times.append(time.process_time())
    return min(end - start for start, end in itertools.pairwise(times))


def move(peer: DataLoader, device: torch.device, epoch: int) -> Iterator:
    """The peer's batches on the device; it shuffles by itself."""
    return ((image.to(device, non_blocking=True), index) for image, index in peer)


def main() -> None:
    prepare_process()  # as train.py does
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="folder of crops; --crops are generated if it is not given")
    parser.add_argument("--crops", type=int, default=2000, help="to generate")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 128), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2, help="of our decoder")
    parser.add_argument("--repeats", type=int, default=5, help="epochs measured, after two to warm up")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    size, batch_size, device = tuple(arguments.size), arguments.batch_size, torch.device(arguments.device)
    workers = sorted({1, 2, os.cpu_count() or 1})
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.data_root is None:
            write_crops(Path(temporary), arguments.crops)
        records = open_dataset("folder", arguments.data_root or temporary).train
        setup = records, size, device, batch_size
        best, others = (make(*setup, arguments.threads) for make in (ours, second_choices))
        measured = measure_all(best | others | peers(*setup, workers), arguments.repeats, device.type)
        processor = {name: processor_seconds(read) for name, read in (best | others).items()}
    crops = len(records) // batch_size * batch_size
    setting = {"size": f"{size[0]}x{size[1]}", "batch": batch_size, "decoder_threads": arguments.threads}
    rows = [
        {**setting, "crops": crops, "what": name, **figures, "crops_per_s": round(crops / figures["median"])}
        for name, figures in measured.items()
    ]
    print(f"appended to {report('loader', rows, device.type)}")
    engine = next(iter(best))
    for name in others:
        ratio = measured[name]["median"] / measured[engine]["median"]
        print(
            f"{name}: {ratio:.2f} of {engine}'s time, {processor[name] / processor[engine]:.2f} of its processor time"
        )


if __name__ == "__main__":
    main()
