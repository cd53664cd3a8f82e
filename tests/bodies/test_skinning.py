"""Forward kinematics against its definition, joint by joint."""

import torch

from gcl_fast.bodies.rotation import axis_angle_to_matrix
from gcl_fast.bodies.skinning import Skeleton


def test_each_joint_follows_its_parent():
    parents = [-1, 0, 0, 1, 3, 2, 1, 4]
    generator = torch.Generator().manual_seed(0)
    vectors, joints = (torch.randn(5, len(parents), 3, dtype=torch.float64, generator=generator) for _ in range(2))
    rotation = axis_angle_to_matrix(vectors)
    turned, placed = Skeleton(parents)(rotation, joints)
    for joint, parent in enumerate(parents):
        above = turned[:, parent] if joint else torch.eye(3, dtype=torch.float64)
        offset = (above @ (joints[:, joint] - joints[:, parent])[..., None])[..., 0]
        torch.testing.assert_close(turned[:, joint], above @ rotation[:, joint])
        torch.testing.assert_close(placed[:, joint], placed[:, parent] + offset if joint else joints[:, 0])


def test_a_root_alone_turns_and_stays():
    rotation, joints = torch.eye(3).expand(2, 1, 3, 3), torch.rand(2, 1, 3)
    turned, placed = Skeleton([-1])(rotation, joints)
    assert torch.equal(turned, rotation)
    assert torch.equal(placed, joints)
