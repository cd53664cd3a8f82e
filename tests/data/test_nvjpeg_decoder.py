"""nvJPEG through torchvision, and the steps around it; on the CPU they run without streams, and libjpeg decodes."""

import contextlib
import io

import numpy as np
import pytest
import torch
from PIL import Image

from gcl_fast.data.nvjpeg_decoder import NvjpegDecoder, for_nvjpeg
from gcl_fast.data.torchvision_decoder import TorchvisionDecoder

SIZE = (48, 24)
KINDS = [dict(subsampling=0), dict(subsampling=2), dict(subsampling=0, progressive=True), dict(format="PNG")]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> torch.device:
    return torch.device(request.param)


@pytest.fixture
def mixed(own_crops):
    """Return the paths of twelve crops of four kinds in turn, so that a batch needs every decoder; two are grey."""
    for i, path in enumerate(own_crops.paths):
        image = Image.open(io.BytesIO(path.read_bytes()))
        image = image.convert("L") if i in (4, 5) else image
        image.save(path, **{"format": "JPEG", "quality": 95} | KINDS[i % 4])
    return own_crops.paths


def expected(paths, plan) -> torch.Tensor:
    return torch.cat(list(TorchvisionDecoder(paths, SIZE, torch.device("cpu"), 1).batches(plan)))


def assert_close(images: torch.Tensor, truth: torch.Tensor, device: torch.device) -> None:
    """Compare exactly on the CPU; on a GPU, allow for another inverse transform and colour conversion."""
    difference = (images.cpu().int() - truth.int()).abs()
    assert images.device.type == device.type
    assert difference.max() <= (3 if device.type == "cuda" else 0)
    assert difference.float().mean() < 0.3


def test_batches_equal_those_of_the_cpu(mixed, device):
    plan = [np.array(step) for step in ([0, 1, 2, 3], [4, 8, 0], [1, 5, 9, 3], [7, 7, 2, 6, 2], [10], [11])]
    images = torch.cat(list(NvjpegDecoder(mixed, SIZE, device, 2).batches(plan)))
    assert_close(images, expected(mixed, plan), device)


def test_a_device_without_an_index_is_the_current_one(mixed, device):
    source = NvjpegDecoder(mixed, SIZE, device, 2)
    assert source._device.index == (torch.cuda.current_device() if device.type == "cuda" else None)


@contextlib.contextmanager
def no_wait(device: torch.device):
    """Make each wait for the device that torch notices an error."""
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def test_batches_while_the_device_is_busy(mixed, device):
    """Check that the decoder does not write to memory that the caller's stream still uses, and that nobody waits."""
    plan = [np.array([i % 12, (i + 2) % 12, (i + 5) % 12, (i + 8) % 12]) for i in range(24)]
    truth = expected(mixed, plan).split(4)
    source = NvjpegDecoder(mixed, SIZE, device, 2)
    list(source.batches(plan[:2]))
    side = 2048 if device.type == "cuda" else 16
    load, sums = torch.ones(side, side, device=device), []
    with no_wait(device):
        for images in source.batches(plan):
            for _ in range(20):
                load = load @ load / side
            sums.append(images.double().sum(dim=(1, 2, 3)))  # after that work, while the next batches are decoded
            del images
    assert torch.equal(load, torch.ones_like(load))
    for result, batch in zip(sums, truth):
        expected_sum = batch.double().sum(dim=(1, 2, 3))
        assert (result.cpu() - expected_sum).abs().max() <= (0.3 * batch[0].numel() if device.type == "cuda" else 0)


def test_what_nvjpeg_refuses_the_cpu_decodes(mixed, device, caplog):
    """Check a file that turns out to be no JPEG."""
    source = NvjpegDecoder(mixed, SIZE, device, 2)
    png = io.BytesIO()
    Image.open(mixed[3]).save(png, "PNG")
    crops = source._decode_together({0: mixed[0].read_bytes(), 3: png.getvalue()})
    assert_close(source._decode_together({0: mixed[0].read_bytes()})[0], crops[0].cpu(), device)
    assert torch.equal(crops[1].cpu(), torch.from_numpy(np.array(Image.open(mixed[3]))))
    (record,) = caplog.records
    assert str(record.getMessage()).startswith(f"{mixed[3]}: nvJPEG refuses it (")
    assert record.getMessage().endswith("), the CPU decodes it")


def jpeg(mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (40, 40)).save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("contents", "plain"),
    [
        (jpeg(subsampling=0), True),
        (jpeg(subsampling=0, progressive=True), True),
        (jpeg(subsampling=0, exif=b"Exif\0\0" + bytes(300) + jpeg(subsampling=2)), True),  # a preview in its header
        (jpeg("L"), True),
        (jpeg(subsampling=1), False),
        (jpeg(subsampling=2), False),
        (jpeg("CMYK", subsampling=0), False),
        (jpeg(subsampling=0, keep_rgb=True), False),
        (jpeg(subsampling=0)[:-2], False),
        (jpeg(subsampling=0) + b"more", False),
        (jpeg(subsampling=0).replace(b"\xff\xc0", b"\xff\xc9", 1), False),  # arithmetic coding
        (jpeg(subsampling=0).replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c", 1), False),  # 12 bits
        (jpeg(subsampling=0)[:30] + b"\xff\xd9", False),
        (b"\xff\xd8\xff\xd9", False),
        (b"\xff\xd8\xff\xc0\xff\xd9", False),
        (b"", False),
    ],
)
def test_which_files_nvjpeg_decodes_as_libjpeg_does(contents, plain):
    assert for_nvjpeg(contents) == plain
