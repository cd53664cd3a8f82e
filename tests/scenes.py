"""Meshes for the tests: random triangles, and closed surfaces."""

from __future__ import annotations

import torch
from torch import Tensor


def soup(B: int, V: int, F: int, size: tuple[int, int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random triangles (B, V, 3), (F, 3), partly outside the picture, depth 0.6..2.6; the last repeats the first."""
    generator = torch.Generator().manual_seed(seed)
    vertices = torch.rand(B, V, 3, generator=generator) * 1.6 - 0.3
    vertices = vertices * torch.tensor([size[1], size[0], 1.25]) + torch.tensor([0, 0, 0.575])
    faces = torch.randint(V, (F, 3), generator=generator)  # some repeat a vertex: no area
    faces[-1:] = faces[:1]
    return vertices, faces


def sphere(rings: int, segments: int) -> tuple[Tensor, Tensor]:
    """Closed unit sphere (V, 3), (F, 3), y up, counter-clockwise seen from outside."""
    polar = torch.linspace(0, torch.pi, rings + 1)[1:-1]
    around = torch.arange(segments) * (2 * torch.pi / segments)
    t, p = torch.meshgrid(polar, around, indexing="ij")
    ring = torch.stack((t.sin() * p.sin(), t.cos(), t.sin() * p.cos()), dim=-1).reshape(-1, 3)
    top, bottom = len(ring), len(ring) + 1
    vertices = torch.cat((ring, torch.tensor([[0.0, 1, 0], [0, -1, 0]])))
    i, j = (x.flatten() for x in torch.meshgrid(torch.arange(rings - 2), torch.arange(segments), indexing="ij"))
    a, b = i * segments + j, i * segments + (j + 1) % segments
    c, d = a + segments, b + segments
    j = torch.arange(segments)
    k, last = (j + 1) % segments, (rings - 2) * segments
    caps = (
        torch.stack((torch.full_like(j, top), j, k), 1),
        torch.stack((torch.full_like(j, bottom), last + k, last + j), 1),
    )
    return vertices, torch.cat((torch.stack((a, c, d), 1), torch.stack((a, d, b), 1), *caps))
