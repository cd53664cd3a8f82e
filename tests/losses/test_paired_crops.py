"""A pair of crops: whose pixels, whose part features, and which pixels of the result are judged."""

import pytest
import torch

from gcl_fast.bodies import AnnyBody, BodyParameters, OnlineStructureMaps, walking_pose
from gcl_fast.losses.paired_crops import own_view
from gcl_fast.losses.reconstruction import dissimilarity_loss, reconstruction_loss

SIZE = (120, 60)
NEIGHBOUR = [1, 0, 3, 2]


@pytest.fixture(scope="module")
def step():
    """Return the turn of four walking people, the last outside its crop, and images with their part features."""
    camera = torch.tensor([[0.5, 0.5, 0.5, 0.0]]).repeat(4, 1)
    camera[3, 1] = 5.0  # crop widths to the right
    bodies = BodyParameters(
        names=list("abcd"), model="anny", pose=walking_pose(torch.tensor([0.0, 2.0, 1.0, 3.0])),
        shape=torch.full((4, 6), 0.5), yaw=torch.tensor([0.0, 70.0, 140.0, 200.0]), camera=camera,
        confidence=torch.ones(4),
    )  # fmt: skip
    torch.manual_seed(0)
    turn = OnlineStructureMaps(AnnyBody(), bodies, SIZE, "cpu").turn(torch.arange(4), torch.full((4,), 90.0))
    return turn, torch.rand(4, 3, *SIZE), torch.rand(4, 8)


def test_a_pair_lends_pixels_and_part_features(step):
    turn, images, parts = step
    novel = turn.there(images)
    paired = torch.tensor([True, False, False, True])
    view = own_view(turn, images, parts, novel, paired)
    lent, returned = turn.from_neighbours(images), turn.back(novel)
    drawn_from_neighbour = [True, False, False, False]  # the body of the last one lies outside its crop
    for row, lends in enumerate(drawn_from_neighbour):
        assert torch.equal(view.carried.colour[row], (lent if lends else returned).colour[row])
        assert torch.equal(view.carried.confidence[row], (lent if lends else returned).confidence[row])
        assert torch.equal(view.parts[row], parts[NEIGHBOUR[row] if lends else row])


def test_a_crop_of_a_pair_is_judged_on_the_person_alone(step):
    turn, images, parts = step
    view = own_view(turn, images, parts, turn.there(images), torch.tensor([True, False, True, False]))
    assert (view.weight[[1, 3]] == 1).all()
    body = turn.own[[0, 2], 0] < 1
    judged = view.weight[[0, 2]] > 0
    assert (judged | ~body).all()
    distance = torch.cdist(judged[0].nonzero().float(), body[0].nonzero().float(), p=torch.inf).amin(1)
    assert int(distance.max()) == 3  # a fortieth of 120 pixels


def test_without_pairs_nothing_changes(step):
    turn, images, parts = step
    novel = turn.there(images)
    plain, none = own_view(turn, images, parts, novel), own_view(turn, images, parts, novel, torch.zeros(4).bool())
    assert plain.weight is None
    assert torch.equal(plain.carried.colour, none.carried.colour)
    assert torch.equal(plain.parts, none.parts)
    assert (none.weight == 1).all()


def test_weights_choose_the_pixels_of_the_image_losses():
    torch.manual_seed(0)
    x, y = torch.randn(2, 3, 24, 20), torch.randn(2, 3, 24, 20)
    every = torch.ones(2, 24, 20)
    for loss in (reconstruction_loss, dissimilarity_loss):
        torch.testing.assert_close(loss(x, y, every), loss(x, y))
    left = every.clone()
    left[..., 10:] = 0
    torch.testing.assert_close(reconstruction_loss(x, y, left), reconstruction_loss(x[..., :10], y[..., :10]))
    changed = y.clone()
    changed[..., 16:] = 0  # more than half a window away from what counts
    torch.testing.assert_close(dissimilarity_loss(x, changed, left), dissimilarity_loss(x, y, left))
    assert not torch.isclose(dissimilarity_loss(x, changed), dissimilarity_loss(x, y))
