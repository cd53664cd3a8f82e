"""The op and its reference in plain PyTorch against a pixel-by-pixel definition in float64."""

import numpy as np
import pytest
import torch

from gcl_fast.data.augment import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    LUMA,
    Augmentation,
    Draws,
    draw,
    jitter_and_normalize,
    no_change,
    sample,
    sample_reference,
)

H, W = 19, 10
INDEX = torch.tensor([3, 0, 3, 4, 1])
STRONG = Augmentation(flip=0.5, zoom=0.3, shift=0.2, jitter=0.4, erase=0.7)


def definition(crop: np.ndarray, placement: np.ndarray, colour: np.ndarray, erased: np.ndarray) -> np.ndarray:
    """Change one crop (H, W, 3) uint8 to (3, H, W) as the docstring of `Draws` defines it."""
    height, width, _ = crop.shape
    out = np.zeros((height, width, 3))
    top, bottom, left, right = erased
    for y in range(height):
        for x in range(width):
            v, u = (y + 0.5) / height, (x + 0.5) / width
            if top <= v < bottom and left <= u < right:
                continue
            row = ((placement[0] * (2 * v - 1) + placement[2] + 1) / 2) * height - 0.5
            column = ((placement[1] * (2 * u - 1) + placement[3] + 1) / 2) * width - 0.5
            row, column = np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)
            y0, x0 = int(row), int(column)
            y1, x1, b, a = min(y0 + 1, height - 1), min(x0 + 1, width - 1), row - y0, column - x0
            pixel = (1 - b) * ((1 - a) * crop[y0, x0] + a * crop[y0, x1])
            pixel = pixel + b * ((1 - a) * crop[y1, x0] + a * crop[y1, x1])
            out[y, x] = colour[:, :3] @ pixel + colour[:, 3]
    return out.transpose(2, 0, 1)


def expected(crops: torch.Tensor, index: torch.Tensor, draws: Draws) -> torch.Tensor:
    changes = [[value[i].double().numpy() for value in draws] for i in range(len(index))]
    return torch.from_numpy(np.stack([definition(crops[i].numpy(), *change) for i, change in zip(index, changes)]))


@pytest.fixture
def crops() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, H, W, 3), dtype=np.uint8))


@pytest.mark.parametrize("how", [sample, sample_reference])
@pytest.mark.parametrize("seed", range(3))
def test_crops_equal_the_definition(crops, how, seed, device):
    draws = draw(STRONG, len(INDEX), np.random.default_rng(seed))
    result = how(crops.to(device), INDEX.to(device), draws.to(device))
    assert result.device.type == device
    result = result.cpu()
    torch.testing.assert_close(result.double(), expected(crops, INDEX, draws), atol=2e-5, rtol=1e-5)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("how", [sample, sample_reference])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (33, 130)])
def test_odd_sizes(how, shape, device):
    crops = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (2, *shape, 3), dtype=np.uint8))
    draws = draw(STRONG, 3, np.random.default_rng(2))
    index = torch.tensor([1, 0, 1])
    result = how(crops.to(device), index.to(device), draws.to(device)).cpu().double()
    torch.testing.assert_close(result, expected(crops, index, draws), atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("how", [sample, sample_reference])
def test_no_change_normalizes(crops, how):
    result = how(crops, INDEX, no_change(5))
    values = (crops[INDEX].double().numpy() / 255 - IMAGENET_MEAN) / IMAGENET_STD
    torch.testing.assert_close(result.double(), torch.from_numpy(values).permute(0, 3, 1, 2), atol=5e-6, rtol=5e-6)


@pytest.mark.parametrize("how", [sample, sample_reference])
def test_flip_mirrors_left_and_right(crops, how):
    draws = draw(Augmentation(flip=1, zoom=0, shift=0, jitter=0, erase=0), 5, np.random.default_rng(0))
    result = how(crops, INDEX, draws)
    torch.testing.assert_close(result, how(crops.flip(2).contiguous(), INDEX, no_change(5)), atol=2e-5, rtol=1e-5)


def test_an_empty_batch(crops, device):
    assert sample(crops.to(device), INDEX[:0].to(device), no_change(0).to(device)).shape == (0, 3, H, W)


def test_wrong_input_is_refused(crops):
    draws = no_change(2)
    with pytest.raises(RuntimeError, match=r"index 6 is outside 0\.\.5"):
        sample(crops, torch.tensor([0, 6]), draws)
    with pytest.raises(RuntimeError, match="index -1 is outside"):
        sample(crops, torch.tensor([0, -1]), draws)
    with pytest.raises(RuntimeError, match="crops must be contiguous uint8"):
        sample(crops.float(), torch.tensor([0, 1]), draws)
    with pytest.raises(RuntimeError, match="crops must be contiguous uint8"):
        sample(crops.flip(0)[:, ::2], torch.tensor([0, 1]), draws)
    with pytest.raises(RuntimeError, match="placement must be"):
        sample(crops, torch.tensor([0, 1, 2]), draws)
    with pytest.raises(RuntimeError, match="erased must be"):
        sample(crops, torch.tensor([0, 1]), draws._replace(erased=draws.erased.double()))


def test_op_is_well_formed(crops):
    draws = draw(STRONG, 5, np.random.default_rng(0))
    torch.library.opcheck(torch.ops.gcl_fast.sample_crops.default, (crops, INDEX, *draws))


def test_jitter_is_saturation_then_brightness_then_contrast():
    generator = np.random.default_rng(0)
    factors, colours = generator.uniform(0.5, 1.5, (3, 4)), generator.uniform(0, 255, (4, 3))
    brightness, contrast, saturation = factors[..., None]
    changed = colours / 255
    changed = saturation * changed + (1 - saturation) * (changed @ np.array(LUMA))[:, None]
    changed = brightness * changed
    changed = contrast * changed + (1 - contrast) * 0.5
    matrix = jitter_and_normalize(*factors)
    result = np.einsum("bij,bj->bi", matrix[:, :, :3], colours) + matrix[:, :, 3]
    np.testing.assert_allclose(result, (changed - IMAGENET_MEAN) / IMAGENET_STD, rtol=1e-9)


def test_draws_keep_to_their_ranges():
    a = Augmentation()
    draws = draw(a, 4000, np.random.default_rng(0))
    assert all(value.dtype == torch.float32 for value in draws)
    vertical, horizontal, *shifts = draws.placement.unbind(1)
    assert abs((horizontal < 0).float().mean() - a.flip) < 0.03
    assert torch.equal(horizontal.abs(), vertical)
    contrast = 1 - (draws.colour[:, 0, 3] * IMAGENET_STD[0] + IMAGENET_MEAN[0]) * 2
    values = [(1 / vertical, 1, a.zoom), (contrast, 1, a.jitter), *((shift / 2, 0, a.shift) for shift in shifts)]
    for value, middle, spread in values:
        assert middle - spread - 1e-6 <= value.min() < middle - 0.9 * spread
        assert middle + 0.9 * spread < value.max() <= middle + spread + 1e-6
    top, bottom, left, right = draws.erased.unbind(1)
    area = (bottom - top) * (right - left)
    assert draws.erased.min() >= 0
    assert draws.erased.max() <= 1
    assert abs((area > 0).float().mean() - a.erase) < 0.03
    assert area.max() <= a.erase_area[1] + 1e-6


def test_draws_are_reproducible():
    one, same, other = (draw(Augmentation(), 8, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, same))
    assert not torch.equal(one.placement, other.placement)
