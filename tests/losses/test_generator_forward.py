"""Check how the generative forward pass batches images for the batch norms of the identity encoder."""

import dataclasses

import pytest
import torch

from gcl_fast.bodies import AnnyBody, BodyParameters, OnlineStructureMaps, walking_pose
from gcl_fast.losses import generative_forward
from gcl_fast.models import GCL, ModelConfig
from gcl_fast.render import Turn


def test_one_pass_for_two_images_where_nothing_depends_on_the_batch():
    torch.manual_seed(0)
    gcl = GCL(ModelConfig.demo()).eval()
    image, maps = torch.randn(2, 3, 48, 44), torch.rand(4, 1, 48, 44)
    before = {name: buffer.clone() for name, buffer in gcl.identity.named_buffers()}
    views = generative_forward(gcl, image, Turn(maps), train_identity=True)
    for name, buffer in gcl.identity.named_buffers():
        assert torch.equal(buffer, before[name])
    for picture, parts in ((views.x_rec, views.parts_rec), (views.x_new, views.parts_new)):
        torch.testing.assert_close(gcl.identity(picture)[0], parts)
    torch.testing.assert_close(gcl.identity(views.x_new)[1], views.embedding_new)
    assert views.embedding.requires_grad


def test_training_mode_sees_four_batches():
    torch.manual_seed(0)
    gcl = GCL(ModelConfig.demo()).train()
    image, maps = torch.randn(2, 3, 48, 44), torch.rand(4, 1, 48, 44)
    generative_forward(gcl, image, Turn(maps), train_identity=True)
    assert {int(b) for name, b in gcl.identity.named_buffers() if "num_batches" in name} == {4}


@pytest.fixture
def carrying():
    """Return GCL with a generator that takes carried pixels, and the turn of two walking people."""
    torch.manual_seed(0)
    sizes = ModelConfig.demo()
    gcl = GCL(dataclasses.replace(sizes, generator=dataclasses.replace(sizes.generator, appearance="carried"))).eval()
    one = torch.ones(2)
    bodies = BodyParameters(
        names=["a", "b"], model="anny", pose=walking_pose(torch.tensor([0.0, 2.0])), shape=torch.full((2, 6), 0.5),
        yaw=torch.tensor([0.0, 70.0]), camera=torch.tensor([[0.5, 0.5, 0.5, 0.0]]).repeat(2, 1), confidence=one,
    )  # fmt: skip
    maps = OnlineStructureMaps(AnnyBody(), bodies, (64, 40), "cpu")
    return gcl, maps.turn(torch.arange(2), torch.tensor([90.0, 180.0]))


def test_carried_pixels_reach_the_novel_view_and_the_cycle(carrying):
    """A pixel of the crop moves x_new; a gradient by x_cyc reaches x_new through the way back."""
    gcl, turn = carrying
    image = torch.randn(2, 3, 64, 40)
    views = generative_forward(gcl, image, turn, train_identity=True)
    other = generative_forward(gcl, image + torch.rand(2, 3, 1, 1), turn, train_identity=True)
    assert (views.x_new - other.x_new).abs().mean() > 0.05
    gradient = torch.autograd.grad(views.x_cyc.square().sum(), views.x_new, retain_graph=True)[0]
    assert (gradient != 0).float().mean() > 0.1
    assert (views.x_rec - image).abs().mean() > 0.05  # not a copy: the way there and back leaves holes


def test_a_generator_says_whether_it_takes_carried_pixels(carrying):
    gcl, turn = carrying
    with pytest.raises(ValueError, match="needs carried pixels"):
        gcl.generator(gcl.structure(turn.own), torch.randn(2, gcl.config.identity.part_features))
    plain = GCL(ModelConfig.demo())
    with pytest.raises(ValueError, match="takes no carried pixels"):
        plain.generator(plain.structure(turn.own), torch.randn(2, 1024), torch.randn(2, 5, 64, 40))
