"""Warm-ups by name: their settings, going on after a stop, several ranks, and what they say to wrong input."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from gcl_fast import evaluate
from gcl_fast.command_line import parse
from gcl_fast.distributed.ranks import Ranks
from gcl_fast.errors import UserError
from gcl_fast.inputs import open_inputs
from gcl_fast.models import GCL
from gcl_fast.optim import precision as arithmetic
from gcl_fast.run.checkpoint import load_state
from gcl_fast.run.weights import save_weights
from gcl_fast.settings import from_dict, override, preset, to_dict, warmup_preset
from gcl_fast.stages.warmups import WARMUPS, make_warmup

TINY = {
    "cluster": ["warmup.memory=hardest", "warmup.identities=4", "warmup.crops=2", "warmup.clustering.k1=6",
                "warmup.steps_per_epoch=3"],
    "mmcl": ["warmup.batch=12", "warmup.single_label_epochs=1"],
    "jvtc": ["warmup.batch=6", "warmup.variants=2", "warmup.clustering.k1=6", "warmup.steps_per_epoch=3",
             "warmup.clustering.min_samples=2"],
}  # fmt: skip


def config_of(method, world, *more):
    config = replace(preset("demo"), warmup=warmup_preset("demo", method), data_root=str(world))
    return override(config, ["height=64", "width=40", "warmup.epochs=3", *TINY[method], *more])


def open_stage(config):
    torch.manual_seed(0)
    ranks = Ranks(0, 1, torch.device("cpu"))
    gcl = GCL(config.model)
    precision = arithmetic.choose(False, ranks.device, "off")
    return make_warmup(config, gcl, open_inputs(config), ranks, precision), gcl


def drive(stage, start=(0, 0), stop=None):
    """Steps from `start` to before `stop`, (epoch, position) each, as the loop takes them."""
    for epoch in range(start[0], stage.epochs):
        begin = start[1] if epoch == start[0] else 0
        if begin == 0:
            stage.begin_epoch(epoch)
        for position, (images, index) in enumerate(stage.loader.epoch(stage.plan(epoch), epoch, begin), begin):
            if (epoch, position) == stop:
                return
            stage.step(images, index, epoch, position)


def leaves(state):
    if isinstance(state, torch.Tensor):
        return [state]
    values = state.values() if isinstance(state, dict) else state if isinstance(state, list) else []
    return [leaf for value in values for leaf in leaves(value)]


@pytest.mark.parametrize(("method", "memory"), [*((method, "") for method in TINY), ("cluster", "cameras")])
def test_it_goes_on_bit_for_bit(method, memory, world, saved):
    config = config_of(method, world, *([f"warmup.memory={memory}"] if memory else []))
    stage, gcl = open_stage(config)
    drive(stage, stop=(1, 1))
    weights, state = saved(gcl.state_dict()), saved(stage.state_dict())
    drive(stage, start=(1, 1))
    again, gcl_again = open_stage(config)
    gcl_again.load_state_dict(weights)
    again.load_state_dict(state)
    drive(again, start=(1, 1))
    changed = [
        not torch.equal(weights[name], tensor) for name, tensor in gcl.identity.state_dict(prefix="identity.").items()
    ]
    assert all(changed)
    assert all(torch.equal(tensor, gcl_again.state_dict()[name]) for name, tensor in gcl.state_dict().items())
    ours, theirs = leaves(stage.state_dict()), leaves(again.state_dict())
    assert len(ours) == len(theirs) > 10
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs))


def test_single_labels_first_then_predicted_ones(world):
    stage, _ = open_stage(config_of("mmcl", world))
    assert stage.begin_epoch(0) == {}
    assert stage.positives.tolist() == [[i] for i in range(36)]
    metrics = stage.begin_epoch(1)
    assert metrics["labels"] > 0
    assert 0 <= metrics["label_precision"] <= 1
    assert (stage.positives >= 0).sum() == 36 * (1 + metrics["labels"])


def test_local_loss_alone_until_there_are_labels(world):
    stage, _ = open_stage(config_of("jvtc", world))
    images, index = next(iter(stage.loader.epoch(stage.plan(0), 0)))
    stage.begin_epoch(0)
    alone = stage.step(images, index, 0, 0)
    assert "global" not in alone
    assert alone["loss"] == alone["local"]
    stage.begin_epoch(1)
    both = stage.step(images, index, 1, 0)
    assert both["loss"] == both["local"] + stage.settings.global_weight * both["global"]


def test_weight_of_the_old_entry_rises(world):
    found = {}
    for method, epochs in (("mmcl", (0, 1, 2)), ("jvtc", (0, 2, 50))):
        stage, _ = open_stage(config_of(method, world))
        images, index = next(iter(stage.loader.epoch(stage.plan(0), 0)))
        stage.begin_epoch(0)
        found[method] = []
        for epoch in epochs:
            stage.step(images, index, epoch, 0)
            found[method].append(stage.bank.momentum)
    assert found["mmcl"] == pytest.approx([0, 0.25, 0.5])
    assert found["jvtc"] == pytest.approx([0, 0.2, 0.8])


def test_learning_rate_rises_then_falls_in_stairs(world):
    settings = ["warmup.ramp_steps=4", "warmup.decay_every=2", "warmup.lr=1", "warmup.backbone_lr_share=0.1"]
    stage, _ = open_stage(config_of("mmcl", world, *settings))
    assert stage.steps == 3
    rates = []
    for epoch, position in ((0, 0), (1, 0), (1, 2), (2, 0), (4, 1)):
        stage.set_learning_rates(epoch, position)
        rates.append([group["lr"] for optimizer in stage.optimizers for group in optimizer.param_groups])
    assert rates == [pytest.approx([0.1 * rate, rate]) for rate in (0.25, 1, 1, 0.1, 0.01)]


@pytest.mark.parametrize("method", ["cluster", "mmcl", "jvtc", "none"])
@pytest.mark.parametrize("name", ["demo", "paper"])
def test_settings_of_each_survive_yaml(name, method):
    config = replace(preset(name), warmup=warmup_preset(name, method))
    assert from_dict(yaml.safe_load(yaml.safe_dump(to_dict(config)))) == config


def test_published_figures():
    mmcl, jvtc = warmup_preset("paper", "mmcl"), warmup_preset("paper", "jvtc")
    assert (mmcl.epochs, mmcl.batch, mmcl.decay_every, mmcl.single_label_epochs) == (60, 128, 40, 5)
    assert (mmcl.threshold, mmcl.delta, mmcl.hard_share, mmcl.momentum) == (0.6, 5.0, 0.01, 0.5)
    assert (jvtc.epochs, jvtc.batch, jvtc.variants, jvtc.global_weight, jvtc.global_epoch) == (100, 32, 4, 0.2, 10)
    assert (jvtc.cluster_every, jvtc.temporal_epoch, jvtc.eps_scale, jvtc.plain_weight) == (5, 30, 0.8, 0.3)
    assert (jvtc.lr, jvtc.backbone_lr_share) == (mmcl.lr, mmcl.backbone_lr_share) == (0.1, 0.1)
    assert (jvtc.clustering.k1, jvtc.clustering.rho, jvtc.clustering.min_samples) == (20, 1.6e-3, 1)
    assert not mmcl.colours
    assert not jvtc.colours
    source = ["--source", "market1501", "--source-root", "DIR"]
    adapted, _ = parse(["--preset", "paper", "--warmup", "jvtc", *source])
    assert adapted.warmup == replace(jvtc, eps_scale=1.0)
    demo = warmup_preset("demo", "jvtc")
    assert (demo.lr, demo.backbone_lr_share, demo.eps_scale) == (1e-3, 1.0, 1.0)
    assert parse(["--warmup", "jvtc", *source])[0].warmup == demo


def test_command_line():
    assert parse([])[0].warmup == warmup_preset("demo", "cluster")
    config, _ = parse(["--warmup", "jvtc", "--set", "warmup.temporal=false"])
    assert config.warmup == replace(warmup_preset("demo", "jvtc"), temporal=False)
    assert parse(["--warmup", "mmcl", "--preset", "paper"])[0].warmup == warmup_preset("paper", "mmcl")
    config, _ = parse(["--warmup", "none"])
    assert (config.warmup, config.stages) == (None, ("generative", "joint"))
    with pytest.raises(UserError, match="there is no warm-up"):
        make_warmup(config, None, None, None, None)
    assert WARMUPS.keys() == {"cluster", "jvtc", "mmcl"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--warmup", "spcl"], "there are cluster, mmcl, jvtc, none"),
        (["--warmup", "none", "--stages", "warmup"], "no stage is left"),
        (
            ["--warmup", "mmcl", "--set", "warmup.temporal=false"],
            "no setting 'temporal' here; there are method, epochs",
        ),
        (["--warmup", "none", "--set", "warmup.epochs=3"], "there are none"),
        (["--warmup", "mmcl", "--set", "warmup.form=cubic"], "warmup.form"),
    ],
)
def test_a_wrong_command_line_is_told_what_there_is(arguments, told, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2
    assert told in " ".join(capsys.readouterr().err.split())


def test_names_that_do_not_tell_the_time(world, tmp_path):
    for i, path in enumerate(sorted((world / "bounding_box_train").iterdir())[:12]):
        shutil.copy(path, tmp_path / f"person{i}.jpg")
    config = replace(config_of("jvtc", tmp_path), dataset="folder")
    with pytest.raises(UserError, match=r"no camera and no frame is known .* warmup.temporal=false") as told:
        open_stage(config)
    assert "person0.jpg" in str(told.value)
    stage, _ = open_stage(override(config, ["warmup.temporal=false", "warmup.epochs=3"]))
    drive(stage)
    assert stage.clustered


def test_joint_similarity_at_test_time(world, tmp_path, capsys):
    config = config_of("jvtc", world, "joint.clustering.k1=6")
    stage, gcl = open_stage(config)
    drive(stage)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    save_weights(run / "checkpoints" / "warmup.safetensors", gcl.state_dict())
    assert evaluate.main([str(run), "--joint-similarity", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)["warmup"]
    assert measured["joint_mAP"] > measured["mAP"] + 0.05  # people of this world walk from camera to camera
    assert 0 <= measured["joint_rank1"] <= 1
    assert evaluate.main([str(run), "--rerank", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["warmup"]["mAP"] != measured["mAP"]
    (tmp_path / "crops").mkdir()
    shutil.copy(next((world / "bounding_box_train").iterdir()), tmp_path / "crops")
    assert evaluate.main([str(run), "--joint-similarity", "--dataset", "folder", "--data-root", str(tmp_path)]) == 2
    assert "no query and gallery" in capsys.readouterr().err


@pytest.mark.slow
def test_two_ranks_keep_one_memory(world, tmp_path):
    """Batch norm over all ranks, float32: what is left is rounding, which Adam amplifies."""
    script = str(Path(__file__).parents[2] / "gcl_fast" / "train.py")
    for processes in (1, 2):
        settings = [
            "world.identities=6", "world.cameras=3", "world.crops=2", "height=64", "width=40", "log_every=1",
            f"data_root={world}", f"runs={tmp_path}", f"name=by{processes}", f"warmup.batch={12 // processes}",
            "warmup.epochs=2", "warmup.colours=true", "warmup.single_label_epochs=0",
        ]  # fmt: skip
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"] if processes == 2 else []
        flags = ["--device", "cpu", "--warmup", "mmcl", "--stages", "warmup", "--compile", "off", "--sync-bn"]
        done = subprocess.run(
            [sys.executable, *torchrun, script, *flags, "--set", *settings], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
    logs = [(tmp_path / f"by{p}" / "metrics.jsonl").read_text().splitlines() for p in (1, 2)]
    losses = [[record["loss"] for record in map(json.loads, lines) if "loss" in record] for lines in logs]
    assert len(losses[0]) == 6
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-5)
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)
    states = [load_state(tmp_path / f"by{p}" / "checkpoints")["stage_state"] for p in (1, 2)]
    assert (states[0]["bank"]["features"] - states[1]["bank"]["features"]).abs().max() < 5e-2
