"""What all body models have in common: the call, the frame, the checks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gcl_fast.bodies.parameters import BodyParameters
from gcl_fast.errors import UserError


class Posed(NamedTuple):
    """Posed bodies: metres, y up, facing +z, the person's left is +x, standing on y = 0, the pelvis at x = z = 0."""

    vertices: Tensor  # (B, V, 3)
    joints: Tensor  # (B, J, 3) positions
    rotations: Tensor  # (B, J, 3, 3) of each joint's part against its rest pose


class BodyModel(nn.Module, ABC):
    """`body(params)` or `body(pose, shape)` -> vertices (B, V, 3); subclasses say what pose and shape mean.

    Attributes: `name`, `faces` (F, 3) int64, `joint_names`, `num_joints`, `shape_columns` (how many columns shape may
    have)."""

    name: str
    joint_names: list[str]
    faces: Tensor
    shape_columns: range

    @property
    def num_joints(self) -> int:
        return len(self.joint_names)

    def forward(self, pose: Tensor | BodyParameters, shape: Tensor | None = None) -> Tensor:
        """Vertices (B, V, 3) of body parameters, or of pose (B, J * 3) and shape (B, S); see `Posed` for the frame.

        Raises UserError for parameters of another body model or more shape columns than it has, ValueError for other
        wrong shapes."""
        if isinstance(pose, BodyParameters):
            params = pose
            if params.model != self.name:
                raise UserError(f"body parameters are for the body model {params.model!r}, not {self.name!r}")
            return self.articulate(params.pose, params.shape).vertices
        if shape is None:
            raise ValueError(f"{type(self).__name__}: give body parameters, or both pose and shape")
        return self.articulate(pose, shape).vertices

    def articulate(self, pose: Tensor, shape: Tensor) -> Posed:
        """Vertices with the joints' places and rotations (to hang bags and hair on). fp32, also under autocast."""
        width = 3 * self.num_joints
        if pose.dim() != 2 or pose.shape[1] != width or shape.dim() != 2 or len(shape) != len(pose):
            raise ValueError(
                f"{type(self).__name__}: pose must be (B, {width}) and shape (B, S), one row per body, "
                f"got {tuple(pose.shape)} and {tuple(shape.shape)}"
            )
        self.check_shape(shape)
        with torch.autocast(pose.device.type, enabled=False):  # bf16 would move vertices by centimetres
            return self._pose(pose.float(), shape.float())

    def check_shape(self, shape: Tensor, where: str = "body parameters") -> None:
        """Raise UserError, naming `where`, unless this model has the columns of `shape` (B, S)."""
        if shape.shape[1] not in self.shape_columns:
            few, many = self.shape_columns[0], self.shape_columns[-1]
            raise UserError(
                f"{where}: shape has {shape.shape[1]} columns, expected {few} to {many}, as many as this "
                f"{type(self).__name__} has; estimate again, or give the model's file that they are for"
            )

    @abstractmethod
    def _pose(self, pose: Tensor, shape: Tensor) -> Posed:
        """What `articulate` returns, for checked fp32 input."""
