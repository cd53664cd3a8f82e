"""Make the cameras of a world: their views, the sides from which they see people, and their light and colour."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from gcl_fast.synthetic.backdrops import paint_place

LUMA = np.array([0.299, 0.587, 0.114])


def to_linear(colour: np.ndarray) -> np.ndarray:
    """Convert sRGB values in 0..1 to linear light by a gamma of 2.2."""
    return np.power(colour, 2.2)


@dataclass(frozen=True)
class Camera:
    """Holds one camera: its geometry, its light and the flaws of its images."""

    height: float  # metres above the ground
    near: float  # smallest and
    far: float  # largest distance of people, metres
    backdrop: np.ndarray  # sRGB uint8, see backdrops.paint_place
    headings: np.ndarray  # (M,) degrees: the usual yaws of people who walk past
    sun: np.ndarray  # (3,) unit vector towards the sun: right, up, towards the camera
    sun_colour: np.ndarray  # (3,) linear
    sky_colour: np.ndarray  # (3,) linear
    softness: float  # 0 hard sunlight .. 1 overcast
    cast: np.ndarray  # (3, 3) linear colour matrix
    exposure: float  # factor of linear light
    gamma: float  # 1: none beyond sRGB's
    contrast: float  # 1: unchanged
    haze: float  # share of the sky's colour, 0..1
    blur: float  # standard deviation in pixels of the crop
    noise: float  # standard deviation, 0..1
    quality: int  # of JPEG, 0..100

    def heading(self, rng: np.random.Generator) -> float:
        """Draw the yaw of a passer-by in -180..180 degrees: mostly along the paths, sometimes any direction."""
        if rng.random() < 0.2:
            return float(rng.uniform(-180, 180))
        yaw = self.headings[rng.integers(len(self.headings))] + rng.normal(0, 22)
        return float((yaw + 180) % 360 - 180)

    def develop(self, light: np.ndarray, size: tuple[int, int], rng: np.random.Generator | None) -> np.ndarray:
        """Turn light into this camera's image.

        Args:
            light: (h, w, 3) linear light; h and w are multiples of H and W.
            size: (H, W) of the image.
            rng: random generator of noise, shake and exposure; None gives an image without them.

        Returns:
            The image (H, W, 3), sRGB uint8.
        """
        height, width = size
        fine = light.shape[0] // height
        light = light.reshape(height, fine, width, fine, 3).mean((1, 3))
        gain, sigma = self.exposure, self.blur
        if rng is not None:
            gain *= np.exp(rng.normal(0, 0.12))
            sigma = np.hypot(self.blur, rng.exponential(0.22))
        light = np.maximum(light @ self.cast.T, 0) * gain
        light = gaussian_filter(light, (sigma, sigma, 0))
        light = light * (1 - self.haze) + self.haze * 0.55 * self.sky_colour / self.sky_colour.max()
        image = np.power(np.clip(light, 0, 4), 1 / (2.2 * self.gamma))
        image = np.where(image > 0.8, 0.8 + 0.2 * np.tanh((image - 0.8) / 0.2), image)  # compress the highlights
        image = 0.45 + (image - 0.45) * self.contrast
        if rng is not None:
            grain = rng.standard_normal((height, width, 1)) * 0.8 + rng.standard_normal((height, width, 3)) * 0.6
            image = image + self.noise * gaussian_filter(grain, (0.5, 0.5, 0)) * 1.6
        return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)

    def encode(self, image: np.ndarray) -> bytes:
        """Encode an image (H, W, 3) uint8 as JPEG of this camera's quality."""
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=self.quality)
        return buffer.getvalue()


def make_camera(seed: int, index: int, difficulty: float) -> Camera:
    """Make one camera of a world.

    Difficulty scales casts, gamma, haze, blur and noise; their random directions do not depend on it.

    Args:
        seed: seed of the world.
        index: number of the camera, from 0.
        difficulty: 0 easy .. 1 hard.
    """
    rng = np.random.default_rng([seed, 21, index])
    height = rng.uniform(1.4, 3.4)
    near = rng.uniform(5.0, 6.5)
    far = near + rng.uniform(1.5, 3.0)
    wall = far + rng.uniform(1.5, 4.0)
    backdrop = paint_place(rng, index, height, wall)
    first = rng.uniform(-180, 180)
    headings = first + np.array([0, rng.normal(180, 25), rng.normal(90, 30)])[: 2 + int(rng.random() < 0.5)]
    azimuth, elevation = rng.uniform(-110, 110), rng.uniform(35, 65)
    softness = rng.uniform(0.25, 0.95)
    a, e = np.radians([azimuth, elevation])
    sun = np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])
    strength = 0.2 + 1.4 * difficulty
    warm = rng.normal(0, 1) * 0.12 * strength
    tint, channel = rng.normal(0, 1) * 0.10 * strength, rng.normal(0, 0.06, 3) * strength
    gains = np.exp(np.array([warm + 0.4 * tint, -0.6 * abs(tint) if tint < 0 else 0.3 * tint, -warm]) + channel)
    saturation = np.clip(1 - strength * rng.uniform(-0.1, 0.45), 0.25, 1.15)
    cast = np.diag(gains) @ (saturation * np.eye(3) + (1 - saturation) * LUMA)
    return Camera(
        height=height,
        near=near,
        far=far,
        backdrop=backdrop,
        headings=headings,
        sun=sun,
        sun_colour=np.array([1.0, 0.95, 0.88]) * 1.5 * (1 - 0.75 * softness),
        sky_colour=np.array([0.90, 0.96, 1.0]) * (0.45 + 0.45 * softness),
        softness=softness,
        cast=cast,
        exposure=float(np.exp(strength * rng.normal(0, 0.22))),
        gamma=float(np.exp(strength * rng.normal(0, 0.12))),
        contrast=float(1 - strength * rng.uniform(-0.05, 0.22)),
        haze=float(strength * rng.uniform(0, 0.10)),
        blur=float(rng.uniform(0.35, 0.45 + 0.45 * strength)),
        noise=float(rng.uniform(0.004, 0.008 + 0.012 * strength)),
        quality=int(rng.integers(round(88 - 30 * difficulty), 93)),
    )
