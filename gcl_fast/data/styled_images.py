"""A crop in several pictures: itself and, where a folder holds them, versions in the style of other cameras."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gcl_fast.data.readers import PICTURES
from gcl_fast.data.records import Records
from gcl_fast.errors import UserError


class StyledImages:
    """The pictures of each crop of `records`.

    Args:
        folder: of pictures named after a crop: 0002_c1s1_000451_01.jpg has 0002_c1s1_000451_01_fake_1to2.jpg and the
            like (Zhong et al. 2018, CamStyle). "": each crop has one picture, itself.

    Attributes:
        records: the crops, then the styled pictures.
        owner: (M,) int64 crop of each picture.

    Raises:
        UserError: no such folder, or none of its pictures bears the name of a crop.
    """

    def __init__(self, records: Records, folder: str = "") -> None:
        styled, owners = _styled(records, Path(folder)) if folder else ([], [])
        rows = np.concatenate([np.arange(len(records)), np.array(owners, np.int64)])
        self.records = Records(
            records.root,
            [*records.paths, *styled],
            records.identity[rows],
            records.camera[rows],
            records.frame[rows],
        )
        self.owner = torch.from_numpy(rows)
        order = np.argsort(rows, kind="stable")
        self._count = np.bincount(rows, minlength=len(records))  # (N,)
        self._members = np.full((len(records), int(self._count.max(initial=1))), -1)  # (N, most), padded with -1
        place = np.arange(len(rows)) - np.repeat(self._count.cumsum() - self._count, self._count)
        self._members[rows[order], place] = order

    def draw(self, plan: Tensor, count: int, seed: int, epoch: int, rank: int = 0, world_size: int = 1) -> Tensor:
        """Replace each crop of `plan` (steps, batch) by `count` of its pictures, side by side: (steps, batch * count).

        They are different as far as there are enough, then come again. `plan` is the slice of `rank`; what is drawn is
        what one process would draw for the whole batch.
        """
        crops = plan.numpy()
        members, available = self._members[crops], self._count[crops]  # (steps, batch, most), (steps, batch)
        steps, batch, most = members.shape
        keys = np.random.default_rng([seed, epoch, 7]).random((steps, world_size, batch, most))[:, rank]
        shuffled = np.take_along_axis(members, np.where(members < 0, 2.0, keys).argsort(-1), -1)
        turn = np.arange(count) % available[..., None]  # (steps, batch, count)
        return torch.from_numpy(np.take_along_axis(shuffled, turn, -1).reshape(steps, batch * count))


def _styled(records: Records, folder: Path) -> tuple[list[Path], list[int]]:
    if not folder.is_dir():
        raise UserError(f"styled pictures: there is no folder {folder}")
    crop_of = {path.stem: i for i, path in enumerate(records.paths)}
    found = []
    for path in sorted(folder.iterdir()):
        name, _, _ = path.stem.rpartition("_fake_")
        if path.suffix.lower() in PICTURES and name in crop_of:
            found.append((path.resolve(), crop_of[name]))
    if not found:
        example = f"{records.paths[0].stem}_fake_1to2.jpg"
        raise UserError(f"styled pictures: none in {folder} is named after a training crop; expected {example}")
    paths, owners = zip(*found)
    return list(paths), list(owners)
