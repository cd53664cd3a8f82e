"""Encode gait, shape and camera of a body as the vector that the body estimator predicts, and mirror that vector.

columns 0:2    stride * (cos, sin) of the gait's phase: near zero if the crop does not show which leg is in front
        2:5    stride, and stride * (cos, sin) of twice the phase: distance between the legs, whichever is in front
        5:10   arm swing, elbow, spread, lean, head turn of `walking_pose`, each divided by its scale
        10:34  residual: axis-angle added to the walking pose at the joints of `FREE` (cyclists, lifted arms)
        34:40  difference of AnnyBody's phenotypes from an average adult
        40:44  camera: difference of log scale, x, y and pitch from a usual crop, each divided by its scale
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gcl_fast.bodies import gait

FREE = (
    gait.LEFT_HIP,
    gait.RIGHT_HIP,
    gait.LEFT_KNEE,
    gait.RIGHT_KNEE,
    gait.LEFT_SHOULDER,
    gait.RIGHT_SHOULDER,
    gait.LEFT_ELBOW,
    gait.RIGHT_ELBOW,
)
WIDTHS = (2, 3, 5, 24, 6, 4)
WIDTH = sum(WIDTHS)
CAMERA = slice(WIDTH - 4, WIDTH)
MANNER_SCALE = (1.0, 30.0, 10.0, 10.0, 30.0)  # of walking_pose's arguments from arm_swing on
ADULT = (0.5, 2 / 3, 0.5, 0.5, 0.5, 0.6)
CAMERA_MIDDLE, CAMERA_SCALE = (math.log(0.5), 0.5, 0.5, 8.0), (0.3, 0.1, 0.1, 8.0)


class Posture(NamedTuple):
    """Holds bodies as body parameters do: pose (B, 57), shape (B, 6) and camera (B, 4)."""

    pose: Tensor
    shape: Tensor
    camera: Tensor


def encode(walk: Tensor, residual: Tensor, shape: Tensor, camera: Tensor) -> Tensor:
    """Encode bodies as vectors.

    Args:
        walk: (B, 7) arguments of `walking_pose`, in its order.
        residual: (B, 24) axis-angle in radians at the joints of `FREE`.
        shape: (B, 6) phenotypes in 0..1.
        camera: (B, 4) scale, x, y, pitch, see parameters.py.

    Returns:
        Vectors (B, WIDTH).
    """
    phase, stride = 2 * math.pi * walk[:, 0], walk[:, 1:2]
    swing, double = torch.stack((phase.cos(), phase.sin()), 1), torch.stack(((2 * phase).cos(), (2 * phase).sin()), 1)
    camera = torch.cat((camera[:, :1].log(), camera[:, 1:]), 1)
    camera = (camera - camera.new_tensor(CAMERA_MIDDLE)) / camera.new_tensor(CAMERA_SCALE)
    manner = walk[:, 2:] / walk.new_tensor(MANNER_SCALE)
    step = torch.cat((stride, stride * double), 1)
    return torch.cat((stride * swing, step, manner, residual, shape - shape.new_tensor(ADULT), camera), 1)


def pose_of(walk: Tensor, residual: Tensor) -> Tensor:
    """Return the pose (B, 57) of `encode`'s arguments walk (B, 7) and residual (B, 24)."""
    phase, stride, swing, elbow, spread, lean, head = walk.unbind(1)
    pose = gait.walking_pose(phase, stride, swing, elbow=elbow, spread=spread, lean=lean, head_turn=head)
    pose = pose.unflatten(1, (gait.JOINTS, 3))
    pose[:, list(FREE)] += residual.unflatten(1, (len(FREE), 3))
    return pose.flatten(1)


def decode(vector: Tensor) -> Posture:
    """Decode vectors (B, WIDTH) to bodies, the inverse of `encode`; stride and shape are clamped to their ranges."""
    swing, step, manner, residual, shape, camera = vector.split(WIDTHS, 1)
    stride = step[:, :1].clamp(0, 1.2)
    half = torch.atan2(step[:, 2:], step[:, 1:2]) / 2  # the phase, or half a cycle from it
    same_half = (swing * torch.cat((half.cos(), half.sin()), 1)).sum(1, keepdim=True) >= 0
    phase = torch.where(same_half, half, half + math.pi) / (2 * math.pi) % 1
    pose = pose_of(torch.cat((phase, stride, manner * vector.new_tensor(MANNER_SCALE)), 1), residual)
    camera = camera * vector.new_tensor(CAMERA_SCALE) + vector.new_tensor(CAMERA_MIDDLE)
    camera = torch.cat((camera[:, :1].exp(), camera[:, 1:]), 1)
    return Posture(pose, (shape + vector.new_tensor(ADULT)).clamp(0, 1), camera)


def mirror(vector: Tensor) -> Tensor:
    """Return the vectors (B, WIDTH) of the mirrored crops, in which left and right change places."""
    swing, step, manner, residual, shape, camera = vector.split(WIDTHS, 1)
    residual = residual.unflatten(1, (-1, 2, 3)).flip(2) * residual.new_tensor([1.0, -1.0, -1.0])
    manner = manner * manner.new_tensor([1.0, 1.0, 1.0, 1.0, -1.0])
    camera = camera * camera.new_tensor([1.0, -1.0, 1.0, 1.0])
    return torch.cat((-swing, step, manner, residual.flatten(1), shape, camera), 1)
