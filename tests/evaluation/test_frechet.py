"""Compare the Fréchet distance with its definition, and the Inception network with torchvision's."""

import pytest
import torch
from scipy.linalg import sqrtm
from torch.nn import functional as F

from gcl_fast.data.augment import IMAGENET_MEAN, IMAGENET_STD
from gcl_fast.errors import UserError
from gcl_fast.evaluation.frechet import FrechetDistance, InceptionFeatures


def features(seed: int, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(6, 6, generator=generator)
    return torch.randn(40, 6, generator=generator) @ mixing + shift


def by_definition(x: torch.Tensor, y: torch.Tensor) -> float:
    a, b = torch.cov(x.T.double()), torch.cov(y.T.double())
    mean = (x.double().mean(0) - y.double().mean(0)).square().sum()
    return float(mean + a.trace() + b.trace() - 2 * sqrtm((a @ b).numpy()).real.trace())


def test_equals_the_definition_for_one_set_after_the_other():
    pytest.importorskip("torchmetrics")
    real, first, second = features(0), features(1), features(2, shift=3.0)
    frechet = FrechetDistance(6, torch.device("cpu"))
    for batch in real.split(15):
        frechet.add(batch, real=True)
    for generated in (first, second, real):
        for batch in generated.split(7):
            frechet.add(batch, real=False)
        assert frechet.distance() == pytest.approx(by_definition(real, generated), rel=1e-4, abs=1e-4)


@pytest.fixture(scope="module")
def inception():
    from torchvision.models import inception_v3

    torch.manual_seed(0)
    return inception_v3(weights=None, init_weights=False, transform_input=True, aux_logits=True).eval()


@torch.no_grad()
def test_inception_is_torchvisions(inception, tmp_path):
    torch.save(inception.state_dict(), tmp_path / "inception.pth")
    pictures = torch.rand(2, 3, 64, 32, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    large = F.interpolate(pictures, (299, 299), mode="bilinear", antialias=True)
    classifier, inception.fc = inception.fc, torch.nn.Identity()
    theirs = inception((large - mean) / std)
    inception.fc = classifier
    ours = InceptionFeatures(tmp_path / "inception.pth")(pictures)
    assert ours.shape == (2, 2048)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


def test_other_weights_are_named(inception, tmp_path):
    weights = dict(inception.state_dict())
    weights["Mixed_5b.branch1x1.conv.weight"] = torch.zeros(64, 192, 3, 3)
    weights["extra.bias"] = weights.pop("Mixed_7c.branch_pool.bn.bias")
    torch.save(weights, tmp_path / "other.pth")
    with pytest.raises(UserError, match="not the weights of torchvision's Inception-v3") as caught:
        InceptionFeatures(tmp_path / "other.pth")
    assert str(caught.value).split(": ", 2)[2] == (
        "Mixed_5b.branch1x1.conv.weight is (64, 192, 3, 3), expected (64, 192, 1, 1); "
        "missing Mixed_7c.branch_pool.bn.bias; unknown extra.bias"
    )
    with pytest.raises(UserError, match="no such file"):
        InceptionFeatures(tmp_path / "absent.pth")
