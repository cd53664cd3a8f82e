"""The network respects mirror images and reports doubt, and its weights are written, read and checked."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from gcl_fast.bodies import posture
from gcl_fast.bodies.body_estimator import WEIGHTS, load_regressor, save_regressor
from gcl_fast.bodies.body_regressor import YAWS, BodyRegressor, soft_direction, yaw_and_confidence
from gcl_fast.errors import UserError


def test_yaw_and_confidence_of_one_direction():
    yaw = torch.tensor([-179.0, -93.5, 0.0, 4.0, 88.0, 176.0])
    estimate, confidence = yaw_and_confidence(soft_direction(yaw, 8).log())
    torch.testing.assert_close(estimate, yaw, atol=0.2, rtol=0)
    assert confidence.min() > 0.99


def test_front_or_back_is_half_as_certain():
    share = 0.55 * soft_direction(torch.tensor([20.0]), 8) + 0.45 * soft_direction(torch.tensor([160.0]), 8)
    yaw, confidence = yaw_and_confidence(share.log())
    assert yaw.item() == pytest.approx(20, abs=1)
    assert confidence.item() == pytest.approx(0.55, abs=0.02)


def test_a_crop_and_its_mirror_image_get_mirrored_answers(exact_float32, device):
    torch.manual_seed(0)
    network = BodyRegressor().eval()
    torch.nn.init.normal_(network.head.weight, std=0.1)
    image = torch.randn(3, 3, 128, 64).to(device)
    network.to(device)
    plain, mirror = network.both_ways(image), network.both_ways(image.flip(3))
    torch.testing.assert_close(mirror.vector, posture.mirror(plain.vector), atol=1e-5, rtol=1e-4)
    by_yaw = {round(yaw) % 360: k for k, yaw in enumerate(YAWS.tolist())}
    opposite = [by_yaw[-round(yaw) % 360] for yaw in YAWS.tolist()]
    torch.testing.assert_close(mirror.direction, plain.direction[:, opposite], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(network(image).vector, posture.mirror(network(image.flip(3)).vector), atol=1e-3)


def test_shipped_weights_are_small_and_load():
    assert WEIGHTS.stat().st_size < 5e6
    assert not load_regressor().training


def test_weights_come_back_in_half_precision(tmp_path):
    network = BodyRegressor().eval()
    save_regressor(tmp_path / "new" / "w.safetensors", network)
    back = load_regressor(tmp_path / "new" / "w.safetensors")
    torch.testing.assert_close(back.hidden.weight, network.hidden.weight.half().float())


@pytest.mark.parametrize("damage", ["missing", "truncated", "other network", "other shape"])
def test_wrong_weights_are_named(tmp_path, damage):
    path = tmp_path / "w.safetensors"
    if damage == "truncated":
        path.write_bytes(WEIGHTS.read_bytes()[:1000])
    elif damage != "missing":
        tensors = load_file(WEIGHTS)
        first = "head.bias"
        tensors[first if damage == "other shape" else "stray"] = tensors.pop(first)[:3]
        save_file(tensors, path)
    with pytest.raises(UserError, match=r"w\.safetensors"):
        load_regressor(path)


def test_weights_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another place"):
        save_regressor(tmp_path / "file" / "w.safetensors", BodyRegressor())
