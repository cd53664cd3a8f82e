"""Nonsense is refused in one sentence at the command line, and a range stands at its field alone."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from gcl_fast import evaluate, generate
from gcl_fast.command_line import parse
from gcl_fast.errors import UserError
from gcl_fast.estimator_training import __main__ as estimator_training
from gcl_fast.models import min_size
from gcl_fast.run.run_files import read_config
from gcl_fast.settings import JVTCConfig, MMCLConfig, RunConfig, SourceConfig, from_dict, override, preset, to_dict
from gcl_fast.settings.ranges import Pixels, Range, field_types, paths_of, range_of
from gcl_fast.synthetic import __main__ as synthetic

NONSENSE = {
    "seed=-1": "seed=-1: expected 0 to 9223372036854775807",
    "seed=1.5": "seed: expected int, got 1.5",
    "height=1000000000": "height=1000000000: expected 40 to 4096, a multiple of 4",
    "height=36": "height=36: expected 40 to 4096, a multiple of 4",
    "width=50": "width=50: expected 40 to 4096, a multiple of 4",
    "checkpoint_seconds=-1": "checkpoint_seconds=-1.0: expected 0 or more",
    "checkpoint_seconds=nan": "checkpoint_seconds=nan: expected 0 or more",
    "keep_checkpoints=1": "keep_checkpoints=1: expected 2 or more",
    "compile=perhaps": "compile: expected auto or on or off, got 'perhaps'",
    "amp=perhaps": "amp: expected bool, got 'perhaps'",
    "stages=[]": "stages: none is named; there are source, warmup, generative, joint",
    "dataset=market": "dataset=market: there is no such dataset; did you mean market1501?",
    "warmup.lr=-1": "warmup.lr=-1.0: expected 0 or more",
    "warmup.lr=inf": "warmup.lr=inf: expected 0 or more",
    f"warmup.lr={10**400}": "warmup.lr: expected float, got 1000",
    f"seed={10**400}": "expected 0 to 9223372036854775807",
    f"warmup.epochs=-{10**400}": "expected 1 or more",
    "warmup.epochs=-3": "warmup.epochs=-3: expected 1 or more",
    "warmup.momentum=2": "warmup.momentum=2.0: expected 0 to 1",
    "warmup.temperature=-1": "warmup.temperature=-1.0: expected more than 0",
    "warmup.temperature=0": "warmup.temperature=0.0: expected more than 0",
    "warmup.constant_share=1.5": "warmup.constant_share=1.5: expected 0 to 1",
    "warmup.weight_decay=-1": "warmup.weight_decay=-1.0: expected 0 or more",
    "warmup.ramp_steps=-1": "warmup.ramp_steps=-1: expected 0 or more",
    "warmup.colour_epochs=-1": "warmup.colour_epochs=-1: expected 0 or more, or null",
    "warmup.clustering.eps=1": "warmup.clustering.eps=1.0: expected 0 to below 1, or auto, or null",
    "generative.weights.image=-5": "generative.weights.image=-5.0: expected 0 or more",
    "generative.r1=-1": "generative.r1=-1.0: expected 0 or more",
    "generative.batch=15": "generative.batch=15: expected an even number, or generative.pairs=false",
    "model.identity.output_stride=12": "model.identity.output_stride: expected 4 or 8 or 16 or 32",
    "generative.last_yaw=300": "generative.last_yaw: expected 315 or 270, got 300",
    "joint.num_negatives=0": "joint.num_negatives=0: expected 1 or more",
    "joint.temperature=0": "joint.temperature=0.0: expected more than 0",
    "joint.momentum=-0.1": "joint.momentum=-0.1: expected 0 to 1",
    "joint.terms=[1, -1, 1]": "joint.terms=[1.0, -1.0, 1.0]: expected numbers of 0 or more",
    "joint.decay_epoch=-1": "joint.decay_epoch=-1: expected 0 or more",
    "model.identity.channels=[64, 0, 64, 64]": "model.identity.channels=[64, 0, 64, 64]: expected numbers of 1 or more",
    "model.discriminator.scales=0": "model.discriminator.scales=0: expected 1 or more",
    "world.cameras=1": "synthetic world: cameras=1: expected 2 or more",
    "world.size=[8, 64]": "synthetic world: size=[8, 64]: expected numbers of 16 to 4096",
    "world.difficulty=2": "synthetic world: difficulty=2.0: expected 0 to 1",
}


def refused(capsys, main, arguments):
    """Return the one line in which `main` refuses the arguments with status 2."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(("setting", "message"), NONSENSE.items())
def test_nonsense_is_refused_where_it_is_given(setting, message, capsys):
    assert message in refused(capsys, parse, ["--set", setting])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seed", "-1"], "seed=-1: expected 0"),
        (["--source", "synthetic", "--set", "source.smoothing=1"], "source.smoothing=1.0: expected 0 to below 1"),
        (["--source", "synthetic", "--set", "source.decay_epochs=[4, -1]"], "expected numbers of 0 or more"),
        (["--warmup", "mmcl", "--set", "warmup.threshold=2"], "warmup.threshold=2.0: expected -1 to 1"),
        (["--warmup", "mmcl", "--set", "warmup.hard_share=2"], "warmup.hard_share=2.0: expected 0 to 1"),
        (["--warmup", "jvtc", "--set", "warmup.plain_weight=2"], "warmup.plain_weight=2.0: expected 0 to 1"),
    ],
)
def test_flags_and_other_methods_have_ranges_as_well(flags, message, capsys):
    assert message in refused(capsys, parse, flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["warmup.identities=1", "warmup.crops=1"],
            "warmup.crops=1: a step of warmup has one crop",
        ),
        (["joint.clusters.identities=1", "joint.clusters.crops=1"], "a step of joint has one crop"),
        (["joint.clusters=null", "joint.batch_statistics=true", "joint.batch=1"], "joint.batch=1: a step of joint"),
    ],
)
def test_batch_norms_need_two_crops(flags, message, capsys):
    assert message in refused(capsys, parse, ["--set", *flags])
    parse(["--sync-bn", "--set", *flags])  # over several ranks a step has more
    parse(["--stages", "generative", "--set", *flags])


def test_one_crop_is_enough_without_batch_statistics():
    generative = ["generative.batch=1", "generative.pairs=false"]
    parse(["--set", "joint.clusters=null", "joint.batch_statistics=false", "joint.batch=1", *generative])
    parse(["--warmup", "jvtc", "--set", "warmup.batch=1", "warmup.variants=2"])


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (generate, ["run", "--count", "0"], "--count: 0: expected 1 or more"),
        (generate, ["run", "--yaws", "nan"], "--yaws: nan: expected -36000 to 36000"),
        (evaluate, ["run", "--generation", "--count", "-2"], "--count: -2: expected 1 or more"),
        (synthetic, ["--out", "x", "--workers", "0"], "--workers: 0: expected 1 or more"),
        (estimator_training, ["--work", "x", "--out", "y", "--steps", "many"], "--steps: many: expected 1 or more"),
    ],
)
def test_numbers_of_other_commands_have_ranges(command, arguments, message, capsys):
    assert message in refused(capsys, command.main, arguments)


def test_every_number_among_the_settings_has_a_range():
    def numbers(kind):
        for name, hint in field_types(kind).items():
            text = str(hint)
            if ("int" in text or "float" in text) and "Config" not in text and range_of(hint) is None:
                yield f"{kind.__name__}.{name}"

    parts = [RunConfig, SourceConfig, MMCLConfig, JVTCConfig]
    for part in parts:
        for name in field_types(part):
            value = getattr(part(), name)
            if dataclasses.is_dataclass(value) and type(value) not in parts:
                parts.append(type(value))
    without = [field for part in parts for field in numbers(part)]
    assert set(without) <= {"IdentityConfig.stem_kernel", "GenerativeConfig.last_yaw"}, without


def test_the_least_size_is_that_of_the_networks():
    assert min_size() == (range_of(Pixels).least,) * 2


@pytest.mark.parametrize(
    ("allowed", "inside", "outside", "text"),
    [
        (Range(1), (1, 2, 10**9), (0, -1, float("inf"), float("nan")), "1 or more"),
        (Range(0, above=True), (1e-9,), (0, -1), "more than 0"),
        (Range(0, 1, below=True), (0, 0.99), (1, -0.1), "0 to below 1"),
        (Range(4, 12, multiple=4), (4, 8, 12), (0, 5, 16), "4 to 12, a multiple of 4"),
    ],
)
def test_a_range_holds_what_it_says(allowed, inside, outside, text):
    assert all(number in allowed for number in inside)
    assert not any(number in allowed for number in outside)
    assert str(allowed) == text


def test_a_config_file_is_checked_as_the_command_line_is(tmp_path):
    path = tmp_path / "config.yaml"
    for change, fault in (({"seed": -1}, "seed=-1: expected 0"), ({"later": 1}, "there is no setting 'later' here")):
        path.write_text(yaml.safe_dump({**to_dict(preset("demo")), **change}))
        with pytest.raises(UserError) as error:
            read_config(path)
        assert fault in str(error.value)
        assert len(str(error.value)) < 300 + len(str(path)), "the unknown name alone, without the others"
    with pytest.raises(UserError, match="seed=-1"):
        from_dict({"seed": -1})


def test_the_home_folder_is_meant_by_a_tilde_in_every_path(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    config, _ = parse(["--source", "synthetic"])
    paths = [*paths_of(config)]
    assert {"runs", "data_root", "source.root", "init", "smpl", "structure_maps", "warmup.styled"} <= {*paths}
    paths.remove("smpl")  # excludes structure maps
    config, _ = parse(["--source", "synthetic", "--runs=~/r", "--set", *(f"{path}=~/{path}" for path in paths)])
    expanded = paths_of(config)
    assert all(expanded[path] == f"{tmp_path}/{path}" for path in paths)
    options = generate.parser().parse_args(["~/runs/x", "--data-root=~/d", "--out=~/v.png", "--files=~/f"])
    assert (options.run, options.out, options.files) == tuple(tmp_path / name for name in ("runs/x", "v.png", "f"))
    assert options.data_root == f"{tmp_path}/d"
    assert override(preset("demo"), ["runs=~/r"]).runs == "~/r"  # a run's file names the folder that there was

    def homeless(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    assert "no home folder is known for ~; write the whole path, or set HOME" in refused(capsys, parse, ["--runs=~/r"])
