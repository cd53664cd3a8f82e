"""Crops per second from JPEG files to normalized batches: DALI, the caches, and a torchvision DataLoader as the peer.

python benchmarks/loader.py                                    2,000 generated crops of 128x64
python benchmarks/loader.py --data-root DIR --size 128 64      any folder of crops
"""

from __future__ import annotations

import argparse
import csv
import datetime
import functools
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from gcl_fast.data import Augmentation, Records, TrainLoader, open_dataset, shuffled_plan
from gcl_fast.data.augment import IMAGENET_MEAN, IMAGENET_STD

RESULTS = Path(__file__).parent / "results" / "loader.csv"


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


def subjects(records: Records, arguments: argparse.Namespace) -> dict[str, Callable[[int], Iterator]]:
    """Name -> function of the epoch that yields its batches."""
    size, device, batch_size = tuple(arguments.size), torch.device(arguments.device), arguments.batch_size
    loaders: dict[str, Callable[[int], Iterator]] = {}

    def add(name: str, augmentation: Augmentation | None = None, cache: str | None = None) -> None:
        loader = TrainLoader(records, size, device, augmentation=augmentation, cache=cache, threads=arguments.threads)

        def batches(epoch: int) -> Iterator:
            return loader.epoch(shuffled_plan(len(records), batch_size, seed=0, epoch=epoch), epoch)

        loaders[f"{loader.engine} {name}".strip()] = batches

    add("")
    add("augmented", augmentation=Augmentation())
    for cache in ("host", "device") if device.type == "cuda" else ("host",):
        add(f"{cache} cache", cache=cache)
        add(f"{cache} cache, augmented", cache=cache, augmentation=Augmentation())
    for workers in sorted({1, 2, os.cpu_count() or 1}):
        peer = DataLoader(
            PeerDataset(records, size),
            batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=True,
            pin_memory=device.type == "cuda",
        )
        loaders[f"torchvision, {workers} workers"] = functools.partial(move, peer, device)
    return loaders


def move(peer: DataLoader, device: torch.device, epoch: int) -> Iterator:
    return ((image.to(device, non_blocking=True), index) for image, index in peer)


def rate(batches: Iterator, device: torch.device) -> float:
    start, crops = time.perf_counter(), 0
    for image, _ in batches:
        crops += len(image)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return crops / (time.perf_counter() - start)


def measure(records: Records, arguments: argparse.Namespace) -> list[dict]:
    device, rows = torch.device(arguments.device), []
    print(f"{len(records):,} crops to {arguments.size[0]}x{arguments.size[1]}, batches of {arguments.batch_size}")
    print(f"{'crops/s':32}{'min':>10}{'median':>10}{'max':>10}")
    contenders = subjects(records, arguments)
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for epoch in range(
        arguments.repeats + 1
    ):  # in turns, so that noise of the machine meets everyone; the first warms up
        for name, batches in contenders.items():
            value = rate(batches(epoch), device)
            rates[name] += [value] if epoch else []
    for name, values in rates.items():
        low, middle, high = min(values), statistics.median(values), max(values)
        print(f"{name:32}{low:10,.0f}{middle:10,.0f}{high:10,.0f}")
        rows.append({"name": name, "min": round(low), "median": round(middle), "max": round(high)})
    return rows


def append(rows: list[dict], arguments: argparse.Namespace) -> None:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    common = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "device": arguments.device,
        "size": "x".join(map(str, arguments.size)),
        "batch": arguments.batch_size,
        "threads": arguments.threads,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    fresh = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, [*common, "name", "min", "median", "max"])
        if fresh:
            writer.writeheader()
        writer.writerows({**common, **row} for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="folder of crops; 2,000 are generated if it is not given")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 128), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2, help="of our decoder")
    parser.add_argument("--repeats", type=int, default=5, help="epochs measured, after one to warm up")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.data_root is None:
            write_crops(Path(temporary), 2000)
        append(measure(open_dataset("folder", arguments.data_root or temporary).train, arguments), arguments)


if __name__ == "__main__":
    main()
