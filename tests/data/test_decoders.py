"""Every decoder reads the files that Pillow reads and gives the same crops; the first available decoder is chosen."""

import io
import logging
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from gcl_fast.data import (
    ExtractLoader,
    TrainLoader,
    find_broken,
    image_files,
    nvjpeg_decoder,
    open_dataset,
    torchvision_decoder,
)
from gcl_fast.data.image_files import ImageFiles
from gcl_fast.data.pillow_decoder import PillowDecoder, decode
from gcl_fast.data.resize import bicubic

SIZE = (48, 24)
CPU = torch.device("cpu")


def by_pillow(path: Path) -> torch.Tensor:
    return bicubic(decode(path)[None], SIZE)[0]


def an_image(size: tuple[int, int] = (65, 33)) -> Image.Image:
    colours = np.random.default_rng(1).integers(0, 256, (8, 4, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize(size[::-1], Image.Resampling.BICUBIC)


def png_of_16_bits(pixels: np.ndarray) -> bytes:
    """Encode RGB with 16 bits per channel, which Pillow reads but does not write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels.astype(np.uint16) * 257)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, 2, 0, 0, 0)
    chunks = {b"IHDR": header, b"IDAT": zlib.compress(rows), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks.items()
    )


def turned() -> Image.Exif:
    """Return EXIF data that ask viewers to turn the image by 90 degrees."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def webp_with_an_odd_chunk() -> bytes:
    """Encode a lossless WebP with EXIF data whose chunk of pixels has an odd length; DALI 2.4 refuses these."""
    for width in range(20, 60):
        contents = saved(an_image((65, width)), "WEBP", lossless=True, exif=turned())
        place = contents.index(b"VP8L") + 4
        if int.from_bytes(contents[place : place + 4], "little") % 2:
            return contents
    raise AssertionError("every chunk has an even length")


def odd_files() -> dict[str, bytes]:
    image, grey = an_image(), an_image().convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    whole = saved(image, "JPEG", quality=90)
    return {
        "4:2:0.jpg": whole,
        "4:2:2.jpg": saved(image, "JPEG", subsampling=1),
        "4:4:4.jpg": saved(image, "JPEG", subsampling=0),
        "progressive.jpg": saved(image, "JPEG", progressive=True),
        "progressive 4:4:4.jpg": saved(image, "JPEG", progressive=True, subsampling=0),
        "grey.jpg": saved(grey, "JPEG"),
        "CMYK.jpg": saved(image.convert("CMYK"), "JPEG"),
        "RGB.jpg": saved(image, "JPEG", keep_rgb=True),
        "restarts.jpg": saved(image, "JPEG", restart_marker_blocks=2),
        "two.jpg": saved(image, "MPO", save_all=True, append_images=[grey.convert("RGB")]),
        "turned.jpg": saved(image, "JPEG", exif=turned()),
        "1x9.jpg": saved(an_image((1, 9)), "JPEG"),
        "9x1.jpg": saved(an_image((9, 1)), "JPEG"),
        "1x1 4:4:4.jpg": saved(an_image((1, 1)), "JPEG", subsampling=0),
        "behind.jpg": whole + b"more" * 20,
        **{f"{mode}.png": saved(image.convert(mode), "PNG") for mode in ("RGB", "L", "LA", "P", "RGBA", "1")},
        "16 bits grey.png": saved(deep, "PNG"),
        "16 bits.png": png_of_16_bits(np.asarray(image)),
        "transparent.png": saved(image.convert("P"), "PNG", transparency=3),
        **{f"{mode}.bmp": saved(image.convert(mode), "BMP") for mode in ("RGB", "L", "P", "1")},
        "lossy.webp": saved(image, "WEBP"),
        "alpha.webp": saved(image.convert("RGBA"), "WEBP", lossless=True),
        "moving.webp": saved(image, "WEBP", save_all=True, append_images=[grey.convert("RGB")]),
        "odd chunk.webp": webp_with_an_odd_chunk(),
        **{f"{mode}.tiff": saved(image.convert(mode), "TIFF") for mode in ("RGB", "L", "P", "RGBA", "CMYK", "1")},
        "LZW.tiff": saved(image, "TIFF", compression="tiff_lzw"),
        "32 bits.tiff": saved(grey.convert("I"), "TIFF"),
    }


REFUSED = {"dali-cpu": {"1.tiff", "32 bits.tiff", "odd chunk.webp"}}  # files that an engine refuses and Pillow reads


def test_odd_files_are_what_pillow_makes_of_them(tmp_path, engine, caplog):
    odd = {name.replace(":", ""): contents for name, contents in odd_files().items()}
    paths = [tmp_path / name for name in odd]
    for path, contents in zip(paths, odd.values()):
        path.write_bytes(contents)
    loader = ImageFiles(paths, SIZE, CPU, 2)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            (images,) = loader.batches([np.arange(len(paths))])
    for path, image in zip(paths, images):
        limit = 2 if path.name == "P.tiff" else 1  # DALI rounds the palette's 16 bits in the other direction
        assert (image.int() - by_pillow(path).int()).abs().max() <= limit, path.name
    messages = [record.getMessage() for record in caplog.records]
    refused = REFUSED.get(engine, set())
    assert len(messages) == len(refused)
    assert all(any(name in message for message in messages) for name in refused)


def broken_files() -> dict[str, bytes]:
    whole, full = saved(an_image(), "JPEG", quality=90), saved(an_image(), "JPEG", subsampling=0)
    png = saved(an_image(), "PNG")
    return {
        "half.jpg": whole[: len(whole) // 2],
        "half 444.jpg": full[: len(full) // 2],
        "no end.jpg": whole[:-2],
        "no end 444.jpg": full[:-2],
        "late.jpg": b"\0" + whole,
        "header.jpg": whole[:20],
        "start.jpg": whole[:3],
        "end 444.jpg": full[: len(full) // 2] + b"\xff\xd9",  # it ends like a complete file; decoders fill it up
        "half.png": png[: len(png) // 2],
        "empty.jpg": b"",
        "words.jpg": b"hello",
        "moving.gif.jpg": saved(an_image().convert("P"), "GIF"),
    }


def test_decoders_agree_on_what_is_broken(tmp_path, engine, caplog, monkeypatch):
    monkeypatch.setenv("GCL_FAST_CACHE", str(tmp_path / "verdicts"))
    for name, contents in broken_files().items():
        (tmp_path / "crops").mkdir(exist_ok=True)
        (tmp_path / "crops" / name).write_bytes(contents)
    records = open_dataset("folder", tmp_path / "crops").train
    broken = find_broken(records)
    assert len(broken) >= 10
    with caplog.at_level(logging.WARNING):
        images = torch.cat([image for image, _ in ExtractLoader(records, SIZE)])
    blank = (images.abs().amax(dim=(1, 2, 3)) < 0.02).nonzero().flatten().tolist()
    assert blank == sorted(broken)
    assert len(caplog.records) == len(broken)


@pytest.fixture
def refusing(monkeypatch) -> Callable[[bytes], None]:
    """Return a function after which torchvision refuses files with these contents."""

    def make(contents: bytes) -> None:
        def decode_jpeg(encoded, **options):
            for file in encoded if isinstance(encoded, list) else [encoded]:
                if file.numpy().tobytes() == contents:
                    raise RuntimeError("no such colours\nat some line of C++")
            return torchvision.io.decode_jpeg(encoded, **options)

        for module in (torchvision_decoder, nvjpeg_decoder):
            monkeypatch.setattr(module, "decode_jpeg", decode_jpeg)

    return make


@pytest.mark.parametrize("engine", ["torchvision", "torchvision-gpu"], indirect=True)
@pytest.mark.parametrize("subsampling", [0, 2])
def test_a_file_that_torchvision_refuses_is_decoded_by_pillow(own_crops, engine, refusing, subsampling, caplog):
    for path in own_crops.paths:
        path.write_bytes(saved(Image.open(io.BytesIO(path.read_bytes())), "JPEG", subsampling=subsampling))
    refusing(own_crops.paths[5].read_bytes())
    loader = ImageFiles(own_crops.paths, SIZE, CPU, 2)
    plan = [np.arange(0, 6), np.arange(6, 12), np.array([5, 1])]
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            images = torch.cat(list(loader.batches(plan)))
    expected = torch.stack([by_pillow(path) for path in own_crops.paths])
    assert torch.equal(images[:12], expected)
    assert torch.equal(images[12:], expected[[5, 1]])
    (record,) = caplog.records
    assert record.getMessage() == (f"{own_crops.paths[5]}: torchvision refuses it (no such colours), Pillow decodes it")


def without(monkeypatch, *modules: str) -> None:
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)  # its import fails as if it were missing


def test_without_dali_torchvision_decodes(crops, monkeypatch):
    without(monkeypatch, "gcl_fast.data.dali_decoder")
    loader = TrainLoader(crops, SIZE)
    assert loader.engine == "torchvision"
    assert loader.notice.startswith("torchvision (no DALI: ")


def test_without_both_pillow_decodes(crops, monkeypatch):
    without(monkeypatch, "gcl_fast.data.dali_decoder", "gcl_fast.data.torchvision_decoder")
    loader = TrainLoader(crops, SIZE)
    assert loader.engine == "pillow"
    assert loader.notice.startswith("pillow (no DALI: ")
    assert "; no libjpeg in torchvision: " in loader.notice


def test_a_torchvision_without_decoders_is_passed_over(crops, monkeypatch):
    def not_built(*_, **__):
        raise RuntimeError("decode_jpeg: torchvision not compiled with libjpeg support\nmore")

    without(monkeypatch, "gcl_fast.data.dali_decoder")
    monkeypatch.setattr(torchvision_decoder, "decode_jpeg", not_built)
    notice = ImageFiles(crops.paths, SIZE, CPU, 2).note
    assert notice.endswith("no libjpeg in torchvision: decode_jpeg: torchvision not compiled with libjpeg support)")


def test_without_nvjpeg_the_cpu_decodes_for_a_gpu(crops, monkeypatch):
    without(monkeypatch, "gcl_fast.data.dali_decoder", "gcl_fast.data.nvjpeg_decoder")
    source = ImageFiles(crops.paths, SIZE, torch.device("cuda", 0), 2)
    assert source.engine == "torchvision"
    assert "; no nvJPEG: " in source.note


def test_dali_comes_first(crops):
    pytest.importorskip("nvidia.dali")
    assert ImageFiles(crops.paths, SIZE, CPU, 2).note == "dali-cpu"


class Blind(PillowDecoder):
    """Decodes files called odd.png to black, and raises nothing."""

    engine = "blind"

    def _decode(self, position):
        image = super()._decode(position)
        return torch.zeros_like(image) if self._paths[position].name == "odd.png" else image


def test_an_image_that_is_black_in_one_decoder_alone_is_taken_from_the_other(tmp_path, monkeypatch, caplog):
    paths = [tmp_path / name for name in ("0.png", "odd.png", "black.png", "3.png")]
    for i, path in enumerate(paths):
        Image.new("RGB", (8, 16), (0, 0, 0) if path.name == "black.png" else (90 + i, 40, 200)).save(path)
    monkeypatch.setattr(image_files, "DECODERS", [("blind", __name__, "Blind")])
    monkeypatch.setattr(image_files.importlib, "import_module", lambda name: sys.modules[__name__])
    files = image_files.ImageFiles(paths, (16, 8), torch.device("cpu"), threads=1)
    plan = [np.array([0, 1]), np.array([2, 3]), np.array([1, 2])]
    for _ in range(2):
        first, second, third = files.batches(plan)
        assert first[:, 0, 0].tolist() == [[90, 40, 200], [91, 40, 200]]
        assert second[:, 0, 0].tolist() == [[0, 0, 0], [93, 40, 200]]
        assert third[:, 0, 0].tolist() == [[91, 40, 200], [0, 0, 0]]
    (record,) = caplog.records
    assert record.getMessage() == f"{paths[1]}: blind decodes it to black, Pillow does not: Pillow's image is taken"
