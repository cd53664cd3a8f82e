"""The CUDA rasterizer, built by the host compiler, in three thread orders: it must equal the CPU rasterizer."""

import ctypes
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch

from gcl_fast.bodies import AnnyBody, walking_pose
from gcl_fast.bodies.donors import make_donors
from gcl_fast.csrc import build
from gcl_fast.kernels.transfer_appearance import MARGIN, TOLERANCE, transfer_appearance
from gcl_fast.render import rasterize, render_structure
from gcl_fast.render.camera import view_transform

HERE = Path(__file__).parent
ORDERS = {"forward": 0, "reverse": 1, "shuffled": 2}
SIZE = (67, 41)  # larger than a tile and no multiple of one


def compile_host(folder: Path, output: Path, source: str = "rasterize_on_host.cpp") -> ctypes.CDLL:
    more = shlex.split(os.environ.get("GCL_FAST_CXXFLAGS", ""))  # of the sanitizers
    flags = ["-std=c++20", "-O2", *build.WARNINGS, "-Werror", "-Wno-unused-function"]
    flags += ["-ffp-contract=off", "-fPIC", "-shared"]
    command = [*build.recipe().compilers[0], *flags, f"-I{folder}", f"-I{build.CSRC}"]
    ours = os.environ | {"LD_PRELOAD": ""}  # a sanitizer is for what is compiled, not for the compiler
    subprocess.run([*command, *more, str(HERE / source), "-o", str(output)], env=ours, check=True)
    return ctypes.CDLL(str(output))


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> ctypes.CDLL:
    return compile_host(build.CSRC, tmp_path_factory.mktemp("host") / "rasterize.so")


def scene() -> tuple[torch.Tensor, torch.Tensor]:
    """Triangles small and large (more than 256 box pixels), with ties, without area, not finite, out of the picture."""
    generator = torch.Generator().manual_seed(3)
    centre = torch.rand(2, 150, 1, 3, generator=generator) * 1.4 - 0.2
    reach = torch.linspace(0.02, 1.2, 150)[:, None, None]
    corners = centre + (torch.rand(2, 150, 3, 3, generator=generator) - 0.5) * reach
    vertices = (corners * torch.tensor([SIZE[1], SIZE[0], 1.0]) + torch.tensor([0, 0, 1.0])).flatten(1, 2)
    faces = torch.arange(450).view(150, 3)
    faces[10], faces[11] = faces[140], torch.tensor([3, 3, 4])
    vertices[0, 100], vertices[1, 200] = torch.nan, torch.inf
    return vertices, faces


def pointers(*tensors: torch.Tensor) -> list[ctypes.c_void_p]:
    assert all(x.is_contiguous() for x in tensors)
    return [ctypes.c_void_p(x.data_ptr()) for x in tensors]


def on_host(library, vertices, faces, order, cull=False, perspective=False):
    (B, V, _), (H, W) = vertices.shape, SIZE
    out = torch.empty(B, H, W, dtype=torch.int32), torch.empty(B, H, W), torch.empty(B, H, W, 3)
    sizes = (int(faces.dim() == 3), B, V, faces.shape[-2], H, W, int(cull), int(perspective), ORDERS[order])
    assert library.rasterize_on_host(*pointers(vertices, faces), *sizes, *pointers(*out)) == 0
    return out


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("cull", "perspective"), [(False, False), (True, False), (False, True), (True, True)])
def test_equals_cpu_bit_for_bit(library, order, cull, perspective):
    vertices, faces = scene()
    ours = rasterize(vertices, faces, SIZE, cull_backfaces=cull, perspective=perspective)
    for cpu, cuda in zip(ours, on_host(library, vertices, faces, order, cull, perspective)):
        assert torch.equal(cpu, cuda)
    assert len(ours.face_index.unique()) > 30


def test_own_faces_and_faces_out_of_range(library):
    vertices, faces = scene()
    own = torch.stack((faces, faces.flip(0)))
    ours = rasterize(vertices, own, SIZE)
    assert torch.equal(ours.face_index, on_host(library, vertices, own, "shuffled")[0])
    wrong = faces.clone()
    wrong[::2, 1], wrong[1::4, 2] = 450, -1
    kept = torch.arange(150)[3::4]
    seen = on_host(library, vertices, wrong, "forward")[0]
    expected = rasterize(vertices, faces[kept], SIZE).face_index
    assert torch.equal(seen, torch.where(expected < 0, -1, kept[expected.clamp(min=0).long()]).int())


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("perspective", [False, True])
def test_gradients_equal_cpu(library, order, perspective):
    vertices, faces = scene()
    seen = rasterize(vertices.requires_grad_(), faces, SIZE, perspective=perspective)
    generator = torch.Generator().manual_seed(0)
    grads = torch.randn(seen.depth.shape, generator=generator), torch.randn(seen.barycentric.shape, generator=generator)
    ours = torch.autograd.grad([seen.depth, seen.barycentric], vertices, grads)[0]
    theirs = torch.zeros_like(ours)
    sizes = (2, 450, 150, *SIZE, int(perspective), ORDERS[order])
    arrays = pointers(seen.face_index, *grads, theirs)
    assert library.backward_on_host(*pointers(vertices.detach(), faces), *sizes, *arrays) == 0
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4 * ours.abs().max().item())
    assert ours.any()


def test_a_pixel_of_a_face_that_is_not_there_has_no_gradient(library):
    vertices, faces = scene()
    face_index = torch.tensor([0, 150, 2**31 - 1, -1], dtype=torch.int32).repeat(2, SIZE[0], 11)[..., : SIZE[1]]
    face_index, wrong = face_index.contiguous(), faces.clone()
    wrong[0, 1] = 450
    for meshes, pixels in ((faces, face_index.where(face_index != 0, -1)), (wrong, face_index)):
        grad, grads = torch.zeros_like(vertices), (torch.ones(2, *SIZE), torch.ones(2, *SIZE, 3))
        arrays = pointers(pixels, *grads, grad)
        assert library.backward_on_host(*pointers(vertices, meshes), 2, 450, 150, *SIZE, 0, 0, *arrays) == 0
        assert not grad.any()


def test_structure_maps_equal_cpu_in_every_order(library):
    generator = torch.Generator().manual_seed(0)
    vertices = torch.rand(2, 60, 3, generator=generator)
    faces = torch.randint(60, (80, 3), generator=generator)
    yaw, camera = torch.tensor([30.0, 200]), torch.tensor([[0.5, 0.5, 0.5, 10]]).repeat(2, 1)
    ours = render_structure(vertices, faces, yaw, camera, SIZE)
    transform = view_transform(vertices, yaw, camera, SIZE).contiguous()
    results = []
    for order in ORDERS.values():
        out = torch.empty(2, 1, *SIZE)
        arrays = pointers(vertices, faces, transform)
        assert library.structure_on_host(*arrays, 2, 60, 80, *SIZE, order, *pointers(out)) == 0
        results.append(out)
    assert torch.equal(results[0], results[1])  # bit for bit: sums of normals are integers
    assert torch.equal(results[0], results[2])
    torch.testing.assert_close(results[0], ours, rtol=0, atol=1e-4)
    assert (ours < 1).float().mean() > 0.1


def test_transfer_equals_cpu_in_every_order(tmp_path):
    library = compile_host(build.CSRC, tmp_path / "transfer.so", "transfer_on_host.cpp")
    body = AnnyBody()
    donors = make_donors(body.template, body.faces)
    vertices = body(walking_pose(torch.tensor([0.0, 0.7])), torch.full((2, 6), 0.5))
    camera = torch.tensor([[0.5, 0.5, 0.5, 10]]).repeat(2, 1)
    source, target = (
        view_transform(vertices, torch.tensor(yaw), camera, SIZE).contiguous() for yaw in ([30.0, 200], [150.0, 245])
    )
    generator = torch.Generator().manual_seed(0)
    images, grad = torch.rand(2, 3, *SIZE, generator=generator), torch.randn(2, *SIZE, 3, generator=generator)
    results = []
    for order in ORDERS.values():
        colour, confidence, gradient = torch.empty(2, *SIZE, 3), torch.empty(2, 1, *SIZE), torch.empty(2, *SIZE, 3)
        arrays = pointers(images, vertices, vertices, body.faces, *donors, source, target)
        sizes = (2, 3, vertices.shape[1], len(body.faces), donors.vertex.shape[1], *SIZE, order)
        lengths = ctypes.c_float(TOLERANCE), ctypes.c_float(MARGIN)
        outputs = pointers(colour, confidence, grad, gradient)
        assert library.transfer_on_host(*arrays, *lengths, *sizes, *outputs) == 0
        results.append((colour.permute(0, 3, 1, 2), confidence, gradient.permute(0, 3, 1, 2)))
    images.requires_grad_()
    ours = transfer_appearance(images, vertices, body.faces, donors, source, target)
    (ours_gradient,) = torch.autograd.grad(ours.colour, images, grad.permute(0, 3, 1, 2))
    for first, second, third in zip(*results):
        assert torch.equal(first, second)
        assert torch.equal(first, third)
    for cuda, cpu in zip(results[0], (*ours, ours_gradient)):  # normals are rounded to fixed point on CUDA
        assert ((cuda - cpu).abs() > 1e-3).float().mean() <= 1e-3
        assert cpu.any()


def test_orders_expose_a_kernel_that_depends_on_them(library, tmp_path):
    """The check can fail: the last writer wins once atomicMin becomes a store."""
    text = (build.CSRC / "rasterize.cu").read_text()
    broken = re.sub(r"atomicMin\(&(keys\[.*?\]), (pack\(depth, f\))\)", r"\1 = \2", text)
    assert broken != text
    (tmp_path / "rasterize.cu").write_text(broken)
    bad = compile_host(tmp_path, tmp_path / "broken.so")
    results = [on_host(bad, *scene(), order)[0] for order in ORDERS]
    assert any((results[0] != other).any() for other in results[1:])
