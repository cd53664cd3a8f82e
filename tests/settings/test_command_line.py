"""The settings of train.py: a file of them with flags on top, the list of all of them, and that none needs torch."""

import subprocess
import sys
from dataclasses import replace

import pytest
import yaml

from gcl_fast.command_line import parse
from gcl_fast.data.readers import READERS
from gcl_fast.settings import (
    ALL_STAGES,
    DATASETS,
    JVTCConfig,
    RunConfig,
    from_dict,
    override,
    preset,
    source_preset,
    to_dict,
    warmup_preset,
)
from gcl_fast.settings.listing import comments, list_settings
from gcl_fast.settings.world import WorldConfig


@pytest.fixture
def written(tmp_path):
    """written(settings): the path of a file that holds settings, or a dictionary or text of them."""

    def write(settings) -> str:
        data = to_dict(settings) if isinstance(settings, RunConfig) else settings
        path = tmp_path / "config.yaml"
        path.write_text(data if isinstance(data, str) else yaml.safe_dump(data, sort_keys=False))
        return str(path)

    return write


def test_the_settings_and_the_flags_need_no_torch():
    script = (
        "import sys, gcl_fast.settings\nfrom gcl_fast.command_line import parse\n"
        "parse(['--amp', '--warmup', 'jvtc', '--source', 'synthetic'])\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_the_datasets_of_the_help_are_those_with_a_reader(capsys):
    assert sorted(DATASETS) == sorted(READERS)
    with pytest.raises(SystemExit):
        parse(["--help"])
    assert set(DATASETS) <= set(capsys.readouterr().out.replace(",", " ").split())


@pytest.mark.parametrize("name", ["demo", "paper", "best"])
def test_a_run_s_file_repeats_its_settings(written, name):
    changes = ["joint.lr=0.5", "cuda_graphs=off", "world.cameras=3"]
    for warmup in ("cluster", "mmcl", "jvtc"):
        config = override(replace(preset(name), warmup=warmup_preset(name, warmup)), changes)
        assert parse(["--config", written(config)])[0] == config
    with_source = replace(config, source=source_preset(name, "market1501", "DIR"), warmup=None, stages=ALL_STAGES)
    assert parse(["--config", written(with_source)])[0] == with_source


def test_flags_come_on_top_of_a_file_and_set_on_top_of_flags(written):
    path = written(override(preset("demo"), ["seed=3", "amp=true", "joint.epochs=9", "compile=off"]))
    config, resume = parse(["--config", path, "--seed", "4", "--resume", "--set", "joint.epochs=8", "seed=5"])
    assert (config.seed, config.amp, config.joint.epochs, config.compile, resume) == (5, True, 8, "off", True)
    assert parse(["--config", path, "--seed", "4"])[0].seed == 4


def test_another_seed_of_a_run_without_a_name_is_another_run(written):
    config = preset("demo")
    again, _ = parse(["--config", written(config), "--seed", "1"])
    assert again.folder != config.folder
    assert again == replace(config, seed=1)
    named = replace(config, name="mine")
    assert parse(["--config", written(named), "--seed", "1"])[0].folder == named.folder  # train.py refuses this run
    assert parse(["--config", written(named), "--name", "other"])[0].folder == config.folder.with_name("other")


def test_what_a_file_lacks_has_the_values_of_its_preset(written):
    assert parse(["--config", written({"seed": 2})])[0] == replace(preset("demo"), seed=2)
    assert parse(["--config", written({"seed": 2}), "--preset", "best"])[0] == replace(preset("best"), seed=2)
    partial = {"preset": "demo", "joint": {"clustering": {"k1": 9}}, "warmup": {"method": "mmcl", "epochs": 2}}
    config, _ = parse(["--config", written(partial)])
    expected = override(preset("demo"), ["joint.clustering.k1=9"])
    assert config == replace(expected, warmup=replace(warmup_preset("demo", "mmcl"), epochs=2))
    source, _ = parse(["--config", written({"source": {"dataset": "market1501", "lr": 0.5}, "stages": ["source"]})])
    assert source.source == replace(source_preset("demo", "market1501", ""), lr=0.5)


def test_flags_of_methods_keep_the_settings_of_the_same_method_in_a_file(written):
    jvtc = replace(warmup_preset("demo", "jvtc"), epochs=3)
    source = replace(source_preset("demo", "market1501", "DIR"), lr=0.5)
    path = written(replace(preset("demo"), warmup=jvtc, source=source, stages=ALL_STAGES))
    assert parse(["--config", path, "--warmup", "jvtc"])[0].warmup == jvtc
    assert parse(["--config", path, "--warmup", "mmcl"])[0].warmup == warmup_preset("demo", "mmcl")
    assert parse(["--config", path, "--warmup", "none"])[0].stages == ("source", "generative", "joint")
    assert parse(["--config", path, "--source-root", "OTHER"])[0].source == replace(source, root="OTHER")
    assert parse(["--config", path, "--source", "market1501"])[0].source == source
    assert parse(["--config", path, "--source", "synthetic"])[0].source == source_preset("demo", "synthetic", "")
    without = written(replace(preset("demo"), warmup=None, stages=("generative",)))
    config, _ = parse(["--config", without, "--warmup", "jvtc"])
    assert isinstance(config.warmup, JVTCConfig)
    assert config.stages == ("warmup", "generative")
    assert parse(["--config", without, "--source", "synthetic"])[0].stages == ("source", "generative")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "it cannot be read (No such file or directory)"),
        ("a: [1", "it is not YAML (line 1)"),
        ("- 1", "it holds no settings"),
        ("", "it holds no settings"),
        ("joint: {epoch: 1}", "config.joint: there is no setting 'epoch' here; there are epochs"),
        ("joint: 3", "config.joint"),
        ("preset: large", "unknown preset 'large'"),
        ("warmup: {method: spcl}", "there is no such warm-up"),
        ("log_every: 0", "log_every=0: expected 1 or more"),
        ("device: gpu", "config.device: expected auto or cpu or cuda, got 'gpu'"),
        ("dataset: market", "there is no such dataset; did you mean market1501?"),
    ],
)
def test_a_wrong_file_is_named_in_one_line(written, content, message, capsys):
    path = "absent.yaml" if content is None else written(content)
    with pytest.raises(SystemExit) as ended:
        parse(["--config", path])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_preset_beside_a_file_of_another_preset_is_refused(written, capsys):
    path = written(preset("demo"))
    assert parse(["--config", path, "--preset", "demo"])[0] == preset("demo")
    with pytest.raises(SystemExit):
        parse(["--config", path, "--preset", "paper"])
    assert "the file has the settings of preset demo; leave --preset out" in capsys.readouterr().err


def leaves(data: dict, prefix: str = "") -> list[str]:
    """The dotted keys of the values in nested dictionaries."""
    return [
        key
        for name, value in data.items()
        for key in (leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [f"{prefix}{name}"])
    ]


@pytest.mark.parametrize("flags", [[], ["--preset", "paper", "--warmup", "mmcl", "--source", "synthetic"]])
def test_every_setting_is_listed_as_set_takes_it(flags, capsys):
    config, _ = parse(flags)
    with pytest.raises(SystemExit) as ended:
        parse([*flags, "--list-settings"])
    assert ended.value.code == 0
    header, *lines = capsys.readouterr().out.splitlines()
    kinds, meanings = header.index("type"), header.index("meaning")
    rows = [(*line[:kinds].split(maxsplit=1), line[kinds:meanings].strip(), line[meanings:]) for line in lines]
    assert [key for key, *_ in rows] == leaves(to_dict(config))
    for key, value, kind, _ in rows:
        assert override(config, [f"{key}={value.strip()}"]) == config, key
        assert kind
    unexplained = {key.rpartition(".")[2] for key, *_, meaning in rows if not meaning}
    assert unexplained <= {"epochs", "method"}  # whose names say it


def test_a_list_follows_the_other_flags_and_names_ranges():
    text = list_settings(override(preset("demo"), ["joint.epochs=77"]))
    rows = {line.split()[0]: " ".join(line.split()) for line in text.splitlines()}
    assert rows["joint.epochs"].startswith("joint.epochs 77 int")
    assert "int: 2 or more" in rows["keep_checkpoints"]
    assert "auto|none|host|device" in rows["cache"]
    assert "float or auto or null: 0 to below 1" in rows["joint.clustering.eps"]
    assert "list of 3 float" in rows["joint.terms"]
    assert "settings or null" in rows["source"]


def test_a_meaning_is_the_comment_before_a_field_and_on_its_line():
    meanings = comments(WorldConfig)
    assert meanings["identities"] == "number of people in training, and in test"
    assert meanings["difficulty"].startswith("0 easy to 1 hard. It scales the cameras' casts")
    assert meanings["difficulty"].endswith("and the share of neutral colours")


def test_settings_of_an_older_run_keep_the_defaults():
    old = to_dict(preset("demo"))
    del old["joint"]["clusters"], old["cuda_graphs"]
    assert from_dict(old).joint.clusters is None
    assert from_dict(old, preset("demo")) == preset("demo")


def test_a_backbone_is_the_setting_of_its_name():
    config, _ = parse(["--backbone", "timm:vit_small_patch16_224", "--set", "model.identity.pooling=average"])
    assert (config.model.identity.backbone, config.model.identity.pooling) == ("timm:vit_small_patch16_224", "average")
    config, _ = parse(["--backbone", "mobilenetv2"])
    assert config.model.identity.backbone == "torchvision:mobilenet_v2"
    assert from_dict(to_dict(config)) == config


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--backbone", "resnet50"], "there is no such backbone; did you mean resnet50-ibn-a?"),
        (["--backbone", "torch:resnet50"], "did you mean torchvision:NAME?"),
        (["--set", "model.identity.output_stride=16"], "residual has model.identity.strides instead"),
    ],
)
def test_a_wrong_backbone_is_refused_in_one_line(flags, reason, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(flags)
    assert caught.value.code == 2
    assert reason in capsys.readouterr().err
