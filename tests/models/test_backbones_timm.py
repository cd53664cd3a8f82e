"""Networks of timm as backbones: their maps, position embeddings of other crops, refusals. Skipped without timm."""

import builtins
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from gcl_fast.errors import UserError
from gcl_fast.models import IdentityConfig, IdentityEncoder, load_backbone

SIZE = (64, 48)


@pytest.fixture
def timm():
    return pytest.importorskip("timm")


def encoder_of(backbone: str, size=SIZE, **settings) -> IdentityEncoder:
    torch.manual_seed(0)
    config = IdentityConfig(backbone=backbone, projection=None, pooling="average", parts=2)
    return IdentityEncoder(replace(config, **settings), size).eval()


def write(state, folder):
    torch.save(state, folder / "weights.pth")
    return folder / "weights.pth"


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet", "mobilenetv3_small_050"])
def test_a_convolutional_network_gives_its_last_map(name, timm, tmp_path):
    torch.manual_seed(1)
    network = timm.create_model(name).eval()
    encoder = encoder_of(f"timm:{name}", (128, 64))
    load_backbone(encoder, write(network.state_dict(), tmp_path))
    images = torch.randn(2, 3, 128, 64)
    with torch.no_grad():
        expected = network.forward_features(images)
        torch.testing.assert_close(encoder.feature_map(images), expected, rtol=1e-5, atol=1e-6)
    loss = sum(made.float().square().sum() for made in encoder.train()(images))
    loss.backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())  # the unused head is gone


@torch.no_grad()
def test_pixels_of_the_map_are_patches(timm, tmp_path):
    network = timm.create_model("test_vit", img_size=SIZE).eval()
    encoder = encoder_of("timm:test_vit")
    text = load_backbone(encoder, write({"model": {f"base.{k}": t for k, t in network.state_dict().items()}}, tmp_path))
    assert text.endswith("; left out: head")
    images = torch.randn(2, 3, *SIZE)
    tokens, last = network.forward_features(images), encoder.feature_map(images)
    assert last.shape == (2, 64, 4, 3)
    torch.testing.assert_close(last[1, :, 2, 1], tokens[1, 1 + 2 * 3 + 1], rtol=1e-5, atol=1e-6)
    parts, _ = encoder(images)
    torch.testing.assert_close(parts[0, 5 * 2 + 1], last[0, 5, 2:].mean(), rtol=1e-5, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize(
    ("size", "grid"),
    [((160, 160), (10, 10)), ((128, 96), (8, 6)), ((80, 48), (5, 3))],
    ids=["square", "same aspect", "nearest aspect"],
)
def test_positions_are_interpolated_to_the_grid_of_the_crops(size, grid, timm, tmp_path):
    """A plane over the image stays that plane on another grid, but for the border."""
    network = timm.create_model("test_vit", img_size=size)
    height, width = grid
    plane = lambda h, w: ((torch.arange(h) + 0.5) / h)[:, None] + (torch.arange(w) + 0.5) / w
    network.pos_embed[0, 1:] = plane(height, width).flatten()[:, None]
    network.pos_embed[0, 0] = 7.0
    encoder = encoder_of("timm:test_vit")
    load_backbone(encoder, write(network.state_dict(), tmp_path))
    made = encoder.backbone.pos_embed[0, :, 0]
    assert made[0] == 7
    torch.testing.assert_close(made[1:].view(4, 3), plane(4, 3), rtol=0, atol=0.06)


@torch.no_grad()
def test_weights_of_pass_have_their_class_position_apart(timm, tmp_path):
    state = timm.create_model("test_vit", img_size=SIZE).state_dict()
    positions = state["pos_embed"].normal_().clone()
    state |= {"cls_pos": positions[:, :1], "pos_embed": positions[:, 1:], "part_token1": torch.zeros(1, 1, 64)}
    encoder = encoder_of("timm:test_vit")
    text = load_backbone(encoder, write({"teacher": {f"backbone.{k}": t for k, t in state.items()}}, tmp_path))
    assert text.endswith("; left out: cls_pos, head, part_token1")
    assert torch.equal(encoder.backbone.pos_embed, positions)


def test_an_output_stride_is_timm_s(timm):
    assert encoder_of("timm:test_resnet", (128, 64), output_stride=16).feature_map(torch.zeros(1, 3, 128, 64)).shape[
        2:
    ] == (8, 4)


@pytest.mark.parametrize(
    ("backbone", "settings", "reason"),
    [
        ("timm:test_vti", {}, r"timm has no network of that name; did you mean test_vit.*\?"),
        ("timm:hf-hub:timm/resnet18", {}, "timm has no network of that name"),
        (
            "timm:test_vit",
            {"pooling": "gem"},
            r"pooling=gem with timm:test_vit: .*take .*pooling=average",
        ),
        ("timm:test_vit", {"output_stride": 16}, r"output_stride=16: timm:test_vit cannot have it"),
        ("timm:test_vit", {"parts": 5}, "makes a map of 4 rows"),
        ("timm:mixer_s16_224", {}, r"it makes a tensor of shape \(1, 12, 512\), where stripes need a map"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(backbone, settings, reason, timm):
    with pytest.raises(UserError, match=reason) as caught:
        encoder_of(backbone, **settings)
    assert "\n" not in str(caught.value)


def test_crops_that_the_patches_do_not_divide_are_refused(timm):
    with pytest.raises(UserError, match=r"timm:test_vit: it takes no crops of 64x40 \(.*16"):
        encoder_of("timm:test_vit", (64, 40))


def test_without_timm_the_extra_is_named(monkeypatch):
    plain = builtins.__import__

    def without_timm(name, *rest):
        if name == "timm":
            raise ImportError(name)
        return plain(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_timm)
    with pytest.raises(UserError, match=r"needs timm: pip install timm \(the extra gcl-fast\[timm\]\)"):
        encoder_of("timm:test_vit")


def test_gem_of_a_map_without_negative_values(timm):
    encoder = encoder_of("timm:test_resnet", pooling="gem")
    images = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        pooled = F.avg_pool2d(encoder.feature_map(images).clamp(min=1e-6) ** 3, (2, 2)).flatten(1) ** (1 / 3)
        embedding = encoder(images)[1]
    assert math.isfinite(float(embedding.sum()))
    torch.testing.assert_close(embedding, encoder.feat_bn(pooled), rtol=1e-4, atol=1e-5)
