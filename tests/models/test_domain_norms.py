"""Compare one encoder with the batch norms of two domains with two encoders."""

import copy
from dataclasses import replace

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from gcl_fast.models import IdentityEncoder, ModelConfig
from gcl_fast.models.domain_norms import of_another_domain


def small_encoder():
    torch.manual_seed(0)
    return IdentityEncoder(replace(ModelConfig.demo().identity, channels=(8, 12), blocks=(1, 1), strides=(1, 2)))


def batches(count, mean, seed):
    generator = torch.Generator().manual_seed(seed)
    return [mean + torch.randn(6, 3, 32, 16, generator=generator) for _ in range(count)]


def test_each_domain_keeps_the_statistics_of_a_network_of_its_own():
    target = small_encoder()
    source, alone_source, alone_target = of_another_domain(target), copy.deepcopy(target), copy.deepcopy(target)
    with torch.no_grad():
        for ours, theirs in zip(batches(4, 1.0, 1), batches(4, -1.0, 2)):  # alternating, as training does
            source(ours)
            target(theirs)
        for ours in batches(4, 1.0, 1):
            alone_source(ours)
        for theirs in batches(4, -1.0, 2):
            alone_target(theirs)
    for ours, alone in ((source, alone_source), (target, alone_target)):
        buffers, expected = dict(ours.named_buffers()), dict(alone.named_buffers())
        assert buffers.keys() == expected.keys()
        assert all(torch.equal(buffers[name], expected[name]) for name in expected)
    assert not torch.equal(source.bn1.running_mean, target.bn1.running_mean)
    crops = batches(1, 0.0, 3)[0]
    for encoder in (source, target, alone_source):
        encoder.eval()
    assert torch.equal(source(crops)[1], alone_source(crops)[1])
    assert not torch.allclose(source(crops)[1], target(crops)[1], atol=0.1)


def test_what_trains_one_trains_the_other():
    target = small_encoder()
    source = of_another_domain(target)
    assert all(a is b for a, b in zip(source.parameters(), target.parameters(), strict=True))
    norms = [module for module in source.modules() if isinstance(module, _BatchNorm)]
    assert len(norms) > 4
    owned = {b.data_ptr() for b in target.buffers()}
    assert not any(b.data_ptr() in owned for b in source.buffers())
    source(batches(1, 0.0, 4)[0])[1].square().sum().backward()
    torch.optim.SGD(source.parameters(), 0.1).step()
    assert torch.equal(target.conv1.weight, source.conv1.weight)
    assert target.conv1.weight.grad.abs().max() > 0
    assert target.state_dict().keys() == source.state_dict().keys()
