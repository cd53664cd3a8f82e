"""python -m gcl_fast.estimate works on people that are not in its training data, and names wrong input in one line."""

import os
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from gcl_fast import estimate
from gcl_fast import inputs as run_inputs
from gcl_fast.assessment.estimates import overlap
from gcl_fast.bodies import BodyParameters, load_body_parameters, posture, save_body_parameters
from gcl_fast.data import open_dataset
from gcl_fast.errors import UserError
from gcl_fast.inputs import Inputs, body_parameter_file
from gcl_fast.settings import override, preset
from gcl_fast.synthetic.cutouts import Scenery


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Return a folder with 48 crops of new people by new cameras, some in a subfolder, and their true parameters."""
    root, cutouts = tmp_path_factory.mktemp("people"), Scenery(77, 6).draw(48, 1)
    names = [f"{'far/' if i % 3 == 0 else ''}{i:02d}.png" for i in range(48)]
    (root / "crops" / "far").mkdir(parents=True)
    for name, image in zip(names, cutouts.pictures):
        Image.fromarray(image[:, 8:72, :3]).save(root / "crops" / name)
    pose, shape, camera = posture.decode(torch.from_numpy(cutouts.vector))
    truth = BodyParameters(names, "anny", pose, shape, torch.from_numpy(cutouts.yaw), camera, torch.ones(48))
    save_body_parameters(root / "truth.npz", truth)
    return root


def run(*arguments):
    return estimate.main([*map(str, arguments), "--device", "cpu"])


def test_new_people_are_estimated(people, tmp_path, capsys):
    out, preview = tmp_path / "made" / "est.npz", tmp_path / "preview.png"
    assert run("--images", people / "crops", "--out", out, "--preview", preview, "--truth", people / "truth.npz") == 0
    params, truth = load_body_parameters(out), load_body_parameters(people / "truth.npz").subset(range(48))
    place = {name: i for i, name in enumerate(truth.names)}
    truth = truth.subset([place[name] for name in params.names])
    error = ((params.yaw - truth.yaw + 180) % 360 - 180).abs()
    assert error.median() < 12
    assert (params.camera[:, 0] / truth.camera[:, 0]).log().abs().median() < 0.06
    assert (params.camera[:, 1:3] - truth.camera[:, 1:3]).abs().median() < 0.03
    output = capsys.readouterr().out
    assert f"median {error.median():.1f} degrees" in output
    overlap = re.search(r"union (0\.\d+), both bodies turned by 90 degrees (0\.\d+)", output)
    assert overlap
    assert min(map(float, overlap.groups())) > 0.65
    assert Image.open(preview).size == (8 * 136, 6 * 146)


def test_truth_overlaps_itself_and_not_bodies_at_other_places(people):
    truth = load_body_parameters(people / "truth.npz").subset(range(4))
    aside = replace(truth, camera=truth.camera + torch.tensor([0.0, 0.5, 0.0, 0.0]))
    assert "union 1.000, both bodies turned by 90 degrees 1.000" in overlap(truth, truth)
    assert "union 0.0" in overlap(aside, truth)


def test_confidence_tells_people_from_noise(people, tmp_path):
    folder = tmp_path / "crops"
    folder.mkdir()
    for i, path in enumerate(sorted((people / "crops").glob("*.png"))[:16]):
        Image.open(path).save(folder / f"person{i}.png")
        noise = np.random.default_rng(i).integers(0, 255, (16, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((64, 128)).save(folder / f"noise{i}.png")
    assert run("--images", folder, "--out", tmp_path / "est.npz") == 0
    params = load_body_parameters(tmp_path / "est.npz")
    person = torch.tensor([name.startswith("person") for name in params.names])
    assert params.confidence[person].median() > params.confidence[~person].max()


def test_broken_images_are_named_and_left_out(people, tmp_path, capsys):
    folder = tmp_path / "crops"
    folder.mkdir()
    Image.open(people / "crops" / "01.png").resize((50, 170)).convert("L").save(folder / "good.jpg")
    (folder / "bad.jpg").write_bytes(b"no image")
    assert run("--images", folder, "--out", tmp_path / "est.npz") == 0
    assert "1 of 2 images" in (output := capsys.readouterr().out)
    assert "bad.jpg" in output
    assert load_body_parameters(tmp_path / "est.npz").names == ["good.jpg"]
    assert run("--images", folder, "--out", tmp_path / "est.npz", "--on-bad-image", "error") == 2


@pytest.mark.parametrize("wrong", ["nowhere", "empty", "out", "folder", "preview", "truth", "other truth"])
def test_wrong_input_is_named_in_one_line_before_bodies_are_estimated(people, tmp_path, capsys, monkeypatch, wrong):
    monkeypatch.setattr("gcl_fast.bodies.body_estimator.estimate", lambda *_: pytest.fail("bodies are estimated"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "one").mkdir()
    Image.open(people / "crops" / "01.png").save(tmp_path / "one" / "a.png")
    images = tmp_path / (wrong if wrong in ("nowhere", "empty") else "one")
    out = tmp_path / ("file/est.npz" if wrong == "out" else "est.npz")
    preview = tmp_path / ("file/p.png" if wrong == "preview" else "p.png")
    truth = {"truth": ["--truth", tmp_path / "no.npz"], "other truth": ["--truth", people / "truth.npz"]}.get(wrong, [])
    if wrong == "folder":
        out.mkdir()
    assert run("--images", images, "--out", out, "--preview", preview, *truth) == 2
    assert out.is_dir() == (wrong == "folder") == out.exists()
    output = capsys.readouterr().err
    assert output.startswith("gcl_fast: ")
    named = {"out": str(out), "folder": str(out), "preview": str(preview), "truth": "no.npz"}
    assert named.get(wrong, str(images)) in output
    assert "Traceback" not in output


def opened(root):
    config = override(preset("demo"), ["dataset=folder", f"data_root={root}"])
    return Inputs(config, open_dataset("folder", root), (), None)


def test_training_estimates_once_and_keeps_the_file(people, tmp_path, monkeypatch):
    (tmp_path / "crops").mkdir()
    for name in ("01.png", "02.png"):
        os.link(people / "crops" / name, tmp_path / "crops" / name)
    inputs = opened(tmp_path)
    path = body_parameter_file(inputs.dataset, "train")
    assert "to be estimated" in inputs.body
    assert str(path) in inputs.body
    first = inputs.structure_maps("train", torch.device("cpu"))(torch.arange(2), torch.zeros(2))
    assert first.min() < 0 < first.max()
    assert load_body_parameters(path).names == ["crops/01.png", "crops/02.png"]
    monkeypatch.setattr(run_inputs, "estimate_to_file", lambda *_: pytest.fail("estimated again"))
    torch.testing.assert_close(
        inputs.structure_maps("train", torch.device("cpu"))(torch.arange(2), torch.zeros(2)), first
    )
    assert "anny, rendered in the loop" in inputs.body


def test_training_names_the_folder_of_the_split_to_estimate_from(tmp_path):
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0001_c1s1_000001_00.jpg").touch()
    zeros = torch.zeros(1, 57), torch.zeros(1, 6), torch.zeros(1), torch.ones(1, 4), torch.ones(1)
    names = ["bounding_box_train/0001_c1s1_000001_00.jpg"]  # names that --images gives for the dataset's folder
    save_body_parameters(tmp_path / "body_parameters" / "train.npz", BodyParameters(names, "anny", *zeros))
    inputs = Inputs(override(preset("demo"), []), open_dataset("market1501", tmp_path), (), None)
    with pytest.raises(UserError, match=f"--images {tmp_path}/bounding_box_train --out"):
        inputs.structure_maps("train", torch.device("cpu"))


def test_training_says_where_estimates_cannot_be_kept(people, tmp_path):
    os.link(people / "crops" / "01.png", tmp_path / "01.png")
    (tmp_path / "body_parameters").write_text("in the way")
    with pytest.raises(UserError, match="gcl-fast estimate"):
        opened(tmp_path).structure_maps("train", torch.device("cpu"))
