"""gcl_fast.load and what its models do, on networks that nobody trained."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import gcl_fast
from gcl_fast import embed
from gcl_fast.assessment.extract import extract
from gcl_fast.data import open_dataset
from gcl_fast.distributed.ranks import Ranks
from gcl_fast.errors import UserError
from gcl_fast.models import GCL
from gcl_fast.optim.precision import choose
from gcl_fast.run.weights import describe, load_weights, read_metadata, save_weights
from gcl_fast.settings import override, preset, to_dict

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory, world):
    """The folder of a run with all that it leaves to share, of random weights."""
    folder = tmp_path_factory.mktemp("run")
    config = override(preset("demo"), [f"data_root={world}", "height=64", "width=40"])
    (folder / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    torch.manual_seed(0)
    gcl, dataset = GCL(config.model), open_dataset("synthetic", world)
    with torch.no_grad():
        for images in torch.randn(3, 8, 3, 64, 40):
            gcl.identity.train()(images)  # running statistics
    for stage in ("warmup", "joint"):
        save_weights(
            folder / "checkpoints" / f"{stage}.safetensors", gcl.state_dict(), describe(config, stage, dataset, {})
        )
    encoder = {name: tensor for name, tensor in gcl.state_dict().items() if name.startswith("identity.")}
    save_weights(folder / "encoder.safetensors", encoder, describe(config, "joint", dataset, {}))
    save_weights(folder / "plain.safetensors", gcl.state_dict())
    return folder, config, gcl


def test_rows_are_those_of_evaluation(run, world):
    folder, config, gcl = run
    data = open_dataset("synthetic", world)
    expected = extract(gcl.identity, data.query, config, Ranks(0, 1, CPU), choose(False, CPU))
    for source in (folder, folder / "encoder.safetensors", folder / "checkpoints" / "warmup.safetensors"):
        rows = gcl_fast.load(source).embed(data.query.paths)
        assert torch.allclose(rows, expected, rtol=0, atol=1e-5), source
    assert torch.equal(gcl_fast.load(folder).embed(data.query.root), expected)


def test_one_encoder_has_one_digest_whichever_file_holds_it(run, tmp_path):
    folder, _, gcl = run
    digest = gcl_fast.load(folder).digest
    assert gcl_fast.load(folder / "encoder.safetensors").digest == digest
    state = gcl.state_dict() | {"identity.conv1.weight": gcl.identity.conv1.weight + 1e-3}
    save_weights(tmp_path / "w.safetensors", state)
    assert gcl_fast.load(tmp_path / "w.safetensors", config=folder / "config.yaml").digest != digest


def test_mirrored_images_count_with_flip(run, world):
    model, paths = gcl_fast.load(run[0]), open_dataset("synthetic", world).query.paths[:3]
    arrays = [np.asarray(Image.open(path)) for path in paths]
    mean = model.embed(arrays) + model.embed([array[:, ::-1] for array in arrays])
    rows = model.embed(paths, flip=True)
    assert torch.allclose(rows, torch.nn.functional.normalize(mean), atol=2e-3)
    assert torch.allclose(rows, model.embed([array[:, ::-1] for array in arrays], flip=True), atol=2e-3)


def test_an_image_that_does_not_decode_has_a_row_of_nan(run, world, tmp_path, caplog):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    model, first = gcl_fast.load(run[0]), open_dataset("synthetic", world).query.paths[0]
    rows = model.embed([first, tmp_path / "broken.jpg"])
    assert rows.isnan().any(1).tolist() == [False, True]
    assert f"1 of 2 images do not decode, their rows are NaN: {tmp_path / 'broken.jpg'}" in caplog.text
    matches = model.search(first, rows, k=2)
    assert matches.indices.tolist() == [[0, 1]]
    assert matches.similarity[0, 1] == -torch.inf


def test_search_is_the_order_of_cosines(run):
    model = gcl_fast.load(run[0])
    rows = torch.nn.functional.normalize(torch.randn(50, model.dim, dtype=torch.float64), dim=1)
    matches = model.search(rows[:7].float(), rows.float(), k=50)
    order = (rows[:7] @ rows.T).argsort(dim=1, descending=True)
    assert torch.equal(matches.indices[:, :5], order[:, :5])
    assert torch.allclose(matches.similarity, (rows[:7] @ rows.T).sort(dim=1, descending=True)[0].float(), atol=1e-6)


@pytest.mark.parametrize(("k", "size"), [(0, None), (51, None), (1, 3)])
def test_what_cannot_be_searched_is_refused(run, k, size):
    model = gcl_fast.load(run[0])
    rows = torch.randn(50, size or model.dim)
    with pytest.raises(
        UserError, match="the gallery has 50 images" if size is None else r"this model makes \(N, 256\)"
    ):
        model.search(rows, rows, k=k)


def test_people_are_turned(run, world):
    model, paths = gcl_fast.load(run[0]), open_dataset("synthetic", world).query.paths[:2]
    views = model.turn(paths, yaws=[0, 90, 180])
    assert views.shape == (2, 3, 3, 64, 40)
    assert 0 <= float(views.min()) < float(views.max()) <= 1
    assert torch.allclose(model.turn(paths[1], yaws=[180])[0, 0], views[1, 2], atol=0.02)
    assert not torch.allclose(views[1, 0], views[1, 2], atol=0.02)
    with pytest.raises(UserError, match="expected numbers of degrees"):
        model.turn(paths[0], yaws=[0, float("nan")])


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("encoder.safetensors", "an identity encoder alone"),
        ("checkpoints/warmup.safetensors", "no generator is trained in these weights"),
    ],
)
def test_nobody_is_turned_without_a_trained_generator(run, world, file, reason):
    with pytest.raises(UserError, match=reason):
        gcl_fast.load(run[0] / file).turn(open_dataset("synthetic", world).query.paths[0])


def test_precision_is_that_of_training(run, tmp_path):
    folder, config, gcl = run
    amp = override(config, ["amp=true"])
    save_weights(
        tmp_path / "w.safetensors",
        gcl.state_dict(),
        describe(amp, "joint", open_dataset("synthetic", config.data_root), {}),
    )
    assert gcl_fast.load(tmp_path / "w.safetensors").precision == choose(True, CPU)
    assert gcl_fast.load(tmp_path / "w.safetensors", amp=False).precision == choose(False, CPU)
    assert gcl_fast.load(folder).precision == choose(False, CPU)


def test_official_weights(official, tmp_path):
    torch.save(official["id"], tmp_path / "model_best.pth")
    model = gcl_fast.load(tmp_path / "model_best.pth")
    assert (model.size, model.dim, model.gcl) == ((256, 128), 512, None)
    assert model.embed(np.zeros((2, 8, 8, 3), np.uint8)).shape == (2, 512)


def test_files_without_metadata_need_their_settings(run):
    folder, config, _ = run
    with pytest.raises(UserError, match=r"no metadata of gcl_fast.*config\.yaml of its run by config=FILE"):
        gcl_fast.load(folder / "plain.safetensors")
    with pytest.raises(UserError, match="no settings at"):
        gcl_fast.load(folder / "plain.safetensors", config=folder / "absent.yaml")
    assert gcl_fast.load(folder / "plain.safetensors", config=folder / "config.yaml").size == config.size


@pytest.mark.parametrize(
    ("source", "flags", "reason"),
    [
        ("absent", {}, "no run and no weights at"),
        (".", {"stage": "generative"}, "no weights of a stage 'generative'; name one of warmup, joint"),
        ("encoder.safetensors", {"stage": "joint"}, "one file holds one stage"),
        ("config.yaml", {}, "not a PyTorch file"),
        ("encoder.safetensors", {"device": "toaster"}, "device='toaster': "),
        ("encoder.safetensors", {"device": "meta"}, "device='meta': "),
    ],
)
def test_what_cannot_be_loaded_is_refused(run, source, flags, reason):
    with pytest.raises(UserError, match=reason):
        gcl_fast.load(run[0] / source, **flags)


def test_weights_of_a_training_that_diverged_are_refused(run, tmp_path):
    weights = load_weights(run[0] / "encoder.safetensors")
    weights["identity.conv1.weight"][0] = torch.nan
    save_weights(tmp_path / "w.safetensors", weights, read_metadata(run[0] / "encoder.safetensors"))
    with pytest.raises(UserError, match="its training diverged"):
        gcl_fast.load(tmp_path / "w.safetensors")


def test_rows_of_a_file_are_searched_as_those_in_memory(run, world):
    model = gcl_fast.load(run[0])
    rows = model.embed(open_dataset("synthetic", world).query.paths)
    assert torch.equal(model.search(rows.numpy(), rows.numpy(), k=3).indices, model.search(rows, rows, k=3).indices)


def test_the_command_writes_rows_with_their_names(run, world, tmp_path, capsys):
    out = tmp_path / "rows.npz"
    assert embed.main([str(run[0]), str(world / "query"), "--out", str(out)]) == 0
    with np.load(out) as file:
        names, rows, digest = file["names"], file["rows"], str(file["digest"])
    data = open_dataset("synthetic", world).query
    assert [str(path) for path in data.paths] == names.tolist()
    assert np.allclose(rows, gcl_fast.load(run[0]).embed(data.paths).numpy(), atol=1e-6)
    assert digest == gcl_fast.load(run[0]).digest
    assert capsys.readouterr().out == f"{out}: {len(rows)} rows of 256 by {digest}, 0 are NaN\n"


@pytest.mark.parametrize(
    ("images", "out", "reason"),
    [
        ("", "rows.npz", "no crops in"),
        ("a.jpg", "rows.csv", "ends in .npz"),
        ("a.jpg", "a.jpg/rows.npz", "cannot write"),
        ("a.jpg", "rows.npz", "none of the 1 images decodes"),
        ("b.jpg", "rows.npz", "there is no image"),
    ],
)
def test_the_command_refuses_in_one_line_and_writes_nothing(run, tmp_path, capsys, images, out, reason):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg" if images else tmp_path / "x").write_bytes(b"")
    assert embed.main([str(run[0]), str(tmp_path / "in" / images), "--out", str(tmp_path / "in" / out)]) == 2
    assert reason in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.rglob("*.npz"))


def test_importing_the_package_loads_nothing():
    heavy = ("torch", "numpy", "gcl_fast.csrc")
    code = f"import sys, gcl_fast; gcl_fast.__all__; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
    assert set(gcl_fast.__all__) <= set(dir(gcl_fast))
    with pytest.raises(AttributeError, match="it offers Matches, Model, find_images, load"):
        _ = gcl_fast.absent
