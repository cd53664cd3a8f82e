"""Define a synthetic world: its cameras and people, and each of its crops by key.

A change that gives other images raises `VERSION` in settings/world.py.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np

from gcl_fast.errors import UserError
from gcl_fast.settings import WorldConfig
from gcl_fast.synthetic.cameras import Camera, make_camera
from gcl_fast.synthetic.scenes import Stance, Studio, add_obstacle
from gcl_fast.synthetic.wardrobe import Look, look_of

TRAIN, TEST, DISTRACTOR, JUNK, STRANGER = range(5)  # kinds of people; each kind has its own random numbers
NAME = re.compile(r"(-?\d+)_c(\d+)s1_(\d+)_(\d+)")


class CropKey(NamedTuple):
    """Identifies one crop."""

    kind: int  # of person: TRAIN .. STRANGER
    identity: int  # index among that kind
    camera: int  # from 0
    number: int  # of this person's crops by this camera, from 0


class World:
    """Draws each crop of a world from its key alone, so that order and number of workers do not matter."""

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        self.studio = Studio(config.size)
        self.cameras: list[Camera] = [make_camera(config.seed, i, config.difficulty) for i in range(config.cameras)]

    def look(self, kind: int, identity: int) -> Look:
        """Return the appearance of a person."""
        return look_of(self.config.seed, kind, identity, self.config.difficulty)

    def _random(self, key: CropKey, purpose: int) -> np.random.Generator:
        """Return the random generator of one purpose of a crop."""
        return np.random.default_rng([self.config.seed, 41, *key, purpose])

    def stance(self, key: CropKey) -> Stance:
        """Return the stance of a crop's person, which becomes a row of the body-parameter file."""
        rng = self._random(key, 0)
        stance = self.studio.stance(rng, self.cameras[key.camera], self.look(key.kind, key.identity))
        if key.kind == JUNK:  # a detector's mistake that shows a part of a person
            scale, x, y, pitch = stance.camera
            shift = rng.uniform(0.35, 0.55) * rng.choice([-1, 1])
            camera = np.array([scale * rng.uniform(1.3, 2.2), x + shift, y + rng.normal(0, 0.3), pitch], np.float32)
            stance = replace(stance, camera=camera)
        return stance

    def crop(self, key: CropKey) -> tuple[bytes, Stance]:
        """Return the crop as bytes of a JPEG file, and the stance of its person."""
        camera = self.cameras[key.camera]
        stance, rng = self.stance(key), self._random(key, 1)
        others = self._others(camera, stance, rng)
        look = self.look(key.kind, key.identity)
        light, _ = self.studio.photograph(camera, look, stance, self._random(key, 2), others)
        if rng.random() < 0.08 + 0.10 * self.config.difficulty:
            add_obstacle(light, rng)
        return camera.encode(camera.develop(light, self.config.size, rng)), stance

    def view(self, key: CropKey, turn: float) -> tuple[np.ndarray, np.ndarray]:
        """Render a crop without noise, passers-by and obstacles, with the person turned by `turn` degrees.

        Returns:
            Image (H, W, 3) uint8 and mask (H, W) bool of the person.
        """
        camera = self.cameras[key.camera]
        look = self.look(key.kind, key.identity)
        light, mask = self.studio.photograph(camera, look, self.stance(key), self._random(key, 2), turn=turn)
        height, width = self.config.size
        fine = mask.shape[0] // height
        share = mask.reshape(height, fine, width, fine).mean((1, 3))
        return camera.develop(light, self.config.size, None), share >= 0.5

    def _others(
        self, camera: Camera, stance: Stance, rng: np.random.Generator
    ) -> tuple[tuple[Look, Stance, float], ...]:
        """Draw a passer-by at the edge of the crop, in front or behind, for a quarter of the crops."""
        if rng.random() > 0.25:
            return ()
        look = self.look(STRANGER, int(rng.integers(10_000)))
        other = self.studio.stance(rng, camera, look)
        nearness = rng.uniform(0.1, 0.2) if rng.random() < 0.35 else -rng.uniform(0.05, 0.3)
        scale, _, y, pitch = stance.camera
        x = rng.choice([-1, 1]) * rng.uniform(0.42, 0.6) + 0.5
        place = np.array([scale * (1 + nearness), x, y + 0.25 * nearness, pitch], np.float32)
        return ((look, replace(other, camera=place), nearness),)


@cache
def world_of(config: WorldConfig) -> World:
    """Return the world of a configuration; a process makes each world once."""
    return World(config)


def file_name(config: WorldConfig, key: CropKey) -> str:
    """Return the name of a crop in Market-1501's form: PPPP_cCs1_FFFFFF_NN.jpg.

    Training people are 1..identities, test people have the next numbers, distractors are 0000, and junk is -1. People
    walk from camera to camera, so that frame numbers help to decide whether two crops can show one person.
    """
    rng = np.random.default_rng([config.seed, 51, key.kind, key.identity])
    start, route = rng.integers(100_000), rng.permutation(config.cameras)
    frame = start + 900 * route[key.camera] + rng.integers(0, 200, config.cameras)[key.camera] + 12 * key.number
    person = {TRAIN: f"{key.identity + 1:04d}", TEST: f"{config.identities + key.identity + 1:04d}"}.get(key.kind)
    if person is None:
        person = "0000" if key.kind == DISTRACTOR else "-1"
        return f"{person}_c{key.camera + 1}s1_{frame:06d}_{key.identity // config.cameras + 1:02d}.jpg"
    return f"{person}_c{key.camera + 1}s1_{frame:06d}_{key.number + 1:02d}.jpg"


def crop_key(config: WorldConfig, name: str) -> CropKey:
    """Return the key of a crop from its file name.

    Raises:
        UserError: the name is no crop of this world.
    """
    match = NAME.match(name)
    if match:
        person, camera, _, number = (int(part) for part in match.groups())
        if person <= 0:
            kind = DISTRACTOR if person == 0 else JUNK
            key = CropKey(kind, (number - 1) * config.cameras + camera - 1, camera - 1, 0)
        elif person <= config.identities:
            key = CropKey(TRAIN, person - 1, camera - 1, number - 1)
        else:
            key = CropKey(TEST, person - 1 - config.identities, camera - 1, number - 1)
        exists = key.camera < config.cameras and (key.kind != TEST or key.identity < config.identities)
        if exists and file_name(config, key) == name:
            return key
    raise UserError(f"{name!r} is no crop of this synthetic world (seed {config.seed}, {config.identities} identities)")
