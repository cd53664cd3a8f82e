"""Crops of a made-up video: pixels, numbers and manifest, what is refused, and what a killed call leaves."""

from __future__ import annotations

import csv
import re
import shutil
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gcl_fast import crops
from gcl_fast.data import open_dataset
from gcl_fast.data.video import crop_folder

av = pytest.importorskip("av")
SIZE = (96, 128)  # (H, W)
FRAMES = 30


def colour(frame: int) -> np.ndarray:
    """Return a frame: its number as grey level, a red square at (40, 20) to (72, 84), and a blue lower right corner."""
    image = np.full((*SIZE, 3), 4 * frame, np.uint8)
    image[20:84, 40:72] = (250, 4 * frame, 0)
    image[80:, 112:] = (0, 0, 250)
    return image


def write_video(path: Path, times: list[int] | None = None) -> Path:
    """Write a video of FRAMES frames, shown at `times` in 1/30 s."""
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", 30)
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = *SIZE, "yuv420p", 20_000_000
        stream.codec_context.time_base = Fraction(1, 30)
        for number in range(1, FRAMES + 1):
            frame = av.VideoFrame.from_ndarray(colour(number))
            frame.pts, frame.time_base = (times[number - 1] if times else number - 1), Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def turn(path: Path, matrix: tuple[int, ...]) -> None:
    """Write a display matrix (a, b, c, d in 16.16) into the header of an mp4 file's track."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8  # version and flags, times, numbers, layer and volume
    a, b, c, d = matrix
    data[start : start + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "hall.mp4")


def tracks(folder: Path, *lines: str) -> Path:
    """Write a file of tracks."""
    (folder / "tracks.txt").write_text("".join(f"{line}\n" for line in lines))
    return folder / "tracks.txt"


def walk(track: int = 7, frames: range = range(1, FRAMES + 1), box: str = "40,20,32,64") -> list[str]:
    """Return the lines of a track that stays at a box."""
    return [f"{frame},{track},{box}" for frame in frames]


def run(*arguments: object) -> int:
    return crops.main([str(argument) for argument in arguments])


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def refusal(capsys, *arguments: object) -> str:
    """Return the one line with which a command is refused."""
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_crops_have_the_pixels_of_their_boxes(video, tmp_path, capsys):
    out = tmp_path / "crops"
    lines = walk() + walk(9, range(3, 8), "100,70,60,60")  # reaches over the lower right corner
    assert run(video, tracks(tmp_path, *lines), "--out", out, "--every", 12, "--least-size", 8, 8) == 0
    assert capsys.readouterr().out.startswith("4 crops in 2 tracklets of 1 cameras")
    assert [tuple(row.values()) for row in rows(out)] == [
        ("1/00007/000001.jpg", "train", "1", "1-7", "1"),
        ("1/00007/000013.jpg", "train", "1", "1-7", "13"),
        ("1/00007/000025.jpg", "train", "1", "1-7", "25"),
        ("1/00009/000003.jpg", "train", "1", "1-9", "3"),
    ]
    for row in rows(out):
        frame = colour(int(row["frame"]))
        expected = frame[20:84, 40:72] if row["tracklet"] == "1-7" else frame[70:96, 100:128]
        with Image.open(out / row["path"]) as crop:
            assert crop.size == expected.shape[1::-1]
            inner = (slice(4, -4), slice(4, -4))  # chroma blurs at edges
            assert np.abs(np.asarray(crop, int)[inner] - expected[inner]).mean() < 6
    records = open_dataset("manifest", out).train
    assert records.tracklet.tolist() == [0, 0, 0, 1]
    assert records.frame.tolist() == [1, 13, 25, 3]


def test_every_box_that_is_passed_over_is_counted(video, tmp_path, capsys):
    lines = [
        "1,1,40,20,32,64,0.9,1,1",
        "2,1,40,20,32,64,0.2,1,1",
        "3,1,40,20,32,64,0.9,1,0.1",
        "4,1,40,20,10,64,0.9,1,1",
        "5,1,40,20,32,64,-1,1,-1",  # unknown passes
        *walk(2, range(1, 20)),
        "20,2,130,20,32,64",
    ]
    flags = ("--every", 4, "--least-confidence", 0.5, "--least-visibility", 0.5)
    assert run(video, tracks(tmp_path, *lines), "--out", tmp_path / "out", *flags) == 0
    assert [row["frame"] for row in rows(tmp_path / "out")] == ["1", "5", "1", "5", "9", "13", "17"]
    assert (
        "1 of confidence below 0.5, 1 of visibility below 0.5, 1 smaller than 16 x 32 pixels, 1 outside the frame"
        in capsys.readouterr().out
    )


def test_confidence_zero_marks_what_ground_truth_ignores(video, tmp_path, capsys):
    lines = ["1,1,40,20,32,64,0,1,1", "2,1,40,20,32,64,1,1,1"]
    assert run(video, tracks(tmp_path, *lines), "--out", tmp_path / "out") == 0
    assert [row["frame"] for row in rows(tmp_path / "out")] == ["2"]


def test_a_margin_widens_crops_up_to_the_border(video, tmp_path):
    assert run(video, tracks(tmp_path, "1,1,40,20,32,64"), "--out", tmp_path / "out", "--margin", 0.25) == 0
    with Image.open(tmp_path / "out" / rows(tmp_path / "out")[0]["path"]) as crop:
        assert crop.size == (48, 92)  # 20 - 16 = 4 to 84 + 16 = 100, of 96


def test_several_videos_are_several_cameras(video, tmp_path):
    file = tracks(tmp_path, *walk())
    assert run(video, file, video, file, "--out", tmp_path / "out", "--cameras", "hall", "door") == 0
    made = rows(tmp_path / "out")
    assert [(row["camera"], row["tracklet"]) for row in made] == [("hall", "1-7")] * 3 + [("door", "2-7")] * 3
    assert len(np.unique(open_dataset("manifest", tmp_path / "out").train.tracklet)) == 2


def test_frames_are_counted_whatever_their_times(tmp_path):
    times = np.cumsum(np.random.default_rng(0).integers(1, 9, FRAMES)).tolist()
    video = write_video(tmp_path / "variable.mkv", times)
    assert run(video, tracks(tmp_path, *walk()), "--out", tmp_path / "out", "--every", 9) == 0
    for row in rows(tmp_path / "out"):
        with Image.open(tmp_path / "out" / row["path"]) as crop:
            green = np.asarray(crop)[4:-4, 4:-4, 1].mean()
        assert green == pytest.approx(4 * int(row["frame"]), abs=3)


def test_a_turned_video_is_cut_as_it_is_shown(tmp_path, capsys):
    video = write_video(tmp_path / "phone.mp4")
    turn(video, (0, 1, -1, 0))  # shown a quarter clockwise: the upper left corner goes to the right
    file = tracks(tmp_path, "1,1,12,40,64,32")  # the red square in a frame of 96 x 128
    assert run(video, file, "--out", tmp_path / "out", "--least-size", 8, 8) == 0
    assert "phone.mp4 is turned by -90 degrees" in capsys.readouterr().out
    with Image.open(tmp_path / "out/1/00001/000001.jpg") as crop:
        assert crop.size == (64, 32)
        assert np.abs(np.asarray(crop, int)[4:-4, 4:-4] - (250, 4, 0)).mean() < 8
    turn(video, (1, 1, -1, 1))
    assert "is turned by -45 degrees" in refusal(capsys, video, file, "--out", tmp_path / "other")


def test_bad_input_is_refused_in_one_sentence(video, tmp_path, capsys):
    out = tmp_path / "out"
    file = tracks(tmp_path, *walk())
    text, sound = tmp_path / "text.mp4", tmp_path / "sound.wav"
    text.write_text("no video")
    with av.open(sound, "w") as container:
        stream = container.add_stream("pcm_s16le", 8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(video.read_bytes()[:-400])
    for name, problem in [
        (text, "text.mp4 is no video"),
        (sound, "sound.wav has no video stream, but audio"),
        (tmp_path / "absent.mp4", "absent.mp4"),
        (cut, "cut.mp4 is no video"),
    ]:
        assert problem in refusal(capsys, name, file, "--out", out)
    assert "are no pairs" in refusal(capsys, video, file, video, "--out", out)
    assert "--cameras names 2 cameras for 1" in refusal(capsys, video, file, "--out", out, "--cameras", "a", "b")
    assert "--every 0" in refusal(capsys, video, file, "--out", out, "--every", 0)
    assert "no box becomes a crop: 30 smaller than 99 x 99 pixels" in refusal(
        capsys, video, file, "--out", out, "--least-size", 99, 99
    )
    file = tracks(tmp_path, *walk(frames=range(1, 40)))
    assert "line 39: frame 39, but" in (error := refusal(capsys, video, file, "--out", out))
    assert "has 30 frames" in error
    file = tracks(tmp_path, *walk(), "1,8,500,20,32,64", *walk(9, range(1, 4), "500,20,32,64"))
    assert "line 31: the box at 500, 20 of 32 x 64 pixels lies outside the frame of 128 x 96" in refusal(
        capsys, video, file, "--out", out
    )
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.mp4", "ffconcat version 1.0\nfile hall.mp4\n"),
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhall.mp4\n#EXT-X-ENDLIST\n"),
    ],
)
def test_a_list_of_other_files_is_no_video(name, text, video, tmp_path, capsys):
    shutil.copy(video, tmp_path / "hall.mp4")
    (tmp_path / name).write_text(text)
    file = tracks(tmp_path, *walk())
    assert f"{name} is no video of a container that holds its own frames" in refusal(
        capsys, tmp_path / name, file, "--out", tmp_path / "out"
    )
    assert not (tmp_path / "out").exists()


def test_a_name_that_ffmpeg_would_take_for_an_address_is_a_file(video, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(video, "concat:a.mp4")
    assert run("concat:a.mp4", tracks(tmp_path, *walk()), "--out", "out") == 0


def test_a_video_that_ends_early_leaves_no_manifest(tmp_path, capsys):
    video = write_video(tmp_path / "stream.mkv")  # Matroska's header has no number of frames
    file = tracks(tmp_path, *walk(frames=range(1, 35)))
    error = refusal(capsys, video, file, "--out", tmp_path / "out")
    assert re.search(r"line 34: frame 34, but .* has 30 frames", error)
    assert not (tmp_path / "out/manifest.csv").exists()


def test_a_killed_call_is_repeated_and_a_finished_one_is_not(video, tmp_path, capsys, monkeypatch):
    file, out = tracks(tmp_path, *walk()), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(crop_folder, "_manifest", lambda rows: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(video, file, "--out", out)
    assert not (out / "manifest.csv").exists()
    (out / "1/00007/000001.jpg").write_bytes(b"half")
    assert run(video, file, "--out", out) == 0
    with Image.open(out / "1/00007/000001.jpg") as crop:
        crop.load()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert run(video, file, "--out", out) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert "crops of other videos or settings" in refusal(capsys, video, file, "--out", out, "--every", 3)


def test_a_foreign_folder_is_refused(video, tmp_path, capsys):
    file = tracks(tmp_path, *walk())
    assert "holds something else" in refusal(capsys, video, file, "--out", tmp_path)
    assert "is a file" in refusal(capsys, video, file, "--out", file)
