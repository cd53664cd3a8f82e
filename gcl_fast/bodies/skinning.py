"""Linear blend skinning: rest vertices and joint rotations -> posed vertices.

    x' = sum_j w_j (R_j (x - q_j) + p_j)        (q_j the joint at rest, p_j posed, R_j its rotation in the body frame)

All bodies and all joints of a depth of the skeleton are handled at once. Coordinates are kept as planes (B, 3, V): the
blend of the transforms is then one matrix product and every other pass runs over contiguous memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def depth_levels(parents: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Joints below the root grouped by depth, each group with its parents; a parent's index is below its child's."""
    depth = [0] * len(parents)
    for joint, parent in enumerate(parents):
        depth[joint] = 0 if parent < 0 else depth[parent] + 1
    groups = [[j for j, d in enumerate(depth) if d == level] for level in range(1, max(depth) + 1)]
    return [(group, [parents[j] for j in group]) for group in groups]


def forward_kinematics(
    rotation: Tensor, joints: Tensor, levels: list[tuple[list[int], list[int]]]
) -> tuple[Tensor, Tensor]:
    """Rotations and positions of the posed joints in the body frame.

    rotation: (B, J, 3, 3) of each joint in its parent's frame (axes aligned with the body's at rest).
    joints: (B, J, 3) at rest. Returns (B, J, 3, 3) and (B, J, 3); the root stays where it is."""
    turned: list[Tensor] = list(rotation.unbind(1))
    placed: list[Tensor] = list(joints.unbind(1))
    for group, parents in levels:
        above = torch.stack([turned[p] for p in parents], 1)  # (B, G, 3, 3)
        offset = (above @ (joints[:, group] - joints[:, parents])[..., None]).squeeze(-1)
        for joint, parent, r, o in zip(group, parents, (above @ rotation[:, group]).unbind(1), offset.unbind(1)):
            turned[joint], placed[joint] = r, placed[parent] + o
    return torch.stack(turned, 1), torch.stack(placed, 1)


def skin(rest: Tensor, joints: Tensor, rotation: Tensor, position: Tensor, weights: Tensor) -> Tensor:
    """Posed vertices as planes (B, 3, V).

    rest: (B, 3, V). joints: (B, J, 3) at rest. rotation, position: (B, J, 3, 3), (B, J, 3), posed. weights: (J, V)."""
    shift = position - (rotation @ joints[..., None]).squeeze(-1)
    transform = torch.cat((rotation, shift[..., None]), -1)  # (B, J, 3, 4)
    blended = (transform.flatten(2).transpose(1, 2) @ weights).unflatten(1, (3, 4))  # (B, 3, 4, V)
    x, y, z = rest.unsqueeze(1).unbind(2)
    return (
        torch.addcmul(blended[:, :, 3], blended[:, :, 0], x).addcmul_(blended[:, :, 1], y).addcmul_(blended[:, :, 2], z)
    )
