"""Paint the place that one camera sees: ground, wall and street furniture, as a wide image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

FOCAL = 600.0  # pixels; a person of 1.75 m is 131 pixels tall at 8 m, slightly more than a crop of 128 pixels needs
SKY_ROWS, GROUND_ROWS, COLUMNS = 150, 390, 1200


def smooth_noise(rng: np.random.Generator, size: tuple[int, int], cells: int, octaves: int = 3) -> np.ndarray:
    """Make fractal value noise (H, W) float32 with zero mean and unit standard deviation.

    Args:
        rng: random generator.
        size: (H, W).
        cells: rows of the coarsest octave's grid.
        octaves: number of octaves; each halves the cells' size.
    """
    height, width = size
    total = np.zeros(size, np.float32)
    for octave in range(octaves):
        rows = min(height, max(2, cells << octave))
        columns = min(width, max(2, round(rows * width / height)))
        grid = Image.fromarray(rng.standard_normal((rows, columns), dtype=np.float32))
        total += np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC)) * 0.6**octave
    return (total - total.mean()) / total.std()


@dataclass
class Place:
    """Holds an image while it is painted, with the geometry of its camera.

    Attributes:
        image: (rows, columns, 3) sRGB float in 0..1.
        height: height of the camera above the ground, metres.
        wall: distance of the wall, metres.
        rng: random generator of everything that is painted.
    """

    image: np.ndarray
    height: float
    wall: float
    rng: np.random.Generator

    def row(self, up: float, depth: float) -> float:
        """Return the row of a point `up` metres above the ground at distance `depth`."""
        return SKY_ROWS + FOCAL * (self.height - up) / depth

    def column(self, across: float, depth: float) -> float:
        """Return the column of a point `across` metres to the right of the camera's axis at distance `depth`."""
        return COLUMNS / 2 + FOCAL * across / depth

    def span(self, depth: float) -> float:
        """Return half the width in metres that the image shows at this distance."""
        return COLUMNS / 2 / FOCAL * depth

    def box(
        self,
        left: float,
        right: float,
        bottom: float,
        top: float,
        depth: float,
        colour: np.ndarray,
        grain: float = 0.03,
    ) -> None:
        """Paint an upright rectangle, given in metres, with a little texture and a darker foot."""
        r0, r1 = (int(np.clip(self.row(up, depth), 0, len(self.image))) for up in (top, bottom))
        c0, c1 = (int(np.clip(self.column(x, depth), 0, COLUMNS)) for x in (left, right))
        if r1 - r0 < 1 or c1 - c0 < 1:
            return
        texture = 1 + grain * self.rng.standard_normal((r1 - r0, c1 - c0, 1))
        fall = np.linspace(1.05, 0.9, r1 - r0)[:, None, None]
        self.image[r0:r1, c0:c1] = colour * texture * fall

    def blob(
        self, across: float, up: float, radius: float, depth: float, colour: np.ndarray, rough: float = 0.5
    ) -> None:
        """Paint a round leafy shape, given in metres; `rough` frays its edge."""
        pixels = FOCAL * radius / depth
        row, column = self.row(up, depth), self.column(across, depth)
        r0, r1 = int(max(0, row - pixels)), int(min(len(self.image), row + pixels))
        c0, c1 = int(max(0, column - pixels)), int(min(COLUMNS, column + pixels))
        if r1 - r0 < 2 or c1 - c0 < 2:
            return
        y, x = np.mgrid[r0:r1, c0:c1]
        noise = smooth_noise(self.rng, (r1 - r0, c1 - c0), 6)
        inside = np.hypot(y - row, x - column) / pixels + 0.15 * rough * noise < 0.9
        shade = 1 + 0.25 * noise - 0.35 * (y - row) / pixels
        self.image[r0:r1, c0:c1][inside] = (colour * shade[..., None])[inside]


def _tint(rng: np.random.Generator, base: tuple[float, float, float], spread: float = 0.05) -> np.ndarray:
    """Draw a colour near `base`."""
    return np.clip(np.array(base) * rng.uniform(0.85, 1.15) + rng.normal(0, spread, 3), 0.04, 0.95)


def _grid(
    a: np.ndarray, b: np.ndarray, step_a: float, step_b: float, line: float, brick: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return joint mask and cell number of a tiling of the plane (a, b); `brick` shifts every second row."""
    row = np.floor(b / step_b)
    a = a + (0.5 * step_a * (row % 2) if brick else 0.0)
    cell = np.floor(a / step_a) * 73.0 + row * 151.0
    joint = (np.abs(a / step_a - np.round(a / step_a)) * step_a < line) | (
        np.abs(b / step_b - np.round(b / step_b)) * step_b < line
    )
    return joint, cell


def _cell_shade(cell: np.ndarray, strength: float) -> np.ndarray:
    """Return a fixed pseudo-random brightness for each tile."""
    return 1 + strength * (np.modf(np.abs(np.sin(cell * 12.9898) * 43758.5453))[0] - 0.5)


def _paint_ground(place: Place) -> None:
    """Paint slabs, asphalt, pavers, grass or concrete."""
    rng, image = place.rng, place.image
    rows = np.arange(SKY_ROWS + 1, len(image))
    depth = np.broadcast_to((FOCAL * place.height / (rows - SKY_ROWS))[:, None], (len(rows), COLUMNS))
    across = (np.arange(COLUMNS) - COLUMNS / 2) * depth / FOCAL
    tile = smooth_noise(rng, (512, 512), 12, 5)
    tile = np.block([[tile, tile[:, ::-1]], [tile[::-1], tile[::-1, ::-1]]])  # no seam where it repeats
    grain = tile[(depth * 60).astype(int) % 1024, (across * 60).astype(int) % 1024]
    stains = tile[(depth * 9).astype(int) % 1024, (across * 9 + 100).astype(int) % 1024]
    kind = rng.choice(["slabs", "asphalt", "pavers", "grass", "concrete"], p=[0.3, 0.25, 0.2, 0.1, 0.15])
    base = {
        "slabs": (0.60, 0.58, 0.54),
        "asphalt": (0.34, 0.34, 0.36),
        "pavers": (0.55, 0.42, 0.36),
        "grass": (0.33, 0.42, 0.22),
        "concrete": (0.64, 0.63, 0.60),
    }[str(kind)]
    colour = _tint(rng, base, 0.02)[None, None] * (1 + 0.05 * grain + 0.06 * stains)[..., None]
    if kind in ("slabs", "pavers"):
        size = rng.uniform(0.5, 0.9) if kind == "slabs" else rng.uniform(0.22, 0.3)
        joint, cell = _grid(across, depth, size, size if kind == "slabs" else size / 2, 0.025, kind == "pavers")
        fade = np.clip(1.6 - depth / 16, 0, 1)[..., None]  # joints thinner than a pixel must not flicker
        colour *= 1 + (_cell_shade(cell, 0.12)[..., None] - 1) * fade
        colour *= 1 - 0.3 * joint[..., None] * fade
    if kind in ("asphalt", "concrete") and rng.random() < 0.7:
        line = np.abs(depth - rng.uniform(9, 11) - 0.15 * across) < 0.09
        if rng.random() < 0.5:  # a zebra crossing
            line = (np.modf(np.abs(across + 40) / 0.9)[0] < 0.5) & (depth > 7) & (depth < 10)
        colour[line] = np.array([0.82, 0.82, 0.78]) * (1 + 0.05 * grain[line])[:, None]
    if kind == "grass":
        path = np.abs(across - 1.5 * np.sin(depth / 4)) < 2.2
        colour[path] = _tint(rng, (0.62, 0.56, 0.46), 0.02) * (1 + 0.07 * grain[path])[:, None]
    image[SKY_ROWS + 1 :] = colour


def _brick_wall(place: Place, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the colours of a brick wall at points x across and y up, metres; the other walls have the same call."""
    joint, cell = _grid(x, y, 0.42, 0.16, 0.02, True)
    base = _tint(place.rng, (0.50, 0.30, 0.24))
    return base * _cell_shade(cell, 0.3)[..., None] * (1 - 0.2 * joint[..., None])


def _panel_wall(place: Place, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the colours of a wall of large panels."""
    width, height = place.rng.uniform(1.0, 2.2), place.rng.uniform(0.8, 1.6)
    joint, cell = _grid(x, y, width, height, 0.025, False)
    base = _tint(place.rng, (0.62, 0.62, 0.60), 0.06)
    return base * _cell_shade(cell, 0.1)[..., None] * (1 - 0.35 * joint[..., None])


def _glass_wall(place: Place, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the colours of a glass front with reflections."""
    rng = place.rng
    width = rng.uniform(1.1, 1.8)
    joint, cell = _grid(x, y + 0.3, width, 2.4, 0.06, False)
    inside = np.array([0.22, 0.27, 0.30]) + 0.16 * smooth_noise(rng, x.shape, 4, 2)[..., None] * np.array(
        [0.8, 1.0, 1.1]
    )
    glass = np.clip(inside, 0.05, 0.9) * _cell_shade(cell, 0.5)[..., None]
    glass += 0.18 * (np.modf(np.abs(x + 0.7 * y) / 3.1)[0] < 0.25)[..., None]
    return np.where(joint[..., None], _tint(rng, (0.55, 0.56, 0.58)), glass)


def _hedge_wall(place: Place, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the colours of a hedge below the sky."""
    rng = place.rng
    leaves = 0.5 * smooth_noise(rng, x.shape, 40, 3) + 0.6 * smooth_noise(rng, x.shape, 8, 2)
    green = _tint(rng, (0.25, 0.36, 0.16), 0.03) * np.exp(0.35 * leaves)[..., None]
    top = rng.uniform(1.6, 2.6) + 0.10 * smooth_noise(rng, (64, x.shape[1]), 2, 3)[0]
    sky = _tint(rng, (0.72, 0.77, 0.82), 0.02) * (1 + 0.03 * smooth_noise(rng, x.shape, 5, 2))[..., None]
    return np.where((y < top[None])[..., None], green, sky)


def _plaster_wall(place: Place, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the colours of a plastered wall with windows."""
    rng = place.rng
    wall = _tint(rng, (0.76, 0.70, 0.60), 0.06) * (1 + 0.05 * smooth_noise(rng, x.shape, 6, 4))[..., None]
    pitch, sill = rng.uniform(2.2, 3.4), rng.uniform(0.9, 1.3)
    distance = np.abs(np.modf(np.abs(x + 50) / pitch)[0] - 0.5) * pitch
    window = (distance < 0.55) & (y > sill) & (y < sill + 1.4)
    frame = (distance < 0.63) & (y > sill - 0.08) & (y < sill + 1.48)
    wall[frame] = _tint(rng, (0.85, 0.85, 0.82), 0.02)
    wall[window] = (np.array([0.2, 0.24, 0.28]) * (1 + 0.3 * smooth_noise(rng, x.shape, 20, 2))[..., None])[window]
    wall[y < 0.45] *= 0.7
    return wall


WALLS: tuple[Callable[[Place, np.ndarray, np.ndarray], np.ndarray], ...] = (
    _brick_wall,
    _panel_wall,
    _glass_wall,
    _hedge_wall,
    _plaster_wall,
)


def _paint_wall(place: Place, style: int) -> None:
    """Paint a wall above its foot, and the shade where it meets the ground."""
    foot = int(place.row(0.0, place.wall))
    rows, columns = np.mgrid[0:foot, 0:COLUMNS]
    up = place.height - (rows - SKY_ROWS) * place.wall / FOCAL
    across = (columns - COLUMNS / 2) * place.wall / FOCAL
    place.image[:foot] = np.clip(WALLS[style % len(WALLS)](place, across, up), 0.02, 0.98)
    ledge = max(1, int(FOCAL * 0.12 / place.wall))
    place.image[foot : foot + 2 * ledge] *= np.linspace(0.55, 1, 2 * ledge)[:, None, None]  # shade at the wall's foot


def _car(place: Place, x: float, depth: float) -> None:
    """Paint a car, `x` metres to the right of the camera's axis; the other props have the same call."""
    rng = place.rng
    colour, glass = (
        _tint(rng, tuple(rng.choice([[0.6, 0.1, 0.1], [0.8, 0.8, 0.8], [0.15, 0.2, 0.35], [0.1] * 3]))),
        0.16,
    )
    place.box(x - 2.1, x + 2.1, 0.02, 0.25, depth, np.full(3, 0.08))
    place.box(x - 2.1, x + 2.1, 0.25, 0.85, depth, colour, 0.01)
    place.box(x - 1.3, x + 1.2, 0.85, 1.42, depth, colour, 0.01)
    for left, right in ((-1.15, -0.1), (0.0, 1.05)):
        place.box(x + left, x + right, 0.88, 1.34, depth, np.array([glass, glass + 0.03, glass + 0.05]))
    for wheel in (-1.35, 1.35):
        place.blob(x + wheel, 0.32, 0.34, depth, np.full(3, 0.07), 0.0)
        place.blob(x + wheel, 0.32, 0.19, depth, np.full(3, 0.5), 0.0)


def _tree(place: Place, x: float, depth: float) -> None:
    """Paint a tree."""
    rng = place.rng
    place.box(x - 0.13, x + 0.13, 0, 3.0, depth, _tint(rng, (0.30, 0.24, 0.18)), 0.15)
    green = _tint(rng, (0.26, 0.38, 0.16), 0.03)
    for _ in range(7):
        place.blob(x + rng.normal(0, 0.7), 3.0 + rng.normal(0, 0.5), rng.uniform(0.6, 1.0), depth, green, 1.5)


def _post(place: Place, x: float, depth: float) -> None:
    """Paint a post, perhaps with a sign."""
    colour = _tint(place.rng, (0.35, 0.37, 0.38), 0.08)
    place.box(x - 0.06, x + 0.06, 0, 4.5, depth, colour, 0.05)
    if place.rng.random() < 0.5:
        place.box(x - 0.35, x + 0.35, 1.9, 2.6, depth, _tint(place.rng, (0.3, 0.4, 0.6), 0.2), 0.02)


def _bin(place: Place, x: float, depth: float) -> None:
    """Paint a litter bin."""
    colour = _tint(place.rng, (0.25, 0.35, 0.28), 0.12)
    place.box(x - 0.3, x + 0.3, 0, 0.9, depth, colour)
    place.box(x - 0.34, x + 0.34, 0.9, 1.0, depth, colour * 0.6)


def _bench(place: Place, x: float, depth: float) -> None:
    """Paint a bench."""
    wood = _tint(place.rng, (0.45, 0.32, 0.20))
    for low, high in ((0.42, 0.48), (0.58, 0.68), (0.74, 0.84)):
        place.box(x - 0.9, x + 0.9, low, high, depth, wood, 0.08)
    for leg in (-0.75, 0.75):
        place.box(x + leg - 0.05, x + leg + 0.05, 0, 0.84, depth, np.full(3, 0.2))


def _poster(place: Place, x: float, depth: float) -> None:
    """Paint a poster on the wall."""
    rng, z = place.rng, place.wall
    width, height, low = rng.uniform(0.5, 1.4), rng.uniform(0.7, 1.6), rng.uniform(0.5, 1.3)
    place.box(x, x + width, low, low + height, z, _tint(rng, (0.5, 0.5, 0.5), 0.14), 0.02)
    for _ in range(4):
        a, b = np.sort(rng.uniform(0.08, 0.92, 2)), np.sort(rng.uniform(0.08, 0.92, 2))
        inner = _tint(rng, (0.5, 0.5, 0.5), 0.16)
        place.box(x + width * a[0], x + width * a[1], low + height * b[0], low + height * b[1], z, inner, 0.02)


def _door(place: Place, x: float, depth: float) -> None:
    """Paint a door in the wall."""
    colour = _tint(place.rng, (0.35, 0.30, 0.28), 0.12)
    place.box(x - 0.62, x + 0.62, 0, 2.25, place.wall, colour * 0.6)
    place.box(x - 0.52, x + 0.52, 0, 2.15, place.wall, colour, 0.04)
    place.box(x - 0.3, x + 0.3, 1.2, 1.9, place.wall, np.array([0.2, 0.24, 0.27]))


PROPS = (_car, _tree, _post, _bin, _bench, _poster, _door)


def paint_place(rng: np.random.Generator, style: int, height: float, wall: float) -> np.ndarray:
    """Paint the place that one camera sees.

    Args:
        rng: random generator of everything that the other arguments do not fix.
        style: number of the wall's kind, modulo the number of kinds.
        height: height of the camera above the ground, metres.
        wall: distance of the wall, metres.

    Returns:
        The view (SKY_ROWS + GROUND_ROWS, COLUMNS, 3), sRGB uint8.
    """
    place = Place(np.full((SKY_ROWS + GROUND_ROWS, COLUMNS, 3), 0.5), height, wall, rng)
    _paint_ground(place)
    _paint_wall(place, style)
    for depth in np.sort(rng.uniform(wall * 0.86, wall, 9))[::-1]:  # the farthest prop first
        prop = PROPS[rng.choice(len(PROPS), p=[0.13, 0.14, 0.16, 0.12, 0.1, 0.22, 0.13])]
        prop(place, rng.uniform(-0.95, 0.95) * place.span(depth), depth)
    light = 1 + 0.12 * smooth_noise(rng, place.image.shape[:2], 3, 2)
    return np.clip(place.image * light[..., None] * 255, 0, 255).astype(np.uint8)
