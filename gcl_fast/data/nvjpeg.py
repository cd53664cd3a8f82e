"""Crops from image files on a GPU where there is no DALI: nvJPEG decodes what it decodes as libjpeg does.

torchvision's nvJPEG repeats chroma samples where libjpeg interpolates them, so a file with subsampled chroma (most
cameras' JPEGs) would be another image on the GPU than on the CPU. Such files, and what is no plain JPEG, are decoded and
resized by threads of the CPU, as without a GPU; the others of a batch by nvJPEG in one call.

What torchvision's decoder (0.26 to 0.29) asks of its caller:
- One decoder serves the process, behind a lock. It is rebuilt, and the one before it leaks, when it is called for
  another device than before, and "cuda" is another one than "cuda:0". So the device has its index, and one thread calls.
- It decodes on a stream of its own, to memory of the caller's current stream for which that stream may still have
  work: it does not wait for it. So here a stream is current that nothing else uses, and its work has ended before a call.
- It waits for its stream before it returns: on a thread of ours, the training thread does not.
- A file that it refuses fails the whole call, with RuntimeError and nothing returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.io import decode_jpeg

from gcl_fast.data.jpeg import JPEG, TorchvisionSource, small_jpeg
from gcl_fast.data.resize import resize

Ready = tuple[Tensor, torch.cuda.Event | None]  # a batch, and the event after which it holds its values


class NvjpegSource(TorchvisionSource):
    """Decoded batches of `paths`: uint8 (B, H, W, 3) on `device`. Raises RuntimeError where torchvision has no nvJPEG.

    device: a CUDA device; on the CPU, the same steps run without streams and torchvision's libjpeg decodes.
    """

    engine = "torchvision-gpu"

    def __init__(self, paths: Sequence[Path], size: tuple[int, int], device: torch.device, threads: int) -> None:
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        super().__init__(paths, size, device, threads)
        decode_jpeg([small_jpeg()], mode="RGB", device=device)
        self._caller = ThreadPoolExecutor(1, thread_name_prefix="gcl_fast-nvjpeg")
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._last: torch.cuda.Event | None = None  # of the work on our stream

    def _begin(self, positions: np.ndarray) -> Future[Ready]:
        return self._caller.submit(self._batch, positions, self._split(self._open, positions))

    def _finish(self, batch: Future[Ready]) -> Tensor:
        images, ready = batch.result()
        if ready is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(ready)
            images.record_stream(stream)
        return images

    def _open(self, positions: np.ndarray) -> list[Tensor]:
        """For each position the file's bytes, for nvJPEG, or the crop (H, W, 3) that the CPU makes of them."""
        files = [self._read(position) for position in positions]
        ours = [i for i, file in enumerate(files) if not for_nvjpeg(file.numpy().tobytes())]
        if ours:
            crops = resize([self._decode_bytes(positions[i], files[i]) for i in ours], self._size)
            for i, crop in zip(ours, crops):
                files[i] = crop
        return files

    def _batch(self, positions: np.ndarray, parts: list[Future[list[Tensor]]]) -> Ready:
        files = [file for part in parts for file in part.result()]
        encoded = [i for i, file in enumerate(files) if file.dim() == 1]
        decoded = [i for i, file in enumerate(files) if file.dim() == 3]
        if self._last is not None:
            self._last.synchronize()
        images = []
        with self._on_stream():
            if encoded:
                crops = self._decode_together(positions[encoded], [files[i] for i in encoded])
                images.append(resize(crops, self._size))
            if decoded:
                images.append(self._moved(torch.stack([files[i] for i in decoded])))
            batch = torch.cat(images) if len(images) > 1 else images[0]
            if len(images) > 1:
                batch = batch[self._moved(torch.from_numpy(np.argsort(encoded + decoded)))]
            self._last = self._stream.record_event() if self._stream is not None else None
        return batch, self._last

    def _decode_together(self, positions: np.ndarray, files: list[Tensor]) -> list[Tensor]:
        """Crops (h, w, 3) on the device, in one call; where it fails one by one, and by the CPU what is refused."""
        try:
            return self._call(files)
        except RuntimeError as error:
            if self._stream is not None:
                torch.cuda.synchronize(self._device)  # the failed call may still write to the memory it gave back
            if len(files) > 1:
                return [self._decode_together(positions[i : i + 1], [file])[0] for i, file in enumerate(files)]
            crop = self._moved(self._decode_bytes(positions[0], files[0]))
            self._warn(positions[0], "nvJPEG", error, "the CPU")
            return [crop]

    def _call(self, files: list[Tensor]) -> list[Tensor]:
        return [crop.permute(1, 2, 0) for crop in decode_jpeg(files, mode="RGB", device=self._device)]

    def _moved(self, tensor: Tensor) -> Tensor:
        """`tensor` of the CPU on the device."""
        return tensor if self._stream is None else tensor.pin_memory().to(self._device, non_blocking=True)

    def _on_stream(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)


def for_nvjpeg(contents: bytes) -> bool:
    """Whether `contents` are a whole JPEG file of which nvJPEG makes what libjpeg makes.

    That is: 8 bits, Huffman-coded (baseline or progressive), grey, or YCbCr with chroma of full size.
    """
    if not (contents.startswith(JPEG) and contents.endswith(b"\xff\xd9")):
        return False
    place = 2
    while contents[place : place + 1] == b"\xff" and len(contents) >= place + 4:
        marker, length = contents[place + 1], int.from_bytes(contents[place + 2 : place + 4], "big")
        segment = contents[place + 4 : place + 2 + length]
        if marker in (0xC0, 0xC1, 0xC2):  # the frame's header
            names, sampling = segment[6::3], segment[7::3]
            full = len(names) == 1 or (len(names) == 3 and set(sampling) == {0x11} and names != b"RGB")
            return full and segment[0] == 8
        if 0xC0 <= marker <= 0xCF and marker != 0xC4:  # frames of other kinds; 0xC4: Huffman tables
            return False
        if marker == 0xEE and segment.startswith(b"Adobe") and segment[11:12] == b"\0":  # its colours are RGB
            return False
        place += 2 + length
    return False
