"""Crops from image files on a GPU where there is no DALI: nvJPEG decodes what it decodes as libjpeg does.

torchvision's nvJPEG repeats chroma samples where libjpeg interpolates them. A file with subsampled chroma, as most
cameras write it, would be another image on the GPU than on the CPU: up to 32 levels apart on the embedded dataset,
0.9 in the mean, where the CPU imitates both. Threads of the CPU decode and resize such files and those that are no
plain JPEG, as without a GPU; nvJPEG decodes the others of a batch in one call.

What torchvision's decoder (0.26 to 0.29) asks of its caller:
- One decoder serves the process, behind a lock. A call for another device rebuilds it and leaks the one before, and
  "cuda" is another device than "cuda:0". So the device has its index, and one thread calls.
- It decodes on a stream of its own, into memory of the caller's current stream, and does not wait for what that stream
  still has to do there. So a stream is current that nothing else uses, and its work has ended before each call.
- It waits for its stream before it returns. That happens on a thread of ours, so the training thread does not wait.
- One file that it refuses fails the whole call with a RuntimeError.
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

from gcl_fast.data.jpeg import JPEG, TorchvisionSource, as_tensor, small_jpeg
from gcl_fast.data.resize import resize

Ready = tuple[Tensor, torch.cuda.Event | None]  # a batch, and the event after which it holds its values


class NvjpegSource(TorchvisionSource):
    """Decoded batches of `paths`: uint8 (B, H, W, 3) on `device`.

    device: a CUDA device; on the CPU the same steps run without streams, and torchvision's libjpeg decodes.
    Raises RuntimeError where torchvision was built without nvJPEG.
    """

    engine = "torchvision-gpu"

    def __init__(self, paths: Sequence[Path], size: tuple[int, int], device: torch.device, threads: int) -> None:
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        super().__init__(paths, size, device, threads)
        decode_jpeg([as_tensor(small_jpeg())], mode="RGB", device=device)
        self._caller = ThreadPoolExecutor(1, thread_name_prefix="gcl_fast-nvjpeg")
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._last: torch.cuda.Event | None = None  # of the work on our stream

    def _begin(self, positions: np.ndarray) -> Future[Ready]:
        return self._caller.submit(self._batch, positions, self._split(self._open, positions))

    def _finish(self, begun: Future[Ready]) -> Tensor:
        images, ready = begun.result()
        if ready is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(ready)
            images.record_stream(stream)
        return images

    def _open(self, positions: np.ndarray) -> tuple[dict[int, bytes], dict[int, Tensor]]:
        """By position the files' bytes, for nvJPEG, and the crops (H, W, 3) that the CPU makes of the other files."""
        files = {int(position): self._read(position) for position in positions}
        encoded = {position: contents for position, contents in files.items() if for_nvjpeg(contents)}
        others = [position for position in files if position not in encoded]
        if not others:
            return encoded, {}
        crops = resize([self._decode_bytes(position, files[position]) for position in others], self._size)
        return encoded, dict(zip(others, crops))

    def _batch(self, positions: np.ndarray, parts: list[Future[tuple[dict[int, bytes], dict[int, Tensor]]]]) -> Ready:
        encoded, decoded = {}, {}
        for part in parts:
            encoded.update(part.result()[0])
            decoded.update(part.result()[1])
        if self._last is not None:
            self._last.synchronize()
        crops = []
        with self._on_stream():
            if encoded:
                crops.append(resize(self._decode_together(encoded), self._size))
            if decoded:
                crops.append(self._moved(torch.stack([*decoded.values()])))
            batch, order = torch.cat(crops), [*encoded, *decoded]
            if order != positions.tolist():  # two decoders, or a crop that comes twice
                places = {position: place for place, position in enumerate(order)}
                batch = batch[self._moved(torch.tensor([places[position] for position in positions.tolist()]))]
            self._last = self._stream.record_event() if self._stream is not None else None
        return batch, self._last

    def _decode_together(self, files: dict[int, bytes]) -> list[Tensor]:
        """Crops (h, w, 3) on the device, in one call; where it fails one by one, and by the CPU what is refused."""
        try:
            crops = decode_jpeg([as_tensor(file) for file in files.values()], mode="RGB", device=self._device)
            return [crop.permute(1, 2, 0) for crop in crops]
        except RuntimeError as error:
            if self._stream is not None:
                torch.cuda.synchronize(self._device)  # the failed call may still write to the memory it gave back
            if len(files) > 1:
                return [self._decode_together({position: file})[0] for position, file in files.items()]
            ((position, file),) = files.items()
            crop = self._moved(self._decode_bytes(position, file).contiguous())
            self._warn(position, "nvJPEG", error, "the CPU")
            return [crop]

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
