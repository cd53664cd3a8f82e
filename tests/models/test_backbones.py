"""Backbones of other libraries give their libraries' maps, and whatever does not fit is refused in one sentence."""

import re
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torchvision
from torch import nn

from gcl_fast.errors import UserError
from gcl_fast.models import GCL, IdentityConfig, IdentityEncoder, ModelConfig, for_inference, load_backbone
from gcl_fast.models.backbones import MAKERS
from gcl_fast.models.backbones.resnet50_ibn_a import InstanceBatchNorm
from gcl_fast.settings.model_sizes import BACKBONES, LIBRARIES

SIZE = (128, 64)
# One network of each family: torchvision's own pooling is the oracle
FAMILIES = (
    *("mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny", "densenet121", "resnet18"),
    *("regnet_y_400mf", "shufflenet_v2_x0_5", "mnasnet0_5", "swin_t"),
)


def encoder_of(backbone: str, size=SIZE, **settings) -> IdentityEncoder:
    torch.manual_seed(0)
    return IdentityEncoder(IdentityConfig(backbone=backbone, **({"projection": None} | settings)), size)


def vary(network: nn.Module) -> nn.Module:
    """Give batch norms statistics of their own, so that a norm left out is noticed."""
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
    return network


def write(state, folder):
    torch.save(state, folder / "weights.pth")
    return folder / "weights.pth"


def test_settings_name_the_makers():
    assert set(MAKERS) == {*BACKBONES, *LIBRARIES}


@pytest.mark.parametrize("name", FAMILIES)
def test_torchvision_pools_the_map_of_the_backbone(name, tmp_path):
    torch.manual_seed(1)
    network = vary(torchvision.models.get_model(name, weights=None)).eval()
    encoder = encoder_of(f"torchvision:{name}").eval()
    text = load_backbone(encoder, write({"state_dict": network.state_dict()}, tmp_path))
    count = len([key for key in encoder.state_dict() if key.startswith("backbone.") and "num_batches" not in key])
    assert text.startswith(f"{count} of {count} tensors of the backbone; left out: ")
    images, pooled = torch.randn(2, 3, *SIZE), []
    pooling = [m for m in network.modules() if isinstance(m, nn.AdaptiveAvgPool2d)]
    with torch.no_grad():
        made = encoder.feature_map(images)
        for module in pooling:
            module.register_forward_hook(lambda module, inputs, output: pooled.append(inputs[0]))
        if name in ("mobilenet_v2", "densenet121", "shufflenet_v2_x0_5", "mnasnet0_5"):  # they pool by a function
            last = network.fc if hasattr(network, "fc") else network.classifier
            last.register_forward_hook(lambda module, inputs, output: pooled.append(inputs[0]))
            network(images)
            theirs, made = pooled[-1], made.mean((2, 3))
        else:
            network(images)
            theirs = pooled[-1]
    torch.testing.assert_close(made, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize("name", FAMILIES)
def test_an_output_stride_keeps_the_weights_and_doubles_the_map(name):
    if name == "swin_t":
        with pytest.raises(UserError, match=r"output_stride=16: torchvision:swin_t has stride 32"):
            encoder_of(f"torchvision:{name}", output_stride=16)
        return
    wide, narrow = (encoder_of(f"torchvision:{name}", output_stride=stride) for stride in (None, 16))
    shapes = [{key: t.shape for key, t in encoder.state_dict().items()} for encoder in (wide, narrow)]
    assert shapes[0] == shapes[1]
    rows = [encoder.eval().feature_map(torch.zeros(1, 3, *SIZE)).shape[2] for encoder in (wide, narrow)]
    assert rows in ([4, 8], [4, 7])  # 7: a kernel of 2 without padding


def test_a_resnet_of_stride_16_is_the_residual_network_of_the_same_weights(tmp_path):
    network = vary(torchvision.models.resnet50()).eval()
    path = write(network.state_dict(), tmp_path)
    ours, theirs = IdentityEncoder(IdentityConfig()).eval(), encoder_of("torchvision:resnet50", output_stride=16).eval()
    for encoder in (ours, theirs):
        load_backbone(encoder, path)
    images = torch.randn(1, 3, 64, 40)
    with torch.no_grad():
        made, expected = ours.feature_map(images), theirs.feature_map(images)
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("backbone", ["resnet50-ibn-a", "mobilenetv2"])
def test_the_demo_s_networks_stand_on_it(backbone):
    config = ModelConfig.demo()
    gcl = GCL(replace(config, identity=replace(config.identity, backbone=backbone)), SIZE)
    width = {"resnet50-ibn-a": 2048, "mobilenetv2": 1280}[backbone]
    assert (gcl.identity.part_features, gcl.identity.dim) == (4 * width, width)
    images = torch.randn(2, 3, *SIZE)
    parts, embedding = gcl.identity(images)
    assert (parts.shape, embedding.shape) == ((2, 4 * width), (2, width))
    assert gcl.generator(gcl.structure(torch.rand(2, 1, *SIZE)), parts).shape == images.shape
    (parts.sum() + embedding.square().sum()).backward()
    assert all(parameter.grad is not None for parameter in gcl.identity.parameters())
    assert for_inference(gcl.identity, torch.bfloat16) is gcl.identity


def test_ibn_normalizes_half_of_the_channels_by_the_image():
    norm = InstanceBatchNorm(6)
    nn.init.normal_(norm.IN.weight)
    x = torch.randn(4, 6, 5, 3)
    made = norm(x)
    first = x[:, :3] - x[:, :3].mean((2, 3), keepdim=True)
    first = first / (first.square().mean((2, 3), keepdim=True) + 1e-5).sqrt() * norm.IN.weight[:, None, None]
    last = x[:, 3:] - x[:, 3:].mean((0, 2, 3), keepdim=True)
    last = last / (last.square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(made, torch.cat((first, last), 1), rtol=1e-4, atol=1e-5)


def test_ibn_has_the_tensors_of_the_published_code():
    plain = {name: tensor.shape for name, tensor in torchvision.models.resnet50().state_dict().items()}
    expected = {}
    for name, shape in plain.items():
        if re.fullmatch(r"layer[123]\.\d+\.bn1\..*", name):
            head, _, tensor = name.rpartition(".")
            expected[f"{head}.BN.{tensor}"] = torch.Size([shape[0] // 2]) if shape else shape
            if tensor in ("weight", "bias"):
                expected[f"{head}.IN.{tensor}"] = torch.Size([shape[0] // 2])
        elif not name.startswith("fc."):
            expected[name] = shape
    made = encoder_of("resnet50-ibn-a").state_dict()
    assert {name: tensor.shape for name, tensor in made.items() if not name.startswith("feat")} == expected


def test_ibn_counts_each_batch_once():
    encoder = encoder_of("resnet50-ibn-a").train()
    encoder(torch.randn(2, 3, 64, 40))
    assert {int(count) for name, count in encoder.named_buffers() if name.endswith("num_batches_tracked")} == {1}


def test_weights_of_a_deeper_network_are_refused(tmp_path):
    """ConvNeXt-S holds every tensor of ConvNeXt-T, and 18 blocks more."""
    path = write(torchvision.models.convnext_small().state_dict(), tmp_path)
    with pytest.raises(UserError, match=r"weights of a deeper network; this run's backbone has no features\.5\.9"):
        load_backbone(encoder_of("torchvision:convnext_tiny"), path)


def test_plain_weights_are_no_start_for_ibn(tmp_path):
    path = write(torchvision.models.resnet50().state_dict(), tmp_path)
    with pytest.raises(UserError, match=r"layer1\.0\.bn1\.IN\.weight is missing"):
        load_backbone(encoder_of("resnet50-ibn-a"), path)


@pytest.mark.parametrize(
    ("backbone", "settings", "reason"),
    [
        ("residul", {}, r"model\.identity\.backbone=residul: there is no such backbone; did you mean residual\?"),
        ("mobilenet", {}, r"there is no such backbone; did you mean mobilenetv2\?"),
        ("torchvison:resnet18", {}, r"did you mean torchvision:NAME\?"),
        ("timm:", {}, "there is no such backbone"),
        ("residual", {"output_stride": 16}, r"residual has model\.identity\.strides instead"),
        ("torchvision:resnet19", {}, r"torchvision has no network of that name; did you mean resnet18, .*\?"),
        ("torchvision:vit_b_16", {}, "it is not known where this network has a map"),
        ("torchvision:resnet18", {"parts": 6}, r"parts=6: from crops of 128x64 .* a map of 4 rows, .*parts=4"),
        ("torchvision:inception_v3", {}, "it is not known where"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(backbone, settings, reason):
    with pytest.raises(UserError, match=reason) as caught:
        encoder_of(backbone, **settings)
    assert "\n" not in str(caught.value)


def test_crops_that_leave_one_pixel_are_refused():
    with pytest.raises(UserError, match=r"from crops of 32x32 it makes a tensor of shape \(1, 512, 1, 1\)"):
        encoder_of("torchvision:resnet18", (32, 32), parts=1)


def test_slices_of_a_library_s_width_are_checked_when_it_is_made():
    config = ModelConfig.demo()
    config = replace(
        config,
        identity=replace(config.identity, backbone="torchvision:resnet18", parts=4),
        generator=replace(config.generator, blocks=3),
    )
    with torch.device("meta"), pytest.raises(UserError, match=r"generator\.blocks=3: 2048 part features"):
        GCL(config, SIZE)


def test_a_copy_of_another_domain_has_its_own_network():
    encoder = encoder_of("mobilenetv2").eval()
    other = deepcopy(encoder)
    nn.init.zeros_(other.backbone.features[0][0].weight)
    images = torch.randn(1, 3, *SIZE)
    assert not torch.equal(encoder.feature_map(images), other.feature_map(images))
