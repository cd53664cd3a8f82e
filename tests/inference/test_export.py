"""Exported files give the rows of the encoder that they were made of, and run without gcl_fast."""

import contextlib
import copy
import io
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.nn.functional import normalize

import gcl_fast
from gcl_fast.__main__ import main
from gcl_fast.assessment.assess import Assessment
from gcl_fast.data import open_dataset
from gcl_fast.data.augment import IMAGENET_MEAN, IMAGENET_STD
from gcl_fast.data.readers import READERS
from gcl_fast.distributed.ranks import Ranks
from gcl_fast.errors import UserError
from gcl_fast.inference import exported_program, onnx_file
from gcl_fast.inference.agreement import BATCHES, check_agreement, sample_images
from gcl_fast.inference.model import Model
from gcl_fast.inference.model_card import DATA_TERMS, example, model_card
from gcl_fast.inference.pixel_encoder import PixelEncoder
from gcl_fast.inputs import open_inputs
from gcl_fast.models import GCL, IdentityConfig, IdentityEncoder, ModelConfig
from gcl_fast.optim.precision import choose
from gcl_fast.run.run_files import read_config
from gcl_fast.run.weights import describe, save_weights
from gcl_fast.settings import override, preset, to_dict

CPU, SIZE = torch.device("cpu"), (64, 40)
GUIDE = Path(__file__).parents[2] / "docs" / "guide.md"
KINDS = {"onnx": onnx_file, "torch-export": exported_program}
PACKAGES = all(find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript"))
needs_onnx = pytest.mark.skipif(not PACKAGES, reason="needs the extra export")
FORMATS = [pytest.param("onnx", marks=needs_onnx), "torch-export"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, world):
    """The folder of a run whose weights nobody trained, with metadata."""
    folder = tmp_path_factory.mktemp("run")
    config = override(preset("demo"), [f"data_root={world}", "height=64", "width=40", "init=there/<i>b|c.pth"])
    (folder / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    torch.manual_seed(0)
    gcl = GCL(config.model)
    with torch.no_grad():
        for images in torch.randn(3, 8, 3, *SIZE):
            gcl.identity.train()(images)  # running statistics
    metadata = describe(config, "joint", open_dataset("synthetic", world), {"mAP": 0.54321, "rank1": 1.0})
    save_weights(folder / "checkpoints" / "joint.safetensors", gcl.state_dict(), metadata)
    return folder


@pytest.fixture(scope="module", params=FORMATS)
def exported(request, run, tmp_path_factory):
    """Name of a format, and the file that the command wrote in it; printed.txt is next to the file."""
    out = tmp_path_factory.mktemp("exported") / f"model{KINDS[request.param].SUFFIX}"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["export", str(run), "--to", request.param, "--out", str(out), "--evaluate"]) == 0
    out.with_name("printed.txt").write_text(printed.getvalue())
    return request.param, out


@pytest.mark.parametrize("count", [1, 2, 5, 64, 67])
def test_rows_are_those_of_the_encoder_in_float64(run, exported, count):
    to, out = exported
    images = torch.from_numpy(np.random.default_rng(count).integers(0, 256, (count, *SIZE, 3), np.uint8))
    mean, deviation = (torch.tensor(values, dtype=torch.float64) for values in (IMAGENET_MEAN, IMAGENET_STD))
    pixels = (images.double() / 255 - mean) / deviation
    _, embeddings = copy.deepcopy(gcl_fast.load(run, device="cpu").encoder).double()(pixels.permute(0, 3, 1, 2))
    rows = KINDS[to].open_file(out)(images)
    assert (rows.dtype, rows.shape) == (torch.float32, (count, 256))
    assert torch.allclose(rows.double(), normalize(embeddings), rtol=0, atol=1e-5)


def test_a_file_carries_the_metadata_of_its_weights(run, exported):
    to, out = exported
    if to == "onnx":
        import onnx

        (entry,) = onnx.load(out).metadata_props
        found = {entry.key: entry.value}["gcl_fast"]
    else:
        files = {"gcl_fast.json": ""}
        torch.export.load(out, extra_files=files)
        found = files["gcl_fast.json"]
    model = gcl_fast.load(run, device="cpu")
    assert json.loads(found) == model.metadata | {"digest": model.digest}


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig.demo().identity,
        IdentityConfig(stem_channels=8, channels=(16, 16, 32, 32), blocks=(1, 2, 1, 1), projection=24),
    ],
    ids=["demo", "paper"],
)
def test_graphs_hold_operations_of_torch_and_onnx_alone(config):
    program = exported_program.export_program(PixelEncoder(IdentityEncoder(config)), SIZE)
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert {name.partition(".")[0] for name in names} == {"aten"}
    assert "aten.relu.default" in names
    assert "aten.abs.default" not in names, "the form of a ReLU that torch.compile gets has four operations"
    if PACKAGES:
        import onnx

        onnx_file.write(program, file := io.BytesIO(), "{}")
        model = onnx.load_from_string(file.getvalue())
        onnx.checker.check_model(model, full_check=True)
        assert ({node.domain for node in model.graph.node}, len(model.functions)) == ({""}, 0)
        assert [entry.version for entry in model.opset_import] == [onnx_file.OPSET]
        assert not any(tensor.external_data for tensor in model.graph.initializer)
        assert [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [
            "batch",
            *SIZE,
            3,
        ]


def test_the_program_of_the_card_runs_without_gcl_fast(run, exported, tmp_path):
    _, out = exported
    pixels = sample_images(2, (100, 50)).numpy()
    for name, array in zip(("query", "candidate"), pixels):
        Image.fromarray(array).save(tmp_path / f"{name}.jpg", quality=95)
    (tmp_path / out.name).symlink_to(out)
    (program,) = re.findall("```python\n(.*?)```", out.with_name(f"{out.name}.md").read_text(), re.DOTALL)
    program += "import sys; print('gcl_fast' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    cosines, imported = done.stdout.rsplit("\n", 2)[:2]
    rows = gcl_fast.load(run, device="cpu").embed(
        [np.asarray(Image.open(tmp_path / f"{n}.jpg")) for n in ("query", "candidate")]
    )
    assert np.allclose(
        np.array(cosines.translate({91: None, 93: None}).split(), float), (rows @ rows.T).flatten(), atol=2e-3
    )
    assert imported == "False"


def test_the_program_of_the_guide_is_that_of_a_card():
    assert example((128, 64), onnx_file.snippet("model.onnx")) in GUIDE.read_text()


def test_the_card_says_what_is_known(run, exported, world):
    to, out = exported
    card, model = out.with_name(f"{out.name}.md").read_text(), gcl_fast.load(run, device="cpu")
    data = open_dataset("synthetic", world)
    for fact in (
        f"# {out.name}\n",
        f"| digest of the weights | {model.digest} |",
        "(N, 64, 40, 3) uint8, RGB",
        "(N, 256) float32",
        "| mAP | 54.32 % |\n| rank1 | 100.00 % |",
        f"| crops in train | {len(data.train)} |",
        model.metadata["data"]["digest"],
        DATA_TERMS["synthetic"],
        "The training started from &lt;i&gt;b\\|c.pth, whose licence applies as well.",
        "Re-identification can harm people; use it lawfully.",
        "operator set 18" if to == "onnx" else torch.__version__,
    ):
        assert fact in card, fact
    assert str(world) not in card, "a file to share names no path of this machine"
    assert "| None |" not in card


def test_the_card_of_weights_without_metadata_says_so():
    encoder = IdentityEncoder(ModelConfig.demo().identity).eval()
    card = model_card(
        Model(encoder, None, SIZE, {}, choose(False, CPU)), "m.onnx", "ONNX", "import a\n\nb", "rows differ"
    )
    assert "The weights carry no metrics." in card
    assert "The terms of the data are not known." in card
    assert "The weights do not name the weights that their training started from" in card
    assert "| None |" not in card


def test_the_card_names_the_terms_of_the_source_as_well():
    model = Model(IdentityEncoder(ModelConfig.demo().identity).eval(), None, SIZE, {}, choose(False, CPU))
    model.metadata = {"data": {"name": "synthetic"}, "source": "dukemtmc", "init": ""}
    card = model_card(model, "m.onnx", "ONNX", "import a\n\nb", "rows differ")
    assert "| labelled source | dukemtmc |" in card
    assert f"{DATA_TERMS['synthetic']} {DATA_TERMS['dukemtmc']} Terms" in card
    assert "The training started from random weights." in card


def test_every_dataset_has_terms():
    assert DATA_TERMS.keys() == READERS.keys()


def test_sample_images_reach_all_rows(run):
    network = PixelEncoder(gcl_fast.load(run, device="cpu").encoder)
    rows = network(sample_images(max(BATCHES), SIZE))
    assert float((rows @ rows.T).fill_diagonal_(0).max()) < 0.99999, "alike rows would hide a wrong order"
    assert float((network(sample_images(5, SIZE).flip(3)) - network(sample_images(5, SIZE))).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows: rows + 1.1e-5, "for 1 images its rows differ from PyTorch's in float32 by 1.1e-05"),
        (lambda rows: rows.roll(1, 0), "for 5 images its rows differ"),
        (lambda rows: rows * torch.nan, "by nan, more than 1e-05"),
        (lambda rows: rows[:4], r"for 5 images it gives \(4, 256\) torch.float32, and PyTorch \(5, 256\)"),
        (lambda rows: rows.double(), "torch.float64"),
    ],
)
def test_other_rows_are_refused(run, change, reason):
    network = PixelEncoder(gcl_fast.load(run, device="cpu").encoder)
    assert check_agreement(lambda images: network(images) + 9e-6, network, SIZE, "model") == pytest.approx(
        9e-6, rel=0.1
    )
    with pytest.raises(UserError, match=f"model was not written: .*{reason}"):
        check_agreement(lambda images: change(network(images)), network, SIZE, "model")


def test_a_file_that_does_not_agree_leaves_the_old_one(run, tmp_path, monkeypatch, capsys):
    out = tmp_path / "model.pt2"
    out.write_bytes(b"old")
    monkeypatch.setattr(exported_program, "open_file", lambda path: lambda images: torch.zeros(len(images), 256))
    assert main(["export", str(run), "--to", "torch-export", "--out", str(out)]) == 2
    assert re.fullmatch(rf"gcl_fast: {out} was not written: [^\n]*\n", capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]
    assert out.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("source", "flags", "reason"),
    [
        (".", ["--out", "model.onnx"], "expected a name that ends in .pt2"),
        (".", ["--out", "config.yaml/model.pt2"], "cannot write"),
        (".", ["--out", "folder.pt2"], "it is a folder"),
        (".", ["--stage", "generative"], "no weights of a stage 'generative'"),
        (".", ["--data-root", "."], "add --evaluate"),
        (".", ["--evaluate", "--dataset", "folder", "--data-root", "crops"], "no query and gallery"),
        ("absent", [], "no run and no weights at"),
        ("a/b/plain.safetensors", [], "no metadata of gcl_fast"),
    ],
)
def test_the_command_refuses_in_one_line_and_writes_nothing(run, tmp_path, monkeypatch, capsys, source, flags, reason):
    monkeypatch.chdir(tmp_path)
    for name in ("config.yaml", "checkpoints"):
        (tmp_path / name).symlink_to(run / name)
    (tmp_path / "folder.pt2").mkdir()
    (tmp_path / "crops").mkdir()
    Image.new("RGB", (8, 8)).save("crops/crop.jpg")
    save_weights(tmp_path / "a" / "b" / "plain.safetensors", {"identity.w": torch.zeros(1)})
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    assert main(["export", source, "--to", "torch-export", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("to", FORMATS)
def test_a_file_that_the_disk_does_not_take_is_one_sentence(run, tmp_path, to):
    out = tmp_path / f"model{KINDS[to].SUFFIX}"
    script = (
        "import resource, sys; from gcl_fast.__main__ import main;"
        " resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)); sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, "export", str(run), "--to", to, "--out", str(out)]
    environment = os.environ | {"GCL_FAST_ALLOCATOR": "decided"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (
        2,
        f"gcl_fast: cannot write {out} (File too large); choose another place\n",
    )
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named_with_their_extra(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", str(run), "--to", "onnx", "--out", str(tmp_path / "model.onnx")]) == 2
    assert "an ONNX file needs onnx: pip install onnx onnxscript onnxruntime (the extra" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_file_has_the_mAP_of_pytorch(run, exported):
    text = exported[1].with_name("printed.txt").read_text()
    printed = re.findall(r"mAP on synthetic: (\S+) % by PyTorch in float32, (\S+) % by model", text)
    config = read_config(run / "config.yaml")
    assessment = Assessment(config, open_inputs(config), Ranks(0, 1, CPU), choose(False, CPU))
    mAP = assessment.retrieval(gcl_fast.load(run, device="cpu").gcl)["mAP"]
    assert printed == [(f"{100 * mAP:.2f}",) * 2]


def test_the_default_place_is_the_run_or_beside_the_file(run, tmp_path, capsys):
    (tmp_path / "encoder.safetensors").symlink_to(run / "checkpoints" / "joint.safetensors")
    (tmp_path / "checkpoints").symlink_to(run / "checkpoints")
    for source, name in ((tmp_path, "joint.pt2"), (tmp_path / "encoder.safetensors", "encoder.pt2")):
        assert main(["export", str(source), "--to", "torch-export"]) == 0
        assert (tmp_path / name).is_file()
        assert (tmp_path / f"{name}.md").is_file()
