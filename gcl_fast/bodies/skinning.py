"""Linear blend skinning: rest vertices and joint rotations -> posed vertices.

    x' = sum_j w_j (R_j (x - q_j) + p_j)        (q_j the joint at rest, p_j posed, R_j its rotation in the body frame)

All bodies and all joints of a depth of the skeleton are handled at once. Coordinates are kept as planes (B, 3, V): the
blend of the transforms is then one matrix product and every other pass runs over contiguous memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Skeleton(nn.Module):
    """Forward kinematics of joints whose parents are `parents`, the root first with -1, each below its children.

    All indices lie on the device: a Python list as an index would be copied there, and waited for, at every call."""

    parent: Tensor  # (J,) the root's is itself
    order: Tensor  # (J,) joints by their depth, the root first
    above: Tensor  # (J,) of these, place of the parent within the depth above
    place: Tensor  # (J,) of a joint in `order`

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
        """Rotations and positions of the posed joints in the body frame.

        rotation: (B, J, 3, 3) of each joint in its parent's frame (axes aligned with the body's at rest).
        joints: (B, J, 3) at rest. Returns (B, J, 3, 3) and (B, J, 3); the root stays where it is."""
        bones = (joints - joints[:, self.parent])[..., None]
        turned, placed = [rotation[:, :1]], [joints[:, :1, :, None]]
        for level, above in zip(self.order.split(self.sizes)[1:], self.above.split(self.sizes)[1:]):
            base = turned[-1][:, above]
            placed.append(placed[-1][:, above] + base @ bones[:, level])
            turned.append(base @ rotation[:, level])
        return torch.cat(turned, 1)[:, self.place], torch.cat(placed, 1)[:, self.place].squeeze(-1)


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
