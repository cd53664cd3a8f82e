"""Broken images are found, named, counted and left out, and verdicts are stored."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from gcl_fast.data import broken_images, drop_broken, find_broken
from gcl_fast.data.broken_images import lacks_header
from gcl_fast.data.pillow_decoder import decode
from gcl_fast.data.survey import image_sizes
from gcl_fast.errors import UserError


@pytest.fixture(autouse=True)
def verdicts(tmp_path, monkeypatch):
    monkeypatch.setenv("GCL_FAST_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def damaged(own_crops):
    contents = own_crops.paths[1].read_bytes()
    own_crops.paths[1].write_bytes(contents[: len(contents) // 2])
    own_crops.paths[4].write_bytes(b"hello")
    own_crops.paths[5].write_bytes(b"")
    own_crops.paths[7].unlink()
    return own_crops


def test_broken_images_are_found_with_the_reason(damaged):
    broken = find_broken(damaged)
    assert sorted(broken) == [1, 4, 5, 7]
    assert "truncated" in broken[1].lower()
    assert broken[4] == "not an image of JPEG, PNG, BMP, WEBP or TIFF"
    assert "No such file" in broken[7]


@pytest.mark.parametrize("kind", ["GIF", "JPEG", "MPO", "PNG", "BMP", "WEBP", "TIFF"])
def test_formats_are_those_that_dali_reads_whatever_the_name(own_crops, kind):
    with Image.open(own_crops.paths[3]) as image:
        image.convert("RGB").save(own_crops.paths[3], format=kind)
    assert list(find_broken(own_crops)) == ([3] if kind == "GIF" else [])


def test_a_device_behind_the_name_of_an_image_is_not_opened(own_crops, tmp_path):
    own_crops.paths[3].unlink()
    own_crops.paths[3].symlink_to(os.devnull)  # as a pipe would be, which waits for its writer
    assert find_broken(own_crops) == {3: "not a regular file"}
    assert lacks_header(own_crops.paths[3])
    assert len(image_sizes(own_crops.paths)) == len(own_crops) - 1
    with pytest.raises(OSError, match="not a regular file"):
        decode(own_crops.paths[3])


def test_an_image_of_too_many_pixels_is_not_decoded(own_crops, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow's own limit, smaller; it refuses twice as many
    Image.new("RGB", (8, 8)).save(own_crops.paths[3])
    broken = find_broken(own_crops)
    assert sorted(broken) == [place for place in range(len(own_crops)) if place != 3]
    assert "exceeds limit of 2000 pixels" in broken[0]
    assert lacks_header(own_crops.paths[0])  # neither does the decoder of a run see it
    assert not lacks_header(own_crops.paths[3])


def test_no_records_have_no_broken_image(own_crops):
    assert find_broken(own_crops.subset(np.array([], dtype=int))) == {}


def test_broken_images_are_dropped_and_named(damaged):
    sound, notice = drop_broken(damaged)
    assert len(sound) == 8
    assert not {"001.jpg", "004.jpg", "005.jpg", "007.jpg"} & set(sound.names)
    assert notice.startswith("4 of 12 images")
    assert "001.jpg: " in notice
    assert notice.endswith("skipped")
    assert drop_broken(sound) == (sound, "")


def test_broken_images_as_an_error(damaged):
    with pytest.raises(UserError, match=r"4 of 12 images .*001\.jpg.*--on-bad-image skip"):
        drop_broken(damaged, on_bad_image="error")
    with pytest.raises(UserError, match=r"2 of 2 images .*repair or remove them$"):
        drop_broken(damaged.subset(np.array([4, 7])))


def test_verdicts_are_stored_until_the_file_changes(damaged, monkeypatch):
    first = find_broken(damaged)
    names = []
    decode = broken_images._decode
    monkeypatch.setattr(broken_images, "_decode", lambda path: names.append(path.name) or decode(path))
    assert find_broken(damaged) == first
    assert names == ["007.jpg"]  # the file is missing and may come back
    Image.new("RGB", (20, 40)).save(damaged.paths[4])
    os.utime(damaged.paths[0], ns=(1, 1))
    names.clear()
    assert sorted(find_broken(damaged)) == [1, 5, 7]
    assert sorted(names) == ["000.jpg", "004.jpg", "007.jpg"]
    find_broken(damaged.subset(np.arange(3)))  # the other crops' verdicts must stay
    names.clear()
    find_broken(damaged)
    assert names == ["007.jpg"]


def test_errors_of_the_system_are_not_stored(own_crops, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(broken_images.Image, "open", refuse)
        assert find_broken(own_crops) == dict.fromkeys(range(12), "Permission denied")
    assert find_broken(own_crops) == {}


def test_verdicts_of_another_form_are_replaced(own_crops, tmp_path):
    find_broken(own_crops)
    (file,) = (tmp_path / "cache" / "verdicts").glob("*.json")
    verdicts = json.loads(file.read_text())
    file.write_text(json.dumps({name: [*stamp, 64, 32, "refused"] for name, (*stamp, _) in verdicts.items()}))
    assert find_broken(own_crops) == {}
    assert json.loads(file.read_text()) == verdicts


def test_a_damaged_verdict_file_is_replaced(damaged, tmp_path):
    find_broken(damaged)
    (file,) = (tmp_path / "cache" / "verdicts").glob("*.json")
    file.write_text('{"000.jpg": [1,')
    assert sorted(find_broken(damaged)) == [1, 4, 5, 7]


def test_a_folder_that_cannot_be_written_costs_only_the_verdicts(damaged, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("GCL_FAST_CACHE", str(tmp_path / "file"))
    assert sorted(find_broken(damaged)) == [1, 4, 5, 7]
    assert "cannot be stored" in caplog.text
    caplog.clear()

    def homeless():
        raise UserError("no home folder")

    monkeypatch.setattr("gcl_fast.data.broken_images.cache_folder", homeless)
    assert sorted(find_broken(damaged)) == [1, 4, 5, 7]
    assert "cannot be stored (no home folder)" in caplog.text
