"""Film the people of a world as they walk past a camera: frames of a video, with the true box of everybody in them.

A frame shows the whole view of the camera, of which the crops of the world are parts. People are drawn from the
farthest to the nearest, so that they hide one another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from gcl_fast.bodies import walking_pose
from gcl_fast.settings import WorldConfig
from gcl_fast.synthetic.backdrops import COLUMNS, FOCAL, GROUND_ROWS, SKY_ROWS
from gcl_fast.synthetic.cameras import Camera, make_camera
from gcl_fast.synthetic.scenes import FINE, LINEAR, Stance, Studio
from gcl_fast.synthetic.wardrobe import Look, look_of

SCALE = 0.6  # of a frame's pixels to those of the backdrop: people are 65 to 125 pixels tall
FRAME = (round((SKY_ROWS + GROUND_ROWS) * SCALE), round(COLUMNS * SCALE))  # (H, W) of a frame, both even
WINDOW = (176, 128)  # (H, W) around a person, in pixels of a frame: shadow and swinging arms fit in
FRAMES_A_SECOND = 4
SPEED = (1.0, 1.5)  # metres a second, least and most
CYCLE = 1.4  # metres of a gait cycle
LEAST_FRAMES, MOST_FRAMES = 5, 24  # of a walk
LEAST_SHARE = 0.3  # of a person in the frame, below which there is no box
DRIFT = 0.03  # of the logarithm of the exposure, standard deviation from frame to frame
STREAM = 71  # of random numbers


@dataclass(frozen=True)
class Walk:
    """Holds how one person walks through the view of a camera, in a straight line.

    Attributes:
        person: kind and index of the person, as in `CropKey`.
        begin: first frame, from 0.
        places: (n, 2) metres away from the camera and to the right of its axis, a row for each frame.
        yaw: degrees; 0 walks towards the camera, 90 to the right of the image.
        gait: arguments of `walking_pose`.
        seed: of the folds of the clothes.
    """

    person: tuple[int, int]
    begin: int
    places: np.ndarray
    yaw: float
    gait: dict[str, float]
    seed: int


@dataclass(frozen=True)
class Box:
    """Holds the true box of a person in a frame."""

    walk: int  # number of the walk
    left: int  # pixels from 0
    top: int
    width: int
    height: int
    visibility: float  # share of the person's pixels in the frame that nobody hides, 0 to 1


def plan_walks(config: WorldConfig, camera: int, people: Sequence[tuple[int, int]], at_once: float = 2.5) -> list[Walk]:
    """Plan who walks past a camera, when and where.

    Args:
        config: the world.
        camera: number of the camera, from 0.
        people: kind and index of those who pass; somebody who is listed twice passes twice.
        at_once: mean number of people in view, above 0.

    Returns:
        A walk for each entry of `people`, in random order, by its first frame.
    """
    rng = np.random.default_rng([config.seed, STREAM, camera])
    view, walks, begin = make_camera(config.seed, camera, config.difficulty), list[Walk](), 0.0
    for number in rng.permutation(len(people)):
        yaw, places = _path(view, rng)
        gait = {
            "stride": rng.uniform(0.55, 1.05),
            "arm_swing": rng.uniform(0.4, 1.2),
            "elbow": rng.uniform(6, 35),
            "spread": rng.uniform(5, 11),
            "lean": rng.uniform(-1, 5),
            "head_turn": float(np.clip(rng.normal(0, 15), -45, 45)),
            "phase": rng.random(),
        }
        walks.append(Walk(people[number], int(begin), places, yaw, gait, int(rng.integers(2**31))))
        begin += rng.uniform(0.5, 1.5) * len(places) / at_once
    return walks


def _path(camera: Camera, rng: np.random.Generator) -> tuple[float, np.ndarray]:
    """Draw a yaw, and the places (n, 2) of a straight walk through the view; n is `LEAST_FRAMES` or more."""
    while True:
        yaw = camera.heading(rng)
        depth = rng.uniform(camera.near, camera.far)
        across = rng.uniform(-0.6, 0.6) * _half_width(depth)
        step = rng.uniform(*SPEED) / FRAMES_A_SECOND
        time = np.arange(-60, 61) * step
        a = np.radians(yaw)
        places = np.stack([depth - time * np.cos(a), across + time * np.sin(a)], 1)
        inside = (places[:, 0] > camera.near - 0.4) & (places[:, 0] < camera.far + 1.0)
        inside &= np.abs(places[:, 1]) < 0.97 * _half_width(places[:, 0])
        if inside.sum() >= LEAST_FRAMES:
            places = places[inside]
            begin = rng.integers(max(1, len(places) - MOST_FRAMES + 1))
            return yaw, places[begin : begin + MOST_FRAMES]


def _half_width(depth: float | np.ndarray) -> float | np.ndarray:
    """Return half the width in metres of what a camera sees at a distance."""
    return COLUMNS / 2 / FOCAL * depth


def film(config: WorldConfig, camera: int, walks: Sequence[Walk]) -> Iterator[tuple[np.ndarray, list[Box]]]:
    """Draw the frames of a camera, from the first to the last in which somebody walks.

    Args:
        config: the world.
        camera: number of the camera, from 0.
        walks: of the people, see `plan_walks`.

    Yields:
        A frame `FRAME` (H, W, 3) sRGB uint8, and the boxes of those who can be seen in it, by number of the walk.
    """
    view = make_camera(config.seed, camera, config.difficulty)
    studio = Studio(WINDOW)
    looks = [look_of(config.seed, *walk.person, config.difficulty) for walk in walks]
    # People at the border are drawn as a whole, on a canvas that is wider than the frame by a window on each side
    margin = (WINDOW[0] * FINE, WINDOW[1] * FINE)
    place = Image.fromarray(view.backdrop).resize((FRAME[1] * FINE, FRAME[0] * FINE), Image.Resampling.BICUBIC)
    empty = np.pad(LINEAR[np.asarray(place)], [(margin[0],) * 2, (margin[1],) * 2, (0, 0)], "edge")
    rng = np.random.default_rng([config.seed, STREAM + 1, camera])
    drift = 0.0  # of the logarithm of the exposure
    for frame in range(max(walk.begin + len(walk.places) for walk in walks)):
        canvas, owner = empty.copy(), np.full(empty.shape[:2], -1)
        present = [n for n, walk in enumerate(walks) if 0 <= frame - walk.begin < len(walk.places)]
        shown = {}
        for number in sorted(present, key=lambda n: -walks[n].places[frame - walks[n].begin][0]):
            walk = walks[number]
            window, mask = _draw(studio, view, looks[number], walk, frame - walk.begin, canvas)
            owner[window][mask] = number
            shown[number] = window, mask
        inside = (slice(margin[0], -margin[0]), slice(margin[1], -margin[1]))
        drift = 0.9 * drift + rng.normal(0, DRIFT)
        light = canvas[inside] * np.exp(drift)
        image = view.develop(light, FRAME, None).astype(np.float32)
        grain = rng.standard_normal((*FRAME, 1)) * 0.8 + rng.standard_normal((*FRAME, 3)) * 0.6
        image += 255 * 1.6 * view.noise * gaussian_filter(grain, (0.5, 0.5, 0))
        boxes = [_box(number, *shown[number], owner) for number in present]
        yield np.clip(image + 0.5, 0, 255).astype(np.uint8), [box for box in boxes if box is not None]


def _draw(
    studio: Studio, camera: Camera, look: Look, walk: Walk, step: int, canvas: np.ndarray
) -> tuple[tuple[slice, slice], np.ndarray]:
    """Draw a person into the canvas, and return the window (rows, columns) and the person's mask (h, w) in it."""
    depth, across = walk.places[step]
    pose, shape = _pose(walk, step), np.array(look.shape, np.float32)
    figure = studio.template.pose(pose, shape)
    metre = FOCAL * SCALE * FINE / depth  # in pixels of the canvas
    middle = np.array(  # of the person on the canvas: row and column
        [
            (SKY_ROWS * SCALE + WINDOW[0]) * FINE + metre * (camera.height - figure.height / 2),
            canvas.shape[1] / 2 + metre * across,
        ]
    )
    size = np.array(studio.fine)
    corner = np.clip(np.round(middle - size / 2).astype(int), 0, np.array(canvas.shape[:2]) - size)
    y, x = (middle - corner) / size
    pitch = np.degrees(np.arctan2(camera.height - figure.height / 2, depth))
    frame = np.array([metre / size[0], x, y, pitch], np.float32)
    stance = Stance(pose, shape, walk.yaw, frame, float(depth), float(across), figure)
    window = (slice(corner[0], corner[0] + size[0]), slice(corner[1], corner[1] + size[1]))
    mask = studio.add_person(canvas[window], camera, look, stance, np.random.default_rng(walk.seed))
    return window, mask


def _pose(walk: Walk, step: int) -> np.ndarray:
    """Return the pose (57,) of a walker at a step: the gait goes on with the distance that was covered."""
    covered = float(np.linalg.norm(walk.places[step] - walk.places[0]))
    gait = {name: value for name, value in walk.gait.items() if name != "phase"}
    phase = (walk.gait["phase"] + covered / CYCLE) % 1
    return walking_pose(torch.tensor([phase], dtype=torch.float32), **gait)[0].numpy()


def _box(number: int, window: tuple[slice, slice], mask: np.ndarray, owner: np.ndarray) -> Box | None:
    """Return the box of what the frame shows of a person; None where that is less than `LEAST_SHARE`."""
    rows, columns = np.nonzero(mask)
    rows = rows + window[0].start - WINDOW[0] * FINE
    columns = columns + window[1].start - WINDOW[1] * FINE
    inside = (rows >= 0) & (rows < FRAME[0] * FINE) & (columns >= 0) & (columns < FRAME[1] * FINE)
    if inside.sum() < LEAST_SHARE * len(rows) or not len(rows):
        return None
    rows, columns = rows[inside], columns[inside]
    visible = owner[rows + WINDOW[0] * FINE, columns + WINDOW[1] * FINE] == number
    left, top = int(columns.min() // FINE), int(rows.min() // FINE)
    right, bottom = int(columns.max() // FINE) + 1, int(rows.max() // FINE) + 1
    return Box(number, left, top, right - left, bottom - top, float(visible.mean()))
