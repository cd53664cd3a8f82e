"""evaluate, generate and the other entries on networks that nobody trained: what is written, and what is refused."""

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import gcl_fast
from gcl_fast import estimate, evaluate, generate, train
from gcl_fast.bodies import AnnyBody, OnlineStructureMaps, align, load_body_parameters
from gcl_fast.data import ExtractLoader, open_dataset
from gcl_fast.errors import UserError
from gcl_fast.evaluation import retrieve
from gcl_fast.evaluation.inference import embeddings
from gcl_fast.evaluation.view_pooling import CarriedViews
from gcl_fast.models import GCL
from gcl_fast.optim.precision import choose
from gcl_fast.run.weights import save_weights
from gcl_fast.settings import override, preset, to_dict

CROPS = ("cam1/0001.png", "cam2/0001.png", "cam2/0002.png")


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> Path:
    """The folder of a run on three unlabelled crops, with a warm-up and a generative stage of random weights."""
    root = tmp_path_factory.mktemp("untrained")
    for number, name in enumerate(CROPS):
        (root / "crops" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (64, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "crops" / name)
    config = override(preset("demo"), ["dataset=folder", f"data_root={root / 'crops'}", "height=64", "width=40"])
    (root / "run").mkdir()
    (root / "run" / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    torch.manual_seed(0)
    state = GCL(config.model).state_dict()
    for stage in ("warmup", "generative"):
        save_weights(root / "run" / "checkpoints" / f"{stage}.safetensors", state)
    return root / "run"


def test_equal_names_in_two_folders_keep_their_views(untrained, tmp_path):
    assert generate.main([str(untrained), "--files", str(tmp_path), "--yaws", "0", "90"]) == 0
    views = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    assert views == [f"{name[:-4]}_yaw{yaw}.png" for name in CROPS for yaw in (0, 90)]
    with Image.open(tmp_path / views[0]) as picture:
        assert picture.size == (40, 64)


@pytest.mark.parametrize(
    "command",
    [
        lambda run, out, data: evaluate.main([str(run), "--generation", "--yaws", "0", "--json", *data]),
        lambda run, out, data: generate.main([str(run), "--out", str(out), "--yaws", "0", "--count", "1", *data]),
    ],
    ids=["evaluate", "generate"],
)
def test_images_that_do_not_decode_are_counted_once(untrained, tmp_path, capsys, command):
    for name in CROPS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(untrained.parent / "crops" / name, tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert command(untrained, tmp_path / "views.png", ["--data-root", str(tmp_path)]) == 0
    said = capsys.readouterr()
    (line,) = [line for line in said.err.splitlines() if "do not decode" in line]
    assert line.startswith(f"gcl_fast: 1 of 4 images under {tmp_path} do not decode (broken.png: ")
    assert line.endswith("): skipped")
    assert "do not decode" not in said.out


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--split", "query"], "no crops in query"),
        (["--split", "query", "--names", "0001.png"], "no crops in query"),
        (["--out", "DIR/file/views.png"], "cannot write DIR/file/views.png"),
        (["--files", "DIR/file"], "cannot write DIR/file/cam1/0001_yaw0.png"),
    ],
)
def test_generate_says_what_is_wrong(untrained, tmp_path, capsys, flags, told):
    (tmp_path / "file").touch()
    flags = [flag.replace("DIR", str(tmp_path)) for flag in flags]
    assert generate.main([str(untrained), "--count", "1", "--yaws", "0", *flags]) == 2
    assert told.replace("DIR", str(tmp_path)) in capsys.readouterr().err


def test_a_dataset_without_query_cannot_be_ranked(untrained, capsys):
    before = sorted(untrained.parent.rglob("*"))
    assert evaluate.main([str(untrained)]) == 2
    assert sorted(untrained.parent.rglob("*")) == before, "no body was estimated"
    streams = capsys.readouterr()
    assert "has no query and gallery, so there is nothing to rank; name another dataset" in streams.err
    assert streams.out == ""


@pytest.fixture(scope="module")
def ranked(tmp_path_factory, world) -> Path:
    """The folder of a run on the embedded world with a warm-up of random weights, in mixed precision."""
    folder = tmp_path_factory.mktemp("project") / "runs" / "one"
    config = override(preset("demo"), ["name=one", "height=64", "width=40", "amp=true", "data_root=data/world"])
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    (folder.parents[1] / "data").mkdir()
    (folder.parents[1] / "data" / "world").symlink_to(world)
    torch.manual_seed(0)
    save_weights(folder / "checkpoints" / "warmup.safetensors", GCL(config.model).state_dict())
    return folder


def measured(capsys, *arguments) -> dict[str, float]:
    """Return the metrics of the warm-up that evaluate prints."""
    assert evaluate.main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)["warmup"]


def test_flip_and_query_expansion_are_what_they_say(ranked, world, capsys):
    rows, data = {}, open_dataset("synthetic", world)
    model = gcl_fast.load(ranked)
    for flip in (False, True):
        query, gallery = (model.embed(records.paths, flip=flip) for records in (data.query, data.gallery))
        rows[flip, 0] = retrieve(query, gallery, data.query, data.gallery).mAP
        nearest = (query @ gallery.T).topk(3).indices
        query = torch.nn.functional.normalize(query + gallery[nearest].sum(1))
        rows[flip, 3] = retrieve(query, gallery, data.query, data.gallery).mAP
    assert len(set(rows.values())) == 4
    for (flip, k), mAP in rows.items():
        flags = ["--flip"] * flip + ["--query-expansion", str(k)] * bool(k)
        assert measured(capsys, ranked, *flags)["mAP"] == pytest.approx(mAP, abs=1e-9)


def test_pooled_views_rank_by_the_means_over_views(ranked, world, capsys):
    plain, pooled = measured(capsys, ranked), measured(capsys, ranked, "--pool-views")
    data, encoder, rows, used = open_dataset("synthetic", world), gcl_fast.load(ranked).encoder, {}, []
    for split in ("query", "gallery"):
        records = getattr(data, split)
        params = align(load_body_parameters(world / "body_parameters" / f"{split}.npz"), records.names, world, world)
        views = CarriedViews(OnlineStructureMaps(AnnyBody(), params, (64, 40), "cpu"))
        batches, precision = ExtractLoader(records, (64, 40)), choose(True, torch.device("cpu"))
        rows[split] = embeddings(
            encoder, batches, len(records), precision.evaluating, dtype=precision.dtype, views=views
        )
        used.append(views.used)
    expected = retrieve(rows["query"], rows["gallery"], data.query, data.gallery).mAP
    assert pooled["mAP"] == pytest.approx(expected, abs=1e-6)
    assert pooled["views"] == pytest.approx(sum(used) / 2)
    assert pooled["mAP"] != plain["mAP"]


def test_a_run_is_evaluated_from_another_folder_in_its_own_precision(ranked, world, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    choices = []
    monkeypatch.setattr(
        "gcl_fast.optim.precision.choose", lambda amp, device: choices.append(amp) or choose(amp, device)
    )
    expected = measured(capsys, ranked, "--data-root", world)
    assert measured(capsys, ranked) == expected
    measured(capsys, ranked, "--no-amp")
    assert choices == [True, True, False]
    moved = tmp_path / "elsewhere"  # its data are where its last command was started
    shutil.copytree(ranked, moved)
    (moved / "environment.json").write_text(json.dumps([{"folder": "/absent"}, {"folder": str(ranked.parents[1])}]))
    assert measured(capsys, moved) == expected
    (moved / "environment.json").write_text("{")
    assert evaluate.main([str(moved)]) == 2


def test_a_file_of_a_run_is_not_taken_for_official_weights(ranked, world, capsys):
    weights = ranked / "checkpoints" / "warmup.safetensors"
    for flags in ([], ["--dataset", "synthetic", "--data-root", str(world)]):
        assert evaluate.main([str(weights), *flags]) == 2
        assert f"no run at {weights}: " in capsys.readouterr().err


def test_quality_as_one_object(untrained, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    assert evaluate.main([str(untrained), "--generation", "--json", "--yaws", "0", "--count", "2"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert list(found) == ["generative"]
    assert {"error_cycle", "ssim_reconstruction", "error_reconstruction"} == found["generative"]["yaws"]["0"].keys()
    assert "without torchmetrics" in said.err
    kept = json.loads((untrained / "generation" / "generative.json").read_text())
    assert kept == {"stage": "generative", **found["generative"]}


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--generation", "--joint-similarity"], "--joint-similarity with --generation"),
        (["--generation", "--rerank"], "--rerank with --generation"),
        (["--generation", "--flip"], "--flip with --generation"),
        (["--generation", "--query-expansion", "3"], "--query-expansion with --generation"),
        (["--generation", "--pool-views"], "--pool-views with --generation"),
        (["--pool-views", "--joint-similarity"], "--pool-views with --joint-similarity"),
        (["--query-expansion", "0"], "--query-expansion 0: expected 1"),
        (["--inception", "file.pth"], "--inception without --generation"),
        (["--yaws", "0"], "--yaws without --generation"),
        (["--count", "3"], "--count without --generation"),
        (
            ["--generation", "--stages", "warmup", "joint"],
            "--stages warmup: no generator is trained by then; name generative",
        ),
    ],
)
def test_flags_that_would_do_nothing_are_refused(untrained, tmp_path, capsys, flags, told):
    run = shutil.copytree(untrained, tmp_path / "run", ignore=lambda *_: ["generation"])
    before = sorted(run.rglob("*"))
    assert evaluate.main([str(run), *flags]) == 2
    assert told in capsys.readouterr().err
    assert sorted(run.rglob("*")) == before


def test_quality_that_cannot_be_kept_is_not_measured(untrained, tmp_path, capsys):
    (tmp_path / "generation").touch()
    (tmp_path / "config.yaml").write_text((untrained / "config.yaml").read_text())
    assert evaluate.main([str(tmp_path), "--generation"]) == 2
    assert f"cannot write to {tmp_path / 'generation'}" in capsys.readouterr().err


class Unbuilt(ModuleType):
    """A module whose import raises `error`, as of those whose C++ ops find no compiler, or are being built."""

    error: BaseException

    def __getattr__(self, name):
        raise self.error


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (train, []),
        (evaluate, ["runs/none"]),
        (generate, ["runs/none"]),
        (estimate, ["--images", "crops", "--out", "none.npz"]),
    ],
)
@pytest.mark.parametrize(
    ("error", "status", "said"),
    [(UserError("no compiler"), 2, "no compiler"), (KeyboardInterrupt(), 130, "interrupted before it began")],
)
def test_what_stops_the_imports_is_one_line(command, arguments, error, status, said, monkeypatch, capsys):
    for name in ("gcl_fast.run.session", "gcl_fast.run.restore", "gcl_fast.bodies.body_estimator"):
        unbuilt = Unbuilt(name)
        unbuilt.error = error
        monkeypatch.setitem(sys.modules, name, unbuilt)
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == status
    assert capsys.readouterr().err == f"gcl_fast: {said}\n"
