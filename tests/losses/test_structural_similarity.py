"""Compare SSIM with its definition, window by window in float64."""

import numpy as np
import pytest
import torch

from gcl_fast.evaluation import ssim
from gcl_fast.losses.reconstruction import dissimilarity_loss


def ssim_map(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Compute eq. 13 of Wang et al. 2004 for two images (H, W), as a map (H - 10, W - 10)."""
    offset = np.arange(11) - 5
    weight = np.exp(-(offset[:, None] ** 2 + offset[None] ** 2) / (2 * 1.5**2))
    weight /= weight.sum()
    out = np.empty((x.shape[0] - 10, x.shape[1] - 10))
    for i, j in np.ndindex(out.shape):
        a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
        mean_a, mean_b = (weight * a).sum(), (weight * b).sum()
        var_a, var_b = (weight * (a - mean_a) ** 2).sum(), (weight * (b - mean_b) ** 2).sum()
        both = (weight * (a - mean_a) * (b - mean_b)).sum()
        out[i, j] = (2 * mean_a * mean_b + 1e-4) * (2 * both + 9e-4)
        out[i, j] /= (mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4)
    return out


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 17, 23, generator=generator)
    return x, (x + 0.3 * torch.randn(x.shape, generator=generator)).clamp(0, 1)


def test_matches_the_definition_with_and_without_mask(images):
    x, y = images
    maps = np.array([[ssim_map(a, b) for a, b in zip(*pair)] for pair in zip(x.double().numpy(), y.double().numpy())])
    np.testing.assert_allclose(ssim(x, y), maps.mean((1, 2, 3)), atol=2e-5)
    mask = torch.rand(2, 17, 23, generator=torch.Generator().manual_seed(1)) > 0.6
    inside = mask[:, 5:-5, 5:-5].numpy()
    expected = [values.mean(0)[where].mean() for values, where in zip(maps, inside)]
    np.testing.assert_allclose(ssim(x, y, mask), expected, atol=2e-5)


def test_equal_inverted_and_masked_out(images):
    x, _ = images
    torch.testing.assert_close(ssim(x, x), torch.ones(2))
    assert (ssim(x, 1 - x) < 0).all()
    assert ssim(x, x, torch.zeros(2, 17, 23, dtype=torch.bool)).isnan().all()


def test_wrong_shapes_are_refused(images):
    x, y = images
    with pytest.raises(ValueError, match=r"mask \(B, H, W\), not .* and \(2, 17\)"):
        ssim(x, y, torch.ones(2, 17, dtype=torch.bool))
    with pytest.raises(ValueError, match="10 x 23 are smaller than the 11 x 11 window"):
        ssim(x[:, :, :10], y[:, :, :10])


def test_is_the_mean_of_torchmetrics_map_where_the_window_fits(images):
    torchmetrics = pytest.importorskip("torchmetrics.functional.image")
    x, y = images
    measure = torchmetrics.structural_similarity_index_measure  # its own mean includes mirrored borders
    _, whole = measure(y, x, data_range=1.0, reduction="none", return_full_image=True)
    torch.testing.assert_close(ssim(x, y), whole[:, :, 5:-5, 5:-5].mean((1, 2, 3)), rtol=0, atol=1e-5)
    mask = torch.rand(2, 17, 23, generator=torch.Generator().manual_seed(1)) > 0.6
    inside = mask[:, 5:-5, 5:-5]
    masked = (whole.mean(1)[:, 5:-5, 5:-5] * inside).sum((1, 2)) / inside.sum((1, 2))
    torch.testing.assert_close(ssim(x, y, mask), masked, rtol=0, atol=1e-5)


def test_a_generator_learns_by_it():
    """The loss is 0 for equal images, falls with noise taken away, and its gradient is that of finite differences."""
    generator = torch.Generator().manual_seed(0)
    image, noise = (torch.randn(1, 3, 13, 12, generator=generator) for _ in range(2))
    losses = [float(dissimilarity_loss(image + amount * noise, image)) for amount in (0.0, 0.3, 1.0)]
    assert losses[0] == pytest.approx(0, abs=1e-6)
    assert losses == sorted(losses)
    output = (image + 0.3 * noise).requires_grad_()
    (gradient,) = torch.autograd.grad(dissimilarity_loss(output, image), output)
    step = 1e-2 * noise
    with torch.no_grad():
        change = dissimilarity_loss(output + step, image) - dissimilarity_loss(output - step, image)
    assert float(change) == pytest.approx(2 * float((gradient * step).sum()), rel=2e-2)
