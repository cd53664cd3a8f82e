"""Body parameters of a list of crops, and their file.

A file is an uncompressed .npz beside the dataset, <dataset_root>/body_parameters/{train,query,gallery}.npz, with

    names       (N,)       unicode   file names of the crops (no folder)
    model       ()         unicode   "anny" or "smpl": the body model that the two next are for
    pose        (N, J * 3) float32   axis-angle per joint, radians; J = 19 (anny), 24 (smpl)
    shape       (N, S)     float32   anny: 6 phenotypes in [0, 1]; smpl: betas
    yaw         (N,)       float32   degrees about the vertical axis: 0 faces the camera, +90 the image's right
    camera      (N, 4)     float32   scale (crop heights per metre), x, y (the body's centre as fractions of the crop's
                                     width and height), pitch (degrees, positive looks down)
    confidence  (N,)       float32   0 doubtful .. 1 certain (1 for what is known exactly)

No key is optional and every number is finite.
"""

from __future__ import annotations

import zipfile
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


@dataclass(frozen=True)
class BodyParameters:
    """Body, view and camera of N crops; the fields are those of the file, as tensors."""

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
        """The per-crop tensors by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("names", "model")}

    def subset(self, index: Sequence[int] | Tensor) -> BodyParameters:
        """The crops at these places, in this order."""
        rows = torch.as_tensor(index, dtype=torch.long)
        taken = {key: value[rows.to(value.device)] for key, value in self.tensors().items()}
        return replace(self, names=[self.names[i] for i in rows.tolist()], **taken)

    def to(self, device: torch.device | str) -> BodyParameters:
        """The same parameters with their tensors on `device`."""
        return replace(self, **{key: value.to(device) for key, value in self.tensors().items()})


def check_body_parameters(params: BodyParameters, where: str) -> None:
    """Raise UserError, naming `where`, unless shapes agree, numbers are finite and names are unique."""
    if params.model not in POSE_WIDTH:
        raise UserError(f"{where}: unknown body model {params.model!r}; known: {', '.join(POSE_WIDTH)}")
    count = len(params.names)
    widths = {"pose": POSE_WIDTH[params.model], "shape": params.shape.shape[-1], "camera": 4}
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
        seen: set[str] = set()
        twice = next(name for name in params.names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise UserError(f"{where}: {twice!r} is listed twice; file names must be unique")


def save_body_parameters(path: str | Path, params: BodyParameters) -> None:
    """Write the file in one step: readers see the old file or the whole new one.

    Raises UserError where the parameters are inconsistent (nothing is written then)."""
    path = Path(path)
    check_body_parameters(params, str(path))
    arrays: dict[str, Any] = {key: value.detach().cpu().float().numpy() for key, value in params.tensors().items()}
    names, model = np.array(params.names, dtype=np.str_), np.array(params.model)
    write_atomically(path, lambda file: np.savez(file, names=names, model=model, **arrays))


def load_body_parameters(path: str | Path) -> BodyParameters:
    """Read and check a file. Raises UserError where it is missing, damaged or inconsistent."""
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"no body parameters at {path}; make them with `python -m gcl_fast.estimate --images DIR --out {path}`"
        )
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
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, KeyError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: damaged or not an .npz file ({error}); make it again") from error
    params = BodyParameters(names, model, **tensors)
    check_body_parameters(params, str(path))
    return params


def align(params: BodyParameters, names: Sequence[str], path: str | Path) -> BodyParameters:
    """The parameters of exactly these crops, in this order.

    path: where the parameters come from, for the message. Raises UserError that lists the first crops without any."""
    place = {name: i for i, name in enumerate(params.names)}
    missing = [name for name in names if name not in place]
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise UserError(
            f"{path}: no body parameters for {len(missing)} of {len(names)} crops ({shown}); "
            f"make them with `python -m gcl_fast.estimate`, or remove these crops"
        )
    return params.subset([place[name] for name in names])
