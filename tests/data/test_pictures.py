"""Pictures that do not decode are found, named, counted and left out; verdicts are remembered."""

import os

import numpy as np
import pytest
from PIL import Image

from gcl_fast.data import drop_broken, find_broken, pictures, scan
from gcl_fast.errors import UserError


@pytest.fixture(autouse=True)
def verdicts(tmp_path, monkeypatch):
    monkeypatch.setenv("GCL_FAST_CACHE", str(tmp_path / "verdicts"))


@pytest.fixture
def damaged(own_crops):
    contents = own_crops.paths[1].read_bytes()
    own_crops.paths[1].write_bytes(contents[: len(contents) // 2])
    own_crops.paths[4].write_bytes(b"hello")
    own_crops.paths[5].write_bytes(b"")
    own_crops.paths[7].unlink()
    return own_crops


def test_broken_pictures_are_found_with_the_reason(damaged):
    broken = find_broken(damaged)
    assert sorted(broken) == [1, 4, 5, 7]
    assert "truncated" in broken[1].lower()
    assert broken[4] == "not a picture"
    assert "No such file" in broken[7]


def test_scan_tells_sizes(crops, damaged):
    sizes = scan(crops).sizes
    assert sizes.shape == (23, 2)
    assert sizes[3].tolist() == [63, 33]  # height, width
    assert scan(damaged).sizes[4].tolist() == [0, 0]
    assert scan(damaged.subset(np.array([], dtype=int))).sizes.shape == (0, 2)


def test_broken_pictures_are_dropped_and_named(damaged):
    sound, notice = drop_broken(damaged)
    assert len(sound) == 8
    assert not {"001.jpg", "004.jpg", "005.jpg", "007.jpg"} & set(sound.names)
    assert notice.startswith("4 of 12 pictures")
    assert "001.jpg: " in notice
    assert notice.endswith("skipped")
    assert drop_broken(sound) == (sound, "")


def test_broken_pictures_as_an_error(damaged):
    with pytest.raises(UserError, match=r"4 of 12 pictures .*001\.jpg"):
        drop_broken(damaged, on_bad_image="error")
    with pytest.raises(UserError, match="2 of 2 pictures"):
        drop_broken(damaged.subset(np.array([4, 7])))


def test_verdicts_are_remembered_until_the_file_changes(damaged, monkeypatch):
    first = scan(damaged)
    decoded = []
    decode = pictures._decode
    monkeypatch.setattr(pictures, "_decode", lambda path: decoded.append(path.name) or decode(path))
    again = scan(damaged)
    assert decoded == []
    assert again.broken == first.broken
    assert np.array_equal(again.sizes, first.sizes)
    Image.new("RGB", (20, 40)).save(damaged.paths[4])
    os.utime(damaged.paths[0], ns=(1, 1))
    assert sorted(scan(damaged).broken) == [1, 5, 7]
    assert sorted(decoded) == ["000.jpg", "004.jpg"]
    scan(damaged.subset(np.arange(3)))  # a part keeps the verdicts of the others
    decoded.clear()
    scan(damaged)
    assert decoded == []


def test_a_damaged_verdict_file_is_made_anew(damaged, tmp_path):
    scan(damaged)
    (file,) = (tmp_path / "verdicts" / "pictures").glob("*.json")
    file.write_text('{"000.jpg": [1,')
    assert sorted(find_broken(damaged)) == [1, 4, 5, 7]


def test_a_folder_that_cannot_be_written_costs_only_the_verdicts(damaged, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("GCL_FAST_CACHE", str(tmp_path / "file"))
    assert sorted(find_broken(damaged)) == [1, 4, 5, 7]
    assert "cannot be kept" in caplog.text
