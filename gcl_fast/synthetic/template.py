"""Describe the undressed template: the place of each vertex, the limb that it belongs to, and its poses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array, diags_array
from scipy.spatial import ConvexHull

from gcl_fast.bodies import AnnyBody


class Template:
    """Holds AnnyBody with the properties of its vertices that dressing and painting need.

    Attributes:
        body: the body model.
        faces: (F, 3).
        vertices: (V, 3) at rest, metres.
        joints: (J, 3) at rest, metres.
        number: index of each joint by name.
        weights: (J, V) skinning weights.
        part: (V,) names.
        arm: (V,) place along the arm, see `shapes.Mesh`.
        leg: (V,) place along the leg, see `shapes.Mesh`.
        cloth: (V, 6) cloth coordinates, see `shapes.Mesh`.
        arm_share: (V,) skinning weight of the arms' joints; `leg_share` and `head_share` are alike.
        below: (P,) vertices of hips and legs.
        leg_length: metres.
        middle: z between chest and back, metres.
        head: vertices of the head; they lie between `head_low` (3,) and `head_high` (3,).
        hair_field: (V,) see `hairline`; -1 off the head.
        smoother: (V, V) sparse matrix that moves covered vertices half way to the mean of their neighbours.
        shoes: convex hulls of the feet, as vertices (P,) and faces among them (F, 3).
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
        self.middle = 0.5 * (torso[:, 2].min() + torso[:, 2].max())
        self.head = np.flatnonzero(np.isin(self.part, ("head", "scalp")))
        self.head_low, self.head_high = self.vertices[self.head].min(0), self.vertices[self.head].max(0)
        self.hair_field = np.full(len(self.vertices), -1.0)
        self.hair_field[self.head] = hairline(self.vertices[self.head], self.head_low, self.head_high)
        self.smoother = self._smoother()
        self.shoes = [self._foot_hull("left"), self._foot_hull("right")]

    def joint(self, name: str) -> np.ndarray:
        """Return a joint's position (3,) at rest."""
        return self.joints[self.number[name]]

    def length_of_leg(self, joints: np.ndarray) -> float:
        """Return the length of the left leg of joints (J, 3), from hip to ankle."""
        hip, knee, ankle = (joints[self.number[f"left_{name}"]] for name in ("hip", "knee", "ankle"))
        return float(np.linalg.norm(knee - hip) + np.linalg.norm(ankle - knee))

    def pose(self, pose: np.ndarray, shape: np.ndarray) -> Figure:
        """Pose the body by pose (57,) and shape (6,), float32."""
        with torch.no_grad():
            posed = self.body.articulate(torch.from_numpy(pose)[None], torch.from_numpy(shape)[None])
        return Figure(self, posed.vertices[0].numpy(), posed.joints[0].numpy(), posed.rotations[0].numpy())

    def _share(self, *joints: str) -> np.ndarray:
        """Return the summed skinning weight (V,) of joints on both sides."""
        return self.weights[[self.number[f"{side}_{name}"] for side in ("left", "right") for name in joints]].sum(0)

    def _place_along(self, share: np.ndarray, upper: str, middle: str, lower: str) -> np.ndarray:
        """Return places (V,) along a limb: 0 at the upper joint, 1 at the middle, 2 and more from the lower; -1 off."""
        place = np.full(len(self.vertices), -1.0)
        for side, sign in (("left", 1), ("right", -1)):
            limb = (share > 0.02) & (sign * self.vertices[:, 0] > 0)
            a, b, c = (self.joint(f"{side}_{name}") for name in (upper, middle, lower))
            first = (self.vertices[limb] - a) @ (b - a) / ((b - a) @ (b - a))
            second = (self.vertices[limb] - b) @ (c - b) / ((c - b) @ (c - b))
            rows = [self.number[f"{side}_{name}"] for name in (middle, lower)]
            lower_half = self.weights[rows][:, limb].sum(0) > 0.5
            place[limb] = np.where(lower_half, 1 + np.maximum(second, 0), np.minimum(first, 1))
        return place

    def _smoother(self) -> csr_array:
        """Build `smoother` from the edges of the mesh."""
        edges = np.concatenate([self.faces[:, [i, (i + 1) % 3]] for i in range(3)])
        rows, columns = np.concatenate((edges, edges[:, ::-1])).T
        count = len(self.vertices)
        adjacency = coo_array((np.ones(len(rows)), (rows, columns)), (count, count)).tocsr()
        adjacency.data[:] = 1  # edges were counted once per face
        mean = diags_array(1 / adjacency.sum(1)) @ adjacency
        skin = np.isin(self.part, ("head", "scalp", "left_hand", "right_hand", "left_foot", "right_foot"))
        amount = np.where(skin, 0.0, 0.5)
        return (diags_array(1 - amount) + diags_array(amount) @ mean).tocsr().astype(np.float32)

    def _foot_hull(self, side: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the vertices of a foot below the ankle and the faces of their convex hull, which hides the toes."""
        foot = (self.part == f"{side}_foot") & (self.vertices[:, 1] < self.joint(f"{side}_ankle")[1] + 0.02)
        index = np.flatnonzero(foot)
        points = self.vertices[index]
        hull = ConvexHull(points)
        faces = hull.simplices.copy()
        a, b, c = (points[faces[:, corner]] for corner in range(3))
        inward = (np.cross(b - a, c - a) * hull.equations[:, :3]).sum(1) < 0
        faces[inward] = faces[inward][:, ::-1]
        return index, faces


@dataclass
class Figure:
    """Holds one posed, undressed body in the frame of `Posed`."""

    template: Template
    vertices: np.ndarray  # (V, 3)
    joints: np.ndarray  # (J, 3)
    rotations: np.ndarray  # (J, 3, 3)

    @property
    def height(self) -> float:
        """Return the metres from the ground to the highest point."""
        return float(self.vertices[:, 1].max())

    def joint(self, name: str) -> np.ndarray:
        """Return a joint's position (3,)."""
        return self.joints[self.template.number[name]]

    def limb(self, *names: str) -> list[np.ndarray]:
        """Return the positions (3,) of several joints."""
        return [self.joint(name) for name in names]

    def rotation(self, name: str) -> np.ndarray:
        """Return the rotation (3, 3) of a joint's part."""
        return self.rotations[self.template.number[name]]


def hairline(place: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return a field that is positive on the scalp.

    Its border is ragged and rises from the nape over the ears to the forehead.

    Args:
        place: (P, 3) places on the template.
        low: (3,) lower corner of the head's box.
        high: (3,) upper corner of the head's box.

    Returns:
        The field (P,).
    """
    up, front = ((place - low) / (high - low))[:, 1:].T
    ragged = 0.025 * np.sin(90 * place[:, 0]) * np.sin(70 * place[:, 2] + 1)
    return up - (0.30 + 0.64 * np.clip(front, 0, 1.2)) + ragged
