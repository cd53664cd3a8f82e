"""Picture files -> decoded batches, by the decoder that this machine has, in spite of files that break meanwhile."""

from __future__ import annotations

import importlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from gcl_fast.data.pictures import UNREADABLE, blank_picture, scratch_folder, why_broken
from gcl_fast.data.pillow import decode

log = logging.getLogger(__name__)

DECODERS = (  # name, module, class; a run takes the first that can be imported and opened, and Pillow always can
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
        """Yield one tensor per array of positions. A blank image takes the place of a file that does not decode, and a
        copy by Pillow that of a file that only the engine refuses."""
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
        """Replace those of `positions` that only the engine refuses by Pillow's copies; return whether any was."""
        fresh, before = set(positions.tolist()) - self._blank - self._copied, len(self._copied)
        for position in filter(self._refuses, sorted(fresh)):
            path = self._paths[position]
            with tempfile.NamedTemporaryFile(dir=scratch_folder(), suffix=".png", delete=False) as copy:
                Image.fromarray(decode(path).numpy()).save(copy)
            self._source.replace(position, Path(copy.name))
            if self._refuses(position):  # whatever is wrong, it is not this file
                self._source.replace(position, path)
                continue
            log.warning("%s: %s refuses it, Pillow decodes it", path, self.engine)
            self._copied.add(position)
        return len(self._copied) > before

    def _refuses(self, position: int) -> bool:
        try:
            list(self._source.batches([np.array([position])]))
        except (RuntimeError, *UNREADABLE):
            return True
        return False


def _decoder(paths: Sequence[Path], size: tuple[int, int], device: torch.device, threads: int) -> tuple[Source, str]:
    """Open the first decoder that this machine has, and word what the run header says about it."""
    missing: list[str] = []
    for name, module, source in DECODERS:
        if name == "nvJPEG" and device.type != "cuda":
            continue
        try:
            decoder = getattr(importlib.import_module(module), source)(paths, size, device, threads)
        except (ImportError, RuntimeError) as error:
            missing.append(f"no {name}: {str(error).splitlines()[0]}")
        else:
            break
    return decoder, f"{decoder.engine} ({'; '.join(missing)})" if missing else decoder.engine
