"""Donors of a body: mirror images, points across limbs, and landmarks."""

import pytest
import torch

from gcl_fast.bodies import AnnyBody
from gcl_fast.bodies.donors import make_donors
from gcl_fast.kernels.structure_maps import vertex_normals


@pytest.fixture(scope="module")
def body():
    return AnnyBody()


@pytest.fixture(scope="module")
def donors(body):
    return make_donors(body.template, body.faces)


def test_the_first_donor_is_the_mirror_image(body, donors):
    mirrored = body.template * torch.tensor([-1.0, 1, 1])
    assert (body.template[donors.vertex[:, 0].long()] - mirrored).norm(dim=1).max() < 0.01


@pytest.mark.parametrize(("column", "axis"), [(1, 2), (3, 0)])
def test_the_points_across_look_the_other_way_at_the_same_height(body, donors, column, axis):
    normal = vertex_normals(body.template[None], body.faces)[0]
    there = donors.vertex[:, column].long()
    steep = normal[:, axis].abs() > 0.7
    assert (normal[there][steep, axis] * normal[steep, axis] < 0).float().mean() > 0.95
    assert (body.template[there][steep, 1] - body.template[steep, 1]).abs().median() < 0.01


def test_some_donor_is_seen_from_every_side(body, donors):
    """Of each point and its eight reflections one faces the camera, whichever way the body turns."""
    normal = vertex_normals(body.template[None], body.faces)[0]
    level = normal[:, 1].abs() < 0.5
    lenders = torch.cat((torch.arange(len(normal))[:, None], donors.vertex[:, :7].long()), 1)
    for yaw in torch.arange(0, 360, 45).deg2rad():
        towards = normal[:, 0] * yaw.sin() + normal[:, 2] * yaw.cos()
        assert (towards[lenders].amax(1) > 0)[level].float().mean() > 0.95


def test_landmarks_are_few_and_near(body, donors):
    landmarks = donors.vertex[:, 7:].long()
    assert 32 < len(landmarks.unique()) <= 64
    distance = (body.template[landmarks[:, 0]] - body.template).norm(dim=1)
    assert distance.max() < 0.35
    assert distance.mean() < (body.template[landmarks[:, 3]] - body.template).norm(dim=1).mean()


def test_best_donors_come_first(donors):
    assert (donors.weight.diff() <= 0).all()
    assert 0 < donors.weight.min() < donors.weight.max() < 1
