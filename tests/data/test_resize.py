"""torch's uint8 kernel, products on any device and Pillow's two passes compute the same bicubic."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from gcl_fast.data.resize import bicubic, bicubic_by_products, resize

SIZES = [
    *(((128, 64), (256, 128)), ((256, 128), (128, 64)), ((61, 33), (256, 128)), ((400, 170), (256, 128))),
    *(((1, 9), (48, 24)), ((9, 1), (48, 24)), ((1, 1), (8, 4)), ((48, 24), (1, 1)), ((7, 5), (3, 2))),
    *(((127, 64), (128, 64)), ((128, 63), (128, 64)), ((48, 24), (48, 24)), ((133, 188), (26, 40))),
    *(((1000, 500), (64, 32)), ((3000, 1200), (64, 40)), ((2, 2), (300, 200))),
]


def edges(batch: int, size: tuple[int, int], seed: int = 0) -> torch.Tensor:
    """Make crops of black and white pixels, whose values leave 0..255 between the passes everywhere."""
    pixels = np.random.default_rng(seed).integers(0, 2, (batch, *size, 3), dtype=np.uint8)
    return torch.from_numpy(pixels * 255)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(("size", "new"), SIZES)
def test_products_equal_the_cpu_s_kernel(size, new, device):
    crops = edges(2, size)
    result = bicubic_by_products(crops.to(device), new)
    assert torch.equal(result.cpu(), bicubic(crops, new))
    assert result.dtype == torch.uint8
    assert result.is_contiguous()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("precision", ["high", "medium"])
def test_products_keep_their_bits_at_any_precision(precision, device):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        for size, new in (((256, 128), (50, 77)), ((90, 45), (256, 128))):
            crops = edges(5, size)
            assert torch.equal(bicubic_by_products(crops.to(device), new).cpu(), bicubic(crops, new))
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(("size", "new"), SIZES)
def test_it_is_pillow_s_bicubic_along_rows_first(size, new):
    crop = edges(1, size)
    wide = Image.fromarray(crop[0].numpy()).resize((new[1], size[0]), Image.Resampling.BICUBIC)
    pillow = np.asarray(wide.resize(new[::-1], Image.Resampling.BICUBIC)).astype(int)
    difference = np.abs(bicubic(crop, new)[0].numpy() - pillow)
    assert difference.max() <= 2  # Pillow's weights have 22 bits, torch's 15
    assert (difference > 0).mean() < 0.02


@pytest.mark.parametrize("way", [bicubic, bicubic_by_products])
def test_any_layout_of_the_input(way):
    crops = edges(6, (31, 17))
    expected = bicubic(crops, (48, 24))
    planes = crops.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)  # nvJPEG's layout
    assert torch.equal(way(planes, (48, 24)), expected)
    assert torch.equal(way(crops[::2], (48, 24)), expected[::2])


def test_crops_of_many_sizes_keep_their_order():
    sizes = [(31, 17), (60, 30), (31, 17), (48, 24), (17, 31), (60, 30), (31, 17)]
    crops = [edges(1, size, seed)[0] for seed, size in enumerate(sizes)]
    resized = resize(crops, (48, 24))
    assert resized.is_contiguous()
    assert torch.equal(resized, torch.cat([bicubic(crop[None], (48, 24)) for crop in crops]))


class Launches(TorchDispatchMode):
    """Counts the ops that launch work on a device."""

    FREE = ("view", "expand", "permute", "transpose", "t", "detach", "alias", "_unsafe_view", "split", "empty")
    count = 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.count += op.overloadpacket.__name__ not in self.FREE
        return op(*args, **(kwargs or {}))


def launches(work) -> int:
    with Launches() as counter:
        work()
    return counter.count


def test_a_batch_of_one_size_takes_few_launches(monkeypatch):
    monkeypatch.setattr("gcl_fast.data.resize.bicubic", bicubic_by_products)
    crops = edges(64, (128, 64))
    bicubic_by_products(crops, (256, 128))  # computes the weights, which are then cached
    counts = {batch: launches(partial(resize, [*crops[:batch]], (256, 128))) for batch in (2, 64)}
    assert counts == {2: 21, 64: 21}  # 20 of the products, 1 that stacks the crops
