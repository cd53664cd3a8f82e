"""Structure maps: bodies as shaded grey pictures on white."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from gcl_fast.render.camera import project, view_transform
from gcl_fast.render.rasterizer import rasterize

AMBIENT, HEADLIGHT, KEY = 0.2, 0.4, 0.25  # grey of a surface: in shadow, added by the lamp at the camera, by the other
KEY_DIRECTION = (-0.6, -0.6, -0.529150262)  # towards the other lamp, in the image frame: left, above, before the body


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Unit normals of vertices: the area-weighted mean of their faces' normals; zero where there is none.

    Args:
        vertices: (B, V, 3), any unit.
        faces: (F, 3) int64, counter-clockwise seen from outside.

    Returns:
        (B, V, 3), pointing outwards in a right-handed frame. Differentiable.
    """
    a, b, c = vertices[:, faces].unbind(2)
    normal = torch.linalg.cross(b - a, c - a)  # (B, F, 3)
    total = torch.zeros_like(vertices).index_add(1, faces.flatten(), normal.repeat_interleave(3, 1))
    return normalize(total, dim=-1, eps=torch.finfo(vertices.dtype).tiny)


def shade(normal: Tensor) -> Tensor:
    """Grey 0..1 of surfaces with normals (..., 3) of any length in the image frame, lit from the camera's side."""
    normal = normalize(normal, dim=-1, eps=torch.finfo(normal.dtype).tiny)
    key = normal @ normal.new_tensor(KEY_DIRECTION)
    return AMBIENT + HEADLIGHT * (-normal[..., 2]).clamp(min=0) + KEY * key.clamp(min=0)


def render_structure_reference(
    vertices: Tensor, faces: Tensor, yaw: Tensor, camera: Tensor, size: tuple[int, int]
) -> Tensor:
    """The definition of `render_structure`: project, rasterize, interpolate the normals, shade. Differentiable."""
    if not len(faces):
        return vertices.new_ones((len(vertices), 1, *size))
    projected = project(vertices, yaw, camera, size)
    seen = rasterize(projected, faces, size, cull_backfaces=True)
    batch = torch.arange(len(vertices), device=vertices.device)[:, None, None, None]
    corner = vertex_normals(projected, faces)[batch, faces[seen.face_index.clamp(min=0).long()]]  # (B, H, W, 3, 3)
    grey = shade((corner * seen.barycentric[..., None]).sum(-2))
    return torch.where(seen.face_index >= 0, 2 * grey - 1, 1)[:, None]


def render_structure(vertices: Tensor, faces: Tensor, yaw: Tensor, camera: Tensor, size: tuple[int, int]) -> Tensor:
    """Structure maps of posed bodies, seen under any yaw by the cameras of their crops. Not differentiable.

    Args:
        vertices: (B, V, 3) float32 metres in the body frame: y up, facing +z, feet at y = 0; V >= 1.
        faces: (F, 3) int64 of a closed mesh, counter-clockwise seen from outside (faces seen from behind are left out).
        yaw: (B,) degrees; 0 faces the camera, +90 the image's right, 180 shows the back.
        camera: (B, 4) scale (crop heights per metre), x, y (fractions of the crop), pitch (degrees), see `project`.
        size: (H, W) in pixels.

    Returns:
        (B, 1, H, W) in [-1, 1]: body in shaded grey, white background (+1).

    Raises:
        RuntimeError: wrong shape, dtype or device; on the CPU also an index out of range.
    """
    with torch.no_grad():
        return torch.ops.gcl_fast.structure(vertices, faces, view_transform(vertices, yaw, camera, size), *size)


@torch.library.register_fake("gcl_fast::structure")
def _(vertices, faces, transform, height, width):
    return vertices.new_empty((vertices.shape[0], 1, height, width))


for _device in ("cpu", "cuda"):
    torch.library.register_autocast("gcl_fast::structure", _device, torch.float32)
