"""What the estimator tells of a body, as one vector: gait, what the limbs do besides, shape and camera; and its mirror.

columns 0:2    stride * (cos, sin) of the gait's phase: near zero where nobody can tell which leg is ahead
        2:5    stride, and stride * (cos, sin) of twice the phase: how far the legs are apart, whichever is ahead
        5:10   arm swing, elbow, spread, lean, head turn of `walking_pose`, each over its scale
        10:34  residual: axis-angle added to the walking pose at the joints of `FREE` (cyclists, lifted arms)
        34:40  AnnyBody's phenotypes about an average adult
        40:44  camera: log scale, x, y, pitch about those of a usual crop, each over its scale
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
MANNER_SCALE = (1.0, 30.0, 10.0, 10.0, 30.0)  # of the arguments of walking_pose
ADULT = (0.5, 2 / 3, 0.5, 0.5, 0.5, 0.6)
CAMERA_MIDDLE, CAMERA_SCALE = (math.log(0.5), 0.5, 0.5, 8.0), (0.3, 0.1, 0.1, 8.0)


class Posture(NamedTuple):
    """Bodies as the rest of the package takes them: pose (B, 57), shape (B, 6), camera (B, 4)."""

    pose: Tensor
    shape: Tensor
    camera: Tensor


def encode(walk: Tensor, residual: Tensor, shape: Tensor, camera: Tensor) -> Tensor:
    """(B, WIDTH) of walk (B, 7), the arguments of `walking_pose` in order, residual (B, 24), shape and camera."""
    phase, stride = 2 * math.pi * walk[:, 0], walk[:, 1:2]
    swing, twice = torch.stack((phase.cos(), phase.sin()), 1), torch.stack(((2 * phase).cos(), (2 * phase).sin()), 1)
    camera = torch.cat((camera[:, :1].log(), camera[:, 1:]), 1)
    camera = (camera - camera.new_tensor(CAMERA_MIDDLE)) / camera.new_tensor(CAMERA_SCALE)
    manner = walk[:, 2:] / walk.new_tensor(MANNER_SCALE)
    apart = torch.cat((stride, stride * twice), 1)
    return torch.cat((stride * swing, apart, manner, residual, shape - shape.new_tensor(ADULT), camera), 1)


def pose_of(walk: Tensor, residual: Tensor) -> Tensor:
    """Pose (B, 57) of `encode`'s first two arguments."""
    phase, stride, swing, elbow, spread, lean, head = walk.unbind(1)
    pose = gait.walking_pose(phase, stride, swing, elbow=elbow, spread=spread, lean=lean, head_turn=head)
    pose = pose.unflatten(1, (gait.JOINTS, 3))
    pose[:, list(FREE)] += residual.unflatten(1, (len(FREE), 3))
    return pose.flatten(1)


def decode(vector: Tensor) -> Posture:
    """The inverse of `encode`, within what a body can do."""
    swing, apart, manner, residual, shape, camera = vector.split(WIDTHS, 1)
    stride = apart[:, :1].clamp(0, 1.2)
    half = torch.atan2(apart[:, 2:], apart[:, 1:2]) / 2  # the phase, or half a cycle away from it
    ahead = (swing * torch.cat((half.cos(), half.sin()), 1)).sum(1, keepdim=True) >= 0
    phase = torch.where(ahead, half, half + math.pi) / (2 * math.pi) % 1
    pose = pose_of(torch.cat((phase, stride, manner * vector.new_tensor(MANNER_SCALE)), 1), residual)
    camera = camera * vector.new_tensor(CAMERA_SCALE) + vector.new_tensor(CAMERA_MIDDLE)
    camera = torch.cat((camera[:, :1].exp(), camera[:, 1:]), 1)
    return Posture(pose, (shape + vector.new_tensor(ADULT)).clamp(0, 1), camera)


def mirror(vector: Tensor) -> Tensor:
    """The vector (B, WIDTH) of the mirrored crop: left and right change places."""
    swing, apart, manner, residual, shape, camera = vector.split(WIDTHS, 1)
    residual = residual.unflatten(1, (-1, 2, 3)).flip(2) * residual.new_tensor([1.0, -1.0, -1.0])
    manner = manner * manner.new_tensor([1.0, 1.0, 1.0, 1.0, -1.0])
    camera = camera * camera.new_tensor([1.0, -1.0, 1.0, 1.0])
    return torch.cat((-swing, apart, manner, residual.flatten(1), shape, camera), 1)
