"""Render one crop: a dressed person before a camera's backdrop, with light, shadows, passers-by and obstacles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from gcl_fast.bodies import walking_pose
from gcl_fast.render import rasterize
from gcl_fast.render.camera import view_rotation
from gcl_fast.synthetic.backdrops import COLUMNS, FOCAL, SKY_ROWS, smooth_noise
from gcl_fast.synthetic.cameras import Camera, to_linear
from gcl_fast.synthetic.paint import Painter
from gcl_fast.synthetic.shapes import BAG, BODY, HAIR, SHOE, mesh_normals
from gcl_fast.synthetic.tailor import dress
from gcl_fast.synthetic.template import Figure, Template
from gcl_fast.synthetic.wardrobe import Look

LINEAR = to_linear(np.arange(256, dtype=np.float32) / 255)
FINE = 2  # images are rendered at this multiple of the crop's size, then averaged


@dataclass(frozen=True)
class Stance:
    """Holds how a person stands before the camera: one row of the body-parameter file, and the place in the scene."""

    pose: np.ndarray  # (57,) float32
    shape: np.ndarray  # (6,) float32
    yaw: float  # degrees
    camera: np.ndarray  # (4,) float32: scale, x, y, pitch
    depth: float  # metres from the camera
    across: float  # metres to the right of the camera's axis
    figure: Figure  # the posed body


class Studio:
    """Renders people with one template and one painter; a process needs one studio.

    Args:
        size: (H, W) of the crops.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self.fine = (size[0] * FINE, size[1] * FINE)
        self.template = Template()
        self.painter = Painter(self.template)

    def stance(self, rng: np.random.Generator, camera: Camera, look: Look) -> Stance:
        """Draw a natural stance of somebody who passes a camera, with the frame that a detector would give."""
        standing = rng.random() < 0.15
        pose = walking_pose(
            torch.tensor([rng.random()], dtype=torch.float32),
            stride=float(rng.uniform(0.0, 0.12) if standing else rng.uniform(0.55, 1.05)),
            arm_swing=float(rng.uniform(0.0, 0.2) if standing else rng.uniform(0.4, 1.2)),
            elbow=float(rng.uniform(6, 35)),
            spread=float(rng.uniform(5, 11)),
            lean=float(rng.uniform(-1, 5)),
            head_turn=float(np.clip(rng.normal(0, 15), -45, 45)),
        )[0].numpy()
        shape = np.array(look.shape, np.float32)
        figure = self.template.pose(pose, shape)
        depth = rng.uniform(camera.near, camera.far)
        pitch = np.degrees(np.arctan2(camera.height - figure.height / 2, depth))
        fill, x, y = rng.uniform(0.80, 0.94), rng.normal(0.5, 0.045), rng.normal(0.5, 0.015)
        framing = rng.random()
        if framing < 0.07:  # cut at the feet
            fill = fill * rng.uniform(1.15, 1.5)
            y = 0.05 + 0.5 * fill
        elif framing < 0.10:  # cut at the head
            fill = fill * rng.uniform(1.05, 1.2)
            y = 0.96 - 0.5 * fill
        yaw = camera.heading(rng)
        across = rng.uniform(-0.8, 0.8) * COLUMNS / 2 / FOCAL * depth
        return Stance(
            pose,
            shape,
            yaw,
            np.array([fill / figure.height, x, y, pitch], np.float32),
            float(depth),
            float(across),
            figure,
        )

    def backdrop(self, camera: Camera, stance: Stance) -> np.ndarray:
        """Return the part of the camera's view behind a person, linear light (h, w, 3) at the fine size."""
        scale, x, y, _ = stance.camera
        metre = FOCAL / stance.depth
        height = metre / scale
        width = height * self.size[1] / self.size[0]
        top = SKY_ROWS + metre * (camera.height - stance.figure.height / 2) - y * height
        left = COLUMNS / 2 + metre * stance.across - x * width
        rows, columns = camera.backdrop.shape[:2]
        top, left = np.clip(top, 0, rows - height), np.clip(left, 0, columns - width)
        view = Image.fromarray(camera.backdrop).resize(
            (self.fine[1], self.fine[0]), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height)
        )
        return LINEAR[np.asarray(view)]

    def photograph(
        self,
        camera: Camera,
        look: Look,
        stance: Stance,
        rng: np.random.Generator,
        others: tuple[tuple[Look, Stance, float], ...] = (),
        turn: float = 0.0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Render a person and others before the camera's backdrop.

        Args:
            camera: the camera.
            look: appearance of the person.
            stance: stance of the person, which also gives the crop's frame.
            rng: random generator of the folds of the clothes.
            others: other people: look, stance, and nearness, which is negative behind the person.
            turn: degrees by which the person turns; everything else stays.

        Returns:
            Linear light (h, w, 3) and the person's mask (h, w), both at the fine size.
        """
        image = self.backdrop(camera, stance)
        stance = replace(stance, yaw=stance.yaw + turn)
        for other, pose, nearness in others:
            if nearness < 0:
                self.add_person(image, camera, other, pose, rng)
        mask = self.add_person(image, camera, look, stance, rng)
        for other, pose, nearness in others:
            if nearness > 0:
                front = self.add_person(image, camera, other, pose, rng)
                mask = mask & ~front
        return image, mask

    def add_person(
        self, image: np.ndarray, camera: Camera, look: Look, stance: Stance, rng: np.random.Generator
    ) -> np.ndarray:
        """Draw one person with shadow into `image`, in place, and return the person's mask (h, w).

        Args:
            image: linear light (h, w, 3) at the fine size.
            camera: the camera.
            look: appearance of the person.
            stance: stance of the person, whose `camera` holds the place in `image`.
            rng: random generator of the folds of the clothes.
        """
        mesh = dress(stance.figure, look)
        person_height = stance.figure.height
        rotation = view_rotation(torch.tensor([stance.yaw]), torch.tensor([float(stance.camera[3])]))[0].numpy()
        level = view_rotation(torch.tensor([stance.yaw]), torch.zeros(1))[0].numpy() * np.array([[1], [-1], [-1]])
        tilt = rotation @ level.T  # world (right, up, towards the camera) to image (right, down, away)
        world = (mesh.vertices @ level.T).astype(np.float32)

        def to_image(points: np.ndarray, fine: int) -> torch.Tensor:
            """Project points (P, 3) of the world to (1, P, 3): column, row and depth in pixels."""
            height, width = self.size[0] * fine, self.size[1] * fine
            scale, x, y, _ = stance.camera
            middle = np.array([0, person_height / 2, 0], np.float32)
            origin = np.array([x * width, y * height, 0], np.float32)
            pixels = (points - middle) @ (tilt.T * (scale * height)).astype(np.float32) + origin
            return torch.from_numpy(pixels)[None]

        faces = torch.from_numpy(mesh.faces)
        self._ground_shadow(image, camera, world, faces, to_image)
        fragments = rasterize(to_image(world, FINE), faces, self.fine)
        index = fragments.face_index[0].numpy()
        mask = index >= 0
        face, weight = index[mask], fragments.barycentric[0].numpy()[mask]
        corners = mesh.faces[face]
        mix = lambda values: np.einsum("pkc,pk->pc", values.take(corners, axis=0), weight)
        cloth, material = mix(mesh.cloth), mesh.material[face]
        normal = mix(mesh_normals(world, mesh.faces))
        away = tilt[2]  # direction away from the camera, in the world
        normal = np.where((normal @ away > 0.0)[:, None] & (material != BODY)[:, None], -normal, normal)
        normal += self._folds(cloth, material, rng)
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
        albedo = to_linear(self.painter.paint(look, material, cloth))
        sunlight = self._sunlight(camera, world, faces, mix(world))
        direct = np.maximum(normal @ camera.sun, 0)[:, None] * sunlight[:, None] * camera.sun_colour
        ambient = (0.62 + 0.38 * normal[:, 1:2]) * camera.sky_colour
        shine = np.isin(material, (HAIR, SHOE, BAG))[:, None] * 0.05 * np.maximum(normal @ camera.sun, 0)[:, None] ** 12
        image[mask] = albedo * (direct + ambient) + shine
        self._ambient_occlusion(image, mask, fragments.depth[0].numpy() / (stance.camera[0] * self.fine[0]))
        return mask

    def _ground_shadow(
        self,
        image: np.ndarray,
        camera: Camera,
        world: np.ndarray,
        faces: torch.Tensor,
        to_image: Callable[..., torch.Tensor],
    ) -> None:
        """Darken the ground where the person hides the sun, and softly around the feet."""
        shadow = world - np.outer(world[:, 1], (camera.sun / camera.sun[1]).astype(np.float32))
        footprint = world * np.array([1, 0, 1], np.float32)
        hidden = rasterize(to_image(shadow, 1), faces, self.size).face_index[0].numpy() >= 0
        column, row = to_image(footprint, 1)[0, :, :2].long().numpy().T
        inside = (column >= 0) & (column < self.size[1]) & (row >= 0) & (row < self.size[0])
        near = np.bincount(row[inside] * self.size[1] + column[inside], minlength=hidden.size).reshape(self.size) > 0
        soft = 0.8 + 2.5 * camera.softness
        shade = (1 - 0.55 * (1 - camera.softness) * gaussian_filter(hidden.astype(np.float32), soft)) * (
            1 - 0.5 * gaussian_filter(near.astype(np.float32), (1.5, 2.5))
        )
        image *= np.asarray(
            Image.fromarray(shade.astype(np.float32)).resize(image.shape[1::-1], Image.Resampling.BILINEAR)
        )[..., None]

    def _sunlight(self, camera: Camera, world: np.ndarray, faces: torch.Tensor, points: np.ndarray) -> np.ndarray:
        """Return the sunlight (P,) at points (P, 3): 1, or less in the shadow of another part of the body."""
        side = np.cross([0, 1, 0], camera.sun)
        side /= np.linalg.norm(side)
        frame = np.stack((side, -np.cross(camera.sun, side), -camera.sun))  # right, down and away, seen from the sun
        size, metre = 128, 52.0
        place = lambda values: values @ frame.T * metre + [size / 2, size / 2 + 0.8 * metre, 0]
        fragments = rasterize(torch.from_numpy(place(world).astype(np.float32))[None], faces, (size, size))
        depth = np.where(fragments.face_index[0].numpy() >= 0, fragments.depth[0].numpy(), 1e6)
        position = place(points)
        column, row = (np.clip(position[:, axis].astype(int), 0, size - 1) for axis in (0, 1))
        shadow = (position[:, 2] > depth[row, column] + 0.05 * metre).astype(np.float32)
        return 1 - 0.8 * shadow

    def _folds(self, cloth: np.ndarray, material: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw tilts (P, 3) of the normals, as in creased cloth; the head stays smooth."""
        place = cloth[:, :3]
        waves = (rng.normal(0, 1, (3, 5)) * np.array([[28], [22], [28]])).astype(np.float32)
        start = rng.uniform(0, 2 * np.pi, 5).astype(np.float32)
        tilt = np.cos(place @ waves + start) @ (waves / np.linalg.norm(waves, axis=0)).T
        rough = np.where(material == BODY, np.where(cloth[:, 1] > 1.42, 0.0, 0.13), 0.08)
        return tilt * rough[:, None]

    def _ambient_occlusion(self, image: np.ndarray, mask: np.ndarray, depth: np.ndarray) -> None:
        """Darken pixels that are behind their surroundings on the person (armpits, between the legs)."""
        weight = gaussian_filter(mask.astype(np.float32), 4)
        mean_depth = gaussian_filter(np.where(mask, depth, 0).astype(np.float32), 4) / np.maximum(weight, 1e-3)
        occlusion = np.clip((depth - mean_depth)[mask] / 0.10, 0, 1)
        image[mask] *= (1 - 0.45 * occlusion)[:, None]


def add_obstacle(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a post, a hedge, a low wall or a sign before the person, in place.

    Args:
        image: (h, w, 3) linear light.
        rng: random generator of kind, place and colour.

    Returns:
        Mask (h, w) of the pixels that the obstacle hides.
    """
    height, width = image.shape[:2]
    hidden = np.zeros((height, width), bool)
    colour = to_linear(np.clip(rng.uniform(0.15, 0.70) + rng.normal(0, 0.03, 3), 0.03, 0.95))
    kind = rng.choice(["post", "hedge", "wall", "sign"])
    if kind == "post":
        middle, half = (
            rng.choice([rng.uniform(0.02, 0.28), rng.uniform(0.72, 0.98)]) * width,
            rng.uniform(0.03, 0.07) * width,
        )
        offset = (np.arange(width) - middle) / half
        hidden[:, np.abs(offset) < 1] = True
        texture = (0.35 + 0.75 * np.sqrt(np.clip(1 - (0.4 + offset) ** 2 * 0.5, 0, 1)))[None] * np.ones((height, 1))
    elif kind == "hedge":
        top = height * (rng.uniform(0.72, 0.86) + 0.02 * smooth_noise(rng, (2, width), 14, 2)[0])
        hidden = np.arange(height)[:, None] > top
        colour = to_linear(np.array([0.21, 0.29, 0.14]) * rng.uniform(0.8, 1.2))
        texture = np.exp(0.6 * smooth_noise(rng, (height, width), 30, 3))
    elif kind == "wall":
        hidden[int(height * rng.uniform(0.74, 0.88)) :] = True
        texture = 1 + 0.08 * smooth_noise(rng, (height, width), 40, 3)
    else:
        left = rng.choice([rng.uniform(-0.1, 0.1), rng.uniform(0.75, 0.95)])
        low = rng.uniform(0.3, 0.6)
        hidden[
            int(low * height) : int((low + 0.25) * height), max(0, int(left * width)) : int((left + 0.2) * width)
        ] = True
        texture = 1 + 0.04 * smooth_noise(rng, (height, width), 40, 2)
    image[hidden] = (colour * texture[..., None])[hidden]
    return hidden
