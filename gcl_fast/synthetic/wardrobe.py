"""Draw the looks of people: body, skin, hair, clothes, shoes and bags of each identity, in groups of look-alikes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

Colour = tuple[float, float, float]  # sRGB, 0..1

NEUTRALS: dict[str, Colour] = {
    "black": (0.07, 0.07, 0.08),
    "charcoal": (0.20, 0.20, 0.22),
    "grey": (0.47, 0.47, 0.49),
    "silver": (0.70, 0.71, 0.73),
    "white": (0.92, 0.92, 0.90),
    "navy": (0.10, 0.13, 0.28),
    "denim": (0.24, 0.34, 0.52),
    "khaki": (0.60, 0.53, 0.39),
    "brown": (0.36, 0.24, 0.16),
    "olive": (0.33, 0.35, 0.21),
}
BRIGHTS: dict[str, Colour] = {
    "beige": (0.82, 0.73, 0.58),
    "bleached denim": (0.52, 0.64, 0.78),
    "red": (0.76, 0.12, 0.13),
    "maroon": (0.43, 0.08, 0.14),
    "orange": (0.92, 0.47, 0.12),
    "yellow": (0.93, 0.80, 0.22),
    "green": (0.13, 0.48, 0.25),
    "lime": (0.60, 0.76, 0.22),
    "teal": (0.06, 0.46, 0.48),
    "sky": (0.45, 0.71, 0.92),
    "blue": (0.12, 0.28, 0.72),
    "purple": (0.40, 0.20, 0.54),
    "lilac": (0.70, 0.60, 0.84),
    "pink": (0.94, 0.56, 0.67),
    "magenta": (0.80, 0.13, 0.45),
}
SKINS: tuple[Colour, ...] = (
    (0.95, 0.78, 0.68),
    (0.90, 0.70, 0.57),
    (0.80, 0.60, 0.46),
    (0.66, 0.46, 0.33),
    (0.47, 0.31, 0.22),
    (0.33, 0.21, 0.16),
)
HAIR_COLOURS: tuple[Colour, ...] = (
    (0.07, 0.06, 0.06),
    (0.16, 0.10, 0.07),
    (0.32, 0.19, 0.11),
    (0.52, 0.24, 0.12),
    (0.78, 0.62, 0.36),
    (0.52, 0.51, 0.50),
)
HAIR_STYLES = ("short", "crop", "bald", "afro", "bob", "long", "ponytail", "bun", "cap", "beanie", "hat")
UPPER_KINDS = ("t-shirt", "long sleeve", "sleeveless", "open jacket", "hoodie", "coat")
PATTERNS = ("plain", "stripes", "checks", "two-tone", "logo", "raglan", "band", "dots", "vertical")
LOWER_KINDS = ("trousers", "slim trousers", "wide trousers", "shorts", "short skirt", "skirt", "long skirt")
BAG_KINDS = ("none", "backpack", "shoulder bag", "handbag", "tote")
SHOE_KINDS = ("sneakers", "boots", "flats")


@dataclass(frozen=True)
class Garment:
    """Holds one piece of clothing: `kind` is its cut, and `pattern` divides its surface into `colour` and `accent`."""

    kind: str
    colour: Colour
    accent: Colour
    pattern: str = "plain"
    period: float = 0.08  # metres between two repeats of the pattern


@dataclass(frozen=True)
class Look:
    """Holds the appearance of one identity."""

    shape: tuple[float, ...]  # 6 phenotypes of AnnyBody in 0..1
    skin: Colour
    hair: str
    hair_colour: Colour
    headwear: Colour
    beard: bool
    glasses: bool
    upper: Garment
    lower: Garment
    dress: bool  # whether the skirt has the upper garment's cloth
    shoes: Garment
    socks: Colour
    bag: Garment


def look_alikes(difficulty: float) -> int:
    """Return the number of identities that share one outfit: from 1 (difficulty 0) to 6 (difficulty 1)."""
    return 1 + round(5 * difficulty)


@lru_cache(maxsize=256)
def look_of(seed: int, split: int, identity: int, difficulty: float) -> Look:
    """Draw the appearance of one identity: its group's outfit with some details changed.

    Args:
        seed: seed of the world.
        split: kind of person, see world.py; each kind has its own draws.
        identity: index among that kind.
        difficulty: 0..1; a higher one gives larger groups, more neutral colours and fewer changed details.
    """
    size = look_alikes(difficulty)
    outfit = _outfit(np.random.default_rng([seed, 11, split, identity // size]), difficulty)
    rng = np.random.default_rng([seed, 12, split, identity])
    look = _person(rng, outfit)
    if size == 1:
        return look
    details = (_new_hair, _new_shoes, _new_bag, _new_pattern, _new_sleeves, _new_lower_cut, _new_accent)
    # Four details of seven differ in easy worlds, two in hard ones. With fewer, people could not be distinguished.
    for number in rng.permutation(len(details))[: round(4.4 - 2.4 * difficulty)]:
        look = details[number](look, rng, difficulty)
    return look


def _colour(rng: np.random.Generator, difficulty: float) -> Colour:
    """Draw a colour of clothes; hard worlds have more neutral ones."""
    table = NEUTRALS if rng.random() < 0.35 + 0.45 * difficulty else BRIGHTS
    base = np.array(list(table.values())[rng.integers(len(table))])
    red, green, blue = np.clip(base * rng.uniform(0.9, 1.1) + rng.normal(0, 0.02, 3), 0.03, 0.95)
    return float(red), float(green), float(blue)


def _contrasting(rng: np.random.Generator, colour: Colour, difficulty: float) -> Colour:
    """Draw a second colour that differs clearly from the first one, even in a blurred image."""
    while True:
        other = _colour(rng, difficulty)
        if np.abs(np.subtract(other, colour)).max() > 0.28:
            return other


def _shade(colour: Colour) -> Colour:
    """Return a lighter tone of a dark colour or a darker tone of a light colour."""
    factor, lift = (0.55, 0.0) if max(colour) > 0.4 else (0.6, 0.4)
    red, green, blue = (factor * channel + lift for channel in colour)
    return red, green, blue


def _pick(rng: np.random.Generator, names: tuple[str, ...], weights: tuple[float, ...]) -> str:
    """Draw a name with probabilities in proportion to `weights`."""
    return names[rng.choice(len(names), p=np.array(weights) / sum(weights))]


def _outfit(rng: np.random.Generator, difficulty: float) -> Look:
    """Draw the whole outfit that a group of look-alikes shares."""
    female = bool(rng.random() < 0.5)
    upper_colour = _colour(rng, difficulty)
    upper = Garment(
        kind=_pick(rng, UPPER_KINDS, (5, 3, 1.5 if female else 0.7, 2.5, 1.5, 1.2)),
        colour=upper_colour,
        accent=_contrasting(rng, upper_colour, difficulty),
        pattern=_pick(rng, PATTERNS, (4, 2, 1.5, 1.5, 2.5, 1, 1, 0.7, 0.7)),
        period=float(rng.uniform(0.07, 0.13)),
    )
    skirts = (1.2, 1.5, 0.8) if female else (0, 0, 0)
    lower_colour = _colour(rng, min(1.0, difficulty + 0.3))
    lower = Garment(
        kind=_pick(rng, LOWER_KINDS, (3.0, 2.0, 1.0, 2.0, *skirts)),
        colour=lower_colour,
        accent=_shade(lower_colour),
        pattern=_pick(rng, ("plain", "side stripe", "checks"), (8, 1.2, 0.8 if upper.pattern == "plain" else 0)),
        period=0.09,
    )
    look = Look(
        shape=(0.0 if not female else 1.0, 0.6, 0.5, 0.5, 0.5, 0.5),
        skin=SKINS[0],
        hair="short",
        hair_colour=HAIR_COLOURS[0],
        headwear=_colour(rng, difficulty),
        beard=False,
        glasses=False,
        upper=upper,
        lower=lower,
        dress="skirt" in lower.kind and bool(rng.random() < 0.3),
        shoes=Garment("sneakers", (0.9, 0.9, 0.9), (0.9, 0.9, 0.9)),
        socks=(0.9, 0.9, 0.9),
        bag=Garment("none", upper_colour, upper_colour),
    )
    for draw in (_new_hair, _new_shoes, _new_bag):
        look = draw(look, rng, difficulty)
    return look


def _person(rng: np.random.Generator, look: Look) -> Look:
    """Draw another body for the same outfit."""
    female = look.shape[0] > 0.5
    gender = rng.uniform(0.85, 1.0) if female else rng.uniform(0.0, 0.15)
    height = rng.uniform(0.40, 0.52) if female else rng.uniform(0.46, 0.60)
    shape = (
        gender,
        rng.uniform(0.5, 0.85),
        rng.uniform(0.35, 0.65),
        rng.uniform(0.3, 0.75),
        height,
        rng.uniform(0.4, 0.8),
    )
    tone = SKINS[rng.choice(len(SKINS), p=[0.22, 0.24, 0.22, 0.14, 0.1, 0.08])]
    red, green, blue = np.array(tone) * rng.uniform(0.95, 1.05)
    return replace(
        look,
        shape=tuple(float(value) for value in shape),
        skin=(float(red), float(green), float(blue)),
        beard=not female and bool(rng.random() < 0.25),
        glasses=bool(rng.random() < 0.2),
    )


def _new_hair(look: Look, rng: np.random.Generator, difficulty: float) -> Look:
    """Draw another hair style and colour."""
    if look.shape[0] > 0.5:
        weights: tuple[float, ...] = (1, 0.3, 0, 0.5, 2.5, 3, 2, 1.2, 0.7, 0.5, 0.3)
    else:
        weights = (4, 1.8, 0.9, 0.5, 0.4, 0.3, 0.2, 0.1, 1.4, 0.8, 0.2)
    style = _pick(rng, HAIR_STYLES, weights)
    colour = HAIR_COLOURS[rng.choice(len(HAIR_COLOURS), p=[0.32, 0.22, 0.16, 0.09, 0.13, 0.08])]
    return replace(look, hair=style, hair_colour=colour, headwear=_colour(rng, difficulty))


def _new_shoes(look: Look, rng: np.random.Generator, difficulty: float) -> Look:
    """Draw other shoes and socks."""
    colour = _colour(rng, difficulty)
    sole = (0.9, 0.9, 0.88) if rng.random() < 0.6 else (0.12, 0.12, 0.12)
    socks = _colour(rng, 1.0)
    return replace(look, shoes=Garment(_pick(rng, SHOE_KINDS, (4, 1.5, 1.5)), colour, sole), socks=socks)


def _new_bag(look: Look, rng: np.random.Generator, difficulty: float) -> Look:
    """Draw another bag."""
    female = look.shape[0] > 0.5
    weights = (3, 2, 2, 2, 1) if female else (3.5, 4, 2, 0.6, 0.6)
    colour = _colour(rng, difficulty)
    return replace(look, bag=Garment(_pick(rng, BAG_KINDS, weights), colour, _contrasting(rng, colour, difficulty)))


def _new_pattern(look: Look, rng: np.random.Generator, difficulty: float) -> Look:
    """Draw another pattern of the upper garment."""
    others = tuple(name for name in PATTERNS if name != look.upper.pattern)
    upper = replace(
        look.upper,
        pattern=others[rng.integers(len(others))],
        accent=_contrasting(rng, look.upper.colour, difficulty),
        period=float(rng.uniform(0.07, 0.13)),
    )
    return replace(look, upper=upper)


def _new_sleeves(look: Look, rng: np.random.Generator, difficulty: float) -> Look:
    """Draw another kind of upper garment."""
    others = tuple(name for name in UPPER_KINDS if name != look.upper.kind)
    return replace(look, upper=replace(look.upper, kind=others[rng.integers(len(others))]))


def _new_lower_cut(look: Look, rng: np.random.Generator, difficulty: float) -> Look:
    """Draw another kind of lower garment."""
    choices = LOWER_KINDS if look.shape[0] > 0.5 else LOWER_KINDS[:4]
    others = tuple(name for name in choices if name != look.lower.kind)
    lower = replace(look.lower, kind=others[rng.integers(len(others))])
    return replace(look, lower=lower, dress=look.dress and "skirt" in lower.kind)


def _new_accent(look: Look, rng: np.random.Generator, difficulty: float) -> Look:
    """Draw another accent of the upper garment and another colour of the lower one."""
    upper = replace(look.upper, accent=_contrasting(rng, look.upper.colour, difficulty))
    lower = replace(look.lower, colour=_contrasting(rng, look.lower.colour, difficulty))
    return replace(look, upper=upper, lower=lower)
