"""Dressing: a posed body and a Look become one mesh with volume where clothes, hair and shoes are, and with bags."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_matrix, csr_matrix, diags
from scipy.spatial import ConvexHull

from gcl_fast.bodies import AnnyBody
from gcl_fast.synthetic.shapes import (
    BAG,
    BODY,
    COAT,
    HAIR,
    HEADWEAR,
    SHOE,
    SKIRT,
    Mesh,
    disc,
    drape,
    grid_faces,
    join,
    piece,
    rounded_box,
    tube,
    vertex_normals,
)
from gcl_fast.synthetic.wardrobe import Look

SLEEVE_END = {
    "t-shirt": 0.62,
    "sleeveless": 0.12,
    "long sleeve": 1.93,
    "open jacket": 1.93,
    "hoodie": 1.95,
    "coat": 1.95,
}
UPPER_EASE = {
    "t-shirt": 0.012,
    "sleeveless": 0.007,
    "long sleeve": 0.010,
    "open jacket": 0.020,
    "hoodie": 0.024,
    "coat": 0.026,
}
# Height of the hem on the template, metres (the hip joint is at 0.87, the knee at 0.45).
UPPER_HEM = {
    "t-shirt": 0.82,
    "sleeveless": 0.85,
    "long sleeve": 0.83,
    "open jacket": 0.78,
    "hoodie": 0.80,
    "coat": 0.53,
}
TUCKED = ("t-shirt", "sleeveless", "long sleeve")  # worn inside a skirt
WAIST = 0.92  # below this height on the template the upper garment hangs free
# Radius of a sleeve or trouser leg at places along the limb (0 upper joint, 1 middle, 2 lower), metres.
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
HAIR_DEPTH = {"short": 0.014, "crop": 0.005, "bob": 0.020, "long": 0.018, "ponytail": 0.010, "bun": 0.010}
HEADWEAR_DEPTH = {"cap": 0.016, "beanie": 0.022, "hat": 0.018}
SMOOTHING_STEPS = 12
SEAM = 0.10  # where the sleeve begins, along the arm


@dataclass
class Figure:
    """A posed, undressed body: vertices (V, 3), joints (J, 3), rotations (J, 3, 3), as AnnyBody.articulate gives them."""

    vertices: np.ndarray
    joints: np.ndarray
    rotations: np.ndarray


class Tailor:
    """Knows the body's template; `dress` does the work. Make one per process."""

    def __init__(self) -> None:
        self.body = AnnyBody()
        with torch.no_grad():
            adult = torch.tensor([[0.5, 2 / 3, 0.5, 0.5, 0.5, 0.5]])
            rest = self.body.articulate(torch.zeros(1, 3 * self.body.num_joints), adult)
        self.faces: np.ndarray = self.body.faces.numpy()
        self.template: np.ndarray = rest.vertices[0].numpy()
        self.joint = {name: i for i, name in enumerate(self.body.joint_names)}
        self.rest_joints: np.ndarray = rest.joints[0].numpy()
        self.weights: np.ndarray = self.body.weights.numpy()
        self.part = np.array(self.body.part_names)[self.body.part.numpy()]
        self.arm_share = self._share("shoulder", "elbow", "wrist")
        self.leg_share = self._share("hip", "knee", "ankle")
        self.head_share = self.weights[self.joint["head"]]
        self.arm = self._place_along("shoulder", "elbow", "wrist", self.arm_share)
        self.leg = self._place_along("hip", "knee", "ankle", self.leg_share)
        self.cloth = np.column_stack((self.template, self.arm, self.leg, self.arm_share)).astype(np.float32)
        self.smoother = self._smoother()
        self.shoes = [self._foot_hull(side) for side in ("left", "right")]
        head = np.isin(self.part, ("head", "scalp"))
        self.head_vertices = np.flatnonzero(head)
        self.head_low, self.head_high = self.template[head].min(0), self.template[head].max(0)
        self.hair_field = hairline(self.template, self.head_low, self.head_high) * head - 1.0 * ~head
        self.trunk = np.flatnonzero(np.isin(self.part, ("torso", "hips", "neck", "scalp", "head")))
        self.pelvis_height, self.hip_height = (self.rest_joints[self.joint[name], 1] for name in ("pelvis", "left_hip"))
        hip, knee, ankle = (self.rest_joints[self.joint[f"left_{name}"]] for name in ("hip", "knee", "ankle"))
        self.leg_length = np.linalg.norm(knee - hip) + np.linalg.norm(ankle - knee)
        torso = self.template[self.part == "torso"]
        self.middle = 0.5 * (torso[:, 2].min() + torso[:, 2].max())  # between chest and back
        self.below = np.flatnonzero((self.leg_share > 0.3) | (self.part == "hips"))

    def _share(self, *joints: str) -> np.ndarray:
        rows = [self.joint[f"{side}_{name}"] for side in ("left", "right") for name in joints]
        return self.weights[rows].sum(0)

    def _place_along(self, upper: str, middle: str, lower: str, share: np.ndarray) -> np.ndarray:
        """0 at the upper joint, 1 at the middle one, 2 at the lower one and beyond; -1 off the limb."""
        place = np.full(len(self.template), -1.0)
        for side, sign in (("left", 1), ("right", -1)):
            a, b, c = (self.rest_joints[self.joint[f"{side}_{name}"]] for name in (upper, middle, lower))
            mine = (share > 0.02) & (sign * self.template[:, 0] > 0)
            first = (self.template[mine] - a) @ (b - a) / ((b - a) @ (b - a))
            second = (self.template[mine] - b) @ (c - b) / ((c - b) @ (c - b))
            beyond = self.weights[[self.joint[f"{side}_{lower}"], self.joint[f"{side}_{middle}"]]][:, mine].sum(0) > 0.5
            place[mine] = np.where(beyond, 1 + np.maximum(second, 0), np.minimum(first, 1))
        return place

    def _smoother(self) -> csr_matrix:
        """Moves each clothed vertex half way to the mean of its neighbours; leaves head and hands alone."""
        edges = np.concatenate([self.faces[:, [i, (i + 1) % 3]] for i in range(3)])
        rows, columns = np.concatenate((edges, edges[:, ::-1])).T
        count = len(self.template)
        adjacency = coo_matrix((np.ones(len(rows), np.float32), (rows, columns)), (count, count)).tocsr()
        adjacency.data[:] = 1
        mean = (
            diags(1 / np.maximum(adjacency.sum(1).A1 if hasattr(adjacency.sum(1), "A1") else adjacency.sum(1), 1))
            @ adjacency
        )
        keep = np.isin(self.part, ("head", "scalp", "left_hand", "right_hand", "left_foot", "right_foot"))
        amount = np.where(keep, 0.0, 0.5)
        return (diags(1 - amount) + diags(amount) @ mean).tocsr().astype(np.float32)

    def _foot_hull(self, side: str) -> tuple[np.ndarray, np.ndarray]:
        """Vertices of a foot's convex hull and the hull's faces among them: toes make no shoe."""
        foot = np.flatnonzero(self.part == f"{side}_foot")
        points = self.template[foot]
        low = foot[points[:, 1] < self.rest_joints[self.joint[f"{side}_ankle"], 1] + 0.02]
        hull = ConvexHull(self.template[low])
        faces = hull.simplices.copy()
        a, b, c = (self.template[low][faces[:, i]] for i in range(3))
        inward = (np.cross(b - a, c - a) * hull.equations[:, :3]).sum(1) < 0
        faces[inward] = faces[inward][:, ::-1]
        return low, faces

    def pose(self, pose: np.ndarray, shape: np.ndarray) -> Figure:
        """A posed figure from one row of body parameters."""
        with torch.no_grad():
            posed = self.body.articulate(torch.from_numpy(pose)[None], torch.from_numpy(shape)[None])
        return Figure(posed.vertices[0].numpy(), posed.joints[0].numpy(), posed.rotations[0].numpy())

    def dress(self, figure: Figure, look: Look) -> Mesh:
        """The dressed figure. Its first vertices are the body's, displaced to the surface of what covers them."""
        body = Mesh(self._clothed(figure, look), self.faces, np.full(len(self.faces), BODY), self.cloth)
        pieces = [body, *self._shoes(figure)]
        around = body.vertices[self.below]
        skirt = "skirt" in look.lower.kind
        if skirt:
            hem = self.hip_height - SKIRT_LENGTH[look.lower.kind] * self.leg_length
            pieces.append(self._hanging(figure, around, hem, SKIRT_FLARE[look.lower.kind], 0.010, SKIRT))
        if not (skirt and (look.dress or look.upper.kind in TUCKED)):
            loose = 0.06 if look.upper.kind == "coat" else 0.02
            margin = 0.028 if skirt else 0.006
            pieces.append(self._hanging(figure, around, UPPER_HEM[look.upper.kind], loose, margin, COAT))
        if look.upper.kind == "hoodie":
            pieces.append(self._hood(figure))
        pieces += self._hair(figure, look)
        pieces += self._bag(figure, look, np.concatenate([mesh.vertices for mesh in pieces[3:]] + [around]))
        return join(pieces)

    # Clothes that follow the body --------------------------------------------------------------------------------

    def _clothed(self, figure: Figure, look: Look) -> np.ndarray:
        kind = look.upper.kind
        height = self.template[:, 1]
        on_arm = self.arm_share > 0.5
        upper = np.where(on_arm, self.arm < SLEEVE_END[kind], (height > WAIST) & (self.head_share < 0.3))
        neck = np.clip(
            (self.rest_joints[self.joint["neck"], 1] + 0.05 - height) / 0.07, 0, 1
        )  # cloth narrows to the neck
        legs_end = TROUSERS_END.get(look.lower.kind, -2.0)
        lower = (
            ~upper
            & ~on_arm
            & (height < 1.0)
            & (self.leg < legs_end)
            & (self.part != "left_foot")
            & (self.part != "right_foot")
        )
        smooth = figure.vertices
        for _ in range(SMOOTHING_STEPS):
            smooth = self.smoother @ smooth
        normal = vertex_normals(smooth, self.faces)
        cover = np.where((upper & ~on_arm) | (lower & (self.leg < 0.5)), 1.0, np.where(upper | lower, 0.6, 0.0))[
            :, None
        ]
        vertices = figure.vertices + cover * (smooth - figure.vertices)
        ease = np.where(upper, UPPER_EASE[kind] * np.where(on_arm, 0.6, neck), np.where(lower, 0.006, 0.0))
        ease = ease + self._hair_depth(look)
        vertices = vertices + ease[:, None] * normal
        for side, sign in (("left", 1), ("right", -1)):
            here = sign * self.template[:, 0] > 0
            if kind in SLEEVE_WIDTH:
                limb = [figure.joints[self.joint[f"{side}_{name}"]] for name in ("shoulder", "elbow", "wrist")]
                _widen(vertices, np.flatnonzero(here & upper & on_arm), self.arm, limb, SLEEVE_WIDTH[kind])
            if look.lower.kind in TROUSERS_WIDTH:
                limb = [figure.joints[self.joint[f"{side}_{name}"]] for name in ("hip", "knee", "ankle")]
                mine = np.flatnonzero(here & lower & (self.leg > 0.15))
                _widen(vertices, mine, self.leg, limb, TROUSERS_WIDTH[look.lower.kind])
        return vertices

    def _shoes(self, figure: Figure) -> list[Mesh]:
        shoes = []
        for index, faces in self.shoes:
            vertices = figure.vertices[index]
            normal = vertex_normals(vertices, faces)
            shoes.append(piece(vertices + 0.007 * normal, faces, SHOE, self.template[index]))
        return shoes

    def _hanging(
        self, figure: Figure, around: np.ndarray, hem: float, flare: float, margin: float, material: int
    ) -> Mesh:
        """Cloth that hangs from the waist over the points `around`, down to the height `hem` of the template."""
        joints = figure.joints
        pelvis, hip, knee, ankle = (
            joints[self.joint[f"{name}"]] for name in ("pelvis", "left_hip", "left_knee", "left_ankle")
        )
        stature = (np.linalg.norm(knee - hip) + np.linalg.norm(ankle - knee)) / self.leg_length
        top = 1.0 if material == SKIRT else WAIST + 0.06
        rows, columns = max(5, round((top - hem) / 0.05)), 36
        place = np.linspace(top, hem, rows)  # heights on the template
        heights = pelvis[1] + (place - self.pelvis_height) * stature
        fallen = heights[0] - heights
        radius = drape(around, pelvis, heights, columns, margin)
        radius = np.maximum.accumulate(radius + flare * np.maximum(fallen - 0.06, 0)[:, None], axis=0)
        turn = np.linspace(0, 2 * np.pi, columns, endpoint=False)
        fold = 0.05 if material == SKIRT else 0.02
        radius = radius * (1 + fold * np.sin(7 * turn) * (fallen / fallen[-1])[:, None])
        ring = np.stack((np.sin(turn), np.zeros_like(turn), np.cos(turn)), -1)
        offset = radius[..., None] * ring
        vertices = offset + np.stack((np.full(rows, pelvis[0]), heights, np.full(rows, pelvis[2])), -1)[:, None]
        cloth = offset + np.stack((np.zeros(rows), place, np.full(rows, self.middle)), -1)[:, None]
        return piece(vertices.reshape(-1, 3), grid_faces(rows, columns, closed=True), material, cloth.reshape(-1, 3))

    def _hood(self, figure: Figure) -> Mesh:
        """A hood that lies on the shoulders behind the neck."""
        neck, rotation = figure.joints[self.joint["neck"]], figure.rotations[self.joint["chest"]]
        hood, faces = rounded_box((0.25, 0.13, 0.15), 0.9)
        place = np.array([0, 1.33, self.middle - 0.2])
        return piece(neck + (hood + [0.0, 0.015, -0.085]) @ rotation.T, faces, COAT, hood * 0.2 + place)

    # Hair and headwear -------------------------------------------------------------------------------------------

    def _hair_depth(self, look: Look) -> np.ndarray:
        """How far hair or a hat stands off the scalp, per vertex."""
        if look.hair in HEADWEAR_DEPTH:
            return HEADWEAR_DEPTH[look.hair] * np.clip((self.hair_field + 0.05) / 0.08, 0, 1)
        return HAIR_DEPTH.get(look.hair, 0.0) * np.clip(self.hair_field / 0.12, 0, 1)

    def _on_head(self, figure: Figure, local: np.ndarray) -> np.ndarray:
        """Points given around the template's head, in units of its half height, on the posed head."""
        rotation = figure.rotations[self.joint["head"]]
        here, there = figure.vertices[self.head_vertices], self.template[self.head_vertices]
        centre, home = here.mean(0), there.mean(0)
        scale = np.linalg.norm(here - centre) / np.linalg.norm(there - home)
        middle = 0.5 * (self.head_low + self.head_high)
        half = 0.5 * (self.head_high - self.head_low)[1]
        return centre + scale * (middle + local * half - home) @ rotation.T

    def _hair(self, figure: Figure, look: Look) -> list[Mesh]:
        style = look.hair
        if style in ("bob", "long"):
            return [self._curtain(figure, 0.20 if style == "bob" else 0.40)]
        if style == "ponytail":
            path = np.array(
                [
                    (0, 0.45, -0.80),
                    (0, 0.42, -1.05),
                    (0, 0.1, -1.22),
                    (0, -0.5, -1.22),
                    (0, -1.1, -1.12),
                    (0, -1.5, -1.05),
                ]
            )
            vertices, faces = tube(self._on_head(figure, path), np.array([0.01, 0.032, 0.04, 0.038, 0.028, 0.008]))
            return [piece(vertices, faces, HAIR)]
        if style == "bun":
            vertices, faces = rounded_box((0.085, 0.085, 0.075), 1.0)
            return [piece(vertices + self._on_head(figure, np.array([[0, 0.62, -0.86]])), faces, HAIR)]
        if style in ("cap", "hat"):
            half = 0.5 * (self.head_high - self.head_low)[1]
            inner, outer, angle, droop = (0.60, 1.30, 1.1, 0.15) if style == "cap" else (0.55, 1.25, np.pi, 0.12)
            brim, faces = disc(inner, outer, angle, droop)
            place = np.array([0, 0.44, 0.12 if style == "cap" else -0.08])
            return [piece(self._on_head(figure, brim + place), faces, HEADWEAR, brim * half)]
        return []

    def _curtain(self, figure: Figure, length: float) -> Mesh:
        """Loose hair: a sheet round the back and sides of the head that falls onto the shoulders."""
        rows, columns = 9, 25
        centre = self._on_head(figure, np.array([[0.0, 0.35, -0.12]]))[0]
        heights = centre[1] - np.linspace(0, length, rows)
        half = np.linspace(np.radians(112), np.radians(75), rows)  # to each side of straight back
        spread = np.linspace(-1, 1, columns)
        front = figure.rotations[self.joint["head"]][:, 2]
        turn = np.arctan2(-front[0], -front[2]) + half[:, None] * spread
        points = figure.vertices[self.trunk]
        radius = drape(points, centre, heights, 48, 0.014, 0.03)
        index = np.round(turn / (2 * np.pi) * 48).astype(int) % 48
        radius = np.minimum(np.take_along_axis(radius, index, 1), 0.115 + 0.10 * np.linspace(0, 1, rows)[:, None] ** 2)
        ring = np.stack((np.sin(turn), np.zeros_like(turn), np.cos(turn)), -1)
        vertices = (
            np.stack((np.full(rows, centre[0]), heights, np.full(rows, centre[2])), -1)[:, None]
            + radius[..., None] * ring
        )
        return piece(vertices.reshape(-1, 3), grid_faces(rows, columns, closed=False), HAIR)

    # Bags --------------------------------------------------------------------------------------------------------

    def _bag(self, figure: Figure, look: Look, hips: np.ndarray) -> list[Mesh]:
        """`hips`: surface of the lower clothes, beside which bags hang."""
        chest, pelvis = figure.joints[self.joint["chest"]], figure.joints[self.joint["pelvis"]]
        rotation = figure.rotations[self.joint["chest"]]
        if look.bag.kind == "backpack":
            size = (0.31, 0.44, 0.17)
            local = (figure.vertices[self.part == "torso"] - chest) @ rotation
            middle = local[np.abs(local[:, 0]) < 0.12]
            centre = np.array([0.0, 0.06, middle[:, 2].min() - 0.35 * size[2]])
            box, faces = rounded_box(size)
            pocket, pocket_faces = rounded_box((0.23, 0.19, 0.08))
            shift = np.array([0, -0.10, -0.5 * size[2]])
            return [
                piece(chest + (box + centre) @ rotation.T, faces, BAG, box),
                piece(chest + (pocket + centre + shift) @ rotation.T, pocket_faces, BAG, pocket + [0, 1, 0]),
            ]
        if look.bag.kind in ("shoulder bag", "tote"):
            size = (0.10, 0.24, 0.32) if look.bag.kind == "shoulder bag" else (0.09, 0.34, 0.34)
            side = -1.0 if look.bag.kind == "shoulder bag" else 1.0
            edge = np.abs(hips[np.abs(hips[:, 1] - pelvis[1]) < 0.1, 0] - pelvis[0]).max()
            box, faces = rounded_box(size)
            centre = pelvis + np.array([side * (edge + 0.45 * size[0]), 0.05 if side < 0 else 0.14, -0.02])
            return [piece(box + centre, faces, BAG, box)]
        if look.bag.kind == "handbag":
            hand = figure.vertices[self.part == "left_hand"]
            low = hand[hand[:, 1] < np.quantile(hand[:, 1], 0.4)].mean(0)
            box, faces = rounded_box((0.12, 0.22, 0.30))
            straps = []
            for offset in (-0.07, 0.07):
                path = low + np.array([(0, 0.0, 0), (0, -0.08, offset), (0, -0.16, offset)])
                strap, strap_faces = tube(path, np.full(3, 0.009), 6)
                straps.append(piece(strap, strap_faces, BAG, np.zeros_like(strap) + [0, 2, 0]))
            return [piece(box + low - np.array([0, 0.24, 0]), faces, BAG, box), *straps]
        return []


def hairline(place: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Signed field over template places: above 0 is scalp (a plane that rises from the nape over the ears to the forehead)."""
    up, front = ((place - low) / (high - low))[:, 1:].T
    ragged = 0.025 * np.sin(90 * place[:, 0]) * np.sin(70 * place[:, 2] + 1)
    return up - (0.30 + 0.64 * np.clip(front, 0, 1.2)) + ragged


def _widen(
    vertices: np.ndarray,
    index: np.ndarray,
    along: np.ndarray,
    limb: list[np.ndarray],
    widths: tuple[tuple[float, float], ...],
) -> None:
    """Push the vertices `index` out to the garment's radius around a limb of three joints, in place."""
    place = np.clip(along[index], 0, 2)
    upper = np.clip(place, 0, 1)[:, None]
    lower = np.clip(place - 1, 0, 1)[:, None]
    first, second = limb[1] - limb[0], limb[2] - limb[1]
    axis_point = limb[0] + upper * first + lower * second
    blend = np.clip((place - 0.85) / 0.3, 0, 1)[:, None]
    direction = (1 - blend) * first / np.linalg.norm(first) + blend * second / np.linalg.norm(second)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    away = vertices[index] - axis_point
    away -= (away * direction).sum(1, keepdims=True) * direction
    radius = np.linalg.norm(away, axis=1, keepdims=True)
    wanted = np.interp(place, *zip(*widths))[:, None]
    vertices[index] += away / np.maximum(radius, 1e-6) * np.maximum(wanted - radius, 0)
