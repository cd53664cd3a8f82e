"""DALI's pipeline is built once, whether files decode or not."""

import logging

import pytest
import torch
from PIL import Image

from gcl_fast.data import TrainLoader

pytest.importorskip("nvidia.dali")

from gcl_fast.data.dali_decoder import DaliDecoder

SIZE = (48, 24)


@pytest.fixture
def builds(monkeypatch) -> list[int]:
    """Return a list that receives the batch size of each pipeline when it is built."""
    sizes, build = [], DaliDecoder._build

    def record_and_build(self, batch_size):
        sizes.append(batch_size)
        return build(self, batch_size)

    monkeypatch.setattr(DaliDecoder, "_build", record_and_build)
    return sizes


def test_a_bad_file_costs_no_build(own_crops, builds, caplog):
    plan = torch.arange(12).view(6, 2)
    expected = [image for image, _ in TrainLoader(own_crops, SIZE).epoch(plan, 0)]
    for victim in (0, 3, 4, 11):  # in the first batch, in two batches that are read ahead together, in the last batch
        own_crops.paths[victim].write_bytes(b"hello")
    loader = TrainLoader(own_crops, SIZE)
    builds.clear()
    for _ in range(2):
        images = [image for image, _ in loader.epoch(plan, 0)]
        for crop in {*range(12)} - {0, 3, 4, 11}:
            assert torch.equal(images[crop // 2][crop % 2], expected[crop // 2][crop % 2])
    assert builds == [2]
    assert len(caplog.records) == 4


def test_a_plan_left_amid_bad_files_costs_no_build(own_crops, builds):
    loader = TrainLoader(own_crops, SIZE)
    for victim in (2, 4, 6):
        own_crops.paths[victim].unlink()
    next(loader.epoch(torch.arange(12).view(6, 2), 0))  # the decoder has read ahead two batches that fail
    plan = torch.tensor([[7, 8], [9, 10]])
    assert [index.tolist() for _, index in loader.epoch(plan, 1)] == plan.tolist()
    assert builds == [2]


def test_a_larger_batch_costs_one_build(own_crops, builds):
    loader = TrainLoader(own_crops, SIZE)
    for batch in (4, 2, 6, 3):
        list(loader.epoch(torch.arange(12).view(-1, batch), 0))
    assert builds == [4, 6]


def test_files_that_dali_refuses_cost_no_build(own_crops, builds, caplog):
    for position in (1, 5):
        Image.new("1", (20, 40), 1).save(own_crops.paths[position], format="TIFF")
    loader = TrainLoader(own_crops, SIZE)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            images = torch.cat([image for image, _ in loader.epoch(torch.arange(12).view(3, 4), 0)])
    assert torch.equal(images[1], images[5])
    assert [record.args for record in caplog.records] == [(own_crops.paths[p], "dali-cpu") for p in (1, 5)]
    assert builds == [4]


def test_loaders_have_separate_copies_of_refused_files(own_crops):
    def save(value: int) -> None:
        Image.new("1", (20, 40), value).save(own_crops.paths[1], format="TIFF")

    plan = torch.tensor([[1]])
    save(1)
    white = TrainLoader(own_crops, SIZE)
    ((before, _),) = white.epoch(plan, 0)
    save(0)
    ((black, _),) = TrainLoader(own_crops, SIZE).epoch(plan, 0)
    ((after, _),) = white.epoch(plan, 0)
    assert torch.equal(before, after)
    assert black.max() < before.min()
