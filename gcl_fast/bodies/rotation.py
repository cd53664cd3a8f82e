"""Convert rotations between axis-angle vectors (radians along the axis) and matrices."""

from __future__ import annotations

import torch
from torch import Tensor


def axis_angle_to_matrix(axis_angle: Tensor) -> Tensor:
    """Convert axis-angle (..., 3) to matrices (..., 3, 3) by Rodrigues' formula, differentiable at zero."""
    angle = axis_angle.square().sum(-1).add(1e-16).sqrt()[..., None, None]
    x, y, z = axis_angle.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).unflatten(-1, (3, 3))
    identity = torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device)
    half = torch.sin(angle / 2) / angle  # 1 - cos a = 2 sin^2(a / 2): no cancellation for small angles
    return identity + torch.sin(angle) / angle * cross + 2 * half.square() * (cross @ cross)


def matrix_to_axis_angle(matrix: Tensor) -> Tensor:
    """Convert matrices (..., 3, 3) to axis-angle (..., 3) with angles in 0..pi, by way of unit quaternions."""
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = matrix.flatten(-2).unbind(-1)
    squares = torch.stack(
        (1 + m00 + m11 + m22, 1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22), -1
    )  # 4 w^2, 4 x^2, 4 y^2, 4 z^2
    rows = torch.stack(
        (
            torch.stack((squares[..., 0], m21 - m12, m02 - m20, m10 - m01), -1),
            torch.stack((m21 - m12, squares[..., 1], m10 + m01, m02 + m20), -1),
            torch.stack((m02 - m20, m10 + m01, squares[..., 2], m21 + m12), -1),
            torch.stack((m10 - m01, m02 + m20, m21 + m12, squares[..., 3]), -1),
        ),
        -2,
    )  # four multiples of the quaternion (w, x, y, z): the one with the largest factor is the most exact
    best = squares.argmax(-1)[..., None, None].expand(*squares.shape[:-1], 1, 4)
    quaternion = torch.nn.functional.normalize(rows.gather(-2, best).squeeze(-2), dim=-1)
    quaternion = torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    sine = quaternion[..., 1:].norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(sine, quaternion[..., :1])
    return quaternion[..., 1:] * torch.where(sine > 1e-7, angle / sine.clamp_min(1e-7), 2.0)


def compose(*rotations: Tensor) -> Tensor:
    """Multiply axis-angle rotations (..., 3); the last one is applied first."""
    product = axis_angle_to_matrix(rotations[0])
    for rotation in rotations[1:]:
        product = product @ axis_angle_to_matrix(rotation)
    return matrix_to_axis_angle(product)
