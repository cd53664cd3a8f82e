"""Colour each pixel of a person by its material and its place on the template."""

from __future__ import annotations

import numpy as np

from gcl_fast.synthetic.shapes import BAG, BODY, COAT, HAIR, HEADWEAR, SHOE, SKIRT
from gcl_fast.synthetic.tailor import SEAM, SLEEVE_END, TROUSERS_END, WAIST
from gcl_fast.synthetic.template import Template, hairline
from gcl_fast.synthetic.wardrobe import Garment, Look

ARM_METRES = 0.27  # length of half an arm, which converts cloth coordinates along it to metres

ALL_OVER = ("stripes", "checks", "vertical", "dots")  # patterns that a skirt can have


def _wave(value: np.ndarray, period: float) -> np.ndarray:
    """Return True on every second half period."""
    return np.modf(np.abs(value / period + 100))[0] < 0.5


def pattern_mask(garment: Garment, x: np.ndarray, y: np.ndarray, front: np.ndarray, arm: np.ndarray) -> np.ndarray:
    """Return the mask of a garment's accent colour.

    Args:
        garment: gives pattern and period.
        x: (P,) metres across the body.
        y: (P,) metres up.
        front: (P,) metres towards the front.
        arm: (P,) True on sleeves.
    """
    period = garment.period
    if garment.pattern == "stripes":
        return _wave(y, period)
    if garment.pattern == "vertical":
        return _wave(x, 0.8 * period) & ~arm
    if garment.pattern == "checks":
        return _wave(y, period) ^ _wave(x, period)
    if garment.pattern == "dots":
        return np.hypot(np.modf(x / period + 100)[0] - 0.5, np.modf(y / period + 100)[0] - 0.5) < 0.3
    if garment.pattern == "two-tone":
        return (y < 1.14) & ~arm
    if garment.pattern == "band":
        return (np.abs(y - 1.20) < 0.055) & ~arm
    if garment.pattern == "raglan":
        return arm
    if garment.pattern == "logo":
        if period < 0.09:
            return (np.abs(x) < 0.10) & (np.abs(y - 1.20) < 0.055) & ~arm
        if period < 0.11:
            return (np.hypot(x, y - 1.20) < 0.085) & ~arm
        return (np.abs(x) + np.abs(y - 1.18) < 0.12) & (front > 0) & ~arm
    return np.zeros(len(x), bool)


class Painter:
    """Colours the pixels of dressed bodies of one template."""

    def __init__(self, template: Template) -> None:
        self.low, self.high, self.middle = template.head_low, template.head_high, template.middle
        self.neck, self.hip, self.ankle = (template.joint(name) for name in ("neck", "left_hip", "left_ankle"))

    def paint(self, look: Look, material: np.ndarray, cloth: np.ndarray) -> np.ndarray:
        """Return the colours of pixels.

        Args:
            look: appearance of the person.
            material: (P,) materials, see shapes.py.
            cloth: (P, 6) cloth coordinates, see `shapes.Mesh`.

        Returns:
            sRGB (P, 3) in 0..1.
        """
        colour = np.empty((len(cloth), 3))
        body = material == BODY
        colour[body] = self._body(look, cloth[body])
        shoe = material == SHOE
        colour[shoe] = np.where(cloth[shoe, 1:2] < 0.022, look.shoes.accent, look.shoes.colour)
        garment = look.upper if look.dress else look.lower
        skirt = material == SKIRT
        x, y, z = cloth[skirt, :3].T
        mask = pattern_mask(garment, x, y, z - self.middle, np.zeros(len(x), bool))
        colour[skirt] = _share(garment, mask & (garment.pattern in ALL_OVER))
        coat = material == COAT
        x, y, z = cloth[coat, :3].T
        colour[coat] = self._upper(look, x, y, z, np.zeros(len(x), bool))
        hair = material == HAIR
        strands = 1 + 0.22 * np.sin(190 * cloth[hair, 0] + 40 * cloth[hair, 2])
        colour[hair] = strands[:, None] * look.hair_colour
        colour[material == HEADWEAR] = look.headwear
        bag = material == BAG
        colour[bag] = _share(look.bag, _bag_trim(cloth[bag, 1]))
        return colour

    def _body(self, look: Look, cloth: np.ndarray) -> np.ndarray:
        """Return the colours of the body's mesh: skin, socks, trousers, shoes and the upper garment."""
        x, y, z, arm, leg, arm_share = cloth.T
        on_arm = arm_share > 0.5
        colour = self._skin(look, cloth)
        # Legs: socks, trousers, and shoes, of which boots reach up the shin.
        colour[(leg > 1.78) & (y < 0.16)] = look.socks
        boots = look.shoes.kind == "boots"
        end = TROUSERS_END.get(look.lower.kind, -2.0)
        trousers = ~on_arm & (y < 1.0) & (leg < end)
        stripe = np.zeros(len(x), bool)
        if look.lower.pattern == "checks":
            stripe = pattern_mask(look.lower, x, y, z, on_arm)
        elif look.lower.pattern == "side stripe":
            share = np.clip((self.hip[1] - y) / (self.hip[1] - self.ankle[1]), 0, 1)
            axis = self.hip + share[:, None] * (self.ankle - self.hip)
            stripe = (np.abs(x) > axis[:, 0] + 0.03) & (np.abs(z - axis[:, 2]) < 0.018)
        lower = look.upper if look.dress else look.lower
        colour[trousers] = _share(lower, stripe & (not look.dress))[trousers]
        colour[(y < (0.24 if boots else 0.085)) & (leg > 1.2) & (~trousers | (not boots))] = look.shoes.colour
        # Upper body: the garment, bounded by waist, collar and the ends of its sleeves.
        kind = look.upper.kind
        sleeve = on_arm & (arm > SEAM)
        collar = np.linalg.norm(np.stack((x, y - self.neck[1] - 0.045, z - self.neck[2] - 0.035), -1), axis=1)
        high_collar = kind in ("hoodie", "coat")
        outside = collar > (0.055 if high_collar else 0.105 if kind == "sleeveless" else 0.085)
        trunk = (y > WAIST) & (y < self.neck[1] + (0.06 if high_collar else 0.03)) & outside
        upper = np.where(sleeve, arm < SLEEVE_END[kind], trunk)
        along = np.where(sleeve, 1.4 - arm * ARM_METRES, y)
        colour[upper] = self._upper(look, x[upper], along[upper], z[upper], sleeve[upper])
        self._straps(look, colour, cloth)
        return colour

    def _upper(self, look: Look, x: np.ndarray, y: np.ndarray, z: np.ndarray, sleeve: np.ndarray) -> np.ndarray:
        """Return the colours of the upper garment; y is the height, and on sleeves a length that continues it."""
        kind, front = look.upper.kind, (z > self.middle) & ~sleeve
        if kind == "open jacket":
            colour = np.tile(np.array(look.upper.colour), (len(x), 1))
            opening = front & (np.abs(x) < 0.035 + 0.06 * np.clip(1.35 - y, 0, 0.6))
            colour[opening] = look.upper.accent
            colour[opening & (y < 0.84)] = look.lower.colour
            return colour
        colour = _share(look.upper, pattern_mask(look.upper, x, y, z - self.middle, sleeve))
        if kind in ("coat", "hoodie"):
            colour[front & (np.abs(x) < 0.008)] *= 0.6
        return colour

    def _straps(self, look: Look, colour: np.ndarray, cloth: np.ndarray) -> None:
        """Paint the straps of a bag onto the trunk, in place."""
        x, y, z, _, _, arm_share = cloth.T
        trunk = (arm_share < 0.5) & (y < self.neck[1] + 0.06) & (y > 0.85)
        if look.bag.kind == "backpack":
            strap = trunk & (np.abs(np.abs(x) - 0.105) < 0.024) & (z > self.middle - 0.05) & (y > 1.12)
        elif look.bag.kind == "shoulder bag":
            run = (self.neck[1] - 0.02 - y) / 0.5
            strap = trunk & (np.abs(x - 0.09 + run * 0.25) < 0.024)
        elif look.bag.kind == "tote":
            strap = trunk & (np.abs(x - 0.135) < 0.02) & (y > 1.0)
        else:
            return
        colour[strap] = look.bag.accent if look.bag.kind != "backpack" else look.bag.colour

    def _skin(self, look: Look, cloth: np.ndarray) -> np.ndarray:
        """Return the colours of the skin, with a face, and of the hair that lies on the scalp."""
        place = cloth[:, :3]
        colour = np.tile(np.array(look.skin), (len(place), 1))
        across = place[:, 0] / (self.high - self.low)[0]
        _, up, front = ((place - self.low) / (self.high - self.low)).T
        head = (up > -0.15) & (cloth[:, 5] < 0.5)
        face = head & (front > 0.55)
        eyes = face & (np.hypot((np.abs(across) - 0.20) / 0.085, (up - 0.50) / 0.035) < 1)
        brows = face & (np.abs(np.abs(across) - 0.21) < 0.12) & (np.abs(up - 0.585) < 0.016)
        lips = face & (np.abs(across) < 0.15) & (np.abs(up - 0.235) < 0.022)
        colour[lips] *= (0.85, 0.6, 0.6)
        if look.beard:
            jaw = head & (up < 0.33) & (up > -0.02) & (front > 0.42)
            colour[jaw & ~lips] = 0.35 * colour[jaw & ~lips] + 0.65 * np.array(look.hair_colour)
        colour[brows] = 0.7 * np.array(look.hair_colour)
        colour[eyes] = (0.10, 0.08, 0.08)
        if look.glasses:
            rim = np.hypot((np.abs(across) - 0.21) / 0.15, (up - 0.50) / 0.075)
            colour[face & ((np.abs(rim - 1) < 0.28) | (np.abs(across) < 0.07) & (np.abs(up - 0.52) < 0.02))] = 0.06
        field = hairline(place, self.low, self.high)
        if look.hair in ("cap", "beanie", "hat"):
            colour[head & (field > -0.14) & (front < 0.45)] = look.hair_colour
            colour[head & (field > -0.02)] = look.headwear
        elif look.hair != "bald":
            scalp = head & (field > 0)
            strands = 1 + 0.22 * np.sin(190 * place[scalp, 0] + 40 * place[scalp, 2]) * np.sin(60 * place[scalp, 1])
            cover = 0.7 if look.hair == "crop" else 1.0  # skin is visible through cropped hair
            colour[scalp] = (1 - cover) * np.array(look.skin) + cover * strands[:, None] * look.hair_colour
        return colour


def _share(garment: Garment, mask: np.ndarray) -> np.ndarray:
    """Return the accent colour where `mask` is True and the main colour elsewhere."""
    return np.where(mask[:, None], garment.accent, garment.colour)


def _bag_trim(y: np.ndarray) -> np.ndarray:
    """Return the accent mask of bags by their cloth's height: a band below the rim, pockets (y about 1), straps (2)."""
    return (np.abs(y - 0.07) < 0.018) | (y > 1.5) | ((y > 0.6) & (np.abs(y - 1.0) > 0.085))
