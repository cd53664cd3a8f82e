"""Read images of any kind as batches: files, folders, PIL images, arrays, tensors, and iterators over these."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gcl_fast.assessment.extract import BATCH
from gcl_fast.data import ExtractLoader, Records, open_dataset
from gcl_fast.data.augment import no_change
from gcl_fast.data.broken_images import blank_image, lacks_header
from gcl_fast.data.pillow_decoder import rgb
from gcl_fast.data.resize import resize
from gcl_fast.errors import UserError
from gcl_fast.kernels.sample_crops import sample_crops

CHUNK = 4096  # items of an iterator that are taken at a time

Images = Any  # see `read`; a union of so many kinds says less than its words


class Batch(NamedTuple):
    """Holds some images of a sequence; `decoded` is False where a file does not decode, and its image is blank."""

    images: Tensor  # (B, 3, H, W) float32, ImageNet-normalized
    places: Tensor  # (B,) int64, in the sequence
    decoded: Tensor  # (B,) bool


def find_images(folder: str | Path) -> list[Path]:
    """Return the image files below a folder, in the order in which `Model.embed` takes them.

    Args:
        folder: searched with all its subfolders.

    Returns:
        Absolute paths, sorted.

    Raises:
        UserError: there is no such folder, or no image in it.

    Example:
        >>> Image.new("RGB", (64, 128)).save("someone.jpg")
        >>> [path.name for path in find_images(".")]
        ['someone.jpg']
    """
    return open_dataset("folder", folder).train.paths


def listed(images: Images) -> list[Any] | Iterator[Any]:
    """Return the single images in `images`: a list where their number is known, else an iterator.

    Raises:
        UserError: no file or folder of that name, a folder without images, or an object that is no image.
    """
    if isinstance(images, (str, Path)):
        return list(listed_files([Path(images)]))
    if isinstance(images, (np.ndarray, Tensor, Image.Image)):
        return _singles(images)
    if not isinstance(images, Iterable):
        raise UserError(f"{type(images).__name__} is no image; expected {KINDS}")
    singles = (one for item in images for one in _singles(item))
    return list(singles) if hasattr(images, "__len__") else singles


def _singles(item: Any) -> list[Any]:
    """Return the single images in an item of an iterable: those of a folder, or of an array with a batch."""
    if isinstance(item, (str, Path)) and Path(item).is_dir():
        return find_images(item)
    return list(item) if isinstance(item, (np.ndarray, Tensor)) and item.ndim == 4 else [item]


def listed_files(paths: Iterable[Path]) -> list[Path]:
    """Return image files as they are, and the images below folders.

    Raises:
        UserError: nothing is at a path, or a folder holds no image.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"there is no image {path}; give image files or folders")
        files += find_images(path) if path.is_dir() else [path]
    return files


KINDS = (
    "a path, a folder, a PIL image, a uint8 array (H, W, 3) or (N, H, W, 3), a uint8 tensor (3, H, W) or (N, 3, H, W),"
    " or an iterable of these"
)


def read(items: Iterable[Any], size: tuple[int, int], device: torch.device, *, bgr: bool = False) -> Iterator[Batch]:
    """Yield single images in batches; consecutive files are decoded together, by the decoder that training uses.

    The resize is the one of training and evaluation: bicubic with antialiasing, on uint8, as Pillow 12 computes it.

    Args:
        items: what `listed` returns.
        size: (H, W) of the batches.
        device: where the batches go.
        bgr: arrays and tensors have the channels blue, green, red, as OpenCV reads them.

    Raises:
        UserError: an item that is no image, or `bgr` with a file or a PIL image.
    """
    place, iterator = 0, iter(items)
    while chunk := list(islice(iterator, CHUNK)):
        begin = 0
        while begin < len(chunk):
            files = isinstance(chunk[begin], (str, Path))
            end = begin + 1
            while end < len(chunk) and isinstance(chunk[end], (str, Path)) == files and (files or end - begin < BATCH):
                end += 1
            part = chunk[begin:end]
            if files:
                _refuse_bgr(bgr, part[0])
                batches = _from_files([Path(item) for item in part], size, device)
            else:
                batches = iter([_from_memory(part, size, device, bgr)])
            for images, index, decoded in batches:
                yield Batch(images, index + place + begin, decoded)
            begin = end
        place += len(chunk)


def pixels(image: Any, bgr: bool = False) -> Tensor:
    """Return a single image in memory as (h, w, 3) uint8, RGB.

    Raises:
        UserError: another kind, shape or dtype.

    Example:
        >>> pixels(np.zeros((128, 64, 3), np.uint8)).shape
        torch.Size([128, 64, 3])
    """
    if isinstance(image, Image.Image):
        _refuse_bgr(bgr, image)
        return rgb(image)
    if isinstance(image, np.ndarray):
        tensor, planes, layout = torch.from_numpy(np.array(image)), False, "(H, W, 3)"
    elif isinstance(image, Tensor):
        tensor, planes, layout = image, True, "(3, H, W)"
    else:
        raise UserError(f"{type(image).__name__} is no image; expected {KINDS}")
    if tensor.dtype != torch.uint8:
        raise UserError(f"an image has dtype {str(tensor.dtype).removeprefix('torch.')}; expected uint8, 0 to 255")
    if tensor.ndim != 3 or tensor.shape[0 if planes else 2] != 3 or 0 in tensor.shape:
        kind = "tensor" if planes else "array"
        raise UserError(f"an image has shape {tuple(tensor.shape)}; expected {layout} of a uint8 {kind}")
    tensor = tensor.permute(1, 2, 0) if planes else tensor
    return (tensor.flip(2) if bgr else tensor).contiguous()


def _refuse_bgr(bgr: bool, image: object) -> None:
    if bgr:
        raise UserError(f"bgr=True with {type(image).__name__}: files and PIL images name their channels; leave it out")


def _from_files(paths: list[Path], size: tuple[int, int], device: torch.device) -> Iterator[Batch]:
    """Yield the images of files; one that is missing or does not decode is blank."""
    # DALI 2.4 crashes in a batch of some dozen files of which one has no header that it can read
    headless = {place for place, path in enumerate(paths) if lacks_header(path)}
    files = [blank_image() if place in headless else path for place, path in enumerate(paths)]
    unknown = np.zeros(len(paths), np.int64)
    loader = ExtractLoader(Records(Path(), files, unknown, unknown, unknown), size, device, BATCH)
    for images, index in loader:
        blank = torch.tensor([place in loader.blanks | headless for place in index.tolist()], device=device)
        yield Batch(images, index, ~blank)


def _from_memory(items: list[Any], size: tuple[int, int], device: torch.device, bgr: bool) -> Batch:
    """Return images in memory as one batch."""
    crops = resize([pixels(item, bgr).to(device) for item in items], size)
    places = torch.arange(len(items), device=device)
    images = sample_crops(crops, places, *no_change(len(items)).to(device))
    return Batch(images, places, torch.ones(len(items), dtype=torch.bool, device=device))
