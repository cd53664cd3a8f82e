"""The augmentation against a pixel-by-pixel definition in float64."""

import numpy as np
import pytest
import torch

from gcl_fast.data.augment import IMAGENET_MEAN, IMAGENET_STD, LUMA, Augmentation, Draws, augment, draw, normalize

H, W = 19, 10


def reference(image: np.ndarray, draws: Draws, i: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (3, H, W), one crop, straight from the words of `Augmentation` and `Draws`."""
    height, width, _ = image.shape
    affine, top_bottom_left_right = draws.affine[i].double().numpy(), draws.erased[i].double().numpy()
    brightness, contrast, saturation = (float(v[i]) for v in (draws.brightness, draws.contrast, draws.saturation))
    out = np.empty((height, width, 3))
    top, bottom, left, right = top_bottom_left_right
    for y in range(height):
        for x in range(width):
            v, u = (y + 0.5) / height, (x + 0.5) / width
            if top <= v < bottom and left <= u < right:
                out[y, x] = 0
                continue
            source = affine @ [2 * u - 1, 2 * v - 1, 1]
            column = np.clip((source[0] + 1) / 2 * width - 0.5, 0, width - 1)
            row = np.clip((source[1] + 1) / 2 * height - 0.5, 0, height - 1)
            x0, y0 = int(column), int(row)
            x1, y1, a, b = min(x0 + 1, width - 1), min(y0 + 1, height - 1), column - x0, row - y0
            pixel = (1 - b) * ((1 - a) * image[y0, x0] + a * image[y0, x1])
            pixel = (pixel + b * ((1 - a) * image[y1, x0] + a * image[y1, x1])) / 255
            pixel = pixel * brightness
            pixel = saturation * pixel + (1 - saturation) * (pixel @ np.array(LUMA))
            pixel = contrast * pixel + (1 - contrast) * 0.5
            out[y, x] = (pixel - IMAGENET_MEAN) / IMAGENET_STD
    return out.transpose(2, 0, 1)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, H, W, 3), dtype=np.uint8))


def no_change(batch: int) -> Draws:
    one = torch.ones(batch)
    return Draws(torch.eye(2, 3).repeat(batch, 1, 1), one, one, one, torch.zeros(batch, 4))


def test_normalize_is_a_channels_last_view_of_imagenet_values(images):
    result = normalize(images)
    expected = (images.double().numpy() / 255 - IMAGENET_MEAN) / IMAGENET_STD
    torch.testing.assert_close(result.double(), torch.from_numpy(expected).permute(0, 3, 1, 2), atol=1e-6, rtol=1e-6)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(normalize(images.flip(2)), result.flip(3))  # a non-contiguous input


@pytest.mark.parametrize("seed", range(3))
def test_augment_equals_the_definition(images, seed):
    strong = Augmentation(flip=0.5, zoom=0.3, shift=0.2, jitter=0.4, erase=0.7)
    draws = draw(strong, len(images), np.random.default_rng(seed))
    result = augment(images, draws)
    expected = torch.from_numpy(np.stack([reference(image.numpy(), draws, i) for i, image in enumerate(images)]))
    torch.testing.assert_close(result.double(), expected, atol=2e-5, rtol=1e-5)
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_no_change_is_normalize(images):
    torch.testing.assert_close(augment(images, no_change(5)), normalize(images), atol=1e-5, rtol=1e-5)


def test_flip_mirrors_left_and_right(images):
    draws = draw(Augmentation(flip=1, zoom=0, shift=0, jitter=0, erase=0), 5, np.random.default_rng(0))
    torch.testing.assert_close(augment(images, draws), normalize(images.flip(2)), atol=2e-5, rtol=1e-5)


def test_draws_keep_to_their_ranges():
    a = Augmentation()
    draws = draw(a, 4000, np.random.default_rng(0))
    assert all(value.dtype == torch.float32 for value in draws)
    mirrored = draws.affine[:, 0, 0] < 0
    assert abs(mirrored.float().mean() - a.flip) < 0.03
    factor = 1 / draws.affine[:, 1, 1]
    assert torch.equal(draws.affine[:, 0, 0].abs(), draws.affine[:, 1, 1])
    for values, middle, spread in [
        (factor, 1, a.zoom),
        (draws.affine[:, :, 2] / 2, 0, a.shift),
        *((v, 1, a.jitter) for v in (draws.brightness, draws.contrast, draws.saturation)),
    ]:
        assert middle - spread <= values.min() < middle - 0.9 * spread
        assert middle + 0.9 * spread < values.max() <= middle + spread
    top, bottom, left, right = draws.erased.unbind(1)
    area = (bottom - top) * (right - left)
    assert draws.erased.min() >= 0
    assert draws.erased.max() <= 1
    assert abs((area > 0).float().mean() - a.erase) < 0.03
    assert area.max() <= a.erase_area[1] + 1e-6


def test_draws_are_reproducible():
    one, same, other = (draw(Augmentation(), 8, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, same))
    assert not torch.equal(one.affine, other.affine)
