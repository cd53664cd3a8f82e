"""The rasterizer: which face of a mesh each pixel sees, at what depth, and where on the face.

Its kernels are C++ on a CPU and CUDA on a GPU, and both share their arithmetic (csrc/raster.h). Where the library was
built without CUDA, the CPU serves tensors on a GPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from gcl_fast.csrc.build import load, recipe
from gcl_fast.kernels._checks import register_fake

__all__ = ["rasterize"]

load()


class Fragments(NamedTuple):
    """Holds what a rasterizer sees at each pixel."""

    face_index: Tensor  # (B, H, W) int32, -1 = background
    depth: Tensor  # (B, H, W), 0 = background
    barycentric: Tensor  # (B, H, W, 3) weights of the face's corners, their sum is 1; 0 = background


def rasterize(
    vertices: Tensor, faces: Tensor, size: tuple[int, int], *, cull_backfaces: bool = False, perspective: bool = False
) -> Fragments:
    """Find the nearest face at the centre of every pixel of a batch of meshes.

    Pixel (row, column) is sampled at y = row + 0.5, x = column + 0.5. A centre on a shared edge belongs to exactly one
    of its faces; among equally near faces the lowest index wins, so the result does not depend on threads or device.

    Args:
        vertices: (B, V, 3) float32: x (right) and y (down) in pixels, and depth; smaller depth is nearer.
        faces: (F, 3) or (B, F, 3) int64 vertex indices, counter-clockwise seen from outside.
        size: (H, W) in pixels.
        cull_backfaces: leave out faces seen from behind; the image of a closed mesh stays the same.
        perspective: depth is distance along the camera's axis and x, y have been divided by it: interpolate
            perspective-correctly, and leave out faces with a corner that is not before the camera (depth > 0).

    Returns:
        `Fragments`; depth and barycentric are differentiable in `vertices`. Faces without area, and faces with a corner
        that is not finite (beyond 1e9 counts as infinite), are not drawn.

    Raises:
        RuntimeError: wrong shape, dtype or device; on the CPU also an index out of range (on the GPU such a face is not
            drawn, because telling the host would cost a synchronization).

    Example:
        >>> vertices = torch.tensor([[[0.0, 0.0, 1.0], [3.0, 0.0, 1.0], [0.0, 3.0, 1.0]]])
        >>> seen = rasterize(vertices, torch.tensor([[0, 2, 1]]), size=(2, 3))
        >>> seen.face_index[0]
        tensor([[ 0,  0, -1],
                [ 0, -1, -1]], dtype=torch.int32)
        >>> seen.depth[0, 0]
        tensor([1., 1., 0.])
    """
    depth, barycentric, face_index = torch.ops.gcl_fast.rasterize(vertices, faces, *size, cull_backfaces, perspective)
    return Fragments(face_index, depth, barycentric)


def _edge(p: Tensor, q: Tensor) -> Tensor:
    return p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0]


def _interpolate(corners: Tensor, centre: Tensor, perspective: bool) -> tuple[Tensor, Tensor]:
    """Return barycentric weights (..., 3) and depth (...) of triangles (..., 3 corners, 3) at centres (..., 2)."""
    a, b, c = (corners[..., :2] - centre[..., None, :]).unbind(-2)
    weight = torch.stack((_edge(b, c), _edge(c, a), _edge(a, b)), dim=-1)
    if perspective:
        weight = weight / corners[..., 2]
    weight = weight / weight.sum(-1, keepdim=True)
    return weight, (weight * corners[..., 2]).sum(-1)


def rasterize_reference(
    vertices: Tensor, faces: Tensor, size: tuple[int, int], *, cull_backfaces: bool = False, perspective: bool = False
) -> Fragments:
    """Define `rasterize` in plain PyTorch: every face against every pixel, in the dtype of `vertices`.

    Arguments and result are those of `rasterize`; it is differentiable as well.

    Example:
        >>> vertices = torch.tensor([[[0.0, 0.0, 1.0], [3.0, 0.0, 1.0], [0.0, 3.0, 1.0]]], dtype=torch.float64)
        >>> rasterize_reference(vertices, torch.tensor([[0, 2, 1]]), size=(2, 3)).face_index[0]
        tensor([[ 0,  0, -1],
                [ 0, -1, -1]], dtype=torch.int32)
    """
    H, W = size
    rows, columns = torch.meshgrid(*(torch.arange(n, device=vertices.device) + 0.5 for n in size), indexing="ij")
    centre = torch.stack((columns, rows), dim=-1).to(vertices.dtype)  # (H, W, 2)
    batch = torch.arange(len(vertices), device=vertices.device)
    corners = vertices[batch[:, None, None], faces.expand(len(vertices), -1, 3)]  # (B, F, 3, 3)
    nearest = vertices.new_full((len(vertices), H, W), torch.inf)
    face_index = torch.full((len(vertices), H, W), -1, dtype=torch.int32, device=vertices.device)
    for f in range(faces.shape[-2]):
        triangle = corners[:, f, None, None].detach()  # (B, 1, 1, 3, 3)
        weight, depth = _interpolate(triangle, centre, perspective)
        a, b, c = triangle[..., :2].unbind(-2)
        clockwise = _edge(b - a, c - a) > 0  # on the screen, where y grows down
        inside = (weight.amin(-1) > 0) | ((weight.amin(-1) == 0) & _owns(triangle, weight, clockwise))
        drawn = triangle.isfinite().all(-1).all(-1) & ~(clockwise & cull_backfaces)
        if perspective:
            drawn = drawn & (triangle[..., 2] > 0).all(-1)
        nearer = inside & drawn & (depth < nearest)
        nearest, face_index = torch.where(nearer, depth, nearest), torch.where(nearer, f, face_index)
    seen = face_index >= 0
    if not faces.shape[-2]:
        return Fragments(face_index, nearest.new_zeros(nearest.shape), nearest.new_zeros((*nearest.shape, 3)))
    chosen = corners[batch[:, None, None], face_index.clamp(min=0).long()]  # (B, H, W, 3, 3)
    safe = torch.where(seen[..., None, None], chosen, chosen.new_tensor([[0, 0, 1], [1e4, 0, 1], [0, 1e4, 1]]))
    weight, depth = _interpolate(safe, centre, perspective)
    return Fragments(face_index, torch.where(seen, depth, 0), torch.where(seen[..., None], weight, 0))


def _owns(triangle: Tensor, weight: Tensor, clockwise: Tensor) -> Tensor:
    """Tell whether every edge that a pixel centre lies on is a left or a top edge of its triangle."""
    step = triangle[..., [2, 0, 1], :2] - triangle[..., [1, 2, 0], :2]  # the edges opposite to corners a, b, c
    dx, dy = torch.where(clockwise[..., None, None], step, -step).unbind(-1)
    return ((weight != 0) | (dy < 0) | ((dy == 0) & (dx > 0))).all(-1)


@register_fake("rasterize")
def _(
    vertices: Tensor, faces: Tensor, height: int, width: int, cull_backfaces: bool = False, perspective: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (vertices.shape[0], height, width)
    return vertices.new_empty(shape), vertices.new_empty((*shape, 3)), vertices.new_empty(shape, dtype=torch.int32)


@register_fake("rasterize_backward")
def _(
    grad_depth: Tensor,
    grad_barycentric: Tensor,
    vertices: Tensor,
    faces: Tensor,
    face_index: Tensor,
    perspective: bool,
) -> Tensor:
    return torch.empty_like(vertices, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    vertices, faces, *_, ctx.perspective = inputs
    ctx.save_for_backward(vertices, faces, output[2])
    ctx.mark_non_differentiable(output[2])


def _backward(ctx: Any, grad_depth: Tensor, grad_barycentric: Tensor, _: None) -> tuple[Tensor | None, ...]:
    grad = torch.ops.gcl_fast.rasterize_backward(grad_depth, grad_barycentric, *ctx.saved_tensors, ctx.perspective)
    return grad, None, None, None, None, None


torch.library.register_autograd("gcl_fast::rasterize", _backward, setup_context=_save)
for _device in ("cpu", "cuda"):
    torch.library.register_autocast("gcl_fast::rasterize", _device, torch.float32)


def through_the_cpu(name: str) -> Callable[..., Any]:
    """Return the op `name` for tensors on a GPU by its CPU kernel, between two copies.

    The first call of a process warns of it and names what the library was built for.
    """
    op = getattr(torch.ops.gcl_fast, name)

    def kernel(*arguments: Any) -> Any:
        device = arguments[0].device
        warn_of_the_detour()
        results = op(*tree_map_only(Tensor, Tensor.cpu, arguments))
        return tree_map_only(Tensor, lambda result: result.to(device), results)

    return kernel


@cache
def warn_of_the_detour() -> None:
    """Warn once in a process that tensors on a GPU go by the CPU."""
    warnings.warn(
        f"gcl_fast's rasterizer serves GPU tensors on the CPU, between two copies: its ops were built for"
        f" {recipe().notice}",
        stacklevel=2,
    )


# A library that was built without a CUDA toolkit has none: the run's header says so, and tensors go by the CPU.
HAS_CUDA_KERNELS = torch._C._dispatch_has_kernel_for_dispatch_key("gcl_fast::rasterize", "CUDA")
if not HAS_CUDA_KERNELS:
    for _name in ("rasterize", "rasterize_backward"):
        torch.library.register_kernel(f"gcl_fast::{_name}", "cuda", through_the_cpu(_name))
