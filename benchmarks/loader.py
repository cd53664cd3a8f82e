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
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch

from gcl_fast.data import Records, TrainLoader, image_files, open_dataset
from gcl_fast.process import prepare_process
from lib.epoch_readers import epochs_of, ours, peers, write_crops
from lib.reporting import measure_all, report


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


def processor_seconds(read: Callable[[], int]) -> float:
    """Return the seconds that all cores together spend on an epoch, the least of three: other programs add little."""
    times = [time.process_time()]
    for _ in range(3):
        read()
        times.append(time.process_time())
    return min(end - start for start, end in itertools.pairwise(times))


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
