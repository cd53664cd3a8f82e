"""Decode on a GPU where there is no DALI: nvJPEG takes the files that it decodes as libjpeg does.

torchvision's nvJPEG repeats chroma samples where libjpeg interpolates them. Most cameras subsample chroma, and such a
file would give another image on the GPU than on the CPU. So threads of the CPU decode and resize these files, and those
that are no plain JPEG. nvJPEG decodes the other files of a batch.

torchvision's decoder has these properties by its source; no GPU has tried them yet:
- One decoder serves the process, behind a lock. A call for another device rebuilds it and leaks the previous one, and
  "cuda" counts as another device than "cuda:0". So the device has its index.
- It decodes on a stream of its own, into memory of the caller's current stream. It does not wait for the work that this
  stream still does there. So the current stream is one that nothing else uses, and its work has ended before each call.
- It waits for its stream before it returns. So one thread makes all calls, and the training thread does not wait.
- One file that it refuses fails the whole call with a RuntimeError.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.io import decode_jpeg

from gcl_fast.data.resize import resize
from gcl_fast.data.torchvision_decoder import JPEG, TorchvisionDecoder, as_tensor, small_jpeg

Batch = tuple[Tensor, torch.cuda.Event | None]  # the crops, and the event after which the tensor holds their values


class NvjpegDecoder(TorchvisionDecoder):
    """Decodes batches of `paths` to uint8 (B, H, W, 3) on `device`.

    Args:
        paths: the image files.
        size: (H, W) of every crop.
        device: a CUDA device. On the CPU the same steps run without streams, and torchvision's libjpeg decodes.
        threads: threads of the CPU.

    Raises:
        RuntimeError: torchvision was built without nvJPEG.
    """

    engine = "torchvision-gpu"

    def __init__(self, paths: Sequence[Path], size: tuple[int, int], device: torch.device, threads: int) -> None:
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        super().__init__(paths, size, device, threads)
        decode_jpeg([as_tensor(small_jpeg())], mode="RGB", device=device)
        self._caller = _caller(device)

    def _begin(self, positions: np.ndarray) -> Future[Batch]:
        """Start to read a batch, and queue it on the caller's thread."""
        return self._caller.thread.submit(self._batch, positions, self._split(self._open, positions))

    def _finish(self, handle: Future[Batch]) -> Tensor:
        """Wait for the caller's thread, and make the current stream wait for the batch's values."""
        images, ready = handle.result()
        if ready is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(ready)
            images.record_stream(stream)
        return images

    def _open(self, positions: np.ndarray) -> tuple[dict[int, bytes], dict[int, Tensor]]:
        """Read files; return, by position, the bytes of those for nvJPEG and the crops (H, W, 3) of the others."""
        files = {int(position): self._read(position) for position in positions}
        plain = {position: contents for position, contents in files.items() if for_nvjpeg(contents)}
        others = [position for position in files if position not in plain]
        if not others:
            return plain, {}
        crops = resize([self._decode_bytes(position, files[position]) for position in others], self._size)
        return plain, dict(zip(others, crops))

    def _batch(self, positions: np.ndarray, parts: list[Future[tuple[dict[int, bytes], dict[int, Tensor]]]]) -> Batch:
        """Decode nvJPEG's files on the caller's thread, and put all crops in the order of `positions`."""
        files, crops = dict[int, bytes](), dict[int, Tensor]()
        for part in parts:
            files.update(part.result()[0])
            crops.update(part.result()[1])
        caller = self._caller
        if caller.last is not None:
            caller.last.synchronize()
        with caller.on_stream():
            groups = [resize(self._decode_together(files), self._size)] if files else []
            if crops:
                groups.append(self._moved(torch.stack([*crops.values()])))
            batch, order = groups[0] if len(groups) == 1 else torch.cat(groups), [*files, *crops]
            if order != positions.tolist():  # two decoders, or a crop that comes twice
                places = {position: place for place, position in enumerate(order)}
                batch = batch[self._moved(torch.tensor([places[position] for position in positions.tolist()]))]
            caller.last = caller.stream.record_event() if caller.stream is not None else None
        return batch, caller.last

    def _decode_together(self, files: dict[int, bytes]) -> list[Tensor]:
        """Decode `files` to crops (h, w, 3) on the device: in one call, else one by one, else by the CPU."""
        try:
            crops = decode_jpeg([as_tensor(file) for file in files.values()], mode="RGB", device=self._device)
            return [crop.permute(1, 2, 0) for crop in crops]
        except RuntimeError as error:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)  # the failed call may still write to memory that it has freed
            if len(files) > 1:
                return [self._decode_together({position: file})[0] for position, file in files.items()]
            ((position, file),) = files.items()
            crop = self._moved(self._decode_bytes(position, file).contiguous())
            self._warn(position, "nvJPEG", error, "the CPU")
            return [crop]

    def _moved(self, tensor: Tensor) -> Tensor:
        """Copy `tensor` from the CPU to the device."""
        return tensor.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else tensor


class _Caller:
    """Holds what all decoders of a device share: the thread that calls nvJPEG, its stream, the end of its last work."""

    def __init__(self, device: torch.device) -> None:
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="gcl_fast-nvjpeg")
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.last: torch.cuda.Event | None = None

    def on_stream(self) -> AbstractContextManager[object]:
        """Return a context in which the caller's stream is the current one."""
        return nullcontext() if self.stream is None else torch.cuda.stream(self.stream)


_caller = cache(_Caller)


def for_nvjpeg(contents: bytes) -> bool:
    """Return whether nvJPEG decodes a file's `contents` to the image that libjpeg gives.

    It does so for a complete JPEG of 8 bits, baseline or progressive, that is grey or has chroma of full size.
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
