"""Write a folder of crops from videos, with a manifest that `--dataset manifest` reads.

The folder is finished by its manifest, which is written last. A call that was killed can be repeated.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from gcl_fast.atomic import write_atomically, write_json
from gcl_fast.data.video.choice import CropBox, CropChoice, choose_crops
from gcl_fast.data.video.decoding import Video
from gcl_fast.data.video.mot import TrackedBox, read_tracks
from gcl_fast.errors import UserError

SETTINGS, MANIFEST = "crops.json", "manifest.csv"
COLUMNS = ("path", "split", "camera", "tracklet", "frame")


@dataclass(frozen=True)
class Source:
    """Holds one video with its tracks and the name of its camera."""

    video: Path
    tracks: Path
    camera: str


@dataclass(frozen=True)
class CropFolder:
    """Holds what is in a folder of crops."""

    crops: int
    tracklets: int
    cameras: int
    passed_over: dict[str, int]  # boxes by reason
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Cut:
    """Holds what is cut from one video."""

    source: Source
    video: Video
    crops: dict[int, list[CropBox]]  # of each frame
    end: TrackedBox  # the first line with the last frame


def write_crop_folder(folder: Path, sources: Sequence[Source], choice: CropChoice, quality: int = 95) -> CropFolder:
    """Cut the crops of all videos, and write them as JPEG files with a manifest; a finished folder stays as it is.

    A crop is NUMBER/TRACK/FRAME.jpg, where NUMBER counts the videos from 1. Its row in the manifest has the split
    train, the camera, the frame from 1, and the tracklet NUMBER-TRACK.

    Args:
        folder: for these crops alone; it is made if missing.
        sources: the videos, each passed over once.
        choice: which boxes become crops.
        quality: of JPEG, 1 to 95.

    Raises:
        UserError: bad tracks or videos, no crop, or a folder that holds something else or cannot be written.
    """
    settings = {
        "videos": [_identity_of(source) for source in sources],
        "choice": asdict(choice),
        "quality": quality,
    }
    finished = _check(folder, settings)
    with ExitStack() as opened:
        videos = [opened.enter_context(Video(source.video)) for source in sources]
        cuts, passed = [], Counter[str]()
        for source, video in zip(sources, videos):
            boxes = read_tracks(source.tracks)
            end = max(boxes, key=lambda box: (box.frame, -box.line))
            if 0 < video.frames_by_header < end.frame:
                raise _beyond(source, end, video.frames_by_header)
            crops, reasons = choose_crops(boxes, video.size, choice, source.tracks)
            cuts.append(_Cut(source, video, crops, end))
            passed += reasons
        rows = _rows(cuts)
        if not rows:
            reasons_text = ", ".join(f"{count:,} {reason}" for reason, count in passed.items())
            raise UserError(f"no box becomes a crop: {reasons_text}; lower the least size, confidence or visibility")
        if not finished:
            try:
                write_json(folder / SETTINGS, settings)
                for number, cut in enumerate(cuts, 1):
                    _write_video(folder / str(number), cut, quality)
                write_atomically(folder / MANIFEST, lambda file: file.write(_manifest(rows).encode()))
            except OSError as error:
                reason = error.strerror or error
                raise UserError(f"cannot write crops to {folder} ({reason}); make room there") from error
    notes = [
        f"{cut.source.video.name} is turned by {cut.video.turned} degrees, as its metadata say"
        for cut in cuts
        if cut.video.turned
    ]
    tracklets, cameras = ({row[COLUMNS.index(name)] for row in rows} for name in ("tracklet", "camera"))
    return CropFolder(len(rows), len(tracklets), len(cameras), dict(passed), tuple(notes))


def _beyond(source: Source, box: TrackedBox, frames: int) -> UserError:
    """Return the error for a frame beyond the end of the video."""
    return UserError(
        f"{source.tracks}, line {box.line}: frame {box.frame:,}, but {source.video} has {frames:,} frames; take the"
        " video that the tracker has seen"
    )


def _identity_of(source: Source) -> dict[str, Any]:
    """Return what tells one pair of video and tracks from another, without reading the video."""
    try:
        size, digest = source.video.stat().st_size, hashlib.sha256(source.tracks.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise UserError(f"cannot read {error.filename} ({error.strerror})") from error
    return {"video": source.video.name, "bytes": size, "tracks": digest, "camera": source.camera}


def _check(folder: Path, settings: dict[str, Any]) -> bool:
    """Return whether the folder is finished; raise a UserError where it holds other crops, or something else."""
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise UserError(f"--out {folder} is a file; name a folder for the crops alone")
    if not (folder / SETTINGS).is_file():
        if any(not path.name.startswith(".") for path in folder.iterdir()):
            raise UserError(f"--out {folder} holds something else than crops of this command; name an empty folder")
        return False
    try:
        existing = json.loads((folder / SETTINGS).read_text())
    except ValueError:
        existing = None
    if existing != settings:
        raise UserError(f"--out {folder} holds crops of other videos or settings; name another folder, or remove it")
    return (folder / MANIFEST).is_file()


def _rows(cuts: Sequence[_Cut]) -> list[tuple[str, ...]]:
    """Return the rows of the manifest, by video, tracklet and frame."""
    rows: list[tuple[str, ...]] = []
    for number, cut in enumerate(cuts, 1):
        for track, frame in sorted((crop.track, frame) for frame, crops in cut.crops.items() for crop in crops):
            path = f"{number}/{_name(track, frame)}"
            rows.append((path, "train", cut.source.camera, f"{number}-{track}", str(frame)))
    return rows


def _name(track: int, frame: int) -> str:
    """Return the path of a crop below the folder of its video."""
    return f"{track:05d}/{frame:06d}.jpg"


def _manifest(rows: Sequence[tuple[str, ...]]) -> str:
    """Return the text of the manifest."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    return text.getvalue()


def _write_video(folder: Path, cut: _Cut, quality: int) -> None:
    """Write the crops of one video; raise a UserError where it ends before its tracks do."""
    for number, image in cut.video.images({*cut.crops, cut.end.frame}):
        for crop in cut.crops.get(number, []):
            path = folder / _name(crop.track, number)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[crop.top : crop.bottom, crop.left : crop.right]).save(path, quality=quality)
    if cut.video.decoded < cut.end.frame:
        raise _beyond(cut.source, cut.end, cut.video.decoded)
