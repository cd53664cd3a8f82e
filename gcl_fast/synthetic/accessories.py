"""Make hair, headwear and bags: meshes that hang on the posed body instead of following its skin."""

from __future__ import annotations

import numpy as np

from gcl_fast.synthetic.shapes import BAG, HAIR, HEADWEAR, Mesh, disc, drape, grid_faces, piece, rounded_box, tube
from gcl_fast.synthetic.template import Figure, Template

HAIR_DEPTH = {  # metres
    "short": 0.018,
    "crop": 0.004,
    "afro": 0.055,
    "bob": 0.022,
    "long": 0.020,
    "ponytail": 0.012,
    "bun": 0.012,
}
HEADWEAR_DEPTH = {"cap": 0.016, "beanie": 0.022, "hat": 0.018}
CURTAIN_LENGTH = {"bob": 0.20, "long": 0.40}
# Columns: right, up and front of the centre line, in half head heights from the head's middle; radius in metres.
PONYTAIL = np.array(
    [
        (0, 0.45, -0.80, 0.010),
        (0, 0.42, -1.05, 0.032),
        (0, 0.10, -1.22, 0.040),
        (0, -0.50, -1.22, 0.038),
        (0, -1.10, -1.12, 0.028),
        (0, -1.50, -1.05, 0.008),
    ]
)


def hair_depth(template: Template, style: str) -> np.ndarray:
    """Return the distance of hair or a hat from the scalp in metres, per vertex (V,)."""
    if style in HEADWEAR_DEPTH:
        return HEADWEAR_DEPTH[style] * np.clip((template.hair_field + 0.05) / 0.08, 0, 1)
    up = ((template.vertices - template.head_low) / (template.head_high - template.head_low))[:, 1]
    crown = 0.65 + 0.7 * np.clip((up - 0.55) / 0.4, 0, 1)  # fuller on top than at the sides
    return HAIR_DEPTH.get(style, 0.0) * crown * np.clip(template.hair_field / 0.10, 0, 1)


def hair_pieces(figure: Figure, style: str) -> list[Mesh]:
    """Return the meshes of hair or headwear that do not lie on the scalp."""
    if style in CURTAIN_LENGTH:
        return [_curtain(figure, CURTAIN_LENGTH[style])]
    if style == "ponytail":
        vertices, faces = tube(_on_head(figure, PONYTAIL[:, :3]), PONYTAIL[:, 3])
        return [piece(vertices, faces, HAIR)]
    if style == "bun":
        vertices, faces = rounded_box((0.085, 0.085, 0.075), 1.0)
        return [piece(vertices + _on_head(figure, np.array([[0, 0.62, -0.86]])), faces, HAIR)]
    if style == "cap":
        vertices, faces = disc(0.60, 1.30, half_angle=1.1, droop=0.15)
        return [piece(_on_head(figure, vertices + [0, 0.44, 0.12]), faces, HEADWEAR)]
    if style == "hat":
        vertices, faces = disc(0.55, 1.25, half_angle=np.pi, droop=0.12)
        return [piece(_on_head(figure, vertices + [0, 0.44, -0.08]), faces, HEADWEAR)]
    return []


def _on_head(figure: Figure, local: np.ndarray) -> np.ndarray:
    """Map points (P, 3) from the template's head to the posed head.

    `local` is relative to the middle of the template's head, in units of half its height.
    """
    template = figure.template
    posed, rest = figure.vertices[template.head], template.vertices[template.head]
    centre, rest_centre = posed.mean(0), rest.mean(0)
    scale = np.linalg.norm(posed - centre) / np.linalg.norm(rest - rest_centre)
    middle = 0.5 * (template.head_low + template.head_high)
    half = 0.5 * (template.head_high - template.head_low)[1]
    return centre + scale * (middle + local * half - rest_centre) @ figure.rotation("head").T


def _curtain(figure: Figure, length: float) -> Mesh:
    """Make loose hair: a sheet around the back and sides of the head that falls onto the shoulders."""
    rows, columns, directions = 9, 25, 48
    centre = _on_head(figure, np.array([[0.0, 0.35, -0.12]]))[0]
    depth = np.linspace(0, 1, rows)[:, None]  # 0 at the top, 1 at the ends
    front = figure.rotation("head")[:, 2]
    half = np.radians(112 - 37 * depth)  # angle to each side of straight back
    turn = np.arctan2(-front[0], -front[2]) + half * np.linspace(-1, 1, columns)  # (rows, columns)
    trunk = np.isin(figure.template.part, ("torso", "hips", "neck", "scalp", "head"))
    radius = drape(figure.vertices[trunk], centre, centre[1] - length * depth[:, 0], directions, 0.014, band=0.03)
    nearest = np.round(turn / (2 * np.pi) * directions).astype(int) % directions
    radius = np.minimum(np.take_along_axis(radius, nearest, 1), 0.115 + 0.10 * depth**2)
    offset = np.stack((radius * np.sin(turn), np.broadcast_to(-length * depth, turn.shape), radius * np.cos(turn)), -1)
    return piece((centre + offset).reshape(-1, 3), grid_faces(rows, columns, closed=False), HAIR)


def bag_pieces(figure: Figure, kind: str, hips: np.ndarray) -> list[Mesh]:
    """Return the meshes of a bag; shoulder bags hang next to `hips` (P, 3), the surface of the lower clothes."""
    if kind == "backpack":
        return _backpack(figure)
    if kind == "handbag":
        return _handbag(figure)
    if kind in ("shoulder bag", "tote"):
        left, size, up = (-1, (0.10, 0.24, 0.32), 0.05) if kind == "shoulder bag" else (1, (0.09, 0.34, 0.34), 0.14)
        pelvis = figure.joint("pelvis")
        edge = np.abs(hips[np.abs(hips[:, 1] - pelvis[1]) < 0.1, 0] - pelvis[0]).max()
        box, faces = rounded_box(size)
        return [piece(pelvis + box + [left * (edge + 0.45 * size[0]), up, -0.02], faces, BAG, box)]
    return []


def _backpack(figure: Figure) -> list[Mesh]:
    """Make a backpack with a pocket on the chest's back."""
    chest, rotation = figure.joint("chest"), figure.rotation("chest")
    torso = (figure.vertices[figure.template.part == "torso"] - chest) @ rotation
    back = torso[np.abs(torso[:, 0]) < 0.12, 2].min()
    depth = 0.17
    box, faces = rounded_box((0.31, 0.44, depth))
    pocket, pocket_faces = rounded_box((0.23, 0.19, 0.08))
    centre = np.array([0.0, 0.06, back - 0.35 * depth])
    behind = centre + [0, -0.10, -0.5 * depth]
    return [
        piece(chest + (box + centre) @ rotation.T, faces, BAG, box),
        piece(chest + (pocket + behind) @ rotation.T, pocket_faces, BAG, pocket + [0, 1, 0]),
    ]


def _handbag(figure: Figure) -> list[Mesh]:
    """Make a bag with two handles below the left hand."""
    hand = figure.vertices[figure.template.part == "left_hand"]
    grip = hand[hand[:, 1] < np.quantile(hand[:, 1], 0.4)].mean(0)
    box, faces = rounded_box((0.12, 0.22, 0.30))
    pieces = [piece(grip + box - [0, 0.24, 0], faces, BAG, box)]
    for offset in (-0.07, 0.07):
        path = grip + np.array([(0, 0.0, 0), (0, -0.08, offset), (0, -0.16, offset)])
        strap, strap_faces = tube(path, np.full(3, 0.009), 6)
        pieces.append(piece(strap, strap_faces, BAG, np.full_like(strap, 2.0)))
    return pieces
