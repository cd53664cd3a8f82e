"""The estimator's vector decodes to the encoded bodies, and the mirrored vector renders as the mirror image."""

import numpy as np
import pytest
import torch

from gcl_fast.bodies import AnnyBody, posture
from gcl_fast.render import render_structure


@pytest.fixture
def people():
    """Return arguments of `posture.encode` for eight different people."""
    random = torch.Generator().manual_seed(3)
    spread = lambda low, high, *shape: low + (high - low) * torch.rand(8, *shape, generator=random)
    walk = torch.stack(
        (spread(0, 1), spread(0.3, 1), spread(0, 1), spread(6, 40), spread(4, 12), spread(0, 9), spread(-40, 40)), 1
    )
    camera = torch.stack((spread(0.4, 0.6), spread(0.4, 0.6), spread(0.4, 0.6), spread(0, 20)), 1)
    return walk, spread(-0.5, 0.5, 24), spread(0.3, 0.7, 6), camera


def test_bodies_come_back_from_the_vector(people):
    walk, residual, shape, camera = people
    back = posture.decode(posture.encode(walk, residual, shape, camera))
    torch.testing.assert_close(back.pose, posture.pose_of(walk, residual), atol=1e-4, rtol=0)
    torch.testing.assert_close(back.shape, shape)
    torch.testing.assert_close(back.camera, camera)


def test_shape_and_stride_are_clamped():
    body = posture.decode(torch.full((1, posture.WIDTH), 9.0))  # twice the phase is an eighth of a cycle
    assert body.shape.max() <= 1
    assert body.camera[0, 0] > 0
    limit = posture.pose_of(torch.tensor([[0.0625, 1.2, 9.0, 270.0, 90.0, 90.0, 270.0]]), torch.full((1, 24), 9.0))
    torch.testing.assert_close(body.pose, limit, atol=1e-4, rtol=0)


def test_the_mirrored_vector_renders_as_the_mirror_image(people):
    vector, body = posture.encode(*people), AnnyBody()
    yaw = torch.arange(8) * 45.0 + 10

    def silhouette(vector, yaw):
        pose, shape, camera = posture.decode(vector)
        return render_structure(body(pose, shape), body.faces, yaw, camera, (128, 64))[:, 0].numpy() < 0.99

    mirror, original = silhouette(posture.mirror(vector), -yaw)[:, :, ::-1], silhouette(vector, yaw)
    overlap = np.logical_and(mirror, original).sum() / np.logical_or(mirror, original).sum()
    assert overlap > 0.98
    torch.testing.assert_close(posture.mirror(posture.mirror(vector)), vector)
    assert not np.array_equal(silhouette(vector, -yaw)[:, :, ::-1], original)  # the opposite yaw is not enough
