"""Camera conventions, and structure maps against their definition in plain PyTorch."""

import pytest
import torch
from scenes import sphere

from gcl_fast.render import project, render_structure, render_structure_reference, vertex_normals

SIZE = (64, 32)


def figure(B: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A man-sized egg with a nose, (B, V, 3) metres, faces, yaw, camera: from all sides and heights."""
    vertices, faces = sphere(20, 24)
    body = vertices * torch.tensor([0.35, 0.9, 0.25]) + torch.tensor([0, 0.9, 0])
    body[..., 2] += 0.4 * (-(vertices - torch.tensor([0, 0.7, 0.7])).square().sum(-1) * 20).exp()
    yaw = torch.linspace(-200, 300, B)
    camera = torch.stack(
        (torch.linspace(0.4, 0.6, B), torch.full((B,), 0.5), torch.full((B,), 0.48), torch.linspace(-10, 40, B)), 1
    )
    return body.expand(B, -1, -1).contiguous(), faces, yaw, camera


def place(point: list[float], yaw: float, camera: list[float]) -> list[float]:
    """Where a point goes, the body being two metres high."""
    vertices = torch.tensor([[[0.0, 2, 0], point]])
    return project(vertices, torch.tensor([yaw]), torch.tensor([camera]), (100, 50))[0, 1].tolist()


def test_camera_conventions():
    level = [0.4, 0.5, 0.6, 0.0]  # 40 pixels a metre, the body's middle at (25, 60)
    assert place([0, 1, 0], 0, level) == pytest.approx([25, 60, 0], abs=1e-4)
    assert place([0.5, 1, 0], 0, level) == pytest.approx([45, 60, 0], abs=1e-4)  # the person's left: image right
    assert place([0, 2, 0], 0, level) == pytest.approx([25, 20, 0], abs=1e-4)
    assert place([0, 1, 0.5], 0, level) == pytest.approx([25, 60, -20], abs=1e-4)  # the front is nearer
    assert place([0, 1, 0.5], 90, level) == pytest.approx([45, 60, 0], abs=1e-4)  # turned to the image's right
    assert place([0, 1, 0.5], 180, level) == pytest.approx([25, 60, 20], abs=1e-4)
    above = [0.4, 0.5, 0.6, 90.0]  # looking straight down
    assert place([0, 2, 0], 0, above) == pytest.approx([25, 60, -40], abs=1e-4)  # the head is nearest
    assert place([0, 1, 0.5], 0, above) == pytest.approx([25, 80, 0], abs=1e-4)  # the front points down the image


def test_project_is_differentiable():
    vertices, _, yaw, camera = figure(2)
    inputs = [x.double().requires_grad_() for x in (vertices[:, ::40], yaw, camera)]
    assert torch.autograd.gradcheck(lambda v, y, c: project(v, y, c, SIZE), inputs)


def test_equals_reference(device):
    vertices, faces, yaw, camera = (x.to(device) for x in figure())
    ours = render_structure(vertices, faces, yaw, camera, SIZE)
    theirs = render_structure_reference(vertices, faces, yaw, camera, SIZE)
    assert ours.shape == (4, 1, *SIZE)
    assert ((ours - theirs).abs() > 1e-3).sum() <= 4  # a silhouette's pixel may fall to the other side
    body = ours < 1
    assert 0.1 < body.float().mean() < 0.9
    assert ours[body].std() > 0.05
    assert ours.min() >= -1
    torch.library.opcheck(
        torch.ops.gcl_fast.structure_maps, (vertices, faces, torch.rand(4, 3, 4, device=device), *SIZE)
    )


def test_the_picture_turns_with_yaw(device):
    """The nose: at +90 degrees on the image's right, at -90 on its left, mirrored; at 180 nowhere."""
    vertices, faces, _, camera = (x.to(device) for x in figure(3))
    camera[:, 0], camera[:, 3] = 0.45, 0
    yaw = torch.tensor([90.0, -90, 180], device=device)
    right, left, back = render_structure(vertices, faces, yaw, camera, SIZE)[:, 0] < 1
    assert right[:, 17:].sum() > right[:, :15].sum() + 5
    assert (left != right.flip(1)).sum() <= 8
    assert (back != back.flip(1)).sum() <= 8


def test_lit_from_the_camera_and_the_upper_left():
    vertices, faces, yaw, camera = figure(1)
    picture = render_structure(vertices, faces, yaw * 0 + 180, camera, SIZE)[0, 0]
    rows, columns = (picture < 1).nonzero().unbind(1)
    middle = picture[rows.float().mean().int(), columns.float().mean().int()]
    row = picture[rows.float().mean().int()]
    inside = row[row < 1]
    assert middle > inside[-1]
    assert inside[0] > inside[-1]


def test_same_result_for_any_number_of_threads():
    vertices, faces, yaw, camera = figure(3)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 7):
            torch.set_num_threads(count)
            results.append(render_structure(vertices, faces, yaw, camera, SIZE))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_nothing_to_draw_and_nonsense(device):
    vertices, faces, yaw, camera = (x.to(device) for x in figure(2))
    assert (render_structure(vertices, faces[:0], yaw, camera, SIZE) == 1).all()
    assert render_structure(vertices[:0], faces, yaw[:0], camera[:0], SIZE).shape == (0, 1, *SIZE)
    whole = render_structure(vertices, faces, yaw, camera, SIZE)
    vertices[0, 100, 0] = torch.inf
    broken = render_structure(vertices, faces, yaw, camera, SIZE)
    assert broken.isfinite().all()
    assert torch.equal(broken[1], whole[1])
    assert (broken[0] != whole[0]).float().mean() < 0.1
    if device == "cpu":  # a GPU draws no such face: telling the host would wait
        with pytest.raises(RuntimeError, match=r"outside 0\.\."):
            render_structure(vertices, faces + 1, yaw, camera, SIZE)


def test_vertex_normals_point_outwards(device):
    vertices, faces = (x.to(device) for x in sphere(20, 24))
    normal = vertex_normals(vertices[None], faces)[0]
    assert (normal * vertices).sum(-1).min() > 0.99
