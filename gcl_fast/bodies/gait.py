"""Make standing and walking poses for AnnyBody.

Joint angles over the gait cycle are sums of bumps that follow the textbook curves of level walking. The hip is close
to a cosine, the knee has a small wave at loading and a large one in swing, and the ankle pushes off. The right side is
the left side, half a cycle later.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gcl_fast.bodies.rotation import compose

# Degrees that undo Anny's rest pose, whose arms are spread, whose forearms are bent and whose feet are apart.
ARM_DOWN, ELBOW_REST, FEET_TOGETHER = 40.0, 36.0, 2.5
JOINTS = 19  # number of AnnyBody's joints; their order:
(PELVIS, LEFT_HIP, RIGHT_HIP, LEFT_KNEE, RIGHT_KNEE, LEFT_ANKLE, RIGHT_ANKLE, SPINE, CHEST, NECK, HEAD) = range(11)
(LEFT_COLLAR, RIGHT_COLLAR, LEFT_SHOULDER, RIGHT_SHOULDER, LEFT_ELBOW, RIGHT_ELBOW, LEFT_WRIST, RIGHT_WRIST) = range(
    11, 19
)


def _bump(phase: Tensor, centre: float, width: float) -> Tensor:
    """Return a smooth bump of height 1, periodic in phase (cycles)."""
    distance = (phase - centre + 0.5) % 1.0 - 0.5
    return torch.exp(-0.5 * (distance / width).square())


def _about(x: Tensor | float, y: Tensor | float, z: Tensor | float, like: Tensor) -> Tensor:
    """Make axis-angle vectors (B, 3) in radians from components in degrees."""
    return torch.stack([torch.zeros_like(like) + value for value in (x, y, z)], -1) * (math.pi / 180)


def walking_pose(
    phase: Tensor,
    stride: Tensor | float = 1.0,
    arm_swing: Tensor | float = 1.0,
    *,
    elbow: Tensor | float = 14.0,
    spread: Tensor | float = 8.0,
    lean: Tensor | float = 2.0,
    head_turn: Tensor | float = 0.0,
) -> Tensor:
    """Make poses of AnnyBody along the gait cycle.

    Every argument except `phase` is a number or a tensor (B,).

    Args:
        phase: (B,) in cycles: 0 at the left heel's strike, 0.5 at the right heel's.
        stride: length of the steps: 1 for a brisk walk, 0 to stand still.
        arm_swing: 1 swings the arms by 22 degrees to either side, 0 lets them hang.
        elbow: bend of the elbows at rest, degrees.
        spread: angle between arms and trunk, degrees.
        lean: forward lean of the trunk, degrees.
        head_turn: turn of the head to the person's left, degrees.

    Returns:
        Poses (B, 57), axis-angle in radians.

    Example:
        >>> walking_pose(torch.linspace(0, 1, 8), stride=0.8).shape
        torch.Size([8, 57])
    """
    pose = phase.new_zeros(len(phase), JOINTS, 3)
    for side, start, hip, knee, ankle, shoulder, elbow_joint in (
        (1.0, 0.0, LEFT_HIP, LEFT_KNEE, LEFT_ANKLE, LEFT_SHOULDER, LEFT_ELBOW),
        (-1.0, 0.5, RIGHT_HIP, RIGHT_KNEE, RIGHT_ANKLE, RIGHT_SHOULDER, RIGHT_ELBOW),
    ):
        cycle = phase + start
        forward = torch.cos(2 * math.pi * (cycle + 0.03))  # 1: this leg is in front
        flexion = stride * (6 + 20 * forward)
        bend = 4 + stride * (12 * _bump(cycle, 0.13, 0.06) + 54 * _bump(cycle, 0.72, 0.09))
        push = stride * (-9 * _bump(cycle, 0.42, 0.10) + 18 * _bump(cycle, 0.63, 0.06) + 4 * _bump(cycle, 0.06, 0.03))
        pose[:, hip] = compose(_about(-flexion, 0, 0, phase), _about(0, 0, -side * FEET_TOGETHER, phase))
        pose[:, knee] = _about(bend, 0, 0, phase)
        pose[:, ankle] = _about(push, 0, 0, phase)
        # The arm swings against the leg of its side; the elbow bends more in front.
        swing = _about(arm_swing * (6 + 22 * forward), 0, 0, phase)
        down = _about(0, 0, side * (spread - ARM_DOWN), phase)
        pose[:, shoulder] = compose(swing, down)
        elbow_bend = elbow - ELBOW_REST + arm_swing * 6 * (1 - forward)
        axis = phase.new_tensor([math.cos(math.radians(ARM_DOWN)), side * math.sin(math.radians(ARM_DOWN)), 0.0])
        pose[:, elbow_joint] = -(elbow_bend * torch.ones_like(phase) * (math.pi / 180))[:, None] * axis
    # The pelvis turns with the leg in front and drops on the swinging side; the chest turns with the arms.
    lead = torch.cos(2 * math.pi * phase)  # 1: left leg in front
    turn, drop = -5 * stride * lead, 3 * stride * torch.sin(2 * math.pi * (phase - 0.02))
    pose[:, PELVIS] = _about(0.3 * lean, turn, drop, phase)
    pose[:, SPINE] = _about(0.4 * lean, -turn * 0.6, -drop * 0.6, phase)
    pose[:, CHEST] = _about(0.3 * lean, -turn * 0.9, -drop * 0.4, phase)
    pose[:, NECK] = _about(-0.3 * lean, 0.5 * turn + 0.4 * head_turn, 0, phase)
    pose[:, HEAD] = _about(-0.4 * lean, 0.6 * head_turn, 0, phase)
    return pose.flatten(1)
