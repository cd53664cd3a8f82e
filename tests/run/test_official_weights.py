"""Official weights and official pre-rendered pictures in the commands: evaluation, generation, --init."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gcl_fast import evaluate, generate
from gcl_fast.errors import UserError
from gcl_fast.models import GCL, to_official
from gcl_fast.run.initialize import initialize
from gcl_fast.settings import PUBLISHED, override, preset


@pytest.fixture(scope="module")
def weights(official, tmp_path_factory) -> Path:
    """A folder as an official run leaves it."""
    folder = tmp_path_factory.mktemp("official")
    for part, tensors in official.items():
        torch.save({part: tensors}, folder / f"{part}_00032320.pt")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> list[str]:
    """Flags of a Market-1501 of two people, and of pictures pre-rendered for its gallery alone."""
    root, maps = tmp_path_factory.mktemp("market"), tmp_path_factory.mktemp("maps")
    places = {"bounding_box_train": [(1, 1)], "query": [(2, 1), (3, 1)], "bounding_box_test": [(2, 2), (3, 2), (3, 3)]}
    for number, (folder, people) in enumerate(places.items()):
        (root / folder).mkdir()
        for person, camera in people:
            pixels = np.random.default_rng(10 * person + number).integers(0, 256, (64, 32, 3), dtype=np.uint8)
            name = f"{person:04d}_c{camera}s1_000001_00.jpg"
            Image.fromarray(pixels).save(root / folder / name)
            if folder != "query":
                for degrees in range(0, 360, 45):
                    view = (
                        maps
                        / ("test" if "test" in folder else "train")
                        / (f"render_{degrees}" if degrees else "render")
                    )
                    view.mkdir(parents=True, exist_ok=True)
                    Image.new("L", (32, 64), 100 + degrees // 3).save(view / name)
    return ["--dataset", "market1501", "--data-root", str(root), "--structure-maps", str(maps)]


def test_evaluated_and_generated_from(weights, data, tmp_path, capsys):
    assert evaluate.main([str(weights), *data]) == 0
    table = capsys.readouterr().out
    assert table.splitlines()[1].startswith("official ")
    assert "ssim_reconstruction" in table
    assert generate.main([str(weights), *data, "--out", str(tmp_path / "views.png")]) == 0
    assert "official: 3 crops of gallery at 8 yaws" in capsys.readouterr().out
    with Image.open(tmp_path / "views.png") as picture:
        assert picture.width > 9 * 128
    assert generate.main([str(weights), *data, "--split", "query"]) == 2
    assert "lacks 2 of 2 crops" in capsys.readouterr().err
    assert evaluate.main([str(weights)]) == 2
    assert "name the data with --dataset" in capsys.readouterr().err


def test_an_identity_encoder_alone_ranks_as_the_whole(weights, official, data, tmp_path, capsys):
    torch.save(official["id"], tmp_path / "model_best.pth")
    said = []
    for source in (weights, tmp_path / "model_best.pth"):
        assert evaluate.main([str(source), *data]) == 0
        said.append(capsys.readouterr().out.splitlines()[1].split()[1:6])
    assert said[0] == said[1]
    assert len(said[1]) == 5  # mAP, three ranks, mINP
    assert generate.main([str(tmp_path / "model_best.pth"), *data]) == 2
    assert "no gen, dis; expected" in capsys.readouterr().err


def test_as_first_weights(weights, official, tmp_path):
    paper = preset("paper")
    gcl = GCL(paper.model)
    assert initialize(gcl, replace(paper, init=str(weights))) == f"{weights} (official)"
    assert all(torch.equal(to_official(gcl)["dis"][name], tensor) for name, tensor in official["dis"].items())

    torch.save(official["id"] | {"classifier.weight": torch.zeros(702, 512)}, tmp_path / "jvtc.pth")
    gcl = GCL(paper.model)
    before = {name: tensor.clone() for name, tensor in gcl.state_dict().items()}
    assert "identity encoder from" in initialize(gcl, replace(paper, init=str(tmp_path / "jvtc.pth")))
    for name, tensor in gcl.state_dict().items():
        ours = name.startswith("identity.")
        assert torch.equal(tensor, official["id"][name.removeprefix("identity.")] if ours else before[name]), name

    small = override(preset("demo"), list(PUBLISHED))
    with pytest.raises(UserError, match="comes from another configuration"):
        initialize(GCL(small.model), replace(small, init=str(weights)))
