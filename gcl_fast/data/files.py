"""Picture files -> decoded batches, by the decoder that this machine has, in spite of files that break meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from gcl_fast.data.pictures import UNREADABLE, blank_picture, why_broken
from gcl_fast.data.pillow import PillowSource

log = logging.getLogger(__name__)


class Source(Protocol):
    """Decoded crops by position: DaliSource or PillowSource."""

    engine: str

    def replace(self, position: int, path: Path) -> None: ...

    def batches(self, plan: Sequence[np.ndarray]) -> Iterator[torch.Tensor]: ...


class PictureFiles:
    """Batches (B, H, W, 3), uint8, on `device`.

    engine: "dali-cpu", "dali-gpu" or "pillow". note: the same for the run header, with the reason for a second choice.
    """

    def __init__(self, paths: Sequence[Path], size: tuple[int, int], device: torch.device, threads: int) -> None:
        self._paths = paths
        self._source, self.note = _decoder(paths, size, device, threads)
        self.engine = self._source.engine
        self._blank: set[int] = set()

    def batches(self, plan: Sequence[np.ndarray]) -> Iterator[torch.Tensor]:
        """One tensor per array of positions. A file that does not decode is replaced by a blank picture."""
        done = 0
        while done < len(plan):
            try:
                for images in self._source.batches(plan[done:]):
                    yield images
                    done += 1
            except (RuntimeError, *UNREADABLE):
                if not self._blank_out(plan[done]):  # both decoders raise in the batch that failed
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


def _decoder(paths: Sequence[Path], size: tuple[int, int], device: torch.device, threads: int) -> tuple[Source, str]:
    """DALI where it can be imported, else Pillow; and what the run header says about it."""
    try:
        from gcl_fast.data.pipeline import DaliSource
    except ImportError as error:
        return PillowSource(paths, size, device, threads), f"pillow (no DALI: {error})"
    source = DaliSource(paths, size, device, threads)
    return source, source.engine
