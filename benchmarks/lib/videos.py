"""Make videos of the embedded world, with what a tracker would write and who is who, and label crops of them."""

from __future__ import annotations

import csv
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

from gcl_fast.atomic import write_atomically, write_text
from gcl_fast.settings import WorldConfig
from gcl_fast.synthetic.walks import FRAME, FRAMES_A_SECOND, film, plan_walks
from gcl_fast.synthetic.world import TEST, TRAIN


def make_video(folder: Path, config: WorldConfig, camera: int, visits: int) -> tuple[Path, Path]:
    """Make the video of one camera, unless it is there: everybody of training and test passes `visits` times.

    Args:
        folder: of the videos; cameraN.mp4, cameraN.txt and cameraN_people.csv are written, the last one last.
        config: the world.
        camera: from 0.
        visits: of each person, 1 or more.

    Returns:
        The video, and its true boxes in the form of the MOT challenge.
    """
    video, tracks, people = files_of(folder, camera)
    if people.is_file():
        return video, tracks
    walks = plan_walks(config, camera, [(kind, n) for kind in (TRAIN, TEST) for n in range(config.identities)] * visits)
    lines: list[str] = []

    def encode(file: BinaryIO) -> None:
        import av

        with av.open(file, "w", format="mp4") as container:
            stream = container.add_stream("libx264", FRAMES_A_SECOND, options={"crf": "17", "preset": "veryfast"})
            stream.height, stream.width = FRAME
            stream.pix_fmt = "yuv420p"
            for number, (image, boxes) in enumerate(film(config, camera, walks), 1):
                frame = av.VideoFrame.from_ndarray(image)
                frame.pts, frame.time_base = number - 1, Fraction(1, FRAMES_A_SECOND)
                container.mux(stream.encode(frame))
                lines.extend(
                    f"{number},{box.walk + 1},{box.left},{box.top},{box.width},{box.height},1,1,{box.visibility:.3f}\n"
                    for box in boxes
                )
            container.mux(stream.encode())

    write_atomically(video, encode)
    write_text(tracks, "".join(lines))
    names = {TRAIN: "train", TEST: "test"}
    rows = (f"{track},{names[walk.person[0]]},{walk.person[1]}\n" for track, walk in enumerate(walks, 1))
    write_text(people, "track,split,person\n" + "".join(rows))
    return video, tracks


def files_of(folder: Path, camera: int) -> tuple[Path, Path, Path]:
    """Return the files of a camera: its video, its tracks, and who is who."""
    name = f"camera{camera + 1}"
    return folder / f"{name}.mp4", folder / f"{name}.txt", folder / f"{name}_people.csv"


def label_crops(crops: Path, videos: Path, target: Path) -> Path:
    """Write a manifest with the true people of crops that were cut from videos of `make_video`.

    People of the training show in `train`, with identities for metrics alone. Of each test person and camera the first
    tracklet is the query, and the others are the gallery.

    Args:
        crops: the folder that `gcl-fast crops` wrote, with cameras 1, 2, ...
        videos: folder of the videos.
        target: folder for the manifest.

    Returns:
        The manifest.
    """
    with (crops / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    people = dict[tuple[str, str], tuple[str, str]]()
    for camera in sorted({row["camera"] for row in rows}):
        with files_of(videos, int(camera) - 1)[2].open(newline="") as file:
            people |= {(camera, row["track"]): (row["split"], row["person"]) for row in csv.DictReader(file)}
    lines, seen = ["path,split,identity,camera,frame,tracklet"], dict[tuple[str, str], str]()
    for row in rows:
        split, person = people[row["camera"], row["tracklet"].partition("-")[2]]
        if split == "test":
            first = seen.setdefault((row["camera"], person), row["tracklet"])
            split = "query" if first == row["tracklet"] else "gallery"
        identity = int(person) + (1 if split == "train" else 10_001)
        path = (crops / row["path"]).resolve()
        lines.append(f"{path},{split},{identity},{row['camera']},{row['frame']},{row['tracklet']}")
    write_text(target / "manifest.csv", "\n".join(lines) + "\n")
    return target / "manifest.csv"
