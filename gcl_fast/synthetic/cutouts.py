"""Draw the body estimator's training data: people cut out of their scenes, in all poses and views, and empty scenes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw

from gcl_fast.bodies import posture
from gcl_fast.synthetic.cameras import Camera, make_camera
from gcl_fast.synthetic.scenes import FINE, Stance, Studio
from gcl_fast.synthetic.wardrobe import Look, look_of

SIZE = (128, 80)  # (H, W) of a cut-out: room for long strides and bags
CYCLISTS, BUSY_ARMS, STANDING = 0.08, 0.35, 0.2  # shares of the people
ELBOW_AXIS = np.array([0.77, 0.64, 0.0])  # axis of the left elbow, which bends by negative angles


class Cutouts(NamedTuple):
    """Holds N people and M empty scenes."""

    pictures: np.ndarray  # (N, H, W, 4) uint8: sRGB, and the person's share of the pixel
    vector: np.ndarray  # (N, WIDTH) float32, see posture.py
    yaw: np.ndarray  # (N,) float32, degrees
    backdrops: np.ndarray  # (M, H, W, 3) uint8


class Scenery:
    """Draws cut-outs by a number of cameras of all difficulties.

    Args:
        seed: seed of everything that is drawn.
        cameras: number of cameras.
    """

    def __init__(self, seed: int, cameras: int) -> None:
        self.seed = seed
        self.rng = np.random.default_rng([seed, 71])
        self.cameras = [make_camera(seed, i, self.rng.uniform(0, 0.8)) for i in range(cameras)]
        self.studio = Studio(SIZE)

    def draw(self, people: int, backdrops: int) -> Cutouts:
        """Draw a number of people, each once, and a number of empty scenes."""
        cutouts = [self._person(number) for number in range(people)]
        images, vectors, yaws = (np.stack(values) for values in zip(*cutouts))
        return Cutouts(images, vectors, yaws, np.stack([self._empty() for _ in range(backdrops)]))

    def _person(self, number: int) -> tuple[np.ndarray, np.ndarray, np.float32]:
        """Draw one person: image (H, W, 4), vector (WIDTH,) and yaw in degrees."""
        rng = self.rng
        look = look_of(self.seed, number % 2, 6 * number, rng.uniform())  # 6: no two people share a wardrobe
        camera = self.cameras[rng.integers(len(self.cameras))]
        cyclist = rng.random() < CYCLISTS
        walk, residual = _ride(rng) if cyclist else _walk(rng)
        stance = self._stance(camera, look, posture.pose_of(walk, residual)[0].numpy(), 0.74 if cyclist else 0.9)
        light, mask = self.studio.photograph(camera, look, stance, rng)
        share = mask.reshape(SIZE[0], FINE, SIZE[1], FINE).mean((1, 3))
        image = np.dstack((camera.develop(light, SIZE, None), np.uint8(255 * share)))
        if cyclist:
            image = _add_bicycle(image, stance, rng)
        shape, view = torch.from_numpy(stance.shape)[None], torch.from_numpy(stance.camera)[None]
        return image, posture.encode(walk, residual, shape, view)[0].numpy(), np.float32(stance.yaw)

    def _stance(self, camera: Camera, look: Look, pose: np.ndarray, fill: float) -> Stance:
        """Place a posed person before a camera, turned at random, `fill` of the cut-out's height tall."""
        rng, shape = self.rng, np.array(look.shape, np.float32)
        figure = self.studio.template.pose(pose, shape)
        view = np.array([fill / figure.height, 0.5, 0.5, rng.uniform(-3, 28)], np.float32)
        depth, across = rng.uniform(camera.near, camera.far), rng.uniform(-4, 4)
        return Stance(pose, shape, float(rng.uniform(-180, 180)), view, float(depth), float(across), figure)

    def _empty(self) -> np.ndarray:
        """Draw a scene (H, W, 3) uint8 without people."""
        rng = self.rng
        camera = self.cameras[rng.integers(len(self.cameras))]
        rows, columns = camera.backdrop.shape[:2]
        height = rng.uniform(60, rows)
        width = height * SIZE[1] / SIZE[0]
        top, left = rng.uniform(0, rows - height), rng.uniform(0, columns - width)
        view = Image.fromarray(camera.backdrop)
        return np.asarray(view.resize(SIZE[::-1], Image.Resampling.BICUBIC, (left, top, left + width, top + height)))


def _walk(rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw somebody who walks or stands, arms perhaps raised, as walk (1, 7) and residual (1, 24) of posture.py."""
    standing = rng.random() < STANDING
    stride = rng.uniform(0, 0.15) if standing else rng.uniform(0.4, 1.1)
    swing = rng.uniform(0, 0.2) if standing else rng.uniform(0.1, 1.2)
    head = np.clip(rng.normal(0, 20), -60, 60)
    walk = (rng.random(), stride, swing, rng.uniform(6, 40), rng.uniform(4, 12), rng.normal(3, 4), head)
    residual = np.zeros((4, 2, 3))  # hips, knees, shoulders, elbows; left and right
    residual[:2, :, 0] = rng.normal(0, 0.06, (2, 2))
    for side, sign in enumerate((1, -1)):
        if rng.random() < BUSY_ARMS:
            residual[2, side] = rng.uniform(-0.7, 0.2), 0, sign * rng.normal(0, 0.2)
            residual[3, side] = -rng.uniform(0, 1.7) * ELBOW_AXIS * (1, sign, 1)
    return _tensors(walk, residual)


def _ride(rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw somebody on a bicycle, as walk (1, 7) and residual (1, 24) of posture.py."""
    residual = np.zeros((4, 2, 3))
    turn = rng.uniform(0, 2 * np.pi) + np.array([0, np.pi])  # angles of the pedals
    residual[0, :, 0] = -1.0 - 0.4 * np.cos(turn)
    residual[1, :, 0] = 1.15 + 0.5 * np.cos(turn + 0.6)
    residual[2, :, 0] = -rng.uniform(0.6, 1.1)
    residual[2, :, 2] = (-0.1, 0.1)
    return _tensors((0, 0, 0, rng.uniform(6, 40), 8, rng.uniform(5, 35), rng.normal(0, 15)), residual)


def _tensors(walk: tuple[float, ...], residual: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Convert walk and residual (4, 2, 3) to tensors of one row."""
    return torch.tensor([walk], dtype=torch.float32), torch.from_numpy(residual.reshape(1, -1).astype(np.float32))


def _add_bicycle(image: np.ndarray, stance: Stance, rng: np.random.Generator) -> np.ndarray:
    """Draw wheels and a frame below the person; the mask includes them."""
    sheet = Image.fromarray(image)
    draw = ImageDraw.Draw(sheet)
    scale, x, y, pitch = stance.camera
    metre = scale * SIZE[0]
    along = np.sin(np.radians(stance.yaw))
    rise = np.cos(np.radians(stance.yaw)) * np.sin(np.radians(pitch))  # nearer points are lower in the image

    def pixel(forward: float, up: float) -> tuple[float, float]:
        """Return column and row of a point `forward` metres in front of the person and `up` metres above ground."""
        below = stance.figure.height / 2 - up
        return x * SIZE[1] + metre * forward * along, y * SIZE[0] + metre * (below + forward * rise)

    colour = (*(int(c) for c in rng.integers(20, 230, 3)), 255)
    for hub in (-0.5, 0.55):
        column, row = pixel(hub, 0.22)
        wide, high = metre * max(0.34 * abs(along), 0.03), metre * 0.34
        draw.ellipse((column - wide, row - high, column + wide, row + high), outline=(25, 25, 28, 255), width=2)
    seat, bars, pedals = pixel(-0.15, 0.72), pixel(0.42, 0.85), pixel(0.0, 0.2)
    back, front = pixel(-0.5, 0.22), pixel(0.55, 0.22)
    for start, end in ((back, pedals), (pedals, seat), (seat, bars), (pedals, bars), (bars, front)):
        draw.line((*start, *end), fill=colour, width=2)
    return np.asarray(sheet)
