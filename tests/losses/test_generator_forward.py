"""Check how the generative forward pass batches images for the batch norms of the identity encoder."""

import torch

from gcl_fast.losses import generative_forward
from gcl_fast.models import GCL, ModelConfig


def test_one_pass_for_two_images_where_nothing_depends_on_the_batch():
    torch.manual_seed(0)
    gcl = GCL(ModelConfig.demo()).eval()
    image, maps = torch.randn(2, 3, 48, 44), torch.rand(2, 2, 1, 48, 44)
    before = {name: buffer.clone() for name, buffer in gcl.identity.named_buffers()}
    views = generative_forward(gcl, image, *maps, train_identity=True)
    for name, buffer in gcl.identity.named_buffers():
        assert torch.equal(buffer, before[name])
    for picture, parts in ((views.x_rec, views.parts_rec), (views.x_new, views.parts_new)):
        torch.testing.assert_close(gcl.identity(picture)[0], parts)
    torch.testing.assert_close(gcl.identity(views.x_new)[1], views.embedding_new)
    assert views.embedding.requires_grad


def test_training_mode_sees_four_batches():
    torch.manual_seed(0)
    gcl = GCL(ModelConfig.demo()).train()
    image, maps = torch.randn(2, 3, 48, 44), torch.rand(2, 2, 1, 48, 44)
    generative_forward(gcl, image, *maps, train_identity=True)
    assert {int(b) for name, b in gcl.identity.named_buffers() if "num_batches" in name} == {4}
