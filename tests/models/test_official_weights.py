"""Compare official checkpoints with ours: names, shapes, and outputs of the networks for the golden weights."""

import json
from pathlib import Path

import pytest
import torch

from gcl_fast.errors import UserError
from gcl_fast.models import (
    GCL,
    IdentityEncoder,
    ModelConfig,
    load_official,
    read_official,
    to_official,
)

Official = dict[str, dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def shapes(golden: Path) -> dict[str, dict[str, list[int]]]:
    return json.loads((golden / "official_state_dict_shapes.json").read_text())


@pytest.fixture(scope="module")
def model(official) -> GCL:
    model = GCL()
    model.load_state_dict(load_official(official))
    return model.eval()


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    scale = theirs.abs().max().item()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * scale)


@torch.no_grad()
def test_networks_equal_the_official_ones(exact_float32, official, network_arrays, device):
    model = GCL()
    model.load_state_dict(load_official(official))
    model.eval().to(device)
    network_arrays = {name: value.to(device) for name, value in network_arrays.items()}
    parts, embedding = model.identity(network_arrays["image"])
    close(parts, network_arrays["eval_part_features"])
    # The official network normalizes its eval output.
    close(torch.nn.functional.normalize(embedding), torch.nn.functional.normalize(network_arrays["eval_embedding"]))
    code = model.structure(network_arrays["mesh"])
    close(code, network_arrays["structure_code"])
    close(model.generator(code, parts), network_arrays["decoded"])
    for scale, theirs in enumerate(model.discriminator(network_arrays["image"])):
        close(theirs, network_arrays[f"dis_scale{scale}"])
        close(model.discriminator.at_scale(scale, network_arrays["image"]), network_arrays[f"dis_scale{scale}"])


def test_round_trip_has_every_official_tensor(model, official, shapes):
    back = to_official(model)
    assert {p: {n: list(t.shape) for n, t in sd.items()} for p, sd in back.items()} == shapes
    for part, tensors in official.items():
        for name, tensor in tensors.items():
            if ".norm.running_" not in name:  # unused in the official decoder
                assert torch.equal(back[part][name], tensor), name


def test_official_run_folder_and_file(official, tmp_path):
    for part, tensors in official.items():
        torch.save({part: tensors}, tmp_path / f"{part}_00000040.pt")
        torch.save({part: {}}, tmp_path / f"{part}_00000001.pt")
    torch.save(official, tmp_path / "all.pth")
    whole = load_official(official)
    for path in (tmp_path, tmp_path / "all.pth"):
        loaded = load_official(path)
        assert loaded.keys() == whole.keys()
        assert all(torch.equal(loaded[name], whole[name]) for name in whole)


def test_identity_encoder_alone(official, tmp_path):
    old = {name: tensor for name, tensor in official["id"].items() if not name.endswith("num_batches_tracked")}
    jvtc = {"classifier.weight": torch.zeros(702, 512), "classifier.bias": torch.zeros(702)}
    torch.save(old | jvtc, tmp_path / "model_best.pth")
    assert list(read_official(tmp_path / "model_best.pth")) == ["id"]
    loaded = load_official(tmp_path / "model_best.pth", ["id"])
    identity = IdentityEncoder(ModelConfig().identity)
    identity.load_state_dict({name.removeprefix("identity."): tensor for name, tensor in loaded.items()})
    assert all(torch.equal(identity.state_dict()[name], tensor) for name, tensor in old.items())


def test_strict_about_tensors(official, tmp_path):
    broken = {part: dict(tensors) for part, tensors in official.items()}
    del broken["gen"]["mlp_w3.model.1.fc.bias"]
    broken["dis"]["cnns.0.9.extra"] = torch.zeros(1)
    broken["id"]["feat.weight"] = torch.zeros(128, 2048)
    with pytest.raises(UserError) as caught:
        load_official(broken)
    for fault in ("missing gen/mlp_w3.model.1.fc.bias", "unknown dis/cnns.0.9.extra", "id/feat.weight is (128, 2048)"):
        assert fault in str(caught.value)
    with pytest.raises(UserError, match="no dis, id"):
        load_official({"gen": official["gen"]})
    identity = dict(official["id"])
    del identity["layer4.2.conv3.weight"]
    torch.save(identity, tmp_path / "model_best.pth")
    with pytest.raises(UserError, match=r"architecture: missing id/layer4\.2\.conv3\.weight$"):
        load_official(tmp_path / "model_best.pth", ["id"])
    with pytest.raises(UserError, match=r"no gen_\*\.pt"):
        load_official(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        load_official(tmp_path / "absent.pt")
    for text in ("not weights", "<html>", "absent", "hello", "J", "version https://git-lfs"):
        (tmp_path / "text.pt").write_text(text)
        with pytest.raises(UserError, match=r"text\.pt: not a PyTorch file of plain tensors, .* state dict;"):
            load_official(tmp_path / "text.pt")
    torch.save({"gen": official["gen"], "dis": torch.zeros(1)}, tmp_path / "part.pt")
    with pytest.raises(UserError, match="no dis, id"):
        load_official(tmp_path / "part.pt")
    with pytest.raises(UserError, match="paper's sizes"):
        to_official(GCL(ModelConfig.demo()))
