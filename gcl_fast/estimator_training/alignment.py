"""Measure how far estimated bodies are from the true ones in their crops, as structure maps depend on it.

Errors of the vector's columns are not enough. A crop shows how much of its height a person fills; it does not show
whether a tall person is far or a short one near. A network that learns only the columns predicts the mean height and
the mean scale. These do not belong together, and so its bodies do not fill the crop as the person does.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gcl_fast.bodies import AnnyBody, posture
from gcl_fast.bodies.body_regressor import SIZE
from gcl_fast.render import project

POINTS = 400  # of the 13,718 of the skin; fewer take less time


class Alignment:
    """Compares bodies at points that are spread evenly over the skin, differentiably."""

    def __init__(self) -> None:
        self.body = _thinned(POINTS)

    def __call__(self, vector: Tensor, truth: Tensor, yaw: Tensor) -> Tensor:
        """Return the smooth L1 error in pixels, the mean over points and over x, y and depth.

        Both bodies are turned by the true yaw. Depth counts, as it is x in views from other sides.

        Args:
            vector: (B, WIDTH) of the estimated bodies.
            truth: (B, WIDTH) of the true ones.
            yaw: (B,) degrees.

        Returns:
            (B,) errors.
        """
        estimate, target = (self._points(value, yaw) for value in (vector, truth))
        return F.smooth_l1_loss(estimate, target, reduction="none").mean((1, 2))

    def _points(self, vector: Tensor, yaw: Tensor) -> Tensor:
        """Return the points of bodies in their crops."""
        bodies = posture.decode(vector)
        return project(self.body(bodies.pose, bodies.shape), yaw, bodies.camera, SIZE)  # (B, POINTS, 3)


def _thinned(count: int) -> AnnyBody:
    """Return a body of `count` vertices, drawn by the area around them, without faces to render."""
    body = AnnyBody()
    a, b, c = body.template[body.faces].unbind(1)
    corner_area = torch.linalg.cross(b - a, c - a).norm(dim=1).repeat_interleave(3)
    area = torch.zeros(len(body.template)).index_add(0, body.faces.flatten(), corner_area)
    vertices = torch.multinomial(area, count, generator=torch.Generator().manual_seed(0)).sort().values
    joints = torch.arange(body.num_joints) + len(area)
    columns = torch.cat((vertices, joints))  # of each plane of a rest pose
    body.mean = body.mean.view(3, -1)[:, columns].flatten()
    body.basis = body.basis.unflatten(1, (3, -1))[:, :, columns].flatten(1)
    body.weights = body.weights[:, vertices]
    body.template, body.faces = body.template[vertices], body.faces[:0]
    return body
