"""Read the boxes of a tracker, in the text form of the MOT challenge."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from gcl_fast.errors import UserError

FORM = "frame,track,left,top,width,height[,confidence[,class,visibility]], such as 1,7,405,118.5,52,161,0.93"
COLUMNS = (6, 7, 8, 9, 10)  # a tracker's results have 10, of which the last three are places in the world


class TrackedBox(NamedTuple):
    """Holds one box of a track, in pixels of the frame."""

    track: int
    frame: int  # from 1
    left: float
    top: float
    width: float  # above 0
    height: float  # above 0
    confidence: float  # below 0: unknown
    visibility: float  # 0 to 1; below 0: unknown
    line: int  # of the file, from 1


def read_tracks(file: Path) -> list[TrackedBox]:
    """Read a file of the MOT challenge: a line for each box, with its frame (from 1) and its track.

    A line has 6 to 10 numbers with commas between them. Ground truth has 9, the last of which is the visibility.

    Args:
        file: the text.

    Returns:
        The boxes by track, then by frame.

    Raises:
        UserError: the file cannot be read, holds no box, has a line of another form, or two boxes of one track in one
            frame.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(
            f"cannot read the tracks {file} ({error.strerror}); name a file of the MOT challenge"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no text; expected tracks with lines {FORM}") from error
    boxes = sorted(_box(line, number, file) for number, line in enumerate(lines, 1) if line.strip())
    if not boxes:
        raise UserError(f"{file} holds no box; expected lines {FORM}")
    for first, second in pairwise(boxes):
        if first[:2] == second[:2]:
            lines_of = sorted((first.line, second.line))
            raise UserError(
                f"{file}, lines {lines_of[0]} and {lines_of[1]}: two boxes of track {first.track} in frame"
                f" {first.frame}; a track has one box a frame"
            )
    return boxes


def _box(line: str, number: int, file: Path) -> TrackedBox:
    """Return the box of one line; raise a UserError that names the line where it is none."""

    def refusal(problem: str) -> UserError:
        return UserError(f"{file}, line {number}: {problem}; expected {FORM}")

    cells = line.strip().rstrip(",").split(",")
    if len(cells) not in COLUMNS:
        raise refusal(f"{len(cells)} numbers with commas between them ({line.strip()[:60]!r})")
    try:
        values = [float(cell) for cell in cells]
    except ValueError as error:
        raise refusal(str(error)) from error
    if not all(map(math.isfinite, values)):
        raise refusal("a number that is not finite")
    frame, track, left, top, width, height = values[:6]
    if frame != int(frame) or frame < 1:
        raise refusal(f"frame {frame:g}, but frames are counted from 1")
    if track != int(track) or track < 0:
        raise refusal(f"track {track:g}, as in detections that no tracker has numbered")
    if width <= 0 or height <= 0:
        raise refusal(f"a box of {width:g} x {height:g} pixels")
    confidence = values[6] if len(values) > 6 else -1.0
    visibility = values[8] if len(values) == 9 else -1.0
    return TrackedBox(int(track), int(frame), left, top, width, height, confidence, visibility, number)
