"""Make structure maps: render bodies in the loop at any yaw, or read the official pre-rendered images.

Both classes have the same call: `source(index, yaw)` with index (B,) int64 and yaw (B,) degrees returns (B, 1, H, W) in
-1..1 on the source's device; white is +1. `index` counts crops in the dataset's order. `yaw` is added to the crop's own
yaw, so that 0 is the crop's view. `source.turn(index, yaw)` returns a `Turn`, the views of a step: at 0 and at `yaw`.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gcl_fast.bodies.body_model import BodyModel
from gcl_fast.bodies.parameters import BodyParameters
from gcl_fast.bodies.rotation import axis_angle_to_matrix
from gcl_fast.data.broken_images import FORMATS, UNREADABLE, lacks_header
from gcl_fast.data.pillow_decoder import eight_bits
from gcl_fast.errors import UserError
from gcl_fast.kernels.transfer_appearance import Carried, transfer_appearance
from gcl_fast.render import render_structure
from gcl_fast.render.camera import view_transform
from gcl_fast.render.turn import Route, Turn, swap_neighbours

THREADS = 8  # that read headers
PRERENDERED_YAWS = tuple(range(0, 360, 45))


class OnlineStructureMaps:
    """Poses and rasterizes bodies at every call.

    Args:
        body: AnnyBody or SMPLBody; it is moved to `device`.
        params: body parameters in the dataset's order, see `align`.
        size: (H, W) of the maps.
        device: where bodies are rendered.

    Raises:
        UserError: the parameters are for another body model, or have a wrong number of shape columns.

    Example:
        >>> from gcl_fast.bodies import AnnyBody, walking_pose
        >>> one = torch.ones(1)
        >>> params = BodyParameters(
        ...     names=["0001.jpg"], model="anny", pose=walking_pose(torch.zeros(1)), shape=torch.full((1, 6), 0.5),
        ...     yaw=0 * one, camera=torch.tensor([[0.5, 0.5, 0.5, 0.0]]), confidence=one,
        ... )
        >>> structure_maps = OnlineStructureMaps(AnnyBody(), params, (128, 64), "cpu")
        >>> structure_maps(torch.tensor([0, 0]), torch.tensor([0.0, 90.0])).shape  # the crop's view, and turned
        torch.Size([2, 1, 128, 64])
    """

    def __init__(self, body: BodyModel, params: BodyParameters, size: tuple[int, int], device: torch.device | str):
        if params.model != body.name:
            raise UserError(f"body parameters are for the body model {params.model!r}, not {body.name!r}")
        body.check_shape(params.shape)
        self.body = body.to(device)
        self.params = params.to(device)
        self.size = size
        self.donors = self.body.donors  # made here, as a step must not wait for the CPU
        self._upright = axis_angle_to_matrix(self.params.pose[:, :3])[:, 1, 1] > 0  # the pelvis is the first joint

    @property
    def confidence(self) -> Tensor:
        """Return how sure the body of each crop is, (N,) in 0..1; 0 for one that stands on its head."""
        return self.params.confidence * self._upright

    @torch.no_grad()
    def __call__(self, index: Tensor, yaw: Tensor) -> Tensor:
        index, yaw = index.to(self.params.yaw.device), yaw.to(self.params.yaw)
        return self._maps(self._pose(index), index, yaw)

    @torch.no_grad()
    def turn(self, index: Tensor, yaw: Tensor) -> Turn:
        """Pose the bodies of crops once, for both views of a step.

        Args:
            index: (B,) int64 crops.
            yaw: (B,) degrees of the novel views.
        """
        index, yaw = index.to(self.params.yaw.device), yaw.to(self.params.yaw)
        vertices = self._pose(index)
        yaws = torch.zeros_like(yaw), yaw
        maps = self._maps(vertices.repeat(2, 1, 1), index.repeat(2), torch.cat(yaws))

        @cache  # a step carries by several routes
        def views() -> tuple[Tensor, Tensor]:
            own, novel = (self._transform(vertices, index, angle) for angle in yaws)
            return own, novel

        def carry(images: Tensor, route: Route) -> Carried:
            faces, donors, (own, novel) = self.body.faces, self.donors, views()
            if route == "neighbour":
                images, bodies, source = (swap_neighbours(x) for x in (images, vertices, own))
                return transfer_appearance(images, bodies, faces, donors, source, own, target_vertices=vertices)
            source, target = (own, novel) if route == "there" else (novel, own)
            return transfer_appearance(images, vertices, faces, donors, source, target)

        return Turn(maps, carry)

    def _pose(self, index: Tensor) -> Tensor:
        """Return the vertices (B, V, 3) of the bodies of crops."""
        return self.body(self.params.pose[index], self.params.shape[index])

    def _maps(self, vertices: Tensor, index: Tensor, yaw: Tensor) -> Tensor:
        params = self.params
        return render_structure(vertices, self.body.faces, params.yaw[index] + yaw, params.camera[index], self.size)

    def _transform(self, vertices: Tensor, index: Tensor, yaw: Tensor) -> Tensor:
        """Return the affine maps (B, 3, 4) of views at `yaw`."""
        return view_transform(vertices, self.params.yaw[index] + yaw, self.params.camera[index], self.size)


class PrerenderedStructureMaps:
    """Reads images of the official layout: <root>/{train,test}/render/NAME and render_{45,...,315}/NAME, grey on white.

    Each image is decoded at its first use and then kept in memory, H * W bytes each. A call raises a UserError if a yaw
    is no multiple of 45 degrees, or if an image does not decode.

    Args:
        root: folder of the splits.
        split: "train" or "test".
        names: names of the crops in the dataset's order, see `Records.names`.
        size: (H, W) of the maps; images are resized by bicubic interpolation.
        device: where the maps go.

    Raises:
        UserError: folders or images are missing.

    Example:
        >>> for folder in ("render", *(f"render_{yaw}" for yaw in range(45, 360, 45))):
        ...     Path("maps/train", folder).mkdir(parents=True)
        ...     Image.new("L", (64, 128), 255).save(f"maps/train/{folder}/0001.jpg")
        >>> structure_maps = PrerenderedStructureMaps("maps", "train", ["0001.jpg"], (128, 64), "cpu")
        >>> structure_maps(torch.tensor([0]), torch.tensor([45.0])).mean()  # white
        tensor(1.)
    """

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
                first = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
                raise UserError(
                    f"pre-rendered structure maps: {folder} lacks {len(missing)} of {len(names)} crops ({first})"
                )
        self.names = list(names)
        self.size = size
        self.device = torch.device(device)
        self.maps = torch.empty(len(PRERENDERED_YAWS), len(self.names), *size, dtype=torch.uint8)
        self.decoded = torch.zeros(len(PRERENDERED_YAWS), len(self.names), dtype=torch.bool)
        self.confidence = torch.ones(len(self.names), device=self.device)  # nothing is known of the estimates

    def check_headers(self) -> None:
        """Read the beginning of every image, so that a damaged one is found before training.

        Raises:
            UserError: files do not begin as images; the message names the first.
        """
        paths = [folder / name for folder in self.folders for name in self.names]
        with ThreadPoolExecutor(THREADS) as pool:
            damaged = [path for path, lacks in zip(paths, pool.map(lacks_header, paths)) if lacks]
        if damaged:
            raise UserError(
                f"pre-rendered structure maps: {len(damaged)} of {len(paths)} files are no images ({damaged[0]} is the"
                " first); render them again"
            )

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

    def turn(self, index: Tensor, yaw: Tensor) -> Turn:
        """Return the maps of both views of a step; arguments as in `OnlineStructureMaps.turn`."""
        return Turn(self(index.repeat(2), torch.cat([torch.zeros_like(yaw), yaw])))

    def _decode(self, path: Path) -> Tensor:
        """Read one image as grey (H, W) uint8."""
        height, width = self.size
        try:
            with Image.open(path, formats=FORMATS) as image:
                grey = eight_bits(image).convert("L").resize((width, height), Image.Resampling.BICUBIC)
        except UNREADABLE as error:
            raise UserError(f"pre-rendered structure map {path} does not decode ({error})") from error
        return torch.from_numpy(np.array(grey))
