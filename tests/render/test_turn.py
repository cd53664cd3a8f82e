"""Turns: both views of a batch from one pose, and what pre-rendered maps cannot do."""

import pytest
import torch

from gcl_fast.bodies import AnnyBody, BodyParameters, OnlineStructureMaps, walking_pose
from gcl_fast.errors import UserError
from gcl_fast.kernels.transfer_appearance import Carried, transfer_appearance
from gcl_fast.render import Turn
from gcl_fast.render.camera import view_transform

SIZE = (64, 32)
YAW = torch.tensor([45.0, 180.0])


@pytest.fixture(scope="module")
def maps():
    bodies = BodyParameters(
        names=["a", "b", "c"], model="anny", pose=walking_pose(torch.tensor([0.0, 2.0, 3.0])),
        shape=torch.full((3, 6), 0.5), yaw=torch.tensor([0.0, 70.0, 10.0]),
        camera=torch.tensor([[0.5, 0.5, 0.5, 0.0]]).repeat(3, 1), confidence=torch.ones(3),
    )  # fmt: skip
    return OnlineStructureMaps(AnnyBody(), bodies, SIZE, "cpu")


def test_maps_are_those_of_both_yaws(maps):
    index = torch.tensor([2, 0])
    turn = maps.turn(index, YAW)
    torch.testing.assert_close(turn.own, maps(index, 0 * YAW), rtol=0, atol=1e-3)
    torch.testing.assert_close(turn.novel, maps(index, YAW), rtol=0, atol=1e-3)


def test_there_and_back_are_the_ops_views(maps):
    index = torch.tensor([2, 0])
    images = torch.rand(2, 3, *SIZE)
    body, p = maps.body, maps.params
    vertices = body(p.pose[index], p.shape[index])
    own, novel = (view_transform(vertices, p.yaw[index] + y, p.camera[index], SIZE) for y in (0, YAW))
    turn = maps.turn(index, YAW)
    there = transfer_appearance(images, vertices, body.faces, body.donors, own, novel)
    assert torch.equal(turn.there(images).colour, there.colour)
    back = transfer_appearance(torch.cat(there, 1), vertices, body.faces, body.donors, novel, own)
    returned = turn.back(there)
    assert torch.equal(returned.colour, back.colour[:, :3])
    torch.testing.assert_close(returned.confidence, back.confidence * back.colour[:, 3:])
    assert (returned.confidence <= back.confidence + 1e-6).all()


def test_neighbours_exchange_their_pixels(maps):
    index = torch.tensor([2, 0, 1, 2])
    images = torch.rand(4, 3, *SIZE)
    body, p = maps.body, maps.params
    carried = maps.turn(index, torch.full((4,), 45.0)).from_neighbours(images)
    for row, neighbour in enumerate([1, 0, 3, 2]):
        pair = index[[neighbour, row]]
        vertices = body(p.pose[pair], p.shape[pair])
        source, target = view_transform(vertices, p.yaw[pair], p.camera[pair], SIZE).split(1)
        alone = transfer_appearance(
            images[[neighbour]], vertices[:1], body.faces, body.donors, source, target, target_vertices=vertices[1:]
        )
        torch.testing.assert_close(carried.colour[[row]], alone.colour, rtol=0, atol=1e-3)
        torch.testing.assert_close(carried.confidence[[row]], alone.confidence, rtol=0, atol=1e-3)


def test_maps_without_bodies_carry_nothing():
    turn = Turn(torch.rand(4, 1, *SIZE))
    for call in (lambda: turn.there(torch.rand(2, 3, *SIZE)),
                 lambda: turn.from_neighbours(torch.rand(2, 3, *SIZE)),
                 lambda: turn.back(Carried(torch.rand(2, 3, *SIZE), torch.rand(2, 1, *SIZE)))):  # fmt: skip
        with pytest.raises(UserError, match="appearance=parts"):
            call()
