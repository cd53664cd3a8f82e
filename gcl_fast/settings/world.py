"""Hold the settings of the embedded dataset."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from gcl_fast.errors import UserError

VERSION = 5  # raise it when the same settings give other images


@dataclass(frozen=True)
class WorldConfig:
    """Holds the settings of a world; equal settings give worlds that are equal to the last bit.

    Raises:
        UserError: a setting is out of range.
    """

    identities: int = 100  # number of people in training, and in test
    cameras: int = 6  # number of cameras, at least 2
    crops: int | None = None  # crops per identity and camera, at least 2; null: from 4 (easy) to 2 (hard)
    size: tuple[int, int] = (128, 64)  # height and width of the crops in pixels, at least 16 x 16
    seed: int = 0  # seed of everything random
    # 0 easy to 1 hard. It scales the cameras' casts, gamma, blur and noise, the number of look-alikes and the share of
    # neutral colours
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
