"""Convert SMPL estimates of other tools (HMR, SPIN, PARE, 4D-Humans, ...) to body parameters.

`python -m gcl_fast.bodies.estimates --estimates est.npz --smpl SMPL_NEUTRAL.pkl --images DIR --out train.npz`

The estimates are an .npz without pickled objects, one row per crop, with these keys (alternatives after "or"):

    names or imgname   (N,)           the crops' paths below the folder of their split. Longer paths are shortened if
                                      --images names that folder; otherwise absolute paths lose all their folders
    pose               (N, 72)        axis-angle in radians, pelvis ("global orient") first, in the estimator's camera
                       (N, 24, 3, 3)  or rotation matrices; instead of pose, a file may hold both of
      global_orient    (N, 3)         or (N, 1, 3, 3), (N, 3, 3)
      body_pose        (N, 69)        or (N, 23, 3, 3)
    betas              (N, S)         SMPL shape
    cam or pred_cam    (N, 3)         weak perspective (s, tx, ty) of the square that the estimator saw: a point
                                      (X, Y, Z) of the posed body falls at s * (X + tx), s * (Y + ty), from the centre
                                      of the square, in units of half its side, y down
    square             (N, 3)         optional: centre x, centre y and side of that square in pixels of the crop; by
                                      default the square around the crop: same centre, side = max(H, W)
    size               (N, 2)         optional: height and width of the crops in pixels; by default the sizes of the
                                      image files (--images)
    confidence         (N,)           optional, 0..1; 1 by default

An estimator's camera looks along +z with y down. So the pelvis rotation of an upright person who faces the camera is
half a turn about x. `split_view` takes the trunk's tilt towards the camera as the camera's pitch (up to MAX_PITCH) and
the facing direction as yaw. The remaining rotation stays in the pose.
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
from gcl_fast.data.broken_images import FORMATS
from gcl_fast.errors import UserError

MAX_PITCH = 40.0  # degrees; a larger tilt means that the person bends or lies


def split_view(orient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split a pelvis rotation into the view's yaw and pitch and the body's own rotation.

    flip @ orient = Rx(pitch) @ Ry(yaw) @ rotation, where flip turns by half a turn about x.

    Args:
        orient: (B, 3, 3) in the estimator's camera.

    Returns:
        Yaw (B,) and pitch (B,) in degrees, and the remaining rotation (B, 3, 3) in the body frame.
    """
    upright = orient * orient.new_tensor([1.0, -1.0, -1.0])[:, None]  # to y up, z towards the viewer
    limit = math.radians(MAX_PITCH)
    pitch = torch.atan2(upright[:, 2, 1], upright[:, 1, 1]).clamp(-limit, limit)
    level = _turn(-pitch, 0) @ upright
    yaw = torch.atan2(level[:, 0, 2], level[:, 2, 2])
    return yaw.rad2deg(), pitch.rad2deg(), _turn(-yaw, 1) @ level


def _turn(angle: Tensor, axis: int) -> Tensor:
    """Return rotations (B, 3, 3) by angles (B,) in radians about an axis of the frame."""
    return axis_angle_to_matrix(torch.nn.functional.one_hot(torch.tensor(axis), 3).to(angle) * angle[:, None])


def import_estimates(path: str | Path, body: SMPLBody, images: Path | None = None) -> BodyParameters:
    """Read SMPL estimates of another tool from an .npz with the keys described above.

    Args:
        path: the .npz.
        body: the SMPL model that the estimates are for.
        images: the folder of the crops' split; needed if the file has no `size`, or if its names are longer paths.

    Returns:
        Body parameters of the model "smpl".

    Raises:
        FileNotFoundError: there is no file at `path`.
        UserError: the file is damaged, or a key is missing or has a wrong shape.

    Example:
        >>> try:
        ...     params = import_estimates("spin.npz", SMPLBody("SMPL_NEUTRAL.pkl"), images=Path("crops"))
        ...     save_body_parameters("body_parameters/train.npz", params)
        ... except UserError as error:  # smplx or its licensed model file is missing
        ...     print("not imported:", error)
        not imported: ...
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no estimates at {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except DAMAGED as error:
        raise UserError(
            f"{path}: damaged, or not an .npz of plain arrays ({error}); export without pickled objects"
        ) from error
    names = [_crop_name(str(name), images) for name in np.atleast_1d(_take(arrays, path, "names", "imgname"))]
    count = len(names)

    def tensor(*keys: str, shape: tuple[int, ...]) -> Tensor:
        """Return the first of `keys` as float32 (N, *shape)."""
        value = _take(arrays, path, *keys)
        try:
            if value.shape[:1] != (count,):  # the number of values may fit nevertheless, if it is transposed
                raise ValueError
            return torch.from_numpy(value.astype(np.float32).reshape(count, *shape))
        except ValueError:
            raise UserError(f"{path}: {keys[0]} has shape {value.shape}, expected {(count, *shape)} numbers") from None

    def rotations(key: str, joints: int) -> Tensor:
        """Return matrices (N, joints, 3, 3) from axis-angle vectors or matrices."""
        if np.asarray(arrays[key]).size == count * joints * 9:
            return tensor(key, shape=(joints, 3, 3))
        return axis_angle_to_matrix(tensor(key, shape=(joints, 3)))

    if "pose" in arrays:
        rotation = rotations("pose", 24)
    else:
        _take(arrays, path, "global_orient"), _take(arrays, path, "body_pose")
        rotation = torch.cat((rotations("global_orient", 1), rotations("body_pose", 23)), 1)
    shape, camera = tensor("betas", shape=(-1,)), tensor("cam", "pred_cam", shape=(3,))
    body.check_shape(shape, f"{path}, betas")
    if "size" in arrays:
        size = tensor("size", shape=(2,))
    elif images is not None:
        size = torch.tensor([_size(images / name) for name in names], dtype=torch.float32).reshape(count, 2)
    else:
        raise UserError(f"{path}: no `size` of the crops (N, 2); add it, or give the images' folder")
    height, width = size.unbind(1)
    square = torch.stack((width / 2, height / 2, size.amax(1)), 1)
    if "square" in arrays:
        square = tensor("square", shape=(3,))

    yaw, pitch, pelvis_rotation = split_view(rotation[:, 0])
    pose = matrix_to_axis_angle(torch.cat((pelvis_rotation[:, None], rotation[:, 1:]), 1)).flatten(1)
    scale = camera[:, 0] * square[:, 2] / 2  # pixels per metre
    # The estimator's camera places the pelvis; ours places the point at half the body's height above the ground.
    with torch.no_grad():
        vertices, joints, _ = body.articulate(pose, shape)
        pelvis = body.rest_pelvis(shape)
    rise = (vertices[..., 1].amax(1) / 2 - joints[:, 0, 1]) * pitch.deg2rad().cos()
    x = square[:, 0] + scale * (pelvis[:, 0] + camera[:, 1])
    y = square[:, 1] + scale * (pelvis[:, 1] + camera[:, 2] - rise)
    confidence = tensor("confidence", shape=()) if "confidence" in arrays else torch.ones(count)
    params = BodyParameters(
        names, "smpl", pose, shape, yaw, torch.stack((scale / height, x / width, y / height, pitch), 1), confidence
    )
    check_body_parameters(params, str(path))
    return params


def _crop_name(name: str, images: Path | None) -> str:
    """Return the longest end of the path `name` that is a file in `images`.

    Without such a file, a relative path stays as it is, and an absolute path loses its folders.
    """
    path = PurePath(name)
    parts = path.parts[1:] if path.anchor else path.parts
    if images is not None:
        for tail in (PurePath(*parts[i:]) for i in range(len(parts))):
            if (images / tail).is_file():
                return tail.as_posix()
    return path.name if path.anchor else path.as_posix()


def _size(path: Path) -> tuple[int, int]:
    """Return an image's height and width in pixels."""
    with Image.open(path, formats=FORMATS) as image:
        return image.height, image.width


def _take(arrays: dict[str, np.ndarray], path: Path, *keys: str) -> np.ndarray:
    """Return the first of `keys` that the file holds."""
    for key in keys:
        if key in arrays:
            return arrays[key]
    raise UserError(f"{path}: no {' or '.join(keys)}; it holds {', '.join(sorted(arrays)) or 'nothing'}")


def main(arguments: list[str] | None = None) -> None:
    """Convert a file of estimates to a body-parameter file."""
    parser = argparse.ArgumentParser(
        prog="python -m gcl_fast.bodies.estimates",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--estimates", type=Path, required=True, help="the .npz of estimates")
    parser.add_argument("--smpl", type=Path, required=True, help="SMPL model file or folder")
    parser.add_argument("--images", type=Path, help="folder of the crops' split")
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
