"""A run goes on elsewhere, where its paths mean the same, and says how to go on where they do not."""

import json
from dataclasses import replace

import pytest
import yaml

from gcl_fast.errors import UserError
from gcl_fast.run.resuming import changes_on_resume, check_digest, refuse_to_replace
from gcl_fast.settings import override, preset, source_preset, to_dict

CONFIG = override(preset("demo"), ["dataset=market1501", "data_root=world"])


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The folder of a run that was trained from the working directory tmp_path/there."""
    (tmp_path / "there" / "world").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    facts = {"folder": str(tmp_path / "there"), "data": {"train": 36, "digest": "0f"}}
    (tmp_path / "run" / "environment.json").write_text(json.dumps([{"folder": "/elsewhere"}, facts]))
    return tmp_path / "run"


@pytest.mark.parametrize("root", ["./world/", "world/../world", "TMP/there/world", "TMP/link"])
def test_paths_are_compared_by_what_they_mean(run, tmp_path, root):
    (tmp_path / "link").symlink_to(tmp_path / "there" / "world")
    config = replace(CONFIG, data_root=root.replace("TMP", str(tmp_path)))
    assert changes_on_resume(run, CONFIG, config) == []


def test_a_relative_path_means_the_folder_of_its_command(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert changes_on_resume(run, CONFIG, replace(CONFIG, data_root="there/world")) == []
    config = replace(CONFIG, warmup=replace(CONFIG.warmup, styled="there/styled"))
    before = replace(CONFIG, warmup=replace(CONFIG.warmup, styled="styled"), data_root=str(tmp_path))
    assert changes_on_resume(run, before, replace(config, data_root=str(tmp_path))) == []


def test_the_default_folder_is_a_place_as_well(run):
    before = replace(preset("demo"), source=source_preset("demo", "synthetic", ""))
    after = override(before, ["data_root=./datasets/synthetic", "source.root=datasets/synthetic-source/"])
    assert changes_on_resume(run, before, after) == []


def test_a_dataset_that_moved_is_known_by_its_crops(run):
    changes = changes_on_resume(run, CONFIG, replace(CONFIG, data_root="moved"))
    assert changes == ["data_root: world -> moved"]
    check_digest(run, {"train": 36, "digest": "0f"}, changes)
    with pytest.raises(UserError, match="was trained on 36 crops with other names than the 35 of this --data-root"):
        check_digest(run, {"train": 35, "digest": "1e"}, changes)
    check_digest(run, {"train": 35, "digest": "1e"}, [])  # the stage that is resumed decides
    (run / "environment.json").write_text("damaged")
    check_digest(run, {"train": 35, "digest": "1e"}, changes)


def test_more_epochs_are_refused_with_the_way_to_go_on(run):
    more = override(CONFIG, ["joint.epochs=40"])
    with pytest.raises(UserError, match=r"repeat its flags, or choose another --name:\n  joint.epochs: 3 -> 40"):
        changes_on_resume(run, CONFIG, more)
    (run / "checkpoints").mkdir()
    for stage in ("warmup", "generative"):
        (run / "checkpoints" / f"{stage}.safetensors").touch()
    way = rf"another --name with --init {run}, which starts from its weights after generative:\n  joint.epochs: 3 -> 40"
    with pytest.raises(UserError, match=way):
        changes_on_resume(run, CONFIG, more)
    with pytest.raises(UserError, match=r"warmup.styled: styled -> other"):
        changes_on_resume(run, override(CONFIG, ["warmup.styled=styled"]), override(CONFIG, ["warmup.styled=other"]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([], "run holds a run already: --resume goes on with it, --name starts another"),
        (["compile=off"], "run holds a run already: --resume goes on with it"),
        (["joint.lr=0.5"], r"of other settings .joint.lr: 0.0001 -> 0.5.: --name run-lr-0.5 starts this one"),
        (["joint.epochs=9", "seed=3"], r".joint.epochs: 3 -> 9 and 1 more.: --name run-epochs-9 starts this one"),
    ],
)
def test_a_run_that_is_there_suggests_a_name_that_tells_the_settings_apart(run, settings, message):
    (run / "config.yaml").write_text(yaml.safe_dump(to_dict(CONFIG)))
    with pytest.raises(UserError, match=message):
        refuse_to_replace(run, override(CONFIG, settings))
    (run / "config.yaml").write_text("damaged: [")
    with pytest.raises(UserError, match="run holds a run already: --resume goes on with it"):
        refuse_to_replace(run, override(CONFIG, settings))
