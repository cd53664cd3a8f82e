"""Crops from image files where there is no DALI: torchvision's libjpeg decodes JPEGs, Pillow whatever is none.

`decode_jpeg` gives Pillow's and DALI's values, CMYK and progressive files included, needs no Pillow image, and lets other
threads run meanwhile. torchvision calls it deprecated from 0.29 on, in favour of TorchCodec; it is there until 0.30.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import decode_jpeg

from gcl_fast.data.pillow import PillowSource, decode

log = logging.getLogger(__name__)

JPEG = b"\xff\xd8\xff"  # how a JPEG file begins


class TorchvisionSource(PillowSource):
    """Decoded batches of `paths`: uint8 (B, H, W, 3) on `device`. Raises RuntimeError where torchvision has no libjpeg."""

    engine = "torchvision"

    def __init__(self, paths: Sequence[Path], size: tuple[int, int], device: torch.device, threads: int) -> None:
        decode_jpeg(small_jpeg(), mode="RGB")
        super().__init__(paths, size, device, threads)
        self._warned: set[int] = set()

    def _decode(self, position: int) -> Tensor:
        return self._decode_bytes(position, self._read(position))

    def _read(self, position: int) -> Tensor:
        """The file's bytes. Not mapped to memory: a mapped file that shrinks would kill the process."""
        return torch.from_numpy(np.fromfile(self._paths[position], np.uint8))

    def _decode_bytes(self, position: int, encoded: Tensor) -> Tensor:
        """The crop (h, w, 3) of a file's bytes, by Pillow where it is no JPEG or torchvision refuses it."""
        contents = encoded.numpy()
        if contents[:3].tobytes() != JPEG:
            return decode(io.BytesIO(contents))
        try:
            return decode_jpeg(encoded, mode="RGB").permute(1, 2, 0)
        except RuntimeError as error:
            crop = decode(io.BytesIO(contents))  # raises where Pillow refuses it as well
            self._warn(position, "torchvision", error, "Pillow")
            return crop

    def _warn(self, position: int, decoder: str, error: RuntimeError, other: str) -> None:
        """Say once that `decoder` refuses a file and who decodes it instead."""
        if position not in self._warned:
            self._warned.add(position)
            reason = str(error).splitlines()[0]
            log.warning("%s: %s refuses it (%s), %s decodes it", self._paths[position], decoder, reason, other)


def small_jpeg() -> Tensor:
    """A JPEG file in memory, (bytes,) uint8, to try a decoder on."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG", subsampling=0)
    return torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)
