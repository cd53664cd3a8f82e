"""Rasterizer at 256x128: ours against a plain z-buffer loop, PyTorch3D where importable, and the memory floor.

    python benchmarks/rasterize.py                        # 64 bodies of 27,420 faces, 1 and all threads
    python benchmarks/rasterize.py --meshes 16 64 128 --faces 2400 13800 27400
    python benchmarks/rasterize.py --device cuda

The floor is one read of the vertices and one write of the pictures. Prints ms per mesh (min, median, max),
triangles per second, the fraction that the floor takes and how much faster all threads are than the fewest, and appends
to results/rasterize.csv.

Where the time of `rasterize` goes at 27,420 faces (scratch build with timers, AMD EPYC at 2.6 GHz, one thread, cores
shared, least of 25 runs): 40 us write the 655 kB of output and read the keys, 45 interpolate its 6,600 pixels (37 since
blocks span rows), 75 cover and depth of 43,000 (face, pixel) pairs, a third of them hits, 40 sorting 12,600 faces into
bins, 40 boxes of all faces, 8 the pixel cells of the vertices. Beyond the output, nothing there waits for memory: it is
bound by instructions.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from lib.reporting import measure_all, report
from torch import Tensor

from gcl_fast.bodies import AnnyBody, walking_pose
from gcl_fast.csrc import build
from gcl_fast.process import prepare_process
from gcl_fast.render import project, rasterize, render_structure

SIZE = (256, 128)
BODY_FACES = 27_400  # from here on the body itself, below it an egg of about as many faces


def walkers(count: int) -> tuple[Tensor, Tensor]:
    """Walking bodies (B, V, 3) in metres, faces (F, 3)."""
    body = AnnyBody()
    pose = walking_pose(torch.arange(8) / 8)
    return body(pose, torch.full((8, len(body.shape_names)), 0.5)).repeat(-(-count // 8), 1, 1)[:count], body.faces


def eggs(count: int, num_faces: int) -> tuple[Tensor, Tensor]:
    """Ellipsoids of a body's height, of about `num_faces` faces."""
    n = round((num_faces / 4) ** 0.5)  # n rings of 2 n quads
    polar, around = torch.linspace(0, torch.pi, n + 1), torch.arange(2 * n) * (torch.pi / n)
    t, p = torch.meshgrid(polar, around, indexing="ij")
    surface = torch.stack((0.35 * t.sin() * p.sin(), 0.85 * t.cos() + 0.85, 0.25 * t.sin() * p.cos()), dim=-1)
    i, j = (x.flatten() for x in torch.meshgrid(torch.arange(n), torch.arange(2 * n), indexing="ij"))
    a, b = i * 2 * n + j, i * 2 * n + (j + 1) % (2 * n)
    faces = torch.cat((torch.stack((a, a + 2 * n, b + 2 * n), 1), torch.stack((a, b + 2 * n, b), 1)))
    return surface.reshape(1, -1, 3).repeat(count, 1, 1), faces


def plain_loop(vertices: Tensor, faces: Tensor) -> Callable[[], object]:
    """plain_zbuffer.cpp, for one thread and the architecture's baseline instructions: of the rasterizer's flags it has
    neither -funroll-loops nor the clones for wider vectors."""
    source, flags = Path(__file__).parent / "lib" / "plain_zbuffer.cpp", ["-O3", "-std=c++20", "-ffp-contract=off"]
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
    """PyTorch3D's rasterizer on the same triangles, or None where it is not installed."""
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


def floor(vertices: Tensor) -> Callable[[], object]:
    """One pass over the vertices and the frame buffer."""
    return lambda: (vertices.sum(), torch.zeros(len(vertices), *SIZE, 5, device=vertices.device))


def main() -> None:
    """Time every contender on every size and report."""
    prepare_process()  # as train.py does
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--meshes", type=int, nargs="+", default=[64])
    parser.add_argument("--faces", type=int, nargs="+", default=[BODY_FACES])
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, os.cpu_count() or 1}))
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    for num_faces in arguments.faces:
        for count in arguments.meshes:
            bodies, faces = walkers(count) if num_faces >= BODY_FACES else eggs(count, num_faces)
            bodies, faces = bodies.to(arguments.device), faces.to(arguments.device)
            yaw = torch.arange(count, device=bodies.device) * 45.0
            camera = torch.tensor([[0.52, 0.5, 0.5, 8]], device=bodies.device).repeat(count, 1)
            vertices = project(bodies, yaw, camera, SIZE)
            ours: dict[str, Callable[[], object] | None] = {
                "floor": floor(vertices),
                "rasterize": partial(rasterize, vertices, faces, SIZE),
                "rasterize, culled": partial(rasterize, vertices, faces, SIZE, cull_backfaces=True),
                "structure": partial(render_structure, bodies, faces, yaw, camera, SIZE),
            }
            peers = {"pytorch3d": pytorch3d_peer(vertices, faces)}
            if vertices.device.type == "cpu":
                peers["plain loop"] = plain_loop(vertices, faces)
            medians: dict[int, dict[str, float]] = {}
            for threads in arguments.threads if vertices.device.type == "cpu" else [1]:
                torch.set_num_threads(threads)
                work = ours | (peers if threads == 1 else {})
                measured = measure_all({k: v for k, v in work.items() if v}, arguments.repeats, vertices.device.type)
                medians[threads] = {name: figures["median"] for name, figures in measured.items()}
                rows = [
                    {
                        "what": name,
                        "meshes": count,
                        "faces": len(faces),
                        **figures,
                        "ms_per_mesh": round(1e3 * figures["median"] / count, 4),
                        "Mtriangles_per_s": round(count * len(faces) / figures["median"] / 1e6, 1),
                        "floor_fraction": round(measured["floor"]["median"] / figures["median"], 3),
                    }
                    for name, figures in measured.items()
                ]
                print(f"{build.recipe().notice}; appended to {report('rasterize', rows, vertices.device.type)}")
            few, many = min(medians), max(medians)
            if few < many:
                gains = (f"{name} {medians[few][name] / medians[many][name]:.2f}x" for name in ours)
                print(f"{few} -> {many} threads: {'  '.join(gains)}")


if __name__ == "__main__":
    main()
