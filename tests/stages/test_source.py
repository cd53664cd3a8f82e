"""Training on a labelled source before the target: what it leaves, going on after a stop, and wrong input."""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from trainer import Training

from gcl_fast import evaluate
from gcl_fast.command_line import parse
from gcl_fast.distributed.ranks import Ranks
from gcl_fast.errors import UserError
from gcl_fast.inputs import open_inputs, open_source, prepare_source
from gcl_fast.models import GCL
from gcl_fast.optim import precision as arithmetic
from gcl_fast.settings import ALL_STAGES, STAGES, SourceConfig, override, preset, source_preset
from gcl_fast.stages.source import Source
from gcl_fast.stages.warmups.cluster import Warmup
from gcl_fast.synthetic import WorldConfig
from gcl_fast.synthetic.world import TRAIN, World

TINY = ["world.identities=6", "world.cameras=3", "world.crops=2", "height=64", "width=40",
        "source.world.identities=5", "source.world.cameras=3", "source.world.crops=2", "source.epochs=2",
        "source.steps_per_epoch=3", "source.identities=4", "source.crops=2"]  # fmt: skip


def config_of(world, source_world, *more):
    config = replace(preset("demo"), data_root=str(world), source=source_preset("demo", "synthetic", str(source_world)))
    return override(config, [*TINY, *more])


def open_stage(config):
    torch.manual_seed(0)
    ranks, gcl, inputs = Ranks(0, 1, torch.device("cpu")), GCL(config.model), open_inputs(config)
    inputs = replace(inputs, source=open_source(config, inputs.dataset))
    return Source(config, gcl, inputs, ranks, arithmetic.choose(False, ranks.device, "off")), gcl


def drive(stage):
    records = []
    for epoch in range(stage.epochs):
        stage.begin_epoch(epoch)
        for position, batch in enumerate(stage.loader.epoch(stage.plan(epoch), epoch)):
            records.append(stage.step(*batch, epoch, position))
    return records


def test_it_learns_the_identities_and_follows_both_domains(world, source_world):
    stage, gcl = open_stage(config_of(world, source_world, "source.epochs=8", "source.lr=3e-3"))
    before = {name: tensor.clone() for name, tensor in gcl.state_dict().items()}
    assert stage.classifier.weight.shape == (5, 256)
    records = drive(stage)
    assert records[-1]["identity"] < 0.8 * records[0]["identity"]
    assert all(record["loss"] == record["identity"] + record["triplet"] for record in records)
    after, norms = gcl.state_dict(), dict(stage.finished().named_buffers())
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]) != name.startswith("identity."), name
    for name, tensor in norms.items():
        assert torch.equal(tensor, after[f"identity.{name}"]) == name.endswith("num_batches_tracked"), name


def test_a_batch_is_half_source_with_its_identities_and_half_target(world, source_world):
    stage, _ = open_stage(config_of(world, source_world))
    plan = stage.plan(0)
    assert plan.shape == (3, 16)
    source, target = plan[:, ::2], plan[:, 1::2]
    assert source.max() < 30 <= target.min()
    assert target.max() < 30 + 36
    for step in stage.labels[source].view(3, 4, 2):
        assert torch.equal(step[:, 0], step[:, 1])
        assert len(step[:, 0].unique()) == 4
    for step in target:
        assert len(step.unique()) == 8


def test_two_ranks_divide_the_batch_of_one(world, source_world):
    alone, _ = open_stage(config_of(world, source_world))
    half, _ = open_stage(config_of(world, source_world, "source.identities=2"))
    plans = []
    for rank in range(2):
        half.ranks = Ranks(rank, 2, torch.device("cpu"))
        plans.append(half.plan(1))
    assert torch.equal(torch.cat(plans, 1), alone.plan(1))


def test_statistics_that_are_not_finite_are_put_back(world, source_world):
    stage, _ = open_stage(config_of(world, source_world))
    images, index = next(iter(stage.loader.epoch(stage.plan(0), 0)))
    stage.begin_epoch(0)
    stage.step(images, index, 0, 0)
    stage.begin_epoch(1)
    kept = stage.encoder.bn1.running_mean.clone()
    images[0] = torch.nan
    assert stage.step(images, index, 1, 0)["skipped"] == 1
    assert not stage.encoder.bn1.running_mean.isfinite().all()
    assert torch.equal(stage.finished().bn1.running_mean, kept)


def test_the_rate_rises_then_falls_in_stairs(world, source_world):
    settings = ["source.lr=1", "source.ramp_epochs=2", "source.decay_epochs=[3, 5]"]
    stage, _ = open_stage(config_of(world, source_world, *settings))
    for (epoch, position), rate in {(0, 0): 1 / 6, (1, 2): 1, (2, 0): 1, (3, 0): 0.1, (5, 1): 0.01}.items():
        stage.step(*next(iter(stage.loader.epoch(stage.plan(0), 0))), epoch, position)
        assert stage.optimizer.param_groups[0]["lr"] == pytest.approx(rate)


def test_published_figures():
    paper = source_preset("paper", "dukemtmc", "DIR")
    assert (paper.lr, paper.weight_decay, paper.identities, paper.crops) == (3.5e-4, 5e-4, 16, 4)
    assert (paper.epochs, paper.ramp_epochs, paper.decay_epochs) == (120, 10, (40, 70))
    assert (paper.smoothing, paper.margin) == (0.1, 0.3)


def test_a_trained_encoder_counts_from_the_first_epoch_on(world, source_world):
    """Not colours alone, as for an encoder that knows nothing."""
    for source in (None, source_preset("demo", "synthetic", str(source_world))):
        config = replace(override(preset("demo"), ["height=64", "width=40"]), data_root=str(world), source=source)
        ranks = Ranks(0, 1, torch.device("cpu"))
        precision = arithmetic.choose(False, ranks.device, "off")
        stage = Warmup(config, GCL(config.model), open_inputs(config), ranks, precision)
        stage.fill_bank()
        first, later = stage.descriptors(trained=False), stage.descriptors(trained=True)
        assert (first.shape == later.shape) == (source is not None)


@pytest.fixture(scope="module")
def adapted(command, source_world, tmp_path_factory, trainer):
    """The folder of an undisturbed run of source stage and warm-up, and the command that goes on with another."""
    runs = tmp_path_factory.mktemp("adapted")

    def make(name, *flags):
        source = ["--source", "synthetic", "--source-root", str(source_world)]
        return [*command(runs, name, *source, "--stages", "source", "warmup", *flags), *TINY]

    done = trainer.run(make("whole"))
    assert done.returncode == 0, done.stdout + done.stderr
    (runs / "whole" / "stdout.txt").write_text(done.stdout)
    return runs / "whole", make


def test_a_run_tells_what_transfer_alone_gives(adapted, world, source_world, capsys):
    run, _ = adapted
    said = (run / "stdout.txt").read_text()
    assert f"synthetic in {source_world}: 30 train, 5 identities" in said
    assert "source only: mAP" in said
    summary = json.loads((run / "summary.json").read_text())["stages"]
    assert list(summary) == ["source", "warmup"]
    assert summary["source"]["source_only"]["mAP"] != summary["source"]["mAP"]
    assert evaluate.main([str(run), "--amp", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert list(again) == ["source_norms", "source", "warmup"]
    for stage, measured in zip(again, (summary["source"]["source_only"], summary["source"], summary["warmup"])):
        assert again[stage]["mAP"] == pytest.approx(measured["mAP"], abs=1e-6)
    on_source = ["--stages", "source_norms", "--dataset", "synthetic", "--data-root", str(source_world)]
    assert evaluate.main([str(run), "--amp", "--json", *on_source]) == 0
    measured = json.loads(capsys.readouterr().out)["source_norms"]["mAP"]
    assert measured == pytest.approx(summary["source"]["source_test"]["mAP"], abs=1e-6)
    source, norms = (load_file(run / "checkpoints" / f"{name}.safetensors") for name in ("source", "source_norms"))
    differ = {name for name in source if not torch.equal(source[name], norms[name])}
    assert differ
    assert all(name.startswith("identity.") and "running" in name for name in differ)


def test_the_generative_and_the_joint_stage_go_on_from_it(adapted, command, source_world, trainer):
    whole, _ = adapted
    shutil.copytree(whole, whole.parent / "further")
    source = ["--source", "synthetic", "--source-root", str(source_world), "--resume"]
    done = trainer.run([*command(whole.parent, "further", *source), *TINY])
    assert done.returncode == 0, done.stderr
    stages = json.loads((whole.parent / "further" / "summary.json").read_text())["stages"]
    assert tuple(stages) == ALL_STAGES
    assert stages["generative"]["mAP"] == pytest.approx(stages["warmup"]["mAP"])  # the identity encoder rests
    warmup, generative, joint = (
        load_file(whole.parent / "further" / "checkpoints" / f"{name}.safetensors") for name in STAGES
    )
    encoder = [name for name in warmup if name.startswith("identity.")]
    assert all(torch.equal(generative[name], warmup[name]) for name in encoder)
    assert not all(torch.equal(joint[name], warmup[name]) for name in encoder)


def test_killed_in_the_source_stage_it_goes_on_bit_for_bit(adapted, differing, trainer):
    whole, make = adapted
    folder = whole.parent / "killed"
    training = trainer.start(make("killed", "--resume"))
    try:
        _wait_for(folder / "checkpoints", training)
    finally:
        training.kill()
    assert not (folder / "checkpoints" / "source.safetensors").exists(), "it was killed too late"
    done = trainer.run(make("killed", "--resume"))
    assert done.returncode == 0, done.stderr
    assert "resumed: source at step" in done.stdout
    assert differing(folder, whole, "source_norms", "source", "warmup") == []


def _wait_for(checkpoints: Path, training: Training) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert training.poll() is None, "the run ended before it could be killed"
        if list(checkpoints.glob("step_*.pt")):
            return
        time.sleep(0.01)
    raise TimeoutError(checkpoints)


def test_command_line():
    config, _ = parse(["--source", "synthetic"])
    assert config.stages == ALL_STAGES
    assert config.source == source_preset("demo", "synthetic", "")
    assert parse(["--source", "synthetic", "--warmup", "none"])[0].stages == ("source", "generative", "joint")
    config, _ = parse(["--preset", "paper", "--source", "msmt17", "--source-root", "DIR", "--stages", "source"])
    assert (config.stages, config.source) == (("source",), SourceConfig("msmt17", "DIR"))
    assert parse([])[0].source is None
    assert parse([])[0].stages == STAGES


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--stages", "source", "warmup"], "name it by --source DATASET"),
        (["--source-root", "DIR"], "of which dataset? name it by --source DATASET"),
        (["--set", "source.epochs=3"], "there are none"),
        (["--source", "synthetic", "--set", "source.epoch=3"], "there are dataset, root, world, epochs"),
    ],
)
def test_a_wrong_command_line_is_told_what_is_missing(arguments, told, capsys):
    with pytest.raises(SystemExit):
        parse(arguments)
    assert told in " ".join(capsys.readouterr().err.split())


def test_a_source_that_is_the_target_is_refused(world, source_world, tmp_path):
    (tmp_path / "link").symlink_to(world)
    for root in (world, tmp_path / "link"):
        with pytest.raises(UserError, match="is the target's folder"):
            prepare_source(config_of(world, root))
    same = ["source.world.seed=0", "source.world.identities=6", "source.world.difficulty=0.3"]
    with pytest.raises(UserError, match=r"source.world and world are the same.* --set source.world.seed=1"):
        prepare_source(config_of(world, tmp_path / "copy", *same))
    assert not (tmp_path / "copy").exists()
    config = config_of(world, world, "source.dataset=market1501")
    config = replace(config, dataset="folder", data_root=str(world / "bounding_box_train"))
    prepare_source(config)  # another folder; but the same crops lie in it
    with pytest.raises(UserError, match=r"0001_c1s1_.* and 35 more of its crops are the target's as well"):
        open_source(config, open_inputs(config).dataset)
    shutil.copytree(world, tmp_path / "copy")
    config = config_of(world, tmp_path / "copy", "source.dataset=market1501")
    with pytest.raises(UserError, match=r"all crops in .* have the names of those in .*: a copy of the target"):
        open_source(config, open_inputs(config).dataset)


def test_a_source_that_teaches_nothing_is_refused(world, source_world, tmp_path):
    with pytest.raises(UserError, match=r"source.dataset=market: there is no such dataset; did you mean market1501"):
        config_of(world, source_world, "source.dataset=market")
    with pytest.raises(UserError, match="--source market1501 needs --source-root DIR"):
        prepare_source(config_of(world, "", "source.dataset=market1501"))
    shutil.copy(next((source_world / "bounding_box_train").iterdir()), tmp_path)
    config = config_of(world, tmp_path, "source.dataset=folder")
    with pytest.raises(UserError, match="no identities to learn from; give a labelled dataset, one of cuhk03"):
        open_source(config, open_inputs(config).dataset)


def test_stages_that_would_begin_without_the_source_are_refused(command, source_world, tmp_path, trainer):
    flags = ["--source", "synthetic", "--source-root", str(source_world), "--stages", "warmup"]
    done = trainer.run(command(tmp_path, "run", *flags))
    assert done.returncode == 2
    assert "has not been trained on it; add source to --stages" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_two_ranks_train_as_one(world, source_world, tmp_path):
    """Batch norm over all ranks, strangers sought in both batches, float32: what is left is rounding, which Adam
    amplifies."""
    script = str(Path(__file__).parents[2] / "gcl_fast" / "train.py")
    for processes in (1, 2):
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"] if processes == 2 else []
        flags = ["--device", "cpu", "--source", "synthetic", "--source-root", str(source_world), "--stages", "source"]
        settings = [*TINY, f"data_root={world}", f"runs={tmp_path}", f"name=by{processes}", "log_every=1",
                    f"source.identities={4 // processes}", "source.lr=1e-4"]  # fmt: skip
        done = subprocess.run(
            [sys.executable, *torchrun, script, *flags, "--compile", "off", "--sync-bn", "--set", *settings],
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    logs = [(tmp_path / f"by{p}" / "metrics.jsonl").read_text().splitlines() for p in (1, 2)]
    losses = [[record["loss"] for record in map(json.loads, lines) if "loss" in record] for lines in logs]
    assert len(losses[0]) == 6
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-5)
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)
    weights = [load_file(tmp_path / f"by{p}" / "checkpoints" / "source_norms.safetensors") for p in (1, 2)]
    for name, value in weights[0].items():
        if name.startswith("identity.") and "running" in name:
            assert (weights[1][name] - value).norm() <= 2e-2 * value.norm(), name


def test_another_world_than_the_target():
    """The embedded source has other cameras, other people and a more colourful wardrobe."""
    source, target = (World(config) for config in (SourceConfig().world, WorldConfig()))
    ways = [tuple(camera.headings) for world in (source, target) for camera in world.cameras]
    assert len(set(ways)) == len(ways)
    people = [[world.look(TRAIN, identity) for identity in range(100)] for world in (source, target)]
    assert not [look for look in people[0] if look in people[1]]
    chroma = [np.mean([max(look.upper.colour) - min(look.upper.colour) for look in looks]) for looks in people]
    assert chroma[0] > chroma[1] + 0.05
