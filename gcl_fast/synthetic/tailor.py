"""Dress a posed body by a `Look`: one mesh with the volume of clothes, hair and shoes, and with bags."""

from __future__ import annotations

import numpy as np

from gcl_fast.synthetic.accessories import bag_pieces, hair_depth, hair_pieces
from gcl_fast.synthetic.shapes import (
    BODY,
    COAT,
    SHOE,
    SKIRT,
    Mesh,
    drape,
    grid_faces,
    join,
    mesh_normals,
    piece,
    rounded_box,
)
from gcl_fast.synthetic.template import Figure
from gcl_fast.synthetic.wardrobe import Look

SLEEVE_END = {  # place along the arm, see shapes.Mesh
    "t-shirt": 0.62,
    "sleeveless": 0.12,
    "long sleeve": 1.93,
    "open jacket": 1.93,
    "hoodie": 1.95,
    "coat": 1.95,
}
UPPER_EASE = {  # distance of the upper garment from the body, metres
    "t-shirt": 0.012,
    "sleeveless": 0.007,
    "long sleeve": 0.010,
    "open jacket": 0.020,
    "hoodie": 0.024,
    "coat": 0.026,
}
# Height of the hem on the template, metres (the hip joint is at 0.87, the knee at 0.45).
UPPER_HEM = {
    "t-shirt": 0.84,
    "sleeveless": 0.86,
    "long sleeve": 0.845,
    "open jacket": 0.79,
    "hoodie": 0.82,
    "coat": 0.53,
}
TUCKED = ("t-shirt", "sleeveless", "long sleeve")  # garments that are worn inside a skirt
WAIST = 0.92  # below this height on the template the upper garment hangs free
# Pairs of place along the limb (0 upper joint, 1 middle, 2 lower) and radius of the sleeve or trouser leg in metres.
SLEEVE_WIDTH = {
    "t-shirt": ((0.1, 0.0), (0.3, 0.064), (0.7, 0.070)),
    "long sleeve": ((0.2, 0.05), (1.0, 0.050), (1.9, 0.038)),
    "open jacket": ((0.2, 0.066), (1.0, 0.060), (1.9, 0.050)),
    "hoodie": ((0.2, 0.070), (1.0, 0.064), (1.7, 0.056), (1.95, 0.042)),
    "coat": ((0.2, 0.070), (1.0, 0.064), (1.9, 0.056)),
}
TROUSERS_END = {"trousers": 1.92, "slim trousers": 1.88, "wide trousers": 1.95, "shorts": 0.82}
TROUSERS_WIDTH = {
    "trousers": ((0.3, 0.085), (1.0, 0.078), (1.95, 0.068)),
    "slim trousers": ((0.3, 0.0), (1.0, 0.060), (1.95, 0.047)),
    "wide trousers": ((0.3, 0.095), (1.0, 0.098), (1.95, 0.100)),
    "shorts": ((0.3, 0.095), (0.9, 0.112)),
}
SKIRT_LENGTH = {"short skirt": 0.42, "skirt": 0.58, "long skirt": 0.84}  # share of the leg
SKIRT_FLARE = {"short skirt": 0.15, "skirt": 0.08, "long skirt": 0.07}
SMOOTHING_STEPS = 12
SEAM = 0.10  # place along the arm where the sleeve begins


def dress(figure: Figure, look: Look) -> Mesh:
    """Dress a figure.

    Args:
        figure: the posed body.
        look: clothes, hair, shoes and bag.

    Returns:
        One mesh. Its first vertices are the body's, moved to the surface of the clothes or hair that cover them.
    """
    template = figure.template
    body = Mesh(_body_vertices(figure, look), template.faces, np.full(len(template.faces), BODY), template.cloth)
    surface = body.vertices[template.below]
    drapes = []
    skirt = "skirt" in look.lower.kind
    tuck = skirt and (look.dress or look.upper.kind in TUCKED)
    if skirt:
        hem = template.joint("left_hip")[1] - SKIRT_LENGTH[look.lower.kind] * template.leg_length
        drapes.append(_drape(figure, surface, hem, SKIRT_FLARE[look.lower.kind], SKIRT, 1.0 if tuck else WAIST))
        surface = np.concatenate((surface, drapes[0].vertices))
    if not tuck:
        flare = 0.06 if look.upper.kind == "coat" else 0.02
        drapes.append(_drape(figure, surface, UPPER_HEM[look.upper.kind], flare, COAT, WAIST + 0.06))
    hips = np.concatenate([surface, *(mesh.vertices for mesh in drapes)])
    if look.upper.kind == "hoodie":
        drapes.append(_hood(figure))
    hair, bag = hair_pieces(figure, look.hair), bag_pieces(figure, look.bag.kind, hips)
    return join([body, *_shoes(figure), *drapes, *hair, *bag])


def _body_vertices(figure: Figure, look: Look) -> np.ndarray:
    """Return the body's vertices, pushed out by the clothes and the hair that lie on it."""
    template, upper_kind, lower_kind = figure.template, look.upper.kind, look.lower.kind
    height, on_arm = template.vertices[:, 1], template.arm_share > 0.5
    foot = np.isin(template.part, ("left_foot", "right_foot"))
    trunk = (height > WAIST) & (template.head_share < 0.3)
    upper = np.where(on_arm, template.arm < SLEEVE_END[upper_kind], trunk)
    lower = ~upper & ~on_arm & ~foot & (height < 1.0) & (template.leg < TROUSERS_END.get(lower_kind, -2.0))
    smooth = figure.vertices
    for _ in range(SMOOTHING_STEPS):
        smooth = template.smoother @ smooth
    trunk_cloth = (upper & ~on_arm) | (lower & (template.leg < 0.5))
    cover = np.where(trunk_cloth, 1.0, np.where(upper | lower, 0.6, 0.0))  # share by which cloth smooths the body
    neck_share = np.clip((template.joint("neck")[1] + 0.05 - height) / 0.07, 0, 1)  # cloth gets tighter at the neck
    ease = np.where(upper, UPPER_EASE[upper_kind] * np.where(on_arm, 0.6, neck_share), np.where(lower, 0.006, 0.0))
    ease = ease + hair_depth(template, look.hair)
    vertices = figure.vertices + cover[:, None] * (smooth - figure.vertices)
    vertices += ease[:, None] * mesh_normals(smooth, template.faces)
    for side, sign in (("left", 1), ("right", -1)):
        on_side = sign * template.vertices[:, 0] > 0
        if upper_kind in SLEEVE_WIDTH:
            arm = figure.limb(f"{side}_shoulder", f"{side}_elbow", f"{side}_wrist")
            _widen(vertices, np.flatnonzero(on_side & upper & on_arm), template.arm, arm, SLEEVE_WIDTH[upper_kind])
        if lower_kind in TROUSERS_WIDTH:
            leg = figure.limb(f"{side}_hip", f"{side}_knee", f"{side}_ankle")
            index = np.flatnonzero(on_side & lower & (template.leg > 0.15))
            _widen(vertices, index, template.leg, leg, TROUSERS_WIDTH[lower_kind])
    return vertices


def _shoes(figure: Figure) -> list[Mesh]:
    """Make a shoe around each foot's convex hull."""
    shoes = []
    for index, faces in figure.template.shoes:
        vertices = figure.vertices[index]
        outside = vertices + 0.007 * mesh_normals(vertices, faces)
        shoes.append(piece(outside, faces, SHOE, figure.template.vertices[index]))
    return shoes


def _drape(figure: Figure, points: np.ndarray, hem: float, flare: float, material: int, top: float) -> Mesh:
    """Make cloth that hangs around `points` (P, 3), from the height `top` to the height `hem` of the template."""
    template, pelvis = figure.template, figure.joint("pelvis")
    stature = template.length_of_leg(figure.joints) / template.leg_length
    rows, columns = max(5, round((top - hem) / 0.05)), 36
    place = np.linspace(top, hem, rows)  # heights on the template
    heights = pelvis[1] + (place - template.joint("pelvis")[1]) * stature
    drop = (heights[0] - heights)[:, None]
    radius = drape(points, pelvis, heights, columns, 0.010 if material == SKIRT else 0.006)
    radius = radius + flare * np.maximum(drop - 0.06, 0)
    turn = np.linspace(0, 2 * np.pi, columns, endpoint=False)
    fold = (0.05 if material == SKIRT else 0.02) * np.sin(7 * turn) * drop / drop[-1]
    radius = np.maximum.accumulate(radius, axis=0) * (1 + fold)
    flat = np.stack((radius * np.sin(turn), np.zeros_like(radius), radius * np.cos(turn)), -1)  # (rows, columns, 3)
    vertices, cloth = pelvis + flat, [0, 0, template.middle] + flat
    vertices[..., 1], cloth[..., 1] = heights[:, None], place[:, None]
    return piece(vertices.reshape(-1, 3), grid_faces(rows, columns, closed=True), material, cloth.reshape(-1, 3))


def _hood(figure: Figure) -> Mesh:
    """Make a hood that lies on the shoulders behind the neck; its cloth is that between the shoulder blades."""
    hood, faces = rounded_box((0.25, 0.13, 0.15), 0.9)
    vertices = figure.joint("neck") + (hood + [0.0, 0.015, -0.085]) @ figure.rotation("chest").T
    return piece(vertices, faces, COAT, hood * 0.2 + [0, 1.33, figure.template.middle - 0.2])


def _widen(
    vertices: np.ndarray,
    index: np.ndarray,
    along: np.ndarray,
    limb: list[np.ndarray],
    widths: tuple[tuple[float, float], ...],
) -> None:
    """Push vertices out to a garment's radius around a limb, in place.

    Args:
        vertices: (V, 3).
        index: (P,) the vertices to push.
        along: (V,) place along the limb: 0 upper joint, 1 middle, 2 lower.
        limb: positions (3,) of the limb's three joints.
        widths: pairs of place and radius in metres.
    """
    place = np.clip(along[index], 0, 2)
    upper = np.clip(place, 0, 1)[:, None]
    lower = np.clip(place - 1, 0, 1)[:, None]
    first, second = limb[1] - limb[0], limb[2] - limb[1]
    axis_point = limb[0] + upper * first + lower * second
    blend = np.clip((place - 0.85) / 0.3, 0, 1)[:, None]
    direction = (1 - blend) * first / np.linalg.norm(first) + blend * second / np.linalg.norm(second)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    offset = vertices[index] - axis_point
    offset -= (offset * direction).sum(1, keepdims=True) * direction
    radius = np.linalg.norm(offset, axis=1, keepdims=True)
    width = np.interp(place, *np.array(widths).T)[:, None]
    vertices[index] += offset / np.maximum(radius, 1e-6) * np.maximum(width - radius, 0)
