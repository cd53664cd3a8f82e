"""The rasterizer against every face at every pixel in float64; shared edges, nonsense, errors, gradients."""

import warnings

import pytest
import torch
from scenes import soup, sphere
from torch._subclasses.fake_tensor import FakeTensorMode

from gcl_fast.kernels.rasterize import HAS_CUDA_KERNELS, through_the_cpu, warn_of_the_detour
from gcl_fast.render import Fragments, rasterize, rasterize_reference

MODES = [(cull, perspective) for cull in (False, True) for perspective in (False, True)]
SIZE = (33, 17)


def on(device: str, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The tensors on `device`."""
    return tuple(tensor.to(device) for tensor in tensors)


def edge_band(face_index: torch.Tensor) -> torch.Tensor:
    """Pixels beside one that sees another face: there rounding may decide."""
    padded = torch.nn.functional.pad(face_index[:, None].double(), (1, 1, 1, 1), mode="replicate")
    most, least = (torch.nn.functional.max_pool2d(sign * padded, 3, 1)[:, 0] * sign for sign in (1, -1))
    return most != least


@pytest.mark.parametrize(("cull", "perspective"), MODES)
@pytest.mark.parametrize("seed", range(3))
def test_equals_float64_reference(cull, perspective, seed, device):
    vertices, faces = soup(3, 40, 60, SIZE, seed)
    options = {"cull_backfaces": cull, "perspective": perspective}
    ours = Fragments(*(x.cpu() for x in rasterize(vertices.to(device), faces.to(device), SIZE, **options)))
    truth = rasterize_reference(vertices.double(), faces, SIZE, **options)
    same = ours.face_index == truth.face_index
    assert (same | edge_band(truth.face_index)).all()
    assert same.float().mean() > 0.99
    assert (truth.face_index >= 0).float().mean() > 0.5
    torch.testing.assert_close(ours.depth[same], truth.depth[same].float(), rtol=1e-5, atol=0)
    torch.testing.assert_close(ours.barycentric[same], truth.barycentric[same].float(), rtol=0, atol=1e-4)


def test_large_and_small_triangles_in_one_picture(device):
    """Boxes of 1 to 16 pixels go through the bins, larger ones do not; together they must still share one z-buffer."""
    small, faces = soup(1, 300, 400, (40, 48), 5)
    centre = small[:, faces[:, :1]].mean(2, keepdim=True)
    small = (centre + (small[:, faces] - centre) * torch.linspace(0.01, 0.3, 400)[:, None, None]).flatten(1, 2)
    faces = torch.cat((torch.arange(1200).view(400, 3), torch.tensor([[1200, 1201, 1202]])))
    large = torch.tensor([[[-5.0, -5, 1.2], [60, -5, 1.0], [-5, 60, 1.4]]])
    vertices = torch.cat((small, large), 1)
    ours = rasterize(*on(device, vertices, faces), (40, 48))
    truth = rasterize_reference(vertices.double(), faces, (40, 48))
    assert (ours.face_index.cpu() != truth.face_index).sum() <= 2
    assert len(truth.face_index.unique()) > 100


def test_each_mesh_may_have_its_own_faces(device):
    vertices, faces = on(device, *soup(3, 40, 60, SIZE))
    own = torch.stack((faces, faces.flip(0), faces.roll(7, 0)))
    together = rasterize(vertices, own, SIZE)
    for i in range(3):
        for ours, alone in zip(together, rasterize(vertices[i : i + 1], own[i], SIZE)):
            assert torch.equal(ours[i : i + 1], alone)


@pytest.mark.parametrize("W", [128, 130])  # rows that are aligned for streaming stores, and rows that are not
def test_a_batch_too_large_for_the_caches(W, device):
    """Beyond 16 MB of output it is written past the caches: the same numbers must arrive."""
    vertices, faces = on(device, *soup(40, 60, 40, (256, W)))
    together = rasterize(vertices, faces, (256, W))
    assert sum(x.nbytes for x in together) > 16 << 20
    for i in (0, 39):
        for many, alone in zip(together, rasterize(vertices[i : i + 1], faces, (256, W))):
            assert torch.equal(many[i : i + 1], alone)


def test_same_result_for_any_number_of_threads():
    vertices, faces = soup(5, 400, 900, (64, 32))
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3, 8):  # more threads than meshes: slices of the triangles, merged
            torch.set_num_threads(count)
            results.append(rasterize(vertices, faces, (64, 32)))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


def coverage(vertices: torch.Tensor, faces: torch.Tensor, size: tuple[int, int], cull: bool) -> torch.Tensor:
    """How many faces of one mesh (V, 3) cover each pixel: every face is drawn as a mesh of its own."""
    alone = vertices[faces]  # (F, 3, 3)
    triangle = torch.tensor([[0, 1, 2]], device=alone.device)
    return (rasterize(alone, triangle, size, cull_backfaces=cull).face_index >= 0).sum(0)


@pytest.mark.parametrize("jitter", [0.0, 0.4])
def test_no_hole_and_no_double_hit_in_a_grid(jitter, device):
    """A grid over the picture, with and without vertices exactly on pixel centres: every pixel is hit exactly once."""
    n = 40
    y, x = torch.meshgrid(torch.arange(n) - 2.5, torch.arange(n) - 2.5, indexing="ij")
    generator = torch.Generator().manual_seed(1)
    noise = (torch.rand(n * n, 3, generator=generator) - 0.5) * jitter
    vertices = torch.stack((x, y, torch.ones_like(x)), -1).reshape(-1, 3) + noise
    i = (torch.arange(n - 1)[:, None] * n + torch.arange(n - 1)).flatten()
    faces = torch.cat((torch.stack((i, i + 1, i + n), 1), torch.stack((i + 1, i + n + 1, i + n), 1)))
    assert (coverage(*on(device, vertices, faces), (32, 32), False) == 1).all()


def test_no_hole_and_no_double_hit_on_a_closed_mesh(device):
    vertices, faces = sphere(24, 31)
    vertices = vertices @ torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0].T
    vertices, faces = on(device, vertices, faces)
    for scale, shift in ((29.0, 32.0), (29.5, 32.5), (300.0, 31.5)):
        placed = vertices * scale + shift
        front, both = coverage(placed, faces, (64, 64), True), coverage(placed, faces, (64, 64), False)
        assert (front <= 1).all()
        assert torch.equal(both, 2 * front)  # what one looks into, one looks out of
        seen = rasterize(placed[None], faces, (64, 64)).face_index[0] >= 0
        assert torch.equal(seen, front > 0)
        assert front.any()


def test_culling_leaves_the_picture_of_a_closed_mesh(device):
    vertices, faces = sphere(24, 31)
    placed = (vertices * torch.tensor([20.0, -30, -20]) + 32)[None]  # y down, depth away: as the camera sees it
    placed, faces = on(device, placed, faces)
    both, front = (rasterize(placed, faces, (64, 64), cull_backfaces=cull) for cull in (False, True))
    assert all(torch.equal(a, b) for a, b in zip(both, front))
    inside_out = rasterize(placed, faces.flip(1), (64, 64), cull_backfaces=True)
    assert inside_out.depth.sum() > front.depth.sum()  # the far wall


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e30])
@pytest.mark.parametrize("column", range(3))
def test_a_corner_that_is_not_finite_removes_only_its_faces(bad, column, device):
    vertices = torch.tensor([[[0.0, 0, 1], [9, 0, 1], [0, 9, 1], [9, 9, 1]]])
    faces = torch.tensor([[0, 1, 2], [1, 3, 2]])
    vertices[0, 3, column] = bad
    seen = rasterize(*on(device, vertices, faces), (9, 9))
    assert set(seen.face_index.unique().tolist()) == {-1, 0}
    assert all(x.isfinite().all() for x in seen)


def test_faces_without_area_are_not_drawn(device):
    vertices = torch.tensor([[[1.0, 1, 1], [9, 9, 1], [5, 5, 1], [9, 1, 1]]])
    faces = torch.tensor([[0, 1, 2], [0, 0, 1], [3, 3, 3], [1, 3, 3]])
    assert (rasterize(*on(device, vertices, faces), (10, 10)).face_index == -1).all()


def test_behind_the_camera(device):
    vertices = torch.tensor([[[0.0, 0, 1], [9, 0, 1], [0, 9, -1], [9, 9, 1]]])
    vertices, faces = on(device, vertices, torch.tensor([[0, 1, 2], [0, 1, 3]]))
    seen = rasterize(vertices, faces, (9, 9), perspective=True).face_index
    assert set(seen.unique().tolist()) == {-1, 1}
    assert 0 in rasterize(vertices, faces, (9, 9)).face_index  # orthographic: any depth is before the camera


@pytest.mark.parametrize(("B", "F"), [(0, 5), (2, 0), (0, 0)])
def test_nothing_to_draw(B, F, device):
    seen = rasterize(*on(device, torch.rand(B, 4, 3), torch.zeros(F, 3, dtype=torch.int64)), (5, 4))
    assert [x.shape for x in seen] == [(B, 5, 4), (B, 5, 4), (B, 5, 4, 3)]
    assert (seen.face_index == -1).all()
    assert not seen.depth.any()
    assert not seen.barycentric.any()


def test_non_contiguous_and_autocast(device):
    vertices, faces = on(device, *soup(2, 40, 60, SIZE))
    strided = torch.empty(2, 3, 40, device=device).transpose(1, 2).copy_(vertices)
    assert torch.equal(rasterize(strided, faces, SIZE).depth, rasterize(vertices, faces, SIZE).depth)
    with torch.autocast(device, torch.bfloat16):
        assert rasterize(vertices.bfloat16(), faces, SIZE).depth.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, f: (v.double(), f, SIZE), r"float32 of shape \(B, V, 3\)"),
        (lambda v, f: (v[..., :2], f, SIZE), r"float32 of shape \(B, V, 3\)"),
        (lambda v, f: (v, f.int(), SIZE), r"int64 of shape \(F, 3\)"),
        (lambda v, f: (v, f[:, :2], SIZE), r"int64 of shape \(F, 3\)"),
        (lambda v, f: (v, f.expand(3, -1, -1), SIZE), "2 meshes of vertices, but 3 of faces"),
        (lambda v, f: (v, f + 1, SIZE), r"face \d+ of faces names vertex 40, outside 0\.\.39"),
        (lambda v, f: (v, f - 1, SIZE), r"face \d+ of faces names vertex -1, outside 0\.\.39"),
        (lambda v, f: (v, f, (0, 5)), "within 1..32767, got 0 x 5"),
    ],
)
def test_errors_say_what_is_wrong(change, message):
    vertices, faces = soup(2, 40, 60, SIZE)
    faces[0] = torch.tensor([0, 39, 5])
    with pytest.raises(RuntimeError, match=message):
        rasterize(*change(vertices, faces))


@pytest.mark.parametrize("perspective", [False, True])
def test_gradients_equal_float64_reference(perspective, device):
    vertices, faces = soup(2, 40, 60, SIZE, 4)
    truth = rasterize_reference(vertices.double().requires_grad_(), faces, SIZE, perspective=perspective)
    same = rasterize(vertices, faces, SIZE, perspective=perspective).face_index == truth.face_index
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, *SIZE, 4, generator=generator) * same[..., None]

    def gradient(function, dtype, device):
        x = vertices.to(device, dtype).requires_grad_()
        seen = function(x, faces.to(device), SIZE, perspective=perspective)
        w = weight.to(device, dtype)
        loss = (seen.depth * w[..., 0]).sum() + (seen.barycentric * w[..., 1:]).sum()
        return torch.autograd.grad(loss, x)[0].cpu()

    ours, theirs = gradient(rasterize, torch.float32, device), gradient(rasterize_reference, torch.float64, "cpu")
    torch.testing.assert_close(ours, theirs.float(), rtol=1e-4, atol=1e-4)
    assert theirs.abs().max() > 1


def test_opcheck_and_compile(device):
    vertices, faces = (x.to(device) for x in soup(2, 40, 60, SIZE))
    vertices.requires_grad_()
    torch.library.opcheck(torch.ops.gcl_fast.rasterize, (vertices, faces, *SIZE))
    index = rasterize(vertices, faces, SIZE).face_index
    grads = torch.rand(2, *SIZE, device=device), torch.rand(2, *SIZE, 3, device=device)
    torch.library.opcheck(torch.ops.gcl_fast.rasterize_backward, (*grads, vertices.detach(), faces, index, False))
    compiled = torch.compile(lambda v: rasterize(v, faces, SIZE).depth * 2, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(vertices), rasterize(vertices, faces, SIZE).depth * 2)


@pytest.mark.skipif(HAS_CUDA_KERNELS, reason="the library has CUDA kernels: nothing goes by way of the CPU")
def test_without_cuda_kernels_the_cpu_serves_tensors_on_a_gpu():
    """By the dispatcher's CUDA entry with tensors on the CPU; the copies, with tensors that only claim a device."""
    vertices, faces = soup(2, 40, 60, SIZE)
    index, depth, barycentric = rasterize(vertices, faces, SIZE)
    calls = {
        "rasterize": (vertices, faces, *SIZE, True),
        "rasterize_backward": (torch.ones_like(depth), torch.ones_like(barycentric), vertices, faces, index, False),
        "structure_maps": (vertices, faces, torch.eye(3, 4).expand(2, 3, 4), *SIZE),
    }
    cuda = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    warn_of_the_detour.cache_clear()
    for number, (name, arguments) in enumerate(calls.items()):
        op = getattr(torch.ops.gcl_fast, name).default
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            torch.testing.assert_close(op.redispatch(cuda, *arguments), op(*arguments), rtol=0, atol=0)
        assert ["serves GPU tensors on the CPU" in str(warning.message) for warning in warned] == [True][number:]
    with FakeTensorMode():
        vertices, faces = torch.empty(2, 40, 3, device="cuda"), torch.empty(60, 3, device="cuda", dtype=torch.int64)
        fragments = through_the_cpu("rasterize")(vertices, faces, *SIZE, True, False)
    assert {x.device.type for x in fragments} == {"cuda"}
