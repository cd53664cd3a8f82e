"""Make meshes, and rasterize them by our rasterizer's peers at 256x128."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from gcl_fast.bodies import AnnyBody, walking_pose
from gcl_fast.csrc import build

SIZE = (256, 128)


def walkers(count: int) -> tuple[Tensor, Tensor]:
    """Return the vertices (B, V, 3) of walking bodies in metres, and their faces (F, 3)."""
    body = AnnyBody()
    pose = walking_pose(torch.arange(8) / 8)
    return body(pose, torch.full((8, len(body.shape_names)), 0.5)).repeat(-(-count // 8), 1, 1)[:count], body.faces


def eggs(count: int, num_faces: int) -> tuple[Tensor, Tensor]:
    """Return ellipsoids of a body's height with about `num_faces` faces."""
    n = round((num_faces / 4) ** 0.5)  # n rings of 2 n quads
    polar, around = torch.linspace(0, torch.pi, n + 1), torch.arange(2 * n) * (torch.pi / n)
    t, p = torch.meshgrid(polar, around, indexing="ij")
    surface = torch.stack((0.35 * t.sin() * p.sin(), 0.85 * t.cos() + 0.85, 0.25 * t.sin() * p.cos()), dim=-1)
    i, j = (x.flatten() for x in torch.meshgrid(torch.arange(n), torch.arange(2 * n), indexing="ij"))
    a, b = i * 2 * n + j, i * 2 * n + (j + 1) % (2 * n)
    faces = torch.cat((torch.stack((a, a + 2 * n, b + 2 * n), 1), torch.stack((a, b + 2 * n, b), 1)))
    return surface.reshape(1, -1, 3).repeat(count, 1, 1), faces


def plain_loop(vertices: Tensor, faces: Tensor) -> Callable[[], object]:
    """Return a call of plain_zbuffer.cpp, built for one thread and the architecture's baseline instructions.

    Unlike the rasterizer it is built without -funroll-loops and without clones for wider vectors.
    """
    source, flags = Path(__file__).with_name("plain_zbuffer.cpp"), ["-O3", "-std=c++20", "-ffp-contract=off"]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "plain.so"
        command = [os.environ.get("CXX", "g++"), *flags, *build.NO_TRAPS, "-fPIC", "-shared"]
        subprocess.run([*command, str(source), "-o", str(output)], check=True)
        library = ctypes.CDLL(str(output))
    (B, V, _), (H, W) = vertices.shape, SIZE

    def work() -> None:
        out = torch.empty(B, H, W, dtype=torch.int32), torch.empty(B, H, W), torch.empty(B, H, W, 3)
        arrays = [ctypes.c_void_p(x.data_ptr()) for x in (vertices, faces, *out)]
        library.plain_zbuffer(*arrays[:2], B, V, len(faces), H, W, *arrays[2:])

    return work


def pytorch3d_peer(vertices: Tensor, faces: Tensor) -> Callable[[], object] | None:
    """Return a call of PyTorch3D's rasterizer on the same triangles, or None where it is not installed."""
    try:
        from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
        from pytorch3d.structures import Meshes
    except ModuleNotFoundError:
        return None
    H, W = SIZE
    ndc = torch.stack((W - 2 * vertices[..., 0], H - 2 * vertices[..., 1], vertices[..., 2] * 0 + 1), -1) / min(SIZE)
    ndc[..., 2] = vertices[..., 2] + 1000
    meshes = Meshes(ndc, faces.expand(len(vertices), -1, -1))
    return lambda: rasterize_meshes(meshes, image_size=SIZE, perspective_correct=False)
