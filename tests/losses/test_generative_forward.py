"""Which pictures reach the running statistics of the identity encoder."""

import pytest
import torch

from gcl_fast.losses import generative_forward
from gcl_fast.models import GCL, ModelConfig


@pytest.mark.parametrize("real_statistics", [False, True])
def test_running_statistics_are_of_the_real_crops_alone_on_request(real_statistics):
    torch.manual_seed(0)
    gcl = GCL(ModelConfig.demo()).train()
    image, maps = torch.randn(2, 3, 48, 44), torch.rand(2, 2, 1, 48, 44)
    before = {name: buffer.clone() for name, buffer in gcl.identity.named_buffers()}
    gcl.identity(image)
    expected = {name: buffer.clone() for name, buffer in gcl.identity.named_buffers() if "running" in name}
    gcl.identity.load_state_dict(before, strict=False)
    views = generative_forward(gcl, image, *maps, train_identity=True, real_statistics=real_statistics)
    after = dict(gcl.identity.named_buffers())
    same = [torch.equal(after[name], value) for name, value in expected.items()]
    assert all(same) if real_statistics else not any(same)
    assert {m.momentum for m in gcl.identity.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {0.1}
    gcl.identity.load_state_dict(before, strict=False)
    other = generative_forward(gcl, image, *maps, train_identity=True, real_statistics=not real_statistics)
    assert all(torch.equal(a, b) for a, b in zip(views, other))  # the pass itself is the same
