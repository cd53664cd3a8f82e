"""Loaders deliver the crops of the plan, the same by every decoder, and survive files that break."""

import logging
import os

import numpy as np
import pytest
import torch
from PIL import Image

from gcl_fast.data import Augmentation, ExtractLoader, TrainLoader, drop_broken, open_dataset, shuffled_plan
from gcl_fast.data.augment import IMAGENET_MEAN, IMAGENET_STD

SIZE = (48, 24)
LEVEL = 1 / (255 * min(IMAGENET_STD))  # one step of an 8-bit value, once normalized


def decode(path) -> torch.Tensor:
    """Decode, resize and normalize a file to (3, H, W) by Pillow and float64 arithmetic.

    Rows and columns are resized by separate calls, since Pillow 13 may take columns first in a joint call.
    """
    with Image.open(path) as image:
        wide = image.convert("RGB").resize((SIZE[1], image.height), Image.Resampling.BICUBIC)
        pixels = np.asarray(wide.resize(SIZE[::-1], Image.Resampling.BICUBIC)) / 255
    return torch.from_numpy((pixels - IMAGENET_MEAN) / IMAGENET_STD).permute(2, 0, 1)


def collect(batches) -> tuple[torch.Tensor, torch.Tensor]:
    images, indices = zip(*batches)
    return torch.cat(images), torch.cat(indices)


def test_crops_are_decoded_resized_and_normalized(crops, engine):
    loader = TrainLoader(crops, SIZE)
    plan = shuffled_plan(len(crops), 5, seed=0, epoch=0)
    images, index = collect(loader.epoch(plan, 0))
    assert loader.engine == engine
    assert loader.notice.startswith(engine)
    assert images.shape == (20, 3, *SIZE)
    assert images.dtype == torch.float32
    assert torch.equal(index, plan.flatten())
    difference = (images - torch.stack([decode(crops.paths[i]) for i in index])).abs()
    assert difference.mean() < 0.5 * LEVEL
    assert difference.max() < 3 * LEVEL


@pytest.mark.parametrize("shape", [(31, 17), (120, 61), (400, 30), (48, 24)])
def test_resizing_is_bicubic(tmp_path, engine, shape):
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    ((image, _),) = ExtractLoader(open_dataset("folder", tmp_path).train, SIZE)
    difference = (image[0] - decode(tmp_path / "noise.png")).abs()
    assert difference.max() < 1.01 * LEVEL  # linear interpolation is off by 4 levels in the mean
    assert difference.mean() < 0.2 * LEVEL


def test_pixels_are_taken_as_the_official_code_takes_them(tmp_path, engine):
    grey = np.arange(0, 256, 8, dtype=np.uint8)[:, None].repeat(16, 1)
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: to be shown after a quarter of a turn
    Image.fromarray(grey).save(tmp_path / "0.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "1.png")
    Image.fromarray(grey).save(tmp_path / "2.jpg", quality=100)
    Image.fromarray(grey).save(tmp_path / "3.jpg", quality=100, exif=turned)
    images, _ = collect(ExtractLoader(open_dataset("folder", tmp_path).train, SIZE))
    assert (images - images[0]).abs().max() < 3 * LEVEL


def test_names_of_any_bytes(tmp_path, engine, monkeypatch):
    monkeypatch.setenv("GCL_FAST_CACHE", str(tmp_path / "verdicts"))
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        folder.mkdir()
        Image.new("RGB", (30, 60), "green").save(folder / os.fsdecode(b"\xff.jpg"))
    except OSError:
        pytest.skip("this file system holds UTF-8 names only")
    records, notice = drop_broken(open_dataset("folder", folder).train)
    ((image, _),) = ExtractLoader(records, SIZE)
    assert notice == ""
    assert (image[0] - decode(records.paths[0])).abs().mean() < 0.5 * LEVEL


def test_batches_are_channels_last(crops, engine):
    plan = shuffled_plan(len(crops), 5, seed=0, epoch=0)
    for augmentation in (None, Augmentation()):
        image, _ = next(TrainLoader(crops, SIZE, augmentation=augmentation).epoch(plan, 0))
        assert image.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("cache", [None, "host"])
def test_an_epoch_resumes_bit_for_bit(crops, engine, cache):
    options = dict(augmentation=Augmentation(), cache=cache, seed=3)
    plan = shuffled_plan(len(crops), 4, seed=0, epoch=2)
    whole = list(TrainLoader(crops, SIZE, **options).epoch(plan, 2))
    rest = list(TrainLoader(crops, SIZE, **options).epoch(plan, 2, start=3))
    assert len(whole) == 5
    assert len(rest) == 2
    for (image, index), (expected, expected_index) in zip(rest, whole[3:]):
        assert torch.equal(index, expected_index)
        assert torch.equal(image, expected)


def test_augmentation_changes_with_seed_epoch_and_step(crops):
    plan = torch.tensor([[0, 1], [0, 1]])
    loader = TrainLoader(crops, SIZE, augmentation=Augmentation(), seed=0)
    first, second = (image for image, _ in loader.epoch(plan, 0))
    ((other_epoch, _),) = loader.epoch(plan[:1], 1)
    ((other_seed, _),) = TrainLoader(crops, SIZE, augmentation=Augmentation(), seed=1).epoch(plan[:1], 0)
    for other in (second, other_epoch, other_seed):
        assert not torch.equal(first, other)


def test_ranks_change_their_slices_as_one_process_changes_the_whole_batch(crops):
    plan = torch.tensor([[3, 0, 5, 0]])
    ((whole, _),) = TrainLoader(crops, SIZE, augmentation=Augmentation()).epoch(plan, 0)
    for rank in range(2):
        loader = TrainLoader(crops, SIZE, augmentation=Augmentation(), rank=rank, world_size=2)
        ((image, _),) = loader.epoch(plan[:, 2 * rank : 2 * rank + 2], 0)
        assert torch.equal(image, whole[2 * rank : 2 * rank + 2])
    assert not torch.equal(whole[1], whole[3])  # the same crop, another place


def test_an_abandoned_epoch_leaves_nothing_behind(crops, engine):
    loader = TrainLoader(crops, SIZE)
    plan = shuffled_plan(len(crops), 4, seed=0, epoch=0)
    expected = list(loader.epoch(plan, 0))
    abandoned = loader.epoch(plan.flip(0), 1)
    next(abandoned)
    again = list(loader.epoch(plan, 0))  # while the abandoned iterator still exists
    assert all(torch.equal(a, b) for pair in zip(again, expected) for a, b in zip(*pair))
    current = loader.epoch(plan, 0)
    begun = [next(current)]
    if engine == "dali-cpu":  # DALI cannot go back and raises; the others can
        with pytest.raises(Exception, match="can no longer be read"):
            next(abandoned)
    else:
        image, index = next(abandoned)
        assert torch.equal(index, plan.flip(0)[1])
        assert torch.equal(image, expected[-2][0])
    assert all(torch.equal(a, b) for pair in zip(begun + list(current), expected) for a, b in zip(*pair))


def test_batches_stay_valid_while_later_ones_are_made(crops):
    plan = torch.arange(22).view(11, 2)
    images = [image for image, _ in TrainLoader(crops, SIZE).epoch(plan, 0)]
    copies = [image.clone() for image, _ in TrainLoader(crops, SIZE).epoch(plan, 0)]
    assert all(torch.equal(a, b) for a, b in zip(images, copies))


def test_plans_may_change_their_batch_size(crops, engine):
    loader = TrainLoader(crops, SIZE)
    for batch in (2, 7, 3, 0):
        plan = torch.arange(2 * batch).view(2, batch) if batch else torch.empty(0, 4, dtype=torch.int64)
        assert [index.tolist() for _, index in loader.epoch(plan, 0)] == plan.tolist()


@pytest.mark.parametrize("augmentation", [None, Augmentation()])
def test_cached_crops_equal_decoded_ones(crops, engine, augmentation):
    plan = shuffled_plan(len(crops), 5, seed=0, epoch=1)
    decoded = TrainLoader(crops, SIZE, augmentation=augmentation, seed=1)
    cached = TrainLoader(crops, SIZE, augmentation=augmentation, seed=1, cache="host")
    assert cached.cache == "host"
    images, index = collect(decoded.epoch(plan, 1))
    for _ in range(2):  # the second time only from memory
        cached_images, cached_index = collect(cached.epoch(plan, 1))
        assert torch.equal(cached_index, index)
        torch.testing.assert_close(cached_images, images, atol=1e-5, rtol=1e-5)


def test_cached_files_are_read_once(own_crops):
    plan = shuffled_plan(len(own_crops), 4, seed=0, epoch=0)
    loader = TrainLoader(own_crops, SIZE, cache="host")
    before, _ = collect(loader.epoch(plan, 0))
    for path in own_crops.paths:
        path.unlink()
    after, _ = collect(loader.epoch(plan, 0))
    assert torch.equal(before, after)


@pytest.mark.parametrize("world_size", [1, 3])
def test_extraction_sees_every_crop_once(crops, engine, world_size):
    loaders = [ExtractLoader(crops, SIZE, "cpu", 4, rank, world_size) for rank in range(world_size)]
    seen = []
    for loader in loaders:
        batches = list(loader)
        assert len(batches) == len(loader)
        images, index = collect(batches)
        expected = torch.stack([decode(crops.paths[i]) for i in index])
        assert (images - expected).abs().mean() < 0.5 * LEVEL
        seen += index.tolist()
    assert sorted(seen) == list(range(len(crops)))


def test_extraction_of_fewer_crops_than_ranks(crops, engine):
    one = crops.subset(np.array([4]))
    assert [index.tolist() for _, index in ExtractLoader(one, SIZE, rank=0, world_size=2)] == [[0]]
    assert list(ExtractLoader(one, SIZE, rank=1, world_size=2)) == []


@pytest.mark.parametrize("how", ["vanish", "truncate", "empty", "GIF", "chunk"])
@pytest.mark.parametrize("cache", [None, "host"])
def test_files_that_break_during_the_run_become_blank(own_crops, engine, how, cache, caplog):
    loader = TrainLoader(own_crops, SIZE, cache=cache)
    victims = [own_crops.paths[2], own_crops.paths[9]]
    for victim in victims:
        contents = victim.read_bytes()
        victim.unlink()
        if how == "GIF":
            Image.new("RGB", (8, 16)).save(victim, format="GIF")
        elif how == "chunk":  # Pillow raises SyntaxError
            noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
            Image.fromarray(noise).save(victim, format="PNG")
            png = victim.read_bytes()
            victim.write_bytes(png[: (at := png.rfind(b"IDAT"))] + b"\0\0\0\0" + png[at + 4 :])
        elif how != "vanish":
            victim.write_bytes(contents[: len(contents) // 2] if how == "truncate" else b"")
    plan = torch.arange(12).view(6, 2)
    with caplog.at_level(logging.WARNING):
        images, index = collect(loader.epoch(plan, 0))
    assert torch.equal(index, plan.flatten())
    blank = images.abs().amax(dim=(1, 2, 3)) < LEVEL
    assert blank.nonzero().flatten().tolist() == [2, 9]
    assert (images[3] - decode(own_crops.paths[3])).abs().mean() < 0.5 * LEVEL
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2
    assert all(str(victim) in message for victim, message in zip(victims, warnings))


def test_each_broken_file_is_reported_once(own_crops, engine, caplog):
    loader = TrainLoader(own_crops, SIZE)
    plan = torch.arange(12).view(2, 6)
    for victim in (1, 3, 8):
        own_crops.paths[victim].unlink()
        images, _ = collect(loader.epoch(plan, 0))
    assert (images.abs().amax(dim=(1, 2, 3)) < LEVEL).nonzero().flatten().tolist() == [1, 3, 8]
    assert len(caplog.records) == 3


def test_a_file_that_breaks_ahead_of_an_abandoned_epoch(own_crops, engine, caplog):
    loader = TrainLoader(own_crops, SIZE)
    own_crops.paths[3].unlink()
    abandoned = loader.epoch(torch.arange(12).view(6, 2), 0)
    next(abandoned)  # the decoder has read crop 3 ahead
    images, index = collect(loader.epoch(torch.tensor([[4, 5], [6, 7]]), 1))
    assert index.tolist() == [4, 5, 6, 7]
    assert (images[0] - decode(own_crops.paths[4])).abs().mean() < 0.5 * LEVEL
    assert caplog.records == []


def test_errors_without_a_broken_file_are_raised(crops, monkeypatch):
    loader = TrainLoader(crops, SIZE)

    def out_of_memory(plan):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(loader._files._decoder, "batches", out_of_memory)
    with pytest.raises(RuntimeError, match="out of memory"):
        next(loader.epoch(torch.tensor([[0, 1]]), 0))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(
    "options", [dict(), dict(augmentation=Augmentation()), dict(cache="device"), dict(cache="host"), dict(cache="auto")]
)
def test_a_gpu_gets_the_crops_of_the_cpu(crops, device, options):
    plan = shuffled_plan(len(crops), 5, seed=0, epoch=0)
    loader = TrainLoader(crops, SIZE, device, **options)
    images, index = collect(loader.epoch(plan, 0))
    expected, expected_index = collect(TrainLoader(crops, SIZE, **options | {"cache": None}).epoch(plan, 0))
    assert images.device.type == index.device.type == device
    assert torch.equal(index.cpu(), expected_index)
    difference = (images.cpu() - expected).abs()
    assert difference.mean() < 0.3 * LEVEL  # two inverse transforms, two conversions of colours
    assert difference.max() < 5 * LEVEL
    if device == "cuda":
        assert loader.engine in ("dali-gpu", "torchvision-gpu")
        assert loader.cache == {"auto": "device"}.get(options.get("cache"), options.get("cache"))
