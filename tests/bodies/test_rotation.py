"""Conversions between rotations agree with scipy's."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from gcl_fast.bodies.rotation import axis_angle_to_matrix, compose, matrix_to_axis_angle

VECTORS = torch.cat(
    (
        torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
        torch.tensor(
            [[0, 0, 0], [1e-9, 0, 0], [0, -1e-4, 0], [math.pi - 1e-6, 0, 0], [0, 0, 3.1]], dtype=torch.float64
        ),
    )
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matrices_are_scipys(dtype):
    expected = torch.from_numpy(Rotation.from_rotvec(VECTORS.numpy()).as_matrix())
    tolerance = 1e-6 if dtype == torch.float32 else 1e-8
    torch.testing.assert_close(axis_angle_to_matrix(VECTORS.to(dtype)).double(), expected, atol=tolerance, rtol=0)


def test_axis_angles_come_back():
    matrices = torch.from_numpy(Rotation.from_rotvec(VECTORS.numpy()).as_matrix())
    back = Rotation.from_rotvec(matrix_to_axis_angle(matrices).numpy())
    difference = back * Rotation.from_rotvec(VECTORS.numpy()).inv()
    assert difference.magnitude().max() < 1e-7
    half_turns = torch.tensor([[math.pi, 0, 0], [0, math.pi, 0], [0, 0, math.pi]], dtype=torch.float64)
    angles = matrix_to_axis_angle(axis_angle_to_matrix(half_turns)).abs()
    torch.testing.assert_close(angles, half_turns, atol=1e-6, rtol=0)


def test_compose_applies_the_last_one_first():
    a, b = VECTORS[:5], VECTORS[5:10]
    expected = (Rotation.from_rotvec(a.numpy()) * Rotation.from_rotvec(b.numpy())).as_rotvec()
    np.testing.assert_allclose(compose(a, b).numpy(), expected, atol=1e-9)
