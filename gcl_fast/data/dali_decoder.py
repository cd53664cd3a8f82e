"""Decode image files by DALI; torch resizes the crops, as for every decoder.

DALI's own resize is another bicubic (see resize.py).

The pipeline is built once and lives as long as its decoder. A plan replaces the iterator behind the pipeline's external
source. So a new epoch, or a start in mid-epoch, costs nothing and leaves no state behind.

Only the batch that fails raises: DALI 2.4's dynamic executor keeps an error with its iteration, and the iterations
before and after it deliver their crops. Its message ("Current pipeline object is no longer valid") is meant for DALI's
older executors.
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

PREFETCH = 2  # batches that are decoded while the caller works on one


class Overtaken(Exception):
    """Means that an abandoned iteration goes on after another one has begun."""


class DaliDecoder:
    """Decodes batches of `paths` to uint8 (B, H, W, 3) on `device`; a CUDA device decodes the JPEG files."""

    def __init__(self, paths: Sequence[Path], size: tuple[int, int], device: torch.device, threads: int) -> None:
        self.engine = "dali-gpu" if device.type == "cuda" else "dali-cpu"
        self._device, self._size, self._threads = device, size, threads
        self._encoded = [_encode(path) for path in paths]
        self._pipeline: Pipeline | None = None
        self._feed = _Feed()

    def replace(self, position: int, path: Path) -> None:
        """Read `path` for the crop at `position` from now on."""
        self._encoded[position] = _encode(path)

    def batches(self, plan: Sequence[np.ndarray]) -> Iterator[torch.Tensor]:
        """Yield one tensor for each array of positions in `plan`.

        Raises:
            RuntimeError: DALI's, if a file does not decode.
            Overtaken: other batches of this decoder have begun meanwhile.
        """
        if not plan:
            return
        largest = max(len(positions) for positions in plan)
        if self._pipeline is not None and self._pipeline.max_batch_size >= largest:
            self._rewind(self._pipeline)
        else:
            self._pipeline = self._build(largest)
        feed = self._feed.batches = iter([self._encoded[i] for i in positions] for positions in plan)
        for _ in plan:
            if self._feed.batches is not feed:
                raise Overtaken("these batches can no longer be read: others were begun from the same decoder")
            yield self._next()

    def _next(self) -> torch.Tensor:
        """Run the pipeline once and return its batch, resized."""
        assert self._pipeline is not None
        stream = torch.cuda.current_stream(self._device) if self._device.type == "cuda" else None
        (images,) = self._pipeline.run(stream)
        # No copy: DALI's dynamic executor does not reuse a buffer while a tensor refers to it
        if images.is_dense_tensor():
            return bicubic(torch.from_dlpack(images.as_tensor()), self._size)
        return resize([torch.from_dlpack(images[i]) for i in range(len(images))], self._size)

    def _rewind(self, pipeline: Pipeline) -> None:
        """Drop the batches that were read ahead for an earlier plan."""
        self._feed.batches = iter(())
        while True:
            try:
                pipeline.run()
            except StopIteration:
                break
            except RuntimeError:  # a dropped batch failed: nobody needs it
                continue
        pipeline.reset()

    def _build(self, batch_size: int) -> Pipeline:
        """Build a pipeline for batches of up to `batch_size` crops."""
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
                adjust_orientation=False,  # neither Pillow nor the official code turns images as EXIF asks
                jpeg_fancy_upsampling=True,  # as on the CPU; nvJPEG would repeat chroma samples
            )
            pipeline.set_outputs(images)
        pipeline.build()
        return pipeline


class _Feed:
    """Is DALI's external source: gives DALI the items of `batches`, and ends where they end."""

    batches: Iterator[list[np.ndarray]] = iter(())

    def __call__(self) -> list[np.ndarray]:
        return next(self.batches)


def _encode(path: Path) -> np.ndarray:
    """Return a path's bytes (length,) uint8, as DALI reads names."""
    return np.frombuffer(os.fsencode(path), dtype=np.uint8)
