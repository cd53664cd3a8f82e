"""Decode image files to batches by the first decoder that this machine has, even if files break during the run."""

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

from gcl_fast.data.broken_images import UNREADABLE, blank_image, scratch_folder, why_broken
from gcl_fast.data.pillow_decoder import open_rgb

log = logging.getLogger(__name__)

DECODERS = (  # name, module, class; a run takes the first that can be imported and opened, and Pillow always can
    ("DALI", "gcl_fast.data.dali_decoder", "DaliDecoder"),
    ("nvJPEG", "gcl_fast.data.nvjpeg_decoder", "NvjpegDecoder"),
    ("libjpeg in torchvision", "gcl_fast.data.torchvision_decoder", "TorchvisionDecoder"),
    ("Pillow", "gcl_fast.data.pillow_decoder", "PillowDecoder"),
)


class Decoder(Protocol):
    """Decodes crops by position: DaliDecoder, NvjpegDecoder, TorchvisionDecoder or PillowDecoder."""

    engine: str

    def replace(self, position: int, path: Path) -> None:
        """Read `path` for the crop at `position` from now on."""

    def batches(self, plan: Sequence[np.ndarray]) -> Iterator[torch.Tensor]:
        """Yield a tensor (B, H, W, 3) uint8 for each array of positions; raise in the batch that fails."""
        ...


class ImageFiles:
    """Decodes image files to batches (B, H, W, 3) uint8 on `device`.

    Args:
        paths: the image files; a position is an index into them.
        size: (H, W) of every crop.
        device: where the batches go.
        threads: threads of the decoder.

    Attributes:
        engine: "dali-cpu", "dali-gpu", "torchvision", "torchvision-gpu" or "pillow".
        note: the engine for the run's header, with the reason if it is a second choice.
        blanks: positions of the files that did not decode so far.
    """

    def __init__(self, paths: Sequence[Path], size: tuple[int, int], device: torch.device, threads: int) -> None:
        self._paths = paths
        self._decoder, self.note = _open_decoder(paths, size, device, threads)
        self.engine = self._decoder.engine
        self.blanks: set[int] = set()
        self._copies: set[int] = set()
        self._black: set[int] = set()

    def batches(self, plan: Sequence[np.ndarray]) -> Iterator[torch.Tensor]:
        """Yield one tensor for each array of positions in `plan`.

        A blank image replaces a file that does not decode. A copy by Pillow replaces a file that only the engine
        refuses, or that it alone decodes to black. Batches on a GPU are not searched for black crops, since a step
        would wait for them.
        """
        done = 0
        while done < len(plan):
            try:
                for images in self._decoder.batches(plan[done:]):
                    if images.device.type == "cpu" and self._copy_black(images, plan[done]):
                        break  # this batch is decoded again
                    yield images
                    done += 1
            except (RuntimeError, *UNREADABLE):  # every engine raises in the batch that failed
                if not self._replace_broken(plan[done]) and not self._copy_refused(plan[done]):
                    raise

    def _replace_broken(self, positions: np.ndarray) -> bool:
        """Replace the files at `positions` that do not decode by a blank image; return whether there were any."""
        unseen = set(positions.tolist()) - self.blanks
        broken = {position: why for position in sorted(unseen) if (why := why_broken(self._paths[position]))}
        for position, why in broken.items():
            log.warning("%s does not decode (%s): a blank crop takes its place", self._paths[position], why)
            self._decoder.replace(position, blank_image())
        self.blanks.update(broken)
        return bool(broken)

    def _copy_refused(self, positions: np.ndarray) -> bool:
        """Replace the files at `positions` that only the engine refuses by Pillow's copies; return whether any was."""
        unseen, before = set(positions.tolist()) - self.blanks - self._copies, len(self._copies)
        for position in filter(self._refuses, sorted(unseen)):
            path = self._paths[position]
            self._take_copy(position, open_rgb(path))
            if self._refuses(position):  # the file is not the cause
                self._decoder.replace(position, path)
                continue
            log.warning("%s: %s refuses it, Pillow decodes it", path, self.engine)
            self._copies.add(position)
        return len(self._copies) > before

    def _copy_black(self, images: torch.Tensor, positions: np.ndarray) -> bool:
        """Replace the files that are black in a batch (B, H, W, 3) alone by Pillow's copies; return whether any was."""
        black = positions[(images.flatten(1).amax(1) == 0).numpy()].tolist()
        before = len(self._copies)
        for position in sorted(set(black) - self.blanks - self._copies - self._black):
            path = self._paths[position]
            try:
                image = open_rgb(path)
            except UNREADABLE:  # broke since it was scanned
                self._black.add(position)
                continue
            if np.asarray(image).mean() < 1:  # black indeed, or too dark to tell
                self._black.add(position)
                continue
            log.warning("%s: %s decodes it to black, Pillow does not: Pillow's image is taken", path, self.engine)
            self._take_copy(position, image)
            self._copies.add(position)
        return len(self._copies) > before

    def _take_copy(self, position: int, image: Image.Image) -> None:
        """Read a copy of the file at `position`, without loss, from now on."""
        with tempfile.NamedTemporaryFile(dir=scratch_folder(), suffix=".png", delete=False) as copy:
            image.save(copy)
        self._decoder.replace(position, Path(copy.name))

    def _refuses(self, position: int) -> bool:
        """Return whether the engine fails at this file alone."""
        try:
            list(self._decoder.batches([np.array([position])]))
        except (RuntimeError, *UNREADABLE):
            return True
        return False


def _open_decoder(
    paths: Sequence[Path], size: tuple[int, int], device: torch.device, threads: int
) -> tuple[Decoder, str]:
    """Open the first decoder that this machine has, and word what the run's header says about it."""
    reasons: list[str] = []
    for name, module, kind in DECODERS:
        if name == "nvJPEG" and device.type != "cuda":
            continue
        try:
            decoder = getattr(importlib.import_module(module), kind)(paths, size, device, threads)
        except (ImportError, RuntimeError) as error:
            reasons.append(f"no {name}: {str(error).splitlines()[0]}")
        else:
            break
    return decoder, f"{decoder.engine} ({'; '.join(reasons)})" if reasons else decoder.engine
