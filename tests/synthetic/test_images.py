"""Images show people where the body parameters put them, views turn the person, and difficulty changes the world."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gcl_fast.bodies import AnnyBody, OnlineStructureMaps, align, load_body_parameters
from gcl_fast.synthetic import WorldConfig, colour_retrieval, make_world, true_views
from gcl_fast.synthetic.cameras import make_camera
from gcl_fast.synthetic.shapes import drape, mesh_normals, rounded_box
from gcl_fast.synthetic.template import Template
from gcl_fast.synthetic.wardrobe import look_alikes, look_of

CONFIG = WorldConfig(identities=8, cameras=3, crops=2, seed=2)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("images"), CONFIG, progress=False, workers=1)


@pytest.fixture(scope="module")
def names(world: Path) -> list[str]:
    return sorted(path.name for path in (world / "query").iterdir())[:6]


def silhouettes(world: Path, names: list[str], yaw: float) -> torch.Tensor:
    path = world / "body_parameters" / "query.npz"
    maps = OnlineStructureMaps(AnnyBody(), align(load_body_parameters(path), names, path), CONFIG.size, "cpu")
    return maps(torch.arange(len(names)), torch.full((len(names),), yaw))[:, 0] < 1


@pytest.mark.parametrize("yaw", [0.0, 90.0, 225.0])
def test_people_stand_where_their_structure_maps_say(world: Path, names: list[str], yaw: float) -> None:
    _, masks = true_views(world, names, yaw)
    bodies = silhouettes(world, names, yaw)
    # Clothes, hair and bags enclose the body, except where they smooth it.
    assert ((bodies & ~masks).sum((1, 2)) < 0.06 * bodies.sum((1, 2))).all()
    assert ((masks & bodies).sum((1, 2)) > 0.45 * masks.sum((1, 2))).all()


def test_turning_changes_the_person_and_not_the_place(world: Path, names: list[str]) -> None:
    images, masks = true_views(world, names, 0.0)
    turned, turned_masks = true_views(world, names, torch.full((len(names),), 180.0))
    again, _ = true_views(world, names, 360.0)
    assert images.dtype == torch.uint8
    assert masks.dtype == torch.bool
    assert (images.float() - again.float()).abs().max() <= 2
    change = (images.float() - turned.float()).abs().mean(1)
    both = masks & turned_masks
    for one, inside, outside in zip(change, both, ~(masks | turned_masks)):
        assert one[inside].mean() > 4 * one[outside].mean()


def test_views_are_the_crops_without_their_noise(world: Path, names: list[str]) -> None:
    images, masks = true_views(world, names, 0.0)
    for name, image, mask in zip(names, images, masks):
        crop = torch.from_numpy(np.array(Image.open(world / "query" / name))).permute(2, 0, 1).float()
        stack = torch.stack((crop, image.float()))[:, :, mask].flatten(1)
        assert torch.corrcoef(stack)[0, 1] > 0.6


def test_views_come_at_the_size_of_the_run(world: Path, names: list[str]) -> None:
    images, masks = true_views(world, names, 0.0)
    height, width = images.shape[2:]
    halved, small = true_views(world, names, 0.0, (height // 2, width // 2))
    means = images.float().unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
    assert (halved.float() - means).abs().mean() < 4
    assert halved.dtype == torch.uint8
    assert small.float().mean() == pytest.approx(masks.float().mean().item(), rel=0.05)
    assert torch.equal(true_views(world, names, 0.0, (height, width))[0], images)


def test_colours_alone_do_not_find_people(world: Path) -> None:
    assert 0.05 < colour_retrieval(world) < 0.5  # 8 people: chance is about 0.2


def test_colour_retrieval_on_known_images(tmp_path: Path) -> None:
    for folder in ("query", "bounding_box_test"):
        (tmp_path / folder).mkdir()
    red, blue = (Image.new("RGB", (32, 64), colour) for colour in ("red", "blue"))
    red.save(tmp_path / "query" / "0001_c1s1_000001_01.jpg")
    red.save(tmp_path / "bounding_box_test" / "0001_c1s1_000002_01.jpg")  # same camera: left out
    red.save(tmp_path / "bounding_box_test" / "0002_c1s1_000003_01.jpg")
    blue.save(tmp_path / "bounding_box_test" / "0001_c2s1_000004_01.jpg")
    red.save(tmp_path / "bounding_box_test" / "-1_c2s1_000005_01.jpg")  # junk: left out
    assert colour_retrieval(tmp_path) == pytest.approx(0.5)


def test_look_alikes_share_clothes_but_are_no_twins() -> None:
    difficulty = 0.6
    size = look_alikes(difficulty)
    assert size >= 3
    for group in range(6):
        looks = [look_of(1, 0, group * size + member, difficulty) for member in range(size)]
        assert len({(look.upper.colour, look.dress) for look in looks}) == 1
        for one, other in combinations(looks, 2):
            details = [
                (look.hair, look.hair_colour, look.upper, look.lower, look.shoes, look.bag) for look in (one, other)
            ]
            assert sum(a != b for a, b in zip(*details)) >= 2


def test_difficulty_is_monotone() -> None:
    steps = np.linspace(0, 1, 4)
    sizes = [look_alikes(step) for step in steps]
    crops = [WorldConfig(difficulty=step).crops_per_camera for step in steps]
    casts = [np.mean([np.abs(make_camera(0, i, step).cast - np.eye(3)).sum() for i in range(4)]) for step in steps]
    assert sizes == sorted(sizes)
    assert crops == sorted(crops, reverse=True)
    assert casts == sorted(casts)
    assert casts[-1] > 2 * casts[0]
    assert sizes[-1] > sizes[0]
    assert crops[-1] < crops[0]


def test_draped_cloth_encloses_its_points() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform((-0.2, 0, -0.1), (0.2, 1, 0.3), (400, 3))
    centre = np.array([0.0, 0.0, 0.1])
    heights = np.array([0.25, 0.5])
    radius = drape(points, centre, heights, 48, 0.01, band=0.05)
    for row, height in enumerate(heights):
        near = points[np.abs(points[:, 1] - height) < 0.05] - centre
        turn = np.arctan2(near[:, 0], near[:, 2]) % (2 * np.pi)
        cloth = np.interp(turn, np.linspace(0, 2 * np.pi, 49), np.append(radius[row], radius[row, 0]))
        assert (cloth > np.hypot(near[:, 0], near[:, 2])).all()
        assert cloth.max() < 0.35


def test_extra_meshes_face_outwards() -> None:
    box, faces = rounded_box((0.3, 0.4, 0.2))
    assert ((mesh_normals(box, faces) * box).sum(1) > 0).mean() > 0.95
    for index, faces in (template := Template()).shoes:
        foot = template.vertices[index]
        used = np.unique(faces)
        outward = (mesh_normals(foot, faces) * (foot - foot[used].mean(0))).sum(1)
        assert (outward[used] > 0).all()
