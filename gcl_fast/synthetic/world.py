"""A world: its configuration, its cameras and people, and any of its crops by key."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np

from gcl_fast.errors import UserError
from gcl_fast.synthetic.cameras import Camera, make_camera
from gcl_fast.synthetic.scenes import Stance, Studio, add_obstacle
from gcl_fast.synthetic.wardrobe import Look, look_of

VERSION = 5  # raise when the same configuration gives other pictures
TRAIN, TEST, DISTRACTOR, JUNK, STRANGER = range(5)  # kinds of people: each draws from its own random numbers
NAME = re.compile(r"(-?\d+)_c(\d+)s1_(\d+)_(\d+)")


@dataclass(frozen=True)
class WorldConfig:
    """What decides a world; two worlds with equal configurations are equal to the last bit.

    identities: per split (training and test have as many). crops: of each identity and camera; None leaves it to
    `difficulty` (4 when easy, 3 in the middle, 2 when hard). size: (H, W) of the crops. difficulty: 0 easy .. 1 hard;
    scales the cameras' casts, gamma, blur and noise, the number of look-alikes, the share of neutral colours.
    """

    identities: int = 100
    cameras: int = 6
    crops: int | None = None
    size: tuple[int, int] = (128, 64)
    seed: int = 0
    difficulty: float = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.difficulty <= 1:
            raise UserError(f"synthetic world: difficulty must be within 0..1, got {self.difficulty}")
        if self.identities < 1 or self.cameras < 2 or self.seed < 0:
            raise UserError(
                f"synthetic world: needs at least 1 identity, 2 cameras and a seed >= 0, "
                f"got {self.identities}, {self.cameras}, {self.seed}"
            )
        if self.crops_per_camera < 2:
            raise UserError(f"synthetic world: needs 2 crops per camera (query and gallery) or more, got {self.crops}")
        if min(self.size) < 16:
            raise UserError(
                f"synthetic world: crops of {self.size[0]} x {self.size[1]} are too small, the least is 16 x 16"
            )

    @property
    def crops_per_camera(self) -> int:
        return round(4 - 2 * self.difficulty) if self.crops is None else self.crops

    def to_json(self) -> dict:
        return {**asdict(self), "size": list(self.size)}

    @classmethod
    def from_json(cls, values: dict) -> WorldConfig:
        return cls(**{**values, "size": tuple(values["size"])})

    @property
    def digest(self) -> str:
        """Identifies the pictures: configuration and version of the code that draws them."""
        return hashlib.sha256(json.dumps([VERSION, self.to_json()], sort_keys=True).encode()).hexdigest()[:16]


class CropKey(NamedTuple):
    """Which crop: kind of person, index among that kind, camera from 0, number of the crop."""

    kind: int
    identity: int
    camera: int
    number: int


class World:
    """Draws any crop of a world from its key alone, so neither order nor number of workers matters."""

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        self.studio = Studio(config.size)
        self.cameras: list[Camera] = [make_camera(config.seed, i, config.difficulty) for i in range(config.cameras)]

    def look(self, kind: int, identity: int) -> Look:
        return look_of(self.config.seed, kind, identity, self.config.difficulty)

    def _random(self, key: CropKey, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, 41, *key, purpose])

    def stance(self, key: CropKey) -> Stance:
        """How this crop's person stands: what the body-parameter file tells."""
        rng = self._random(key, 0)
        stance = self.studio.stance(rng, self.cameras[key.camera], self.look(key.kind, key.identity))
        if key.kind == JUNK:  # a detector's mistake: a fragment of somebody
            scale, x, y, pitch = stance.camera
            shift = rng.uniform(0.35, 0.55) * rng.choice([-1, 1])
            camera = np.array([scale * rng.uniform(1.3, 2.2), x + shift, y + rng.normal(0, 0.3), pitch], np.float32)
            stance = replace(stance, camera=camera)
        return stance

    def crop(self, key: CropKey) -> tuple[bytes, Stance]:
        """The crop as a JPEG file, and how its person stands."""
        camera = self.cameras[key.camera]
        stance, rng = self.stance(key), self._random(key, 1)
        others = self._others(camera, stance, rng)
        look = self.look(key.kind, key.identity)
        light, _ = self.studio.photograph(camera, look, stance, self._random(key, 2), others)
        if rng.random() < 0.08 + 0.10 * self.config.difficulty:
            add_obstacle(light, rng)
        return camera.encode(camera.develop(light, self.config.size, rng)), stance

    def view(self, key: CropKey, turn: float) -> tuple[np.ndarray, np.ndarray]:
        """The clean picture (H, W, 3) uint8 and person mask (H, W) of a crop, the person turned by `turn` degrees."""
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
        """Sometimes a passer-by at the edge of the crop, in front or behind."""
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
    """One world per configuration and process."""
    return World(config)


def file_name(config: WorldConfig, key: CropKey) -> str:
    """Market-1501's name of a crop: PPPP_cCs1_FFFFFF_NN.jpg.

    Training people are 1..identities, test people follow, distractors are 0000, junk is -1. People walk from camera to
    camera, so that frame numbers tell a little of who may be who.
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
    """The key of a crop from its file name. Raises UserError for a name that is not of this world."""
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
        known = key.camera < config.cameras and (key.kind != TEST or key.identity < config.identities)
        if known and file_name(config, key) == name:
            return key
    raise UserError(f"{name!r} is no crop of this synthetic world (seed {config.seed}, {config.identities} identities)")
