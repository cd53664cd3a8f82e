"""Forward kinematics agree with their definition, joint by joint."""

import torch

from gcl_fast.bodies.rotation import axis_angle_to_matrix
from gcl_fast.bodies.skinning import Skeleton


def test_each_joint_follows_its_parent():
    parents = [-1, 0, 0, 1, 3, 2, 1, 4]
    generator = torch.Generator().manual_seed(0)
    vectors, joints = (torch.randn(5, len(parents), 3, dtype=torch.float64, generator=generator) for _ in range(2))
    rotation = axis_angle_to_matrix(vectors)
    rotations, positions = Skeleton(parents)(rotation, joints)
    for joint, parent in enumerate(parents):
        base = rotations[:, parent] if joint else torch.eye(3, dtype=torch.float64)
        offset = (base @ (joints[:, joint] - joints[:, parent])[..., None])[..., 0]
        torch.testing.assert_close(rotations[:, joint], base @ rotation[:, joint])
        torch.testing.assert_close(positions[:, joint], positions[:, parent] + offset if joint else joints[:, 0])


def test_a_single_root_turns_and_stays():
    rotation, joints = torch.eye(3).expand(2, 1, 3, 3), torch.rand(2, 1, 3)
    rotations, positions = Skeleton([-1])(rotation, joints)
    assert torch.equal(rotations, rotation)
    assert torch.equal(positions, joints)
