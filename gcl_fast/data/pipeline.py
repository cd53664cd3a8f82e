"""Crops from image files through DALI: read, decode ("mixed" on the GPU); torch resizes, as for every decoder.

DALI's own resize is another bicubic (see resize.py), and on the CPU takes 460 us to double a crop of 128x64 (torch 33,
decoding 70).

The pipeline is built once and lives as long as its source; what it reads is set by replacing the iterator behind its
external source, so a new epoch, or a start in mid-epoch, costs nothing and leaves no state behind.

A batch that fails raises, and only that batch: DALI 2.4's dynamic executor keeps the error with the iteration that it
belongs to, and those before and after it deliver their crops. Its message ("Current pipeline object is no longer
valid") is about the executors that it had before.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import nvidia.dali
import torch
from nvidia.dali.pipeline import Pipeline

from gcl_fast.data.resize import bicubic, resize

fn: Any = nvidia.dali.fn  # DALI's type stubs lack many of its names

PREFETCH = 2  # batches under way while the caller works on one


class Overtaken(Exception):
    """An abandoned iteration goes on after another one was begun."""


class DaliSource:
    """Decoded batches of `paths`: uint8 (B, H, W, 3) on `device`."""

    def __init__(self, paths: Sequence[Path], size: tuple[int, int], device: torch.device, threads: int) -> None:
        self.engine = "dali-gpu" if device.type == "cuda" else "dali-cpu"
        self._device, self._size, self._threads = device, size, threads
        self._encoded = [_encode(path) for path in paths]
        self._pipeline: Pipeline | None = None
        self._feed = _Feed()

    def replace(self, position: int, path: Path) -> None:
        """From now on, read `path` for the crop at `position`."""
        self._encoded[position] = _encode(path)

    def batches(self, plan: Sequence[np.ndarray]) -> Iterator[torch.Tensor]:
        """One tensor per array of positions in `plan`. Raises RuntimeError, DALI's, at a file that does not decode, and
        Overtaken if other batches were begun meanwhile."""
        if not plan:
            return
        largest = max(len(positions) for positions in plan)
        if self._pipeline is not None and self._pipeline.max_batch_size >= largest:
            self._rewind(self._pipeline)
        else:
            self._pipeline = self._build(largest)
        own = self._feed.batches = iter([self._encoded[i] for i in positions] for positions in plan)
        for _ in plan:
            if self._feed.batches is not own:
                raise Overtaken("these batches can no longer be read: others were begun from the same source")
            yield self._next()

    def _next(self) -> torch.Tensor:
        assert self._pipeline is not None
        stream = torch.cuda.current_stream(self._device) if self._device.type == "cuda" else None
        (images,) = self._pipeline.run(stream)
        # No copy: the tensor owns its buffer, which DALI's dynamic executor does not use again while somebody holds it
        if images.is_dense_tensor():
            return bicubic(torch.from_dlpack(images.as_tensor()), self._size)
        return resize([torch.from_dlpack(images[i]) for i in range(len(images))], self._size)

    def _rewind(self, pipeline: Pipeline) -> None:
        """Take the batches that were read ahead for an earlier plan, so that the next one begins with its own."""
        self._feed.batches = iter(())
        while True:
            try:
                pipeline.run()
            except StopIteration:
                break
            except RuntimeError:  # one of them failed, which is nobody's concern any more
                continue
        pipeline.reset()

    def _build(self, batch_size: int) -> Pipeline:
        gpu = None  # DALI's name for the CPU
        if self._device.type == "cuda":
            gpu = torch.cuda.current_device() if self._device.index is None else self._device.index
        pipeline = Pipeline(
            batch_size=batch_size,
            num_threads=self._threads,
            device_id=gpu,
            prefetch_queue_depth=PREFETCH,
            exec_dynamic=True,
        )
        with pipeline:
            path = fn.external_source(source=self._feed, batch=True)
            encoded = fn.io.file.read(path, dont_use_mmap=True)  # a mapped file that shrinks would kill the process
            images = fn.decoders.image(
                encoded,
                device="cpu" if gpu is None else "mixed",
                adjust_orientation=False,  # Pillow does not turn images as EXIF says, nor does the official code
                jpeg_fancy_upsampling=True,  # as the CPU's decoder does it; nvJPEG would repeat chroma samples
            )
            pipeline.set_outputs(images)
        pipeline.build()
        return pipeline


class _Feed:
    """The external source: hands DALI whatever stands in `batches`, and ends where that ends."""

    batches: Iterator[list[np.ndarray]] = iter(())

    def __call__(self) -> list[np.ndarray]:
        return next(self.batches)


def _encode(path: Path) -> np.ndarray:
    return np.frombuffer(os.fsencode(path), dtype=np.uint8)
