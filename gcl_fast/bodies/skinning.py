"""Pose vertices by linear blend skinning, from rest vertices and joint rotations.

    x' = sum_j w_j (R_j (x - q_j) + p_j)        (q_j: joint at rest, p_j: posed, R_j: its rotation in the body frame)

All bodies, and all joints of one depth of the skeleton, are computed at once. Coordinates are planes (B, 3, V): the
blend of the transforms is then one matrix product, and every other pass runs over contiguous memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Skeleton(nn.Module):
    """Computes forward kinematics.

    The indices are buffers: every call would copy a Python list to the device and wait for it.

    Args:
        parents: parent of each of the J joints, smaller than the joint itself; the first is the root, -1.
    """

    parent: Tensor  # (J,) parent of each joint; the root is its own parent
    order: Tensor  # (J,) joints sorted by depth, the root first
    above: Tensor  # (J,) for each joint in `order`: position of its parent among the joints one depth higher
    place: Tensor  # (J,) position of each joint in `order`

    def __init__(self, parents: Sequence[int]) -> None:
        super().__init__()
        parent, depth = [0, *parents[1:]], [0]
        for above in parent[1:]:
            depth.append(depth[above] + 1)
        levels = [[j for j, d in enumerate(depth) if d == level] for level in range(max(depth) + 1)]
        self.sizes = [len(level) for level in levels]
        order = [joint for level in levels for joint in level]
        indices = {
            "parent": parent,
            "order": order,
            "above": [levels[depth[parent[j]]].index(parent[j]) for j in order],
            "place": [order.index(joint) for joint in range(len(parents))],
        }
        for name, index in indices.items():
            self.register_buffer(name, torch.tensor(index), persistent=False)

    def forward(self, rotation: Tensor, joints: Tensor) -> tuple[Tensor, Tensor]:
        """Return rotations and positions of the posed joints in the body frame.

        Args:
            rotation: (B, J, 3, 3) of each joint in its parent's frame, whose axes are the body's at rest.
            joints: (B, J, 3) positions at rest.

        Returns:
            Rotations (B, J, 3, 3) and positions (B, J, 3); the root keeps its position.
        """
        bones = (joints - joints[:, self.parent])[..., None]
        rotations, positions = [rotation[:, :1]], [joints[:, :1, :, None]]  # one tensor per depth
        for level, above in zip(self.order.split(self.sizes)[1:], self.above.split(self.sizes)[1:]):
            base = rotations[-1][:, above]
            positions.append(positions[-1][:, above] + base @ bones[:, level])
            rotations.append(base @ rotation[:, level])
        return torch.cat(rotations, 1)[:, self.place], torch.cat(positions, 1)[:, self.place].squeeze(-1)


def skin(rest: Tensor, joints: Tensor, rotation: Tensor, position: Tensor, weights: Tensor) -> Tensor:
    """Pose vertices by the weighted transforms of the joints.

    Args:
        rest: (B, 3, V) vertices at rest, as planes.
        joints: (B, J, 3) joints at rest.
        rotation: (B, J, 3, 3) of the posed joints in the body frame.
        position: (B, J, 3) of the posed joints.
        weights: (J, V).

    Returns:
        Posed vertices as planes (B, 3, V).
    """
    shift = position - (rotation @ joints[..., None]).squeeze(-1)
    transform = torch.cat((rotation, shift[..., None]), -1)  # (B, J, 3, 4)
    blend = (transform.flatten(2).transpose(1, 2) @ weights).unflatten(1, (3, 4))  # (B, 3, 4, V)
    x, y, z = rest.unsqueeze(1).unbind(2)
    return torch.addcmul(blend[:, :, 3], blend[:, :, 0], x).addcmul_(blend[:, :, 1], y).addcmul_(blend[:, :, 2], z)
