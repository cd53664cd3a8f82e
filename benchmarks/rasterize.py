"""Time the rasterizer at 256x128 against a plain z-buffer loop, PyTorch3D if installed, and the memory floor.

    python benchmarks/rasterize.py                        # 64 bodies of 27,420 faces, 1 and all threads
    python benchmarks/rasterize.py --meshes 16 64 128 --faces 2400 13800 27400
    python benchmarks/rasterize.py --device cuda

The floor is one read of the vertices and one write of the images. Prints ms per mesh (min, median, max), triangles per
second, the floor's share of the time, and the speed-up by more threads. Appends to results/rasterize.csv.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from gcl_fast.csrc import build
from gcl_fast.process import prepare_process
from gcl_fast.render import project, rasterize, render_structure
from lib.meshes import SIZE, eggs, plain_loop, pytorch3d_peer, walkers
from lib.reporting import measure_all, report

BODY_FACES = 27_400  # from here on the body itself, below it an egg of about as many faces


def floor(vertices: Tensor) -> Callable[[], object]:
    """Return a call of one pass over the vertices and the frame buffer."""
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
