"""Every kind of image gives the same batches as the files do."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from gcl_fast.data import ExtractLoader, open_dataset
from gcl_fast.errors import UserError
from gcl_fast.inference.images import BATCH, find_images, listed, pixels, read

SIZE = (48, 24)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of 5 images of different sizes."""
    root = tmp_path_factory.mktemp("images")
    for i in range(5):
        array = np.random.default_rng(i).integers(0, 256, (40 + i, 20 + 3 * i, 3), dtype=np.uint8)
        Image.fromarray(array).save(root / f"{i}.png")
    return root


def batches(items, **flags):
    """Return images and places of all batches."""
    parts = list(read(items, SIZE, CPU, **flags))
    return torch.cat([part.images for part in parts]), torch.cat([part.places for part in parts]).tolist()


def arrays(folder):
    """Return the images as arrays, RGB."""
    return [np.array(Image.open(path)) for path in find_images(folder)]


KINDS = {
    "folder": lambda folder: str(folder),
    "paths": lambda folder: find_images(folder),
    "PIL": lambda folder: [Image.open(path) for path in find_images(folder)],
    "arrays": arrays,
    "tensors": lambda folder: [torch.from_numpy(array).permute(2, 0, 1) for array in arrays(folder)],
    "iterator": lambda folder: iter(find_images(folder)),
    "batches of arrays": lambda folder: (array[None] for array in arrays(folder)),
    "folder in a list": lambda folder: [str(folder)],
    "mixed": lambda folder: [find_images(folder)[0], *arrays(folder)[1:3], *map(str, find_images(folder)[3:])],
}


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_are_the_batches_of_evaluation(folder, kind):
    images, index = batches(listed(KINDS[kind](folder)))
    expected = torch.cat([batch for batch, _ in ExtractLoader(open_dataset("folder", folder).train, SIZE)])
    assert index == [0, 1, 2, 3, 4]
    assert torch.equal(images, expected)


def test_channels_of_opencv(folder):
    images, _ = batches(listed([array[..., ::-1] for array in arrays(folder)]), bgr=True)
    assert torch.equal(images, batches(listed(folder))[0])


@pytest.mark.parametrize("images", [str, lambda folder: Image.open(find_images(folder)[0])])
def test_bgr_of_files_is_refused(folder, images):
    with pytest.raises(UserError, match="bgr=True with"):
        batches(listed(images(folder)), bgr=True)


def test_single_images_and_batches():
    array = np.zeros((3, 9, 8, 3), np.uint8)
    assert [len(list(listed(item))) for item in (array, array[0], torch.from_numpy(array), Image.new("L", (2, 2)))] == [
        *(3, 1, 3, 1)
    ]
    images, index = batches(listed(np.zeros((BATCH + 2, 9, 8, 3), np.uint8)))
    assert (len(images), index) == (BATCH + 2, list(range(BATCH + 2)))


def test_grey_and_transparent_images_become_rgb():
    assert pixels(Image.new("L", (3, 2), 7)).tolist() == [[[7] * 3] * 3] * 2
    assert pixels(Image.new("RGBA", (1, 1), (1, 2, 3, 0))).tolist() == [[[1, 2, 3]]]
    assert pixels(Image.fromarray(np.full((1, 1), 0x1234, np.uint16))).tolist() == [[[0x12] * 3]]


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (np.zeros((4, 4, 3), np.float32), "dtype float32; expected uint8"),
        (np.zeros((4, 4), np.uint8), r"shape \(4, 4\); expected \(H, W, 3\)"),
        (np.zeros((3, 4, 4), np.uint8), r"shape \(3, 4, 4\); expected \(H, W, 3\)"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), r"expected \(3, H, W\) of a uint8 tensor"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
        (7, "int is no image; expected a path"),
    ],
)
def test_what_is_no_image_is_refused(item, reason):
    with pytest.raises(UserError, match=reason):
        batches(listed([item]))
    if item is not None and isinstance(item, int):
        with pytest.raises(UserError, match=reason):
            listed(item)


def test_files_that_do_not_decode_are_marked(folder, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    first = find_images(folder)[0]
    (batch,) = read([tmp_path / "broken.png", first, tmp_path / "absent.jpg"], SIZE, CPU)
    assert batch.decoded.tolist() == [False, True, False]
    assert torch.equal(batch.images[1], batches([first])[0][0])


def test_files_without_a_header_among_hundreds_leave_the_others(tmp_path):
    """DALI 2.4 ends the process where several batches have such files."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 64, 3), dtype=np.uint8))
    image.save(tmp_path / "sound.jpg")
    (tmp_path / "head.jpg").write_bytes((tmp_path / "sound.jpg").read_bytes()[:300])
    (tmp_path / "text.jpg").write_bytes(b"no image")
    names, count = ["sound.jpg", "text.jpg", "head.jpg", "text.jpg"], 8 * BATCH
    script = (
        "import sys, torch; from pathlib import Path; from gcl_fast.inference.images import read;"
        f" paths = [Path(name) for name in {names}] * {count // len(names)};"
        f" batches = list(read(paths, {SIZE}, torch.device('cpu')));"
        " print(torch.cat([batch.decoded for batch in batches]).nonzero().flatten().tolist())"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == f"{list(range(0, count, len(names)))}\n", done.stderr


def test_a_path_that_leads_nowhere_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"there is no image .*absent"):
        listed(str(tmp_path / "absent"))
