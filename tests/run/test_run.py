"""Whole runs on a tiny world: what they leave, that they survive being killed, and how they answer to wrong input."""

import json
import re
import shutil
import signal
import time
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from trainer import Training

from gcl_fast import compare, evaluate, generate, report, train
from gcl_fast.assessment import assess
from gcl_fast.command_line import parse
from gcl_fast.distributed.ranks import Ranks
from gcl_fast.errors import UserError
from gcl_fast.inputs import prepare_inputs
from gcl_fast.models import GCL
from gcl_fast.run import checkpoint, folder, logs
from gcl_fast.run import session as session_module
from gcl_fast.run.folder import RunFolder
from gcl_fast.run.initialize import initialize
from gcl_fast.run.loop import Position
from gcl_fast.run.run_files import read_run
from gcl_fast.run.session import Session
from gcl_fast.run.weights import read_metadata
from gcl_fast.settings import STAGES, override, preset

HEADER = [
    "version", "device", "precision", "compile", "CUDA graphs", "batch norms", "optimizers", "allocator", "dataset",
    "body", "neighbours", "DBSCAN", "weights", "warm-up", "stages",
]  # fmt: skip


@pytest.fixture
def refusal(monkeypatch, capsys):
    """refusal(*arguments): what train.py says of arguments that it refuses, in this process. It ends without a
    traceback, or this would be raised here."""
    monkeypatch.setenv("GCL_FAST_ALLOCATOR", "decided")  # no restart

    def told(*arguments: object) -> str:
        try:
            status = train.main([*map(str, arguments)])
        except SystemExit as ended:  # of the parser
            status = ended.code
        assert status == 2
        return capsys.readouterr().err

    return told


def event_tags(folder):
    """Return the tags of all TensorBoard events in a folder."""
    events = [event for path in folder.iterdir() for event in EventFileLoader(str(path)).Load()]
    return {value.tag for event in events for value in event.summary.value}


def test_a_run_leaves_what_it_promises(finished):
    said = (finished / "stdout.txt").read_text()
    assert [re.split(" {2,}", line)[1] for line in said.splitlines() if line.startswith("  ")] == HEADER
    assert said.splitlines()[-1] == f"done: {finished}/summary.json, {finished}/views"
    summary = json.loads((finished / "summary.json").read_text())
    assert 0 < summary["initial"]["mAP"] <= 1
    assert list(summary["stages"]) == list(STAGES)
    encoder = load_file(finished / "encoder.safetensors")
    joint = load_file(finished / "checkpoints" / "joint.safetensors")
    assert encoder.keys() == {name for name in joint if name.startswith("identity.")}
    assert all(torch.equal(encoder[name], joint[name]) for name in encoder)
    metadata = read_metadata(finished / "encoder.safetensors")
    assert metadata["metrics"]["mAP"] == summary["stages"]["joint"]["mAP"]
    assert metadata == read_metadata(finished / "checkpoints" / "joint.safetensors")
    for stage, measured in summary["stages"].items():
        assert read_metadata(finished / "checkpoints" / f"{stage}.safetensors")["stage"] == stage
        assert {"mAP", "rank1", "seconds", "steps"} <= measured.keys()
        assert 0 < measured["mAP"] <= 1
        assert (finished / "checkpoints" / f"{stage}.safetensors").is_file()
    assert {"ssim", "ssim_copy", "ssim_reconstruction"} <= summary["stages"]["joint"].keys()
    assert summary["stages"]["joint"]["ssim"] != summary["stages"]["generative"]["ssim"]
    for stage in STAGES[1:]:
        with Image.open(finished / "views" / f"{stage}.png") as picture:
            assert picture.width > 9 * 40
    assert yaml.safe_load((finished / "config.yaml").read_text())["joint"]["epochs"] == 2
    commands = read_run(finished).environments  # as report and compare read them
    assert [entry["packages"]["torch"] for entry in commands] == [torch.__version__.partition("+")[0]]
    assert commands[0]["ranks"] == 1
    assert commands[0]["data"] == read_metadata(finished / "encoder.safetensors")["data"]
    lines = (finished / "run.log").read_text().splitlines()
    printed = [line for line in said.splitlines() if not re.match(r"\w+ \d+/\d+  ", line)]  # progress is no event
    assert [line for line in lines if line in printed] == printed
    tags = event_tags(finished / "events")
    assert {f"{stage}/views" for stage in STAGES[1:]} <= tags
    assert "_hparams_/session_start_info" in tags
    records = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert {record["stage"] for record in records} == set(STAGES)
    losses = [record["loss"] for record in records if "loss" in record]
    assert len(losses) == sum(measured["steps"] for measured in summary["stages"].values())
    assert all(loss > 0 for loss in losses)


def test_a_run_can_be_reported_and_compared(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("GCL_FAST_ALLOCATOR", "decided")  # no restart
    assert report.main([str(finished), "--files-only", "--out", str(tmp_path / "report.html")]) == 0
    started = json.loads((finished / "environment.json").read_text())[0]["started"]
    assert started in (tmp_path / "report.html").read_text()
    other = shutil.copytree(finished, tmp_path / "other")
    assert compare.main([str(finished), str(other), "--format", "markdown"]) == 0
    assert f"| joint | {finished.name} |" in capsys.readouterr().out


def test_each_stage_trains_what_it_should(finished):
    warmup, generative, joint = (load_file(finished / "checkpoints" / f"{stage}.safetensors") for stage in STAGES)

    def changed(before, after, network):
        names = [name for name in before if name.startswith(network) and before[name].is_floating_point()]
        names = [name for name in names if not (before is not warmup and ".part_" in name)]  # calibrated once
        return [not torch.equal(before[name], after[name]) for name in names]

    assert not any(changed(warmup, generative, "identity."))  # frozen, running statistics included
    for network in ("structure.", "generator.", "discriminator."):
        assert all(changed(warmup, generative, network))
        assert all(changed(generative, joint, network))
    learned = {n: t for n, t in generative.items() if "running" not in n}
    assert all(changed(learned, joint, "identity."))
    assert not all(changed(generative, joint, "identity."))  # the running statistics rest


def test_killed_in_each_stage_it_goes_on_bit_for_bit(finished, command, differing, tmp_path, trainer):
    folder = tmp_path / "killed"
    for stage in STAGES:
        training = trainer.start(command(tmp_path, "killed", "--resume"))
        try:
            _wait_for_step(folder, stage, training)
        finally:
            training.kill()
        assert not (folder / "checkpoints" / f"{stage}.safetensors").exists(), "it was killed too late"
    done = trainer.run(command(tmp_path, "killed", "--resume"))
    assert done.returncode == 0, done.stderr
    assert "resumed: joint at step" in done.stdout
    assert differing(folder, finished) == []
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [(record["stage"], record["step"]) for record in records if "loss" in record]
    assert len(steps) == len(set(steps)), "a step is recorded twice"


def _wait_for_step(folder: Path, stage: str, training: Training, saved: bool = True) -> None:
    """Until `stage` has finished a step; `saved`: and a checkpoint holds it."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert training.poll() is None, "the run ended before it could be killed"
        lines = (folder / "metrics.jsonl").read_text().splitlines() if (folder / "metrics.jsonl").exists() else []
        steps = [json.loads(line)["stage"] for line in lines if '"loss"' in line and line.endswith("}")]
        before = sum(name != stage for name in steps)  # of the stages that are complete
        newest = max((int(path.stem[5:]) for path in (folder / "checkpoints").glob("step_*.pt")), default=0)
        if stage in steps and (newest > before or not saved):
            time.sleep(0.1)  # into a save, a step or between them
            return
        time.sleep(0.02)
    raise TimeoutError(stage)


def test_an_interrupted_run_saves_itself_and_says_how_to_go_on(command, tmp_path, trainer):
    arguments = [*command(tmp_path, "stopped"), "checkpoint_seconds=1000", "warmup.steps_per_epoch=500"]
    training = trainer.start(arguments)
    _wait_for_step(tmp_path / "stopped", "warmup", training, saved=False)
    training.send_signal(signal.SIGINT)
    assert training.wait(120) == 130
    assert "--resume goes on" in training.stderr
    assert "Traceback" not in training.stderr
    assert list((tmp_path / "stopped" / "checkpoints").glob("step_*.pt"))


def test_an_existing_run_is_not_overwritten(finished, command, refusal):
    assert "--resume goes on with it" in refusal(*command(finished.parent, "whole")[2:])
    assert "joint.epochs: 2 -> 3" in refusal(*command(finished.parent, "whole", "--resume")[2:], "joint.epochs=3")


def test_wrong_input_is_named_without_a_traceback_and_leaves_nothing(tmp_path, refusal, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (pictures := tmp_path / "pictures").mkdir()
    Image.new("RGB", (64, 128)).save(pictures / "black.png")
    (tmp_path / "file").write_text("")
    (tmp_path / "weights.safetensors").write_text("")
    on_pictures = ("--dataset", "folder", "--data-root", pictures)
    cases = {
        ("--dataset", "market1501"): "--data-root",
        ("--dataset", "market1501", "--data-root", tmp_path / "absent"): "bounding_box_train",
        ("--dataset", "market"): "there is no such dataset; did you mean market1501?",
        ("--source", "market"): "there is no such dataset; did you mean market1501?",
        ("--source", "market1501", *on_pictures): "--source-root",
        ("--dataset", "folder", "--data-root", tmp_path / "empty"): "empty",
        ("--runs", tmp_path / "file"): "--runs DIR",
        ("--runs", tmp_path / "file" / "below"): "--runs DIR",
        ("--dataset", "folder", "--data-root", tmp_path / "empty", "--set", "height=32"): "expected 40 to 4096",
        ("--init", tmp_path / "absent.safetensors"): "there are no weights at this path",
        ("--init", tmp_path / "weights.safetensors", *on_pictures): "weights.safetensors",
        ("--config", tmp_path / "absent.yaml"): "absent.yaml",
        ("--seed", "first"): "--seed",
        ("--sed", "1"): "did you mean --seed?",
        ("--set", "joint.epoch=1"): "epochs",
        ("--structure-maps", tmp_path / "absent", *on_pictures): "maps hold no body",
    }
    before = sorted(tmp_path.rglob("*"))
    for arguments, told in cases.items():
        assert told in refusal(*arguments)
        assert sorted(tmp_path.rglob("*")) == before, arguments


@pytest.fixture
def reopen(tmp_path):
    """reopen(*settings, stages=..., ranks=...): the run tmp_path/run on four crops, begun or gone on with."""
    (tmp_path / "crops").mkdir()
    for i in range(4):
        Image.new("RGB", (64, 128), (i, i, i)).save(tmp_path / "crops" / f"{i}.png")
    alone = Ranks(0, 1, torch.device("cpu"))

    def make(*settings: str, stages=("generative", "joint"), ranks=alone) -> Session:
        config = replace(preset("demo"), dataset="folder", data_root=str(tmp_path / "crops"), stages=stages)
        sizes = ["height=64", "width=40", "generative.batch=4"]
        config = override(config, [f"runs={tmp_path}", "name=run", *sizes, *settings])
        folder = RunFolder(config, ranks, resume=True)
        session = Session(config, prepare_inputs(config, ranks, folder.finished), ranks, folder)
        folder.open({})
        return session

    return make


def save(session: Session, step: int) -> bool:
    """Write a checkpoint of a generative stage that trained nothing; return whether the disk took it."""
    session.position, session.crops = Position(step=step), session._digest_of_crops("generative")
    return session._save(SimpleNamespace(name="generative", state_dict=dict))


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_run_goes_on_in_the_stage_it_stopped_in_or_not_at_all(reopen, capsys):
    session = reopen()
    assert save(session, 9)
    told = r"stopped in the generative stage at step 9.*--stages generative joint does"
    for stages in (STAGES, ("warmup", "joint"), ("joint",)):
        with pytest.raises(UserError, match=told):
            reopen(stages=stages)
    assert reopen("joint.clustering.eps=0.5", stages=("generative",)).folder.state["at"]["step"] == 9
    assert "changed on resuming: joint.clustering.eps: auto -> 0.5" in capsys.readouterr().out
    session.folder.summary["stages"]["generative"] = {"steps": 10}
    assert save(session, 10)
    assert reopen("joint.clustering.eps=0.5", stages=("warmup", "joint")).folder.state["at"]["step"] == 10


def test_a_checkpoint_of_another_version_is_refused(reopen, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(folder, "VERSION", folder.VERSION - 1)
        save(reopen(), 9)
    with pytest.raises(UserError, match=r"are of version 1, and this gcl_fast resumes version 2.*--init"):
        reopen()


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("version", "its checkpoints are of version"),
        ("stage", "stopped in the generative stage"),
        ("setting", "joint.momentum: .* -> 0.5"),
        ("crops", "was begun on other crops"),
        ("weights", "no weights at"),
        ("maps", "pre-rendered maps hold no body"),
    ],
)
def test_a_refused_resume_leaves_the_run_as_it_was(reopen, monkeypatch, tmp_path, reason, message):
    def files() -> dict[Path, bytes]:
        paths = (path for path in sorted(tmp_path.rglob("*")) if path.is_file() and path.name != ".lock")
        return {path: path.read_bytes() for path in paths}

    begun = {"weights": [f"init={tmp_path / 'absent.safetensors'}"]}.get(reason, [])
    with monkeypatch.context() as patched:
        patched.setattr(session_module, "initialize", lambda gcl, config: "")
        save(reopen("generative.batch=4", *begun), 9)
    if reason == "version":
        monkeypatch.setattr(folder, "VERSION", folder.VERSION + 1)
    if reason == "crops":
        min((tmp_path / "crops").iterdir()).unlink()
    if reason == "maps":
        (tmp_path / "maps").mkdir()
    changes = {"setting": ["joint.momentum=0.5"], "maps": [f"structure_maps={tmp_path / 'maps'}"]}.get(reason, [])
    before = files()
    with pytest.raises(UserError, match=message):
        reopen("generative.batch=2", *begun, *changes, stages=("joint",) if reason == "stage" else ("generative",))
    assert files() == before


def test_ranks_that_see_other_checkpoints_are_refused(reopen):
    class Apart(Ranks):
        def gather(self, tensor):
            return torch.cat([tensor, torch.tensor([[-1, 0]])])  # the other machine's folder is empty

    save(reopen(), 9)
    with pytest.raises(UserError, match="--runs must be one folder for all machines"):
        reopen(ranks=Apart(0, 1, torch.device("cpu")))


def test_other_crops_than_a_stage_was_begun_on_are_refused(reopen, tmp_path):
    save(reopen(), 9)
    min((tmp_path / "crops").iterdir()).unlink()
    with pytest.raises(UserError, match="generative was begun on other crops"):
        reopen()


def test_a_stage_may_begin_on_other_crops_than_the_complete_one(reopen, tmp_path):
    session = reopen()
    session.folder.summary["stages"]["generative"] = {"steps": 9}
    save(session, 9)
    min((tmp_path / "crops").iterdir()).unlink()
    assert reopen().awaits("joint")


def test_views_that_cannot_be_made_do_not_end_the_run(reopen, monkeypatch, tmp_path):
    session = reopen()
    (tmp_path / "crops" / "body_parameters").write_text("")  # no folder can be made
    with pytest.warns(UserWarning, match="generative: SSIM or figure of views left out .cannot write body parameters"):
        assert session.assessment.after("generative", session.gcl, tmp_path / "views") == {}
    monkeypatch.setattr(session.assessment, "fidelity", lambda gcl: {"ssim": 0.5})
    monkeypatch.setattr(assess, "draw_views", full)
    with pytest.warns(UserWarning, match="No space left"):
        assert session.assessment.after("joint", session.gcl, tmp_path / "views") == {"ssim": 0.5}


def test_a_full_disk_ends_no_run_and_the_summary_is_written_later(reopen, monkeypatch, tmp_path, capsys):
    session = reopen(stages=("generative",))
    session.folder.summary["stages"]["generative"] = {"steps": 9}
    assert save(session, 9)
    session = reopen(stages=("generative",))
    with warnings.catch_warnings(record=True) as warned, session.folder:
        warnings.simplefilter("always")
        for module, name in ((folder, "training_curves"), (logs, "write_json"), (checkpoint, "write_atomically")):
            monkeypatch.setattr(module, name, full)
        assert not save(session, 10)
    for file in ("step_000000010.pt", "curves.png", "summary.json"):
        assert any(f"{file} could not be written" in str(warning.message) for warning in warned)
    assert "done, without" in capsys.readouterr().out
    monkeypatch.undo()
    session = reopen(stages=("generative",))
    with session.folder:
        assert not session.awaits("generative")
    # a run without generated views names no folder of them
    assert capsys.readouterr().out.splitlines()[-1] == f"done: {tmp_path / 'run'}/summary.json"
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["stages"] == {"generative": {"steps": 9}}


def test_evaluate_reads_the_run_back(finished, capsys):
    assert evaluate.main([str(finished), "--amp", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    summary = json.loads((finished / "summary.json").read_text())["stages"]
    for stage in STAGES:
        assert again[stage]["mAP"] == pytest.approx(summary[stage]["mAP"], abs=1e-6)
    assert again["joint"]["ssim"] == pytest.approx(summary["joint"]["ssim"], abs=1e-4)
    assert evaluate.main([str(finished), "--amp", "--stages", "joint"]) == 0
    assert f"{100 * summary['joint']['mAP']:.1f}" in capsys.readouterr().out
    assert evaluate.main([str(finished.parent)]) == 2
    assert "no run at" in capsys.readouterr().err


def test_generate_draws_pictures_and_files(finished, tmp_path, capsys):
    assert generate.main([str(finished), "--out", str(tmp_path / "v.png"), "--count", "2", "--yaws", "0", "90"]) == 0
    with Image.open(tmp_path / "v.png") as picture:
        assert picture.height > 2 * 64
    assert generate.main([str(finished), "--files", str(tmp_path / "files"), "--count", "2", "--yaws", "0", "180"]) == 0
    files = sorted((tmp_path / "files").iterdir())
    assert len(files) == 4
    with Image.open(files[0]) as front, Image.open(files[1]) as back:
        assert front.size == (40, 64)
        assert front.tobytes() != back.tobytes()
    assert generate.main([str(finished), "--names", "nobody.jpg"]) == 2
    assert "nobody.jpg: no such crop" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["", "checkpoints"])
def test_a_run_s_folder_is_a_start(finished, command, given):
    config, _ = parse(command(finished.parent, "next", "--init", str(finished / given))[2:])
    gcl = GCL(config.model)
    file = finished / "checkpoints" / "joint.safetensors"
    assert initialize(gcl, config) == str(file)
    state = gcl.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in load_file(file).items())


def test_a_run_without_a_finished_stage_is_no_start(finished, command, tmp_path, refusal):
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text((finished / "config.yaml").read_text())
    said = refusal(*command(tmp_path, "next", "--init", str(tmp_path / "begun"))[2:])
    assert f"--init {tmp_path / 'begun'}: this run has finished none of source, warmup, generative, joint yet" in said


def test_weights_of_another_configuration_are_refused(finished, command, tmp_path, refusal):
    weights = finished / "checkpoints" / "warmup.safetensors"
    said = refusal(*command(tmp_path, "wider", "--init", str(weights))[2:], "model.structure.branch=32")
    assert "another configuration" in said
    assert "generator.blocks.0.first.weight is (64, 64, 3, 3), expected (128, 128, 3, 3)" in said
