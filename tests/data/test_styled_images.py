"""Crops have images in the style of other cameras, and plans draw among them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gcl_fast.data.records import Records
from gcl_fast.data.styled_images import StyledImages
from gcl_fast.errors import UserError


@pytest.fixture
def records(tmp_path: Path) -> Records:
    paths = [tmp_path / "train" / f"000{i}_c{i}s1_000451_01.jpg" for i in range(1, 4)]
    return Records(tmp_path / "train", paths, np.array([1, 2, 3]), np.array([1, 2, 3]), np.array([9, 8, 7]))


def styled(folder: Path, *names: str) -> str:
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    return str(folder)


def test_without_a_folder_a_crop_is_its_only_image(records):
    images = StyledImages(records)
    plan = torch.tensor([[2, 0], [1, 1]])
    assert images.draw(plan, 1, seed=0, epoch=0).tolist() == plan.tolist()
    assert images.draw(plan, 3, seed=0, epoch=0).tolist() == [[2, 2, 2, 0, 0, 0], [1, 1, 1, 1, 1, 1]]
    assert images.owner.tolist() == [0, 1, 2]


def test_styled_images_belong_to_the_crop_of_their_name(records, tmp_path):
    folder = styled(
        tmp_path / "camstyle", "0001_c1s1_000451_01_fake_1to2.jpg", "0001_c1s1_000451_01_fake_1to3.jpg",
        "0003_c3s1_000451_01_fake_3to1.jpg", "0009_c9s1_000451_01_fake_9to1.jpg", "Thumbs.db",
    )  # fmt: skip
    images = StyledImages(records, folder)
    assert images.owner.tolist() == [0, 1, 2, 0, 0, 2]
    assert images.records.paths[5].name == "0003_c3s1_000451_01_fake_3to1.jpg"
    draws = images.draw(torch.tensor([[0, 1, 2]] * 50), 2, seed=0, epoch=0).view(50, 3, 2)
    assert {frozenset(row.tolist()) for row in draws[:, 0]} == {frozenset(s) for s in ({0, 3}, {0, 4}, {3, 4})}
    assert (draws[:, 1] == 1).all()  # this crop has no other image
    assert {frozenset(row.tolist()) for row in draws[:, 2]} == {frozenset({2, 5})}


def test_two_ranks_draw_what_one_draws(records, tmp_path):
    folder = styled(tmp_path / "camstyle", *(f"0001_c1s1_000451_01_fake_1to{c}.jpg" for c in range(2, 7)))
    images = StyledImages(records, folder)
    plan = torch.zeros(10, 4, dtype=torch.long)
    whole = images.draw(plan, 2, seed=3, epoch=1)
    halves = [images.draw(plan[:, :2], 2, 3, 1, rank, 2) for rank in range(2)]
    assert torch.equal(torch.cat(halves, 1), whole)
    assert not torch.equal(images.draw(plan, 2, seed=3, epoch=2), whole)


def test_a_wrong_folder_is_named(records, tmp_path):
    with pytest.raises(UserError, match="absent"):
        StyledImages(records, str(tmp_path / "absent"))
    with pytest.raises(UserError, match="expected 0001_c1s1_000451_01_fake_1to2"):
        StyledImages(records, styled(tmp_path / "other", "image.jpg", "x_fake_1to2.jpg"))
