"""An encoder with its norms in its convolutions computes what the encoder computes."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from gcl_fast.models import IdentityEncoder, ModelConfig, for_inference
from gcl_fast.models.folded_encoder import FoldedEncoder

SMALL = replace(
    ModelConfig().identity, stem_channels=16, channels=(32, 64, 64, 128), blocks=(1, 2, 1, 1), projection=24
)
CONFIGS = {"bottleneck": SMALL, "basic": ModelConfig.demo().identity}


def trained(config) -> IdentityEncoder:
    """Return an encoder with statistics and affine norms that are not trivial, in eval mode."""
    torch.manual_seed(0)
    encoder = IdentityEncoder(config)
    for norm in encoder.modules():
        if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
            norm.weight.data.uniform_(0.5, 1.5)
            norm.bias.data.normal_(0, 0.2)
            norm.running_mean.normal_(0, 0.2)
            norm.running_var.uniform_(0.5, 2)
    return encoder.eval().requires_grad_(False).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [(64, 32), (66, 34), (33, 47)])
@pytest.mark.parametrize("kind", CONFIGS)
def test_float32_is_as_exact_as_the_encoder(kind, size):
    encoder = trained(CONFIGS[kind])
    images = torch.randn(3, 3, *size)
    plain, folded = encoder(images), FoldedEncoder(encoder, torch.float32)(images)
    truth = trained(CONFIGS[kind]).double()(images.double())
    for ours, theirs, exact in zip(folded, plain, truth):
        assert ours.shape == theirs.shape
        error, bound = (ours - exact).abs().max(), (theirs - exact).abs().max()
        assert error <= 2 * bound + 1e-6 * exact.abs().max()


@pytest.mark.parametrize("kind", CONFIGS)
def test_bfloat16_is_as_exact_as_autocast(kind):
    encoder = trained(CONFIGS[kind])
    images = torch.randn(8, 3, 64, 32)
    truth = normalize(encoder(images)[1])
    with torch.autocast("cpu", torch.bfloat16):
        plain = normalize(encoder(images)[1].float())
        folded = normalize(FoldedEncoder(encoder, torch.bfloat16)(images)[1].float())
    distance = lambda rows: float((1 - (rows * truth).sum(1)).max())
    assert distance(folded) <= 2 * distance(plain) + 1e-5


def test_it_is_taken_in_bfloat16_on_a_cpu_alone():
    encoder = trained(SMALL)
    assert for_inference(encoder, None) is encoder
    assert for_inference(encoder, torch.float16) is encoder
    assert isinstance(for_inference(encoder, torch.bfloat16), FoldedEncoder)
    assert for_inference(encoder.to("meta"), torch.bfloat16) is encoder
    other = nn.Sequential(nn.Conv2d(3, 3, 1))
    assert for_inference(other, torch.bfloat16) is other
