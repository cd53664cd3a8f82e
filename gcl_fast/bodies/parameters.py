"""Hold body parameters of crops, and read and write their files.

A file is an uncompressed .npz in the dataset's folder, <dataset_root>/body_parameters/{train,query,gallery}.npz, with

    names       (N,)       unicode   the crops' paths below their split's folder, with forward slashes
    model       ()         unicode   "anny" or "smpl": the body model of pose and shape
    pose        (N, J * 3) float32   axis-angle per joint, radians; J = 19 (anny), 24 (smpl)
    shape       (N, S)     float32   anny: 6 phenotypes in [0, 1]; smpl: betas, as many as the model's file has or less
    yaw         (N,)       float32   degrees about the vertical axis: 0 faces the camera, +90 the image's right
    camera      (N, 4)     float32   scale (crop heights per metre), x, y (the body's centre as fractions of the crop's
                                     width and height), pitch (degrees, positive looks down)
    confidence  (N,)       float32   0 doubtful .. 1 certain

No key is optional and every number is finite.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gcl_fast.atomic import write_atomically
from gcl_fast.errors import UserError

POSE_WIDTH = {"anny": 57, "smpl": 72}
SHAPE_WIDTH = {"anny": 6, "smpl": 10}  # smpl: the usual number, any other is allowed
DAMAGED = (  # errors of np.load; MemoryError: the header of an array claims more than the machine has
    *(zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, KeyError, TypeError, MemoryError),
)


@dataclass(frozen=True)
class BodyParameters:
    """Holds body, view and camera of N crops, in the file's fields as tensors.

    Attributes:
        names: the crops' paths below their split's folder.
        model: "anny" or "smpl".
        pose: (N, J * 3) axis-angle in radians.
        shape: (N, S) phenotypes in 0..1, or SMPL's betas.
        yaw: (N,) degrees; 0 faces the camera, +90 the image's right.
        camera: (N, 4) scale (crop heights per metre), x, y (fractions of the crop), pitch (degrees).
        confidence: (N,) 0..1.
    """

    names: list[str]
    model: str
    pose: Tensor  # (N, J * 3)
    shape: Tensor  # (N, S)
    yaw: Tensor  # (N,)
    camera: Tensor  # (N, 4)
    confidence: Tensor  # (N,)

    def __len__(self) -> int:
        return len(self.names)

    def tensors(self) -> dict[str, Any]:
        """Return the tensors by field name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("names", "model")}

    def subset(self, index: Sequence[int] | Tensor) -> BodyParameters:
        """Return the parameters of the crops at positions `index` (B,), in that order."""
        rows = torch.as_tensor(index, dtype=torch.long)
        tensors = {key: value[rows.to(value.device)] for key, value in self.tensors().items()}
        return replace(self, names=[self.names[i] for i in rows.tolist()], **tensors)

    def to(self, device: torch.device | str) -> BodyParameters:
        """Return the parameters with their tensors on `device`."""
        return replace(self, **{key: value.to(device) for key, value in self.tensors().items()})


def check_body_parameters(params: BodyParameters, where: str) -> None:
    """Raise UserError, naming `where`, unless shapes agree, numbers are finite and names are unique."""
    if params.model not in POSE_WIDTH:
        raise UserError(f"{where}: unknown body model {params.model!r}; known: {', '.join(POSE_WIDTH)}")
    count = len(params.names)
    widths = {"pose": POSE_WIDTH[params.model], "shape": SHAPE_WIDTH[params.model], "camera": 4}
    if params.model == "smpl" and params.shape.dim() == 2:
        widths["shape"] = params.shape.shape[1]
    for key, value in params.tensors().items():
        expected = (count, widths[key]) if key in widths else (count,)
        if tuple(value.shape) != expected:
            raise UserError(f"{where}: {key} has shape {tuple(value.shape)}, expected {expected} for {count} names")
        if not value.isfinite().all():
            row = int((~value.isfinite()).reshape(count, -1).any(1).nonzero()[0])
            raise UserError(
                f"{where}: {key} of {params.names[row]!r} is not finite; estimate this crop again or leave it out"
            )
    if (params.camera[:, 0] <= 0).any():
        row = int((params.camera[:, 0] <= 0).nonzero()[0])
        raise UserError(f"{where}: camera scale of {params.names[row]!r} is not positive (crop heights per metre)")
    if len(set(params.names)) != count:
        names: set[str] = set()
        repeat = next(name for name in params.names if name in names or names.add(name))  # type: ignore[func-returns-value]
        raise UserError(f"{where}: {repeat!r} is listed twice; file names must be unique")


def save_body_parameters(path: str | Path, params: BodyParameters) -> None:
    """Write a body-parameter file atomically: readers see the old file or the complete new one.

    Args:
        path: the .npz; its folder is made if missing.
        params: the parameters.

    Raises:
        UserError: the parameters are inconsistent; nothing is written.

    Example:
        >>> from gcl_fast.bodies import walking_pose
        >>> one = torch.ones(1)
        >>> params = BodyParameters(
        ...     names=["0001.jpg"], model="anny", pose=walking_pose(torch.zeros(1)), shape=torch.full((1, 6), 0.5),
        ...     yaw=90 * one, camera=torch.tensor([[0.5, 0.5, 0.5, 0.0]]), confidence=one,
        ... )
        >>> save_body_parameters("body_parameters/train.npz", params)
        >>> load_body_parameters("body_parameters/train.npz").yaw
        tensor([90.])
    """
    path = Path(path)
    check_body_parameters(params, str(path))
    arrays: dict[str, Any] = {key: value.detach().cpu().float().numpy() for key, value in params.tensors().items()}
    names, model = np.array(params.names, dtype=np.str_), np.array(params.model)
    write_atomically(path, lambda file: np.savez(file, names=names, model=model, **arrays))


def load_body_parameters(path: str | Path) -> BodyParameters:
    """Read and check a body-parameter file.

    Args:
        path: the .npz.

    Returns:
        The parameters, on the CPU.

    Raises:
        UserError: the file is missing, damaged or inconsistent.

    Example:
        >>> one = torch.ones(1)
        >>> params = BodyParameters(
        ...     ["0001.jpg"], "anny", torch.zeros(1, 57), torch.zeros(1, 6), one, torch.ones(1, 4), one
        ... )
        >>> save_body_parameters("train.npz", params)
        >>> params = load_body_parameters("train.npz")
        >>> len(params), params.model, params.names
        (1, 'anny', ['0001.jpg'])
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no body parameters at {path}; make them with `gcl-fast estimate --images DIR --out {path}`")
    keys = [f.name for f in fields(BodyParameters)]
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [key for key in keys if key not in file]
            if missing:
                raise UserError(f"{path}: not a body-parameter file, it lacks {', '.join(missing)}")
            names, model = [str(name) for name in np.atleast_1d(file["names"])], str(file["model"])
            tensors = {
                key: torch.from_numpy(file[key].astype(np.float32)) for key in keys if key not in ("names", "model")
            }
    except DAMAGED as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: damaged or not an .npz file ({error}); make it again") from error
    params = BodyParameters(names, model, **tensors)
    check_body_parameters(params, str(path))
    return params


def align(params: BodyParameters, names: Sequence[str], path: str | Path, images: str | Path = "DIR") -> BodyParameters:
    """Select the parameters of given crops, in their order.

    Args:
        params: the parameters of these crops and perhaps others.
        names: the crops, see `Records.names`.
        path: the parameters' file, for the error message.
        images: the folder that `names` are relative to, for the error message.

    Returns:
        The parameters of `names`.

    Raises:
        UserError: crops have no parameters; the message lists the first of them.

    Example:
        >>> params = BodyParameters(
        ...     ["a.jpg", "b.jpg"], "anny", torch.zeros(2, 57), torch.zeros(2, 6), torch.tensor([0.0, 90.0]),
        ...     torch.ones(2, 4), torch.ones(2),
        ... )
        >>> align(params, ["b.jpg", "a.jpg"], "train.npz").yaw
        tensor([90.,  0.])
    """
    place = {name: i for i, name in enumerate(params.names)}
    missing = [name for name in names if name not in place]
    if missing:
        first = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise UserError(
            f"{path}: no body parameters for {len(missing)} of {len(names)} crops ({first}); "
            f"make them with `gcl-fast estimate --images {images} --out FILE`, or remove these crops"
        )
    return params.subset([place[name] for name in names])
