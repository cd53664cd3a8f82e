"""Structure maps show the bodies of body parameters, or the images of the official pre-rendered layout."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from gcl_fast.bodies import AnnyBody, BodyParameters, OnlineStructureMaps, PrerenderedStructureMaps, walking_pose
from gcl_fast.errors import UserError
from gcl_fast.render import project

SIZE = (128, 64)


@pytest.fixture(scope="module")
def body():
    return AnnyBody()


@pytest.fixture(scope="module")
def params(body):
    pose = walking_pose(torch.tensor([0.0, 0.3, 0.1]), torch.tensor([1.0, 0.5, 0.0]), 0.3)
    shoulder = body.joint_names.index("left_shoulder")
    pose[2, 3 * shoulder : 3 * shoulder + 3] = torch.tensor([0.0, 0.0, 0.7])  # the left arm points to the side
    return BodyParameters(
        names=["a.jpg", "b.jpg", "c.jpg"],
        model="anny",
        pose=pose,
        shape=torch.tensor([[0.0, 2 / 3, 0.5, 0.5, 0.48, 0.5], [1.0, 2 / 3, 0.5, 0.5, 0.4, 0.5], [0.5] * 6]),
        yaw=torch.tensor([10.0, 200.0, 0.0]),
        camera=torch.tensor([[0.45, 0.5, 0.5, 0.0], [0.5, 0.4, 0.55, 10.0], [0.45, 0.5, 0.5, 0.0]]),
        confidence=torch.ones(3),
    )


def test_maps_are_grey_bodies_on_white(body, params):
    maps = OnlineStructureMaps(body, params, SIZE, "cpu")(
        torch.tensor([0, 1, 2, 0]), torch.tensor([0.0, 90.0, 0.0, 45.0])
    )
    assert maps.shape == (4, 1, *SIZE)
    assert maps.dtype == torch.float32
    assert maps.min() >= -1
    assert maps.max() == 1
    covered = (maps < 1).float().mean((1, 2, 3))
    assert ((covered > 0.08) & (covered < 0.5)).all()
    assert (maps[:, :, 0] == 1).all()  # nobody touches the upper edge


def test_yaw_is_added_to_the_crops_own(body, params):
    index = torch.tensor([0, 1])
    maps = OnlineStructureMaps(body, params, SIZE, "cpu")(index, torch.tensor([35.0, -80.0]))
    turned = replace(params, yaw=params.yaw + torch.tensor([35.0, -80.0, 0.0]))
    expected = OnlineStructureMaps(body, turned, SIZE, "cpu")(index, torch.zeros(2))
    assert torch.equal(maps, expected)
    round_trip = OnlineStructureMaps(body, params, SIZE, "cpu")(index, torch.tensor([395.0, 280.0]))
    assert (round_trip - maps).abs().gt(0.1).float().mean() < 1e-3


def test_the_left_arm_is_on_the_images_right_from_the_front_and_on_its_left_from_behind(body, params):
    source = OnlineStructureMaps(body, params, SIZE, "cpu")
    front, back = source(torch.tensor([2, 2]), torch.tensor([0.0, 180.0])) < 1
    columns = torch.arange(SIZE[1]).float()
    reach = [(columns[mask[0].any(0)].max() - 31.5, 31.5 - columns[mask[0].any(0)].min()) for mask in (front, back)]
    assert reach[0][0] > reach[0][1] + 8  # right side of the image
    assert reach[1][1] > reach[1][0] + 8


def test_silhouettes_lie_where_project_puts_the_vertices(body, params):
    index = torch.arange(3)
    maps = OnlineStructureMaps(body, params, SIZE, "cpu")(index, torch.zeros(3))
    pixels = project(body(params.pose, params.shape), params.yaw, params.camera, SIZE)
    for mask, points in zip(maps[:, 0] < 1, pixels):
        rows, columns = mask.nonzero().unbind(1)
        box = torch.stack((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)).float()
        corners = torch.cat((points[:, :2].amin(0), points[:, :2].amax(0)))
        corners = corners.clamp(min=torch.zeros(4), max=torch.tensor([64.0, 128.0, 64.0, 128.0]))
        assert (box - corners).abs().max() < 1.6


def test_parameters_of_another_body_model_are_refused(body, params):
    with pytest.raises(UserError, match="body model 'smpl', not 'anny'"):
        OnlineStructureMaps(body, replace(params, model="smpl"), SIZE, "cpu")


def test_parameters_with_other_shapes_are_refused(body, params):
    with pytest.raises(UserError, match="shape has 10 columns, expected 6 to 6"):
        OnlineStructureMaps(body, replace(params, shape=torch.zeros(3, 10)), SIZE, "cpu")


@pytest.fixture
def official(tmp_path):
    """Return a root with train/render and train/render_45 ... render_315; an image's grey encodes view and crop."""
    for view in range(8):
        folder = tmp_path / "train" / (f"render_{45 * view}" if view else "render")
        (folder / "0000").mkdir(parents=True)
        for i, name in enumerate(("x.jpg", "0000/y.jpg")):
            grey = np.full((32, 16, 3), 10 * view + 100 * i, np.uint8)
            Image.fromarray(grey).save(folder / name, format="PNG")
    return tmp_path


def test_prerendered_images_are_found_by_name_and_yaw(official):
    source = PrerenderedStructureMaps(official, "train", ["0000/y.jpg", "x.jpg"], (16, 8), "cpu")
    yaw = torch.tensor([0.0, 45.0, 315.0, -45.0, 360.0])
    for _ in range(2):  # decoded, then from memory
        maps = source(torch.tensor([1, 1, 0, 0, 0]), yaw)
        assert maps.shape == (5, 1, 16, 8)
        grey = (maps[:, 0, 8, 4] + 1) * 127.5
        torch.testing.assert_close(grey, torch.tensor([0.0, 10.0, 170.0, 170.0, 100.0]), atol=1e-3, rtol=0)


def test_prerendered_images_of_16_bits_are_read_as_those_of_8(official):
    grey = np.linspace(0, 255, 32 * 16).reshape(32, 16).astype(np.uint8)
    read = {}
    for name, image in {
        "8.png": Image.fromarray(grey),
        "16.png": Image.fromarray(grey.astype(np.uint16) * 257),
        "32.tiff": Image.fromarray(grey.astype(np.int32) * 257),
    }.items():
        image.save(official / "train" / "render" / name)
        for yaw in range(45, 360, 45):
            (official / "train" / f"render_{yaw}" / name).touch()
        source = PrerenderedStructureMaps(official, "train", [name], (16, 8), "cpu")
        read[name] = source(torch.tensor([0]), torch.tensor([0.0]))
    assert read["8.png"].std() > 0.4
    assert torch.equal(read["16.png"], read["8.png"])
    assert torch.equal(read["32.tiff"], read["8.png"])


def test_prerendered_layout_problems_are_named(official):
    with pytest.raises(UserError, match=r"no render, render_45.* under .*test; expected"):
        PrerenderedStructureMaps(official, "test", ["x.jpg"], (16, 8), "cpu")
    with pytest.raises(UserError, match=r"lacks 1 of 2 crops \(z.jpg\)"):
        PrerenderedStructureMaps(official, "train", ["x.jpg", "z.jpg"], (16, 8), "cpu")
    source = PrerenderedStructureMaps(official, "train", ["x.jpg"], (16, 8), "cpu")
    with pytest.raises(UserError, match="multiples of 45"):
        source(torch.tensor([0]), torch.tensor([30.0]))
    (official / "train" / "render_90" / "x.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"render_90/x.jpg does not decode"):
        source(torch.tensor([0]), torch.tensor([90.0]))
