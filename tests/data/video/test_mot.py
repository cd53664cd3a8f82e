"""Tracks of the MOT challenge: what is read, and the sentence about each line that is no box."""

import pytest

from gcl_fast.data.video.mot import read_tracks
from gcl_fast.errors import UserError


def test_all_forms_of_a_line_are_read(tmp_path):
    file = tmp_path / "tracks.txt"
    file.write_text(
        "\ufeff3,2,10.5,20,30,40\n"  # bare
        "1,2,-5,0,30,40,0.5\r\n"
        " 2, 1, 1, 2, 3, 4, 1, -1, -1, -1\n"  # a tracker's results: places in the world, no visibility
        "\n"
        "1,1,1,2,3,4,1,1,0.25,\n",  # ground truth
        encoding="utf-8",
    )
    boxes = read_tracks(file)
    assert [(box.track, box.frame, box.line) for box in boxes] == [(1, 1, 5), (1, 2, 3), (2, 1, 2), (2, 3, 1)]
    assert [box.confidence for box in boxes] == [1, 1, 0.5, -1]
    assert [box.visibility for box in boxes] == [0.25, -1, -1, -1]
    assert boxes[3][2:6] == (10.5, 20, 30, 40)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("1,2,3,4,5", "5 numbers with commas"),
        ("1 2 3 4 5 6", "1 numbers with commas"),
        ("1,2,3,4,5,wide", "could not convert string to float: 'wide'"),
        ("1,2,3,4,5,nan", "a number that is not finite"),
        ("0,2,3,4,5,6", "frame 0, but frames are counted from 1"),
        ("1.5,2,3,4,5,6", "frame 1.5"),
        ("1,-1,3,4,5,6,0.9", "track -1, as in detections that no tracker has numbered"),
        ("1,2,3,4,0,6", "a box of 0 x 6 pixels"),
    ],
)
def test_a_line_that_is_no_box_is_named(tmp_path, line, problem):
    file = tmp_path / "tracks.txt"
    file.write_text(f"1,1,3,4,5,6\n{line}\n")
    with pytest.raises(UserError) as error:
        read_tracks(file)
    assert str(error.value).startswith(f"{file}, line 2: {problem}")
    assert "expected frame,track,left,top,width,height[,confidence" in str(error.value)
    assert "\n" not in str(error.value)


def test_files_without_boxes_are_refused(tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "twice.txt").write_text("1,1,3,4,5,6\n2,1,3,4,5,6\n1,1,9,9,5,6\n")
    for name, problem in [
        ("empty", "empty.txt holds no box"),
        ("binary", "binary.txt is no text"),
        ("absent", "cannot read the tracks .*absent.txt"),
        ("twice", "lines 1 and 3: two boxes of track 1 in frame 1"),
    ]:
        with pytest.raises(UserError, match=problem):
            read_tracks(tmp_path / f"{name}.txt")
