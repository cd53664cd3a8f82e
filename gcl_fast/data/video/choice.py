"""Choose which boxes of a tracker become crops, and clip them to the frame."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gcl_fast.data.video.mot import TrackedBox
from gcl_fast.errors import UserError

OUTSIDE = "outside the frame"
MOST_OUTSIDE = 0.1  # share of the boxes outside the frame, above which the tracks belong to another video
IGNORED = "marked as ignored (confidence 0)"


@dataclass(frozen=True)
class CropChoice:
    """Holds which boxes become crops."""

    every: int = 10  # frames between two crops of a track
    least_width: int = 16  # pixels of a crop
    least_height: int = 32
    least_confidence: float | None = None  # None: all but 0, which marks boxes to ignore
    least_visibility: float | None = None  # 0 to 1; None: all
    margin: float = 0.0  # added on each side, as a share of the box

    def refusal(self, box: TrackedBox) -> str | None:
        """Return why a box is passed over by what its line says; None where it is not.

        An unknown confidence or visibility, which is below 0, passes.
        """
        if box.confidence == 0 and self.least_confidence is None:
            return IGNORED
        if self.least_confidence is not None and 0 <= box.confidence < self.least_confidence:
            return f"of confidence below {self.least_confidence:g}"
        if self.least_visibility is not None and 0 <= box.visibility < self.least_visibility:
            return f"of visibility below {self.least_visibility:g}"
        return None


class CropBox(NamedTuple):
    """Holds one crop: whole pixels of the frame, right and bottom excluded."""

    track: int
    left: int
    top: int
    right: int
    bottom: int


def choose_crops(
    boxes: Sequence[TrackedBox], size: tuple[int, int], choice: CropChoice, file: Path
) -> tuple[dict[int, list[CropBox]], Counter[str]]:
    """Choose the crops of one video.

    A track's first box that fits is a crop, and then each that comes `every` frames or more after the last crop.

    Args:
        boxes: by track, then by frame.
        size: (H, W) of a frame.
        choice: which boxes become crops.
        file: of the boxes, for messages.

    Returns:
        The crops of each frame, and the number of boxes that were passed over, by reason.

    Raises:
        UserError: more than a tenth of the boxes lies outside the frame.
    """
    crops, passed = defaultdict[int, list[CropBox]](list), Counter[str]()
    outside: list[TrackedBox] = []
    last: tuple[int, int] | None = None  # track and frame of the last crop
    for box in boxes:
        left, top, right, bottom = _clip(box, size, choice.margin)
        if right <= left or bottom <= top:
            outside.append(box)
            passed[OUTSIDE] += 1
        elif (reason := choice.refusal(box)) is not None:
            passed[reason] += 1
        elif right - left < choice.least_width or bottom - top < choice.least_height:
            passed[f"smaller than {choice.least_width} x {choice.least_height} pixels"] += 1
        elif last is None or last[0] != box.track or box.frame - last[1] >= choice.every:
            crops[box.frame].append(CropBox(box.track, left, top, right, bottom))
            last = box.track, box.frame
    if len(outside) > MOST_OUTSIDE * len(boxes):
        first = min(outside, key=lambda box: box.line)
        raise UserError(
            f"{file}, line {first.line}: the box at {first.left:g}, {first.top:g} of {first.width:g} x"
            f" {first.height:g} pixels lies outside the frame of {size[1]} x {size[0]}, as {len(outside):,} of"
            f" {len(boxes):,} boxes do; take the video that the tracker has seen"
        )
    return dict(crops), passed


def _clip(box: TrackedBox, size: tuple[int, int], margin: float) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of a box with its margin, clipped to the frame; empty where it is outside."""
    if min(box.left + box.width, box.top + box.height) <= 0 or box.left >= size[1] or box.top >= size[0]:
        return 0, 0, 0, 0
    across, down = margin * box.width, margin * box.height
    return (
        max(0, round(box.left - across)),
        max(0, round(box.top - down)),
        min(size[1], round(box.left + box.width + across)),
        min(size[0], round(box.top + box.height + down)),
    )
