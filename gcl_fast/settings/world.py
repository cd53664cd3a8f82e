"""Hold the settings of the embedded dataset."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Annotated

from gcl_fast.settings.ranges import Count, Range, Seed, Share, check_ranges

Side = Annotated[int, Range(16, 4096)]
VERSION = 5  # raise it when the same settings give other images


@dataclass(frozen=True)
class WorldConfig:
    """Holds the settings of a world; equal settings give worlds that are equal to the last bit.

    Raises:
        UserError: a setting is out of range.
    """

    identities: Count = 100  # number of people in training, and in test
    cameras: Annotated[int, Range(2)] = 6  # number of cameras
    crops: Annotated[int, Range(2)] | None = None  # crops per identity and camera; null: from 4 (easy) to 2 (hard)
    size: tuple[Side, Side] = (128, 64)  # height and width of the crops in pixels
    seed: Seed = 0  # seed of everything random
    # 0 easy to 1 hard. It scales the cameras' casts, gamma, blur and noise, the number of look-alikes and the share of
    # neutral colours
    difficulty: Share = 0.3

    def __post_init__(self) -> None:
        check_ranges(self, "synthetic world: ")

    @property
    def crops_per_camera(self) -> int:
        """Return the crops per identity and camera."""
        return round(4 - 2 * self.difficulty) if self.crops is None else self.crops

    def to_json(self) -> dict:
        """Return the settings as values that JSON can hold."""
        return {**asdict(self), "size": list(self.size)}

    @classmethod
    def from_json(cls, values: dict) -> WorldConfig:
        """Make the settings from what `to_json` returned."""
        return cls(**{**values, "size": tuple(values["size"])})

    @property
    def digest(self) -> str:
        """Return a hash of the settings and of the version of the code that draws the images."""
        return hashlib.sha256(json.dumps([VERSION, self.to_json()], sort_keys=True).encode()).hexdigest()[:16]
