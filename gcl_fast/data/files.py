"""Picture files -> decoded batches, by the decoder that this machine has, in spite of files that break meanwhile."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from gcl_fast.data.pictures import UNREADABLE, blank_picture, scratch_folder, why_broken
from gcl_fast.data.pillow import decode

log = logging.getLogger(__name__)

DECODERS = (  # name, module, source: the first that can be imported and opened; the last one always can
    ("DALI", "gcl_fast.data.pipeline", "DaliSource"),
    ("nvJPEG", "gcl_fast.data.nvjpeg", "NvjpegSource"),
    ("libjpeg in torchvision", "gcl_fast.data.jpeg", "TorchvisionSource"),
    ("Pillow", "gcl_fast.data.pillow", "PillowSource"),
)


class Source(Protocol):
    """Decoded crops by position: DaliSource, NvjpegSource, TorchvisionSource or PillowSource."""

    engine: str

    def replace(self, position: int, path: Path) -> None: ...

    def batches(self, plan: Sequence[np.ndarray]) -> Iterator[torch.Tensor]: ...


class PictureFiles:
    """Batches (B, H, W, 3), uint8, on `device`.

    engine: "dali-cpu", "dali-gpu", "torchvision", "torchvision-gpu" or "pillow". note: the same for the run header,
    with the reason for a second choice.
    """

    def __init__(self, paths: Sequence[Path], size: tuple[int, int], device: torch.device, threads: int) -> None:
        self._paths = paths
        self._source, self.note = _decoder(paths, size, device, threads)
        self.engine = self._source.engine
        self._blank: set[int] = set()
        self._copied: set[int] = set()

    def batches(self, plan: Sequence[np.ndarray]) -> Iterator[torch.Tensor]:
        """One tensor per array of positions. A file that does not decode is replaced by a blank picture, and one that
        only the engine refuses by a copy that it reads."""
        done = 0
        while done < len(plan):
            try:
                for images in self._source.batches(plan[done:]):
                    yield images
                    done += 1
            except (RuntimeError, *UNREADABLE):  # every engine raises in the batch that failed
                if not self._blank_out(plan[done]) and not self._copy_refused(plan[done]):
                    raise

    def _blank_out(self, positions: np.ndarray) -> bool:
        """Replace those of `positions` that do not decode; whether there was any."""
        fresh = set(positions.tolist()) - self._blank
        broken = {position: why for position in sorted(fresh) if (why := why_broken(self._paths[position]))}
        for position, why in broken.items():
            log.warning("%s broke during the run (%s): a blank crop takes its place", self._paths[position], why)
            self._source.replace(position, blank_picture())
        self._blank.update(broken)
        return bool(broken)

    def _copy_refused(self, positions: np.ndarray) -> bool:
        """Have Pillow decode those of `positions` that the engine refuses, to a file that it reads; whether it does."""
        fresh = set(positions.tolist()) - self._blank - self._copied
        refused = [position for position in sorted(fresh) if self._refuses(position)]
        for position in refused:
            copy = scratch_folder() / f"{len(self._copied)}-{position}.png"
            Image.fromarray(decode(self._paths[position]).numpy()).save(copy)
            self._source.replace(position, copy)
            if self._refuses(position):  # whatever is wrong, it is not this file
                self._source.replace(position, self._paths[position])
                return False
            log.warning("%s: %s refuses it, Pillow decodes it", self._paths[position], self.engine)
            self._copied.add(position)
        return bool(refused)

    def _refuses(self, position: int) -> bool:
        try:
            list(self._source.batches([np.array([position])]))
        except (RuntimeError, *UNREADABLE):
            return True
        return False


def _decoder(paths: Sequence[Path], size: tuple[int, int], device: torch.device, threads: int) -> tuple[Source, str]:
    """The first decoder that this machine has, and what the run header says about it."""
    missing: list[str] = []
    for name, module, source in DECODERS:
        if name == "nvJPEG" and device.type != "cuda":
            continue
        try:
            found = getattr(importlib.import_module(module), source)(paths, size, device, threads)
        except (ImportError, RuntimeError) as error:
            missing.append(f"no {name}: {str(error).splitlines()[0]}")
        else:
            break
    return found, f"{found.engine} ({'; '.join(missing)})" if missing else found.engine
