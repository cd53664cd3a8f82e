"""Decode JPEG files by torchvision's libjpeg and other formats by Pillow, where there is no DALI.

`decode_jpeg` gives the values of Pillow and DALI, also for CMYK and progressive files, and releases Python's lock.
torchvision 0.29 deprecates it in favour of TorchCodec. Python hides that warning by default.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.io import decode_jpeg

from gcl_fast.data.pillow_decoder import PillowDecoder, decode

log = logging.getLogger(__name__)

JPEG = b"\xff\xd8\xff"  # first bytes of a JPEG file


class TorchvisionDecoder(PillowDecoder):
    """Decodes batches of `paths` to uint8 (B, H, W, 3) on `device`.

    Raises:
        RuntimeError: torchvision was built without libjpeg.
    """

    engine = "torchvision"

    def __init__(self, paths: Sequence[Path], size: tuple[int, int], device: torch.device, threads: int) -> None:
        decode_jpeg(as_tensor(small_jpeg()), mode="RGB")
        super().__init__(paths, size, device, threads)
        self._warned: set[int] = set()

    def _decode(self, position: int) -> Tensor:
        """Return the crop at `position`, (h, w, 3) uint8."""
        return self._decode_bytes(position, self._read(position))

    def _read(self, position: int) -> bytes:
        """Read a file's bytes by one unbuffered call, which is the cheapest for small files."""
        # not memory-mapped: a mapped file that shrinks would kill the process
        with open(self._paths[position], "rb", buffering=0) as file:  # noqa: PTH123
            return file.read()

    def _decode_bytes(self, position: int, contents: bytes) -> Tensor:
        """Decode a file's bytes to (h, w, 3) uint8, by Pillow where they are no JPEG or torchvision refuses them."""
        if not contents.startswith(JPEG):
            return decode(io.BytesIO(contents))
        try:
            return decode_jpeg(as_tensor(contents), mode="RGB").permute(1, 2, 0)
        except RuntimeError as error:
            crop = decode(io.BytesIO(contents))  # raises where Pillow refuses it as well
            self._warn(position, "torchvision", error, "Pillow")
            return crop

    def _warn(self, position: int, decoder: str, error: RuntimeError, other: str) -> None:
        """Warn once that `decoder` refuses a file and `other` decodes it."""
        if position not in self._warned:
            self._warned.add(position)
            reason = str(error).splitlines()[0]
            log.warning("%s: %s refuses it (%s), %s decodes it", self._paths[position], decoder, reason, other)


def as_tensor(contents: bytes) -> Tensor:
    """Copy a file's bytes to a tensor (bytes,) uint8, which decoders take."""
    return torch.frombuffer(bytearray(contents), dtype=torch.uint8)


def small_jpeg() -> bytes:
    """Make a JPEG file to try a decoder on."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG", subsampling=0)
    return file.getvalue()
