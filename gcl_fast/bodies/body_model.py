"""Define what all body models share: the call, the coordinate frame and the checks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gcl_fast.bodies.donors import make_donors
from gcl_fast.bodies.parameters import BodyParameters
from gcl_fast.errors import UserError
from gcl_fast.kernels.transfer_appearance import Donors


class Posed(NamedTuple):
    """Holds posed bodies in metres.

    The y axis points up, +z to the front and +x to the person's left. The body stands on y = 0, and its pelvis is at
    x = z = 0.
    """

    vertices: Tensor  # (B, V, 3)
    joints: Tensor  # (B, J, 3) positions
    rotations: Tensor  # (B, J, 3, 3) from each joint's rest pose, in the body frame


class BodyModel(nn.Module, ABC):
    """Represents a body model: `body(params)` or `body(pose, shape)` returns vertices (B, V, 3).

    Subclasses define the meaning of pose and shape.

    Attributes:
        name: "anny" or "smpl", as in body-parameter files.
        joint_names: names of the J joints.
        faces: (F, 3) int64.
        template: (V, 3) vertices of an average body in the rest pose.
        shape_columns: the numbers of columns that shape may have.

    Example:
        >>> from gcl_fast.bodies import AnnyBody
        >>> body: BodyModel = AnnyBody()
        >>> body.name, body.num_joints, body.shape_columns
        ('anny', 19, range(6, 7))
        >>> posed = body.articulate(torch.zeros(2, 57), torch.full((2, 6), 0.5))
        >>> posed.joints.shape
        torch.Size([2, 19, 3])
    """

    name: str
    joint_names: list[str]
    faces: Tensor
    template: Tensor
    shape_columns: range
    _donors: Donors | None = None

    @property
    def donors(self) -> Donors:
        """Return the donors of each vertex for `transfer_appearance`, made at first use, on the body's device."""
        if self._donors is None or self._donors.vertex.device != self.faces.device:
            self._donors = make_donors(self.template, self.faces)
        return self._donors

    @property
    def num_joints(self) -> int:
        """Return the number of joints J."""
        return len(self.joint_names)

    def forward(self, pose: Tensor | BodyParameters, shape: Tensor | None = None) -> Tensor:
        """Return the vertices of posed bodies.

        Args:
            pose: body parameters of B bodies, or pose (B, J * 3) in radians.
            shape: (B, S), with a pose tensor.

        Returns:
            Vertices (B, V, 3) in metres; `Posed` describes the frame.

        Raises:
            UserError: the parameters are for another body model, or shape has a wrong number of columns.
            ValueError: pose or shape have other shapes, or shape is missing.
        """
        if isinstance(pose, BodyParameters):
            params = pose
            if params.model != self.name:
                raise UserError(f"body parameters are for the body model {params.model!r}, not {self.name!r}")
            return self.articulate(params.pose, params.shape).vertices
        if shape is None:
            raise ValueError(f"{type(self).__name__}: give body parameters, or both pose and shape")
        return self.articulate(pose, shape).vertices

    def articulate(self, pose: Tensor, shape: Tensor) -> Posed:
        """Return vertices, joints and rotations of posed bodies in float32, also under autocast.

        Args:
            pose: (B, J * 3) axis-angle in radians.
            shape: (B, S).

        Raises:
            UserError: shape has a wrong number of columns.
            ValueError: pose or shape have other shapes.
        """
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
        """Do the work of `articulate`, for checked float32 input."""
