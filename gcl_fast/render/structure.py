"""Structure maps of posed bodies under any yaw: the camera of a crop, then the op `kernels.structure_maps`."""

from __future__ import annotations

import torch
from torch import Tensor

from gcl_fast.kernels.structure_maps import structure_maps, structure_maps_reference
from gcl_fast.render.camera import view_transform


def render_structure_reference(
    vertices: Tensor, faces: Tensor, yaw: Tensor, camera: Tensor, size: tuple[int, int]
) -> Tensor:
    """Define `render_structure` in plain PyTorch; arguments and result are the same. Differentiable.

    Example:
        >>> vertices = torch.tensor([[[-0.5, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, 2.0, 0.0]]])
        >>> yaw, camera = torch.zeros(1), torch.tensor([[0.4, 0.5, 0.5, 0.0]])
        >>> (render_structure_reference(vertices, torch.tensor([[0, 1, 2]]), yaw, camera, (5, 3)) < 1).int()[0, 0]
        tensor([[0, 0, 0],
                [0, 1, 0],
                [0, 1, 0],
                [0, 1, 0],
                [0, 0, 0]], dtype=torch.int32)
    """
    return structure_maps_reference(vertices, faces, view_transform(vertices, yaw, camera, size), size)


def render_structure(vertices: Tensor, faces: Tensor, yaw: Tensor, camera: Tensor, size: tuple[int, int]) -> Tensor:
    """Draw the structure maps of posed bodies, seen under any yaw by the cameras of their crops. Not differentiable.

    Args:
        vertices: (B, V, 3) float32 metres in the body frame: y up, facing +z, feet at y = 0; V >= 1.
        faces: (F, 3) int64 of a closed mesh, counter-clockwise seen from outside. Faces seen from behind are left out.
        yaw: (B,) degrees; 0 faces the camera, +90 the image's right, 180 shows the back.
        camera: (B, 4) scale (crop heights per metre), x, y (fractions of the crop), pitch (degrees), see `project`.
        size: (H, W) in pixels.

    Returns:
        (B, 1, H, W) in [-1, 1]: the body in shaded grey, white background (+1).

    Raises:
        RuntimeError: wrong shape, dtype or device; on the CPU also an index out of range.

    Example:
        >>> vertices = torch.tensor([[[-0.5, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, 2.0, 0.0]]])
        >>> yaw, camera = torch.zeros(1), torch.tensor([[0.4, 0.5, 0.5, 0.0]])
        >>> render_structure(vertices, torch.tensor([[0, 1, 2]]), yaw, camera, (5, 3)).shape
        torch.Size([1, 1, 5, 3])
    """
    with torch.no_grad():
        return structure_maps(vertices, faces, view_transform(vertices, yaw, camera, size), size)
