"""The undressed template: where on it every vertex lies, which limb it belongs to, and how it is posed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array, diags_array
from scipy.spatial import ConvexHull

from gcl_fast.bodies import AnnyBody


class Template:
    """AnnyBody with what dressing and painting need to know about its vertices.

    Attributes: `faces` (F, 3); `vertices` (V, 3) at rest; `part` (V,) names; `arm`, `leg` (V,) places along the limb
    and `cloth` (V, 6), see shapes.Mesh; `arm_share`, `leg_share`, `head_share` (V,) skinning weights; `below`, the
    vertices of hips and legs; `smoother` (V, V) moves clothed vertices half way to the mean of their neighbours;
    `shoes`, the feet's convex hulls as (vertex indices, faces among them); `hair_field` (V,), see `hairline`.
    """

    def __init__(self) -> None:
        self.body = AnnyBody()
        with torch.no_grad():
            adult = torch.tensor([[0.5, 2 / 3, 0.5, 0.5, 0.5, 0.5]])
            rest = self.body.articulate(torch.zeros(1, 3 * self.body.num_joints), adult)
        self.faces: np.ndarray = self.body.faces.numpy()
        self.vertices: np.ndarray = rest.vertices[0].numpy()
        self.number = {name: i for i, name in enumerate(self.body.joint_names)}
        self.joints: np.ndarray = rest.joints[0].numpy()
        self.weights: np.ndarray = self.body.weights.numpy()  # (J, V)
        self.part = np.array(self.body.part_names)[self.body.part.numpy()]
        self.arm_share = self._share("shoulder", "elbow", "wrist")
        self.leg_share = self._share("hip", "knee", "ankle")
        self.head_share = self.weights[self.number["head"]]
        self.arm = self._place_along(self.arm_share, "shoulder", "elbow", "wrist")
        self.leg = self._place_along(self.leg_share, "hip", "knee", "ankle")
        self.cloth = np.column_stack((self.vertices, self.arm, self.leg, self.arm_share)).astype(np.float32)
        self.below = np.flatnonzero((self.leg_share > 0.3) | (self.part == "hips"))
        self.leg_length = self.length_of_leg(self.joints)
        torso = self.vertices[self.part == "torso"]
        self.middle = 0.5 * (torso[:, 2].min() + torso[:, 2].max())  # between chest and back
        self.head = np.flatnonzero(np.isin(self.part, ("head", "scalp")))
        self.head_low, self.head_high = self.vertices[self.head].min(0), self.vertices[self.head].max(0)
        self.hair_field = np.full(len(self.vertices), -1.0)
        self.hair_field[self.head] = hairline(self.vertices[self.head], self.head_low, self.head_high)
        self.smoother = self._smoother()
        self.shoes = [self._foot_hull("left"), self._foot_hull("right")]

    def joint(self, name: str) -> np.ndarray:
        return self.joints[self.number[name]]

    def length_of_leg(self, joints: np.ndarray) -> float:
        hip, knee, ankle = (joints[self.number[f"left_{name}"]] for name in ("hip", "knee", "ankle"))
        return float(np.linalg.norm(knee - hip) + np.linalg.norm(ankle - knee))

    def pose(self, pose: np.ndarray, shape: np.ndarray) -> Figure:
        """A posed figure from one row of body parameters."""
        with torch.no_grad():
            posed = self.body.articulate(torch.from_numpy(pose)[None], torch.from_numpy(shape)[None])
        return Figure(self, posed.vertices[0].numpy(), posed.joints[0].numpy(), posed.rotations[0].numpy())

    def _share(self, *joints: str) -> np.ndarray:
        return self.weights[[self.number[f"{side}_{name}"] for side in ("left", "right") for name in joints]].sum(0)

    def _place_along(self, share: np.ndarray, upper: str, middle: str, lower: str) -> np.ndarray:
        """0 at the upper joint, 1 at the middle one, 2 at the lower one and on beyond it; -1 off the limb."""
        place = np.full(len(self.vertices), -1.0)
        for side, sign in (("left", 1), ("right", -1)):
            mine = (share > 0.02) & (sign * self.vertices[:, 0] > 0)
            a, b, c = (self.joint(f"{side}_{name}") for name in (upper, middle, lower))
            first = (self.vertices[mine] - a) @ (b - a) / ((b - a) @ (b - a))
            second = (self.vertices[mine] - b) @ (c - b) / ((c - b) @ (c - b))
            rows = [self.number[f"{side}_{name}"] for name in (middle, lower)]
            beyond = self.weights[rows][:, mine].sum(0) > 0.5
            place[mine] = np.where(beyond, 1 + np.maximum(second, 0), np.minimum(first, 1))
        return place

    def _smoother(self) -> csr_array:
        edges = np.concatenate([self.faces[:, [i, (i + 1) % 3]] for i in range(3)])
        rows, columns = np.concatenate((edges, edges[:, ::-1])).T
        count = len(self.vertices)
        adjacency = coo_array((np.ones(len(rows)), (rows, columns)), (count, count)).tocsr()
        adjacency.data[:] = 1  # edges were counted once per face
        mean = diags_array(1 / adjacency.sum(1)) @ adjacency
        bare = np.isin(self.part, ("head", "scalp", "left_hand", "right_hand", "left_foot", "right_foot"))
        amount = np.where(bare, 0.0, 0.5)
        return (diags_array(1 - amount) + diags_array(amount) @ mean).tocsr().astype(np.float32)

    def _foot_hull(self, side: str) -> tuple[np.ndarray, np.ndarray]:
        """Vertices of the foot below the ankle, and the faces of their convex hull: toes make no shoe."""
        low = (self.part == f"{side}_foot") & (self.vertices[:, 1] < self.joint(f"{side}_ankle")[1] + 0.02)
        index = np.flatnonzero(low)
        points = self.vertices[index]
        hull = ConvexHull(points)
        faces = hull.simplices.copy()
        a, b, c = (points[faces[:, corner]] for corner in range(3))
        inward = (np.cross(b - a, c - a) * hull.equations[:, :3]).sum(1) < 0
        faces[inward] = faces[inward][:, ::-1]
        return index, faces


@dataclass
class Figure:
    """A posed, undressed body as AnnyBody.articulate gives it: vertices (V, 3), joints (J, 3), rotations (J, 3, 3)."""

    template: Template
    vertices: np.ndarray
    joints: np.ndarray
    rotations: np.ndarray

    @property
    def tall(self) -> float:
        """Metres from the ground to the highest point."""
        return float(self.vertices[:, 1].max())

    def joint(self, name: str) -> np.ndarray:
        return self.joints[self.template.number[name]]

    def limb(self, *names: str) -> list[np.ndarray]:
        return [self.joint(name) for name in names]

    def rotation(self, name: str) -> np.ndarray:
        return self.rotations[self.template.number[name]]


def hairline(place: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Signed field over places (P, 3) of the template whose head spans `low` to `high`; above 0 is scalp.

    The border is ragged and rises from the nape over the ears to the forehead.
    """
    up, front = ((place - low) / (high - low))[:, 1:].T
    ragged = 0.025 * np.sin(90 * place[:, 0]) * np.sin(70 * place[:, 2] + 1)
    return up - (0.30 + 0.64 * np.clip(front, 0, 1.2)) + ragged
