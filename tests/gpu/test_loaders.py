"""Crops on a device: the batches of every loader engine and cache beside those of the CPU."""

import sys
from itertools import islice

import numpy as np
import pytest
import torch

from gcl_fast.data import Augmentation, ExtractLoader, TrainLoader, open_dataset, shuffled_plan
from gcl_fast.data.augment import IMAGENET_STD

SIZE = (64, 40)
LEVEL = 1 / (255 * min(IMAGENET_STD))  # one step of an 8-bit value, once normalized


@pytest.fixture(params=["as installed", "pillow"])
def engine(request, monkeypatch):
    if request.param == "pillow":
        monkeypatch.setitem(sys.modules, "gcl_fast.data.dali_decoder", None)  # its import fails as without DALI


@pytest.fixture
def records(world):
    return open_dataset("synthetic", world).train.subset(np.arange(23))


@pytest.mark.parametrize("augmentation", [None, Augmentation()], ids=["plain", "augmented"])
@pytest.mark.parametrize("cache", [None, "host", "device"])
def test_batches_equal_the_cpus(records, engine, device, cache, augmentation):
    plan = shuffled_plan(len(records), 5, seed=0, epoch=0)
    loader = TrainLoader(records, SIZE, device, augmentation=augmentation, cache=cache)
    expected = TrainLoader(records, SIZE, augmentation=augmentation).epoch(plan, 0)
    for (image, index), (theirs, their_index) in zip(loader.epoch(plan, 0), expected, strict=True):
        assert image.device.type == index.device.type == device
        assert image.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(index.cpu(), their_index)
        assert (image.cpu() - theirs).abs().mean() < 2 * LEVEL


@pytest.mark.parametrize("cache", [None, "host", "device"])
def test_an_epoch_resumes_bit_for_bit(records, engine, device, cache):
    plan = shuffled_plan(len(records), 4, seed=0, epoch=2)
    make = lambda: TrainLoader(records, SIZE, device, augmentation=Augmentation(), cache=cache, seed=3)
    whole = list(make().epoch(plan, 2))
    rest = list(make().epoch(plan, 2, start=3))
    assert [len(whole), len(rest)] == [5, 2]
    assert all(torch.equal(a, b) for pair in zip(rest, whole[3:]) for a, b in zip(*pair))


def test_extraction_sees_every_crop_once(records, engine, device):
    indices = [index for _, index in ExtractLoader(records, SIZE, device, batch_size=8)]
    assert torch.cat(indices).tolist() == list(range(23))


def test_loading_waits_for_nothing_once_it_goes(records, device, refusing_waits):
    """From the device cache: a batch is an index, draws and one pass over memory."""
    loader = TrainLoader(records, SIZE, device, augmentation=Augmentation(), cache="device")
    plan = shuffled_plan(len(records), 4, seed=0, epoch=0)
    batches = loader.epoch(plan, 0)
    next(batches)  # fills the cache
    with refusing_waits(device):
        images = [image for image, _ in islice(batches, 2)]
    assert all(bool(image.isfinite().all()) for image in images)
