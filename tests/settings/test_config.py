import copy
import dataclasses

import pytest
import yaml

from gcl_fast.command_line import parse
from gcl_fast.errors import UserError
from gcl_fast.settings import PUBLISHED, STAGES, RunConfig, difference, from_dict, override, preset, to_dict


@pytest.mark.parametrize("name", ["demo", "paper", "best"])
def test_settings_survive_yaml(name):
    config = preset(name)
    assert from_dict(yaml.safe_load(yaml.safe_dump(to_dict(config)))) == config


def test_paper_preset_has_the_figures_of_the_paper():
    paper = preset("paper")
    assert paper.size == (256, 128)
    assert (paper.generative.epochs, paper.joint.epochs, paper.joint.decay_epoch) == (40, 20, 10)
    assert (paper.joint.temperature, paper.joint.momentum, paper.joint.num_negatives) == (0.04, 0.2, 8192)
    assert (paper.generative.lr, paper.joint.lr_identity, paper.generative.batch) == (1e-4, 3.5e-4, 16)


def test_override_reaches_nested_settings_and_converts():
    config = override(
        preset("demo"), ["joint.epochs=7", "joint.lr=1e-5", "generative.weights.image=2", "joint.clustering.eps=auto"]
    )
    assert (config.joint.epochs, config.joint.lr, config.generative.weights.image) == (7, 1e-5, 2.0)
    assert config.joint.clustering.eps == "auto"
    assert override(config, ["joint.clustering.eps=null"]).joint.clustering.eps is None


def test_on_and_off_are_words_where_a_setting_has_them():
    """YAML reads them as truth values."""
    for word in ("on", "off", "auto"):
        config = override(preset("demo"), [f"cuda_graphs={word}"])
        assert config.cuda_graphs == word
        assert from_dict(yaml.safe_load(yaml.safe_dump(to_dict(config)))) == config
    with pytest.raises(UserError, match="cuda_graphs: expected auto or on or off, got 'maybe'"):
        override(preset("demo"), ["cuda_graphs=maybe"])
    with pytest.raises(UserError, match=r"joint.clustering.engine: expected auto or exact or approximate, got"):
        override(preset("demo"), ["joint.clustering.engine=off"])


def test_elements_of_a_list_are_converted_and_stages_put_in_order():
    config = override(preset("demo"), ["joint.terms=[1,1e-1,1]", "stages=[joint,warmup]"])
    assert config.joint.terms == (1.0, 0.1, 1.0)
    assert config.stages == ("warmup", "joint")
    with pytest.raises(UserError, match=r"log_every=0"):  # as in a run's config.yaml
        from_dict({**to_dict(config), "log_every": 0})


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("joint.epoch=7", "epochs"),
        ("joint.epochs=many", "joint.epochs"),
        ("joint.epochs", "KEY=VALUE"),
        ("joint.epochs.first=1", "first"),
        ("generative.weights.feature_loss_on=both", "feature_loss_on"),
        ("joint.terms=[1,", r"quote values with spaces .* 'joint.terms=\[1, 0, 1\]'"),
        ("joint.terms=[1, 0]", "joint.terms: expected 3 values, got 2"),
        ("joint.terms=[1, a, 1]", "joint.terms: expected float, got 'a'"),
        ("stages=[foo]", "no stage 'foo'; there are source, warmup, generative, joint"),
        ("joint.clustering.eps=1.0", "joint.clustering.eps=1.0: expected 0 to below 1, or auto, or null"),
        ("joint.clustering.eps=atuo", r"joint.clustering.eps: expected float or auto or null, got 'atuo'"),
        ("warmup.clustering.eps=0,5", r"warmup.clustering.eps: expected float or auto or null, got '0,5'"),
        ("joint.clustering.rho=2", "joint.clustering.rho=2.0: expected 0 to 1"),
        ("joint.clustering.k1=0", "joint.clustering.k1=0: expected 1 or more"),
        ("warmup.clustering.min_samples=0", "warmup.clustering.min_samples=0: expected 1 or more"),
        ("log_every=0", "log_every=0: expected 1 or more"),
        ("generative.r1_every=0", "generative.r1_every=0"),
        ("generative.batch=0", "generative.batch=0"),
        ("warmup.steps_per_epoch=0", "warmup.steps_per_epoch=0: expected 1 or more"),
        ("joint.view_share=1.5", "joint.view_share=1.5: expected 0 to 1"),
        ("joint.update_every=0", "joint.update_every=0: expected 1 or more"),
        ("joint.clusters.steps_per_epoch=0", "joint.clusters.steps_per_epoch=0: expected 1 or more"),
        ("model.generator.appearance=mesh", "appearance: expected parts or carried"),
        ("model.generator.blocks=3", "model.generator.blocks=3: 1024 part features"),
        ("model.generator.blocks=0", "model.generator.blocks=0"),
    ],
)
def test_a_wrong_override_is_named(assignment, told):
    with pytest.raises(UserError, match=told):
        override(preset("demo"), [assignment])


def test_difference_names_what_changed():
    old = to_dict(RunConfig())
    new = to_dict(dataclasses.replace(RunConfig(), seed=3))
    assert difference(old, new) == ["seed: 0 -> 3"]
    assert difference(old, old) == []


def test_settings_of_older_runs_are_read():
    old = to_dict(RunConfig())
    old["joint"] |= {"own_entry": "paper", "decay": "code", "negatives": "paper"}
    old["generative"] |= {"yaws": "code"}
    old["generative"]["weights"]["feature_loss_on"] = "paper"
    del old["joint"]["negatives_of"], old["generative"]["last_yaw"], old["cuda_graphs"]
    before = copy.deepcopy(old)
    config = from_dict(old)
    assert (config.joint.own_entry, config.joint.decay, config.joint.negatives_of) == ("live", "identity", "crop")
    assert (config.generative.last_yaw, config.generative.weights.feature_loss_on) == (270, "novel_view")
    assert old == before
    old["joint"] |= {"own_entry": "code", "decay": "paper", "negatives": "code"}
    old["generative"] |= {"yaws": "paper"}
    old["generative"]["weights"]["feature_loss_on"] = "code"
    assert from_dict(old) == RunConfig()


def test_command_line():
    config, resume = parse(["--amp", "--stages", "joint", "warmup", "--feature-loss-on", "novel_view", "--resume"])
    assert config.amp
    assert resume
    assert config.stages == ("warmup", "joint")  # training order, whatever the order given
    assert config.generative.weights.feature_loss_on == "novel_view"
    assert parse([])[0].stages == STAGES


@pytest.mark.parametrize(
    "arguments", [["--no-such-flag"], ["--set", "x=1"], ["--preset", "large"], ["--stages", "last"]]
)
def test_a_wrong_command_line_ends_with_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--smpl", "m.pkl", "--structure-maps", "maps"], "--smpl with --structure-maps maps"),
        (["--optimizer-backend", "apex", "--device", "cpu"], "its kernels need CUDA"),
        (["--set", "keep_checkpoints=1"], "expected 2 or more"),
        (["--name", "../elsewhere"], "name=../elsewhere: a run stays below --runs; name another folder by --runs DIR"),
        (["--name", "sweep/../../x"], "a run stays below --runs"),
        (["--name", "/elsewhere"], "a run stays below --runs"),
        (["--warmup", "jvtc", "--set", "warmup.clustering.engine=approximate"], "jvtc searches exactly"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(flags, told, capsys):
    with pytest.raises(SystemExit):
        parse(flags)
    assert told in capsys.readouterr().err


def test_a_former_name_names_its_successor():
    with pytest.raises(UserError, match=r"yaws: this setting is now generative.last_yaw \(.*code is now 270"):
        override(preset("demo"), ["generative.yaws=code"])


def test_best_is_the_papers_sizes_with_what_the_demo_adds():
    changes = difference(to_dict(preset("paper")), to_dict(preset("best")))
    names = {line.partition(":")[0] for line in changes}
    added = {"preset", "model.generator.appearance", "generative.weights.similarity", "generative.pairs", "joint.views"}
    assert added <= names
    assert all(name in added or name.startswith("joint.clusters") for name in names)


def test_published_settings_leave_the_demo_without_additions():
    demo = override(preset("demo"), list(PUBLISHED))
    paper = preset("paper")
    assert demo.joint.clusters is paper.joint.clusters is None
    assert demo.model.generator.appearance == paper.model.generator.appearance == "parts"
    assert demo.generative.weights == paper.generative.weights


@pytest.mark.parametrize(
    "settings",
    [
        ["generative.batch=15", "generative.pairs=false"],
        ["generative.weights.mixup=1", "model.generator.appearance=parts"],
        ["model.generator.blocks=5", "model.identity.parts=5"],
    ],
)
def test_settings_that_must_fit_each_other_come_in_any_order(settings):
    config = override(preset("demo"), settings)
    assert override(preset("demo"), settings[::-1]) == config
    assert config != preset("demo")


def test_the_last_of_one_setting_counts():
    settings = ["warmup.clustering.k1=7", "warmup.clustering={k1: 9}", "warmup.clustering.k2=3"]
    clustering = override(preset("demo"), settings).warmup.clustering
    assert (clustering.k1, clustering.k2) == (9, 3)
