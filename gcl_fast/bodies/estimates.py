"""SMPL estimates that users already have (HMR, SPIN, PARE, 4D-Humans, ...) as body parameters.

`python -m gcl_fast.bodies.estimates --estimates est.npz --smpl SMPL_NEUTRAL.pkl --images DIR --out train.npz`

The estimates are an .npz without pickled objects, one row per crop, with these keys (alternatives after "or"):

    names or imgname   (N,)           the crops' paths below the folder of their split; longer ones too where --images
                                      names that folder (without it absolute paths lose their folders)
    pose               (N, 72)        axis-angle, pelvis ("global orient") first, in the estimator's camera;
                       (N, 24, 3, 3)  or the same as rotation matrices; or, instead of pose, both of
      global_orient    (N, 3)         or (N, 1, 3, 3), (N, 3, 3)
      body_pose        (N, 69)        or (N, 23, 3, 3)
    betas              (N, S)         SMPL shape
    cam or pred_cam    (N, 3)         weak perspective (s, tx, ty) of the square that the estimator saw: a point
                                      (X, Y, Z) of the posed body falls at s * (X + tx), s * (Y + ty), from the centre
                                      of the square, in units of half its side, y down
    square             (N, 3)         optional: centre x, centre y and side of that square in pixels of the crop;
                                      where absent, the square around the crop: same centre, side = max(H, W)
    size               (N, 2)         optional: height and width of the crops in pixels; where absent, they are read
                                      from the pictures (--images)
    confidence         (N,)           optional, 1 where absent

An estimator's camera looks along +z with y down, so its pelvis rotation of an upright person who faces the camera is
half a turn about x. It is split here into pitch, yaw and a rest that stays in the pose: the trunk's tilt towards the
camera is taken as the camera's pitch (up to MAX_PITCH), the facing direction as yaw.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path, PurePath

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gcl_fast.bodies.parameters import DAMAGED, BodyParameters, check_body_parameters, save_body_parameters
from gcl_fast.bodies.rotation import axis_angle_to_matrix, matrix_to_axis_angle
from gcl_fast.bodies.smpl import SMPLBody
from gcl_fast.errors import UserError

MAX_PITCH = 40.0  # degrees; more is a person who bends or lies


def split_view(orient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Yaw and pitch in degrees (B,) and the remaining pelvis rotation (B, 3, 3) in the body frame.

    orient: (B, 3, 3) in the estimator's camera. They compose back: flip @ orient = Rx(pitch) @ Ry(yaw) @ rest."""
    upright = orient * orient.new_tensor([1.0, -1.0, -1.0])[:, None]  # to y up, z towards the viewer
    limit = math.radians(MAX_PITCH)
    pitch = torch.atan2(upright[:, 2, 1], upright[:, 1, 1]).clamp(-limit, limit)
    level = _turn(-pitch, 0) @ upright
    yaw = torch.atan2(level[:, 0, 2], level[:, 2, 2])
    return yaw.rad2deg(), pitch.rad2deg(), _turn(-yaw, 1) @ level


def _turn(angle: Tensor, axis: int) -> Tensor:
    return axis_angle_to_matrix(torch.nn.functional.one_hot(torch.tensor(axis), 3).to(angle) * angle[:, None])


def import_estimates(path: str | Path, body: SMPLBody, images: Path | None = None) -> BodyParameters:
    """Body parameters (model "smpl") from an .npz of estimates, key by key as above.

    images: the folder of the crops, that of their split; needed where the file has no `size` or other names.
    Raises FileNotFoundError, or UserError for a damaged file and for missing or ill-shaped keys."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no estimates at {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            held = {key: file[key] for key in file.files}
    except DAMAGED as error:
        raise UserError(
            f"{path}: damaged, or not an .npz of plain arrays ({error}); export without pickled objects"
        ) from error
    names = [_crop_name(str(name), images) for name in np.atleast_1d(_take(held, path, "names", "imgname"))]
    count = len(names)

    def tensor(*keys: str, shape: tuple[int, ...]) -> Tensor:
        value = _take(held, path, *keys)
        try:
            if value.shape[:1] != (count,):  # transposed, perhaps
                raise ValueError
            return torch.from_numpy(value.astype(np.float32).reshape(count, *shape))
        except ValueError:
            raise UserError(f"{path}: {keys[0]} has shape {value.shape}, expected {(count, *shape)} numbers") from None

    def rotations(key: str, joints: int) -> Tensor:
        """Matrices (N, joints, 3, 3) from axis-angle or matrices."""
        if np.asarray(held[key]).size == count * joints * 9:
            return tensor(key, shape=(joints, 3, 3))
        return axis_angle_to_matrix(tensor(key, shape=(joints, 3)))

    if "pose" in held:
        rotation = rotations("pose", 24)
    else:
        _take(held, path, "global_orient"), _take(held, path, "body_pose")
        rotation = torch.cat((rotations("global_orient", 1), rotations("body_pose", 23)), 1)
    shape, camera = tensor("betas", shape=(-1,)), tensor("cam", "pred_cam", shape=(3,))
    body.check_shape(shape, f"{path}, betas")
    if "size" in held:
        size = tensor("size", shape=(2,))
    elif images is not None:
        size = torch.tensor([_size(images / name) for name in names], dtype=torch.float32).reshape(count, 2)
    else:
        raise UserError(f"{path}: no `size` of the crops (N, 2); add it, or give the pictures' folder")
    height, width = size.unbind(1)
    square = torch.stack((width / 2, height / 2, size.amax(1)), 1)
    if "square" in held:
        square = tensor("square", shape=(3,))

    yaw, pitch, rest = split_view(rotation[:, 0])
    pose = matrix_to_axis_angle(torch.cat((rest[:, None], rotation[:, 1:]), 1)).flatten(1)
    scale = camera[:, 0] * square[:, 2] / 2  # pixels per metre
    # The camera says where the pelvis falls; ours wants the point at half the body's height above the ground.
    with torch.no_grad():
        vertices, joints, _ = body.articulate(pose, shape)
        pelvis = body.rest_pelvis(shape)
    rise = (vertices[..., 1].amax(1) / 2 - joints[:, 0, 1]) * pitch.deg2rad().cos()
    x = square[:, 0] + scale * (pelvis[:, 0] + camera[:, 1])
    y = square[:, 1] + scale * (pelvis[:, 1] + camera[:, 2] - rise)
    confidence = tensor("confidence", shape=()) if "confidence" in held else torch.ones(count)
    params = BodyParameters(
        names, "smpl", pose, shape, yaw, torch.stack((scale / height, x / width, y / height, pitch), 1), confidence
    )
    check_body_parameters(params, str(path))
    return params


def _crop_name(name: str, images: Path | None) -> str:
    """The longest end of the path `name` that is a file in `images`; where none is, `name`, of an absolute one the
    last part."""
    path = PurePath(name)
    parts = path.parts[1:] if path.anchor else path.parts
    if images is not None:
        for tail in (PurePath(*parts[i:]) for i in range(len(parts))):
            if (images / tail).is_file():
                return tail.as_posix()
    return path.name if path.anchor else path.as_posix()


def _size(path: Path) -> tuple[int, int]:
    """Height and width of a picture."""
    with Image.open(path) as picture:
        return picture.height, picture.width


def _take(held: dict[str, np.ndarray], path: Path, *keys: str) -> np.ndarray:
    for key in keys:
        if key in held:
            return held[key]
    raise UserError(f"{path}: no {' or '.join(keys)}; it holds {', '.join(sorted(held)) or 'nothing'}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m gcl_fast.bodies.estimates", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--estimates", type=Path, required=True, help="the .npz of estimates")
    parser.add_argument("--smpl", type=Path, required=True, help="SMPL model file or folder")
    parser.add_argument("--images", type=Path, help="folder of the crops, that of their split")
    parser.add_argument("--out", type=Path, required=True, help="body-parameter file to write")
    options = parser.parse_args(arguments)

    try:
        params = import_estimates(options.estimates, SMPLBody(options.smpl), options.images)
        save_body_parameters(options.out, params)
    except (UserError, OSError, ImportError) as error:
        parser.exit(1, f"{error}\n")
    print(f"{options.out}: body parameters of {len(params)} crops")


if __name__ == "__main__":
    main()
