"""Pooled views: the mean over the usable views of a crop, and which views are usable."""

from contextlib import nullcontext

import pytest
import torch
from torch.nn.functional import normalize

from gcl_fast.bodies import AnnyBody, BodyParameters, OnlineStructureMaps, walking_pose
from gcl_fast.evaluation.inference import embeddings
from gcl_fast.evaluation.view_pooling import NOVEL_YAWS, CarriedViews
from gcl_fast.models import GCL, ModelConfig

SIZE = (64, 40)


@pytest.fixture
def bodies():
    """Return the bodies of three crops: one doubtful, one in its crop, one outside."""
    camera = torch.tensor([[0.5, 0.5, 0.5, 0.0]]).repeat(3, 1)
    camera[2, 1] = 5.0  # crop widths to the right
    params = BodyParameters(
        names=["a", "b", "c"], model="anny", pose=walking_pose(torch.tensor([0.0, 2.0, 1.0])),
        shape=torch.full((3, 6), 0.5), yaw=torch.tensor([0.0, 70.0, 140.0]), camera=camera,
        confidence=torch.tensor([0.1, 1.0, 1.0]),
    )  # fmt: skip
    return OnlineStructureMaps(AnnyBody(), params, SIZE, "cpu")


@pytest.mark.parametrize("flip", [False, True])
def test_a_row_is_the_mean_over_usable_views(bodies, flip):
    torch.manual_seed(0)
    encoder = GCL(ModelConfig.demo()).identity.eval()
    images = torch.randn(3, 3, *SIZE)
    batches = [(images[[2, 1]], torch.tensor([2, 1])), (images[:1], torch.tensor([0]))]
    views = CarriedViews(bodies)
    rows = embeddings(encoder, batches, 3, nullcontext, flip, views=views)

    plain = lambda x: embeddings(encoder, [(x, torch.arange(len(x)))], len(x), nullcontext, flip)
    alone = plain(images)
    torch.testing.assert_close(rows[[0, 2]], alone[[0, 2]])  # no usable view
    turned = [bodies.turn(torch.tensor([1]), torch.tensor([yaw])).there(images[1:2]).colour for yaw in NOVEL_YAWS]
    expected = normalize(alone[1] + torch.stack([plain(x)[0] for x in turned]).mean(0), dim=0)
    torch.testing.assert_close(rows[1], expected)
    assert views.used == pytest.approx(1 / 3)
    assert not torch.allclose(rows[1], alone[1])
