"""Where structure maps come from: bodies rendered in the loop at any yaw, or the official pre-rendered pictures.

Both are called alike: `source(index (B,) int64, yaw (B,) degrees) -> (B, 1, H, W)` in [-1, 1], white = +1, on the
source's device. `index` counts crops in the dataset's order; `yaw` is added to the crop's own: 0 is the crop's view.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gcl_fast.bodies.body_model import BodyModel
from gcl_fast.bodies.parameters import BodyParameters
from gcl_fast.errors import UserError
from gcl_fast.render import render_structure

PRERENDERED_YAWS = tuple(range(0, 360, 45))


class OnlineStructureMaps:
    """Structure maps of body parameters, posed and rasterized at every call.

    body: AnnyBody or SMPLBody; moved to `device`. params: in dataset order (see `align`). size: (H, W) of the maps.
    Raises UserError where the parameters are for another body model, or for one with other shapes."""

    def __init__(self, body: BodyModel, params: BodyParameters, size: tuple[int, int], device: torch.device | str):
        if params.model != body.name:
            raise UserError(f"body parameters are for the body model {params.model!r}, not {body.name!r}")
        body.check_shape(params.shape)
        self.body = body.to(device)
        self.params = params.to(device)
        self.size = size

    @torch.no_grad()
    def __call__(self, index: Tensor, yaw: Tensor) -> Tensor:
        params = self.params
        index, yaw = index.to(params.yaw.device), yaw.to(params.yaw)
        vertices = self.body(params.pose[index], params.shape[index])
        return render_structure(vertices, self.body.faces, params.yaw[index] + yaw, params.camera[index], self.size)


class PrerenderedStructureMaps:
    """The official layout: <root>/{train,test}/render/NAME and render_{45,...,315}/NAME, grey pictures on white.

    split: "train" or "test". names: of the crops, see `Records.names`, in dataset order. size: (H, W) to which pictures
    are resized (bicubic). Each picture is decoded when first asked for and kept as uint8 (Market-1501's training crops
    at 256x128: 3.4 GB once every view was seen). Raises UserError for missing folders or pictures, and for a yaw that
    is no multiple of 45 degrees."""

    def __init__(
        self, root: str | Path, split: str, names: Sequence[str], size: tuple[int, int], device: torch.device | str
    ):
        base = Path(root) / split
        self.folders = [base / (f"render_{yaw}" if yaw else "render") for yaw in PRERENDERED_YAWS]
        absent = [folder.name for folder in self.folders if not folder.is_dir()]
        if absent:
            raise UserError(
                f"pre-rendered structure maps: no {', '.join(absent)} under {base}; expected {base}/render/NAME and "
                f"{base}/render_45/NAME ... render_315/NAME"
            )
        for folder in self.folders:
            missing = [name for name in names if not (folder / name).is_file()]
            if missing:
                shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
                raise UserError(
                    f"pre-rendered structure maps: {folder} lacks {len(missing)} of {len(names)} crops ({shown})"
                )
        self.names = list(names)
        self.size = size
        self.device = torch.device(device)
        self.maps = torch.empty(len(PRERENDERED_YAWS), len(self.names), *size, dtype=torch.uint8)
        self.decoded = torch.zeros(len(PRERENDERED_YAWS), len(self.names), dtype=torch.bool)

    def __call__(self, index: Tensor, yaw: Tensor) -> Tensor:
        step = (yaw.double() / 45).cpu()
        if not torch.allclose(step, step.round(), atol=1e-4):
            raise UserError(
                f"pre-rendered structure maps exist at multiples of 45 degrees only, not at {yaw.tolist()}; "
                f"use body parameters for any yaw"
            )
        view, index = step.round().long() % len(PRERENDERED_YAWS), index.cpu()
        for v, i in torch.stack((view, index), 1)[~self.decoded[view, index]].tolist():
            self.maps[v, i] = self._decode(self.folders[v] / self.names[i])
            self.decoded[v, i] = True
        return self.maps[view, index, None].to(self.device).float() / 127.5 - 1

    def _decode(self, path: Path) -> Tensor:
        height, width = self.size
        try:
            with Image.open(path) as picture:
                grey = picture.convert("L").resize((width, height), Image.Resampling.BICUBIC)
        except OSError as error:
            raise UserError(f"pre-rendered structure map {path} does not decode ({error})") from error
        return torch.from_numpy(np.array(grey))
