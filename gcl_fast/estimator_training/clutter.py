"""Randomize cut-outs: other backgrounds, groups, occluders, framing and photography."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg

from gcl_fast.bodies import posture
from gcl_fast.bodies.body_regressor import SIZE
from gcl_fast.data.augment import IMAGENET_MEAN, IMAGENET_STD
from gcl_fast.synthetic.cutouts import Cutouts

NOBODY, OWN_PLACE, COMPANY, OCCLUDED, JPEG = 0.03, 0.3, 0.4, 0.35, 0.5  # shares of the crops
OCCLUDERS = 2  # largest number in a crop
# Heads are tinted from dark hair to fair skin, so that a bald or fair head from behind is not taken for a face.
TINTED, HEAD_ROWS = 0.3, (0.04, 0.185)  # share of the crops; where the head of a cut-out is, as fractions of its height
DARK_HAIR, FAIR_SKIN = torch.tensor([0.08, 0.06, 0.05]), torch.tensor([0.88, 0.70, 0.58])


class Batch(NamedTuple):
    """Holds a training batch of crops."""

    image: Tensor  # (B, 3, H, W), ImageNet-normalized
    yaw: Tensor  # (B,) degrees
    vector: Tensor  # (B, WIDTH)
    somebody: Tensor  # (B,) bool, whether a person is in the crop


class Clutter:
    """Draws training batches from cut-outs; the seed decides every change."""

    def __init__(self, cutouts: Cutouts, seed: int) -> None:
        self.cutouts, self.backdrops = torch.from_numpy(cutouts.pictures), torch.from_numpy(cutouts.backdrops)
        self.vector, self.yaw = torch.from_numpy(cutouts.vector), torch.from_numpy(cutouts.yaw)
        self.size = (self.cutouts.shape[1], self.cutouts.shape[2])
        self.random = torch.Generator().manual_seed(seed)

    def batch(self, count: int) -> Batch:
        """Draw `count` crops with what the estimator should predict for them; half of them are mirrored."""
        rows = self._integers(len(self.cutouts), count)
        zoom, stretch, shift = self._framing(count)
        somebody = self._uniform(count) >= NOBODY
        image = self._background(count)
        image = self._company(image, zoom, shift, behind=True)
        in_place = (self._uniform(count) < OWN_PLACE) & somebody
        image = self._paste(image, rows, zoom, stretch, shift, somebody, in_place)
        image = self._company(image, zoom, shift, behind=False)
        image = self._photograph(self._occlude(image))
        vector = self._framed(self.vector[rows], zoom, shift)
        mirrored = self._uniform(count) < 0.5
        image = torch.where(mirrored[:, None, None, None], image.flip(3), image)
        vector = torch.where(mirrored[:, None], posture.mirror(vector), vector)
        image = (image - _channels(IMAGENET_MEAN)) / _channels(IMAGENET_STD)
        yaw = torch.where(mirrored, -self.yaw[rows], self.yaw[rows])
        return Batch(image.contiguous(memory_format=torch.channels_last), yaw, vector, somebody)

    def _framing(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw zoom (B,), stretch of the width (B,), and shift (B, 2) right and down as fractions of the crop."""
        zoom = (0.07 * self._normal(count)).exp()
        shift = torch.stack((0.06 * self._normal(count), 0.025 * self._normal(count)), 1)
        cut, size = self._uniform(count), self._uniform(count, 1.1, 1.9)
        feet, head, tight = cut < 0.15, (cut >= 0.15) & (cut < 0.19), (cut >= 0.19) & (cut < 0.27)
        zoom = torch.where(feet, size, torch.where(head | tight, size.clamp(max=1.4), zoom))
        down = torch.where(feet, 0.45 * (zoom - 1), torch.where(head, -0.45 * (zoom - 1), 0.0))
        return zoom, (0.08 * self._normal(count)).exp(), shift + torch.stack((torch.zeros(count), down), 1)

    def _framed(self, vector: Tensor, zoom: Tensor, shift: Tensor) -> Tensor:
        """Return the vectors for the changed frame of the crop."""
        change = torch.stack((zoom.log(), shift[:, 0], shift[:, 1]), 1)
        vector = vector.clone()
        vector[:, posture.CAMERA][:, :3] += change / vector.new_tensor(posture.CAMERA_SCALE[:3])
        return vector

    def _background(self, count: int) -> Tensor:
        """Draw scenes (B, 3, H, W) in [0, 1], some of them nearer, some of them two next to each other."""
        zoom = self._uniform(count, 0.5, 1.0)
        grid = self._grid(1 / zoom, torch.ones(count), self._uniform(2 * count, -0.3, 0.3).view(count, 2), 0.0)
        scene = F.grid_sample(self._backdrops(count), grid, padding_mode="reflection", align_corners=False)
        edge = self._uniform(count, -0.5, 1.5)[:, None, None, None]
        upright = (self._uniform(count) < 0.5)[:, None, None, None]
        rows = torch.linspace(0, 1, SIZE[0])[:, None].expand(SIZE)
        columns = torch.linspace(0, 1, SIZE[1]).expand(SIZE)
        return torch.where(torch.where(upright, columns, rows) < edge, scene, scene.roll(1, 0))

    def _company(self, image: Tensor, zoom: Tensor, shift: Tensor, behind: bool) -> Tensor:
        """Paste other people, next to or behind the person, or before it from a side."""
        who = torch.nonzero(self._uniform(len(image)) < COMPANY / 2)[:, 0]
        count = len(who)
        if not count:
            return image
        aside = self._uniform(count, 0.3 if behind else 0.5, 0.95) * self._sign(count)
        nearness = self._uniform(count, 0.6, 1.0) if behind else self._uniform(count, 0.95, 1.25)
        place = shift[who] + torch.stack((aside, 0.05 * self._normal(count)), 1)
        others, present = self._integers(len(self.cutouts), count), torch.ones(count, dtype=torch.bool)
        image[who] = self._paste(image[who], others, zoom[who] * nearness, torch.ones(count), place, present, ~present)
        return image

    def _paste(
        self, image: Tensor, rows: Tensor, zoom: Tensor, stretch: Tensor, shift: Tensor, present: Tensor, scene: Tensor
    ) -> Tensor:
        """Paste the cut-outs `rows` where `present`, with the scene around them where `scene`."""
        cut = self._tinted(self.cutouts[rows].permute(0, 3, 1, 2).float() / 255)
        grid = self._grid(zoom, stretch, shift, 0.025, self.size)
        cut = F.grid_sample(cut, grid, padding_mode="border", align_corners=False)
        colour = self._recoloured(cut[:, :3], scene)
        share = torch.where(scene[:, None, None, None], 1.0, cut[:, 3:]) * present[:, None, None, None]
        return image + share * (colour - image)

    def _tinted(self, cut: Tensor) -> Tensor:
        """Tint the heads of some cut-outs (B, 4, h, w)."""
        count, (top, bottom) = len(cut), HEAD_ROWS
        rows = (torch.arange(cut.shape[2]) + 0.5) / cut.shape[2]
        head = ((rows - top) * 100).sigmoid() * ((bottom - rows) * 100).sigmoid()
        share = (self._uniform(count) < TINTED) * self._uniform(count, 0.3, 0.9)
        share = share[:, None, None, None] * head[:, None] * cut[:, 3:]
        tint = torch.lerp(DARK_HAIR, FAIR_SKIN, self._uniform(count)[:, None]) + 0.05 * self._normal(3 * count).view(
            -1, 3
        )
        return torch.cat((cut[:, :3] + share * (tint[:, :, None, None] - cut[:, :3]), cut[:, 3:]), 1)

    def _recoloured(self, colour: Tensor, scene: Tensor) -> Tensor:
        """Change clothes and light of half of the crops without a scene, by mixed and scaled channels."""
        count = len(colour)
        mix = torch.eye(3) + 0.25 * self._normal(9 * count).view(count, 3, 3)
        mix = mix / mix.sum(2, keepdim=True).clamp_min(0.3)
        recoloured = (
            torch.einsum("bij,bjhw->bihw", mix, colour) * (0.3 * self._normal(count)).exp()[:, None, None, None]
        )
        keep = scene | (self._uniform(count) < 0.5)
        return torch.where(keep[:, None, None, None], colour, recoloured.clamp(0, 1))

    def _grid(
        self, zoom: Tensor, stretch: Tensor, shift: Tensor, wobble: float, source: tuple[int, int] = SIZE
    ) -> Tensor:
        """Return where each pixel of the crop is read in a source image of the same height, (B, H, W, 2) in [-1, 1].

        Args:
            zoom: (B,) of `_framing`.
            stretch: (B,) of `_framing`.
            shift: (B, 2) of `_framing`.
            wobble: strength of a smooth random displacement and of a roll, as real bodies and clothes are not Anny's.
            source: height and width of the source image in pixels.
        """
        count = len(zoom)
        wide = SIZE[1] / source[1]
        affine = torch.zeros(count, 2, 3)
        roll = 1.5 * wobble * self._normal(count)
        affine[:, 0, 0], affine[:, 1, 1] = wide / (zoom * stretch), 1 / zoom
        affine[:, 0, 1], affine[:, 1, 0] = roll * SIZE[0] / source[1] / zoom, -roll * SIZE[1] / SIZE[0] / zoom
        affine[:, 0, 2] = -2 * shift[:, 0] * wide / (zoom * stretch)
        affine[:, 1, 2] = -2 * shift[:, 1] / zoom
        grid = F.affine_grid(affine, [count, 1, *SIZE], align_corners=False)
        if wobble:
            bend = self._normal(count * 2 * 6 * 4).view(count, 2, 6, 4) * wobble
            grid = grid + F.interpolate(bend, SIZE, mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
        return grid

    def _occlude(self, image: Tensor) -> Tensor:
        """Draw boxes, posts and low walls before the person, in plain colours or those of other scenes."""
        count = len(image)
        rows = ((torch.arange(SIZE[0]) + 0.5) / SIZE[0])[:, None]
        columns = (torch.arange(SIZE[1]) + 0.5) / SIZE[1]
        for _ in range(OCCLUDERS):
            x, y = self._uniform(count), self._uniform(count, 0.2, 1.1)
            wide, high = self._uniform(count, 0.03, 0.3), self._uniform(count, 0.03, 0.3)
            post, wall = self._uniform(count) < 0.2, self._uniform(count) < 0.15
            wide, high = torch.where(wall, 2.0, wide), torch.where(post, 2.0, high)
            wide, y = torch.where(post, 0.3 * wide, wide), torch.where(wall, 0.85 + high, y)
            across = (columns - x[:, None, None]) / wide[:, None, None]
            down = (rows - y[:, None, None]) / high[:, None, None]
            power = torch.where(self._uniform(count) < 0.4, 2.0, 12.0)[:, None, None]  # ellipses and boxes
            mask = (across.abs() ** power + down.abs() ** power < 1) & (self._uniform(count) < OCCLUDED / OCCLUDERS)[
                :, None, None
            ]
            plain = self._uniform(3 * count).view(count, 3, 1, 1)
            share = (self._uniform(count) < 0.5)[:, None, None, None] * 0.7
            thing = self._backdrops(count)[..., : SIZE[1]] * (1 - share) + share * plain
            image = torch.where(mask[:, None], thing, image)
        return image

    def _photograph(self, image: Tensor) -> Tensor:
        """Apply the light, colour, resolution, grain and compression of some camera."""
        count = len(image)
        factor = lambda spread: (spread * self._normal(count)).exp()[:, None, None, None]
        image = image * factor(0.25) * (0.1 * self._normal(3 * count)).exp().view(count, 3, 1, 1)
        image = image.clamp(1e-4, 1) ** factor(0.25)
        luma = (image * _channels((0.299, 0.587, 0.114))).sum(1, keepdim=True)
        saturation = self._uniform(count, 0.1, 1.6).clamp(max=1.1)[:, None, None, None]
        image = luma + saturation * (image - luma)
        middle = image.mean((1, 2, 3), keepdim=True)
        image = middle + factor(0.2) * (image - middle)
        parts = list(image.chunk(4))  # each quarter of the batch at its own resolution
        for i, part in enumerate(parts[1:], start=1):
            low = [max(8, round(side * float(self._uniform(1, 0.3, 0.9)))) for side in SIZE]
            small = F.interpolate(part, low, mode="bilinear", antialias=True, align_corners=False)
            parts[i] = F.interpolate(small, SIZE, mode="bilinear", align_corners=False)
        image = torch.cat(parts)
        image = image + (0.05 * self._uniform(count) ** 2)[:, None, None, None] * self._normal(image.numel()).view_as(
            image
        )
        image = image.clamp(0, 1)
        rows = torch.arange(int(count * JPEG)) * 2 % count
        image[rows] = self._jpeg(image[rows])
        return image

    def _jpeg(self, image: Tensor) -> Tensor:
        """Compress images as JPEG at random qualities, and decode them."""
        files = [encode_jpeg(pixels, int(self._uniform(1, 25, 95))) for pixels in (255 * image).to(torch.uint8)]
        return torch.stack([decode_jpeg(file, ImageReadMode.RGB) for file in files]).float() / 255

    def _backdrops(self, count: int) -> Tensor:
        """Draw backdrops (B, 3, h, w) in [0, 1], half of them mirrored."""
        scenes = self.backdrops[self._integers(len(self.backdrops), count)].permute(0, 3, 1, 2).float() / 255
        return torch.where((self._uniform(count) < 0.5)[:, None, None, None], scenes.flip(3), scenes)

    def _uniform(self, count: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=self.random)

    def _normal(self, count: int) -> Tensor:
        return torch.randn(count, generator=self.random)

    def _integers(self, below: int, count: int) -> Tensor:
        return torch.randint(below, (count,), generator=self.random)

    def _sign(self, count: int) -> Tensor:
        return torch.where(self._uniform(count) < 0.5, -1.0, 1.0)


def _channels(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values)[:, None, None]
