"""The weak-perspective camera of a crop, which takes bodies in metres to pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from gcl_fast.kernels.structure_maps import transform_vertices


def view_rotation(yaw: Tensor, pitch: Tensor) -> Tensor:
    """Return the rotation from the body frame to the image frame.

    The body frame has y up and the body facing +z; the image frame x right, y down, and depth away from the camera.

    Args:
        yaw: (B,) degrees about +y; 0 faces the camera, +90 faces the image's right.
        pitch: (B,) degrees of the camera's elevation; positive looks down on the body.

    Returns:
        (B, 3, 3) proper rotation matrices.
    """
    yaw, pitch = torch.deg2rad(yaw), torch.deg2rad(pitch)
    sin, cos, tilt, level = yaw.sin(), yaw.cos(), pitch.sin(), pitch.cos()
    rows = (cos, torch.zeros_like(cos), sin, -sin * tilt, -level, cos * tilt, sin * level, -tilt, -cos * level)
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def view_transform(vertices: Tensor, yaw: Tensor, camera: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the affine map (B, 3, 4) from the body frame to pixels and depth; arguments as in `project`."""
    H, W = size
    scale, x, y, pitch = camera.unbind(-1)
    linear = (scale * H)[:, None, None] * view_rotation(yaw, pitch)
    height = vertices[..., 1].contiguous()  # amax is slow over the strided view
    middle = height.amax(1, keepdim=True) / 2  # (B, 1), half way up the vertical axis
    origin = torch.stack((x * W, y * H, torch.zeros_like(x)), dim=-1) - linear[..., 1] * middle
    return torch.cat((linear, origin[..., None]), dim=-1)


def project(vertices: Tensor, yaw: Tensor, camera: Tensor, size: tuple[int, int]) -> Tensor:
    """Turn bodies about their vertical axis and project them into their crops. Plain PyTorch, differentiable.

    Args:
        vertices: (B, V, 3) metres in the body frame: y up, facing +z, the person's left is +x, feet at y = 0.
        yaw: (B,) degrees, see `view_rotation`.
        camera: (B, 4) scale in crop heights per metre, x and y of the point half way up the body as fractions of
            width and height, pitch in degrees.
        size: (H, W) of the crop in pixels.

    Returns:
        (B, V, 3) pixels (x right, y down) and depth, all in the same unit; smaller depth is nearer.

    Example:
        >>> body = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.5, 1.0, 0.0]]])  # feet, head, left hand
        >>> camera = torch.tensor([[0.4, 0.5, 0.6, 0.0]])
        >>> project(body, torch.zeros(1), camera, (100, 50))[0, :, :2]
        tensor([[ 25., 100.],
                [ 25.,  20.],
                [ 45.,  60.]])
    """
    return transform_vertices(vertices, view_transform(vertices, yaw, camera, size))
