"""Structure maps: meshes as shaded grey images on white, in one op from vertices to pixels.

Its kernels are C++ on a CPU and CUDA on a GPU. Transform, normals, z-buffer and shading of a mesh run while it is in
the cache; `python benchmarks/rasterize.py` compares them with the definition.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from gcl_fast.csrc.build import load
from gcl_fast.kernels._checks import register_fake
from gcl_fast.kernels.rasterize import HAS_CUDA_KERNELS, rasterize, through_the_cpu

__all__ = ["shade", "structure_maps", "transform_vertices", "vertex_normals"]

AMBIENT, HEADLIGHT, KEY = 0.2, 0.4, 0.25  # grey in shadow, and what the lamp at the camera and the key lamp add
KEY_DIRECTION = (-0.6, -0.6, -0.529150262)  # towards the key lamp, in the image frame: left, above, before the body


def transform_vertices(vertices: Tensor, transform: Tensor) -> Tensor:
    """Apply affine maps to meshes, as to pixels and depth.

    Args:
        vertices: (B, V, 3), any frame.
        transform: (B, 3, 4).

    Returns:
        (B, V, 3). Differentiable.

    Example:
        >>> shift = torch.tensor([[[1.0, 0.0, 0.0, 5.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]])
        >>> transform_vertices(torch.tensor([[[1.0, 2.0, 3.0]]]), shift)
        tensor([[[6., 2., 3.]]])
    """
    return vertices @ transform[..., :3].transpose(1, 2) + transform[:, None, :, 3]


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Compute unit normals of vertices: the area-weighted mean of their faces' normals, zero where there is none.

    Args:
        vertices: (B, V, 3), any unit.
        faces: (F, 3) int64, counter-clockwise seen from outside.

    Returns:
        (B, V, 3), pointing outwards in a right-handed frame. Differentiable.

    Example:
        >>> vertices = torch.tensor([[[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
        >>> vertex_normals(vertices, torch.tensor([[0, 1, 2]]))[0, 0]
        tensor([0., 0., 1.])
    """
    a, b, c = vertices[:, faces].unbind(2)
    normal = torch.linalg.cross(b - a, c - a)  # (B, F, 3)
    total = torch.zeros_like(vertices).index_add(1, faces.flatten(), normal.repeat_interleave(3, 1))
    return normalize(total, dim=-1, eps=torch.finfo(vertices.dtype).tiny)


def shade(normal: Tensor) -> Tensor:
    """Compute the grey of surfaces that are lit from the camera's side.

    Args:
        normal: (..., 3) of any length, in the image frame: x right, y down, depth away from the camera.

    Returns:
        (...) grey in 0..1.

    Example:
        >>> shade(torch.tensor([[0.0, 0.0, -2.0], [0.0, 0.0, 1.0]]))  # towards the camera, away from it
        tensor([0.7323, 0.2000])
    """
    normal = normalize(normal, dim=-1, eps=torch.finfo(normal.dtype).tiny)
    key = normal @ normal.new_tensor(KEY_DIRECTION)
    return AMBIENT + HEADLIGHT * (-normal[..., 2]).clamp(min=0) + KEY * key.clamp(min=0)


def structure_maps_reference(vertices: Tensor, faces: Tensor, transform: Tensor, size: tuple[int, int]) -> Tensor:
    """Define `structure_maps` in plain PyTorch and `rasterize`; it is differentiable as well."""
    if not len(faces):
        return vertices.new_ones((len(vertices), 1, *size))
    projected = transform_vertices(vertices, transform)
    seen = rasterize(projected, faces, size, cull_backfaces=True)
    batch = torch.arange(len(vertices), device=vertices.device)[:, None, None, None]
    corner = vertex_normals(projected, faces)[batch, faces[seen.face_index.clamp(min=0).long()]]  # (B, H, W, 3, 3)
    grey = shade((corner * seen.barycentric[..., None]).sum(-2))
    return torch.where(seen.face_index >= 0, 2 * grey - 1, 1)[:, None]


def structure_maps(vertices: Tensor, faces: Tensor, transform: Tensor, size: tuple[int, int]) -> Tensor:
    """Draw meshes as shaded grey images on white. Not differentiable.

    Args:
        vertices: (B, V, 3) float32 in any frame; V >= 1.
        faces: (F, 3) int64 of a closed mesh, counter-clockwise seen from outside. Faces seen from behind are left out.
        transform: (B, 3, 4) float32 affine maps from that frame to pixels (x right, y down) and depth.
        size: (H, W) in pixels.

    Returns:
        (B, 1, H, W) float32 in [-1, 1]: the mesh in shaded grey, +1 elsewhere.

    Raises:
        RuntimeError: wrong shape, dtype or device; on the CPU also an index out of range.

    Example:
        >>> vertices = torch.tensor([[[0.0, 0.0, 1.0], [3.0, 0.0, 1.0], [0.0, 3.0, 1.0]]])
        >>> structure_maps(vertices, torch.tensor([[0, 2, 1]]), torch.eye(3, 4)[None], (2, 3))[0, 0]
        tensor([[0.4646, 0.4646, 1.0000],
                [0.4646, 1.0000, 1.0000]])
    """
    with torch.no_grad():
        return torch.ops.gcl_fast.structure_maps(vertices, faces, transform, *size)


load()


@register_fake("structure_maps")
def _(vertices: Tensor, faces: Tensor, transform: Tensor, height: int, width: int) -> Tensor:
    return vertices.new_empty((vertices.shape[0], 1, height, width))


for _device in ("cpu", "cuda"):
    torch.library.register_autocast("gcl_fast::structure_maps", _device, torch.float32)
if not HAS_CUDA_KERNELS:
    torch.library.register_kernel("gcl_fast::structure_maps", "cuda", through_the_cpu("structure_maps"))
