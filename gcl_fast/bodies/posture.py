"""What the estimator tells of a body, as one vector: gait, what the limbs do besides, shape and camera; and its mirror.

columns 0:2    stride * (cos, sin) of the gait's phase: shrinks to standing where the phase cannot be seen
        2:7    arm swing, elbow, spread, lean, head turn of `walking_pose`, each over its scale
        7:31   residual: axis-angle added to the walking pose at the joints of `FREE` (cyclists, lifted arms)
        31:37  AnnyBody's phenotypes about an average adult
        37:41  camera: log scale, x, y, pitch about those of a usual crop, each over its scale
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
SWING, MANNER, RESIDUAL, SHAPE, CAMERA = slice(0, 2), slice(2, 7), slice(7, 31), slice(31, 37), slice(37, 41)
WIDTH = 41
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
    swing = stride * torch.stack((phase.cos(), phase.sin()), 1)
    camera = torch.cat((camera[:, :1].log(), camera[:, 1:]), 1)
    camera = (camera - camera.new_tensor(CAMERA_MIDDLE)) / camera.new_tensor(CAMERA_SCALE)
    manner = walk[:, 2:] / walk.new_tensor(MANNER_SCALE)
    return torch.cat((swing, manner, residual, shape - shape.new_tensor(ADULT), camera), 1)


def pose_of(walk: Tensor, residual: Tensor) -> Tensor:
    """Pose (B, 57) of `encode`'s first two arguments."""
    phase, stride, swing, elbow, spread, lean, head = walk.unbind(1)
    pose = gait.walking_pose(phase, stride, swing, elbow=elbow, spread=spread, lean=lean, head_turn=head)
    pose = pose.unflatten(1, (gait.JOINTS, 3))
    pose[:, list(FREE)] += residual.unflatten(1, (len(FREE), 3))
    return pose.flatten(1)


def decode(vector: Tensor) -> Posture:
    """The inverse of `encode`, within what a body can do."""
    cosine, sine = vector[:, SWING].unbind(1)
    phase = torch.atan2(sine, cosine) / (2 * math.pi) % 1
    stride = torch.hypot(cosine, sine).clamp(max=1.2)
    manner = vector[:, MANNER] * vector.new_tensor(MANNER_SCALE)
    pose = pose_of(torch.cat((phase[:, None], stride[:, None], manner), 1), vector[:, RESIDUAL])
    camera = vector[:, CAMERA] * vector.new_tensor(CAMERA_SCALE) + vector.new_tensor(CAMERA_MIDDLE)
    camera = torch.cat((camera[:, :1].exp(), camera[:, 1:]), 1)
    return Posture(pose, (vector[:, SHAPE] + vector.new_tensor(ADULT)).clamp(0, 1), camera)


def mirror(vector: Tensor) -> Tensor:
    """The vector (B, WIDTH) of the mirrored crop: left and right change places."""
    swing, manner, residual, shape, camera = vector.split((2, 5, 24, 6, 4), 1)
    residual = residual.unflatten(1, (-1, 2, 3)).flip(2) * residual.new_tensor([1.0, -1.0, -1.0])
    manner = manner * manner.new_tensor([1.0, 1.0, 1.0, 1.0, -1.0])
    return torch.cat((-swing, manner, residual.flatten(1), shape, camera * camera.new_tensor([1.0, -1.0, 1.0, 1.0])), 1)
