"""Every kind of backbone trains through all three stages, resumes, is loaded, and is exported."""

import json
import shutil

import numpy as np
import pytest
import torch

import gcl_fast
from gcl_fast import evaluate, export
from gcl_fast.inference.onnx_file import open_file

# Small maps have two rows. The statistics of a few steps do not fit a network of 50 layers
SETTINGS = {
    "mobilenetv2": ("model.identity.parts=2",),
    "resnet50-ibn-a": ("joint.batch_statistics=true",),
    "torchvision:shufflenet_v2_x0_5": ("model.identity.parts=2",),
    "timm:test_resnet": ("model.identity.parts=2",),
    "timm:test_vit": ("width=48", "model.identity.parts=2", "model.identity.pooling=average"),
}
CARRIED = (
    "model.generator.appearance=carried", "generative.weights.similarity=5", "joint.views=drawn",
    "joint.update_every=2",
    "joint.clusters={epochs: 1, steps_per_epoch: 3, identities: 4, crops: 2, lr: 1e-3, clustering: {k1: 6, eps: 0.5}}",
)  # fmt: skip


@pytest.fixture
def train(command, trainer, tmp_path):
    """train(backbone, name, *settings, flags=()): a finished run of a tiny training."""

    def run(backbone, name, *settings, flags=()):
        if backbone.startswith("timm:"):
            pytest.importorskip("timm")
        flags = ("--backbone", backbone, *flags)
        done = trainer.run([*command(tmp_path, name, *flags), *SETTINGS[backbone], *settings])
        assert done.returncode == 0, done.stderr
        return tmp_path / name

    return run


@pytest.mark.parametrize(
    ("backbone", "reason"),
    [
        ("torchvision:mobilenet_v4", "did you mean mobilenet_v2"),
        ("torchvision:mobilenet_v2", "makes a map of 2 rows"),
        ("torchvision:vit_b_16", "not known where this network has a map"),
    ],
)
def test_it_is_refused_before_data_are_made(backbone, reason, command, trainer, tmp_path):
    data = tmp_path / "not-made-yet"
    done = trainer.run([*command(tmp_path, "refused", "--backbone", backbone), f"data_root={data}"])
    assert done.returncode == 2
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
    assert not data.exists()
    assert not (tmp_path / "refused").exists()


@pytest.mark.slow
@pytest.mark.parametrize("appearance", ["parts", "carried"])
@pytest.mark.parametrize("backbone", SETTINGS)
def test_it_trains_through_all_stages(backbone, appearance, train):
    run = train(backbone, "whole", *(CARRIED if appearance == "carried" else ()))
    stages = json.loads((run / "summary.json").read_text())["stages"]
    assert list(stages) == ["warmup", "generative", "joint"]
    assert all(np.isfinite(list(stage.values())).all() and not stage.get("skipped") for stage in stages.values())
    encoders = [gcl_fast.load(run, stage=stage).encoder for stage in ("warmup", "joint")]
    before, after = ({n: weight for n, weight in e.named_parameters() if weight.dim() > 1} for e in encoders)
    assert not [name for name in before if torch.equal(before[name], after[name])]


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["mobilenetv2", "timm:test_vit"])
def test_it_resumes_evaluates_embeds_and_exports(backbone, train, differing, tmp_path, capsys):
    whole = train(backbone, "whole")
    train(backbone, "halved", flags=("--stages", "warmup"))
    halved = train(backbone, "halved", flags=("--resume",))
    assert not differing(halved, whole)
    assert evaluate.main([str(whole)]) == 0
    assert "joint" in capsys.readouterr().out

    alone = shutil.copy(whole / "encoder.safetensors", tmp_path)
    model = gcl_fast.load(alone, amp=False)
    images = torch.randint(0, 256, (3, *model.size, 3), dtype=torch.uint8)
    rows = model.embed(images.numpy())
    assert rows.shape == (3, model.dim)
    pytest.importorskip("onnxruntime")
    assert export.main([str(alone), "--to", "onnx", "--out", str(tmp_path / "encoder.onnx")]) == 0
    exported = open_file(tmp_path / "encoder.onnx")(images)
    torch.testing.assert_close(exported, rows, rtol=0, atol=1e-5)
