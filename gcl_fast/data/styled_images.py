"""Give each crop several images: the crop, and versions in the style of other cameras if a folder holds them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gcl_fast.data.layouts.image_names import IMAGE_SUFFIXES
from gcl_fast.data.records import Records
from gcl_fast.errors import UserError
from gcl_fast.random_streams import Stream, numpy_generator


class StyledImages:
    """Holds the images of each crop: the crop and its versions in the style of other cameras.

    Args:
        records: the N crops.
        folder: folder of images named after crops, as CamStyle (Zhong et al. 2018) writes them:
            0002_c1s1_000451_01_fake_1to2.jpg is a version of 0002_c1s1_000451_01.jpg. "" means none: each crop is its
            only image.

    Attributes:
        records: M image files: the crops, then the styled images.
        owner: (M,) int64 crop of each image.

    Raises:
        UserError: the folder is missing, or none of its images has the name of a crop.
    """

    def __init__(self, records: Records, folder: str = "") -> None:
        paths, owners = _read_folder(records, Path(folder)) if folder else ([], [])
        rows = np.concatenate([np.arange(len(records)), np.array(owners, np.int64)])
        self.records = Records(
            records.root,
            [*records.paths, *paths],
            records.identity[rows],
            records.camera[rows],
            records.frame[rows],
            records.tracklet[rows],
        )
        self.owner = torch.from_numpy(rows)
        order = np.argsort(rows, kind="stable")
        self._count = np.bincount(rows, minlength=len(records))  # (N,)
        self._members = np.full((len(records), int(self._count.max(initial=1))), -1)  # (N, most), padded with -1
        place = np.arange(len(rows)) - np.repeat(self._count.cumsum() - self._count, self._count)
        self._members[rows[order], place] = order

    def draw(self, plan: Tensor, count: int, seed: int, epoch: int, rank: int = 0, world_size: int = 1) -> Tensor:
        """Replace each crop of a plan by some of its images.

        The images of a crop are distinct if it has enough of them; otherwise they repeat. The draw is what one process
        would draw for the whole batch.

        Args:
            plan: (steps, batch) int64 crops of this rank.
            count: images per crop.
            seed: seed of the run.
            epoch: number of the epoch.
            rank: this process's number in 0..world_size-1.
            world_size: number of processes.

        Returns:
            Image numbers (steps, batch * count) int64; the images of a crop are consecutive.
        """
        crops = plan.numpy()
        members, available = self._members[crops], self._count[crops]  # (steps, batch, most), (steps, batch)
        steps, batch, most = members.shape
        keys = numpy_generator(seed, epoch, 0, Stream.STYLE).random((steps, world_size, batch, most))[:, rank]
        order = np.take_along_axis(members, np.where(members < 0, 2.0, keys).argsort(-1), -1)
        turn = np.arange(count) % available[..., None]  # (steps, batch, count)
        return torch.from_numpy(np.take_along_axis(order, turn, -1).reshape(steps, batch * count))


def _read_folder(records: Records, folder: Path) -> tuple[list[Path], list[int]]:
    """Return the styled images in a folder and the crop of each."""
    if not folder.is_dir():
        raise UserError(f"styled images: there is no folder {folder}")
    crop_of = {path.stem: i for i, path in enumerate(records.paths)}
    pairs = []
    for path in sorted(folder.iterdir()):
        name, _, _ = path.stem.rpartition("_fake_")
        if path.suffix.lower() in IMAGE_SUFFIXES and name in crop_of:
            pairs.append((path.resolve(), crop_of[name]))
    if not pairs:
        example = f"{records.paths[0].stem}_fake_1to2.jpg"
        raise UserError(f"styled images: none in {folder} is named after a training crop; expected {example}")
    paths, owners = zip(*pairs)
    return list(paths), list(owners)
