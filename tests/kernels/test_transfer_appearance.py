"""The transfer of appearance equals its definition, keeps what a crop shows, and says where it does not know."""

import pytest
import torch

from gcl_fast.bodies import AnnyBody, walking_pose
from gcl_fast.bodies.donors import make_donors
from gcl_fast.kernels.transfer_appearance import Donors, transfer_appearance, transfer_appearance_reference
from gcl_fast.render.camera import view_transform

SIZE = (96, 48)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module")
def body():
    return AnnyBody()


@pytest.fixture(scope="module")
def donors(body):
    return make_donors(body.template, body.faces)


def scene(body, count=3, yaw=0.0):
    """Return walking bodies that face `yaw`, and the transforms of their crops and of views turned by 120 degrees."""
    generator = torch.Generator().manual_seed(0)
    shape = torch.rand(count, 6, generator=generator) * 0.4 + torch.tensor([0.3, 0.5, 0.3, 0.3, 0.4, 0.3])
    vertices = body(walking_pose(torch.arange(count) * 0.7), shape)
    yaws = torch.arange(count) * 95.0 + yaw
    camera = torch.tensor([[0.5, 0.5, 0.52, 5.0]]).repeat(count, 1)
    return vertices, *(view_transform(vertices, y, camera, SIZE) for y in (yaws, yaws + 120))


def textured(count, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, *SIZE, generator=generator)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("channels", "margin"), [(3, 0.05), (4, 0.0), (1, 0.2)])
def test_equals_the_definition(body, donors, device, channels, margin):
    vertices, source, target = scene(body)
    images = textured(3, channels)
    expected = transfer_appearance_reference(images, vertices, body.faces, donors, source, target, margin=margin)
    arguments = images, vertices, body.faces, Donors(*(x.to(device) for x in donors)), source, target
    ours = transfer_appearance(*(x.to(device) if isinstance(x, torch.Tensor) else x for x in arguments), margin=margin)
    for name in ("colour", "confidence"):
        difference = (getattr(ours, name).cpu() - getattr(expected, name)).abs()
        assert (difference > 1e-4).float().mean() <= 1e-4, name  # a point may lie on the edge of visibility
    assert ours.confidence.min() == 0
    assert 0 < ours.confidence.mean() < 1
    assert ours.confidence.max() == 1


def test_strided_images_and_another_pose(body, donors):
    vertices, source, target = scene(body)
    standing = body(torch.zeros(3, 57), torch.full((3, 6), 0.5))
    images = textured(3).contiguous(memory_format=torch.channels_last)
    arguments = images, vertices, body.faces, donors, source, target
    ours = transfer_appearance(*arguments, target_vertices=standing)
    expected = transfer_appearance_reference(*arguments, target_vertices=standing)
    assert ((ours.colour - expected.colour).abs() > 1e-4).float().mean() <= 1e-4
    assert (ours.colour - transfer_appearance(*arguments).colour).abs().mean() > 0.01


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_equal_those_of_the_definition(body, donors, device):
    vertices, source, target = scene(body)
    grad = textured(3, seed=1) - 0.5
    gradients = []
    for call, place in (
        (transfer_appearance, device),
        (transfer_appearance, device),
        (transfer_appearance_reference, "cpu"),
    ):
        images = textured(3).to(place).requires_grad_()
        geometry = (x.to(place) for x in (vertices, body.faces))
        lenders = Donors(*(x.to(place) for x in donors))
        colour = call(images, *geometry, lenders, source.to(place), target.to(place)).colour
        gradients.append(torch.autograd.grad(colour, images, grad.to(place))[0].cpu())
    assert torch.equal(gradients[0], gradients[1])
    torch.testing.assert_close(gradients[0], gradients[2], rtol=1e-4, atol=1e-4)


def test_the_own_view_returns_what_the_crop_shows(body, donors):
    """At the crop's own view each certain pixel of the body, and each certain one of the background, is the crop's."""
    vertices, source, _ = scene(body)
    images = textured(3)
    colour, confidence = transfer_appearance(images, vertices, body.faces, donors, source, source)
    certain = (confidence > donors.weight.max()).expand(colour.shape)  # the crop's own, not lent
    assert certain.float().mean() > 0.7
    torch.testing.assert_close(colour[certain], images[certain], rtol=0, atol=2e-3)


def test_hidden_points_take_the_colour_of_their_height(body, donors):
    """A standing body in a crop that is painted by rows, seen from its left: the right side is lent, row by row."""
    vertices = body(torch.zeros(1, 57), torch.full((1, 6), 0.5))
    camera = torch.tensor([[0.5, 0.5, 0.5, 0.0]])
    left, right = (view_transform(vertices, torch.tensor([yaw]), camera, SIZE) for yaw in (-90.0, 90.0))
    rows = (torch.arange(SIZE[0]) / SIZE[0])[:, None].expand(1, 1, *SIZE)
    colour, confidence = transfer_appearance(rows, vertices, body.faces, donors, left, right)
    own = transfer_appearance(rows, vertices, body.faces, donors, right, right).confidence
    trunk = (slice(None), slice(None), slice(30, 70), slice(20, 28))
    lent = (confidence[trunk] > 0.15) & (own[trunk] > 0.3)
    assert lent.float().mean() > 0.5
    assert confidence[trunk][lent].max() <= 0.6 < own[trunk].max()  # less sure than what a crop shows
    assert (colour[trunk] - rows[trunk])[lent].abs().mean() < 0.02


def test_there_and_back_keeps_the_pixels_that_both_views_show(body, donors):
    vertices, source, target = scene(body)
    images = torch.nn.functional.interpolate(
        torch.rand(3, 3, 6, 3, generator=torch.Generator().manual_seed(2)), SIZE, mode="bilinear"
    )
    there = transfer_appearance(images, vertices, body.faces, donors, source, target)
    back = transfer_appearance(torch.cat(there, 1), vertices, body.faces, donors, target, source)
    certain = (back.confidence * back.colour[:, 3:] > 0.5).expand(images.shape)
    assert certain.float().mean() > 0.4
    assert (back.colour[:, :3] - images)[certain].abs().mean() < 0.02


def test_a_body_outside_its_crop_knows_nothing(body, donors):
    vertices, source, target = scene(body)
    source = source.clone()
    source[:, 0, 3] += 10 * SIZE[1]
    colour, confidence = transfer_appearance(textured(3), vertices, body.faces, donors, source, target)
    drawn = transfer_appearance(textured(3), vertices, body.faces, donors, target, target).confidence
    assert (confidence == 0).float().mean() > 0.05
    assert colour.isfinite().all()
    assert drawn.isfinite().all()
    assert (colour[(confidence == 0).expand(colour.shape)] == 0).all()


def test_a_crop_of_one_pixel(body, donors):
    vertices, source, target = scene(body)
    image = torch.rand(3, 3, 1, 1)
    scale = torch.tensor([1 / SIZE[1], 1 / SIZE[0], 1 / SIZE[0]])[:, None]
    colour, confidence = transfer_appearance(image, vertices, body.faces, donors, source * scale, target * scale)
    assert colour.shape == (3, 3, 1, 1)
    assert colour.isfinite().all()
    assert confidence.isfinite().all()


def test_an_empty_batch(body, donors):
    empty = torch.zeros(0, 3, *SIZE), torch.zeros(0, len(body.part), 3), body.faces, donors
    colour, confidence = transfer_appearance(*empty, torch.zeros(0, 3, 4), torch.zeros(0, 3, 4))
    assert colour.shape == (0, 3, *SIZE)
    assert confidence.shape == (0, 1, *SIZE)


@pytest.mark.parametrize(("change", "message"), [
    ({"images": torch.zeros(3, 5, *SIZE)}, "1 to 4 channels, not 5"),
    ({"images": torch.zeros(2, 3, *SIZE)}, "one for each mesh"),
    ({"images": torch.zeros(3, 3, *SIZE).double()}, "images must be float32"),
    ({"faces": torch.tensor([[0, 1, 99999]])}, "names vertex 99999"),
    ({"donors": Donors(torch.zeros(4, 2, dtype=torch.int32), torch.ones(2))}, r"of shape \(V, K\)"),
    ({"donors": Donors(torch.full((13718, 1), -1, dtype=torch.int32), torch.ones(1))}, "outside 0..13717"),
    ({"donors": Donors(torch.zeros(13718, 2, dtype=torch.int32), torch.ones(3))}, r"donor_weight must be float32"),
    ({"source": torch.zeros(3, 4, 4)}, "source must be float32"),
    ({"target_vertices": torch.zeros(3, 7, 3)}, "target_vertices must have the shape"),
])  # fmt: skip
def test_bad_arguments_are_a_sentence(body, donors, change, message):
    vertices, source, target = scene(body)
    arguments = {"images": textured(3), "vertices": vertices, "faces": body.faces, "donors": donors,
                 "source": source, "target": target} | change  # fmt: skip
    with pytest.raises(RuntimeError, match=f"transfer_appearance: .*{message}"):
        transfer_appearance(**arguments)
