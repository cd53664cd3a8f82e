"""What is drawn for crops: the ranges, the colours, and that equal seeds draw the same."""

import numpy as np
import torch

from gcl_fast.data.augment import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    LUMA,
    Augmentation,
    draw,
    jitter_and_normalize,
)


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
